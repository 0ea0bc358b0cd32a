//! The series about upstreams and their servers, read when they are scraped: nothing of them is kept between two scrapes, so that
//! a server that is gone leaves no series behind and a scrape never sees half of them.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{LabelPair, Metric, MetricFamily};
use prometheus::{GaugeVec, Histogram, HistogramOpts, HistogramVec, IntGaugeVec, Opts};
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

/// The figures of an upstream.
#[derive(Clone, Debug)]
pub struct UpstreamFigures {
    /// Its name.
    pub upstream: String,
    /// Upgrades that wait for a server.
    pub queued: usize,
    /// Clients that were told to reconnect and are not back yet.
    pub away: usize,
    /// Its servers.
    pub servers: Vec<ServerFigures>,
}

/// The figures of a server.
#[derive(Clone, Debug)]
pub struct ServerFigures {
    /// Its address, which comes from the configuration or from discovery.
    pub server: String,
    /// `up`, `unreachable`, `draining`, `drained` or `down`.
    pub state: &'static str,
    /// All states that there are.
    pub states: &'static [&'static str],
    /// WebSocket connections to it.
    pub connections: usize,
    /// Plain requests to it under way.
    pub plain_requests: usize,
    /// Seconds since an operator drained it; 0 where nobody did.
    pub drained_seconds: f64,
    /// Handshakes under way.
    pub handshakes: u64,
    /// The bound on handshakes under way.
    pub handshake_limit: u64,
    /// Upgrades per second that it is known to take.
    pub known_rate: Option<f64>,
    /// How long its answers to upgrade requests took.
    pub answers: ServerHandshakes,
}

/// Bounds of the buckets for the handshake with a server, in seconds.
const HANDSHAKES: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// How long a server's answers to upgrade requests took. It belongs to the server, and goes with it. Clones are the same.
#[derive(Clone, Debug)]
pub struct ServerHandshakes(Histogram);

impl ServerHandshakes {
    /// Without an answer yet.
    ///
    /// # Panics
    /// Never in practice: the name and the bounds are constants.
    pub fn new() -> Self {
        let opts = HistogramOpts::new(ANSWERS, "of one server");
        let histogram = Histogram::with_opts(opts.buckets(HANDSHAKES.to_vec()));
        ServerHandshakes(histogram.expect("a valid series"))
    }

    /// The server answered, so long after the first connect to it began.
    pub fn observe(&self, after: Duration) {
        self.0.observe(after.as_secs_f64());
    }

    /// The counts as a metric with these labels.
    fn labelled(&self, labels: &[LabelPair]) -> impl Iterator<Item = Metric> {
        let families = self.0.collect();
        let metrics = families.into_iter().flat_map(|mut one| one.take_metric());
        metrics.map(|mut metric| {
            metric.set_label(labels.to_vec());
            metric
        })
    }
}

impl Default for ServerHandshakes {
    fn default() -> Self {
        ServerHandshakes::new()
    }
}

/// Reads the figures of all upstreams.
pub(super) type Read = Box<dyn Fn() -> Vec<UpstreamFigures> + Send + Sync>;

/// The collector of these series.
pub(super) struct Servers {
    read: Read,
    /// Without values: the names and labels of the series.
    series: Series,
}

impl Servers {
    pub(super) fn new(read: Read) -> prometheus::Result<Self> {
        let series = Series::new()?;
        Ok(Servers { read, series })
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").finish_non_exhaustive()
    }
}

impl Collector for Servers {
    fn desc(&self) -> Vec<&Desc> {
        self.series
            .all()
            .iter()
            .flat_map(|one| one.desc())
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(series) = Series::new() else {
            return Vec::new();
        };
        let upstreams = (self.read)();
        for upstream in &upstreams {
            series.set(upstream);
        }
        let answers = answers(&upstreams);
        let all = series.all();
        let families = all.iter().flat_map(|one| one.collect());
        let with_answers = families.map(|mut family| {
            if family.name() == ANSWERS {
                family.set_metric(answers.clone());
            }
            family
        });
        // An upstream without servers, or servers of which no rate is known, leave families without a value.
        with_answers
            .filter(|family| !family.get_metric().is_empty())
            .collect()
    }
}

