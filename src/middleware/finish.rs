//! The way out: commits the session, sets the cookie, and keeps private responses out of caches.

use std::time::Duration;

use http::header::{HeaderMap, SET_COOKIE};
use http::{Response, StatusCode};

use crate::commit::context::Policy;
use crate::config::policies::SignedInCaching;
use crate::config::transport::Transport;
use crate::error::session::SessionError;
use crate::event::Event;
use crate::metrics;
use crate::middleware::body::ResponseBody;
use crate::middleware::cache_control::{Outcome, Private, keep_private};
use crate::middleware::carrier::{keep_cookies, remove_foreign, vary};
use crate::middleware::cookie::{remove_from, write};
use crate::middleware::header;
use crate::middleware::presented::{Presented, SentAs};
use crate::middleware::scope::Scope;
use crate::middleware::slot::SessionSlot;
use crate::record::lifetime::CookieLife;
use crate::session::save::{Trigger, commit_pending};
use crate::session::state::State;
use crate::session::state::backing::Backing;
use crate::token::Token;

/// Commits the session and writes the session cookie and cache headers into the response. If the session cannot be committed,
/// replaces the response: the handler's response would report changes that were not stored.
pub(crate) async fn finish<B>(
    slot: &SessionSlot,
    mut response: Response<ResponseBody<B>>,
) -> Response<ResponseBody<B>> {
    let policy = &slot.context.policy;
    remove_foreign(policy, response.headers_mut());
    if let Some(session) = slot.send_head() {
        let shared = session.shared();
        let failed = is_failed(policy, &response);
        let committed = commit_pending(shared, Trigger::EndOfRequest { failed }).await;
        let lease = shared.state().lease.take();
        drop(lease);
        let (action, private) = {
            let state = shared.state();
            let accessed = slot.is_accessed();
            let action = token_action(policy, &slot.presented, &state, accessed, &committed);
            let caching = policy.config.signed_in_caching;
            (action, private(&state, accessed, caching))
        };
        let action = match action {
            TokenAction::Move(token, _) if !slot.is_still_valid(&token).await => {
                TokenAction::Unchanged
            }
            action => action,
        };
        response = match committed {
            Err(error) => error_response(slot, &error, response.headers()),
            // Only after the commit is it known whether a part of the request's changes is in the store, which an error that
            // the handler returned must report.
            Ok(()) => replace_session_error(slot, response),
        };
        write_headers(slot, action, private, response.headers_mut());
    } else {
        response = replace_session_error(slot, response);
    }
    if slot.is_accessed() {
        vary(&policy.config, response.headers_mut());
    }
    count_error(&mut response);
    response
}

/// A layer around this one sees the error of the response too, and must not count it again.
#[derive(Clone)]
struct Counted;

fn count_error<B>(response: &mut Response<ResponseBody<B>>) {
    let extensions = response.extensions_mut();
    if metrics::ENABLED
        && extensions.get::<Counted>().is_none()
        && let Some(error) = extensions.get::<SessionError>()
    {
        metrics::requests::error_response(error);
        extensions.insert(Counted);
    }
}

/// The response for a session that could not be loaded. It does not touch the cookie: an outage must not log anyone out.
pub(crate) fn reject<B>(slot: &SessionSlot, error: &SessionError) -> Response<ResponseBody<B>> {
    let mut response = error_response(slot, error, &HeaderMap::new());
    count_error(&mut response);
    response
}

/// Replaces a response for a session error that the handler returned: by that of the layer's hook, or by that of another error
/// if a part of the request's changes is already in the store.
fn replace_session_error<B>(
    slot: &SessionSlot,
    response: Response<ResponseBody<B>>,
) -> Response<ResponseBody<B>> {
    let Some(error) = response.extensions().get::<SessionError>() else {
        return response;
    };
    let session_error = match slot.loaded() {
        Some(session) => session.shared().state().as_error_of_request(error.clone()),
        None => error.clone(),
    };
    let differs = std::mem::discriminant(&session_error) != std::mem::discriminant(error);
    if !differs && slot.error_hook.is_none() {
        return response;
    }
    let mut replacement = error_response(slot, &session_error, response.headers());
    if let (false, Some(counted)) = (differs, response.extensions().get::<Counted>()) {
        replacement.extensions_mut().insert(counted.clone());
    }
    replacement
}

/// Whether the response says that the request failed.
fn is_failed<R>(policy: &Policy, response: &Response<R>) -> bool {
    let server_error = response.status() >= StatusCode::INTERNAL_SERVER_ERROR;
    let session_error = response.extensions().get::<SessionError>().is_some();
    session_error || (server_error && !policy.config.commit_on_server_error)
}

