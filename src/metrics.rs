//! Every series that wsgate exports, in a registry that is owned and not global: one file per subject declares its series and the
//! methods that count in them.
//!
//! No label takes its value from the network: close codes of the application's own are counted by range.

mod connections;
mod drains;
mod handshakes;
mod plain;
mod reason;
mod resources;
mod servers;
mod traffic;

pub use connections::Initiator;
pub use handshakes::{Handshake, QueueEnd, Queued};
pub use reason::{Fault, Reason};
pub use resources::CertificateExpiry;
pub use servers::{ServerFigures, UpstreamFigures};

use crate::inspect::{Side, Tally};
use connections::ConnectionSeries;
use drains::DrainSeries;
use handshakes::HandshakeSeries;
use plain::PlainSeries;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec,
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
        Metrics {
            handshake_series: HandshakeSeries::new(&registrar),
            connection_series: ConnectionSeries::new(&registrar),
            drain_series: DrainSeries::new(&registrar),
            plain_series: PlainSeries::new(&registrar),
            resource_series: ResourceSeries::new(&registrar),
            traffic_series: TrafficSeries::new(&registrar),
            traffic: Traffic::default(),
            registry,
        }
    }

    /// Makes the series of a route appear with zero, so that a rate over them has a beginning.
    pub fn add_route(&self, route: &str) {
        self.connection_series.add_route(route);
        self.handshake_series.add_route(route);
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

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(opts))
    }

    fn histograms(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(opts, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain;
    use crate::inspect::{Compressed, Kind};
    use parking_lot::Mutex;
    use std::sync::Arc;
    use std::time::Duration;

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
            drained_seconds: 0.0,
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
