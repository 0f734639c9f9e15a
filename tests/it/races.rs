//! Races: many concurrent requests of one session, on two processes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use futures_util::future::join_all;
use sessile::RedisConfig;
use sessile::store::StatsOptions;

use crate::support::node::Answer;
use crate::support::{Gate, Ground, Node, fresh_prefix, store_with};

const REQUESTS: usize = 50;

struct Site {
    ground: Ground,
    prefix: String,
    nodes: [Node; 2],
    cookie: String,
}

impl Site {
    async fn new() -> Self {
        let (ground, prefix) = (Ground::new(), fresh_prefix());
        let nodes = [(); 2].map(|()| Node::start(&ground.url(), &prefix));
        let cookie = nodes[0]
            .get("/set?k=name&v=mia", None)
            .await
            .cookie
            .expect("a cookie");
        Self {
            ground,
            prefix,
            nodes,
            cookie,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.nodes[0].get(path, Some(&self.cookie)).await
    }

    /// Sends all requests at once, alternating between the nodes.
    async fn at_once(&self, path: impl Fn(usize) -> String) -> Vec<Answer> {
        let answers = join_all((0..REQUESTS).map(|number| {
            let path = path(number);
            async move { self.nodes[number % 2].get(&path, Some(&self.cookie)).await }
        }));
        let answers = answers.await;
        for answer in &answers {
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert_eq!(
                answer.cookie, None,
                "no response changes the browser's cookie"
            );
        }
        answers
    }

    /// The number of sessions in the store.
    async fn sessions(&self) -> usize {
        let own = |config: &mut RedisConfig| config.key_prefix = self.prefix.clone();
        let store = store_with(&self.ground.url(), own).await;
        let stats = store.stats(StatsOptions::default(), |_| ()).await;
        stats.unwrap().sessions.try_into().unwrap()
    }
}

/// Every call that merges, by five hundred concurrent writers on three nodes.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_writers_on_three_nodes_lose_nothing() {
    const WRITERS: usize = 500;
    let (ground, prefix) = (Ground::new(), fresh_prefix());
    let nodes = [(); 3].map(|()| Node::start(&ground.url(), &prefix));
    let cookie = nodes[0].get("/set?k=name&v=mia", None).await.cookie;
    let cookie = cookie.expect("a cookie");
    // Opens the connections first, since the test is about contention for the session.
    let all = |path: fn(usize) -> String| {
        let (nodes, cookie) = (&nodes, &cookie);
        join_all((0..WRITERS).map(move |number| async move {
            let began = Instant::now();
            let answer = nodes[number % 3].get(&path(number), Some(cookie)).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            began.elapsed()
        }))
    };
    all(|_| "/plain".to_owned()).await;
    let before: Vec<_> = nodes.iter().map(Node::events).collect();
    let mut took = all(|number| match number % 4 {
        0 => "/incr?k=n".to_owned(),
        1 => format!("/push?k=list&v={number}"),
        2 => format!("/cart?item={}", number / 8),
        _ => format!("/set?k=key{number}&v=x"),
    })
    .await;
    let get = |path: &'static str| nodes[0].get(path, Some(&cookie));
    assert_eq!(get("/number?k=n").await.text, "125");
    let list: BTreeSet<String> = serde_json::from_str(&get("/get?k=list").await.text).unwrap();
    assert_eq!(list.len(), 125);
    let cart: HashMap<String, u32> = serde_json::from_str(&get("/get?k=cart").await.text).unwrap();
    assert_eq!(cart.values().sum::<u32>(), 125);
    let keys = get("/read").await.text;
    assert_eq!(
        keys.split(',').filter(|key| key.starts_with("key")).count(),
        125
    );

    let counted = |name: &str| -> u64 {
        let now = nodes.iter().map(Node::events);
        let counts = now.zip(&before).map(|(now, before)| {
            let count = |events: &BTreeMap<String, u64>| events.get(name).copied().unwrap_or(0);
            count(&now) - count(before)
        });
        counts.sum()
    };
    let (commits, attempts) = (counted("Committed"), counted("Attempts"));
    took.sort_unstable();
    println!(
        "{WRITERS} writers on 3 nodes: {commits} commits, {:.2} attempts each; p50 {:?}, p99 {:?}",
        attempts as f64 / commits as f64,
        took[WRITERS / 2],
        took[WRITERS * 99 / 100]
    );
    assert!(commits > 0 && attempts <= 3 * commits);
}

#[tokio::test]
async fn fifty_inserts_of_fifty_keys_are_all_stored() {
    let site = Site::new().await;
    site.at_once(|number| format!("/set?k=key{number}&v=x"))
        .await;
    let keys = site.get("/read").await.text;
    assert_eq!(
        keys.split(',').filter(|key| key.starts_with("key")).count(),
        REQUESTS
    );
    assert_eq!(site.sessions().await, 1);
}

#[tokio::test]
async fn fifty_increments_count_fifty() {
    let site = Site::new().await;
    site.at_once(|_| "/incr?k=n".to_owned()).await;
    assert_eq!(site.get("/number?k=n").await.text, "50");
}

#[tokio::test]
async fn fifty_calls_of_increment_now_return_fifty_numbers() {
    let site = Site::new().await;
    let answers = site.at_once(|_| "/incr-now?k=n".to_owned()).await;
    let numbers: BTreeSet<usize> = answers
        .iter()
        .map(|answer| answer.text.parse().unwrap())
        .collect();
    assert_eq!(numbers, (1..=REQUESTS).collect());
}

