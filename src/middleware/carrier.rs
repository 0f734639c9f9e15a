//! What carries the token between the client and the layer: the cookie, or a header.

use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, VARY};

use crate::commit::context::Policy;
use crate::config::SessionConfig;
use crate::config::transport::Transport;
use crate::event::Event;
use crate::middleware::presented::{Presented, read};
use crate::middleware::{cookie, header};

/// Whether an inner layer has the session of the outer one: both use the same header, or the same cookie. A layer whose cookie
/// has a former name of the other one is of that session, too.
pub(crate) fn is_same_session(inner: &SessionConfig, outer: &SessionConfig) -> bool {
    match (&inner.transport, &outer.transport) {
        (Transport::Cookie, Transport::Cookie) => {
            let (inner, outer) = (&inner.cookie, &outer.cookie);
            inner.has_name(outer.name.as_bytes()) || outer.has_name(inner.name.as_bytes())
        }
        (Transport::Header(inner), Transport::Header(outer)) => {
            inner.request.eq_ignore_ascii_case(&outer.request)
        }
        (Transport::Cookie, Transport::Header(_)) | (Transport::Header(_), Transport::Cookie) => {
            false
        }
    }
}

/// The name of what carries the token, for an event.
pub(crate) fn name(config: &SessionConfig) -> &str {
    match &config.transport {
        Transport::Cookie => &config.cookie.name,
        Transport::Header(header) => &header.request,
    }
}

/// Reads the tokens of the request, marks the headers that hold them as sensitive, and emits an event if they cannot be used.
pub(crate) fn present(policy: &Policy, headers: &mut HeaderMap) -> Presented {
    match &policy.config.transport {
        Transport::Cookie => {
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
        Transport::Header(config) => {
            let presented = header::read(headers, config);
            if presented.malformed {
                let name = config.request.clone();
                policy.emit(&Event::MalformedHeader { name });
            }
            presented
        }
    }
}

/// Removes what the handler or an inner layer has set under the name of the session cookie, or as the header of a new token.
pub(crate) fn remove_foreign(policy: &Policy, headers: &mut HeaderMap) {
    let removed = match &policy.config.transport {
        Transport::Cookie => cookie::strip(headers, &policy.config.cookie),
        Transport::Header(header) => {
            let name = header.response.as_str();
            headers.remove(name).map(|_| name.to_owned())
        }
    };
    if let Some(name) = removed {
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
pub(crate) fn vary(config: &SessionConfig, headers: &mut HeaderMap) {
    let name = match &config.transport {
        Transport::Cookie => Ok(COOKIE),
        Transport::Header(header) => HeaderName::try_from(header.request.as_str()),
    };
    if let Ok(name) = name
        && !varies_by(headers, name.as_str())
        && !varies_by(headers, "*")
    {
        headers.append(VARY, HeaderValue::from(name));
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
    use crate::config::transport::TokenHeader;

    #[test]
    fn a_response_names_the_carrier_in_vary_only_once() {
        let by_header = |name: &str| {
            let header = TokenHeader::default().with_request(name);
            SessionConfig::default().with_transport(Transport::Header(header))
        };
        for (config, before, after) in [
            (SessionConfig::default(), "accept, COOKIE", 1),
            (SessionConfig::default(), "*", 1),
            (SessionConfig::default(), "authorization", 2),
            (by_header("authorization"), "accept,Authorization", 1),
            (by_header("X-Api-Session"), "x-api-session", 1),
            (by_header("x-api-session"), "cookie", 2),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(VARY, HeaderValue::from_static(before));
            vary(&config, &mut headers);
            assert_eq!(headers.get_all(VARY).iter().count(), after, "{before}");
        }
    }

    #[test]
    fn layers_have_one_session_if_they_have_a_cookie_or_a_header_in_common() {
        let cookie = |name: &str, former: &[&str]| {
            let cookie = CookieConfig::default().with_name(name);
            let former = former.iter().copied();
            SessionConfig::default().with_cookie(cookie.with_former_names(former))
        };
        let header = |name: &str| {
            let header = TokenHeader::default().with_request(name);
            cookie("id", &[]).with_transport(Transport::Header(header))
        };
        for (one, other, same) in [
            (cookie("id", &[]), cookie("id", &[]), true),
            (cookie("id", &[]), cookie("admin", &[]), false),
            (cookie("id", &["sid"]), cookie("sid", &[]), true),
            (cookie("id", &["sid"]), cookie("sid", &["id"]), true),
            (cookie("id", &["sid"]), cookie("admin", &["sid"]), false),
            (cookie("id", &[]), header("authorization"), false),
            (header("Authorization"), header("authorization"), true),
            (header("x-session"), header("authorization"), false),
        ] {
            assert_eq!(is_same_session(&one, &other), same, "{one:?} {other:?}");
            assert_eq!(is_same_session(&other, &one), same, "{one:?} {other:?}");
        }
    }
}
