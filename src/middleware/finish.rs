//! The way out: the commit, the cookie, and what caches may know.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue, SET_COOKIE, VARY};
use http::{Response, StatusCode};

use crate::commit::context::Policy;
use crate::config::policies::SignedInCaching;
use crate::error::session::SessionError;
use crate::event::Event;
use crate::middleware::body::ResponseBody;
use crate::middleware::cache_control::{Outcome, Private, keep_private};
use crate::middleware::cookie::{Place, Presented, remove_from, strip, write};
use crate::middleware::slot::SessionSlot;
use crate::record::lifetime::cookie_end;
use crate::session::save::{Trigger, commit_pending};
use crate::session::state::State;
use crate::session::state::backing::Backing;
use crate::time::Millis;
use crate::token::Token;

/// Commits the session and makes the response tell the browser what it must know. A response whose session could not be
/// committed is replaced: the handler's answer would claim what has not happened.
pub(crate) async fn finish<B>(
    slot: &SessionSlot,
    response: Response<ResponseBody<B>>,
) -> Response<ResponseBody<B>> {
    let policy = &slot.context.policy;
    let mut response = only_others_cookies(policy, response);
    if let Some(session) = slot.send_head() {
        let shared = session.shared();
        let failed = is_failed(policy, &response);
        let committed = commit_pending(shared, Trigger::EndOfRequest { failed }).await;
        let lease = shared.state().lease.take();
        drop(lease);
        let (action, signed_in) = {
            let state = shared.state();
            let accessed = slot.is_accessed();
            let action = cookie_action(&slot.presented, &state, accessed, &committed);
            (action, state.was_signed_in && accessed)
        };
        response = match committed {
            Err(error) => error_response(slot, &error, response.headers()),
            // By now it is known whether anything of a request is in the store whose handler has returned an error.
            Ok(()) => replaced_if_failed(slot, response),
        };
        let now = slot.context.backend.now();
        let (places, headers) = (&slot.other_places, response.headers_mut());
        write_headers(policy, action, places, now, signed_in, headers);
    } else {
        response = replaced_if_failed(slot, response);
    }
    if slot.is_accessed() {
        vary_by_cookie(response.headers_mut());
    }
    response
}

/// The response for a session that could not be loaded. It sets no cookie: an outage must not log anyone out.
pub(crate) fn reject<B>(slot: &SessionSlot, error: &SessionError) -> Response<ResponseBody<B>> {
    error_response(slot, error, &HeaderMap::new())
}

/// A session error that the handler returned gets the response of the layer's hook too. And it does not know what else of the
/// request is in the store.
fn replaced_if_failed<B>(
    slot: &SessionSlot,
    response: Response<ResponseBody<B>>,
) -> Response<ResponseBody<B>> {
    let Some(error) = response.extensions().get::<SessionError>() else {
        return response;
    };
    let told = match slot.loaded() {
        Some(session) => session.shared().state().of_the_request(error.clone()),
        None => error.clone(),
    };
    let is_another = std::mem::discriminant(&told) != std::mem::discriminant(error);
    match is_another || slot.error_hook.is_some() {
        true => error_response(slot, &told, response.headers()),
        false => response,
    }
}

/// Whether the handler told the client that it has not done what it was asked.
fn is_failed<R>(policy: &Policy, response: &Response<R>) -> bool {
    let server_error = response.status() >= StatusCode::INTERNAL_SERVER_ERROR;
    let session_error = response.extensions().get::<SessionError>().is_some();
    session_error || (server_error && !policy.config.commit_on_server_error)
}

/// The response without cookies of our name: whoever has set them was not us.
fn only_others_cookies<R>(policy: &Policy, mut response: Response<R>) -> Response<R> {
    let name = &policy.config.cookie.name;
    if strip(response.headers_mut(), name) {
        let name = name.clone();
        policy.emit(&Event::ForeignSetCookie { name });
    }
    response
}

