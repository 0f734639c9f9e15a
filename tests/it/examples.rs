//! The examples, used as their reader would.

use crate::support::{Ground, Node};

/// In memory, and on Redis.
fn both(example: &str) -> [(Option<Ground>, Node); 2] {
    let ground = Ground::new();
    let on_redis = Node::example(example, &[("REDIS_URL", &ground.url())]);
    [
        (None, Node::example(example, &[])),
        (Some(ground), on_redis),
    ]
}

#[tokio::test]
async fn the_counter_counts() {
    for (_ground, node) in both("counter") {
        let first = node.get("/", None).await;
        assert_eq!(first.text, "visit 1\n");
        let cookie = first.cookie.expect("a cookie");
        let second = node.get("/", Some(&cookie)).await;
        assert_eq!((second.text.as_str(), second.cookie), ("visit 2\n", None));
        assert_eq!(node.get("/", None).await.text, "visit 1\n");
    }
}

#[tokio::test]
async fn users_sign_in_and_out() {
    for (_ground, node) in both("login") {
        assert_eq!(node.get("/whoami", None).await.status, 401);
        let wrong = node.post("/login", "user=mia&password=rose", None).await;
        let visitor = wrong.cookie.expect("a cookie for the notice");
        let page = node.get("/", Some(&visitor)).await.text;
        assert!(page.contains("User or password is wrong."), "{page}");
        let page = node.get("/", Some(&visitor)).await.text;
        assert!(
            !page.contains("wrong") && page.contains("Sign in"),
            "{page}"
        );

        let login = node
            .post("/login", "user=mia&password=tulip", Some(&visitor))
            .await;
        assert_eq!(login.status, 303);
        let mia = login.cookie.expect("a new cookie");
        assert_eq!(node.get("/whoami", Some(&mia)).await.text, "mia");
        assert_eq!(node.get("/whoami", Some(&visitor)).await.status, 401);
        let page = node.get("/", Some(&mia)).await.text;
        assert!(
            page.contains("You are signed in.") && page.contains("Hello, mia"),
            "{page}"
        );

        let logout = node.post("/logout", "", Some(&mia)).await;
        let stranger = logout.cookie.expect("a fresh session for the notice");
        assert_eq!(node.get("/whoami", Some(&mia)).await.status, 401);
        let page = node.get("/", Some(&stranger)).await.text;
        assert!(
            page.contains("You are signed out.") && page.contains("Sign in"),
            "{page}"
        );
    }
}
