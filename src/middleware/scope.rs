//! The scopes of cookies: where the session cookie is, and where others of its names may be that a response has to remove.

use crate::config::cookie::{CookieConfig, has_prefix};
use crate::config::domain::{domains, is_same, normalized};
use crate::middleware::presented::Presented;

/// The `Domain` attribute of the session cookie in the responses to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CookieDomain {
    /// That of the configuration, if there is one.
    #[default]
    Configured,
    /// The one at this index of the configuration's `domains`.
    Listed(usize),
    /// None, since the application has asked for one that is not on the list.
    Rejected,
}

impl CookieDomain {
    /// The domain that the application asks for, if it is on the list.
    pub(crate) fn choose(list: &[String], asked: Option<&str>) -> Self {
        let Some(asked) = asked else {
            return Self::Configured;
        };
        let index = list.iter().position(|it| is_same(it, asked));
        index.map_or(Self::Rejected, Self::Listed)
    }

    fn name(self, config: &CookieConfig) -> Option<String> {
        let domain = match self {
            Self::Configured => config.domain.as_ref(),
            Self::Listed(index) => config.domains.get(index),
            Self::Rejected => None,
        };
        domain.map(|it| normalized(it))
    }
}

/// The scope of a cookie. Browsers treat cookies of one name in different scopes as different cookies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scope {
    /// `None` for the host of the request only.
    pub(crate) domain: Option<String>,
    pub(crate) path: String,
    pub(crate) partitioned: bool,
}

impl Scope {
    /// The scope of the session cookie.
    pub(crate) fn of(config: &CookieConfig, domain: CookieDomain) -> Self {
        Self::of_name(config, &config.name, domain)
    }

    /// The scope that the session cookie has under this name. Browsers accept a `__Host-` cookie in one scope only.
    fn of_name(config: &CookieConfig, name: &str, domain: CookieDomain) -> Self {
        let is_host_only = has_prefix(name, "__Host-");
        let domain = domain.name(config).filter(|_| !is_host_only);
        let path = if is_host_only { "/" } else { &config.path };
        Self {
            domain,
            path: path.to_owned(),
            partitioned: config.partitioned,
        }
    }
}

/// A cookie that a response removes when it sets or removes the session cookie.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Leftover {
    /// The index of its name in `former_names`; `None` if it has the present name.
    pub(crate) former: Option<usize>,
    pub(crate) scope: Scope,
}

/// How many cookies a response removes at most. That takes about 2.5 KiB, and proxies often limit headers to 4 KiB.
const MAX_REMOVALS: usize = 20;

/// The cookies that a response removes when it sets or removes the session cookie: those of former names, and, if the browser
/// sends several of a name, those in the other scopes. So it does for a former name that is there beside the present one, since
/// the response that set the present one has not removed it.
pub(crate) fn leftovers(
    config: &CookieConfig,
    domain: CookieDomain,
    presented: &Presented,
    host: Option<&str>,
    path: &str,
) -> Vec<Leftover> {
    let mut leftovers = Vec::new();
    let has_present = presented.has_present();
    for former in &presented.former {
        let Some(name) = config.former_names.get(former.name) else {
            continue;
        };
        let own = Scope::of_name(config, name, domain);
        let others = match former.has_several || has_present {
            true => other_scopes(config, name, &own, host, path),
            false => Vec::new(),
        };
        let scopes = std::iter::once(own).chain(others);
        leftovers.extend(scopes.map(|scope| Leftover {
            former: Some(former.name),
            scope,
        }));
    }
    if presented.has_several() {
        let own = Scope::of(config, domain);
        let others = other_scopes(config, &config.name, &own, host, path);
        leftovers.extend(others.into_iter().map(|scope| Leftover {
            former: None,
            scope,
        }));
    }
    leftovers.truncate(MAX_REMOVALS);
    leftovers
}

