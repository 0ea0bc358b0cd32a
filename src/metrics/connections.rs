//! The series about connections: WebSockets from their begin to their Close, and connections that did not get that far.

use super::labels::{ConnectionRefusal, ProxyHeaderFailure};
use super::{Metrics, Registrar};
use crate::inspect::closing::Cause;
use crate::inspect::{Kind, Mode, Side};
use crate::session::ReaderLimit;
use crate::tls;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
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

/// The codes of RFC 6455 §7.4.1 and of its registry, as they are counted one by one.
const CODES: [(u16, &str); 12] = [
    (1000, "1000"),
    (1001, "1001"),
    (1002, "1002"),
    (1003, "1003"),
    (1007, "1007"),
    (1008, "1008"),
    (1009, "1009"),
    (1010, "1010"),
    (1011, "1011"),
    (1012, "1012"),
    (1013, "1013"),
    (1014, "1014"),
];

/// All other codes by range; `none` for an empty Close.
const RANGES: [&str; 4] = ["none", "3xxx", "4xxx", "other"];

fn code_label(code: Option<u16>) -> &'static str {
    let [none, libraries, applications, other] = RANGES;
    let Some(code) = code else {
        return none;
    };
    match CODES.iter().find(|(known, _)| *known == code) {
        Some((_, label)) => label,
        None if (3000..4000).contains(&code) => libraries,
        None if (4000..5000).contains(&code) => applications,
        None => other,
    }
}

#[derive(Debug)]
pub(super) struct ConnectionSeries {
    connections_open: IntGaugeVec,
    connections_total: IntCounterVec,
    connection_duration: HistogramVec,
    connection_ends: IntCounterVec,
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
            connection_ends: registrar.counters(
                "wsgate_connection_ends_total",
                "WebSocket connections that ended, by whose doing it was and why.",
                &["route", "initiator", "cause"],
            ),
            violations: registrar.counters(
                "wsgate_violations_total",
                "Rules broken, once per connection and kind, by the mode of the route: enforced or observed.",
                &["route", "side", "kind", "mode"],
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

    /// The series that are the same for every configuration.
    pub(super) fn add_fixed(&self) {
        let labels = CODES.iter().map(|(_, label)| *label).chain(RANGES);
        for code in labels {
            for (initiator, to) in [
                (Initiator::Side(Side::Client), Side::Server),
                (Initiator::Side(Side::Server), Side::Client),
                (Initiator::Wsgate, Side::Client),
                (Initiator::Wsgate, Side::Server),
            ] {
                let labels = [initiator.label(), to.label(), code];
                self.closes.with_label_values(&labels);
            }
        }
        for side in Side::ALL {
            for limit in ReaderLimit::ALL {
                let labels = [side.label(), limit.label()];
                self.slow_readers.with_label_values(&labels);
            }
        }
        for reason in ConnectionRefusal::ALL {
            self.connections_refused
                .with_label_values(&[reason.label()]);
        }
    }

    pub(super) fn add_route(&self, route: &str, mode: Mode) {
        // Some rules are enforced in either mode.
        let modes: &[Mode] = match mode {
            Mode::Enforce => &[Mode::Enforce],
            Mode::Observe => &Mode::ALL,
        };
        self.connections_open.with_label_values(&[route]);
        self.connections_total.with_label_values(&[route]);
        self.connection_duration.with_label_values(&[route]);
        for (initiator, cause) in Cause::ENDS {
            self.connection_ends
                .with_label_values(&[route, initiator, cause]);
        }
        for side in Side::ALL {
            for kind in Kind::ALL {
                for mode in modes {
                    self.violation(route, side, kind, *mode);
                }
            }
        }
    }

    pub(super) fn add_listener(&self, listener: &str, has_tls: bool, has_proxy_protocol: bool) {
        for failure in tls::Failure::ALL.into_iter().filter(|_| has_tls) {
            self.tls_failures
                .with_label_values(&[listener, failure.label()]);
        }
        let failures = ProxyHeaderFailure::ALL.into_iter();
        for failure in failures.filter(|_| has_proxy_protocol) {
            self.proxy_protocol_failures
                .with_label_values(&[listener, failure.label()]);
        }
    }

    fn violation(&self, route: &str, by: Side, kind: Kind, mode: Mode) -> IntCounter {
        let labels = [route, by.label(), kind.label(), mode.label()];
        self.violations.with_label_values(&labels)
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
    pub fn connection_ended(&self, route: &str, cause: &Cause, age: Duration) {
        self.connection_series
            .connection_ends
            .with_label_values(&[route, cause.initiator(), cause.label()])
            .inc();
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
    pub fn connection_refused(&self, reason: ConnectionRefusal) {
        self.connection_series
            .connections_refused
            .with_label_values(&[reason.label()])
            .inc();
    }

    /// A client's connection ended in its TLS handshake, for this reason.
    pub fn tls_failed(&self, listener: &str, reason: tls::Failure) {
        self.connection_series
            .tls_failures
            .with_label_values(&[listener, reason.label()])
            .inc();
    }

    /// A connection ended for want of a PROXY protocol header, for this reason.
    pub fn proxy_protocol_failed(&self, listener: &str, reason: ProxyHeaderFailure) {
        self.connection_series
            .proxy_protocol_failures
            .with_label_values(&[listener, reason.label()])
            .inc();
    }

    /// A side broke a rule, which was enforced or observed.
    pub fn violation(&self, route: &str, by: Side, kind: Kind, mode: Mode) {
        self.connection_series
            .violation(route, by, kind, mode)
            .inc();
    }

    /// A side did not take what was sent to it and was given up, because of this limit.
    pub fn slow_reader(&self, side: Side, limit: ReaderLimit) {
        self.connection_series
            .slow_readers
            .with_label_values(&[side.label(), limit.label()])
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
