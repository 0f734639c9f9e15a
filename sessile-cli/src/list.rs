//! `list`: all sessions, or those of one user.

use std::time::SystemTime;

use futures_util::future::join_all;
use sessile::store::StatsOptions;
use sessile::{Handle, SessionError, SessionStore as _, Sessions};

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::output::{DIM, Output, styled};
use crate::progress::{Progress, Shown};
use crate::settings::Settings;
use crate::store::{Store, open_to_read};
use crate::view::{COLUMNS, Unreadable, View, row};

/// How many sessions are read at once.
const AT_ONCE: usize = 128;

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
            let sessions = store.sessions.of(principal).await?;
            let handles: Vec<_> = sessions.iter().map(|it| it.handle()).collect();
            list.print(&store.sessions, &handles, output).await?;
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
        list.print(&store.sessions, &handles, output).await?;
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
    async fn print(
        &mut self,
        sessions: &Sessions,
        handles: &[Handle],
        output: &mut Output,
    ) -> Result<(), Failure> {
        for handles in handles.chunks(AT_ONCE) {
            let finds = handles.iter().map(|handle| sessions.find(*handle));
            for (handle, found) in handles.iter().zip(join_all(finds).await) {
                if self.left == 0 {
                    return Ok(());
                }
                if self.printed == 0 && !output.is_json {
                    output.line(styled(DIM, COLUMNS))?;
                }
                match found {
                    Ok(None) => continue,
                    Ok(Some(session)) if output.is_json => output.json_line(&View::of(&session))?,
                    Ok(Some(session)) => output.line(row(&session, self.now))?,
                    Err(SessionError::Gone(_)) => {
                        let unreadable = Unreadable::new(*handle);
                        match output.is_json {
                            true => output.json_line(&unreadable)?,
                            false => output.line(format!("{handle}  {}", unreadable.error))?,
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
                self.left -= 1;
                self.printed += 1;
            }
        }
        // Whoever reads along sees each page, and a closed pipe ends the scan.
        output.flush()?;
        Ok(())
    }
}
