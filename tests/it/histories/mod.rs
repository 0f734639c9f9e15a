//! Histories: many browsers use sessions on three nodes and one Redis, all of which fail again and again. Afterwards, a
//! checker decides whether the responses satisfy the guarantees.
//!
//! To read: `workload.rs` (the requests, and the meaning of their responses), `run.rs` (the browsers), `site.rs` and
//! `nemesis.rs` (the servers and their failures), `history.rs` (the record of all that), `checker/` (one file for each
//! group of rules), `report.rs`.
//!
//! - `SESSILE_HISTORY_SECONDS`: the length of a run, 20 seconds by default.
//! - `SESSILE_HISTORY_SEED`: the seed of all random choices; a new one for each run by default. It does not decide what
//!   the scheduler does, so it may take several runs to reproduce a failure.

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
use nemesis::{Failure, Nemesis, Outages};
use report::{Logins, Tally, explain, violations};
use run::{Load, Run};
use site::{Remains, Site};

use crate::support::PATIENCE;

/// The result of one or more runs.
#[derive(Default)]
struct Past {
    lives: Vec<Life>,
    failures: BTreeMap<Failure, u64>,
    events: BTreeMap<String, u64>,
    /// Records that must not be in the store.
    invalid_remains: Vec<String>,
    /// Logouts during outages, by their endings.
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
    failures: &[Failure],
    load: Load,
    length: Duration,
) -> Past {
    let site = Site::start(seed, control).await;
    let (began, end) = (Instant::now(), Instant::now() + length);
    let outages = Arc::new(Outages::since(began));
    let run = Run::new(site.bases(), Arc::clone(&outages), seed, load, began, end);
    let browsers = Arc::new(run);
    let nemesis = Nemesis::of(site, StdRng::seed_from_u64(seed), Arc::clone(&outages));
    let (nemesis, ()) = tokio::join!(nemesis.run(failures, began, end), browsers.browse());
    let mut site = nemesis.site;
    site.drain().await;
    let mut lives = browsers.finish(|| site.remains()).await;
    let invalid_remains = invalid_remains(&site.remains());
    outages.forget_pending_logouts(&mut lives);
    Past {
        outage_logouts: outages.logouts(&lives),
        lives,
        failures: nemesis.done,
        events: site.events(),
        invalid_remains,
    }
}

/// Records in the store that never expire or that mix several owners, unknown sessions included.
fn invalid_remains(remains: &BTreeMap<String, Remains>) -> Vec<String> {
    let check = |(handle, remains): (&String, &Remains)| {
        let page = workload::stored(&remains.record).expect("a record");
        let owners: BTreeSet<&str> = words(&page)
            .into_iter()
            .filter_map(|word| word.split('.').next())
            .collect();
        let is_invalid = remains.time_left <= 0 || owners.len() > 1;
        let text = || {
            format!(
                "{handle} expires in {} ms and belongs to {owners:?}",
                remains.time_left
            )
        };
        is_invalid.then(text)
    };
    remains.iter().filter_map(check).collect()
}

/// Browsers with a few tabs each, and one session that twelve tabs share.
fn many() -> Load {
    let mut tabs: Vec<usize> = (0..16).map(|browser| 2 + browser % 3).collect();
    tabs.push(12);
    Load {
        tabs,
        requests: 15..70,
        rest: 0..150,
        users: 5,
        of_users: 20,
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
    // A slow machine needs more rounds until enough has happened.
    for round in 0.. {
        let length = Duration::from_secs(seconds);
        let more = run(seed + round, None, &Failure::ALL, many(), length).await;
        let violations = violations(&more.lives);
        assert!(
            violations.is_empty(),
            "{}full history: {}\nto repeat: {again}",
            explain(&violations),
            keep(&violations, seed)
        );
        assert_eq!(
            more.invalid_remains,
            Vec::<String>::new(),
            "to repeat: {again}"
        );
        past.add(more);
        let tally = Tally::of(&past.lives);
        println!(
            "{tally}{} sessions\n{:?}\n{:?}\nlogouts in outages: {:?}\n{:?}",
            past.lives.len(),
            past.failures,
            past.events,
            past.outage_logouts,
            Logins::of(&past.lives)
        );
        let missing = missing(&past, &tally, seconds);
        if missing.is_empty() {
            return;
        }
        println!("another round, since these were too rare: {missing:?}");
        assert!(began.elapsed() < 10 * length + PATIENCE, "{missing:?}");
    }
}

impl Past {
    fn add(&mut self, other: Self) {
        self.lives.extend(other.lives);
        for (failure, times) in other.failures {
            *self.failures.entry(failure).or_default() += times;
        }
        for (event, times) in other.events {
            *self.events.entry(event).or_default() += times;
        }
        for (ending, times) in other.outage_logouts {
            *self.outage_logouts.entry(ending).or_default() += times;
        }
    }
}

/// Writes the whole history of all invalid sessions to a file, and returns its path.
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
        let mut ops: Vec<_> = life.ops.iter().chain(&life.of_user).collect();
        ops.sort_by_key(|op| (op.began, op.number));
        ops.dedup_by_key(|op| op.number);
        lines.extend(ops.iter().map(ToString::to_string));
    }
    let path = std::env::temp_dir().join(format!("sessile-history-{seed}.txt"));
    std::fs::write(&path, lines.join("\n")).expect("a writable temporary folder");
    path.display().to_string()
}

