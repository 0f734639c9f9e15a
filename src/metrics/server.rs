//! The connections to one Redis server, and its circuit breaker. All have the label `server`, the address.

#[cfg(feature = "metrics")]
use std::sync::Arc;

#[cfg(feature = "metrics")]
use metrics::{Counter, Gauge, Key, Label, Level, Metadata, SharedString, with_recorder};

use crate::metrics::gauge::Present;

/// The metrics of one server.
#[derive(Debug)]
pub(crate) struct ServerMetrics {
    /// By the number of a [`Metric`]. They are made once, so that recording allocates nothing.
    #[cfg(feature = "metrics")]
    keys: [Key; 10],
}

#[derive(Clone, Copy)]
enum Metric {
    Connections,
    Exclusive,
    InFlight,
    Waiting,
    BreakerOpen,
    // From here on they are counters.
    Connected,
    ConnectFailed,
    Timeouts,
    BreakerOpenings,
    BreakerRejections,
}

impl ServerMetrics {
    pub(crate) fn new(address: &str) -> Self {
        #[cfg(feature = "metrics")]
        {
            let metrics = Self {
                keys: keys(address),
            };
            // What nobody has raised yet would be missing instead of 0.
            let (gauges, counters) = metrics.keys.split_at(Metric::Connected as usize);
            for key in gauges {
                gauge(key).increment(0.0);
            }
            for key in counters {
                counter(key).increment(0);
            }
            metrics
        }
        #[cfg(not(feature = "metrics"))]
        Self {}
    }

    /// A connection is open.
    pub(crate) fn connected(&self) -> Present {
        self.count(Metric::Connected);
        self.present(Metric::Connections)
    }

    pub(crate) fn connect_failed(&self) {
        self.count(Metric::ConnectFailed);
    }

    /// A request has got no connection in time.
    pub(crate) fn timed_out(&self) {
        self.count(Metric::Timeouts);
    }

    /// A request waits for a connection.
    pub(crate) fn waiting(&self) -> Present {
        self.present(Metric::Waiting)
    }

    /// A request uses a connection alone.
    pub(crate) fn exclusive(&self) -> Present {
        self.present(Metric::Exclusive)
    }

    /// A request waits for its reply.
    pub(crate) fn in_flight(&self) -> Present {
        self.present(Metric::InFlight)
    }

    /// The circuit breaker has opened.
    pub(crate) fn breaker_opened(&self) -> Present {
        self.count(Metric::BreakerOpenings);
        self.present(Metric::BreakerOpen)
    }

    /// The circuit breaker has rejected a call.
    pub(crate) fn breaker_rejected(&self) {
        self.count(Metric::BreakerRejections);
    }

    fn present(&self, metric: Metric) -> Present {
        #[cfg(feature = "metrics")]
        return Present::in_gauge(gauge(&self.keys[metric as usize]));
        #[cfg(not(feature = "metrics"))]
        Present::nowhere()
    }

    fn count(&self, metric: Metric) {
        #[cfg(feature = "metrics")]
        counter(&self.keys[metric as usize]).increment(1);
    }
}

/// In the order of [`Metric`].
#[cfg(feature = "metrics")]
fn keys(address: &str) -> [Key; 10] {
    let address = SharedString::from_shared(Arc::from(address));
    let server = || Label::new("server", address.clone());
    let key = |name: &'static str| Key::from_parts(name, vec![server()]);
    let connects = |outcome: &'static str| {
        let labels = vec![server(), Label::from_static_parts("outcome", outcome)];
        Key::from_parts("sessile_redis_connects_total", labels)
    };
    [
        key("sessile_redis_connections"),
        key("sessile_redis_exclusive_connections"),
        key("sessile_redis_requests_in_flight"),
        key("sessile_redis_requests_waiting"),
        key("sessile_redis_breaker_open"),
        connects("ok"),
        connects("failed"),
        key("sessile_redis_connection_timeouts_total"),
        key("sessile_redis_breaker_openings_total"),
        key("sessile_redis_breaker_rejections_total"),
    ]
}

#[cfg(feature = "metrics")]
static METADATA: Metadata<'_> = Metadata::new("sessile", Level::INFO, Some(module_path!()));

#[cfg(feature = "metrics")]
fn gauge(key: &Key) -> Gauge {
    with_recorder(|recorder| recorder.register_gauge(key, &METADATA))
}

#[cfg(feature = "metrics")]
fn counter(key: &Key) -> Counter {
    with_recorder(|recorder| recorder.register_counter(key, &METADATA))
}
