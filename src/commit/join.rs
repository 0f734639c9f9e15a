//! A login that meets the same login: a double click on "sign in", or a retry after the first answer was lost.
//!
//! The first login retires the secret that both requests carried. The second one joins it: it adds a secret to the session,
//! so that both responses set a cookie that works, and its changes are replayed on the session that is signed in. A login
//! joins only a login of the same principal, only if that login has retired the secret that it carries, and only while
//! nothing but such logins has been committed since: whoever still has the old secret must not get what was written later.

use bytestring::ByteString;
use smallvec::SmallVec;

use crate::commit::decide::Entry;
use crate::record::fingerprint::{Fingerprinting, Network, admits, compare};
use crate::record::version::Epoch;
use crate::record::{Login, Record};
use crate::token::SecretHash;

/// How many secrets may open a session at once. One more login is rejected, rather than ending a secret that works.
const MAX_SECRETS: usize = 3;

/// A login that may join another one: the principal, the secret that its request carried, and the client's network.
#[derive(Clone, Debug)]
pub(crate) struct Joining {
    pub(crate) who: ByteString,
    /// The hashes of the secret, of which the record may list one.
    pub(crate) secrets: SmallVec<[SecretHash; 1]>,
    pub(crate) fingerprinting: Fingerprinting,
    pub(crate) network: Option<Network>,
}

/// Whether changes may be applied to this record. `made_in` is the epoch in which they were made, or `None` if the secret of
/// their request opens no session. `joining` is set if they are a login that may join another one.
pub(crate) fn entry(made_in: Option<Epoch>, joining: Option<&Joining>, record: &Record) -> Entry {
    if made_in == Some(record.epoch) {
        return Entry::SameEpoch;
    }
    let login = joining
        .filter(|joining| joining.may_join(record))
        .and_then(|joining| {
            let retired_it =
                |login: &&Login| login.retired.iter().any(|it| joining.secrets.contains(it));
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
    /// Whether the record is a session of the same principal that has room for another secret, and that this client may use.
    fn may_join(&self, record: &Record) -> bool {
        let mode = self.fingerprinting;
        let bound = record.fingerprint.as_deref();
        record.principal.as_ref() == Some(&self.who)
            && record.secrets().count() < MAX_SECRETS
            && admits(mode, &compare(mode, bound, self.network))
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::record::fingerprint::tests::of;
    use crate::record::tests::record;
    use crate::record::version::Version;
    use crate::token::Secret;

    fn secret() -> SecretHash {
        Secret::random().hash("sessile:", "id")
    }

    #[test]
    fn a_login_joins_only_the_same_login_and_only_before_any_other_commit() {
        let old = secret();
        let mut login = record();
        login.principal = Some("mia".into());
        login.fingerprint = Some("203.0.113.0/24".into());
        login.login = Some(Login {
            version: login.version,
            retired: vec![secret(), old.clone()],
        });
        let joining = || Joining {
            who: "mia".into(),
            secrets: smallvec![old.clone()],
            fingerprinting: Fingerprinting::Strict,
            network: Some(of("203.0.113.7")),
        };
        let fresh = Entry::SameLogin { fresh: true };
        type Case = (&'static str, fn(&mut Record), fn(&mut Joining), Entry);
        let table: [Case; 10] = [
            ("unchanged", |_| (), |_| (), fresh),
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
                |joining| joining.who = "leo".into(),
                Entry::OtherEpoch,
            ),
            (
                "a secret that another rotation retired",
                |_| (),
                |joining| joining.secrets = smallvec![secret()],
                Entry::OtherEpoch,
            ),
            (
                "another network",
                |_| (),
                |joining| joining.network = Some(of("198.51.100.7")),
                Entry::OtherEpoch,
            ),
            (
                "another network, under soft fingerprinting",
                |_| (),
                |joining| {
                    joining.fingerprinting = Fingerprinting::Soft;
                    joining.network = Some(of("198.51.100.7"));
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
