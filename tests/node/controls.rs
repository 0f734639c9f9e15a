//! Stores with deliberate faults, as session libraries have them. The checker of the histories must detect each of
//! them.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use axum::extract::Request;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::{Map, Value};
use sessile::store::{
    Admission, Capabilities, Confirmed, Created, Deleted, Durability, Entered, Entry, Freshness,
    Generation, IndexKey, Indexed, Leased, Loaded, Owner, Renewal, Replaced, StoreErrorKind,
    Stored, Touched, Write,
};
use sessile::{Handle, SessionStore, StoreError};

/// The fault of a store, or of the layer.
#[derive(Clone, Copy, Debug)]
pub enum Control {
    /// It overwrites concurrent commits.
    LastWriteWins,
    /// It stores sessions again that have ended.
    Revives,
    /// It resends a commit whose answer was lost without checking whether it was applied.
    ResendsBlindly,
    /// It writes only the fields that the request has changed.
    Patches,
    /// Of several changed fields, it writes only the first.
    Halves,
    /// It records every commit after a login as that login.
    KeepsLogins,
    /// It never retries a failed deletion, although it claims to.
    ForgetsDeletions,
    /// No session ever enters an index, although the store claims so.
    ForgetsEntries,
    /// A sign-out everywhere begins no generation.
    KeepsGenerations,
    /// It confirms every sign-in, after a time in which it can be overtaken.
    ConfirmsAll,
    /// Not a fault of the store: the route that signs out all others signs out its own session, too.
    KeepsNone,
    /// Not a fault of the store: the list of one user is that of another one.
    ConfusesUsers,
    /// Not a fault of the store: the response to a partial commit claims that nothing was committed.
    HidesHalves,
}

impl Control {
    pub fn named(name: &str) -> Self {
        match name {
            "last_write_wins" => Self::LastWriteWins,
            "revives" => Self::Revives,
            "resends_blindly" => Self::ResendsBlindly,
            "patches" => Self::Patches,
            "halves" => Self::Halves,
            "keeps_logins" => Self::KeepsLogins,
            "forgets_deletions" => Self::ForgetsDeletions,
            "forgets_entries" => Self::ForgetsEntries,
            "keeps_generations" => Self::KeepsGenerations,
            "confirms_all" => Self::ConfirmsAll,
            "keeps_none" => Self::KeepsNone,
            "confuses_users" => Self::ConfusesUsers,
            "hides_halves" => Self::HidesHalves,
            _ => panic!("NODE_CONTROL = {name}: see tests/node/controls.rs"),
        }
    }

    /// Applies the fault of the application to a request.
    pub fn redirect(self, mut request: Request) -> Request {
        let uri = request.uri().to_string();
        let new = match self {
            Self::KeepsNone => uri.replace("/others?", "/everywhere?"),
            Self::ConfusesUsers => uri.replace("/list?value=u0", "/list?value=u1"),
            _ => return request,
        };
        *request.uri_mut() = new.parse::<Uri>().expect("an address");
        request
    }

    /// Applies the fault of the layer to a response.
    pub fn distort(self, mut response: Response) -> Response {
        let half = response.status() == StatusCode::INTERNAL_SERVER_ERROR;
        if half && matches!(self, Self::HidesHalves) {
            *response.status_mut() = StatusCode::CONFLICT;
        }
        response
    }
}

pub struct Broken<S> {
    store: S,
    control: Control,
    failed_deletions: Mutex<HashSet<Handle>>,
}

/// Splits a record into the part before its data, and the data. Every record of the application ends with the data.
fn parts(record: &[u8]) -> (String, Map<String, Value>) {
    let text = String::from_utf8_lossy(record);
    let (head, data) = text.split_once(DATA).expect("a record");
    let data = data.strip_suffix('}').expect("its end");
    (
        head.to_owned(),
        serde_json::from_str(data).expect("its data"),
    )
}

const DATA: &str = ",\"data\":";

fn whole(head: &str, data: &Map<String, Value>) -> bytes::Bytes {
    let data = serde_json::to_string(data).expect("a map");
    format!("{head}{DATA}{data}}}").into()
}

/// The keys whose values a commit changes.
fn changed(base: &Map<String, Value>, new: &Map<String, Value>) -> Vec<String> {
    let mut keys: Vec<String> = base.keys().chain(new.keys()).cloned().collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| base.get(key) != new.get(key));
    keys
}

/// Copies the values of these keys from `from` to `to`.
fn copy(keys: &[String], from: &Map<String, Value>, to: &mut Map<String, Value>) {
    for key in keys {
        match from.get(key) {
            Some(value) => to.insert(key.clone(), value.clone()),
            None => to.remove(key),
        };
    }
}

/// The stored record with the changes of a commit.
fn patched(base: &Stored, new: &[u8], present: &Stored) -> bytes::Bytes {
    let ((_, base), (head, new)) = (parts(base.value()), parts(new));
    let (_, mut data) = parts(present.value());
    copy(&changed(&base, &new), &new, &mut data);
    whole(&head, &data)
}

/// The base with the first change of a commit.
fn halved(base: &Stored, new: &[u8]) -> bytes::Bytes {
    let ((_, base), (head, new)) = (parts(base.value()), parts(new));
    let mut data = base.clone();
    let keys = changed(&base, &new);
    copy(&keys[..keys.len().min(1)], &new, &mut data);
    whole(&head, &data)
}

