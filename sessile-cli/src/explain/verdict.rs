//! Judges a stored session as a request does: idle timeout, absolute timeout, secret, network.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use sessile::{Fingerprint, Handle, TokenState};

use crate::human::{printable, time_and_distance};

/// How long a replaced secret is recognized.
const RETIRED_FOR: Duration = Duration::from_secs(10);

/// Why. The names are those of the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    Accepted,
    /// It is not stored.
    Missing,
    Unreadable,
    NotAToken,
    AnotherSession,
    NotCreatedYet,
    IdleTimeout,
    AbsoluteTimeout,
    /// The secret was replaced within the last ten seconds.
    Retired,
    WrongSecret,
    OtherNetwork,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) reason: Reason,
    pub(crate) explanation: String,
    pub(crate) details: Vec<String>,
}

impl Verdict {
    pub(crate) fn new(reason: Reason, explanation: impl Into<String>) -> Self {
        Self {
            reason,
            explanation: explanation.into(),
            details: Vec::new(),
        }
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }
}

/// What the record says.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) principal: Option<String>,
    pub(crate) created: SystemTime,
    pub(crate) authenticated: Option<SystemTime>,
    /// If it is not used again; `None` if its key has no time to live.
    pub(crate) expires: Option<SystemTime>,
    pub(crate) deadline: SystemTime,
    pub(crate) retired_until: Option<SystemTime>,
}

/// The request.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances {
    /// By the store's clock.
    pub(crate) now: SystemTime,
    /// When the request comes.
    pub(crate) at: SystemTime,
    pub(crate) token: Option<TokenState>,
    pub(crate) network: Option<Network>,
}

#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) fingerprint: Fingerprint,
    /// Whether the layer's `fingerprinting` lets it use the session.
    pub(crate) is_admitted: bool,
}

pub(crate) fn not_a_token() -> Verdict {
    let text = "stdin is not the value of a session cookie, which has 43 characters of base64url: the visitor is anonymous";
    Verdict::new(Reason::NotAToken, text)
        .detail("copy the whole value; if the browser sends this, something has cut or re-encoded the cookie")
}

pub(crate) fn another_session(named: Option<Handle>) -> Verdict {
    let text = match named {
        Some(named) => format!("the cookie is not of this session, but of {named}"),
        None => "stdin is not the value of a session cookie".to_owned(),
    };
    Verdict::new(Reason::AnotherSession, text)
        .detail("leave the handle out to explain the cookie's session")
}

pub(crate) fn unreadable() -> Verdict {
    let text =
        "its record cannot be read: a later version of sessile has written it, or something else";
    Verdict::new(Reason::Unreadable, text)
        .detail("the visitor sees an empty session, and changes get 409 if a later version has written it; the record stays as it is")
        .detail("during a rolling update that is over once all nodes are new. Use the command of the newer version to see more")
}

pub(crate) fn judge(session: &Stored, request: &Circumstances) -> Verdict {
    let on = |time| time_and_distance(time, request.now);
    let at = request.at;
    let verdict = if at < session.created {
        let text = format!("it was created later, at {}", on(session.created));
        Verdict::new(Reason::NotCreatedYet, text)
    } else if session.deadline <= at {
        let text = format!(
            "its absolute timeout ends it at {}, however much it is used",
            on(session.deadline)
        );
        Verdict::new(Reason::AbsoluteTimeout, text)
            .detail("it counts from the creation or the last sign-in; `absolute_timeout` and `set_absolute_timeout` set it")
    } else if let Some(expires) = session.expires.filter(|expires| *expires <= at) {
        let text = format!(
            "unless it is used before, its idle timeout ends it at {}",
            on(expires)
        );
        Verdict::new(Reason::IdleTimeout, text)
            .detail("`idle_timeout` and `set_idle_timeout` set it; requests of a layer with `renewal = false` do not count as use")
    } else {
        judge_token(session, request)
    };
    remarks(verdict, session, request)
}

