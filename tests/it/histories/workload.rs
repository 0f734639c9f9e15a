//! What browsers ask for, how it is asked, and what the answers mean.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::RngExt as _;
use rand::rngs::StdRng;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::checker::SET;
use super::history::{Ending, Page, Seen, What};

/// Writes to one register before the next key is taken, so that old and new values meet often and keys are many.
const WRITES_PER_KEY: usize = 30;

/// More are dropped from the session by themselves.
const MESSAGES_MOST: usize = 40;

/// What was asked for in one session so far.
#[derive(Default)]
pub struct Workload {
    writes: AtomicUsize,
    messages: AtomicUsize,
    offered: Mutex<Vec<String>>,
}

impl Workload {
    /// What is asked for next. `name` is a word that nobody else writes.
    pub fn choose(&self, dice: &mut StdRng, name: String) -> What {
        match dice.random_range(0..100) {
            0..14 => What::Count,
            14..22 => What::Number,
            22..32 => {
                let at = self.writes.fetch_add(1, Ordering::Relaxed) / WRITES_PER_KEY * 2;
                let key = format!("reg:{}", at + dice.random_range(0..2));
                What::Write { key, value: name }
            }
            32..40 => What::Add { item: name },
            40..48 => What::Push { item: name },
            48..54 => {
                let quantity = dice.random_range(1..10);
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
                // One of the last, so that several ask for the same.
                let offered = self.offered.lock().unwrap();
                let back = dice.random_range(1..=2_usize).min(offered.len());
                match offered.get(offered.len() - back) {
                    Some(key) => What::Take { key: key.clone() },
                    None => What::Look,
                }
            }
            81 => What::Rotate,
            82 => What::Login,
            _ => What::Look,
        }
    }
}

/// The request for it; `tag` is the owner of the session. The handler is to wait for some milliseconds with the session
/// loaded.
pub fn path(what: &What, tag: &str, slow: u64) -> String {
    let (route, query) = match what {
        What::Open | What::Login => (what.kind(), format!("value={tag}")),
        What::Write { key, value } => ("write", format!("key={key}&value={value}")),
        What::Add { item } => ("write", format!("key={SET}{item}&value={item}")),
        What::Offer { key, token } => ("write", format!("key={key}&value={token}")),
        What::Push { item } => ("push", format!("value={item}")),
        What::Line { item, quantity } => ("line", format!("value={item}&quantity={quantity}")),
        What::Pair { value } => ("pair", format!("value={value}")),
        What::Say { text } => ("say", format!("value={text}")),
        What::Take { key } => ("take", format!("key={key}")),
        What::Count
        | What::Number
        | What::Show
        | What::Look
        | What::Inspect
        | What::Rotate
        | What::Logout => (what.kind(), String::new()),
    };
    format!("/ledger/{route}?{query}&slow={slow}")
}

/// What a complete answer says of what has happened.
pub fn judge(what: &What, status: StatusCode, retry_after: bool, text: &str) -> Ending {
    match status {
        _ if status.is_success() => match read(what, text) {
            Some(ending) => ending,
            None => Ending::Wrong(format!("{status} and {text:?}")),
        },
        StatusCode::CONFLICT => Ending::NotDone("409"),
        // Every other change is not done then, but a deletion may be, or is done later.
        StatusCode::SERVICE_UNAVAILABLE if retry_after && *what != What::Logout => {
            Ending::NotDone("503 with Retry-After")
        }
        StatusCode::SERVICE_UNAVAILABLE => Ending::Unknown("503"),
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
        _ => Seen::Nothing,
    };
    Some(Ending::Done { owner, seen })
}

/// A record as Redis keeps it.
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
    fn answers_mean_what_the_crate_documents() {
        let ok = |owner: &str, seen: Seen| Ending::Done {
            owner: Some(owner.into()),
            seen,
        };
        let (refused, maybe) = (
            Ending::NotDone("503 with Retry-After"),
            Ending::Unknown("503"),
        );
        for (what, status, retry, text, expected) in [
            (
                What::Count,
                200,
                false,
                r#"{"owner":"s1","seen":null}"#,
                ok("s1", Seen::Nothing),
            ),
            (
                What::Number,
                200,
                false,
                r#"{"owner":"s1","seen":7}"#,
                ok("s1", Seen::Number(7)),
            ),
            (What::Count, 409, false, "", Ending::NotDone("409")),
            (What::Count, 503, true, "", refused.clone()),
            (What::Login, 503, true, "", refused),
            (What::Count, 503, false, "", maybe.clone()),
            (What::Logout, 503, true, "", maybe),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                judge(&what, status, retry, text),
                expected,
                "{what:?} {status}"
            );
        }
        for (status, text) in [(500, ""), (404, ""), (200, "{"), (200, r#"{"owner":"s1"}"#)] {
            let status = StatusCode::from_u16(status).unwrap();
            assert!(matches!(
                judge(&What::Number, status, false, text),
                Ending::Wrong(_)
            ));
        }
    }
}
