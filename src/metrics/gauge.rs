//! Gauges of what exists now.

/// Counts one in a gauge as long as it exists. It keeps the gauge that it has raised, so that the same one is lowered, whatever
/// recorder is installed then.
#[derive(Debug)]
#[must_use]
pub(crate) struct Present {
    #[cfg(feature = "metrics")]
    gauge: metrics::Gauge,
}

impl Present {
    /// A deletion that is retried in the background: a logout whose token has not been checked yet, or the deletion of a session.
    pub(crate) fn pending_deletion(is_logout: bool) -> Self {
        #[cfg(feature = "metrics")]
        return Self::in_gauge(match is_logout {
            true => metrics::gauge!("sessile_pending_deletions", "kind" => "logout"),
            false => metrics::gauge!("sessile_pending_deletions", "kind" => "session"),
        });
        #[cfg(not(feature = "metrics"))]
        Self::nowhere()
    }

    /// A task beside requests.
    pub(crate) fn background_task() -> Self {
        #[cfg(feature = "metrics")]
        return Self::in_gauge(metrics::gauge!("sessile_background_tasks"));
        #[cfg(not(feature = "metrics"))]
        Self::nowhere()
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn in_gauge(gauge: metrics::Gauge) -> Self {
        gauge.increment(1.0);
        Self { gauge }
    }

    #[cfg(not(feature = "metrics"))]
    pub(crate) fn nowhere() -> Self {
        Self {}
    }
}

#[cfg(feature = "metrics")]
impl Drop for Present {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}
