//! The examples, used as a reader would use them.

use std::collections::BTreeSet;

use tonic::Code;

use self::counter::counter_client::CounterClient;
use self::counter::{AddRequest, SignInRequest, SignOutRequest};
use crate::support::customer::Customer;
#[cfg(target_os = "linux")]
use crate::support::until;
use crate::support::{Ground, Node};

#[allow(
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    reason = "generated from counter.proto"
)]
#[path = "../../examples/tonic/counter.rs"]
mod counter;

/// An example on the memory store, and on Redis.
fn both(example: &str) -> [(Option<Ground>, Node); 2] {
    let ground = Ground::new();
    let environment = [("REDIS_URL", &*ground.url()), ("REDIS_TIMEOUT", "60")];
    let on_redis = Node::example(example, &environment);
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
async fn a_file_and_the_environment_configure_an_application() {
    let ground = Ground::new();
    let on_redis = [
        ("SESSILE__STORE__URL", &*ground.url()),
        ("SESSILE__STORE__COMMAND_TIMEOUT", "60s"),
        ("SESSILE__STORE__REQUEST_BUDGET", "60s"),
        ("SESSILE__SESSION__COOKIE__NAME", "__Host-shop"),
    ];
    for (environment, cookie_name) in [(&[][..], "__Host-id="), (&on_redis, "__Host-shop=")] {
        let node = Node::example("configured", environment);
        assert_eq!(node.get("/health", None).await.text, "healthy\n");
        let first = node.get("/", None).await;
        let cookie = first.cookie.expect("a cookie");
        assert!(cookie.starts_with(cookie_name), "{cookie}");
        assert_eq!(node.get("/", Some(&cookie)).await.text, "visit 2\n");
    }
}

#[tokio::test]
async fn an_application_ends_with_what_to_write_instead_of_a_misspelt_setting() {
    for (variable, value, expected) in [
        (
            "SESSILE__SESSION__IDLE_TIMOUT",
            "15m",
            "Error: unknown setting `session.idle_timout`: did you mean `idle_timeout`?",
        ),
        (
            "SESSILE__SESSION__IDLE_TIMEOUT",
            "0s",
            "Error: session.idle_timeout = 0s: write a duration from \"1s\" to \"3650d\"",
        ),
    ] {
        let ended = tokio::process::Command::new(crate::support::node::binary("configured"))
            .env(variable, value)
            .env("PORT", "0")
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && text.contains(expected), "{text}");
    }
}

