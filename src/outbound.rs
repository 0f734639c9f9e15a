//! The way out: the commit, the cookie, and what caches may know.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderMap, HeaderValue, SET_COOKIE, VARY};
use http::{Response, StatusCode};

use crate::commit::{Occasion, settle};
use crate::cookie::{Presented, is_named, write};
use crate::error::SessionError;
use crate::event::Event;
use crate::inbound::Visit;
use crate::layer::Settings;
use crate::lifetime::{Millis, to_millis};
use crate::state::{Standing, State};
use crate::token::Token;

/// Commits the session and makes the response tell the browser what it must know. A response whose session could not be
/// committed is replaced: the handler's answer would claim what has not happened.
pub(crate) async fn depart<R: From<Bytes>>(visit: &Visit, response: Response<R>) -> Response<R> {
    let settings = &visit.settings;
    let mut response = hooked(settings, response);
    if let Some(session) = visit.depart() {
        let shared = session.shared();
        let failed = is_failed(settings, &response);
        let committed = settle(shared, Occasion::Head { failed }).await;
        let lease = shared.state().lease.take();
        drop(lease);
        let due = cookie_due(&visit.presented, &shared.state(), &committed);
        if let Err(error) = committed {
            response = error_response(settings, &error, response.headers());
        }
        let now = to_millis(shared.core.store.now());
        bake(settings, due, now, response.headers_mut());
    }
    if visit.is_accessed() {
        vary_by_cookie(response.headers_mut());
    }
    response
}

/// The response for a session that could not be loaded. It sets no cookie: an outage must not log anyone out.
pub(crate) fn turn_away<R: From<Bytes>>(visit: &Visit, error: &SessionError) -> Response<R> {
    error_response(&visit.settings, error, &HeaderMap::new())
}

/// A session error that the handler returned gets the response of the layer's hook too.
fn hooked<R: From<Bytes>>(settings: &Settings, response: Response<R>) -> Response<R> {
    match response.extensions().get::<SessionError>() {
        Some(error) if settings.has_error_hook() => {
            error_response(settings, &error.clone(), response.headers())
        }
        _ => response,
    }
}

/// Whether the handler told the client that it has not done what it was asked.
fn is_failed<R>(settings: &Settings, response: &Response<R>) -> bool {
    let server_error = response.status() >= StatusCode::INTERNAL_SERVER_ERROR;
    let session_error = response.extensions().get::<SessionError>().is_some();
    session_error || (server_error && !settings.config.commit_on_server_error)
}

fn error_response<R: From<Bytes>>(
    settings: &Settings,
    error: &SessionError,
    replaced: &HeaderMap,
) -> Response<R> {
    let mut response = settings.error_response(error).map(R::from);
    for cookie in replaced.get_all(SET_COOKIE) {
        if !is_named(cookie, &settings.config.cookie.name) {
            response.headers_mut().append(SET_COOKIE, cookie.clone());
        }
    }
    response.extensions_mut().insert(error.clone());
    response
}

/// What the browser must be told.
#[derive(Debug, PartialEq)]
enum Due {
    Nothing,
    /// Keep this token, until the browser ends or until this time.
    Keep(Token, Option<Millis>),
    Remove,
}

fn cookie_due(presented: &Presented, state: &State, committed: &Result<(), SessionError>) -> Due {
    match &state.standing {
        // A session that is gone, or another's now: the cookie that the browser has, or will get, is the right one.
        _ if matches!(committed, Err(SessionError::Gone(_))) => Due::Nothing,
        Standing::Stored(base) => {
            let ends = state.cookie_end();
            match presented {
                Presented::Token(token) if *token == base.token && ends == state.cookie_ends => {
                    Due::Nothing
                }
                _ => Due::Keep(base.token.clone(), ends),
            }
        }
        Standing::New if state.destroyed && *presented != Presented::Nothing => Due::Remove,
        Standing::New | Standing::Barred { .. } => Due::Nothing,
    }
}

