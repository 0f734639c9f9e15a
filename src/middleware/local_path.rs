//! Paths of this site: where a visitor may be sent after a login.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// A path of this site, to which a response may redirect although a visitor has named it: the `next` that
/// [`RequirePrincipal::redirect_to`](crate::RequirePrincipal::redirect_to) adds to the address of the sign-in page.
///
/// It deserializes from any text, and is empty if a browser might leave the site by it, so that the sign-in page cannot be made to
/// redirect elsewhere (CWE-601). A handler says where to go then:
///
/// ```
/// # use axum::{Form, response::Redirect};
/// # use sessile::{LocalPath, Session, SessionError};
/// #[derive(serde::Deserialize)]
/// struct SignIn {
///     user: String,
///     #[serde(default)]
///     next: LocalPath,
/// }
///
/// async fn sign_in(session: Session, Form(form): Form<SignIn>) -> Result<Redirect, SessionError> {
///     // … after the check of the password
///     session.set_principal(form.user).await?;
///     Ok(Redirect::to(form.next.or("/")))
/// }
/// ```
///
/// A text is a path of this site if it
///
/// - begins with one `/`, and not with `//` or `/\`, which browsers take for another host;
/// - consists of printable ASCII characters without `\`: browsers drop tabs and newlines, and read `\` as `/`
///   ([WHATWG URL](https://url.spec.whatwg.org/#concept-basic-url-parser));
/// - has, before `?` and `#`, no empty segment but the last one, no `.` or `..`, and no encoded `/`, `\`, control character or dot
///   segment, which servers and browsers resolve in different ways.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[doc(alias(
    "next",
    "return_to",
    "url_has_allowed_host_and_scheme",
    "safe_redirect"
))]
pub struct LocalPath(Option<String>);

impl LocalPath {
    /// Reads a path; the result is empty if the text is not a path of this site.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Some(text.into()).filter(|text| is_local(text)))
    }

    /// The path, or this one if it is empty.
    #[must_use]
    pub fn or<'a>(&'a self, otherwise: &'a str) -> &'a str {
        self.as_str().unwrap_or(otherwise)
    }

    /// The path, with its query; `None` if it is empty.
    pub fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether there is no path.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// Shows the path, or nothing: for a hidden field of the sign-in form. Escape it as any other text.
impl fmt::Display for LocalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.or(""))
    }
}

impl<'de> Deserialize<'de> for LocalPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.map(Self::new).unwrap_or_default())
    }
}

/// Whether a browser that is at this site stays there by this reference, whoever has resolved it before.
pub(crate) fn is_local(text: &str) -> bool {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let is_plain_byte = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    text.bytes().all(is_plain_byte) && is_plain_path(path)
}

/// Whether this is an absolute path that every server and browser reads in the same way.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let last = rest.rsplit('/').next().unwrap_or_default();
    let mut segments = rest.split('/');
    let is_dots = |segment: &str| {
        let dots = segment.to_ascii_lowercase().replace("%2e", ".");
        dots == "." || dots == ".."
    };
    // Only the end of the path may be empty.
    let empty = segments
        .clone()
        .filter(|segment| segment.is_empty())
        .count();
    let may_be_empty = usize::from(last.is_empty());
    empty <= may_be_empty && !path.contains('\\') && !segments.any(is_dots) && !hides_bytes(path)
}

