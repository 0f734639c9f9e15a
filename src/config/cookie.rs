//! The settings of the session cookie.

use serde::{Deserialize, Serialize};

use crate::config::domain;
use crate::error::config::ConfigError;

/// The `SameSite` attribute of the cookie.
///
/// It does not replace protection against cross-site request forgery.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// Browsers send the cookie when the visitor follows a link from another site, but not with that site's forms and scripts.
    /// The default: with `Strict`, a visitor who follows a link from a mail seems to be logged out.
    #[default]
    Lax,
    /// Browsers never send the cookie with requests from other sites.
    Strict,
    /// Browsers send the cookie with every request; requires `secure`.
    None,
}

/// The session cookie. It is always `HttpOnly`.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CookieConfig {
    /// The name; `__Host-id` by default, since browsers accept a `__Host-` cookie only from this host, over TLS, for every path
    /// (RFC 6265bis §4.1.3.2). Layers with different names have different sessions.
    pub name: String,
    /// The `Path` attribute; `/` by default.
    pub path: String,
    /// The `Domain` attribute, such as `example.org`: browsers then send the cookie to this host and all hosts below it. `None`
    /// by default, so that sibling hosts can neither read nor set the cookie. A leading dot has no effect (RFC 6265 §5.2.3).
    ///
    /// A domain that browsers reject is invalid: a single label such as `localhost` or `com`, an IP address, and a public
    /// suffix such as `co.uk` or `github.io` (<https://publicsuffix.org>, in the version that this release of sessile contains).
    pub domain: Option<String>,
    /// The `SameSite` attribute; `lax` by default.
    pub same_site: SameSite,
    /// The `Secure` attribute; on by default, even if a proxy forwards requests over plain HTTP.
    pub secure: bool,
    /// The `Partitioned` attribute, for sites that are embedded in others; off by default.
    pub partitioned: bool,
    /// Whether the cookie of a persistent session expires with an unused session, as the cookies of Laravel and express-session
    /// do: its `Max-Age` is then the idle timeout (half as much more with
    /// [`full_idle_timeout`](crate::SessionConfig::full_idle_timeout)), and never more than the rest of the absolute timeout. `false`
    /// by default: a cookie for the rest of the absolute timeout is sent once, and can never expire before its session.
    ///
    /// Half of the idle timeout after it was sent, a response whose handler asked for the session sends it again. Only a change of
    /// the session records that, so until the next one all such responses send it. The browser keeps the cookie after each
    /// request of such a handler for at least as long as an unused session is sure to live. Requests that do not ask for the session,
    /// and those of a layer without [`renewal`](crate::SessionConfig::renewal), do not prolong it, although the former prolong the
    /// session.
    pub rolling: bool,
}

impl Default for CookieConfig {
    fn default() -> Self {
        Self {
            name: "__Host-id".to_owned(),
            path: "/".to_owned(),
            domain: None,
            same_site: SameSite::Lax,
            secure: true,
            partitioned: false,
            rolling: false,
        }
    }
}

impl CookieConfig {
    /// Sets the [`name`](Self::name); `__Host-id` by default.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the [`Path`](Self::path) attribute; `/` by default.
    #[must_use]
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Sets the [`Domain`](Self::domain) attribute; none by default. The name must then not begin with `__Host-`.
    #[must_use]
    pub fn with_domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Sets the [`SameSite`](Self::same_site) attribute; [`SameSite::Lax`] by default.
    #[must_use]
    pub fn with_same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// Sets the [`Secure`](Self::secure) attribute; `true` by default.
    #[must_use]
    pub fn with_secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// Sets the [`Partitioned`](Self::partitioned) attribute; `false` by default.
    #[must_use]
    pub fn with_partitioned(mut self, partitioned: bool) -> Self {
        self.partitioned = partitioned;
        self
    }

