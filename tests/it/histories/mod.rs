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
use nemesis::{Evil, Nemesis, Outages};
use report::{Logins, Tally, explain, wrong};
use run::{Load, Run};
use site::{Remains, Site};

use crate::support::PATIENCE;

/// What is left of a run, or of several.
#[derive(Default)]
struct Past {
    lives: Vec<Life>,
    evils: BTreeMap<Evil, u64>,
    events: BTreeMap<String, u64>,
    /// What is stored as nothing may be.
    odd_remains: Vec<String>,
    /// Logouts while the store was away, by how they ended.
    outage_logouts: BTreeMap<&'static str, u64>,
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
    let outages = Arc::new(Outages::since(began));
    let run = Run::new(site.bases(), Arc::clone(&outages), seed, load, began, end);
    let browsers = Arc::new(run);
    let nemesis = Nemesis::of(site, StdRng::seed_from_u64(seed), Arc::clone(&outages));
    let (nemesis, ()) = tokio::join!(nemesis.rage(evils, began, end), browsers.browse());
    let mut site = nemesis.site;
    site.settle().await;
    let mut lives = browsers.finish(|| site.remains()).await;
    let odd_remains = odd_remains(&site.remains());
    outages.forget_what_was_put_off(&mut lives);
    Past {
        outage_logouts: outages.logouts(&lives),
        lives,
        evils: nemesis.done,
        events: site.events(),
        odd_remains,
    }
}

