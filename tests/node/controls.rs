//! Stores that are broken on purpose, in ways that session libraries are: what checks histories must find each of them.

use std::time::{Duration, SystemTime};

use sessile::store::{
    Capabilities, Created, Deleted, Durability, Freshness, Leased, Owner, Renewal, Replaced,
    StoreErrorKind, Stored, Touched, Write,
};
use sessile::{Handle, SessionStore, StoreError};

/// What is wrong with it.
#[derive(Clone, Copy, Debug)]
pub enum Control {
    /// It writes whatever has been written meanwhile.
    LastWriteWins,
    /// It stores sessions that have ended again.
    Revives,
    /// It takes a lost answer for a sign that nothing has happened.
    ResendsBlindly,
}

impl Control {
    pub fn named(name: &str) -> Self {
        match name {
            "last_write_wins" => Self::LastWriteWins,
            "revives" => Self::Revives,
            "resends_blindly" => Self::ResendsBlindly,
            _ => panic!("NODE_CONTROL = {name}: none of last_write_wins, revives, resends_blindly"),
        }
    }
}

pub struct Broken<S> {
    pub store: S,
    pub control: Control,
}

impl<S: SessionStore> Broken<S> {
    /// What is there, without the commits that it names.
    async fn forgetful(&self, key: &Handle) -> Result<Option<Stored>, StoreError> {
        let Some(stored) = self.store.load(key, Freshness::Latest).await? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(stored.value()).into_owned();
        let (before, rest) = text.split_once("\"applied\":[").expect("a record");
        let (_, after) = rest.split_once(']').expect("a list");
        let value = format!("{before}\"applied\":[]{after}");
        Ok(Some(Stored::new(value, stored.time_left())))
    }
}

impl<S: SessionStore> SessionStore for Broken<S> {
    fn namespace(&self) -> &str {
        self.store.namespace()
    }

    fn now(&self) -> SystemTime {
        self.store.now()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    async fn load(&self, key: &Handle, want: Freshness) -> Result<Option<Stored>, StoreError> {
        self.store.load(key, want).await
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        self.store.create(key, write).await
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        let again = Write::new(write.value, write.ttl);
        match (self.control, self.store.replace(key, expected, write).await) {
            (Control::LastWriteWins, Ok(Replaced::Conflict(newer))) => {
                self.store.replace(key, &newer, again).await
            }
            (Control::Revives, Ok(Replaced::Gone)) => {
                self.store.create(key, again).await.map(|_| Replaced::Done)
            }
            (Control::ResendsBlindly, Err(error)) if error.kind() == StoreErrorKind::Unknown => {
                Ok(self
                    .forgetful(key)
                    .await?
                    .map_or(Replaced::Gone, Replaced::Conflict))
            }
            (_, answer) => answer,
        }
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        self.store.touch(key, renewal).await
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        self.store.delete(key, durability).await
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        self.store.acquire(key, owner, lease).await
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        self.store.release(key, owner).await
    }
}
