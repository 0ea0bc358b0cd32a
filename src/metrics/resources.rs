//! The series about memory, resources of the system, ejections, reloads and certificates.

use super::labels::Resource;
use super::{Metrics, Registrar};
use crate::admission::ejection::EjectionReason;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};

/// Until when a certificate is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// The listener or upstream that presents it.
    pub used_by: String,
    /// Its file.
    pub certificate: String,
    /// In seconds since 1970-01-01 UTC.
    pub at: i64,
}

#[derive(Debug)]
pub(super) struct ResourceSeries {
    compression_memory: IntGauge,
    buffer_memory: IntGauge,
    reserved_memory: IntGauge,
    exhausted: IntCounterVec,
    ejections: IntCounterVec,
    reloads: IntCounterVec,
    certificate_expiry: IntGaugeVec,
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
            certificate_expiry: registrar.gauges(
                "wsgate_certificate_expiry_timestamp_seconds",
                "When a certificate that is in force runs out, in seconds since 1970-01-01 UTC.",
                &["used_by", "certificate"],
            ),
        }
    }
}

/// The values of `result` of the reloads: a configuration was taken, or not.
const RELOADS: [&str; 2] = ["ok", "failed"];

impl ResourceSeries {
    /// The series that are the same for every configuration.
    pub(super) fn add_fixed(&self) {
        for resource in Resource::ALL {
            self.exhausted.with_label_values(&[resource.label()]);
        }
        for result in RELOADS {
            self.reloads.with_label_values(&[result]);
        }
    }

    pub(super) fn add_upstream(&self, upstream: &str) {
        for reason in EjectionReason::ALL {
            self.ejections
                .with_label_values(&[upstream, reason.label()]);
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
    pub fn exhausted(&self, resource: Resource) {
        self.resource_series
            .exhausted
            .with_label_values(&[resource.label()])
            .inc();
    }

    /// A server of this upstream is left alone from now on.
    pub fn ejected(&self, upstream: &str, reason: EjectionReason) {
        self.resource_series
            .ejections
            .with_label_values(&[upstream, reason.label()])
            .inc();
    }

    /// A new configuration was taken, or not.
    pub fn reload(&self, taken: bool) {
        let [ok, failed] = RELOADS;
        let result = if taken { ok } else { failed };
        self.resource_series
            .reloads
            .with_label_values(&[result])
            .inc();
    }

    /// Until when the certificates are valid that are in force now.
    pub fn certificates(&self, all: &[CertificateExpiry]) {
        self.resource_series.certificate_expiry.reset();
        for expiry in all {
            self.resource_series
                .certificate_expiry
                .with_label_values(&[&expiry.used_by, &expiry.certificate])
                .set(expiry.at);
        }
    }
}
