//! Metrics for the [`metrics`](::metrics) facade, with the feature `metrics`: they go to the recorder that the application
//! installs.
//!
//! | name | kind | labels | meaning |
//! |---|---|---|---|
//! | `sessile_events_total` | counter | `event`, such as `committed` or `store_failed` | events, by the names of [`Event`] |
//! | `sessile_commit_attempts` | histogram | | compare-and-sets that one commit took: more than 1 if other nodes were faster |
//! | `sessile_commit_requests` | histogram | | requests whose changes one commit contained |

use crate::event::Event;

pub(crate) fn describe() {
    metrics::describe_counter!("sessile_events_total", "Events of sessions, by name.");
    metrics::describe_histogram!(
        "sessile_commit_attempts",
        "Compare-and-sets that one commit took."
    );
    metrics::describe_histogram!(
        "sessile_commit_requests",
        "Requests whose changes one commit contained."
    );
}

pub(crate) fn count(event: &Event) {
    metrics::counter!("sessile_events_total", "event" => event.name()).increment(1);
    if let Event::Committed {
        requests, attempts, ..
    } = event
    {
        metrics::histogram!("sessile_commit_attempts").record(f64::from(*attempts));
        metrics::histogram!("sessile_commit_requests").record(f64::from(*requests));
    }
}
