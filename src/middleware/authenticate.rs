//! Checks a token against its record: secret, deadline and fingerprint. The result says what the request may do with the session.

use crate::commit::backend::Once;
use crate::commit::base::Base;
use crate::error::session::{Denied, Gone, SessionError};
use crate::event::Event;
use crate::metrics::requests::{TokenRefused, token_refused};
use crate::middleware::client_ip::is_reported;
use crate::middleware::slot::SessionSlot;
use crate::record::fingerprint::{Fingerprint, admits, compare};
use crate::record::format::Unreadable;
use crate::record::token_check::TokenCheck;
use crate::session::state::backing::Backing;
use crate::store::Stored;
use crate::time::Millis;
use crate::token::Token;

impl SessionSlot {
    /// Checks a token against the record that is stored under its handle: secret, deadline and fingerprint.
    pub(crate) fn authenticate(
        &self,
        token: &Token,
        stored: Stored,
        now: Millis,
    ) -> (Backing, Fingerprint) {
        let handle = token.handle;
        let config = &self.context.policy.config;
        let record = match self.context.backend.records.decode(handle, stored.value()) {
            Ok(record) => record,
            Err(error) => {
                token_refused(TokenRefused::Unreadable);
                self.context.emit(&Event::unreadable(handle, &error));
                // A newer version of sessile may accept the token. A value that is not a record accepts none.
                let backing = match error {
                    Unreadable::Newer(_) => Backing::Denied {
                        handle: None,
                        retired_by: None,
                        why: SessionError::Gone(Gone::Unreadable),
                    },
                    Unreadable::Malformed(_) | Unreadable::NoVersion | Unreadable::NotBytes => {
                        Backing::New
                    }
                };
                return (backing, self.compare(None));
            }
        };
        match self.context.check_secret(&record, &token.secret, now) {
            TokenCheck::Invalid => {
                token_refused(match record.deadline <= now {
                    true => TokenRefused::Expired,
                    false => TokenRefused::WrongSecret,
                });
                (Backing::New, self.compare(None))
            }
            TokenCheck::Retired => {
                token_refused(TokenRefused::Replaced);
                let base = Base {
                    token: token.clone(),
                    stored,
                    record,
                };
                let backing = Backing::Denied {
                    handle: None,
                    retired_by: Some(Box::new(base)),
                    why: SessionError::Gone(Gone::Rotated),
                };
                (backing, self.compare(None))
            }
            TokenCheck::Valid => {
                let fingerprint = self.compare(record.fingerprint.as_deref());
                self.report(token, &fingerprint);
                if !admits(config.fingerprinting, &fingerprint) {
                    token_refused(TokenRefused::OtherNetwork);
                    let backing = Backing::Denied {
                        handle: Some(handle),
                        retired_by: None,
                        why: SessionError::Denied(Denied::OtherNetwork),
                    };
                    return (backing, fingerprint);
                }
                let base = Base {
                    token: token.clone(),
                    stored,
                    record,
                };
                (Backing::Loaded(Box::new(base)), fingerprint)
            }
        }
    }

    pub(crate) fn compare(&self, bound: Option<&str>) -> Fingerprint {
        compare(
            self.context.policy.config.fingerprinting,
            bound,
            self.context.network,
        )
    }

    fn report(&self, token: &Token, fingerprint: &Fingerprint) {
        let handle = token.handle;
        let reported = &self.context.backend.reported;
        let is_first = |once: &Once<_>, network: &str| once.is_first((handle, network.to_owned()));
        match fingerprint {
            Fingerprint::Mismatch { bound, seen } if is_first(&reported.mismatches, seen) => {
                let (bound, seen) = (bound.clone(), seen.clone());
                self.context.emit(&Event::FingerprintMismatch {
                    handle,
                    bound,
                    seen,
                });
            }
            Fingerprint::OtherFamily { bound, seen }
                if is_first(&reported.other_families, seen) =>
            {
                let (bound, seen) = (bound.clone(), seen.clone());
                self.context.emit(&Event::OtherFamily {
                    handle,
                    bound,
                    seen,
                });
            }
            _ => {}
        }
        match &self.address_problem {
            Some(problem)
                if is_reported(problem, &self.context.policy.config)
                    && reported.is_first_problem(problem) =>
            {
                let problem = problem.clone();
                self.context.emit(&Event::AddressProblem { problem });
            }
            _ => {}
        }
    }
}