/// Adds our cookie, in place of any other of its name (RFC 6265bis §4.1.1: one of a name), and keeps the response out of
/// shared caches.
fn bake(settings: &Settings, due: Due, now: Millis, headers: &mut HeaderMap) {
    let config = &settings.config.cookie;
    let cookie = match due {
        Due::Nothing => return,
        Due::Keep(token, ends) => {
            let max_age = ends.map(|ends| Duration::from_millis(ends.saturating_sub(now)));
            write(config, Some((&token, max_age)))
        }
        Due::Remove => write(config, None),
    };
    let others: Vec<HeaderValue> = headers
        .get_all(SET_COOKIE)
        .iter()
        .filter(|cookie| !is_named(cookie, &config.name))
        .cloned()
        .collect();
    headers.remove(SET_COOKIE);
    for cookie in others.into_iter().chain(cookie) {
        headers.append(SET_COOKIE, cookie);
    }
    let says = |word: &str| has_word(headers, CACHE_CONTROL, word);
    if !says("no-store") && !says("private") {
        if says("public") || says("s-maxage") {
            settings.emit(&Event::PublicResponse);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

fn vary_by_cookie(headers: &mut HeaderMap) {
    if !has_word(headers, VARY, "cookie") && !has_word(headers, VARY, "*") {
        headers.append(VARY, HeaderValue::from_static("cookie"));
    }
}

/// Whether a comma-separated header lists a word, with or without a `=value`.
fn has_word(headers: &HeaderMap, name: http::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|item| {
            item.split(|byte| *byte == b'=')
                .next()
                .unwrap_or_default()
                .trim_ascii()
        })
        .any(|item| item.eq_ignore_ascii_case(word.as_bytes()))
}

/// Carries out a `destroy` whose handler was dropped, panicked, or failed without a response.
#[derive(Debug)]
pub(crate) struct Departure(Option<Arc<Visit>>);

impl Departure {
    pub(crate) fn of(visit: Arc<Visit>) -> Self {
        Self(Some(visit))
    }

    /// The response is complete.
    pub(crate) fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        if let Some(session) = self.0.as_ref().and_then(|visit| visit.loaded()) {
            session.shared().abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Circumstances;
    use crate::commit::run::Base;
    use crate::error::Gone;
    use crate::fingerprint::Fingerprint;
    use crate::record::tests::record;
    use crate::store::Stored;

    #[test]
    fn the_browser_is_told_only_what_it_must_know() {
        let (old, new) = (Token::random(), Token::random());
        let stored = |token: &Token| {
            let stored = Stored::unreadable();
            Standing::Stored(Box::new(Base {
                token: token.clone(),
                stored,
                record: record().into(),
            }))
        };
        let barred = || Standing::Barred {
            handle: None,
            why: SessionError::Gone(Gone::Rotated),
        };
        let gone = || Err(SessionError::Gone(Gone::Ended));
        let unknown = || Err(SessionError::OutcomeUnknown);
        let sent = |token: &Token| Presented::Token(token.clone());
        let none = || Presented::Nothing;
        for (presented, standing, destroyed, committed, expected) in [
            (none(), Standing::New, false, Ok(()), Due::Nothing),
            (
                none(),
                stored(&new),
                false,
                Ok(()),
                Due::Keep(new.clone(), None),
            ),
            (sent(&old), stored(&old), false, Ok(()), Due::Nothing),
            (
                sent(&old),
                stored(&new),
                false,
                Ok(()),
                Due::Keep(new.clone(), None),
            ),
            // What an earlier `save` has done stays done, and the browser needs its token.
            (
                sent(&old),
                stored(&new),
                false,
                unknown(),
                Due::Keep(new.clone(), None),
            ),
            (sent(&old), stored(&new), false, gone(), Due::Nothing),
            (sent(&old), Standing::New, false, Ok(()), Due::Nothing),
            (sent(&old), Standing::New, true, Ok(()), Due::Remove),
            (sent(&old), Standing::New, true, unknown(), Due::Remove),
            (
                sent(&old),
                stored(&new),
                true,
                Ok(()),
                Due::Keep(new.clone(), None),
            ),
            (
                Presented::Malformed,
                Standing::New,
                true,
                Ok(()),
                Due::Remove,
            ),
            (none(), Standing::New, true, Ok(()), Due::Nothing),
            (sent(&old), barred(), false, Ok(()), Due::Nothing),
            (sent(&old), barred(), true, gone(), Due::Nothing),
        ] {
            let fresh = Circumstances {
                now: 0,
                absolute_timeout: Duration::ZERO,
                network: None,
            };
            let mut state = State::new(standing, Fingerprint::Off, &fresh);
            state.destroyed = destroyed;
            assert_eq!(cookie_due(&presented, &state, &committed), expected);
        }
    }

    #[test]
    fn headers_are_read_word_by_word() {
        let mut headers = HeaderMap::new();
        headers.insert(
            CACHE_CONTROL,
            HeaderValue::from_static("Public , max-age=600,s-maxage=5"),
        );
        for (word, there) in [
            ("public", true),
            ("s-maxage", true),
            ("private", false),
            ("max", false),
        ] {
            assert_eq!(has_word(&headers, CACHE_CONTROL, word), there, "{word}");
        }
        headers.insert(VARY, HeaderValue::from_static("accept, COOKIE"));
        vary_by_cookie(&mut headers);
        assert_eq!(headers.get_all(VARY).iter().count(), 1);
    }
}