fn judge_token(session: &Stored, request: &Circumstances) -> Verdict {
    let on = |time| time_and_distance(time, request.now);
    let is_retired = match session.retired_until {
        Some(until) => until > request.at,
        None => true,
    };
    match request.token {
        Some(TokenState::Retired) if is_retired => {
            let until = session
                .retired_until
                .map_or_else(String::new, |it| format!(" until {}", on(it)));
            let text = format!(
                "the cookie's secret was replaced a moment ago, by a sign-in or a rotation: the visitor sees an empty session, and changes get 409{until}"
            );
            Verdict::new(Reason::Retired, text)
                .detail("the response to the sign-in brings the browser the new cookie; a request that was under way had the old one")
        }
        Some(TokenState::Valid) | None => judge_network(session, request),
        _ => {
            let text =
                "the cookie names this session and has another secret: the visitor is anonymous";
            let verdict = Verdict::new(Reason::WrongSecret, text).detail(
                "a sign-in, a sign-out or `cycle_id` has replaced the secret, and this browser has not kept the response, or is another one",
            );
            let verdict = match session.authenticated {
                Some(signed_in) => verdict.detail(format!(
                    "the last sign-in was at {}; cookies from before are nobody's",
                    on(signed_in)
                )),
                None => verdict,
            };
            verdict.detail("or the cookie is of a layer with another cookie name or key prefix: give --cookie-name, --prefix or --config")
        }
    }
}

fn judge_network(session: &Stored, request: &Circumstances) -> Verdict {
    match &request.network {
        Some(Network {
            fingerprint,
            is_admitted: false,
        }) => {
            let text = match fingerprint {
                Fingerprint::Mismatch { bound, seen, .. } => format!(
                    "fingerprinting is strict, and the session belongs to {bound}, not to {seen}: the visitor is anonymous, and changes get 409"
                ),
                _ => "fingerprinting is strict, and the client's network is unknown: the visitor is anonymous, and changes get 409".to_owned(),
            };
            Verdict::new(Reason::OtherNetwork, text)
                .detail("the session goes on in its own network. A sign-in binds it anew; behind a proxy, check `client_address`")
        }
        _ => {
            let who = match &session.principal {
                Some(principal) => format!("{} is signed in", printable(principal)),
                None => "nobody is signed in".to_owned(),
            };
            let cookie = match request.token {
                Some(_) => "the cookie opens the session",
                None => "a request with the session's cookie gets it",
            };
            Verdict::new(Reason::Accepted, format!("{cookie}, and {who}"))
        }
    }
}

