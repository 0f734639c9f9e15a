//! `destroy --all`.

use futures_util::future::join_all;
use sessile::SessionError;
use sessile::store::StatsOptions;

use crate::destroy::Task;
use crate::destroy::report::Report;
use crate::failure::Failure;
use crate::human::counted;
use crate::interrupt::Interrupt;
use crate::progress::{Progress, Shown};
use crate::prompt::confirmed;
use crate::store::Store;

/// How many sessions end at once: three round trips each.
const AT_ONCE: usize = 128;

/// How often all keys are scanned. A scan misses sessions that are created meanwhile, and those of a cluster's slots that move; but an
/// application that serves requests creates sessions for ever.
const MAX_PASSES: u32 = 5;

/// The report, if anything was to end, and the first error.
pub(super) async fn all(
    task: &Task<'_>,
    shown: Shown,
) -> Result<Option<(Report, Option<Failure>)>, Failure> {
    let Task {
        args,
        store,
        place,
        interrupted,
    } = task;
    let mut progress = Progress::new(shown, "keys counted");
    let mut scan = store.redis.scan(StatsOptions::new()).await?;
    while scan.next().await?.is_some() {
        let so_far = scan.progress();
        progress.set(
            so_far.keys,
            so_far.of,
            &format!("{} sessions", so_far.sessions),
        );
        if interrupted.is_cancelled() {
            let report = Report {
                found: so_far.sessions,
                interrupted: true,
                ..Report::on(place)
            };
            return Ok(Some((report, None)));
        }
    }
    let found = scan.progress().sessions;
    drop((progress, scan));
    let mut report = Report {
        found,
        dry_run: args.dry_run,
        ..Report::on(place)
    };
    if args.dry_run || found == 0 {
        return Ok(Some((report, None)));
    }
    match args.expect {
        Some(expected) if !is_expected(found, expected) => {
            return Err(Failure::Usage(format!(
                "on {place} there are {found} sessions, and --expect says {expected}: is it the right store?"
            )));
        }
        Some(_) if args.yes => {}
        None if args.yes => {
            return Err(Failure::Usage(format!(
                "on {place}, --all with --yes needs --expect {found}, the number of sessions that `sessile stats` counts"
            )));
        }
        _ => {
            let question = format!(
                "On {place}: this signs everybody out: {}. Type their number to go on:",
                counted(found, "session", "sessions")
            );
            if !confirmed(false, &question, &found.to_string(), interrupted).await? {
                return Ok(None);
            }
        }
    }
    let error = end_all(store, shown, interrupted, &mut report).await;
    Ok(Some((report, error)))
}

/// Scans until nothing is left to end. Returns the first error.
async fn end_all(
    store: &Store,
    shown: Shown,
    interrupted: &Interrupt,
    report: &mut Report,
) -> Option<Failure> {
    let mut progress = Progress::new(shown, "sessions ended");
    let mut error = None;
    for _ in 0..MAX_PASSES {
        let before = report.ended;
        // What an earlier pass could not end is met again.
        let mut pass = Report {
            ended: report.ended,
            gone: report.gone,
            found: report.found,
            ..Report::on(&report.store)
        };
        // As is its error.
        error = None;
        let scanned = end_once(store, &mut progress, interrupted, &mut pass, &mut error).await;
        if scanned.is_err() || pass.interrupted {
            // It has not met all of them again.
            pass.failed = pass.failed.max(report.failed);
            if pass.unreadable < report.unreadable {
                pass.unreadable = report.unreadable;
                pass.unreadable_keys = std::mem::take(&mut report.unreadable_keys);
            }
        }
        *report = pass;
        if let Err(scan) = scanned {
            return error.or(Some(scan));
        }
        if report.interrupted || report.ended == before {
            break;
        }
    }
    error
}

async fn end_once(
    store: &Store,
    progress: &mut Progress,
    interrupted: &Interrupt,
    report: &mut Report,
    error: &mut Option<Failure>,
) -> Result<(), Failure> {
    let mut scan = store.redis.scan(StatsOptions::new()).await?;
    while let Some(handles) = scan.next().await? {
        for handles in handles.chunks(AT_ONCE) {
            if interrupted.is_cancelled() {
                report.interrupted = true;
                return Ok(());
            }
            let ends = handles
                .iter()
                .map(|handle| store.sessions.destroy_of_anyone(*handle));
            for (handle, ended) in handles.iter().zip(join_all(ends).await) {
                match ended {
                    Ok(true) => report.ended += 1,
                    Ok(false) => report.gone += 1,
                    Err(SessionError::Gone(_)) => report.add_unreadable(&store.prefix, *handle),
                    Err(cause) => {
                        report.failed += 1;
                        error.get_or_insert_with(|| cause.into());
                    }
                }
            }
            let done = report.done();
            let failed = match report.failed {
                0 => String::new(),
                n => format!("{n} failed"),
            };
            progress.set(done, report.found.max(done), &failed);
        }
    }
    Ok(())
}

/// Sessions come and go between two counts.
fn is_expected(found: u64, expected: u64) -> bool {
    found <= expected.saturating_add(expected / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_with_many_more_sessions_is_not_the_expected_one() {
        for (found, expected, is) in [
            (0, 0, true),
            (1, 0, false),
            (110, 100, true),
            (111, 100, false),
            (5, 100, true),
        ] {
            assert_eq!(is_expected(found, expected), is, "{found} {expected}");
        }
    }
}
