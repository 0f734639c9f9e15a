//! Many browsers, three nodes and one Redis, all of which break again and again; and a checker that decides afterwards
//! whether what happened is what the crate promises.
//!
//! - `SESSILE_HISTORY_SECONDS`: how long it takes, 20 by default.
//! - `SESSILE_HISTORY_SEED`: which choices are made; a new one each time by default. The seed does not decide what the
//!   scheduler does, so a seed that has found something may have to be tried a few times.

mod checker;
mod history;
mod nemesis;
mod report;
mod run;
mod site;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use checker::{Rule, Violation, words};
use history::Life;
use nemesis::{Evil, Nemesis};
use report::{Tally, explain, wrong};
use run::{Load, Run};
use site::{Remains, Site};

/// How long requests that nobody waits for any more may still be at work.
const AFTERMATH: Duration = Duration::from_secs(2);

/// What is left of a run.
struct Past {
    lives: Vec<Life>,
    evils: BTreeMap<Evil, u64>,
    events: BTreeMap<String, u64>,
}

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} = {value}: write a whole number")),
    )
}

async fn run(
    seed: u64,
    control: Option<&str>,
    evils: &[Evil],
    load: Load,
    length: Duration,
) -> Past {
    let site = Site::start(seed, control).await;
    let (began, end) = (Instant::now(), Instant::now() + length);
    let browsers = Arc::new(Run::new(site.bases(), seed, load, began, end));
    let nemesis = Nemesis::of(site, StdRng::seed_from_u64(seed));
    let (nemesis, ()) = tokio::join!(nemesis.rage(evils, began, end), browsers.browse());
    tokio::time::sleep(AFTERMATH).await;
    let site = nemesis.site;
    let lives = browsers.finish(|| site.remains()).await;
    check_remains(&site.remains());
    Past {
        lives,
        evils: nemesis.done,
        events: site.events(),
    }
}

/// What holds of everything that is stored, also of sessions that nobody knows.
fn check_remains(remains: &BTreeMap<String, Remains>) {
    for (handle, remains) in remains {
        assert!(remains.time_left > 0, "{handle} never ends");
        let page = workload::stored(&remains.record).expect("a record");
        let owners: BTreeSet<&str> = words(&page)
            .into_iter()
            .filter_map(|word| word.split('.').next())
            .collect();
        assert!(
            owners.len() <= 1,
            "{handle} holds what belongs to {owners:?}"
        );
    }
}

/// Browsers with a few tabs each, and one session that twelve tabs share.
fn many() -> Load {
    let mut tabs: Vec<usize> = (0..16).map(|browser| 2 + browser % 3).collect();
    tabs.push(12);
    Load {
        tabs,
        requests: 15..70,
        rest: 0..150,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_nothing_is_lost_or_done_twice_and_a_logout_is_final() {
    let seed =
        from_environment("SESSILE_HISTORY_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let seconds = from_environment("SESSILE_HISTORY_SECONDS").unwrap_or(20);
    let again = format!(
        "SESSILE_HISTORY_SEED={seed} SESSILE_HISTORY_SECONDS={seconds} ./scripts/test --test it whatever_breaks -- --nocapture"
    );
    println!("{again}");
    let past = run(seed, None, &Evil::ALL, many(), Duration::from_secs(seconds)).await;
    let tally = Tally::of(&past.lives);
    println!(
        "{tally}{} sessions\n{:?}\n{:?}",
        past.lives.len(),
        past.evils,
        past.events
    );
    let violations = wrong(&past.lives);
    assert!(
        violations.is_empty(),
        "{}all of it: {}\nagain: {again}",
        explain(&violations),
        keep(&violations, seed)
    );
    assert_exercised(&past, &tally, seconds);
}

/// Writes down all that happened to the sessions that are wrong, and says where.
fn keep(violations: &[(&Life, Violation)], seed: u64) -> String {
    let lives: BTreeMap<&str, &Life> = violations
        .iter()
        .map(|(life, _)| (life.tag.as_str(), *life))
        .collect();
    let mut lines: Vec<String> = violations
        .iter()
        .map(|(life, violation)| format!("{}: {violation}", life.tag))
        .collect();
    for (tag, life) in lives {
        lines.push(format!("\n{tag}"));
        lines.extend(life.ops.iter().map(ToString::to_string));
    }
    let path = std::env::temp_dir().join(format!("sessile-history-{seed}.txt"));
    std::fs::write(&path, lines.join("\n")).expect("a place for the history");
    path.display().to_string()
}

/// A history in which nothing happens proves nothing.
fn assert_exercised(past: &Past, tally: &Tally, seconds: u64) {
    for what in [
        "count", "number", "write", "add", "push", "line", "pair", "say", "show", "offer", "take",
        "look",
    ] {
        let done = tally.count(what, "ok");
        assert!(done >= 3 * seconds, "only {done} of {what}");
    }
    for what in ["open", "rotate", "login", "logout"] {
        let done = tally.count(what, "ok");
        assert!(done >= seconds / 2, "only {done} of {what}");
    }
    let (fail, unknown) = (tally.all("fail"), tally.all("unknown"));
    assert!(
        fail >= seconds && unknown >= seconds,
        "{fail} refused, {unknown} unknown"
    );
    for event in ["Merged", "Together"] {
        let count = past.events.get(event).copied().unwrap_or_default();
        assert!(count >= seconds / 4, "only {count} commits {event}");
    }
    let kinds = usize::try_from(seconds / 4).unwrap_or(usize::MAX);
    assert!(
        past.evils.len() >= kinds.min(Evil::ALL.len()),
        "only {:?}",
        past.evils
    );
}

/// Fewer requests a session and hardly a rest, so that every session meets its end in a crowd.
fn crowd() -> Load {
    Load {
        tabs: vec![4; 8],
        requests: 8..20,
        rest: 0..20,
    }
}

/// Runs with stores that are broken on purpose, until the rule is seen broken.
async fn finds(control: &str, evils: &[Evil], rule: Rule) {
    for seed in 1..=3 {
        let past = run(seed, Some(control), evils, crowd(), Duration::from_secs(4)).await;
        let violations = wrong(&past.lives);
        println!("{}{}", Tally::of(&past.lives), explain(&violations));
        if violations
            .iter()
            .any(|(_, violation)| violation.rule == rule)
        {
            return;
        }
    }
    panic!("{control} is not found out: {rule:?} holds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_writes_over_others_is_found_out() {
    finds("last_write_wins", &[], Rule::LostUpdate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_revives_sessions_is_found_out() {
    finds("revives", &[], Rule::NothingAfterLogout).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_resends_blindly_is_found_out() {
    finds("resends_blindly", &[Evil::LoseAnswers], Rule::CountedTwice).await;
}
