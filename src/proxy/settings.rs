//! What the proxy is told to do: listeners, upstreams and routes, as the configuration means them.

use crate::deploy::Thresholds;
use crate::handshake::Compression;
use crate::inspect::{Rules, closing};
use crate::session::{Limits, Liveness};
use crate::tls;
use ipnet::IpNet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use super::sources::Sources;

/// Where a listener listens or a server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A host name and a port (servers only): each address that it resolves to is a server.
    Name(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => write!(f, "{addr}"),
            Address::Name(name, port) => write!(f, "{name}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One address on which clients are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// TCP (port 0 takes a free one) or Unix.
    pub address: Address,
    /// `None`: nothing is encrypted.
    pub tls: Option<tls::Accept>,
    /// Connections begin with a header of the PROXY protocol, which trusted proxies alone may send.
    pub proxy_protocol: bool,
}

/// How requests of clients are read, on every listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// From the first connection, or the end of the last request, to the end of a request's head; 408 beyond it.
    pub header_timeout: Duration,
    /// How long a connection may wait for its next plain HTTP request.
    pub keepalive_timeout: Duration,
    /// How long the body of a plain request may pause, zero for ever; 408 beyond it.
    pub body_timeout: Duration,
    /// Bytes per second that a client has to send of a body, or take of a response, while it is waited for; 0 for none.
    pub min_rate: u64,
    /// Most streams of HTTP/2 at a time on one connection.
    pub http2_max_streams: u32,
    /// Largest head of a request, in bytes; 431 beyond it.
    pub max_header_size: usize,
    /// Peers whose word on where a request comes from is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// So is that of peers on a Unix socket.
    pub trust_unix: bool,
    /// Where they say it.
    pub forwarded_header: ForwardedHeader,
    /// Most accepted connections in all, 0 for no limit; 503 with Retry-After beyond it.
    pub max_connections: usize,
    /// Most memory that all connections together own beyond what idle ones need, in bytes, 0 for no limit. Beyond it
    /// new ones get 503 with Retry-After, and those with the slowest readers are closed with 1013.
    pub buffer_memory: usize,
    /// What one client address may have.
    pub per_address: AddressLimits,
    /// When the system gives up their connections.
    pub tcp: Tcp,
}

/// When the system gives up a TCP connection whose other end says nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// After so long without a byte the other end is probed, [`Tcp::PROBES`] times within as long again; 1 s to 32,767 s,
    /// zero for never.
    pub keepalive: Duration,
    /// How long what was sent may stay unacknowledged, or the other end's window closed; zero for as long as the system
    /// likes. Where there are probes, it bounds them too.
    pub user_timeout: Duration,
}

impl Tcp {
    /// So many probes without an answer end a connection.
    pub const PROBES: u32 = 6;

    /// What nobody knows a socket to have.
    pub(crate) const UNKNOWN: Tcp = Tcp {
        keepalive: Duration::MAX,
        user_timeout: Duration::MAX,
    };

    /// What a socket has when it is made: the system's patience.
    pub const OFF: Tcp = Tcp {
        keepalive: Duration::ZERO,
        user_timeout: Duration::ZERO,
    };
}

impl Default for Tcp {
    fn default() -> Self {
        Tcp {
            keepalive: Duration::from_secs(60),
            // As long as the probes take in all: shorter, a single one that is lost could end a connection.
            user_timeout: Duration::from_secs(120),
        }
    }
}

/// Where a proxy in front of wsgate says who the client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// What one client address may have; 429 with Retry-After beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressLimits {
    /// Connections at a time; of clients behind trusted proxies, WebSockets and requests under way. 0 for no limit.
    pub max_connections: usize,
    /// New connections, and further requests on them, per second; 0 for no limit.
    pub rate: u32,
    /// IPv6 addresses that have so many bits in common are one.
    pub ipv6_prefix: u8,
}

impl AddressLimits {
    /// Whether there are any.
    pub fn is_some(&self) -> bool {
        self.max_connections != 0 || self.rate != 0
    }
}

impl Default for Client {
    fn default() -> Self {
        Client {
            header_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            min_rate: 256,
            http2_max_streams: 32,
            max_header_size: 32 << 10,
            trusted_proxies: Vec::new(),
            trust_unix: false,
            forwarded_header: ForwardedHeader::default(),
            max_connections: 0,
            buffer_memory: 0,
            per_address: AddressLimits {
                max_connections: 0,
                rate: 0,
                ipv6_prefix: 64,
            },
            tcp: Tcp::default(),
        }
    }
}

