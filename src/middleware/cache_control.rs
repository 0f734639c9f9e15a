//! What a response tells caches, and what it must tell them if it is for one visitor only.

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};

/// Why a response is for one visitor only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Private {
    /// It sets the session cookie or takes it away.
    SetsCookie,
    /// Its handler asked for the session of somebody who is signed in.
    SignedIn,
}

/// What was made of the response's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// They kept shared caches away already, or did not say anything.
    AsIntended,
    /// They asked shared caches to store the response.
    WasPublic,
}

/// Keeps a response out of shared caches.
pub(crate) fn keep_private(headers: &mut HeaderMap, why: Private) -> Outcome {
    let says = Directives::of(headers, &CACHE_CONTROL);
    let mut outcome = Outcome::AsIntended;
    if !says.forbids_storing() {
        let public = says.has("public") || says.has("s-maxage");
        let stays = match why {
            Private::SetsCookie => says.has_plain("private"),
            Private::SignedIn => !says.is_empty(),
        };
        if public {
            outcome = Outcome::WasPublic;
        }
        if public || !stays {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
    // Caches that know such a field do not look at `Cache-Control` at all (RFC 9213 §2.2).
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

/// Whether a field speaks to some shared caches instead of `Cache-Control`: those of RFC 9213, which end so, and those
/// that reverse proxies and delivery networks had before.
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
        // nginx takes seconds, of which none forbid, or `@` and a time.
        "x-accel-expires" => headers
            .get_all(name)
            .iter()
            .all(|value| value.as_bytes().trim_ascii() == b"0"),
        // These know no `private`.
        "surrogate-control" | "edge-control" => Directives::of(headers, name).forbids_storing(),
        _ => {
            let says = Directives::of(headers, name);
            let public = says.has("public") || says.has("s-maxage");
            says.forbids_storing() || (says.has_plain("private") && !public)
        }
    }
}

/// The directives of all lines of one header (RFC 9111 §5.2).
struct Directives<'a>(Vec<Directive<'a>>);

#[derive(Debug, PartialEq)]
struct Directive<'a> {
    name: &'a [u8],
    /// `private="x-foo"` speaks of that header only, not of the response.
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

    /// Whether no cache may store the response. Beside `must-understand` a cache may pass over `no-store` (RFC 9111
    /// §5.2.2.3).
    fn forbids_storing(&self) -> bool {
        self.has_plain("no-store") && !self.has("must-understand")
    }
}

impl Directive<'_> {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Splits one line at the commas that are not in a quoted string.
fn directives(line: &[u8]) -> Vec<Directive<'_>> {
    let mut found = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in line.iter().copied().chain([b',']).enumerate() {
        let end_of_line = at == line.len();
        match byte {
            _ if escaped && !end_of_line => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted || end_of_line => {
                found.extend(directive(&line[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    found
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
            // Without its end, the string goes on to the end of the line.
            (r#"x="no-store, private"#, vec![("x", true)]),
            (r#"x="\"#, vec![("x", true)]),
            ("=5, no-transform", vec![("no-transform", false)]),
        ] {
            let found: Vec<_> = directives(line.as_bytes())
                .iter()
                .map(|found| (std::str::from_utf8(found.name).unwrap(), found.qualified))
                .collect();
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn only_what_keeps_the_whole_response_from_shared_caches_stays() {
        use Outcome::{AsIntended, WasPublic};
        use Private::{SetsCookie, SignedIn};
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
    fn fields_for_some_caches_alone_go_unless_they_forbid_storing() {
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
