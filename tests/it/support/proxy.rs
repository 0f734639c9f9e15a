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

/// What to do with requests that contain a word.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The server never gets the request; the connection is closed.
    LoseRequest,
    /// The server does what it is asked; the connection is closed instead of the answer.
    LoseAnswer,
    /// The server does what it is asked; the answer never comes, and the connection stays open.
    SwallowAnswer,
}

/// How a line misbehaves, by chance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// The fault, and how many of a thousand requests suffer it.
    pub fault: Option<(Fault, u32)>,
    /// Every request is held back for up to this long, and arrives even if its sender has given it up meanwhile.
    pub delay: Duration,
}

/// A request that the proxy has, and the server has not got yet.
#[derive(Clone)]
pub struct Hold(Arc<Held>);

struct Held {
    word: &'static str,
    arrived: Semaphore,
    released: Semaphore,
}

impl Hold {
    /// Waits until there is such a request.
    pub async fn arrived(&self) {
        self.0.arrived.acquire().await.unwrap().forget();
    }

    /// Lets it go on.
    pub fn release(&self) {
        self.0.released.add_permits(1);
    }
}

struct Shared {
    server: Mutex<SocketAddr>,
    round_trips: AtomicU64,
    /// The first suffers until its number is used up.
    faults: Mutex<VecDeque<(&'static str, Fault, usize)>>,
    delay: AtomicU64,
    weather: Mutex<(Weather, StdRng)>,
    /// What is held back until the test says so.
    hold: Mutex<Option<Hold>>,
    /// Requests that have not been passed on yet.
    under_way: AtomicU64,
    passed_on: Notify,
    /// Grows when all connections are to be closed.
    cuts: watch::Sender<u64>,
    /// Grows when all connections go silent.
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

    /// A proxy whose weather comes from a seed.
    pub async fn seeded(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Shared {
            server: Mutex::new(server),
            round_trips: AtomicU64::default(),
            faults: Mutex::default(),
            delay: AtomicU64::default(),
            weather: Mutex::new((Weather::default(), StdRng::seed_from_u64(seed))),
            hold: Mutex::default(),
            under_way: AtomicU64::default(),
            passed_on: Notify::new(),
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

    /// Closes all connections; new ones lead to another server, as after a failover.
    pub fn lead_to(&self, server: SocketAddr) {
        *self.shared.server.lock().unwrap() = server;
        self.cut();
    }

    /// How often a connection has asked and then waited for the answer.
    pub fn round_trips(&self) -> u64 {
        self.shared.round_trips.load(Ordering::SeqCst)
    }

    /// The next `times` requests that contain `word` suffer `fault`.
    pub fn inject(&self, word: &'static str, fault: Fault, times: usize) {
        self.inject_in_order([(word, fault, times)]);
    }

    /// The same of one kind of requests after the other.
    pub fn inject_in_order<const N: usize>(&self, faults: [(&'static str, Fault, usize); N]) {
        *self.shared.faults.lock().unwrap() = faults.into();
    }

    /// Holds back the next request that contains `word`; nothing else goes over its connection meanwhile.
    pub fn hold(&self, word: &'static str) -> Hold {
        let hold = Hold(Arc::new(Held {
            word,
            arrived: Semaphore::new(0),
            released: Semaphore::new(0),
        }));
        *self.shared.hold.lock().unwrap() = Some(hold.clone());
        hold
    }

    /// Holds back the next compare-and-set.
    pub fn hold_commit(&self) -> Hold {
        self.hold(commit_word())
    }

    /// Waits until every request that came so far has been passed on, or lost.
    pub async fn is_clear(&self) {
        loop {
            let passed_on = self.shared.passed_on.notified();
            if self.shared.under_way.load(Ordering::SeqCst) == 0 {
                return;
            }
            passed_on.await;
        }
    }

    /// The next compare-and-set suffers `fault`, and so do its repetitions, up to this many times in all.
    pub fn inject_commits(&self, fault: Fault, times: usize) {
        let word = commit_word();
        if word != "EXEC" || times == 0 {
            return self.inject(word, fault, times);
        }
        // A repetition looks first, and once more if the connection is closed.
        let looks = match fault {
            Fault::SwallowAnswer => 1,
            Fault::LoseRequest | Fault::LoseAnswer => 2,
        };
        let repetitions = ("WATCH", fault, looks * (times - 1));
        self.inject_in_order([(word, fault, 1), repetitions]);
    }

    /// How many of the faults have not happened yet.
    pub fn faults_left(&self) -> usize {
        let faults = self.shared.faults.lock().unwrap();
        faults.iter().map(|(_, _, times)| times).sum()
    }

    /// Holds every request back for this long.
    pub fn delay(&self, by: Duration) {
        self.shared
            .delay
            .store(by.as_micros().try_into().unwrap(), Ordering::SeqCst);
    }

    /// How it misbehaves from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.shared.weather.lock().unwrap().0 = weather;
    }

    /// Nothing goes over the connections that there are any more, and nobody is told; new ones work.
    pub fn silence(&self) {
        self.shared.silences.fetch_add(1, Ordering::SeqCst);
    }

    /// Closes all connections.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// What every compare-and-set contains.
fn commit_word() -> &'static str {
    match super::compare_and_set() {
        CompareAndSet::Watch => "EXEC",
        CompareAndSet::IfEq => "IFEQ",
        _ => "EVALSHA",
    }
}

/// Whether the word is an argument: a handle may hold any two letters.
fn contains(request: &[u8], word: &str) -> bool {
    let word = format!("\r\n{word}\r\n");
    request
        .windows(word.len())
        .any(|part| part == word.as_bytes())
}

/// A request between its arrival and its being passed on.
struct UnderWay<'a>(&'a Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        self.0.passed_on.notify_waiters();
    }
}

impl Shared {
    fn under_way(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(self)
    }

    /// Takes the hold that is meant for this request.
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

    /// What chance brings to one request.
    fn chance(&self) -> (Option<Fault>, Duration) {
        let mut weather = self.weather.lock().unwrap();
        let (Weather { fault, delay }, dice) = &mut *weather;
        let fault = fault.and_then(|(fault, of_a_thousand)| {
            (dice.random_range(0..1000) < of_a_thousand).then_some(fault)
        });
        (fault, delay.mul_f64(dice.random()))
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
                let _under_way = shared.under_way();
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
                    // The server has done it once it has answered.
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
