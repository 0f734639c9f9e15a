//! `watch`: sessions as they are created, changed, renewed and ended.
//!
//! The server publishes each write to a key if `notify-keyspace-events` says so; `notice.rs` turns that into events. `MONITOR` would
//! need no setting, but halves the speed of a server and shows the values of all sessions, so it is not used.

mod notice;
mod subscriptions;

use std::time::{Duration, SystemTime};

use serde::Serialize;
use sessile::Handle;

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::human::{printable, time};
use crate::interrupt::Interrupt;
use crate::node::Node;
use crate::output::{CYAN, DIM, GREEN, Output, RED, YELLOW, styled};
use crate::place::Place;
use crate::servers::Servers;
use crate::settings::Settings;
use crate::store::{Store, open_to_read};
use crate::watch::notice::{Event, wanted_flags};
use crate::watch::subscriptions::{Subscriptions, Update};

const SETTING: &str = "notify-keyspace-events";

/// How often the servers are looked for again, which may have changed.
const REFRESH: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
struct Line {
    at: String,
    event: Event,
    handle: String,
    /// Only with --details, and if there is a session afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<Option<String>>,
}

pub(crate) async fn run(
    args: &args::Watch,
    settings: &Settings,
    output: &mut Output,
    interrupted: &Interrupt,
) -> Result<Outcome, Failure> {
    let store = open_to_read(settings).await?;
    let place = Place::of(&settings.redis)?;
    let mut enabled = Vec::new();
    let watched = tokio::select! {
        watched = watch(args, settings, &store, &place, &mut enabled, output, interrupted) => watched,
        () = interrupted.cancelled() => Ok(()),
    };
    // Also after a failure, such as a closed pipe.
    restore(&enabled).await;
    interrupted.all_done();
    watched.map(|()| Outcome::Fine)
}

/// A server whose setting was changed, and the setting before.
type Enabled = (Node, String);

async fn watch(
    args: &args::Watch,
    settings: &Settings,
    store: &Store,
    place: &Place,
    enabled: &mut Vec<Enabled>,
    output: &mut Output,
    interrupted: &Interrupt,
) -> Result<(), Failure> {
    let prefix = &settings.redis.key_prefix;
    let mut subscriptions = Subscriptions::new(prefix, args.handle);
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while left > 0 {
        tokio::select! {
            _ = refresh.tick() => {
                for node in subscriptions.nodes() {
                    keep_enabled(&node, args.enable, enabled, interrupted).await?;
                }
                let servers = match subscriptions.is_settled(place) {
                    true => continue,
                    false => Servers::find(place, &settings.redis).await,
                };
                let nodes: Vec<Node> = servers.primaries().cloned().collect();
                for node in subscriptions.missing(&nodes) {
                    let flags = prepare(&node, args.enable, enabled, interrupted).await?;
                    subscriptions.add(&node, flags.as_deref(), settings.redis.connection_timeout).await;
                }
                subscriptions.keep(&nodes);
            }
            update = subscriptions.next() => match update {
                Update::Lost(address) => {
                    anstream::eprintln!("the connection to {address} is lost; what happens until it is back is not shown");
                    // At once, and then every few seconds.
                    refresh.reset_immediately();
                }
                Update::Event(handle, event) => {
                    let line = line(args, store, handle, event).await;
                    print(output, &line, event)?;
                    left -= 1;
                }
            },
        }
    }
    Ok(())
}

