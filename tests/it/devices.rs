//! The sessions of a user: the list of devices, sign-outs everywhere, sign-ins under way, and limits.

use std::time::Duration;

use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::routing::get;
use sessile::store::{Capabilities, IndexKey};
use sessile::testing::{Call, TestStore};
use sessile::{
    Handle, MaxSessions, MemoryStore, Session, SessionConfig, SessionError, SessionLayer,
    SessionStore, Sessions,
};

use crate::support::app::routes;
use crate::support::browser::Page;
use crate::support::{Browser, Ground, Server, Spy, store_with, until};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The application under test, with pages for the sessions of users.
fn app(layer: SessionLayer) -> Router {
    routes()
        .route("/devices", get(devices))
        .route("/label", get(label))
        .route("/new-password", get(new_password))
        .route("/reset", get(reset))
        .route("/extend", get(extend))
        .layer(layer)
}

async fn devices(session: Session, sessions: Sessions) -> Result<String, SessionError> {
    let user = session.principal().unwrap_or_default();
    let list = sessions.of(&user).await?;
    let mut lines: Vec<String> = list
        .iter()
        .map(|it| format!("{} {}", it.label().unwrap_or("?"), it.is_current()))
        .collect();
    lines.sort();
    Ok(lines.join(", "))
}

async fn label(session: Session, Query(label): Query<String1>) -> Result<(), SessionError> {
    session.set_label(label.l)
}

#[derive(serde::Deserialize)]
struct String1 {
    l: String,
}

async fn new_password(session: Session, sessions: Sessions) -> Result<String, SessionError> {
    let user = session.principal().expect("a user");
    let here = session.handle().expect("a session");
    let ended = sessions.destroy_others(&user, here).await?;
    session.cycle_id()?;
    Ok(ended.to_string())
}

/// Ends all sessions of mia, and signs her in within the same request.
async fn reset(session: Session, sessions: Sessions) -> Result<(), SessionError> {
    sessions.destroy_all("mia").await?;
    session.set_principal(sessions.sign_in("mia").await?).await
}

async fn extend(session: Session) -> Result<(), SessionError> {
    session.set_absolute_timeout(72 * HOUR)
}

/// A layer on each store.
async fn layers(ground: &Ground) -> [SessionLayer; 2] {
    [
        SessionLayer::new(MemoryStore::new()),
        SessionLayer::new(ground.store().await),
    ]
}

async fn signed_in(app: &Router, user: &str) -> Browser {
    let mut browser = Browser::default();
    browser.get(app, &format!("/login?u={user}")).await.ok();
    browser
}

async fn whoami(browser: &Browser, app: &Router) -> String {
    browser.peek(app, "/whoami").await.ok()
}

async fn handles(sessions: &Sessions, user: &str) -> Vec<Handle> {
    let list = sessions.of(user).await.unwrap();
    list.iter().map(|it| it.handle()).collect()
}

#[tokio::test]
async fn a_user_sees_their_own_devices_and_which_one_they_use() {
    let ground = Ground::new();
    for layer in layers(&ground).await {
        let app = app(layer.clone());
        let mut phone = signed_in(&app, "mia").await;
        let mut laptop = signed_in(&app, "mia").await;
        let mut other = signed_in(&app, "leo").await;
        for (browser, label) in [(&mut phone, "phone"), (&mut laptop, "laptop")] {
            browser.get(&app, &format!("/label?l={label}")).await.ok();
        }
        assert_eq!(
            phone.get(&app, "/devices").await.ok(),
            "laptop false, phone true"
        );
        assert_eq!(other.get(&app, "/devices").await.ok(), "? true");
        let sessions = layer.sessions();
        let list = sessions.of("mia").await.unwrap();
        assert!(list.iter().all(|it| !it.is_current()));
        assert!(list.iter().all(|it| phone.carries(&it.handle().to_string())
            || laptop.carries(&it.handle().to_string())));
        assert!(list.iter().all(|it| it.created_at() <= it.last_accessed()
            && it.authenticated_at() <= it.last_accessed()));
        assert!(handles(&sessions, "nobody").await.is_empty());
    }
}

