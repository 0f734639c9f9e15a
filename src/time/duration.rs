//! Durations as configuration files write them: `"30m"`, `"1h 30m"`, `"500ms"`, `"30d"`.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::fmt::friendly;
use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::de::{Deserializer, Error, Visitor};
use serde::ser::Serializer;

/// The units with their lengths in nanoseconds, the longest first.
const UNITS: [(&str, u128); 7] = [
    ("d", 24 * 60 * 60 * 1_000_000_000),
    ("h", 60 * 60 * 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("µs", 1_000),
    ("ns", 1),
];

/// Sensible values of short and long settings, for error messages.
const EXAMPLES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(5),
    Duration::from_secs(30 * 60),
    Duration::from_secs(24 * 60 * 60),
    Duration::from_secs(30 * 24 * 60 * 60),
];

/// The duration as it is written in a configuration file.
pub(crate) fn text(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (unit, nanos) in UNITS {
        if rest >= nanos {
            let space = if text.is_empty() { "" } else { " " };
            // Writing to a `String` never fails.
            let _ = write!(text, "{space}{}{unit}", rest / nanos);
            rest %= nanos;
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

/// The advice for a setting with these limits.
pub(crate) fn advice(shortest: Duration, longest: Duration) -> String {
    let [one, other] = examples(shortest, longest).map(text);
    format!(
        "write a duration from \"{}\" to \"{}\", such as \"{one}\" or \"{other}\"",
        text(shortest),
        text(longest)
    )
}

/// Two durations well within the limits, or the limits themselves.
fn examples(shortest: Duration, longest: Duration) -> [Duration; 2] {
    let within = shortest.saturating_mul(10)..=longest / 2;
    let mut examples = EXAMPLES.into_iter().filter(|it| within.contains(it));
    match (examples.next(), examples.next()) {
        (Some(one), Some(other)) => [one, other],
        (Some(one), None) => [one, longest],
        (None, _) => [shortest, longest],
    }
}

/// Parses a duration; the error says how to write one.
fn parse(text: &str) -> Result<Duration, String> {
    // This parser accepts longer durations than `Span` can hold, but no days.
    if let Ok(duration) = friendly::SpanParser::new().parse_unsigned_duration(text) {
        return Ok(duration);
    }
    let invalid = |problem: &str| {
        format!(
            "{text:?} {problem}: write a number with a unit of d, h, m, s or ms, such as \"30d\", \"1h 30m\" or \"500ms\""
        )
    };
    let Ok(span) = text.parse::<Span>() else {
        return Err(invalid("is not a duration"));
    };
    if span.is_negative() {
        return Err(invalid("is negative"));
    }
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(invalid("has years or months, whose lengths vary"));
    }
    span.to_duration(SpanRelativeTo::days_are_24_hours())
        .and_then(|duration: SignedDuration| Duration::try_from(duration))
        .map_err(|_| invalid("is not a duration"))
}

pub(crate) fn serialize<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*duration))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    struct Text;

    impl Visitor<'_> for Text {
        type Value = Duration;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a duration in quotes with its unit, such as \"30m\" or \"500ms\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            parse(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_parsed_in_every_common_notation() {
        const MINUTE: u64 = 60 * 1000;
        const DAY: u64 = 24 * 60 * MINUTE;
        for (text, millis) in [
            ("30d", 30 * DAY),
            ("1 day", DAY),
            ("2w", 14 * DAY),
            ("1w 2d 3h", 9 * DAY + 180 * MINUTE),
            ("1d 12h", DAY + 720 * MINUTE),
            ("24h", DAY),
            ("1h 30m", 90 * MINUTE),
            ("1h30m", 90 * MINUTE),
            ("1 hour, 30 minutes", 90 * MINUTE),
            ("1.5h", 90 * MINUTE),
            ("01:30:00", 90 * MINUTE),
            ("PT1H30M", 90 * MINUTE),
            ("P30D", 30 * DAY),
            ("0.5s", 500),
            ("500ms", 500),
            ("500 milliseconds", 500),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("1s 5µs"), Ok(Duration::from_micros(1_000_005)));
        assert_eq!(
            parse("99999999999999h").map_err(drop),
            Ok(Duration::from_secs(99_999_999_999_999 * 3600))
        );
    }

    #[test]
    fn an_invalid_duration_is_rejected_with_advice() {
        for text in [
            "",
            "30",
            "x",
            "30x",
            "1.5d",
            "-5m",
            "5m ago",
            "1mo",
            "1 year",
            "2y 3d",
            "P1M",
            "30 d d",
            "∞",
            "999999999999999999999999s",
            "99999999999d",
        ] {
            let error = parse(text).expect_err(text);
            assert!(
                error.contains("\"30d\"") && error.contains(&format!("{text:?}")),
                "{error}"
            );
            for word in ["jiff", "Span", "Duration"] {
                assert!(!error.contains(word), "{error}");
            }
            // The examples in the advice are valid.
            for example in error
                .split("such as")
                .nth(1)
                .unwrap()
                .split('"')
                .skip(1)
                .step_by(2)
            {
                parse(example).unwrap();
            }
        }
    }

    #[test]
    fn examples_lie_within_the_limits() {
        let millis = Duration::from_millis;
        for (shortest, longest, expected) in [
            (0, 1, ["0s", "1ms"]),
            (1, 60_000, ["100ms", "500ms"]),
            (100, 3_600_000, ["5s", "30m"]),
            (1000, 315_360_000_000, ["30m", "1d"]),
            (1000, 20_000, ["1s", "20s"]),
            (1, 1000, ["100ms", "500ms"]),
            (400, 12_000, ["5s", "12s"]),
        ] {
            let (shortest, longest) = (millis(shortest), millis(longest));
            assert_eq!(examples(shortest, longest).map(text), expected);
        }
    }

    proptest! {
        #[test]
        fn a_printed_duration_parses_back(secs in 0..=400_000_000_u64, nanos in 0..1_000_000_000_u32) {
            for duration in [Duration::new(secs, nanos), Duration::from_secs(secs), Duration::new(0, nanos)] {
                prop_assert_eq!(parse(&text(duration)), Ok(duration));
            }
        }
    }
}
