//! The state of one request's session: the record behind it, and the changes since.
//!
//! `backing.rs` has the stored session, `reads.rs` what the handler has read of it, `in_flight.rs` the last commit,
//! `phase.rs` the phase of the request, `ending.rs` the sessions that `destroy` has ended. `work.rs: take_work` takes the
//! changes out for a commit, and `outcome.rs: apply_outcome` brings its outcome in. The state does no I/O, and runs no
//! closure of the application.

pub(crate) mod backing;
pub(crate) mod ending;
pub(crate) mod in_flight;
pub(crate) mod outcome;
pub(crate) mod phase;
pub(crate) mod reads;
pub(crate) mod work;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;

use crate::commit::delete::Revocation;
use crate::commit::index::Left;
use crate::commit::lease::Lease;
use crate::commit::outcome::Unresolved;
use crate::commit::work::ReadSet;
use crate::error::session::SessionError;
use crate::record::Record;
use crate::record::change::Change;
use crate::record::context::ApplyContext;
use crate::record::deferred::DeferredId;
use crate::record::fingerprint::Fingerprint;
use crate::record::flash::Flash;
use crate::record::json::Json;
use crate::record::kept::Kept;
use crate::record::lifetime::BrowserCookie;
use crate::record::log::ChangeLog;
use crate::record::values::Values;
use crate::session::state::backing::Backing;
use crate::session::state::ending::Ending;
use crate::session::state::in_flight::InFlight;
use crate::session::state::phase::Phase;
use crate::session::state::reads::Reads;
use crate::store::Stored;

/// The session of one request, shared by all clones of its [`Session`](crate::Session).
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) backing: Backing,
    /// The record with the log applied: the handler sees this.
    pub(crate) view: Arc<Record>,
    pub(crate) view_is: View,
    /// Grows with every change of the view, or of what it is built from.
    pub(crate) revision: u64,
    pub(crate) log: ChangeLog,
    pub(crate) reads: Reads,
    /// The right to be the session's only request, until the response is sent.
    pub(crate) lease: Option<Arc<Lease>>,
    pub(crate) in_flight: InFlight,
    /// How many commits wait or are running.
    pub(crate) running_commits: u32,
    /// Changes that were dropped although a clone may still want to save them.
    pub(crate) dropped: DroppedChanges,
    pub(crate) phase: Phase,
    /// The other sessions that `destroy` ends: those that the request's other cookies open, and those of its tokens that
    /// could not be checked.
    pub(crate) revocable: Vec<Revocation>,
    pub(crate) ending: Ending,
    /// A login of this request must not join another one: `cycle_id`, `clear_principal` or `destroy` was called before.
    pub(crate) refuses_join: bool,
    /// Grows with every `destroy`, so that a running commit notices that its session is gone.
    pub(crate) generation: u32,
    /// A commit of this request has replaced the token of its session.
    pub(crate) has_rotated: bool,
    /// A principal was signed in when the session was loaded, or since.
    pub(crate) was_signed_in: bool,
    /// The entry of the session that the request has ended.
    pub(crate) left: Option<Left>,
    /// The response may contain a CSRF token, which no cache must serve to others.
    pub(crate) shows_csrf_token: bool,
    /// Whether a new session is persistent.
    persistent_by_default: bool,
    /// The cookie that the browser has, if the session was loaded.
    pub(crate) cookie: BrowserCookie,
    /// Messages for this page only.
    pub(crate) flash_now: Vec<Flash>,
    /// Messages that this request has taken: those of the session, and those for this page.
    pub(crate) flashes_taken: Vec<Kept<Flash>>,
    pub(crate) fingerprint: Fingerprint,
    /// Logs that are no longer needed. [`StateGuard`](crate::session::shared::StateGuard) drops them once the state is
    /// unlocked.
    removed: Vec<ChangeLog>,
    /// The part of the request's budget that the load, and failed commits and reloads, have used.
    pub(crate) spent: Duration,
}

/// How the view relates to the record and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// It is the record with the whole log applied.
    Exact,
    /// A change of the log could not be applied; the commit will report it.
    Partial,
    /// It is out of date, and must be rebuilt.
    Stale,
}

/// Changes that were dropped, or may have been, before they were saved: how often, and why last.
#[derive(Debug, Default)]
pub(crate) struct DroppedChanges {
    pub(crate) times: u32,
    pub(crate) last: Option<SessionError>,
}

impl DroppedChanges {
    fn add(&mut self, error: SessionError) {
        self.times += 1;
        self.last = Some(error);
    }
}

