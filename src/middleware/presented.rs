//! The tokens that a request presents, read from its `Cookie` headers.
//!
//! Cookie crates decode names (`__%48ost-id` becomes `__Host-id`, so that a sibling host can forge it) or drop the whole
//! header for one unusual byte in another cookie. This reader compares bytes: it splits at `;`, trims spaces and tabs,
//! and accepts the value only if it is exactly a token.

use http::header::{COOKIE, HeaderMap};
use memchr::memchr;
use smallvec::SmallVec;

use crate::token::Token;

/// How many different tokens of one request sessile looks up at most.
const MAX_TOKENS: usize = 4;

/// The tokens that a request carries, in cookies of the session cookie's name or in the layer's header.
///
/// Browsers distinguish cookies of one name by domain and path. They send several if the configured domain or path has changed,
/// or if another application on the host uses the same name. The request does not say which is which, and their order is not
/// reliable (RFC 6265bis §5.8.3).
///
/// If the request carries cookies of several names, because the name has changed, the first of these names decides: the present
/// one, or else the latest of the former ones. Of the others only tokens of a session that this name has a token of count. A
/// sibling host can set a cookie without `__Host-`, and must neither open nor end a session beside a `__Host-` cookie; it knows
/// no token of that session. But two nodes that have different names for the cookie may leave an old token under one name and its
/// successor under the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Presented {
    /// The different tokens, those of the name that decides first; empty if there are more than [`MAX_TOKENS`].
    pub(crate) tokens: SmallVec<[Token; 1]>,
    /// The number of tokens of the name that decides.
    decisive: usize,
    /// How many cookies of the name that decides hold a token, duplicates included.
    count: usize,
    /// Whether one of the cookies of the name that decides is not a token, or the header is not one.
    pub(crate) malformed: bool,
    /// Whether a former name decides.
    is_former: bool,
    /// The former names, in their order, of which the request carries a cookie.
    pub(crate) former: Vec<FormerCookie>,
}

/// A former name under which a request carries a cookie.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FormerCookie {
    /// The index of the name in `former_names`.
    pub(crate) name: usize,
    /// Whether there are several cookies of this name.
    pub(crate) has_several: bool,
}

/// Under which name the browser has sent a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SentAs {
    Present,
    Former,
    NotSent,
}

impl Presented {
    /// The tokens of a header, in which there is one place for them.
    pub(crate) fn in_header(token: Option<Token>, malformed: bool) -> Self {
        let tokens: SmallVec<_> = token.into_iter().collect();
        Self {
            decisive: tokens.len(),
            count: tokens.len(),
            tokens,
            malformed,
            ..Self::default()
        }
    }

    fn in_cookies(present: Cookies, mut former: Vec<(usize, Cookies)>) -> Self {
        former.sort_unstable_by_key(|(name, _)| *name);
        let carried = former.iter().map(|(name, cookies)| FormerCookie {
            name: *name,
            has_several: cookies.count > 1,
        });
        let carried = carried.collect();
        let mut others = former.into_iter().map(|(_, cookies)| cookies);
        let is_former = present.is_empty() && others.len() > 0;
        let deciding = match is_former {
            true => others.next().unwrap_or_default(),
            false => present,
        };
        let mut tokens = deciding.tokens;
        let decisive = tokens.len();
        for token in others.flat_map(|cookies| cookies.tokens) {
            let is_same_session = |it: &Token| it.handle == token.handle;
            if tokens.len() < MAX_TOKENS
                && tokens[..decisive].iter().any(is_same_session)
                && !tokens.contains(&token)
            {
                tokens.push(token);
            }
        }
        Self {
            tokens,
            decisive,
            count: deciding.count,
            malformed: deciding.malformed,
            is_former,
            former: carried,
        }
    }

    /// Whether the request carries no such cookie.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0 && !self.malformed
    }

    /// Whether the request carries a cookie of the present name.
    pub(crate) fn has_present(&self) -> bool {
        !self.is_former && !self.is_empty()
    }

    /// Whether several cookies of the present name hold a token.
    pub(crate) fn has_several(&self) -> bool {
        self.count > 1 && !self.is_former
    }

    /// Whether several different tokens have one name.
    pub(crate) fn has_several_tokens(&self) -> bool {
        self.decisive > 1
    }

    /// Whether there are so many different tokens that sessile looks up none of them.
    pub(crate) fn has_too_many(&self) -> bool {
        self.count > 0 && self.tokens.is_empty()
    }

    /// Under which name the browser has sent this token.
    pub(crate) fn sent_as(&self, token: &Token) -> SentAs {
        let present = if self.is_former { 0 } else { self.decisive };
        match self.tokens.iter().position(|it| it == token) {
            Some(index) if index < present => SentAs::Present,
            Some(_) => SentAs::Former,
            None => SentAs::NotSent,
        }
    }
}

/// The cookies of one name.
#[derive(Debug, Default)]
struct Cookies {
    /// The different tokens; empty if there are more than [`MAX_TOKENS`].
    tokens: SmallVec<[Token; 1]>,
    count: usize,
    malformed: bool,
}

