//! `destroy`: ends one session, those of a user, or all.

use std::io::{self, IsTerminal as _, Write as _};

use futures_util::future::join_all;
use serde::Serialize;
use sessile::store::StatsOptions;
use sessile::{Handle, SessionError};
use tokio_util::sync::CancellationToken;

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::human::{counted, printable};
use crate::output::Output;
use crate::progress::{Progress, Shown};
use crate::settings::Settings;
use crate::store::{Store, open_to_read, open_to_write};

/// How many sessions end at once: three round trips each.
const AT_ONCE: usize = 128;

#[derive(Debug, Default, PartialEq, Serialize)]
struct Report {
    /// The sessions that there were.
    found: u64,
    ended: u64,
    /// Those that had ended meanwhile.
    gone: u64,
    failed: u64,
    dry_run: bool,
    interrupted: bool,
}

pub(crate) async fn run(
    args: &args::Destroy,
    settings: &Settings,
    output: &mut Output,
    shown: Shown,
    interrupted: &CancellationToken,
) -> Result<Outcome, Failure> {
    // A look needs no more permissions than a look.
    let store = match args.dry_run {
        true => open_to_read(settings).await?,
        false => open_to_write(settings).await?,
    };
    let report = match (&args.handle, &args.principal) {
        (Some(handle), _) => one(*handle, args, &store).await?,
        (None, Some(principal)) => of_user(principal, args, &store).await?,
        (None, None) => all(args, &store, shown, interrupted).await?,
    };
    let Some(report) = report else {
        anstream::eprintln!("nothing was ended");
        return Ok(Outcome::Found);
    };
    match output.is_json {
        true => output.json(&report)?,
        false => output.line(summary(&report))?,
    }
    end(&report)
}

fn summary(report: &Report) -> String {
    let sessions = |n| counted(n, "session", "sessions");
    if report.dry_run {
        return format!("{} would end", sessions(report.found));
    }
    let mut text = format!("{} ended", sessions(report.ended));
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
        let left = report
            .found
            .saturating_sub(report.ended + report.gone + report.failed);
        text = format!("{text}; interrupted, about {} go on", sessions(left));
    }
    text
}

fn end(report: &Report) -> Result<Outcome, Failure> {
    if report.failed > 0 {
        let failed = counted(report.failed, "session", "sessions");
        return Err(Failure::Store(format!("{failed} could not be ended")));
    }
    Ok(match (report.interrupted, report.found) {
        (true, _) => Outcome::Interrupted,
        (false, 0) => Outcome::Found,
        (false, _) => Outcome::Fine,
    })
}

