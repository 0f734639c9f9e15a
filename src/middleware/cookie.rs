//! The session cookie: reads the `Cookie` headers that browsers send, and writes `Set-Cookie`.
//!
//! Cookie crates decode names (`__%48ost-id` becomes `__Host-id`, so that a sibling host can forge it) or drop the whole
//! header for one unusual byte in another cookie. This reader compares bytes: it splits at `;`, trims spaces and tabs,
//! and accepts the value only if it is exactly a token.

use std::time::Duration;

use cookie::time::{Duration as CookieDuration, OffsetDateTime};
use cookie::{Cookie, Expiration};
use http::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use memchr::memchr;
use smallvec::SmallVec;

use crate::config::cookie::{CookieConfig, SameSite, has_prefix};
use crate::config::domain::domains;
use crate::record::lifetime::MAX_COOKIE_AGE;
use crate::token::Token;

/// How many different tokens of one request sessile looks up at most.
const MAX_TOKENS: usize = 4;

/// The cookies that a request carries under the name of the session cookie.
///
/// Browsers distinguish cookies of one name by domain and path. They send several if the configured domain or path has changed,
/// or if another application on the host uses the same name. The request does not say which is which, and their order is not
/// reliable (RFC 6265bis §5.8.3).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Presented {
    /// The different tokens; empty if there are more than [`MAX_TOKENS`].
    pub(crate) tokens: SmallVec<[Token; 1]>,
    /// How many cookies hold a token, duplicates included.
    count: usize,
    /// Whether one of the cookies is not a token.
    pub(crate) malformed: bool,
}

impl Presented {
    /// Whether the request carries no such cookie.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0 && !self.malformed
    }

    /// Whether several cookies hold a token.
    pub(crate) fn has_several(&self) -> bool {
        self.count > 1
    }

    /// Whether there are so many different tokens that sessile looks up none of them.
    pub(crate) fn has_too_many(&self) -> bool {
        self.count > 0 && self.tokens.is_empty()
    }

    fn add(&mut self, value: &[u8]) {
        let Some(token) = Token::decode(value) else {
            self.malformed = true;
            return;
        };
        let too_many = self.has_too_many();
        self.count += 1;
        if too_many || self.tokens.contains(&token) {
            return;
        }
        match self.tokens.len() < MAX_TOKENS {
            true => self.tokens.push(token),
            false => self.tokens.clear(),
        }
    }
}

/// Reads the session's tokens from the cookies of the request.
pub(crate) fn read(headers: &HeaderMap, name: &str) -> Presented {
    let mut presented = Presented::default();
    for header in headers.get_all(COOKIE) {
        let mut rest = Some(header.as_bytes());
        while let Some(bytes) = rest {
            let pair = match memchr(b';', bytes) {
                Some(end) => {
                    rest = Some(&bytes[end + 1..]);
                    &bytes[..end]
                }
                None => {
                    rest = None;
                    bytes
                }
            };
            let Some(equals) = memchr(b'=', pair) else {
                continue;
            };
            if trim(&pair[..equals]) == name.as_bytes() {
                presented.add(trim(&pair[equals + 1..]));
            }
        }
    }
    presented
}

/// Trims spaces and tabs, the only white space that RFC 6265bis §5.7 trims.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The scope of a cookie. Browsers treat cookies of one name in different scopes as different cookies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scope {
    /// `None` for the host of the request only.
    pub(crate) domain: Option<String>,
    pub(crate) path: String,
}

impl Scope {
    /// The scope of the session cookie.
    fn of(config: &CookieConfig) -> Self {
        let domain = config.domain.as_deref();
        Self {
            // RFC 6265 §5.2.3: a leading dot and the case have no effect.
            domain: domain.map(|it| it.strip_prefix('.').unwrap_or(it).to_ascii_lowercase()),
            path: config.path.clone(),
        }
    }
}

/// How many cookies a response removes at most. That takes about 2.5 KiB, and proxies often limit headers to 4 KiB.
const MAX_REMOVALS: usize = 20;

/// The other scopes from which a browser may have sent a cookie of the session cookie's name with this request. Their domains:
/// none, the configured one, the host, and each of its parents. Their paths: `/`, the configured one, and each directory of the
/// request's path.
pub(crate) fn other_scopes(config: &CookieConfig, host: Option<&str>, path: &str) -> Vec<Scope> {
    let own = Scope::of(config);
    if has_prefix(&config.name, "__Host-") {
        return Vec::new();
    }
    let parents = host.map(domains).unwrap_or_default();
    let mut domains = vec![None, own.domain.clone()];
    domains.extend(parents.into_iter().map(Some));
    // The characters that `CookieConfig::check` accepts in a path.
    let is_text = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b';';
    let ends = path.match_indices('/').map(|(end, _)| end);
    let directories = ends.map(|end| &path[..end]);
    let directories = directories.filter(|it| it.starts_with('/') && it.bytes().all(is_text));
    let mut scopes = Vec::new();
    for path in ["/", &own.path].into_iter().chain(directories) {
        for domain in &domains {
            let scope = Scope {
                domain: domain.clone(),
                path: path.to_owned(),
            };
            if scope != own && !scopes.contains(&scope) {
                scopes.push(scope);
            }
            if scopes.len() >= MAX_REMOVALS {
                return scopes;
            }
        }
    }
    scopes
}