impl Cookies {
    fn is_empty(&self) -> bool {
        self.count == 0 && !self.malformed
    }

    fn add(&mut self, value: &[u8]) {
        let Some(token) = Token::decode(value) else {
            self.malformed = true;
            return;
        };
        let too_many = self.count > 0 && self.tokens.is_empty();
        self.count += 1;
        if too_many || self.tokens.contains(&token) {
            return;
        }
        match self.tokens.len() < MAX_TOKENS {
            true => self.tokens.push(token),
            false => self.tokens.clear(),
        }
    }
}

/// Reads the session's tokens from the cookies of the request, by the present name of the session cookie and its former ones.
pub(crate) fn read(headers: &HeaderMap, name: &str, former_names: &[String]) -> Presented {
    let mut present = Cookies::default();
    let mut former: Vec<(usize, Cookies)> = Vec::new();
    for header in headers.get_all(COOKIE) {
        let mut rest = Some(header.as_bytes());
        while let Some(bytes) = rest {
            let pair = match memchr(b';', bytes) {
                Some(end) => {
                    rest = Some(&bytes[end + 1..]);
                    &bytes[..end]
                }
                None => {
                    rest = None;
                    bytes
                }
            };
            let Some(equals) = memchr(b'=', pair) else {
                continue;
            };
            let (cookie, value) = (trim(&pair[..equals]), &pair[equals + 1..]);
            if cookie == name.as_bytes() {
                present.add(trim(value));
            } else if let Some(index) = former_names.iter().position(|it| cookie == it.as_bytes()) {
                let place = former.iter().position(|(name, _)| *name == index);
                let place = place.unwrap_or_else(|| {
                    former.push((index, Cookies::default()));
                    former.len() - 1
                });
                former[place].1.add(trim(value));
            }
        }
    }
    Presented::in_cookies(present, former)
}