#[tokio::test]
async fn only_the_user_who_has_a_session_can_end_it() {
    let ground = Ground::new();
    for layer in layers(&ground).await {
        let (app, sessions) = (app(layer.clone()), layer.sessions());
        let (mia, leo) = (signed_in(&app, "mia").await, signed_in(&app, "leo").await);
        let [mias] = handles(&sessions, "mia").await[..] else {
            panic!("one session");
        };
        assert!(!sessions.destroy("leo", mias).await.unwrap());
        assert!(!sessions.destroy("leo", Handle::random()).await.unwrap());
        assert_eq!(whoami(&mia, &app).await, "mia");
        assert!(sessions.destroy("mia", mias).await.unwrap());
        assert!(!sessions.destroy("mia", mias).await.unwrap());
        assert_eq!(whoami(&mia, &app).await, "");
        assert_eq!(whoami(&leo, &app).await, "leo");
        assert!(handles(&sessions, "mia").await.is_empty());
        let changed = mia.peek(&app, "/set?k=a&v=1").await;
        assert_eq!(changed.status, StatusCode::OK, "as a new visitor");
    }
}

#[tokio::test]
async fn a_new_password_ends_all_other_sessions() {
    let ground = Ground::new();
    for layer in layers(&ground).await {
        let (app, sessions) = (app(layer.clone()), layer.sessions());
        let mut here = signed_in(&app, "mia").await;
        let others = [signed_in(&app, "mia").await, signed_in(&app, "mia").await];
        let leo = signed_in(&app, "leo").await;
        assert_eq!(here.get(&app, "/new-password").await.ok(), "2");
        assert_eq!(whoami(&here, &app).await, "mia");
        assert_eq!(whoami(&leo, &app).await, "leo");
        for other in &others {
            assert_eq!(whoami(other, &app).await, "");
        }
        assert_eq!(handles(&sessions, "mia").await.len(), 1);
        assert_eq!(sessions.destroy_all("mia").await.unwrap(), 1);
        assert_eq!(whoami(&here, &app).await, "");
        assert!(handles(&sessions, "mia").await.is_empty());
    }
}

/// A request that signs in while all sessions of its user are ended, and the store that it is under way to.
struct UnderWay {
    store: TestStore,
    app: Router,
    sessions: Sessions,
}

impl UnderWay {
    fn new() -> Self {
        let store = TestStore::new();
        let layer = SessionLayer::new(store.clone());
        Self {
            store,
            app: app(layer.clone()),
            sessions: layer.sessions(),
        }
    }

    /// Signs in, ends all sessions before this call of the store, and returns the response.
    async fn overtaken(&self, call: Call, browser: &Browser) -> Page {
        let mut hold = self.store.hold(call);
        let (app, browser) = (self.app.clone(), browser.clone());
        let request = tokio::spawn(async move { browser.peek(&app, "/login?u=mia").await });
        hold.arrived().await;
        self.sessions.destroy_all("mia").await.unwrap();
        hold.release();
        request.await.unwrap()
    }

    fn stored(&self) -> u64 {
        self.store.stats().sessions
    }
}

#[tokio::test]
async fn a_sign_in_under_way_does_not_outlive_a_sign_out_everywhere() {
    for (is_new, calls) in [
        (true, [Call::Enter, Call::Create, Call::Confirm]),
        (false, [Call::Enter, Call::Replace, Call::Confirm]),
    ] {
        for call in calls {
            let way = UnderWay::new();
            let mut browser = Browser::default();
            if !is_new {
                browser.get(&way.app, "/set?k=cart&v=1").await.ok();
            }
            let page = way.overtaken(call, &browser).await;
            assert_eq!(page.status, StatusCode::CONFLICT, "{call:?}");
            assert!(page.text.contains("Sign in again"), "{}", page.text);
            assert!(page.set_cookies().is_empty(), "{call:?}");
            assert!(handles(&way.sessions, "mia").await.is_empty(), "{call:?}");
            assert_eq!(whoami(&browser, &way.app).await, "", "{call:?}");
            // What was written before the refusal is gone, and what was not written is as before.
            let kept = !is_new && call == Call::Enter;
            assert_eq!(way.stored(), u64::from(kept), "{call:?}");
            browser.get(&way.app, "/login?u=mia").await.ok();
            assert_eq!(handles(&way.sessions, "mia").await.len(), 1);
        }
    }
}

