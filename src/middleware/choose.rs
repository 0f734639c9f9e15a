//! Picks the session of a request whose cookies hold several tokens.
//!
//! The order of the cookies does not matter: browsers send cookies with longer paths first, and among these the older ones first,
//! which does not say whose cookies they are (RFC 6265bis §5.8.3).

use crate::error::session::{Gone, SessionError};
use crate::session::state::backing::Backing;
use crate::token::Handle;

/// The result of authenticating one token, ordered from the worst to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Candidate {
    /// There is no such session, or the secret is wrong.
    Invalid,
    /// The secret was valid until a moment ago.
    Retired,
    /// This version of sessile cannot read the record; a later one may.
    Unreadable,
    /// The secret is valid, and the session is bound to another network.
    Denied(Handle),
    /// The token gives access to this session.
    Valid(Handle),
}

/// Which token decides the session of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The token at this index.
    Use(usize),
    /// The request carries no token.
    None,
    /// The tokens are valid for different sessions, and one of them may have been planted by an attacker.
    Ambiguous,
}

/// Chooses the best of the tokens.
pub(crate) fn choose(candidates: &[Candidate]) -> Choice {
    let valid = || {
        candidates
            .iter()
            .filter(|it| matches!(it, Candidate::Valid(_)))
    };
    if valid().min() != valid().max() {
        return Choice::Ambiguous;
    }
    // Of several that are as good, the first: one of a former name of the cookie comes after those of its present name.
    let best = candidates
        .iter()
        .enumerate()
        .rev()
        .max_by_key(|(_, candidate)| **candidate);
    best.map_or(Choice::None, |(index, _)| Choice::Use(index))
}

/// The sessions whose secret the request holds, and which it may therefore end.
pub(crate) fn verified_handles(candidates: &[Candidate]) -> Vec<Handle> {
    let mut handles: Vec<Handle> = candidates
        .iter()
        .filter_map(|candidate| match candidate {
            Candidate::Valid(handle) | Candidate::Denied(handle) => Some(*handle),
            Candidate::Invalid | Candidate::Retired | Candidate::Unreadable => None,
        })
        .collect();
    handles.sort_unstable();
    handles.dedup();
    handles
}

/// Ranks the result of authenticating one token.
pub(crate) fn candidate(backing: &Backing) -> Candidate {
    match backing {
        Backing::New => Candidate::Invalid,
        Backing::Loaded(base) => Candidate::Valid(base.token.handle),
        Backing::Denied {
            handle: Some(handle),
            ..
        } => Candidate::Denied(*handle),
        Backing::Denied {
            why: SessionError::Gone(Gone::Rotated),
            ..
        } => Candidate::Retired,
        Backing::Denied { .. } => Candidate::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_session_is_chosen_if_it_is_the_only_one() {
        use Candidate::{Denied, Invalid, Retired, Unreadable, Valid};
        let mut handles = [(); 3].map(|()| Handle::random());
        handles.sort_unstable();
        let [one, two, three] = handles;
        for (tokens, chosen, ended) in [
            (&[Invalid][..], Some(Invalid), &[][..]),
            (&[Retired], Some(Retired), &[]),
            (&[Unreadable], Some(Unreadable), &[]),
            (&[Denied(one)], Some(Denied(one)), &[one]),
            (&[Valid(one)], Some(Valid(one)), &[one]),
            (&[Invalid, Invalid], Some(Invalid), &[]),
            (&[Invalid, Valid(one)], Some(Valid(one)), &[one]),
            (&[Retired, Valid(one)], Some(Valid(one)), &[one]),
            (&[Unreadable, Valid(one)], Some(Valid(one)), &[one]),
            (&[Denied(two), Valid(one)], Some(Valid(one)), &[one, two]),
            (&[Denied(one), Valid(two)], Some(Valid(two)), &[one, two]),
            // Two tokens of one session.
            (&[Valid(one), Valid(one)], Some(Valid(one)), &[one]),
            (
                &[Valid(one), Invalid, Valid(one), Retired],
                Some(Valid(one)),
                &[one],
            ),
            (&[Valid(one), Valid(two)], None, &[one, two]),
            (&[Valid(one), Valid(two), Valid(one)], None, &[one, two]),
            (
                &[Valid(three), Valid(two), Valid(one)],
                None,
                &[one, two, three],
            ),
            (
                &[Invalid, Valid(one), Denied(three), Valid(two)],
                None,
                &[one, two, three],
            ),
            (&[Invalid, Retired], Some(Retired), &[]),
            (&[Retired, Unreadable], Some(Unreadable), &[]),
            (
                &[Retired, Denied(one), Unreadable],
                Some(Denied(one)),
                &[one],
            ),
        ] {
            for shift in 0..tokens.len() {
                let mut tokens = tokens.to_vec();
                tokens.rotate_left(shift);
                for _ in 0..2 {
                    tokens.reverse();
                    let choice = match choose(&tokens) {
                        Choice::Use(index) => Some(tokens[index]),
                        Choice::Ambiguous => None,
                        Choice::None => panic!("{tokens:?}"),
                    };
                    assert_eq!(choice, chosen, "{tokens:?}");
                    assert_eq!(verified_handles(&tokens), ended, "{tokens:?}");
                }
            }
        }
        assert_eq!((choose(&[]), verified_handles(&[])), (Choice::None, vec![]));
    }
}
