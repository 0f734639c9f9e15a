//! What asks the command to end: Ctrl-C, and on Unix SIGTERM and SIGHUP.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// Cancelled by the first signal. The second ends the process at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt {
    token: CancellationToken,
    /// By what it concerns.
    undone: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Interrupt {
    /// Listens from now on.
    pub(crate) fn listen() -> io::Result<Self> {
        let interrupt = Self::default();
        let mut signals = Signals::new()?;
        let listener = interrupt.clone();
        tokio::spawn(async move {
            while signals.next().await {
                if listener.is_cancelled() {
                    for text in listener.undone().values() {
                        anstream::eprintln!("{text}");
                    }
                    std::process::exit(130);
                }
                listener.token.cancel();
            }
        });
        Ok(interrupt)
    }

    pub(crate) async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// What whoever ends the process at once has to do in its place; it replaces what was said about the same subject.
    pub(crate) fn leave_undone(&self, subject: String, text: String) {
        self.undone().insert(subject, text);
    }

    /// Nothing is left to do.
    pub(crate) fn all_done(&self) {
        self.undone().clear();
    }

    fn undone(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.undone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: match hangup_is_ignored() {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// False if there will be none.
    async fn next(&mut self) -> bool {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            signal = self.interrupt.recv() => signal.is_some(),
            signal = self.terminate.recv() => signal.is_some(),
            signal = hangup => signal.is_some(),
        }
    }
}

/// As under `nohup`, which a handler would undo. Linux alone tells without `unsafe`.
#[cfg(unix)]
fn hangup_is_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

#[cfg(unix)]
fn ignores_hangup(status: &str) -> bool {
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Bit 0 is signal 1.
    ignored.is_some_and(|mask| mask & 1 == 1)
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> bool {
        tokio::signal::ctrl_c().await.is_ok()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_recognized() {
        for (status, expected) in [
            ("Name:\tsessile\nSigIgn:\t0000000000001001\n", true),
            ("Name:\tsessile\nSigIgn:\t0000000000001000\n", false),
            ("Name:\tsessile\n", false),
            ("SigIgn:\tnonsense\n", false),
        ] {
            assert_eq!(ignores_hangup(status), expected, "{status}");
        }
    }
}
