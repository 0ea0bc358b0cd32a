//! The settings of an upstream, as the configuration means them.

use crate::admission;
use crate::admission::ejection::Ejection;
use crate::deploy::Thresholds;
use crate::tls;
use crate::transport::address::{Address, Tcp};
use crate::transport::source_addresses::Sources;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A named pool of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// As routes, logs and metrics name it.
    pub name: String,
    /// At least one, those of the [file](Upstream::servers_file) included.
    pub servers: Vec<ServerSettings>,
    /// A file with servers, which is read again when it changes.
    pub servers_file: Option<ServersFile>,
    /// How a server is chosen.
    pub balance: Balance,
    /// When a server that fails in the handshake is left alone for a while.
    pub ejection: Ejection,
    /// How long one connect may take before the next server is tried.
    pub connect_timeout: Duration,
    /// From the connect to the server's answer to the upgrade; 504 beyond it.
    pub handshake_timeout: Duration,
    /// How long an upgrade waits for a server that takes it; 503 beyond it.
    pub queue_timeout: Duration,
    /// How many handshakes may be under way toward each server, and how many upgrades it takes per second.
    pub admission: admission::limit::Settings,
    /// How long a server may stay silent in answering a plain HTTP request; 504 beyond it.
    pub read_timeout: Duration,
    /// How long a connection to a server is kept for the next plain HTTP request.
    pub keepalive_timeout: Duration,
    /// A name for the version behind the servers. When it changes, connections made before are drained.
    pub generation: Option<String>,
    /// How often names of servers are resolved.
    pub resolve_interval: Duration,
    /// How servers are checked; `None`: not at all.
    pub health: Option<HealthCheck>,
    /// When clients move to a server that came.
    pub rebalance: Rebalance,
    /// `None`: nothing is encrypted.
    pub tls: Option<tls::Connect>,
    /// Whether WebSockets use streams of HTTP/2 (RFC 8441).
    pub http2: Http2,
    /// Most WebSockets on one connection of HTTP/2.
    pub http2_streams: usize,
    /// How often a connection of HTTP/2 is asked for a sign of life by a PING, which has as much time for its answer; zero: never.
    pub http2_ping_interval: Duration,
    /// When the system gives up connections to them.
    pub tcp: Tcp,
    /// Which local addresses connections to them are made from.
    pub sources: Arc<Sources>,
}

/// Whether WebSockets use streams of HTTP/2 toward servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Http2 {
    /// A connection of HTTP/1.1 each.
    #[default]
    Never,
    /// HTTP/2 where the server announces extended CONNECT, HTTP/1.1 otherwise.
    Prefer,
    /// A server that does not announce it cannot be reached.
    Only,
}

/// A file with servers of an upstream, which another program writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServersFile {
    /// Where it is.
    pub path: PathBuf,
    /// How many of the upstream's servers are of the configuration itself. They come first.
    pub fixed: usize,
}

/// When an upstream is rebalanced by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// So long after a server came, or came back; zero: never.
    pub after: Duration,
    /// The share that a server may have beyond its own before clients move, in percent.
    pub slack: u32,
}

impl Default for Rebalance {
    fn default() -> Self {
        Rebalance {
            after: Duration::ZERO,
            slack: 10,
        }
    }
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Where it is.
    pub address: Address,
    /// As the configuration has it: other than `address` where that is what a name was resolved to.
    pub configured: Address,
    /// By which name it was configured, for TLS.
    pub name: Option<String>,
    /// Its share of the connections, beside those of the others. At least one.
    pub weight: u32,
    /// WebSocket connections that it may have, 0 for any number.
    pub max_connections: usize,
    /// The server is used only while no other takes connections.
    pub backup: bool,
}

impl ServerSettings {
    /// A server like any other.
    pub fn new(address: Address) -> Self {
        ServerSettings {
            name: match &address {
                Address::Name(name, _) => Some(name.clone()),
                Address::Tcp(_) | Address::Unix(_) => None,
            },
            configured: address.clone(),
            address,
            weight: 1,
            max_connections: 0,
            backup: false,
        }
    }
}

/// Which server a new connection goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// To the one with the fewest for its weight.
    LeastConnections,
    /// To one after the other.
    RoundRobin,
    /// To the one that this belongs to (consistent hashing); where it is absent, as `LeastConnections`.
    Hash(HashKey),
    /// To the one that the cookie of this name stands for, which wsgate sets; where it is absent, as `LeastConnections`.
    StickyCookie(String),
}

/// The part of a request that selects the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of a header, by its name in lower case.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
    /// The value of an argument of the query.
    Query(String),
    /// The path, without the query.
    Path,
    /// The address of the client, without the port.
    ClientAddress,
}

/// How the servers of an upstream are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The kind of check.
    pub check: Check,
    /// From the end of one check to the next.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// When a server is taken out, and let in again.
    pub thresholds: Thresholds,
    /// A server that is back is given its full share of new connections only after this time.
    pub slow_start: Duration,
    /// A header of the answer whose value says which version runs: where it changes, the server was deployed anew.
    pub version_header: Option<String>,
}

/// A check by which it is found out whether a server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// Does it accept a connection?
    Tcp,
    /// Does it answer a GET with this status?
    Http {
        /// Path, with its query if there is one.
        path: String,
        /// `None`: the address of the server.
        host: Option<String>,
        /// Status of a good answer.
        status: u16,
    },
    /// Does it answer an upgrade request with a 101 that is right?
    WebSocket {
        /// Path, with its query if there is one.
        path: String,
        /// `None`: the address of the server.
        host: Option<String>,
    },
}

impl Default for HealthCheck {
    fn default() -> Self {
        HealthCheck {
            check: Check::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            thresholds: Thresholds::default(),
            slow_start: Duration::ZERO,
            version_header: None,
        }
    }
}

impl Upstream {
    /// An upstream with all defaults.
    pub fn new(name: impl Into<String>, servers: Vec<Address>) -> Self {
        Upstream {
            name: name.into(),
            servers: servers.into_iter().map(ServerSettings::new).collect(),
            servers_file: None,
            balance: Balance::LeastConnections,
            ejection: Ejection::default(),
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            queue_timeout: Duration::from_secs(5),
            admission: admission::limit::Settings::default(),
            read_timeout: Duration::from_secs(120),
            keepalive_timeout: Duration::from_secs(4),
            generation: None,
            resolve_interval: Duration::from_secs(10),
            health: None,
            rebalance: Rebalance::default(),
            tls: None,
            http2: Http2::Never,
            http2_streams: 100,
            http2_ping_interval: Duration::from_secs(20),
            tcp: Tcp::default(),
            sources: Arc::default(),
        }
    }
}
