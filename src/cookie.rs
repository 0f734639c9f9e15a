//! The session cookie: reading what browsers send, and writing what they keep.
//!
//! Cookie crates decode names (`__%48ost-id` becomes `__Host-id`, so that a sibling host can forge it) or drop the whole
//! header for one odd byte in a neighbour's cookie. This reader compares bytes: it splits at `;`, trims spaces and tabs,
//! and takes the value only if it is exactly a token.

use std::time::Duration;

use cookie::time::{Duration as CookieDuration, OffsetDateTime};
use cookie::{Cookie, Expiration};
use http::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE};

use crate::config::{CookieConfig, SameSite};
use crate::lifetime::LONGEST_COOKIE;
use crate::token::Token;

/// What a request carries under the name of the session cookie.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Presented {
    /// No such cookie.
    Nothing,
    /// One that no sessile has written.
    Malformed,
    /// Two tokens that differ: one of them was put there by somebody else, and nothing tells which.
    Ambiguous,
    /// A token.
    Token(Token),
}

/// Finds the session's token among all cookies of the request.
pub(crate) fn read(headers: &HeaderMap, name: &str) -> Presented {
    let mut found = Presented::Nothing;
    for header in headers.get_all(COOKIE) {
        for pair in header.as_bytes().split(|byte| *byte == b';') {
            let Some(equals) = pair.iter().position(|byte| *byte == b'=') else {
                continue;
            };
            if trim(&pair[..equals]) != name.as_bytes() {
                continue;
            }
            let value = trim(&pair[equals + 1..]);
            found = match (found, Token::decode(value)) {
                (Presented::Nothing, None) => Presented::Malformed,
                (Presented::Nothing | Presented::Malformed, Some(token)) => Presented::Token(token),
                (Presented::Token(one), Some(other)) if one != other => Presented::Ambiguous,
                (found, _) => found,
            };
        }
    }
    found
}

