//! A peer as a process.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use crate::Result;
use crate::app::Shape;
use crate::driver::cores::{self, Cores};
use crate::peers::Peer;

/// How to start a peer.
#[derive(Clone, Debug)]
pub struct Start {
    pub peer: Peer,
    pub redis: String,
    pub workers: usize,
    pub session_bytes: usize,
    pub shape: Shape,
    pub cores: Cores,
    /// The binary beside this one: `serve` or `serve-counted`.
    pub binary: &'static str,
    /// A program, with its arguments, that runs the peer.
    pub under: Vec<String>,
}

impl Start {
    pub fn new(peer: Peer, redis: impl Into<String>) -> Self {
        Self {
            peer,
            redis: redis.into(),
            workers: 1,
            session_bytes: SESSION_BYTES,
            shape: SHAPE.get().copied().unwrap_or_default(),
            cores: Cores::Peer,
            binary: "serve",
            under: Vec::new(),
        }
    }

    pub fn start(&self) -> Result<Process> {
        let mut words = self.under.clone();
        words.push(beside(self.binary)?.display().to_string());
        words.push(self.peer.name());
        words.extend(["--redis".to_owned(), self.redis.clone()]);
        words.extend(["--workers".to_owned(), self.workers.to_string()]);
        words.extend(["--session-bytes".to_owned(), self.session_bytes.to_string()]);
        words.extend(["--shape".to_owned(), self.shape.name().to_owned()]);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = cores::spawn(&mut command, self.cores)
            .map_err(|error| format!("{}: {error}", words[0]))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the process has no pipes".into());
        };
        let mut process = Process {
            child,
            input: Some(input),
            output: BufReader::new(output),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let line = process.line()?;
        process.address = line
            .parse()
            .map_err(|_| format!("{} does not start", self.peer.name()))?;
        Ok(process)
    }
}

/// What the sessions of this run contain.
pub static SHAPE: OnceLock<Shape> = OnceLock::new();

/// The size of a session, as JSON: 1.2 KiB.
pub const SESSION_BYTES: usize = 1229;

fn beside(binary: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(binary);
    match path.exists() {
        true => Ok(path),
        false => Err(format!("{} is missing: build all binaries", path.display()).into()),
    }
}

pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub address: SocketAddr,
}

impl Process {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How much `serve-counted` has allocated: number and bytes.
    pub fn allocated(&mut self) -> Result<(u64, u64)> {
        let input = self.input.as_mut().ok_or("the process has ended")?;
        input.write_all(b"\n")?;
        let line = self.line()?;
        let (number, bytes) = line.split_once(' ').ok_or("the process does not count")?;
        Ok((number.parse()?, bytes.parse()?))
    }

    /// Ends the process as its own code does, so that a program that it runs under can write what it has counted.
    pub fn end(mut self) -> Result<()> {
        self.input = None;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processor time of a process, all threads together, in nanoseconds.
pub fn cpu_nanoseconds(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        sum += schedstat.split(' ').next().unwrap_or("0").parse::<u64>()?;
    }
    Ok(sum)
}

/// The memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.ok_or("no VmRSS")?.parse::<u64>()? * 1024)
}
