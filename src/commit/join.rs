//! A login that meets its own login: a double click on "sign in", or one that is tried again after its answer was lost.
//!
//! The first retires the secret that both came with. The second then joins it: it gives the session one secret more, so that
//! both responses bring a cookie that works, and its changes are done to the session that is signed in. Only the same
//! principal joins, only with a secret which that very login has retired, and only as long as nothing but such logins has
//! been committed since: what is done in the session after that is not for whoever still has the old secret.

use std::sync::Arc;

use crate::commit::decide::Entry;
use crate::record::fingerprint::{Fingerprinting, admits, compare};
use crate::record::version::Epoch;
use crate::record::{Login, Record};
use crate::token::SecretHash;

/// How many secrets may open a session at once. One login more is refused, rather than ending one that works.
const MAX_SECRETS: usize = 3;

/// Who signs in, with which secret, and from where.
#[derive(Clone, Debug)]
pub(crate) struct Joining {
    pub(crate) who: String,
    pub(crate) secret: SecretHash,
    pub(crate) fingerprinting: Fingerprinting,
    pub(crate) network: Option<Arc<str>>,
}

/// Whether changes may be done to this record. They were made in an epoch, or with a secret that opens none; `joining` says
/// more if they are those of a login.
pub(crate) fn entry(made_in: Option<Epoch>, joining: Option<&Joining>, record: &Record) -> Entry {
    if made_in == Some(record.epoch) {
        return Entry::SameEpoch;
    }
    let login = joining
        .filter(|joining| joining.may_join(record))
        .and_then(|joining| {
            let retired_it = |login: &&Login| login.retired.contains(&joining.secret);
            record.login.as_ref().filter(retired_it)
        });
    match login {
        Some(login) => Entry::SameLogin {
            fresh: login.version == record.version,
        },
        None => Entry::OtherEpoch,
    }
}

impl Joining {
    /// Whether this is a session of the same principal that has room for another secret, and can be seen from here.
    fn may_join(&self, record: &Record) -> bool {
        let mode = self.fingerprinting;
        let bound = record.fingerprint.as_deref();
        record.principal.as_ref() == Some(&self.who)
            && record.secrets().count() < MAX_SECRETS
            && admits(mode, &compare(mode, bound, self.network.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;
    use crate::record::version::Version;
    use crate::token::Secret;

    fn secret() -> SecretHash {
        Secret::random().hash("sessile:", "id")
    }

    #[test]
    fn only_the_same_login_is_joined_and_only_before_anything_else() {
        let old = secret();
        let mut login = record();
        login.principal = Some("mia".to_owned());
        login.fingerprint = Some("203.0.113.0/24".to_owned());
        login.login = Some(Login {
            version: login.version,
            retired: vec![secret(), old.clone()],
        });
        let joining = || Joining {
            who: "mia".to_owned(),
            secret: old.clone(),
            fingerprinting: Fingerprinting::Strict,
            network: Some("203.0.113.0/24".into()),
        };
        let fresh = Entry::SameLogin { fresh: true };
        type Case = (&'static str, fn(&mut Record), fn(&mut Joining), Entry);
        let table: [Case; 10] = [
            ("as it was left", |_| (), |_| (), fresh),
            (
                "joined once",
                |record| record.added = vec![secret()],
                |_| (),
                fresh,
            ),
            (
                "joined twice",
                |record| record.added = vec![secret(), secret()],
                |_| (),
                Entry::OtherEpoch,
            ),
            (
                "written to since",
                |record| record.version = Version::first(),
                |_| (),
                Entry::SameLogin { fresh: false },
            ),
            (
                "rotated since",
                |record| record.login = None,
                |_| (),
                Entry::OtherEpoch,
            ),
            (
                "signed out since",
                |record| record.principal = None,
                |_| (),
                Entry::OtherEpoch,
            ),
            (
                "another principal",
                |_| (),
                |joining| joining.who = "leo".to_owned(),
                Entry::OtherEpoch,
            ),
            (
                "a secret that another rotation has retired",
                |_| (),
                |joining| joining.secret = secret(),
                Entry::OtherEpoch,
            ),
            (
                "another network",
                |_| (),
                |joining| joining.network = Some("198.51.100.0/24".into()),
                Entry::OtherEpoch,
            ),
            (
                "another network, where that harms nobody",
                |_| (),
                |joining| {
                    joining.fingerprinting = Fingerprinting::Soft;
                    joining.network = Some("198.51.100.0/24".into());
                },
                fresh,
            ),
        ];
        for (name, change, differ, expected) in table {
            let (mut record, mut joining) = (login.clone(), joining());
            change(&mut record);
            differ(&mut joining);
            assert_eq!(entry(None, Some(&joining), &record), expected, "{name}");
            let before = Some(Epoch::random());
            assert_eq!(entry(before, Some(&joining), &record), expected, "{name}");
            assert_eq!(entry(before, None, &record), Entry::OtherEpoch, "{name}");
            let inside = Some(record.epoch);
            assert_eq!(
                entry(inside, Some(&joining), &record),
                Entry::SameEpoch,
                "{name}"
            );
        }
    }
}
