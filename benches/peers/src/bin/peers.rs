//! Compares sessile with its peers.

use clap::{Parser, Subcommand};
use sessile_peers::Result;
use sessile_peers::driver::count::{self, Extent};
use sessile_peers::driver::redis_server::RedisServer;
use sessile_peers::peers::Peer;

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Prints the thousands of instructions of a request, for one session.
    Instructions {
        #[arg(long, value_delimiter = ',', default_value = "axum,hand,sessile")]
        peers: Vec<Peer>,
        /// Sessions to draw from.
        #[arg(long, default_value_t = 1)]
        sessions: usize,
        /// Requests of the first run; the second run has three times as many.
        #[arg(long, default_value_t = 500)]
        requests: u64,
    },
}

fn main() -> Result<()> {
    let redis = RedisServer::start()?;
    match Arguments::parse().command {
        What::Instructions {
            peers,
            sessions,
            requests,
        } => {
            println!("{:<28}{:>9}{:>9}{:>9}", "kInstr", "none", "read", "change");
            for peer in peers {
                let extent = Extent {
                    warm_up: 200,
                    requests: 0,
                    traced: requests,
                    many: 0,
                };
                let sessions = count::seed(&redis, peer, sessions)?;
                let counts = count::kilo_instructions(&redis, peer, &sessions, &extent)?;
                let [none, read, change] = counts.ok_or("valgrind is missing")?;
                println!("{:<28}{none:>9.1}{read:>9.1}{change:>9.1}", peer.name());
            }
        }
    }
    Ok(())
}
