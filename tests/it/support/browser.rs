//! A client that keeps the session cookie as browsers do, and sends its requests to a router in this process.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use tower::ServiceExt as _;

#[derive(Clone, Debug, Default)]
pub struct Browser {
    /// `name=value`, if there is one.
    pub cookie: Option<String>,
}

pub struct Page {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Page {
    pub fn set_cookies(&self) -> Vec<&str> {
        self.headers
            .get_all(header::SET_COOKIE)
            .iter()
            .map(|cookie| cookie.to_str().unwrap())
            .collect()
    }

    /// The text of the page. Panics unless the status is 200.
    pub fn ok(self) -> String {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.text
    }
}

impl Browser {
    /// Sends a request, and stores or removes the cookie as the response says.
    pub async fn get(&mut self, app: &Router, path: &str) -> Page {
        let page = self.peek(app, path).await;
        for cookie in page.set_cookies() {
            self.keep(cookie);
        }
        page
    }

    /// Sends a request without changing the cookie, as for one of several concurrent requests.
    pub async fn peek(&self, app: &Router, path: &str) -> Page {
        let mut request = Request::get(path);
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        fetch(app, request.body(Body::empty()).unwrap()).await
    }

    pub fn keep(&mut self, cookie: &str) {
        let mut parts = cookie.split("; ");
        let pair = parts.next().unwrap();
        let removed = parts.any(|part| part == "Max-Age=0");
        self.cookie = (!removed).then(|| pair.to_owned());
    }

    /// The value of the cookie, which is the session's token.
    pub fn token(&self) -> &str {
        self.cookie
            .as_ref()
            .expect("a cookie")
            .split_once('=')
            .unwrap()
            .1
    }

    /// Whether the token names this handle. The handle is 16 of the token's 32 bytes: 21 characters and a part of the
    /// next.
    pub fn carries(&self, handle: &str) -> bool {
        self.token().starts_with(&handle[..21])
    }
}

pub async fn fetch(app: &Router, request: Request<Body>) -> Page {
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    Page {
        status: parts.status,
        headers: parts.headers,
        text,
    }
}
