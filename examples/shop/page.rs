//! What all pages share, forms with their CSRF token, and pages for errors.

use std::fmt::Write as _;
use std::time::SystemTime;

use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Response, StatusCode};
use axum::response::{Html, IntoResponse};
use bytes::Bytes;
use sessile::{Session, SessionError};

use crate::goods::{CART, VISITS};

/// Builds a page with its notices, the cart's size, the user, and facts about the session.
pub async fn page(
    session: &Session,
    title: &str,
    body: &str,
) -> Result<Html<String>, SessionError> {
    let mut notices = String::new();
    for flash in session.take_flashes().await? {
        let (level, text) = (flash.level, escape(&flash.text));
        let _ = write!(notices, "<p class=\"notice {level}\">{text}</p>");
    }
    let count: u32 = session.get(CART)?.unwrap_or_default().values().sum();
    let user = match session.principal() {
        Some(user) => format!(
            "<a href=/account>{}</a>{}",
            escape(&user),
            form(
                session,
                "/sign-out",
                "<button class=quiet>Sign out</button>"
            )?
        ),
        None => "<a href=/sign-in>Sign in</a>".to_owned(),
    };
    let left = session.expires_at().duration_since(SystemTime::now());
    let facts = format!(
        "visit {} · session {} · ends in {} minutes if unused",
        session.get(VISITS)?.unwrap_or_default(),
        session
            .handle()
            .map_or_else(|| "not stored yet".to_owned(), |handle| handle.to_string()),
        left.unwrap_or_default().as_secs() / 60,
    );
    let nav = format!("<a href=/cart>Cart ({count})</a>{user}");
    Ok(Html(layout(
        title,
        &nav,
        &format!("{notices}<h1>{title}</h1>{body}"),
        &facts,
    )))
}

/// Builds a page that knows nothing of its visitor.
pub fn bare(title: &str, body: &str) -> String {
    layout(title, "", &format!("<h1>{title}</h1>{body}"), "")
}

fn layout(title: &str, nav: &str, main: &str, footer: &str) -> String {
    let style = include_str!("style.css");
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">
         <title>{title}</title><style>{style}</style>
         <header><a class=brand href=/>Garden shop</a><nav>{nav}</nav></header>
         <main>{main}</main><footer class=facts>{footer}</footer></html>"
    )
}

/// Builds a form with the token that `CsrfForm` checks.
pub fn form(session: &Session, action: &str, fields: &str) -> Result<String, SessionError> {
    let token = session.csrf_token()?;
    Ok(format!(
        "<form method=post action={action}><input type=hidden name=_csrf value={token}>{fields}</form>"
    ))
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Builds the response for a session error, here or in a layer: the default status and sentence, as a page of the shop.
pub fn error(error: &SessionError, _: &Parts) -> Response<Bytes> {
    let mut response = error.response();
    let sentence = String::from_utf8_lossy(response.body()).into_owned();
    let (title, link) = match error {
        SessionError::SignInRefused(_) | SessionError::NotSignedIn => {
            ("Please sign in again", "<a href=/sign-in>Sign in</a>")
        }
        _ => match response.status() {
            StatusCode::FORBIDDEN => ("Please try again", "<a href=/>Back to the shop</a>"),
            StatusCode::CONFLICT => ("Something has changed", "<a href=/>Back to the shop</a>"),
            StatusCode::SERVICE_UNAVAILABLE => ("One moment, please", "<a href=/>Try again</a>"),
            _ => ("Something went wrong", "<a href=/>Back to the shop</a>"),
        },
    };
    let page = bare(title, &format!("<p>{sentence}</p><p>{link}</p>"));
    *response.body_mut() = page.into();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}

/// Why a handler failed.
pub enum Failure {
    Session(SessionError),
    Users(redis::RedisError),
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        Self::Users(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> axum::response::Response {
        match self {
            // The session layer calls `error` for it.
            Self::Session(error) => error.into_response(),
            Self::Users(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "no users");
                let body = "<p>Nobody can sign in right now. Try again in a moment.</p>";
                let page = bare("One moment, please", body);
                (StatusCode::SERVICE_UNAVAILABLE, Html(page)).into_response()
            }
        }
    }
}
