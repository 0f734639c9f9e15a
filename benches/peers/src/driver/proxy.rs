//! A proxy between a peer and Redis that counts commands, round trips and bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::Result;
use crate::driver::resp::Commands;

/// What went through.
#[derive(Debug, Default)]
pub struct Traffic {
    commands: AtomicU64,
    round_trips: AtomicU64,
    to_redis: AtomicU64,
    from_redis: AtomicU64,
}

impl Traffic {
    /// Commands, round trips, bytes to Redis and bytes from Redis.
    pub fn read(&self) -> [u64; 4] {
        let counts = [
            &self.commands,
            &self.round_trips,
            &self.to_redis,
            &self.from_redis,
        ];
        counts.map(|count| count.load(Ordering::SeqCst))
    }
}

/// Starts a proxy, which runs until the driver ends.
pub fn start(redis: SocketAddr) -> Result<(SocketAddr, Arc<Traffic>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let traffic = Arc::<Traffic>::default();
    let counts = traffic.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if let Ok(server) = TcpStream::connect(redis) {
                forward(client, server, &counts);
            }
        }
    });
    Ok((address, traffic))
}

/// A round trip is one or more reads of commands, and the first read of a reply after them.
fn forward(client: TcpStream, server: TcpStream, traffic: &Arc<Traffic>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client_reader), Ok(server_reader)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let sent = Arc::new(AtomicBool::new(false));
    let (counts, asked) = (traffic.clone(), sent.clone());
    std::thread::spawn(move || {
        let mut commands = Commands::default();
        copy(client_reader, server, |bytes| {
            asked.store(true, Ordering::SeqCst);
            counts
                .commands
                .fetch_add(commands.begun_in(bytes), Ordering::SeqCst);
            counts
                .to_redis
                .fetch_add(bytes.len() as u64, Ordering::SeqCst);
        });
    });
    let counts = traffic.clone();
    std::thread::spawn(move || {
        copy(server_reader, client, |bytes| {
            let answers = u64::from(sent.swap(false, Ordering::SeqCst));
            counts.round_trips.fetch_add(answers, Ordering::SeqCst);
            counts
                .from_redis
                .fetch_add(bytes.len() as u64, Ordering::SeqCst);
        });
    });
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut count: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        // Counted first, so that the count is there once the peer has the reply.
        count(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
