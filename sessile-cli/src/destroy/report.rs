//! What has become of the sessions, and how `destroy` says it.

use serde::Serialize;
use sessile::Handle;

use crate::failure::{Failure, Outcome};
use crate::human::counted;

/// How many keys are named. `list` names all.
const NAMED: usize = 10;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Report {
    /// The server and the keys.
    pub(super) store: String,
    /// The sessions that there were.
    pub(super) found: u64,
    pub(super) ended: u64,
    /// Those that had ended meanwhile.
    pub(super) gone: u64,
    /// Those that this version cannot read, and so cannot end.
    pub(super) unreadable: u64,
    /// The first of their keys.
    pub(super) unreadable_keys: Vec<String>,
    pub(super) failed: u64,
    pub(super) dry_run: bool,
    pub(super) interrupted: bool,
}

impl Report {
    pub(super) fn on(store: &str) -> Self {
        Self {
            store: store.to_owned(),
            ..Self::default()
        }
    }

    /// A session that goes on because this version cannot read it.
    pub(super) fn add_unreadable(&mut self, prefix: &str, handle: Handle) {
        self.unreadable += 1;
        if self.unreadable_keys.len() < NAMED {
            self.unreadable_keys.push(format!("{prefix}{handle}"));
        }
    }

    /// How many of those that were found are dealt with.
    pub(super) fn done(&self) -> u64 {
        self.ended + self.gone + self.unreadable + self.failed
    }

    fn unreadable_ones(&self) -> String {
        let keys = self.unreadable_keys.join(" ");
        let more = match self.unreadable > self.unreadable_keys.len() as u64 {
            true => " … (`sessile list` names all)",
            false => "",
        };
        let (were, them) = match self.unreadable {
            1 => ("was", "it"),
            _ => ("were", "them"),
        };
        format!(
            "{} {were} written by a later version of sessile or by something else: use the `sessile` of that version, or UNLINK {them}: {keys}{more}",
            counted(self.unreadable, "session", "sessions")
        )
    }
}

pub(super) fn summary(report: &Report) -> String {
    let sessions = |n| counted(n, "session", "sessions");
    if report.dry_run {
        return format!("on {}: {} would end", report.store, sessions(report.found));
    }
    let mut text = format!("on {}: {} ended", report.store, sessions(report.ended));
    if report.gone > 0 {
        text = format!("{text}, {} had ended meanwhile", sessions(report.gone));
    }
    if report.failed > 0 {
        text = format!(
            "{text}, {} may go on: run it again",
            sessions(report.failed)
        );
    }
    if report.interrupted {
        let left = report.found.saturating_sub(report.done());
        text = format!("{text}; interrupted, about {} go on", sessions(left));
    }
    if report.unreadable > 0 {
        text = format!("{text}\n{}", report.unreadable_ones());
    }
    text
}

/// `error` is the first one that there was.
pub(super) fn end(report: &Report, error: Option<Failure>) -> Result<Outcome, Failure> {
    if let Some(error) = error {
        return Err(error);
    }
    if report.unreadable > 0 {
        let unreadable = counted(report.unreadable, "session", "sessions");
        return Err(Failure::Store(format!(
            "{unreadable} could not be read, and so not ended"
        )));
    }
    Ok(match (report.interrupted, report.found) {
        (true, _) => Outcome::Interrupted,
        (false, 0) => Outcome::Found,
        (false, _) => Outcome::Fine,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_became_of_each_session() {
        let mut report = Report {
            found: 10,
            ended: 4,
            gone: 1,
            failed: 1,
            interrupted: true,
            ..Report::on("h:1, keys shop:*")
        };
        report.add_unreadable("shop:", "AAAAAAAAAAAAAAAAAAAAAA".parse().unwrap());
        let expected = "on h:1, keys shop:*: 4 sessions ended, 1 session had ended meanwhile, 1 session may go on: run it again; interrupted, about 3 sessions go on\n\
                        1 session was written by a later version of sessile or by something else: use the `sessile` of that version, or UNLINK it: \
                        shop:AAAAAAAAAAAAAAAAAAAAAA";
        assert_eq!(summary(&report), expected);
        for _ in 0..NAMED {
            report.add_unreadable("shop:", Handle::random());
        }
        assert!(summary(&report).ends_with("… (`sessile list` names all)"));
        assert_eq!(report.unreadable_keys.len(), NAMED);
    }

    #[test]
    fn what_goes_on_is_an_error() {
        let report = Report {
            found: 10,
            ..Report::default()
        };
        let unreadable = Report {
            unreadable: 1,
            ..report.clone()
        };
        let interrupted = Report {
            interrupted: true,
            ..report.clone()
        };
        let error = || Some(Failure::Store("away".to_owned()));
        let code = |report, error| crate::failure::exit(end(report, error)).0;
        for (report, error, expected) in [
            (&report, None, 0),
            (&Report::default(), None, 1),
            (&report, error(), 3),
            (&unreadable, None, 3),
            (&interrupted, None, 130),
            (&interrupted, error(), 3),
        ] {
            assert_eq!(code(report, error), expected, "{report:?}");
        }
    }
}
