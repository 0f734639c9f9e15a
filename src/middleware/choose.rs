//! Which session a request has, if its cookies hold several tokens.
//!
//! The order of the cookies decides nothing: browsers send those with longer paths first, and among them older ones, and
//! neither says whose they are (RFC 6265bis §5.8.3).

use crate::error::session::{Gone, SessionError};
use crate::session::state::backing::Backing;
use crate::token::Handle;

/// What one token has turned out to be worth, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Worth {
    /// There is no such session, or the secret is wrong.
    Nothing,
    /// It opened a session until a moment ago.
    Retired,
    /// What is stored may be a session that a later version of sessile can read.
    Unreadable,
    /// Its secret is right, and the session is bound to another network.
    Elsewhere(Handle),
    /// It opens this session.
    Opens(Handle),
}

/// What the request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// What the token at this place has turned out to be.
    Use(usize),
    Nobody,
    /// Tokens of different sessions, and nothing tells which is the visitor's and which was put there by somebody else.
    Ambiguous,
}

/// What a request has whose tokens are worth this.
pub(crate) fn choose(tokens: &[Worth]) -> Choice {
    let opened = || tokens.iter().filter(|it| matches!(it, Worth::Opens(_)));
    if opened().min() != opened().max() {
        return Choice::Ambiguous;
    }
    let best = tokens.iter().enumerate().max_by_key(|(_, worth)| **worth);
    best.map_or(Choice::Nobody, |(place, _)| Choice::Use(place))
}

/// The sessions whose secret the request holds, and may end.
pub(crate) fn held(tokens: &[Worth]) -> Vec<Handle> {
    let mut handles: Vec<Handle> = tokens
        .iter()
        .filter_map(|worth| match worth {
            Worth::Opens(handle) | Worth::Elsewhere(handle) => Some(*handle),
            Worth::Nothing | Worth::Retired | Worth::Unreadable => None,
        })
        .collect();
    handles.sort_unstable();
    handles.dedup();
    handles
}

/// What a token is worth by which a request stands to the store like this.
pub(crate) fn worth(backing: &Backing) -> Worth {
    match backing {
        Backing::New => Worth::Nothing,
        Backing::Loaded(base) => Worth::Opens(base.token.handle),
        Backing::Denied {
            handle: Some(handle),
            ..
        } => Worth::Elsewhere(*handle),
        Backing::Denied {
            why: SessionError::Gone(Gone::Rotated),
            ..
        } => Worth::Retired,
        Backing::Denied { .. } => Worth::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_that_is_opened_is_used_if_it_is_the_only_one() {
        use Worth::{Elsewhere, Nothing, Opens, Retired, Unreadable};
        let mut handles = [(); 3].map(|()| Handle::random());
        handles.sort_unstable();
        let [one, two, three] = handles;
        for (tokens, chosen, ended) in [
            (&[Nothing][..], Some(Nothing), &[][..]),
            (&[Retired], Some(Retired), &[]),
            (&[Unreadable], Some(Unreadable), &[]),
            (&[Elsewhere(one)], Some(Elsewhere(one)), &[one]),
            (&[Opens(one)], Some(Opens(one)), &[one]),
            (&[Nothing, Nothing], Some(Nothing), &[]),
            (&[Nothing, Opens(one)], Some(Opens(one)), &[one]),
            (&[Retired, Opens(one)], Some(Opens(one)), &[one]),
            (&[Unreadable, Opens(one)], Some(Opens(one)), &[one]),
            (&[Elsewhere(two), Opens(one)], Some(Opens(one)), &[one, two]),
            (&[Elsewhere(one), Opens(two)], Some(Opens(two)), &[one, two]),
            // Two tokens of one session.
            (&[Opens(one), Opens(one)], Some(Opens(one)), &[one]),
            (
                &[Opens(one), Nothing, Opens(one), Retired],
                Some(Opens(one)),
                &[one],
            ),
            (&[Opens(one), Opens(two)], None, &[one, two]),
            (&[Opens(one), Opens(two), Opens(one)], None, &[one, two]),
            (
                &[Opens(three), Opens(two), Opens(one)],
                None,
                &[one, two, three],
            ),
            (
                &[Nothing, Opens(one), Elsewhere(three), Opens(two)],
                None,
                &[one, two, three],
            ),
            (&[Nothing, Retired], Some(Retired), &[]),
            (&[Retired, Unreadable], Some(Unreadable), &[]),
            (
                &[Retired, Elsewhere(one), Unreadable],
                Some(Elsewhere(one)),
                &[one],
            ),
        ] {
            for turn in 0..tokens.len() {
                let mut tokens = tokens.to_vec();
                tokens.rotate_left(turn);
                for _ in 0..2 {
                    tokens.reverse();
                    let choice = match choose(&tokens) {
                        Choice::Use(place) => Some(tokens[place]),
                        Choice::Ambiguous => None,
                        Choice::Nobody => panic!("{tokens:?}"),
                    };
                    assert_eq!(choice, chosen, "{tokens:?}");
                    assert_eq!(held(&tokens), ended, "{tokens:?}");
                }
            }
        }
        assert_eq!((choose(&[]), held(&[])), (Choice::Nobody, vec![]));
    }
}
