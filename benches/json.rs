//! From which size on does simd-json decode a session value faster than serde_json, including the copy that it needs?
//!
//! Run `cargo bench --bench json`; the answer is `SIMD_FROM` in `src/record/json/mod.rs`.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde::{Deserialize, Serialize};

const SIZES: [usize; 7] = [128, 512, 1024, 2048, 4096, 16384, 65536];

#[derive(Serialize, Deserialize)]
struct Item {
    article: String,
    price: f64,
    count: u32,
    tags: Vec<String>,
}

fn cart(size: usize) -> Vec<u8> {
    let item = |number: usize| Item {
        article: format!("article {number}"),
        price: 19.99 + number as f64,
        count: 3,
        tags: vec!["blue".to_owned(), "large".to_owned()],
    };
    let one = serde_json::to_vec(&item(1)).unwrap().len() + 1;
    serde_json::to_vec(&(0..(size / one).max(1)).map(item).collect::<Vec<_>>()).unwrap()
}

fn text(size: usize) -> Vec<u8> {
    serde_json::to_vec(&"lorem ipsum \"dolor\" sit amet, ".repeat(size / 32 + 1)).unwrap()
}

fn flags(size: usize) -> Vec<u8> {
    let flags: BTreeMap<String, bool> = (0..size / 18 + 1)
        .map(|number| (format!("flag{number:06}"), number % 2 == 0))
        .collect();
    serde_json::to_vec(&flags).unwrap()
}

fn simd<T: serde::de::DeserializeOwned>(json: &[u8]) -> T {
    let mut scratch = json.to_vec();
    let mut buffers = simd_json::Buffers::with_max_depth(json.len(), 128);
    simd_json::serde::from_slice_with_buffers(&mut scratch, &mut buffers).unwrap()
}

fn shape<T: serde::de::DeserializeOwned>(
    criterion: &mut Criterion,
    name: &str,
    make: fn(usize) -> Vec<u8>,
) {
    let mut group = criterion.benchmark_group(name);
    for size in SIZES {
        let json = make(size);
        group.throughput(Throughput::Bytes(json.len() as u64));
        group.bench_with_input(
            BenchmarkId::new("serde_json", size),
            &json,
            |bench, json| {
                bench.iter(|| serde_json::from_slice::<T>(black_box(json)).unwrap());
            },
        );
        group.bench_with_input(BenchmarkId::new("simd_json", size), &json, |bench, json| {
            bench.iter(|| simd::<T>(black_box(json)));
        });
    }
    group.finish();
}

fn all(criterion: &mut Criterion) {
    shape::<Vec<Item>>(criterion, "cart of structs", cart);
    shape::<serde_json::Value>(criterion, "cart as a value", cart);
    shape::<BTreeMap<String, bool>>(criterion, "map of flags", flags);
    shape::<String>(criterion, "one text", text);
}

criterion_group!(benches, all);
criterion_main!(benches);
