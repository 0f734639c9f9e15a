//! Writes the session cookie into `Set-Cookie`.

use std::time::Duration;

use cookie::time::{Duration as CookieDuration, OffsetDateTime};
use cookie::{Cookie, Expiration};
use http::header::{HeaderMap, HeaderValue, SET_COOKIE};

use crate::config::cookie::{CookieConfig, SameSite, needs_secure};
use crate::middleware::presented::trim;
use crate::middleware::scope::{Leftover, Scope};
use crate::record::lifetime::MAX_COOKIE_AGE;
use crate::token::Token;

/// Returns the `Set-Cookie` header that sets the cookie to this token, or removes the cookie. One function writes both, so that
/// name, path and domain agree, and the browser removes the cookie that it was sent.
///
/// Without a maximum age, the browser keeps the cookie until it is closed.
pub(crate) fn write(
    config: &CookieConfig,
    scope: &Scope,
    kept: Option<(&Token, Option<Duration>)>,
) -> Option<HeaderValue> {
    write_as(config, &config.name, scope, kept)
}

/// Returns the `Set-Cookie` header that removes a cookie of this name from this scope.
pub(crate) fn remove_from(config: &CookieConfig, leftover: &Leftover) -> Option<HeaderValue> {
    let name = match leftover.former {
        Some(index) => config.former_names.get(index)?,
        None => &config.name,
    };
    write_as(config, name, &leftover.scope, None)
}

fn write_as(
    config: &CookieConfig,
    name: &str,
    scope: &Scope,
    kept: Option<(&Token, Option<Duration>)>,
) -> Option<HeaderValue> {
    let value = kept.map(|(token, _)| token.encode());
    let value = value.as_ref().map_or("", |value| value.as_str());
    let mut cookie = Cookie::build((name, value))
        .path(scope.path.as_str())
        .http_only(true)
        .secure(config.secure || needs_secure(name))
        .partitioned(scope.partitioned)
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

/// Removes every `Set-Cookie` for the session cookie, under its present name or a former one; returns the name if there was one.
pub(crate) fn strip(headers: &mut HeaderMap, config: &CookieConfig) -> Option<String> {
    let is_ours = |cookie: &HeaderValue| config.has_name(name_of(cookie));
    let all = headers.get_all(SET_COOKIE);
    let found = all.iter().find(|cookie| is_ours(cookie))?;
    let name = String::from_utf8_lossy(name_of(found)).into_owned();
    let others: Vec<HeaderValue> = all
        .iter()
        .filter(|cookie| !is_ours(cookie))
        .cloned()
        .collect();
    headers.remove(SET_COOKIE);
    for cookie in others {
        headers.append(SET_COOKIE, cookie);
    }
    Some(name)
}

/// The name of the cookie that a `Set-Cookie` header sets.
fn name_of(header: &HeaderValue) -> &[u8] {
    let pair = header.as_bytes().split(|byte| *byte == b';').next();
    let pair = trim(pair.unwrap_or_default());
    // A browser sends a cookie without a name back as its value alone, which then reads as name and value.
    let pair = pair.strip_prefix(b"=").unwrap_or(pair);
    let cookie_name = pair.split(|byte| *byte == b'=').next();
    trim(cookie_name.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::scope::CookieDomain;

    const NAME: &str = "__Host-id";

    #[test]
    fn the_cookie_and_its_removal_differ_only_in_value_and_lifetime() {
        let token = Token::random();
        let text = token.encode();
        let default = CookieConfig::default();
        let host = Scope::of(&default, CookieDomain::Configured);
        let set = write(&default, &host, Some((&token, None))).unwrap();
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
            let kept = write(&default, &host, Some((&token, age))).unwrap();
            let text = kept.to_str().unwrap();
            assert!(text.ends_with(&format!("; Max-Age={expected}")), "{text}");
        }
        let removal = write(&default, &host, None).unwrap();
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
        let scope = Scope::of(&config, CookieDomain::Configured);
        let set = write(&config, &scope, Some((&token, None))).unwrap();
        const ATTRIBUTES: &str =
            "HttpOnly; SameSite=None; Partitioned; Secure; Path=/app; Domain=example.org";
        let expected = format!("id={}; {ATTRIBUTES}", *text);
        assert_eq!(set.to_str().unwrap(), expected);
        let removal = write(&config, &scope, None).unwrap();
        let expected =
            format!("id=; {ATTRIBUTES}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(removal.to_str().unwrap(), expected);
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
            assert_eq!(name_of(&value) == NAME.as_bytes(), ours, "{value:?}");
        }
        let mut headers = HeaderMap::new();
        for value in ["theme=dark", "__Host-id=a", "lang=de", "__Host-id=b"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(value));
        }
        let config = CookieConfig::default();
        assert_eq!(strip(&mut headers, &config).as_deref(), Some(NAME));
        let left: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(left, ["theme=dark", "lang=de"]);
        assert_eq!(strip(&mut headers, &config), None);
        let config = config.with_former_names(["sid", "lang"]);
        assert_eq!(strip(&mut headers, &config).as_deref(), Some("lang"));
        let left: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(left, ["theme=dark"]);
    }
}
