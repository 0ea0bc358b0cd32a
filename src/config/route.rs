//! The routes: the requests that they match, and the limits of their connections.
//!
//! Two routes never claim the same host with the same path.

use super::error::Error;
use super::meaning::Reader;
use super::units::Wait;
use super::wording::suggestion;
use super::written;
use super::written::Table;
use crate::edge::route::conditions::Conditions;
use crate::edge::route::path;
use crate::edge::settings::{Listener, Route};
use crate::handshake::Compression;
use crate::inspect::closing::{Policy, UpstreamClose};
use crate::inspect::{Mode, Rules};
use crate::session::Liveness;
use crate::upstream::settings::Upstream;
use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;
use toml::Spanned;

/// The names, hosts and paths that the routes read so far have taken.
#[derive(Default)]
struct Claims {
    /// The name and the line of each route.
    names: Vec<(String, String)>,
    /// A host, or "" for every host, a path in its normal form, and conditions: the index of the route that has all of them.
    paths: HashMap<(String, Vec<u8>, Conditions), usize>,
}

impl Reader<'_> {
    pub(super) fn routes(
        &self,
        written: Vec<Spanned<Table<written::Route>>>,
        upstreams: &[Upstream],
        listeners: &[Listener],
    ) -> Vec<Route> {
        if written.is_empty() {
            self.report(self.absent("no route", "[[route]]"));
        }
        let mut routes: Vec<Route> = Vec::new();
        let mut claims = Claims::default();
        for entry in written {
            let span = entry.span();
            let written = entry.into_inner().0;
            let name = written.name.as_ref().map(Spanned::span);
            let hosts: Vec<_> = written.hosts.iter().map(Spanned::span).collect();
            let Some(route) = self.checked(self.route(written, span.clone(), upstreams, listeners))
            else {
                continue;
            };
            let line = self.source.line(span.start);
            if let Some((_, first)) = claims.names.iter().find(|(name, _)| *name == route.name) {
                let message = format!("two routes are named `{}`", route.name);
                let help = format!("the first is in {first}");
                let place = name.unwrap_or_else(|| span.clone());
                self.report(self.source.error(place, message, help));
            } else {
                let claimed = self.claim(&route, span, &hosts, &mut claims);
                self.checked(claimed);
            }
            claims.names.push((route.name.clone(), line));
            routes.push(route);
        }
        routes
    }

    /// Takes the hosts of a route with its path, which no other route may have.
    fn claim(
        &self,
        route: &Route,
        span: Range<usize>,
        host_spans: &[Range<usize>],
        claims: &mut Claims,
    ) -> Result<(), Error> {
        if route.path.is_empty() || route.hosts.len() < host_spans.len() {
            // The path, or one of the hosts, is a mistake that was noted.
            return Ok(());
        }
        let index = claims.names.len();
        let every = (String::new(), span);
        let hosts = route.hosts.iter().cloned().zip(host_spans.iter().cloned());
        let hosts: Vec<_> = if route.hosts.is_empty() {
            vec![every]
        } else {
            hosts.collect()
        };
        for (host, span) in hosts {
            // Two spellings of one path are one path.
            let path = path::normalize(route.path.as_bytes()).into_owned();
            let claim = (host.clone(), path, route.conditions.clone());
            let Some(first) = claims.paths.insert(claim, index) else {
                continue;
            };
            if first == index {
                let message = format!("`{host}` is in `hosts` twice");
                return Err(self.source.error(span, message, "remove one of them"));
            }
            let host = if host.is_empty() {
                "every host".to_owned()
            } else {
                format!("`{host}`")
            };
            let message = format!(
                "route `{}` would never get {host} with path `{}`",
                route.name, route.path
            );
            let (name, line) = &claims.names[first];
            let help = format!(
                "route `{name}` in {line} has it already; give one of them another host, path or condition"
            );
            return Err(self.source.error(span, message, help));
        }
        Ok(())
    }

    fn route(
        &self,
        written: written::Route,
        span: Range<usize>,
        upstreams: &[Upstream],
        listeners: &[Listener],
    ) -> Result<Route, Error> {
        let access = self.access(&written, listeners);
        let headers = self.header_rules(&written);
        let conditions = self.conditions(&written);
        let replace_path = match written.replace_path.clone() {
            None => None,
            Some(path) if path.get_ref().is_empty() => None,
            Some(path) => Some(self.path(Some(path))?),
        };
        let limits = self.limits(&written);
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
        if let (Some(frame), Some(message)) = (&written.max_frame_size, &written.max_message_size)
            && frame.get_ref().0 > message.get_ref().0
        {
            let text = "`max_frame_size` is larger than `max_message_size`, so no frame may have this size";
            let help = format!("the most that has an effect is {}", message.get_ref());
            self.report(self.source.error(frame.span(), text, help));
        }
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
            ),
            max_message_size: self.size(
                written.max_message_size,
                rules.max_message_size,
                125..=ANY,
                "max_message_size",
            ),
            max_fragments: self.whole(
                written.max_fragments,
                i64::from(rules.max_fragments),
                1..=i64::from(u32::MAX),
                "max_fragments",
            ) as u32,
            text_buffer: self.size(
                written.text_buffer,
                rules.text_buffer as u64,
                125..=16 << 20,
                "text_buffer",
            ) as usize,
        };
        let max_window_bits = self.whole(written.max_window_bits, 15, 9..=15, "max_window_bits");
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
            ),
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
            ),
        };
        let ports = 0..=i64::from(u16::MAX);
        let redirect_https = self.whole(written.redirect_https, 0, ports, "redirect_https");
        let hosts = self.each(&written.hosts, |host| self.host(host));
        let path = self.or_default(self.path(written.path));
        let allowed_origins = self.each(&written.allowed_origins, |origin| self.origin(origin));
        let max_connections = self.whole(
            written.max_connections,
            0,
            0..=i64::from(u32::MAX),
            "max_connections",
        ) as usize;
        let Some(name) = written.name else {
            return Err(self.source.absent(
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
            return Err(self.source.absent(span, message, help));
        };
        let Some(index) = known.iter().position(|known| known == upstream.get_ref()) else {
            let message = format!("there is no upstream `{}`", upstream.get_ref());
            let place = upstream.span();
            let known: Vec<_> = known.into_iter().filter(|name| !name.is_empty()).collect();
            if known.is_empty() {
                let help = "add [upstream.NAME]";
                return Err(self.source.absent(place, message, help));
            }
            let help = suggestion(upstream.get_ref(), &known);
            return Err(self.source.error(place, message, help));
        };
        Ok(Route {
            name: name.into_inner(),
            hosts,
            path,
            conditions,
            replace_path,
            upstream: index,
            redirect_https: redirect_https as u16,
            allowed_origins,
            max_age: written.max_age.map_or(Duration::ZERO, |wait| wait.0),
            max_connections,
            access,
            headers,
            rules,
            compression,
            closing,
            liveness,
            limits,
        })
    }
}

/// How long a Ping of ours waits for an answer.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest size that can be written.
const ANY: u64 = i64::MAX as u64;