/// How long the servers' answers took, by upstream and server.
fn answers(upstreams: &[UpstreamFigures]) -> Vec<Metric> {
    let mut seen = HashSet::new();
    let mut metrics = Vec::new();
    for upstream in upstreams {
        for server in &upstream.servers {
            // Two upstreams of one name, as in `Series::set`: one series, of the first.
            if seen.insert((&upstream.upstream, &server.server)) {
                let pair = |name: &str, value: &str| {
                    let mut pair = LabelPair::default();
                    pair.set_name(name.to_owned());
                    pair.set_value(value.to_owned());
                    pair
                };
                let labels = [
                    pair("server", &server.server),
                    pair("upstream", &upstream.upstream),
                ];
                metrics.extend(server.answers.labelled(&labels));
            }
        }
    }
    metrics
}

const ANSWERS: &str = "wsgate_server_handshake_seconds";

struct Series {
    queued: IntGaugeVec,
    away: IntGaugeVec,
    state: IntGaugeVec,
    connections: IntGaugeVec,
    plain_requests: IntGaugeVec,
    drained: GaugeVec,
    handshakes: IntGaugeVec,
    handshake_limit: IntGaugeVec,
    known_rate: GaugeVec,
    /// For its name and labels: the values are those of the servers.
    answers: HistogramVec,
}

impl Series {
    fn new() -> prometheus::Result<Self> {
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        const SERVER: [&str; 2] = ["upstream", "server"];
        Ok(Series {
            queued: gauges(
                "wsgate_upgrades_queued",
                "Upgrade requests that wait for a server, because all are drained, down, full, or busy with handshakes.",
                &["upstream"],
            )?,
            away: gauges(
                "wsgate_clients_away",
                "Clients that were told to reconnect and have not been seen to come back: at most 10 seconds each.",
                &["upstream"],
            )?,
            state: gauges(
                "wsgate_server_state",
                "1 for the state that a server is in, 0 for the others.",
                &["upstream", "server", "state"],
            )?,
            connections: gauges(
                "wsgate_server_connections",
                "WebSocket connections to a server.",
                &SERVER,
            )?,
            plain_requests: gauges(
                "wsgate_server_plain_requests",
                "Plain requests to a server that are under way.",
                &SERVER,
            )?,
            drained: GaugeVec::new(
                Opts::new(
                    "wsgate_server_drained_seconds",
                    "Seconds since an operator drained a server; 0 where it is not drained.",
                ),
                &SERVER,
            )?,
            handshakes: gauges(
                "wsgate_server_handshakes",
                "Handshakes with a server that are under way.",
                &SERVER,
            )?,
            handshake_limit: gauges(
                "wsgate_server_handshake_limit",
                "Most handshakes with a server that may be under way now (max_handshakes).",
                &SERVER,
            )?,
            known_rate: GaugeVec::new(
                Opts::new(
                    "wsgate_server_known_rate",
                    "Upgrades per second that a server is known to take; absent where it never showed a limit, nor more than 200.",
                ),
                &SERVER,
            )?,
            answers: HistogramVec::new(
                HistogramOpts::new(
                    ANSWERS,
                    "From the first connect to a server to its answer to an upgrade request.",
                ),
                &SERVER,
            )?,
        })
    }

    fn all(&self) -> [&dyn Collector; 10] {
        [
            &self.queued,
            &self.away,
            &self.state,
            &self.connections,
            &self.plain_requests,
            &self.drained,
            &self.handshakes,
            &self.handshake_limit,
            &self.known_rate,
            &self.answers,
        ]
    }

    fn set(&self, figures: &UpstreamFigures) {
        let name = figures.upstream.as_str();
        // Two upstreams of one name: one that the configuration dropped while it had connections, and its successor.
        let of_upstream = |series: &IntGaugeVec, value: usize| {
            series.with_label_values(&[name]).add(value as i64);
        };
        of_upstream(&self.queued, figures.queued);
        of_upstream(&self.away, figures.away);
        for server in &figures.servers {
            let labels = [name, server.server.as_str()];
            for state in server.states {
                self.state
                    .with_label_values(&[labels[0], labels[1], state])
                    .set(i64::from(*state == server.state));
            }
            let set = |series: &IntGaugeVec, value: i64| {
                series.with_label_values(&labels).set(value);
            };
            set(&self.connections, server.connections as i64);
            set(&self.plain_requests, server.plain_requests as i64);
            let drained = self.drained.with_label_values(&labels);
            drained.set(server.drained_seconds);
            set(&self.handshakes, server.handshakes as i64);
            set(&self.handshake_limit, server.handshake_limit as i64);
            if let Some(rate) = server.known_rate {
                self.known_rate.with_label_values(&labels).set(rate);
            }
        }
    }
}