/// The commit with the login of its base, as if it were that login.
fn with_login(base: &Stored, new: &bytes::Bytes) -> bytes::Bytes {
    const LOGIN: &str = ",\"login\":{";
    let [base, new_text] = [base.value(), new].map(|record| String::from_utf8_lossy(record));
    let login = base
        .split_once(LOGIN)
        .and_then(|(_, rest)| rest.split_once('}'));
    let retired = login.and_then(|(login, _)| login.split_once("\"retired\":"));
    let (Some((_, retired)), None) = (retired, new_text.find(LOGIN)) else {
        return new.clone();
    };
    let (head, rest) = new_text.split_once(",\"created\":").expect("a record");
    let version = &new_text[..Stored::VERSION_LEN];
    let login = format!("{LOGIN}{},\"retired\":{retired}}}", &version[1..]);
    format!("{head}{login},\"created\":{rest}").into()
}

impl<S: SessionStore> Broken<S> {
    pub fn new(store: S, control: Control) -> Self {
        Self {
            store,
            control,
            failed_deletions: Mutex::default(),
        }
    }

    /// The stored record, without the ids of its commits.
    async fn forgetful(&self, key: &Handle) -> Result<Replaced, StoreError> {
        let Loaded::Found(stored) = self.store.load(key, Freshness::Latest).await? else {
            return Ok(Replaced::Gone);
        };
        let text = String::from_utf8_lossy(stored.value()).into_owned();
        let (before, rest) = text.split_once("\"applied\":[").expect("a record");
        let (_, after) = rest.split_once(']').expect("a list");
        let value = format!("{before}\"applied\":[]{after}");
        let stored = Stored::new(value, stored.time_left());
        Ok(Replaced::Conflict(stored))
    }
}

impl<S: SessionStore> SessionStore for Broken<S> {
    fn clock_error(&self) -> Option<Duration> {
        self.store.clock_error()
    }

    async fn enter(
        &self,
        index: &IndexKey,
        entry: Entry,
        admission: Admission,
    ) -> Result<Entered, StoreError> {
        match self.control {
            Control::ForgetsEntries => {
                let indexed = self.store.list(index).await?;
                Ok(Entered::Done(indexed.generation))
            }
            Control::ConfirmsAll => {
                let entered = self.store.enter(index, entry, admission).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
                entered
            }
            _ => self.store.enter(index, entry, admission).await,
        }
    }

    async fn confirm(
        &self,
        index: &IndexKey,
        handle: &Handle,
        entered_in: Generation,
    ) -> Result<Confirmed, StoreError> {
        let confirmed = self.store.confirm(index, handle, entered_in).await?;
        Ok(match self.control {
            Control::ForgetsEntries | Control::ConfirmsAll => Confirmed::Done,
            _ => confirmed,
        })
    }

    async fn extend(&self, index: &IndexKey, entry: Entry) -> Result<(), StoreError> {
        self.store.extend(index, entry).await
    }

    async fn list(&self, index: &IndexKey) -> Result<Indexed, StoreError> {
        self.store.list(index).await
    }

    async fn begin_generation(
        &self,
        index: &IndexKey,
        at: SystemTime,
    ) -> Result<Generation, StoreError> {
        match self.control {
            Control::KeepsGenerations => Ok(self.store.list(index).await?.generation),
            _ => self.store.begin_generation(index, at).await,
        }
    }

    async fn leave(&self, index: &IndexKey, entries: &[Entry]) -> Result<(), StoreError> {
        self.store.leave(index, entries).await
    }

    fn namespace(&self) -> &str {
        self.store.namespace()
    }

    fn now(&self) -> SystemTime {
        self.store.now()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    async fn load(&self, key: &Handle, want: Freshness) -> Result<Loaded, StoreError> {
        self.store.load(key, want).await
    }

    async fn create(&self, key: &Handle, write: Write<'_>) -> Result<Created, StoreError> {
        self.store.create(key, write).await
    }

    async fn replace(
        &self,
        key: &Handle,
        expected: &Stored,
        write: Write<'_>,
    ) -> Result<Replaced, StoreError> {
        let again = Write::new(write.value, write.ttl);
        let distorted = match self.control {
            Control::Halves => halved(expected, write.value),
            Control::KeepsLogins => with_login(expected, write.value),
            _ => write.value.clone(),
        };
        let write = Write::new(&distorted, write.ttl);
        match (self.control, self.store.replace(key, expected, write).await) {
            (Control::Patches, Ok(Replaced::Conflict(newer))) => {
                let patched = patched(expected, again.value, &newer);
                let patch = Write::new(&patched, again.ttl);
                self.store.replace(key, &newer, patch).await
            }
            (Control::LastWriteWins, Ok(Replaced::Conflict(newer))) => {
                self.store.replace(key, &newer, again).await
            }
            (Control::Revives, Ok(Replaced::Gone)) => {
                self.store.create(key, again).await.map(|_| Replaced::Done)
            }
            (Control::ResendsBlindly, Err(error)) if error.kind() == StoreErrorKind::Unknown => {
                self.forgetful(key).await
            }
            (_, answer) => answer,
        }
    }

    async fn touch(&self, key: &Handle, renewal: Renewal) -> Result<Touched, StoreError> {
        self.store.touch(key, renewal).await
    }

    async fn delete(&self, key: &Handle, durability: Durability) -> Result<Deleted, StoreError> {
        if matches!(self.control, Control::ForgetsDeletions) {
            let mut failed = self.failed_deletions.lock().expect("no panic");
            return match failed.insert(*key) {
                true => Err(StoreError::refused("not now")),
                false => Ok(Deleted::Done),
            };
        }
        self.store.delete(key, durability).await
    }

    async fn acquire(
        &self,
        key: &Handle,
        owner: Owner,
        lease: Duration,
    ) -> Result<Leased, StoreError> {
        self.store.acquire(key, owner, lease).await
    }

    async fn release(&self, key: &Handle, owner: Owner) -> Result<(), StoreError> {
        self.store.release(key, owner).await
    }
}