impl State {
    pub(crate) fn new(backing: Backing, fingerprint: Fingerprint, fresh: &ApplyContext) -> Self {
        let view = match &backing {
            Backing::Loaded(base) => Arc::clone(&base.record),
            Backing::New | Backing::Denied { .. } => Arc::new(Record::new(fresh)),
        };
        let mut state = Self {
            backing,
            view,
            view_is: View::Exact,
            revision: 0,
            log: ChangeLog::default(),
            reads: Reads::new(ReadSet::Nothing),
            lease: None,
            in_flight: InFlight::None,
            running_commits: 0,
            dropped: DroppedChanges::default(),
            phase: Phase::Handling { committed: false },
            revocable: Vec::new(),
            ending: Ending::None,
            refuses_join: false,
            generation: 0,
            has_rotated: false,
            was_signed_in: false,
            left: None,
            shows_csrf_token: false,
            persistent_by_default: fresh.persistent,
            cookie: BrowserCookie::default(),
            flash_now: Vec::new(),
            flashes_taken: Vec::new(),
            fingerprint,
            removed: Vec::new(),
            spent: Duration::ZERO,
        };
        if let Backing::Loaded(base) = &state.backing {
            state.was_signed_in = base.record.principal.is_some();
        }
        state
    }

    pub(crate) fn change(
        &mut self,
        change: Change,
        apply_context: &ApplyContext,
    ) -> Result<(), SessionError> {
        if self.phase.is_head_sent() && change.rotation().is_some() {
            return Err(SessionError::ResponseSent);
        }
        let changes_principal = matches!(&change, Change::SetPrincipal { who, .. } if self.view.belongs_to_another(who));
        change.apply(self.view_mut(), apply_context)?;
        if changes_principal {
            self.flashes_taken.clear();
        }
        self.push(change);
        Ok(())
    }

    fn push(&mut self, change: Change) {
        // A call may return what it has read, and no commit checks that if the call changes nothing.
        self.reads.mark_unverified();
        self.log.push(change);
        self.revision += 1;
    }

    fn view_mut(&mut self) -> &mut Record {
        // The view may share the record with the next requests of this session, which then find its values split.
        self.view.data.split();
        Arc::make_mut(&mut self.view)
    }

    /// Notes a change that a call has applied already, and its result.
    pub(crate) fn note(&mut self, change: Change, key: &ByteString, value: Json) {
        self.view_mut().data.set(key, value);
        self.push(change);
    }

    /// Notes a change of all data that a call has applied already, and its result.
    pub(crate) fn note_all(&mut self, change: Change, data: Values) {
        Arc::make_mut(&mut self.view).data = data;
        self.push(change);
    }

    /// Notes that a value is taken, which its caller has decoded already.
    pub(crate) fn note_taken(&mut self, change: Change, key: &str) {
        self.view_mut().data.remove(key);
        self.push(change);
    }

    /// Whether the session is anonymous, whatever becomes of pending changes.
    pub(crate) fn is_certainly_anonymous(&self) -> bool {
        let pending = self.in_flight.log().is_some() || self.log.touches_principal();
        !pending && self.view.principal.is_none()
    }

    /// Whether this request replaces the token of a stored session, or has done so.
    pub(crate) fn is_rotated(&self) -> bool {
        let is_pending = || {
            let in_flight = self.in_flight.log().and_then(ChangeLog::new_secret);
            in_flight.or(self.log.new_secret()).is_some()
        };
        match &self.backing {
            Backing::New => false,
            Backing::Loaded(_) | Backing::Denied { .. } => self.has_rotated || is_pending(),
        }
    }

    /// The keys that exist, or that may exist if pending changes fail.
    pub(crate) fn all_keys(&self) -> Vec<ByteString> {
        let mut keys: BTreeSet<&ByteString> = self.view.data.keys().collect();
        if let Backing::Loaded(base) = &self.backing
            && (self.in_flight.log().is_some() || !self.log.is_empty())
        {
            keys.extend(base.record.data.keys());
        }
        keys.into_iter().cloned().collect()
    }

    /// Forgets the session and all changes; later changes go into a new session.
    pub(crate) fn destroy(&mut self, apply_context: &ApplyContext) {
        let others = std::mem::take(&mut self.revocable);
        let own = match std::mem::replace(&mut self.backing, Backing::New) {
            Backing::New => None,
            Backing::Loaded(base) => {
                let handle = base.token.handle;
                self.left = Left::of(handle, &base.record).or(self.left);
                Some(handle)
            }
            Backing::Denied {
                handle: Some(handle),
                ..
            } => Some(handle),
            denied @ Backing::Denied { handle: None, .. } => {
                if others.is_empty() {
                    self.backing = denied;
                }
                None
            }
        };
        let own = own.map(Revocation::Verified);
        self.ending.begin(own.into_iter().chain(others));
        self.start_over(apply_context);
    }

