//! One browser at the shop (`examples/shop`), which may listen on several ports.

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE, LOCATION, ORIGIN, SET_COOKIE, USER_AGENT};

use super::Node;

pub const LAPTOP: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36";
pub const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1";

/// A browser that keeps the cookie, and the token of the last page with a form.
#[derive(Clone)]
pub struct Customer {
    pub cookie: Option<String>,
    token: String,
    agent: &'static str,
    shops: Vec<String>,
    client: reqwest::Client,
}

/// A page of the shop, or a redirect to one.
#[derive(Debug)]
pub struct Visited {
    pub status: StatusCode,
    pub text: String,
    pub location: Option<String>,
}

impl Customer {
    pub fn of<'a>(shops: impl IntoIterator<Item = &'a Node>) -> Self {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self {
            cookie: None,
            token: String::new(),
            agent: LAPTOP,
            shops: shops.into_iter().map(|it| it.base().to_owned()).collect(),
            client: client.build().expect("a client"),
        }
    }

    pub fn with(mut self, agent: &'static str) -> Self {
        self.agent = agent;
        self
    }

    /// Requests a page, whatever its status.
    pub async fn visit(&mut self, shop: usize, path: &str) -> Visited {
        let request = self.client.get(format!("{}{path}", self.shops[shop]));
        self.send(request).await
    }

    /// Requests a page that must be there.
    pub async fn page(&mut self, shop: usize, path: &str) -> String {
        let page = self.visit(shop, path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text);
        page.text
    }

    /// Sends a form with the token of the last page, whatever the status.
    pub async fn send_form(&mut self, shop: usize, path: &str, form: &str) -> Visited {
        let base = &self.shops[shop];
        let request = self.client.post(format!("{base}{path}"));
        let request = request
            .header(ORIGIN, base)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(format!("{form}&_csrf={}", self.token));
        self.send(request).await
    }

    /// Sends a form that must lead to a page; returns its address.
    pub async fn post(&mut self, shop: usize, path: &str, form: &str) -> String {
        let answer = self.send_form(shop, path, form).await;
        assert_eq!(answer.status, 303, "{path}: {}", answer.text);
        answer.location.expect("an address")
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Visited {
        let mut request = request
            .header(USER_AGENT, self.agent)
            .header(ACCEPT, "text/html");
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        let response = request.send().await.expect("an answer");
        let header = |name| response.headers().get(name).map(|it| it.to_str().unwrap());
        let set = header(SET_COOKIE).map(|set| set.split(';').next().unwrap().to_owned());
        let location = header(LOCATION).map(str::to_owned);
        let status = response.status();
        let text = response.text().await.unwrap();
        self.cookie = set.or(self.cookie.take());
        if let Some((_, token)) = text.split_once("name=_csrf value=") {
            self.token = token.split('>').next().unwrap().to_owned();
        }
        Visited {
            status,
            text,
            location,
        }
    }
}
