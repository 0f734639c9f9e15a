//! Metrics through the `metrics` facade.

use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};

use crate::support::Visit;

#[test]
fn events_are_counted_and_commits_measured() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    // The recorder applies to this thread only, so all tasks must run on it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let mut visit = Visit::in_memory();
            for _ in 0..3 {
                visit
                    .request(
                        |session| async move { session.increment("n", 1).map(|_| ()).unwrap() },
                    )
                    .await;
            }
            visit
                .request(|session| async move { session.destroy() })
                .await;
        });
    });
    let mut counted = BTreeMap::new();
    let mut measured = BTreeMap::new();
    for (key, _, help, value) in snapshotter.snapshot().into_vec() {
        let (_, key) = key.into_parts();
        let label = key.labels().next().map(|label| label.value().to_owned());
        assert!(help.is_some(), "{key} is described");
        match value {
            DebugValue::Counter(count) => drop(counted.insert(label.unwrap(), count)),
            DebugValue::Histogram(values) => {
                measured.insert(key.name().to_owned(), values.len());
            }
            DebugValue::Gauge(_) => panic!("{key}"),
        }
    }
    let events = [("committed", 3), ("created", 1), ("destroyed", 1)];
    assert_eq!(counted, events.map(|(name, n)| (name.to_owned(), n)).into());
    let histograms = ["sessile_commit_attempts", "sessile_commit_requests"];
    assert_eq!(measured, histograms.map(|name| (name.to_owned(), 3)).into());
}
