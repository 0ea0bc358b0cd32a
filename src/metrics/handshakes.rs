//! The series about upgrade requests: their results, refusals and waits.

use super::labels::labelled;
use super::{Metrics, Reason, Registrar};
use crate::handshake::Violation;
use prometheus::{HistogramVec, IntCounter, IntCounterVec};
use std::time::Instant;

/// Bounds of the buckets for the time that upgrades wait for a server, in seconds: up to the default of `queue_timeout` and beyond.
const WAITS: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

labelled! {
    /// How an upgrade request ended.
    pub Handshake {
        /// The connection is a tunnel.
        Ok = "ok",
        /// The client's request was not one: 400 or 426.
        BadRequest = "bad_request",
        /// The origin or the client's address is not among those allowed, or the access service said so: 401, 403.
        Forbidden = "forbidden",
        /// The client's address has all the connections that it may have, or opens them too fast: 429.
        Throttled = "throttled",
        /// The access service did not answer as it must: 502, 504.
        Unchecked = "unchecked",
        /// The route, or wsgate, has all the connections that it may have, or all the memory for slow ones: 503.
        Full = "full",
        /// All servers are drained and none came back in time: 503.
        QueueTimeout = "queue_timeout",
        /// The upstream answered with something else than 101, which was relayed.
        Declined = "declined",
        /// The upstream's 101 was wrong: 502.
        InvalidUpgradeResponse = "invalid_upgrade",
        /// No server could be reached, or it ended the connection before it answered: 502.
        Unreachable = "unreachable",
        /// The upstream did not answer in time: 504.
        TimedOut = "timed_out",
        /// The client was gone before it was done.
        Abandoned = "abandoned",
        /// wsgate could not handle the request: 500.
        Internal = "internal",
    }
}

labelled! {
    /// How the wait of an upgrade request for a server ended.
    pub QueueEnd {
        /// A server took the upgrade.
        Served = "served",
        /// No server took the upgrade in time.
        Expired = "expired",
        /// The upgrade would have waited in vain.
        Refused = "refused",
        /// The client left.
        Abandoned = "abandoned",
        /// No server could be connected to.
        Unreachable = "unreachable",
    }
}

/// An upgrade request that waits. Dropped without [an end](Queued::end), its client has left.
#[derive(Debug)]
pub struct Queued {
    began: Instant,
    ends: IntCounterVec,
    waits: HistogramVec,
    upstream: String,
    end: QueueEnd,
}

impl Queued {
    /// The upgrade does not wait any more.
    pub fn end(mut self, end: QueueEnd) {
        self.end = end;
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let upstream = self.upstream.as_str();
        let labels = [upstream, self.end.label()];
        self.ends.with_label_values(&labels).inc();
        if self.end == QueueEnd::Served {
            let waits = self.waits.with_label_values(&[upstream]);
            waits.observe(self.began.elapsed().as_secs_f64());
        }
    }
}

#[derive(Debug)]
pub(super) struct HandshakeSeries {
    handshakes: IntCounterVec,
    refusals: IntCounterVec,
    handshake_violations: IntCounterVec,
    dequeued: IntCounterVec,
    waits: HistogramVec,
}

impl HandshakeSeries {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        HandshakeSeries {
            handshakes: registrar.counters(
                "wsgate_handshakes_total",
                "Upgrade requests by how they ended.",
                &["route", "result"],
            ),
            refusals: registrar.counters(
                "wsgate_handshakes_refused_total",
                "Upgrade requests, and heads that could not be read, that were refused, by route (empty where none was found) and reason.",
                &["route", "reason"],
            ),
            handshake_violations: registrar.counters(
                "wsgate_handshake_violations_total",
                "Rules of the opening handshake that were broken and passed on by a route with mode = \"observe\".",
                &["route", "side", "kind"],
            ),
            dequeued: registrar.counters(
                "wsgate_upgrades_dequeued_total",
                "Upgrade requests that waited for a server, by how that ended.",
                &["upstream", "end"],
            ),
            waits: registrar.histograms(
                "wsgate_upgrade_wait_seconds",
                "Time that upgrade requests waited in the queue of an upstream until a server had room.",
                &WAITS,
                &["upstream"],
            ),
        }
    }

    pub(super) fn add_route(&self, route: &str) {
        for result in Handshake::ALL {
            self.handshakes.with_label_values(&[route, result.label()]);
        }
        for reason in Reason::ALL {
            self.refusals.with_label_values(&[route, reason.label()]);
        }
        for violation in Violation::ALL {
            self.violation(route, violation);
        }
    }

    pub(super) fn add_upstream(&self, upstream: &str) {
        for end in QueueEnd::ALL {
            self.dequeued.with_label_values(&[upstream, end.label()]);
        }
        self.waits.with_label_values(&[upstream]);
    }

    fn violation(&self, route: &str, violation: Violation) -> IntCounter {
        let labels = [route, violation.side().label(), violation.label()];
        self.handshake_violations.with_label_values(&labels)
    }
}

impl Metrics {
    /// An upgrade request ended.
    pub fn handshake(&self, route: &str, result: Handshake) {
        self.handshake_series
            .handshakes
            .with_label_values(&[route, result.label()])
            .inc();
    }

    /// An upgrade request was refused; the route is empty where none was found.
    pub fn refused(&self, route: &str, reason: Reason) {
        self.handshake(route, reason.result());
        self.handshake_series
            .refusals
            .with_label_values(&[route, reason.label()])
            .inc();
    }

    /// A rule of the opening handshake was broken and passed on.
    pub fn handshake_violation(&self, route: &str, violation: Violation) {
        self.handshake_series.violation(route, violation).inc();
    }

    /// An upgrade request waits for a server of this upstream, as long as what is returned lives.
    pub fn queue(&self, upstream: &str) -> Queued {
        Queued {
            began: Instant::now(),
            ends: self.handshake_series.dequeued.clone(),
            waits: self.handshake_series.waits.clone(),
            upstream: upstream.to_owned(),
            end: QueueEnd::Abandoned,
        }
    }
}