/// What does not hold of everything that is stored, also of sessions that nobody knows: that it ends, and is one owner's.
fn odd_remains(remains: &BTreeMap<String, Remains>) -> Vec<String> {
    let odd = |(handle, remains): (&String, &Remains)| {
        let page = workload::stored(&remains.record).expect("a record");
        let owners: BTreeSet<&str> = words(&page)
            .into_iter()
            .filter_map(|word| word.split('.').next())
            .collect();
        let is_odd = remains.time_left <= 0 || owners.len() > 1;
        let text = || {
            format!(
                "{handle} ends in {} ms and is {owners:?}'s",
                remains.time_left
            )
        };
        is_odd.then(text)
    };
    remains.iter().filter_map(odd).collect()
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
async fn under_all_failures_no_change_is_lost_or_applied_twice_and_a_logout_is_final() {
    let seed =
        from_environment("SESSILE_HISTORY_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let seconds = from_environment("SESSILE_HISTORY_SECONDS").unwrap_or(20);
    let again = format!(
        "SESSILE_HISTORY_SEED={seed} SESSILE_HISTORY_SECONDS={seconds} ./scripts/test --test it under_all_failures -- --nocapture"
    );
    println!("{again}");
    let mut past = Past::default();
    let began = Instant::now();
    // On a slow machine less happens in a second, so it goes on until enough has happened.
    for round in 0.. {
        let length = Duration::from_secs(seconds);
        let more = run(seed + round, None, &Evil::ALL, many(), length).await;
        let violations = wrong(&more.lives);
        assert!(
            violations.is_empty(),
            "{}all of it: {}\nagain: {again}",
            explain(&violations),
            keep(&violations, seed)
        );
        assert_eq!(more.odd_remains, Vec::<String>::new(), "again: {again}");
        past.add(more);
        let tally = Tally::of(&past.lives);
        println!(
            "{tally}{} sessions\n{:?}\n{:?}\nlogouts in outages: {:?}\n{:?}",
            past.lives.len(),
            past.evils,
            past.events,
            past.outage_logouts,
            Logins::of(&past.lives)
        );
        let missing = missing(&past, &tally, seconds);
        if missing.is_empty() {
            return;
        }
        println!("not yet enough: {missing:?}");
        assert!(began.elapsed() < 10 * length + PATIENCE, "{missing:?}");
    }
}

impl Past {
    fn add(&mut self, other: Self) {
        self.lives.extend(other.lives);
        for (evil, times) in other.evils {
            *self.evils.entry(evil).or_default() += times;
        }
        for (event, times) in other.events {
            *self.events.entry(event).or_default() += times;
        }
        for (ending, times) in other.outage_logouts {
            *self.outage_logouts.entry(ending).or_default() += times;
        }
    }
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

/// What has not happened often enough: a history in which nothing happens proves nothing.
fn missing(past: &Past, tally: &Tally, seconds: u64) -> Vec<String> {
    let mut missing = Vec::new();
    let mut want = |what: &str, times: u64, least: u64| {
        if times < least {
            missing.push(format!("{times} of {least} {what}"));
        }
    };
    for what in [
        "count", "number", "write", "add", "push", "line", "pair", "say", "show", "offer", "take",
        "look", "form", "move",
    ] {
        want(what, tally.count(what, "ok"), 3 * seconds);
    }
    want("early", tally.count("early", "ok"), seconds);
    want("half done", tally.count("early", "partly"), seconds / 2);
    for what in ["open", "rotate", "login"] {
        want(what, tally.count(what, "ok"), seconds / 2);
    }
    for what in ["logout", "sign-out"] {
        want(what, tally.count(what, "ok"), seconds / 4);
    }
    want("refused", tally.all("fail"), seconds);
    want("unknown", tally.all("unknown"), seconds);
    for event in ["Merged", "Together"] {
        let times = past.events.get(event).copied().unwrap_or_default();
        want(event, times, seconds / 4);
    }
    let logins = Logins::of(&past.lives);
    want("logins that have joined", logins.joined, seconds / 4);
    want(
        "logins again after a lost answer",
        logins.again,
        seconds / 20,
    );
    want("sessions that two logins opened", logins.twins, seconds / 4);
    let in_outages = past.outage_logouts.values().sum();
    want("logouts in outages", in_outages, seconds / 2);
    let later = past.outage_logouts.get("later").copied();
    let later = later.unwrap_or_default();
    // One whose node is killed later on does not count.
    want("logouts done after an outage", later, (seconds / 40).max(1));
    let kinds = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let all = kinds(Evil::ALL.len());
    want("evils", kinds(past.evils.len()), all.min(seconds / 4));
    missing
}

/// Fewer requests a session and hardly a rest, so that every session meets its end in a crowd.
fn crowd() -> Load {
    Load {
        tabs: vec![4; 8],
        requests: 8..20,
        rest: 0..20,
    }
}

/// Runs with stores that are broken on purpose, until each of the rules is seen broken.
async fn finds(control: &str, evils: &[Evil], rules: &[Rule]) {
    let began = Instant::now();
    let mut hold: BTreeSet<Rule> = rules.iter().copied().collect();
    for seed in 1.. {
        let past = run(seed, Some(control), evils, crowd(), Duration::from_secs(4)).await;
        let violations = wrong(&past.lives);
        println!("{}{}", Tally::of(&past.lives), explain(&violations));
        for (_, violation) in &violations {
            hold.remove(&violation.rule);
        }
        if hold.is_empty() {
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{control} is not found out: {hold:?} hold"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_overwrites_other_changes() {
    let rules = [Rule::LostUpdate, Rule::Torn];
    finds("last_write_wins", &[], &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_revives_sessions() {
    finds("revives", &[], &[Rule::NothingAfterLogout]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_resends_blindly() {
    let rules = [Rule::CountedTwice];
    finds("resends_blindly", &[Evil::LoseAnswers], &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_writes_only_changed_fields() {
    finds("patches", &[], &[Rule::Mixed]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_writes_a_part_of_a_transaction() {
    let rules = [Rule::Unbalanced, Rule::StaleResult];
    finds("halves", &[], &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_accepts_a_revoked_token() {
    finds("keeps_logins", &[], &[Rule::DeadLoginJoins]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_forgets_deletions() {
    finds("forgets_deletions", &[], &[Rule::LogoutForgotten]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_layer_that_denies_a_partial_commit() {
    finds("hides_halves", &[], &[Rule::RefusedButDone]).await;
}
