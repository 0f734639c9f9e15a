//! One peer as a process of its own, which the driver controls through its standard input and output.

use std::io::{BufRead, Write};
use std::net::TcpListener;

use clap::Parser;

use crate::Result;
use crate::app::{Contents, Shape};
use crate::peers::Peer;

/// Serves the application on one peer. Prints the address, and a line of counts for each line read; ends with its input.
#[derive(Clone, Debug, Parser)]
pub struct Serve {
    /// What to serve it with.
    pub peer: Peer,
    /// The Redis that holds the sessions.
    #[arg(long, default_value = "redis://127.0.0.1:6379/")]
    pub redis: String,
    /// The worker threads of the runtime.
    #[arg(long, default_value_t = 1)]
    pub workers: usize,
    /// The size of a session, as JSON.
    #[arg(long, default_value_t = 1229)]
    pub session_bytes: usize,
    /// What it contains.
    #[arg(long, value_enum, default_value_t)]
    pub shape: Shape,
}

impl Serve {
    pub fn contents(&self) -> Contents {
        Contents {
            bytes: self.session_bytes,
            shape: self.shape,
        }
    }
}

/// Runs the process; `counts` is what it prints for each line.
pub fn main(counts: fn() -> String) -> Result<()> {
    let serve = Serve::parse();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    std::thread::spawn(move || obey(counts));
    serve.peer.run(listener, &serve)
}

fn obey(counts: fn() -> String) {
    for line in std::io::stdin().lock().lines() {
        if line.is_err() {
            break;
        }
        println!("{}", counts());
    }
    // A driver that ends, in whichever way, takes its peers along.
    std::process::exit(0);
}
