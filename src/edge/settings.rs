//! The settings of the edge: listeners, clients and routes, as the configuration means them.

use crate::edge::http::target::replace_prefix;
use crate::edge::route::conditions::Conditions;
use crate::handshake::Compression;
use crate::inspect::{Rules, closing};
use crate::limit::clients::AddressLimits;
use crate::log::RequestLog;
use crate::session::{Limits, Liveness};
use crate::tls;
use crate::transport::address::{Address, Tcp};
use crate::upstream::settings::Upstream;
use http::HeaderName;
use ipnet::IpNet;
use std::borrow::Cow;
use std::time::Duration;

/// One address on which clients are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// TCP (port 0 takes a free one) or Unix.
    pub address: Address,
    /// `None`: nothing is encrypted.
    pub tls: Option<tls::Accept>,
    /// Connections begin with a header of the PROXY protocol, which trusted proxies alone may send.
    pub proxy_protocol: bool,
    /// HTTP/2 beside HTTP/1.1, where `tls` does not decide it.
    pub http2: Http2,
}

/// HTTP/2 on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Spoken without TLS to clients that begin with its preface ("prior knowledge", RFC 9113 §3.3).
    pub in_clear_text: bool,
    /// `SETTINGS_ENABLE_CONNECT_PROTOCOL` is announced: clients may open WebSockets on streams (RFC 8441 §3).
    pub websockets: bool,
}

impl Http2 {
    /// Of a listener that does not say more.
    pub const DEFAULT: Http2 = Http2 {
        in_clear_text: false,
        websockets: true,
    };
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
    /// Most streams of HTTP/2 at a time on one connection, WebSockets among them.
    pub http2_max_streams: u32,
    /// Bytes that a client of HTTP/2 may send on one stream before they are read (`SETTINGS_INITIAL_WINDOW_SIZE`).
    pub http2_stream_window: u32,
    /// Bytes that a client of HTTP/2 may send on all streams of a connection before they are read.
    pub http2_connection_window: u32,
    /// Largest head of a request, in bytes; 431 beyond it.
    pub max_header_size: usize,
    /// Peers whose word on where a request comes from is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// Peers on a Unix socket are trusted too.
    pub trust_unix: bool,
    /// Where they say it.
    pub forwarded_header: ForwardedHeader,
    /// Most accepted connections in all, 0 for no limit; 503 with Retry-After beyond it.
    pub max_connections: usize,
    /// Most memory that all connections together own beyond what idle ones need, in bytes, 0 for no limit. Beyond it
    /// new ones get 503 with Retry-After, and those with the slowest readers are closed with 1013.
    pub buffer_memory: usize,
    /// The limits of one client address.
    pub per_address: AddressLimits,
    /// When the system gives up their connections.
    pub tcp: Tcp,
    /// The header with the id of a request; `None`: requests have none.
    pub request_id: Option<HeaderName>,
    /// The fields of requests in the log, and the share of plain requests that have a line.
    pub log: RequestLog,
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

impl Default for Client {
    fn default() -> Self {
        Client {
            header_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            min_rate: 256,
            http2_max_streams: 128,
            http2_stream_window: 64 << 10,
            http2_connection_window: 1 << 20,
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
            request_id: Some(HeaderName::from_static("x-request-id")),
            log: RequestLog::default(),
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
    /// The other conditions that a request has to meet.
    pub conditions: Conditions,
    /// The path that replaces `path` at the beginning of a request's path on the way to a server; `None`: the path as it came.
    pub replace_path: Option<String>,
    /// Index of its upstream in [`Settings::upstreams`].
    pub upstream: usize,
    /// The port of HTTPS to which requests without TLS are redirected; 0: they are served.
    pub redirect_https: u16,
    /// Origins that may open a WebSocket (`https://example.com`); empty allows all, and requests without an Origin.
    pub allowed_origins: Vec<String>,
    /// How old a WebSocket connection may become before its client is told to reconnect; zero for any age.
    pub max_age: Duration,
    /// Most WebSocket connections and plain requests under way, 0 for no limit; 503 with Retry-After beyond it.
    pub max_connections: usize,
    /// The clients that it serves.
    pub access: Access,
    /// The rules for headers: of requests on their way to a server, and of answers on their way to a client.
    pub headers: [HeaderRules; 2],
    /// The rules that frames have to keep.
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

impl Route {
    /// Path and query as a server gets them: what came, or its beginning [replaced](Route::replace_path).
    pub(crate) fn server_target<'a>(&self, origin_form: &'a [u8]) -> Cow<'a, [u8]> {
        match &self.replace_path {
            None => Cow::Borrowed(origin_form),
            Some(replacement) => Cow::Owned(replace_prefix(origin_form, &self.path, replacement)),
        }
    }

    /// A route for every host and client, with the default of each setting. `upstream` is an index of [`Settings::upstreams`].
    pub fn new(name: &str, path: &str, upstream: usize) -> Self {
        Route {
            name: name.to_owned(),
            hosts: Vec::new(),
            path: path.to_owned(),
            conditions: Conditions::default(),
            replace_path: None,
            upstream,
            redirect_https: 0,
            allowed_origins: Vec::new(),
            max_age: Duration::ZERO,
            max_connections: 0,
            access: Access::default(),
            headers: Default::default(),
            rules: Rules::default(),
            compression: Compression::default(),
            closing: closing::Policy::default(),
            liveness: Liveness::default(),
            limits: Limits::default(),
        }
    }
}

/// The clients that a route serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Client addresses; empty for all. 403 for others.
    pub allow: Vec<IpNet>,
    /// Client addresses that are refused, those allowed included.
    pub deny: Vec<IpNet>,
    /// Clients without a certificate that their listener has verified are refused with 403.
    pub client_certificate: bool,
    /// The access service that decides besides; `None` for none.
    pub auth: Option<Auth>,
}

/// A service that is asked whether a request may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Where it is.
    pub address: Address,
    /// Its name, for the Host header.
    pub host: String,
    /// The path of the requests to it.
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
