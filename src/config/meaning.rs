//! From what is written to what it means. Every rule between keys is here; nothing is checked later.

use super::Config;
use super::address;
use super::error::{Error, Source, suggestion};
use super::units::Size;
use super::written::{self, File};
use crate::inspect::closing::{Policy, UpstreamClose};
use crate::inspect::{Mode, Rules};
use crate::proxy::settings::{Address, Client, Listener, Route, Settings, Upstream};
use crate::{admin, log};
use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use toml::Spanned;

const EXAMPLE: &str = "the least there is: [[listener]] with `listen`, [upstream.NAME] with `servers`, [[route]] with \
    `name` and `upstream`; see conf/wsgate.toml";

/// What the file means.
pub(super) fn of(file: File, source: Source<'_>) -> Result<Config, Error> {
    let mut warnings = Vec::new();
    let reader = Reader { source };
    let threads = reader.whole(file.threads, 0, 0..=1024, "threads")?;
    let log = log_settings(&file.log);
    let admin = reader.admin(file.admin, &mut warnings)?;
    let client = reader.client(file.client)?;
    let listeners = reader.listeners(file.listener, &admin)?;
    let mut upstreams = Vec::new();
    let mut places = Vec::new();
    for (name, upstream) in file.upstream {
        places.push(upstream.span());
        upstreams.push(reader.upstream(&name, upstream)?);
    }
    if upstreams.is_empty() {
        return Err(reader.absent("no upstream", "[upstream.NAME]"));
    }
    let routes = reader.routes(file.route, &upstreams)?;
    for (index, upstream) in upstreams.iter().enumerate() {
        if !routes.iter().any(|route| route.upstream == index) {
            let line = source.line(places[index].start);
            warnings.push(format!(
                "{}:{line}: no route uses upstream `{}`",
                source.name, upstream.name
            ));
        }
    }
    let proxy = Settings {
        listeners,
        client,
        upstreams,
        routes,
    };
    Ok(Config {
        proxy,
        admin,
        log,
        threads: threads as usize,
        warnings,
    })
}

fn log_settings(written: &written::Log) -> log::Settings {
    let default = log::Settings::default();
    let format = match written.format {
        None => default.format,
        Some(written::Format::Text) => log::Format::Text,
        Some(written::Format::Json) => log::Format::Json,
    };
    let level = match written.level {
        None => default.level,
        Some(written::Level::Error) => tracing::Level::ERROR,
        Some(written::Level::Warn) => tracing::Level::WARN,
        Some(written::Level::Info) => tracing::Level::INFO,
        Some(written::Level::Debug) => tracing::Level::DEBUG,
        Some(written::Level::Trace) => tracing::Level::TRACE,
    };
    log::Settings { format, level }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    source: Source<'a>,
}

