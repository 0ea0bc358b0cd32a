//! The series about drains.

use super::{Metrics, Registrar};
use crate::drain;
use prometheus::{Gauge, HistogramVec, IntCounterVec, IntGauge};
use std::time::Duration;

/// Bounds of the buckets for the time that clients take to come back, in seconds.
const RECONNECTS: [f64; 9] = [0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0];

#[derive(Debug)]
pub(super) struct DrainSeries {
    drains_open: IntGauge,
    drains_waiting: IntGauge,
    drained: IntCounterVec,
    drains: IntCounterVec,
    drains_raised: IntCounterVec,
    drain_rate: Gauge,
    reconnects: HistogramVec,
}

impl DrainSeries {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        DrainSeries {
            drains_open: registrar.gauge(
                "wsgate_drains_open",
                "Drains under way.",
            ),
            drains_waiting: registrar.gauge(
                "wsgate_drains_waiting",
                "Connections that a drain has not told yet.",
            ),
            drained: registrar.counters(
                "wsgate_drain_connections_total",
                "Connections whose client was told to reconnect, by cause.",
                &["cause"],
            ),
            drains: registrar.counters(
                "wsgate_drains_total",
                "Drains that began, by cause.",
                &["cause"],
            ),
            drains_raised: registrar.counters(
                "wsgate_drains_raised_total",
                "Drains whose pace could not hold their deadline and was raised, by cause.",
                &["cause"],
            ),
            drain_rate: registrar.float_gauge(
                "wsgate_drain_rate",
                "Connections per second that the drains under way tell to reconnect, of late.",
            ),
            reconnects: registrar.histograms(
                "wsgate_reconnect_seconds",
                "From telling a client to reconnect to the upgrade that replaces its connection, matched in aggregate.",
                &RECONNECTS,
                &["upstream"],
            ),
        }
    }
}

impl DrainSeries {
    /// The series that are the same for every configuration.
    pub(super) fn add_fixed(&self) {
        for cause in drain::Cause::ALL {
            for series in [&self.drained, &self.drains, &self.drains_raised] {
                series.with_label_values(&[cause.label()]);
            }
        }
    }

    pub(super) fn add_upstream(&self, upstream: &str) {
        self.reconnects.with_label_values(&[upstream]);
    }
}

impl Metrics {
    /// A drain begins, at a pace that was raised or not.
    pub fn drain_begins(&self, cause: drain::Cause, raised: bool) {
        let cause = cause.label();
        self.drain_series.drains.with_label_values(&[cause]).inc();
        self.drain_series
            .drains_raised
            .with_label_values(&[cause])
            .inc_by(u64::from(raised));
    }

    /// A client was told to reconnect, for this cause.
    pub fn drained(&self, cause: drain::Cause) {
        self.drain_series
            .drained
            .with_label_values(&[cause.label()])
            .inc();
    }

    /// How many drains are under way, how many connections they have not told yet, and how many they tell per second.
    pub fn draining(&self, open: usize, waiting: usize, rate: f64) {
        self.drain_series.drain_rate.set(rate);
        self.drain_series.drains_open.set(open as i64);
        self.drain_series.drains_waiting.set(waiting as i64);
    }

    /// A client of this upstream is back, so long after it was told to reconnect.
    pub fn reconnected(&self, upstream: &str, after: Duration) {
        self.drain_series
            .reconnects
            .with_label_values(&[upstream])
            .observe(after.as_secs_f64());
    }
}
