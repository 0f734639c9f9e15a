//! Figures for the [`metrics`](::metrics) facade, feature `metrics`: whatever recorder the application installs gets them.
//!
//! | name | kind | labels | what |
//! |---|---|---|---|
//! | `sessile_events_total` | counter | `event`, such as `committed` or `store_failed` | events, by the names of [`Event`] |
//! | `sessile_commit_attempts` | histogram | | compare-and-sets that one commit took: above 1, other nodes were faster |
//! | `sessile_commit_requests` | histogram | | requests whose changes one commit held |

use crate::event::Event;

pub(crate) fn describe() {
    metrics::describe_counter!("sessile_events_total", "What happened to sessions.");
    metrics::describe_histogram!(
        "sessile_commit_attempts",
        "Compare-and-sets that one commit took."
    );
    metrics::describe_histogram!(
        "sessile_commit_requests",
        "Requests whose changes one commit held."
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
