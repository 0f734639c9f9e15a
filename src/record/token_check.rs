//! What a token's secret may do to a session.

use crate::record::Record;
use crate::record::kept::Kept;
use crate::time::Millis;
use crate::token::SecretHash;

/// Who the bearer of a token is to a record.
#[derive(Debug, PartialEq)]
pub(crate) enum TokenCheck {
    /// Nobody: the secret is wrong, or the session is past its deadline.
    Invalid,
    /// Held the secret until a moment ago; another response brings the new one.
    Retired,
    /// Holds the secret.
    Valid,
}

pub(crate) fn check_token(record: &Record, secret: &SecretHash, now: Millis) -> TokenCheck {
    if record.deadline <= now {
        TokenCheck::Invalid
    } else if record.secrets().any(|live| live == secret) {
        TokenCheck::Valid
    } else if record
        .retired
        .iter()
        .filter_map(Kept::known)
        .any(|retired| retired.until > now && retired.secret == *secret)
    {
        TokenCheck::Retired
    } else {
        TokenCheck::Invalid
    }
}

/// Whether the secret is of this session, or was until a moment ago: enough to end it.
pub(crate) fn is_of(record: &Record, secret: &SecretHash, now: Millis) -> bool {
    check_token(record, secret, now) != TokenCheck::Invalid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Retired;
    use crate::record::tests::record;
    use crate::token::Secret;

    #[test]
    fn only_the_present_secrets_open_a_living_session() {
        let mut record = record();
        let old = Secret::random().hash("sessile:", "id");
        let retired = Retired {
            secret: old.clone(),
            until: 20_000,
        };
        record.retired.push(Kept::new(retired));
        record.deadline = 90_000;
        let added = Secret::random().hash("sessile:", "id");
        record.added.push(added.clone());
        let right = record.secret.clone();
        let wrong = Secret::random().hash("sessile:", "id");
        for (secret, now, expected) in [
            (&right, 1, TokenCheck::Valid),
            (&right, 89_999, TokenCheck::Valid),
            (&added, 89_999, TokenCheck::Valid),
            (&added, 90_000, TokenCheck::Invalid),
            (&right, 90_000, TokenCheck::Invalid),
            (&old, 19_999, TokenCheck::Retired),
            (&old, 20_000, TokenCheck::Invalid),
            (&wrong, 1, TokenCheck::Invalid),
        ] {
            assert_eq!(check_token(&record, secret, now), expected, "{now}");
            let ends_it = expected != TokenCheck::Invalid;
            assert_eq!(is_of(&record, secret, now), ends_it, "{now}");
        }
    }
}
