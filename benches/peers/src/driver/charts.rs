//! Which charts are drawn, into docs/performance/.

use crate::Result;
use crate::driver::curves::Curve;
use crate::driver::results::{Results, root};
use crate::driver::svg::{self, Frame};
use crate::driver::workload::Route;

/// Curve, title, x axis, and whether the axes are logarithmic.
type Chart = (&'static str, &'static str, &'static str, bool, bool);

const CHARTS: [Chart; 13] = [
    (
        "size-read",
        "Reads a second, by the size of a session",
        "KiB of JSON",
        true,
        false,
    ),
    (
        "size-change",
        "Changes a second, by the size of a session",
        "KiB of JSON",
        true,
        false,
    ),
    (
        "sessions-read",
        "Reads a second, by the number of sessions",
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
        "writers-lost",
        "Confirmed changes that are lost, %",
        "requests at once",
        true,
        false,
    ),
    (
        "nodes-read",
        "Reads a second, by the number of processes",
        "processes on two cores",
        false,
        false,
    ),
    (
        "nodes-change",
        "Changes a second, by the number of processes",
        "processes on two cores",
        false,
        false,
    ),
    (
        "workers-read",
        "Reads a second, by worker threads",
        "worker threads",
        false,
        false,
    ),
    (
        "workers-change",
        "Changes a second, by worker threads",
        "worker threads",
        false,
        false,
    ),
    (
        "load-p50",
        "Half of the reads take at most, µs",
        "% of the load that sessions by hand can carry",
        false,
        true,
    ),
    (
        "load-p99",
        "99 % of the reads take at most, µs",
        "% of the load that sessions by hand can carry",
        false,
        true,
    ),
    (
        "size-relative",
        "Requests a second relative to sessions by hand, by size",
        "KiB of JSON",
        true,
        false,
    ),
];

/// Draws what there are figures for, and returns how many charts that is.
pub fn draw(results: &Results) -> Result<usize> {
    let mut charts = Vec::new();
    if !results.speed.is_empty() {
        charts.push(("speed".to_owned(), speed(results)));
    }
    if !results.costs.is_empty() {
        charts.push(("instructions".to_owned(), instructions(results)));
    }
    for (name, title, x, x_is_log, y_is_log) in CHARTS {
        let relative = (name == "size-relative").then(|| relative_to_hand(results));
        let Some(curve) = relative.as_ref().or_else(|| results.curves.get(name)) else {
            continue;
        };
        let frame = Frame {
            title,
            x,
            x_is_log,
            y_is_log,
        };
        let lines = curve
            .iter()
            .map(|(peer, points)| (peer.as_str(), points.as_slice()));
        let lines: Vec<_> = lines.collect();
        if !lines.is_empty() {
            charts.push((name.to_owned(), svg::lines(&frame, &lines)));
        }
    }
    let folder = root().join("docs/performance");
    std::fs::create_dir_all(&folder)?;
    for (name, svg) in &charts {
        std::fs::write(folder.join(format!("{name}.svg")), svg)?;
    }
    Ok(charts.len())
}

/// Reads and changes by size, as parts of what sessions by hand do.
fn relative_to_hand(results: &Results) -> Curve {
    let mut relative = Curve::new();
    for (name, what) in [("size-read", "read"), ("size-change", "change")] {
        let curve = results.curves.get(name);
        let Some((curve, hand)) = curve.and_then(|curve| Some((curve, curve.get("hand")?))) else {
            continue;
        };
        for (peer, points) in curve.iter().filter(|(peer, _)| *peer != "hand") {
            let points = points.iter().zip(hand);
            let points = points.map(|((x, rate), (_, hand))| (*x, rate / hand));
            relative.insert(format!("{peer}, {what}"), points.collect());
        }
    }
    relative
}

fn speed(results: &Results) -> String {
    let rows = results.peers().into_iter().filter_map(|peer| {
        let speed = results.speed.get(&peer.name())?;
        let ratios = [Route::Read, Route::Change].map(|route| {
            let speed = speed.get(&route);
            speed.map_or(0.0, |speed| speed.to_hand.median)
        });
        Some((peer.name(), ratios.to_vec()))
    });
    let title = "Requests a second, relative to sessions by hand";
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
