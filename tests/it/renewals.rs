//! Which requests prolong a session, and how long that lasts.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use sessile::store::ManualClock;
use sessile::{CookieConfig, MemoryStore, Session, SessionConfig, SessionLayer};

use crate::support::app::app;
use crate::support::browser::Page;
use crate::support::spy::Calls;
use crate::support::{Browser, Spy, Visit};

const MINUTE: Duration = Duration::from_secs(60);

/// A visitor with a session of half an hour. `user` and `poll` are layers over one store; only the first renews.
struct Scene {
    clock: ManualClock,
    calls: Arc<Calls>,
    user: SessionLayer,
    poll: SessionLayer,
    visit: Visit,
}

impl Scene {
    async fn new() -> Self {
        let clock = ManualClock::new();
        let spy = Spy::on(MemoryStore::new().with_clock(clock.clone()));
        let calls = Arc::clone(&spy.calls);
        let user = SessionLayer::new(spy);
        let mut visit = Visit::with(user.clone());
        visit
            .request(|session| async move { session.insert("n", 1).unwrap() })
            .await;
        Self {
            clock,
            calls,
            poll: user.clone().with_renewal(false),
            user,
            visit,
        }
    }

    /// A request that polls, after this time.
    async fn poll_after(
        &mut self,
        passed: Duration,
        handler: impl FnOnce(&Session) + Clone + Send + Sync + 'static,
    ) {
        self.clock.advance(passed);
        self.visit.layer = self.poll.clone();
        self.visit
            .request(move |session| async move { handler(&session) })
            .await;
        settle().await;
    }

    /// Whether the session is there after this time. Looking does not prolong it.
    async fn is_alive_after(&mut self, passed: Duration) -> bool {
        self.clock.advance(passed);
        let poll = app(self.poll.clone());
        let page = self.visit.browser.peek(&poll, "/read").await;
        settle().await;
        page.ok().contains('n')
    }
}