impl Reader<'_> {
    fn admin(
        &self,
        written: written::Admin,
        warnings: &mut Vec<String>,
    ) -> Result<admin::Settings, Error> {
        let Some(listen) = written.listen else {
            return Ok(admin::Settings::default());
        };
        if listen.get_ref() == "off" {
            return Ok(admin::Settings { listen: None });
        }
        let address = self.address(&listen, address::listener)?;
        if let Address::Tcp(socket) = address
            && !socket.ip().is_loopback()
        {
            let line = self.source.line(listen.span().start);
            let name = self.source.name;
            warnings.push(format!(
                "{name}:{line}: the admin listener {socket} can be reached from other machines"
            ));
        }
        Ok(admin::Settings {
            listen: Some(address),
        })
    }

    fn client(&self, written: written::Client) -> Result<Client, Error> {
        let default = Client::default();
        let keepalive_timeout = match written.keepalive_timeout {
            None => default.keepalive_timeout,
            Some(time) if time.get_ref().0 < Duration::from_secs(1) => {
                let help = "the shortest is \"1s\"";
                return Err(self.source.error(
                    time.span(),
                    "`keepalive_timeout` is too short",
                    help,
                ));
            }
            Some(time) => time.into_inner().0,
        };
        let max_header_size = written.max_header_size;
        let limits = 1 << 10..=1_000_000;
        Ok(Client {
            header_timeout: written
                .header_timeout
                .map_or(default.header_timeout, |time| time.0),
            keepalive_timeout,
            max_header_size: self.size(
                max_header_size,
                default.max_header_size as u64,
                limits,
                "max_header_size",
            )? as usize,
        })
    }

    fn listeners(
        &self,
        written: Vec<Spanned<written::Listener>>,
        admin: &admin::Settings,
    ) -> Result<Vec<Listener>, Error> {
        let mut taken: HashMap<Address, usize> = HashMap::new();
        let mut listeners = Vec::new();
        for entry in written {
            let span = entry.span();
            let Some(listen) = entry.into_inner().listen else {
                return Err(self.source.error(
                    span,
                    "a listener without an address",
                    "add listen = \"0.0.0.0:8080\"",
                ));
            };
            let address = self.address(&listen, address::listener)?;
            let is_any_port = matches!(address, Address::Tcp(socket) if socket.port() == 0);
            let same_as_admin = admin.listen.as_ref() == Some(&address);
            if !is_any_port && same_as_admin {
                let message = format!("`{address}` is the address of the admin listener");
                return Err(self.source.error(
                    listen.span(),
                    message,
                    "give one of them another port",
                ));
            }
            let line = self.source.line(listen.span().start);
            if let Some(first) = taken.insert(address.clone(), line).filter(|_| !is_any_port) {
                let message = format!("two listeners on `{address}`");
                return Err(self.source.error(
                    listen.span(),
                    message,
                    format!("the first is in line {first}"),
                ));
            }
            listeners.push(Listener { address });
        }
        if listeners.is_empty() {
            return Err(self.absent("no listener", "[[listener]]"));
        }
        Ok(listeners)
    }

    fn upstream(&self, name: &str, written: Spanned<written::Upstream>) -> Result<Upstream, Error> {
        let span = written.span();
        let written = written.into_inner();
        let help = "add servers = [\"10.0.0.5:9000\"]";
        let Some(list) = written.servers else {
            return Err(self
                .source
                .error(span, format!("upstream `{name}` has no servers"), help));
        };
        if list.get_ref().is_empty() {
            return Err(self.source.error(
                list.span(),
                format!("upstream `{name}` has no servers"),
                help,
            ));
        }
        let mut servers: Vec<Address> = Vec::new();
        for server in list.into_inner() {
            let address = self.address(&server, address::server)?;
            if servers.contains(&address) {
                let message = format!("server `{address}` is in upstream `{name}` twice");
                return Err(self
                    .source
                    .error(server.span(), message, "remove one of them"));
            }
            servers.push(address);
        }
        let default = Upstream::new(name, servers);
        Ok(Upstream {
            connect_timeout: written
                .connect_timeout
                .map_or(default.connect_timeout, |time| time.0),
            handshake_timeout: written
                .handshake_timeout
                .map_or(default.handshake_timeout, |time| time.0),
            read_timeout: written
                .read_timeout
                .map_or(default.read_timeout, |time| time.0),
            ..default
        })
    }

    fn routes(
        &self,
        written: Vec<Spanned<written::Route>>,
        upstreams: &[Upstream],
    ) -> Result<Vec<Route>, Error> {
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut matches: HashMap<(String, String), usize> = HashMap::new();
        let mut routes = Vec::new();
        for entry in written {
            let span = entry.span();
            let written = entry.into_inner();
            let line = self.source.line(span.start);
            let (name_span, hosts_span) = (
                spanned(&written.name, &span),
                first_of(&written.hosts, &span),
            );
            let route = self.route(written, span, upstreams)?;
            if let Some(first) = names.insert(route.name.clone(), line) {
                let message = format!("two routes are named `{}`", route.name);
                return Err(self.source.error(
                    name_span,
                    message,
                    format!("the first is in line {first}"),
                ));
            }
            let any = [String::new()];
            for host in if route.hosts.is_empty() {
                &any[..]
            } else {
                &route.hosts
            } {
                if let Some(first) = matches.insert((host.clone(), route.path.clone()), line) {
                    let host = if host.is_empty() { "any host" } else { host };
                    let message = format!(
                        "route `{}` can never match: {host} with path {}",
                        route.name, route.path
                    );
                    let help = format!("the route in line {first} has them already");
                    return Err(self.source.error(hosts_span, message, help));
                }
            }
            routes.push(route);
        }
        if routes.is_empty() {
            return Err(self.absent("no route", "[[route]]"));
        }
        Ok(routes)
    }

    fn route(
        &self,
        written: written::Route,
        span: Range<usize>,
        upstreams: &[Upstream],
    ) -> Result<Route, Error> {
        let Some(name) = written.name else {
            return Err(self.source.error(
                span,
                "a route without a name",
                "logs and metrics need it: add name = \"chat\"",
            ));
        };
        if name.get_ref().is_empty() {
            return Err(self.source.error(
                name.span(),
                "the name of a route is empty",
                "name it, for example \"chat\"",
            ));
        }
        let known: Vec<&str> = upstreams
            .iter()
            .map(|upstream| upstream.name.as_str())
            .collect();
        let Some(upstream) = written.upstream else {
            let message = format!("route `{}` names no upstream", name.get_ref());
            return Err(self.source.error(span, message, suggestion("", &known)));
        };
        let Some(index) = known.iter().position(|known| known == upstream.get_ref()) else {
            let message = format!("there is no upstream `{}`", upstream.get_ref());
            return Err(self.source.error(
                upstream.span(),
                message,
                suggestion(upstream.get_ref(), &known),
            ));
        };
        let (rules, closing) = (Rules::default(), Policy::default());
        let rules = Rules {
            mode: match written.mode {
                None => rules.mode,
                Some(written::Mode::Enforce) => Mode::Enforce,
                Some(written::Mode::Observe) => Mode::Observe,
            },
            max_frame_size: self.size(
                written.max_frame_size,
                rules.max_frame_size,
                125..=ANY,
                "max_frame_size",
            )?,
            max_message_size: self.size(
                written.max_message_size,
                rules.max_message_size,
                125..=ANY,
                "max_message_size",
            )?,
            max_fragments: self.whole(
                written.max_fragments,
                i64::from(rules.max_fragments),
                1..=i64::from(u32::MAX),
                "max_fragments",
            )? as u32,
            hold: self.size(written.hold, rules.hold as u64, 125..=16 << 20, "hold")? as usize,
        };
        let reconnect_after = written
            .reconnect_after
            .map_or(closing.reconnect_after, |range| (range.0, range.1));
        let closing = Policy {
            close_timeout: written
                .close_timeout
                .map_or(closing.close_timeout, |time| time.0),
            restart_code: self.code(
                written.restart_code,
                closing.restart_code,
                &[1012, 1001],
                "restart_code",
            )?,
            reconnect_after,
            upstream_close: match written.upstream_close {
                None => closing.upstream_close,
                Some(written::UpstreamClose::Translate) => UpstreamClose::Translate,
                Some(written::UpstreamClose::Pass) => UpstreamClose::Pass,
            },
            upstream_fault_code: self.code(
                written.upstream_fault_code,
                closing.upstream_fault_code,
                &[1011],
                "upstream_fault_code",
            )?,
        };
        Ok(Route {
            name: name.into_inner(),
            hosts: written
                .hosts
                .iter()
                .map(|host| self.host(host))
                .collect::<Result<_, _>>()?,
            path: self.path(written.path)?,
            upstream: index,
            allowed_origins: written
                .allowed_origins
                .iter()
                .map(|origin| self.origin(origin))
                .collect::<Result<_, _>>()?,
            max_connections: self.whole(
                written.max_connections,
                0,
                0..=i64::from(u32::MAX),
                "max_connections",
            )? as usize,
            rules,
            closing,
        })
    }

    fn path(&self, written: Option<Spanned<String>>) -> Result<String, Error> {
        let Some(path) = written else {
            return Ok("/".to_owned());
        };
        let text = path.get_ref();
        let help = "a path prefix begins with `/`, and has no `?`, `#` or space: \"/ws\"";
        if !text.starts_with('/') || text.contains(['?', '#', ' ']) {
            return Err(self
                .source
                .error(path.span(), format!("`{text}` is not a path"), help));
        }
        Ok(path.into_inner())
    }

    fn host(&self, written: &Spanned<String>) -> Result<String, Error> {
        let text = written.get_ref();
        let wrong = |what: &str| {
            let help = "write a host name without scheme and port: \"chat.example.com\" or \"*.example.com\"";
            Err(self
                .source
                .error(written.span(), format!("`{text}` {what}"), help))
        };
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_bracketed = name.starts_with('[') && name.ends_with(']');
        if name.contains('/') {
            return wrong("is a URL, not a host");
        }
        if name.contains(':') && !is_bracketed {
            return wrong("has a port");
        }
        if name.is_empty() || name.contains(['*', ' ']) || name.starts_with('.') {
            return wrong("is not a host");
        }
        Ok(text.to_ascii_lowercase())
    }

    fn origin(&self, written: &Spanned<String>) -> Result<String, Error> {
        let text = written.get_ref();
        let wrong = |what: &str, help: &str| {
            Err(self
                .source
                .error(written.span(), format!("`{text}` {what}"), help))
        };
        if text == "null" {
            return Ok(text.clone());
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return wrong(
                "is not an origin",
                "write it as a browser sends it: \"https://example.com\"",
            );
        };
        if let Some((host, _)) = rest.split_once('/') {
            let help = format!("an origin has no path: \"{scheme}://{host}\"");
            return wrong("has a path", &help);
        }
        if scheme.is_empty() || rest.is_empty() || rest.contains(['*', ' ', '?', '#']) {
            return wrong(
                "is not an origin",
                "write it as a browser sends it: \"https://example.com\"",
            );
        }
        Ok(text.to_ascii_lowercase())
    }

    fn address(
        &self,
        written: &Spanned<String>,
        parse: fn(&str) -> Result<Address, address::Wrong>,
    ) -> Result<Address, Error> {
        parse(written.get_ref())
            .map_err(|(message, help)| self.source.error(written.span(), message, help))
    }

    fn whole(
        &self,
        written: Option<Spanned<i64>>,
        default: i64,
        range: RangeInclusive<i64>,
        key: &str,
    ) -> Result<i64, Error> {
        let Some(number) = written else {
            return Ok(default);
        };
        if range.contains(number.get_ref()) {
            return Ok(number.into_inner());
        }
        let message = format!("`{key}` cannot be {}", number.get_ref());
        let help = format!("it is {} to {}", range.start(), range.end());
        Err(self.source.error(number.span(), message, help))
    }

    fn size(
        &self,
        written: Option<Spanned<Size>>,
        default: u64,
        range: RangeInclusive<u64>,
        key: &str,
    ) -> Result<u64, Error> {
        let Some(size) = written else {
            return Ok(default);
        };
        if range.contains(&size.get_ref().0) {
            return Ok(size.into_inner().0);
        }
        let (low, high) = (range.start(), range.end());
        let (message, help) = if size.get_ref().0 < *low {
            (
                format!("`{key}` is too small"),
                format!("the least is \"{low}B\""),
            )
        } else {
            (
                format!("`{key}` is too large"),
                format!("the most is \"{high}B\""),
            )
        };
        Err(self.source.error(size.span(), message, help))
    }

    /// One of the `named` codes, or one of the application's own.
    fn code(
        &self,
        written: Option<Spanned<i64>>,
        default: u16,
        named: &[u16],
        key: &str,
    ) -> Result<u16, Error> {
        let Some(code) = written else {
            return Ok(default);
        };
        match u16::try_from(*code.get_ref()) {
            Ok(number) if named.contains(&number) || (4000..=4999).contains(&number) => Ok(number),
            _ => {
                let named: Vec<String> = named.iter().map(ToString::to_string).collect();
                let help = format!("it is {} or one of 4000 to 4999", named.join(", "));
                Err(self.source.error(
                    code.span(),
                    format!("`{key}` cannot be {}", code.get_ref()),
                    help,
                ))
            }
        }
    }

    /// Something that has to be there is not; there is no better place than the beginning.
    fn absent(&self, message: &str, table: &str) -> Error {
        self.source
            .error(0..0, message, format!("add {table}; {EXAMPLE}"))
    }
}

const ANY: u64 = i64::MAX as u64;

fn spanned<T>(value: &Option<Spanned<T>>, otherwise: &Range<usize>) -> Range<usize> {
    value
        .as_ref()
        .map_or_else(|| otherwise.clone(), Spanned::span)
}

fn first_of<T>(values: &[Spanned<T>], otherwise: &Range<usize>) -> Range<usize> {
    values
        .first()
        .map_or_else(|| otherwise.clone(), Spanned::span)
}