#[tokio::test]
async fn fifty_updates_of_one_cart_add_fifty_items() {
    let site = Site::new().await;
    site.at_once(|number| format!("/cart?item={}", number / 2))
        .await;
    let cart: HashMap<String, u32> =
        serde_json::from_str(&site.get("/get?k=cart").await.text).unwrap();
    assert_eq!(cart.len(), REQUESTS / 2);
    assert!(cart.values().all(|count| *count == 2), "{cart:?}");
}

#[tokio::test]
async fn fifty_pushes_append_fifty_items() {
    let site = Site::new().await;
    site.at_once(|number| format!("/push?k=list&v={number}"))
        .await;
    let list: Vec<String> = serde_json::from_str(&site.get("/get?k=list").await.text).unwrap();
    assert_eq!(list.len(), REQUESTS);
    assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), REQUESTS);
}

#[tokio::test]
async fn one_of_fifty_requests_takes_the_token() {
    let site = Site::new().await;
    site.get("/set?k=token&v=secret").await;
    let answers = site.at_once(|_| "/take?k=token".to_owned()).await;
    let winners = answers
        .iter()
        .filter(|answer| answer.text == "secret")
        .count();
    assert_eq!(winners, 1);
    assert!(
        answers
            .iter()
            .all(|answer| answer.text == "secret" || answer.text.is_empty())
    );
}

/// Holds a request after its load, sends another one to the other node meanwhile, and returns both responses.
async fn held_back(site: &Site, path: &str, by: &str) -> (Answer, Answer) {
    let gate = Gate::new();
    let path = format!("{path}&{}", gate.query());
    let slow = site.nodes[0].get(&path, Some(&site.cookie));
    let fast = async {
        gate.arrived(1).await;
        let answer = site.nodes[1].get(by, Some(&site.cookie)).await;
        gate.open();
        answer
    };
    tokio::join!(slow, fast)
}

/// Like [`held_back`], with a request that writes.
async fn overtaken(site: &Site, by: &str) -> (Answer, Answer) {
    held_back(site, "/slow?k=late", by).await
}

#[tokio::test]
async fn a_slow_write_overtaken_by_a_logout_does_not_revive_the_session() {
    let site = Site::new().await;
    let (slow, logout) = overtaken(&site, "/logout").await;
    assert_eq!(
        (logout.status.as_u16(), logout.cookie.as_deref()),
        (200, Some("id="))
    );
    assert_eq!((slow.status.as_u16(), slow.cookie), (409, None));
    assert_eq!(site.sessions().await, 0);
    assert_eq!(site.get("/read").await.text, "");
}

#[tokio::test]
async fn a_slow_read_overtaken_by_a_logout_does_not_revive_the_session() {
    let site = Site::new().await;
    let (slow, _) = held_back(&site, "/slow?k=", "/logout").await;
    assert_eq!((slow.status.as_u16(), slow.cookie), (200, None));
    assert_eq!(site.sessions().await, 0);
}

#[tokio::test]
async fn a_slow_write_overtaken_by_a_login_is_rejected() {
    let site = Site::new().await;
    let (slow, login) = overtaken(&site, "/login?u=mia").await;
    assert_eq!(login.status, 200);
    assert_eq!((slow.status.as_u16(), slow.cookie), (409, None));
    let signed_in = login.cookie.expect("a new cookie");
    assert_ne!(signed_in, site.cookie);
    assert_eq!(
        site.nodes[0].get("/read", Some(&signed_in)).await.text,
        "name"
    );
    assert_eq!(
        site.nodes[0].get("/whoami", Some(&signed_in)).await.text,
        "mia"
    );
    assert_eq!(
        site.get("/whoami").await.text,
        "",
        "the old token is revoked"
    );
}

#[tokio::test]
async fn fifty_concurrent_visitors_never_see_each_other() {
    let site = Site::new().await;
    let visits = join_all((0..REQUESTS).map(|number| {
        let nodes = &site.nodes;
        async move {
            let path = format!("/set?k=who&v={number}");
            let cookie = nodes[number % 2]
                .get(&path, None)
                .await
                .cookie
                .expect("a cookie");
            let seen = nodes[(number + 1) % 2]
                .get("/get?k=who", Some(&cookie))
                .await
                .text;
            assert_eq!(seen, format!("\"{number}\""));
        }
    }));
    visits.await;
    assert_eq!(site.sessions().await, REQUESTS + 1);
}

#[tokio::test]
async fn one_of_several_concurrent_logins_succeeds_and_its_cookie_works() {
    let site = Site::new().await;
    let logins = (0..6).map(|number| {
        let (node, cookie) = (&site.nodes[number % 2], &site.cookie);
        async move {
            node.get(&format!("/login?u=mia{number}"), Some(cookie))
                .await
        }
    });
    let answers = join_all(logins).await;
    let winners: Vec<_> = answers
        .iter()
        .filter_map(|answer| answer.cookie.as_deref())
        .collect();
    let [winner] = winners[..] else {
        panic!("{} tabs got a cookie", winners.len());
    };
    assert!(
        answers
            .iter()
            .all(|answer| (answer.status == 200) == answer.cookie.is_some())
    );
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 200 || answer.status == 409)
    );
    let who = site.nodes[1].get("/whoami", Some(winner)).await.text;
    assert!(who.starts_with("mia"), "{who}");
    assert_eq!(
        site.get("/whoami").await.text,
        "",
        "the old token is revoked"
    );
    assert_eq!(site.sessions().await, 1);
}
