//! Decides from the head of a request whether a page of another site may have sent it.

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, UPGRADE};
use http::{Method, Uri};

use crate::error::session::CsrfFailure;
use crate::middleware::origin::Origin;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What follows for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// No header says where the request comes from: it needs a token.
    NeedsToken,
    Refuse(CsrfFailure),
}

/// Whether the request changes nothing (RFC 9110 §9.2.1), so that another site may send it. The handshake of a WebSocket is a `GET`,
/// but opens a connection that may change anything, and browsers let every site begin one.
pub(crate) fn is_safe(method: &Method, headers: &HeaderMap) -> bool {
    let is_safe = matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    );
    is_safe && !headers.get_all(UPGRADE).iter().any(names_websocket)
}

fn names_websocket(upgrade: &HeaderValue) -> bool {
    let mut protocols = upgrade.as_bytes().split(|byte| *byte == b',');
    protocols.any(|it| it.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

/// Judges a request that is not safe. `carries_session` says whether it has a session cookie.
///
/// The browser sets `Sec-Fetch-Site` and `Origin`, and no page can change them. Every browser sends at least one of them since 2020,
/// so a request without either is from an older one, or from a program. Without a session cookie it has nothing that a forger could use.
pub(crate) fn judge(
    headers: &HeaderMap,
    uri: &Uri,
    allowed: &[Origin],
    carries_session: bool,
) -> Verdict {
    let origin = Sender::of(headers);
    let is_allowed = matches!(&origin, Sender::Page(origin) if allowed.contains(origin));
    match only(headers, &SEC_FETCH_SITE) {
        // `none`: the user's own doing, such as a bookmark.
        Some(Ok("same-origin" | "none")) => Verdict::Pass,
        _ if is_allowed => Verdict::Pass,
        Some(_) => Verdict::Refuse(CsrfFailure::CrossOrigin),
        None => match origin {
            Sender::Page(origin) if host(headers, uri).is_some_and(|it| origin.is_host(it)) => {
                Verdict::Pass
            }
            Sender::Opaque => Verdict::Refuse(CsrfFailure::OpaqueOrigin),
            Sender::Page(_) | Sender::Unreadable => Verdict::Refuse(CsrfFailure::OtherOrigin),
            Sender::Unknown if carries_session => Verdict::NeedsToken,
            Sender::Unknown => Verdict::Pass,
        },
    }
}

/// The sender of a request, as `Origin` names it.
enum Sender {
    Unknown,
    Opaque,
    Page(Origin),
    Unreadable,
}

impl Sender {
    fn of(headers: &HeaderMap) -> Self {
        match only(headers, &ORIGIN) {
            None => Self::Unknown,
            Some(Ok("null")) => Self::Opaque,
            Some(Ok(text)) => Origin::parse(text).map_or(Self::Unreadable, Self::Page),
            Some(Err(Unreadable)) => Self::Unreadable,
        }
    }
}

struct Unreadable;

/// The value of a header that a request has once at most.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Result<&'a str, Unreadable>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    Some(text.ok_or(Unreadable))
}

/// The host and port that the request was sent to. HTTP/2 sends them as `:authority`, which is part of the URI, as is that of a request
/// in absolute form, which overrides `Host` (RFC 9112 §3.2.2).
fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => only(headers, &HOST)?.ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "https://shop.example";
    const FRIEND: &str = "https://app.example.org";
    const EVIL: &str = "https://evil.example";

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_sender_of_a_request_as_a_table() {
        use CsrfFailure::{CrossOrigin, OpaqueOrigin, OtherOrigin};
        use Verdict::{NeedsToken, Pass, Refuse};
        let allowed = [Origin::parse(FRIEND).unwrap()];
        for (site, origin, expected) in [
            (Some("same-origin"), Some(OWN), Pass),
            (Some("same-origin"), None, Pass),
            // The proxy has changed `Host`, and the browser knows better.
            (Some("same-origin"), Some(EVIL), Pass),
            (Some("none"), None, Pass),
            (Some("none"), Some("null"), Pass),
            (Some("same-site"), Some(OWN), Refuse(CrossOrigin)),
            (Some("same-site"), None, Refuse(CrossOrigin)),
            (Some("same-site"), Some(FRIEND), Pass),
            (Some("cross-site"), Some(EVIL), Refuse(CrossOrigin)),
            // The same host by another scheme.
            (Some("cross-site"), Some(OWN), Refuse(CrossOrigin)),
            (Some("cross-site"), None, Refuse(CrossOrigin)),
            (Some("cross-site"), Some("null"), Refuse(CrossOrigin)),
            (Some("cross-site"), Some(FRIEND), Pass),
            (Some(""), Some(OWN), Refuse(CrossOrigin)),
            (Some("Same-Origin"), Some(OWN), Refuse(CrossOrigin)),
            (Some("galactic"), Some(OWN), Refuse(CrossOrigin)),
            (Some("galactic"), Some(FRIEND), Pass),
            (None, Some(OWN), Pass),
            (None, Some("https://SHOP.example:443"), Pass),
            (None, Some("http://shop.example"), Pass),
            (None, Some("https://shop.example:8443"), Refuse(OtherOrigin)),
            (None, Some(EVIL), Refuse(OtherOrigin)),
            (
                None,
                Some("https://shop.example.evil.example"),
                Refuse(OtherOrigin),
            ),
            (None, Some("http://app.example.org"), Refuse(OtherOrigin)),
            (None, Some(FRIEND), Pass),
            (None, Some("null"), Refuse(OpaqueOrigin)),
            (None, Some(""), Refuse(OtherOrigin)),
            (None, Some("shop.example"), Refuse(OtherOrigin)),
            (None, None, NeedsToken),
        ] {
            let mut lines = vec![("host", "shop.example")];
            lines.extend(site.map(|site| ("sec-fetch-site", site)));
            lines.extend(origin.map(|origin| ("origin", origin)));
            let headers = headers(&lines);
            let uri = Uri::from_static("/order");
            let case = format!("{site:?} {origin:?}");
            assert_eq!(judge(&headers, &uri, &allowed, true), expected, "{case}");
            // Without a session, only a request that says nothing of its sender is judged otherwise.
            let without = match expected {
                NeedsToken => Pass,
                expected => expected,
            };
            assert_eq!(judge(&headers, &uri, &allowed, false), without, "{case}");
        }
    }

    #[test]
    fn a_request_without_a_host_or_with_repeated_headers_is_refused() {
        use CsrfFailure::{CrossOrigin, OtherOrigin};
        for (lines, expected) in [
            (&[("origin", OWN)][..], OtherOrigin),
            (
                &[
                    ("origin", OWN),
                    ("host", "shop.example"),
                    ("host", "shop.example"),
                ],
                OtherOrigin,
            ),
            (
                &[("origin", OWN), ("origin", OWN), ("host", "shop.example")],
                OtherOrigin,
            ),
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("sec-fetch-site", "cross-site"),
                ],
                CrossOrigin,
            ),
        ] {
            let uri = Uri::from_static("/order");
            let verdict = judge(&headers(lines), &uri, &[], true);
            assert_eq!(verdict, Verdict::Refuse(expected), "{lines:?}");
        }
        let mut unreadable = headers(&[("host", "shop.example")]);
        unreadable.insert("origin", HeaderValue::from_bytes(b"https://\xff").unwrap());
        let verdict = judge(&unreadable, &Uri::from_static("/"), &[], true);
        assert_eq!(verdict, Verdict::Refuse(OtherOrigin));
    }

    #[test]
    fn the_authority_of_the_uri_is_the_host() {
        for (uri, verdict) in [
            ("https://shop.example/order", Verdict::Pass),
            (
                "https://evil.example/order",
                Verdict::Refuse(CsrfFailure::OtherOrigin),
            ),
        ] {
            let headers = headers(&[("origin", OWN), ("host", "shop.example")]);
            let uri = Uri::from_static(uri);
            assert_eq!(judge(&headers, &uri, &[], true), verdict, "{uri}");
        }
    }

    #[test]
    fn safe_requests_are_those_that_change_nothing_and_open_no_websocket() {
        let none = HeaderMap::new();
        for (method, safe) in [
            ("GET", true),
            ("HEAD", true),
            ("OPTIONS", true),
            ("TRACE", true),
            ("POST", false),
            ("PUT", false),
            ("PATCH", false),
            ("DELETE", false),
            ("CONNECT", false),
            ("PROPFIND", false),
            ("get", false),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(is_safe(&method, &none), safe, "{method}");
        }
        for (upgrade, safe) in [
            ("websocket", false),
            ("WebSocket", false),
            ("foo, websocket", false),
            ("h2c", true),
        ] {
            let headers = headers(&[("upgrade", upgrade)]);
            assert_eq!(is_safe(&Method::GET, &headers), safe, "{upgrade}");
        }
    }
}
