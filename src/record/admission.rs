//! What a token's secret may do to a session.

use crate::record::Record;
use crate::record::kept::Kept;
use crate::time::Millis;
use crate::token::SecretHash;

/// Who the bearer of a token is to a record.
#[derive(Debug, PartialEq)]
pub(crate) enum Admission {
    /// Nobody: the secret is wrong, or the session is past its deadline.
    Nobody,
    /// Held the secret until a moment ago; another response brings the new one.
    Retired,
    /// Holds the secret.
    Holder,
}

pub(crate) fn admit(record: &Record, secret: &SecretHash, now: Millis) -> Admission {
    if record.deadline <= now {
        Admission::Nobody
    } else if record.secrets().any(|live| live == secret) {
        Admission::Holder
    } else if record
        .retired
        .iter()
        .filter_map(Kept::known)
        .any(|retired| retired.until > now && retired.secret == *secret)
    {
        Admission::Retired
    } else {
        Admission::Nobody
    }
}

/// Whether the secret is of this session, or was until a moment ago: enough to end it.
pub(crate) fn is_of(record: &Record, secret: &SecretHash, now: Millis) -> bool {
    admit(record, secret, now) != Admission::Nobody
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
            (&right, 1, Admission::Holder),
            (&right, 89_999, Admission::Holder),
            (&added, 89_999, Admission::Holder),
            (&added, 90_000, Admission::Nobody),
            (&right, 90_000, Admission::Nobody),
            (&old, 19_999, Admission::Retired),
            (&old, 20_000, Admission::Nobody),
            (&wrong, 1, Admission::Nobody),
        ] {
            assert_eq!(admit(&record, secret, now), expected, "{now}");
            let ends_it = expected != Admission::Nobody;
            assert_eq!(is_of(&record, secret, now), ends_it, "{now}");
        }
    }
}