    /// Sets whether a persistent cookie [expires with an unused session](Self::rolling); `false` by default.
    #[must_use]
    #[doc(alias("expire_after_inactivity", "sliding"))]
    pub fn with_rolling(mut self, rolling: bool) -> Self {
        self.rolling = rolling;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let invalid = |setting, value: &str, advice: &str| {
            Err(ConfigError::Invalid {
                setting,
                value: format!("{value:?}"),
                advice: advice.to_owned(),
            })
        };
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if self.name.is_empty() || self.name.len() > 256 || !self.name.bytes().all(token) {
            // The example must work with the cookie's other attributes.
            let example = if self.is_host_only() {
                "__Host-id"
            } else {
                "id"
            };
            let advice =
                format!("write 1 to 256 letters, digits, `-` or `_`, such as \"{example}\"");
            return invalid("cookie.name", &self.name, &advice);
        }
        let text = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b';';
        if !self.path.starts_with('/') || self.path.len() > 1024 || !self.path.bytes().all(text) {
            let advice = "write a path that begins with `/`, such as \"/\"";
            return invalid("cookie.path", &self.path, advice);
        }
        let prefixed = |prefix: &str| has_prefix(&self.name, prefix);
        if let Some(domain) = &self.domain
            && let Err(problem) = domain::check(domain)
        {
            let advice = if prefixed("__Host-") {
                "leave it out: a `__Host-` cookie must not have a domain"
            } else {
                "leave it out, for this host only, or write a domain of this host, such as \"example.org\""
            };
            return invalid("cookie.domain", domain, &format!("{problem}: {advice}"));
        }
        if prefixed("__Host-") && !self.is_host_only() {
            let advice = "browsers accept a `__Host-` cookie only with `secure = true`, `path = \"/\"` and without `domain`: \
                          keep these, or choose another name, such as \"id\"";
            return invalid("cookie.name", &self.name, advice);
        }
        if (prefixed("__Secure-") || prefixed("__Http-")) && !self.secure {
            let advice = "browsers accept a `__Secure-` or `__Http-` cookie only with `secure = true`: set it, or choose another \
                          name, such as \"id\"";
            return invalid("cookie.name", &self.name, advice);
        }
        if self.same_site == SameSite::None && !self.secure {
            let advice = "browsers accept `SameSite=None` only with `secure = true`: set it, or write \"lax\"";
            return invalid("cookie.same_site", "none", advice);
        }
        if self.partitioned && !self.secure {
            let advice =
                "browsers accept `Partitioned` only with `secure = true`: set it, or write `false`";
            return invalid("cookie.partitioned", "true", advice);
        }
        Ok(())
    }

    /// Whether browsers accept this cookie under a `__Host-` name.
    fn is_host_only(&self) -> bool {
        self.secure && self.path == "/" && self.domain.is_none()
    }

    /// Returns the most similar cookie that browsers accept over plain HTTP from `localhost`, which does not belong to a domain.
    pub(crate) fn without_tls(&self) -> Self {
        const PREFIXES: [&str; 4] = ["__Host-Http-", "__Host-", "__Secure-", "__Http-"];
        // One prefix may follow another.
        let mut name = self.name.as_str();
        while let Some(prefix) = PREFIXES.iter().find(|prefix| has_prefix(name, prefix)) {
            name = &name[prefix.len()..];
        }
        let name = if name.is_empty() { "id" } else { name };
        let same_site = if self.same_site == SameSite::None {
            SameSite::Lax
        } else {
            self.same_site
        };
        Self {
            name: name.to_owned(),
            path: self.path.clone(),
            domain: None,
            same_site,
            secure: false,
            partitioned: false,
            rolling: self.rolling,
        }
    }
}

/// Whether a name has this prefix. Browsers ignore case when they compare prefixes.
pub(crate) fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_the_cookie_keeps_every_attribute_that_localhost_allows() {
        for (name, domain, plain) in [
            ("__Host-id", None, "id"),
            ("__host-shop", None, "shop"),
            ("__Host-", None, "id"),
            ("__Host-Http-id", None, "id"),
            ("__Host-__Secure-id", None, "id"),
            ("__Secure-id", Some("example.org"), "id"),
            ("__Http-id", Some("example.org"), "id"),
            ("id", Some("example.org"), "id"),
        ] {
            let mut cookie = CookieConfig::default().with_name(name);
            cookie.domain = domain.map(str::to_owned);
            cookie.check().unwrap();
            let cookie = cookie.without_tls();
            cookie.check().unwrap();
            assert_eq!((cookie.name.as_str(), cookie.secure), (plain, false));
            assert_eq!(
                cookie.domain, None,
                "{name}: localhost does not belong to a domain"
            );
        }
    }
}
