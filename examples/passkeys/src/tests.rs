//! A passkey in software registers and signs in.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sessile::{MemoryStore, SessionLayer};
use tower::ServiceExt as _;
use webauthn_authenticator_rs::WebauthnAuthenticator as _;
use webauthn_authenticator_rs::softpasskey::SoftPasskey;
use webauthn_rs::prelude::Url;

use super::{Site, app};

const ORIGIN: &str = "http://localhost:3000";

/// A browser at the site, and its passkey.
struct Browser {
    site: Router,
    cookie: Option<String>,
    passkey: SoftPasskey,
}

impl Browser {
    fn at(site: &Router) -> Self {
        Self {
            site: site.clone(),
            cookie: None,
            passkey: SoftPasskey::new(true),
        }
    }

    async fn send(&mut self, request: Request<Body>) -> Response {
        let (mut parts, body) = request.into_parts();
        if let Some(cookie) = &self.cookie {
            parts
                .headers
                .insert(header::COOKIE, cookie.parse().unwrap());
        }
        let request = Request::from_parts(parts, body);
        let response = self.site.clone().oneshot(request).await.unwrap();
        if let Some(set) = response.headers().get(header::SET_COOKIE) {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            self.cookie = Some(pair.to_owned());
        }
        response
    }

    async fn post(&mut self, path: &str, body: &impl Serialize) -> Response {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header("sec-fetch-site", "same-origin");
        let body = serde_json::to_vec(body).unwrap();
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn challenge<T: DeserializeOwned>(&mut self, path: &str) -> T {
        let response = self.post(path, &serde_json::json!({ "name": "mia" })).await;
        assert_eq!(response.status(), StatusCode::OK);
        serde_json::from_slice(&bytes(response).await).unwrap()
    }

    async fn who(&mut self) -> StatusCode {
        self.send(Request::get("/whoami").body(Body::empty()).unwrap())
            .await
            .status()
    }
}

async fn bytes(response: Response) -> Vec<u8> {
    response
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes()
        .into()
}

#[tokio::test]
async fn a_passkey_signs_in_the_browser_that_began_and_only_once() {
    let sessions = SessionLayer::new(MemoryStore::new());
    let site = app(Site::new(ORIGIN).unwrap(), sessions);
    let origin = || Url::parse(ORIGIN).unwrap();
    let mut mia = Browser::at(&site);

    let challenge = mia.challenge("/register/begin").await;
    let answer = mia.passkey.do_registration(origin(), challenge);
    let answer = answer.unwrap();
    let mut other = Browser::at(&site);
    let refused = other.post("/register/finish", &answer).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let registered = mia.post("/register/finish", &answer).await;
    assert_eq!(registered.status(), StatusCode::OK);
    assert_eq!(bytes(registered).await, b"mia");
    assert_eq!(mia.who().await, StatusCode::OK);
    let again = mia.post("/register/finish", &answer).await;
    assert_eq!(again.status(), StatusCode::FORBIDDEN);
    assert_eq!(mia.post("/sign-out", &()).await.status(), StatusCode::OK);
    assert_eq!(mia.who().await, StatusCode::UNAUTHORIZED);

    let challenge = mia.challenge("/sign-in/begin").await;
    let answer = mia.passkey.do_authentication(origin(), challenge);
    let answer = answer.unwrap();
    // The other browser has begun, too, with another challenge.
    let _: serde_json::Value = other.challenge("/sign-in/begin").await;
    let refused = other.post("/sign-in/finish", &answer).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let before = mia.cookie.clone();
    let signed_in = mia.post("/sign-in/finish", &answer).await;
    assert_eq!(signed_in.status(), StatusCode::OK);
    assert_ne!(mia.cookie, before, "signing in rotates the token");
    assert_eq!(mia.who().await, StatusCode::OK);
    assert_eq!(other.who().await, StatusCode::UNAUTHORIZED);
    let again = mia.post("/sign-in/finish", &answer).await;
    assert_eq!(again.status(), StatusCode::FORBIDDEN);
}
