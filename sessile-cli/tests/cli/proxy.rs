//! A proxy that knows when the command scans.

use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What to do at the SCAN of this number, from 1: nothing, or an error instead of an answer.
type AtScan = Arc<Mutex<(usize, Box<dyn FnMut(usize) -> Option<String> + Send>)>>;

pub struct Proxy {
    port: u16,
}

impl Proxy {
    pub fn start(
        server: u16,
        at_scan: impl FnMut(usize) -> Option<String> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let at_scan: AtScan = Arc::new(Mutex::new((0, Box::new(at_scan))));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, at_scan) = (client.unwrap(), at_scan.clone());
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let (back, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || forward(back, to, |_| None));
                std::thread::spawn(move || forward(client, server, |bytes| scans(bytes, &at_scan)));
            }
        });
        Self { port }
    }

    /// A summary of `destroy`.
    pub fn on(&self, text: &str) -> String {
        format!("on 127.0.0.1:{}, keys sessile:*: {text}\n", self.port)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

/// The command waits for the answer to a SCAN before it sends anything else.
fn scans(bytes: &[u8], at_scan: &AtScan) -> Option<String> {
    let is_scan = bytes.windows(9).any(|it| it == b"\r\nSCAN\r\n$");
    if !is_scan {
        return None;
    }
    let (number, act) = &mut *at_scan.lock().unwrap();
    *number += 1;
    act(*number)
}

/// Until either side closes. An error goes back to the sender.
fn forward(mut from: TcpStream, mut to: TcpStream, mut error: impl FnMut(&[u8]) -> Option<String>) {
    let mut bytes = [0; 65_536];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let sent = match error(&bytes[..read]) {
            Some(error) => write!(from, "-{error}\r\n"),
            None => to.write_all(&bytes[..read]),
        };
        if sent.is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