/// Lets renewals, which run in the background, run.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_read_without_renewal_prolongs_nothing() {
    let mut scene = Scene::new().await;
    let seen = Arc::new(Mutex::new(Vec::<[SystemTime; 2]>::new()));
    for _ in 0..5 {
        let seen = Arc::clone(&seen);
        let look = move |session: &Session| {
            let times = [session.last_accessed(), session.expires_at()];
            seen.lock().unwrap().push(times);
        };
        scene.poll_after(5 * MINUTE, look).await;
    }
    let seen = seen.lock().unwrap().clone();
    assert!(seen.iter().all(|times| *times == seen[0]), "{seen:?}");
    let [used, ends] = seen[0];
    assert_eq!(ends.duration_since(used).unwrap(), 30 * MINUTE);
    assert!(
        scene
            .is_alive_after(5 * MINUTE - Duration::from_millis(1))
            .await
    );
    assert!(!scene.is_alive_after(Duration::from_millis(1)).await);
    assert_eq!(scene.calls.touch.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_change_without_renewal_prolongs_nothing() {
    let mut scene = Scene::new().await;
    let seen = Arc::new(Mutex::new(Vec::<[SystemTime; 3]>::new()));
    for _ in 0..5 {
        let seen = Arc::clone(&seen);
        let mark = move |session: &Session| {
            let before = session.expires_at();
            session.increment("n", 1).unwrap();
            let times = [session.last_accessed(), before, session.expires_at()];
            seen.lock().unwrap().push(times);
        };
        scene.poll_after(5 * MINUTE, mark).await;
    }
    let seen = seen.lock().unwrap().clone();
    assert!(seen.iter().all(|times| *times == seen[0]), "{seen:?}");
    assert_eq!(seen[0][1], seen[0][2]);
    assert_eq!(scene.calls.so_far()[2], 5, "each change was written");
    assert!(
        scene
            .is_alive_after(5 * MINUTE - Duration::from_millis(1))
            .await
    );
    assert!(!scene.is_alive_after(Duration::from_millis(1)).await);
}

#[tokio::test]
async fn a_change_without_renewal_keeps_a_renewal_of_another_request() {
    let mut scene = Scene::new().await;
    scene.clock.advance(20 * MINUTE);
    scene.visit.layer = scene.poll.clone();
    let (user, browser) = (app(scene.user.clone()), scene.visit.browser.clone());
    let page = scene
        .visit
        .page(move |session| async move {
            session.increment("n", 1)?;
            browser.peek(&user, "/read").await.ok();
            settle().await;
            session.save().await
        })
        .await;
    page.ok();
    assert_eq!(scene.calls.touch.load(Ordering::SeqCst), 1, "renewed");
    assert_eq!(scene.calls.so_far()[2], 1, "and changed");
    assert!(
        scene
            .is_alive_after(30 * MINUTE - Duration::from_millis(1))
            .await
    );
    assert!(!scene.is_alive_after(Duration::from_millis(1)).await);
}

#[tokio::test]
async fn a_change_without_renewal_that_meets_another_change_keeps_its_time_to_live() {
    let mut scene = Scene::new().await;
    scene.clock.advance(10 * MINUTE);
    scene.visit.layer = scene.poll.clone();
    let (user, browser) = (app(scene.user.clone()), scene.visit.browser.clone());
    let page = scene
        .visit
        .page(move |session| async move {
            session.increment("n", 1)?;
            browser.peek(&user, "/incr?k=n").await.ok();
            session.save().await
        })
        .await;
    page.ok();
    assert!(
        scene
            .is_alive_after(30 * MINUTE - Duration::from_millis(1))
            .await
    );
    assert!(!scene.is_alive_after(Duration::from_millis(1)).await);
}

#[tokio::test]
async fn without_renewal_a_rotation_new_timeouts_and_a_touch_prolong_a_session_all_the_same() {
    type Handler = fn(&Session);
    let nothing: Handler = |_| ();
    let cycles: Handler = |session| session.cycle_id().unwrap();
    let lasts: Handler = |session| session.set_idle_timeout(31 * MINUTE).unwrap();
    let touches: Handler = Session::touch;
    let shorter: Handler = |session| session.set_idle_timeout(5 * MINUTE).unwrap();
    for (handler, alive_for) in [
        (nothing, 10),
        (cycles, 30),
        (lasts, 31),
        (touches, 30),
        (shorter, 5),
    ] {
        let mut scene = Scene::new().await;
        scene
            .poll_after(20 * MINUTE, move |session| {
                handler(session);
                let left = session.expires_at().duration_since(session.last_accessed());
                if alive_for != 30 || session.is_rotated() {
                    assert_eq!(left.unwrap(), (20 + alive_for) * MINUTE);
                }
            })
            .await;
        scene.poll.drained().await;
        let last = alive_for * MINUTE - Duration::from_millis(1);
        assert!(scene.is_alive_after(last).await, "{alive_for}");
        assert!(!scene.is_alive_after(Duration::from_millis(1)).await);
    }
    let mut created = Scene::new().await;
    created.visit = Visit::with(created.poll.clone());
    created
        .poll_after(MINUTE, |session| session.insert("n", 1).unwrap())
        .await;
    assert!(created.is_alive_after(29 * MINUTE).await);
}

#[tokio::test]
async fn without_renewal_a_time_to_live_that_is_too_long_is_shortened() {
    let store = MemoryStore::new();
    let mut visit = Visit::with(SessionLayer::new(store.clone()));
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    let config = SessionConfig::default()
        .with_idle_timeout(10 * MINUTE)
        .with_renewal(false);
    visit.layer = SessionLayer::try_new(store.clone(), config).unwrap();
    visit.request(|_| async move {}).await;
    visit.layer.drained().await;
    // Shows the time to live as it is.
    visit.layer = SessionLayer::new(store).with_renewal(false);
    visit
        .request(|session| async move {
            let left = session.expires_at().duration_since(SystemTime::now());
            assert!(left.unwrap() <= 10 * MINUTE);
        })
        .await;
}

/// A layer over this store that counts the idle timeout as the least or the most.
fn counting(store: impl sessile::SessionStore, full: bool) -> SessionLayer {
    let config = SessionConfig::default().with_full_idle_timeout(full);
    SessionLayer::try_new(store, config).unwrap()
}

#[tokio::test]
async fn a_full_idle_timeout_is_left_after_every_request() {
    let clock = ManualClock::new();
    let spy = Spy::on(MemoryStore::new().with_clock(clock.clone()));
    let calls = Arc::clone(&spy.calls);
    let layer = counting(spy, true);
    let router = app(layer.clone());
    let just_before = 30 * MINUTE - Duration::from_millis(1);
    for used_after in [0, 1, 14, 15, 16, 29] {
        let mut visit = Visit::with(layer.clone());
        visit
            .request(|session| async move {
                session.insert("n", 1).unwrap();
                let left = session.expires_at().duration_since(session.last_accessed());
                assert_eq!(left.unwrap(), 45 * MINUTE);
            })
            .await;
        clock.advance(used_after * MINUTE);
        visit.browser.peek(&router, "/read").await.ok();
        settle().await;
        clock.advance(just_before);
        let late = visit.browser.peek(&router, "/read").await;
        assert_eq!(late.ok(), "n", "used after {used_after} minutes");
        settle().await;
        clock.advance(45 * MINUTE);
        let later = visit.browser.peek(&router, "/read").await;
        assert_eq!(later.ok(), "", "used after {used_after} minutes");
    }
    // Once in half of the timeout, as ever, and no write.
    let before = calls.so_far();
    let mut visit = Visit::with(layer);
    visit
        .request(|session| async move { session.insert("n", 1).unwrap() })
        .await;
    for _ in 0..60 {
        clock.advance(MINUTE);
        visit.browser.peek(&router, "/read").await.ok();
        settle().await;
    }
    let after = calls.so_far();
    assert_eq!(after[3] - before[3], 4, "renewals in an hour");
    assert_eq!(after[2], before[2], "a renewal is never a rewrite");
}

#[tokio::test]
async fn nodes_that_count_the_idle_timeout_in_two_ways_do_not_undo_each_others_renewals() {
    for full in [true, false] {
        let clock = ManualClock::new();
        let store = MemoryStore::new().with_clock(clock.clone());
        // As two processes: they share nothing but the store.
        let spies = [Spy::on(store.clone()), Spy::on(store)];
        let calls = [0, 1].map(|node: usize| Arc::clone(&spies[node].calls));
        let touches = || -> u64 { calls.iter().map(|it| it.so_far()[3]).sum() };
        let layers = spies.map({
            let mut full = full;
            move |spy| {
                full = !full;
                counting(spy, !full)
            }
        });
        let nodes = layers.clone().map(app);
        let mut visit = Visit::with(layers[0].clone());
        visit
            .request(|session| async move { session.insert("n", 1).unwrap() })
            .await;
        for minute in 1..=60 {
            clock.advance(MINUTE);
            for node in &nodes {
                visit.browser.peek(node, "/read").await.ok();
                settle().await;
            }
            assert_eq!(touches(), minute / 15, "after {minute} minutes");
        }
        // The layer of the last commit decides.
        let lives = |full: bool| (if full { 45 } else { 30 }) * MINUTE;
        for (node, full) in [(0, full), (1, !full), (0, full)] {
            visit.browser.peek(&nodes[node], "/incr?k=n").await.ok();
            clock.advance(Duration::from_millis(1));
            visit.layer = layers[1 - node].clone();
            visit
                .request(move |session| async move {
                    let left = session.expires_at().duration_since(session.last_accessed());
                    assert_eq!(left.unwrap(), lives(full));
                })
                .await;
        }
    }
}

/// The `Max-Age` of the cookie that a response sets, in minutes; `None` if it sets none.
fn max_age(page: &Page) -> Option<u64> {
    let cookies = page.set_cookies();
    let (_, age) = cookies.first()?.split_once("Max-Age=").expect("persistent");
    let seconds: u64 = age.split(';').next()?.parse().ok()?;
    assert_eq!(seconds % 60, 0, "{age}");
    Some(seconds / 60)
}

#[tokio::test]
async fn a_rolling_cookie_is_sent_again_before_it_expires() {
    for (full, age) in [(false, 30), (true, 45)] {
        let clock = ManualClock::new();
        let config = SessionConfig::default()
            .with_persistent(true)
            .with_absolute_timeout(180 * MINUTE)
            .with_full_idle_timeout(full)
            .with_cookie(CookieConfig::default().with_rolling(true));
        let store = MemoryStore::new().with_clock(clock.clone());
        let layer = SessionLayer::try_new(store, config).unwrap();
        let (router, polls) = (app(layer.clone()), app(layer.with_renewal(false)));
        let mut browser = Browser::default();
        let page = browser.get(&router, "/set?k=n&v=1").await;
        assert_eq!(max_age(&page), Some(age));
        let mut sent = Vec::new();
        let mut ends = age;
        for minute in 1..180 {
            clock.advance(MINUTE);
            assert!(minute < ends, "the browser has the cookie");
            for unused in [
                browser.peek(&router, "/plain").await,
                browser.peek(&polls, "/read").await,
            ] {
                assert_eq!(max_age(&unused), None, "after {minute} minutes");
            }
            // Every ninth minute the visitor changes something.
            let path = if minute % 9 == 0 {
                "/incr?k=m"
            } else {
                "/read"
            };
            let page = browser.get(&router, path).await;
            settle().await;
            if let Some(age) = max_age(&page) {
                sent.push(minute);
                ends = minute + age;
            }
            page.ok();
        }
        // From the middle of the idle timeout to the next change. The last one lasts as long as the session.
        assert_eq!(sent[..10], [15, 16, 17, 18, 33, 34, 35, 36, 51, 52]);
        assert_eq!(ends, 180);
    }
}

#[tokio::test]
async fn a_longer_idle_timeout_reaches_a_rolling_cookie_at_once() {
    let config = SessionConfig::default()
        .with_persistent(true)
        .with_cookie(CookieConfig::default().with_rolling(true));
    let layer = SessionLayer::try_new(MemoryStore::new(), config).unwrap();
    let mut visit = Visit::with(layer);
    let page = visit
        .page(|session| async move { session.insert("n", 1) })
        .await;
    assert_eq!(max_age(&page), Some(30));
    let page = visit
        .page(|session| async move { session.set_idle_timeout(60 * MINUTE) })
        .await;
    assert_eq!(max_age(&page), Some(60));
    let page = visit
        .page(|session| async move { session.insert("n", 2) })
        .await;
    assert_eq!(max_age(&page), None);
    let page = visit
        .page(|session| async move { session.cycle_id() })
        .await;
    assert_eq!(max_age(&page), Some(60));
}
