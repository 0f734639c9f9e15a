//! Cache headers: keeps a response that is for one visitor out of shared caches.

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};

/// Why a response is for one visitor only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Private {
    /// It sets or removes the session cookie.
    SetsCookie,
    /// It may contain a CSRF token.
    ShowsCsrfToken,
    /// It carries the token in a header (RFC 6749 §5.1).
    CarriesToken,
    /// Its handler asked for the session of a signed-in user.
    SignedIn,
}

/// Whether the handler's headers let shared caches store the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// They did not, or were silent.
    AsIntended,
    /// They did, and have been replaced or removed.
    WasPublic,
}

/// Keeps a response out of shared caches.
pub(crate) fn keep_private(headers: &mut HeaderMap, why: Private) -> Outcome {
    let directives = Directives::of(headers, &CACHE_CONTROL);
    let mut outcome = Outcome::AsIntended;
    if !directives.forbids_storing() {
        let public = directives.has("public") || directives.has("s-maxage");
        let keep = match why {
            Private::SetsCookie | Private::ShowsCsrfToken => directives.has_plain("private"),
            Private::CarriesToken => false,
            Private::SignedIn => !directives.is_empty(),
        };
        if public {
            outcome = Outcome::WasPublic;
        }
        if public || !keep {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
    // A cache that understands a targeted field ignores `Cache-Control` (RFC 9213 §2.2).
    let targeted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_targeted(name) && !forbids_targeted(headers, name))
        .cloned()
        .collect();
    for name in targeted {
        headers.remove(name);
        outcome = Outcome::WasPublic;
    }
    outcome
}

/// Whether some shared caches obey this field instead of `Cache-Control`: a targeted field of RFC 9213, whose name ends in
/// `-cache-control`, or one of the older fields of reverse proxies and content delivery networks.
fn is_targeted(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.ends_with("-cache-control")
        || matches!(
            name,
            "surrogate-control" | "edge-control" | "x-accel-expires"
        )
}

fn forbids_targeted(headers: &HeaderMap, name: &HeaderName) -> bool {
    match name.as_str() {
        // nginx takes a number of seconds, of which 0 forbids caching, or `@` and a time.
        "x-accel-expires" => headers
            .get_all(name)
            .iter()
            .all(|value| value.as_bytes().trim_ascii() == b"0"),
        // These fields do not define `private`.
        "surrogate-control" | "edge-control" => Directives::of(headers, name).forbids_storing(),
        _ => {
            let directives = Directives::of(headers, name);
            let public = directives.has("public") || directives.has("s-maxage");
            directives.forbids_storing() || (directives.has_plain("private") && !public)
        }
    }
}

/// The directives of all lines of one header (RFC 9111 §5.2).
struct Directives<'a>(Vec<Directive<'a>>);

#[derive(Debug, PartialEq)]
struct Directive<'a> {
    name: &'a [u8],
    /// Whether it has an argument: `private="x-foo"` applies to that header only, not to the response.
    qualified: bool,
}

impl<'a> Directives<'a> {
    fn of(headers: &'a HeaderMap, name: &HeaderName) -> Self {
        let lines = headers.get_all(name).iter();
        Self(lines.flat_map(|line| directives(line.as_bytes())).collect())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|directive| directive.is(name))
    }

    fn has_plain(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|directive| directive.is(name) && !directive.qualified)
    }

    /// Whether no cache may store the response. With `must-understand`, a cache may ignore `no-store` (RFC 9111 §5.2.2.3).
    fn forbids_storing(&self) -> bool {
        self.has_plain("no-store") && !self.has("must-understand")
    }
}

