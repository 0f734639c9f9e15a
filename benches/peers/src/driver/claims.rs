//! Single design decisions, each with a figure.

use std::hint::black_box;
use std::time::{Duration, Instant};

use redis::Commands as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Result;
use crate::app::{Contents, LIFETIME, Shape, values};
use crate::driver::cores::{self, Cores};
use crate::driver::fleet::Running;
use crate::driver::http::Client;
use crate::driver::process::cpu_nanoseconds;
use crate::driver::redis_server::RedisServer;
use crate::driver::stats::Quartiles;
use crate::driver::workload::{Route, Workload};
use crate::peers::Peer;

/// Figures by what was measured, in the order in which they were.
pub type Claims = Vec<Claim>;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    pub subject: String,
    pub figures: Vec<(String, f64)>,
}

const KIB: [f64; 3] = [1.2, 16.0, 64.0];

pub fn all(redis: &RedisServer) -> Result<Claims> {
    // The other core is free here, so that the client does not compete with Redis.
    cores::bind(Cores::Peer)?;
    let mut claims = Vec::new();
    expire(redis, &mut claims)?;
    json(&mut claims)?;
    scan(redis, &mut claims)?;
    cores::bind(Cores::Driver)?;
    dirty(redis, &mut claims)?;
    redis.flush()?;
    Ok(claims)
}

fn claim(claims: &mut Claims, subject: impl Into<String>, figures: &[(&str, f64)]) {
    let figures = figures.iter().map(|(name, it)| ((*name).to_owned(), *it));
    claims.push(Claim {
        subject: subject.into(),
        figures: figures.collect(),
    });
}

/// What it costs to extend a lifetime: `EXPIRE`, or writing the session again.
fn expire(redis: &RedisServer, claims: &mut Claims) -> Result<()> {
    const COMMANDS: u32 = 100_000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = redis::Client::open(redis.url())?;
    for (subject, bytes) in [
        ("EXPIRE", 0),
        ("SETEX of 1.2 KiB", 1229),
        ("SETEX of 16 KiB", 16 * 1024),
    ] {
        let value = vec![b'x'; bytes.max(1229)];
        let mut connection = redis.connect()?;
        connection.set_ex::<_, _, ()>(EXTENDED, &value, LIFETIME.as_secs())?;
        let mut command = redis::cmd(if bytes == 0 { "EXPIRE" } else { "SETEX" });
        command.arg(EXTENDED).arg(LIFETIME.as_secs());
        if bytes > 0 {
            command.arg(value);
        }
        // Once to warm up.
        runtime.block_on(send(&client, &command, COMMANDS / 10))?;
        let used = || -> Result<[u64; 2]> {
            Ok([
                cpu_nanoseconds(std::process::id())?,
                cpu_nanoseconds(redis.pid())?,
            ])
        };
        let before = used()?;
        let began = Instant::now();
        runtime.block_on(send(&client, &command, COMMANDS))?;
        let elapsed = began.elapsed().as_secs_f64();
        let after = used()?;
        let each = |at: usize| (after[at] - before[at]) as f64 / 1000.0 / f64::from(COMMANDS);
        claim(
            claims,
            subject,
            &[
                ("client CPU, µs", each(0)),
                ("Redis CPU, µs", each(1)),
                ("commands a second", f64::from(COMMANDS) / elapsed),
            ],
        );
    }
    Ok(())
}

const EXTENDED: &str = "extended";

