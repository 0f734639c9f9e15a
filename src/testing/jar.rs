//! What a client keeps from one response to the next request.

use cookie::Cookie;
use cookie::time::{Duration, OffsetDateTime};
use http::header::{COOKIE, GetAll, HeaderMap, HeaderValue, SET_COOKIE};

use crate::config::transport::{TokenHeader, Transport};

/// The cookies of a browser, by name, domain and path (RFC 6265 §5.3), and the token of a client that sends it in a header.
#[derive(Clone, Debug, Default)]
pub(crate) struct Jar {
    cookies: Vec<Cookie<'static>>,
    token: Option<HeaderValue>,
}

impl Jar {
    /// Stores and removes what a response says.
    pub(crate) fn keep(&mut self, transport: &Transport, headers: &HeaderMap) {
        let set = headers.get_all(SET_COOKIE).iter();
        let set = set.filter_map(|value| Cookie::parse(value.to_str().ok()?.to_owned()).ok());
        for cookie in set {
            self.cookies.retain(|kept| !is_same(kept, &cookie));
            if !is_removal(&cookie) {
                self.cookies.push(cookie);
            }
        }
        if let Transport::Header(header) = transport
            && let Some(token) = headers.get(&header.response)
        {
            self.token = Some(token.clone());
        }
    }

    /// Adds to a request for this path what the client sends with it.
    pub(crate) fn write(&self, transport: &Transport, path: &str, headers: &mut HeaderMap) {
        if let Some(cookies) = self.cookies_for(path) {
            let cookies = HeaderValue::try_from(cookies);
            let cookies = cookies.expect("cookies that came in a header fit into one");
            headers.append(COOKIE, cookies);
        }
        if let (Transport::Header(header), Some(token)) = (transport, &self.token) {
            let name = http::HeaderName::try_from(&header.request);
            let name = name.expect("the layer has checked the name of its header");
            headers.insert(name, credentials(header, token));
        }
    }

