//! Tables of the rules: valid histories, and histories that break one rule.

use proptest::prelude::*;
use serde_json::json;

use super::registers::{Cluster, contradiction};
use super::{Rule, check, smallest};
use crate::histories::history::{Ending, Fields, Life, Moment, Op, Page, Seen, What};
use crate::support::ledger::Bank;

const TAG: &str = "s1";

/// The user of its logins.
const USER: &str = "u1";

const LOGOUT: What = What::Logout { route: "logout" };
/// A logout route whose answer does not name the owner.
const SIGN_OUT: What = What::Logout { route: "sign-out" };

fn op(began: Moment, ended: Moment, what: What, ending: Ending) -> Op {
    Op {
        number: began,
        browser: 0,
        tab: 0,
        node: 0,
        token: Some(0),
        what,
        began,
        ended,
        ending,
        given: None,
    }
}

fn done(seen: Seen) -> Ending {
    Ending::Done {
        owner: Some(TAG.into()),
        seen,
    }
}

/// An acknowledged operation.
fn ok(began: Moment, ended: Moment, what: What) -> Op {
    op(began, ended, what, done(Seen::Nothing))
}

fn refused(began: Moment, ended: Moment, what: What) -> Op {
    op(began, ended, what, Ending::NotDone("409"))
}

fn unknown(began: Moment, ended: Moment, what: What) -> Op {
    op(began, ended, what, Ending::Unknown("lost"))
}

fn shut_out(began: Moment, ended: Moment, what: What) -> Op {
    let ending = Ending::Done {
        owner: None,
        seen: Seen::Nothing,
    };
    op(began, ended, what, ending)
}

/// A read of the session's data.
fn look(began: Moment, ended: Moment, data: serde_json::Value) -> Op {
    let page = Page {
        data: serde_json::from_value(data).unwrap(),
        ..Page::default()
    };
    op(began, ended, What::Look, done(Seen::Page(page)))
}

fn waiting(began: Moment, ended: Moment, flashes: &[&str]) -> Op {
    let page = Page {
        flashes: flashes.iter().map(ToString::to_string).collect(),
        ..Page::default()
    };
    op(began, ended, What::Look, done(Seen::Page(page)))
}

fn show(began: Moment, ended: Moment, texts: &[&str]) -> Op {
    let texts = texts.iter().map(ToString::to_string).collect();
    op(began, ended, What::Show, done(Seen::Texts(texts)))
}

fn taken(began: Moment, ended: Moment, token: Option<&str>) -> Op {
    let seen = Seen::Taken(token.map(str::to_owned));
    op(began, ended, take(), done(seen))
}

fn number(began: Moment, ended: Moment, number: i64) -> Op {
    op(began, ended, What::Number, done(Seen::Number(number)))
}

fn rotated(began: Moment, ended: Moment) -> Op {
    Op {
        given: Some(1),
        ..ok(began, ended, What::Rotate)
    }
}

fn with_token(token: usize, op: Op) -> Op {
    Op {
        token: Some(token),
        ..op
    }
}

fn without_token(op: Op) -> Op {
    Op { token: None, ..op }
}

fn nothing_stored(began: Moment) -> Op {
    op(
        began,
        began,
        What::Inspect,
        Ending::Done {
            owner: None,
            seen: Seen::Absent,
        },
    )
}

fn push(item: &str) -> What {
    What::Push { item: item.into() }
}

fn add(item: &str) -> What {
    What::Add { item: item.into() }
}

fn line(item: &str, quantity: u64) -> What {
    What::Line {
        item: item.into(),
        quantity,
    }
}

fn write(value: &str) -> What {
    What::Write {
        key: "reg:0".into(),
        value: value.into(),
    }
}

fn say(text: &str) -> What {
    What::Say { text: text.into() }
}

fn offer(token: &str) -> What {
    What::Offer {
        key: "token:0".into(),
        token: token.into(),
    }
}

fn take() -> What {
    What::Take {
        key: "token:0".into(),
    }
}

fn form(changes: Fields, value: &str) -> What {
    let value = value.into();
    What::Form { value, changes }
}

/// A saved form, with the fields that it had loaded.
fn saved(began: Moment, ended: Moment, form: What, loaded: [Option<&str>; 2]) -> Op {
    let loaded = loaded.map(|field| field.map(str::to_owned));
    op(began, ended, form, done(Seen::Form(loaded)))
}

fn filled(began: Moment, ended: Moment, form: [Option<&str>; 2]) -> Op {
    let [first, second] = form;
    look(
        began,
        ended,
        json!({ "form.first": first, "form.second": second }),
    )
}

fn transfer(name: &str, from: usize, amount: i64) -> What {
    let name = name.into();
    What::Move { name, from, amount }
}

fn bank(balances: [i64; 2], last: Option<&str>) -> Bank {
    let last = last.map(str::to_owned);
    Bank { balances, last }
}

/// A transaction that moved five from the first account to the second.
fn moved(began: Moment, ended: Moment, name: &str, before: Bank) -> Op {
    let [one, other] = before.balances;
    let after = bank([one - 5, other + 5], Some(name));
    let seen = Seen::Moved(before, after);
    op(began, ended, transfer(name, 0, 5), done(seen))
}

fn aborted(began: Moment, ended: Moment, amount: i64, seen: Bank) -> Op {
    let what = transfer("s1.9", 0, amount);
    op(began, ended, what, done(Seen::Aborted(seen)))
}

fn accounts(began: Moment, ended: Moment, bank: &Bank) -> Op {
    let [one, other] = bank.balances;
    look(
        began,
        ended,
        json!({ "account:0": one, "account:1": other, "account:last": bank.last }),
    )
}

fn early(item: &str) -> What {
    let item = item.into();
    What::Early {
        item,
        refuse: false,
    }
}

fn partly(began: Moment, ended: Moment, what: What) -> Op {
    op(began, ended, what, Ending::Partly)
}

fn signed_in(began: Moment, ended: Moment, given: usize) -> Op {
    Op {
        given: Some(given),
        ..ok(began, ended, What::Login)
    }
}

/// A login with a revoked token that joined.
fn joined(began: Moment, ended: Moment, given: usize) -> Op {
    Op {
        given: Some(given),
        ..shut_out(began, ended, What::Login)
    }
}

fn open() -> Op {
    let opened = op(1, 2, What::Open, done(Seen::Page(Page::default())));
    Op {
        given: Some(0),
        ..opened
    }
}

fn life() -> Life {
    Life {
        tag: TAG.into(),
        user: USER.into(),
        handle: Some("handle".into()),
        ..Life::default()
    }
}

