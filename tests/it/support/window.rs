//! A client that keeps all cookies by domain and path, as RFC 6265 has it.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use reqwest::Url;
use reqwest::cookie::{CookieStore as _, Jar};

use super::browser::{Page, fetch};

#[derive(Default)]
pub struct Window(Jar);

impl Window {
    /// Sends a request, and stores or removes cookies as the response says.
    pub async fn get(&self, app: &Router, url: &str) -> Page {
        let url: Url = url.parse().unwrap();
        let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
        let mut request = Request::get(path).header("host", url.authority());
        if let Some(cookies) = self.0.cookies(&url) {
            request = request.header("cookie", cookies);
        }
        let page = fetch(app, request.body(Body::empty()).unwrap()).await;
        self.keep(&page, &url);
        page
    }

    /// Stores or removes cookies as a response says that something at this URL has sent.
    pub fn keep(&self, page: &Page, url: &Url) {
        let set: Vec<HeaderValue> = page.headers.get_all("set-cookie").iter().cloned().collect();
        self.0.set_cookies(&mut set.iter(), url);
    }

    /// The number of cookies that the browser sends.
    pub fn sends(&self, url: &str) -> usize {
        self.names(url).len()
    }

    /// The names of the cookies that the browser sends, in alphabetical order.
    pub fn names(&self, url: &str) -> Vec<String> {
        let cookies = self.0.cookies(&url.parse().unwrap());
        let cookies = cookies.map_or_else(String::new, |it| it.to_str().unwrap().to_owned());
        let name = |pair: &str| pair.split_once('=').unwrap().0.to_owned();
        let pairs = cookies.split("; ").filter(|pair| !pair.is_empty());
        let mut names: Vec<String> = pairs.map(name).collect();
        names.sort_unstable();
        names
    }
}
