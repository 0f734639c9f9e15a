//! Routes that do one thing each and say whose session they did it to, so that every answer can be checked afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::{Query, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sessile::{Logout, Session, SessionError, TransactionError};

type Answer = Result<Json<Value>, SessionError>;

/// The fields of the form.
pub const FORM: [&str; 2] = ["form.first", "form.second"];

/// What is in each account before anything is moved.
pub const START: i64 = 20;

/// The keys of two accounts.
const ACCOUNTS: [&str; 2] = ["account:0", "account:1"];

/// The key of what was moved last.
const LAST: &str = "account:last";

/// What the keys begin with of what is committed before the end of a request.
pub const EARLY: &str = "early:";

/// What the keys begin with of what is committed at its end.
pub const LATE: &str = "late:";

/// Whose end was the last: the key of a name.
pub const GUARD: &str = "guard";

/// Two accounts, and the name of what was moved last between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bank {
    pub balances: [i64; 2],
    pub last: Option<String>,
}

impl Bank {
    /// Read from a session, or from a look at one.
    pub fn of<'a>(value: impl Fn(&str) -> Option<&'a Value>) -> Self {
        let balance = |key| value(key).map_or(Some(START), Value::as_i64);
        Self {
            balances: ACCOUNTS.map(|key| balance(key).unwrap_or(i64::MIN)),
            last: value(LAST).and_then(Value::as_str).map(str::to_owned),
        }
    }

    /// After an amount was moved; `None` if there is not as much.
    fn moved(&self, from: usize, amount: i64, name: &str) -> Option<Self> {
        let mut balances = self.balances;
        balances[from] -= amount;
        balances[1 - from] += amount;
        (balances[from] >= 0).then(|| Self {
            balances,
            last: Some(name.to_owned()),
        })
    }
}

/// Why nothing was moved.
enum NotMoved {
    TooLittle(Bank),
    Failed(SessionError),
}

impl From<SessionError> for NotMoved {
    fn from(error: SessionError) -> Self {
        Self::Failed(error)
    }
}

/// What is to be done: to which key, with which value.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    quantity: u64,
}

pub fn routes() -> Router {
    let routes = Router::new()
        .route("/open", get(open))
        .route("/count", get(count))
        .route("/number", get(number))
        .route("/write", get(write))
        .route("/push", get(push))
        .route("/line", get(line))
        .route("/pair", get(pair))
        .route("/say", get(say))
        .route("/show", get(show))
        .route("/take", get(take))
        .route("/look", get(look))
        .route("/form", get(form))
        .route("/move", get(transfer))
        .route("/early", get(early))
        .route("/rotate", get(rotate))
        .route("/login", get(login))
        .route("/logout", get(logout))
        .route("/sign-out", get(sign_out));
    Router::new().nest("/ledger", routes.layer(from_fn(dawdle)))
}