/// The metrics of the first row of the dashboard.
fn at_a_glance() -> BTreeSet<String> {
    let dashboard = include_str!("../../examples/metrics/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let row = panels.iter().skip(1).take_while(|it| it["type"] != "row");
    let text: String = row.map(|panel| panel["targets"].to_string()).collect();
    let words = text.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    let ours = words.filter(|word| word.starts_with("sessile_"));
    ours.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_dashboard_has_a_value_for_each_question_from_the_first_visitor_on() {
    let metrics = at_a_glance();
    assert!(metrics.len() >= 4, "{metrics:?}");
    for (ground, node) in both("metrics") {
        let first = node.post("/cart", "", None).await;
        let cookie = first.cookie.expect("a cookie");
        let page = node.get("/", Some(&cookie)).await.text;
        assert_eq!(page, "1 in the cart\n");
        let scrape = node.get("/metrics", None).await.text;
        for name in &metrics {
            // A memory store has no server.
            let is_there = ground.is_some() || !name.starts_with("sessile_redis_");
            let mut lines = scrape.lines();
            let has_value = lines.any(|line| {
                line.starts_with(&format!("{name}{{"))
                    && line.rsplit(' ').next().unwrap().parse::<f64>().is_ok()
            });
            assert_eq!(has_value, is_there, "{name}\n{scrape}");
        }
        let loads = "sessile_load_duration_seconds_count{outcome=\"loaded\"} 1\n";
        assert!(scrape.contains(loads), "{scrape}");
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
        assert_eq!(logout.status, 303);
        assert_eq!(
            logout.cookie.as_deref(),
            Some("id="),
            "the logout removes the cookie"
        );
        assert_eq!(node.get("/whoami", Some(&mia)).await.status, 401);
        let page = node.get("/", None).await.text;
        assert!(page.contains("Sign in"), "{page}");
    }
}

#[tokio::test]
async fn a_password_opens_the_page_that_the_visitor_wanted() {
    for (_ground, node) in both("password") {
        let mut mia = Customer::of([&node]);
        let wanted = mia.visit(0, "/account").await;
        let sign_in = wanted.location.expect("the sign-in page");
        assert_eq!(sign_in, "/sign-in?next=%2Faccount");
        let page = mia.page(0, &sign_in).await;
        assert!(
            page.contains("action=\"/sign-in?next=%2Faccount\""),
            "{page}"
        );

        let mut answers = Vec::new();
        for form in ["name=mia&password=rose", "name=leo&password=tulip"] {
            let refused = mia.send_form(0, &sign_in, form).await;
            assert_eq!(refused.status, 403);
            assert_eq!(mia.cookie, None, "a failed sign-in needs no session");
            answers.push(refused.text);
        }
        assert_eq!(answers[0], answers[1], "nobody learns who has an account");

        let right = "name=mia&password=tulip";
        assert_eq!(mia.post(0, &sign_in, right).await, "/account");
        let page = mia.page(0, "/account").await;
        assert!(page.contains("Hello, mia"), "{page}");
        assert!(
            page.contains("argon2id") && !page.contains("m=4096,"),
            "the sign-in has renewed the old hash: {page}"
        );
        let elsewhere = "/sign-in?next=%2F%2Fevil.example";
        assert_eq!(mia.post(0, elsewhere, right).await, "/account");
        assert_eq!(mia.post(0, "/sign-out", "").await, "/");
        assert_eq!(mia.visit(0, "/account").await.status, 303);
    }
}

/// A browser that signs in by the other site of the OAuth example.
struct Client<'a> {
    app: &'a Node,
    browser: reqwest::Client,
}

impl<'a> Client<'a> {
    fn of(app: &'a Node) -> Self {
        let accept = (reqwest::header::ACCEPT, "text/html".parse().unwrap());
        let browser = reqwest::Client::builder()
            .cookie_store(true)
            .default_headers([accept].into_iter().collect())
            .redirect(reqwest::redirect::Policy::none());
        let browser = browser.build().expect("a client");
        Self { app, browser }
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.app.base())
    }

    async fn get(&self, url: &str) -> (u16, String) {
        let answer = self.browser.get(url).send().await.expect("an answer");
        outcome(answer).await
    }

    /// Begins to sign in, and returns the address of the other site.
    async fn begin(&self) -> String {
        let (status, address) = self.get(&self.at("/sign-in?next=/account")).await;
        assert_eq!(status, 303, "{address}");
        address
    }

    /// Answers the question of the other site, and returns the address of the callback.
    async fn answer(&self, address: &str, user: &str) -> String {
        let (status, page) = self.get(address).await;
        assert_eq!(status, 200, "{page}");
        let form = self.browser.post(address).body(format!("user={user}"));
        let form = form.header("content-type", "application/x-www-form-urlencoded");
        let (status, callback) = outcome(form.send().await.expect("an answer")).await;
        assert_eq!(status, 303, "{callback}");
        callback
    }

    async fn user(&self) -> String {
        self.get(&self.at("/account")).await.1
    }
}

/// The status, and the address of a redirect or the text.
async fn outcome(answer: reqwest::Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let location = answer.headers().get("location");
    let text = match location.map(|it| it.to_str().unwrap().to_owned()) {
        Some(location) => location,
        None => answer.text().await.unwrap(),
    };
    (status, text)
}

#[tokio::test]
async fn a_callback_signs_in_the_browser_that_began_and_only_once() {
    let to_account = (303, "/account".to_owned());
    for (_ground, node) in both("oauth") {
        let mia = Client::of(&node);
        assert_eq!(mia.user().await, "/sign-in?next=%2Faccount");
        // Two tabs begin before either of them ends.
        let [first, second] = [mia.begin().await, mia.begin().await];
        assert!(first.contains("code_challenge_method=S256"), "{first}");
        let [first, second] = [
            mia.answer(&first, "1").await,
            mia.answer(&second, "1").await,
        ];
        let forged = first.replace("state=", "state=x");
        let other = Client::of(&node);
        other.begin().await;
        for (browser, callback) in [(&mia, &forged), (&other, &first)] {
            let (status, page) = browser.get(callback).await;
            assert_eq!(status, 403, "{page}");
            assert!(page.contains("did not begin in this browser"), "{page}");
        }
        assert_eq!(mia.get(&first).await, to_account);
        assert!(mia.user().await.contains("user 1"));
        assert_eq!(mia.get(&first).await.0, 403, "a callback counts once");
        assert_eq!(mia.get(&second).await, to_account);
        assert!(mia.user().await.contains("user 1"));

        let refused = mia.answer(&mia.begin().await, "").await;
        assert_eq!(mia.get(&refused).await.0, 403);
        // A code that the other site does not know.
        let mut callback = other.answer(&other.begin().await, "2").await;
        callback.push('x');
        assert_eq!(other.get(&callback).await.0, 502);
        assert_eq!(other.user().await, "/sign-in?next=%2Faccount");
    }
}