/// The response for an error, with the cookies of the response that it replaces.
fn error_response<B>(
    slot: &SessionSlot,
    error: &SessionError,
    replaced: &HeaderMap,
) -> Response<ResponseBody<B>> {
    let response = match &slot.error_hook {
        Some(hook) => hook.response(error),
        None => error.response(),
    };
    let mut response = response.map(ResponseBody::own);
    remove_foreign(&slot.context.policy, response.headers_mut());
    keep_cookies(replaced, response.headers_mut());
    response.extensions_mut().insert(error.clone());
    response
}

/// How the response changes the client's token.
#[derive(Debug, PartialEq)]
enum TokenAction {
    Unchanged,
    /// Sends this token. The browser keeps it for this long or, if `None`, until it is closed.
    Send(Token, Option<CookieLife>),
    /// Sends the token that came under a former name of the cookie, if it still opens the session.
    Move(Token, Option<CookieLife>),
    Remove,
}

/// Decides how the response changes the client's token. A response whose handler did not use the session stays as it is, even if
/// the cookie is old or has a former name, so that caches may store it.
fn token_action(
    policy: &Policy,
    presented: &Presented,
    state: &State,
    accessed: bool,
    committed: &Result<(), SessionError>,
) -> TokenAction {
    match &state.backing {
        Backing::New if state.ending.has_begun() && !presented.is_empty() => TokenAction::Remove,
        // If the session has ended or was rotated, the browser has, or will get, the right cookie from another response.
        _ if is_gone(committed) => TokenAction::Unchanged,
        Backing::Loaded(base) => {
            let mut cookie = state.cookie;
            cookie.is_old &= accessed;
            let life = policy.cookie_life(&base.record);
            // A header's token has no end that the client knows of.
            let is_outdated =
                policy.config.transport == Transport::Cookie && cookie.is_outdated_by(life);
            let token = || base.token.clone();
            match presented.sent_as(&base.token) {
                SentAs::NotSent => TokenAction::Send(token(), life),
                SentAs::Present if is_outdated => TokenAction::Send(token(), life),
                SentAs::Former if is_outdated || accessed => TokenAction::Move(token(), life),
                SentAs::Present | SentAs::Former => TokenAction::Unchanged,
            }
        }
        Backing::New | Backing::Denied { .. } => TokenAction::Unchanged,
    }
}

fn is_gone(committed: &Result<(), SessionError>) -> bool {
    match committed {
        Err(SessionError::PartlyCommitted { rest }) => matches!(**rest, SessionError::Gone(_)),
        committed => matches!(committed, Err(SessionError::Gone(_))),
    }
}

/// Why the page itself is for one visitor only, whether or not it sends the token.
fn private(state: &State, accessed: bool, caching: SignedInCaching) -> Option<Private> {
    match caching {
        _ if state.shows_csrf_token => Some(Private::ShowsCsrfToken),
        SignedInCaching::NoStore if state.was_signed_in && accessed => Some(Private::SignedIn),
        SignedInCaching::NoStore | SignedInCaching::Unchanged => None,
    }
}

/// Sends or removes the token, and keeps the response out of shared caches if it does so or its page is private.
fn write_headers(
    slot: &SessionSlot,
    action: TokenAction,
    private: Option<Private>,
    headers: &mut HeaderMap,
) {
    let policy = &slot.context.policy;
    let sent = match &policy.config.transport {
        Transport::Cookie => write_cookies(slot, action, headers).then_some(Private::SetsCookie),
        Transport::Header(config) => match action {
            TokenAction::Send(token, _) => {
                header::write(headers, config, &token);
                Some(Private::CarriesToken)
            }
            TokenAction::Unchanged | TokenAction::Move(..) | TokenAction::Remove => None,
        },
    };
    let Some(why) = sent.or(private) else {
        return;
    };
    if keep_private(headers, why) == Outcome::WasPublic {
        policy.emit(&Event::PublicResponse);
    }
}

/// Sets or removes the session cookie; returns whether it does.
///
/// A response has at most one cookie of a name, domain and path (RFC 6265bis §4.1.1), except where one of them is partitioned.
/// Before the session cookie come the removals of the cookies of its former names, and of those of its name in other scopes.
fn write_cookies(slot: &SessionSlot, action: TokenAction, headers: &mut HeaderMap) -> bool {
    let config = &slot.context.policy.config.cookie;
    let scope = || Scope::of(config, slot.cookie_domain);
    let cookie = match action {
        TokenAction::Unchanged => return false,
        TokenAction::Send(token, life) | TokenAction::Move(token, life) => {
            let now = slot.context.backend.now();
            let left = |life: CookieLife| life.end(now).saturating_sub(now);
            let max_age = life.map(|life| Duration::from_millis(left(life)));
            write(config, &scope(), Some((&token, max_age)))
        }
        TokenAction::Remove => write(config, &scope(), None),
    };
    if let Some(cookie) = cookie {
        let leftovers = slot.leftovers.iter();
        let removals = leftovers.filter_map(|leftover| remove_from(config, leftover));
        for cookie in removals.chain([cookie]) {
            headers.append(SET_COOKIE, cookie);
        }
    }
    true
}

