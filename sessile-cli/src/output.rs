//! What goes to stdout: lines for people, or JSON.

use std::io::{self, BufWriter, Stdout, Write as _};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::args::Common;

/// Styles that the terminal shows, and anything else does not get.
pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const RED: Style = AnsiColor::Red.on_default().bold();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const CYAN: Style = AnsiColor::Cyan.on_default();

#[derive(Debug)]
pub(crate) struct Output {
    stdout: BufWriter<AutoStream<Stdout>>,
    pub(crate) is_json: bool,
}

impl Output {
    pub(crate) fn new(common: &Common) -> Self {
        let choice = match common.no_color {
            true => ColorChoice::Never,
            // By NO_COLOR, CLICOLOR, TERM, and whether it is a terminal.
            false => AutoStream::choice(&io::stdout()),
        };
        let stdout = AutoStream::new(io::stdout(), choice);
        Self {
            stdout: BufWriter::new(stdout),
            is_json: common.json,
        }
    }

    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.stdout, "{}", text.as_ref())
    }

    /// One value on a line of its own.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, value).map_err(io::Error::from)?;
        writeln!(self.stdout)
    }

    /// One value over several lines.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.stdout, value).map_err(io::Error::from)?;
        writeln!(self.stdout)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Text in a style.
pub(crate) fn styled(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Breaks text at spaces, so that no line is longer than this unless a word is.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `(name, value)` pairs below each other, the values in one column.
pub(crate) fn pairs(output: &mut Output, pairs: &[(&str, String)]) -> io::Result<()> {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in pairs {
        output.line(format!(
            "{}  {value}",
            styled(DIM, format!("{name:width$}"))
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_spaces() {
        for (text, expected) in [
            ("", vec![""]),
            ("one two three", vec!["one two", "three"]),
            ("elephantine ant", vec!["elephantine", "ant"]),
        ] {
            assert_eq!(wrapped(text, 8), expected);
        }
    }
}
