//! Browsers: tabs that share a cookie jar, and send each request to a random node.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{StreamExt as _, stream};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Url;
use reqwest::cookie::{CookieStore as _, Jar};
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER, SET_COOKIE};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::history::{Ending, Life, Moment, Op, Seen, What};
use super::nemesis::Outages;
use super::site::Remains;
use super::workload::{Reply, Workload, classify, logout, path, stored};
use crate::support::ledger::monotonic;

/// The time that a browser waits for an answer, which is longer than any freeze of a node.
const PATIENCE: Duration = Duration::from_secs(5);

/// The rate per thousand of requests that the browser soon gives up, as when a user navigates away.
const HANG_UPS: u32 = 50;

/// The rate per thousand of requests with an old token of the browser.
const OLD_TOKENS: u32 = 30;

/// The rate per thousand of requests whose handler waits with the session loaded.
const SLOW: u32 = 100;

/// The number of a session's requests after the logout, if there is one.
const AFTER_LOGOUT: usize = 8;

/// The number of requests to a session after its browser stopped using it.
const HAUNTINGS: usize = 6;

/// The rate per thousand of logouts just before an outage.
const OUTAGE_LOGOUTS: u32 = 300;

/// The number of retries of a login whose answer was lost.
const LOGINS_AGAIN: usize = 2;

/// The number of sessions that are read concurrently at the end.
const CONCURRENT_READS: usize = 16;

/// The bytes of a token that name the session.
const HANDLE_BYTES: usize = 16;

/// The characters of a token that name the session. The handle is 16 of 32 bytes: 21 characters and a part of the next.
const HANDLE: usize = 21;

/// The amount of load.
#[derive(Clone)]
pub struct Load {
    /// The number of tabs of each browser. The tabs of one browser share a session.
    pub tabs: Vec<usize>,
    /// The number of requests of one session, per tab.
    pub requests: Range<usize>,
    /// The pause of a tab between requests, in milliseconds.
    pub rest: Range<u64>,
    /// The number of users, who share the sessions.
    pub users: u64,
    /// The rate per thousand of requests that list or end the sessions of a user.
    pub of_users: u32,
}

pub struct Run {
    began: Instant,
    end: Instant,
    seed: u64,
    load: Load,
    bases: Vec<String>,
    outages: Arc<Outages>,
    client: reqwest::Client,
    requests: AtomicU64,
    opened: AtomicU64,
    lives: Mutex<Vec<Arc<ActiveSession>>>,
    /// The latest session of each browser.
    latest: Mutex<BTreeMap<usize, Arc<ActiveSession>>>,
    /// Requests that list or end sessions, with the user.
    of_users: Mutex<Vec<(String, Op)>>,
    /// The start of the run, by the clock that the nodes report.
    origin: Moment,
    /// Requests to sessions whose browsers no longer use them.
    revisits: Mutex<JoinSet<()>>,
}

/// A session in use.
struct ActiveSession {
    tag: String,
    user: String,
    jar: Jar,
    /// All tokens of the session, in the order in which the browser got them.
    tokens: Mutex<Vec<String>>,
    ops: Mutex<Vec<Op>>,
    workload: Workload,
    left: AtomicUsize,
    logs_out: bool,
    /// Whether the browser's token was rejected.
    is_over: AtomicBool,
}

/// The sender of a request.
#[derive(Clone, Copy)]
struct Sender {
    browser: usize,
    tab: usize,
}

/// The token of a request: the one in the jar, or an older one by its index.
#[derive(Clone, Copy)]
enum TokenChoice {
    Jar,
    Old(usize),
}

/// The result of a request for the browser.
struct Asked {
    locked_out: bool,
    unknown: bool,
    /// The index of the request's token.
    token: Option<usize>,
}

impl Run {
    pub fn new(
        bases: Vec<String>,
        outages: Arc<Outages>,
        seed: u64,
        load: Load,
        began: Instant,
        end: Instant,
    ) -> Self {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self {
            began,
            end,
            seed,
            load,
            bases,
            outages,
            client: client.build().expect("a client"),
            requests: AtomicU64::new(1),
            opened: AtomicU64::new(1),
            lives: Mutex::default(),
            latest: Mutex::default(),
            of_users: Mutex::default(),
            // At the begin or a little earlier. So a login seems to have begun later than it has, and the checker demands less.
            origin: monotonic() - micros(began.elapsed()),
            revisits: Mutex::default(),
        }
    }

