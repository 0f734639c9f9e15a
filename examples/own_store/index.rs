//! The index: which sessions a user is signed in to. Each function runs within a transaction, so that it is one atomic step.
//!
//! An entry has a time at which it ends, `until`, and is *reserved* while the sign-in that made it is under way. `generations`
//! remembers when all sessions of a user were last ended. The rules are in the rustdoc of `sessile::store`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, params};
use sessile::store::{
    Admission, Confirmed, Entered, Entry, GENERATION_KEPT_FOR, Generation, Indexed, IndexedSession,
    RESERVED_FOR, Since,
};

use crate::sqlite::{Millis, after, millis};

pub(crate) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS entries (
        principal TEXT, handle TEXT, until INTEGER NOT NULL, reserved INTEGER NOT NULL,
        PRIMARY KEY (principal, handle)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS entries_by_end ON entries (until);
    CREATE TABLE IF NOT EXISTS generations (
        principal TEXT PRIMARY KEY, number INTEGER NOT NULL, kept INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;";

pub(crate) fn enter(
    sql: &Connection,
    principal: &str,
    entry: Entry,
    admission: Admission,
    now: Millis,
) -> rusqlite::Result<Entered> {
    sql.prepare_cached("DELETE FROM entries WHERE until <= ?1")?
        .execute([now])?;
    let generation = generation(sql, principal, now)?;
    let is_over = match admission.since {
        Since::Time(began) => nanos(began) <= generation,
        // A generation that is forgotten is older than any sign-in.
        Since::Generation(began) => generation != 0 && number(began) != generation,
    };
    if is_over {
        return Ok(Entered::Ended);
    }
    let handle = entry.handle.to_string();
    let others: u32 = sql
        .prepare_cached("SELECT count(*) FROM entries WHERE principal = ?1 AND handle <> ?2")?
        .query_row(params![principal, handle], |row| row.get(0))?;
    let holds = holds(sql, principal, &handle, now)?;
    if !holds && admission.limit.is_some_and(|limit| others >= limit.max(1)) {
        return Ok(Entered::Full);
    }
    // A millisecond later than before: whoever has listed the entry must not remove this one.
    sql.prepare_cached(
        "INSERT INTO entries VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
         SET until = max(excluded.until, until + 1), reserved = excluded.reserved",
    )?
    .execute(params![
        principal,
        handle,
        millis(entry.until),
        after(now, RESERVED_FOR)
    ])?;
    Ok(Entered::Done(Generation::from_number(
        generation.cast_unsigned(),
    )))
}

pub(crate) fn confirm(
    sql: &Connection,
    principal: &str,
    handle: &str,
    entered_in: Generation,
    now: Millis,
) -> rusqlite::Result<Confirmed> {
    let generation = generation(sql, principal, now)?;
    let is_same = generation == 0 || generation == number(entered_in);
    if !is_same || !holds(sql, principal, handle, now)? {
        return Ok(Confirmed::Ended);
    }
    sql.prepare_cached(
        "UPDATE entries SET until = until + 1, reserved = 0 WHERE principal = ?1 AND handle = ?2",
    )?
    .execute(params![principal, handle])?;
    Ok(Confirmed::Done)
}

pub(crate) fn extend(sql: &Connection, principal: &str, entry: Entry) -> rusqlite::Result<()> {
    sql.prepare_cached(
        "INSERT INTO entries VALUES (?1, ?2, ?3, 0) ON CONFLICT DO UPDATE
         SET until = max(excluded.until, until)",
    )?
    .execute(params![
        principal,
        entry.handle.to_string(),
        millis(entry.until)
    ])?;
    Ok(())
}

pub(crate) fn list(sql: &Connection, principal: &str, now: Millis) -> rusqlite::Result<Indexed> {
    let mut select = sql.prepare_cached(
        "SELECT handle, until, reserved FROM entries WHERE principal = ?1 AND until > ?2",
    )?;
    let sessions = select.query_map(params![principal, now], |row| {
        let (handle, until, reserved): (String, Millis, Millis) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        // Only `enter` and `extend` write here.
        let handle = handle.parse().expect("a handle");
        let until = UNIX_EPOCH + Duration::from_millis(until.cast_unsigned());
        Ok(IndexedSession {
            entry: Entry { handle, until },
            reserved: reserved > now,
        })
    })?;
    let sessions = sessions.collect::<rusqlite::Result<_>>()?;
    let generation = generation(sql, principal, now)?;
    let generation = Generation::from_number(generation.cast_unsigned());
    Ok(Indexed::new(sessions, generation))
}

pub(crate) fn begin_generation(
    sql: &Connection,
    principal: &str,
    at: SystemTime,
    now: Millis,
) -> rusqlite::Result<Generation> {
    sql.prepare_cached("DELETE FROM generations WHERE kept <= ?1")?
        .execute([now])?;
    let next = nanos(at).max(generation(sql, principal, now)? + 1);
    sql.prepare_cached("INSERT OR REPLACE INTO generations VALUES (?1, ?2, ?3)")?
        .execute(params![principal, next, after(now, GENERATION_KEPT_FOR)])?;
    Ok(Generation::from_number(next.cast_unsigned()))
}

pub(crate) fn leave(
    sql: &Connection,
    principal: &str,
    entries: &[Entry],
    now: Millis,
) -> rusqlite::Result<()> {
    let mut delete = sql.prepare_cached(
        "DELETE FROM entries
         WHERE principal = ?1 AND handle = ?2 AND until <= ?3 AND reserved <= ?4",
    )?;
    for Entry { handle, until } in entries {
        delete.execute(params![principal, handle.to_string(), millis(*until), now])?;
    }
    Ok(())
}

fn holds(sql: &Connection, principal: &str, handle: &str, now: Millis) -> rusqlite::Result<bool> {
    sql.prepare_cached("SELECT 1 FROM entries WHERE principal = ?1 AND handle = ?2 AND until > ?3")?
        .exists(params![principal, handle, now])
}

/// The present generation: the time of its begin in nanoseconds, or 0.
fn generation(sql: &Connection, principal: &str, now: Millis) -> rusqlite::Result<i64> {
    let found = sql
        .prepare_cached("SELECT number FROM generations WHERE principal = ?1 AND kept > ?2")?
        .query_row(params![principal, now], |row| row.get(0));
    Ok(found.optional()?.unwrap_or(0))
}

fn number(generation: Generation) -> i64 {
    generation.number().cast_signed()
}

/// Fits until the year 2262.
fn nanos(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
