//! Which of the three ways to compare and set is used: the configured one, or the first that works.

use tokio::sync::OnceCell;

use super::exclusive::Exclusive;
use super::failed::Failed;
use super::lane::Lane;
use super::pool::Connections;
use super::script::Script;
use super::{if_eq, watch};
use crate::store::{CompareAndSet, Replaced, StoreError, Stored};

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
fn candidates(asked: CompareAndSet, cluster: bool) -> &'static [Way] {
    match asked {
        CompareAndSet::Auto if cluster => &[Way::Script, Way::IfEq],
        CompareAndSet::Auto => &[Way::Script, Way::IfEq, Way::Watch],
        CompareAndSet::Script => &[Way::Script],
        CompareAndSet::IfEq => &[Way::IfEq],
        CompareAndSet::Watch => &[Way::Watch],
    }
}

/// Replaces values that are still the expected ones.
pub(super) struct Replacer {
    asked: CompareAndSet,
    cluster: bool,
    chosen: OnceCell<Way>,
    script: Script,
    /// A key that does not exist.
    probe: String,
}

impl Replacer {
    pub(super) fn new(asked: CompareAndSet, cluster: bool, probe: String) -> Self {
        Self {
            asked,
            cluster,
            chosen: OnceCell::new(),
            script: Script::new(),
            probe,
        }
    }

    pub(super) fn chosen(&self) -> Option<CompareAndSet> {
        self.chosen.get().copied().map(CompareAndSet::from)
    }

    /// Chooses, if that is not done yet. Who comes meanwhile waits; a failure leaves the choice to the next.
    pub(super) async fn choose(&self, connections: &Connections) -> Result<(), Failed> {
        self.way(connections).await.map(drop)
    }

    pub(super) async fn replace(
        &self,
        connections: &Connections,
        key: &str,
        expected: &Stored,
        value: &[u8],
        ttl: u64,
    ) -> Result<Replaced, StoreError> {
        let replaced = match self.way(connections).await.map_err(undecided)? {
            Way::Script => {
                let lane = &mut Lane::Shared(connections);
                self.script.replace(lane, key, expected, value, ttl).await
            }
            Way::IfEq => {
                let lane = &mut Lane::Shared(connections);
                if_eq::replace(lane, key, expected, value, ttl).await
            }
            Way::Watch => watch::replace(connections, key, expected, value, ttl).await,
        };
        Ok(replaced?)
    }

    /// The same on a connection that nobody else uses, which is returned to be asked for more.
    pub(super) async fn replace_alone<'c>(
        &self,
        connections: &'c Connections,
        key: &str,
        expected: &Stored,
        value: &[u8],
        ttl: u64,
    ) -> Result<(Replaced, Exclusive<'c>), StoreError> {
        let way = self.way(connections).await.map_err(undecided)?;
        if way == Way::Watch {
            return Ok(watch::replace_alone(connections, key, expected, value, ttl).await?);
        }
        let mut connection = connections.exclusive().await?;
        let lane = &mut Lane::Own(&mut connection);
        let replaced = match way {
            Way::IfEq => if_eq::replace(lane, key, expected, value, ttl).await,
            Way::Script | Way::Watch => self.script.replace(lane, key, expected, value, ttl).await,
        };
        Ok((replaced?, connection))
    }

    async fn way(&self, connections: &Connections) -> Result<Way, Failed> {
        self.chosen
            .get_or_try_init(|| self.find(connections))
            .await
            .copied()
    }

    /// The first way that the server has and lets this user go. Any other trouble decides nothing.
    async fn find(&self, connections: &Connections) -> Result<Way, Failed> {
        let mut denied = None;
        for way in candidates(self.asked, self.cluster) {
            match self.try_out(*way, connections).await {
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

    async fn try_out(&self, way: Way, connections: &Connections) -> Result<(), Failed> {
        match way {
            Way::Script => self.script.probe(connections, &self.probe).await,
            Way::IfEq => if_eq::probe(connections, &self.probe).await,
            Way::Watch => watch::probe(connections, &self.probe).await,
        }
    }
}

/// Nothing of what was to be written has been sent.
fn undecided(failed: Failed) -> StoreError {
    let message = "Redis has not said yet how sessions may be replaced: see the cause; the next request asks again";
    StoreError::unavailable(message).with_source(failed.error)
}