/// Whether an encoded byte is a slash, a backslash or a control character.
fn hides_bytes(path: &str) -> bool {
    path.split('%').skip(1).any(|encoded| {
        let byte = encoded
            .get(..2)
            .map(|digits| u8::from_str_radix(digits, 16));
        match byte {
            Some(Ok(byte)) => byte == b'/' || byte == b'\\' || byte.is_ascii_control(),
            // A percent sign that encodes nothing.
            _ => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    #[test]
    fn only_paths_that_stay_on_the_site_are_local() {
        for (text, local) in [
            ("/", true),
            ("/orders", true),
            ("/orders/", true),
            ("/orders/7?page=2&sort=a", true),
            ("/orders?back=https://shop.example//x", true),
            ("/orders?q=%2F%0A", true),
            ("/orders#top", true),
            ("/caf%C3%A9", true),
            ("/a.b/..c/...", true),
            ("/@user", true),
            ("/x:y@z", true),
            ("/a%20b", true),
            ("", false),
            ("orders", false),
            ("?x", false),
            ("#x", false),
            ("//evil.example", false),
            ("///evil.example", false),
            ("/\\evil.example", false),
            ("\\\\evil.example", false),
            ("\\/evil.example", false),
            ("/a\\b", false),
            ("/?\\", false),
            ("https://evil.example", false),
            ("https:evil.example", false),
            ("https:/evil.example", false),
            ("javascript:alert(1)", false),
            ("user@evil.example", false),
            (" /orders", false),
            ("\t/orders", false),
            ("/\t/evil.example", false),
            ("/\n/evil.example", false),
            ("/\r\n/evil.example", false),
            ("/orders\r\nSet-Cookie: a=b", false),
            ("/orders\0", false),
            ("/orders\x7f", false),
            ("/a b", false),
            ("/caf\u{e9}", false),
            ("/\u{2215}evil.example", false),
            ("/\u{ff0f}evil.example", false),
            ("/.//evil.example", false),
            ("/..//evil.example", false),
            ("/../evil", false),
            ("/a/../../evil", false),
            ("/a/..", false),
            ("/.", false),
            ("/%2e/evil", false),
            ("/%2E%2e//evil.example", false),
            ("/.%2e/x", false),
            ("/a//b", false),
            ("/a//", false),
            ("/%2fevil.example", false),
            ("/%2Fevil.example", false),
            ("/%5cevil.example", false),
            ("/%09/evil.example", false),
            ("/%0d%0aSet-Cookie:%20a=b", false),
            ("/%00", false),
            ("/%", false),
            ("/%2", false),
            ("/%zz", false),
            ("/%+a", false),
        ] {
            assert_eq!(
                LocalPath::new(text).as_str(),
                local.then_some(text),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_path_deserializes_from_any_text() {
        #[derive(Deserialize)]
        struct Query {
            #[serde(default)]
            next: LocalPath,
        }
        for (json, expected) in [
            (r#"{"next":"/orders"}"#, "/orders"),
            (r#"{"next":"//evil.example"}"#, "/home"),
            (r#"{"next":""}"#, "/home"),
            (r#"{"next":null}"#, "/home"),
            ("{}", "/home"),
        ] {
            let query: Query = serde_json::from_str(json).unwrap();
            assert_eq!(query.next.or("/home"), expected, "{json}");
            assert_eq!(query.next.is_empty(), expected == "/home", "{json}");
        }
    }

    fn nasty() -> impl Strategy<Value = String> {
        let pieces = [
            "/",
            "/",
            "\\",
            ".",
            "..",
            "%2e",
            "%2F",
            "%5c",
            "%09",
            "\t",
            "\n",
            "\r",
            " ",
            "?",
            "#",
            "@",
            ":",
            "//",
            "evil.example",
            "a",
            "https:",
            "%",
            "[",
            "\u{2f}",
            "\u{3002}",
            ";",
        ];
        proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..8)
            .prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        /// Browsers resolve references as the crate `url` does.
        #[test]
        fn a_browser_does_not_leave_the_site_by_a_local_path(text in nasty()) {
            let site = Url::parse("https://shop.example/sign-in").unwrap();
            if let Some(path) = LocalPath::new(text).as_str() {
                let once = site.join(path).unwrap();
                prop_assert_eq!(once.origin(), site.origin(), "{}", path);
                // Nothing was normalised, so that the next one who resolves it stays, too.
                let resolved = &once[url::Position::BeforePath..url::Position::AfterPath];
                prop_assert_eq!(Some(resolved), path.split(['?', '#']).next());
            }
        }
    }
}
