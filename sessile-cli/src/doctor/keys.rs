//! Looks through the keys that begin with the prefix.

use futures_util::future::join_all;
use sessile::{Handle, RedisStore, SessionError, Sessions};

use crate::doctor::facts::Keys;
use crate::human::printable;
use crate::node::{Node, Refusal};
use crate::progress::Progress;
use crate::scan::{Kind, Scan, times_to_live};
use crate::settings::Settings;

/// How many values are read.
const VALUES: u64 = 200;

/// `None` if no server answers. `limit` is the number of keys after which it stops.
pub(crate) async fn examine(
    nodes: &[Node],
    settings: &Settings,
    limit: Option<u64>,
    progress: &mut Progress,
) -> Option<Result<Keys, String>> {
    if nodes.is_empty() {
        return None;
    }
    let store = RedisStore::lazy(settings.redis.clone());
    let sessions = match store {
        Ok(store) => Sessions::new(store),
        Err(error) => return Some(Err(error.to_string())),
    };
    let prefix = &settings.redis.key_prefix;
    let examined = examine_nodes(nodes, &sessions, prefix, limit, progress).await;
    Some(examined.map_err(|refusal| refusal.reason()))
}

async fn examine_nodes(
    nodes: &[Node],
    sessions: &Sessions,
    prefix: &str,
    limit: Option<u64>,
    progress: &mut Progress,
) -> Result<Keys, Refusal> {
    let mut found = Keys::default();
    let mut scans = Vec::new();
    for node in nodes {
        let scan = Scan::new(node, prefix).await?;
        found.of += scan.of;
        scans.push((node, scan));
    }
    // Each server gets its share.
    let share = limit.map(|limit| limit / nodes.len() as u64);
    for (node, mut scan) in scans {
        while let Some(keys) = scan.next().await? {
            add(node, sessions, prefix, &keys, &mut found).await?;
            let done = found.examined + scan.examined;
            progress.set(done, found.of, &format!("{} sessions", found.sessions));
            if share.is_some_and(|share| scan.examined >= share) {
                break;
            }
        }
        found.examined += scan.examined;
    }
    Ok(found)
}

async fn add(
    node: &Node,
    sessions: &Sessions,
    prefix: &str,
    keys: &[Vec<u8>],
    found: &mut Keys,
) -> Result<(), Refusal> {
    let mut ours: Vec<&[u8]> = Vec::new();
    let mut handles: Vec<Handle> = Vec::new();
    for key in keys {
        match Kind::of(key, prefix) {
            Kind::Session(handle) => {
                found.sessions += 1;
                handles.push(handle);
                ours.push(key);
            }
            Kind::Lease | Kind::Index | Kind::Mark => ours.push(key),
            Kind::Foreign => found
                .foreign
                .add(|| printable(&String::from_utf8_lossy(key))),
        }
    }
    if ours.is_empty() {
        return Ok(());
    }
    let left = times_to_live(node, &ours).await?;
    for (key, left) in ours.iter().zip(left) {
        if left == Some(-1) {
            found
                .without_ttl
                .add(|| String::from_utf8_lossy(key).into_owned());
        }
    }
    let rest = VALUES.saturating_sub(found.read);
    handles.truncate(usize::try_from(rest).unwrap_or(usize::MAX));
    let reads = handles.iter().map(|handle| sessions.find(*handle));
    for (handle, read) in handles.iter().zip(join_all(reads).await) {
        match read {
            Ok(Some(_)) => found.read += 1,
            Err(SessionError::Gone(_)) => {
                found.read += 1;
                found.unreadable.add(|| format!("{prefix}{handle}"));
            }
            // It has ended meanwhile, or the server does not answer, which other checks report.
            Ok(None) | Err(_) => {}
        }
    }
    Ok(())
}
