//! Decides which `Domain` attributes browsers accept.

/// Rejects a domain for which browsers accept no cookie; the error says why.
pub(crate) fn check(domain: &str) -> Result<(), &'static str> {
    // RFC 6265 §5.2.3: a leading dot has no effect.
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    if domain.contains([':', '[', ']']) && domain.parse::<std::net::Ipv6Addr>().is_ok()
        || domain.starts_with('[')
    {
        return Err("browsers do not accept an IP address as a domain");
    }
    if !domain.is_ascii() {
        return Err("write letters beyond ASCII in Punycode, as in `xn--bcher-kva.example`");
    }
    // RFC 1123 does not allow `_`, but some hosts have it in their names, and browsers accept their cookies.
    let host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if !domain.bytes().all(host) {
        return Err("a domain is a host name without scheme and port");
    }
    if domain.len() > 253 {
        return Err("a host name has at most 253 characters");
    }
    let labels: Vec<&str> = domain.split('.').collect();
    if labels.iter().any(|label| label.is_empty()) {
        return Err("a host name must not have an empty label between dots, or a dot at its end");
    }
    if labels
        .iter()
        .any(|label| label.len() > 63 || label.starts_with('-') || label.ends_with('-'))
    {
        return Err(
            "a label of a host name has at most 63 characters, and must not begin or end with `-`",
        );
    }
    // Browsers parse a host as an address if its last label is a number.
    if labels.last().is_some_and(|label| is_number(label)) {
        return Err("browsers do not accept an IP address as a domain");
    }
    if labels.len() == 1 {
        return Err("browsers do not accept a domain with a single label, such as `localhost`");
    }
    let lower = domain.to_ascii_lowercase();
    if psl::suffix(lower.as_bytes()).is_some_and(|suffix| suffix.as_bytes() == lower.as_bytes()) {
        return Err(
            "browsers do not accept a public suffix, below which anyone can register a host",
        );
    }
    Ok(())
}

/// A domain as browsers compare it: a leading dot and the case have no effect (RFC 6265 §5.2.3).
pub(crate) fn normalized(domain: &str) -> String {
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    domain.to_ascii_lowercase()
}

/// Whether browsers take both for the same domain.
pub(crate) fn is_same(a: &str, b: &str) -> bool {
    let [a, b] = [a, b].map(|it| it.strip_prefix('.').unwrap_or(it));
    a.eq_ignore_ascii_case(b)
}

/// Returns the `Domain` attributes that a cookie for this host may have: the parents of its name, the shortest first, and the name
/// itself. Empty if the host is an address or not a host name.
pub(crate) fn domains(host: &str) -> Vec<String> {
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let mut domains = Vec::new();
    if host.starts_with('.') || check(host).is_err() {
        return domains;
    }
    let host = host.to_ascii_lowercase();
    let mut rest = Some(host.as_str());
    while let Some(domain) = rest
        && check(domain).is_ok()
    {
        domains.push(domain.to_owned());
        rest = domain.split_once('.').map(|(_, parent)| parent);
    }
    domains.reverse();
    domains
}

/// Whether the label is a decimal, octal or hexadecimal number.
fn is_number(label: &str) -> bool {
    let hex = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_accepted_if_browsers_accept_its_cookies() {
        let long = format!("{}.org", "a".repeat(63));
        for domain in [
            "example.org",
            "Shop.Example.ORG",
            ".example.org",
            "example.co.uk",
            "mia.github.io",
            "xn--bcher-kva.example",
            "app.localhost",
            "app.internal",
            "a-b.example.org",
            "my_shop.example.org",
            "1.example.org",
            "0x7f.example.org",
            &long,
        ] {
            assert_eq!(check(domain), Ok(()), "{domain}");
        }
    }

    #[test]
    fn a_host_receives_the_cookies_of_its_own_name_and_of_its_parents() {
        for (host, expected) in [
            ("example.org", &["example.org"][..]),
            ("Example.org:8080", &["example.org"]),
            (
                "a.b.example.org",
                &["example.org", "b.example.org", "a.b.example.org"],
            ),
            (
                "shop.example.co.uk:443",
                &["example.co.uk", "shop.example.co.uk"],
            ),
            ("mia.github.io", &["mia.github.io"]),
            ("app.localhost:3000", &["app.localhost"]),
            ("localhost:3000", &[]),
            ("github.io", &[]),
            ("127.0.0.1:3000", &[]),
            ("[::1]:3000", &[]),
            ("::1", &[]),
            ("", &[]),
            (":80", &[]),
            (".example.org", &[]),
            ("example.org.", &[]),
            ("mia@example.org", &[]),
            ("example.org:80:80", &[]),
            ("a b.example.org", &[]),
            ("example.org; Path=/", &[]),
            ("bücher.example", &[]),
        ] {
            assert_eq!(domains(host), expected, "{host}");
        }
    }

    #[test]
    fn a_domain_is_rejected_if_browsers_reject_its_cookies() {
        let (label, name) = ("a".repeat(64), format!("{}org", "a.".repeat(126)));
        for (domain, why) in [
            ("", "dots"),
            (".", "dots"),
            ("..example.org", "dots"),
            ("example..org", "dots"),
            ("example.org.", "dots"),
            ("localhost", "single label"),
            (".localhost", "single label"),
            ("com", "single label"),
            ("127.0.0.1", "address"),
            (".127.0.0.1", "address"),
            ("127.1", "address"),
            ("2130706433", "address"),
            ("0x7f000001", "address"),
            ("0177.0.0.01", "address"),
            ("example.0x", "address"),
            ("example.42", "address"),
            ("::1", "address"),
            ("[::1]", "address"),
            ("2001:db8::1", "address"),
            ("co.uk", "public suffix"),
            (".co.uk", "public suffix"),
            ("Co.Uk", "public suffix"),
            ("github.io", "public suffix"),
            ("-a.example.org", "`-`"),
            ("a-.example.org", "`-`"),
            (&format!("{label}.org"), "63"),
            (&format!("aa.{name}"), "253"),
            ("http://example.org", "scheme"),
            ("example.org:8080", "port"),
            ("example.org/", "scheme"),
            ("a b.org", "host name"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("*.example.org", "host name"),
        ] {
            let error = check(domain).expect_err(domain);
            assert!(error.contains(why), "{domain}: {error}");
        }
    }
}
