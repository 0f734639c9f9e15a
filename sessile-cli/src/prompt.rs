//! Questions to whoever sits at the terminal.

use std::io::{self, IsTerminal as _, Write as _};

use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// Asks on the terminal, where a pipe must not answer. An answer after Ctrl-C does not count.
pub(crate) async fn confirmed(
    yes: bool,
    question: &str,
    wanted: &str,
    interrupted: &Interrupt,
) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        let advice = "nobody can be asked, since stdin is not a terminal: give --yes";
        return Err(Failure::Usage(advice.to_owned()));
    }
    let choices = if wanted == "y" { " [y/N]" } else { "" };
    eprint!("{question}{choices} ");
    io::stderr().flush()?;
    let answer = apart(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    tokio::select! {
        biased;
        () = interrupted.cancelled() => {
            eprintln!();
            Err(Failure::Interrupted)
        }
        answer = answer => Ok(is_yes(&answer?, wanted)),
    }
}

/// Reads a line that the terminal does not show.
pub(crate) async fn secret(question: &str) -> Result<String, Failure> {
    let question = format!("{question} ");
    let read = apart(move || {
        let terminal = rpassword::ConfigBuilder::new().output_writer(io::stderr());
        // The terminal of stdin, which the process need not be attached to.
        #[cfg(unix)]
        let terminal = terminal.input_file_path("/dev/stdin");
        rpassword::prompt_password_with_config(question, terminal.build())
    });
    read.await.map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Failure::Interrupted,
        _ => Failure::Usage(format!("cannot read from the terminal: {error}")),
    })
}

/// Reads in a thread of its own, which the process does not wait for: nothing else ends a read from a terminal.
pub(crate) async fn apart<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, answer) = oneshot::channel();
    std::thread::spawn(move || {
        // If nobody waits any more, nobody needs the answer.
        let _ = sender.send(read());
    });
    answer
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the reader has failed")))
}

fn is_yes(answer: &str, wanted: &str) -> bool {
    let answer = answer.trim().to_lowercase().replace(' ', "");
    answer == wanted || (wanted == "y" && answer == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wanted_answer_is_yes() {
        for (answer, wanted, expected) in [
            ("y\n", "y", true),
            ("YES\n", "y", true),
            ("\n", "y", false),
            ("no\n", "y", false),
            ("200 000\n", "200000", true),
            ("y\n", "200000", false),
            ("20000\n", "200000", false),
        ] {
            assert_eq!(is_yes(answer, wanted), expected, "{answer:?}");
        }
    }
}
