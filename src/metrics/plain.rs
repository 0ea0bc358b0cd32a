//! The series about plain requests.

use super::{Metrics, Registrar};
use prometheus::IntCounterVec;

#[derive(Debug)]
pub(super) struct PlainSeries {
    requests_refused: IntCounterVec,
    plain_ended: IntCounterVec,
    http2_resets: IntCounterVec,
}

impl PlainSeries {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        let series = PlainSeries {
            requests_refused: registrar.counters(
                "wsgate_requests_refused_total",
                "Plain requests, and heads that could not be read, that were answered with an error of wsgate's own, by status.",
                &["status"],
            ),
            plain_ended: registrar.counters(
                "wsgate_plain_requests_ended_total",
                "Plain requests, and connections of HTTP/2, that were ended because of their client, by the limit that ended them.",
                &["limit"],
            ),
            http2_resets: registrar.counters(
                "wsgate_http2_resets_total",
                "Streams of HTTP/2 that clients reset before their response.",
                &[],
            ),
        };
        series.http2_resets.with_label_values::<&str>(&[]);
        series
    }
}

impl Metrics {
    /// A plain request, or a head that cannot be read, was answered with an error of wsgate's own.
    pub fn request_refused(&self, status: &str) {
        self.plain_series
            .requests_refused
            .with_label_values(&[status])
            .inc();
    }

    /// A plain request, or a connection of HTTP/2, was ended because its client did not keep this limit.
    pub fn plain_ended(&self, limit: &'static str) {
        self.plain_series
            .plain_ended
            .with_label_values(&[limit])
            .inc();
    }

    /// A client reset a stream of HTTP/2 before its response.
    pub fn http2_reset(&self) {
        self.plain_series
            .http2_resets
            .with_label_values::<&str>(&[])
            .inc();
    }
}