#[tokio::test]
async fn two_processes_share_the_sessions_of_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("sessions.sqlite");
    let environment = [("DATABASE", database.to_str().unwrap())];
    let nodes = [(); 2].map(|()| Node::example("own_store", &environment));
    let cookie = nodes[0].get("/", None).await.cookie.expect("a cookie");
    let visits = (0..20).map(|n| nodes[n % 2].get("/", Some(&cookie)));
    for visit in futures_util::future::join_all(visits).await {
        assert_eq!(visit.status, 200, "{}", visit.text);
    }
    let [one, _] = &nodes;
    one.kill();
    let last = nodes[1].get("/", Some(&cookie)).await;
    assert_eq!(last.text, "visit 22\n");
}

#[tokio::test]
async fn a_hyper_service_has_sessions_and_knows_its_clients() {
    for (_ground, node) in both("hyper") {
        let first = node.get("/", None).await;
        assert_eq!(first.text, "visit 1, network: Unbound\n");
        let visitor = first.cookie.expect("a cookie");
        let second = node.get("/", Some(&visitor)).await;
        assert_eq!(second.text, "visit 2, network: Match\n");
        assert_eq!(second.cookie, None);
        assert_eq!(node.get("/whoami", Some(&visitor)).await.status, 401);
        assert_eq!(node.get("/nowhere", None).await.status, 404);

        let login = node.post("/sign-in", "", Some(&visitor)).await;
        let mia = login.cookie.expect("a new cookie");
        assert_eq!(node.get("/whoami", Some(&mia)).await.text, "mia");
        // The token from before the login still names the session, and may not use it.
        assert_eq!(node.get("/", Some(&visitor)).await.status, 409);
        let third = node.get("/", Some(&mia)).await;
        assert_eq!(third.text, "visit 3, network: Match\n");
        let logout = node.post("/sign-out", "", Some(&mia)).await;
        assert_eq!(logout.cookie.as_deref(), Some("id="));
        assert_eq!(node.get("/whoami", Some(&mia)).await.status, 401);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_hyper_server_outlives_a_lack_of_files() {
    let node = Node::example("hyper", &[]);
    node.limit_open_files(64);
    let address = node.base().trim_start_matches("http://");
    let connections = [(); 80].map(|()| std::net::TcpStream::connect(address).unwrap());
    until("it has no file left", async || node.has_open_files(64)).await;
    drop(connections);
    let first = node.get("/", None).await;
    assert_eq!(first.text, "visit 1, network: Unbound\n");
}

/// A request with the token, if there is one.
fn with_token<T>(message: T, token: Option<&str>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(token) = token {
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
    }
    request
}

#[tokio::test]
async fn a_grpc_client_keeps_its_session_by_the_token_in_the_metadata() {
    for (_ground, node) in both("tonic") {
        let mut client = CounterClient::connect(node.base().to_owned())
            .await
            .unwrap();
        let amount = |amount| AddRequest { amount };
        let refused = client.add(amount(1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert_eq!(refused.message(), "Sign in first.");

        let name = "mia".to_owned();
        let signed_in = client.sign_in(SignInRequest { name }).await.unwrap();
        let token = signed_in.metadata().get("x-session-token");
        let token = token.expect("a token").to_str().unwrap().to_owned();
        let token = Some(token.as_str());
        for count in [2, 4] {
            let added = client.add(with_token(amount(2), token)).await.unwrap();
            assert_eq!(added.metadata().get("x-session-token"), None);
            assert_eq!(added.into_inner().count, count);
        }
        let negative = client.add(with_token(amount(-1), token)).await;
        assert_eq!(negative.unwrap_err().code(), Code::InvalidArgument);

        // Calls during the stream change the same session.
        let (amounts, messages) = tokio::sync::mpsc::channel(1);
        let messages = futures_util::stream::unfold(messages, |mut messages| async move {
            Some((messages.recv().await?, messages))
        });
        let stream = client.add_many(with_token(messages, token)).await.unwrap();
        let mut counts = stream.into_inner();
        amounts.send(amount(1)).await.unwrap();
        assert_eq!(counts.message().await.unwrap().unwrap().count, 5);
        let added = client.add(with_token(amount(10), token)).await.unwrap();
        assert_eq!(added.into_inner().count, 15);
        amounts.send(amount(1)).await.unwrap();
        assert_eq!(counts.message().await.unwrap().unwrap().count, 16);

        let sign_out = with_token(SignOutRequest {}, token);
        client.sign_out(sign_out).await.unwrap();
        amounts.send(amount(1)).await.unwrap();
        let ended = counts.message().await.unwrap_err();
        assert_eq!(ended.code(), Code::Aborted, "{ended}");
        let refused = client.add(with_token(amount(1), token)).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn a_flash_message_is_shown_once() {
    for (_ground, node) in both("flash") {
        let saved = node.post("/save", "text=tulips+%3C3", None).await;
        assert_eq!(saved.status, 303);
        let cookie = saved.cookie.expect("a cookie");
        let page = node.get("/", Some(&cookie)).await.text;
        assert!(page.contains("success: Saved “tulips &lt;3”."), "{page}");
        assert!(!node.get("/", Some(&cookie)).await.text.contains("Saved"));
    }
}

#[tokio::test]
async fn two_websockets_count_together_until_the_session_ends() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

    for (_ground, node) in both("websocket") {
        let cookie = node.get("/", None).await.cookie.expect("a cookie");
        let open = || async {
            let url = format!("{}/count", node.base().replace("http", "ws"));
            let mut request = url.into_client_request().unwrap();
            request
                .headers_mut()
                .insert("cookie", cookie.parse().unwrap());
            tokio_tungstenite::connect_async(request).await.unwrap().0
        };
        let mut sockets = [open().await, open().await];
        for number in 1..=10 {
            let socket = &mut sockets[number % 2];
            socket.send(Message::text("count")).await.unwrap();
            let answer = socket.next().await.unwrap().unwrap();
            assert_eq!(answer.to_text().unwrap(), number.to_string());
        }
    }
}

#[tokio::test]
async fn a_customer_shops_signs_in_orders_and_signs_out() {
    for (_ground, node) in both("shop") {
        let mut customer = Customer::of([&node]);
        let page = customer.page(0, "/").await;
        assert!(
            page.contains("visit 1") && page.contains("Cart (0)"),
            "{page}"
        );
        customer.post(0, "/cart/add", "article=0").await;
        customer.post(0, "/cart/add", "article=0").await;
        customer.post(0, "/cart/add", "article=99").await;
        let page = customer.page(0, "/").await;
        assert!(
            page.contains("Tulip bulbs is in your cart.") && page.contains("Cart (2)"),
            "{page}"
        );
        assert!(page.contains("We do not have that article."), "{page}");
        assert!(!customer.page(0, "/").await.contains("is in your cart"));
        assert!(customer.page(0, "/cart").await.contains("13.80 €"));

        let to = customer.post(0, "/order", "").await;
        assert_eq!(to, "/sign-in?next=/cart");
        assert!(
            customer
                .page(0, &to)
                .await
                .contains("your cart waits for you")
        );
        let visitor = customer.cookie.clone();
        customer
            .post(0, "/sign-in", "user=Mia%3Cb%3E&password=tulip&remember=yes")
            .await;
        assert_ne!(customer.cookie, visitor, "signing in rotates the token");
        let page = customer.page(0, "/").await;
        assert!(
            page.contains("Mia&lt;b&gt;") && page.contains("Cart (2)"),
            "{page}"
        );
        assert!(
            page.contains("ends in 43199 minutes") || page.contains("ends in 43200 minutes"),
            "{page}"
        );
        customer.post(0, "/order", "").await;
        customer.post(0, "/order", "").await;
        let page = customer.page(0, "/").await;
        assert!(
            page.contains("Your order no. 1 is on its way.")
                && page.contains("nothing in your cart"),
            "{page}"
        );

        let mia = customer.cookie.clone();
        customer.post(0, "/sign-out", "").await;
        let page = customer.page(0, "/").await;
        assert!(
            page.contains("You are signed out.") && page.contains("visit 1"),
            "{page}"
        );
        customer.cookie = mia;
        assert!(
            !customer.page(0, "/").await.contains("Mia"),
            "the old cookie is revoked"
        );
    }
}

#[tokio::test]
async fn two_shops_on_one_redis_share_the_cart() {
    let ground = Ground::new();
    let environment = [("REDIS_URL", &*ground.url()), ("REDIS_TIMEOUT", "60")];
    let shops = [(); 2].map(|()| Node::example("shop", &environment));
    let mut customer = Customer::of(&shops);
    customer.page(0, "/").await;
    let add = |number: usize| {
        let mut tab = customer.clone();
        async move {
            let form = format!("article={}", number % 3);
            tab.send_form(number % 2, "/cart/add", &form).await.status
        }
    };
    let statuses = futures_util::future::join_all((0..30).map(add)).await;
    assert!(statuses.iter().all(|status| *status == 303), "{statuses:?}");
    for shop in 0..2 {
        let page = customer.page(shop, "/cart").await;
        for article in ["10 × Tulip bulbs", "10 × Watering can", "10 × Garden twine"] {
            assert!(page.contains(article), "{page}");
        }
    }
}

#[tokio::test]
async fn a_short_soak_finds_nothing_wrong() {
    let server = std::env::var("SESSILE_TEST_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let soaked = tokio::process::Command::new(crate::support::node::binary("soak"))
        .args(["--minutes", "0.25", "--browsers", "16", "--every", "3"])
        .args(["--server", &server])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&soaked.stdout);
    let wrong = String::from_utf8_lossy(&soaked.stderr);
    assert!(soaked.status.success(), "{text}{wrong}");
    assert!(text.contains("faults: {\""), "{text}");
}
