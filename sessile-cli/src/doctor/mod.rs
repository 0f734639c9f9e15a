//! `doctor`: checks the server for what would harm sessions.
//!
//! 1. `gather.rs` asks all servers; `permissions.rs` finds the commands that the user may not send, `keys.rs` looks through the
//!    keys. The answers are `facts.rs: Facts`.
//! 2. `judge/` turns facts into findings (`finding.rs: Finding`). It asks nothing, so tables test it.
//! 3. `report.rs` prints them.
//!
//! It writes nothing, but what `RedisStore::from_config` sends to a key that does not exist.

pub(crate) mod facts;
pub(crate) mod finding;
mod gather;
mod judge;
mod keys;
mod permissions;
mod report;

use crate::args;
use crate::doctor::finding::Severity;
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::place::Place;
use crate::progress::{Progress, Shown};
use crate::servers::Servers;
use crate::settings::Settings;

pub(crate) use gather::gather_node;

/// How many keys are examined unless all are.
const SAMPLE: u64 = 10_000;

pub(crate) async fn run(
    args: &args::Doctor,
    settings: &Settings,
    output: &mut Output,
    shown: Shown,
) -> Result<Outcome, Failure> {
    let store = gather::store(settings).await?;
    let place = Place::of(&settings.redis)?;
    let servers = Servers::find(&place, &settings.redis).await;
    let mut facts = gather::gather(settings, &place, &servers, store).await;
    let nodes: Vec<_> = servers.primaries().cloned().collect();
    facts.permissions = permissions::check(&nodes, args.acl_user.as_deref(), settings).await;
    let limit = (!args.full).then_some(SAMPLE);
    let mut progress = Progress::new(shown, "keys");
    facts.keys = keys::examine(&nodes, settings, limit, &mut progress).await;
    drop(progress);

    let findings = judge::judge(&facts);
    report::print(output, &facts, &findings)?;
    let worst = findings.iter().map(|it| it.severity).max();
    let least = match args.fail_on {
        args::FailOn::Note => Severity::Note,
        args::FailOn::Warning => Severity::Warning,
        args::FailOn::Problem => Severity::Problem,
    };
    if facts.is_unreachable() {
        return Err(Failure::Store(
            "no server could be reached: see the report".to_owned(),
        ));
    }
    Ok(match worst >= Some(least) {
        true => Outcome::Found,
        false => Outcome::Fine,
    })
}
