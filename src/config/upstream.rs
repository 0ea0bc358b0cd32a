//! The upstreams: their servers, and whose turn it is.

use super::error::Error;
use super::meaning::Reader;
use super::units;
use super::written;
use super::written::Table;
use crate::admission;
use crate::admission::ejection::Ejection;
use crate::admission::limit::MaxHandshakes;
use crate::handshake::is_token_byte;
use crate::transport::address::Address;
use crate::transport::source_addresses::Sources;
use crate::transport::written_address;
use crate::upstream::servers_file;
use crate::upstream::settings::{
    Balance, HashKey, Http2, Rebalance, ServerSettings, ServersFile, Upstream,
};
use http::HeaderName;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;

/// The name of the sticky cookie, unless the configuration names another.
const STICKY_COOKIE: &str = "wsgate_server";

/// RFC 6265 §4.1.1: the name of a cookie is a token.
fn is_cookie_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_token_byte)
}

impl Reader<'_> {
    pub(super) fn upstream(
        &self,
        name: &str,
        written: Spanned<Table<written::Upstream>>,
    ) -> Result<Upstream, Error> {
        let span = written.span();
        let written = written.into_inner().0;
        if name.is_empty() {
            let help = "write [upstream.NAME], for example [upstream.chat]";
            return Err(self
                .source
                .error(span, "the name of an upstream is empty", help));
        }
        if name.chars().any(char::is_control) {
            let help = "logs, metrics and the admin API have it: write it without line ends, tabs and the like";
            let message = format!(
                "the name of upstream `{}` holds a control character",
                name.escape_debug()
            );
            return Err(self.source.error(span, message, help));
        }
        let default = Upstream::new(name, Vec::new());
        let ejection = default.ejection;
        let after = self.whole(
            written.eject_after,
            i64::from(ejection.after),
            0..=1_000_000,
            "eject_after",
        );
        let tcp = self.tcp(written.tcp_keepalive, written.tcp_user_timeout);
        let tcp = self.or_default(tcp);
        let balance = written
            .balance
            .map_or(Ok(default.balance), |balance| self.balance(&balance));
        let balance = self.checked(balance).unwrap_or(Balance::LeastConnections);
        let health = written.health.map(|health| self.health(health));
        let health = self.or_default(health.transpose()).flatten();
        let rebalance = written.rebalance.map(|written| {
            let written = written.into_inner().0;
            let default = Rebalance::default();
            Rebalance {
                after: written.after.map_or(default.after, |wait| wait.0),
                slack: written.slack.map_or(default.slack, |share| share.0.into()),
            }
        });
        let rebalance = rebalance.unwrap_or_default();
        let help = "add servers = [\"10.0.0.5:9000\"]";
        let file = written
            .servers_file
            .filter(|file| !file.get_ref().is_empty());
        let list = match (written.servers, &file) {
            (Some(list), Some(_)) => list,
            (Some(list), None) if !list.get_ref().is_empty() => list,
            (None, Some(file)) => Spanned::new(file.span(), Vec::new()),
            (list, None) => {
                let place = list.map_or(span, |list| list.span());
                let message = format!("upstream `{name}` has no servers");
                return Err(self.source.absent(place, message, help));
            }
        };
        let (mut servers, mut lines): (Vec<ServerSettings>, Vec<String>) = Default::default();
        for server in list.into_inner() {
            let span = server.span();
            let Some(server) = self.checked(self.server(server)) else {
                continue;
            };
            let address = &server.address;
            if let Some(first) = servers.iter().position(|other| other.address == *address) {
                let message = format!("server `{address}` is in upstream `{name}` twice");
                let help = format!("the first is in {}; remove one of them", lines[first]);
                return Err(self.source.error(span, message, help));
            }
            lines.push(self.source.line(span.start));
            servers.push(server);
        }
        let servers_file = match &file {
            None => None,
            Some(file) => {
                let fixed = servers.len();
                servers.extend(self.servers_file(file)?);
                let path = PathBuf::from(file.get_ref());
                Some(ServersFile { path, fixed })
            }
        };
        if !servers.is_empty() && servers.iter().all(|server| server.backup) {
            let help = "a backup stands in for others: let one of them not be one";
            let message = format!("upstream `{name}` has nothing but backups");
            return Err(self.source.error(span, message, help));
        }
        let tls = match written.tls {
            None => None,
            Some(tls) => self.connect(tls, &servers)?,
        };
        let http2_streams = self.whole(
            written.http2_streams,
            default.http2_streams as i64,
            1..=10_000,
            "http2_streams",
        ) as usize;
        Ok(Upstream {
            http2: match written.http2 {
                None => default.http2,
                Some(written::UpstreamHttp2::Never) => Http2::Never,
                Some(written::UpstreamHttp2::Prefer) => Http2::Prefer,
                Some(written::UpstreamHttp2::Only) => Http2::Only,
            },
            http2_streams,
            http2_ping_interval: written
                .http2_ping_interval
                .map_or(default.http2_ping_interval, |wait| wait.0),
            tls,
            tcp,
            sources: Arc::new(self.sources(&written.source, &servers)?),
            servers,
            servers_file,
            balance,
            ejection: Ejection {
                after: after as u32,
                pause: written.eject_pause.map_or(ejection.pause, |time| time.0),
            },
            queue_timeout: written
                .queue_timeout
                .map_or(default.queue_timeout, |wait| wait.0),
            admission: admission::limit::Settings {
                max_handshakes: match written.max_handshakes {
                    None => default.admission.max_handshakes,
                    Some(units::Adaptive::Adaptive) => MaxHandshakes::Adaptive,
                    Some(units::Adaptive::Number(most)) => MaxHandshakes::Fixed(most.get()),
                },
                upgrade_rate: match written.upgrade_rate {
                    None | Some(units::Adaptive::Adaptive) => None,
                    Some(units::Adaptive::Number(rate)) => Some(rate),
                },
            },
            connect_timeout: written
                .connect_timeout
                .map_or(default.connect_timeout, |time| time.0),
            handshake_timeout: written
                .handshake_timeout
                .map_or(default.handshake_timeout, |time| time.0),
            read_timeout: written
                .read_timeout
                .map_or(default.read_timeout, |time| time.0),
            keepalive_timeout: written
                .keepalive_timeout
                .map_or(default.keepalive_timeout, |time| time.0),
            resolve_interval: written
                .resolve_interval
                .map_or(default.resolve_interval, |time| time.0),
            generation: written.generation.filter(|text| !text.is_empty()),
            health,
            rebalance,
            ..default
        })
    }

    /// The servers of a file, which another program writes.
    fn servers_file(&self, file: &Spanned<String>) -> Result<Vec<ServerSettings>, Error> {
        servers_file::read(Path::new(file.get_ref())).map_err(|error| {
            let message = format!("the servers of `{}` cannot be used: {error}", file.get_ref());
            let help = "write an address per line, \"10.0.0.5:9000\", or a list in JSON; wsgate reads the file again when it changes";
            self.source.error(file.span(), message, help).local()
        })
    }

    fn server(&self, written: Spanned<written::Server>) -> Result<ServerSettings, Error> {
        let span = written.span();
        match written.into_inner() {
            written::Server::Address(text) => {
                let address = self.address(&Spanned::new(span, text), written_address::server)?;
                Ok(ServerSettings::new(address))
            }
            written::Server::Table(table) => {
                let Some(text) = &table.address else {
                    let help = "add address = \"10.0.0.5:9000\"";
                    return Err(self
                        .source
                        .absent(span, "a server without an address", help));
                };
                let most = i64::from(u32::MAX);
                let address = self.address(text, written_address::server)?;
                Ok(ServerSettings {
                    // The ring of consistent hashing has 160 points for each.
                    weight: self.whole(table.weight, 1, 1..=256, "weight") as u32,
                    max_connections: self.whole(
                        table.max_connections,
                        0,
                        0..=most,
                        "max_connections",
                    ) as usize,
                    backup: table.backup,
                    ..ServerSettings::new(address)
                })
            }
        }
    }

    /// Local addresses, each of which some server can be reached from, as far as that can be told from its address.
    fn sources(
        &self,
        written: &[Spanned<String>],
        servers: &[ServerSettings],
    ) -> Result<Sources, Error> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for entry in written {
            let text = entry.get_ref().escape_debug();
            let refuse =
                |message: String, help: &str| Err(self.source.error(entry.span(), message, help));
            let Ok(address) = entry.get_ref().parse::<IpAddr>() else {
                let help = "write an IP address of this machine, without a port: \"10.0.0.7\"";
                return refuse(format!("`{text}` is not an IP address"), help);
            };
            let address = address.to_canonical();
            if address.is_unspecified() || address.is_multicast() {
                let help = "name an address that an interface of this machine has; without `source` the system chooses one";
                return refuse(format!("no connection can be made from `{text}`"), help);
            }
            if addresses.contains(&address) {
                return refuse(
                    format!("source `{text}` is there twice"),
                    "remove one of them",
                );
            }
            let fits = |server: &ServerSettings| match &server.address {
                Address::Tcp(server) => server.is_ipv4() == address.is_ipv4(),
                // A host name may have addresses of both families.
                Address::Name(..) => true,
                Address::Unix(_) => false,
            };
            if !servers.iter().any(fits) {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                let message = format!("no server can be reached from `{text}`");
                let help = format!(
                    "no server of the upstream has an {family} address; remove it, or add such a server"
                );
                return refuse(message, &help);
            }
            addresses.push(address);
        }
        let is_left_out = |server: &&ServerSettings| match &server.address {
            Address::Tcp(server) => !addresses
                .iter()
                .any(|source| source.is_ipv4() == server.is_ipv4()),
            Address::Name(..) | Address::Unix(_) => false,
        };
        if let (Some(first), Some(server)) = (written.first(), servers.iter().find(is_left_out)) {
            let message = format!(
                "server `{}` cannot be reached from any `source`",
                server.address
            );
            let help = "add a local address of its family";
            return Err(self.source.error(first.span(), message, help));
        }
        Ok(Sources::new(addresses))
    }

    fn balance(&self, written: &Spanned<String>) -> Result<Balance, Error> {
        let text = written.get_ref().as_str();
        let wrong = |what: &str| {
            let help = "write \"least_connections\", \"round_robin\", or what decides: \"header:X-User\", \"cookie:sid\", \
                        \"query:room\", \"path\", \"client_address\"; or \"sticky_cookie\"";
            let message = format!("`{}` {what}", text.escape_debug());
            Err(self.source.error(written.span(), message, help))
        };
        let key = match text.split_once(':') {
            None => match text {
                "least_connections" => return Ok(Balance::LeastConnections),
                "round_robin" => return Ok(Balance::RoundRobin),
                "sticky_cookie" => return Ok(Balance::StickyCookie(STICKY_COOKIE.to_owned())),
                "path" => HashKey::Path,
                "client_address" => HashKey::ClientAddress,
                "header" | "cookie" | "query" => return wrong("does not say which"),
                _ => return wrong("is not a balance"),
            },
            Some((_, "")) => return wrong("does not say which"),
            Some(("header", name)) => match name.parse::<HeaderName>() {
                Ok(name) => HashKey::Header(name.as_str().to_owned()),
                Err(_) => return wrong("does not name a header"),
            },
            Some(("sticky_cookie", name)) => match is_cookie_name(name) {
                true => return Ok(Balance::StickyCookie(name.to_owned())),
                false => return wrong("does not name a cookie"),
            },
            Some(("cookie", name)) => HashKey::Cookie(name.to_owned()),
            Some(("query", name)) => HashKey::Query(name.to_owned()),
            Some(_) => return wrong("is not a balance"),
        };
        Ok(Balance::Hash(key))
    }
}