#[tokio::test]
async fn a_sign_in_that_compares_generations_is_exact() {
    let ground = Ground::new();
    for layer in layers(&ground).await {
        let (app, sessions) = (app(layer.clone()), layer.sessions());
        let browser = signed_in(&app, "mia").await;
        let mut visitor = Browser::default();
        visitor.get(&app, "/reset").await.ok();
        assert_eq!(whoami(&visitor, &app).await, "mia");
        assert_eq!(whoami(&browser, &app).await, "");

        let before = sessions.sign_in("mia").await.unwrap();
        assert_eq!(before.principal(), "mia");
        sessions.destroy_all("mia").await.unwrap();
        let after = sessions.sign_in("mia").await.unwrap();
        for (sign_in, status) in [(before, StatusCode::CONFLICT), (after, StatusCode::OK)] {
            let handler = |session: Session| async move { session.set_principal(sign_in).await };
            let app = Router::new().route("/", get(handler)).layer(layer.clone());
            assert_eq!(Browser::default().get(&app, "/").await.status, status);
        }
    }
}

#[tokio::test]
async fn sessions_that_have_ended_or_changed_hands_are_not_listed() {
    let ground = Ground::new();
    for layer in layers(&ground).await {
        let (app, sessions) = (app(layer.clone()), layer.sessions());
        let mut browsers = Vec::new();
        for path in ["/logout", "/login?u=leo", "/step-down", "/whoami"] {
            let mut browser = signed_in(&app, "mia").await;
            browser.get(&app, path).await.ok();
            browsers.push(browser);
        }
        let mias = handles(&sessions, "mia").await;
        assert_eq!(mias.len(), 1);
        assert!(browsers[3].carries(&mias[0].to_string()));
        assert_eq!(handles(&sessions, "leo").await.len(), 1);
        assert_eq!(sessions.destroy_all("mia").await.unwrap(), 1);
        for (browser, user) in browsers.iter().zip(["", "leo", "", ""]) {
            match browser.cookie {
                Some(_) => assert_eq!(whoami(browser, &app).await, user),
                None => assert_eq!(user, ""),
            }
        }
    }
}

#[tokio::test]
async fn no_more_than_the_limit_are_signed_in_at_once() {
    let server = Server::start();
    let prefix = crate::support::fresh_prefix();
    for (limit, refused) in [
        (MaxSessions::evict_oldest(3), 0),
        (MaxSessions::refuse(3), 17),
    ] {
        let mut nodes = Vec::new();
        for _ in 0..2 {
            let store = store_with(&server.url(), |config| {
                config.key_prefix = format!("{prefix}{refused}:");
            })
            .await;
            let layer = SessionLayer::new(store).with_max_sessions(limit);
            nodes.push((app(layer.clone()), layer.sessions()));
        }
        let sign_ins = (0..20).map(|number| {
            let app = nodes[number % 2].0.clone();
            tokio::spawn(async move {
                let mut browser = Browser::default();
                let page = browser.get(&app, "/login?u=mia").await;
                (page.status, browser)
            })
        });
        let mut statuses = Vec::new();
        let mut live = 0;
        let mut browsers = Vec::new();
        for sign_in in sign_ins.collect::<Vec<_>>() {
            let (status, browser) = sign_in.await.unwrap();
            statuses.push(status);
            browsers.push(browser);
        }
        for browser in &browsers {
            if browser.cookie.is_some() {
                live += usize::from(whoami(browser, &nodes[0].0).await == "mia");
            }
        }
        let conflicts = statuses.iter().filter(|it| **it == StatusCode::CONFLICT);
        assert_eq!((conflicts.count(), live), (refused, 3), "{statuses:?}");
        for (_, sessions) in &nodes {
            assert_eq!(handles(sessions, "mia").await.len(), 3);
        }
    }
}

#[tokio::test]
async fn a_full_index_makes_room_for_the_latest_and_forgets_the_dead() {
    for limit in [MaxSessions::evict_oldest(2), MaxSessions::refuse(2)] {
        // Which of two sign-ins in one millisecond is the older one is not known.
        let clock = sessile::store::ManualClock::new();
        let store = MemoryStore::new().with_clock(clock.clone());
        let layer = SessionLayer::new(store).with_max_sessions(limit);
        let app = app(layer.clone());
        let first = signed_in(&app, "mia").await;
        clock.advance(Duration::from_millis(1));
        let mut second = signed_in(&app, "mia").await;
        let mut third = Browser::default();
        let page = third.get(&app, "/login?u=mia").await;
        let evicts = limit == MaxSessions::evict_oldest(2);
        match evicts {
            true => {
                page.ok();
                assert_eq!(whoami(&first, &app).await, "");
            }
            false => {
                assert_eq!(page.status, StatusCode::CONFLICT);
                assert!(
                    page.text.contains("Sign out on another device"),
                    "{}",
                    page.text
                );
                assert_eq!(whoami(&first, &app).await, "mia");
            }
        }
        assert_eq!(whoami(&second, &app).await, "mia");
        second.get(&app, "/logout").await.ok();
        signed_in(&app, "mia").await;
        assert_eq!(handles(&layer.sessions(), "mia").await.len(), 2);
        // Another user, and the same session once more, are not affected.
        signed_in(&app, "leo").await;
        let mut again = signed_in(&app, "ann").await;
        for _ in 0..3 {
            again.get(&app, "/login?u=ann").await.ok();
        }
        assert_eq!(handles(&layer.sessions(), "ann").await.len(), 1);
    }
}

