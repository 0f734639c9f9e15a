//! Checks a token's secret against a record.

use crate::record::Record;
use crate::record::kept::Kept;
use crate::time::Millis;
use crate::token::SecretHash;

/// The result of checking a token's secret.
#[derive(Debug, PartialEq)]
pub(crate) enum TokenCheck {
    /// The secret is wrong, or the session's deadline has passed.
    Invalid,
    /// The secret was replaced a moment ago; another response brings the browser the new one.
    Retired,
    /// The secret gives access to the session.
    Valid,
}

pub(crate) fn check_token(record: &Record, secret: &SecretHash, now: Millis) -> TokenCheck {
    if record.deadline <= now {
        TokenCheck::Invalid
    } else if record.secrets().any(|valid| valid == secret) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Retired;
    use crate::record::tests::record;
    use crate::token::Secret;

    #[test]
    fn only_current_secrets_are_valid_and_only_before_the_deadline() {
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
        }
    }
}