async fn one(
    handle: Handle,
    args: &args::Destroy,
    store: &Store,
) -> Result<Option<Report>, Failure> {
    let who = match store.sessions.find(handle).await {
        Ok(None) => return Ok(Some(Report::default())),
        Ok(Some(session)) => match session.principal() {
            Some(principal) => format!("{handle}, to which {} is signed in", printable(principal)),
            None => format!("{handle} of an anonymous visitor"),
        },
        Err(SessionError::Gone(_)) => {
            return Err(Failure::Store(format!(
                "the session {handle} is unreadable: a later version of sessile has written it, or something else. Use the command of that \
                 version, or UNLINK its key"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    let found = Report {
        found: 1,
        dry_run: args.dry_run,
        ..Report::default()
    };
    if args.dry_run {
        return Ok(Some(found));
    }
    if !confirmed(args.yes, &format!("End the session {who}?"), "y")? {
        return Ok(None);
    }
    let ended = store.sessions.destroy_of_anyone(handle).await?;
    Ok(Some(Report {
        ended: u64::from(ended),
        gone: u64::from(!ended),
        ..found
    }))
}

async fn of_user(
    principal: &str,
    args: &args::Destroy,
    store: &Store,
) -> Result<Option<Report>, Failure> {
    let sessions = store.sessions.of(principal).await?;
    let sessions = sessions
        .iter()
        .filter(|it| Some(it.handle()) != args.except);
    let found = sessions.count() as u64;
    let report = Report {
        found,
        dry_run: args.dry_run,
        ..Report::default()
    };
    if args.dry_run {
        return Ok(Some(report));
    }
    let who = printable(principal);
    let question = format!(
        "End {} of {who}, and refuse sign-ins under way?",
        counted(found, "session", "sessions")
    );
    // Also without a session: a sign-in may be under way.
    if !confirmed(args.yes, &question, "y")? {
        return Ok(None);
    }
    let ended = match args.except {
        Some(keep) => store.sessions.destroy_others(principal, keep).await?,
        None => store.sessions.destroy_all(principal).await?,
    } as u64;
    Ok(Some(Report {
        found: found.max(ended),
        ended,
        gone: found.saturating_sub(ended),
        ..report
    }))
}

async fn all(
    args: &args::Destroy,
    store: &Store,
    shown: Shown,
    interrupted: &CancellationToken,
) -> Result<Option<Report>, Failure> {
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
            return Ok(Some(Report {
                found: so_far.sessions,
                interrupted: true,
                ..Report::default()
            }));
        }
    }
    let found = scan.progress().sessions;
    drop((progress, scan));
    let mut report = Report {
        found,
        dry_run: args.dry_run,
        ..Report::default()
    };
    if args.dry_run || found == 0 {
        return Ok(Some(report));
    }
    match args.expect {
        Some(expected) if !is_expected(found, expected) => {
            return Err(Failure::Usage(format!(
                "there are {found} sessions, and --expect says {expected}: is it the right store?"
            )));
        }
        Some(_) if args.yes => {}
        None if args.yes => {
            return Err(Failure::Usage(format!(
                "--all with --yes needs --expect {found}, the number of sessions that `sessile stats` counts"
            )));
        }
        _ => {
            let question = format!(
                "This signs everybody out: {}. Type their number to go on:",
                counted(found, "session", "sessions")
            );
            if !confirmed(false, &question, &found.to_string())? {
                return Ok(None);
            }
        }
    }
    end_all(store, shown, interrupted, &mut report).await?;
    Ok(Some(report))
}

async fn end_all(
    store: &Store,
    shown: Shown,
    interrupted: &CancellationToken,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut progress = Progress::new(shown, "sessions ended");
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
            for ended in join_all(ends).await {
                match ended {
                    Ok(true) => report.ended += 1,
                    Ok(false) => report.gone += 1,
                    Err(_) => report.failed += 1,
                }
            }
            let done = report.ended + report.gone + report.failed;
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

/// Asks on the terminal, where a pipe must not answer.
fn confirmed(yes: bool, question: &str, wanted: &str) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        let advice = "nobody can be asked, since stdin is not a terminal: give --yes";
        return Err(Failure::Usage(advice.to_owned()));
    }
    let choices = if wanted == "y" { " [y/N]" } else { "" };
    eprint!("{question}{choices} ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(is_yes(&answer, wanted))
}

fn is_yes(answer: &str, wanted: &str) -> bool {
    let answer = answer.trim().to_lowercase().replace(' ', "");
    answer == wanted || (wanted == "y" && answer == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wanted_answer_is_yes() {
        for (answer, wanted, expected) in [
            ("y\n", "y", true),
            ("YES\n", "y", true),
            ("\n", "y", false),
            ("no\n", "y", false),
            ("200 000\n", "200000", true),
            ("y\n", "200000", false),
            ("20000\n", "200000", false),
        ] {
            assert_eq!(is_yes(answer, wanted), expected, "{answer:?}");
        }
    }

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

    #[test]
    fn the_summary_says_what_became_of_each_session() {
        let report = Report {
            found: 10,
            ended: 5,
            gone: 1,
            failed: 1,
            dry_run: false,
            interrupted: true,
        };
        let expected = "5 sessions ended, 1 session had ended meanwhile, 1 session may go on: run it again; interrupted, about 3 sessions go on";
        assert_eq!(summary(&report), expected);
        assert!(matches!(end(&report), Err(Failure::Store(_))));
        assert_eq!(
            end(&Report {
                failed: 0,
                ..report
            })
            .unwrap(),
            Outcome::Interrupted
        );
        assert_eq!(end(&Report::default()).unwrap(), Outcome::Found);
    }
}