/// Trims spaces and tabs, the only white space that RFC 6265bis §5.7 trims.
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const NAME: &str = "__Host-id";

    fn request(cookies: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, HeaderValue::from_bytes(cookie).unwrap());
        }
        headers
    }

    fn tokens(tokens: &[&Token], count: usize) -> Presented {
        Presented {
            tokens: tokens.iter().copied().cloned().collect(),
            decisive: tokens.len(),
            count,
            ..Presented::default()
        }
    }

    fn presented(cookies: &[&str]) -> Presented {
        let cookies: Vec<_> = cookies.iter().map(|cookie| cookie.as_bytes()).collect();
        read(&request(&cookies), NAME, &[])
    }

    #[test]
    fn the_genuine_cookie_is_found_among_all_others() {
        let token = Token::random();
        let text = token.encode();
        let genuine = format!("{NAME}={}", *text);
        let expected = tokens(&[&token], 1);
        for cookies in [
            vec![genuine.as_str()],
            vec!["a=1", genuine.as_str()],
            vec![&format!("a=1; {genuine};b=2")],
            vec![&format!(" \t{NAME} = {} \t", *text)],
            vec![&format!(
                "__%48ost-id=evil; =x; ;;; {genuine}; __host-id=evil"
            )],
        ] {
            assert_eq!(presented(&cookies), expected, "{cookies:?}");
        }
        let mut not_utf8 = b"x=\xff\xfe; ".to_vec();
        not_utf8.extend_from_slice(genuine.as_bytes());
        assert_eq!(read(&request(&[&not_utf8]), NAME, &[]), expected);
        let many = format!("{}{genuine}", "a=;".repeat(50_000));
        assert_eq!(presented(&[&many]), expected);
    }

    #[test]
    fn names_that_only_look_alike_belong_to_other_cookies() {
        let text = Token::random().encode();
        for name in [
            "__host-id",
            "__%48ost-id",
            "\u{2000}__Host-id",
            "\u{a0}__Host-id",
            "__Host-id\u{2000}",
            "__Host-i",
            "__Host-idx",
            "$__Host-id",
            "\"__Host-id\"",
        ] {
            let cookie = format!("{name}={}", *text);
            assert_eq!(presented(&[&cookie]), Presented::default(), "{name:?}");
        }
        assert_eq!(
            presented(&[&format!("=__Host-id={}", *text)]),
            Presented::default()
        );
        assert_eq!(presented(&["__Host-id"]), Presented::default());
        assert_eq!(presented(&[]), Presented::default());
    }

    #[test]
    fn a_malformed_value_does_not_hide_a_token() {
        let token = Token::random();
        let text = token.encode();
        let genuine = format!("{NAME}={}", *text);
        for value in [
            "",
            "x",
            &"a".repeat(1_000_000),
            &format!("\"{}\"", *text),
            &format!("{}%3D", *text),
        ] {
            let malformed = format!("{NAME}={value}");
            let alone = presented(&[&malformed]);
            assert!(alone.malformed && alone.tokens.is_empty() && !alone.is_empty());
            assert!(!alone.has_several() && !alone.has_too_many());
            for cookies in [[&malformed, &genuine], [&genuine, &malformed]] {
                let cookies = cookies.map(String::as_str);
                let expected = Presented {
                    malformed: true,
                    ..tokens(&[&token], 1)
                };
                assert_eq!(presented(&cookies), expected);
                assert!(!expected.has_several());
            }
        }
    }

    #[test]
    fn up_to_four_different_tokens_are_candidates() {
        let all: Vec<Token> = (0..6).map(|_| Token::random()).collect();
        for (order, candidates) in [
            (&[0, 1][..], &[0, 1][..]),
            (&[1, 0], &[1, 0]),
            (&[0, 0], &[0]),
            (&[0, 1, 0, 1, 0], &[0, 1]),
            (&[0, 1, 2, 3], &[0, 1, 2, 3]),
            (&[3, 0, 1, 2, 3, 3, 0], &[3, 0, 1, 2]),
            (&[0, 1, 2, 3, 4], &[]),
            (&[0, 1, 2, 3, 4, 0, 5], &[]),
        ] {
            let pairs = order
                .iter()
                .map(|n: &usize| format!("{NAME}={}", *all[*n].encode()));
            let header = pairs.collect::<Vec<_>>().join("; ");
            let candidates: Vec<&Token> = candidates.iter().map(|n: &usize| &all[*n]).collect();
            let result = presented(&[&header]);
            assert_eq!(result, tokens(&candidates, order.len()), "{order:?}");
            assert!(result.has_several() && !result.is_empty(), "{order:?}");
            assert_eq!(result.has_too_many(), candidates.is_empty(), "{order:?}");
        }
    }

    #[test]
    fn the_present_name_decides_and_former_ones_count_only_for_the_same_session() {
        const FORMER: [&str; 2] = ["id", "sid"];
        let former = FORMER.map(str::to_owned);
        let [mia, leo, eve] = [(); 3].map(|()| Token::random());
        // After a rotation of the session of `mia`.
        let later = Token {
            secret: Token::random().secret,
            ..mia.clone()
        };
        let with = |name: &str, token: &Token| format!("{name}={}", *token.encode());
        use SentAs::{Former, NotSent, Present};
        type Case<'a> = (Vec<String>, &'a [(&'a Token, SentAs)], &'a [usize]);
        let cases: [Case<'_>; 11] = [
            (vec![with(NAME, &mia)], &[(&mia, Present)], &[]),
            (vec![with("id", &mia)], &[(&mia, Former)], &[0]),
            (vec![with("sid", &mia)], &[(&mia, Former)], &[1]),
            // Ignored beside a cookie of the present name, whether or not that is a token.
            (
                vec![with("id", &eve), with(NAME, &mia)],
                &[(&mia, Present), (&eve, NotSent)],
                &[0],
            ),
            (
                vec![with("id", &eve), format!("{NAME}=x")],
                &[(&eve, NotSent)],
                &[0],
            ),
            // The first former name decides.
            (
                vec![with("sid", &eve), with("id", &mia)],
                &[(&mia, Former), (&eve, NotSent)],
                &[0, 1],
            ),
            (
                vec!["id=x".to_owned(), with("sid", &eve)],
                &[(&eve, NotSent)],
                &[0, 1],
            ),
            // The token that a rotation has replaced, and its successor.
            (
                vec![with("id", &later), with(NAME, &mia)],
                &[(&mia, Present), (&later, Former)],
                &[0],
            ),
            (
                vec![with("sid", &later), with("id", &mia), with("id", &leo)],
                &[(&mia, Former), (&leo, Former), (&later, Former)],
                &[0, 1],
            ),
            (
                vec![with("id", &mia), with(NAME, &mia)],
                &[(&mia, Present)],
                &[0],
            ),
            (vec![], &[(&mia, NotSent)], &[]),
        ];
        for (cookies, expected, carried) in cases {
            let header = request(&[cookies.join("; ").as_bytes()]);
            let presented = read(&header, NAME, &former);
            let sent = expected.iter().filter(|(_, sent)| *sent != NotSent);
            let sent: Vec<&Token> = sent.map(|(token, _)| *token).collect();
            assert!(presented.tokens.iter().eq(sent), "{cookies:?}");
            for (token, sent_as) in expected {
                assert_eq!(presented.sent_as(token), *sent_as, "{cookies:?}");
            }
            let names = presented.former.iter().map(|it| it.name);
            assert!(names.eq(carried.iter().copied()), "{cookies:?}");
            assert_eq!(presented.is_empty(), cookies.is_empty());
            assert!(!presented.has_several() && !presented.has_too_many());
        }
        let many = [&mia, &leo, &eve, &later, &Token::random()].map(|it| with("id", it));
        let presented = read(&request(&[many.join("; ").as_bytes()]), NAME, &former);
        assert!(presented.has_too_many() && presented.former[0].has_several);
    }
}
