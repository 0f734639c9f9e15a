//! Splits URLs into their parts, and hides user and password.

/// The parts of a URL that names several servers.
#[derive(Debug, PartialEq)]
pub(crate) struct MultiHostUrl<'a> {
    pub(crate) kind: Kind,
    /// `redis` or `rediss`.
    pub(crate) scheme: &'a str,
    /// User and password with the `@`; empty without them.
    pub(crate) login: &'a str,
    pub(crate) hosts: Vec<&'a str>,
    /// The part between the first `/` after the hosts and the query.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Cluster,
    Sentinel,
}

impl<'a> MultiHostUrl<'a> {
    pub(crate) fn parse(url: &'a str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (scheme, kind) = match scheme.split_once('+')? {
            (scheme @ ("redis" | "rediss"), "cluster") => (scheme, Kind::Cluster),
            (scheme @ ("redis" | "rediss"), "sentinel") => (scheme, Kind::Sentinel),
            _ => return None,
        };
        let (login, rest) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        Some(Self {
            kind,
            scheme,
            login,
            hosts: hosts.split(',').collect(),
            path,
            query,
        })
    }
}

impl Kind {
    pub(crate) fn form(self) -> &'static str {
        match self {
            Self::Cluster => "write `redis+cluster://user:password@host:6379,host:6379/`",
            Self::Sentinel => {
                "write `redis+sentinel://user:password@sentinel:26379,sentinel:26379/mymaster/0`, with the name by which the \
                 sentinels know the primary in place of `mymaster`"
            }
        }
    }
}

pub(crate) fn port_of(host: &str) -> Option<u16> {
    host.rsplit_once(':')?.1.parse().ok()
}

/// The URL without user and password, whether it is valid or not: it leaves out everything that may be part of them. URLs of
/// Unix sockets have the password in the query.
pub(crate) fn without_login(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['@', ':']) => (format!("{scheme}://"), rest),
        _ => (String::new(), url),
    };
    let (shown, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let is_socket = scheme.contains("unix") || shown.starts_with("unix:/");
    let host = shown.rsplit_once('@');
    let shown = match host {
        // It is unclear where user and password end.
        _ if query.contains('@') || (scheme.is_empty() && host.is_some()) => "…",
        None if is_socket && !shown.contains(['=', '%']) => shown,
        Some((_, host)) if are_hosts(host) => host,
        None if !is_socket && are_hosts(shown) => shown,
        _ => "…",
    };
    format!("{scheme}{shown}")
}

/// Whether this is one host or several, with or without ports and a path.
fn are_hosts(text: &str) -> bool {
    let hosts = text.split('/').next().unwrap_or_default();
    hosts.split(',').all(|host| {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !host.ends_with(']') => (name, port),
            _ => (host, ""),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_address = |byte: u8| byte.is_ascii_hexdigit() || b":.".contains(&byte);
        let address = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        let is_valid = address.map_or_else(
            || !name.is_empty() && name.bytes().all(is_name),
            |address| address.bytes().all(is_address),
        );
        is_valid && port.bytes().all(|byte| byte.is_ascii_digit())
    })
}

pub(crate) fn keys_of(query: &str) -> impl Iterator<Item = &str> {
    let settings = query.split('&').filter(|setting| !setting.is_empty());
    settings.map(|setting| setting.split_once('=').map_or(setting, |(key, _)| key))
}

/// Whether an `@` follows the character that ends the part with user, password and hosts. Then the password most likely
/// contains that character.
pub(crate) fn is_login_cut(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    let ends = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    !scheme.contains("unix") && rest[ends..].contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_login() {
        for (url, shown) in [
            ("redis://mia:x@h.example:1/5", "redis://h.example:1/5"),
            (
                "redis+cluster://mia:x@a:1,[::1]:2,c/",
                "redis+cluster://a:1,[::1]:2,c/",
            ),
            ("unix:///run/redis.sock?pass=x", "unix:///run/redis.sock"),
            ("localhost:6379", "localhost:6379"),
            ("", ""),
        ] {
            assert_eq!(without_login(url), shown);
        }
    }
}