    /// Somebody else has ended the session of the request on behalf of its user. What follows goes into a new one.
    pub(crate) fn note_ended(&mut self, apply_context: &ApplyContext) {
        self.backing = Backing::New;
        self.ending.begin([]);
        self.start_over(apply_context);
    }

    fn start_over(&mut self, apply_context: &ApplyContext) {
        self.refuses_join = true;
        self.has_rotated = false;
        self.generation += 1;
        self.revision += 1;
        self.remove_all();
        self.in_flight = InFlight::None;
        self.flashes_taken.clear();
        self.view = Arc::new(Record::new(apply_context));
        self.view_is = View::Exact;
    }

    /// Drops the changes that are not committed yet.
    pub(crate) fn discard(&mut self) {
        let log = std::mem::take(&mut self.log);
        self.remove(log);
        let dropped_logs = self.in_flight.discard();
        self.removed.extend(dropped_logs);
        self.outdate_view();
    }

    /// Withdraws the change whose caller learns that it failed, or may have.
    pub(crate) fn withdraw(&mut self, deferred: DeferredId) {
        let withdrawn = self.log.withdraw(deferred);
        self.removed.push(withdrawn);
        let withdrawn = self.in_flight.withdraw(deferred);
        self.removed.extend(withdrawn);
        self.outdate_view();
    }

    /// Drops the changes that a failed request must not leave behind.
    pub(crate) fn drop_failed_changes(&mut self) {
        if !self.log.is_empty() {
            let dropped = self.log.retain_for_failed_request();
            if !dropped.is_empty() {
                self.dropped.add(SessionError::Discarded);
            }
            self.remove(dropped);
            self.outdate_view();
        }
    }

    /// Counts the time of a failed load or commit against the request's budget.
    pub(crate) fn spend(&mut self, time: Duration) {
        if !self.phase.is_head_sent() {
            self.spent += time;
        }
    }

    /// The session was read from the store again.
    pub(crate) fn replace_base(&mut self, stored: Stored, record: Arc<Record>) {
        if let Backing::Loaded(base) = &mut self.backing {
            self.was_signed_in |= record.principal.is_some();
            self.reads.overtaken = false;
            base.stored = stored;
            base.record = record;
            self.outdate_view();
        }
    }

    /// The response head is sent. Changes that could not be committed are dropped, since the response has reported that.
    pub(crate) fn send_head(&mut self, committed: bool) {
        self.phase.send_head();
        self.in_flight.acknowledge_loss();
        if !committed {
            self.forget();
        }
        let rotations = self.log.take_rotations();
        if !rotations.is_empty() {
            self.remove(rotations);
            self.outdate_view();
        }
    }

    /// Whether the changes, taken together, leave the session as this request read it: then it has only read, and nothing is
    /// written. They are not compared one by one, since a change that leaves one value as it was may depend on it as much as
    /// a change of another one.
    ///
    /// After the response the data that was read is too old to compare with.
    fn changes_nothing(&self) -> bool {
        if self.log.is_empty() {
            return true;
        }
        let known = self.view_is == View::Exact
            && !self.phase.is_head_sent()
            && self.in_flight.log().is_none();
        let base = match &self.backing {
            Backing::Loaded(base) => Some(&*base.record),
            Backing::New | Backing::Denied { .. } => None,
        };
        let persists_by_default = || self.view.persistent == self.persistent_by_default;
        known
            && (base.is_some() || persists_by_default())
            && self.log.changes_nothing(base, &self.view)
    }

    /// Whether nothing is left to commit, apart from a commit that is running.
    pub(crate) fn has_nothing_pending(&self) -> bool {
        let refused = self.ending.has_begun() && matches!(self.backing, Backing::Denied { .. });
        self.changes_nothing()
            && !self.in_flight.is_unresolved()
            && self.ending.pending().is_empty()
            && !self.in_flight.is_lost()
            && !refused
    }

