//! Origins: where a page comes from, as `Origin` says, and whether that is where its request was sent.

use http::uri::Authority;

/// The origin of a page (RFC 6454): scheme, host and port, in lower case and without a port that the scheme implies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    /// Reads `scheme://host` or `scheme://host:port`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            || !scheme.bytes().all(is_scheme_byte)
        {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = host_and_port(authority)?;
        let port = port.filter(|port| Some(*port) != implied_port(&scheme));
        Some(Self { scheme, host, port })
    }

    /// Whether a request that names this host was sent to this origin. Its scheme is not known behind a proxy that ends TLS, so only
    /// host and port count; a port that either leaves out is the one that the scheme implies.
    pub(crate) fn is_host(&self, host: &str) -> bool {
        let Some((host, port)) = host_and_port(host) else {
            return false;
        };
        let port = port.filter(|port| Some(*port) != implied_port(&self.scheme));
        implied_port(&self.scheme).is_some() && self.host == host && self.port == port
    }
}

/// The port of web pages of this scheme; `None` for other schemes, such as those of browser extensions.
fn implied_port(scheme: &str) -> Option<u16> {
    match scheme {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    }
}

fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let authority: Authority = text.parse().ok()?;
    if text.contains('@') || authority.host().is_empty() {
        return None;
    }
    // `Authority` accepts a port that is empty or too large, and says that there is none.
    let port = match text[authority.host().len()..].strip_prefix(':') {
        Some(digits) => Some(digits.parse().ok()?),
        None => None,
    };
    Some((authority.host().to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_the_host_of_a_request_if_host_and_port_are_the_same() {
        for (origin, host, same) in [
            ("https://example.org", "example.org", true),
            ("https://EXAMPLE.org", "example.ORG", true),
            ("http://example.org", "example.org", true),
            ("https://example.org", "example.org:443", true),
            ("https://example.org:443", "example.org", true),
            ("http://example.org", "example.org:80", true),
            ("http://localhost:3000", "localhost:3000", true),
            ("https://[::1]:3000", "[::1]:3000", true),
            ("https://[::1]", "[::1]:443", true),
            ("http://example.org", "example.org:443", false),
            ("https://example.org:8443", "example.org", false),
            ("https://example.org", "example.org:8443", false),
            ("https://shop.example.org", "example.org", false),
            ("https://example.org", "shop.example.org", false),
            ("https://example.org.evil.example", "example.org", false),
            ("https://example.org.", "example.org", false),
            ("https://example.org", "user@example.org", false),
            ("https://example.org", "", false),
            ("https://example.org", "example.org:", false),
            ("https://example.org", "example.org:99999", false),
            ("chrome-extension://abc", "abc", false),
        ] {
            let parsed = Origin::parse(origin).unwrap();
            assert_eq!(parsed.is_host(host), same, "{origin} {host}");
        }
    }

    #[test]
    fn only_scheme_host_and_port_are_an_origin() {
        for bad in [
            "",
            "null",
            "*",
            "example.org",
            "//example.org",
            "://example.org",
            "1s://example.org",
            "https://",
            "https://:443",
            "https://example.org/",
            "https://example.org/path",
            "https://example.org?x",
            "https://example.org#x",
            "https://user@example.org",
            "https://a b.example",
            "https://example.org:port",
            "https://example.org:",
            "https://example.org:70000",
            "https://a.example https://b.example",
            "https://a.example,https://b.example",
            "https://a\\b.example",
        ] {
            assert_eq!(Origin::parse(bad), None, "{bad}");
        }
        let parsed = Origin::parse("HTTPS://App.Example.org:443");
        assert_eq!(parsed, Origin::parse("https://app.example.org"));
        assert_ne!(parsed, Origin::parse("http://app.example.org"));
    }
}
