//! Every series that wsgate exports, declared here and nowhere else, in a registry that is owned and not global.
//!
//! No label takes its value from the network: close codes of the application's own are counted by range.

mod reason;
mod servers;

pub use reason::{Fault, Reason};
pub use servers::{ServerFigures, UpstreamFigures};

use crate::drain;
use crate::inspect::{Compressed, Kind, Side, Tally};
use parking_lot::Mutex;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bounds of the buckets for the age of a connection, in seconds: from a failed page load to a week.
const DURATIONS: [f64; 12] = [
    0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 604_800.0,
];

/// Bounds of the buckets for the handshake with an upstream, in seconds.
const HANDSHAKES: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// Bounds of the buckets for the time that upgrades wait for a server, in seconds: up to the default of `queue_timeout` and beyond.
const WAITS: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Bounds of the buckets for the time that clients take to come back, in seconds.
const RECONNECTS: [f64; 9] = [0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0];

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
}

impl QueueEnd {
    const fn label(self) -> &'static str {
        match self {
            QueueEnd::Served => "served",
            QueueEnd::Expired => "expired",
            QueueEnd::Refused => "refused",
            QueueEnd::Abandoned => "abandoned",
        }
    }
}

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

/// All series. Share it in an `Arc`; every method takes `&self` and blocks nobody.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    connections_open: IntGaugeVec,
    connections_total: IntCounterVec,
    connection_duration: HistogramVec,
    handshakes: IntCounterVec,
    refusals: IntCounterVec,
    handshake_violations: IntCounterVec,
    upstream_handshake: Histogram,
    drains_open: IntGauge,
    drains_waiting: IntGauge,
    drained: IntCounterVec,
    drains: IntCounterVec,
    drains_raised: IntCounterVec,
    drain_rate: Gauge,
    dequeued: IntCounterVec,
    reconnects: HistogramVec,
    waits: HistogramVec,
    certificate_days_left: IntGaugeVec,
    reloads: IntCounterVec,
    tls_failures: IntCounterVec,
    proxy_protocol_failures: IntCounterVec,
    client_connections: IntGauge,
    connections_refused: IntCounterVec,
    requests_refused: IntCounterVec,
    exhausted: IntCounterVec,
    ejections: IntCounterVec,
    violations: IntCounterVec,
    closes: IntCounterVec,
    compression_memory: IntGauge,
    buffer_memory: IntGauge,
    reserved_memory: IntGauge,
    plain_ended: IntCounterVec,
    http2_resets: IntCounterVec,
    slow_readers: IntCounterVec,
    traffic: Traffic,
    exported: Mutex<TrafficExport>,
}

#[derive(Debug)]
struct TrafficExport {
    messages: IntCounterVec,
    bytes: IntCounterVec,
    compressed: IntCounterVec,
    compressed_bytes: IntCounterVec,
}

