//! Bar and line charts as SVG, readable on a light and on a dark page: a transparent background and text in mid-grey.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 170.0;
const BOTTOM: f64 = 44.0;
const GREY: &str = "#808080";
const COLOURS: [&str; 6] = [
    "#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#a855f7", "#14b8a6",
];

/// A chart without its data.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub title: &'a str,
    pub x: &'a str,
    /// Whether the axes are logarithmic.
    pub x_is_log: bool,
    pub y_is_log: bool,
}

/// A line and its name.
pub type Line<'a> = (&'a str, &'a [(f64, f64)]);

/// Lines through points.
pub fn lines(frame: &Frame<'_>, lines: &[Line<'_>]) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let scaled = |value: f64, is_log: bool| if is_log { value.max(1e-9).ln() } else { value };
    let mut ticks: Vec<_> = points().map(|(x, _)| x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    let (first, last) = (
        scaled(ticks.first().copied().unwrap_or(0.0), frame.x_is_log),
        scaled(ticks.last().copied().unwrap_or(1.0), frame.x_is_log),
    );
    let highest = points().map(|(_, y)| y).fold(0.0, f64::max);
    let lowest = points().map(|(_, y)| y).fold(f64::INFINITY, f64::min);
    let (steps, low, high) = match frame.y_is_log {
        true => decades(lowest, highest),
        false => steps(highest),
    };
    let x_of = |x: f64| {
        let part = (scaled(x, frame.x_is_log) - first) / (last - first).max(1e-9);
        LEFT + part * (WIDTH - LEFT - RIGHT)
    };
    let y_of = |y: f64| {
        let (low, high) = (scaled(low, frame.y_is_log), scaled(high, frame.y_is_log));
        let part = (scaled(y, frame.y_is_log) - low) / (high - low);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    };
    let mut svg = start(frame.title, HEIGHT);
    for step in steps {
        rule(&mut svg, y_of(step), &short(step));
    }
    for tick in ticks {
        text(
            &mut svg,
            x_of(tick),
            HEIGHT - BOTTOM + 16.0,
            "middle",
            &short(tick),
        );
    }
    text(
        &mut svg,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0,
        "middle",
        frame.x,
    );
    for (at, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let mut path = String::new();
        for (x, y) in *points {
            let (x, y) = (x_of(*x), y_of(*y));
            let _ = write!(path, "{x:.1},{y:.1} ");
            let _ = write!(
                svg,
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#
            );
        }
        let _ = write!(
            svg,
            r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>"#
        );
        legend(&mut svg, at, colour, name);
    }
    svg + "</svg>\n"
}

/// A row of horizontal bars for each name, one bar for each series.
pub fn bars(title: &str, series: &[&str], rows: &[(String, Vec<f64>)]) -> String {
    let row = 10.0 + 12.0 * series.len() as f64;
    let (left, height) = (190.0, TOP + 8.0 + row * rows.len() as f64);
    let highest = rows.iter().flat_map(|(_, values)| values.iter().copied());
    let highest = highest.fold(1e-9, f64::max);
    let mut svg = start(title, height);
    for (at, (name, values)) in rows.iter().enumerate() {
        let top = TOP + row * at as f64;
        text(&mut svg, left - 8.0, top + row / 2.0, "end", name);
        for (number, value) in values.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let width = value / highest * (WIDTH - left - RIGHT - 40.0);
            let y = top + 12.0 * number as f64;
            let _ = write!(
                svg,
                r#"<rect x="{left}" y="{y:.1}" width="{width:.1}" height="10" rx="1" fill="{colour}"/>"#
            );
            text(
                &mut svg,
                left + width + 4.0,
                y + 9.0,
                "start",
                &short(*value),
            );
        }
    }
    for (at, name) in series.iter().enumerate() {
        legend(&mut svg, at, COLOURS[at % COLOURS.len()], name);
    }
    svg + "</svg>\n"
}

fn start(title: &str, height: f64) -> String {
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="12" role="img"><title>{title}</title>"#
    );
    let _ = write!(
        svg,
        r#"<text x="8" y="20" font-size="14" font-weight="600" fill="{GREY}">{title}</text>"#
    );
    svg
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = write!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{GREY}">{text}</text>"#
    );
}

fn rule(svg: &mut String, y: f64, label: &str) {
    let right = WIDTH - RIGHT;
    let _ = write!(
        svg,
        r#"<line x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}" stroke="{GREY}" stroke-opacity="0.3"/>"#
    );
    text(svg, LEFT - 6.0, y + 4.0, "end", label);
}

fn legend(svg: &mut String, at: usize, colour: &str, name: &str) {
    let (x, y) = (WIDTH - RIGHT + 12.0, TOP + 18.0 * at as f64);
    let _ = write!(
        svg,
        r#"<rect x="{x}" y="{y}" width="12" height="12" rx="2" fill="{colour}"/>"#
    );
    text(svg, x + 18.0, y + 10.0, "start", name);
}

/// Round steps from 0 to above the highest value.
fn steps(highest: f64) -> (Vec<f64>, f64, f64) {
    let rough = highest.max(1e-9) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|it| it * power);
    let step = step.into_iter().find(|it| *it >= rough).unwrap_or(power);
    let number = (highest / step).ceil().max(1.0);
    let steps = (0..=number as u32).map(|at| f64::from(at) * step);
    (steps.collect(), 0.0, number * step)
}

/// Powers of ten around all values.
fn decades(lowest: f64, highest: f64) -> (Vec<f64>, f64, f64) {
    let low = lowest.max(1e-3).log10().floor() as i32;
    let high = (highest.max(1e-3).log10().ceil() as i32).max(low + 1);
    let steps = (low..=high).map(|power| 10_f64.powi(power));
    (steps.collect(), 10_f64.powi(low), 10_f64.powi(high))
}

/// A figure of about three digits.
fn short(figure: f64) -> String {
    let (figure, unit) = match figure.abs() {
        it if it >= 1e6 => (figure / 1e6, " M"),
        it if it >= 1e3 => (figure / 1e3, " k"),
        _ => (figure, ""),
    };
    let digits = match figure.abs() {
        it if it.fract() < 1e-9 || it >= 100.0 => 0,
        it if it >= 10.0 => 1,
        _ => 2,
    };
    format!("{figure:.digits$}{unit}")
}
