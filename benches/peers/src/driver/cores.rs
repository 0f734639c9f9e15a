//! Which cores a process runs on: with two cores or more, peers have one of their own, and the driver shares another with Redis.

use std::io;
use std::process::{Child, Command};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// The cores of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// The one of the driver and of Redis.
    Driver,
    /// The one of the peers.
    Peer,
    /// All, for more than one peer or worker.
    All,
}

impl Cores {
    fn set(self, number: usize) -> nix::Result<CpuSet> {
        let mut set = CpuSet::new();
        let cores = match self {
            _ if number < 2 => 0..number,
            Self::Driver => 1..2,
            Self::Peer => 0..1,
            Self::All => 0..number,
        };
        for core in cores {
            set.set(core)?;
        }
        Ok(set)
    }
}

fn number() -> usize {
    use std::sync::OnceLock;
    // Read once: afterwards the driver itself is bound to one core.
    static NUMBER: OnceLock<usize> = OnceLock::new();
    *NUMBER.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Binds this thread, and those that it starts.
pub fn bind(cores: Cores) -> io::Result<()> {
    Ok(sched_setaffinity(Pid::from_raw(0), &cores.set(number())?)?)
}

/// Starts a process on these cores, and binds this thread to those of the driver.
pub fn spawn(command: &mut Command, cores: Cores) -> io::Result<Child> {
    bind(cores)?;
    let child = command.spawn();
    bind(Cores::Driver)?;
    child
}