    /// Browses until the end.
    pub async fn browse(self: &Arc<Self>) {
        let mut browsers = JoinSet::new();
        for (browser, tabs) in self.load.tabs.iter().copied().enumerate() {
            let run = Arc::clone(self);
            browsers.spawn(async move {
                let mut rng = run.rng(browser as u64);
                while !run.is_over() {
                    run.run_session(browser, tabs, &mut rng).await;
                }
            });
        }
        while let Some(browsed) = browsers.join_next().await {
            browsed.expect("browsers do not panic");
        }
        let mut revisits = std::mem::take(&mut *self.revisits.lock().unwrap());
        while let Some(revisited) = revisits.join_next().await {
            revisited.expect("requests do not panic");
        }
    }

    /// Reads every session once more with each of its tokens, and then in the store.
    pub async fn finish(&self, remains: impl FnOnce() -> BTreeMap<String, Remains>) -> Vec<Life> {
        let lives = std::mem::take(&mut *self.lives.lock().unwrap());
        stream::iter(lives.iter().enumerate())
            .for_each_concurrent(CONCURRENT_READS, |(at, life)| async move {
                let mut rng = self.rng(u64::MAX - at as u64);
                let tokens = life.tokens.lock().unwrap().len();
                for token in 0..tokens {
                    let (sender, choice) = (Sender { browser: 0, tab: 0 }, TokenChoice::Old(token));
                    self.ask(life, sender, What::Look, choice, PATIENCE, &mut rng)
                        .await;
                }
            })
            .await;
        for user in 0..self.load.users {
            let list = What::List {
                user: format!("u{user}"),
            };
            let operator = ActiveSession::of("operator".to_owned(), format!("u{user}"));
            let (sender, mut rng) = (Sender { browser: 0, tab: 0 }, self.rng(user));
            self.ask(
                &operator,
                sender,
                list,
                TokenChoice::Jar,
                PATIENCE,
                &mut rng,
            )
            .await;
        }
        let of_users = std::mem::take(&mut *self.of_users.lock().unwrap());
        let at = self.now();
        let remains = remains();
        let ended = |session: &Arc<ActiveSession>| {
            let mut ops = session.ops.lock().unwrap().clone();
            ops.extend(
                session
                    .handle()
                    .map(|handle| self.inspect(&remains, &handle, at)),
            );
            ops.sort_by_key(|op| op.began);
            let mut life = Life {
                tag: session.tag.clone(),
                user: session.user.clone(),
                handle: session.handle(),
                ops,
                of_user: Vec::new(),
            };
            let concerns = |(user, op): &&(String, Op)| match op.seen() {
                _ if *user == life.user => true,
                Some(Seen::Handles(handles)) => handles.iter().any(|it| life.is_named(it)),
                _ => false,
            };
            let of_user = of_users.iter().filter(concerns);
            life.of_user = of_user.map(|(_, op)| op.clone()).collect();
            life
        };
        lives.iter().map(ended).collect()
    }

    /// Reads a session in the store.
    fn inspect(&self, remains: &BTreeMap<String, Remains>, handle: &str, at: Moment) -> Op {
        let found = remains.iter().find(|(key, _)| key.starts_with(handle));
        let page = found.map(|(_, remains)| stored(&remains.record).unwrap_or_default());
        Op {
            number: self.requests.fetch_add(1, Ordering::Relaxed),
            browser: 0,
            tab: 0,
            node: 0,
            token: None,
            what: What::Inspect,
            began: at,
            ended: at,
            ending: Ending::Done {
                owner: page
                    .as_ref()
                    .and_then(|page| page.text("owner"))
                    .map(str::to_owned),
                seen: page.map_or(Seen::Absent, Seen::Page),
            },
            given: None,
        }
    }

