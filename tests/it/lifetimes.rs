//! Idle and absolute timeouts, and how rarely a key is renewed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use sessile::store::ManualClock;
use sessile::{Fingerprinting, MemoryStore, Session, SessionConfig, SessionLayer};

use crate::support::app::{app, routes};
use crate::support::late::Late;
use crate::support::spy::Calls;
use crate::support::{Browser, Ground, Proxy, Server, Spy, Visit, fresh_prefix, store_with, until};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct Watch {
    clock: ManualClock,
    layer: SessionLayer,
    app: axum::Router,
    calls: std::sync::Arc<crate::support::spy::Calls>,
    browser: Browser,
}

impl Watch {
    async fn new() -> Self {
        let clock = ManualClock::new();
        let spy = Spy::on(MemoryStore::new().with_clock(clock.clone()));
        let calls = spy.calls.clone();
        let layer = SessionLayer::new(spy);
        let app = app(layer.clone());
        let mut browser = Browser::default();
        browser.get(&app, "/set?k=name&v=mia").await.ok();
        Self {
            clock,
            layer,
            app,
            calls,
            browser,
        }
    }

    /// Reads after this time. Returns true if the session still exists.
    async fn hit_after(&mut self, passed: Duration) -> bool {
        self.clock.advance(passed);
        let alive = self.browser.get(&self.app, "/read").await.ok() == "name";
        // The renewal runs in the background.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        alive
    }

