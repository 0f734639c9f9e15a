//! Times, durations, sizes and foreign text as people read them.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, Unit};

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// The two largest units: `1h 4m`, `12s`, `350ms`.
pub(crate) fn duration(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        let millis = duration.as_secs_f64() * 1000.0;
        return match millis {
            0.0 => "0s".to_owned(),
            millis if millis < 10.0 => {
                let text = format!("{millis:.2}");
                format!("{}ms", text.trim_end_matches('0').trim_end_matches('.'))
            }
            millis => format!("{millis:.0}ms"),
        };
    }
    let mut rest = duration.as_secs();
    let mut parts = Vec::new();
    for (unit, secs) in UNITS {
        if rest >= secs || !parts.is_empty() {
            parts.push((rest / secs, unit));
            rest %= secs;
        }
    }
    let parts = parts.iter().take(2).filter(|(n, _)| *n > 0);
    let parts: Vec<_> = parts.map(|(n, unit)| format!("{n}{unit}")).collect();
    parts.join(" ")
}

/// UTC, in whole seconds: `2026-11-28T10:44:00Z`.
pub(crate) fn time(time: SystemTime) -> String {
    match timestamp(time) {
        Some(time) => time.to_string(),
        None => "beyond the year 9999".to_owned(),
    }
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    let time = Timestamp::try_from(time).ok()?;
    time.round(
        jiff::TimestampRound::new()
            .smallest(Unit::Second)
            .mode(jiff::RoundMode::Floor),
    )
    .ok()
}

/// A time and how far it is from now: `2026-11-28T10:44:00Z (12m ago)`.
pub(crate) fn time_and_distance(at: SystemTime, now: SystemTime) -> String {
    format!("{} ({})", time(at), distance(at, now))
}

/// How far a time is from now: `12m ago`, `in 3h`.
pub(crate) fn distance(at: SystemTime, now: SystemTime) -> String {
    let short = |duration: Duration| duration < Duration::from_secs(1);
    match (at.duration_since(now), now.duration_since(at)) {
        (Ok(ahead), _) if !short(ahead) => format!("in {}", duration(ahead)),
        (_, Ok(past)) if !short(past) => format!("{} ago", duration(past)),
        _ => "now".to_owned(),
    }
}

/// `1.5 KiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// `200 000`.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1 session`, `2 sessions`.
pub(crate) fn counted(n: u64, one: &str, many: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{} {many}", count(n)),
    }
}

/// Text that somebody else has chosen, such as a label or a key: a terminal would obey the control characters in it.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match is_obeyed(character) {
            true => printable.extend(character.escape_unicode()),
            false => printable.push(character),
        }
    }
    printable
}

/// Control characters, and those that change the order of what follows.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// At most this many characters, with an ellipsis in place of the rest.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => text.chars().take(limit - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (millis, expected) in [
            (0, "0s"),
            (3, "3ms"),
            (350, "350ms"),
            (1_000, "1s"),
            (61_500, "1m 1s"),
            (3_600_000, "1h"),
            (3_840_000, "1h 4m"),
            (3_605_000, "1h"),
            (90_061_000, "1d 1h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn times_are_utc_and_say_how_far_they_are() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_862_640_900);
        for (at, expected) in [
            (now, "2026-11-28T10:44:00Z (now)"),
            (
                now + Duration::from_secs(60),
                "2026-11-28T10:45:00Z (in 1m)",
            ),
            (
                now - Duration::from_secs(720),
                "2026-11-28T10:32:00Z (12m ago)",
            ),
        ] {
            assert_eq!(time_and_distance(at, now), expected);
        }
    }

    #[test]
    fn sizes_and_counts() {
        let sizes = [1023, 1536, 1_073_741_824].map(bytes);
        assert_eq!(sizes, ["1023 B", "1.5 KiB", "1.0 GiB"]);
        let counts = [0, 999, 1000, 200_000, 1_234_567].map(count);
        assert_eq!(counts, ["0", "999", "1 000", "200 000", "1 234 567"]);
        assert_eq!(counted(1, "session", "sessions"), "1 session");
        assert_eq!(counted(2000, "session", "sessions"), "2 000 sessions");
    }

    #[test]
    fn a_label_cannot_steer_the_terminal() {
        for (text, expected) in [
            ("Firefox on Linux", "Firefox on Linux"),
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("a\nb\tc\u{9b}d", "a\\u{a}b\\u{9}c\\u{9b}d"),
            ("exe.\u{202e}gpj", "exe.\\u{202e}gpj"),
            ("Grüße, 世界", "Grüße, 世界"),
        ] {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(shortened("abcd", 4), "abcd");
    }
}
