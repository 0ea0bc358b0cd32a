//! Every series that wsgate exports, in a registry that is owned and not global: one file per subject declares its series and the
//! methods that count in them.
//!
//! No label takes its value from the network: close codes of the application's own are counted by range.

mod connections;
mod drains;
mod handshakes;
mod labels;
mod plain;
mod reason;
mod resources;
mod servers;
mod traffic;

pub use connections::Initiator;
pub use handshakes::{Handshake, QueueEnd, Queued};
pub use labels::{ConnectionRefusal, PlainLimit, ProxyHeaderFailure, Resource};
pub use plain::PlainRequest;
pub use reason::{Fault, Reason};
pub use resources::CertificateExpiry;
pub use servers::{ServerFigures, ServerHandshakes, UpstreamFigures};

use crate::inspect::{Mode, Side, Tally};
use connections::ConnectionSeries;
use drains::DrainSeries;
use handshakes::HandshakeSeries;
use plain::PlainSeries;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use resources::ResourceSeries;
use traffic::{Traffic, TrafficSeries};

/// All series. Share it in an `Arc`; every method takes `&self` and blocks nobody.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    handshake_series: HandshakeSeries,
    connection_series: ConnectionSeries,
    drain_series: DrainSeries,
    plain_series: PlainSeries,
    resource_series: ResourceSeries,
    traffic_series: TrafficSeries,
    traffic: Traffic,
}

impl Metrics {
    /// A registry with every series in it.
    ///
    /// # Panics
    /// Never in practice: names and labels are constants, and a test makes one.
    pub fn new() -> Self {
        let registry = Registry::new();
        let registrar = Registrar(&registry);
        let build_info = Opts::new(
            "wsgate_build_info",
            "Always 1; the label tells the version.",
        )
        .const_label("version", env!("CARGO_PKG_VERSION"));
        let build_info = registrar.register(Gauge::with_opts(build_info));
        build_info.set(1.0);
        #[cfg(target_os = "linux")]
        {
            use prometheus::process_collector::ProcessCollector;
            let process = ProcessCollector::for_self();
            registry
                .register(Box::new(process))
                .expect("no series is there twice");
        }
        let metrics = Metrics {
            handshake_series: HandshakeSeries::new(&registrar),
            connection_series: ConnectionSeries::new(&registrar),
            drain_series: DrainSeries::new(&registrar),
            plain_series: PlainSeries::new(&registrar),
            resource_series: ResourceSeries::new(&registrar),
            traffic_series: TrafficSeries::new(&registrar),
            traffic: Traffic::default(),
            registry,
        };
        metrics.connection_series.add_fixed();
        metrics.drain_series.add_fixed();
        metrics.plain_series.add_fixed();
        metrics.resource_series.add_fixed();
        // Requests for which no route was found.
        metrics.handshake_series.add_route("");
        metrics.plain_series.add_route("");
        metrics
    }

    /// Makes every series of a route in this mode appear with zero: a rate, or an alert, needs the value before the first event.
    pub fn add_route(&self, route: &str, mode: Mode) {
        self.connection_series.add_route(route, mode);
        self.handshake_series.add_route(route);
        self.plain_series.add_route(route);
    }

    /// Makes every counter of an upstream appear with zero.
    pub fn add_upstream(&self, upstream: &str) {
        self.handshake_series.add_upstream(upstream);
        self.drain_series.add_upstream(upstream);
        self.resource_series.add_upstream(upstream);
    }

    /// Makes the counters of a listener appear with zero.
    pub fn add_listener(&self, listener: &str, has_tls: bool, has_proxy_protocol: bool) {
        self.connection_series
            .add_listener(listener, has_tls, has_proxy_protocol);
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

    /// Counts the messages and bytes that passed in one direction since the last call. Threads do not share their counters.
    pub fn passed(&self, from: Side, tally: &Tally) {
        self.traffic.add(from, tally);
    }

    /// All series in Prometheus' text format.
    pub fn render(&self) -> Vec<u8> {
        self.traffic_series.refresh(&self.traffic);
        let mut text = Vec::new();
        let families = self.registry.gather();
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(%error, "the metrics cannot be encoded");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// Declares series in a registry. Names and labels are constants, so that a wrong one fails in every test.
struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn register<C: Collector + Clone + 'static>(&self, series: prometheus::Result<C>) -> C {
        let series = series.expect("a valid series");
        self.0
            .register(Box::new(series.clone()))
            .expect("no series is there twice");
        series
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, labels))
    }
}

#[cfg(test)]
mod tests;
