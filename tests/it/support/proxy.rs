//! A TCP proxy between the store and Redis: counts round trips, delays, and loses requests or answers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

use sessile::CompareAndSet;

/// The fault that a request suffers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The server never gets the request, and the connection is closed.
    LoseRequest,
    /// The server executes the request, and the connection is closed instead of the answer.
    LoseAnswer,
    /// The server executes the request, the answer never arrives, and the connection stays open.
    SwallowAnswer,
}

/// Random faults of the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RandomFaults {
    /// The fault, and its rate per thousand requests.
    pub fault: Option<(Fault, u32)>,
    /// Every request is delayed by up to this long, and arrives even if its sender has given up.
    pub delay: Duration,
}

/// A request that has reached the proxy and not the server.
#[derive(Clone)]
pub struct Hold(Arc<Held>);

struct Held {
    word: &'static str,
    arrived: Semaphore,
    released: Semaphore,
}

impl Hold {
    /// Waits until such a request has arrived.
    pub async fn arrived(&self) {
        self.0.arrived.acquire().await.unwrap().forget();
    }

    /// Forwards the request.
    pub fn release(&self) {
        self.0.released.add_permits(1);
    }
}

struct Shared {
    server: Mutex<SocketAddr>,
    round_trips: AtomicU64,
    /// Faults to inject, in order: the word, the fault, and how often it still happens.
    faults: Mutex<VecDeque<(&'static str, Fault, usize)>>,
    delay: AtomicU64,
    random_faults: Mutex<(RandomFaults, StdRng)>,
    /// The request that the proxy holds until the test releases it.
    hold: Mutex<Option<Hold>>,
    /// Requests that have not been forwarded yet.
    in_flight: AtomicU64,
    forwarded: Notify,
    /// Incremented to close all connections.
    cuts: watch::Sender<u64>,
    /// Incremented to make all connections silent.
    silences: AtomicU64,
}

#[derive(Clone)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    pub async fn before(server: SocketAddr) -> Self {
        Self::seeded(server, 0).await
    }

    /// A proxy whose random faults depend on a seed.
    pub async fn seeded(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Shared {
            server: Mutex::new(server),
            round_trips: AtomicU64::default(),
            faults: Mutex::default(),
            delay: AtomicU64::default(),
            random_faults: Mutex::new((RandomFaults::default(), StdRng::seed_from_u64(seed))),
            hold: Mutex::default(),
            in_flight: AtomicU64::default(),
            forwarded: Notify::new(),
            cuts: watch::Sender::default(),
            silences: AtomicU64::default(),
        };
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(shared),
        };
        let shared = Arc::clone(&proxy.shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                let server = *shared.server.lock().unwrap();
                tokio::spawn(async move {
                    let mut cuts = shared.cuts.subscribe();
                    tokio::select! {
                        () = relay(client, server, &shared) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections. New ones lead to another server, as after a failover.
    pub fn lead_to(&self, server: SocketAddr) {
        *self.shared.server.lock().unwrap() = server;
        self.cut();
    }

    /// The number of round trips: requests after which a connection waited for an answer.
    pub fn round_trips(&self) -> u64 {
        self.shared.round_trips.load(Ordering::SeqCst)
    }

    /// The next `times` requests that contain `word` suffer `fault`.
    pub fn inject(&self, word: &'static str, fault: Fault, times: usize) {
        self.inject_in_order([(word, fault, times)]);
    }

    /// Like [`inject`](Self::inject), for one kind of requests after the other.
    pub fn inject_in_order<const N: usize>(&self, faults: [(&'static str, Fault, usize); N]) {
        *self.shared.faults.lock().unwrap() = faults.into();
    }

    /// Holds the next request that contains `word`. Its connection forwards nothing else meanwhile.
    pub fn hold(&self, word: &'static str) -> Hold {
        let hold = Hold(Arc::new(Held {
            word,
            arrived: Semaphore::new(0),
            released: Semaphore::new(0),
        }));
        *self.shared.hold.lock().unwrap() = Some(hold.clone());
        hold
    }

    /// Holds the next compare-and-set.
    pub fn hold_commit(&self) -> Hold {
        self.hold(commit_word())
    }

    /// Waits until every request so far has been forwarded or lost.
    pub async fn is_clear(&self) {
        loop {
            let forwarded = self.shared.forwarded.notified();
            if self.shared.in_flight.load(Ordering::SeqCst) == 0 {
                return;
            }
            forwarded.await;
        }
    }

    /// The next compare-and-set and its resends suffer `fault`, up to this many times in all.
    pub fn inject_commits(&self, fault: Fault, times: usize) {
        let word = commit_word();
        if word != "EXEC" || times == 0 {
            return self.inject(word, fault, times);
        }
        // A resend starts with `WATCH`, and does so once more if the connection is closed.
        let watches = match fault {
            Fault::SwallowAnswer => 1,
            Fault::LoseRequest | Fault::LoseAnswer => 2,
        };
        let repetitions = ("WATCH", fault, watches * (times - 1));
        self.inject_in_order([(word, fault, 1), repetitions]);
    }

    /// The number of injected faults that have not happened yet.
    pub fn faults_left(&self) -> usize {
        let faults = self.shared.faults.lock().unwrap();
        faults.iter().map(|(_, _, times)| times).sum()
    }

    /// Delays every request by this long.
    pub fn delay(&self, by: Duration) {
        self.shared
            .delay
            .store(by.as_micros().try_into().unwrap(), Ordering::SeqCst);
    }

    /// Sets the random faults from now on.
    pub fn set_random_faults(&self, random_faults: RandomFaults) {
        self.shared.random_faults.lock().unwrap().0 = random_faults;
    }

    /// Makes all open connections silent, without closing them. New ones work.
    pub fn silence(&self) {
        self.shared.silences.fetch_add(1, Ordering::SeqCst);
    }

    /// Closes all connections.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// A word that every compare-and-set contains.
fn commit_word() -> &'static str {
    match super::compare_and_set() {
        CompareAndSet::Watch => "EXEC",
        CompareAndSet::IfEq => "IFEQ",
        _ => "EVALSHA",
    }
}

/// Whether the word is a whole argument of a request for a session. A handle may contain the same letters; what a sign-in does
/// to the index of its principal is left alone.
fn contains(request: &[u8], word: &str) -> bool {
    const INDEX: &[u8] = b"of:{";
    if request.windows(INDEX.len()).any(|part| part == INDEX) {
        return false;
    }
    let word = format!("\r\n{word}\r\n");
    request
        .windows(word.len())
        .any(|part| part == word.as_bytes())
}

/// A request that has arrived and has not been forwarded yet.
struct InFlight<'a>(&'a Shared);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.0.forwarded.notify_waiters();
    }
}

impl Shared {
    fn in_flight(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        InFlight(self)
    }

    /// Takes the hold for this request, if there is one.
    fn hold(&self, request: &[u8]) -> Option<Hold> {
        let mut hold = self.hold.lock().unwrap();
        hold.take_if(|hold| contains(request, hold.0.word))
    }

    fn fault(&self, request: &[u8]) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        faults.retain(|(_, _, left)| *left > 0);
        let (word, fault, left) = faults.front_mut()?;
        let found = contains(request, word);
        found.then(|| {
            *left -= 1;
            *fault
        })
    }

    /// The random fault and delay of one request.
    fn chance(&self) -> (Option<Fault>, Duration) {
        let mut random_faults = self.random_faults.lock().unwrap();
        let (RandomFaults { fault, delay }, rng) = &mut *random_faults;
        let fault = fault.and_then(|(fault, per_thousand)| {
            (rng.random_range(0..1000) < per_thousand).then_some(fault)
        });
        (fault, delay.mul_f64(rng.random()))
    }
}

async fn relay(mut client: TcpStream, server: SocketAddr, shared: &Shared) {
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut request, mut answer) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let mut waiting = false;
    let mut swallow = false;
    let silences = || shared.silences.load(Ordering::SeqCst);
    let born = silences();
    loop {
        tokio::select! {
            read = client.read(&mut request) => {
                let Ok(length @ 1..) = read else { return };
                if silences() > born {
                    continue;
                }
                if !waiting {
                    shared.round_trips.fetch_add(1, Ordering::SeqCst);
                    waiting = true;
                }
                let _in_flight = shared.in_flight();
                let hold = shared.hold(&request[..length]);
                if let Some(Hold(held)) = hold {
                    held.arrived.add_permits(1);
                    held.released.acquire().await.unwrap().forget();
                }
                let (chance, held_back) = shared.chance();
                let delay = Duration::from_micros(shared.delay.load(Ordering::SeqCst)) + held_back;
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let fault = shared.fault(&request[..length]).or(chance);
                if fault == Some(Fault::LoseRequest) {
                    return;
                }
                if server.write_all(&request[..length]).await.is_err() {
                    return;
                }
                if fault == Some(Fault::LoseAnswer) {
                    // Once the server has answered, it has executed the request.
                    let _ = server.read(&mut answer).await;
                    return;
                }
                swallow |= fault == Some(Fault::SwallowAnswer);
            }
            read = server.read(&mut answer) => {
                let Ok(length @ 1..) = read else { return };
                waiting = false;
                if !swallow && silences() == born && client.write_all(&answer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
