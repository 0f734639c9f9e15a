//! The command line.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use sessile::{Handle, InvalidHandle};

const EXIT_CODES: &str = "\
Exit codes:
  0    fine
  1    doctor found problems; explain: a request would not get the session; list, show and destroy found nothing
  2    the command line or the configuration is wrong
  3    the store cannot be reached, or failed, or destroy left sessions that it could not end
  130  interrupted by Ctrl-C, SIGTERM or SIGHUP

The store is that of the argument or --url, else of --config, else of SESSILE_URL, else of the application's variables or the file of
SESSILE_CONFIG, else of REDIS_URL. Variables such as SESSILE__STORE__KEY_PREFIX replace settings of the file. A URL with a password in
the arguments is visible to other users of this machine: prefer the environment or a file.";

/// Looks at the sessions that sessile keeps in Redis or Valkey, and at that server.
#[derive(Debug, Parser)]
#[command(name = "sessile", version, after_help = EXIT_CODES, max_term_width = 120)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// The store: redis://, rediss://, redis+cluster://, redis+sentinel:// or unix:// [env: SESSILE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The application's configuration, a TOML file with the tables store and session [env: SESSILE_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The start of the store's keys [default: sessile:]
    #[arg(long, global = true, value_name = "PREFIX")]
    pub(crate) prefix: Option<String>,
    /// How long one command to Redis may take, such as 2s [default: 500ms]
    #[arg(long, global = true, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    /// How long connecting may take [default: 1s]
    #[arg(long, global = true, value_name = "DURATION")]
    pub(crate) connect_timeout: Option<String>,
    /// The authorities to trust with rediss://, a PEM file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The client certificate, a PEM file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) client_cert: Option<PathBuf>,
    /// Its private key, a PEM file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) client_key: Option<PathBuf>,
    /// Print JSON, which README.md of this crate describes
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print no colors; NO_COLOR does the same
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Show the progress of scans even if stderr is not a terminal
    #[arg(long, global = true)]
    pub(crate) progress: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Checks the server for what would harm sessions, and says what to change
    Doctor(Doctor),
    /// Counts the sessions
    Stats(Stats),
    /// Lists sessions
    List(List),
    /// Shows one session
    Show(Show),
    /// Ends sessions
    Destroy(Destroy),
    /// Says whether a request would get a session, and why not
    Explain(Explain),
    /// Shows sessions as they are created, changed, renewed and ended
    Watch(Watch),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// The store, as --url
    pub(crate) server: Option<String>,
    /// Check the permissions of this Redis user, instead of those of the URL's; needs +acl|dryrun
    #[arg(long, value_name = "NAME")]
    pub(crate) acl_user: Option<String>,
    /// Examine every key of the database, instead of 10 000
    #[arg(long)]
    pub(crate) full: bool,
    /// The least severity that makes the exit code 1
    #[arg(long, value_enum, default_value_t = FailOn::Problem, value_name = "SEVERITY")]
    pub(crate) fail_on: FailOn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    Note,
    Warning,
    Problem,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// The store, as --url
    pub(crate) server: Option<String>,
    /// How many keys Redis examines at once; it serves nothing else meanwhile, for about a microsecond a key
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// The store, as --url
    pub(crate) server: Option<String>,
    /// Only the sessions that this user is signed in to: it reads the user's index, and scans nothing
    #[arg(long, value_name = "NAME")]
    pub(crate) principal: Option<String>,
    /// Print at most this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The session's handle: 22 characters
    #[arg(value_parser = handle)]
    pub(crate) handle: Handle,
    /// Show the values and flash messages too, which may be personal data
    #[arg(long)]
    pub(crate) values: bool,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["handle", "principal", "all"]))]
