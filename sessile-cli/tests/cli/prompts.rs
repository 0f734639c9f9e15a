//! Questions on a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use crate::support::{App, Server, command, run, until};

/// The command, with a terminal for stdin and a pipe for stderr.
struct Asked {
    process: Child,
    terminal: File,
    /// The other end, as the command has it.
    line: File,
}

impl Asked {
    /// Returns once the command has asked this, and all that it has said.
    fn start(words: &[&str], question: &str) -> (Self, String) {
        let pty = openpty(None, None).unwrap();
        let (terminal, line) = (File::from(pty.master), File::from(pty.slave));
        let process = command(words)
            .stdin(Stdio::from(line.try_clone().unwrap()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut asked = Self {
            process,
            terminal,
            line,
        };
        let stderr = asked.process.stderr.as_mut().unwrap();
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(question) {
            let mut byte = [0];
            stderr.read_exact(&mut byte).unwrap_or_else(|error| {
                panic!("{error}: {}", String::from_utf8_lossy(&said));
            });
            said.push(byte[0]);
        }
        (asked, String::from_utf8(said).unwrap())
    }

    fn type_in(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    fn ends(&mut self) -> Option<i32> {
        until("it has ended", || {
            self.process.try_wait().unwrap().is_some()
        });
        self.process.wait().unwrap().code()
    }
}

#[tokio::test]
async fn ctrl_c_at_a_question_ends_the_command_and_no_session() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    let url = server.url();
    for words in [
        &["destroy", &mia.handle][..],
        &["destroy", "--principal", "mia"],
        &["destroy", "--all"],
    ] {
        let words = [words, &["--url", &url]].concat();
        let end = if words.contains(&"--all") {
            "go on:"
        } else {
            "[y/N]"
        };
        let (mut asked, said) = Asked::start(&words, end);
        let on = format!("On 127.0.0.1:{}, keys sessile:*: ", server.port);
        assert!(said.starts_with(&on), "{said}");
        kill(
            Pid::from_raw(asked.process.id().cast_signed()),
            Signal::SIGINT,
        )
        .unwrap();
        assert_eq!(asked.ends(), Some(130), "{words:?}");
        assert_eq!(run(&["show", &mia.handle, "--url", &url]).code, 0);
    }
    let (mut asked, _) = Asked::start(&["destroy", &mia.handle, "--url", &url], "[y/N]");
    asked.type_in("n\n");
    assert_eq!(asked.ends(), Some(1));
    let (mut asked, _) = Asked::start(&["destroy", &mia.handle, "--url", &url], "[y/N]");
    asked.type_in("y\n");
    assert_eq!(asked.ends(), Some(0));
    assert_eq!(run(&["show", &mia.handle, "--url", &url]).code, 1);
}

#[tokio::test]
async fn a_cookie_is_asked_for_and_not_shown() {
    let server = Server::start();
    let app = App::new(&server.url()).await;
    let mia = app.signed_in("mia").await;
    let url = server.url();
    let words = ["explain", "--token-stdin", "--json", "--url", &url];
    let (mut asked, _) = Asked::start(&words, "not shown: ");
    until("the terminal shows nothing", || {
        let flags = tcgetattr(&asked.line).unwrap().local_flags;
        !flags.contains(LocalFlags::ECHO)
    });
    asked.type_in(&format!("{}\n", mia.cookie.unwrap()));
    // It does not wait for the end of the file.
    assert_eq!(asked.ends(), Some(0));
    let flags = tcgetattr(&asked.line).unwrap().local_flags;
    assert!(flags.contains(LocalFlags::ECHO), "it is shown again");

    let (mut asked, _) = Asked::start(&words, "not shown: ");
    until("the terminal passes Ctrl-C on", || {
        let flags = tcgetattr(&asked.line).unwrap().local_flags;
        !flags.contains(LocalFlags::ECHO)
    });
    asked.type_in("\u{3}");
    assert_eq!(asked.ends(), Some(130));
}
