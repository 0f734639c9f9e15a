//! Passes calls on to the store that another one wraps.

/// The methods of `SessionStore` for the index, passed on to the field `store`.
macro_rules! forward_index {
    () => {
        fn clock_error(&self) -> Option<std::time::Duration> {
            self.store.clock_error()
        }

        async fn enter(
            &self,
            index: &sessile::store::IndexKey,
            entry: sessile::store::Entry,
            admission: sessile::store::Admission,
        ) -> Result<sessile::store::Entered, sessile::StoreError> {
            self.store.enter(index, entry, admission).await
        }

        async fn confirm(
            &self,
            index: &sessile::store::IndexKey,
            handle: &sessile::Handle,
            entered_in: sessile::store::Generation,
        ) -> Result<sessile::store::Confirmed, sessile::StoreError> {
            self.store.confirm(index, handle, entered_in).await
        }

        async fn extend(
            &self,
            index: &sessile::store::IndexKey,
            entry: sessile::store::Entry,
        ) -> Result<(), sessile::StoreError> {
            self.store.extend(index, entry).await
        }

        async fn list(
            &self,
            index: &sessile::store::IndexKey,
        ) -> Result<sessile::store::Indexed, sessile::StoreError> {
            self.store.list(index).await
        }

        async fn begin_generation(
            &self,
            index: &sessile::store::IndexKey,
            at: std::time::SystemTime,
        ) -> Result<sessile::store::Generation, sessile::StoreError> {
            self.store.begin_generation(index, at).await
        }

        async fn leave(
            &self,
            index: &sessile::store::IndexKey,
            entries: &[sessile::store::Entry],
        ) -> Result<(), sessile::StoreError> {
            self.store.leave(index, entries).await
        }
    };
}

pub(crate) use forward_index;
