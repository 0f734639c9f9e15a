//! `stats`: counts the sessions.

use serde::Serialize;
use sessile::store::{StatsOptions, StoreStats};

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::human::{bytes, count};
use crate::output::{Output, pairs};
use crate::progress::{Progress, Shown};
use crate::settings::Settings;
use crate::store::open_to_read;

#[derive(Debug, PartialEq, Serialize)]
struct Report {
    sessions: u64,
    bytes: u64,
    largest: u64,
    /// The sessions by the time that they have left, in steps: each is in the first that it fits into.
    time_left: Vec<Step>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Step {
    within: &'static str,
    sessions: u64,
}

pub(crate) async fn run(
    args: &args::Stats,
    settings: &Settings,
    output: &mut Output,
    shown: Shown,
) -> Result<Outcome, Failure> {
    let store = open_to_read(settings).await?;
    let mut progress = Progress::new(shown, "keys");
    let options = StatsOptions::new().with_count(args.count);
    let stats = store.redis.stats(options, |so_far| {
        progress.set(
            so_far.keys,
            so_far.of,
            &format!("{} sessions", so_far.sessions),
        );
    });
    let report = report(&stats.await?);
    drop(progress);
    match output.is_json {
        true => output.json(&report)?,
        false => print(output, &report)?,
    }
    Ok(Outcome::Fine)
}

fn report(stats: &StoreStats) -> Report {
    let left = &stats.time_left;
    let steps = [
        ("1m", left.minute),
        ("10m", left.ten_minutes),
        ("30m", left.half_hour),
        ("1h", left.hour),
        ("1d", left.day),
        ("30d", left.month),
        ("longer", left.longer),
        ("never", left.forever),
    ];
    let step = |(within, sessions)| Step { within, sessions };
    Report {
        sessions: stats.sessions,
        bytes: stats.bytes,
        largest: stats.largest,
        time_left: steps.map(step).into(),
    }
}

fn print(output: &mut Output, report: &Report) -> std::io::Result<()> {
    let mean = report.bytes.checked_div(report.sessions).unwrap_or(0);
    let mut lines = vec![
        ("sessions", count(report.sessions)),
        ("size", bytes(report.bytes)),
        ("mean", bytes(mean)),
        ("largest", bytes(report.largest)),
    ];
    let names = [
        "end within 1m",
        "end within 10m",
        "end within 30m",
        "end within 1h",
        "end within 1d",
        "end within 30d",
        "end later",
        "never end",
    ];
    // How many end, unless they are used.
    for (name, step) in names.into_iter().zip(&report.time_left) {
        if step.sessions > 0 {
            lines.push((name, count(step.sessions)));
        }
    }
    pairs(output, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_own_count() {
        let mut stats = StoreStats::default();
        stats.time_left.minute = 1;
        stats.time_left.ten_minutes = 2;
        stats.time_left.half_hour = 3;
        stats.time_left.hour = 4;
        stats.time_left.day = 5;
        stats.time_left.month = 6;
        stats.time_left.longer = 7;
        stats.time_left.forever = 8;
        let steps = report(&stats).time_left;
        let steps: Vec<_> = steps.iter().map(|it| (it.within, it.sessions)).collect();
        let expected = [
            ("1m", 1),
            ("10m", 2),
            ("30m", 3),
            ("1h", 4),
            ("1d", 5),
            ("30d", 6),
            ("longer", 7),
            ("never", 8),
        ];
        assert_eq!(steps, expected);
    }
}
