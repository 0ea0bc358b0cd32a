//! The series about connections: WebSockets from their begin to their Close, and connections that did not get that far.

use super::{Metrics, Registrar};
use crate::inspect::{Kind, Side};
use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec};
use std::time::Duration;

/// Bounds of the buckets for the age of a connection, in seconds: from a failed page load to a week.
const DURATIONS: [f64; 12] = [
    0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 604_800.0,
];

/// The originator of a Close that a side gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initiator {
    /// Passed on from this side.
    Side(Side),
    /// Ours.
    Wsgate,
}

impl Initiator {
    /// Its name in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Initiator::Side(side) => side.label(),
            Initiator::Wsgate => "wsgate",
        }
    }
}

/// Codes of the registry by themselves, the others by range; `none` for an empty Close.
const fn code_label(code: Option<u16>) -> &'static str {
    match code {
        None => "none",
        Some(1000) => "1000",
        Some(1001) => "1001",
        Some(1002) => "1002",
        Some(1003) => "1003",
        Some(1007) => "1007",
        Some(1008) => "1008",
        Some(1009) => "1009",
        Some(1010) => "1010",
        Some(1011) => "1011",
        Some(1012) => "1012",
        Some(1013) => "1013",
        Some(1014) => "1014",
        Some(3000..=3999) => "3xxx",
        Some(4000..=4999) => "4xxx",
        Some(_) => "other",
    }
}

#[derive(Debug)]
pub(super) struct ConnectionSeries {
    connections_open: IntGaugeVec,
    connections_total: IntCounterVec,
    connection_duration: HistogramVec,
    violations: IntCounterVec,
    closes: IntCounterVec,
    slow_readers: IntCounterVec,
    client_connections: IntGauge,
    connections_refused: IntCounterVec,
    tls_failures: IntCounterVec,
    proxy_protocol_failures: IntCounterVec,
}

impl ConnectionSeries {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        ConnectionSeries {
            connections_open: registrar.gauges(
                "wsgate_connections_open",
                "WebSocket connections open now.",
                &["route"],
            ),
            connections_total: registrar.counters(
                "wsgate_connections_total",
                "WebSocket connections established.",
                &["route"],
            ),
            connection_duration: registrar.histograms(
                "wsgate_connection_duration_seconds",
                "Age of WebSocket connections at their end.",
                &DURATIONS,
                &["route"],
            ),
            violations: registrar.counters(
                "wsgate_violations_total",
                "Rules broken, once per connection and kind, enforced or observed.",
                &["side", "kind"],
            ),
            closes: registrar.counters(
                "wsgate_closes_total",
                "Close frames by whose they are and which side they were sent to.",
                &["initiator", "to", "code"],
            ),
            slow_readers: registrar.counters(
                "wsgate_slow_readers_closed_total",
                "Connections ended because a side did not take what was sent to it, or for the memory that they owned, by the limit that ended them.",
                &["side", "limit"],
            ),
            client_connections: registrar.gauge(
                "wsgate_client_connections_open",
                "Accepted connections of clients: WebSockets, plain HTTP, and those without a request.",
            ),
            connections_refused: registrar.counters(
                "wsgate_connections_refused_total",
                "Connections of clients that were ended before they came to a request, by reason: a limit, or what they speak.",
                &["reason"],
            ),
            tls_failures: registrar.counters(
                "wsgate_tls_handshake_failures_total",
                "Connections of clients that ended in their TLS handshake, by listener and reason.",
                &["listener", "reason"],
            ),
            proxy_protocol_failures: registrar.counters(
                "wsgate_proxy_protocol_failures_total",
                "Connections that ended for want of a good PROXY protocol header, by listener and reason.",
                &["listener", "reason"],
            ),
        }
    }

    /// Makes the series of a route appear with zero.
    pub(super) fn add_route(&self, route: &str) {
        self.connections_open.with_label_values(&[route]);
        self.connections_total.with_label_values(&[route]);
    }
}

impl Metrics {
    /// A connection was established.
    pub fn connection_opened(&self, route: &str) {
        self.connection_series
            .connections_open
            .with_label_values(&[route])
            .inc();
        self.connection_series
            .connections_total
            .with_label_values(&[route])
            .inc();
    }

    /// A connection that [was established](Metrics::connection_opened) ended.
    pub fn connection_ended(&self, route: &str, age: Duration) {
        self.connection_series
            .connection_duration
            .with_label_values(&[route])
            .observe(age.as_secs_f64());
        // Last: who sees it gone finds it counted.
        self.connection_series
            .connections_open
            .with_label_values(&[route])
            .dec();
    }

    /// The number of accepted connections of clients, for the one who counts them.
    pub fn client_connections(&self) -> IntGauge {
        self.connection_series.client_connections.clone()
    }

    /// A connection of a client was ended before it came to a request.
    pub fn connection_refused(&self, reason: &'static str) {
        self.connection_series
            .connections_refused
            .with_label_values(&[reason])
            .inc();
    }

    /// A client's connection ended in its TLS handshake, for this reason.
    pub fn tls_failed(&self, listener: &str, reason: &'static str) {
        self.connection_series
            .tls_failures
            .with_label_values(&[listener, reason])
            .inc();
    }

    /// A connection ended for want of a PROXY protocol header, for this reason.
    pub fn proxy_protocol_failed(&self, listener: &str, reason: &'static str) {
        self.connection_series
            .proxy_protocol_failures
            .with_label_values(&[listener, reason])
            .inc();
    }

    /// A side broke a rule.
    pub fn violation(&self, by: Side, kind: Kind) {
        self.connection_series
            .violations
            .with_label_values(&[by.label(), kind.label()])
            .inc();
    }

    /// A side did not take what was sent to it and was given up, because of this limit.
    pub fn slow_reader(&self, side: Side, limit: &'static str) {
        self.connection_series
            .slow_readers
            .with_label_values(&[side.label(), limit])
            .inc();
    }

    /// A Close frame was sent to a side.
    pub fn close(&self, initiator: Initiator, told: Side, code: Option<u16>) {
        self.connection_series
            .closes
            .with_label_values(&[initiator.label(), told.label(), code_label(code)])
            .inc();
    }
}
