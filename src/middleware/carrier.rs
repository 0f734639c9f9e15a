//! What carries the token between the client and the layer: the cookie.

use http::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE, VARY};

use crate::commit::context::Policy;
use crate::config::SessionConfig;
use crate::event::Event;
use crate::middleware::cookie;
use crate::middleware::presented::{Presented, read};

/// Whether an inner layer has the session of the outer one: both use the same cookie. A layer whose cookie has a former name of the
/// other one is of that session, too.
pub(crate) fn is_same_session(inner: &SessionConfig, outer: &SessionConfig) -> bool {
    let (inner, outer) = (&inner.cookie, &outer.cookie);
    inner.has_name(outer.name.as_bytes()) || outer.has_name(inner.name.as_bytes())
}

/// Reads the tokens of the request, marks the headers that hold them as sensitive, and emits an event if they cannot be used.
pub(crate) fn present(policy: &Policy, headers: &mut HeaderMap) -> Presented {
    for (header, value) in &mut *headers {
        if header == COOKIE {
            value.set_sensitive(true);
        }
    }
    let config = &policy.config.cookie;
    let presented = read(headers, &config.name, &config.former_names);
    if presented.malformed {
        policy.emit(&Event::MalformedCookie);
    }
    if presented.has_too_many() {
        policy.emit(&Event::AmbiguousCookie);
    }
    presented
}

/// Removes what the handler or an inner layer has set under the name of the session cookie.
pub(crate) fn remove_foreign(policy: &Policy, headers: &mut HeaderMap) {
    if let Some(name) = cookie::strip(headers, &policy.config.cookie) {
        policy.emit(&Event::ForeignSetCookie { name });
    }
}

/// Copies the cookies of a response that is replaced.
pub(crate) fn keep_cookies(replaced: &HeaderMap, headers: &mut HeaderMap) {
    for cookie in replaced.get_all(SET_COOKIE) {
        headers.append(SET_COOKIE, cookie.clone());
    }
}

/// Adds the header that carries the token to `Vary`.
pub(crate) fn vary(headers: &mut HeaderMap) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cookie::CookieConfig;

    #[test]
    fn a_response_names_the_carrier_in_vary_only_once() {
        for (before, after) in [("accept, COOKIE", 1), ("*", 1), ("authorization", 2)] {
            let mut headers = HeaderMap::new();
            headers.insert(VARY, HeaderValue::from_static(before));
            vary(&mut headers);
            assert_eq!(headers.get_all(VARY).iter().count(), after, "{before}");
        }
    }

    #[test]
    fn layers_have_one_session_if_they_have_a_cookie_in_common() {
        let cookie = |name: &str, former: &[&str]| {
            let cookie = CookieConfig::default().with_name(name);
            let former = former.iter().copied();
            SessionConfig::default().with_cookie(cookie.with_former_names(former))
        };
        for (one, other, same) in [
            (cookie("id", &[]), cookie("id", &[]), true),
            (cookie("id", &[]), cookie("admin", &[]), false),
            (cookie("id", &["sid"]), cookie("sid", &[]), true),
            (cookie("id", &["sid"]), cookie("sid", &["id"]), true),
            (cookie("id", &["sid"]), cookie("admin", &["sid"]), false),
        ] {
            assert_eq!(is_same_session(&one, &other), same, "{one:?} {other:?}");
            assert_eq!(is_same_session(&other, &one), same, "{one:?} {other:?}");
        }
    }
}
