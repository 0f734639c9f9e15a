//! Reads the addresses in `X-Forwarded-For`, `Forwarded` (RFC 7239) and headers that hold a single address.
//!
//! Lists are read from their end: the last entries are those of the proxies, and the others may be the client's. So nothing that a
//! client writes, such as a quote that is never closed, has an effect on how the entries after it are read.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderMap;

use crate::config::client_address::AddressHeader;

/// The entries of the header, the last one first: the address in each, or `None` if it holds no address. Lines of the same header
/// are one list. Without the header there is no entry.
pub(crate) fn addresses<'a>(
    headers: &'a HeaderMap,
    header: &'a AddressHeader,
) -> impl Iterator<Item = Option<IpAddr>> + 'a {
    let lines = headers.get_all(header.name()).iter().rev();
    lines.flat_map(move |line| {
        let line = line.as_bytes();
        let entries = match header {
            AddressHeader::XForwardedFor => FromTheEnd::of(line, b',', Quotes::AreText),
            AddressHeader::Forwarded => FromTheEnd::of(line, b',', Quotes::Enclose),
            AddressHeader::Single(_) => FromTheEnd::whole(line),
        };
        entries.map(|entry| match header {
            AddressHeader::XForwardedFor | AddressHeader::Single(_) => address(entry),
            AddressHeader::Forwarded => forwarded_for(entry),
        })
    })
}

/// The address in the parameter `for` of one element of `Forwarded`.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut value = None;
    for pair in FromTheEnd::of(element, b';', Quotes::Enclose) {
        let pair = trim(pair);
        if pair.is_empty() {
            continue;
        }
        let equals = memchr::memchr(b'=', pair)?;
        if pair[..equals].eq_ignore_ascii_case(b"for") {
            // A parameter may not occur twice in one element (RFC 7239 §4).
            if value.replace(&pair[equals + 1..]).is_some() {
                return None;
            }
        }
    }
    address(&unquote(value?)?)
}

/// The text of a token, or of a quoted string.
fn unquote(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let Some(opened) = value.strip_prefix(b"\"") else {
        return Some(Cow::Borrowed(value));
    };
    let quoted = opened.strip_suffix(b"\"")?;
    if memchr::memchr2(b'\\', b'"', quoted).is_none() {
        return Some(Cow::Borrowed(quoted));
    }
    let mut text = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => text.push(*bytes.next()?),
            b'"' => return None,
            byte => text.push(*byte),
        }
    }
    Some(Cow::Owned(text))
}

/// An address, with or without a port: `192.0.2.1:80`, `[2001:db8::1]:80` or `2001:db8::1`. Not `unknown`, and no name.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(trim(text)).ok()?;
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        let has_port = || port.strip_prefix(':').is_some_and(is_port);
        return ipv6(address).filter(|_| port.is_empty() || has_port());
    }
    match text.split_once(':') {
        None => ipv4(text),
        Some((address, port)) if is_port(port) => ipv4(address),
        Some(_) => ipv6(text),
    }
}

fn ipv4(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(Ipv4Addr::into)
}

/// A zone is left out: it names an interface of the proxy.
fn ipv6(text: &str) -> Option<IpAddr> {
    let address = match text.split_once('%') {
        Some((_, "")) => return None,
        Some((address, _)) => address,
        None => text,
    };
    let address: Ipv6Addr = address.parse().ok()?;
    Some(IpAddr::from(address).to_canonical())
}