    fn rng(&self, of: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9).wrapping_add(of))
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn now(&self) -> Moment {
        micros(self.began.elapsed())
    }

    /// The life of one session, from its first request to after its last.
    async fn run_session(self: &Arc<Self>, browser: usize, tabs: usize, rng: &mut StdRng) {
        let tag = format!("s{}", self.opened.fetch_add(1, Ordering::Relaxed));
        let user = format!("u{}", rng.random_range(0..self.load.users));
        let session = Arc::new(ActiveSession {
            left: AtomicUsize::new(rng.random_range(self.load.requests.clone()) * tabs),
            logs_out: rng.random_bool(0.75),
            ..ActiveSession::of(tag, user)
        });
        let sender = move |tab| Sender { browser, tab };
        self.ask(
            &session,
            sender(0),
            What::Open,
            TokenChoice::Jar,
            PATIENCE,
            rng,
        )
        .await;
        if session.handle().is_none() {
            // The browser never got this session, so it starts another one.
            self.lives.lock().unwrap().push(session);
            sleep(Duration::from_millis(50)).await;
            return;
        }
        self.latest
            .lock()
            .unwrap()
            .insert(browser, Arc::clone(&session));
        let mut work = JoinSet::new();
        for tab in 0..tabs {
            let (run, session) = (Arc::clone(self), Arc::clone(&session));
            let mut rng = StdRng::seed_from_u64(rng.random());
            work.spawn(async move { run.run_tab(&session, sender(tab), &mut rng).await });
        }
        while let Some(worked) = work.join_next().await {
            worked.expect("tabs do not panic");
        }
        let (run, mut rng) = (Arc::clone(self), StdRng::seed_from_u64(rng.random()));
        self.lives.lock().unwrap().push(Arc::clone(&session));
        let haunting = async move { run.revisit(&session, sender(0), &mut rng).await };
        self.revisits.lock().unwrap().spawn(haunting);
    }

    /// For a while, sends a request with each token of an abandoned session.
    async fn revisit(&self, session: &ActiveSession, sender: Sender, rng: &mut StdRng) {
        for _ in 0..HAUNTINGS {
            let mut token = rng.random_range(0..session.tokens.lock().unwrap().len());
            let mut what = match rng.random_range(0..100) {
                0..25 => What::Count,
                25..40 => What::Login,
                _ => What::Look,
            };
            if let Some(dead) = session.dead_token(rng).filter(|_| rng.random_bool(0.15)) {
                (token, what) = (dead, What::Rival);
            }
            self.ask(
                session,
                sender,
                what,
                TokenChoice::Old(token),
                PATIENCE,
                rng,
            )
            .await;
            sleep(Duration::from_millis(rng.random_range(0..400))).await;
        }
    }

    /// Sends the requests of one tab, until none is left or the browser has lost the session.
    async fn run_tab(&self, session: &ActiveSession, sender: Sender, rng: &mut StdRng) {
        while !self.is_over() && session.is_in_use() {
            let one_less = |left: usize| left.checked_sub(1);
            let left = session
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
            let Ok(left) = left else { return };
            // A unique name: no other request of the session has this number left.
            let name = format!("{}.{left}", session.tag);
            let mut what = session.workload.choose(rng, name);
            if rng.random_range(0..1000) < self.load.of_users {
                what = self.of_user(session, rng);
            }
            if left == AFTER_LOGOUT && session.logs_out {
                what = logout(rng);
            }
            if self.outages.is_near()
                && session.logs_out
                && rng.random_range(0..1000) < OUTAGE_LOGOUTS
            {
                what = logout(rng);
                session.left.fetch_min(AFTER_LOGOUT - 1, Ordering::SeqCst);
            }
            let impatient = rng.random_range(0..1000) < HANG_UPS;
            let patience = match impatient {
                true => Duration::from_millis(rng.random_range(0..50)),
                false => PATIENCE,
            };
            let tokens = session.tokens.lock().unwrap().len();
            let choice = match rng.random_range(0..1000) < OLD_TOKENS {
                true => TokenChoice::Old(rng.random_range(0..tokens)),
                false => TokenChoice::Jar,
            };
            let locked_out = match what {
                What::Login => self.sign_in(session, sender, choice, patience, rng).await,
                what => {
                    let asked = self.ask(session, sender, what, choice, patience, rng).await;
                    asked.locked_out
                }
            };
            if locked_out && matches!(choice, TokenChoice::Jar) && rng.random_bool(0.3) {
                session.is_over.store(true, Ordering::Relaxed);
            }
            let rest = rng.random_range(self.load.rest.clone());
            sleep(Duration::from_millis(rest)).await;
        }
    }

    /// A login, or a request that lists or ends sessions of the session's user.
    fn of_user(&self, session: &ActiveSession, rng: &mut StdRng) -> What {
        let user = session.user.clone();
        match rng.random_range(0..12) {
            0 => What::Everywhere,
            1 => What::Others {
                by: session.tag.clone(),
            },
            2..4 => {
                let latest = self.latest.lock().unwrap();
                let others = latest.values().filter(|it| it.user == user);
                let others: Vec<_> = others.filter(|it| it.tag != session.tag).collect();
                match others.is_empty() {
                    true => What::List { user },
                    false => What::End {
                        handle: others[rng.random_range(0..others.len())].whole_handle(),
                    },
                }
            }
            4..7 => What::Login,
            _ => What::List { user },
        }
    }

    /// A login of a user who clicks twice, or retries it after a lost answer. Returns true if the token was rejected.
    async fn sign_in(
        &self,
        session: &ActiveSession,
        sender: Sender,
        choice: TokenChoice,
        patience: Duration,
        rng: &mut StdRng,
    ) -> bool {
        if rng.random_bool(0.5) {
            let mut other = StdRng::seed_from_u64(rng.random());
            let (one, other) = tokio::join!(
                self.ask(session, sender, What::Login, choice, patience, rng),
                self.ask(session, sender, What::Login, choice, patience, &mut other)
            );
            return one.locked_out && other.locked_out;
        }
        let mut asked = self
            .ask(session, sender, What::Login, choice, patience, rng)
            .await;
        let again = asked.token.filter(|_| !asked.locked_out);
        for _ in 0..LOGINS_AGAIN {
            if !asked.unknown {
                break;
            }
            asked = self
                .ask(session, sender, What::Login, choice, PATIENCE, rng)
                .await;
        }
        // The second click, after the answer to the first one.
        if let Some(token) = again.filter(|_| rng.random_bool(0.6)) {
            let wait = if rng.random_bool(0.5) {
                rng.random_range(0..200)
            } else {
                0
            };
            sleep(Duration::from_millis(wait)).await;
            self.ask(
                session,
                sender,
                What::Login,
                TokenChoice::Old(token),
                PATIENCE,
                rng,
            )
            .await;
        }
        asked.locked_out
    }

    /// Sends one request, and records its outcome.
    async fn ask(
        &self,
        session: &ActiveSession,
        sender: Sender,
        what: What,
        choice: TokenChoice,
        patience: Duration,
        rng: &mut StdRng,
    ) -> Asked {
        let node = rng.random_range(0..self.bases.len());
        let is_long = what.is_logout() && self.outages.is_near();
        let slow = match rng.random_range(0..1000) < SLOW {
            // Loads its session before the outage, and logs out during it.
            _ if is_long => rng.random_range(50..250),
            true => rng.random_range(1..60),
            false => 0,
        };
        let exactly = match what {
            What::Login if rng.random_bool(0.3) => "&key=exact",
            _ => "",
        };
        let path = path(&what, &session.tag, &session.user, slow);
        let url: Url = format!("{}{path}{exactly}", self.bases[node])
            .parse()
            .expect("an address");
        let cookie = match choice {
            TokenChoice::Jar => session.jar.cookies(&url),
            TokenChoice::Old(token) => session.cookie(token),
        };
        let token = cookie.as_ref().and_then(|cookie| session.token(cookie));
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut request = self.client.get(url.clone());
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        let given = OnceLock::new();
        let began = self.now();
        let exchange = async {
            let response = request.send().await?;
            let token = match choice {
                TokenChoice::Jar => session.keep(response.headers(), &url),
                TokenChoice::Old(_) => session.given(response.headers()),
            };
            token.map(|token| given.set(token));
            let (status, headers) = (response.status(), response.headers().clone());
            let text = response.text().await?;
            let mut cookies = headers.get_all(SET_COOKIE).iter().map(value);
            let reply = Reply {
                status,
                retry_after: headers.contains_key(RETRY_AFTER),
                removes: cookies.any(str::is_empty),
                text: &text,
            };
            Ok::<_, reqwest::Error>(classify(&what, &reply))
        };
        let ending = match timeout(patience, exchange).await {
            Ok(Ok(ending)) => self.with_moment(ending),
            Ok(Err(error)) if error.is_connect() => Ending::NotDone("no connection"),
            Ok(Err(_)) => Ending::Unknown("the connection broke"),
            Err(_) if patience < PATIENCE => Ending::Unknown("hung up"),
            Err(_) => Ending::Unknown("no answer"),
        };
        let op = Op {
            number,
            browser: sender.browser,
            tab: sender.tab,
            node,
            token,
            what,
            began,
            ended: self.now(),
            ending,
            given: given.into_inner(),
        };
        let asked = Asked {
            // A login that joined has brought a new token although its own was revoked.
            locked_out: op.is_shut_out() && !op.is_joined(),
            unknown: op.is_unknown(),
            token,
        };
        if op.what.is_of_user() {
            let mut of_users = self.of_users.lock().unwrap();
            of_users.push((session.user.clone(), op.clone()));
        }
        session.ops.lock().unwrap().push(op);
        asked
    }

    /// The same, with a moment of this run instead of the time that the node reports.
    fn with_moment(&self, mut ending: Ending) -> Ending {
        if let Ending::Done {
            seen: Seen::Begun(at),
            ..
        } = &mut ending
        {
            *at = at.saturating_sub(self.origin);
        }
        ending
    }
}

