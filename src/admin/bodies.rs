//! The bodies of the admin API, as the server writes them and the command line reads them.

use crate::admission::ejection;
use crate::drain::{DrainId, Progress, State};
use crate::upstream;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// The body of a request that drains, deploys or resumes. Every field is optional.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// The address of one server of the upstream; all of them where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The time over which the drain is spread evenly, `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over: Option<String>,
    /// Connections per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// The time after which what is left is closed at once, `60s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Only a forecast is wanted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// The drain may take the last server of the upstream that takes connections.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// For a rebalance: the excess over its share that a server may have before clients are moved, `10%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slack: Option<String>,
    /// The name of the operator, for the log and the status: at most 100 bytes, no control characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// The answer to a request that is refused.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Failure {
    /// The mistake, and the remedy.
    pub error: String,
    /// The names of the upstreams that there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstreams: Option<Vec<String>>,
    /// The addresses of the servers that there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<String>>,
    /// The request is carried out with `force`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_force: bool,
}

/// The answer to a drain or a deploy.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Drained {
    /// A dry run.
    Forecast {
        /// The forecast of the drain.
        forecast: Forecast,
    },
    /// The servers are drained already.
    Already {
        /// A sentence that says so.
        message: String,
        /// The drains of the upstream.
        drains: Vec<Drain>,
    },
    /// The drain has begun.
    Begun {
        /// One drain; several where the server was named by a name of several addresses.
        begun: Vec<Drain>,
        /// Warnings and remarks for the operator.
        notes: Vec<String>,
    },
}

/// The answer to a rebalance.
#[derive(Debug, Deserialize, Serialize)]
pub struct Rebalanced {
    /// The servers that take connections.
    pub servers: Vec<Share>,
    /// Clients that were told to reconnect and are not back yet: they count for no server.
    pub away: usize,
    /// The drain of the connections that move; `None` for a dry run, and where none has to move.
    pub begun: Option<Drain>,
}

/// The connections of a server.
#[derive(Debug, Deserialize, Serialize)]
pub struct Share {
    /// Its address.
    pub server: String,
    /// WebSocket connections to it.
    pub connections: usize,
    /// Connections that move to other servers.
    pub moved: usize,
}

/// The forecast of a drain.
#[derive(Debug, Deserialize, Serialize)]
pub struct Forecast {
    /// Connections that it would close.
    pub connections: usize,
    /// Plain requests under way that it would wait for until the deadline.
    pub plain_requests: usize,
    /// The time until the last client is told, in seconds.
    pub seconds: f64,
    /// The deadline, in seconds.
    pub deadline_seconds: f64,
    /// Connections per second.
    pub rate: f64,
    /// The pace is raised to hold the deadline.
    pub raised: bool,
    /// No other server of the upstream takes connections: the drain needs `force`.
    pub leaves_none: bool,
}

/// A drain, as far as it is.
#[derive(Debug, Deserialize, Serialize)]
pub struct Drain {
    /// Its number.
    pub id: u64,
    /// The address of its server; `None` for all servers of the upstream.
    pub server: Option<String>,
    /// Its cause: `operator`, `deploy`, `health` and others.
    pub cause: String,
    /// `running`, `done` or `cancelled`.
    pub state: String,
    /// Plain requests under way that it waits for until the deadline.
    pub plain_requests: usize,
    /// Connections that it closes or has closed.
    pub total: usize,
    /// Connections whose client was not told yet.
    pub waiting: usize,
    /// Connections whose client was told, and that are not gone yet.
    pub closing: usize,
    /// Connections that are gone.
    pub closed: usize,
    /// Connections of `closed` that ended by themselves.
    pub left: usize,
    /// Clients seen to come back.
    pub reconnected: usize,
    /// Upgrades that failed while clients were away.
    pub failed: usize,
    /// Clients told per second, of late.
    pub rate: f64,
    /// The pace was raised to hold the deadline.
    pub raised: bool,
    /// The time since it began, in seconds.
    pub age_seconds: u64,
    /// The time until the last client is told, in seconds.
    pub ends_in_seconds: f64,
    /// The time until what is left is closed at once, in seconds.
    pub deadline_in_seconds: f64,
    /// The longest time after which its clients were told to come back, in seconds; `None` where that is not known.
    pub longest_delay_seconds: Option<f64>,
}

