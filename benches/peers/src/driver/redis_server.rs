//! A redis-server of the driver's own.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::Connection;
use tempfile::TempDir;

use crate::Result;
use crate::driver::cores::{self, Cores};

const STARTED: Duration = Duration::from_secs(10);

pub struct RedisServer {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl RedisServer {
    /// Starts the server of `REDIS_SERVER`, or the one in `PATH`.
    pub fn start() -> Result<Self> {
        let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = TempDir::new()?;
        let mut command = Command::new(&program);
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = cores::spawn(&mut command, Cores::Driver)
            .map_err(|error| format!("{program}: {error}; set REDIS_SERVER to its path"))?;
        let server = Self {
            process,
            port,
            _folder: folder,
        };
        let began = Instant::now();
        while server.connect().is_err() {
            if began.elapsed() > STARTED {
                return Err(format!("{program} does not answer on port {port}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self) -> String {
        format!("redis://{}/", self.address())
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn connect(&self) -> Result<Connection> {
        let connection = redis::Client::open(self.url())?.get_connection()?;
        connection.set_read_timeout(None)?;
        Ok(connection)
    }

    /// A field of `INFO`.
    pub fn info(&self, field: &str) -> Result<String> {
        let info: String = redis::cmd("INFO").query(&mut self.connect()?)?;
        let mut fields = info.lines().filter_map(|line| line.trim().split_once(':'));
        let value = fields.find(|(name, _)| *name == field);
        Ok(value.ok_or("INFO lacks a field")?.1.to_owned())
    }

    /// Whether the server knows a command.
    pub fn knows(&self, command: &str) -> Result<bool> {
        let mut query = redis::cmd("COMMAND");
        query.arg("INFO").arg(command);
        let reply: Vec<redis::Value> = query.query(&mut self.connect()?)?;
        Ok(matches!(reply.first(), Some(redis::Value::Array(_))))
    }

    /// How often sessions were written: the calls of `SET` and its like, also those of scripts.
    pub fn writes(&self) -> Result<u64> {
        let stats: String = redis::cmd("INFO")
            .arg("commandstats")
            .query(&mut self.connect()?)?;
        let mut sum = 0;
        for line in stats.lines() {
            let fields = line.trim().strip_prefix("cmdstat_");
            if let Some((name, fields)) = fields.and_then(|it| it.split_once(":calls="))
                && ["set", "setex", "psetex"].contains(&name)
            {
                sum += fields.split(',').next().unwrap_or("0").parse::<u64>()?;
            }
        }
        Ok(sum)
    }

    pub fn flush(&self) -> Result<()> {
        redis::cmd("FLUSHALL").exec(&mut self.connect()?)?;
        Ok(())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