    fn renewals(&self) -> u64 {
        self.calls.touch.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_hit_every_half_minute_renews_once_in_fifteen_minutes() {
    let mut watch = Watch::new().await;
    for _ in 0..30 {
        assert!(watch.hit_after(MINUTE / 2).await);
    }
    assert_eq!(watch.renewals(), 1);
    assert_eq!(watch.calls.so_far()[2], 0, "a renewal is never a rewrite");
}

#[tokio::test]
async fn a_session_expires_with_its_key_unless_a_pending_commit_renews_it() {
    let watch = Watch::new().await;
    let mut visit = Visit::with(watch.layer.clone());
    visit.browser = watch.browser.clone();
    watch.clock.advance(10 * MINUTE);
    visit
        .request(|session| async move {
            let ends = || session.expires_at().duration_since(session.last_accessed());
            assert_eq!(ends().unwrap(), 30 * MINUTE);
            session.insert("n", 1).unwrap();
            assert_eq!(ends().unwrap(), 40 * MINUTE);
        })
        .await;
}

#[tokio::test]
async fn a_hit_every_ten_minutes_renews_every_other_time() {
    let mut watch = Watch::new().await;
    let mut renewed = Vec::new();
    for _ in 0..6 {
        assert!(watch.hit_after(MINUTE * 10).await);
        renewed.push(watch.renewals());
    }
    assert_eq!(renewed, [0, 1, 1, 2, 2, 3]);
    assert_eq!(watch.calls.so_far()[2], 0, "a renewal is never a rewrite");
}

#[tokio::test]
async fn an_unused_session_expires() {
    let mut watch = Watch::new().await;
    assert!(watch.hit_after(MINUTE * 29).await);
    assert!(watch.hit_after(MINUTE * 29).await);
    assert!(!watch.hit_after(MINUTE * 30).await);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_expires_during_its_request_is_not_revived() {
    let watch = Watch::new().await;
    let slow = watch.browser.peek(&watch.app, "/slow?ms=50&k=late");
    let ends = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        watch.clock.advance(MINUTE * 31);
    };
    let (slow, ()) = tokio::join!(slow, ends);
    assert_eq!((slow.status.as_u16(), slow.set_cookies().len()), (409, 0));
    assert_eq!(watch.browser.peek(&watch.app, "/read").await.ok(), "");
}

#[tokio::test]
async fn a_session_expires_at_its_absolute_timeout_even_if_it_is_used() {
    let mut watch = Watch::new().await;
    for _ in 0..24 * 6 - 1 {
        assert!(watch.hit_after(MINUTE * 10).await);
    }
    // A login restarts the day, and a rotation does not.
    watch.browser.get(&watch.app, "/cycle").await.ok();
    let mut signed_in = watch.browser.clone();
    assert!(!watch.hit_after(MINUTE * 10).await);
    assert_eq!(signed_in.get(&watch.app, "/read").await.ok(), "");
}

#[tokio::test]
async fn signing_in_restarts_the_absolute_timeout() {
    let mut watch = Watch::new().await;
    for _ in 0..24 * 6 - 1 {
        assert!(watch.hit_after(MINUTE * 10).await);
    }
    watch.browser.get(&watch.app, "/login?u=mia").await.ok();
    for _ in 0..24 * 6 - 1 {
        assert!(watch.hit_after(MINUTE * 10).await);
    }
    assert!(!watch.hit_after(MINUTE * 10).await);
}

#[tokio::test]
async fn timeouts_of_a_session_apply_to_later_requests_on_every_node() {
    let mut watch = Watch::new().await;
    watch.browser.get(&watch.app, "/remember").await.ok();
    let day = MINUTE * 60 * 24;
    for _ in 0..29 {
        assert!(watch.hit_after(day).await);
    }
    assert!(!watch.hit_after(day).await, "thirty days have passed");
}

#[tokio::test]
async fn a_persistent_cookie_lives_as_long_as_the_session_and_is_sent_when_that_changes() {
    let mut watch = Watch::new().await;
    let max_age = |page: &crate::support::browser::Page| {
        let [cookie] = page.set_cookies()[..] else {
            panic!("one cookie")
        };
        let age = cookie
            .split("; ")
            .find_map(|part| part.strip_prefix("Max-Age="));
        age.map(|age| age.parse::<u64>().unwrap())
    };
    let page = watch.browser.get(&watch.app, "/remember").await;
    let month = 30 * 24 * 60 * 60;
    assert_eq!(max_age(&page), Some(month));
    for path in ["/read", "/incr?k=n"] {
        assert_eq!(
            watch.browser.get(&watch.app, path).await.set_cookies(),
            Vec::<&str>::new()
        );
    }
    watch.clock.advance(MINUTE * 60 * 24);
    let page = watch.browser.get(&watch.app, "/cycle").await;
    assert_eq!(max_age(&page), Some(month - 24 * 60 * 60), "what is left");
    let page = watch
        .browser
        .get(&watch.app, "/remember?not=persistent")
        .await;
    assert_eq!(max_age(&page), None, "a session cookie again");
    let page = watch.browser.get(&watch.app, "/remember").await;
    assert_eq!(max_age(&page), Some(month));
    // Another user who signs in with this browser gets no persistent cookie.
    let page = watch.browser.get(&watch.app, "/login?u=noa").await;
    assert_eq!(max_age(&page), None);
    assert!(!watch.hit_after(MINUTE * 31).await);
}

#[tokio::test]
async fn a_layer_may_make_its_sessions_persistent() {
    let config = SessionConfig::default().with_persistent(true);
    let layer = SessionLayer::try_new(MemoryStore::new(), config).unwrap();
    let mut visit = Visit::with(layer);
    let is_persistent = |page: &crate::support::browser::Page| {
        let [cookie] = page.set_cookies()[..] else {
            panic!("one cookie: {:?}", page.set_cookies())
        };
        cookie.contains("Max-Age=86400")
    };
    let page = visit
        .page(|session| async move {
            assert!(!session.is_modified());
            session.set_persistent(true).unwrap();
            assert!(!session.is_modified(), "it is so already");
            session.set_persistent(false).unwrap();
            assert!(session.is_modified(), "a choice of the visitor");
            session.set_persistent(true).unwrap();
        })
        .await;
    assert_eq!(page.set_cookies(), Vec::<&str>::new(), "nothing is stored");
    let page = visit
        .page(|session| async move { session.insert("n", 1) })
        .await;
    assert!(is_persistent(&page));
    let page = visit
        .page(|session| async move { session.set_principal("mia").await })
        .await;
    assert!(is_persistent(&page));
    let page = visit
        .page(|session| async move { session.set_persistent(false) })
        .await;
    assert!(!is_persistent(&page), "for this session");
    let page = visit
        .page(|session| async move { session.set_principal("mia").await })
        .await;
    assert!(!is_persistent(&page), "the same user");
    let page = visit
        .page(|session| async move { session.set_principal("noa").await })
        .await;
    assert!(is_persistent(&page), "another user");
    let mut other = Visit::with(visit.layer.clone());
    let page = other
        .page(|session| async move {
            session.set_persistent(false)?;
            session.insert("n", 1)
        })
        .await;
    assert!(!is_persistent(&page), "from its creation");
}

/// A browser that drops a persistent cookie after its `Max-Age`.
struct Jar {
    browser: Browser,
    /// The remaining days of the cookie.
    left: Option<u64>,
}

impl Jar {
    /// Sends a request `days` after the last one. Returns true if the response sets a cookie.
    async fn get_after(
        &mut self,
        days: u64,
        clock: &ManualClock,
        app: &Router,
        path: &str,
    ) -> bool {
        clock.advance(DAY * u32::try_from(days).unwrap());
        self.left = self.left.map(|left| left.saturating_sub(days));
        if self.left == Some(0) {
            self.browser.cookie = None;
        }
        let page = self.browser.get(app, path).await;
        let sent = page
            .set_cookies()
            .first()
            .map(|cookie| (*cookie).to_owned());
        page.ok();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let Some(cookie) = sent else { return false };
        let age = cookie.rsplit_once("Max-Age=").unwrap().1.parse::<u64>();
        self.left = Some(age.unwrap() / (24 * 60 * 60));
        true
    }
}

/// An application with sessions of up to ten years, and a browser with a persistent cookie.
async fn remembered() -> (ManualClock, Arc<Calls>, Router, Jar) {
    let remember = |session: sessile::Session| async move {
        session.set_principal("mia").await?;
        session.set_persistent(true)
    };
    let clock = ManualClock::new();
    let spy = Spy::on(MemoryStore::new().with_clock(clock.clone()));
    let calls = Arc::clone(&spy.calls);
    let config = SessionConfig::default()
        .with_idle_timeout(DAY * 365)
        .with_absolute_timeout(DAY * 3650);
    let layer = SessionLayer::try_new(spy, config).unwrap();
    let app = routes()
        .route("/remember-for-years", get(remember))
        .layer(layer);
    let mut jar = Jar {
        browser: Browser::default(),
        left: None,
    };
    assert!(jar.get_after(0, &clock, &app, "/remember-for-years").await);
    assert_eq!(jar.left, Some(400), "no browser keeps a cookie for longer");
    (clock, calls, app, jar)
}

#[tokio::test]
async fn the_persistent_cookie_of_a_visitor_who_only_reads_is_renewed() {
    let (clock, calls, app, mut jar) = remembered().await;
    let written = calls.so_far()[1..3].to_vec();
    let mut sent = Vec::new();
    for visit in 1..=121_u64 {
        if jar.get_after(30, &clock, &app, "/whoami").await {
            sent.push(visit * 30);
        }
        let page = jar.browser.peek(&app, "/whoami").await;
        assert_eq!(page.ok(), "mia", "after {} days", visit * 30);
    }
    assert_eq!(sent.first(), Some(&210), "not before half of its lifetime");
    assert_eq!(
        calls.so_far()[1..3],
        written,
        "the new cookie needed no write"
    );
    assert!(jar.left <= Some(20), "the cookie expires with the session");
}

#[tokio::test]
async fn the_next_change_records_when_the_cookie_was_sent() {
    let (clock, _, app, mut jar) = remembered().await;
    let mut sent = Vec::new();
    for week in 1..=3650 / 7 {
        for path in ["/incr?k=n", "/whoami"] {
            let days = if path == "/whoami" { 0 } else { 7 };
            if jar.get_after(days, &clock, &app, path).await {
                assert_eq!(path, "/incr?k=n", "noted by then");
                sent.push(week * 7);
            }
        }
    }
    // Every 203 days, until the last cookie lasts as long as the session.
    let expected: Vec<_> = (1..=17).map(|times| times * 203).collect();
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn a_rotation_resets_the_age_of_the_cookie() {
    let (clock, _, app, mut jar) = remembered().await;
    assert!(jar.get_after(150, &clock, &app, "/cycle").await);
    assert!(!jar.get_after(150, &clock, &app, "/whoami").await);
    assert!(jar.get_after(50, &clock, &app, "/whoami").await);
}

#[tokio::test]
async fn an_old_cookie_is_not_renewed_by_pages_that_do_not_use_the_session() {
    let (clock, _, app, mut jar) = remembered().await;
    assert!(!jar.get_after(250, &clock, &app, "/plain").await);
    assert!(jar.get_after(0, &clock, &app, "/whoami").await);
}

#[tokio::test]
async fn invalid_timeouts_are_rejected() {
    let mut visit = crate::support::Visit::in_memory();
    visit
        .request(|session| async move {
            for timeout in [Duration::ZERO, Duration::from_millis(999), Duration::MAX] {
                for result in [
                    session.set_idle_timeout(timeout),
                    session.set_absolute_timeout(timeout),
                ] {
                    let error = result.unwrap_err();
                    assert!(
                        matches!(error, sessile::SessionError::InvalidTimeout { .. }),
                        "{error}"
                    );
                }
            }
            assert!(!session.is_modified());
        })
        .await;
    let clock = ManualClock::new();
    let layer = SessionLayer::new(MemoryStore::new().with_clock(clock.clone()));
    let mut visit = crate::support::Visit::with(layer);
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    clock.advance(MINUTE * 10);
    visit
        .request(|session| async move {
            assert!(
                session.set_absolute_timeout(MINUTE * 10).is_err(),
                "the timeout would have passed already"
            );
            session.set_absolute_timeout(MINUTE * 11).unwrap();
            session.set_idle_timeout(MINUTE * 5).unwrap();
        })
        .await;
    clock.advance(MINUTE);
    visit
        .request(|session| async move { assert!(session.is_new()) })
        .await;
}

#[tokio::test]
async fn a_touch_renews_a_session_without_other_requests() {
    let clock = ManualClock::new();
    let layer = SessionLayer::new(MemoryStore::new().with_clock(clock.clone()));
    let mut visit = crate::support::Visit::with(layer);
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let stream = visit.keep().await;
    for _ in 0..5 {
        clock.advance(MINUTE * 20);
        stream.touch();
        visit.layer.drained().await;
    }
    visit
        .request(|session| async move { assert!(session.contains_key("n")) })
        .await;
}

/// Creates a session of half an hour, and keeps a handle that outlives its request. Then another request changes the
/// session, the handle touches it, and the result is whether the session still exists after some time.
async fn alive_after(
    change: impl FnOnce(Session) + Clone + Send + Sync + 'static,
    touched_after: Duration,
    looked_after: Duration,
) -> bool {
    let clock = ManualClock::new();
    let layer = SessionLayer::new(MemoryStore::new().with_clock(clock.clone()));
    let mut visit = Visit::with(layer.clone());
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let stream = visit.keep().await;
    visit
        .request(move |session| async move { change(session) })
        .await;
    clock.advance(touched_after);
    stream.touch();
    layer.drained().await;
    clock.advance(looked_after);
    visit.browser.peek(&app(layer), "/read").await.ok() == "n"
}

#[tokio::test]
async fn a_touch_uses_the_current_timeout_of_the_session() {
    let shorter = |session: Session| session.set_idle_timeout(MINUTE * 2).unwrap();
    assert!(alive_after(shorter, MINUTE, MINUTE + MINUTE / 2).await);
    assert!(!alive_after(shorter, MINUTE, MINUTE * 2).await);
    let longer = |session: Session| session.set_idle_timeout(MINUTE * 60).unwrap();
    assert!(alive_after(longer, MINUTE * 30, MINUTE * 50).await);
}

#[tokio::test]
async fn a_touch_from_before_a_rotation_does_not_renew_the_session() {
    let unchanged = |_: Session| ();
    assert!(alive_after(unchanged, MINUTE * 20, MINUTE * 20).await);
    let rotated = |session: Session| session.cycle_id().unwrap();
    assert!(alive_after(rotated, MINUTE * 20, MINUTE * 9).await);
    assert!(!alive_after(rotated, MINUTE * 20, MINUTE * 10).await);
}

#[tokio::test]
async fn a_touch_from_a_denied_network_does_not_renew_the_session() {
    let address = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&address);
    let clock = ManualClock::new();
    let soft = SessionLayer::new(MemoryStore::new().with_clock(clock.clone()))
        .with_client_ip(move |_| *seen.lock().unwrap());
    let mut visit = Visit::with(soft.clone());
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    // The session has no network yet, and the next write binds it.
    visit.layer = soft.with_fingerprinting(Fingerprinting::Strict);
    *address.lock().unwrap() = "203.0.113.7".parse().ok();
    let stream = visit.keep().await;
    *address.lock().unwrap() = "198.51.100.7".parse().ok();
    visit
        .request(|session| async move { session.insert("n", 2).unwrap() })
        .await;
    clock.advance(MINUTE * 20);
    stream.touch();
    visit.layer.drained().await;
    clock.advance(MINUTE * 10);
    visit
        .request(|session| async move { assert!(session.is_new()) })
        .await;
}

#[tokio::test]
async fn a_touch_loads_once_and_renews_once() {
    let watch = Watch::new().await;
    let mut visit = Visit::with(watch.layer.clone());
    visit.browser = watch.browser.clone();
    let stream = visit.keep().await;
    let before = watch.calls.so_far();
    stream.touch();
    watch.layer.drained().await;
    let [load, create, replace, touch, delete] = before;
    let expected = [load + 1, create, replace, touch + 1, delete];
    assert_eq!(watch.calls.so_far(), expected);
}

/// A load renews a session with little time left in the background, which is slow. Meanwhile, a commit sets a shorter
/// timeout.
#[tokio::test(start_paused = true)]
async fn the_next_load_corrects_a_renewal_that_overtook_a_shorter_timeout() {
    let clock = ManualClock::new();
    let late = Late::before(MemoryStore::new().with_clock(clock.clone()));
    let layer = SessionLayer::new(late.clone());
    let mut visit = Visit::with(layer.clone());
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    clock.advance(MINUTE * 20);
    late.slow_touch(Duration::from_millis(500));
    visit
        .request(|session| async move { session.set_idle_timeout(MINUTE).unwrap() })
        .await;
    layer.drained().await;
    // Just after the renewal, which was too long.
    visit.request(|_| async {}).await;
    layer.drained().await;
    clock.advance(MINUTE);
    visit
        .request(|session| async move { assert!(session.is_new()) })
        .await;
}

async fn node(ground: &Ground, prefix: &str, config: &SessionConfig) -> Router {
    let store = store_with(&ground.url(), |it| it.key_prefix = prefix.to_owned()).await;
    routes().layer(SessionLayer::try_new(store, config.clone()).unwrap())
}

struct Keys {
    ground: Ground,
    prefix: String,
    config: SessionConfig,
    app: Router,
    browser: Browser,
    key: String,
}

impl Keys {
    async fn new(change: impl FnOnce(&mut SessionConfig)) -> Self {
        let ground = Ground::new();
        let prefix = fresh_prefix();
        let mut config = SessionConfig::default();
        change(&mut config);
        let app = node(&ground, &prefix, &config).await;
        let mut browser = Browser::default();
        browser.get(&app, "/set?k=name&v=mia").await.ok();
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{prefix}*"))
            .query(&mut ground.connection())
            .unwrap();
        let [key] = keys.try_into().unwrap();
        Self {
            ground,
            prefix,
            config,
            app,
            browser,
            key,
        }
    }

    /// From now on the browser talks to another node, which has not read the key's time to live yet.
    async fn change_node(&mut self) {
        self.app = node(&self.ground, &self.prefix, &self.config).await;
    }

    fn left(&self) -> i64 {
        redis::cmd("PTTL")
            .arg(&self.key)
            .query(&mut self.ground.connection())
            .unwrap()
    }

    fn set_left(&self, left: Duration) {
        let millis = u64::try_from(left.as_millis()).unwrap();
        let done: i64 = redis::cmd("PEXPIRE")
            .arg(&self.key)
            .arg(millis)
            .query(&mut self.ground.connection())
            .unwrap();
        assert_eq!(done, 1);
    }

    /// Reads until the key has about this much time left. A key is renewed at most once a second.
    async fn read_and_expect(&mut self, expected: Duration) {
        let expected = i64::try_from(expected.as_millis()).unwrap();
        let what = format!("about {expected} ms left");
        until(&what, async || {
            assert_eq!(self.browser.get(&self.app, "/read").await.ok(), "name");
            (expected - 50_000..=expected).contains(&self.left())
        })
        .await;
    }
}

#[tokio::test]
async fn redis_keys_are_renewed_at_half_of_their_life_and_always_expire() {
    let mut keys = Keys::new(|_| ()).await;
    keys.read_and_expect(MINUTE * 30).await;
    keys.set_left(MINUTE * 16);
    keys.read_and_expect(MINUTE * 16).await;
    keys.set_left(MINUTE * 15);
    keys.change_node().await;
    keys.read_and_expect(MINUTE * 30).await;
    // Changes by another program: a key without expiry, and one that lives too long.
    let persisted: i64 = redis::cmd("PERSIST")
        .arg(&keys.key)
        .query(&mut keys.ground.connection())
        .unwrap();
    assert_eq!((persisted, keys.left()), (1, -1));
    keys.change_node().await;
    keys.read_and_expect(MINUTE * 30).await;
    keys.set_left(MINUTE * 60);
    keys.change_node().await;
    keys.read_and_expect(MINUTE * 30).await;
}

/// The new primary may not have had the last renewals.
#[tokio::test]
async fn after_a_failover_the_time_to_live_is_read_again() {
    let (before, after) = (Server::start(), Server::start());
    let proxy = Proxy::before(before.address()).await;
    let store = store_with(&proxy.url(), |config| {
        config.key_prefix = "failover:".to_owned();
        config.pool_size = 1;
    })
    .await;
    let layer = SessionLayer::new(store);
    let app = app(layer.clone());
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    assert_eq!(browser.get(&app, "/read").await.ok(), "name");
    before.reset_counts();
    assert_eq!(browser.get(&app, "/read").await.ok(), "name");
    assert_eq!(before.counts().seen(), [("get", 1)]);
    let (mut from, mut to) = (before.connection(), after.connection());
    let [key]: [String; 1] = redis::cmd("KEYS")
        .arg("failover:*")
        .query(&mut from)
        .unwrap();
    let value: Vec<u8> = redis::cmd("GET").arg(&key).query(&mut from).unwrap();
    let mut copy = redis::cmd("SET");
    let copied: () = copy
        .arg(&key)
        .arg(value)
        .arg("EX")
        .arg(60)
        .query(&mut to)
        .unwrap();
    assert_eq!(copied, ());
    proxy.lead_to(after.address());
    assert_eq!(browser.get(&app, "/read").await.ok(), "name");
    layer.drained().await;
    let left: i64 = redis::cmd("TTL").arg(&key).query(&mut to).unwrap();
    assert!(left > 1700, "{left}");
}

/// A node reads the time to live again after a 32nd of it: here, after two seconds.
#[tokio::test]
async fn a_node_that_has_read_the_time_to_live_notices_when_another_program_changes_it() {
    let mut keys = Keys::new(|config| config.idle_timeout = Duration::from_secs(64)).await;
    assert_eq!(keys.browser.get(&keys.app, "/read").await.ok(), "name");
    for left in [MINUTE / 4, MINUTE * 60] {
        keys.set_left(left);
        until("the time to live is that of the timeout", async || {
            assert_eq!(keys.browser.get(&keys.app, "/read").await.ok(), "name");
            (30_000..=64_000).contains(&keys.left())
        })
        .await;
    }
}

#[tokio::test]
async fn a_thousand_concurrent_reads_renew_the_key_once() {
    let server = Server::start();
    let store = store_with(&server.url(), |_| ()).await;
    let layer = SessionLayer::new(store);
    let app = app(layer.clone());
    let mut browser = Browser::default();
    browser.get(&app, "/set?k=name&v=mia").await.ok();
    let key: Vec<String> = redis::cmd("KEYS")
        .arg("test:*")
        .query(&mut server.connection())
        .unwrap();
    let halved: i64 = redis::cmd("PEXPIRE")
        .arg(&key[0])
        .arg(800_000)
        .query(&mut server.connection())
        .unwrap();
    assert_eq!(halved, 1);
    server.reset_counts();
    let began = std::time::Instant::now();
    let reads = (0..1000).map(|_| browser.peek(&app, "/read"));
    for page in futures_util::future::join_all(reads).await {
        assert_eq!(page.ok(), "name");
    }
    layer.drained().await;
    // Or once a second, if the reads take longer.
    let seconds = began.elapsed().as_secs();
    let renewals = server.counts().of("pexpire");
    assert!((1..=1 + seconds).contains(&renewals), "{renewals}");
}

#[tokio::test]
async fn a_redis_key_never_outlives_the_absolute_timeout() {
    let mut keys = Keys::new(|config| config.absolute_timeout = MINUTE * 20).await;
    keys.read_and_expect(MINUTE * 20).await;
    keys.set_left(MINUTE);
    keys.change_node().await;
    keys.read_and_expect(MINUTE * 20).await;
    keys.browser.get(&keys.app, "/incr?k=n").await.ok();
    assert!(keys.left() <= 20 * 60 * 1000, "{}", keys.left());
}

#[tokio::test]
async fn a_commit_renews_the_key() {
    let mut keys = Keys::new(|_| ()).await;
    keys.set_left(MINUTE * 20);
    keys.browser.get(&keys.app, "/incr?k=n").await.ok();
    assert!(keys.left() > 29 * 60 * 1000, "{}", keys.left());
}

#[tokio::test]
async fn a_session_in_redis_lives_while_it_is_used_and_then_expires() {
    const IDLE: Duration = Duration::from_secs(4);
    let mut keys = Keys::new(|config| config.idle_timeout = IDLE).await;
    let began = std::time::Instant::now();
    while began.elapsed() < IDLE + IDLE / 2 {
        assert_eq!(
            keys.browser.get(&keys.app, "/read").await.ok(),
            "name",
            "used, it stays"
        );
        tokio::time::sleep(IDLE / 40).await;
    }
    let unused = std::time::Instant::now();
    until("its key is gone", async || keys.left() == -2).await;
    assert!(unused.elapsed() >= IDLE / 2 - IDLE / 20);
    assert_eq!(keys.browser.get(&keys.app, "/read").await.ok(), "");
}
