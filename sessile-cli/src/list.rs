//! `list`: all sessions, or those of one user.

use std::io;
use std::time::SystemTime;

use sessile::SessionStore as _;
use sessile::store::StatsOptions;

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::output::{DIM, Output, styled};
use crate::progress::{Progress, Shown};
use crate::settings::Settings;
use crate::store::{AT_ONCE, Listed, Store, open_to_read};
use crate::view::{COLUMNS, Unreadable, View, row};

pub(crate) async fn run(
    args: &args::List,
    settings: &Settings,
    output: &mut Output,
    shown: Shown,
) -> Result<Outcome, Failure> {
    let store = open_to_read(settings).await?;
    let mut list = List {
        now: store.redis.now(),
        left: args.limit.unwrap_or(usize::MAX),
        printed: 0,
    };
    match &args.principal {
        Some(principal) => {
            let sessions = store.of_user(principal).await?;
            list.print(&sessions, output)?;
        }
        None => all(&store, &mut list, output, shown).await?,
    }
    Ok(match list.printed {
        0 => Outcome::Found,
        _ => Outcome::Fine,
    })
}

async fn all(
    store: &Store,
    list: &mut List,
    output: &mut Output,
    shown: Shown,
) -> Result<(), Failure> {
    let mut progress = Progress::new(shown, "keys");
    let mut scan = store.redis.scan(StatsOptions::new()).await?;
    while let Some(handles) = scan.next().await? {
        for handles in handles.chunks(AT_ONCE) {
            list.print(&store.find_each(handles).await?, output)?;
        }
        let so_far = scan.progress();
        progress.set(
            so_far.keys,
            so_far.of,
            &format!("{} sessions", so_far.sessions),
        );
        if list.left == 0 {
            break;
        }
    }
    Ok(())
}

#[derive(Debug)]
struct List {
    now: SystemTime,
    /// How many more may be printed.
    left: usize,
    printed: usize,
}

impl List {
    fn print(&mut self, sessions: &[Listed], output: &mut Output) -> io::Result<()> {
        for (handle, session) in sessions {
            if self.left == 0 {
                break;
            }
            if self.printed == 0 && !output.is_json {
                output.line(styled(DIM, COLUMNS))?;
            }
            match (session, Unreadable::new(*handle)) {
                (Some(session), _) if output.is_json => output.json_line(&View::of(session))?,
                (Some(session), _) => output.line(row(session, self.now))?,
                (None, unreadable) if output.is_json => output.json_line(&unreadable)?,
                (None, unreadable) => output.line(format!("{handle}  {}", unreadable.error))?,
            }
            self.left -= 1;
            self.printed += 1;
        }
        // Whoever reads along sees each page, and a closed pipe ends the scan.
        output.flush()
    }
}
