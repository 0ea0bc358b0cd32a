//! Which route a request takes. Pure.

use crate::edge::http::authority;
use crate::edge::route::conditions::Conditions;
use crate::edge::route::path;
use crate::edge::settings::Route;
use std::borrow::Cow;
use std::fmt;

/// The routes of a configuration in the order in which they are tried: exact hosts, wildcards from the longest on, any
/// host; within each the longest path first; and of the same path the one with most conditions first, then the one that the
/// configuration has first. A route whose conditions do not hold is as good as absent.
///
/// A path is compared twice: as it is written, and in its [normal form](path::normalize), with the paths of the
/// configuration likewise. Servers read paths in either way, and [doubtful](path::Doubtful) ones in ways between the two; a
/// request passes only where all lead to the same route.
#[derive(Debug)]
pub struct Router {
    entries: Vec<Entry>,
    /// Every path of the configuration is its own normal form.
    is_plain: bool,
}

#[derive(Debug)]
struct Entry {
    host: Host,
    /// As the configuration has it.
    path: String,
    /// Its normal form.
    normal_path: Vec<u8>,
    conditions: Conditions,
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

/// Why no route is chosen for a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// The path as it is written and its normal form lead to different routes, or one of them to none.
    Ambiguous,
    /// The path holds an encoded NUL, at which some servers end it.
    Nul,
}

impl fmt::Display for PathError {
    /// The sentence in the body of the answer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathError::Ambiguous => {
                "the path of the request can be read in two ways that lead to different routes; write it without `//`, `/./`, \
                 `/../`, `\\`, `;`, and without percent-encoding of letters, digits and slashes"
            }
            PathError::Nul => "the path of the request holds an encoded NUL (%00)",
        })
    }
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
                    normal_path: path::normalize(settings.path.as_bytes()).into_owned(),
                    conditions: settings.conditions.clone(),
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
            // Of the paths that a path begins with, the one with the longer normal form is also written longer.
            std::cmp::Reverse((host, entry.normal_path.len(), entry.conditions.count()))
        });
        let is_plain = |entry: &Entry| entry.path.as_bytes() == entry.normal_path;
        Router {
            is_plain: entries.iter().all(is_plain),
            entries,
        }
    }

    /// The route of a request: `host` as it stands in the request, port included, the path without its query, and whether the
    /// request meets conditions.
    ///
    /// # Errors
    /// A server could read the path as one of another route.
    pub fn find(
        &self,
        host: &str,
        path: &[u8],
        meets: impl Fn(&Conditions) -> bool,
    ) -> Result<Option<usize>, PathError> {
        // RFC 9112 §3.2.4: `*` is no path.
        if path.first() != Some(&b'/') {
            return Ok(None);
        }
        let host = authority::normalize(host);
        let has = |entry: &Entry| entry.host.has(&host) && meets(&entry.conditions);
        let normal = path::normalize(path);
        if normal.contains(&0) {
            return Err(PathError::Nul);
        }
        let written = self.first(|entry| is_below(path, entry.path.as_bytes()) && has(entry));
        let route = written.map(|at| self.entries[at].route);
        if matches!(normal, Cow::Borrowed(_)) && self.is_plain {
            return Ok(route);
        }
        let resolved = self.first(|entry| is_below(&normal, &entry.normal_path) && has(entry));
        if resolved.map(|at| self.entries[at].route) != route {
            return Err(PathError::Ambiguous);
        }
        match resolved {
            Some(at) if self.is_ambiguous(path, at, has) => Err(PathError::Ambiguous),
            _ => Ok(route),
        }
    }

    /// Whether some server could take a path for one of another route than that of the entry `at`, which is chosen for it as
    /// it is written and for its normal form.
    fn is_ambiguous(&self, path: &[u8], at: usize, has: impl Fn(&Entry) -> bool) -> bool {
        let Some(doubtful) = path::Doubtful::of(path) else {
            return false;
        };
        let (before, chosen) = (&self.entries[..at], &self.entries[at]);
        // The entries before this one are those that would be preferred.
        let could_be = |entry: &Entry| {
            entry.route != chosen.route && has(entry) && doubtful.may_be_below(&entry.normal_path)
        };
        !doubtful.stays_below(&chosen.normal_path) || before.iter().any(could_be)
    }

    fn first(&self, is_chosen: impl Fn(&Entry) -> bool) -> Option<usize> {
        self.entries.iter().position(is_chosen)
    }
}

impl Host {
    /// Whether a request for this host is meant, which is in its normal form.
    fn has(&self, host: &str) -> bool {
        match self {
            Host::Exact(name) => name == host,
            Host::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Host::Any => true,
        }
    }
}