/// A named pool of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// As routes, logs and metrics name it.
    pub name: String,
    /// At least one.
    pub servers: Vec<ServerSettings>,
    /// Whose turn it is.
    pub balance: Balance,
    /// When a server that fails in the handshake is left alone for a while.
    pub ejection: Ejection,
    /// How long one connect may take before the next server is tried.
    pub connect_timeout: Duration,
    /// From the connect to the server's answer to the upgrade; 504 beyond it.
    pub handshake_timeout: Duration,
    /// How long an upgrade waits for a server where all of them are drained; 503 beyond it.
    pub queue_timeout: Duration,
    /// How long a server may stay silent in answering a plain HTTP request; 504 beyond it.
    pub read_timeout: Duration,
    /// How long a connection to a server is kept for the next plain HTTP request.
    pub keepalive_timeout: Duration,
    /// What stands behind the servers, in any words: where it changes, connections made before are drained.
    pub generation: Option<String>,
    /// How often names of servers are resolved.
    pub resolve_interval: Duration,
    /// How servers are checked; `None`: not at all.
    pub health: Option<Health>,
    /// `None`: nothing is encrypted.
    pub tls: Option<tls::Connect>,
    /// When the system gives up connections to them.
    pub tcp: Tcp,
    /// Which local addresses connections to them are made from.
    pub sources: Arc<Sources>,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Where it is.
    pub address: Address,
    /// By which name it was configured, for TLS.
    pub name: Option<String>,
    /// Its share of the connections, beside those of the others. At least one.
    pub weight: u32,
    /// WebSocket connections that it may have, 0 for any number.
    pub max_connections: usize,
    /// It is used only while none of the others takes connections.
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
}

/// What of a request decides on the server.
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

/// When a server that fails connections of clients is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// After so many failures in a row, or sessions dropped at once; 0 for never.
    pub after: u32,
    /// For this long at first, twice as long each time, up to [`Ejection::LONGEST`] times as long.
    pub pause: Duration,
}

impl Ejection {
    /// The longest pause, in units of the first.
    pub const LONGEST: u32 = 32;
}

impl Default for Ejection {
    fn default() -> Self {
        Ejection {
            after: 5,
            pause: Duration::from_secs(5),
        }
    }
}

/// How the servers of an upstream are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked of a server.
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

/// What is asked of a server to find out whether it serves.
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

impl Default for Health {
    fn default() -> Self {
        Health {
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
            balance: Balance::LeastConnections,
            ejection: Ejection::default(),
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            queue_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(120),
            keepalive_timeout: Duration::from_secs(4),
            generation: None,
            resolve_interval: Duration::from_secs(10),
            health: None,
            tls: None,
            tcp: Tcp::default(),
            sources: Arc::default(),
        }
    }
}

/// Which requests go to which upstream, and what their connections are held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// As logs and metrics name it.
    pub name: String,
    /// Hosts, in lower case and without port; `*.example.com` matches any name below it; empty matches every host.
    pub hosts: Vec<String>,
    /// Path prefix, matched at segment borders; `/` matches every path.
    pub path: String,
    /// Index of its upstream in [`Settings::upstreams`].
    pub upstream: usize,
    /// Origins that may open a WebSocket (`https://example.com`); empty allows all, and requests without an Origin.
    pub allowed_origins: Vec<String>,
    /// How old a WebSocket connection may become before its client is told to reconnect; zero for any age.
    pub max_age: Duration,
    /// Most WebSocket connections and plain requests under way, 0 for no limit; 503 with Retry-After beyond it.
    pub max_connections: usize,
    /// Whom it serves.
    pub access: Access,
    /// What is changed of requests before a server gets them, and of answers before a client does.
    pub headers: [HeaderRules; 2],
    /// What the frames are held to.
    pub rules: Rules,
    /// Whether their messages may be compressed, and how.
    pub compression: Compression,
    /// How connections are ended.
    pub closing: closing::Policy,
    /// How it is found out whether both sides are there.
    pub liveness: Liveness,
    /// How much both sides may send, and how long they may leave what is sent to them.
    pub limits: Limits,
}

/// Whom a route serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Client addresses; empty for all. 403 for others.
    pub allow: Vec<IpNet>,
    /// Client addresses that are refused, those allowed included.
    pub deny: Vec<IpNet>,
    /// Clients without a certificate that their listener has verified are refused with 403.
    pub client_certificate: bool,
    /// Who else is asked.
    pub auth: Option<Auth>,
}

/// A service that is asked whether a request may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Where it is.
    pub address: Address,
    /// Its name, for the Host header.
    pub host: String,
    /// What it is asked for.
    pub path: String,
    /// For its answer; a request does not pass without one.
    pub timeout: Duration,
    /// Headers of a good answer that the server gets, in lower case; what the client itself says there is removed.
    pub copy: Vec<String>,
}

/// Changes of headers, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// Taken away, in lower case.
    pub remove: Vec<String>,
    /// Put in the place of what is there.
    pub set: Vec<(String, String)>,
    /// Put beside what is there.
    pub add: Vec<(String, String)>,
}

/// All that the proxy is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// At least one.
    pub listeners: Vec<Listener>,
    /// How requests of clients are read.
    pub client: Client,
    /// At least one.
    pub upstreams: Vec<Upstream>,
    /// The most specific wins: exact host before wildcard before any, then the longest path.
    pub routes: Vec<Route>,
}

impl Settings {
    /// Every certificate that is presented, to clients or to servers.
    pub fn certificates(&self) -> Vec<tls::Certificate> {
        let accept = self
            .listeners
            .iter()
            .filter_map(|listener| listener.tls.as_ref());
        let connect = self
            .upstreams
            .iter()
            .filter_map(|upstream| upstream.tls.as_ref());
        accept
            .flat_map(|tls| &tls.certificates)
            .chain(connect.filter_map(|tls| tls.certificate.as_ref()))
            .cloned()
            .collect()
    }
}
