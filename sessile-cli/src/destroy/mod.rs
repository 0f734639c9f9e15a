//! `destroy`: ends one session, those of a user, or all.

mod all;
mod report;

use sessile::{Handle, SessionError};

use crate::args;
use crate::destroy::report::{Report, end, summary};
use crate::failure::{Failure, Outcome};
use crate::human::{counted, printable};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::place::Place;
use crate::progress::Shown;
use crate::prompt::confirmed;
use crate::settings::Settings;
use crate::store::{Store, open_to_read, open_to_write};

/// What was asked for, and where.
#[derive(Debug)]
struct Task<'a> {
    args: &'a args::Destroy,
    store: Store,
    /// The server and the keys, which every question and summary names: it may be another store than the application's.
    place: String,
    interrupted: &'a Interrupt,
}

pub(crate) async fn run(
    args: &args::Destroy,
    settings: &Settings,
    output: &mut Output,
    shown: Shown,
    interrupted: &Interrupt,
) -> Result<Outcome, Failure> {
    // A look needs no more permissions than a look.
    let store = match args.dry_run {
        true => open_to_read(settings).await?,
        false => open_to_write(settings).await?,
    };
    let place = Place::of(&settings.redis)?;
    let task = Task {
        args,
        store,
        place: format!("{place}, keys {}*", settings.redis.key_prefix),
        interrupted,
    };
    let ended = match (&args.handle, &args.principal) {
        (Some(handle), _) => one(*handle, &task).await?.map(|it| (it, None)),
        (None, Some(principal)) => of_user(principal, &task).await?.map(|it| (it, None)),
        (None, None) => all::all(&task, shown).await?,
    };
    let Some((report, error)) = ended else {
        anstream::eprintln!("on {}: nothing was ended", task.place);
        return Ok(Outcome::Found);
    };
    match output.is_json {
        true => output.json(&report)?,
        false => output.line(summary(&report))?,
    }
    // After the report, since what has ended has ended.
    output.flush()?;
    end(&report, error)
}

async fn one(handle: Handle, task: &Task<'_>) -> Result<Option<Report>, Failure> {
    let Task {
        args,
        store,
        place,
        interrupted,
    } = task;
    let who = match store.sessions.find(handle).await {
        Ok(None) => return Ok(Some(Report::on(place))),
        Ok(Some(session)) => match session.principal() {
            Some(principal) => format!("{handle}, to which {} is signed in", printable(principal)),
            None => format!("{handle} of an anonymous visitor"),
        },
        Err(SessionError::Gone(_)) => {
            return Err(Failure::Store(format!(
                "on {place}, the session {handle} is unreadable: a later version of sessile has written it, or something else. Use the command of that \
                 version, or UNLINK its key"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    let found = Report {
        found: 1,
        dry_run: args.dry_run,
        ..Report::on(place)
    };
    if args.dry_run {
        return Ok(Some(found));
    }
    if !confirmed(
        args.yes,
        &format!("On {place}: end the session {who}?"),
        "y",
        interrupted,
    )
    .await?
    {
        return Ok(None);
    }
    let ended = store.sessions.destroy_of_anyone(handle).await?;
    Ok(Some(Report {
        ended: u64::from(ended),
        gone: u64::from(!ended),
        ..found
    }))
}

async fn of_user(principal: &str, task: &Task<'_>) -> Result<Option<Report>, Failure> {
    let Task {
        args,
        store,
        place,
        interrupted,
    } = task;
    let mut sessions = store.of_user(principal).await?;
    if let Some(keep) = args.except {
        let before = sessions.len();
        sessions.retain(|(handle, _)| *handle != keep);
        if sessions.len() == before {
            return Err(Failure::Usage(format!(
                "on {place}, --except {keep} is no session of {}, so nothing was ended: `sessile list --principal` shows their sessions",
                printable(principal)
            )));
        }
    }
    let found = sessions.len() as u64;
    let report = Report {
        found,
        dry_run: args.dry_run,
        ..Report::on(place)
    };
    if args.dry_run {
        return Ok(Some(report));
    }
    let who = printable(principal);
    let question = format!(
        "On {place}: end {} of {who}, and refuse sign-ins under way?",
        counted(found, "session", "sessions")
    );
    // Also without a session: a sign-in may be under way.
    if !confirmed(args.yes, &question, "y", interrupted).await? {
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