/// The response for an error, with the cookies that the replaced one was to set.
fn error_response<B>(
    slot: &SessionSlot,
    error: &SessionError,
    replaced: &HeaderMap,
) -> Response<ResponseBody<B>> {
    let response = match &slot.error_hook {
        Some(hook) => hook.response(error),
        None => error.response(),
    };
    let response = response.map(ResponseBody::own);
    let mut response = only_others_cookies(&slot.context.policy, response);
    for cookie in replaced.get_all(SET_COOKIE) {
        response.headers_mut().append(SET_COOKIE, cookie.clone());
    }
    response.extensions_mut().insert(error.clone());
    response
}

/// What the response does to the session cookie of the browser.
#[derive(Debug, PartialEq)]
enum CookieAction {
    Unchanged,
    /// Sets it to this token, until the browser is closed or until this time.
    Set(Token, Option<Millis>),
    Remove,
}

/// A response whose handler did not use the session is not changed, even if the cookie is old, so that caches may store it.
fn cookie_action(
    presented: &Presented,
    state: &State,
    accessed: bool,
    committed: &Result<(), SessionError>,
) -> CookieAction {
    match &state.backing {
        Backing::New if state.ending.has_begun() && !presented.is_nothing() => CookieAction::Remove,
        // A session that is gone, or another's now: the cookie that the browser has, or will get, is the right one.
        _ if is_gone(committed) => CookieAction::Unchanged,
        Backing::Loaded(base) => {
            let mut cookie = state.cookie;
            cookie.is_old &= accessed;
            let has_it = presented.tokens.contains(&base.token);
            match has_it && !cookie.is_outdated_by(&base.record) {
                true => CookieAction::Unchanged,
                false => CookieAction::Set(base.token.clone(), cookie_end(&base.record)),
            }
        }
        Backing::New | Backing::Denied { .. } => CookieAction::Unchanged,
    }
}

fn is_gone(committed: &Result<(), SessionError>) -> bool {
    match committed {
        Err(SessionError::PartlyCommitted { rest }) => matches!(**rest, SessionError::Gone(_)),
        committed => matches!(committed, Err(SessionError::Gone(_))),
    }
}

/// Adds our cookie and keeps the response out of shared caches if it has that cookie or is for somebody who is signed in.
///
/// It is the only one of its name, domain and path (RFC 6265bis §4.1.1); before it, the others of its name are removed from
/// where the browser may have them.
fn write_headers(
    policy: &Policy,
    action: CookieAction,
    other_places: &[Place],
    now: Millis,
    signed_in: bool,
    headers: &mut HeaderMap,
) {
    let config = &policy.config.cookie;
    let why = match (&action, policy.config.signed_in_caching) {
        (CookieAction::Set(..) | CookieAction::Remove, _) => Private::SetsCookie,
        (CookieAction::Unchanged, SignedInCaching::NoStore) if signed_in => Private::SignedIn,
        (CookieAction::Unchanged, SignedInCaching::NoStore | SignedInCaching::Unchanged) => return,
    };
    let cookie = match action {
        CookieAction::Unchanged => None,
        CookieAction::Set(token, ends) => {
            let max_age = ends.map(|ends| Duration::from_millis(ends.saturating_sub(now)));
            write(config, Some((&token, max_age)))
        }
        CookieAction::Remove => write(config, None),
    };
    if let Some(cookie) = cookie {
        let others = other_places.iter();
        let removals = others.filter_map(|place| remove_from(config, place));
        for cookie in removals.chain([cookie]) {
            headers.append(SET_COOKIE, cookie);
        }
    }
    if keep_private(headers, why) == Outcome::WasPublic {
        policy.emit(&Event::PublicResponse);
    }
}

fn vary_by_cookie(headers: &mut HeaderMap) {
    if !varies_by(headers, "cookie") && !varies_by(headers, "*") {
        headers.append(VARY, HeaderValue::from_static("cookie"));
    }
}

