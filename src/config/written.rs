//! The configuration as it is written: every key, and nothing of what it means. Unknown keys are refused.
//!
//! Nothing is compared, defaulted or checked here beyond the form of a value; what a later check may have to point at
//! keeps its place ([`Spanned`]).

use super::units::{Adaptive, Pace, Percent, Size, Time, TimeRange, Wait};
use crate::log::Field;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use toml::Spanned;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Always absent, because `document` has merged the files; errors about unknown keys list it.
    #[serde(rename = "include")]
    pub _include: Option<Vec<Spanned<String>>>,
    pub threads: Option<Spanned<i64>>,
    pub user: Option<Spanned<String>>,
    pub group: Option<Spanned<String>>,
    pub upgrade_socket: Option<Spanned<String>>,
    pub state_file: Option<Spanned<String>>,
    #[serde(default)]
    pub log: Table<Log>,
    #[serde(default)]
    pub admin: Table<Admin>,
    #[serde(default)]
    pub drain: Table<Drain>,
    #[serde(default)]
    pub client: Table<Client>,
    #[serde(default)]
    pub listener: Vec<Spanned<Table<Listener>>>,
    #[serde(default)]
    pub upstream: BTreeMap<String, Spanned<Table<Upstream>>>,
    #[serde(default)]
    pub route: Vec<Spanned<Table<Route>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    pub format: Option<Format>,
    pub level: Option<Level>,
    pub fields: Option<Vec<Field>>,
    pub plain_requests: Option<Percent>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    pub listen: Option<Spanned<String>>,
    pub probes: Option<Spanned<String>>,
    pub token_file: Option<Spanned<String>>,
    pub metrics_token: Option<Spanned<bool>>,
    #[serde(default)]
    pub hosts: Vec<Spanned<String>>,
    pub socket_mode: Option<Spanned<String>>,
    pub ready_needs_servers: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    pub pace: Option<Pace>,
    pub order: Option<Order>,
    pub max_closing: Option<Spanned<i64>>,
    pub deadline: Option<Time>,
    pub upstream_closes: Option<Spanned<i64>>,
    pub upstream_share: Option<Percent>,
    pub upstream_window: Option<Time>,
    pub upstream_idle: Option<Time>,
    pub shutdown_deadline: Option<Time>,
    pub lame_duck: Option<Wait>,
    pub remind_after: Option<Wait>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum UpstreamHttp2 {
    Never,
    Prefer,
    Only,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Oldest,
    Random,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Client {
    pub header_timeout: Option<Time>,
    pub keepalive_timeout: Option<Spanned<Time>>,
    pub body_timeout: Option<Wait>,
    pub min_rate: Option<Size>,
    pub http2_max_streams: Option<Spanned<i64>>,
    pub http2_stream_window: Option<Spanned<Size>>,
    pub http2_connection_window: Option<Spanned<Size>>,
    pub max_header_size: Option<Spanned<Size>>,
    #[serde(default)]
    pub trusted_proxies: Vec<Spanned<String>>,
    pub forwarded_header: Option<Spanned<String>>,
    pub max_connections: Option<Spanned<i64>>,
    pub buffer_memory: Option<Spanned<Size>>,
    pub address_max_connections: Option<Spanned<i64>>,
    pub address_rate: Option<Spanned<i64>>,
    pub address_ipv6_prefix: Option<Spanned<i64>>,
    pub tcp_keepalive: Option<Spanned<Wait>>,
    pub tcp_user_timeout: Option<Spanned<Wait>>,
    pub request_id: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub listen: Option<Spanned<String>>,
    #[serde(default)]
    pub certificates: Vec<Spanned<Table<Certificate>>>,
    pub client_ca: Option<Spanned<String>>,
    pub client_certificate: Option<Spanned<ClientCertificate>>,
    pub client_subject_header: Option<Spanned<String>>,
    pub min_tls: Option<Spanned<MinTls>>,
    pub http2: Option<Spanned<bool>>,
    pub http2_clear_text: Option<Spanned<bool>>,
    pub websocket_http2: Option<Spanned<bool>>,
    pub proxy_protocol: Option<Spanned<bool>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    pub cert: Option<Spanned<String>>,
    pub key: Option<Spanned<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClientCertificate {
    Required,
    Optional,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(super) enum MinTls {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamTls {
    pub enabled: Option<bool>,
    pub server_name: Option<Spanned<String>>,
    pub verify: Option<bool>,
    pub ca: Option<Spanned<String>>,
    pub cert: Option<Spanned<String>>,
    pub key: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upstream {
    pub servers: Option<Spanned<Vec<Spanned<Server>>>>,
    pub servers_file: Option<Spanned<String>>,
    pub balance: Option<Spanned<String>>,
    pub eject_after: Option<Spanned<i64>>,
    pub eject_pause: Option<Time>,
    pub connect_timeout: Option<Time>,
    pub queue_timeout: Option<Wait>,
    pub max_handshakes: Option<Adaptive>,
    pub upgrade_rate: Option<Adaptive>,
    pub handshake_timeout: Option<Time>,
    pub read_timeout: Option<Time>,
    pub keepalive_timeout: Option<Time>,
    pub resolve_interval: Option<Time>,
    pub tcp_keepalive: Option<Spanned<Wait>>,
    pub tcp_user_timeout: Option<Spanned<Wait>>,
    #[serde(default)]
    pub source: Vec<Spanned<String>>,
    pub generation: Option<String>,
    pub http2: Option<UpstreamHttp2>,
    pub http2_streams: Option<Spanned<i64>>,
    pub http2_ping_interval: Option<Wait>,
    pub health: Option<Spanned<Table<Health>>>,
    pub rebalance: Option<Spanned<Table<Rebalance>>>,
    pub tls: Option<Spanned<Table<UpstreamTls>>>,
}

/// A server by its address alone, or as a table.
#[derive(Debug)]
pub(super) enum Server {
    Address(String),
    Table(ServerTable),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerTable {
    pub address: Option<Spanned<String>>,
    pub weight: Option<Spanned<i64>>,
    pub max_connections: Option<Spanned<i64>>,
    #[serde(default)]
    pub backup: bool,
}

impl<'de> Deserialize<'de> for Server {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AddressOrTable)
    }
}

struct AddressOrTable;

impl<'de> Visitor<'de> for AddressOrTable {
    type Value = Server;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a server\nwrite its address, \"10.0.0.5:9000\", or { address = \"10.0.0.5:9000\", weight = 2 }")
    }

    fn visit_str<E: serde::de::Error>(self, address: &str) -> Result<Server, E> {
        Ok(Server::Address(address.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, keys: A) -> Result<Server, A::Error> {
        ServerTable::deserialize(MapAccessDeserializer::new(keys)).map(Server::Table)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rebalance {
    pub after: Option<Wait>,
    pub slack: Option<Percent>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    pub check: Option<Check>,
    pub path: Option<Spanned<String>>,
    pub host: Option<Spanned<String>>,
    pub status: Option<Spanned<i64>>,
    pub interval: Option<Time>,
    pub timeout: Option<Time>,
    pub unhealthy: Option<Spanned<i64>>,
    pub healthy: Option<Spanned<i64>>,
    pub slow_start: Option<Wait>,
    pub version_header: Option<Spanned<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Check {
    Off,
    Tcp,
    Http,
    Websocket,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub name: Option<Spanned<String>>,
    #[serde(default)]
    pub hosts: Vec<Spanned<String>>,
    pub path: Option<Spanned<String>>,
    #[serde(default)]
    pub methods: Vec<Spanned<String>>,
    #[serde(default)]
    pub match_headers: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub match_query: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub subprotocols: Vec<Spanned<String>>,
    pub replace_path: Option<Spanned<String>>,
    pub upstream: Option<Spanned<String>>,
    pub redirect_https: Option<Spanned<i64>>,
    #[serde(default)]
    pub allowed_origins: Vec<Spanned<String>>,
    #[serde(default)]
    pub allow: Vec<Spanned<String>>,
    #[serde(default)]
    pub deny: Vec<Spanned<String>>,
    pub client_certificate: Option<Spanned<ClientCertificate>>,
    pub auth_url: Option<Spanned<String>>,
    pub auth_timeout: Option<Time>,
    #[serde(default)]
    pub auth_copy: Vec<Spanned<String>>,
    #[serde(default)]
    pub request_remove: Vec<Spanned<String>>,
    #[serde(default)]
    pub request_set: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub request_add: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub response_remove: Vec<Spanned<String>>,
    #[serde(default)]
    pub response_set: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub response_add: BTreeMap<String, Spanned<String>>,
    pub max_age: Option<Wait>,
    pub max_connections: Option<Spanned<i64>>,
    pub mode: Option<Mode>,
    pub inspect: Option<bool>,
    pub max_frame_size: Option<Spanned<Size>>,
    pub max_message_size: Option<Spanned<Size>>,
    pub max_fragments: Option<Spanned<i64>>,
    pub text_buffer: Option<Spanned<Size>>,
    pub compression: Option<Compression>,
    pub context_takeover: Option<bool>,
    pub max_window_bits: Option<Spanned<i64>>,
    pub client_message_rate: Option<Spanned<i64>>,
    pub client_byte_rate: Option<Spanned<Size>>,
    pub client_control_rate: Option<Spanned<i64>>,
    pub client_inflated_rate: Option<Spanned<Size>>,
    pub upstream_message_rate: Option<Spanned<i64>>,
    pub upstream_byte_rate: Option<Spanned<Size>>,
    pub upstream_control_rate: Option<Spanned<i64>>,
    pub upstream_inflated_rate: Option<Spanned<Size>>,
    pub rate_burst: Option<Time>,
    pub rate_action: Option<RateAction>,
    pub write_timeout: Option<Wait>,
    pub ping_interval: Option<Wait>,
    pub upstream_ping_interval: Option<Wait>,
    pub pong_timeout: Option<Time>,
    pub idle_timeout: Option<Wait>,
    pub close_timeout: Option<Time>,
    pub message_grace: Option<Wait>,
    pub restart_code: Option<Spanned<i64>>,
    pub reconnect_after: Option<TimeRange>,
    pub upstream_close: Option<UpstreamClose>,
    pub upstream_fault_code: Option<Spanned<i64>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    Enforce,
    Observe,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Compression {
    Inspect,
    Off,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RateAction {
    Close,
    Delay,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum UpstreamClose {
    Translate,
    Pass,
}

/// A table and nothing but a table: serde by itself would take a list for one, field by field.
#[derive(Debug, Default)]
pub(super) struct Table<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Table<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys(PhantomData))
    }
}

struct Keys<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Keys<T> {
    type Value = Table<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table\nwrite its keys below a header: [client], [[route]] or, with a name of its own, [upstream.chat]")
    }

    fn visit_map<A: MapAccess<'de>>(self, keys: A) -> Result<Table<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(keys)).map(Table)
    }
}
