//! The figures as Markdown.

use std::fmt::Write as _;

use crate::Result;
use crate::driver::charts::{CHARTS, in_order};
use crate::driver::count::Cost;
use crate::driver::kept::Range;
use crate::driver::results::Results;
use crate::driver::speed::Speed;
use crate::driver::stats::Quartiles;
use crate::driver::workload::Route;
use crate::peers::Peer;

/// All tables: of sessions of many values, and of few.
pub fn markdown(many: &Results, few: &Results) -> String {
    let mut text = facts(many);
    text += &comparison(many);
    text += &costs(many);
    text += "Sessions of few values:\n\n";
    text += &comparison(few);
    text += &costs(few);
    text += &curves(many);
    text += &claims(many);
    text
}

/// Replaces the tables of a document, each between `<!-- NAME -->` and `<!-- end of NAME -->`. One that has not been measured
/// stays as it is.
pub fn write_into(document: &str, many: &Results, few: &Results) -> Result<String> {
    let mut document = document.to_owned();
    for (name, is_measured, table) in [
        ("facts", !many.speed.is_empty(), facts(many)),
        ("comparison", !many.speed.is_empty(), comparison(many)),
        ("costs", !many.costs.is_empty(), costs(many)),
        ("comparison of few", !few.speed.is_empty(), comparison(few)),
        ("costs of few", !few.costs.is_empty(), costs(few)),
        ("claims", !many.claims.is_empty(), claims(many)),
    ] {
        if !is_measured {
            continue;
        }
        let (from, to) = (
            format!("<!-- {name} -->\n"),
            format!("<!-- end of {name} -->"),
        );
        let parts = document.split_once(&from);
        let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(&to)?.1)));
        let (before, after) = parts.ok_or_else(|| format!("no place for {name}"))?;
        document = format!("{before}{from}{}\n{to}{after}", table.trim_end());
    }
    Ok(document)
}

fn facts(results: &Results) -> String {
    let facts = &results.facts;
    let mut text = format!(
        "{}, {} cores; {}; {}; {}; commit {}.\n",
        facts.cpu, facts.cores, facts.kernel, facts.redis, facts.rustc, facts.commit
    );
    let packages = facts.packages.iter();
    let packages = packages.map(|(name, version)| format!("{name} {version}"));
    let _ = writeln!(text, "{}.", packages.collect::<Vec<_>>().join(", "));
    for (peer, why) in &results.left_out {
        let _ = writeln!(text, "Left out: {peer}, {why}.");
    }
    text + "\n"
}

