//! Which route a request takes. Pure.

use super::settings::Route;

/// The routes of a configuration in the order in which they are tried: exact hosts, wildcards from the longest on, any
/// host; and within each the longest path first.
#[derive(Debug)]
pub struct Router {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    host: Host,
    path: String,
    /// Index into the routes that the router was made of.
    route: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    Exact(String),
    /// Any name that ends with this, dot included.
    Below(String),
    Any,
}

impl Router {
    /// A router over these routes, which it names by index.
    pub fn new(routes: &[Route]) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for (route, settings) in routes.iter().enumerate() {
            let mut add = |host| {
                entries.push(Entry {
                    host,
                    path: settings.path.clone(),
                    route,
                })
            };
            if settings.hosts.is_empty() {
                add(Host::Any);
            }
            for host in &settings.hosts {
                add(match host.strip_prefix('*') {
                    Some(suffix) => Host::Below(suffix.to_owned()),
                    None => Host::Exact(host.clone()),
                });
            }
        }
        entries.sort_by_key(|entry| {
            let host = match &entry.host {
                Host::Exact(_) => usize::MAX,
                Host::Below(suffix) => suffix.len(),
                Host::Any => 0,
            };
            std::cmp::Reverse((host, entry.path.len()))
        });
        Router { entries }
    }

    /// The route of a request: `host` as it stands in the request, port included, and the path without its query.
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        let host = name_of(host).to_ascii_lowercase();
        let entry = self.entries.iter().find(|entry| {
            let host_matches = match &entry.host {
                Host::Exact(name) => *name == host,
                Host::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
                Host::Any => true,
            };
            host_matches && is_below(path, &entry.path)
        });
        entry.map(|entry| entry.route)
    }
}

/// A host without its port, and without the dot of a fully qualified name.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        // The colons inside the brackets of an IPv6 address are not a port's.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether a path is this prefix or below it: `/ws` has `/ws` and `/ws/a`, not `/wsa`.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::Compression;
    use crate::inspect::Rules;
    use crate::inspect::closing::Policy;
    use std::time::Duration;

    fn router(routes: &[(&[&str], &str)]) -> Router {
        let route = |(hosts, path): &(&[&str], &str)| Route {
            name: String::new(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            path: (*path).to_owned(),
            upstream: 0,
            allowed_origins: Vec::new(),
            max_age: Duration::ZERO,
            max_connections: 0,
            access: Default::default(),
            headers: Default::default(),
            rules: Rules::default(),
            compression: Compression::default(),
            closing: Policy::default(),
            liveness: Default::default(),
            limits: Default::default(),
        };
        Router::new(&routes.iter().map(route).collect::<Vec<_>>())
    }

    #[test]
    fn the_most_specific_route_wins() {
        let router = router(&[
            (&[], "/"),
            (&["*.example.com"], "/"),
            (&["chat.example.com", "talk.example.com"], "/ws"),
            (&["chat.example.com"], "/ws/admin"),
            (&["*.eu.example.com"], "/"),
            (&["[::1]"], "/"),
        ]);
        for (host, path, route) in [
            ("chat.example.com", "/ws", 2),
            ("Chat.Example.COM:8080", "/ws/room", 2),
            ("talk.example.com.", "/ws", 2),
            ("chat.example.com", "/ws/admin/x", 3),
            ("chat.example.com", "/wsx", 1),
            ("chat.example.com", "/", 1),
            ("a.eu.example.com", "/", 4),
            ("example.com", "/ws", 0),
            ("notexample.com", "/", 0),
            ("[::1]:8080", "/", 5),
            ("[::1]", "/", 5),
            ("", "/", 0),
        ] {
            assert_eq!(router.find(host, path), Some(route), "{host}{path}");
        }
    }

    #[test]
    fn without_a_route_there_is_none() {
        let router = router(&[(&["a.example"], "/ws/")]);
        assert_eq!(router.find("a.example", "/ws/room"), Some(0));
        for (host, path) in [
            ("a.example", "/ws"),
            ("a.example", "/"),
            ("b.example", "/ws/"),
            ("a.example", "*"),
        ] {
            assert_eq!(router.find(host, path), None, "{host}{path}");
        }
    }
}
