//! The series about upstreams and their servers, read when they are scraped: nothing of them is kept between two scrapes, so that
//! a server that is gone leaves no series behind and a scrape never sees half of them.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntGaugeVec, Opts};
use std::fmt;

/// The figures of an upstream.
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
pub struct ServerFigures {
    /// Its address, which comes from the configuration or from discovery.
    pub server: String,
    /// `up`, `draining` or `down`.
    pub state: &'static str,
    /// All states that there are.
    pub states: &'static [&'static str],
    /// WebSocket connections to it.
    pub connections: usize,
    /// Seconds since an operator drained it; 0 where nobody did.
    pub drained_seconds: f64,
    /// Handshakes under way.
    pub handshakes: u64,
    /// The bound on handshakes under way.
    pub handshake_limit: u64,
    /// Upgrades per second that it is known to take.
    pub known_rate: Option<f64>,
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
        for upstream in (self.read)() {
            series.set(&upstream);
        }
        let all = series.all();
        let families = all.iter().flat_map(|one| one.collect());
        // An upstream without servers, or servers of which no rate is known, leave families without a value.
        families
            .filter(|family| !family.get_metric().is_empty())
            .collect()
    }
}

struct Series {
    queued: IntGaugeVec,
    away: IntGaugeVec,
    state: IntGaugeVec,
    connections: IntGaugeVec,
    drained: GaugeVec,
    handshakes: IntGaugeVec,
    handshake_limit: IntGaugeVec,
    known_rate: GaugeVec,
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
        })
    }

    fn all(&self) -> [&dyn Collector; 8] {
        [
            &self.queued,
            &self.away,
            &self.state,
            &self.connections,
            &self.drained,
            &self.handshakes,
            &self.handshake_limit,
            &self.known_rate,
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
