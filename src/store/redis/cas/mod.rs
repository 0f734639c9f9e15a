//! Which of the three strategies to compare and set is used: the configured one, or the first that works.

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

/// How to compare and set.
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
fn candidates(asked: CompareAndSet) -> &'static [Strategy] {
    match asked {
        CompareAndSet::Auto => &[Strategy::Script, Strategy::IfEq, Strategy::Watch],
        CompareAndSet::Script => &[Strategy::Script],
        CompareAndSet::IfEq => &[Strategy::IfEq],
        CompareAndSet::Watch => &[Strategy::Watch],
    }
}

/// Compares and sets: replaces values that are still the expected ones.
pub(crate) struct Cas {
    asked: CompareAndSet,
    chosen: OnceCell<Strategy>,
    script: Script,
    /// What keys begin with that do not exist.
    probe: String,
}

impl Cas {
    pub(crate) fn new(asked: CompareAndSet, probe: String) -> Self {
        Self {
            asked,
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
        let replaced = match self.strategy(servers, swap.key).await.map_err(undecided)? {
            Strategy::Script => self.script.replace(channel, swap).await,
            Strategy::IfEq => if_eq::replace(channel, swap).await,
            Strategy::Watch => {
                let (replaced, connection) = self.replace_alone(servers, swap).await?;
                connection.give_back();
                Ok(replaced)
            }
        };
        Ok(replaced?)
    }

    /// The same on a connection that nobody else uses, which is returned to be asked for more.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, it closes its connection; what was sent may still be done.
    pub(crate) async fn replace_alone(
        &self,
        servers: &Servers,
        swap: Swap<'_>,
    ) -> Result<(Replaced, Exclusive), StoreError> {
        let strategy = self.strategy(servers, swap.key).await.map_err(undecided)?;
        let mut route = servers.route(swap.key);
        loop {
            let replaced = match strategy {
                Strategy::Watch => watch::replace(servers, &mut route, swap).await,
                Strategy::Script | Strategy::IfEq => {
                    self.replace_at(strategy, servers, &mut route, swap).await
                }
            };
            match replaced {
                Err(failed) if route.goes_on(&failed).await => {}
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

    /// The server that has the key is asked, which is there if any is that the request needs.
    async fn strategy(&self, servers: &Servers, key: &str) -> Result<Strategy, RequestError> {
        self.chosen
            .get_or_try_init(|| self.first_available(servers, key))
            .await
            .copied()
    }

    /// The first strategy that the server has and this user may use. Any other failure decides nothing.
    async fn first_available(
        &self,
        servers: &Servers,
        key: &str,
    ) -> Result<Strategy, RequestError> {
        let probe = servers.beside(key, &self.probe);
        let mut denied = None;
        for strategy in candidates(self.asked) {
            match self.try_out(*strategy, servers, &probe).await {
                Ok(()) => {
                    tracing::info!(target: "sessile", compare_and_set = ?strategy, "compare-and-set strategy detected");
                    return Ok(*strategy);
                }
                // If all are denied, the denial of the best one is reported.
                Err(failed) if failed.is_denial() => denied = denied.or(Some(failed)),
                Err(failed) => return Err(failed),
            }
        }
        Err(denied.unwrap_or_else(|| StoreError::refused("no compare-and-set strategy").into()))
    }

    async fn try_out(
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

/// Nothing that was to be written has been sent.
fn undecided(failed: RequestError) -> StoreError {
    let message = "could not determine a compare-and-set strategy: see the cause; the next request tries again";
    StoreError::unavailable(message).with_source(failed.error)
}
