//! The routes: the requests that they match, and the limits of their connections.
//!
//! Two routes never claim the same host with the same path. Every host, path and origin that is accepted can match a request: a value
//! that no browser and no client ever sends is a mistake, not a rule that silently does nothing.

use super::address;
use super::error::Error;
use super::meaning::Reader;
use super::units::Wait;
use super::wording::suggestion;
use super::written;
use super::written::Table;
use crate::edge::route::path;
use crate::edge::settings::{Listener, Route};
use crate::handshake::{Compression, origin};
use crate::inspect::closing::{Policy, UpstreamClose};
use crate::inspect::{Mode, Rules};
use crate::session::Liveness;
use crate::upstream::settings::Upstream;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::time::Duration;
use toml::Spanned;

impl Reader<'_> {
    pub(super) fn routes(
        &self,
        written: Vec<Spanned<Table<written::Route>>>,
        upstreams: &[Upstream],
        listeners: &[Listener],
    ) -> Result<Vec<Route>, Error> {
        let mut routes: Vec<Route> = Vec::new();
        let mut lines = Vec::new();
        let mut claims: HashMap<(String, Vec<u8>), usize> = HashMap::new();
        for entry in written {
            let span = entry.span();
            let written = entry.into_inner().0;
            let name_span = written
                .name
                .as_ref()
                .map_or_else(|| span.clone(), Spanned::span);
            let host_spans: Vec<_> = written.hosts.iter().map(Spanned::span).collect();
            let index = routes.len();
            lines.push(self.source.line(span.start));
            let route = self.route(written, span.clone(), upstreams, listeners)?;
            if let Some(first) = routes.iter().position(|other| other.name == route.name) {
                let message = format!("two routes are named `{}`", route.name);
                let help = format!("the first is in line {}", lines[first]);
                return Err(self.source.error(name_span, message, help));
            }
            let every = (String::new(), span);
            let hosts: Vec<_> = route.hosts.iter().cloned().zip(host_spans).collect();
            for (host, span) in if hosts.is_empty() { vec![every] } else { hosts } {
                // Two spellings of one path are one path.
                let path = path::normalize(route.path.as_bytes()).into_owned();
                let claim = (host.clone(), path);
                let Some(first) = claims.insert(claim, index) else {
                    continue;
                };
                if first == index {
                    let message = format!("`{host}` is in `hosts` twice");
                    return Err(self.source.error(span, message, "remove one of them"));
                }
                let (path, first) = (&route.path, (&routes[first].name, lines[first]));
                let host = if host.is_empty() {
                    "every host".to_owned()
                } else {
                    format!("`{host}`")
                };
                let message = format!(
                    "route `{}` would never get {host} with path `{path}`",
                    route.name
                );
                let help = format!(
                    "route `{}` in line {} has it already; give one of them another host or path",
                    first.0, first.1
                );
                return Err(self.source.error(span, message, help));
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
        listeners: &[Listener],
    ) -> Result<Route, Error> {
        let access = self.access(&written, listeners)?;
        let headers = self.header_rules(&written)?;
        let limits = self.limits(&written)?;
        let Some(name) = written.name else {
            return Err(self.source.error(
                span,
                "a route without a name",
                "logs and metrics need it: add name = \"chat\"",
            ));
        };
        if name.get_ref().chars().any(char::is_control) {
            let message = format!(
                "the name of route `{}` holds a control character",
                name.get_ref().escape_debug()
            );
            let help = "logs and metrics have it: write it without line ends, tabs and the like";
            return Err(self.source.error(name.span(), message, help));
        }
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
            let help = format!("add upstream = \"{}\"", known.first().unwrap_or(&"chat"));
            return Err(self.source.error(span, message, help));
        };
        let Some(index) = known.iter().position(|known| known == upstream.get_ref()) else {
            let message = format!("there is no upstream `{}`", upstream.get_ref());
            return Err(self.source.error(
                upstream.span(),
                message,
                suggestion(upstream.get_ref(), &known),
            ));
        };
        let wait = |wait: Option<Wait>| wait.map_or(Duration::ZERO, |wait| wait.0);
        let liveness = Liveness {
            ping_interval: [
                wait(written.ping_interval),
                wait(written.upstream_ping_interval),
            ],
            pong_timeout: written.pong_timeout.map_or(PONG_TIMEOUT, |time| time.0),
            idle_timeout: wait(written.idle_timeout),
        };
        let (rules, closing) = (Rules::default(), Policy::default());
        let rules = Rules {
            mode: match written.mode {
                None => rules.mode,
                Some(written::Mode::Enforce) => Mode::Enforce,
                Some(written::Mode::Observe) => Mode::Observe,
            },
            inspect: written.inspect.unwrap_or(rules.inspect),
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
            text_buffer: self.size(
                written.text_buffer,
                rules.text_buffer as u64,
                125..=16 << 20,
                "text_buffer",
            )? as usize,
        };
        let max_window_bits = self.whole(written.max_window_bits, 15, 9..=15, "max_window_bits")?;
        let compression = match written.compression {
            None | Some(written::Compression::Inspect) => Compression::Inspect {
                context_takeover: written.context_takeover.unwrap_or(true),
                max_window_bits: max_window_bits as u8,
            },
            Some(written::Compression::Off) => Compression::Off,
        };
        let reconnect_after = written
            .reconnect_after
            .map_or(closing.reconnect_after, |range| (range.0, range.1));
        let closing = Policy {
            close_timeout: written
                .close_timeout
                .map_or(closing.close_timeout, |time| time.0),
            message_grace: written
                .message_grace
                .map_or(closing.message_grace, |wait| wait.0),
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
            max_age: written.max_age.map_or(Duration::ZERO, |wait| wait.0),
            max_connections: self.whole(
                written.max_connections,
                0,
                0..=i64::from(u32::MAX),
                "max_connections",
            )? as usize,
            access,
            headers,
            rules,
            compression,
            closing,
            liveness,
            limits,
        })
    }

    fn path(&self, written: Option<Spanned<String>>) -> Result<String, Error> {
        let Some(path) = written else {
            return Ok("/".to_owned());
        };
        let text = path.get_ref();
        let wrong = |what: &str, help: &str| {
            Err(self.source.error(
                path.span(),
                format!("`{}` {what}", text.escape_debug()),
                help,
            ))
        };
        if !text.starts_with('/') {
            return wrong("is not a path", "a path prefix begins with `/`: \"/ws\"");
        }
        if text.contains(['?', '#']) {
            return wrong(
                "is more than a path",
                "only the path is compared; leave out `?` and `#` and what follows",
            );
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let help = "write it as it stands in a request, percent-encoded: \"/caf%C3%A9\"";
            return wrong("has a character that no request has in its path", help);
        }
        // Requests are compared with it in their normal form too. But for percent-encoding, it has to be in that itself.
        let (decoded, normal) = (
            path::decode(text.as_bytes()),
            path::normalize(text.as_bytes()),
        );
        if decoded.contains(&0) {
            return wrong("holds a NUL", "no request with %00 in its path is served");
        }
        if *decoded != *normal {
            let help = format!(
                "paths are compared without `//`, `/./`, `/../`, `\\`, and `;` with what follows it, encoded or not; write \"{}\"",
                encoded(&normal)
            );
            return wrong("is not in its normal form", &help);
        }
        Ok(path.into_inner())
    }

    fn host(&self, written: &Spanned<String>) -> Result<String, Error> {
        const FORMS: &str =
            "write a host name without scheme and port: \"chat.example.com\" or \"*.example.com\"";
        let text = written.get_ref();
        let wrong = |what: &str, help: &str| {
            Err(self.source.error(
                written.span(),
                format!("`{}` {what}", text.escape_debug()),
                help,
            ))
        };
        if text == "*" {
            return wrong("is not a host", "for every host leave out `hosts`");
        }
        if text.contains('/') {
            return wrong("is a URL, not a host", FORMS);
        }
        if !text.is_ascii() {
            let help = "write it as browsers send it, in punycode: \"xn--mnchen-3ya.example\"";
            return wrong("is not ASCII", help);
        }
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = inner.unwrap_or(text).parse::<Ipv6Addr>() {
            return Ok(format!("[{ip}]"));
        }
        // The dot of a fully qualified name is left out of requests before they are compared.
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let below = name.strip_prefix("*.").unwrap_or(&name);
        let is_ip = below == name && below.parse::<Ipv4Addr>().is_ok();
        if address::is_name(below) || is_ip {
            return Ok(name);
        }
        match below.split_once(':') {
            Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                wrong("has a port", FORMS)
            }
            _ => wrong("is not a host", FORMS),
        }
    }

    /// An origin as RFC 6454 §6.2 has a browser write it, in the form in which it is compared.
    fn origin(&self, written: &Spanned<String>) -> Result<String, Error> {
        const FORM: &str = "write it as a browser sends it: \"https://example.com\", \"app://name\", \"file://\" or \"null\"";
        let text = written.get_ref();
        let wrong = |what: &str, help: &str| {
            Err(self.source.error(
                written.span(),
                format!("`{}` {what}", text.escape_debug()),
                help,
            ))
        };
        let lower = text.to_ascii_lowercase();
        if lower == "null" {
            return Ok(lower);
        }
        if text == "*" {
            return wrong(
                "is not an origin",
                "to allow every page leave out `allowed_origins`",
            );
        }
        let Some((scheme, rest)) = lower.split_once("://") else {
            return wrong("is not an origin", FORM);
        };
        if let Some((host, path)) = rest.split_once('/') {
            let help = if path.is_empty() {
                format!("drop the slash at the end: \"{scheme}://{host}\"")
            } else {
                format!("an origin has no path: \"{scheme}://{host}\"")
            };
            return wrong("has a path", &help);
        }
        let page = match scheme {
            "ws" => "http",
            "wss" => "https",
            other => other,
        };
        if page != scheme {
            let help =
                format!("an origin is that of the page, not of the WebSocket: \"{page}://{rest}\"");
            return wrong("is not an origin", &help);
        }
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let is_right = match scheme {
            "http" | "https" => is_host_and_port(rest),
            // Pages that are opened as files have no host.
            "file" => rest.is_empty(),
            // Applications name themselves as they like: `app://.`, `chrome-extension://abc`, `capacitor://localhost`.
            _ => {
                let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte);
                !rest.is_empty() && rest.bytes().all(is_part)
            }
        };
        if !is_scheme || !is_right {
            return wrong("is not an origin", FORM);
        }
        Ok(origin::normalize(text))
    }
}

/// Whether this is what follows the scheme in the origin of a page that was loaded over HTTP.
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_host = address::is_name(host)
        || host.parse::<Ipv4Addr>().is_ok()
        || inner.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    is_host && port.is_none_or(|port| matches!(port.parse::<u16>(), Ok(1..)))
}

/// A path as it can stand in a request.
fn encoded(path: &[u8]) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path {
        match byte {
            b'"' | b'%' => encoded += &format!("%{byte:02X}"),
            byte if byte.is_ascii_graphic() => encoded.push(char::from(*byte)),
            byte => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

/// How long a Ping of ours waits for an answer.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest size that can be written.
const ANY: u64 = i64::MAX as u64;