    fn cookies_for(&self, path: &str) -> Option<String> {
        let sent = self.cookies.iter();
        let sent = sent.filter(|cookie| matches(cookie.path().unwrap_or("/"), path));
        let pairs: Vec<String> = sent
            .map(|cookie| format!("{}={}", cookie.name(), cookie.value()))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

/// The cookies that a request has already, and those of `ours` that have another name: as one header (RFC 6265 §5.4).
pub(crate) fn joined(theirs: &GetAll<'_, HeaderValue>, ours: &HeaderValue) -> HeaderValue {
    fn pairs(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
        let pairs = value.as_bytes().split(|byte| *byte == b';');
        pairs.map(<[u8]>::trim_ascii)
    }
    fn name(pair: &[u8]) -> &[u8] {
        let end = pair.iter().position(|byte| *byte == b'=');
        &pair[..end.unwrap_or(pair.len())]
    }
    let theirs: Vec<&[u8]> = theirs.iter().flat_map(pairs).collect();
    let is_new = |pair: &&[u8]| theirs.iter().all(|their| name(their) != name(pair));
    let all: Vec<&[u8]> = theirs
        .iter()
        .copied()
        .chain(pairs(ours).filter(is_new))
        .collect();
    HeaderValue::from_bytes(&all.join(&b"; "[..]))
        .expect("cookies that came in headers fit into one")
}

fn credentials(header: &TokenHeader, token: &HeaderValue) -> HeaderValue {
    if !header.is_bearer() {
        return token.clone();
    }
    let credentials = [b"Bearer ", token.as_bytes()].concat();
    HeaderValue::from_bytes(&credentials).expect("a token that came in a header fits into one")
}

fn is_same(one: &Cookie<'_>, other: &Cookie<'_>) -> bool {
    let key = |cookie: &Cookie<'_>| {
        let domain = cookie.domain().map(str::to_ascii_lowercase);
        let path = cookie.path().unwrap_or("/").to_owned();
        (cookie.name().to_owned(), domain, path)
    };
    key(one) == key(other)
}

/// `Max-Age` takes precedence (RFC 6265 §5.3).
fn is_removal(cookie: &Cookie<'_>) -> bool {
    match cookie.max_age() {
        Some(age) => age <= Duration::ZERO,
        None => cookie
            .expires_datetime()
            .is_some_and(|at| at <= OffsetDateTime::now_utc()),
    }
}

/// RFC 6265 §5.1.4.
fn matches(cookie_path: &str, path: &str) -> bool {
    let rest = path.strip_prefix(cookie_path);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || cookie_path.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(jar: &mut Jar, transport: &Transport, name: &'static str, value: &'static str) {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        jar.keep(transport, &headers);
    }

    #[test]
    fn cookies_are_kept_replaced_and_removed_by_name_domain_and_path() {
        let mut jar = Jar::default();
        for (set, root, shop) in [
            ("a=1; Path=/; Secure", "a=1", "a=1"),
            ("b=2; Path=/shop", "a=1", "a=1; b=2"),
            ("a=3; Path=/", "a=3", "b=2; a=3"),
            // Another scope: it removes nothing.
            ("a=; Path=/shop; Max-Age=0", "a=3", "b=2; a=3"),
            ("a=; Path=/; Domain=x.org; Max-Age=0", "a=3", "b=2; a=3"),
            ("a=; Max-Age=0", "", "b=2"),
            ("b=4; Path=/shop; Max-Age=60", "", "b=4"),
            (
                "b=; Path=/shop; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
                "",
                "",
            ),
            ("=; no cookie", "", ""),
        ] {
            keep(&mut jar, &Transport::Cookie, "set-cookie", set);
            for (path, expected) in [("/", root), ("/shop/cart", shop)] {
                let mut headers = HeaderMap::new();
                jar.write(&Transport::Cookie, path, &mut headers);
                let sent = headers.get(COOKIE).map_or("", |it| it.to_str().unwrap());
                assert_eq!(sent, expected, "{set} {path}");
            }
        }
    }

    #[test]
    fn cookies_of_a_request_join_those_of_the_client_that_have_another_name() {
        for (theirs, ours, expected) in [
            (&[][..], "id=1", "id=1"),
            (&["theme=dark"], "id=1", "theme=dark; id=1"),
            (&["a=1;b=2", "c"], "id=1; b=3; c=4", "a=1; b=2; c; id=1"),
            (&["id=forged"], "id=1", "id=forged"),
            (&["xid=2; ID=3"], "id=1", "xid=2; ID=3; id=1"),
        ] {
            let mut headers = HeaderMap::new();
            for value in theirs {
                headers.append(COOKIE, HeaderValue::from_static(value));
            }
            let sent = joined(&headers.get_all(COOKIE), &HeaderValue::from_static(ours));
            assert_eq!(sent, expected, "{theirs:?} {ours}");
        }
    }

    #[test]
    fn a_path_is_matched_by_whole_segments() {
        for (cookie_path, path, expected) in [
            ("/", "/", true),
            ("/", "/shop", true),
            ("/shop", "/shop", true),
            ("/shop", "/shop/cart", true),
            ("/shop/", "/shop/cart", true),
            ("/shop", "/shopping", false),
            ("/shop", "/", false),
        ] {
            assert_eq!(matches(cookie_path, path), expected, "{cookie_path} {path}");
        }
    }

    #[test]
    fn a_token_goes_back_in_the_header_of_requests() {
        let header = TokenHeader::default();
        let own = header.clone().with_request("x-token");
        for (header, name, expected) in [
            (header, "authorization", "Bearer abc"),
            (own, "x-token", "abc"),
        ] {
            let (mut jar, transport) = (Jar::default(), Transport::Header(header));
            let mut headers = HeaderMap::new();
            jar.write(&transport, "/", &mut headers);
            assert!(headers.is_empty());
            keep(&mut jar, &transport, "x-session-token", "abc");
            jar.write(&transport, "/", &mut headers);
            assert_eq!(headers[name], expected);
        }
    }
}