/// Sends a command this often, from 64 tasks that share a connection.
async fn send(client: &redis::Client, command: &redis::Cmd, times: u32) -> Result<()> {
    const TASKS: u32 = 64;
    let connection = client.get_multiplexed_async_connection().await?;
    let task = || {
        let (mut connection, command) = (connection.clone(), command.clone());
        tokio::spawn(async move {
            for _ in 0..times / TASKS {
                command.exec_async(&mut connection).await?;
            }
            Ok::<_, redis::RedisError>(())
        })
    };
    let tasks: Vec<_> = (0..TASKS).map(|_| task()).collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

fn contents(kib: f64) -> Contents {
    Contents {
        bytes: (kib * 1024.0) as usize,
        shape: Shape::Many,
    }
}

/// What it costs to decode a session: as a whole, or split into values that stay as they are.
fn json(claims: &mut Claims) -> Result<()> {
    for kib in KIB {
        let map: std::collections::BTreeMap<_, _> = values(contents(kib)).into_iter().collect();
        let json = serde_json::to_vec(&map)?;
        let whole = microseconds(|| {
            black_box(serde_json::from_slice::<serde_json::Value>(black_box(
                &json,
            ))?);
            Ok(())
        })?;
        let simd = microseconds(|| {
            let mut scratch = black_box(&json).clone();
            let value: serde_json::Value = simd_json::serde::from_slice(&mut scratch)?;
            black_box(value);
            Ok(())
        })?;
        let borrowed = microseconds(|| {
            let mut scratch = black_box(&json).clone();
            black_box(simd_json::to_borrowed_value(&mut scratch)?);
            Ok(())
        })?;
        let split = microseconds(|| {
            let entries: std::collections::BTreeMap<&str, &RawValue> =
                serde_json::from_slice(black_box(&json))?;
            black_box(entries);
            Ok(())
        })?;
        claim(
            claims,
            format!("decoding a session of {kib} KiB, µs"),
            &[
                ("serde_json, whole", whole),
                ("simd-json, whole", simd),
                ("simd-json, its own borrowed value", borrowed),
                ("serde_json, split into raw values", split),
            ],
        );
    }
    Ok(())
}

/// The median of some batches.
fn microseconds(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    const BATCH: Duration = Duration::from_millis(20);
    let mut batches = Vec::new();
    for _ in 0..11 {
        let began = Instant::now();
        let mut runs = 0;
        while began.elapsed() < BATCH {
            for _ in 0..10 {
                run()?;
            }
            runs += 10;
        }
        batches.push(began.elapsed().as_secs_f64() * 1e6 / f64::from(runs));
    }
    Ok(Quartiles::of(batches).median)
}

/// How often sessions are written if half of the requests only read.
fn dirty(redis: &RedisServer, claims: &mut Claims) -> Result<()> {
    const PAIRS: u64 = 500;
    for peer in [
        Peer::Sessile,
        Peer::TowerSessions,
        Peer::TowerSessionsAlwaysSave,
    ] {
        let running = Running::start(redis, peer, 1)?;
        let mut client = Client::connect(running.address())?;
        let mut read = Workload::new(Route::Read, &running.sessions);
        let mut change = Workload::new(Route::Change, &running.sessions);
        let before = redis.writes()?;
        for _ in 0..PAIRS {
            read.send(&mut client, 1)?;
            change.send(&mut client, 1)?;
        }
        let writes = redis.writes()? - before;
        claim(
            claims,
            format!("{}: {PAIRS} reads and {PAIRS} changes", peer.name()),
            &[("writes", writes as f64)],
        );
    }
    Ok(())
}

/// How long a scan takes, and how long it makes others wait.
fn scan(redis: &RedisServer, claims: &mut Claims) -> Result<()> {
    const KEYS: usize = 100_000;
    redis.flush()?;
    let mut connection = redis.connect()?;
    let mut fill = redis::pipe();
    for at in 0..KEYS {
        fill.set(format!("session:{at}"), "x").ignore();
    }
    fill.exec(&mut connection)?;
    for count in [100_usize, 1000] {
        let (mut times, mut waits) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let done = std::sync::atomic::AtomicBool::new(false);
            let (time, wait) = std::thread::scope(|threads| -> Result<_> {
                let waiting = threads.spawn(|| -> Result<f64> {
                    let mut connection = redis.connect()?;
                    let mut longest = Duration::ZERO;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let began = Instant::now();
                        connection.get::<_, String>("session:1")?;
                        longest = longest.max(began.elapsed());
                    }
                    Ok(longest.as_secs_f64() * 1000.0)
                });
                let scanned = scan_all(&mut connection, count);
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                let wait = waiting.join().map_err(|_| "a thread panicked")??;
                Ok((scanned?, wait))
            })?;
            times.push(time);
            waits.push(wait);
        }
        claim(
            claims,
            format!("SCAN COUNT {count} over {KEYS} keys, ms"),
            &[
                ("the scan", Quartiles::of(times).median),
                (
                    "longest wait of a GET meanwhile",
                    Quartiles::of(waits).median,
                ),
            ],
        );
    }
    Ok(())
}

fn scan_all(connection: &mut redis::Connection, count: usize) -> Result<f64> {
    let began = Instant::now();
    let mut cursor = 0_u64;
    loop {
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("COUNT").arg(count);
        let (next, _): (u64, Vec<String>) = command.query(connection)?;
        cursor = next;
        if cursor == 0 {
            return Ok(began.elapsed().as_secs_f64() * 1000.0);
        }
    }
}
