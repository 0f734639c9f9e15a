//! The token in a header, for API clients: reads it from the request, and writes a new one into the response.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::config::transport::TokenHeader;
use crate::middleware::presented::Presented;
use crate::token::Token;

/// Reads the session's token from the request's header, and marks the header as sensitive.
///
/// A header that occurs several times holds no token: a proxy may have looked at another one (RFC 9110 §5.3, §11.6.2).
pub(crate) fn read(headers: &mut HeaderMap, config: &TokenHeader) -> Presented {
    let Ok(name) = HeaderName::try_from(config.request.as_str()) else {
        return Presented::default();
    };
    let (mut lines, mut ours) = (0, None);
    if let http::header::Entry::Occupied(mut values) = headers.entry(&name) {
        for value in values.iter_mut() {
            value.set_sensitive(true);
            lines += 1;
            let token = match config.is_bearer() {
                true => bearer(value.as_bytes()),
                false => Some(value.as_bytes()),
            };
            ours = ours.or_else(|| token.map(Token::decode));
        }
    }
    match ours {
        None => Presented::default(),
        Some(token) if lines == 1 => {
            let malformed = token.is_none();
            Presented::in_header(token, malformed)
        }
        Some(_) => Presented::in_header(None, true),
    }
}

/// The credentials of the scheme `Bearer`, whose name has no case (RFC 9110 §11.1); `None` for any other scheme.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer";
    let (scheme, rest) = value.split_at_checked(SCHEME.len())?;
    let ends = matches!(rest.first(), None | Some(b' ' | b'\t'));
    (ends && scheme.eq_ignore_ascii_case(SCHEME)).then(|| rest.trim_ascii())
}

/// Writes a new token into the response.
pub(crate) fn write(headers: &mut HeaderMap, config: &TokenHeader, token: &Token) {
    let name = HeaderName::try_from(config.response.as_str());
    let value = HeaderValue::try_from(token.encode().as_str());
    if let (Ok(name), Ok(mut value)) = (name, value) {
        value.set_sensitive(true);
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::try_from(*name).unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_read_from_exactly_one_header() {
        let token = Token::random();
        let text = token.encode();
        let own = TokenHeader::default().with_request("X-Api-Session");
        let with = |scheme: &str| format!("{scheme}{}", *text);
        let (bearer, bare) = (with("Bearer "), with(""));
        let (lower, upper) = (with("bearer "), with("BEARER   "));
        let bearers = with("Bearers ");
        let two = format!("{bearer}, {bearer}");
        const BASIC: &[u8] = b"Basic bWlhOnNlY3JldA==";
        // Whether there is a token, and whether the header is malformed.
        type Case<'a> = (&'a [(&'a str, &'a [u8])], bool, bool);
        let by_bearer: [Case<'_>; 14] = [
            (&[("authorization", bearer.as_bytes())], true, false),
            (&[("authorization", lower.as_bytes())], true, false),
            (&[("authorization", upper.as_bytes())], true, false),
            (&[], false, false),
            (&[("authorization", BASIC)], false, false),
            (&[("authorization", b"")], false, false),
            (&[("authorization", bearers.as_bytes())], false, false),
            (&[("authorization", bare.as_bytes())], false, false),
            (&[("authorization", b"Bearer")], false, true),
            (&[("authorization", b"Bearer \xff\xfe")], false, true),
            (&[("authorization", two.as_bytes())], false, true),
            (
                &[
                    ("authorization", bearer.as_bytes()),
                    ("authorization", bearer.as_bytes()),
                ],
                false,
                true,
            ),
            (
                &[
                    ("authorization", BASIC),
                    ("authorization", bearer.as_bytes()),
                ],
                false,
                true,
            ),
            (
                &[
                    ("x-api-session", bare.as_bytes()),
                    ("cookie", bearer.as_bytes()),
                ],
                false,
                false,
            ),
        ];
        let by_own: [Case<'_>; 5] = [
            (&[("x-api-session", bare.as_bytes())], true, false),
            (&[("x-api-session", bearer.as_bytes())], false, true),
            (&[("x-api-session", b"")], false, true),
            (
                &[
                    ("x-api-session", bare.as_bytes()),
                    ("x-api-session", bare.as_bytes()),
                ],
                false,
                true,
            ),
            (&[("authorization", bearer.as_bytes())], false, false),
        ];
        for (config, cases) in [(TokenHeader::default(), &by_bearer[..]), (own, &by_own)] {
            for (lines, has_token, malformed) in cases {
                let mut headers = headers(lines);
                let presented = read(&mut headers, &config);
                let expected = has_token.then(|| token.clone());
                assert!(presented.tokens.iter().eq(expected.iter()), "{lines:?}");
                assert_eq!(presented.malformed, *malformed, "{lines:?}");
                assert_eq!(presented.is_empty(), !has_token && !malformed, "{lines:?}");
                let mut values = headers.get_all(&config.request).iter();
                assert!(values.all(HeaderValue::is_sensitive), "{lines:?}");
            }
        }
    }

    #[test]
    fn a_new_token_replaces_what_the_handler_has_written() {
        let (token, config) = (Token::random(), TokenHeader::default());
        let mut headers = headers(&[("x-session-token", b"x"), ("x-session-token", b"y")]);
        write(&mut headers, &config, &token);
        let values: Vec<_> = headers.get_all("x-session-token").iter().collect();
        assert_eq!(values, [token.encode().as_str()]);
        assert!(values[0].is_sensitive());
    }
}
