//! What is requested: a route, and the sessions that it is requested for.

use std::net::SocketAddr;

use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::app::{OK, READ_VALUE};
use crate::driver::http::{Client, Response, request};

/// A route of the application that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    None,
    Read,
    Change,
}

impl Route {
    pub const ALL: [Self; 3] = [Self::None, Self::Read, Self::Change];

    pub fn path(self) -> &'static str {
        match self {
            Self::None => "/none",
            Self::Read => "/read",
            Self::Change => "/change",
        }
    }

    /// Whether a response is the one that the application gives.
    pub fn accepts(self, response: &Response<'_>) -> bool {
        response.status == 200
            && match self {
                Self::None => response.body == OK.as_bytes(),
                Self::Read => response.body == READ_VALUE.as_bytes(),
                Self::Change => {
                    !response.body.is_empty() && response.body.iter().all(u8::is_ascii_digit)
                }
            }
    }
}

/// Sessions by their cookies.
#[derive(Clone, Debug)]
pub struct Sessions(pub Vec<String>);

impl Sessions {
    /// Creates sessions on a peer.
    pub fn create(address: SocketAddr, number: usize) -> Result<Self> {
        let seed = request("/seed", "");
        let cookies = on_connections(address, &vec![(); number], |client, ()| {
            let response = client.send(&seed)?;
            match response.status {
                200 => response.cookies(),
                status => Err(format!("/seed: {status}").into()),
            }
        });
        Ok(Self(cookies?))
    }

    /// Reads every session once.
    pub fn visit(&self, address: SocketAddr) -> Result<()> {
        on_connections(address, &self.0, |client, cookie| {
            client.get(Route::Read.path(), cookie)
        })?;
        Ok(())
    }

    /// The counters of all these sessions, added up.
    pub fn counted(&self, address: SocketAddr) -> Result<u64> {
        let counts = on_connections(address, &self.0, |client, cookie| {
            Ok(client.get("/count", cookie)?.parse::<u64>()?)
        });
        Ok(counts?.into_iter().sum())
    }

    pub fn first(&self, number: usize) -> Self {
        Self(self.0[..number.min(self.0.len())].to_vec())
    }
}

/// Does something for each of these on one connection; if they are many, on several at once.
fn on_connections<T: Sync, R: Send>(
    address: SocketAddr,
    items: &[T],
    each: impl Fn(&mut Client, &T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    const PER_CONNECTION: usize = 1000;
    const MOST: usize = 16;
    let connections = (items.len() / PER_CONNECTION).clamp(1, MOST);
    let part = items.len().div_ceil(connections).max(1);
    let each = &each;
    std::thread::scope(|threads| {
        let parts = items.chunks(part).map(|items| {
            threads.spawn(move || -> Result<Vec<R>> {
                let mut client = Client::connect(address)?;
                items.iter().map(|item| each(&mut client, item)).collect()
            })
        });
        let mut done = Vec::with_capacity(items.len());
        for part in parts.collect::<Vec<_>>() {
            done.extend(part.join().map_err(|_| "a thread panicked")??);
        }
        Ok(done)
    })
}

/// Requests of one route, each for a session drawn at random.
#[derive(Clone, Debug)]
pub struct Workload {
    pub route: Route,
    requests: Vec<Vec<u8>>,
    random: SmallRng,
}

impl Workload {
    pub fn new(route: Route, sessions: &Sessions) -> Self {
        let requests = sessions.0.iter();
        Self {
            route,
            requests: requests
                .map(|cookie| request(route.path(), cookie))
                .collect(),
            random: SmallRng::seed_from_u64(1),
        }
    }

    /// The next request.
    pub fn draw(&mut self) -> &[u8] {
        let at = match self.requests.len() {
            1 => 0,
            number => self.random.random_range(0..number),
        };
        &self.requests[at]
    }

    /// Sends this many requests, one after the other.
    pub fn send(&mut self, client: &mut Client, number: u64) -> Result<()> {
        let route = self.route;
        for _ in 0..number {
            let response = client.send(self.draw())?;
            if !route.accepts(&response) {
                return Err(format!("{}: {}", route.path(), response.status).into());
            }
        }
        Ok(())
    }
}