/// Drops the changes and carries out a `destroy` if the inner service panics, fails without a response, or is dropped.
#[derive(Debug)]
pub(crate) struct AbandonGuard<'a>(Option<&'a SessionSlot>);

impl<'a> AbandonGuard<'a> {
    pub(crate) fn new(slot: &'a SessionSlot) -> Self {
        Self(Some(slot))
    }

    /// The response is complete.
    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for AbandonGuard<'_> {
    fn drop(&mut self) {
        // A task that loads the session later must also find that no response follows.
        if let Some(session) = self.0.and_then(SessionSlot::send_head) {
            session.shared().abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::{COOKIE, HeaderValue};

    use super::*;
    use crate::commit::base::Base;
    use crate::config::SessionConfig;
    use crate::config::transport::TokenHeader;
    use crate::error::session::Gone;
    use crate::middleware::presented::read;
    use crate::record::context::ApplyContext;
    use crate::record::fingerprint::Fingerprint;
    use crate::record::tests::record;
    use crate::session::state::ending::Ending;
    use crate::store::Stored;

    fn presented(values: &[&str]) -> Presented {
        let mut headers = HeaderMap::new();
        for value in values {
            let pair = match value.contains('=') {
                true => (*value).to_owned(),
                false => format!("id={value}"),
            };
            let cookie = HeaderValue::try_from(pair).unwrap();
            headers.append(COOKIE, cookie);
        }
        read(&headers, "id", &["old".to_owned()])
    }

    #[test]
    fn the_cookie_changes_only_when_the_browsers_copy_must_change() {
        use TokenAction::{Move, Remove, Send as Set, Unchanged};
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
        let as_former = |token: &Token| presented(&[&format!("old={}", *token.encode())]);
        let none = Presented::default;
        let policy = Policy::new(SessionConfig::default());
        let header = Transport::Header(TokenHeader::default());
        let by_header = Policy::new(SessionConfig::default().with_transport(header));
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
            // An earlier `save` has stored the session, and the browser needs its token.
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
            // The browser loses the cookie even if the session could not be deleted.
            (sent(&old), Backing::New, true, gone(), Remove),
            // One of several tokens is valid.
            (
                presented(&[&new.encode(), &old.encode()]),
                stored(&old),
                false,
                Ok(()),
                Unchanged,
            ),
            // Under the former name.
            (
                as_former(&old),
                stored(&old),
                false,
                Ok(()),
                Move(old.clone(), None),
            ),
            (
                as_former(&old),
                stored(&new),
                false,
                Ok(()),
                Set(new.clone(), None),
            ),
            (as_former(&old), stored(&old), false, gone(), Unchanged),
            (as_former(&old), Backing::New, false, Ok(()), Unchanged),
            (as_former(&old), Backing::New, true, Ok(()), Remove),
            (sent(&old), denied(), false, Ok(()), Unchanged),
            (sent(&old), denied(), true, gone(), Unchanged),
        ] {
            let fresh = ApplyContext {
                now: 0,
                absolute_timeout: Duration::ZERO,
                persistent: false,
                network: None,
            };
            let mut state = State::new(backing, Fingerprint::Off, &fresh);
            if destroyed {
                state.ending = Ending::Done;
            }
            let decide = |policy: &Policy, state: &State, accessed| {
                token_action(policy, &presented, state, accessed, &committed)
            };
            assert_eq!(decide(&policy, &state, true), expected);
            let unused = match &expected {
                Move(..) => &Unchanged,
                expected => expected,
            };
            assert_eq!(decide(&policy, &state, false), *unused);
            // The response replaces an old cookie by one of the same token, if the handler asked for the session.
            if expected == Unchanged
                && matches!(state.backing, Backing::Loaded(_))
                && committed.is_ok()
            {
                state.cookie.is_old = true;
                assert_eq!(decide(&policy, &state, false), Unchanged);
                assert_eq!(decide(&policy, &state, true), Set(old.clone(), None));
                assert_eq!(decide(&by_header, &state, true), Unchanged);
            }
        }
    }
}
