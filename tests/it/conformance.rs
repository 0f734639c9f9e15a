//! Both stores run the suite that is public.

use sessile::MemoryStore;
use sessile::conformance::check;

use crate::support::Ground;

#[tokio::test]
async fn memory_is_a_session_store() {
    check(MemoryStore::new()).await;
}

#[tokio::test]
async fn redis_is_a_session_store() {
    let ground = Ground::new();
    check(ground.store().await).await;
}