/// What else is worth knowing.
fn remarks(mut verdict: Verdict, session: &Stored, request: &Circumstances) -> Verdict {
    let on = |time| time_and_distance(time, request.now);
    let is_accepted = verdict.reason == Reason::Accepted;
    if let Some(Network { fingerprint, .. }) = request.network.as_ref().filter(|_| is_accepted) {
        let text = match fingerprint {
            Fingerprint::Off => "fingerprinting is off, so the network does not matter".to_owned(),
            Fingerprint::Match => "the client is in the session's network".to_owned(),
            Fingerprint::Mismatch { bound, seen, .. } => format!(
                "the session belongs to {bound}, and the client to {seen}: reported (fingerprinting is soft), and hidden if it were strict"
            ),
            Fingerprint::OtherFamily { bound, seen, .. } => {
                format!(
                    "the session belongs to {bound}; the next change binds it to {seen} as well"
                )
            }
            _ => "the session belongs to no network yet".to_owned(),
        };
        verdict = verdict.detail(text);
    }
    if is_accepted {
        verdict = match session.expires {
            Some(expires) if expires < session.deadline => verdict.detail(format!(
                "it ends at {} unless it is used, and at {} in any case",
                on(expires),
                on(session.deadline)
            )),
            Some(_) => verdict.detail(format!("it ends at {} in any case", on(session.deadline))),
            None => verdict.detail(format!(
                "its key has no time to live: something other than sessile has removed it. Its next request sets one; it ends at {}",
                on(session.deadline)
            )),
        };
        if let Some(until) = session.retired_until {
            let rotated = until.checked_sub(RETIRED_FOR).unwrap_or(until);
            let old = match until > request.at {
                true => format!(
                    "a cookie with the old one gets 409 for changes until {}",
                    on(until)
                ),
                false => "a cookie with the old one is nobody's since".to_owned(),
            };
            verdict = verdict.detail(format!(
                "its secret was last replaced at about {}: {old}",
                on(rotated)
            ));
        }
        if request.token.is_none() {
            verdict = verdict.detail(
                "if the visitor is logged out all the same, their cookie is another: pass its value with --token-stdin, and their address with --network",
            );
        }
    }
    if request.at < request.now {
        verdict = verdict.detail("the record is that of now: it may have been another one then");
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + secs)
    }

    fn session() -> Stored {
        Stored {
            principal: Some("mia".to_owned()),
            created: at(0),
            authenticated: Some(at(100)),
            expires: Some(at(2_000)),
            deadline: at(5_000),
            retired_until: None,
        }
    }

    fn request() -> Circumstances {
        Circumstances {
            now: at(200),
            at: at(200),
            token: None,
            network: None,
        }
    }

    #[test]
    fn a_request_is_judged_as_the_layer_does() {
        use TokenState::{Invalid, Retired, Valid};
        let without_ttl = || Stored {
            expires: None,
            ..session()
        };
        let rotated = |secs| Stored {
            retired_until: Some(at(secs)),
            ..session()
        };
        let with = |token| Circumstances {
            token: Some(token),
            ..request()
        };
        let when = |secs| Circumstances {
            at: at(secs),
            ..request()
        };
        for (name, session, request, expected) in [
            ("used", session(), request(), Reason::Accepted),
            (
                "before its creation",
                Stored {
                    created: at(300),
                    ..session()
                },
                request(),
                Reason::NotCreatedYet,
            ),
            (
                "just before the idle timeout",
                session(),
                when(1_999),
                Reason::Accepted,
            ),
            ("idle", session(), when(2_000), Reason::IdleTimeout),
            (
                "both timeouts",
                session(),
                when(5_000),
                Reason::AbsoluteTimeout,
            ),
            (
                "past the deadline without a time to live",
                without_ttl(),
                when(5_000),
                Reason::AbsoluteTimeout,
            ),
            (
                "without a time to live",
                without_ttl(),
                when(4_999),
                Reason::Accepted,
            ),
            ("the right cookie", session(), with(Valid), Reason::Accepted),
            (
                "another secret",
                session(),
                with(Invalid),
                Reason::WrongSecret,
            ),
            (
                "replaced a moment ago",
                rotated(205),
                with(Retired),
                Reason::Retired,
            ),
            (
                "replaced a while ago",
                rotated(200),
                with(Retired),
                Reason::WrongSecret,
            ),
            (
                "replaced, with the new cookie",
                rotated(205),
                with(Valid),
                Reason::Accepted,
            ),
        ] {
            assert_eq!(judge(&session, &request).reason, expected, "{name}");
        }
    }

    fn from(fingerprint: Fingerprint, is_admitted: bool) -> Circumstances {
        let network = Some(Network {
            fingerprint,
            is_admitted,
        });
        Circumstances {
            network,
            ..request()
        }
    }

    #[test]
    fn the_network_counts_under_strict_only_and_after_the_secret() {
        let hidden = from(Fingerprint::Unknown, false);
        assert_eq!(judge(&session(), &hidden).reason, Reason::OtherNetwork);
        let wrong = Circumstances {
            token: Some(TokenState::Invalid),
            ..hidden
        };
        assert_eq!(judge(&session(), &wrong).reason, Reason::WrongSecret);
        let matching = judge(&session(), &from(Fingerprint::Match, true));
        assert_eq!(matching.reason, Reason::Accepted);
        assert!(matching.details[0].contains("in the session's network"));
    }

    #[test]
    fn an_accepted_session_says_when_it_ends_and_a_rotated_one_what_became_of_the_old_cookie() {
        let verdict = judge(&session(), &request());
        assert!(verdict.explanation.contains("mia is signed in"));
        assert!(
            verdict.details[0].contains("unless it is used"),
            "{verdict:?}"
        );
        assert!(verdict.details[1].contains("--token-stdin"), "{verdict:?}");
        for (until, part) in [(205, "gets 409"), (150, "nobody's since")] {
            let rotated = Stored {
                retired_until: Some(at(until)),
                ..session()
            };
            let verdict = judge(&rotated, &request());
            assert!(verdict.details[1].contains(part), "{verdict:?}");
        }
    }
}
