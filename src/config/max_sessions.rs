//! How many sessions a user may have.

use serde::{Deserialize, Serialize};

use crate::error::config::ConfigError;
use crate::store::Capabilities;

/// How many sessions a principal may be signed in to at once, and what happens to one more.
///
/// The limit holds on all nodes together, and counts every session of the principal in the store, whatever layer or cookie it
/// belongs to. Sessions that have ended do not count. It applies to sign-ins: a limit that is lowered ends no session by itself.
///
/// In a configuration file: `{ n = 3, when_full = "evict_oldest" }`.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "{ n = 3 }")]
#[doc(alias("maximumSessions", "maximum_sessions"))]
pub struct MaxSessions {
    /// How many sessions; from 1 to 1000.
    pub n: u32,
    /// What happens to one more.
    #[serde(default)]
    pub when_full: WhenFull,
}

/// What happens to a sign-in of a principal who has as many sessions as [`MaxSessions`] allows.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The session that was signed in to first ends. The default: a user who has lost a device can always sign in.
    #[default]
    EvictOldest,
    /// The sign-in is refused, [`SignInRefused::TooManySessions`](crate::SignInRefused::TooManySessions).
    Refuse,
}

impl MaxSessions {
    /// At most this many sessions; one more ends the oldest.
    pub fn evict_oldest(n: u32) -> Self {
        Self {
            n,
            when_full: WhenFull::EvictOldest,
        }
    }

    /// At most this many sessions; one more is refused.
    pub fn refuse(n: u32) -> Self {
        Self {
            n,
            when_full: WhenFull::Refuse,
        }
    }

    pub(crate) fn check(self) -> Result<(), ConfigError> {
        match self.n {
            1..=1000 => Ok(()),
            _ => {
                let advice = "write a number of sessions from 1 to 1000, or leave the setting out";
                Err(ConfigError::invalid("max_sessions.n", self.n, advice))
            }
        }
    }

    /// Rejects a store without an index.
    pub(crate) fn check_for(self, store: Capabilities) -> Result<(), ConfigError> {
        if store.index {
            return Ok(());
        }
        let advice = "this store has no index of a user's sessions: use another store, or leave the setting out";
        let value = format_args!("{{ n = {} }}", self.n);
        Err(ConfigError::invalid("max_sessions", value, advice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_file_gives_a_number_and_may_say_what_happens_when_it_is_reached() {
        let read = |json: &str| serde_json::from_str::<MaxSessions>(json);
        assert_eq!(read(r#"{"n": 3}"#).unwrap(), MaxSessions::evict_oldest(3));
        assert_eq!(
            read(r#"{"n": 1, "when_full": "refuse"}"#).unwrap(),
            MaxSessions::refuse(1)
        );
        for json in [
            "3",
            "{}",
            r#"{"n": -1}"#,
            r#"{"n": 3, "when_ful": "refuse"}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_limit_that_nobody_can_keep_is_rejected() {
        for (n, valid) in [(0, false), (1, true), (1000, true), (1001, false)] {
            assert_eq!(MaxSessions::refuse(n).check().is_ok(), valid);
        }
        let without = Capabilities::new();
        let with = without.with_index(true);
        let limit = MaxSessions::refuse(3);
        assert!(limit.check_for(with).is_ok());
        let text = limit.check_for(without).unwrap_err().to_string();
        assert!(
            text.contains("{ n = 3 }") && text.contains("no index"),
            "{text}"
        );
    }
}