/// Spaces and tabs, which are all the white space that RFC 6265bis §5.7 knows.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The `Set-Cookie` header that gives the browser this token, or that takes the cookie away again. One function writes
/// both, so that name, path and domain agree and the browser finds what it is to remove.
///
/// A cookie without a maximal age ends with the browser.
pub(crate) fn write(
    config: &CookieConfig,
    kept: Option<(&Token, Option<Duration>)>,
) -> Option<HeaderValue> {
    let value = kept.map(|(token, _)| token.encode());
    let value = value.as_ref().map_or("", |value| value.as_str());
    let mut cookie = Cookie::build((config.name.as_str(), value))
        .path(config.path.as_str())
        .http_only(true)
        .secure(config.secure)
        .partitioned(config.partitioned)
        .same_site(match config.same_site {
            SameSite::Lax => cookie::SameSite::Lax,
            SameSite::Strict => cookie::SameSite::Strict,
            SameSite::None => cookie::SameSite::None,
        });
    if let Some(domain) = &config.domain {
        cookie = cookie.domain(domain.as_str());
    }
    cookie = match kept {
        Some((_, None)) => cookie,
        Some((_, Some(max_age))) => cookie.max_age(whole_seconds(max_age.min(LONGEST_COOKIE))),
        None => cookie
            .max_age(CookieDuration::ZERO)
            .expires(Expiration::DateTime(OffsetDateTime::UNIX_EPOCH)),
    };
    let mut header = HeaderValue::try_from(cookie.build().to_string()).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Rounded up: a cookie of zero seconds would be a removal.
fn whole_seconds(duration: Duration) -> CookieDuration {
    let seconds = duration.as_millis().div_ceil(1000).max(1);
    CookieDuration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Removes every `Set-Cookie` for the cookie of this name; true if there was one.
pub(crate) fn strip(headers: &mut HeaderMap, name: &str) -> bool {
    let all = headers.get_all(SET_COOKIE);
    if !all.iter().any(|cookie| is_named(cookie, name)) {
        return false;
    }
    let others: Vec<HeaderValue> = all
        .iter()
        .filter(|cookie| !is_named(cookie, name))
        .cloned()
        .collect();
    headers.remove(SET_COOKIE);
    for cookie in others {
        headers.append(SET_COOKIE, cookie);
    }
    true
}

/// Whether a `Set-Cookie` header is for the cookie of this name.
fn is_named(header: &HeaderValue, name: &str) -> bool {
    let pair = header.as_bytes().split(|byte| *byte == b';').next();
    let pair = trim(pair.unwrap_or_default());
    // The value of a cookie without a name is sent back without the `=` before it, and then looks like name and value.
    let pair = pair.strip_prefix(b"=").unwrap_or(pair);
    let found = pair.split(|byte| *byte == b'=').next();
    trim(found.unwrap_or_default()) == name.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "__Host-id";

    fn request(cookies: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, HeaderValue::from_bytes(cookie).unwrap());
        }
        headers
    }

    fn presented(cookies: &[&str]) -> Presented {
        let cookies: Vec<_> = cookies.iter().map(|cookie| cookie.as_bytes()).collect();
        read(&request(&cookies), NAME)
    }

    #[test]
    fn the_genuine_cookie_is_found_among_all_others() {
        let token = Token::random();
        let text = token.encode();
        let genuine = format!("{NAME}={}", *text);
        let expected = Presented::Token(token);
        for cookies in [
            vec![genuine.as_str()],
            vec!["a=1", genuine.as_str()],
            vec![&format!("a=1; {genuine};b=2")],
            vec![&format!(" \t{NAME} = {} \t", *text)],
            vec![genuine.as_str(), genuine.as_str()],
            vec![&format!("{NAME}=short; {genuine}")],
            vec![&format!("{genuine}; {NAME}=short")],
            vec![&format!(
                "__%48ost-id=evil; =x; ;;; {genuine}; __host-id=evil"
            )],
        ] {
            assert_eq!(presented(&cookies), expected, "{cookies:?}");
        }
        let mut odd = b"odd=\xff\xfe; ".to_vec();
        odd.extend_from_slice(genuine.as_bytes());
        assert_eq!(read(&request(&[&odd]), NAME), expected);
        let many = format!("{}{genuine}", "a=;".repeat(50_000));
        assert_eq!(presented(&[&many]), expected);
    }

    #[test]
    fn names_that_only_look_alike_are_other_cookies() {
        let text = Token::random().encode();
        for name in [
            "__host-id",
            "__%48ost-id",
            "\u{2000}__Host-id",
            "\u{a0}__Host-id",
            "__Host-id\u{2000}",
            "__Host-i",
            "__Host-idx",
            "$__Host-id",
            "\"__Host-id\"",
        ] {
            let cookie = format!("{name}={}", *text);
            assert_eq!(presented(&[&cookie]), Presented::Nothing, "{name:?}");
        }
        assert_eq!(
            presented(&[&format!("=__Host-id={}", *text)]),
            Presented::Nothing
        );
        assert_eq!(presented(&["__Host-id"]), Presented::Nothing);
        assert_eq!(presented(&[]), Presented::Nothing);
    }

    #[test]
    fn values_that_are_no_token_are_malformed_and_two_tokens_are_ambiguous() {
        let text = Token::random().encode();
        for value in [
            "",
            "x",
            &"a".repeat(1_000_000),
            &format!("\"{}\"", *text),
            &format!("{}%3D", *text),
        ] {
            assert_eq!(
                presented(&[&format!("{NAME}={value}")]),
                Presented::Malformed
            );
        }
        let two = format!("{NAME}={}; {NAME}={}", *text, *Token::random().encode());
        assert_eq!(presented(&[&two]), Presented::Ambiguous);
        let three = format!("{two}; {NAME}={}", *text);
        assert_eq!(presented(&[&three]), Presented::Ambiguous);
    }

    #[test]
    fn the_cookie_and_its_removal_differ_only_in_value_and_life() {
        let token = Token::random();
        let text = token.encode();
        let set = write(&CookieConfig::default(), Some((&token, None))).unwrap();
        let expected = format!("{NAME}={}; HttpOnly; SameSite=Lax; Secure; Path=/", *text);
        assert_eq!(set.to_str().unwrap(), expected);
        assert!(set.is_sensitive());
        for (age, expected) in [
            (0, "1"),
            (1_500, "2"),
            (30_000, "30"),
            (u64::MAX, "34560000"),
        ] {
            let age = Some(Duration::from_millis(age));
            let kept = write(&CookieConfig::default(), Some((&token, age))).unwrap();
            let text = kept.to_str().unwrap();
            assert!(text.ends_with(&format!("; Max-Age={expected}")), "{text}");
        }
        let removal = write(&CookieConfig::default(), None).unwrap();
        let expected = format!(
            "{NAME}=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        );
        assert_eq!(removal.to_str().unwrap(), expected);

        let config = CookieConfig {
            name: "id".into(),
            path: "/app".into(),
            domain: Some("example.org".into()),
            same_site: SameSite::None,
            partitioned: true,
            ..CookieConfig::default()
        };
        let set = write(&config, Some((&token, None))).unwrap();
        let expected = format!(
            "id={}; HttpOnly; SameSite=None; Partitioned; Secure; Path=/app; Domain=example.org",
            *text
        );
        assert_eq!(set.to_str().unwrap(), expected);
    }

    #[test]
    fn only_our_own_set_cookie_is_ours() {
        for (value, ours) in [
            (&b"__Host-id=x; Path=/"[..], true),
            (b" __Host-id =x", true),
            (b"\t__Host-id\t=", true),
            (b"__Host-id", true),
            (b"__Host-id=\xff\xfe; Path=/", true),
            (b"=__Host-id=x", true),
            (b" = __Host-id =x; Path=/", true),
            (b"==__Host-id=x", false),
            (b"__Host-idx=x", false),
            (b"__host-id=x", false),
            (b"\"__Host-id\"=x", false),
            (b"__%48ost-id=x", false),
            (b"theme=__Host-id=x", false),
            (b"theme=dark; __Host-id=x", false),
        ] {
            let value = HeaderValue::from_bytes(value).unwrap();
            assert_eq!(is_named(&value, NAME), ours, "{value:?}");
        }
        let mut headers = HeaderMap::new();
        for value in ["theme=dark", "__Host-id=a", "lang=de", "__Host-id=b"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(value));
        }
        assert!(strip(&mut headers, NAME));
        let left: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(left, ["theme=dark", "lang=de"]);
        assert!(!strip(&mut headers, NAME));
    }
}
