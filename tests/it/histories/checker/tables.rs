//! Tables of the rules: valid histories, and histories that break one rule.

use proptest::prelude::*;
use serde_json::json;

use super::registers::{Cluster, contradiction};
use super::{Rule, check, smallest};
use crate::histories::history::{Ending, Fields, Life, Moment, Op, Page, Seen, What};
use crate::support::ledger::Bank;

const TAG: &str = "s1";

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

/// The broken rules, each once.
fn broken(ops: &[Op]) -> Vec<Rule> {
    let life = Life {
        tag: TAG.into(),
        ops: ops.to_vec(),
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
            "not yet answered, seen or not",
            &[open(), ok(10, 30), n(20, 25, 1), n(20, 25, 0)],
            &[],
        ),
        (
            "unknown: none",
            &[open(), unknown(10, 20, Count), n(30, 40, 0)],
            &[],
        ),
        (
            "unknown: later",
            &[open(), unknown(10, 20, Count), n(30, 40, 0), n(50, 60, 1)],
            &[],
        ),
        (
            "lost",
            &[open(), ok(10, 20), ok(10, 20), n(30, 40, 1)],
            &[Rule::LostUpdate],
        ),
        (
            "lost again",
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
            "refused and counted",
            &[open(), refused(10, 20, Count), n(30, 40, 1), ok(50, 60)],
            &[Rule::CountedTwice],
        ),
        (
            "twice in the middle",
            &[open(), ok(10, 20), n(30, 40, 1), ok(50, 60), n(70, 80, 3)],
            &[Rule::CountedTwice],
        ),
        (
            "lost, then twice",
            &[open(), ok(10, 20), n(30, 40, 0), ok(50, 60), n(70, 80, 2)],
            &[Rule::LostUpdate, Rule::CountedTwice],
        ),
        (
            "unknown, and lost again",
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
            "one each",
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
            "given, and not there",
            &[number(10, 20, 2), look(30, 40, json!({ "number": 1 }))],
            &[Rule::LostUpdate],
        ),
        (
            "there before it is given",
            &[look(10, 20, json!({ "number": 2 })), number(30, 40, 2)],
            &[Rule::NumberGivenTwice],
        ),
        (
            "given and not yet there, or there and not yet given",
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
            "a set, seen and lost",
            &[unknown(10, 20, add("s1.1")), set(30, "s1.1"), none(40)],
            &[Rule::LostUpdate],
        ),
        (
            "a set, refused",
            &[refused(10, 20, add("s1.1")), none(30)],
            &[],
        ),
        (
            "a set, refused and there",
            &[refused(10, 20, add("s1.1")), set(30, "s1.1")],
            &[Rule::RefusedButDone],
        ),
        (
            "a set, before it was asked for",
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
            "a list, together in any order",
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
            "a list, changed at its beginning",
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
            "read meanwhile, old or new",
            &[
                ok(10, 30, write("s1.1")),
                none(20, 25),
                read(20, 25, "s1.1"),
            ],
            &[],
        ),
        (
            "the later wins",
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
            "an older one comes back",
            &[
                ok(10, 20, write("s1.1")),
                ok(30, 40, write("s1.2")),
                read(50, 60, "s1.1"),
            ],
            &[Rule::NotLinearizable],
        ),
        (
            "to and fro",
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
            "new, then old again",
            &[
                ok(10, 60, write("s1.1")),
                read(20, 25, "s1.1"),
                none(30, 40),
            ],
            &[Rule::NotLinearizable],
        ),
        (
            "unknown and late",
            &[
                unknown(10, 20, write("s1.1")),
                none(30, 40),
                read(50, 60, "s1.1"),
            ],
            &[],
        ),
        (
            "unknown and never",
            &[unknown(10, 20, write("s1.1")), none(30, 40), none(50, 60)],
            &[],
        ),
        (
            "unknown, and overwritten",
            &[
                unknown(10, 20, write("s1.1")),
                ok(30, 40, write("s1.2")),
                read(50, 60, "s1.2"),
            ],
            &[],
        ),
        (
            "before it was asked for",
            &[read(10, 20, "s1.1"), ok(30, 40, write("s1.1"))],
            &[Rule::NotLinearizable],
        ),
        (
            "refused and read",
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
    let said = || ok(10, 20, say("s1.1"));
    let shown = |began| show(began, began + 5, &["s1.1"]);
    assert_rules(&[
        (
            "shown once",
            &[
                said(),
                waiting(25, 26, &["s1.1"]),
                shown(30),
                waiting(40, 45, &[]),
                show(50, 55, &[]),
            ],
            &[],
        ),
        ("still waits", &[said(), waiting(30, 40, &["s1.1"])], &[]),
        (
            "unknown: taken or not",
            &[said(), unknown(30, 40, What::Show), waiting(50, 60, &[])],
            &[],
        ),
        (
            "unknown: left or not",
            &[
                unknown(10, 20, say("s1.1")),
                waiting(30, 40, &[]),
                shown(50),
            ],
            &[],
        ),
        (
            "twice",
            &[said(), shown(30), shown(32)],
            &[Rule::ShownTwice],
        ),
        (
            "twice on one page",
            &[said(), show(30, 40, &["s1.1", "s1.1"])],
            &[Rule::ShownTwice],
        ),
        (
            "shown, and waits",
            &[said(), shown(30), waiting(50, 60, &["s1.1"])],
            &[Rule::ShownTwice],
        ),
        (
            "waits twice",
            &[said(), waiting(50, 60, &["s1.1", "s1.1"])],
            &[Rule::CountedTwice],
        ),
        (
            "lost",
            &[said(), waiting(30, 40, &[])],
            &[Rule::MessageLost],
        ),
        (
            "lost, while another request shows others",
            &[said(), show(5, 15, &[]), waiting(30, 40, &[])],
            &[Rule::MessageLost],
        ),
        (
            "lost, and a page shows none",
            &[said(), show(30, 40, &[])],
            &[Rule::MessageLost],
        ),
        (
            "taken later than it was missed",
            &[said(), waiting(30, 40, &[]), shown(50)],
            &[Rule::MessageLost],
        ),
        (
            "in order",
            &[
                said(),
                ok(30, 40, say("s1.2")),
                show(50, 60, &["s1.1", "s1.2"]),
            ],
            &[],
        ),
        (
            "together, in any order",
            &[
                said(),
                ok(15, 40, say("s1.2")),
                show(50, 60, &["s1.2", "s1.1"]),
            ],
            &[],
        ),
        (
            "out of order",
            &[
                said(),
                ok(30, 40, say("s1.2")),
                show(50, 60, &["s1.2", "s1.1"]),
            ],
            &[Rule::OutOfOrder],
        ),
        (
            "after a later one, since it came later than its browser waited",
            &[
                unknown(10, 20, say("s1.1")),
                ok(30, 40, say("s1.2")),
                waiting(50, 60, &["s1.2", "s1.1"]),
                show(70, 80, &["s1.2", "s1.1"]),
            ],
            &[],
        ),
        (
            "out of order, after one with an unknown outcome that had not begun",
            &[
                said(),
                unknown(30, 40, say("s1.2")),
                show(50, 60, &["s1.2", "s1.1"]),
            ],
            &[Rule::OutOfOrder],
        ),
        (
            "lost, though the page began before it",
            &[said(), ok(30, 40, say("s1.2")), show(5, 60, &["s1.2"])],
            &[Rule::MessageLost],
        ),
        (
            "not yet there for a page that began before it",
            &[said(), show(5, 60, &[])],
            &[],
        ),
        (
            "before it was left",
            &[shown(1), said()],
            &[Rule::NeverWritten],
        ),
        (
            "refused and shown",
            &[refused(10, 20, say("s1.1")), shown(30)],
            &[Rule::RefusedButDone],
        ),
        (
            "refused and waits",
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
            "unknown: taken or not",
            &[offered(), unknown(30, 40, take()), gone(50)],
            &[],
        ),
        (
            "two winners",
            &[offered(), won(30), won(32)],
            &[Rule::TakenTwice],
        ),
        (
            "taken and there",
            &[offered(), won(30), there(50)],
            &[Rule::TakenTwice],
        ),
        ("lost", &[offered(), gone(30)], &[Rule::LostUpdate]),
        (
            "lost for who asks",
            &[offered(), taken(30, 35, None)],
            &[Rule::LostUpdate],
        ),
        (
            "refused and taken",
            &[refused(10, 20, offer("s1.1")), won(30)],
            &[Rule::RefusedButDone],
        ),
        (
            "before it was offered",
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
            "unknown: gone",
            &[unknown(10, 20, LOGOUT), stranger(30), nothing_stored(50)],
            &[],
        ),
        (
            "unknown: there, then gone",
            &[unknown(10, 20, LOGOUT), sight(30), stranger(40)],
            &[],
        ),
        (
            "to be done later, and done",
            &[later(), sight(30), stranger(40), nothing_stored(50)],
            &[],
        ),
        (
            "to be done later, and forgotten",
            &[later(), sight(30), stored(50)],
            &[Rule::LogoutForgotten],
        ),
        (
            "written to by halves",
            &[logout(), partly(30, 40, early("s1.1"))],
            &[Rule::NothingAfterLogout],
        ),
        (
            "let in",
            &[logout(), sight(30)],
            &[Rule::NothingAfterLogout],
        ),
        (
            "written to",
            &[logout(), ok(30, 40, What::Count)],
            &[Rule::NothingAfterLogout],
        ),
        (
            "still stored",
            &[logout(), stored(50)],
            &[Rule::NothingAfterLogout],
        ),
        (
            "of a token that opens nothing",
            &[
                rotated(1, 5),
                shut_out(10, 20, LOGOUT),
                with_token(1, sight(30)),
            ],
            &[],
        ),
        (
            "without a look: final",
            &[shut_out(10, 20, SIGN_OUT), sight(15), stranger(30)],
            &[],
        ),
        (
            "without a look: let in",
            &[shut_out(10, 20, SIGN_OUT), sight(30)],
            &[Rule::NothingAfterLogout, Rule::DeadTokenOpens],
        ),
        (
            "without a look: still stored",
            &[shut_out(10, 20, SIGN_OUT), without_token(stored(50))],
            &[Rule::NothingAfterLogout],
        ),
        (
            "without a look, with a token that may have been replaced: still stored",
            &[
                unknown(5, 15, What::Rotate),
                shut_out(10, 20, SIGN_OUT),
                without_token(stored(50)),
            ],
            &[],
        ),
        (
            "without a look, with no token of the session: let in",
            &[without_token(shut_out(10, 20, SIGN_OUT)), sight(30)],
            &[],
        ),
        (
            "without a look, to be done later, and forgotten",
            &[
                op(10, 20, SIGN_OUT, Ending::Later),
                without_token(stored(50)),
            ],
            &[Rule::LogoutForgotten],
        ),
        (
            "without a look, to be done later, with a token that was replaced before",
            &[
                rotated(1, 5),
                op(10, 20, SIGN_OUT, Ending::Later),
                without_token(stored(50)),
            ],
            &[],
        ),
        (
            "without a look, to be done later, with a token that is replaced meanwhile",
            &[
                op(10, 20, SIGN_OUT, Ending::Later),
                rotated(30, 35),
                without_token(stored(50)),
            ],
            &[],
        ),
        (
            "unknown: gone, then there",
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
            "the new one opens",
            &[rotated(10, 20), stranger(30), with_token(1, sight(40))],
            &[],
        ),
        (
            "overtaken",
            &[rotated(10, 20), sight(15), refused(15, 30, What::Count)],
            &[],
        ),
        (
            "unknown: the old one",
            &[unknown(10, 20, What::Login), sight(30)],
            &[],
        ),
        (
            "unknown: neither",
            &[unknown(10, 20, What::Login), stranger(30)],
            &[],
        ),
        (
            "the old one opens",
            &[rotated(10, 20), sight(30)],
            &[Rule::DeadTokenOpens],
        ),
        (
            "of two logins at once, both are ended by the next",
            &[
                login(0, 1),
                login(0, 2),
                with_token(1, rotated(30, 40)),
                with_token(2, stranger(50)),
            ],
            &[],
        ),
        (
            "of two logins one after the other, one is forgotten",
            &[
                login(0, 1),
                with_token(1, login(30, 2)),
                with_token(2, stranger(70)),
            ],
            &[Rule::Forgotten],
        ),
        (
            "the old one writes",
            &[rotated(10, 20), ok(30, 40, What::Count)],
            &[Rule::DeadTokenOpens],
        ),
        (
            "opens again",
            &[unknown(10, 20, What::Rotate), stranger(30), sight(40)],
            &[Rule::DeadTokenOpens],
        ),
        (
            "without a cookie",
            &[ok(10, 20, What::Rotate)],
            &[Rule::TokenNotGiven],
        ),
        (
            "begun without a cookie",
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
            "faster after all",
            &[rotated(10, 20), ok(5, 30, add("s1.1")), sight(25, "s1.1")],
            &[],
        ),
        (
            "not overtaken",
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
            "written all the same",
            &[
                rotated(10, 20),
                ok(5, 30, add("s1.1")),
                none(25),
                sight(50, "s1.1"),
            ],
            &[Rule::DeadTokenWrites],
        ),
        (
            "unknown, and late",
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
        ("signed in", &[login(), page(Some(TAG))], &[]),
        (
            "signed out by itself",
            &[login(), page(None)],
            &[Rule::LostUpdate],
        ),
        (
            "somebody else",
            &[login(), page(Some("s2"))],
            &[Rule::LostUpdate, Rule::Isolation],
        ),
    ]);
}

#[test]
fn logins_that_join_the_same_login() {
    let sight = |token, began| {
        let page = Page {
            principal: Some(TAG.into()),
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
            "at once: both work",
            &[
                signed_in(10, 20, 1),
                signed_in(10, 20, 2),
                sight(1, 30),
                sight(2, 30),
            ],
            &[],
        ),
        (
            "one after the other: both work",
            &[
                signed_in(10, 20, 1),
                joined(30, 40, 2),
                sight(1, 50),
                sight(2, 50),
            ],
            &[],
        ),
        (
            "again after a lost answer",
            &[
                unknown(10, 20, What::Login),
                joined(30, 40, 1),
                sight(1, 50),
            ],
            &[],
        ),
        (
            "one of them does not work",
            &[
                signed_in(10, 20, 1),
                joined(30, 40, 2),
                with_token(1, shut_out(50, 55, What::Look)),
            ],
            &[Rule::Forgotten],
        ),
        (
            "while something is committed",
            &[signed_in(10, 20, 1), write(30), joined(33, 40, 2)],
            &[],
        ),
        (
            "after a look",
            &[signed_in(10, 20, 1), sight(1, 30), joined(40, 50, 2)],
            &[],
        ),
        (
            "after something was committed",
            &[signed_in(10, 20, 1), write(30), joined(40, 50, 2)],
            &[Rule::DeadLoginJoins],
        ),
        (
            "after something was committed by half",
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
            "after something was committed, and refused",
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
            "of two at once the later is there, the one or the other",
            &[
                both(),
                first(30, 40),
                second(30, 40),
                filled(50, 60, [one, three]),
            ],
            &[],
        ),
        (
            "one after the other, the later having loaded the earlier",
            &[
                both(),
                first(30, 40),
                saved(45, 50, form(Second, "s1.3"), [two, one]),
                filled(55, 60, [two, three]),
            ],
            &[],
        ),
        (
            "a field of each",
            &[
                both(),
                first(30, 40),
                second(30, 40),
                filled(50, 60, [two, three]),
            ],
            &[Rule::Mixed],
        ),
        (
            "a field of each, for somebody who saves it again",
            &[
                both(),
                first(30, 40),
                second(30, 40),
                saved(50, 60, form(First, "s1.4"), [two, three]),
            ],
            &[Rule::Mixed],
        ),
        (
            "half of one",
            &[both(), filled(30, 40, [one, None])],
            &[Rule::Mixed],
        ),
        (
            "unknown, and perhaps the one of both",
            &[
                both(),
                first(30, 40),
                unknown(30, 40, form(Second, "s1.3")),
                filled(50, 60, [two, three]),
            ],
            &[],
        ),
        (
            "unknown, and never",
            &[
                both(),
                unknown(30, 40, form(Second, "s1.3")),
                filled(50, 60, [one, one]),
            ],
            &[],
        ),
        (
            "not that of the last",
            &[
                both(),
                first(30, 40),
                saved(50, 60, form(Second, "s1.3"), [two, one]),
                filled(70, 80, [two, one]),
            ],
            &[Rule::NotLinearizable],
        ),
        (
            "loaded what had been replaced",
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
            "refused and there",
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
            "one after the other",
            &[
                first(),
                moved(30, 40, "s1.2", then()),
                accounts(50, 60, &name([10, 30], "s1.2")),
            ],
            &[],
        ),
        (
            "at once, in any order",
            &[
                moved(10, 40, "s1.2", then()),
                moved(10, 40, "s1.1", start()),
                accounts(50, 60, &name([10, 30], "s1.2")),
            ],
            &[],
        ),
        (
            "unknown: done or not",
            &[
                first(),
                unknown(30, 40, transfer("s1.2", 0, 5)),
                accounts(50, 60, &then()),
                accounts(70, 80, &name([10, 30], "s1.2")),
            ],
            &[],
        ),
        (
            "too little",
            &[
                first(),
                aborted(30, 40, 16, then()),
                accounts(50, 60, &then()),
            ],
            &[],
        ),
        (
            "too little, and yet done",
            &[
                first(),
                aborted(30, 40, 16, then()),
                accounts(50, 60, &name([-1, 41], "s1.9")),
            ],
            &[Rule::RefusedButDone, Rule::Unbalanced],
        ),
        (
            "aborted, though there was enough",
            &[first(), aborted(30, 40, 15, then())],
            &[Rule::StaleResult],
        ),
        (
            "aborted for what had been before",
            &[
                first(),
                moved(30, 40, "s1.2", then()),
                aborted(50, 60, 16, then()),
            ],
            &[Rule::NotLinearizable],
        ),
        (
            "half of it",
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
            "of another run than it says",
            &[
                first(),
                moved(30, 40, "s1.2", then()),
                accounts(50, 60, &name([5, 35], "s1.2")),
            ],
            &[Rule::StaleResult],
        ),
        (
            "two upon the same",
            &[first(), moved(10, 20, "s1.2", start())],
            &[Rule::StaleResult],
        ),
        (
            "lost",
            &[first(), accounts(30, 40, &start())],
            &[Rule::NotLinearizable],
        ),
        (
            "refused and done",
            &[
                refused(10, 20, transfer("s1.1", 0, 5)),
                accounts(30, 40, &then()),
            ],
            &[Rule::RefusedButDone],
        ),
        (
            "moved by nobody",
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
        ("by half", &[half(), shows(30, &[first])], &[]),
        ("whole", &[whole(), shows(30, &[first, rest, "guard"])], &[]),
        (
            "half of it meanwhile",
            &[ok(10, 40, early("s1.1")), shows(20, &[first])],
            &[],
        ),
        (
            "unknown: none, half, whole",
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
            "said to be there",
            &[half(), shows(30, &[])],
            &[Rule::LostUpdate],
        ),
        (
            "said not to be there",
            &[half(), shows(30, &[first, rest])],
            &[Rule::RefusedButDone],
        ),
        (
            "said to be nothing",
            &[refused(10, 20, early("s1.1")), shows(30, &[first])],
            &[Rule::RefusedButDone],
        ),
        (
            "whole, without its end",
            &[whole(), shows(30, &[first])],
            &[Rule::LostUpdate],
        ),
        (
            "the end alone",
            &[unknown(10, 20, early("s1.1")), shows(30, &[rest])],
            &[Rule::HalfDone],
        ),
        (
            "half of the end",
            &[unknown(10, 20, early("s1.1")), shows(30, &[first, "guard"])],
            &[Rule::HalfDone],
        ),
        (
            "with a dead token",
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
            "the later and not the earlier",
            &[first(), second(), page(json!({ "set:s1.2": "s1.2" }))],
            &[Rule::Torn],
        ),
        (
            "the later, which began before the earlier was over",
            &[
                first(),
                ok(15, 40, add("s1.2")),
                page(json!({ "set:s1.2": "s1.2" })),
            ],
            &[],
        ),
        (
            "the later and not the earlier, which is unknown",
            &[
                unknown(10, 20, add("s1.1")),
                second(),
                page(json!({ "set:s1.2": "s1.2" })),
            ],
            &[],
        ),
        (
            "the later, which is unknown, and not the earlier",
            &[
                first(),
                unknown(30, 40, add("s1.2")),
                page(json!({ "set:s1.2": "s1.2" })),
            ],
            &[Rule::Torn],
        ),
        (
            "of two kinds: a value and not what was pushed before",
            &[
                ok(10, 20, push("s1.1")),
                ok(30, 40, write("s1.2")),
                page(json!({ "reg:0": "s1.2" })),
            ],
            &[Rule::Torn],
        ),
        (
            "of two kinds: a value, and a token that was taken before",
            &[
                ok(6, 7, offer("s1.1")),
                taken(10, 20, Some("s1.1")),
                ok(30, 40, write("s1.2")),
                page(json!({ "reg:0": "s1.2", "token:0": "s1.1" })),
            ],
            &[Rule::Torn],
        ),
        (
            "of two kinds: a value, and not the number that was given before",
            &[
                number(10, 20, 1),
                ok(30, 40, write("s1.2")),
                page(json!({ "reg:0": "s1.2" })),
            ],
            &[Rule::Torn],
        ),
        (
            "of two kinds: a value of one who was signed in, and nobody is",
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
            "a refused logout",
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
            "nothing is stored",
            &[open(), nothing_stored(50)],
            &[Rule::Forgotten],
        ),
        (
            "nothing is stored after a rotation",
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
    let life = Life {
        tag: TAG.into(),
        ops,
    };
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
    let life = Life {
        tag: TAG.into(),
        ops,
    };
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