/// Whether a path is this prefix or below it: `/ws` has `/ws` and `/ws/a`, not `/wsa`.
fn is_below(path: &[u8], prefix: &[u8]) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || prefix.ends_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(routes: &[(&[&str], &str)]) -> Router {
        let route = |(hosts, path): &(&[&str], &str)| Route {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..Route::new("", path, 0)
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
            let found = router.find(host, path.as_bytes(), |_| true);
            assert_eq!(found, Ok(Some(route)), "{host}{path}");
        }
    }

    #[test]
    fn without_a_route_there_is_none() {
        let router = router(&[(&["a.example"], "/ws/")]);
        assert_eq!(router.find("a.example", b"/ws/room", |_| true), Ok(Some(0)));
        for (host, path) in [
            ("a.example", "/ws"),
            ("a.example", "/"),
            ("b.example", "/ws/"),
            ("a.example", "*"),
        ] {
            assert_eq!(
                router.find(host, path.as_bytes(), |_| true),
                Ok(None),
                "{host}{path}"
            );
        }
    }

    #[test]
    fn no_spelling_leads_to_another_route() {
        let router = router(&[
            (&[], "/"),
            (&[], "/admin"),
            (&[], "/admin/open"),
            (&[], "/caf%C3%A9"),
            (&[], "/api/keys"),
        ]);
        let any = "a.example";
        for path in [
            "//admin",
            "/%61dmin",
            "/%2561dmin",
            "/x/../admin",
            "/x/..%2fadmin",
            "/admin;a=b",
            "/x/..;/admin",
            "/\\admin",
            "/./admin/x",
            "/admin/open/../x",
            // For servers that resolve some `..` and not others.
            "/%61dmin/../x",
            "/admin%2f..%2fx",
            "//admin/../x",
            "/q/../%61dmin/..;/x",
            "/api//../keys",
            "/admin/../x//../admin",
            // For servers that take no `\\`, or no encoded slash, for one.
            "/admin/;\\n//../x",
            "/admin/;%2fn//../x",
            "/admin/a\\b/../../x",
            "/admin/a%2fb/../../x",
            "/admin/;\\x/open",
            "/admin/%3fa%2fx/open",
            "/%c0%afadmin",
            "/admin/../x",
            "/caf\u{e9}",
            "/caf%c3%a9",
        ] {
            let found = router.find(any, path.as_bytes(), |_| true);
            assert_eq!(found, Err(PathError::Ambiguous), "{path}");
        }
        for (path, route) in [
            ("/x//y/../z", 0),
            ("/x?", 0),
            ("/Admin", 0),
            ("/administrator", 0),
            ("/admin//x", 1),
            ("/admin/%61", 1),
            ("/admin/x/../y", 1),
            ("/admin/x/y/../..//z", 1),
            ("/keys/../api", 0),
            ("/fetch/http%3a%2f%2fa.example%2f%3fb=c%2fd", 0),
            ("/admin/open/./x;a=b", 2),
            ("/caf%C3%A9/%41", 3),
        ] {
            let found = router.find(any, path.as_bytes(), |_| true);
            assert_eq!(found, Ok(Some(route)), "{path}");
        }
        assert_eq!(router.find(any, b"/a%00b", |_| true), Err(PathError::Nul));
        // Not all of its segments are looked at.
        let long = format!("{}/..", "/a".repeat(300));
        let found = router.find(any, long.as_bytes(), |_| true);
        assert_eq!(found, Err(PathError::Ambiguous));
    }

    /// A path that normalises to one below a route has to be written as such.
    #[test]
    fn no_spelling_leads_out_of_the_only_route() {
        let router = router(&[(&[], "/ws")]);
        for path in ["/ws/../x", "/ws/..%2fx", "//ws", "/%77s", "/ws/../ws"] {
            let found = router.find("", path.as_bytes(), |_| true);
            assert_eq!(found, Err(PathError::Ambiguous), "{path}");
        }
        assert_eq!(router.find("", b"/ws/./x", |_| true), Ok(Some(0)));
        assert_eq!(router.find("", b"/x/..//y", |_| true), Ok(None));
    }

    #[test]
    fn every_spelling_of_an_address_is_one_host() {
        let router = router(&[(&[], "/"), (&["[::1]"], "/")]);
        for host in ["[::1]", "[0:0:0:0:0:0:0:1]:80", "[::0:1]"] {
            assert_eq!(router.find(host, b"/", |_| true), Ok(Some(1)), "{host}");
        }
    }
}
