//! What may have ended a session that is not stored. Redis keeps no trace of it, so this weighs circumstances.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::explain::verdict::{Reason, Verdict};
use crate::human::{count, duration, printable, time_and_distance};

#[derive(Clone, Debug)]
pub(crate) struct Missing {
    pub(crate) now: SystemTime,
    pub(crate) principal: Option<String>,
    /// Whether the index of the principal still lists it, and until when; `None` if nobody knows who the principal is.
    pub(crate) listed_until: Option<Option<SystemTime>>,
    pub(crate) idle_timeout: Duration,
    pub(crate) is_full_idle: bool,
    pub(crate) absolute_timeout: Duration,
    pub(crate) servers: Vec<Server>,
}

impl Missing {
    /// How long ago the user signed in, as the index tells if the session has the layer's absolute timeout.
    fn age(&self) -> Option<Duration> {
        let signed_in = self.listed_until??.checked_sub(self.absolute_timeout)?;
        self.now.duration_since(signed_in).ok()
    }

    /// The least time without a request after which a session ends.
    fn shortest_idle(&self) -> Duration {
        match self.is_full_idle {
            true => self.idle_timeout,
            false => self.idle_timeout / 2,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) up_since: SystemTime,
    pub(crate) keeps: Keeps,
    pub(crate) evicted: u64,
    /// Whether it was a replica before.
    pub(crate) has_taken_over: bool,
}

/// What a restart brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    Nothing,
    Snapshots,
    EachWrite,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cause {
    /// A stable name.
    pub(crate) cause: &'static str,
    pub(crate) likelihood: Likelihood,
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Likelihood {
    Unlikely,
    Possible,
    Likely,
}

impl Likelihood {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unlikely => "unlikely",
            Self::Possible => "possible",
            Self::Likely => "likely",
        }
    }
}

pub(crate) fn verdict() -> Verdict {
    Verdict::new(Reason::Missing, "it is not stored: the visitor is anonymous, and changes go into a new session")
        .detail("Redis keeps no trace of a session that has ended. The application's log has its logout (target sessile, `destroyed`)")
}

/// The likeliest first.
pub(crate) fn causes(missing: &Missing) -> Vec<Cause> {
    let mut causes = vec![timeouts(missing), logout(missing)];
    causes.extend(
        missing
            .servers
            .iter()
            .filter_map(|server| restart(server, missing)),
    );
    causes.extend(missing.servers.iter().filter_map(eviction));
    causes.extend(missing.servers.iter().filter_map(failover));
    causes.push(Cause {
        cause: "deleted",
        likelihood: match missing.age() {
            Some(age) if age < missing.shortest_idle() => Likelihood::Likely,
            _ => Likelihood::Possible,
        },
        text: "something other than a visitor has deleted its key: `sessile destroy`, Sessions::destroy, DEL, FLUSHDB, or a restored copy of \
               the data"
            .to_owned(),
    });
    causes.push(Cause {
        cause: "elsewhere",
        likelihood: match missing.listed_until {
            Some(Some(_)) => Likelihood::Unlikely,
            _ => Likelihood::Possible,
        },
        text: "it never was in this store: another server, database or key prefix".to_owned(),
    });
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.likelihood));
    causes
}

fn timeouts(missing: &Missing) -> Cause {
    let passed = missing
        .listed_until
        .flatten()
        .filter(|until| *until <= missing.now);
    if let Some(until) = passed {
        let on = time_and_distance(until, missing.now);
        return Cause {
            cause: "absolute_timeout",
            likelihood: Likelihood::Likely,
            text: format!("it ended at {on} at the latest, however much it was used"),
        };
    }
    let idle = missing.idle_timeout;
    let shortest = missing.shortest_idle();
    if let Some(age) = missing.age().filter(|age| *age < shortest) {
        return Cause {
            cause: "idle_timeout",
            likelihood: Likelihood::Unlikely,
            text: format!(
                "its user signed in {} ago, and it takes {} without a request, unless the session has timeouts of its own",
                duration(age),
                duration(shortest)
            ),
        };
    }
    let longest = if missing.is_full_idle {
        idle + idle / 2
    } else {
        idle
    };
    Cause {
        cause: "idle_timeout",
        likelihood: Likelihood::Likely,
        text: format!(
            "nobody used it for {} to {} (idle_timeout = {}), or it was older than absolute_timeout = {}",
            duration(shortest),
            duration(longest),
            duration(idle),
            duration(missing.absolute_timeout)
        ),
    }
}

fn logout(missing: &Missing) -> Cause {
    let who = missing
        .principal
        .as_deref()
        .map(printable)
        .unwrap_or_default();
    let (likelihood, text) = match missing.listed_until {
        None => (
            Likelihood::Possible,
            "a logout, a sign-out everywhere, or a newer sign-in beyond max_sessions. With --principal the user's index may tell".to_owned(),
        ),
        Some(Some(_)) => (
            Likelihood::Unlikely,
            format!("the index of {who} still lists it, and a logout removes it from there"),
        ),
        Some(None) => (
            Likelihood::Likely,
            format!(
                "a logout, a sign-out everywhere, or a newer sign-in beyond max_sessions: the index of {who} does not list it any more, \
                 unless a list of their sessions has removed it since, or they were never signed in to it"
            ),
        ),
    };
    Cause {
        cause: "logout",
        likelihood,
        text,
    }
}

