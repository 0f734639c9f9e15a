//! Many requests, two processes, one session.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use futures_util::future::join_all;

use crate::support::node::Answer;
use crate::support::{Ground, Node, fresh_prefix};

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

    /// All requests at once, to both nodes in turn.
    async fn at_once(&self, path: impl Fn(usize) -> String) -> Vec<Answer> {
        let answers = join_all((0..REQUESTS).map(|number| {
            let path = path(number);
            async move { self.nodes[number % 2].get(&path, Some(&self.cookie)).await }
        }));
        let answers = answers.await;
        for answer in &answers {
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert_eq!(answer.cookie, None, "the browser's cookie has not changed");
        }
        answers
    }

    fn keys(&self) -> Vec<String> {
        let pattern = format!("{}*", self.prefix);
        redis::cmd("KEYS")
            .arg(pattern)
            .query(&mut self.ground.connection())
            .unwrap()
    }
}

#[tokio::test]
async fn fifty_inserts_of_fifty_keys_are_all_there() {
    let site = Site::new().await;
    site.at_once(|number| format!("/set?k=key{number}&v=x"))
        .await;
    let keys = site.get("/read").await.text;
    assert_eq!(
        keys.split(',').filter(|key| key.starts_with("key")).count(),
        REQUESTS
    );
    assert_eq!(site.keys().len(), 1);
}

#[tokio::test]
async fn fifty_increments_count_fifty() {
    let site = Site::new().await;
    site.at_once(|_| "/incr?k=n".to_owned()).await;
    assert_eq!(site.get("/number?k=n").await.text, "50");
}

#[tokio::test]
async fn fifty_increments_now_give_fifty_numbers() {
    let site = Site::new().await;
    let answers = site.at_once(|_| "/incr-now?k=n".to_owned()).await;
    let numbers: BTreeSet<usize> = answers
        .iter()
        .map(|answer| answer.text.parse().unwrap())
        .collect();
    assert_eq!(numbers, (1..=REQUESTS).collect());
}

#[tokio::test]
async fn fifty_updates_of_one_cart_put_in_fifty_items() {
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
async fn one_of_fifty_gets_the_token() {
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

/// Starts a slow request that writes, does something else meanwhile, and returns how the slow one ended.
async fn overtaken(site: &Site, by: &str) -> (Answer, Answer) {
    let slow = site.nodes[0].get("/slow?ms=400&k=late", Some(&site.cookie));
    let fast = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        site.nodes[1].get(by, Some(&site.cookie)).await
    };
    tokio::join!(slow, fast)
}

#[tokio::test]
async fn a_slow_write_overtaken_by_a_logout_brings_nothing_back() {
    let site = Site::new().await;
    let (slow, logout) = overtaken(&site, "/logout").await;
    assert_eq!(
        (logout.status.as_u16(), logout.cookie.as_deref()),
        (200, Some("id="))
    );
    assert_eq!((slow.status.as_u16(), slow.cookie), (409, None));
    assert_eq!(site.keys(), Vec::<String>::new());
    assert_eq!(site.get("/read").await.text, "");
}

#[tokio::test]
async fn a_slow_read_overtaken_by_a_logout_brings_nothing_back() {
    let site = Site::new().await;
    let slow = site.nodes[0].get("/slow?ms=400", Some(&site.cookie));
    let logout = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        site.nodes[1].get("/logout", Some(&site.cookie)).await
    };
    let (slow, _) = tokio::join!(slow, logout);
    assert_eq!((slow.status.as_u16(), slow.cookie), (200, None));
    assert_eq!(site.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn a_slow_write_overtaken_by_a_sign_in_writes_nothing_into_it() {
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
    assert_eq!(site.get("/whoami").await.text, "", "the old token is dead");
}

#[tokio::test]
async fn fifty_visitors_at_once_never_see_each_other() {
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
    assert_eq!(site.keys().len(), REQUESTS + 1);
}

#[tokio::test]
async fn of_tabs_that_sign_in_at_once_one_does_and_its_cookie_works() {
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
        panic!("{} tabs have got a cookie", winners.len());
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
        "the token of before is dead"
    );
    assert_eq!(site.keys().len(), 1);
}