    /// Whether a commit follows that renews the session. If the layer does not renew sessions, it does so by a rotation or a
    /// change of the timeouts only.
    pub(crate) fn commit_renews(&self, layer_renews: bool) -> bool {
        let counts = || match &self.backing {
            Backing::Loaded(base) => {
                self.log.new_secret().is_some() || !self.view.has_same_lifetimes(&base.record)
            }
            Backing::New | Backing::Denied { .. } => true,
        };
        !self.has_nothing_pending() && (layer_renews || counts())
    }

    /// Takes out the commit to resolve.
    pub(crate) fn take_unresolved(&mut self) -> Option<(Unresolved, u32)> {
        Some((self.in_flight.take_unresolved()?, self.generation))
    }

    /// The error of the request as a whole: if a part of it is in the store, the response must not say that nothing was
    /// written, and a retry would apply that part twice.
    pub(crate) fn as_error_of_request(&self, error: SessionError) -> SessionError {
        match self.phase.has_committed() {
            true => error.after_partial_commit(!self.ending.pending().is_empty()),
            false => error,
        }
    }

    /// Drops the changes that are not committed; a later `save` of a clone reports that.
    pub(crate) fn forget(&mut self) {
        if self.in_flight.is_unresolved() {
            self.dropped.add(SessionError::OutcomeUnknown);
        } else if !self.log.is_empty() {
            self.dropped.add(SessionError::Discarded);
        }
        self.remove_all();
        self.outdate_view();
    }

    /// No response follows. Drops the uncommitted changes and returns the pending revocations, which the caller carries out.
    /// If a commit is running, that happens when it ends.
    pub(crate) fn abandon(&mut self) -> Vec<Revocation> {
        // From here on no cookie can be set.
        self.phase.abandon();
        self.forget_if_idle()
    }

    /// A commit has ended, with whatever outcome.
    pub(crate) fn end_commit(&mut self) -> Vec<Revocation> {
        self.running_commits -= 1;
        self.forget_if_idle()
    }

    fn forget_if_idle(&mut self) -> Vec<Revocation> {
        if self.running_commits > 0 || !self.phase.begin_forgetting() {
            return Vec::new();
        }
        // Closures in the log may hold the session itself.
        self.forget();
        self.ending.take_pending()
    }

    fn remove_all(&mut self) {
        let pending = self.in_flight.forget();
        let log = std::mem::take(&mut self.log);
        self.removed.extend(pending);
        self.removed.push(log);
    }

    /// Drops changes that leave the session as it was: it was read and not written.
    pub(crate) fn remove_unchanging(&mut self) {
        let log = std::mem::take(&mut self.log);
        if !log.is_empty() {
            self.remove(log);
            self.outdate_view();
        }
    }

    /// Takes a log out of use. It must not be dropped here: its closures belong to the application, and dropping what they
    /// have captured may use the session.
    fn remove(&mut self, log: ChangeLog) {
        if !log.is_empty() {
            self.removed.push(log);
        }
    }

    pub(crate) fn has_removed(&self) -> bool {
        !self.removed.is_empty()
    }

    pub(crate) fn take_removed(&mut self) -> Vec<ChangeLog> {
        std::mem::take(&mut self.removed)
    }

