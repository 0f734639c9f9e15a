//! Which of the three ways to compare and set is used: the configured one, or the first that works.

pub(crate) mod if_eq;
pub(crate) mod script;
pub(crate) mod swap;
pub(crate) mod watch;

use tokio::sync::OnceCell;

use crate::error::store::StoreError;
use crate::store::contract::Replaced;
use crate::store::redis::cas::script::Script;
use crate::store::redis::cas::swap::Swap;
use crate::store::redis::channel::Lane;
use crate::store::redis::config::CompareAndSet;
use crate::store::redis::error::Failed;
use crate::store::redis::exclusive::Exclusive;
use crate::store::redis::servers::{Route, Servers};

/// A way to compare and set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Script,
    IfEq,
    Watch,
}

impl From<Way> for CompareAndSet {
    fn from(way: Way) -> Self {
        match way {
            Way::Script => Self::Script,
            Way::IfEq => Self::IfEq,
            Way::Watch => Self::Watch,
        }
    }
}

/// The ways that come into question, the best first.
fn candidates(asked: CompareAndSet) -> &'static [Way] {
    match asked {
        CompareAndSet::Auto => &[Way::Script, Way::IfEq, Way::Watch],
        CompareAndSet::Script => &[Way::Script],
        CompareAndSet::IfEq => &[Way::IfEq],
        CompareAndSet::Watch => &[Way::Watch],
    }
}

/// Replaces values that are still the expected ones.
pub(crate) struct Replacer {
    asked: CompareAndSet,
    chosen: OnceCell<Way>,
    script: Script,
    /// What keys begin with that do not exist.
    probe: String,
}

impl Replacer {
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

    /// Chooses, if that is not done yet. Who comes meanwhile waits; a failure leaves the choice to the next.
    pub(crate) async fn choose(&self, servers: &Servers, key: &str) -> Result<(), Failed> {
        self.way(servers, key).await.map(drop)
    }

    pub(crate) async fn replace(
        &self,
        servers: &Servers,
        swap: Swap<'_>,
    ) -> Result<Replaced, StoreError> {
        let lane = &mut Lane::shared(servers, swap.key);
        let replaced = match self.way(servers, swap.key).await.map_err(undecided)? {
            Way::Script => self.script.replace(lane, swap).await,
            Way::IfEq => if_eq::replace(lane, swap).await,
            Way::Watch => {
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
        let way = self.way(servers, swap.key).await.map_err(undecided)?;
        let mut route = servers.route(swap.key);
        loop {
            let replaced = match way {
                Way::Watch => watch::replace(servers, &mut route, swap).await,
                Way::Script | Way::IfEq => self.replace_at(way, servers, &mut route, swap).await,
            };
            match replaced {
                Err(failed) if route.goes_on(&failed).await => {}
                replaced => return Ok(replaced?),
            }
        }
    }

    async fn replace_at(
        &self,
        way: Way,
        servers: &Servers,
        route: &mut Route<'_>,
        swap: Swap<'_>,
    ) -> Result<(Replaced, Exclusive), Failed> {
        let mut connection = route.exclusive().await?;
        let lane = &mut Lane::own(servers, swap.key, &mut connection);
        let replaced = match way {
            Way::IfEq => if_eq::replace(lane, swap).await?,
            Way::Script | Way::Watch => self.script.replace(lane, swap).await?,
        };
        Ok((replaced, connection))
    }

    /// The server that has the key is asked, which is there if any is that the request needs.
    async fn way(&self, servers: &Servers, key: &str) -> Result<Way, Failed> {
        self.chosen
            .get_or_try_init(|| self.find(servers, key))
            .await
            .copied()
    }

    /// The first way that the server has and lets this user go. Any other trouble decides nothing.
    async fn find(&self, servers: &Servers, key: &str) -> Result<Way, Failed> {
        let probe = servers.beside(key, &self.probe);
        let mut denied = None;
        for way in candidates(self.asked) {
            match self.try_out(*way, servers, &probe).await {
                Ok(()) => {
                    tracing::info!(target: "sessile", compare_and_set = ?way, "the way to replace sessions is chosen");
                    return Ok(*way);
                }
                // The best way's denial is told, if it comes to that.
                Err(failed) if failed.is_denial() => denied = denied.or(Some(failed)),
                Err(failed) => return Err(failed),
            }
        }
        Err(denied.unwrap_or_else(|| StoreError::refused("no way to compare and set").into()))
    }

    async fn try_out(&self, way: Way, servers: &Servers, probe: &str) -> Result<(), Failed> {
        match way {
            Way::Script => self.script.probe(servers, probe).await,
            Way::IfEq => if_eq::probe(servers, probe).await,
            Way::Watch => watch::probe(servers, probe).await,
        }
    }
}

/// Nothing of what was to be written has been sent.
fn undecided(failed: Failed) -> StoreError {
    let message = "Redis has not said yet how sessions may be replaced: see the cause; the next request asks again";
    StoreError::unavailable(message).with_source(failed.error)
}
