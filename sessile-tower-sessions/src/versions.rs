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

            use crate::store::{Failure, SessileStore};

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
        }
    };
}

#[cfg(feature = "v0_14")]
implement!(tower_sessions_core_0_14);

#[cfg(feature = "v0_15")]
implement!(tower_sessions_core_0_15);
