//! All figures, in one file: each command of the driver writes its part, and the table and the charts are made from all.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::app::Shape;
use crate::driver::claims::Claims;
use crate::driver::count::Cost;
use crate::driver::curves::Curves;
use crate::driver::facts::Facts;
use crate::driver::kept::Kept;
use crate::driver::latency::Latency;
use crate::driver::speed::Speed;
use crate::driver::workload::Route;
use crate::peers::Peer;

/// Figures by the name of the peer.
pub type ByPeer<T> = BTreeMap<String, T>;
pub type ByRoute<T> = BTreeMap<Route, T>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Results {
    /// What the sessions contain; each shape has a file of its own.
    #[serde(skip)]
    pub shape: Shape,
    pub facts: Facts,
    /// Peers that were left out, and why.
    pub left_out: BTreeMap<String, String>,
    pub costs: ByPeer<ByRoute<Cost>>,
    /// With sessions drawn from many, and with one session.
    pub speed: ByPeer<ByRoute<Speed>>,
    pub speed_of_one: ByPeer<ByRoute<Speed>>,
    pub latency: ByPeer<ByRoute<Latency>>,
    pub kept: ByPeer<Kept>,
    pub curves: Curves,
    pub claims: Claims,
}

impl Results {
    fn path(shape: Shape) -> PathBuf {
        let folder = root().join("target/peers");
        match shape {
            Shape::Many => folder.join("results.json"),
            Shape::Few => folder.join("results-few.json"),
        }
    }

    /// The figures so far.
    pub fn load(shape: Shape) -> Result<Self> {
        let results = match std::fs::read(Self::path(shape)) {
            Ok(json) => serde_json::from_slice(&json)?,
            Err(_) => Self::default(),
        };
        Ok(Self { shape, ..results })
    }

    pub fn save(&self) -> Result<()> {
        let path = Self::path(self.shape);
        std::fs::create_dir_all(path.parent().ok_or("no folder")?)?;
        Ok(std::fs::write(path, serde_json::to_vec_pretty(self)?)?)
    }

    /// The peers that there are figures of.
    pub fn peers(&self) -> Vec<Peer> {
        let all = <Peer as clap::ValueEnum>::value_variants().iter().copied();
        all.filter(|peer| {
            let name = peer.name();
            self.costs.contains_key(&name) || self.speed.contains_key(&name)
        })
        .collect()
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