    fn outdate_view(&mut self) {
        self.revision += 1;
        self.view_is = View::Stale;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::commit::base::Base;
    use crate::commit::context::CommitContext;
    use crate::commit::context::tests::context;
    use crate::commit::outcome::tests::unresolved;
    use crate::commit::outcome::{CommitOutcome, Committed};
    use crate::commit::work::Work;
    use crate::error::session::Gone;
    use crate::record::change::tests::{LOOKED_AT, json, now, rotation};
    use crate::record::flash::Level;
    use crate::record::tests::record;
    use crate::record::version::Epoch;
    use crate::token::Token;

    /// A session of this principal, with a value under each of these keys.
    pub(crate) fn base(principal: Option<&str>, keys: &[&str]) -> Base {
        let mut record = record();
        record.principal = principal.map(ByteString::from);
        let values = keys.iter().map(|key| (ByteString::from(*key), json(1)));
        record.data = values.collect();
        Base {
            token: Token::random(),
            stored: Stored::new("", None),
            record: Arc::new(record),
        }
    }

    fn done(base: Base) -> Committed {
        Committed {
            base,
            created: false,
            rotated: false,
            signed_in: false,
            changes_cookie: false,
        }
    }

    fn committed(base: Base) -> CommitOutcome {
        CommitOutcome::Committed(Box::new(done(base)))
    }

    fn of(base: Base) -> State {
        let backing = Backing::Loaded(Box::new(base));
        State::new(backing, Fingerprint::Off, &now())
    }

    fn loaded(principal: Option<&str>, keys: &[&str]) -> State {
        of(base(principal, keys))
    }

    /// The work of requests that have loaded the same session, each with one change.
    pub(crate) fn works(base: &Base, context: &CommitContext, changes: Vec<Change>) -> Vec<Work> {
        let work = |change| {
            let mut state = of(base.clone());
            state.change(change, &now()).unwrap();
            let work = state.take_work(context.clone()).unwrap();
            work.expect("something to commit").0
        };
        changes.into_iter().map(work).collect()
    }

    /// The work of a request whose session is not stored yet.
    pub(crate) fn new_work(context: &CommitContext, changes: Vec<Change>) -> Work {
        let apply_context = context.apply_context();
        let mut state = State::new(Backing::New, Fingerprint::Off, &apply_context);
        for change in changes {
            state.change(change, &apply_context).unwrap();
        }
        let work = state.take_work(context.clone()).unwrap();
        work.expect("something to commit").0
    }

    /// The same: each request inserts a value under its number.
    pub(crate) fn numbered_works(requests: usize) -> Vec<Work> {
        let insert = |number: usize| Change::Insert {
            key: number.to_string().into(),
            value: json(number),
        };
        let changes = (0..requests).map(insert).collect();
        works(&base(None, &[]), &context(), changes)
    }

    impl State {
        fn insert(&mut self, key: &str) {
            let change = insert(self, key.to_owned(), 2);
            self.change(change, &now()).unwrap();
        }

        /// Sends the pending changes.
        fn send(&mut self) -> (Work, u32) {
            let work = self.take_work(context()).unwrap();
            work.expect("something to commit")
        }
    }

    #[test]
    fn every_change_of_the_view_raises_its_revision() {
        type Act = fn(&mut State);
        let acts: [(&str, Act); 4] = [
            ("a call", |state| state.insert("k")),
            ("a commit", |state| drop(state.send())),
            ("discard", State::discard),
            ("destroy", |state| state.destroy(&now())),
        ];
        for (name, act) in acts {
            let mut state = loaded(None, &["k"]);
            state.insert("k");
            let before = state.revision;
            act(&mut state);
            assert!(state.revision > before, "{name}");
        }
    }

    #[test]
    fn a_session_is_certainly_anonymous_if_it_is_whatever_becomes_of_pending_changes() {
        let clear = || Some(Change::ClearPrincipal(rotation()));
        let remove = || Some(Change::Remove { key: "k".into() });
        for (principal, change, is_sent, expected) in [
            (None, None, false, true),
            (None, remove(), false, true),
            (None, remove(), true, false),
            (Some("mia"), None, false, false),
            (Some("mia"), remove(), false, false),
            (Some("mia"), clear(), false, false),
            (Some("mia"), clear(), true, false),
        ] {
            let mut state = loaded(principal, &["k"]);
            let case = format!("{principal:?} {change:?} {is_sent}");
            if let Some(change) = change {
                state.change(change, &now()).unwrap();
            }
            if is_sent {
                drop(state.send());
            }
            assert_eq!(state.is_certainly_anonymous(), expected, "{case}");
        }
    }

    #[test]
    fn all_keys_include_a_removed_key_until_its_removal_is_committed() {
        let mut state = loaded(None, &["a", "b"]);
        let remove = Change::Remove { key: "a".into() };
        state.change(remove, &now()).unwrap();
        assert_eq!(state.all_keys(), ["a", "b"]);
        let (_, generation) = state.send();
        assert_eq!(state.all_keys(), ["a", "b"]);
        assert!(state.apply_outcome(generation, committed(base(None, &["b"]))));
        assert_eq!(state.all_keys(), ["b"]);
    }

    #[test]
    fn a_principal_at_any_time_of_the_request_counts_as_signed_in() {
        let mut state = loaded(None, &[]);
        assert!(!state.was_signed_in);
        state.apply_outcome(0, committed(base(Some("mia"), &[])));
        assert!(state.was_signed_in);
        state.apply_outcome(0, committed(base(None, &[])));
        state.replace_base(Stored::new("", None), record().into());
        assert!(state.was_signed_in);

        let mut state = loaded(None, &[]);
        state.insert("k");
        let (work, _) = state.send();
        let not_durable = CommitOutcome::NotDurable {
            unresolved: unresolved(work),
            done: Box::new(done(base(Some("mia"), &[]))),
        };
        state.apply_outcome(0, not_durable);
        assert!(state.was_signed_in);
    }

    #[test]
    fn nothing_is_committed_before_a_pending_deletion() {
        let mut state = loaded(None, &["k"]);
        state.destroy(&now());
        state.insert("k");
        assert!(matches!(state.take_work(context()), Ok(None)));
        assert_eq!(state.log.len(), 1);
        drop(state.ending.take_pending());
        assert!(matches!(state.take_work(context()), Ok(Some(_))));
    }

    #[test]
    fn a_denied_session_fails_to_commit_only_if_it_was_changed() {
        let denied = Backing::Denied {
            handle: None,
            retired_by: None,
            why: SessionError::Gone(Gone::Rotated),
        };
        let mut state = State::new(denied, Fingerprint::Off, &now());
        assert!(matches!(state.take_work(context()), Ok(None)));
        state.insert("k");
        let refused = state.take_work(context());
        assert!(matches!(refused, Err(SessionError::Gone(Gone::Rotated))));
    }

    #[test]
    fn a_commit_overtaken_by_a_logout_counts_as_a_part_and_leaves_no_changes() {
        for head_sent in [false, true] {
            for is_committed in [false, true] {
                let mut state = loaded(None, &["k"]);
                state.insert("k");
                let (work, generation) = state.send();
                state.destroy(&now());
                if head_sent {
                    state.phase.send_head();
                }
                drop(state.take_removed());
                let outcome = match is_committed {
                    true => committed(base(None, &["k"])),
                    false => CommitOutcome::Failed {
                        log: work.log,
                        error: SessionError::Discarded,
                    },
                };
                assert!(!state.apply_outcome(generation, outcome));
                assert!(matches!(state.backing, Backing::New) && state.log.is_empty());
                assert_eq!(state.phase.has_committed(), is_committed && !head_sent);
                assert_eq!(state.take_removed().len(), usize::from(!is_committed));
            }
        }
    }

    #[test]
    fn only_dropped_changes_count_as_a_loss() {
        let mut state = loaded(None, &["k"]);
        state.forget();
        assert_eq!(state.dropped.times, 0);
        state.insert("k");
        state.forget();
        assert_eq!(state.dropped.times, 1);
        assert!(matches!(state.dropped.last, Some(SessionError::Discarded)));
    }

    fn insert(state: &mut State, key: String, value: usize) -> Change {
        state.reads.note_key(&key);
        let value = json(value);
        Change::Insert {
            key: key.into(),
            value,
        }
    }

    /// What a call does before it makes its change.
    type Call = fn(&mut State, usize) -> Change;

    const CALLS: [(&str, Call); 9] = [
        ("insert of different keys", |state, n| {
            insert(state, n.to_string(), n)
        }),
        ("insert of one key", |state, n| insert(state, "k".into(), n)),
        ("remove", |_, n| Change::Remove {
            key: n.to_string().into(),
        }),
        ("push", |_, n| Change::Push {
            key: "k".into(),
            value: json(n),
        }),
        ("increment", |_, _| Change::Increment {
            key: "k".into(),
            by: 1,
            deferred: None,
        }),
        ("flash", |_, n| {
            Change::AddFlash(Kept::new(Flash::new(Level::Info, n.to_string())))
        }),
        ("set_persistent", |_, n| {
            Change::Lifetimes(crate::record::change::Lifetimes {
                persistent: Some(n % 2 == 0),
                ..Default::default()
            })
        }),
        ("csrf_token", |_, _| Change::Create(Epoch::random())),
        ("principal", |state, _| {
            state.is_certainly_anonymous();
            insert(state, "k".into(), 1)
        }),
    ];

    #[test]
    fn the_cost_of_calls_and_their_commit_grows_linearly_with_their_number() {
        const CALLED: usize = 8_000;
        for (name, call) in CALLS {
            let mut state = State::new(Backing::New, Fingerprint::Off, &now());
            LOOKED_AT.set(0);
            for number in 0..CALLED {
                let change = call(&mut state, number);
                state.change(change, &now()).unwrap();
            }
            let mut log = ChangeLog::default();
            log.append(&state.log);
            log.restore(ChangeLog::default());
            assert!(log.new_secret().is_none() && !log.has_deferred() && !log.touches_principal());
            assert!(log.keys().count() <= log.len() && log.without_data().len() <= log.len());
            drop(log.take_rotations());
            log.apply(&mut record(), &now()).unwrap();
            assert!(log.replay_all_possible(&mut record(), &now()));
            let looked_at = LOOKED_AT.get();
            assert!(looked_at <= 8 * CALLED, "{name}: {looked_at}");
        }
    }
}