/// Makes sure that the server sends notifications. Returns the flags that are set, if the user may see them.
async fn prepare(
    node: &Node,
    may_enable: bool,
    enabled: &mut Vec<Enabled>,
    interrupted: &Interrupt,
) -> Result<Option<String>, Failure> {
    let present = match node.settings(&[SETTING]).await {
        Ok(settings) => settings.text(SETTING).unwrap_or_default().to_owned(),
        Err(refusal) => {
            anstream::eprintln!(
                "cannot see whether {} sends notifications ({}): nothing is shown unless {SETTING} has \"Kg$xe\"",
                node.address(),
                refusal.reason()
            );
            return Ok(None);
        }
    };
    let Some(wanted) = wanted_flags(&present) else {
        return Ok(Some(present));
    };
    if !may_enable {
        return Err(Failure::Store(format!(
            "{} sends no notifications of the kind that this needs. Run it with --enable, which sets them for as long as it runs, or send\n\
             \n    CONFIG SET {SETTING} {wanted}\n\n\
             Its price: for each write to any key, the server looks for subscribers of the key, about a microsecond, and sends a message to \
             those there are",
            node.address()
        )));
    }
    // Before it is sent: a signal may come before the answer.
    interrupted.leave_undone(node.address(), by_hand(node, &present));
    enabled.retain(|(node_before, _)| node_before.address() != node.address());
    enabled.push((node.clone(), present));
    let set = node.ask::<()>(&["CONFIG", "SET", SETTING, &wanted]).await;
    set.map_err(|refusal| {
        let address = node.address();
        Failure::Store(format!(
            "{address} does not accept CONFIG SET: {}",
            refusal.reason()
        ))
    })?;
    Ok(Some(wanted))
}

/// Sees to a server whose setting has changed since: another `watch --enable` puts back what it found, and ends this one's view.
async fn keep_enabled(
    node: &Node,
    may_enable: bool,
    enabled: &mut Vec<Enabled>,
    interrupted: &Interrupt,
) -> Result<(), Failure> {
    // What it may not see, or a connection that is lost, was reported.
    let Ok(settings) = node.settings(&[SETTING]).await else {
        return Ok(());
    };
    if wanted_flags(settings.text(SETTING).unwrap_or_default()).is_none() {
        return Ok(());
    }
    anstream::eprintln!(
        "{} has stopped its notifications, as another `sessile watch --enable` does at its end; what has happened in the last {} seconds may \
         be missing",
        node.address(),
        REFRESH.as_secs()
    );
    prepare(node, may_enable, enabled, interrupted).await?;
    Ok(())
}

async fn restore(enabled: &[Enabled]) {
    for (node, before) in enabled {
        if let Err(refusal) = node.ask::<()>(&["CONFIG", "SET", SETTING, before]).await {
            let by_hand = by_hand(node, before);
            anstream::eprintln!("{by_hand} ({})", refusal.reason());
        }
    }
}

fn by_hand(node: &Node, before: &str) -> String {
    let address = node.address();
    format!("{address} still sends notifications: send it CONFIG SET {SETTING} \"{before}\"")
}

async fn line(args: &args::Watch, store: &Store, handle: Handle, event: Event) -> Line {
    let principal = match args.details && event.leaves_session() {
        // It may have ended meanwhile, or be unreadable.
        true => match store.sessions.find(handle).await {
            Ok(Some(session)) => Some(session.principal().map(str::to_owned)),
            _ => None,
        },
        false => None,
    };
    Line {
        at: time(SystemTime::now()),
        event,
        handle: handle.to_string(),
        principal,
    }
}

fn print(output: &mut Output, line: &Line, event: Event) -> std::io::Result<()> {
    match output.is_json {
        true => output.json_line(line)?,
        false => {
            let style = match event {
                Event::Created => GREEN,
                Event::Changed | Event::Written => CYAN,
                Event::Renewed => DIM,
                Event::Destroyed | Event::Expired => YELLOW,
                Event::Evicted => RED,
            };
            let name = styled(style, format!("{:9}", event.name()));
            let who = match &line.principal {
                None => String::new(),
                Some(None) => "  anonymous".to_owned(),
                Some(Some(principal)) => format!("  {}", printable(principal)),
            };
            output.line(format!("{}  {name}  {}{who}", line.at, line.handle))?;
        }
    }
    output.flush()
}
