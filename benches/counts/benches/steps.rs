//! How many instructions do the steps of a request take, and whole requests without a network?
//!
//! The counts of two runs differ by parts of a percent, also on a busy machine, and each run shows the difference to the one
//! before: count, change the code, count again. `benches/steps.rs` of sessile times the same work.
//!
//! Needs valgrind, and the runner of the same version as the dependency in `Cargo.toml`:
//!
//! ```sh
//! apt-get install valgrind
//! cargo install gungraun-runner --version 0.20.0 --locked
//! cargo bench --manifest-path benches/counts/Cargo.toml
//! ```
//!
//! With `-- '*decode*'` behind it, it counts only what has such a name. `benches/counts/target/gungraun` has the profiles, for
//! `callgrind_annotate` or kcachegrind.

#[path = "../../scenarios/mod.rs"]
mod scenarios;

use std::hint::black_box;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use gungraun::prelude::*;
use sessile::internals::{ChangeLog, Record, Token, read_cookies};
use sessile::{Load, MemoryStore, SessionStore};

use crate::scenarios::inputs::{
    COOKIE_NAME, FEW, LARGE, MANY, SMALL, TOKEN, USUAL, changes, cookies, record, record_bytes,
};
use crate::scenarios::store::OneSession;
use crate::scenarios::visitor::{Shape, Visitor};

// Each function returns its inputs, since dropping them is no part of the step.

#[library_benchmark]
#[bench::alone(cookies(0))]
#[bench::beside_20_others(cookies(20))]
fn cookie_read(headers: HeaderMap) -> (usize, HeaderMap) {
    (read_cookies(black_box(&headers), COOKIE_NAME), headers)
}

#[library_benchmark]
fn token_decode() -> Option<Token> {
    Token::decode(black_box(TOKEN.as_bytes()))
}

#[library_benchmark]
#[bench::one(Token::decode(TOKEN.as_bytes()).unwrap())]
fn token_encode(token: Token) -> (usize, Token) {
    (black_box(&token).encode().as_ref().len(), token)
}

#[library_benchmark]
#[bench::few_small(record_bytes(FEW, SMALL))]
#[bench::few_usual(record_bytes(FEW, USUAL))]
#[bench::few_large(record_bytes(FEW, LARGE))]
#[bench::many_small(record_bytes(MANY, SMALL))]
#[bench::many_usual(record_bytes(MANY, USUAL))]
#[bench::many_large(record_bytes(MANY, LARGE))]
fn record_decode(bytes: Bytes) -> (Option<Record>, Bytes) {
    (Record::decode(black_box(&bytes)), bytes)
}

#[library_benchmark]
#[bench::few_small(record(FEW, SMALL))]
#[bench::few_usual(record(FEW, USUAL))]
#[bench::few_large(record(FEW, LARGE))]
#[bench::many_small(record(MANY, SMALL))]
#[bench::many_usual(record(MANY, USUAL))]
#[bench::many_large(record(MANY, LARGE))]
fn record_encode(record: Record) -> (Option<Bytes>, Record) {
    (black_box(&record).encode(), record)
}

#[library_benchmark]
#[bench::few_usual((changes(), record(FEW, USUAL)))]
#[bench::few_large((changes(), record(FEW, LARGE)))]
#[bench::many_usual((changes(), record(MANY, USUAL)))]
#[bench::many_large((changes(), record(MANY, LARGE)))]
fn record_replay(input: (ChangeLog, Record)) -> (Record, (ChangeLog, Record)) {
    let replayed = input.0.replay(black_box(&input.1));
    (replayed.unwrap(), input)
}

/// A visitor whose caches are warm, and their next request.
type Next = (Visitor, Request<Body>);

fn next(visitor: Visitor, path: &str) -> Next {
    for _ in 0..3 {
        drop(visitor.send(visitor.request(path)));
    }
    let request = visitor.request(path);
    (visitor, request)
}

fn bare() -> Next {
    next(Visitor::without_layer(), "/plain")
}

fn created() -> Next {
    let visitor = Visitor::new(OneSession::default(), Load::Inbound);
    next(visitor, "/change")
}

fn over(store: impl SessionStore, load: Load, path: &str) -> Next {
    let shape = Shape {
        values: FEW,
        bytes: USUAL,
    };
    next(Visitor::with_session(store, load, shape), path)
}

fn decoded(bytes: usize) -> Next {
    let store = OneSession::default();
    let shape = Shape { values: FEW, bytes };
    let visitor = Visitor::with_session(store.clone(), Load::Inbound, shape);
    store.change_at_every_load();
    next(visitor, "/read")
}

#[library_benchmark]
#[bench::without_layer(bare())]
#[bench::not_loaded(over(OneSession::default(), Load::OnExtract, "/plain"))]
#[bench::loaded(over(OneSession::default(), Load::Inbound, "/plain"))]
#[bench::read(over(OneSession::default(), Load::Inbound, "/read"))]
#[bench::read_and_decoded_small(decoded(SMALL))]
#[bench::read_and_decoded_usual(decoded(USUAL))]
#[bench::read_and_decoded_large(decoded(LARGE))]
#[bench::changed(over(OneSession::default(), Load::Inbound, "/change"))]
#[bench::created(created())]
#[bench::memory_loaded(over(MemoryStore::new(), Load::Inbound, "/plain"))]
#[bench::memory_read(over(MemoryStore::new(), Load::Inbound, "/read"))]
#[bench::memory_changed(over(MemoryStore::new(), Load::Inbound, "/change"))]
fn request((visitor, request): Next) -> (Response<Body>, Visitor) {
    (visitor.send(request), visitor)
}

library_benchmark_group!(
    name = steps,
    benchmarks = [
        cookie_read,
        token_decode,
        token_encode,
        record_decode,
        record_encode,
        record_replay
    ]
);
library_benchmark_group!(name = requests, benchmarks = [request]);
main!(library_benchmark_groups = steps, requests);