impl Directive<'_> {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Splits one header line at the commas outside of quoted strings.
fn directives(line: &[u8]) -> Vec<Directive<'_>> {
    let mut directives = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in line.iter().copied().chain([b',']).enumerate() {
        let end_of_line = at == line.len();
        match byte {
            _ if escaped && !end_of_line => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted || end_of_line => {
                directives.extend(directive(&line[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    directives
}

fn directive(item: &[u8]) -> Option<Directive<'_>> {
    let equals = item.iter().position(|byte| *byte == b'=');
    let name = item[..equals.unwrap_or(item.len())].trim_ascii();
    (!name.is_empty()).then_some(Directive {
        name,
        qualified: equals.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_line_is_split_into_directives_with_and_without_a_value() {
        for (line, expected) in [
            ("", vec![]),
            (" , ,", vec![]),
            ("no-store", vec![("no-store", false)]),
            (
                "Public , max-age=600,s-maxage=5",
                vec![("Public", false), ("max-age", true), ("s-maxage", true)],
            ),
            (
                r#"private="x-foo, public", max-age=5"#,
                vec![("private", true), ("max-age", true)],
            ),
            (
                r#"x="a\",no-store,\\",no-cache"#,
                vec![("x", true), ("no-cache", false)],
            ),
            (
                "private = \"x\",\tno-store",
                vec![("private", true), ("no-store", false)],
            ),
            // An unterminated string extends to the end of the line.
            (r#"x="no-store, private"#, vec![("x", true)]),
            (r#"x="\"#, vec![("x", true)]),
            ("=5, no-transform", vec![("no-transform", false)]),
        ] {
            let split: Vec<_> = directives(line.as_bytes())
                .iter()
                .map(|it| (std::str::from_utf8(it.name).unwrap(), it.qualified))
                .collect();
            assert_eq!(split, expected, "{line}");
        }
    }

    #[test]
    fn a_cache_control_that_does_not_keep_shared_caches_away_is_replaced() {
        use Outcome::{AsIntended, WasPublic};
        use Private::{CarriesToken, SetsCookie, SignedIn};
        for (why, lines, expected, outcome) in [
            (SetsCookie, &[][..], "no-store", AsIntended),
            (SetsCookie, &["no-store"], "no-store", AsIntended),
            (
                SetsCookie,
                &["NO-STORE, public"],
                "NO-STORE, public",
                AsIntended,
            ),
            (
                SetsCookie,
                &["private, max-age=5"],
                "private, max-age=5",
                AsIntended,
            ),
            (
                SetsCookie,
                &["max-age=5", "PRIVATE"],
                "max-age=5|PRIVATE",
                AsIntended,
            ),
            (SetsCookie, &["max-age=5"], "no-store", AsIntended),
            (SetsCookie, &["no-cache"], "no-store", AsIntended),
            (SetsCookie, &["public, max-age=5"], "no-store", WasPublic),
            (SetsCookie, &["private, s-maxage=5"], "no-store", WasPublic),
            (SetsCookie, &[r#"private="x-foo""#], "no-store", AsIntended),
            (SetsCookie, &["private=x-foo"], "no-store", AsIntended),
            (SetsCookie, &[r#"x=", private, ""#], "no-store", AsIntended),
            (
                SetsCookie,
                &[r#"no-cache="set-cookie""#],
                "no-store",
                AsIntended,
            ),
            (
                SetsCookie,
                &[r#"no-cache="a,public", private"#],
                r#"no-cache="a,public", private"#,
                AsIntended,
            ),
            (
                SetsCookie,
                &["must-understand, no-store"],
                "no-store",
                AsIntended,
            ),
            (CarriesToken, &[], "no-store", AsIntended),
            (CarriesToken, &["private"], "no-store", AsIntended),
            (CarriesToken, &["public"], "no-store", WasPublic),
            (SignedIn, &[], "no-store", AsIntended),
            (SignedIn, &[""], "no-store", AsIntended),
            (SignedIn, &["max-age=5"], "max-age=5", AsIntended),
            (SignedIn, &["no-cache"], "no-cache", AsIntended),
            (SignedIn, &["private"], "private", AsIntended),
            (SignedIn, &["Public"], "no-store", WasPublic),
            (
                SignedIn,
                &["max-age=5", "s-maxage=9"],
                "no-store",
                WasPublic,
            ),
            (SignedIn, &[r#"x="public""#], r#"x="public""#, AsIntended),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("cache-control", *line)).collect();
            let mut headers = headers(&lines);
            let was = keep_private(&mut headers, why);
            let left: Vec<_> = headers
                .get_all(CACHE_CONTROL)
                .iter()
                .map(|value| value.to_str().unwrap())
                .collect();
            assert_eq!(
                (left.join("|").as_str(), was),
                (expected, outcome),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn targeted_fields_are_removed_unless_they_forbid_storing() {
        for (name, value, stays) in [
            ("cdn-cache-control", "max-age=600", false),
            ("CDN-Cache-Control", "public", false),
            ("cdn-cache-control", "no-store", true),
            ("cdn-cache-control", "private", true),
            ("cdn-cache-control", r#"private="x-foo""#, false),
            ("cdn-cache-control", "no-store=?0", false),
            ("cdn-cache-control", "", false),
            ("cloudflare-cdn-cache-control", "max-age=600", false),
            ("netlify-cdn-cache-control", "public, s-maxage=9", false),
            ("surrogate-control", "max-age=600", false),
            ("surrogate-control", "no-store, content=\"ESI/1.0\"", true),
            ("surrogate-control", "no-store-remote", false),
            ("surrogate-control", "private", false),
            ("edge-control", "!no-store, max-age=1d", false),
            ("edge-control", "no-store", true),
            ("x-accel-expires", "600", false),
            ("x-accel-expires", "@2000000000", false),
            ("x-accel-expires", "0", true),
            ("x-cache", "HIT", true),
        ] {
            for why in [Private::SetsCookie, Private::SignedIn] {
                let name: HeaderName = name.parse().unwrap();
                let mut headers = headers(&[("cache-control", "private")]);
                headers.insert(&name, HeaderValue::from_static(value));
                let was = keep_private(&mut headers, why);
                assert_eq!(headers.contains_key(&name), stays, "{name}: {value}");
                assert_eq!(was == Outcome::AsIntended, stays, "{name}: {value}");
                assert_eq!(headers[CACHE_CONTROL], "private");
            }
        }
    }
}