/// Waits with the session loaded, if asked to, so that others may be faster.
async fn dawdle(request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let slow = query.split('&').find_map(|part| part.strip_prefix("slow="));
    if let Some(millis) = slow.and_then(|millis| millis.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    next.run(request).await
}

/// Whose session it is; nobody's if it is a new one.
fn owner(session: &Session) -> Result<Option<String>, SessionError> {
    session.get("owner")
}

fn answer(owner: impl Into<Value>, seen: impl Into<Value>) -> Answer {
    Ok(Json(json!({ "owner": owner.into(), "seen": seen.into() })))
}

async fn open(session: Session, Query(entry): Query<Entry>) -> Answer {
    session.insert("owner", &entry.value)?;
    answer(Some(entry.value), Value::Null)
}

async fn count(session: Session) -> Answer {
    let owner = owner(&session)?;
    session.increment("count", 1)?;
    answer(owner, Value::Null)
}

async fn number(session: Session) -> Answer {
    let owner = owner(&session)?;
    let number = session.increment_now("number", 1).await?;
    answer(owner, number)
}

async fn write(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.insert(entry.key.as_str(), &entry.value)?;
    answer(owner, Value::Null)
}

async fn push(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.push("list", &entry.value)?;
    answer(owner, Value::Null)
}

async fn line(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.update("cart", move |cart: &mut BTreeMap<String, u64>| {
        *cart.entry(entry.value.clone()).or_default() += entry.quantity;
    })?;
    answer(owner, Value::Null)
}

async fn pair(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.insert("pair.left", &entry.value)?;
    session.insert("pair.right", &entry.value)?;
    answer(owner, Value::Null)
}

async fn say(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.flash_info(entry.value)?;
    answer(owner, Value::Null)
}

async fn show(session: Session) -> Answer {
    let owner = owner(&session)?;
    let shown = session.take_flashes().await?;
    let texts: Vec<String> = shown.into_iter().map(|flash| flash.text).collect();
    answer(owner, texts)
}

async fn take(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    let token: Option<String> = session.take(entry.key.as_str()).await?;
    answer(owner, token)
}

/// Everything at one moment: the session shows what was loaded.
async fn look(session: Session) -> Answer {
    let owner = owner(&session)?;
    let mut data = BTreeMap::new();
    for key in session.keys() {
        let value: Option<Value> = session.get(key.as_str())?;
        data.insert(key, value);
    }
    let flashes: Vec<String> = session
        .peek_flashes()
        .into_iter()
        .map(|flash| flash.text)
        .collect();
    let principal = session.principal();
    answer(
        owner,
        json!({ "data": data, "flashes": flashes, "principal": principal }),
    )
}

/// Both fields are saved; one that the request does not change, as it was loaded.
async fn form(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    let mut loaded = Vec::new();
    for (at, field) in FORM.into_iter().enumerate() {
        let value = session.get::<Option<String>>(field)?.flatten();
        let changes = entry.key.contains(&at.to_string());
        let saved = if changes {
            Some(&entry.value)
        } else {
            value.as_ref()
        };
        session.insert(field, saved)?;
        loaded.push(value);
    }
    answer(owner, json!(loaded))
}

async fn transfer(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    let from = usize::from(entry.key == "1");
    let amount = i64::try_from(entry.quantity).unwrap_or(i64::MAX);
    let moved = session.transaction(move |data| {
        let mut values = BTreeMap::new();
        for key in ACCOUNTS.into_iter().chain([LAST]) {
            values.extend(data.get::<Value>(key)?.map(|value| (key, value)));
        }
        let before = Bank::of(|key| values.get(key));
        let Some(after) = before.moved(from, amount, &entry.value) else {
            return Err(NotMoved::TooLittle(before));
        };
        for (key, balance) in ACCOUNTS.into_iter().zip(after.balances) {
            data.insert(key, balance)?;
        }
        data.insert(LAST, &after.last)?;
        Ok((before, after))
    });
    match moved.await {
        Ok((before, after)) => answer(owner, json!({ "before": before, "after": after })),
        Err(TransactionError::Aborted(NotMoved::TooLittle(bank))) => {
            answer(owner, json!({ "aborted": bank }))
        }
        Err(TransactionError::Aborted(NotMoved::Failed(error))) => Err(error),
        Err(TransactionError::Session(error)) => Err(error),
        Err(_) => Err(SessionError::Aborted),
    }
}

/// Commits one thing, waits if asked to, and goes on; the rest is refused if another request has done the same meanwhile.
async fn early(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    if owner.is_none() {
        // What is half done is answered without saying whose session it is.
        return answer(owner, Value::Null);
    }
    let guard: Option<String> = session.get(GUARD)?;
    session.insert(format!("{EARLY}{}", entry.value).as_str(), &entry.value)?;
    session.save().await?;
    tokio::time::sleep(Duration::from_millis(entry.quantity)).await;
    session.insert(format!("{LATE}{}", entry.value).as_str(), &entry.value)?;
    if entry.key == "refuse" {
        return Err(SessionError::Aborted);
    }
    let pass = move |present: Option<String>| (present == guard).then(|| entry.value.clone());
    session.try_update(GUARD, pass)?;
    answer(owner, Value::Null)
}

async fn rotate(session: Session) -> Answer {
    let owner = owner(&session)?;
    session.cycle_id()?;
    answer(owner, Value::Null)
}

async fn login(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    session.set_principal(entry.value).await?;
    answer(owner, Value::Null)
}

async fn sign_out(logout: Logout) -> Answer {
    logout.end_session();
    answer(Value::Null, Value::Null)
}

async fn logout(session: Session) -> Answer {
    let owner = owner(&session)?;
    session.destroy();
    answer(owner, Value::Null)
}