fn comparison(results: &Results) -> String {
    let mut text = "\
| | untouched route | read | change | CPU of a request: µs of untouched / read / change | of Redis, µs | read, one session | change, one session | p99 of a read at half load | p99 of a change at half load | a read keeps the session alive | 50 changes at once: kept (two processes) | 50 increments: counted (two processes) |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"
    .to_owned();
    for peer in results.peers() {
        let name = peer.name();
        let cpu = |of: fn(&Speed) -> f64| {
            let cells = Route::ALL.map(|route| {
                let speed = results.speed.get(&name).and_then(|it| it.get(&route));
                speed.map_or("–".to_owned(), |speed| format!("{:.1}", of(speed)))
            });
            cells.join(" / ")
        };
        let speed = |route: Route, one: bool| {
            let speeds = if one {
                &results.speed_of_one
            } else {
                &results.speed
            };
            let speed = speeds.get(&name).and_then(|routes| routes.get(&route));
            let Some(speed) = speed else {
                return "–".to_owned();
            };
            let mut cell = match peer {
                Peer::Hand => format!("1 ({:.1} k/s)", speed.per_second.median / 1000.0),
                _ => quartiles(&speed.to_hand),
            };
            if speed.failed > 0 {
                let _ = write!(cell, ", {} failed", speed.failed);
            }
            if let Some((confirmed, lost @ 1..)) = speed.changes {
                let percent = 100.0 * lost as f64 / confirmed as f64;
                let _ = write!(cell, ", {percent:.1} % lost");
            }
            cell
        };
        let latency = |route: Route| {
            let latency = results.latency.get(&name).and_then(|it| it.get(&route));
            latency.map_or("–".to_owned(), |it| {
                format!("{:.0} µs, {}", it.p99.median, quartiles(&it.p99_to_hand))
            })
        };
        let kept = |one: fn(&crate::driver::kept::Kept) -> [Range; 2]| {
            let kept = results.kept.get(&name).map(one);
            kept.map_or("–".to_owned(), |[one, two]| {
                format!("{} ({})", range(one), range(two))
            })
        };
        let cells = [
            speed(Route::None, false),
            speed(Route::Read, false),
            speed(Route::Change, false),
            cpu(|speed| speed.cpu.median),
            cpu(|speed| speed.redis_cpu.median),
            speed(Route::Read, true),
            speed(Route::Change, true),
            latency(Route::Read),
            latency(Route::Change),
            peer.slides().to_owned(),
            kept(|kept| [kept.changes, kept.changes_on_two]),
            kept(|kept| [kept.increments, kept.increments_on_two]),
        ];
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text + "\n"
}

fn costs(results: &Results) -> String {
    let mut text = "\
| one request: untouched / read / change | thousands of instructions | the same, many sessions | allocations | KiB allocated | commands | round trips | bytes to Redis | bytes from Redis | system calls | CPU, µs | of Redis, µs |
|---|---|---|---|---|---|---|---|---|---|---|---|
"
    .to_owned();
    for peer in results.peers() {
        let name = peer.name();
        let Some(costs) = results.costs.get(&name) else {
            continue;
        };
        let cells = |figure: fn(&Cost) -> Option<f64>, digits: usize| {
            let cells = Route::ALL.map(|route| {
                let figure = costs.get(&route).and_then(figure);
                figure.map_or("n/a".to_owned(), |it| format!("{:.digits$}", it + 0.0))
            });
            cells.join(" / ")
        };
        let cells = [
            cells(|it| it.kilo_instructions, 0),
            cells(|it| it.kilo_instructions_many, 0),
            cells(|it| Some(it.allocations), 0),
            cells(|it| Some(it.allocated_bytes / 1024.0), 1),
            cells(|it| Some(it.commands), 1),
            cells(|it| Some(it.round_trips), 1),
            cells(|it| Some(it.bytes_to_redis), 0),
            cells(|it| Some(it.bytes_from_redis), 0),
            cells(|it| it.syscalls, 1),
            cells(|it| Some(it.cpu), 1),
            cells(|it| Some(it.redis_cpu), 1),
        ];
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text + "\n"
}

/// A table for each chart of curves.
fn curves(results: &Results) -> String {
    let mut text = String::new();
    for (name, title, x, ..) in CHARTS {
        let Some(curve) = results.curves.get(name) else {
            continue;
        };
        let lines = in_order(curve);
        let columns = lines.first().map_or(&[][..], |(_, points)| points);
        let columns: Vec<_> = columns.iter().map(|(x, _)| x.to_string()).collect();
        let _ = writeln!(text, "{title}, by {x}:\n");
        let _ = writeln!(text, "| | {} |", columns.join(" | "));
        let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
        for (peer, points) in lines {
            let cells = points.iter().map(|(_, y)| match *y {
                y if y >= 100.0 => format!("{y:.0}"),
                y => format!("{y:.2}"),
            });
            let cells = cells.collect::<Vec<_>>().join(" | ");
            let _ = writeln!(text, "| {peer} | {cells} |");
        }
        text.push('\n');
    }
    text
}

fn claims(results: &Results) -> String {
    let mut text = String::new();
    for claim in &results.claims {
        let figures = claim.figures.iter();
        let figures = figures.map(|(name, figure)| match *figure {
            figure if figure >= 100.0 => format!("{name} {figure:.0}"),
            figure => format!("{name} {figure:.2}"),
        });
        let figures = figures.collect::<Vec<_>>().join("; ");
        let _ = writeln!(text, "- {}: {figures}", claim.subject);
    }
    text
}

fn quartiles(it: &Quartiles) -> String {
    match it.median {
        0.0 => "–".to_owned(),
        _ => format!("{:.2} ({:.2}–{:.2})", it.median, it.low, it.high),
    }
}

fn range((low, high): Range) -> String {
    match low == high {
        true => low.to_string(),
        false => format!("{low}–{high}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_a_place_for_each_table() {
        let document = include_str!("../../../../docs/performance.md");
        let none = Results::default();
        let once = write_into(document, &none, &none).unwrap();
        assert!(!once.contains("FIGURES"));
        assert_eq!(write_into(&once, &none, &none).unwrap(), once);
        assert!(write_into("# Performance", &none, &none).is_err());
    }
}