impl Metrics {
    /// A registry with every series in it.
    ///
    /// # Panics
    /// Never in practice: names and labels are constants, and a test makes one.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let series = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid series");
            registry
                .register(Box::new(series.clone()))
                .expect("no series is there twice");
            series
        };
        let connections_total = counter(
            "wsgate_connections_total",
            "WebSocket connections established.",
            &["route"],
        );
        let handshakes = counter(
            "wsgate_handshakes_total",
            "Upgrade requests by how they ended.",
            &["route", "result"],
        );
        let refusals = counter(
            "wsgate_handshakes_refused_total",
            "Upgrade requests, and heads that could not be read, that were refused, by route (empty where none was found) and reason.",
            &["route", "reason"],
        );
        let handshake_violations = counter(
            "wsgate_handshake_violations_total",
            "Rules of the opening handshake that were broken and passed on by a route with mode = \"observe\".",
            &["side", "kind"],
        );
        let drained = counter(
            "wsgate_drain_connections_total",
            "Connections whose client was told to reconnect, by cause.",
            &["cause"],
        );
        let drains = counter(
            "wsgate_drains_total",
            "Drains that began, by cause.",
            &["cause"],
        );
        let drains_raised = counter(
            "wsgate_drains_raised_total",
            "Drains whose pace could not hold their deadline and was raised, by cause.",
            &["cause"],
        );
        let dequeued = counter(
            "wsgate_upgrades_dequeued_total",
            "Upgrade requests that waited for a server, by how that ended.",
            &["upstream", "end"],
        );
        let reloads = counter(
            "wsgate_reloads_total",
            "Reloads of the configuration by whether it was taken.",
            &["result"],
        );
        let tls_failures = counter(
            "wsgate_tls_handshake_failures_total",
            "Connections of clients that ended in their TLS handshake, by listener and reason.",
            &["listener", "reason"],
        );
        let proxy_protocol_failures = counter(
            "wsgate_proxy_protocol_failures_total",
            "Connections that ended for want of a good PROXY protocol header, by listener and reason.",
            &["listener", "reason"],
        );
        let connections_refused = counter(
            "wsgate_connections_refused_total",
            "Connections of clients that were ended before they came to a request, by reason: a limit, or what they speak.",
            &["reason"],
        );
        let requests_refused = counter(
            "wsgate_requests_refused_total",
            "Plain requests, and heads that could not be read, that were answered with an error of wsgate's own, by status.",
            &["status"],
        );
        let exhausted = counter(
            "wsgate_exhausted_total",
            "Attempts at another connection, of a client or to a server, for which the system had no resource left.",
            &["resource"],
        );
        let ejections = counter(
            "wsgate_ejections_total",
            "Times that a server was left alone for what connections of clients found, by reason.",
            &["upstream", "reason"],
        );
        let violations = counter(
            "wsgate_violations_total",
            "Rules broken, once per connection and kind, enforced or observed.",
            &["side", "kind"],
        );
        let closes = counter(
            "wsgate_closes_total",
            "Close frames by whose they are and which side they were sent to.",
            &["initiator", "to", "code"],
        );
        let slow_readers = counter(
            "wsgate_slow_readers_closed_total",
            "Connections ended because a side did not take what was sent to it, or for the memory that they owned, by the limit that ended them.",
            &["side", "limit"],
        );
        let plain_ended = counter(
            "wsgate_plain_requests_ended_total",
            "Plain requests, and connections of HTTP/2, that were ended because of their client, by the limit that ended them.",
            &["limit"],
        );
        let http2_resets = counter(
            "wsgate_http2_resets_total",
            "Streams of HTTP/2 that clients reset before their response.",
            &[],
        );
        http2_resets.with_label_values::<&str>(&[]);
        let messages = counter(
            "wsgate_messages_total",
            "Whole messages and control frames passed on.",
            &["direction", "kind"],
        );
        let bytes = counter(
            "wsgate_bytes_total",
            "Payload passed on, in bytes.",
            &["direction", "kind"],
        );
        let compressed = counter(
            "wsgate_compressed_messages_total",
            "Compressed messages passed on, each inflated to be judged.",
            &["direction"],
        );
        let compressed_bytes = counter(
            "wsgate_compressed_bytes_total",
            "Payload of compressed messages passed on, in bytes: as it passed, and as it inflates.",
            &["direction", "form"],
        );

        let gauge = |name: &str, help: &str| {
            let series = IntGauge::new(name, help).expect("a valid series");
            registry
                .register(Box::new(series.clone()))
                .expect("no series is there twice");
            series
        };
        let client_connections = gauge(
            "wsgate_client_connections_open",
            "Accepted connections of clients: WebSockets, plain HTTP, and those without a request.",
        );
        let drains_open = gauge("wsgate_drains_open", "Drains under way.");
        let drains_waiting = gauge(
            "wsgate_drains_waiting",
            "Connections that a drain has not told yet.",
        );
        let compression_memory = gauge(
            "wsgate_compression_memory_bytes",
            "Memory that connections hold to inflate what comes next, part of wsgate_buffer_memory_bytes: windows shared by messages, messages under way.",
        );
        let buffer_memory = gauge(
            "wsgate_buffer_memory_bytes",
            "Memory that WebSocket connections own beyond what an idle one needs: unfinished frames and TLS records, what readers do not take, and what inflating needs.",
        );
        let reserved_memory = gauge(
            "wsgate_reserved_memory_bytes",
            "Memory that plain requests under way and queued upgrades may need, which counts for buffer_memory.",
        );
        let opts = Opts::new(
            "wsgate_drain_rate",
            "Connections per second that the drains under way tell to reconnect, of late.",
        );
        let drain_rate = Gauge::with_opts(opts).expect("a valid series");
        registry
            .register(Box::new(drain_rate.clone()))
            .expect("no series is there twice");
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let series = IntGaugeVec::new(Opts::new(name, help), labels).expect("a valid series");
            registry
                .register(Box::new(series.clone()))
                .expect("no series is there twice");
            series
        };
        let certificate_days_left = gauges(
            "wsgate_certificate_days_left",
            "Days until a certificate that is in force runs out.",
            &["used_by", "certificate"],
        );
        let opts = HistogramOpts::new(
            "wsgate_reconnect_seconds",
            "From telling a client to reconnect to the upgrade that replaces its connection, matched in aggregate.",
        )
        .buckets(RECONNECTS.to_vec());
        let reconnects = HistogramVec::new(opts, &["upstream"]).expect("a valid series");
        registry
            .register(Box::new(reconnects.clone()))
            .expect("no series is there twice");
        let opts = HistogramOpts::new(
            "wsgate_upgrade_wait_seconds",
            "Time that upgrade requests waited in the queue of an upstream until a server had room.",
        )
        .buckets(WAITS.to_vec());
        let waits = HistogramVec::new(opts, &["upstream"]).expect("a valid series");
        registry
            .register(Box::new(waits.clone()))
            .expect("no series is there twice");
        let opts = Opts::new("wsgate_connections_open", "WebSocket connections open now.");
        let connections_open = IntGaugeVec::new(opts, &["route"]).expect("a valid series");
        registry
            .register(Box::new(connections_open.clone()))
            .expect("no series is there twice");
        let opts = HistogramOpts::new(
            "wsgate_connection_duration_seconds",
            "Age of WebSocket connections at their end.",
        )
        .buckets(DURATIONS.to_vec());
        let connection_duration = HistogramVec::new(opts, &["route"]).expect("a valid series");
        registry
            .register(Box::new(connection_duration.clone()))
            .expect("no series is there twice");
        let opts = HistogramOpts::new(
            "wsgate_upstream_handshake_seconds",
            "From the first connect to the upstream's answer to an upgrade request.",
        )
        .buckets(HANDSHAKES.to_vec());
        let upstream_handshake = Histogram::with_opts(opts).expect("a valid series");
        registry
            .register(Box::new(upstream_handshake.clone()))
            .expect("no series is there twice");
        let opts = Opts::new(
            "wsgate_build_info",
            "Always 1; the label tells the version.",
        )
        .const_label("version", env!("CARGO_PKG_VERSION"));
        let build_info = Gauge::with_opts(opts).expect("a valid series");
        build_info.set(1.0);
        registry
            .register(Box::new(build_info))
            .expect("no series is there twice");
        #[cfg(target_os = "linux")]
        {
            use prometheus::process_collector::ProcessCollector;
            registry
                .register(Box::new(ProcessCollector::for_self()))
                .expect("no series is there twice");
        }

        Metrics {
            registry,
            connections_open,
            connections_total,
            connection_duration,
            handshakes,
            refusals,
            handshake_violations,
            upstream_handshake,
            drains_open,
            drains_waiting,
            drained,
            drains,
            drains_raised,
            drain_rate,
            dequeued,
            reconnects,
            waits,
            certificate_days_left,
            reloads,
            tls_failures,
            proxy_protocol_failures,
            client_connections,
            connections_refused,
            requests_refused,
            exhausted,
            ejections,
            violations,
            closes,
            compression_memory,
            buffer_memory,
            reserved_memory,
            plain_ended,
            http2_resets,
            slow_readers,
            traffic: Traffic::default(),
            exported: Mutex::new(TrafficExport {
                messages,
                bytes,
                compressed,
                compressed_bytes,
            }),
        }
    }

    /// Makes the series of a route appear with zero, so that a rate over them has a beginning.
    pub fn add_route(&self, route: &str) {
        self.connections_open.with_label_values(&[route]);
        self.connections_total.with_label_values(&[route]);
        self.handshakes
            .with_label_values(&[route, Handshake::Ok.label()]);
    }

    /// An upgrade request ended.
    pub fn handshake(&self, route: &str, result: Handshake) {
        self.handshakes
            .with_label_values(&[route, result.label()])
            .inc();
    }

    /// An upgrade request was refused; the route is empty where none was found.
    pub fn refused(&self, route: &str, reason: Reason) {
        self.handshake(route, reason.result());
        self.refusals
            .with_label_values(&[route, reason.label()])
            .inc();
    }

    /// A rule of the opening handshake was broken and passed on.
    pub fn handshake_violation(&self, side: &str, kind: &str) {
        self.handshake_violations
            .with_label_values(&[side, kind])
            .inc();
    }

    /// An upstream answered an upgrade request.
    pub fn upstream_answered(&self, after: Duration) {
        self.upstream_handshake.observe(after.as_secs_f64());
    }

    /// A connection was established.
    pub fn connection_opened(&self, route: &str) {
        self.connections_open.with_label_values(&[route]).inc();
        self.connections_total.with_label_values(&[route]).inc();
    }

    /// A connection that [was established](Metrics::connection_opened) ended.
    pub fn connection_ended(&self, route: &str, age: Duration) {
        self.connection_duration
            .with_label_values(&[route])
            .observe(age.as_secs_f64());
        // Last: who sees it gone finds it counted.
        self.connections_open.with_label_values(&[route]).dec();
    }

    /// An upgrade request waits for a server of this upstream, as long as what is returned lives.
    pub fn queue(&self, upstream: &str) -> Queued {
        Queued {
            began: Instant::now(),
            ends: self.dequeued.clone(),
            waits: self.waits.clone(),
            upstream: upstream.to_owned(),
            end: QueueEnd::Abandoned,
        }
    }

    /// A drain begins, at a pace that was raised or not.
    pub fn drain_begins(&self, cause: drain::Cause, raised: bool) {
        let cause = cause.label();
        self.drains.with_label_values(&[cause]).inc();
        self.drains_raised
            .with_label_values(&[cause])
            .inc_by(u64::from(raised));
    }

    /// A client of this upstream is back, so long after it was told to reconnect.
    pub fn reconnected(&self, upstream: &str, after: Duration) {
        self.reconnects
            .with_label_values(&[upstream])
            .observe(after.as_secs_f64());
    }

    /// A new configuration was taken, or not.
    pub fn reload(&self, taken: bool) {
        let result = if taken { "ok" } else { "failed" };
        self.reloads.with_label_values(&[result]).inc();
    }

    /// A client's connection ended in its TLS handshake, for this reason.
    pub fn tls_failed(&self, listener: &str, reason: &'static str) {
        self.tls_failures
            .with_label_values(&[listener, reason])
            .inc();
    }

    /// A connection ended for want of a PROXY protocol header, for this reason.
    pub fn proxy_protocol_failed(&self, listener: &str, reason: &'static str) {
        self.proxy_protocol_failures
            .with_label_values(&[listener, reason])
            .inc();
    }

    /// The number of accepted connections of clients, for the one who counts them.
    pub fn client_connections(&self) -> IntGauge {
        self.client_connections.clone()
    }

    /// A connection of a client was ended before it came to a request.
    pub fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.with_label_values(&[reason]).inc();
    }

    /// A plain request, or a head that cannot be read, was answered with an error of wsgate's own.
    pub fn request_refused(&self, status: &str) {
        self.requests_refused.with_label_values(&[status]).inc();
    }

    /// There was no more of a resource of the system for a connection.
    pub fn exhausted(&self, resource: &'static str) {
        self.exhausted.with_label_values(&[resource]).inc();
    }

    /// A server of this upstream is left alone from now on.
    pub fn ejected(&self, upstream: &str, reason: &'static str) {
        self.ejections.with_label_values(&[upstream, reason]).inc();
    }

    /// How long the certificates are good that are in force now.
    pub fn certificates(&self, all: &[Days]) {
        self.certificate_days_left.reset();
        for days in all {
            self.certificate_days_left
                .with_label_values(&[&days.used_by, &days.certificate])
                .set(days.left);
        }
    }

    /// Exports the figures of all upstreams, which are read at each scrape. To be called once.
    ///
    /// # Panics
    /// Never in practice: names and labels are constants, and a test registers them.
    pub fn read_upstreams(&self, read: impl Fn() -> Vec<UpstreamFigures> + Send + Sync + 'static) {
        let servers = servers::Servers::new(Box::new(read)).expect("valid series");
        if let Err(error) = self.registry.register(Box::new(servers)) {
            tracing::error!(%error, "the series of the upstreams are exported already");
        }
    }

    /// A client was told to reconnect, for this cause.
    pub fn drained(&self, cause: drain::Cause) {
        self.drained.with_label_values(&[cause.label()]).inc();
    }

    /// How many drains are under way, how many connections they have not told yet, and how many they tell per second.
    pub fn draining(&self, open: usize, waiting: usize, rate: f64) {
        self.drain_rate.set(rate);
        self.drains_open.set(open as i64);
        self.drains_waiting.set(waiting as i64);
    }

    /// A side broke a rule.
    pub fn violation(&self, by: Side, kind: Kind) {
        self.violations
            .with_label_values(&[by.label(), kind.label()])
            .inc();
    }

    /// The memory that a connection owns beyond what an idle one needs has changed by this number of bytes.
    pub fn buffer_memory(&self, change: isize) {
        self.buffer_memory.add(change as i64);
    }

    /// The memory that plain requests may need has changed by so many bytes.
    pub fn reserved_memory(&self, change: isize) {
        self.reserved_memory.add(change as i64);
    }

    /// A plain request, or a connection of HTTP/2, was ended because its client did not keep this limit.
    pub fn plain_ended(&self, limit: &'static str) {
        self.plain_ended.with_label_values(&[limit]).inc();
    }

    /// A client reset a stream of HTTP/2 before its response.
    pub fn http2_reset(&self) {
        self.http2_resets.with_label_values::<&str>(&[]).inc();
    }

    /// A side did not take what was sent to it and was given up, because of this limit.
    pub fn slow_reader(&self, side: Side, limit: &'static str) {
        self.slow_readers
            .with_label_values(&[side.label(), limit])
            .inc();
    }

    /// A Close frame was sent to a side.
    pub fn close(&self, initiator: Initiator, told: Side, code: Option<u16>) {
        self.closes
            .with_label_values(&[initiator.label(), told.label(), code_label(code)])
            .inc();
    }

    /// Counts the messages and bytes that passed in one direction since the last call. Threads do not share their counters.
    pub fn passed(&self, from: Side, tally: &Tally) {
        self.traffic.add(from, tally);
    }

    /// The memory that a connection holds to inflate messages has changed by so many bytes.
    pub fn compression_memory(&self, change: isize) {
        if change != 0 {
            self.compression_memory.add(change as i64);
        }
    }

    /// All series in Prometheus' text format.
    pub fn render(&self) -> Vec<u8> {
        {
            // One scrape at a time brings the exported counters up to what the threads have counted.
            let exported = self.exported.lock();
            for from in [Side::Client, Side::Server] {
                let sum = self.traffic.sum(from);
                for (kind, label) in Tally::LABELS.into_iter().enumerate() {
                    let labels = [direction(from), label];
                    let messages = exported.messages.with_label_values(&labels);
                    messages.inc_by(sum.messages[kind].saturating_sub(messages.get()));
                    let bytes = exported.bytes.with_label_values(&labels);
                    bytes.inc_by(sum.bytes[kind].saturating_sub(bytes.get()));
                }
                let Compressed {
                    messages,
                    deflated,
                    inflated,
                } = sum.compressed;
                let compressed = exported.compressed.with_label_values(&[direction(from)]);
                compressed.inc_by(messages.saturating_sub(compressed.get()));
                for (form, bytes) in [("deflated", deflated), ("inflated", inflated)] {
                    let labels = [direction(from), form];
                    let series = exported.compressed_bytes.with_label_values(&labels);
                    series.inc_by(bytes.saturating_sub(series.get()));
                }
            }
        }
        let mut text = Vec::new();
        let families = self.registry.gather();
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(%error, "the metrics cannot be encoded");
        }
        text
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

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// The label of the direction in which `from` sends.
const fn direction(from: Side) -> &'static str {
    match from {
        Side::Client => "client_to_server",
        Side::Server => "server_to_client",
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

/// Counters that every message touches: each thread has its own, on cache lines of its own.
#[derive(Debug, Default)]
struct Traffic {
    shards: [Shard; Traffic::SHARDS],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// By side, then messages and bytes, then kind.
    counts: [[[AtomicU64; Tally::KINDS]; 2]; 2],
    /// By side: compressed messages, their bytes deflated and inflated.
    compressed: [[AtomicU64; 3]; 2],
}

impl Traffic {
    /// More threads than this share shards, which costs speed and nothing else.
    const SHARDS: usize = 32;

    fn add(&self, from: Side, tally: &Tally) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % Traffic::SHARDS);
        }
        let shard = &self.shards[MINE.get()];
        let Compressed {
            messages,
            deflated,
            inflated,
        } = tally.compressed;
        if messages != 0 {
            let series = &shard.compressed[from as usize];
            for (series, more) in series.iter().zip([messages, deflated, inflated]) {
                series.fetch_add(more, Ordering::Relaxed);
            }
        }
        let [messages, bytes] = &shard.counts[from as usize];
        for kind in 0..Tally::KINDS {
            if tally.messages[kind] != 0 {
                messages[kind].fetch_add(tally.messages[kind], Ordering::Relaxed);
            }
            if tally.bytes[kind] != 0 {
                bytes[kind].fetch_add(tally.bytes[kind], Ordering::Relaxed);
            }
        }
    }

    fn sum(&self, from: Side) -> Tally {
        let mut sum = Tally::default();
        for shard in &self.shards {
            let [messages, bytes] = &shard.counts[from as usize];
            for kind in 0..Tally::KINDS {
                sum.messages[kind] += messages[kind].load(Ordering::Relaxed);
                sum.bytes[kind] += bytes[kind].load(Ordering::Relaxed);
            }
            let [messages, deflated, inflated] = &shard.compressed[from as usize];
            sum.compressed.messages += messages.load(Ordering::Relaxed);
            sum.compressed.deflated += deflated.load(Ordering::Relaxed);
            sum.compressed.inflated += inflated.load(Ordering::Relaxed);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    fn rendered(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).unwrap()
    }

    #[test]
    fn traffic_of_all_threads_is_summed_once() {
        let metrics = Metrics::new();
        let tally = Tally {
            messages: [3, 0, 1, 0, 0],
            bytes: [300, 0, 4, 0, 0],
            compressed: Compressed {
                messages: 1,
                deflated: 40,
                inflated: 100,
            },
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| metrics.passed(Side::Client, &tally));
            }
        });
        for _ in 0..2 {
            let text = rendered(&metrics);
            assert!(
                text.contains(
                    "wsgate_messages_total{direction=\"client_to_server\",kind=\"text\"} 24"
                ),
                "{text}"
            );
            assert!(
                text.contains(
                    "wsgate_bytes_total{direction=\"client_to_server\",kind=\"text\"} 2400"
                ),
                "{text}"
            );
            assert!(
                text.contains(
                    "wsgate_messages_total{direction=\"server_to_client\",kind=\"text\"} 0"
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn every_series_is_rendered() {
        let metrics = Metrics::new();
        metrics.add_route("chat");
        metrics.handshake("chat", Handshake::Ok);
        metrics.refused("", Reason::NoRoute);
        metrics.upstream_answered(Duration::from_millis(2));
        metrics.connection_opened("chat");
        metrics.connection_ended("chat", Duration::from_secs(2));
        metrics.drained(drain::Cause::Operator);
        metrics.draining(1, 7, 0.0);
        metrics.queue("a").end(QueueEnd::Served);
        let upstreams = Arc::new(Mutex::new(vec![figures()]));
        let read = upstreams.clone();
        metrics.read_upstreams(move || read.lock().clone());
        metrics.violation(Side::Client, Kind::TextNotUtf8);
        metrics.buffer_memory(4096);
        metrics.slow_reader(Side::Client, "write_timeout");
        metrics.close(Initiator::Wsgate, Side::Client, Some(1007));
        metrics.close(Initiator::Side(Side::Server), Side::Client, Some(4321));
        let text = rendered(&metrics);
        for line in [
            "wsgate_build_info{version=\"",
            "wsgate_connections_open{route=\"chat\"} 0",
            "wsgate_connections_total{route=\"chat\"} 1",
            "wsgate_handshakes_total{result=\"ok\",route=\"chat\"} 1",
            "wsgate_handshakes_total{result=\"bad_request\",route=\"\"} 1",
            "wsgate_handshakes_refused_total{reason=\"no_route\",route=\"\"} 1",
            "wsgate_violations_total{kind=\"text_not_utf8\",side=\"client\"} 1",
            "wsgate_closes_total{code=\"1007\",initiator=\"wsgate\",to=\"client\"} 1",
            "wsgate_closes_total{code=\"4xxx\",initiator=\"server\",to=\"client\"} 1",
            "wsgate_buffer_memory_bytes 4096",
            "wsgate_slow_readers_closed_total{limit=\"write_timeout\",side=\"client\"} 1",
            "wsgate_drain_connections_total{cause=\"operator\"} 1",
            "wsgate_upgrades_queued{upstream=\"a\"} 3",
            "wsgate_clients_away{upstream=\"a\"} 7",
            "wsgate_server_state{server=\"b:1\",state=\"up\",upstream=\"a\"} 1",
            "wsgate_server_state{server=\"b:1\",state=\"down\",upstream=\"a\"} 0",
            "wsgate_server_connections{server=\"b:1\",upstream=\"a\"} 5",
            "wsgate_server_handshakes{server=\"b:1\",upstream=\"a\"} 2",
            "wsgate_server_handshake_limit{server=\"b:1\",upstream=\"a\"} 20",
            "wsgate_server_known_rate{server=\"b:1\",upstream=\"a\"} 300",
            "wsgate_upgrades_dequeued_total{end=\"served\",upstream=\"a\"} 1",
            "wsgate_upgrade_wait_seconds_count{upstream=\"a\"} 1",
            "wsgate_drains_open 1",
            "wsgate_drains_waiting 7",
            "wsgate_connection_duration_seconds_count{route=\"chat\"} 1",
            "wsgate_upstream_handshake_seconds_count 1",
            "\nprocess_resident_memory_bytes",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        upstreams.lock().clear();
        let text = rendered(&metrics);
        assert!(
            !text.contains("wsgate_server_"),
            "of a server that is gone:\n{text}"
        );
    }

    fn figures() -> UpstreamFigures {
        let server = ServerFigures {
            server: "b:1".to_owned(),
            state: "up",
            states: &["up", "down"],
            connections: 5,
            handshakes: 2,
            handshake_limit: 20,
            known_rate: Some(300.0),
        };
        UpstreamFigures {
            upstream: "a".to_owned(),
            queued: 3,
            away: 7,
            servers: vec![server],
        }
    }
}