/// The operations that were too rare, since a history without operations proves nothing.
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
    want(
        "partly committed",
        tally.count("early", "partly"),
        seconds / 2,
    );
    for what in ["open", "rotate", "login"] {
        want(what, tally.count(what, "ok"), seconds / 2);
    }
    want("list", tally.count("list", "ok"), seconds);
    for what in ["everywhere", "others", "end"] {
        want(what, tally.count(what, "ok"), seconds / 4);
    }
    for what in ["logout", "sign-out"] {
        want(what, tally.count(what, "ok"), seconds / 4);
    }
    want("rejected", tally.all("fail"), seconds);
    want("unknown", tally.all("unknown"), seconds);
    for event in ["Merged", "Together"] {
        let times = past.events.get(event).copied().unwrap_or_default();
        want(event, times, seconds / 4);
    }
    let logins = Logins::of(&past.lives);
    want("logins that joined", logins.joined, seconds / 4);
    want(
        "logins retried after a lost answer",
        logins.again,
        seconds / 20,
    );
    want(
        "sessions with two tokens of one login",
        logins.twins,
        seconds / 4,
    );
    let in_outages = past.outage_logouts.values().sum();
    want("logouts in outages", in_outages, seconds / 2);
    let later = past.outage_logouts.get("later").copied();
    let later = later.unwrap_or_default();
    // A logout whose node is killed later does not count.
    want(
        "logouts retried after an outage",
        later,
        (seconds / 40).max(1),
    );
    let kinds = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let all = kinds(Failure::ALL.len());
    want("failures", kinds(past.failures.len()), all.min(seconds / 4));
    missing
}

/// Few requests for each session with little time between them, so that every session ends among concurrent requests.
fn crowd() -> Load {
    Load {
        tabs: vec![4; 8],
        requests: 8..20,
        rest: 0..20,
        users: 4,
        of_users: 12,
    }
}

/// The same, with many sign-ins and sign-outs of few users.
fn users() -> Load {
    Load {
        users: 2,
        of_users: 200,
        ..crowd()
    }
}

/// Runs with a faulty store or layer until each of these rules was broken.
async fn assert_detects(control: &str, failures: &[Failure], rules: &[Rule]) {
    assert_detects_with(crowd(), control, failures, rules).await;
}

async fn assert_detects_with(load: Load, control: &str, failures: &[Failure], rules: &[Rule]) {
    let began = Instant::now();
    let mut unbroken: BTreeSet<Rule> = rules.iter().copied().collect();
    for seed in 1.. {
        let past = run(
            seed,
            Some(control),
            failures,
            load.clone(),
            Duration::from_secs(4),
        )
        .await;
        let violations = violations(&past.lives);
        println!("{}{}", Tally::of(&past.lives), explain(&violations));
        for (_, violation) in &violations {
            unbroken.remove(&violation.rule);
        }
        if unbroken.is_empty() {
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{control} was not detected: no history broke {unbroken:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_overwrites_other_changes() {
    let rules = [Rule::LostUpdate, Rule::Torn];
    assert_detects("last_write_wins", &[], &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_revives_sessions() {
    assert_detects("revives", &[], &[Rule::NothingAfterLogout]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_resends_blindly() {
    let rules = [Rule::CountedTwice];
    assert_detects("resends_blindly", &[Failure::LoseAnswers], &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_writes_only_changed_fields() {
    assert_detects("patches", &[], &[Rule::Mixed]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_writes_a_part_of_a_transaction() {
    let rules = [Rule::Unbalanced, Rule::StaleResult];
    assert_detects("halves", &[], &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_accepts_a_revoked_token() {
    assert_detects("keeps_logins", &[], &[Rule::DeadLoginJoins]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_store_that_forgets_deletions() {
    assert_detects("forgets_deletions", &[], &[Rule::LogoutForgotten]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_layer_that_denies_a_partial_commit() {
    assert_detects("hides_halves", &[], &[Rule::RefusedButDone]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_an_index_that_forgets_sessions() {
    let rules = [Rule::Unlisted, Rule::OutlivesSignOut];
    assert_detects_with(users(), "forgets_entries", &[], &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_an_index_that_admits_sign_ins_from_before_a_sign_out_everywhere() {
    let rules = [Rule::OutlivesSignOut];
    assert_detects_with(users(), "keeps_generations", &[], &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_an_index_that_confirms_what_it_does_not_hold() {
    let rules = [Rule::OutlivesSignOut];
    assert_detects_with(users(), "confirms_all", &[], &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_sign_out_of_others_that_ends_its_own_session() {
    // So that few other sign-outs could have been the reason.
    let load = Load {
        users: 8,
        ..users()
    };
    assert_detects_with(load, "keeps_none", &[], &[Rule::NotKept]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checker_detects_a_list_with_the_sessions_of_another_user() {
    assert_detects_with(users(), "confuses_users", &[], &[Rule::WronglyListed]).await;
}
