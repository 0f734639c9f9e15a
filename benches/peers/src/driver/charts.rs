//! Which charts are drawn, into docs/performance/.

use clap::ValueEnum as _;

use crate::Result;
use crate::driver::curves::Curve;
use crate::driver::results::{Results, root};
use crate::driver::svg::{self, Frame};
use crate::driver::workload::Route;
use crate::peers::Peer;

/// Curve, title, x axis, and whether the axes are logarithmic.
pub type Chart = (&'static str, &'static str, &'static str, bool, bool);

pub const CHARTS: [Chart; 13] = [
    (
        "size-read-relative",
        "Reads a second relative to sessions by hand",
        SIZE,
        true,
        false,
    ),
    (
        "size-change-relative",
        "Changes a second relative to sessions by hand",
        SIZE,
        true,
        false,
    ),
    (
        "sessions-read-relative",
        "Reads a second relative to sessions by hand",
        "sessions",
        true,
        false,
    ),
    (
        "memory",
        "Memory of the process after visits of that many sessions, MiB",
        "sessions",
        true,
        false,
    ),
    (
        "writers",
        "Changes of one session a second",
        "requests at once",
        true,
        false,
    ),
    (
        "writers-relative",
        "Changes of one session a second relative to sessions by hand",
        "requests at once",
        true,
        false,
    ),
    (
        "writers-lost",
        "Confirmed changes that are lost, %",
        "requests at once",
        true,
        false,
    ),
    ("nodes-read", "Reads a second", NODES, false, false),
    ("nodes-change", "Changes a second", NODES, false, false),
    (
        "workers-read-relative",
        "Reads a second relative to sessions by hand",
        "worker threads",
        false,
        false,
    ),
    (
        "workers-change-relative",
        "Changes a second relative to sessions by hand",
        "worker threads",
        false,
        false,
    ),
    (
        "load-p50",
        "Half of the reads take at most, µs",
        LOAD,
        false,
        true,
    ),
    (
        "load-p99",
        "99 % of the reads take at most, µs",
        LOAD,
        false,
        true,
    ),
];

const SIZE: &str = "KiB of JSON in the session";
const NODES: &str = "processes, on two cores";
const LOAD: &str = "% of the load that sessions by hand can carry";

/// Draws what there are figures for.
pub fn draw(results: &Results) -> Result<()> {
    let mut charts = Vec::new();
    if !results.speed.is_empty() {
        let title = "Requests a second, relative to sessions by hand";
        charts.push(("speed".to_owned(), speed(results, title, &results.peers())));
        let title = "Requests a second, relative to GET and SETEX by hand";
        let peers = [Peer::Sessile, Peer::TowerSessions, Peer::Hand];
        charts.push(("summary".to_owned(), speed(results, title, &peers)));
    }
    if !results.costs.is_empty() {
        charts.push(("instructions".to_owned(), instructions(results)));
    }
    for (name, title, x, x_is_log, y_is_log) in CHARTS {
        let Some(curve) = results.curves.get(name) else {
            continue;
        };
        let frame = Frame {
            title,
            x,
            x_is_log,
            y_is_log,
        };
        let lines = in_order(curve);
        let lines: Vec<_> = lines
            .iter()
            .map(|(peer, it)| (peer.as_str(), *it))
            .collect();
        charts.push((name.to_owned(), svg::lines(&frame, &lines)));
    }
    let folder = root().join("docs/performance");
    std::fs::create_dir_all(&folder)?;
    for (name, svg) in &charts {
        std::fs::write(folder.join(format!("{name}.svg")), svg)?;
    }
    Ok(())
}

/// The lines of a curve in the order of the peers, so that each has the same colour in every chart.
pub fn in_order(curve: &Curve) -> Vec<(String, &[(f64, f64)])> {
    let names = Peer::value_variants().iter().map(|peer| peer.name());
    let lines = names.filter_map(|name| {
        let points = curve.get(&name)?.as_slice();
        Some((name, points))
    });
    lines.collect()
}

fn speed(results: &Results, title: &str, peers: &[Peer]) -> String {
    let rows = peers.iter().filter_map(|peer| {
        let speed = results.speed.get(&peer.name())?;
        let ratios = [Route::Read, Route::Change].map(|route| {
            let speed = speed.get(&route);
            speed.map_or(0.0, |speed| speed.to_hand.median)
        });
        Some((peer.name(), ratios.to_vec()))
    });
    svg::bars(title, &["read", "change"], &rows.collect::<Vec<_>>())
}

fn instructions(results: &Results) -> String {
    let rows = results.peers().into_iter().filter_map(|peer| {
        let costs = results.costs.get(&peer.name())?;
        let counts = Route::ALL.map(|route| {
            let cost = costs.get(&route);
            cost.and_then(|cost| cost.kilo_instructions).unwrap_or(0.0)
        });
        Some((peer.name(), counts.to_vec()))
    });
    let series = ["untouched", "read", "change"];
    let title = "Thousands of instructions of a request";
    svg::bars(title, &series, &rows.collect::<Vec<_>>())
}