/// Up to five digits, or an obfuscated port (RFC 7239 §6).
fn is_port(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && name.bytes().all(is_name),
        None => (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// Without the white space of HTTP.
fn trim(text: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let Some(start) = text.iter().position(is_text) else {
        return &[];
    };
    let end = text.iter().rposition(is_text).unwrap_or(start);
    &text[start..=end]
}

/// Whether a separator inside of quotes separates.
#[derive(Clone, Copy, PartialEq)]
enum Quotes {
    AreText,
    Enclose,
}

/// The parts of a text between separators, the last one first.
struct FromTheEnd<'a> {
    rest: Option<&'a [u8]>,
    /// `None` if the text is one part.
    separator: Option<(u8, Quotes)>,
}

impl<'a> FromTheEnd<'a> {
    fn of(text: &'a [u8], separator: u8, quotes: Quotes) -> Self {
        Self {
            rest: Some(text),
            separator: Some((separator, quotes)),
        }
    }

    fn whole(text: &'a [u8]) -> Self {
        Self {
            rest: Some(text),
            separator: None,
        }
    }
}

impl<'a> Iterator for FromTheEnd<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.rest.take()?;
        let at = match self.separator {
            Some((separator, Quotes::AreText)) => memchr::memrchr(separator, text),
            Some((separator, Quotes::Enclose)) => last_outside_quotes(text, separator),
            None => None,
        };
        let Some(at) = at else {
            return Some(text);
        };
        self.rest = Some(&text[..at]);
        Some(&text[at + 1..])
    }
}