impl ActiveSession {
    fn of(tag: String, user: String) -> Self {
        Self {
            tag,
            user,
            jar: Jar::default(),
            tokens: Mutex::default(),
            ops: Mutex::default(),
            workload: Workload::default(),
            left: AtomicUsize::new(0),
            logs_out: false,
            is_over: AtomicBool::new(false),
        }
    }

    /// The handle of a session whose token the browser has.
    fn whole_handle(&self) -> String {
        let tokens = self.tokens.lock().unwrap();
        let token = URL_SAFE_NO_PAD.decode(&tokens[0]).expect("a token");
        URL_SAFE_NO_PAD.encode(&token[..HANDLE_BYTES])
    }

    /// The handle of the session. `None` if the browser never got its token.
    fn handle(&self) -> Option<String> {
        let tokens = self.tokens.lock().unwrap();
        Some(tokens.first()?[..HANDLE].to_owned())
    }

    /// Whether the browser still has a token of this session. A logout removes it, and a new session replaces it.
    fn is_in_use(&self) -> bool {
        let anywhere: Url = "http://127.0.0.1/".parse().expect("an address");
        let cookie = self.jar.cookies(&anywhere);
        !self.is_over.load(Ordering::Relaxed)
            && cookie.is_some_and(|cookie| {
                self.handle()
                    .is_some_and(|handle| value(&cookie).starts_with(&handle))
            })
    }

