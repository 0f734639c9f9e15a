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
    /// Names that the cookie had before, the latest first; none by default, eight at most. A request without a cookie of the
    /// present name may open its session by one of these, so that a change of the name logs nobody out.
    ///
    /// The response of the first handler that asks for such a session sets the cookie under the present name, with the same
    /// token, and removes the other one; before, sessile reads the session once more, so that it does not bring back a token
    /// that a login has replaced meanwhile. Beside a cookie of the present name, sessile ignores one of a former name, unless
    /// both name the same session: a sibling host can set a cookie without `__Host-`, but does not know a token of the visitor's
    /// session. The same holds between two former names, of which the first in this list comes first.
    ///
    /// While old and new nodes run side by side, the old ones must accept the new name, too. Change it in two deployments: first
    /// add the new name here, then exchange the two. A name may be removed from the list one `absolute_timeout` after the last
    /// node that sent it has stopped: until then, it also keeps valid what that node has stored.
    pub former_names: Vec<String>,
    /// The `Path` attribute; `/` by default.
    pub path: String,
    /// The `Domain` attribute, such as `example.org`: browsers then send the cookie to this host and all hosts below it. `None`
    /// by default, so that sibling hosts can neither read nor set the cookie. A leading dot has no effect (RFC 6265 §5.2.3).
    ///
    /// A domain that browsers reject is invalid: a single label such as `localhost` or `com`, an IP address, and a public
    /// suffix such as `co.uk` or `github.io` (<https://publicsuffix.org>, in the version that this release of sessile contains).
    pub domain: Option<String>,
    /// The domains among which [`SessionLayer::with_cookie_domain`](crate::SessionLayer::with_cookie_domain) chooses one for each
    /// request; none by default. Without that function, they have no effect.
    ///
    /// Each must be one that [`domain`](Self::domain) may be.
    pub domains: Vec<String>,
    /// The `SameSite` attribute; `lax` by default.
    pub same_site: SameSite,
    /// The `Secure` attribute; on by default, even if a proxy forwards requests over plain HTTP.
    pub secure: bool,
    /// The `Partitioned` attribute (CHIPS), for a site that other sites embed in an `iframe`; off by default; requires `secure`.
    ///
    /// Browsers then keep one cookie for each site that embeds this one, and one for this site alone, so a visitor has a session
    /// in each. Browsers that block third-party cookies send no other cookies there. Set
    /// [`same_site`](Self::same_site) to [`SameSite::None`] as well: with `Lax` or `Strict`, browsers do not send the cookie to an
    /// embedded site at all.
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
            former_names: Vec::new(),
            path: "/".to_owned(),
            domain: None,
            domains: Vec::new(),
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

    /// Sets the [`former_names`](Self::former_names), the latest first; none by default.
    #[must_use]
    pub fn with_former_names(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.former_names = names.into_iter().map(Into::into).collect();
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

    /// Sets the [`domains`](Self::domains) among which
    /// [`SessionLayer::with_cookie_domain`](crate::SessionLayer::with_cookie_domain) chooses; none by default. The name must then
    /// not begin with `__Host-`.
    #[must_use]
    pub fn with_domains(mut self, domains: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.domains = domains.into_iter().map(Into::into).collect();
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
        let invalid =
            |setting, value: &str, advice: &str| Err(ConfigError::invalid(setting, value, advice));
        if !is_name(&self.name) {
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
        self.check_former_names()?;
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
        for domain in &self.domains {
            if let Err(problem) = domain::check(domain) {
                let advice =
                    "leave it out, or write a domain of this site, such as \"example.org\"";
                return invalid("cookie.domains", domain, &format!("{problem}: {advice}"));
            }
        }
        if prefixed("__Host-") && !self.domains.is_empty() {
            let advice = "leave it out, since a `__Host-` cookie must not have a domain, or choose another name, such as \"__Secure-id\"";
            return Err(ConfigError::invalid(
                "cookie.domains",
                &self.domains,
                advice,
            ));
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

    fn check_former_names(&self) -> Result<(), ConfigError> {
        let invalid = |value: &dyn std::fmt::Debug, advice| {
            Err(ConfigError::invalid("cookie.former_names", value, advice))
        };
        if self.former_names.len() > MAX_FORMER_NAMES {
            let advice = "write eight names at most: leave out those whose sessions have all ended";
            return invalid(&self.former_names, advice);
        }
        for (index, name) in self.former_names.iter().enumerate() {
            if !is_name(name) {
                let advice = "leave it out, or write the 1 to 256 letters, digits, `-` or `_` that the cookie's name had";
                return invalid(name, advice);
            }
            if *name == self.name {
                return invalid(name, "leave it out: the cookie has this name now");
            }
            if self.former_names[..index].contains(name) {
                return invalid(name, "leave it out: it is in the list already");
            }
        }
        Ok(())
    }

    /// Whether cookies of this name are this layer's: by its present name, or by a former one.
    pub(crate) fn has_name(&self, name: &[u8]) -> bool {
        let mut former = self.former_names.iter();
        self.name.as_bytes() == name || former.any(|it| it.as_bytes() == name)
    }

    /// Whether browsers accept this cookie under a `__Host-` name.
    fn is_host_only(&self) -> bool {
        self.secure && self.path == "/" && self.domain.is_none()
    }

    /// Returns the most similar cookie that browsers accept over plain HTTP from `localhost`, which does not belong to a domain.
    pub(crate) fn without_tls(&self) -> Self {
        let name = without_prefixes(&self.name);
        let mut former_names: Vec<String> = Vec::new();
        for former in self.former_names.iter().map(|it| without_prefixes(it)) {
            if former != name && !former_names.iter().any(|it| it == former) {
                former_names.push(former.to_owned());
            }
        }
        let same_site = if self.same_site == SameSite::None {
            SameSite::Lax
        } else {
            self.same_site
        };
        Self {
            name: name.to_owned(),
            former_names,
            path: self.path.clone(),
            domain: None,
            domains: Vec::new(),
            same_site,
            secure: false,
            partitioned: false,
            rolling: self.rolling,
        }
    }
}

/// Each former name takes one more hash of a token that is not valid, and a removal in a response.
const MAX_FORMER_NAMES: usize = 8;

/// The prefixes that browsers accept only from a secure origin.
const PREFIXES: [&str; 4] = ["__Host-Http-", "__Host-", "__Secure-", "__Http-"];

/// Whether a cookie or a header may have this name: a token (RFC 6265 §4.1.1, RFC 9110 §5.1).
pub(crate) fn is_name(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (1..=256).contains(&name.len()) && name.bytes().all(token)
}

/// Whether browsers accept a cookie of this name only with `Secure`.
pub(crate) fn needs_secure(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| has_prefix(name, prefix))
}

fn without_prefixes(mut name: &str) -> &str {
    // One prefix may follow another.
    while let Some(prefix) = PREFIXES.iter().find(|prefix| has_prefix(name, prefix)) {
        name = &name[prefix.len()..];
    }
    if name.is_empty() { "id" } else { name }
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

    #[test]
    fn without_tls_former_names_lose_their_prefixes_too() {
        let cookie = CookieConfig::default()
            .with_name("__Host-shop")
            .with_former_names(["__Host-id", "shop", "id", "__Secure-sid"]);
        cookie.check().unwrap();
        let cookie = cookie.without_tls();
        cookie.check().unwrap();
        assert_eq!(cookie.name, "shop");
        assert_eq!(cookie.former_names, ["id", "sid"]);
    }
}
