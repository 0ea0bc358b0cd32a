//! The series about upgrade requests: their results, refusals, waits, and the handshakes of servers.

use super::{Metrics, Reason, Registrar};
use prometheus::{Histogram, HistogramVec, IntCounterVec};
use std::time::{Duration, Instant};

/// Bounds of the buckets for the handshake with an upstream, in seconds.
const HANDSHAKES: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// Bounds of the buckets for the time that upgrades wait for a server, in seconds: up to the default of `queue_timeout` and beyond.
const WAITS: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How an upgrade request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// The connection is a tunnel.
    Ok,
    /// The client's request was not one: 400 or 426.
    BadRequest,
    /// The origin or the client's address is not among those allowed, or the access service said so: 401, 403.
    Forbidden,
    /// The client's address has all the connections that it may have, or opens them too fast: 429.
    Throttled,
    /// The access service did not answer as it must: 502, 504.
    Unchecked,
    /// The route, or wsgate, has all the connections that it may have, or all the memory for slow ones: 503.
    Full,
    /// All servers are drained and none came back in time: 503.
    QueueTimeout,
    /// The upstream answered with something else than 101, which was relayed.
    Declined,
    /// The upstream's 101 was wrong: 502.
    InvalidUpgradeResponse,
    /// No server could be reached, or it ended the connection before it answered: 502.
    Unreachable,
    /// The upstream did not answer in time: 504.
    TimedOut,
    /// The client was gone before it was done.
    Abandoned,
}

impl Handshake {
    const fn label(self) -> &'static str {
        match self {
            Handshake::Ok => "ok",
            Handshake::BadRequest => "bad_request",
            Handshake::Forbidden => "forbidden",
            Handshake::Throttled => "throttled",
            Handshake::Unchecked => "unchecked",
            Handshake::Full => "full",
            Handshake::QueueTimeout => "queue_timeout",
            Handshake::Declined => "declined",
            Handshake::InvalidUpgradeResponse => "invalid_upgrade",
            Handshake::Unreachable => "unreachable",
            Handshake::TimedOut => "timed_out",
            Handshake::Abandoned => "abandoned",
        }
    }
}

/// How the wait of an upgrade request for a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueEnd {
    /// A server took the upgrade.
    Served,
    /// No server took the upgrade in time.
    Expired,
    /// The upgrade would have waited in vain.
    Refused,
    /// The client left.
    Abandoned,
    /// No server could be connected to.
    Unreachable,
}

impl QueueEnd {
    const fn label(self) -> &'static str {
        match self {
            QueueEnd::Served => "served",
            QueueEnd::Expired => "expired",
            QueueEnd::Refused => "refused",
            QueueEnd::Abandoned => "abandoned",
            QueueEnd::Unreachable => "unreachable",
        }
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
    upstream_handshake: Histogram,
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
                &["side", "kind"],
            ),
            upstream_handshake: registrar.histogram(
                "wsgate_upstream_handshake_seconds",
                "From the first connect to the upstream's answer to an upgrade request.",
                &HANDSHAKES,
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

    /// Makes the series of a route appear with zero.
    pub(super) fn add_route(&self, route: &str) {
        let labels = [route, Handshake::Ok.label()];
        self.handshakes.with_label_values(&labels);
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
    pub fn handshake_violation(&self, side: &str, kind: &str) {
        self.handshake_series
            .handshake_violations
            .with_label_values(&[side, kind])
            .inc();
    }

    /// An upstream answered an upgrade request.
    pub fn upstream_answered(&self, after: Duration) {
        self.handshake_series
            .upstream_handshake
            .observe(after.as_secs_f64());
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
