//! The series about plain requests.

use super::labels::{PlainLimit, StatusClass};
use super::{Metrics, Reason, Registrar};
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use std::time::{Duration, Instant};

/// Bounds of the buckets for the time from the head of a plain request to the end of its response, in seconds: from a file out of
/// a cache to a stream of events.
const DURATIONS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

#[derive(Debug)]
pub(super) struct PlainSeries {
    open: IntGaugeVec,
    requests: IntCounterVec,
    durations: HistogramVec,
    refused: IntCounterVec,
    ended: IntCounterVec,
    http2_resets: IntCounter,
}

impl PlainSeries {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        PlainSeries {
            open: registrar.gauges(
                "wsgate_plain_requests_open",
                "Plain requests under way.",
                &["route"],
            ),
            requests: registrar.counters(
                "wsgate_plain_requests_total",
                "Plain requests that ended, by the class of the response's status; none: no response was sent.",
                &["route", "status"],
            ),
            durations: registrar.histograms(
                "wsgate_plain_request_duration_seconds",
                "From the head of a plain request to the end of its response.",
                &DURATIONS,
                &["route"],
            ),
            refused: registrar.counters(
                "wsgate_plain_requests_refused_total",
                "Plain requests, and heads that could not be read, that were answered with an error of wsgate's own, by route (empty where none was found) and reason.",
                &["route", "reason"],
            ),
            ended: registrar.counters(
                "wsgate_plain_requests_ended_total",
                "Plain requests, and connections of HTTP/2, that were ended because of their client, by the limit that ended them.",
                &["limit"],
            ),
            http2_resets: registrar.counter(
                "wsgate_http2_resets_total",
                "Streams of HTTP/2 that clients reset before their response.",
            ),
        }
    }

    /// The series that are the same for every configuration.
    pub(super) fn add_fixed(&self) {
        for limit in PlainLimit::ALL {
            self.ended.with_label_values(&[limit.label()]);
        }
    }

    pub(super) fn add_route(&self, route: &str) {
        for reason in Reason::ALL {
            self.refused.with_label_values(&[route, reason.label()]);
        }
        if route.is_empty() {
            return;
        }
        self.open.with_label_values(&[route]);
        self.durations.with_label_values(&[route]);
        for class in StatusClass::ALL {
            self.requests.with_label_values(&[route, class.label()]);
        }
    }
}

/// A plain request of a route under way. Dropped without [an end](PlainRequest::end), the request had no response.
#[derive(Debug)]
pub struct PlainRequest {
    began: Instant,
    open: IntGauge,
    requests: IntCounterVec,
    durations: HistogramVec,
    route: String,
    class: StatusClass,
}

impl PlainRequest {
    /// The time since its head was complete.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// The request ended, with a response of this status, if there was one.
    pub fn end(mut self, status: Option<u16>) {
        self.class = StatusClass::of(status);
    }
}

impl Drop for PlainRequest {
    fn drop(&mut self) {
        let route = self.route.as_str();
        let labels = [route, self.class.label()];
        self.requests.with_label_values(&labels).inc();
        let durations = self.durations.with_label_values(&[route]);
        durations.observe(self.began.elapsed().as_secs_f64());
        self.open.dec();
    }
}

impl Metrics {
    /// A plain request of this route is under way, as long as the returned value lives.
    pub fn plain_request(&self, route: &str) -> PlainRequest {
        let series = &self.plain_series;
        let open = series.open.with_label_values(&[route]);
        open.inc();
        PlainRequest {
            began: Instant::now(),
            open,
            requests: series.requests.clone(),
            durations: series.durations.clone(),
            route: route.to_owned(),
            class: StatusClass::None,
        }
    }

    /// A plain request, or a head that cannot be read, was answered with an error of wsgate's own; the route is empty where none
    /// was found.
    pub fn plain_refused(&self, route: &str, reason: Reason) {
        self.plain_series
            .refused
            .with_label_values(&[route, reason.label()])
            .inc();
    }

    /// A plain request, or a connection of HTTP/2, was ended because its client did not keep this limit.
    pub fn plain_ended(&self, limit: PlainLimit) {
        self.plain_series
            .ended
            .with_label_values(&[limit.label()])
            .inc();
    }

    /// A client reset a stream of HTTP/2 before its response.
    pub fn http2_reset(&self) {
        self.plain_series.http2_resets.inc();
    }
}