impl Drain {
    /// With this number of plain requests that it waits for.
    pub(super) fn new(
        id: DrainId,
        server: Option<String>,
        progress: &Progress,
        plain_requests: usize,
    ) -> Self {
        let state = match progress.state {
            State::Done if plain_requests > 0 => State::Running,
            state => state,
        };
        let now = Instant::now();
        let until = |moment: Instant| moment.saturating_duration_since(now).as_secs_f64();
        Drain {
            id: id.number(),
            server,
            cause: progress.cause.label().to_owned(),
            state: state.label().to_owned(),
            plain_requests,
            total: progress.total,
            waiting: progress.waiting,
            closing: progress.closing,
            closed: progress.closed,
            left: progress.left,
            reconnected: progress.reconnected,
            failed: progress.failed,
            rate: progress.rate,
            raised: progress.raised,
            age_seconds: now.saturating_duration_since(progress.started).as_secs(),
            ends_in_seconds: until(progress.ends),
            deadline_in_seconds: until(progress.deadline),
            longest_delay_seconds: None,
        }
    }
}

/// The answer to a resume, and to the end of a drain.
#[derive(Debug, Deserialize, Serialize)]
pub struct Resumed {
    /// The addresses of the servers that take connections and did not before.
    pub resumed: Vec<String>,
    /// Drains that were cancelled.
    pub cancelled: usize,
    /// The servers of the upstream.
    pub servers: Vec<Server>,
    /// Warnings and remarks for the operator.
    pub notes: Vec<String>,
}

/// The drains of an upstream.
#[derive(Debug, Deserialize, Serialize)]
pub struct Drains {
    /// The name of the upstream.
    pub upstream: String,
    /// The running drains, and the last that ended.
    pub drains: Vec<Drain>,
}

/// The body of a request that closes a connection. Every field is optional.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CloseOrder {
    /// The code of the Close that the client gets; 1008 where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// The reason of the Close, at most 123 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The name of the operator, as in [`Change::by`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// The answer to a request that closes a connection.
#[derive(Debug, Deserialize, Serialize)]
pub struct Closed {
    /// The number of the connection.
    pub closed: u64,
}

/// Some of the WebSocket connections that there are.
#[derive(Debug, Deserialize, Serialize)]
pub struct Connections {
    /// In the order of their numbers, which is that of their handshakes.
    pub connections: Vec<Connection>,
    /// There are more: the value of `after` for the next request.
    pub next: Option<u64>,
}

/// A WebSocket connection.
#[derive(Debug, Deserialize, Serialize)]
pub struct Connection {
    /// Its number, which the log has too.
    pub id: u64,
    /// The client's address: `unknown` or `unix` where there is none.
    pub client: String,
    /// The peer's address and port: the client, or a proxy in front.
    pub peer: String,
    /// The name of its route.
    pub route: String,
    /// The name of its upstream.
    pub upstream: String,
    /// The address of its server.
    pub server: String,
    /// The subprotocol. This and the following as far as `log.fields` names them.
    pub protocol: Option<String>,
    /// As the client asked for it.
    pub host: Option<String>,
    /// Without the query.
    pub path: Option<String>,
    /// The `Origin` header.
    pub origin: Option<String>,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// Accepted or made.
    pub request_id: Option<String>,
    /// The `traceparent` header.
    pub traceparent: Option<String>,
    /// Seconds since its 101.
    pub age_seconds: u64,
    /// Seconds since the last message in either direction.
    pub idle_seconds: u64,
    /// Whole data messages of the client.
    pub messages_from_client: u64,
    /// Payload of the client.
    pub bytes_from_client: u64,
    /// Whole data messages of the server.
    pub messages_from_server: u64,
    /// Payload of the server.
    pub bytes_from_server: u64,
    /// Memory that the connection keeps beyond that of an idle one.
    pub buffered_bytes: usize,
}

/// The status of wsgate.
#[derive(Debug, Deserialize, Serialize)]
pub struct Status {
    /// The version of wsgate.
    pub version: String,
    /// Seconds since the process started.
    pub uptime_seconds: u64,
    /// The addresses on which clients are accepted.
    pub listeners: Vec<String>,
    /// Every upstream, those included that the configuration dropped while they had connections.
    pub upstreams: Vec<Upstream>,
}