pub(crate) struct Destroy {
    /// The session's handle: 22 characters
    #[arg(value_parser = handle)]
    pub(crate) handle: Option<Handle>,
    /// All sessions that this user is signed in to; sign-ins under way are refused
    #[arg(long, value_name = "NAME")]
    pub(crate) principal: Option<String>,
    /// The session that goes on
    #[arg(long, value_name = "HANDLE", requires = "principal", value_parser = handle)]
    pub(crate) except: Option<Handle>,
    /// Every session of the store; asks for their number on a terminal, which --yes does not answer: give it as --expect
    #[arg(long)]
    pub(crate) all: bool,
    /// With --all: the number of sessions, as `sessile stats` counts them; at most a tenth more may have come since
    #[arg(long, value_name = "N", requires = "all")]
    pub(crate) expect: Option<u64>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Say what would end, and end nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    /// The session's handle: 22 characters. Not needed with --token-stdin
    #[arg(required_unless_present = "token_stdin", value_parser = handle)]
    pub(crate) handle: Option<Handle>,
    /// Read the value of the session's cookie, or a whole Cookie header, from stdin, and say which secret it has. It is never printed
    #[arg(long)]
    pub(crate) token_stdin: bool,
    /// The client's address: compare its network with the session's
    #[arg(long, value_name = "IP")]
    pub(crate) network: Option<IpAddr>,
    /// Explain for this time instead of now, such as 2026-11-28T17:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<Timestamp>,
    /// Who was signed in: if the session is gone, this user's index may tell how it ended
    #[arg(long, value_name = "NAME")]
    pub(crate) principal: Option<String>,
    /// The layer's idle timeout, unless the session has its own [default: 30m]
    #[arg(long, value_name = "DURATION")]
    pub(crate) idle_timeout: Option<String>,
    /// off, soft or strict [default: soft]
    #[arg(long, value_name = "MODE")]
    pub(crate) fingerprinting: Option<String>,
    /// The cookie's name, which the secret depends on [default: __Host-id]
    #[arg(long, value_name = "NAME")]
    pub(crate) cookie_name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// The store, as --url
    pub(crate) server: Option<String>,
    /// Only this session
    #[arg(long, value_name = "HANDLE", value_parser = handle)]
    pub(crate) handle: Option<Handle>,
    /// Turn the server's notifications on for as long as this command runs; needs +config|set
    #[arg(long)]
    pub(crate) enable: bool,
    /// Look up who is signed in after each change: one more GET for each
    #[arg(long)]
    pub(crate) details: bool,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
}

/// Marks an argument as a handle.
const MARK: &str = "handle:";

impl Args {
    /// The arguments of this process.
    pub(crate) fn read() -> Self {
        Self::parse_from(std::env::args_os().map(marked))
    }
}

/// One handle in 64 begins with `-`, and would be taken for an option.
fn marked(argument: OsString) -> OsString {
    match argument.to_str() {
        Some(text) if text.starts_with('-') && text.parse::<Handle>().is_ok() => {
            format!("{MARK}{text}").into()
        }
        _ => argument,
    }
}

fn handle(text: &str) -> Result<Handle, InvalidHandle> {
    text.strip_prefix(MARK).unwrap_or(text).parse()
}

impl Command {
    /// The URL that is given after the command.
    pub(crate) fn server(&self) -> Option<&str> {
        match self {
            Self::Doctor(it) => it.server.as_deref(),
            Self::Stats(it) => it.server.as_deref(),
            Self::List(it) => it.server.as_deref(),
            Self::Watch(it) => it.server.as_deref(),
            Self::Show(_) | Self::Destroy(_) | Self::Explain(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_handle_may_begin_with_a_hyphen_and_no_option_looks_like_one() {
        let dashed = "-hAAAAAAAAAAAAAAAAAAAA";
        for words in [
            vec!["show", dashed],
            vec!["explain", dashed, "--json"],
            vec!["watch", "--handle", dashed],
            vec!["destroy", "--principal", "mia", "--except", dashed],
        ] {
            let words = std::iter::once("sessile")
                .chain(words)
                .map(OsString::from)
                .map(marked);
            let args = Args::try_parse_from(words).unwrap();
            let given = match args.command {
                Command::Show(it) => Some(it.handle),
                Command::Explain(it) => it.handle,
                Command::Watch(it) => it.handle,
                Command::Destroy(it) => it.except,
                _ => None,
            };
            assert_eq!(given, dashed.parse().ok());
        }
        let mut command = Args::command();
        command.build();
        let options = command
            .get_subcommands()
            .flat_map(clap::Command::get_arguments);
        for option in options.filter_map(clap::Arg::get_long) {
            assert!(format!("--{option}").parse::<Handle>().is_err(), "{option}");
        }
    }

    #[test]
    fn which_sessions_end_is_always_said() {
        let handle = "AAAAAAAAAAAAAAAAAAAAAA";
        for (arguments, is_valid) in [
            (vec!["destroy"], false),
            (vec!["destroy", handle], true),
            (vec!["destroy", "--principal", "mia"], true),
            (
                vec!["destroy", "--principal", "mia", "--except", handle],
                true,
            ),
            (vec!["destroy", "--all"], true),
            (vec!["destroy", handle, "--all"], false),
            (vec!["destroy", handle, "--principal", "mia"], false),
            (vec!["destroy", "--except", handle], false),
            (vec!["destroy", "mia"], false),
            (vec!["explain"], false),
            (vec!["explain", "--token-stdin"], true),
        ] {
            let words = std::iter::once("sessile").chain(arguments.iter().copied());
            assert_eq!(
                Args::try_parse_from(words).is_ok(),
                is_valid,
                "{arguments:?}"
            );
        }
    }
}