fn varies_by(headers: &HeaderMap, name: &str) -> bool {
    headers
        .get_all(VARY)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

/// Carries out a `destroy` whose handler was dropped, panicked, or failed without a response.
#[derive(Debug)]
pub(crate) struct AbandonGuard(Option<Arc<SessionSlot>>);

impl AbandonGuard {
    pub(crate) fn new(slot: Arc<SessionSlot>) -> Self {
        Self(Some(slot))
    }

    /// The response is complete.
    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for AbandonGuard {
    fn drop(&mut self) {
        // Whoever loads the session later, on a task of its own, is too late for a response too.
        if let Some(session) = self.0.as_ref().and_then(|slot| slot.send_head()) {
            session.shared().abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;
    use crate::commit::base::Base;
    use crate::error::session::Gone;
    use crate::middleware::cookie::read;
    use crate::record::context::ApplyContext;
    use crate::record::fingerprint::Fingerprint;
    use crate::record::tests::record;
    use crate::session::state::ending::Ending;
    use crate::store::Stored;

    fn presented(values: &[&str]) -> Presented {
        let mut headers = HeaderMap::new();
        for value in values {
            let cookie = HeaderValue::try_from(format!("id={value}")).unwrap();
            headers.append(COOKIE, cookie);
        }
        read(&headers, "id")
    }

    #[test]
    fn the_cookie_changes_only_when_the_browsers_copy_must_change() {
        use CookieAction::{Remove, Set, Unchanged};
        let (old, new) = (Token::random(), Token::random());
        let stored = |token: &Token| {
            let stored = Stored::new("", None);
            Backing::Loaded(Box::new(Base {
                token: token.clone(),
                stored,
                record: record().into(),
            }))
        };
        let denied = || Backing::Denied {
            handle: None,
            retired_by: None,
            why: SessionError::Gone(Gone::Rotated),
        };
        let gone = || Err(SessionError::Gone(Gone::Ended));
        let unknown = || Err(SessionError::OutcomeUnknown);
        let sent = |token: &Token| presented(&[&token.encode()]);
        let none = Presented::default;
        for (presented, backing, destroyed, committed, expected) in [
            (none(), Backing::New, false, Ok(()), Unchanged),
            (none(), stored(&new), false, Ok(()), Set(new.clone(), None)),
            (sent(&old), stored(&old), false, Ok(()), Unchanged),
            (
                sent(&old),
                stored(&new),
                false,
                Ok(()),
                Set(new.clone(), None),
            ),
            // What an earlier `save` has done stays done, and the browser needs its token.
            (
                sent(&old),
                stored(&new),
                false,
                unknown(),
                Set(new.clone(), None),
            ),
            (sent(&old), stored(&new), false, gone(), Unchanged),
            (sent(&old), Backing::New, false, Ok(()), Unchanged),
            (sent(&old), Backing::New, true, Ok(()), Remove),
            (sent(&old), Backing::New, true, unknown(), Remove),
            (
                sent(&old),
                stored(&new),
                true,
                Ok(()),
                Set(new.clone(), None),
            ),
            (presented(&["x"]), Backing::New, true, Ok(()), Remove),
            (none(), Backing::New, true, Ok(()), Unchanged),
            // What cannot be ended is not the browser's to keep.
            (sent(&old), Backing::New, true, gone(), Remove),
            // One of several opens the session.
            (
                presented(&[&new.encode(), &old.encode()]),
                stored(&old),
                false,
                Ok(()),
                Unchanged,
            ),
            (sent(&old), denied(), false, Ok(()), Unchanged),
            (sent(&old), denied(), true, gone(), Unchanged),
        ] {
            let fresh = ApplyContext {
                now: 0,
                absolute_timeout: Duration::ZERO,
                network: None,
            };
            let mut state = State::new(backing, Fingerprint::Off, &fresh);
            if destroyed {
                state.ending = Ending::Done;
            }
            assert_eq!(
                cookie_action(&presented, &state, true, &committed),
                expected
            );
            // An old cookie is replaced by one of the same token, if the handler asked for the session.
            if expected == Unchanged
                && matches!(state.backing, Backing::Loaded(_))
                && committed.is_ok()
            {
                state.cookie.is_old = true;
                assert_eq!(
                    cookie_action(&presented, &state, false, &committed),
                    Unchanged
                );
                let action = cookie_action(&presented, &state, true, &committed);
                assert_eq!(action, Set(old.clone(), None));
            }
        }
    }

    #[test]
    fn what_a_response_varies_by_is_said_once() {
        let mut headers = HeaderMap::new();
        headers.insert(VARY, HeaderValue::from_static("accept, COOKIE"));
        vary_by_cookie(&mut headers);
        assert_eq!(headers.get_all(VARY).iter().count(), 1);
    }
}