/// A restart that lost it.
fn restart(server: &Server, missing: &Missing) -> Option<Cause> {
    let now = missing.now;
    let on = time_and_distance(server.up_since, now);
    let (likelihood, what) = match server.keeps {
        Keeps::EachWrite => return None,
        Keeps::Nothing => (
            Likelihood::Possible,
            "all sessions from before are gone, since it keeps nothing on disk",
        ),
        Keeps::Snapshots => (
            Likelihood::Possible,
            "sessions since the last snapshot before are gone",
        ),
    };
    let up = now.duration_since(server.up_since).unwrap_or_default();
    let is_later = missing.age().is_none_or(|age| up <= age);
    let is_recent = up < Duration::from_secs(86_400);
    Some(Cause {
        cause: "restart",
        likelihood: if is_recent && is_later {
            likelihood
        } else {
            Likelihood::Unlikely
        },
        text: format!("{} started at {on}: {what}", server.address),
    })
}

fn eviction(server: &Server) -> Option<Cause> {
    (server.evicted > 0).then(|| Cause {
        cause: "eviction",
        likelihood: Likelihood::Possible,
        text: format!(
            "{} has evicted {} keys for lack of memory since it started; `sessile doctor` says what to change",
            server.address,
            count(server.evicted)
        ),
    })
}

fn failover(server: &Server) -> Option<Cause> {
    server.has_taken_over.then(|| Cause {
        cause: "failover",
        likelihood: Likelihood::Possible,
        text: format!(
            "{} was a replica before it took over: what it did not have by then is lost",
            server.address
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn missing() -> Missing {
        Missing {
            now: now(),
            principal: None,
            listed_until: None,
            idle_timeout: Duration::from_secs(1800),
            is_full_idle: false,
            absolute_timeout: Duration::from_secs(86_400),
            servers: Vec::new(),
        }
    }

    fn server() -> Server {
        Server {
            address: "h:1".to_owned(),
            up_since: now() - Duration::from_secs(60),
            keeps: Keeps::EachWrite,
            evicted: 0,
            has_taken_over: false,
        }
    }

    fn found(missing: &Missing) -> Vec<(&'static str, Likelihood)> {
        causes(missing)
            .iter()
            .map(|it| (it.cause, it.likelihood))
            .collect()
    }

    #[test]
    fn the_index_of_the_user_tells_a_logout_from_a_timeout() {
        use Likelihood::{Likely, Possible, Unlikely};
        let later = now() + Duration::from_secs(60);
        let listed = |listed| Missing {
            principal: Some("mia".to_owned()),
            listed_until: Some(listed),
            ..missing()
        };
        for (missing, expected) in [
            (
                missing(),
                vec![
                    ("idle_timeout", Likely),
                    ("logout", Possible),
                    ("deleted", Possible),
                    ("elsewhere", Possible),
                ],
            ),
            (
                listed(Some(later)),
                vec![
                    ("idle_timeout", Likely),
                    ("deleted", Possible),
                    ("logout", Unlikely),
                    ("elsewhere", Unlikely),
                ],
            ),
            (
                // Its user signed in a minute ago.
                listed(Some(now() + Duration::from_secs(86_400 - 60))),
                vec![
                    ("deleted", Likely),
                    ("idle_timeout", Unlikely),
                    ("logout", Unlikely),
                    ("elsewhere", Unlikely),
                ],
            ),
            (
                listed(Some(now())),
                vec![
                    ("absolute_timeout", Likely),
                    ("deleted", Possible),
                    ("logout", Unlikely),
                    ("elsewhere", Unlikely),
                ],
            ),
            (
                listed(None),
                vec![
                    ("idle_timeout", Likely),
                    ("logout", Likely),
                    ("deleted", Possible),
                    ("elsewhere", Possible),
                ],
            ),
        ] {
            assert_eq!(found(&missing), expected);
        }
        assert!(timeouts(&missing()).text.contains("15m to 30m"));
        let full = Missing {
            is_full_idle: true,
            ..missing()
        };
        assert!(timeouts(&full).text.contains("30m to 45m"));
    }

    #[test]
    fn the_server_may_have_lost_it() {
        use Likelihood::{Possible, Unlikely};
        let old = now() - Duration::from_secs(90_000);
        for (server, expected) in [
            (server(), vec![]),
            (
                Server {
                    keeps: Keeps::Nothing,
                    ..server()
                },
                vec![("restart", Possible)],
            ),
            (
                Server {
                    keeps: Keeps::Snapshots,
                    ..server()
                },
                vec![("restart", Possible)],
            ),
            (
                Server {
                    keeps: Keeps::Nothing,
                    up_since: old,
                    ..server()
                },
                vec![("restart", Unlikely)],
            ),
            (
                Server {
                    evicted: 7,
                    ..server()
                },
                vec![("eviction", Possible)],
            ),
            (
                Server {
                    has_taken_over: true,
                    ..server()
                },
                vec![("failover", Possible)],
            ),
        ] {
            let missing = Missing {
                servers: vec![server],
                ..missing()
            };
            let mut found = found(&missing);
            found.retain(|(cause, _)| {
                !["idle_timeout", "logout", "deleted", "elsewhere"].contains(cause)
            });
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_restart_before_the_sign_in_has_lost_nothing_of_it() {
        for (up, likelihood) in [(30, Likelihood::Possible), (90, Likelihood::Unlikely)] {
            let missing = Missing {
                listed_until: Some(Some(now() + Duration::from_secs(86_400 - 60))),
                servers: vec![Server {
                    keeps: Keeps::Nothing,
                    up_since: now() - Duration::from_secs(up),
                    ..server()
                }],
                ..missing()
            };
            assert!(found(&missing).contains(&("restart", likelihood)), "{up}");
        }
    }
}
