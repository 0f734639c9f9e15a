//! Compare-and-set: replaces a session only if its version is the expected one, in one atomic step, by one of three strategies.
//!
//! `Cas::replace` detects the strategy once (`first_available`): the configured one, or the first that the server supports.
//! `swap.rs: Swap` holds the arguments, and `script.rs`, `if_eq.rs` and `watch.rs` are the strategies; read `script.rs` first.
//! `Cas::replace_exclusively` does the same on a connection that stays open for a `WAIT`.

pub(crate) mod if_eq;
pub(crate) mod script;
pub(crate) mod swap;
pub(crate) mod watch;

use tokio::sync::OnceCell;

use crate::error::store::StoreError;
use crate::store::contract::Replaced;
use crate::store::redis::cas::script::Script;
use crate::store::redis::cas::swap::Swap;
use crate::store::redis::channel::Channel;
use crate::store::redis::config::CompareAndSet;
use crate::store::redis::error::RequestError;
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::servers::{Route, Servers};

/// A compare-and-set strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strategy {
    Script,
    IfEq,
    Watch,
}

impl From<Strategy> for CompareAndSet {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Script => Self::Script,
            Strategy::IfEq => Self::IfEq,
            Strategy::Watch => Self::Watch,
        }
    }
}

/// The strategies to try, the best first.
fn candidates(configured: CompareAndSet) -> &'static [Strategy] {
    match configured {
        CompareAndSet::Auto => &[Strategy::Script, Strategy::IfEq, Strategy::Watch],
        CompareAndSet::Script => &[Strategy::Script],
        CompareAndSet::IfEq => &[Strategy::IfEq],
        CompareAndSet::Watch => &[Strategy::Watch],
    }
}

/// Replaces values that are still the expected ones, by the detected strategy.
pub(crate) struct Cas {
    configured: CompareAndSet,
    chosen: OnceCell<Strategy>,
    script: Script,
    /// The prefix of keys that do not exist.
    probe: String,
}

impl Cas {
    pub(crate) fn new(configured: CompareAndSet, probe: String) -> Self {
        Self {
            configured,
            chosen: OnceCell::new(),
            script: Script::new(),
            probe,
        }
    }

    pub(crate) fn chosen(&self) -> Option<CompareAndSet> {
        self.chosen.get().copied().map(CompareAndSet::from)
    }

    /// Detects the strategy unless it is known. Concurrent callers wait; after a failure the next caller tries again.
    pub(crate) async fn detect(&self, servers: &Servers, key: &str) -> Result<(), RequestError> {
        self.strategy(servers, key).await.map(drop)
    }

    pub(crate) async fn replace(
        &self,
        servers: &Servers,
        swap: Swap<'_>,
    ) -> Result<Replaced, StoreError> {
        let channel = &mut Channel::shared(servers, swap.key);
        let replaced = match self
            .strategy(servers, swap.key)
            .await
            .map_err(no_strategy)?
        {
            Strategy::Script => self.script.replace(channel, swap).await,
            Strategy::IfEq => if_eq::replace(channel, swap).await,
            Strategy::Watch => {
                let (replaced, connection) = self.replace_exclusively(servers, swap).await?;
                connection.return_to_pool();
                Ok(replaced)
            }
        };
        Ok(replaced?)
    }

    /// Like [`replace`](Self::replace), on a connection that no other request uses; returns it for further commands.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the connection is closed; the value may be replaced all the same.
    pub(crate) async fn replace_exclusively(
        &self,
        servers: &Servers,
        swap: Swap<'_>,
    ) -> Result<(Replaced, Exclusive), StoreError> {
        let strategy = self
            .strategy(servers, swap.key)
            .await
            .map_err(no_strategy)?;
        let mut route = servers.route(swap.key);
        loop {
            let replaced = match strategy {
                Strategy::Watch => watch::replace(servers, &mut route, swap).await,
                Strategy::Script | Strategy::IfEq => {
                    self.replace_at(strategy, servers, &mut route, swap).await
                }
            };
            match replaced {
                Err(failed) if route.prepare_retry(&failed).await => {}
                replaced => return Ok(replaced?),
            }
        }
    }

    async fn replace_at(
        &self,
        strategy: Strategy,
        servers: &Servers,
        route: &mut Route<'_>,
        swap: Swap<'_>,
    ) -> Result<(Replaced, Exclusive), RequestError> {
        let mut connection = route.exclusive().await?;
        let channel = &mut Channel::exclusive(servers, swap.key, &mut connection);
        let replaced = match strategy {
            Strategy::IfEq => if_eq::replace(channel, swap).await?,
            Strategy::Script | Strategy::Watch => self.script.replace(channel, swap).await?,
        };
        Ok((replaced, connection))
    }

    /// Asks the server that has the key: the request needs that one in any case.
    async fn strategy(&self, servers: &Servers, key: &str) -> Result<Strategy, RequestError> {
        self.chosen
            .get_or_try_init(|| self.first_available(servers, key))
            .await
            .copied()
    }

    /// The first strategy that the server supports and this user may use. After any other failure the strategy stays unknown.
    async fn first_available(
        &self,
        servers: &Servers,
        key: &str,
    ) -> Result<Strategy, RequestError> {
        let probe = servers.colocated_key(key, &self.probe);
        let mut denied = None;
        for strategy in candidates(self.configured) {
            match self.probe(*strategy, servers, &probe).await {
                Ok(()) => {
                    tracing::info!(target: "sessile", compare_and_set = ?strategy, "compare-and-set strategy detected");
                    return Ok(*strategy);
                }
                // If all are denied, the denial of the best one is reported.
                Err(failed) if failed.is_denial() => denied = denied.or(Some(failed)),
                Err(failed) => return Err(failed),
            }
        }
        Err(denied.unwrap_or_else(|| {
            StoreError::refused("there is no compare-and-set strategy to try").into()
        }))
    }

    async fn probe(
        &self,
        strategy: Strategy,
        servers: &Servers,
        probe: &str,
    ) -> Result<(), RequestError> {
        match strategy {
            Strategy::Script => self.script.probe(servers, probe).await,
            Strategy::IfEq => if_eq::probe(servers, probe).await,
            Strategy::Watch => watch::probe(servers, probe).await,
        }
    }
}

/// The write itself was not sent.
fn no_strategy(failed: RequestError) -> StoreError {
    let message = "could not determine a compare-and-set strategy: see the cause; the next request tries again";
    StoreError::unavailable(message).with_source(failed.error)
}
