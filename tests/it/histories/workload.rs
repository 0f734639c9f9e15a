//! The workload: which requests browsers send, and what the responses mean.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::RngExt as _;
use rand::rngs::StdRng;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::checker::SET;
use super::history::{Ending, Fields, Page, Seen, What};
use crate::support::ledger::{Bank, START};

/// The number of writes to one register before the next one, so that old and new values often meet and there are many
/// keys.
const WRITES_PER_KEY: usize = 30;

/// The limit of flash messages. The session drops the oldest one above it.
const MESSAGES_MOST: usize = 40;

/// The routes that log out, and whether their answers name the session's owner.
pub const LOGOUTS: &[(&str, bool)] = &[("logout", true), ("sign-out", false)];

/// The start of the default body of a response to a partly committed request.
const PARTLY: &str = "A part of this was done and the rest was not.";

/// The state of one session's workload.
#[derive(Default)]
pub struct Workload {
    writes: AtomicUsize,
    messages: AtomicUsize,
    offered: Mutex<Vec<String>>,
}

impl Workload {
    /// Chooses the next request. `name` is unique.
    pub fn choose(&self, rng: &mut StdRng, name: String) -> What {
        match rng.random_range(0..122) {
            0..14 => What::Count,
            14..22 => What::Number,
            22..32 => {
                let at = self.writes.fetch_add(1, Ordering::Relaxed) / WRITES_PER_KEY * 2;
                let key = format!("reg:{}", at + rng.random_range(0..2));
                What::Write { key, value: name }
            }
            32..40 => What::Add { item: name },
            40..48 => What::Push { item: name },
            48..54 => {
                let quantity = rng.random_range(1..10);
                What::Line {
                    item: name,
                    quantity,
                }
            }
            54..60 => What::Pair { value: name },
            60..66 => match self.messages.fetch_add(1, Ordering::Relaxed) {
                ..MESSAGES_MOST => What::Say { text: name },
                _ => What::Show,
            },
            66..71 => What::Show,
            71..75 => {
                let key = format!("token:{name}");
                self.offered.lock().unwrap().push(key.clone());
                What::Offer { key, token: name }
            }
            75..81 => {
                // One of the latest tokens, so that several requests compete for it.
                let offered = self.offered.lock().unwrap();
                let back = rng.random_range(1..=2_usize).min(offered.len());
                match offered.get(offered.len() - back) {
                    Some(key) => What::Take { key: key.clone() },
                    None => What::Look,
                }
            }
            81 => What::Rotate,
            82..85 => What::Login,
            85..93 => What::Form {
                value: name,
                changes: [Fields::First, Fields::Second, Fields::Both][rng.random_range(0..3)],
            },
            93..101 => What::Move {
                name,
                from: rng.random_range(0..2),
                amount: rng.random_range(1..START),
            },
            101..105 => What::Early {
                item: name,
                refuse: rng.random_bool(0.3),
            },
            _ => What::Look,
        }
    }
}

/// A logout by a random route.
pub fn logout(rng: &mut StdRng) -> What {
    let (route, _) = LOGOUTS[rng.random_range(0..LOGOUTS.len())];
    What::Logout { route }
}

/// The path and query of a request. `tag` is the session's owner. The handler waits for `slow` milliseconds with the
/// session loaded.
pub fn path(what: &What, tag: &str, user: &str, slow: u64) -> String {
    let (route, query) = match what {
        What::Open => ("open", format!("value={tag}")),
        What::Login => ("login", format!("value={user}")),
        What::Everywhere | What::Others { .. } => (what.kind(), format!("value={user}")),
        What::End { handle } => ("end", format!("value={user}&key={handle}")),
        What::List { user } => ("list", format!("value={user}")),
        What::Write { key, value } => ("write", format!("key={key}&value={value}")),
        What::Add { item } => ("write", format!("key={SET}{item}&value={item}")),
        What::Offer { key, token } => ("write", format!("key={key}&value={token}")),
        What::Push { item } => ("push", format!("value={item}")),
        What::Line { item, quantity } => ("line", format!("value={item}&quantity={quantity}")),
        What::Pair { value } => ("pair", format!("value={value}")),
        What::Say { text } => ("say", format!("value={text}")),
        What::Take { key } => ("take", format!("key={key}")),
        What::Form { value, changes } => {
            let fields = match changes {
                Fields::First => "0",
                Fields::Second => "1",
                Fields::Both => "01",
            };
            ("form", format!("key={fields}&value={value}"))
        }
        What::Move { name, from, amount } => {
            ("move", format!("key={from}&value={name}&quantity={amount}"))
        }
        What::Early { item, refuse } => {
            let refuse = if *refuse { "&key=refuse" } else { "" };
            ("early", format!("value={item}&quantity={slow}{refuse}"))
        }
        // A principal that never signed in to the session.
        What::Rival => ("login", format!("value=rival-of-{tag}")),
        What::Count
        | What::Number
        | What::Show
        | What::Look
        | What::Inspect
        | What::Rotate
        | What::Logout { .. } => (what.kind(), String::new()),
    };
    format!("/ledger/{route}?{query}&slow={slow}")
}

/// A complete response.
pub struct Reply<'a> {
    pub status: StatusCode,
    pub retry_after: bool,
    /// Whether it removes the cookie.
    pub removes: bool,
    pub text: &'a str,
}

