//! The trait of each version of tower-sessions. They differ only in their types.

/// Implements the trait of one version of tower-sessions-core.
macro_rules! implement {
    ($core:ident) => {
        mod $core {
            use async_trait::async_trait;
            use sessile::SessionStore as Store;
            use $core::SessionStore;
            use $core::session::{Id, Record};
            use $core::session_store::{Error, Result};

            use crate::failure::Failure;
            use crate::moving::Moving;
            use crate::store::SessileStore;

            impl From<Failure> for Error {
                fn from(failure: Failure) -> Self {
                    match failure {
                        Failure::Encode(text) => Self::Encode(text),
                        Failure::Decode(text) => Self::Decode(text),
                        Failure::Backend(text) => Self::Backend(text),
                    }
                }
            }

            #[async_trait]
            impl<S: Store> SessionStore for SessileStore<S> {
                async fn create(&self, record: &mut Record) -> Result<()> {
                    let expires = record.expiry_date;
                    record.id = Id(self.create(&mut record.data, expires).await?);
                    Ok(())
                }

                async fn save(&self, record: &Record) -> Result<()> {
                    let Record {
                        id,
                        data,
                        expiry_date,
                    } = record;
                    Ok(self.save(id.0, data, *expiry_date).await?)
                }

                async fn load(&self, id: &Id) -> Result<Option<Record>> {
                    let session = self.load(id.0).await?;
                    Ok(session.map(|session| Record {
                        id: *id,
                        data: session.data,
                        expiry_date: session.expires,
                    }))
                }

                async fn delete(&self, id: &Id) -> Result<()> {
                    Ok(self.delete(id.0).await?)
                }
            }

            #[async_trait]
            impl<S: Store, F: SessionStore> SessionStore for Moving<S, F> {
                async fn create(&self, record: &mut Record) -> Result<()> {
                    SessionStore::create(&self.store, record).await
                }

                async fn save(&self, record: &Record) -> Result<()> {
                    SessionStore::save(&self.store, record).await
                }

                async fn load(&self, id: &Id) -> Result<Option<Record>> {
                    if let Some(record) = SessionStore::load(&self.store, id).await? {
                        return Ok(Some(record));
                    }
                    let Some(former) = self.former.load(id).await? else {
                        return Ok(None);
                    };
                    // Another request may have taken it over first, and may even have ended it: then there is nothing to load.
                    self.store
                        .take_over(id.0, former.data, former.expiry_date)
                        .await?;
                    // Otherwise it could be taken over again once it has expired here.
                    self.former.delete(id).await?;
                    SessionStore::load(&self.store, id).await
                }

                async fn delete(&self, id: &Id) -> Result<()> {
                    // The mark first: a request that has read the former store meets it, however long that store takes to fail.
                    let ended = self.store.mark_ended(id.0).await;
                    let deleted = self.former.delete(id).await;
                    ended?;
                    deleted.map_err(|error| {
                        Error::Backend(format!(
                            "the session has ended, but the former store failed to delete it, so it may come back from there in \
                             ten minutes: delete it again once that store answers: {error}"
                        ))
                    })
                }
            }
        }
    };
}

#[cfg(feature = "v0_14")]
implement!(tower_sessions_core_0_14);

#[cfg(feature = "v0_15")]
implement!(tower_sessions_core_0_15);
