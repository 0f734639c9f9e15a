//! Compares sessile with its peers.

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use sessile_peers::Result;
use sessile_peers::app::Shape;
use sessile_peers::driver::count::{self, Extent};
use sessile_peers::driver::facts::Facts;
use sessile_peers::driver::process::SHAPE;
use sessile_peers::driver::redis_server::RedisServer;
use sessile_peers::driver::results::{Results, root};
use sessile_peers::driver::workload::Route;
use sessile_peers::driver::{charts, claims, curves, kept, latency, report, speed};
use sessile_peers::peers::Peer;

/// Compares sessile with its peers. Each command adds its figures to target/peers/results.json.
#[derive(Parser)]
struct Arguments {
    /// What the sessions contain: 40 small values, or two and a long text.
    #[arg(long, global = true, value_enum, default_value_t)]
    shape: Shape,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Speed, latency at half load, and how many of 50 changes at once are kept.
    Run {
        /// A few short rounds.
        #[arg(long)]
        quick: bool,
        /// The rounds, in which all peers take turns.
        #[arg(long)]
        rounds: Option<usize>,
        #[command(flatten)]
        peers: Peers,
    },
    /// What a request costs: instructions, allocations, commands, round trips, system calls, processor time.
    Count {
        /// Fewer requests, and four peers unless others are named.
        #[arg(long)]
        quick: bool,
        #[command(flatten)]
        peers: Peers,
    },
    /// Thousands of instructions only, printed at once and not kept.
    Instructions {
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "axum,hand,sessile,sessile-on-extract"
        )]
        peers: Vec<Peer>,
        /// The sessions to draw from.
        #[arg(long, default_value_t = 1)]
        sessions: usize,
        /// The requests of the first run; the second run has three times as many.
        #[arg(long, default_value_t = 500)]
        requests: u64,
    },
    /// Curves by the size and the number of sessions, and by the number of writers, processes and workers.
    Curves {
        /// Shorter measurements.
        #[arg(long)]
        quick: bool,
    },
    /// Figures behind single design decisions.
    Claims,
    /// Draws the figures into docs/performance/, and writes the tables into docs/performance.md.
    Charts,
    /// Prints the figures as Markdown.
    Table,
}

#[derive(clap::Args)]
struct Peers {
    /// The peers, separated by commas; all by default.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
}

const QUICKLY_COUNTED: [Peer; 4] = [Peer::Sessile, Peer::Hand, Peer::Axum, Peer::TowerSessions];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let shape = *SHAPE.get_or_init(|| arguments.shape);
    let mut results = Results::load(shape)?;
    match arguments.command {
        Command::Run {
            quick,
            rounds,
            peers,
        } => run(&mut results, quick, rounds, peers.peers)?,
        Command::Count { quick, peers } => count_all(&mut results, quick, peers.peers)?,
        Command::Instructions {
            peers,
            sessions,
            requests,
        } => return instructions(&peers, sessions, requests),
        Command::Curves { quick } => {
            let milliseconds = if quick { 200 } else { 1000 };
            let duration = Duration::from_millis(milliseconds);
            results.curves = curves::all(&RedisServer::start()?, duration)?;
        }
        Command::Claims => results.claims = claims::all(&RedisServer::start()?)?,
        Command::Charts => {
            charts::draw(&results)?;
            let document = root().join("docs/performance.md");
            let text = std::fs::read_to_string(&document)?;
            std::fs::write(
                &document,
                report::write_into(&text, &results, &Results::load(Shape::Few)?)?,
            )?;
        }
        Command::Table => {
            let few = Results::load(Shape::Few)?;
            print!("{}", report::markdown(&results, &few));
        }
    }
    results.save()
}

