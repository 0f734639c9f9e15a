//! The `sessile` command: looks at the sessions that [sessile](https://docs.rs/sessile) keeps in Redis or Valkey, and at that server.
//!
//! One file or folder for each command. What they judge is in pure functions, tested as tables; what they ask and print is apart.
//!
//! 1. `args.rs: Args` is the command line, `environment.rs: Environment` the variables, `settings.rs: Settings` what they and a file say
//!    together.
//! 2. `doctor/mod.rs`, `stats.rs`, `list.rs`, `show.rs`, `destroy.rs`, `explain/mod.rs` and `watch/mod.rs` are the commands. Sessions
//!    come from the library (`store.rs`); what it does not ask comes from `node.rs: Node`, of the servers that `servers.rs` finds at
//!    the `place.rs: Place` of the URL.
//! 3. `output.rs`, `human.rs`, `view.rs` and `progress.rs` print. `prompt.rs` asks, `interrupt.rs` listens for signals, `failure.rs` has the exit codes.

mod args;
mod destroy;
mod doctor;
mod environment;
mod explain;
mod failure;
mod human;
mod interrupt;
mod list;
mod node;
mod output;
mod place;
mod progress;
mod prompt;
mod scan;
mod servers;
mod settings;
mod show;
mod stats;
mod store;
mod view;
mod watch;

use std::process::ExitCode;

use crate::args::{Args, Command};
use crate::failure::{Failure, Outcome};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::progress::Shown;
use crate::settings::Settings;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::read();
    let mut output = Output::new(&args.common);
    let result = match Interrupt::listen() {
        Ok(interrupted) => run(&args, &mut output, &interrupted).await,
        Err(error) => Err(Failure::Store(format!(
            "cannot listen for signals: {error}"
        ))),
    };
    let flushed = output.flush().map_err(Failure::from);
    let (code, message) = failure::exit(result.and_then(|outcome| flushed.map(|()| outcome)));
    if let Some(message) = message {
        anstream::eprintln!("error: {message}");
    }
    failure::code(code)
}

async fn run(
    args: &Args,
    output: &mut Output,
    interrupted: &Interrupt,
) -> Result<Outcome, Failure> {
    let settings = Settings::read(args)?;
    let shown = Shown::new(args.common.progress);
    let beside_results = Shown::beside_results(args.common.progress);
    let command = async {
        match &args.command {
            Command::Doctor(it) => doctor::run(it, &settings, output, shown).await,
            Command::Stats(it) => stats::run(it, &settings, output, shown).await,
            Command::List(it) => list::run(it, &settings, output, beside_results).await,
            Command::Show(it) => show::run(it, &settings, output).await,
            Command::Explain(it) => explain::run(it, &settings, output).await,
            // These two have something to say, or to tidy up, when they are interrupted.
            Command::Destroy(it) => destroy::run(it, &settings, output, shown, interrupted).await,
            Command::Watch(it) => watch::run(it, &settings, output, interrupted).await,
        }
    };
    match args.command {
        Command::Destroy(_) | Command::Watch(_) => command.await,
        _ => tokio::select! {
            result = command => result,
            () = interrupted.cancelled() => Ok(Outcome::Interrupted),
        },
    }
}