    /// The index of a token that has certainly been replaced.
    fn dead_token(&self, rng: &mut StdRng) -> Option<usize> {
        let ops = self.ops.lock().unwrap();
        let replaced = ops
            .iter()
            .filter(|op| op.what.rotates() && op.is_done_for(&self.tag))
            .filter_map(|op| op.token);
        let dead: Vec<usize> = replaced.collect();
        (!dead.is_empty()).then(|| dead[rng.random_range(0..dead.len())])
    }

    fn cookie(&self, token: usize) -> Option<HeaderValue> {
        let tokens = self.tokens.lock().unwrap();
        HeaderValue::from_str(&format!("id={}", tokens[token])).ok()
    }

    /// The index of the token in a cookie.
    fn token(&self, cookie: &HeaderValue) -> Option<usize> {
        let tokens = self.tokens.lock().unwrap();
        tokens.iter().position(|token| token == value(cookie))
    }

    /// Stores the cookies of a response as a browser does, and returns the index of a new token of this session.
    fn keep(&self, headers: &HeaderMap, url: &Url) -> Option<usize> {
        let given = self.given(headers);
        let mut cookies = headers.get_all(SET_COOKIE).iter();
        self.jar.set_cookies(&mut cookies, url);
        given
    }

    fn given(&self, headers: &HeaderMap) -> Option<usize> {
        let mut tokens = self.tokens.lock().unwrap();
        let given = headers.get_all(SET_COOKIE).iter().map(value);
        let mut given =
            given.filter(|token| !token.is_empty() && !tokens.iter().any(|known| known == token));
        let new = given.next().map(str::to_owned);
        let ours = new.filter(|new| {
            tokens
                .first()
                .is_none_or(|first| new.starts_with(&first[..HANDLE]))
        });
        tokens.push(ours?);
        Some(tokens.len() - 1)
    }
}

fn micros(time: Duration) -> Moment {
    time.as_micros().try_into().expect("a short run")
}

/// The value of the one cookie of a header.
fn value(header: &HeaderValue) -> &str {
    let text = header.to_str().unwrap_or_default();
    let pair = text.split(';').next().unwrap_or_default();
    pair.split_once('=').map_or("", |(_, value)| value)
}