/// The status of an upstream.
#[derive(Debug, Deserialize, Serialize)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// WebSocket connections to its servers.
    pub connections: usize,
    /// Plain requests under way.
    pub plain_requests: usize,
    /// Clients that were told to reconnect and are not back yet.
    pub away: usize,
    /// Upgrades that wait for a server.
    pub queued: usize,
    /// The 99th percentile of the waits that ended within the last minute with a server, in seconds; `None` without any.
    pub queue_p99_seconds: Option<f64>,
    /// Its servers.
    pub servers: Vec<Server>,
    /// Its drains: the running ones, and the last that ended.
    pub drains: Vec<Drain>,
    /// Names of servers, as the configuration has them, that have no address.
    pub unresolved: Vec<String>,
    /// Servers that operators drained and that the configuration does not have.
    pub absent: Vec<Absent>,
}

/// A server that an operator drained and that the configuration does not have.
#[derive(Debug, Deserialize, Serialize)]
pub struct Absent {
    /// Its address, or its name.
    pub address: String,
    /// The time since then, in seconds.
    pub for_seconds: u64,
    /// The requester of the drain.
    pub by: String,
}

/// The status of a server.
#[derive(Debug, Deserialize, Serialize)]
pub struct Server {
    /// Its address, as configured or discovered.
    pub address: String,
    /// `up`, `unreachable`, `draining`, `drained` or `down`.
    pub state: String,
    /// Why it takes no connections; `None` where it takes them.
    pub out: Option<Out>,
    /// The connects that failed since one was accepted; `None` where the last one was accepted.
    pub unreachable: Option<Unreachable>,
    /// WebSocket connections to it.
    pub connections: usize,
    /// Plain requests to it under way.
    pub plain_requests: usize,
    /// Its handshakes.
    pub handshakes: Handshakes,
}

/// A server to which every connect fails.
#[derive(Debug, Deserialize, Serialize)]
pub struct Unreachable {
    /// The time since the first connect failed, in seconds.
    pub for_seconds: u64,
    /// The time since a connect failed last, in seconds.
    pub last_seconds: u64,
}

impl From<ejection::Unreachable> for Unreachable {
    fn from(unreachable: ejection::Unreachable) -> Self {
        Unreachable {
            for_seconds: unreachable.since.elapsed().as_secs(),
            last_seconds: unreachable.last.elapsed().as_secs(),
        }
    }
}

/// Why a server takes no connections.
#[derive(Debug, Deserialize, Serialize)]
pub struct Out {
    /// `drained`, `removed by ...`, `fails its checks`, `not checked yet` or `ejected: ...`.
    pub reason: String,
    /// The time since then, in seconds; `None` where it is not known.
    pub for_seconds: Option<u64>,
    /// The time until it ends by itself, in seconds; `None` where an event has to end it.
    pub until_seconds: Option<u64>,
    /// The requester of a drain.
    pub by: Option<String>,
}

impl From<upstream::Out> for Out {
    fn from(out: upstream::Out) -> Self {
        Out {
            reason: out.reason(),
            for_seconds: out.age().map(|age| age.as_secs()),
            until_seconds: out.left().map(|left| left.as_secs().max(1)),
            by: out.by().map(str::to_owned),
        }
    }
}

/// The handshakes of a server, as its admission counts them.
#[derive(Debug, Deserialize, Serialize)]
pub struct Handshakes {
    /// Handshakes under way.
    pub under_way: u64,
    /// The bound on handshakes under way.
    pub limit: u64,
    /// Handshakes that the server answered within the last second.
    pub per_second: f64,
    /// Upgrades per second that the server is known to take; `None` where it never showed a limit, nor more than the guess.
    pub known_rate: Option<f64>,
}

/// The answer to a reload.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Reloaded {
    /// The configuration is in force.
    Yes {
        /// Always true.
        reloaded: bool,
        /// Warnings.
        notes: Vec<String>,
    },
    /// The configuration that was in force stays in force.
    No {
        /// Always false.
        reloaded: bool,
        /// Why.
        error: String,
    },
}