/// The broken rules, each once.
fn broken(ops: &[Op]) -> Vec<Rule> {
    let life = Life {
        ops: ops.to_vec(),
        ..life()
    };
    let mut rules: Vec<Rule> = check(&life)
        .iter()
        .map(|violation| violation.rule)
        .collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

fn assert_rules(table: &[(&str, &[Op], &[Rule])]) {
    for (name, ops, expected) in table {
        assert_eq!(broken(ops), *expected, "{name}");
    }
}

#[test]
fn counters() {
    use What::Count;
    let ok = |began, ended| ok(began, ended, Count);
    let n = |began, ended, n: i64| look(began, ended, json!({ "count": n }));
    assert_rules(&[
        (
            "counted",
            &[open(), ok(10, 20), ok(10, 20), n(30, 40, 2)],
            &[],
        ),
        (
            "unanswered, visible or not",
            &[open(), ok(10, 30), n(20, 25, 1), n(20, 25, 0)],
            &[],
        ),
        (
            "unknown and not applied",
            &[open(), unknown(10, 20, Count), n(30, 40, 0)],
            &[],
        ),
        (
            "unknown and applied later",
            &[open(), unknown(10, 20, Count), n(30, 40, 0), n(50, 60, 1)],
            &[],
        ),
        (
            "lost",
            &[open(), ok(10, 20), ok(10, 20), n(30, 40, 1)],
            &[Rule::LostUpdate],
        ),
        (
            "visible, then lost",
            &[open(), ok(10, 20), n(30, 40, 1), n(50, 60, 0)],
            &[Rule::LostUpdate],
        ),
        (
            "twice",
            &[open(), ok(10, 20), n(30, 40, 2)],
            &[Rule::CountedTwice],
        ),
        (
            "unknown twice",
            &[open(), unknown(10, 20, Count), n(30, 40, 2)],
            &[Rule::CountedTwice],
        ),
        (
            "rejected but applied",
            &[open(), refused(10, 20, Count), n(30, 40, 1), ok(50, 60)],
            &[Rule::CountedTwice],
        ),
        (
            "applied twice in between",
            &[open(), ok(10, 20), n(30, 40, 1), ok(50, 60), n(70, 80, 3)],
            &[Rule::CountedTwice],
        ),
        (
            "lost, then applied twice",
            &[open(), ok(10, 20), n(30, 40, 0), ok(50, 60), n(70, 80, 2)],
            &[Rule::LostUpdate, Rule::CountedTwice],
        ),
        (
            "unknown, visible, then lost",
            &[
                open(),
                ok(10, 20),
                unknown(10, 20, Count),
                n(30, 40, 2),
                n(50, 60, 1),
            ],
            &[Rule::LostUpdate],
        ),
    ]);
}

#[test]
fn numbers() {
    assert_rules(&[
        (
            "one number each",
            &[
                number(10, 20, 1),
                number(15, 25, 3),
                number(15, 25, 2),
                number(30, 40, 4),
            ],
            &[],
        ),
        (
            "twice",
            &[number(10, 20, 1), number(15, 25, 1)],
            &[Rule::NumberGivenTwice],
        ),
        (
            "later and lower",
            &[number(10, 20, 2), number(30, 40, 1)],
            &[Rule::NumberGivenTwice],
        ),
        (
            "later and lower, with another in between that overlaps both",
            &[number(10, 20, 3), number(15, 45, 2), number(30, 40, 1)],
            &[Rule::NumberGivenTwice],
        ),
        (
            "returned but not stored",
            &[number(10, 20, 2), look(30, 40, json!({ "number": 1 }))],
            &[Rule::LostUpdate],
        ),
        (
            "stored before it is returned",
            &[look(10, 20, json!({ "number": 2 })), number(30, 40, 2)],
            &[Rule::NumberGivenTwice],
        ),
        (
            "returned and not yet read, or read and not yet returned",
            &[
                number(10, 40, 2),
                look(20, 25, json!({ "number": 1 })),
                look(30, 35, json!({ "number": 2 })),
            ],
            &[],
        ),
    ]);
}

#[test]
fn items_of_sets_lists_and_carts() {
    let list = |began, ended, items: &[&str]| look(began, ended, json!({ "list": items }));
    let set = |began, item: &str| look(began, began + 5, json!({ (format!("set:{item}")): item }));
    let cart = |began, item: &str, n: u64| look(began, began + 5, json!({ "cart": { (item): n } }));
    let none = |began| look(began, began + 5, json!({}));
    assert_rules(&[
        ("a set", &[ok(10, 20, add("s1.1")), set(30, "s1.1")], &[]),
        (
            "a set, lost",
            &[ok(10, 20, add("s1.1")), none(30)],
            &[Rule::LostUpdate],
        ),
        (
            "a set, unknown",
            &[unknown(10, 20, add("s1.1")), none(30), set(40, "s1.1")],
            &[],
        ),
        (
            "a set, visible and then lost",
            &[unknown(10, 20, add("s1.1")), set(30, "s1.1"), none(40)],
            &[Rule::LostUpdate],
        ),
        (
            "a set, rejected",
            &[refused(10, 20, add("s1.1")), none(30)],
            &[],
        ),
        (
            "a set, rejected but present",
            &[refused(10, 20, add("s1.1")), set(30, "s1.1")],
            &[Rule::RefusedButDone],
        ),
        (
            "a set, visible before its request",
            &[set(10, "s1.1"), ok(30, 40, add("s1.1"))],
            &[Rule::NeverWritten],
        ),
        (
            "a set, of another session",
            &[
                rotated(1, 2),
                shut_out(10, 20, add("s1.1")),
                set(30, "s1.1"),
            ],
            &[Rule::RefusedButDone, Rule::DeadTokenOpens],
        ),
        (
            "a cart",
            &[ok(10, 20, line("s1.1", 3)), cart(30, "s1.1", 3)],
            &[],
        ),
        (
            "a cart, twice",
            &[ok(10, 20, line("s1.1", 3)), cart(30, "s1.1", 6)],
            &[Rule::CountedTwice],
        ),
        (
            "a cart, lost",
            &[ok(10, 20, line("s1.1", 3)), none(30)],
            &[Rule::LostUpdate],
        ),
        (
            "a list",
            &[
                ok(10, 20, push("s1.1")),
                ok(30, 40, push("s1.2")),
                list(50, 60, &["s1.1", "s1.2"]),
            ],
            &[],
        ),
        (
            "a list, concurrent pushes in any order",
            &[
                ok(10, 40, push("s1.1")),
                ok(30, 40, push("s1.2")),
                list(50, 60, &["s1.2", "s1.1"]),
            ],
            &[],
        ),
        (
            "a list, out of order",
            &[
                ok(10, 20, push("s1.1")),
                ok(30, 40, push("s1.2")),
                list(50, 60, &["s1.2", "s1.1"]),
            ],
            &[Rule::OutOfOrder],
        ),
        (
            "a list, out of order with another in between",
            &[
                ok(10, 20, push("s1.1")),
                ok(15, 40, push("s1.2")),
                ok(30, 40, push("s1.3")),
                list(50, 60, &["s1.3", "s1.2", "s1.1"]),
            ],
            &[Rule::OutOfOrder],
        ),
        (
            "a list, changed at its start",
            &[
                ok(10, 40, push("s1.1")),
                ok(10, 40, push("s1.2")),
                list(20, 25, &["s1.2"]),
                list(50, 60, &["s1.1", "s1.2"]),
            ],
            &[Rule::OutOfOrder],
        ),
        (
            "a list, twice",
            &[ok(10, 20, push("s1.1")), list(30, 40, &["s1.1", "s1.1"])],
            &[Rule::CountedTwice],
        ),
        (
            "a list, lost",
            &[ok(10, 20, push("s1.1")), list(30, 40, &[])],
            &[Rule::LostUpdate],
        ),
    ]);
}

#[test]
fn registers() {
    let read = |began, ended, value: &str| look(began, ended, json!({ "reg:0": value }));
    let none = |began, ended| look(began, ended, json!({}));
    assert_rules(&[
        (
            "written and read",
            &[none(1, 2), ok(10, 20, write("s1.1")), read(30, 40, "s1.1")],
            &[],
        ),
        (
            "concurrent read, old or new",
            &[
                ok(10, 30, write("s1.1")),
                none(20, 25),
                read(20, 25, "s1.1"),
            ],
            &[],
        ),
        (
            "the later write wins",
            &[
                ok(10, 30, write("s1.1")),
                ok(10, 30, write("s1.2")),
                read(40, 50, "s1.1"),
            ],
            &[],
        ),
        (
            "lost",
            &[ok(10, 20, write("s1.1")), none(30, 40)],
            &[Rule::NotLinearizable],
        ),
        (
            "an older value returns",
            &[
                ok(10, 20, write("s1.1")),
                ok(30, 40, write("s1.2")),
                read(50, 60, "s1.1"),
            ],
            &[Rule::NotLinearizable],
        ),
        (
            "alternating values",
            &[
                ok(10, 20, write("s1.1")),
                ok(10, 20, write("s1.2")),
                read(30, 40, "s1.1"),
                read(50, 60, "s1.2"),
                read(70, 80, "s1.1"),
            ],
            &[Rule::NotLinearizable],
        ),
        (
            "new, then old",
            &[
                ok(10, 60, write("s1.1")),
                read(20, 25, "s1.1"),
                none(30, 40),
            ],
            &[Rule::NotLinearizable],
        ),
        (
            "unknown and applied late",
            &[
                unknown(10, 20, write("s1.1")),
                none(30, 40),
                read(50, 60, "s1.1"),
            ],
            &[],
        ),
        (
            "unknown and never applied",
            &[unknown(10, 20, write("s1.1")), none(30, 40), none(50, 60)],
            &[],
        ),
        (
            "unknown and overwritten",
            &[
                unknown(10, 20, write("s1.1")),
                ok(30, 40, write("s1.2")),
                read(50, 60, "s1.2"),
            ],
            &[],
        ),
        (
            "read before its request",
            &[read(10, 20, "s1.1"), ok(30, 40, write("s1.1"))],
            &[Rule::NotLinearizable],
        ),
        (
            "rejected but read",
            &[refused(10, 20, write("s1.1")), read(30, 40, "s1.1")],
            &[Rule::RefusedButDone],
        ),
        (
            "never written",
            &[ok(10, 20, write("s1.1")), read(15, 40, "s1.7")],
            &[Rule::NeverWritten],
        ),
    ]);
}

#[test]
fn pairs_are_written_whole() {
    let pair = What::Pair {
        value: "s1.1".into(),
    };
    let both = json!({ "pair.left": "s1.1", "pair.right": "s1.1" });
    assert_rules(&[
        ("both", &[ok(10, 20, pair.clone()), look(30, 40, both)], &[]),
        (
            "neither",
            &[ok(10, 40, pair.clone()), look(30, 35, json!({}))],
            &[],
        ),
        (
            "half",
            &[
                ok(10, 40, pair),
                look(30, 35, json!({ "pair.left": "s1.1" })),
            ],
            &[Rule::HalfDone],
        ),
    ]);
}

#[test]
fn messages() {
    let added = || ok(10, 20, say("s1.1"));
    let shown = |began| show(began, began + 5, &["s1.1"]);
    assert_rules(&[
        (
            "shown once",
            &[
                added(),
                waiting(25, 26, &["s1.1"]),
                shown(30),
                waiting(40, 45, &[]),
                show(50, 55, &[]),
            ],
            &[],
        ),
        ("still stored", &[added(), waiting(30, 40, &["s1.1"])], &[]),
        (
            "unknown, taken or not",
            &[added(), unknown(30, 40, What::Show), waiting(50, 60, &[])],
            &[],
        ),
        (
            "unknown, stored or not",
            &[
                unknown(10, 20, say("s1.1")),
                waiting(30, 40, &[]),
                shown(50),
            ],
            &[],
        ),
        (
            "twice",
            &[added(), shown(30), shown(32)],
            &[Rule::ShownTwice],
        ),
        (
            "twice on one page",
            &[added(), show(30, 40, &["s1.1", "s1.1"])],
            &[Rule::ShownTwice],
        ),
        (
            "shown and still stored",
            &[added(), shown(30), waiting(50, 60, &["s1.1"])],
            &[Rule::ShownTwice],
        ),
        (
            "stored twice",
            &[added(), waiting(50, 60, &["s1.1", "s1.1"])],
            &[Rule::CountedTwice],
        ),
        (
            "lost",
            &[added(), waiting(30, 40, &[])],
            &[Rule::MessageLost],
        ),
        (
            "lost, while another request shows others",
            &[added(), show(5, 15, &[]), waiting(30, 40, &[])],
            &[Rule::MessageLost],
        ),
        (
            "lost, and a page shows none",
            &[added(), show(30, 40, &[])],
            &[Rule::MessageLost],
        ),
        (
            "taken after it was missing",
            &[added(), waiting(30, 40, &[]), shown(50)],
            &[Rule::MessageLost],
        ),
        (
            "in order",
            &[
                added(),
                ok(30, 40, say("s1.2")),
                show(50, 60, &["s1.1", "s1.2"]),
            ],
            &[],
        ),
        (
            "concurrent, in any order",
            &[
                added(),
                ok(15, 40, say("s1.2")),
                show(50, 60, &["s1.2", "s1.1"]),
            ],
            &[],
        ),
        (
            "out of order",
            &[
                added(),
                ok(30, 40, say("s1.2")),
                show(50, 60, &["s1.2", "s1.1"]),
            ],
            &[Rule::OutOfOrder],
        ),
        (
            "after a later one, since it arrived after its browser had given up",
            &[
                unknown(10, 20, say("s1.1")),
                ok(30, 40, say("s1.2")),
                waiting(50, 60, &["s1.2", "s1.1"]),
                show(70, 80, &["s1.2", "s1.1"]),
            ],
            &[],
        ),
        (
            "out of order, after an unknown one that had not begun",
            &[
                added(),
                unknown(30, 40, say("s1.2")),
                show(50, 60, &["s1.2", "s1.1"]),
            ],
            &[Rule::OutOfOrder],
        ),
        (
            "missing from a page that began before it and shows a later one",
            &[added(), ok(30, 40, say("s1.2")), show(5, 60, &["s1.2"])],
            &[Rule::MessageLost],
        ),
        (
            "not yet on a page that began before it",
            &[added(), show(5, 60, &[])],
            &[],
        ),
        (
            "visible before its request",
            &[shown(1), added()],
            &[Rule::NeverWritten],
        ),
        (
            "rejected but shown",
            &[refused(10, 20, say("s1.1")), shown(30)],
            &[Rule::RefusedButDone],
        ),
        (
            "rejected but stored",
            &[refused(10, 20, say("s1.1")), waiting(30, 40, &["s1.1"])],
            &[Rule::RefusedButDone],
        ),
    ]);
}

#[test]
fn one_time_tokens() {
    let offered = || ok(10, 20, offer("s1.1"));
    let there = |began| look(began, began + 5, json!({ "token:0": "s1.1" }));
    let gone = |began| look(began, began + 5, json!({}));
    let won = |began| taken(began, began + 5, Some("s1.1"));
    assert_rules(&[
        (
            "one winner",
            &[offered(), there(25), won(30), taken(32, 36, None), gone(50)],
            &[],
        ),
        (
            "unknown, taken or not",
            &[offered(), unknown(30, 40, take()), gone(50)],
            &[],
        ),
        (
            "two winners",
            &[offered(), won(30), won(32)],
            &[Rule::TakenTwice],
        ),
        (
            "taken and still stored",
            &[offered(), won(30), there(50)],
            &[Rule::TakenTwice],
        ),
        ("lost", &[offered(), gone(30)], &[Rule::LostUpdate]),
        (
            "missing for a request",
            &[offered(), taken(30, 35, None)],
            &[Rule::LostUpdate],
        ),
        (
            "rejected but taken",
            &[refused(10, 20, offer("s1.1")), won(30)],
            &[Rule::RefusedButDone],
        ),
        (
            "taken before it was stored",
            &[won(1), offered()],
            &[Rule::NeverWritten],
        ),
        (
            "another's",
            &[offered(), taken(30, 35, Some("s2.1"))],
            &[Rule::NeverWritten, Rule::Isolation],
        ),
    ]);
}

#[test]
fn logouts() {
    let logout = || ok(10, 20, LOGOUT);
    let later = || op(10, 20, LOGOUT, Ending::Later);
    let stored = |began| {
        let page = done(Seen::Page(Page::default()));
        op(began, began, What::Inspect, page)
    };
    let sight = |began| look(began, began + 5, json!({}));
    let stranger = |began| shut_out(began, began + 5, What::Look);
    assert_rules(&[
        (
            "final",
            &[logout(), sight(15), stranger(30), nothing_stored(50)],
            &[],
        ),
        ("refused", &[refused(10, 20, LOGOUT), sight(30)], &[]),
        (
            "unknown, session gone",
            &[unknown(10, 20, LOGOUT), stranger(30), nothing_stored(50)],
            &[],
        ),
        (
            "unknown, session present, then gone",
            &[unknown(10, 20, LOGOUT), sight(30), stranger(40)],
            &[],
        ),
        (
            "pending, then done",
            &[later(), sight(30), stranger(40), nothing_stored(50)],
            &[],
        ),
        (
            "pending and forgotten",
            &[later(), sight(30), stored(50)],
            &[Rule::LogoutForgotten],
        ),
        (
            "partial commit after the logout",
            &[logout(), partly(30, 40, early("s1.1"))],
            &[Rule::NothingAfterLogout],
        ),
        (
            "request accepted after the logout",
            &[logout(), sight(30)],
            &[Rule::NothingAfterLogout],
        ),
        (
            "write accepted after the logout",
            &[logout(), ok(30, 40, What::Count)],
            &[Rule::NothingAfterLogout],
        ),
        (
            "still stored",
            &[logout(), stored(50)],
            &[Rule::NothingAfterLogout],
        ),
        (
            "logout with a revoked token",
            &[
                rotated(1, 5),
                shut_out(10, 20, LOGOUT),
                with_token(1, sight(30)),
            ],
            &[],
        ),
        (
            "blind: final",
            &[shut_out(10, 20, SIGN_OUT), sight(15), stranger(30)],
            &[],
        ),
        (
            "blind: request accepted after the logout",
            &[shut_out(10, 20, SIGN_OUT), sight(30)],
            &[Rule::NothingAfterLogout, Rule::DeadTokenOpens],
        ),
        (
            "blind: still stored",
            &[shut_out(10, 20, SIGN_OUT), without_token(stored(50))],
            &[Rule::NothingAfterLogout],
        ),
        (
            "blind, with a token that may have been replaced: still stored",
            &[
                unknown(5, 15, What::Rotate),
                shut_out(10, 20, SIGN_OUT),
                without_token(stored(50)),
            ],
            &[],
        ),
        (
            "blind, without a token of the session: request accepted",
            &[without_token(shut_out(10, 20, SIGN_OUT)), sight(30)],
            &[],
        ),
        (
            "blind, pending and forgotten",
            &[
                op(10, 20, SIGN_OUT, Ending::Later),
                without_token(stored(50)),
            ],
            &[Rule::LogoutForgotten],
        ),
        (
            "blind, pending, with a token that was replaced before",
            &[
                rotated(1, 5),
                op(10, 20, SIGN_OUT, Ending::Later),
                without_token(stored(50)),
            ],
            &[],
        ),
        (
            "blind, pending, with a token that is replaced meanwhile",
            &[
                op(10, 20, SIGN_OUT, Ending::Later),
                rotated(30, 35),
                without_token(stored(50)),
            ],
            &[],
        ),
        (
            "unknown, session gone, then present",
            &[unknown(10, 20, LOGOUT), stranger(30), sight(40)],
            &[Rule::DeadTokenOpens],
        ),
    ]);
}

#[test]
fn rotations() {
    let login = |began, given| Op {
        given: Some(given),
        ..ok(began, 20 + began, What::Login)
    };
    let sight = |began| look(began, began + 5, json!({}));
    let stranger = |began| shut_out(began, began + 5, What::Look);
    assert_rules(&[
        (
            "the new token is accepted",
            &[rotated(10, 20), stranger(30), with_token(1, sight(40))],
            &[],
        ),
        (
            "overtaken",
            &[rotated(10, 20), sight(15), refused(15, 30, What::Count)],
            &[],
        ),
        (
            "unknown, the old token is accepted",
            &[unknown(10, 20, What::Login), sight(30)],
            &[],
        ),
        (
            "unknown, neither token is accepted",
            &[unknown(10, 20, What::Login), stranger(30)],
            &[],
        ),
        (
            "the old token is accepted",
            &[rotated(10, 20), sight(30)],
            &[Rule::DeadTokenOpens],
        ),
        (
            "the next rotation revokes both of two concurrent logins",
            &[
                login(0, 1),
                login(0, 2),
                with_token(1, rotated(30, 40)),
                with_token(2, stranger(50)),
            ],
            &[],
        ),
        (
            "one of two sequential logins is forgotten",
            &[
                login(0, 1),
                with_token(1, login(30, 2)),
                with_token(2, stranger(70)),
            ],
            &[Rule::Forgotten],
        ),
        (
            "the old token writes",
            &[rotated(10, 20), ok(30, 40, What::Count)],
            &[Rule::DeadTokenOpens],
        ),
        (
            "a revoked token is accepted",
            &[unknown(10, 20, What::Rotate), stranger(30), sight(40)],
            &[Rule::DeadTokenOpens],
        ),
        (
            "without a cookie",
            &[ok(10, 20, What::Rotate)],
            &[Rule::TokenNotGiven],
        ),
        (
            "first write without a cookie",
            &[op(1, 2, What::Open, done(Seen::Nothing))],
            &[Rule::TokenNotGiven],
        ),
    ]);
}

#[test]
fn requests_overtaken_by_a_rotation() {
    let sight = |began, item: &str| {
        with_token(
            1,
            look(began, began + 5, json!({ (format!("set:{item}")): item })),
        )
    };
    let none = |began| with_token(1, look(began, began + 5, json!({})));
    assert_rules(&[
        (
            "committed before the rotation",
            &[rotated(10, 20), ok(5, 30, add("s1.1")), sight(25, "s1.1")],
            &[],
        ),
        (
            "not overtaken by the rotation",
            &[
                rotated(10, 20),
                with_token(1, ok(22, 40, add("s1.1"))),
                none(25),
                sight(50, "s1.1"),
            ],
            &[],
        ),
        (
            "refused",
            &[rotated(10, 20), refused(5, 30, add("s1.1")), none(25)],
            &[],
        ),
        (
            "written after the rotation",
            &[
                rotated(10, 20),
                ok(5, 30, add("s1.1")),
                none(25),
                sight(50, "s1.1"),
            ],
            &[Rule::DeadTokenWrites],
        ),
        (
            "unknown and applied late",
            &[
                rotated(10, 20),
                unknown(5, 8, add("s1.1")),
                none(25),
                sight(50, "s1.1"),
            ],
            &[Rule::DeadTokenWrites],
        ),
    ]);
}

#[test]
fn logins() {
    let login = || Op {
        given: Some(1),
        ..ok(10, 20, What::Login)
    };
    let page = |principal: Option<&str>| {
        let page = Page {
            principal: principal.map(str::to_owned),
            ..Page::default()
        };
        with_token(1, op(30, 40, What::Look, done(Seen::Page(page))))
    };
    assert_rules(&[
        ("signed in", &[login(), page(Some(USER))], &[]),
        (
            "signed out without a logout",
            &[login(), page(None)],
            &[Rule::LostUpdate],
        ),
        (
            "signed in as another principal",
            &[login(), page(Some("u2"))],
            &[Rule::LostUpdate, Rule::Isolation],
        ),
    ]);
}

fn login_begun(began: Moment, ended: Moment, begun: Moment) -> Op {
    Op {
        given: Some(1),
        ..op(began, ended, What::Login, done(Seen::Begun(begun)))
    }
}

/// An acknowledged request that lists or ends sessions, by another browser.
fn of_user(began: Moment, ended: Moment, what: What, seen: Seen) -> Op {
    let ending = Ending::Done {
        owner: Some("s2".into()),
        seen,
    };
    op(began, ended, what, ending)
}

fn others(by: &str) -> What {
    What::Others { by: by.into() }
}

fn end(handle: &str) -> What {
    What::End {
        handle: handle.into(),
    }
}

fn list(user: &str, handles: &[&str]) -> Op {
    let handles = handles.iter().map(ToString::to_string).collect();
    let what = What::List { user: user.into() };
    of_user(30, 40, what, Seen::Handles(handles))
}

/// A name, the requests of a session, those that list or end the sessions of its user, and the broken rules.
type RowOfUser<'a> = (&'a str, &'a [Op], &'a [Op], &'a [Rule]);

fn assert_rules_of_users(table: &[RowOfUser<'_>]) {
    for (name, ops, of_user, expected) in table {
        let life = Life {
            ops: ops.to_vec(),
            of_user: of_user.to_vec(),
            ..life()
        };
        let mut rules: Vec<Rule> = check(&life).iter().map(|it| it.rule).collect();
        rules.dedup();
        assert_eq!(rules, *expected, "{name}");
    }
}

#[test]
fn sign_outs_everywhere() {
    let login = || login_begun(10, 20, 12);
    let alive = |began| with_token(1, ok(began, began + 5, What::Count));
    let gone = |began| with_token(1, shut_out(began, began + 5, What::Count));
    let everywhere = |began| of_user(began, began + 10, What::Everywhere, Seen::Ended(1));
    let unknown = unknown(30, 40, What::Everywhere);
    let outlives = &[Rule::OutlivesSignOut][..];
    assert_rules_of_users(&[
        ("ended", &[login(), gone(50)], &[everywhere(30)], &[]),
        (
            "alive before",
            &[login(), alive(22)],
            &[everywhere(30)],
            &[],
        ),
        (
            "alive meanwhile",
            &[login(), alive(35)],
            &[everywhere(30)],
            &[],
        ),
        (
            "alive after",
            &[login(), alive(50)],
            &[everywhere(30)],
            outlives,
        ),
        (
            "stored after",
            &[
                login(),
                without_token(op(50, 50, What::Inspect, done(Seen::Nothing))),
            ],
            &[everywhere(30)],
            outlives,
        ),
        (
            "begun before",
            &[login_begun(10, 50, 12), alive(60)],
            &[everywhere(30)],
            outlives,
        ),
        (
            "begun later",
            &[login_begun(10, 50, 31), alive(60)],
            &[everywhere(30)],
            &[],
        ),
        (
            "refused",
            &[
                refused(10, 50, What::Login),
                with_token(0, ok(60, 65, What::Count)),
            ],
            &[everywhere(30)],
            &[],
        ),
        (
            "refused, and ended",
            &[
                refused(10, 50, What::Login),
                with_token(0, shut_out(60, 65, What::Count)),
            ],
            &[everywhere(30)],
            &[],
        ),
        (
            "never signed in",
            &[with_token(0, ok(60, 65, What::Count))],
            &[everywhere(30)],
            &[],
        ),
        (
            "never signed in, but gone",
            &[shut_out(60, 65, What::Count)],
            &[everywhere(30)],
            &[Rule::Forgotten],
        ),
        (
            "gone before",
            &[login(), gone(22)],
            &[everywhere(30)],
            &[Rule::Forgotten],
        ),
        ("unknown", &[login(), alive(50), gone(60)], &[unknown], &[]),
        (
            "gone after it was survived",
            &[login(), alive(50), gone(60)],
            &[of_user(3, 8, What::Everywhere, Seen::Ended(0))],
            &[Rule::Forgotten],
        ),
    ]);
}

#[test]
fn sign_outs_of_some_sessions() {
    let login = || login_begun(10, 20, 12);
    let alive = || with_token(1, ok(50, 55, What::Count));
    let gone = || with_token(1, shut_out(50, 55, What::Count));
    let ended = |what, count| of_user(30, 40, what, Seen::Ended(count));
    let twice = || with_token(0, refused(25, 45, What::Login));
    let outlives = &[Rule::OutlivesSignOut][..];
    assert_rules_of_users(&[
        (
            "its own",
            &[login(), alive()],
            &[ended(others(TAG), 1)],
            &[],
        ),
        (
            "its own is gone",
            &[login(), gone()],
            &[ended(others(TAG), 1)],
            &[Rule::NotKept],
        ),
        (
            "its own is gone, with a login under way",
            &[login(), twice(), gone()],
            &[ended(others(TAG), 1)],
            &[Rule::NotKept],
        ),
        (
            "another",
            &[login(), gone()],
            &[ended(others("s2"), 1)],
            &[],
        ),
        (
            "another, alive",
            &[login(), alive()],
            &[ended(others("s2"), 1)],
            outlives,
        ),
        (
            "nobody was signed in",
            &[login(), alive()],
            &[of_user(30, 40, others("s2"), Seen::Nothing)],
            &[],
        ),
        (
            "nobody was signed in, but gone",
            &[login(), gone()],
            &[of_user(30, 40, others("s2"), Seen::Nothing)],
            &[Rule::Forgotten],
        ),
        ("one", &[login(), gone()], &[ended(end("handle0"), 1)], &[]),
        (
            "one, alive",
            &[login(), alive()],
            &[ended(end("handle0"), 1)],
            outlives,
        ),
        (
            "one that was not found",
            &[login(), alive()],
            &[ended(end("handle0"), 0)],
            &[Rule::Unlisted],
        ),
        (
            "one that was not found, but gone",
            &[login(), gone()],
            &[ended(end("handle0"), 0)],
            &[Rule::Forgotten],
        ),
        (
            "another one",
            &[login(), gone()],
            &[ended(end("other"), 1)],
            &[Rule::Forgotten],
        ),
    ]);
}

#[test]
fn lists() {
    let login = || login_begun(10, 20, 12);
    let alive = || with_token(1, ok(50, 55, What::Count));
    let everywhere = || of_user(22, 25, What::Everywhere, Seen::Ended(1));
    let logout = || with_token(1, ok(22, 25, LOGOUT));
    let wrongly = &[Rule::WronglyListed][..];
    assert_rules_of_users(&[
        (
            "listed",
            &[login(), alive()],
            &[list(USER, &["a", "handle0"])],
            &[],
        ),
        (
            "missing",
            &[login(), alive()],
            &[list(USER, &["a"])],
            &[Rule::Unlisted],
        ),
        (
            "missing, and never seen again",
            &[login()],
            &[list(USER, &[])],
            &[],
        ),
        (
            "missing, signed in meanwhile",
            &[login_begun(10, 35, 12), alive()],
            &[list(USER, &[])],
            &[],
        ),
        (
            "of somebody else",
            &[login(), alive()],
            &[list("u2", &["handle0"])],
            wrongly,
        ),
        (
            "of somebody else, without it",
            &[login(), alive()],
            &[list("u2", &["a"])],
            &[],
        ),
        (
            "never signed in",
            &[open()],
            &[list(USER, &["handle0"])],
            wrongly,
        ),
        (
            "being signed in",
            &[login_begun(10, 60, 12)],
            &[list(USER, &["handle0"])],
            &[],
        ),
        (
            "ended",
            &[login()],
            &[everywhere(), list(USER, &["handle0"])],
            wrongly,
        ),
        (
            "logged out",
            &[login(), logout()],
            &[list(USER, &["handle0"])],
            wrongly,
        ),
        (
            "logged out, and missing",
            &[login(), logout()],
            &[list(USER, &[])],
            &[],
        ),
    ]);
}

#[test]
fn logins_that_join_the_same_login() {
    let sight = |token, began| {
        let page = Page {
            principal: Some(USER.into()),
            ..Page::default()
        };
        with_token(
            token,
            op(began, began + 5, What::Look, done(Seen::Page(page))),
        )
    };
    let write = |began| with_token(1, ok(began, began + 5, add("s1.1")));
    let rival = |given| Op {
        given,
        ..shut_out(30, 40, What::Rival)
    };
    assert_rules(&[
        (
            "concurrent: both tokens work",
            &[
                signed_in(10, 20, 1),
                signed_in(10, 20, 2),
                sight(1, 30),
                sight(2, 30),
            ],
            &[],
        ),
        (
            "sequential: both tokens work",
            &[
                signed_in(10, 20, 1),
                joined(30, 40, 2),
                sight(1, 50),
                sight(2, 50),
            ],
            &[],
        ),
        (
            "retried after a lost answer",
            &[
                unknown(10, 20, What::Login),
                joined(30, 40, 1),
                sight(1, 50),
            ],
            &[],
        ),
        (
            "one of the tokens does not work",
            &[
                signed_in(10, 20, 1),
                joined(30, 40, 2),
                with_token(1, shut_out(50, 55, What::Look)),
            ],
            &[Rule::Forgotten],
        ),
        (
            "during another commit",
            &[signed_in(10, 20, 1), write(30), joined(33, 40, 2)],
            &[],
        ),
        (
            "after a read",
            &[signed_in(10, 20, 1), sight(1, 30), joined(40, 50, 2)],
            &[],
        ),
        (
            "after another commit",
            &[signed_in(10, 20, 1), write(30), joined(40, 50, 2)],
            &[Rule::DeadLoginJoins],
        ),
        (
            "after a partial commit",
            &[
                signed_in(10, 20, 1),
                with_token(1, partly(30, 35, early("s1.1"))),
                joined(40, 50, 2),
            ],
            &[Rule::DeadLoginJoins],
        ),
        (
            "after the next login",
            &[
                signed_in(10, 20, 1),
                with_token(1, signed_in(30, 35, 2)),
                joined(40, 50, 3),
            ],
            &[Rule::DeadLoginJoins],
        ),
        (
            "after another commit, rejected",
            &[
                signed_in(10, 20, 1),
                write(30),
                refused(40, 50, What::Login),
            ],
            &[],
        ),
        (
            "another principal, in a session of its own",
            &[signed_in(10, 20, 1), rival(None)],
            &[],
        ),
        (
            "another principal",
            &[signed_in(10, 20, 1), rival(Some(2))],
            &[Rule::StrangerJoins],
        ),
    ]);
}

#[test]
fn forms() {
    use Fields::{Both, First, Second};
    let (one, two, three) = (Some("s1.1"), Some("s1.2"), Some("s1.3"));
    let both = || saved(10, 20, form(Both, "s1.1"), [None; 2]);
    let first = |began, ended| saved(began, ended, form(First, "s1.2"), [one, one]);
    let second = |began, ended| saved(began, ended, form(Second, "s1.3"), [one, one]);
    assert_rules(&[
        ("both fields", &[both(), filled(30, 40, [one, one])], &[]),
        (
            "one of two concurrent saves is stored",
            &[
                both(),
                first(30, 40),
                second(30, 40),
                filled(50, 60, [one, three]),
            ],
            &[],
        ),
        (
            "sequential, and the later one loaded the earlier",
            &[
                both(),
                first(30, 40),
                saved(45, 50, form(Second, "s1.3"), [two, one]),
                filled(55, 60, [two, three]),
            ],
            &[],
        ),
        (
            "one field of each save",
            &[
                both(),
                first(30, 40),
                second(30, 40),
                filled(50, 60, [two, three]),
            ],
            &[Rule::Mixed],
        ),
        (
            "one field of each save, loaded by another save",
            &[
                both(),
                first(30, 40),
                second(30, 40),
                saved(50, 60, form(First, "s1.4"), [two, three]),
            ],
            &[Rule::Mixed],
        ),
        (
            "half of one save",
            &[both(), filled(30, 40, [one, None])],
            &[Rule::Mixed],
        ),
        (
            "unknown, and either save may be stored",
            &[
                both(),
                first(30, 40),
                unknown(30, 40, form(Second, "s1.3")),
                filled(50, 60, [two, three]),
            ],
            &[],
        ),
        (
            "unknown and never applied",
            &[
                both(),
                unknown(30, 40, form(Second, "s1.3")),
                filled(50, 60, [one, one]),
            ],
            &[],
        ),
        (
            "not the last save",
            &[
                both(),
                first(30, 40),
                saved(50, 60, form(Second, "s1.3"), [two, one]),
                filled(70, 80, [two, one]),
            ],
            &[Rule::NotLinearizable],
        ),
        (
            "loaded a replaced value",
            &[both(), first(30, 40), second(50, 60)],
            &[Rule::NotLinearizable],
        ),
        (
            "refused",
            &[
                both(),
                refused(30, 40, form(First, "s1.2")),
                filled(50, 60, [one, one]),
            ],
            &[],
        ),
        (
            "rejected but present",
            &[
                both(),
                refused(30, 40, form(First, "s1.2")),
                filled(50, 60, [two, one]),
            ],
            &[Rule::RefusedButDone],
        ),
        (
            "never saved",
            &[both(), filled(50, 60, [Some("s1.7"), one])],
            &[Rule::NeverWritten],
        ),
    ]);
}

#[test]
fn transactions() {
    let start = || bank([20, 20], None);
    let first = || moved(10, 20, "s1.1", start());
    let then = || bank([15, 25], Some("s1.1"));
    let name = |balances, name| bank(balances, Some(name));
    assert_rules(&[
        (
            "sequential",
            &[
                first(),
                moved(30, 40, "s1.2", then()),
                accounts(50, 60, &name([10, 30], "s1.2")),
            ],
            &[],
        ),
        (
            "concurrent, in any order",
            &[
                moved(10, 40, "s1.2", then()),
                moved(10, 40, "s1.1", start()),
                accounts(50, 60, &name([10, 30], "s1.2")),
            ],
            &[],
        ),
        (
            "unknown, applied or not",
            &[
                first(),
                unknown(30, 40, transfer("s1.2", 0, 5)),
                accounts(50, 60, &then()),
                accounts(70, 80, &name([10, 30], "s1.2")),
            ],
            &[],
        ),
        (
            "aborted for lack of money",
            &[
                first(),
                aborted(30, 40, 16, then()),
                accounts(50, 60, &then()),
            ],
            &[],
        ),
        (
            "committed despite lack of money",
            &[
                first(),
                aborted(30, 40, 16, then()),
                accounts(50, 60, &name([-1, 41], "s1.9")),
            ],
            &[Rule::RefusedButDone, Rule::Unbalanced],
        ),
        (
            "aborted although the balance sufficed",
            &[first(), aborted(30, 40, 15, then())],
            &[Rule::StaleResult],
        ),
        (
            "aborted because of an old balance",
            &[
                first(),
                moved(30, 40, "s1.2", then()),
                aborted(50, 60, 16, then()),
            ],
            &[Rule::NotLinearizable],
        ),
        (
            "half of a transfer",
            &[first(), accounts(30, 40, &bank([15, 20], None))],
            &[Rule::NotLinearizable, Rule::Unbalanced, Rule::StaleResult],
        ),
        (
            "made",
            &[first(), accounts(30, 40, &name([20, 25], "s1.1"))],
            &[Rule::Unbalanced, Rule::StaleResult],
        ),
        (
            "below zero",
            &[
                unknown(10, 20, transfer("s1.1", 0, 25)),
                accounts(30, 40, &name([-5, 45], "s1.1")),
            ],
            &[Rule::Unbalanced],
        ),
        (
            "the result of another run",
            &[
                first(),
                moved(30, 40, "s1.2", then()),
                accounts(50, 60, &name([5, 35], "s1.2")),
            ],
            &[Rule::StaleResult],
        ),
        (
            "two transfers from the same state",
            &[first(), moved(10, 20, "s1.2", start())],
            &[Rule::StaleResult],
        ),
        (
            "lost",
            &[first(), accounts(30, 40, &start())],
            &[Rule::NotLinearizable],
        ),
        (
            "rejected but committed",
            &[
                refused(10, 20, transfer("s1.1", 0, 5)),
                accounts(30, 40, &then()),
            ],
            &[Rule::RefusedButDone],
        ),
        (
            "a transfer without a request",
            &[accounts(30, 40, &then())],
            &[Rule::NeverWritten],
        ),
    ]);
}

#[test]
fn partial_commits() {
    let half = || partly(10, 20, early("s1.1"));
    let whole = || ok(10, 20, early("s1.1"));
    let shows = |began, parts: &[&str]| {
        let parts = parts.iter().map(|part| ((*part).to_owned(), json!("s1.1")));
        look(began, began + 5, serde_json::Value::Object(parts.collect()))
    };
    let (first, rest) = ("early:s1.1", "late:s1.1");
    assert_rules(&[
        ("partly committed", &[half(), shows(30, &[first])], &[]),
        ("whole", &[whole(), shows(30, &[first, rest, "guard"])], &[]),
        (
            "the early commit alone, during the request",
            &[ok(10, 40, early("s1.1")), shows(20, &[first])],
            &[],
        ),
        (
            "unknown: nothing, the early commit, everything",
            &[
                unknown(10, 20, early("s1.1")),
                shows(30, &[]),
                shows(40, &[first]),
                shows(50, &[first, rest]),
            ],
            &[],
        ),
        (
            "nothing",
            &[refused(10, 20, early("s1.1")), shows(30, &[])],
            &[],
        ),
        (
            "reported as committed, but missing",
            &[half(), shows(30, &[])],
            &[Rule::LostUpdate],
        ),
        (
            "reported as not committed, but present",
            &[half(), shows(30, &[first, rest])],
            &[Rule::RefusedButDone],
        ),
        (
            "reported as rejected, but partly committed",
            &[refused(10, 20, early("s1.1")), shows(30, &[first])],
            &[Rule::RefusedButDone],
        ),
        (
            "reported as committed, without the final commit",
            &[whole(), shows(30, &[first])],
            &[Rule::LostUpdate],
        ),
        (
            "the final commit alone",
            &[unknown(10, 20, early("s1.1")), shows(30, &[rest])],
            &[Rule::HalfDone],
        ),
        (
            "half of the final commit",
            &[unknown(10, 20, early("s1.1")), shows(30, &[first, "guard"])],
            &[Rule::HalfDone],
        ),
        (
            "with a revoked token",
            &[rotated(1, 2), half()],
            &[Rule::DeadTokenOpens],
        ),
    ]);
}

/// A slow page shows any moment of its request, but only one.
#[test]
fn pages_show_one_moment() {
    let page = |data| look(5, 100, data);
    let (first, second) = (|| ok(10, 20, add("s1.1")), || ok(30, 40, add("s1.2")));
    assert_rules(&[
        ("before both", &[first(), second(), page(json!({}))], &[]),
        (
            "in between",
            &[first(), second(), page(json!({ "set:s1.1": "s1.1" }))],
            &[],
        ),
        (
            "the later write without the earlier one",
            &[first(), second(), page(json!({ "set:s1.2": "s1.2" }))],
            &[Rule::Torn],
        ),
        (
            "the later write, which began before the earlier one ended",
            &[
                first(),
                ok(15, 40, add("s1.2")),
                page(json!({ "set:s1.2": "s1.2" })),
            ],
            &[],
        ),
        (
            "the later write without the earlier one, which is unknown",
            &[
                unknown(10, 20, add("s1.1")),
                second(),
                page(json!({ "set:s1.2": "s1.2" })),
            ],
            &[],
        ),
        (
            "the later write, which is unknown, without the earlier one",
            &[
                first(),
                unknown(30, 40, add("s1.2")),
                page(json!({ "set:s1.2": "s1.2" })),
            ],
            &[Rule::Torn],
        ),
        (
            "a value without an earlier push",
            &[
                ok(10, 20, push("s1.1")),
                ok(30, 40, write("s1.2")),
                page(json!({ "reg:0": "s1.2" })),
            ],
            &[Rule::Torn],
        ),
        (
            "a value with a token that was taken earlier",
            &[
                ok(6, 7, offer("s1.1")),
                taken(10, 20, Some("s1.1")),
                ok(30, 40, write("s1.2")),
                page(json!({ "reg:0": "s1.2", "token:0": "s1.1" })),
            ],
            &[Rule::Torn],
        ),
        (
            "a value without a number that was returned earlier",
            &[
                number(10, 20, 1),
                ok(30, 40, write("s1.2")),
                page(json!({ "reg:0": "s1.2" })),
            ],
            &[Rule::Torn],
        ),
        (
            "a value written after a login, without the principal",
            &[
                signed_in(10, 20, 1),
                with_token(1, ok(30, 40, write("s1.2"))),
                with_token(1, page(json!({ "reg:0": "s1.2" }))),
            ],
            &[Rule::Torn],
        ),
    ]);
}

#[test]
fn sessions_that_vanish() {
    let stranger = || shut_out(30, 35, What::Look);
    assert_rules(&[
        (
            "a logout",
            &[
                open(),
                unknown(10, 20, LOGOUT),
                stranger(),
                nothing_stored(50),
            ],
            &[],
        ),
        (
            "a rejected logout",
            &[open(), refused(10, 20, LOGOUT), stranger()],
            &[Rule::Forgotten],
        ),
        ("nothing", &[open(), stranger()], &[Rule::Forgotten]),
        (
            "a rotation of another token",
            &[open(), with_token(1, rotated(10, 20)), stranger()],
            &[Rule::Forgotten],
        ),
        (
            "the session is missing",
            &[open(), nothing_stored(50)],
            &[Rule::Forgotten],
        ),
        (
            "the session is missing after a rotation",
            &[open(), unknown(10, 20, What::Rotate), nothing_stored(50)],
            &[Rule::Forgotten],
        ),
    ]);
}

#[test]
fn data_of_other_sessions() {
    let sight = |data| look(10, 20, data);
    assert_rules(&[
        (
            "ours",
            &[sight(
                json!({ "owner": "s1", "list": ["s1.3"], "set:s1.4": "s1.4", "cart": { "s1.5": 1 } }),
            )],
            &[],
        ),
        (
            "a value",
            &[sight(json!({ "reg:0": "s11.3" }))],
            &[Rule::Isolation],
        ),
        (
            "an item",
            &[sight(json!({ "list": ["s2.3"] }))],
            &[Rule::Isolation],
        ),
        (
            "a line",
            &[sight(json!({ "cart": { "s2.3": 1 } }))],
            &[Rule::Isolation],
        ),
        (
            "a key",
            &[sight(json!({ "set:s2.3": true }))],
            &[Rule::Isolation],
        ),
        ("a message", &[show(10, 20, &["s2.3"])], &[Rule::Isolation]),
        (
            "a whole session",
            &[op(
                10,
                20,
                What::Count,
                Ending::Done {
                    owner: Some("s2".into()),
                    seen: Seen::Nothing,
                },
            )],
            &[Rule::Isolation],
        ),
    ]);
}

#[test]
fn undocumented_answers() {
    let odd = op(10, 20, What::Look, Ending::Wrong("500".into()));
    assert_rules(&[("500", &[odd], &[Rule::UndocumentedAnswer])]);
}

#[test]
fn an_invalid_history_is_minimized() {
    let mut ops = vec![open()];
    for round in 1..40 {
        let at = round * 100;
        ops.push(ok(at, at + 10, What::Count));
        ops.push(ok(at, at + 10, add(&format!("s1.{round}"))));
        let seen = if round >= 20 { round - 1 } else { round };
        let mut data = json!({ "count": seen });
        for round in 1..=round {
            data[format!("set:s1.{round}")] = json!("s1");
        }
        ops.push(look(at + 20, at + 30, data));
    }
    let life = Life { ops, ..life() };
    let violations = check(&life);
    let lost = violations
        .iter()
        .find(|violation| violation.rule == Rule::LostUpdate)
        .unwrap();
    let small = smallest(&life, lost);
    let numbers: Vec<u64> = small.ops.iter().map(|op| op.number).collect();
    assert_eq!(
        numbers.len(),
        3,
        "a sight, an increment, a sight: {numbers:?}"
    );
    assert!(
        check(&small)
            .iter()
            .all(|violation| violation.rule == Rule::LostUpdate)
    );
}

#[test]
fn minimizing_keeps_operations_that_explain_others() {
    let ops = vec![
        open(),
        ok(10, 20, What::Count),
        unknown(10, 20, What::Count),
        ok(30, 40, What::Count),
        look(50, 60, json!({ "count": 5 })),
    ];
    let life = Life { ops, ..life() };
    let twice = &check(&life)[0];
    assert_eq!(twice.rule, Rule::CountedTwice);
    assert_eq!(smallest(&life, twice).ops.len(), 5);
}

/// Tries every order of the operations: slow, and obviously correct.
fn some_order_is_valid(
    ops: &[(Moment, Moment, Option<usize>, usize)],
    left: u32,
    value: usize,
) -> bool {
    if left == 0 {
        return true;
    }
    let is_left = |at: &usize| left & (1 << at) != 0;
    let first_end = (0..ops.len())
        .filter(is_left)
        .map(|at| ops[at].1)
        .min()
        .unwrap();
    (0..ops.len()).filter(is_left).any(|at| {
        let (began, _, write, read) = ops[at];
        let fits = began <= first_end && (write.is_some() || read == value);
        fits && some_order_is_valid(ops, left & !(1 << at), write.unwrap_or(value))
    })
}

proptest! {
    /// The zones and the search agree.
    #[test]
    fn zones_agree_with_an_exhaustive_search(
        writes in prop::collection::vec((1..30_u64, 0..12_u64), 1..4),
        reads in prop::collection::vec((1..30_u64, 0..12_u64, 0..4_usize), 0..5),
    ) {
        // Doubled times, so that no two moments are equal: starts are even, ends odd.
        let span = |began: Moment, took: Moment| (began * 2, (began + took) * 2 + 1);
        let mut clusters = vec![Cluster::write(0, 0)];
        let mut ops = Vec::new();
        for (at, (began, took)) in writes.iter().enumerate() {
            let (began, ended) = span(*began, *took);
            clusters.push(Cluster::write(began, ended));
            ops.push((began, ended, Some(at + 1), 0));
        }
        for (began, took, value) in &reads {
            let value = value % clusters.len();
            let (began, ended) = span(*began, *took);
            clusters[value].read(began, ended);
            ops.push((began, ended, None, value));
        }
        let right = some_order_is_valid(&ops, (1 << ops.len()) - 1, 0);
        prop_assert_eq!(contradiction(&clusters).is_none(), right, "{:?}", ops);
    }
}
