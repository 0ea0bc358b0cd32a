//! The series about memory, resources of the system, ejections, reloads and certificates.

use super::{Metrics, Registrar};
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

/// How long a certificate is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Days {
    /// The listener or upstream that presents it.
    pub used_by: String,
    /// Its file.
    pub certificate: String,
    /// Less than none where it has run out.
    pub left: i64,
}

#[derive(Debug)]
pub(super) struct ResourceSeries {
    compression_memory: IntGauge,
    buffer_memory: IntGauge,
    reserved_memory: IntGauge,
    exhausted: IntCounterVec,
    ejections: IntCounterVec,
    reloads: IntCounterVec,
    certificate_days_left: IntGaugeVec,
}

impl ResourceSeries {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        ResourceSeries {
            compression_memory: registrar.gauge(
                "wsgate_compression_memory_bytes",
                "Memory that connections hold to inflate what comes next, part of wsgate_buffer_memory_bytes: windows shared by messages, messages under way.",
            ),
            buffer_memory: registrar.gauge(
                "wsgate_buffer_memory_bytes",
                "Memory that WebSocket connections own beyond what an idle one needs: unfinished frames and TLS records, what readers do not take, and what inflating needs.",
            ),
            reserved_memory: registrar.gauge(
                "wsgate_reserved_memory_bytes",
                "Memory that plain requests under way and queued upgrades may need, which counts for buffer_memory.",
            ),
            exhausted: registrar.counters(
                "wsgate_exhausted_total",
                "Attempts at another connection, of a client or to a server, for which the system had no resource left.",
                &["resource"],
            ),
            ejections: registrar.counters(
                "wsgate_ejections_total",
                "Times that a server was left alone for what connections of clients found, by reason.",
                &["upstream", "reason"],
            ),
            reloads: registrar.counters(
                "wsgate_reloads_total",
                "Reloads of the configuration by whether it was taken.",
                &["result"],
            ),
            certificate_days_left: registrar.gauges(
                "wsgate_certificate_days_left",
                "Days until a certificate that is in force runs out.",
                &["used_by", "certificate"],
            ),
        }
    }
}

impl Metrics {
    /// The memory that a connection holds to inflate messages has changed by so many bytes.
    pub fn compression_memory(&self, change: isize) {
        if change != 0 {
            self.resource_series.compression_memory.add(change as i64);
        }
    }

    /// The memory that a connection owns beyond what an idle one needs has changed by this number of bytes.
    pub fn buffer_memory(&self, change: isize) {
        self.resource_series.buffer_memory.add(change as i64);
    }

    /// The memory that plain requests may need has changed by so many bytes.
    pub fn reserved_memory(&self, change: isize) {
        self.resource_series.reserved_memory.add(change as i64);
    }

    /// There was no more of a resource of the system for a connection.
    pub fn exhausted(&self, resource: &'static str) {
        self.resource_series
            .exhausted
            .with_label_values(&[resource])
            .inc();
    }

    /// A server of this upstream is left alone from now on.
    pub fn ejected(&self, upstream: &str, reason: &'static str) {
        self.resource_series
            .ejections
            .with_label_values(&[upstream, reason])
            .inc();
    }

    /// A new configuration was taken, or not.
    pub fn reload(&self, taken: bool) {
        let result = if taken { "ok" } else { "failed" };
        self.resource_series
            .reloads
            .with_label_values(&[result])
            .inc();
    }

    /// How long the certificates are good that are in force now.
    pub fn certificates(&self, all: &[Days]) {
        self.resource_series.certificate_days_left.reset();
        for days in all {
            self.resource_series
                .certificate_days_left
                .with_label_values(&[&days.used_by, &days.certificate])
                .set(days.left);
        }
    }
}