#[tokio::test]
async fn a_logout_leaves_no_entry_in_the_index() {
    let store = MemoryStore::new();
    let app = app(SessionLayer::new(store.clone()));
    let mut browser = signed_in(&app, "mia").await;
    let listed = async || store.list(&IndexKey::of("mia")).await.unwrap().sessions;
    assert_eq!(listed().await.len(), 1);
    browser.get(&app, "/logout").await.ok();
    until("the entry is gone", async || listed().await.is_empty()).await;
}

#[tokio::test]
async fn a_session_that_lives_longer_than_it_should_have_is_listed_to_its_end() {
    let clock = sessile::store::ManualClock::new();
    let store = MemoryStore::new().with_clock(clock.clone());
    let config = SessionConfig::default()
        .with_idle_timeout(200 * HOUR)
        .with_absolute_timeout(24 * HOUR);
    let layer = SessionLayer::try_new(store, config).unwrap();
    let (app, sessions) = (app(layer.clone()), layer.sessions());
    let mut long = signed_in(&app, "mia").await;
    signed_in(&app, "mia").await;
    long.get(&app, "/extend").await.ok();
    clock.advance(25 * HOUR);
    assert_eq!(whoami(&long, &app).await, "mia");
    assert_eq!(handles(&sessions, "mia").await.len(), 1);
    assert_eq!(sessions.destroy_all("mia").await.unwrap(), 1);
    assert_eq!(whoami(&long, &app).await, "");
}

#[tokio::test]
async fn sign_ins_work_on_a_store_without_an_index() {
    let without = Capabilities::new();
    let store = Spy::on(MemoryStore::new()).with_capabilities(without);
    let layer = SessionLayer::new(store);
    let app = app(layer.clone());
    let browser = signed_in(&app, "mia").await;
    assert_eq!(whoami(&browser, &app).await, "mia");

    let store = Spy::on(MemoryStore::new()).with_capabilities(without);
    let config = SessionConfig::default().with_max_sessions(MaxSessions::refuse(3));
    let error = SessionLayer::try_new(store, config)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no index"), "{error}");
}

#[tokio::test]
async fn the_cost_of_a_sign_in_a_list_and_a_sign_out_everywhere() {
    let server = Server::start();
    let store = store_with(&server.url(), |config| {
        config.compare_and_set = sessile::CompareAndSet::Script;
    })
    .await;
    let layer = SessionLayer::new(store.clone());
    let (app, sessions) = (app(layer.clone()), Sessions::new(store.clone()));
    // So that the server knows the scripts.
    signed_in(&app, "mia").await;
    sessions.destroy_all("mia").await.unwrap();

    server.reset_counts();
    for _ in 0..10 {
        signed_in(&app, "ann").await;
    }
    let counts = server.counts();
    assert_eq!((counts.of("evalsha"), counts.of("eval")), (20, 0));
    assert_eq!(counts.of("zadd"), 20);

    server.reset_counts();
    assert_eq!(sessions.of("ann").await.unwrap().len(), 10);
    let counts = server.counts();
    let of = |name: &str| counts.of(name);
    assert_eq!((of("zrange"), of("get"), of("pttl")), (1, 10, 10));
    assert_eq!((of("evalsha"), of("zscan"), of("scan")), (0, 0, 0));

    server.reset_counts();
    assert_eq!(sessions.destroy_all("ann").await.unwrap(), 10);
    let counts = server.counts();
    let of = |name: &str| counts.of(name);
    // The generation, ten sessions, and the index.
    assert_eq!((of("evalsha"), of("unlink"), of("zrange")), (12, 10, 2));

    // What is left is the generation; the key lives no longer than the sessions could have.
    let key = format!("{}of:{{{}}}", store.namespace(), IndexKey::of("ann"));
    let left = redis::cmd("PTTL").arg(&key).query(&mut server.connection());
    let left: i64 = left.unwrap();
    assert!((1..=86_400_000).contains(&left), "{left}");
}
