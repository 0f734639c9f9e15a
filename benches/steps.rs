//! How long do the steps of a request take, and whole requests without a network?
//!
//! Run `cargo bench --features internals --bench steps`; with a part of a name behind it, such as `record/decode`, only that.
//! `benches/counts` counts the instructions of the same work, for comparisons that a busy machine does not disturb.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sessile::internals::{Record, Token, read_cookies};
use sessile::{Load, MemoryStore, SessionStore};

use crate::scenarios::inputs::{
    COOKIE_NAME, FEW, LARGE, MANY, SMALL, TOKEN, USUAL, changes, cookies, record, record_bytes,
};
use crate::scenarios::store::OneSession;
use crate::scenarios::visitor::{Shape, Visitor};

mod scenarios;

fn cookie(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cookie/read");
    for others in [0, 20] {
        let headers = cookies(others);
        group.bench_function(format!("beside {others} others"), |bench| {
            bench.iter(|| read_cookies(black_box(&headers), COOKIE_NAME));
        });
    }
    group.finish();
}

fn token(criterion: &mut Criterion) {
    let token = Token::decode(TOKEN.as_bytes()).unwrap();
    criterion.bench_function("token/decode", |bench| {
        bench.iter(|| Token::decode(black_box(TOKEN.as_bytes())));
    });
    criterion.bench_function("token/encode", |bench| {
        bench.iter(|| black_box(&token).encode());
    });
}

fn records(criterion: &mut Criterion) {
    let changes = changes();
    for values in [FEW, MANY] {
        for size in [SMALL, USUAL, LARGE] {
            let shape = format!("{values} values, {size} bytes");
            let bytes = record_bytes(values, size);
            let record = record(values, size);
            let mut bench = |step: &str, run: &dyn Fn()| {
                let name = format!("record/{step}/{shape}");
                criterion.bench_function(&name, |bench| bench.iter(run));
            };
            bench("decode", &|| {
                black_box(Record::decode(black_box(&bytes)));
            });
            bench("encode", &|| {
                black_box(black_box(&record).encode());
            });
            bench("replay", &|| {
                black_box(changes.replay(black_box(&record))).unwrap();
            });
        }
    }
}

/// Times the requests of a visitor for one path.
fn request(criterion: &mut Criterion, name: &str, visitor: &Visitor, path: &str) {
    criterion.bench_function(&format!("request/{name}"), |bench| {
        let request = || visitor.request(path);
        bench.iter_batched(
            request,
            |request| visitor.send(request),
            BatchSize::SmallInput,
        );
    });
}

const SHAPE: Shape = Shape {
    values: FEW,
    bytes: USUAL,
};

fn requests_over<S: SessionStore>(criterion: &mut Criterion, name: &str, store: impl Fn() -> S) {
    let lazy = Visitor::with_session(store(), Load::OnExtract, SHAPE);
    request(criterion, &format!("{name}/not loaded"), &lazy, "/plain");
    let visitor = Visitor::with_session(store(), Load::Inbound, SHAPE);
    for (step, path) in [
        ("loaded", "/plain"),
        ("read", "/read"),
        ("changed", "/change"),
    ] {
        request(criterion, &format!("{name}/{step}"), &visitor, path);
    }
}

fn requests(criterion: &mut Criterion) {
    request(
        criterion,
        "without layer",
        &Visitor::without_layer(),
        "/plain",
    );
    requests_over(criterion, "one session", OneSession::default);
    requests_over(criterion, "memory", MemoryStore::new);
    let visitor = Visitor::new(OneSession::default(), Load::Inbound);
    request(criterion, "one session/created", &visitor, "/change");
    for size in [SMALL, USUAL, LARGE] {
        let shape = Shape {
            values: FEW,
            bytes: size,
        };
        let store = OneSession::default();
        let visitor = Visitor::with_session(store.clone(), Load::Inbound, shape);
        store.change_at_every_load();
        let name = format!("one session/read and decoded, {size} bytes");
        request(criterion, &name, &visitor, "/read");
    }
}

criterion_group!(benches, cookie, token, records, requests);
criterion_main!(benches);
