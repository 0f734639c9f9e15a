//! How far a scan has come, on stderr.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Who gets to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown(bool);

impl Shown {
    /// On a terminal, or if it is asked for.
    pub(crate) fn new(is_forced: bool) -> Self {
        Self(is_forced || std::io::stderr().is_terminal())
    }

    /// Not if the results appear on the same terminal meanwhile, unless it is asked for.
    pub(crate) fn beside_results(is_forced: bool) -> Self {
        Self(is_forced || (std::io::stderr().is_terminal() && !std::io::stdout().is_terminal()))
    }
}

#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    /// Whether stderr is a file or a pipe: it gets a line now and then.
    in_lines: Option<Lines>,
}

/// The tenths that were reported.
#[derive(Debug)]
struct Lines {
    what: &'static str,
    reported: Option<u64>,
}

impl Progress {
    pub(crate) fn new(shown: Shown, what: &'static str) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = match shown.0 && is_terminal {
            true => ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10)),
            false => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template(
            "{prefix} {bar:30} {human_pos}/{human_len}  {msg}  {eta} left",
        );
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        let in_lines = (shown.0 && !is_terminal).then_some(Lines {
            what,
            reported: None,
        });
        Self { bar, in_lines }
    }

    pub(crate) fn set(&mut self, done: u64, of: u64, found: &str) {
        self.bar.set_length(of);
        self.bar.set_position(done);
        self.bar.set_message(found.to_owned());
        if let Some(lines) = &mut self.in_lines {
            let tenth = (done * 10).checked_div(of).unwrap_or(10);
            if lines.reported != Some(tenth) {
                lines.reported = Some(tenth);
                let what = lines.what;
                eprintln!("{what} {done}/{of}  {found}");
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
