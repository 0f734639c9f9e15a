//! How far changes must have spread before a response reports success.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::config::{ConfigError, check_duration};
use crate::store::{Capabilities, Durability};
use crate::time::duration;

/// How far a request's changes must have spread before its response reports success.
///
/// Redis acknowledges a write once the primary has it, and replicas receive it a moment later. A write that a replica has not
/// received when it takes over is lost. Waiting for replicas costs one more round trip and the time that the replicas need, and
/// requests fail while there are too few replicas. That is worthwhile for changes that must not be undone, such as a logout:
///
/// ```
/// use std::time::Duration;
/// use sessile::store::Durability;
/// use sessile::{DurabilityConfig, SessionConfig};
///
/// let one_replica = Durability::Replicas {
///     n: 1,
///     timeout: Duration::from_millis(200),
/// };
/// let config = SessionConfig::default()
///     .with_durability(DurabilityConfig::default().with_revocations(one_replica));
/// ```
///
/// If too few replicas acknowledge a change in time, the primary has still applied it, exactly once. The response is then
///
/// - 503 without `Retry-After`, [`SessionError::OutcomeUnknown`](crate::SessionError::OutcomeUnknown), for a change to an
///   existing session: the change may not survive a failover, and repeating it may apply it twice. The session shows it from
///   then on. After `cycle_id`, `set_principal` or `clear_principal` the response carries the new cookie, which works; if a
///   failover then loses the change, that browser is signed out;
/// - 503 with `Retry-After`, [`SessionError::Store`](crate::SessionError::Store), for a new session, whose token no browser has
///   received, and for a logout, which sessile retries in the background and the visitor may repeat.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "{ commits = \"primary\" }")]
pub struct DurabilityConfig {
    /// How far every change must have spread; [`Durability::Primary`] by default.
    pub commits: Durability,
    /// How far the revocation of a token must have spread: `destroy`, `cycle_id`, `set_principal` and `clear_principal`.
    /// The same as `commits` by default.
    pub revocations: Option<Durability>,
}

impl DurabilityConfig {
    /// Sets how far every change must have spread; [`Durability::Primary`] by default.
    #[must_use]
    pub fn with_commits(mut self, commits: Durability) -> Self {
        self.commits = commits;
        self
    }

    /// Sets how far the revocation of a token must have spread; the same as [`commits`](Self::commits) by default.
    #[must_use]
    pub fn with_revocations(mut self, revocations: Durability) -> Self {
        self.revocations = Some(revocations);
        self
    }

    /// How far a revocation must have spread.
    pub(crate) fn revocations(&self) -> Durability {
        self.revocations.unwrap_or(self.commits)
    }

    /// Whether any change waits for replicas.
    #[cfg(feature = "redis")]
    pub(crate) fn waits(&self) -> bool {
        [self.commits, self.revocations()] != [Durability::Primary; 2]
    }

    pub(crate) fn settings(&self) -> [(&'static str, Durability); 2] {
        [
            ("durability.commits", self.commits),
            ("durability.revocations", self.revocations()),
        ]
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (setting, durability) in self.settings() {
            if let Durability::Replicas { n, timeout } = durability {
                if !(1..=1024).contains(&n) {
                    let advice = "write a number of replicas from 1 to 1024, or \"primary\"";
                    return Err(invalid(setting, n, timeout, advice));
                }
                // `WAIT` takes whole milliseconds, and 0 would wait without a limit.
                let (shortest, longest) = (Duration::from_millis(1), Duration::from_secs(60));
                check_duration(setting, timeout, shortest, longest)?;
            }
        }
        Ok(())
    }

    /// Rejects durability that this store does not support.
    pub(crate) fn check_for(&self, store: Capabilities) -> Result<(), ConfigError> {
        for (setting, durability) in self.settings() {
            let Durability::Replicas { n, timeout } = durability else {
                continue;
            };
            if !store.durability {
                let advice = "this store has no replicas to wait for: use another store, or write \"primary\"";
                return Err(invalid(setting, n, timeout, advice));
            }
            if timeout > store.request_budget {
                let advice = format!(
                    "its timeout exceeds the store's request_budget = {}, so it would never elapse: lower the timeout, or \
                     raise the budget",
                    duration::text(store.request_budget)
                );
                return Err(invalid(setting, n, timeout, &advice));
            }
        }
        Ok(())
    }
}

/// The error for this value of a durability, which is shown as a configuration file has it.
fn invalid(setting: &'static str, n: u32, timeout: Duration, advice: &str) -> ConfigError {
    let timeout = duration::text(timeout);
    let value = format_args!("{{ replicas = {{ n = {n}, timeout = \"{timeout}\" }} }}");
    ConfigError::invalid(setting, value, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(n: u32, millis: u64) -> Durability {
        Durability::Replicas {
            n,
            timeout: Duration::from_millis(millis),
        }
    }

    #[test]
    fn durability_beyond_the_store_or_its_request_budget_is_rejected() {
        let config = |commits, revocations| DurabilityConfig {
            commits,
            revocations,
        };
        let (none, all) = (
            Capabilities::new(),
            Capabilities::new().with_durability(true),
        );
        let (one, primary) = (replicas(1, 100), Durability::Primary);
        let plain = DurabilityConfig::default();
        let commits = config(one, None);
        let revocations = config(primary, Some(one));
        let both = config(one, Some(primary));
        let slow = config(primary, Some(replicas(1, 1001)));
        for (config, store, expected) in [
            (&plain, none, None),
            (&commits, none, Some(("durability.commits", "no replicas"))),
            (
                &revocations,
                none,
                Some(("durability.revocations", "no replicas")),
            ),
            (&both, none, Some(("durability.commits", "no replicas"))),
            (&commits, all, None),
            (&revocations, all, None),
            (
                &slow,
                all,
                Some(("durability.revocations", "request_budget = 1s")),
            ),
        ] {
            match (config.check_for(store), expected) {
                (Ok(()), None) => {}
                (Err(error), Some((setting, named))) => {
                    let text = error.to_string();
                    assert!(text.starts_with(setting) && text.contains(named), "{text}");
                }
                (result, _) => panic!("{result:?} {expected:?}"),
            }
        }
        assert_eq!(commits.revocations(), replicas(1, 100));
        assert_eq!(both.revocations(), Durability::Primary);
    }

    #[test]
    fn a_config_file_may_leave_out_either_durability_but_not_the_timeout() {
        let json = r#"{"revocations": {"replicas": {"n": 2, "timeout": "50ms"}}}"#;
        let config: DurabilityConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.commits, Durability::Primary);
        assert_eq!(config.revocations(), replicas(2, 50));
        let json = r#"{"commits": {"replicas": {"n": 2}}}"#;
        assert!(serde_json::from_str::<DurabilityConfig>(json).is_err());
    }
}