/// Returns the `Set-Cookie` header that sets the cookie to this token, or removes the cookie. One function writes both, so that
/// name, path and domain agree, and the browser removes the cookie that it was sent.
///
/// Without a maximum age, the browser keeps the cookie until it is closed.
pub(crate) fn write(
    config: &CookieConfig,
    kept: Option<(&Token, Option<Duration>)>,
) -> Option<HeaderValue> {
    write_at(config, &Scope::of(config), kept)
}

/// Returns the `Set-Cookie` header that removes a cookie of the session cookie's name from another scope.
pub(crate) fn remove_from(config: &CookieConfig, scope: &Scope) -> Option<HeaderValue> {
    write_at(config, scope, None)
}

fn write_at(
    config: &CookieConfig,
    scope: &Scope,
    kept: Option<(&Token, Option<Duration>)>,
) -> Option<HeaderValue> {
    let value = kept.map(|(token, _)| token.encode());
    let value = value.as_ref().map_or("", |value| value.as_str());
    let mut cookie = Cookie::build((config.name.as_str(), value))
        .path(scope.path.as_str())
        .http_only(true)
        .secure(config.secure)
        .partitioned(config.partitioned)
        .same_site(match config.same_site {
            SameSite::Lax => cookie::SameSite::Lax,
            SameSite::Strict => cookie::SameSite::Strict,
            SameSite::None => cookie::SameSite::None,
        });
    if let Some(domain) = &scope.domain {
        cookie = cookie.domain(domain.as_str());
    }
    cookie = match kept {
        Some((_, None)) => cookie,
        Some((_, Some(max_age))) => cookie.max_age(whole_seconds(max_age.min(MAX_COOKIE_AGE))),
        None => cookie
            .max_age(CookieDuration::ZERO)
            .expires(Expiration::DateTime(OffsetDateTime::UNIX_EPOCH)),
    };
    let mut header = HeaderValue::try_from(cookie.build().to_string()).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Rounds up to at least one second: `Max-Age=0` would remove the cookie.
fn whole_seconds(duration: Duration) -> CookieDuration {
    let seconds = duration.as_millis().div_ceil(1000).max(1);
    CookieDuration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Removes every `Set-Cookie` for the cookie of this name; returns whether there was one.
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
    // A browser sends a cookie without a name back as its value alone, which then reads as name and value.
    let pair = pair.strip_prefix(b"=").unwrap_or(pair);
    let cookie_name = pair.split(|byte| *byte == b'=').next();
    trim(cookie_name.unwrap_or_default()) == name.as_bytes()
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

    fn tokens(tokens: &[&Token], count: usize) -> Presented {
        Presented {
            tokens: tokens.iter().copied().cloned().collect(),
            count,
            malformed: false,
        }
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
        let expected = tokens(&[&token], 1);
        for cookies in [
            vec![genuine.as_str()],
            vec!["a=1", genuine.as_str()],
            vec![&format!("a=1; {genuine};b=2")],
            vec![&format!(" \t{NAME} = {} \t", *text)],
            vec![&format!(
                "__%48ost-id=evil; =x; ;;; {genuine}; __host-id=evil"
            )],
        ] {
            assert_eq!(presented(&cookies), expected, "{cookies:?}");
        }
        let mut not_utf8 = b"x=\xff\xfe; ".to_vec();
        not_utf8.extend_from_slice(genuine.as_bytes());
        assert_eq!(read(&request(&[&not_utf8]), NAME), expected);
        let many = format!("{}{genuine}", "a=;".repeat(50_000));
        assert_eq!(presented(&[&many]), expected);
    }

    #[test]
    fn names_that_only_look_alike_belong_to_other_cookies() {
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
            assert_eq!(presented(&[&cookie]), Presented::default(), "{name:?}");
        }
        assert_eq!(
            presented(&[&format!("=__Host-id={}", *text)]),
            Presented::default()
        );
        assert_eq!(presented(&["__Host-id"]), Presented::default());
        assert_eq!(presented(&[]), Presented::default());
    }

    #[test]
    fn a_malformed_value_does_not_hide_a_token() {
        let token = Token::random();
        let text = token.encode();
        let genuine = format!("{NAME}={}", *text);
        for value in [
            "",
            "x",
            &"a".repeat(1_000_000),
            &format!("\"{}\"", *text),
            &format!("{}%3D", *text),
        ] {
            let malformed = format!("{NAME}={value}");
            let alone = presented(&[&malformed]);
            assert!(alone.malformed && alone.tokens.is_empty() && !alone.is_empty());
            assert!(!alone.has_several() && !alone.has_too_many());
            for cookies in [[&malformed, &genuine], [&genuine, &malformed]] {
                let cookies = cookies.map(String::as_str);
                let expected = Presented {
                    malformed: true,
                    ..tokens(&[&token], 1)
                };
                assert_eq!(presented(&cookies), expected);
                assert!(!expected.has_several());
            }
        }
    }

    #[test]
    fn up_to_four_different_tokens_are_candidates() {
        let all: Vec<Token> = (0..6).map(|_| Token::random()).collect();
        for (order, candidates) in [
            (&[0, 1][..], &[0, 1][..]),
            (&[1, 0], &[1, 0]),
            (&[0, 0], &[0]),
            (&[0, 1, 0, 1, 0], &[0, 1]),
            (&[0, 1, 2, 3], &[0, 1, 2, 3]),
            (&[3, 0, 1, 2, 3, 3, 0], &[3, 0, 1, 2]),
            (&[0, 1, 2, 3, 4], &[]),
            (&[0, 1, 2, 3, 4, 0, 5], &[]),
        ] {
            let pairs = order
                .iter()
                .map(|n: &usize| format!("{NAME}={}", *all[*n].encode()));
            let header = pairs.collect::<Vec<_>>().join("; ");
            let candidates: Vec<&Token> = candidates.iter().map(|n: &usize| &all[*n]).collect();
            let result = presented(&[&header]);
            assert_eq!(result, tokens(&candidates, order.len()), "{order:?}");
            assert!(result.has_several() && !result.is_empty(), "{order:?}");
            assert_eq!(result.has_too_many(), candidates.is_empty(), "{order:?}");
        }
    }

    #[test]
    fn cookies_of_the_same_name_are_removed_from_every_other_scope() {
        const HOST: &str = "a.shop.example.org";
        let config = |domain: Option<&str>, path: &str| CookieConfig {
            name: "id".into(),
            domain: domain.map(str::to_owned),
            path: path.into(),
            ..CookieConfig::default()
        };
        let org = Some("example.org");
        let dotted = Some(".Example.org");
        for (config, host, path, expected) in [
            (config(None, "/"), None, "/login", &[][..]),
            (config(None, "/app"), None, "/login", &["- /"]),
            (config(org, "/"), None, "/login", &["- /"]),
            (
                config(org, "/app"),
                None,
                "/login",
                &["- /", "example.org /", "- /app"],
            ),
            (config(dotted, "/"), None, "/login", &["- /"]),
            (
                config(None, "/"),
                Some("shop.example.org"),
                "/login",
                &["example.org /", "shop.example.org /"],
            ),
            (
                config(dotted, "/"),
                Some("shop.example.org"),
                "/login",
                &["- /", "shop.example.org /"],
            ),
            (
                config(None, "/app"),
                Some(HOST),
                "/app/login",
                &[
                    "- /",
                    "example.org /",
                    "shop.example.org /",
                    "a.shop.example.org /",
                    "example.org /app",
                    "shop.example.org /app",
                    "a.shop.example.org /app",
                ],
            ),
            // The configured path may have been another one, such as a directory of this request's path.
            (
                config(None, "/"),
                None,
                "/app/admin/login",
                &["- /app", "- /app/admin"],
            ),
            (config(None, "/"), None, "/app//x", &["- /app", "- /app/"]),
            (config(None, "/"), None, "/a;Max-Age=9/b/c", &[]),
            (config(None, "/"), None, "*", &[]),
            // The host may be that of a proxy: the configured domain counts all the same.
            (
                config(org, "/"),
                Some("shop.internal"),
                "/",
                &["- /", "shop.internal /"],
            ),
            (config(None, "/"), Some("127.0.0.1"), "/", &[]),
            // Browsers accept a `__Host-` cookie in one scope only.
            (CookieConfig::default(), Some(HOST), "/app/login", &[]),
        ] {
            let scopes = other_scopes(&config, host, path);
            let shown: Vec<String> = scopes
                .iter()
                .map(|scope| format!("{} {}", scope.domain.as_deref().unwrap_or("-"), scope.path))
                .collect();
            assert_eq!(shown, expected, "{config:?} {host:?} {path}");
            for scope in &scopes {
                let removal = remove_from(&config, scope).unwrap();
                assert!(is_named(&removal, &config.name) && removal.is_sensitive());
                let removal = removal.to_str().unwrap();
                let path = format!("; Path={}; ", scope.path);
                assert!(removal.starts_with("id=; HttpOnly; SameSite=Lax; Secure; "));
                assert!(removal.contains(&path) && removal.contains("; Max-Age=0; "));
                let domain = removal.split_once("; Domain=").map(|(_, rest)| rest);
                let domain = domain.and_then(|rest| rest.split(';').next());
                assert_eq!(domain, scope.domain.as_deref());
            }
        }
        let (host, path) = (format!("{}example.org", "a.".repeat(9)), "/a".repeat(9));
        let scopes = other_scopes(&config(None, "/"), Some(&host), &path);
        assert_eq!(scopes.len(), MAX_REMOVALS);
    }

    #[test]
    fn the_cookie_and_its_removal_differ_only_in_value_and_lifetime() {
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
    fn only_a_set_cookie_of_the_session_cookies_name_is_stripped() {
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
