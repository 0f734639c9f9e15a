//! Routes that each make one call and answer with the session's owner, so that the checker of the histories can verify
//! every response.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sessile::{Handle, Logout, Session, SessionError, Sessions, TransactionError};

type Answer = Result<Json<Value>, SessionError>;

/// The fields of the form.
pub const FORM: [&str; 2] = ["form.first", "form.second"];

/// The initial balance of each account.
pub const START: i64 = 20;

/// The keys of two accounts.
const ACCOUNTS: [&str; 2] = ["account:0", "account:1"];

/// The key of the last transaction's name.
const LAST: &str = "account:last";

/// The prefix of keys that a request commits early.
pub const EARLY: &str = "early:";

/// The prefix of keys that a request commits at its end.
pub const LATE: &str = "late:";

/// The key of the name of the request that committed last.
pub const GUARD: &str = "guard";

/// Two accounts, and the name of the last transaction between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bank {
    pub balances: [i64; 2],
    pub last: Option<String>,
}

impl Bank {
    /// Reads the accounts from a session or from a stored record.
    pub fn of<'a>(value: impl Fn(&str) -> Option<&'a Value>) -> Self {
        let balance = |key| value(key).map_or(Some(START), Value::as_i64);
        Self {
            balances: ACCOUNTS.map(|key| balance(key).unwrap_or(i64::MIN)),
            last: value(LAST).and_then(Value::as_str).map(str::to_owned),
        }
    }

    /// The accounts after a transfer. `None` if the balance does not suffice.
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

/// The reason why a transfer failed.
enum NotMoved {
    TooLittle(Bank),
    Failed(SessionError),
}

impl From<SessionError> for NotMoved {
    fn from(error: SessionError) -> Self {
        Self::Failed(error)
    }
}

/// The parameters of a request.
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
        .route("/sign-out", get(sign_out))
        .route("/everywhere", get(everywhere))
        .route("/others", get(others))
        .route("/end", get(end))
        .route("/list", get(list));
    Router::new().nest("/ledger", routes.layer(from_fn(delay)))
}

/// Microseconds by a clock that all processes of the machine share, and that nobody sets.
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    let micros = Duration::from(now).as_micros();
    micros.try_into().expect("less than an eternity")
}

/// A moment at which the layer had the request, by [`monotonic`].
#[derive(Clone, Copy)]
struct Begun(u64);

/// Waits for `slow` milliseconds with the session loaded, so that others can be faster.
async fn delay(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Begun(monotonic()));
    let query = request.uri().query().unwrap_or_default();
    let slow = query.split('&').find_map(|part| part.strip_prefix("slow="));
    if let Some(millis) = slow.and_then(|millis| millis.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    next.run(request).await
}

/// The owner of the session. `None` if the session is new.
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

/// Everything at one moment, since a session shows the record that was loaded.
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

/// Saves both fields: the changed one, and the other as it was loaded.
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

/// Makes an early commit, waits if asked to, and continues. The final commit is rejected if another request has made
/// one meanwhile.
async fn early(session: Session, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    if owner.is_none() {
        // The response to a partial commit does not name the owner.
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

/// Signs in; with the key `exact`, by what [`Sessions::sign_in`] returned.
async fn login(
    session: Session,
    sessions: Sessions,
    Extension(Begun(begun)): Extension<Begun>,
    Query(entry): Query<Entry>,
) -> Answer {
    let owner = owner(&session)?;
    let sign_in = match entry.key.as_str() {
        "exact" => sessions.sign_in(&entry.value).await?,
        _ => entry.value.into(),
    };
    session.set_principal(sign_in).await?;
    answer(owner, begun)
}

/// Ends all sessions of a user.
async fn everywhere(session: Session, sessions: Sessions, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    let ended = sessions.destroy_all(&entry.value).await?;
    answer(owner, ended)
}

/// Ends all other sessions of the user who is signed in, if one is.
async fn others(session: Session, sessions: Sessions) -> Answer {
    let owner = owner(&session)?;
    let (Some(user), Some(here)) = (session.principal(), session.handle()) else {
        return answer(owner, Value::Null);
    };
    let ended = sessions.destroy_others(&user, here).await?;
    answer(owner, ended)
}

/// Ends one session of a user.
async fn end(session: Session, sessions: Sessions, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    let handle: Handle = entry.key.parse().expect("a handle");
    let has_ended = sessions.destroy(&entry.value, handle).await?;
    answer(owner, u64::from(has_ended))
}

/// The handles of a user's sessions.
async fn list(session: Session, sessions: Sessions, Query(entry): Query<Entry>) -> Answer {
    let owner = owner(&session)?;
    let list = sessions.of(&entry.value).await?;
    let handles: Vec<String> = list.iter().map(|it| it.handle().to_string()).collect();
    answer(owner, handles)
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