fn last_outside_quotes(text: &[u8], separator: u8) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in text.iter().enumerate().rev() {
        match byte {
            // From the end, a closing quote comes first. It may follow an escaped backslash; an opening one is not escaped.
            b'"' if !quoted => quoted = true,
            b'"' => quoted = is_escaped(&text[..at]),
            byte if *byte == separator && !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Whether what follows this text is escaped, by a backslash that is not escaped itself.
fn is_escaped(before: &[u8]) -> bool {
    let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\');
    backslashes.count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn read(header: &AddressHeader, lines: &[&[u8]]) -> Vec<Option<IpAddr>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header.name(), HeaderValue::from_bytes(line).unwrap());
        }
        addresses(&headers, header).collect()
    }

    /// What is expected, with `-` for an entry without an address.
    fn expected(entries: &[&str]) -> Vec<Option<IpAddr>> {
        let parse = |entry: &&str| (*entry != "-").then(|| entry.parse().unwrap());
        entries.iter().map(parse).collect()
    }

    #[test]
    fn an_entry_is_an_address_with_or_without_a_port_or_nothing() {
        for (entry, address) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:1", "192.0.2.1"),
            ("192.0.2.1:65535", "192.0.2.1"),
            ("192.0.2.1:_port", "192.0.2.1"),
            (" \t192.0.2.1 \t", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:DB8::A", "2001:db8::a"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]:_p.-_1", "2001:db8::1"),
            ("::", "::"),
            ("::1", "::1"),
            ("::1:80", "::1:80"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
            ("::ffff:c000:0201", "192.0.2.1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%3]:80", "fe80::1"),
            ("[fe80::1%25eth0]", "fe80::1"),
            // Neither an address nor a name that may stand for one:
            ("", "-"),
            (" ", "-"),
            ("-", "-"),
            ("unknown", "-"),
            ("Unknown", "-"),
            ("_hidden", "-"),
            ("_hidden:80", "-"),
            ("unix:", "-"),
            ("localhost", "-"),
            ("example.org:80", "-"),
            ("192.0.2", "-"),
            ("192.0.2.1.5", "-"),
            ("192.0.2.256", "-"),
            ("192.0.2.01", "-"),
            ("0xc0.0.2.1", "-"),
            ("3221225985", "-"),
            ("192.0.2.1/24", "-"),
            ("192.0.2.1:", "-"),
            ("192.0.2.1:123456", "-"),
            ("192.0.2.1:+80", "-"),
            ("192.0.2.1:8o", "-"),
            ("192.0.2.1:_", "-"),
            ("192.0.2.1:_a b", "-"),
            ("192.0.2.1:80:80", "-"),
            ("192.0.2.1 192.0.2.2", "-"),
            ("192.0.2.1%eth0", "-"),
            ("[192.0.2.1]", "-"),
            ("[192.0.2.1]:80", "-"),
            ("[2001:db8::1", "-"),
            ("2001:db8::1]", "-"),
            ("[2001:db8::1]80", "-"),
            ("[2001:db8::1]:", "-"),
            ("[2001:db8::1]:80:80", "-"),
            ("[[2001:db8::1]]", "-"),
            ("[]", "-"),
            ("[", "-"),
            ("[:", "-"),
            ("]", "-"),
            ("[fe80::1%]", "-"),
            ("%eth0", "-"),
            ("fe80::1%", "-"),
            ("2001:db8:::1", "-"),
            ("2001:db8::g", "-"),
            ("\"192.0.2.1\"", "-"),
            ("for=192.0.2.1", "-"),
        ] {
            let expected = expected(&[address]);
            let single = AddressHeader::Single(HeaderName::from_static("x-real-ip"));
            for header in [&AddressHeader::XForwardedFor, &single] {
                let read = read(header, &[entry.as_bytes()]);
                assert_eq!(read, expected, "{entry:?} in {}", header.name());
            }
            // In `Forwarded`, quotes are part of the syntax, and not of the address.
            if !entry.contains('"') {
                for element in [
                    format!("for=\"{entry}\""),
                    format!("FOR=\"{entry}\""),
                    format!("proto=https;For=\"{entry}\";by=_proxy"),
                    format!(" for=\"{entry}\" ; host=\"a;b,c=\\\"d\" ;"),
                ] {
                    let read = read(&AddressHeader::Forwarded, &[element.as_bytes()]);
                    assert_eq!(read, expected, "{element}");
                }
            }
        }
    }

    #[test]
    fn lists_are_read_from_their_end_over_all_lines() {
        type Case = (&'static [&'static [u8]], &'static [&'static str]);
        let cases: &[Case] = &[
            (&[], &[]),
            (&[b""], &["-"]),
            (&[b"192.0.2.1"], &["192.0.2.1"]),
            (&[b"192.0.2.1,192.0.2.2"], &["192.0.2.2", "192.0.2.1"]),
            (
                &[b" 192.0.2.1 ,\t192.0.2.2:80"],
                &["192.0.2.2", "192.0.2.1"],
            ),
            (
                &[b"192.0.2.1, 192.0.2.2", b"192.0.2.3"],
                &["192.0.2.3", "192.0.2.2", "192.0.2.1"],
            ),
            (
                &[b"192.0.2.1", b"", b"192.0.2.3"],
                &["192.0.2.3", "-", "192.0.2.1"],
            ),
            (
                &[b"192.0.2.1,,192.0.2.3,"],
                &["-", "192.0.2.3", "-", "192.0.2.1"],
            ),
            (&[b"192.0.2.1, unknown, _hidden"], &["-", "-", "192.0.2.1"]),
            (
                &[b"\xff, 192.0.2.1\xff, 192.0.2.2"],
                &["192.0.2.2", "-", "-"],
            ),
            // In `X-Forwarded-For`, a quote has no meaning.
            (&[b"\"192.0.2.1, 192.0.2.2"], &["192.0.2.2", "-"]),
        ];
        for (lines, addresses) in cases {
            let read = read(&AddressHeader::XForwardedFor, lines);
            assert_eq!(read, expected(addresses), "{lines:?}");
        }
    }

    #[test]
    fn a_header_of_one_address_is_no_list() {
        let single = AddressHeader::Single(HeaderName::from_static("cf-connecting-ip"));
        for (lines, addresses) in [
            (&[b"192.0.2.1" as &[u8]] as &[&[u8]], &["192.0.2.1"] as &[_]),
            (&[b"192.0.2.1, 192.0.2.2"], &["-"]),
            (&[b"192.0.2.1,"], &["-"]),
            (&[b"192.0.2.1", b"192.0.2.1"], &["192.0.2.1", "192.0.2.1"]),
        ] {
            assert_eq!(read(&single, lines), expected(addresses), "{lines:?}");
        }
    }

    #[test]
    fn elements_of_forwarded_are_read_from_their_end_whatever_comes_before() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["for=192.0.2.1"], &["192.0.2.1"]),
            (&["for=192.0.2.1:80"], &["192.0.2.1"]),
            (&["for=[2001:db8::1]"], &["2001:db8::1"]),
            (&["for=\"[2001:db8::1]:80\""], &["2001:db8::1"]),
            (&["for=\"\\[2001:db8::\\1]\""], &["2001:db8::1"]),
            (
                &["for=192.0.2.1, for=192.0.2.2;proto=https", "for=192.0.2.3"],
                &["192.0.2.3", "192.0.2.2", "192.0.2.1"],
            ),
            (
                &["for=192.0.2.1;host=\"a,b\", for=192.0.2.2"],
                &["192.0.2.2", "192.0.2.1"],
            ),
            (
                &["for=192.0.2.1;host=\"a\\\",b\", for=192.0.2.2"],
                &["192.0.2.2", "192.0.2.1"],
            ),
            (
                &["for=192.0.2.1;host=\"a,\\\\\", for=192.0.2.2"],
                &["192.0.2.2", "192.0.2.1"],
            ),
            (&["for=192.0.2.1, "], &["-", "192.0.2.1"]),
            (&["for=192.0.2.1;;proto=https;"], &["192.0.2.1"]),
            (
                &["for=unknown, for=_hidden, for=\"_hidden:80\""],
                &["-", "-", "-"],
            ),
            (&["proto=https;by=192.0.2.1"], &["-"]),
            (&["for=192.0.2.1;for=192.0.2.2"], &["-"]),
            (&["for=192.0.2.1;FOR=192.0.2.1"], &["-"]),
            (&["for"], &["-"]),
            (&["for="], &["-"]),
            (&["for=192.0.2.1;proto"], &["-"]),
            (&["for =192.0.2.1"], &["-"]),
            (&["xfor=192.0.2.1"], &["-"]),
            (&["192.0.2.1"], &["-"]),
            (&["for=\"192.0.2.1"], &["-"]),
            (&["for=192.0.2.1\""], &["-"]),
            (&["for=\"192.0.2.1\\\""], &["-"]),
            (&["for=\"192.0.2.1\"\""], &["-"]),
            (&["for=\"192.0.2\".1"], &["-"]),
            (&["for=\""], &["-"]),
            (&["for='192.0.2.1'"], &["-"]),
            // A client writes everything but the last element.
            (&["for=\", for=192.0.2.2"], &["192.0.2.2", "-"]),
            (&["for=\"\\, for=192.0.2.2"], &["192.0.2.2", "-"]),
            (
                &["for=198.51.100.1;x=\"", "for=\"192.0.2.2\""],
                &["192.0.2.2", "-"],
            ),
            (
                &["\", for=198.51.100.1, \"\\\", for=\"192.0.2.2\""],
                &["192.0.2.2", "-"],
            ),
        ];
        for (lines, addresses) in cases {
            let bytes: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            let read = read(&AddressHeader::Forwarded, &bytes);
            assert_eq!(read[..addresses.len()], expected(addresses), "{lines:?}");
            let others = read[addresses.len()..].len();
            assert!(lines[0].starts_with('"') || others == 0, "{read:?}");
        }
    }

    /// One line of a header, as clients can send it: mostly of characters that mean something.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let meaningful = proptest::sample::select(&b"for=\"\\;,:[]%._1. \t\xff"[..]);
        proptest::collection::vec(meaningful, 0..60)
    }

    proptest! {
        #[test]
        fn whatever_a_client_writes_the_entries_of_the_proxies_are_read(
            written in proptest::collection::vec(line(), 1..3),
            is_appended in any::<bool>(),
            host in "[ -~]{0,8}",
        ) {
            let host = host.replace('\\', "\\\\").replace('"', "\\\"");
            let forwarded = format!("for=\"[2001:db8::1]:80\";host=\"{host}\", for=192.0.2.9");
            for (header, by_proxies) in [
                (AddressHeader::XForwardedFor, "2001:db8::1, 192.0.2.9"),
                (AddressHeader::Forwarded, &forwarded),
            ] {
                let mut lines = written.clone();
                match lines.last_mut() {
                    Some(last) if is_appended => {
                        last.extend(b", ");
                        last.extend(by_proxies.bytes());
                    }
                    _ => lines.push(by_proxies.into()),
                }
                let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
                let read = read(&header, &lines);
                prop_assert_eq!(&read[..2], expected(&["192.0.2.9", "2001:db8::1"]));
            }
        }
    }
}
