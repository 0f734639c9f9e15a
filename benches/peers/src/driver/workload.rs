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
        let mut client = Client::connect(address)?;
        let seed = request("/seed", "");
        let mut cookies = Vec::with_capacity(number);
        for _ in 0..number {
            let response = client.send(&seed)?;
            match response.status {
                200 => cookies.push(response.cookies()?),
                status => return Err(format!("/seed: {status}").into()),
            }
        }
        Ok(Self(cookies))
    }

    /// The counters of all these sessions, added up.
    pub fn counted(&self, address: SocketAddr) -> Result<u64> {
        let mut client = Client::connect(address)?;
        let mut sum = 0;
        for cookie in &self.0 {
            sum += client.get("/count", cookie)?.parse::<u64>()?;
        }
        Ok(sum)
    }

    pub fn first(&self, number: usize) -> Self {
        Self(self.0[..number.min(self.0.len())].to_vec())
    }
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