/// The outcome that a response reports.
pub fn classify(what: &What, reply: &Reply<'_>) -> Ending {
    let Reply { status, text, .. } = *reply;
    match status {
        _ if status.is_success() => match read(what, text) {
            Some(ending) => ending,
            None => Ending::Wrong(format!("{status} and {text:?}")),
        },
        StatusCode::CONFLICT => Ending::NotDone("409"),
        // No other change is applied then, but the deletion may be, or is retried.
        // Some sessions may have ended then, too.
        StatusCode::SERVICE_UNAVAILABLE
            if reply.retry_after && !what.is_logout() && !what.is_of_user() =>
        {
            Ending::NotDone("503 with Retry-After")
        }
        StatusCode::SERVICE_UNAVAILABLE if reply.removes && what.is_logout() => Ending::Later,
        StatusCode::SERVICE_UNAVAILABLE => Ending::Unknown("503"),
        StatusCode::INTERNAL_SERVER_ERROR
            if matches!(what, What::Early { .. }) && text.starts_with(PARTLY) =>
        {
            Ending::Partly
        }
        _ => Ending::Wrong(format!("{status}: {text:?}")),
    }
}

#[derive(Deserialize)]
struct Body {
    owner: Option<String>,
    seen: Value,
}

fn read(what: &What, text: &str) -> Option<Ending> {
    let Body { owner, seen } = serde_json::from_str(text).ok()?;
    let seen = match what {
        What::Open => Seen::Page(Page::default()),
        What::Number => Seen::Number(seen.as_i64()?),
        What::Show => Seen::Texts(serde_json::from_value(seen).ok()?),
        What::Take { .. } => Seen::Taken(serde_json::from_value(seen).ok()?),
        What::Look => Seen::Page(Page {
            data: serde_json::from_value(seen.get("data")?.clone()).ok()?,
            flashes: serde_json::from_value(seen.get("flashes")?.clone()).ok()?,
            principal: serde_json::from_value(seen.get("principal")?.clone()).ok()?,
        }),
        What::Form { .. } => Seen::Form(serde_json::from_value(seen).ok()?),
        What::Move { .. } => moved(&seen)?,
        What::Login => Seen::Begun(seen.as_u64()?),
        What::Everywhere | What::End { .. } => Seen::Ended(seen.as_u64()?),
        What::Others { .. } => seen.as_u64().map_or(Seen::Nothing, Seen::Ended),
        What::List { .. } => Seen::Handles(serde_json::from_value(seen).ok()?),
        _ => Seen::Nothing,
    };
    Some(Ending::Done { owner, seen })
}

fn moved(seen: &Value) -> Option<Seen> {
    let bank = |name| serde_json::from_value::<Bank>(seen.get(name)?.clone()).ok();
    match bank("aborted") {
        Some(aborted) => Some(Seen::Aborted(aborted)),
        None => Some(Seen::Moved(bank("before")?, bank("after")?)),
    }
}

/// The contents of a record in Redis.
pub fn stored(record: &Value) -> Option<Page> {
    let flash = record.get("flash").and_then(Value::as_array);
    let text = |flash: &Value| Some(flash.get("text")?.as_str()?.to_owned());
    Some(Page {
        data: serde_json::from_value(record.get("data")?.clone()).ok()?,
        flashes: flash.into_iter().flatten().filter_map(text).collect(),
        principal: record
            .get("principal")
            .and_then(Value::as_str)
            .map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_classified_as_documented() {
        let ok = |owner: &str, seen: Seen| Ending::Done {
            owner: Some(owner.into()),
            seen,
        };
        let refused = || Ending::NotDone("503 with Retry-After");
        let maybe = || Ending::Unknown("503");
        let reply = |status: u16, text| Reply {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: false,
            removes: false,
            text,
        };
        let down = |retry_after, removes| Reply {
            retry_after,
            removes,
            ..reply(503, "")
        };
        let logout = || What::Logout { route: "logout" };
        let early = || What::Early {
            item: "s1.1".into(),
            refuse: false,
        };
        let (nothing, seven) = (
            r#"{"owner":"s1","seen":null}"#,
            r#"{"owner":"s1","seen":7}"#,
        );
        for (what, reply, expected) in [
            (What::Count, reply(200, nothing), ok("s1", Seen::Nothing)),
            (What::Number, reply(200, seven), ok("s1", Seen::Number(7))),
            (What::Count, reply(409, ""), Ending::NotDone("409")),
            (What::Count, down(true, false), refused()),
            (What::Login, down(true, false), refused()),
            (early(), down(true, false), refused()),
            (What::Everywhere, down(true, false), maybe()),
            (
                What::Everywhere,
                reply(200, seven),
                ok("s1", Seen::Ended(7)),
            ),
            (What::Login, reply(200, seven), ok("s1", Seen::Begun(7))),
            (What::Count, down(false, false), maybe()),
            // Without and with the handler's own error.
            (logout(), down(true, false), maybe()),
            (logout(), down(true, true), Ending::Later),
            (logout(), down(false, true), Ending::Later),
            (
                early(),
                reply(500, "A part of this was done and the rest was not. Look"),
                Ending::Partly,
            ),
        ] {
            assert_eq!(classify(&what, &reply), expected, "{what:?}");
        }
        let half = "A part of this was done and the rest was not.";
        for (what, status, text) in [
            (early(), 500, ""),
            (What::Count, 500, half),
            (What::Number, 404, ""),
            (What::Number, 200, "{"),
            (What::Number, 200, r#"{"owner":"s1"}"#),
        ] {
            let ending = classify(&what, &reply(status, text));
            assert!(matches!(ending, Ending::Wrong(_)), "{what:?} {status}");
        }
    }
}