/// The other scopes from which a browser may have sent a cookie of this name with this request. Their domains: none, the
/// configured one, that of this request, the host, and each of its parents. Their paths: `/`, the configured one, and each
/// directory of the request's path. A cookie that was set before `partitioned` was is not in the partition.
fn other_scopes(
    config: &CookieConfig,
    name: &str,
    own: &Scope,
    host: Option<&str>,
    path: &str,
) -> Vec<Scope> {
    let mut scopes = Vec::new();
    if own.partitioned {
        scopes.push(Scope {
            partitioned: false,
            ..own.clone()
        });
    }
    if has_prefix(name, "__Host-") {
        return scopes;
    }
    let parents = host.map(domains).unwrap_or_default();
    let configured = CookieDomain::Configured.name(config);
    let mut domains = vec![None, configured, own.domain.clone()];
    domains.extend(parents.into_iter().map(Some));
    // The characters that `CookieConfig::check` accepts in a path.
    let is_text = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b';';
    let ends = path.match_indices('/').map(|(end, _)| end);
    let directories = ends.map(|end| &path[..end]);
    let directories = directories.filter(|it| it.starts_with('/') && it.bytes().all(is_text));
    for path in ["/", &own.path].into_iter().chain(directories) {
        for domain in &domains {
            let scope = Scope {
                domain: domain.clone(),
                path: path.to_owned(),
                partitioned: own.partitioned,
            };
            if scope != *own && !scopes.contains(&scope) {
                scopes.push(scope);
            }
            if scopes.len() >= MAX_REMOVALS {
                return scopes;
            }
        }
    }
    scopes
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::{COOKIE, HeaderValue};

    use super::*;
    use crate::middleware::cookie::remove_from;
    use crate::middleware::presented::read;
    use crate::token::Token;

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
            let own = Scope::of(&config, CookieDomain::Configured);
            let scopes = other_scopes(&config, &config.name, &own, host, path);
            let shown: Vec<String> = scopes
                .iter()
                .map(|scope| format!("{} {}", scope.domain.as_deref().unwrap_or("-"), scope.path))
                .collect();
            assert_eq!(shown, expected, "{config:?} {host:?} {path}");
            for scope in &scopes {
                let leftover = Leftover {
                    former: None,
                    scope: scope.clone(),
                };
                let removal = remove_from(&config, &leftover).unwrap();
                assert!(removal.is_sensitive());
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
        let config = config(None, "/");
        let own = Scope::of(&config, CookieDomain::Configured);
        let scopes = other_scopes(&config, &config.name, &own, Some(&host), &path);
        assert_eq!(scopes.len(), MAX_REMOVALS);
    }

    #[test]
    fn a_domain_is_used_if_it_is_on_the_list() {
        use CookieDomain::{Configured, Listed, Rejected};
        let list = ["a.example", ".B.example"].map(str::to_owned);
        for (asked, expected, domain) in [
            (None, Configured, Some("example.org")),
            (Some("a.example"), Listed(0), Some("a.example")),
            (Some(".A.Example"), Listed(0), Some("a.example")),
            (Some("b.example"), Listed(1), Some("b.example")),
            (Some("x.a.example"), Rejected, None),
            (Some("example.org"), Rejected, None),
            (Some("..a.example"), Rejected, None),
            (Some("a.example; Secure"), Rejected, None),
            (Some(""), Rejected, None),
        ] {
            let chosen = CookieDomain::choose(&list, asked);
            assert_eq!(chosen, expected, "{asked:?}");
            let mut config = CookieConfig::default().with_name("id").with_domains(&list);
            config.domain = Some("example.org".into());
            let scope = Scope::of(&config, chosen);
            assert_eq!(scope.domain.as_deref(), domain, "{asked:?}");
        }
    }

    #[test]
    fn cookies_of_former_names_are_removed_where_they_are_likely_to_be() {
        let config = CookieConfig::default()
            .with_name("id")
            .with_former_names(["__Host-id", "sid"])
            .with_path("/app")
            .with_domain("example.org");
        let cookie = |name: &str| format!("{name}={}", *Token::random().encode());
        for (cookies, expected) in [
            (vec![cookie("id")], &[][..]),
            (vec![cookie("__Host-id")], &["__Host-id - /"]),
            (vec![cookie("sid")], &["sid example.org /app"]),
            (
                vec![cookie("sid"), cookie("__Host-id")],
                &["__Host-id - /", "sid example.org /app"],
            ),
            (vec!["__Host-id=x".into()], &["__Host-id - /"]),
            // There are two, or the response that set the present one has not removed it.
            (
                vec![cookie("sid"), cookie("sid")],
                &[
                    "sid example.org /app",
                    "sid - /",
                    "sid example.org /",
                    "sid - /app",
                ],
            ),
            (
                vec![cookie("sid"), cookie("id")],
                &[
                    "sid example.org /app",
                    "sid - /",
                    "sid example.org /",
                    "sid - /app",
                ],
            ),
            (vec![cookie("__Host-id"), cookie("id")], &["__Host-id - /"]),
        ] {
            let mut headers = HeaderMap::new();
            let header = HeaderValue::try_from(cookies.join("; ")).unwrap();
            headers.insert(COOKIE, header);
            let presented = read(&headers, &config.name, &config.former_names);
            let domain = CookieDomain::Configured;
            let leftovers = leftovers(&config, domain, &presented, None, "/login");
            let shown: Vec<String> = leftovers
                .iter()
                .map(|leftover| {
                    let removal = remove_from(&config, leftover).unwrap();
                    let removal = removal.to_str().unwrap();
                    assert!(removal.contains("; Secure; ") && removal.contains("; Max-Age=0; "));
                    let name = removal.split('=').next().unwrap();
                    let Scope { domain, path, .. } = &leftover.scope;
                    format!("{name} {} {path}", domain.as_deref().unwrap_or("-"))
                })
                .collect();
            assert_eq!(shown, expected, "{cookies:?}");
        }
    }

    #[test]
    fn a_cookie_from_before_the_partition_is_removed_if_the_browser_sends_both() {
        let config = CookieConfig::default().with_partitioned(true);
        let cookie = || format!("__Host-id={}", *Token::random().encode());
        for (cookies, removals) in [(vec![cookie()], 0), (vec![cookie(), cookie()], 1)] {
            let mut headers = HeaderMap::new();
            let header = HeaderValue::try_from(cookies.join("; ")).unwrap();
            headers.insert(COOKIE, header);
            let presented = read(&headers, &config.name, &[]);
            let domain = CookieDomain::Configured;
            let leftovers = leftovers(&config, domain, &presented, Some("example.org"), "/");
            assert_eq!(leftovers.len(), removals);
            for leftover in leftovers {
                let removal = remove_from(&config, &leftover).unwrap();
                assert!(!removal.to_str().unwrap().contains("Partitioned"));
            }
        }
    }
}