/// These peers, or all, without those that this server cannot serve.
fn select(redis: &RedisServer, results: &mut Results, peers: Vec<Peer>) -> Result<Vec<Peer>> {
    let all = || Peer::value_variants().to_vec();
    let mut peers = if peers.is_empty() { all() } else { peers };
    if !redis.knows("HEXPIRE")? {
        peers.retain(|peer| *peer != Peer::Ruts);
        let why = "it needs HEXPIRE, which Redis has from 7.4 and Valkey from 9.0";
        results.left_out.insert(Peer::Ruts.name(), why.to_owned());
    } else {
        results.left_out.clear();
    }
    results.facts = Facts::collect(redis, &all())?;
    Ok(peers)
}

fn run(results: &mut Results, quick: bool, rounds: Option<usize>, peers: Vec<Peer>) -> Result<()> {
    let redis = RedisServer::start()?;
    let peers = select(&redis, results, peers)?;
    let with_sessions = || peers.iter().copied().filter(|peer| peer.has_sessions());
    let stateful: Vec<_> = with_sessions().collect();
    let milliseconds = if quick { 300 } else { 600 };
    let mut extent = speed::Extent {
        rounds: rounds.unwrap_or(if quick { 3 } else { 15 }),
        duration: Duration::from_millis(milliseconds),
        sessions: if quick { 1000 } else { 10_000 },
    };
    eprintln!("many sessions");
    results.speed = speed::measure(&redis, &peers, &Route::ALL, &extent)?;
    results.save()?;
    redis.flush()?;
    eprintln!("one session");
    extent.sessions = 1;
    extent.rounds = extent.rounds.min(if quick { 1 } else { 5 });
    let routes = [Route::Read, Route::Change];
    results.speed_of_one = speed::measure(&redis, &stateful, &routes, &extent)?;
    results.save()?;
    eprintln!("latency");
    redis.flush()?;
    let (routes, rounds) = match quick {
        true => (&routes[..1], 1),
        false => (&routes[..], 5),
    };
    let duration = extent.duration;
    results.latency = latency::at_half_load(&redis, &stateful, routes, rounds, duration, 1000)?;
    for peer in &stateful {
        eprintln!("kept: {}", peer.name());
        match kept::measure(&redis, *peer, if quick { 2 } else { 5 }) {
            Ok(kept) => {
                results.kept.insert(peer.name(), kept);
            }
            Err(error) => eprintln!("{}: {error}", peer.name()),
        }
    }
    Ok(())
}

fn count_all(results: &mut Results, quick: bool, peers: Vec<Peer>) -> Result<()> {
    let redis = RedisServer::start()?;
    let peers = match peers.is_empty() && quick {
        true => QUICKLY_COUNTED.to_vec(),
        false => peers,
    };
    let peers = select(&redis, results, peers)?;
    let extent = match quick {
        true => Extent {
            warm_up: 100,
            requests: 500,
            traced: 150,
            many: 0,
        },
        false => Extent {
            warm_up: 200,
            requests: 5000,
            traced: 500,
            many: 10_000,
        },
    };
    for peer in peers {
        eprintln!("counting {}", peer.name());
        match count::all(&redis, peer, &extent) {
            Ok(costs) => {
                results
                    .costs
                    .insert(peer.name(), costs.into_iter().collect());
            }
            Err(error) => eprintln!("{}: {error}", peer.name()),
        }
        results.save()?;
        redis.flush()?;
    }
    Ok(())
}

fn instructions(peers: &[Peer], sessions: usize, requests: u64) -> Result<()> {
    let redis = RedisServer::start()?;
    println!("{:<28}{:>9}{:>9}{:>9}", "kInstr", "none", "read", "change");
    for peer in peers {
        let extent = Extent {
            warm_up: 200,
            requests: 0,
            traced: requests,
            many: 0,
        };
        let sessions = count::seed(&redis, *peer, sessions)?;
        let counts = count::kilo_instructions(&redis, *peer, &sessions, &extent)?;
        let [none, read, change] = counts.ok_or("valgrind is missing")?;
        println!("{:<28}{none:>9.1}{read:>9.1}{change:>9.1}", peer.name());
    }
    Ok(())
}
