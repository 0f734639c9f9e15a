//! Visitors for the charts: they read, buy, sign in on several devices, sign out, and now and then come with a dead cookie.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use reqwest::cookie::Jar;

const DEAD: &str = "id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; Path=/";
const MALFORMED: &str = "id=none; Path=/";

/// Starts this many visitors.
pub(crate) fn begin(server: SocketAddr, visitors: usize) {
    for number in 0..visitors {
        tokio::spawn(visit(format!("http://localhost:{}", server.port()), number));
    }
}

async fn visit(server: String, number: usize) {
    loop {
        // Errors are what the charts are to show.
        let _ = one_visit(&server, number).await;
        pause(1000).await;
    }
}

async fn one_visit(server: &str, number: usize) -> Result<(), reqwest::Error> {
    let jar = Arc::new(Jar::default());
    if let (Some(cookie), Ok(url)) = (stale_cookie(), server.parse()) {
        jar.add_cookie_str(cookie, &url);
    }
    let browser = Client::builder()
        .cookie_provider(jar)
        .timeout(Duration::from_secs(5))
        .build()?;
    let post = |path: &str| browser.post(format!("{server}{path}"));
    browser.get(server).send().await?;
    post("/cart").send().await?;
    // Seven visitors share an account, so that some of their sessions end.
    let user = format!("user {}", number / 7);
    post("/login").body(user).send().await?;
    for _ in 0..10 {
        pause(300).await;
        browser.get(server).send().await?;
        // Two tabs put something into the cart at once.
        let (one, two) = tokio::join!(post("/cart").send(), post("/cart").send());
        one.and(two)?;
    }
    let (one, two) = tokio::join!(post("/pay").send(), post("/pay").send());
    one.and(two)?;
    if rand::random_ratio(1, 2) {
        post("/logout").send().await?;
    }
    Ok(())
}

fn stale_cookie() -> Option<&'static str> {
    match rand::random_range(0..10) {
        0 => Some(DEAD),
        1 => Some(MALFORMED),
        _ => None,
    }
}

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..millis * 2))).await;
}
