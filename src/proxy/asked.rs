//! A request as it lies in memory: what routes, balance and handshake look at, whoever parsed it.

use super::socket::Unnamed;
use crate::handshake::{self, Fields};
use http::header::{self, HeaderName};
use http::{Uri, Version};
use httparse::{Request, Status};
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::sync::Arc;

/// The head of a request. It is not copied: every new connection comes by here.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// The request line; headers may be in it or not.
    line: Cow<'a, RequestHeader>,
    fields: Vec<(&'a str, &'a [u8])>,
}

/// Most headers of a request that is read here.
const MAX_HEADERS: usize = 256;

impl<'a> Asked<'a> {
    /// Reads a complete head, without anything behind it.
    ///
    /// `None` is not a verdict: it is for Pingora's session to say what is wrong with a head, or what is meant by one that
    /// is unusual. Of those it would refuse, none is read here, but for what [`handshake`](crate::handshake) refuses.
    pub fn parse(head: &'a [u8]) -> Option<Self> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut request = Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(head, &mut headers);
        let target = request.path.filter(|target| target.starts_with('/'))?;
        if parsed != Ok(Status::Complete(head.len())) || request.version != Some(1) {
            return None;
        }
        // What of the target is the path, Pingora decides for plain requests too.
        let mut line =
            RequestHeader::build_no_case(request.method?, target.as_bytes(), Some(0)).ok()?;
        line.set_version(Version::HTTP_11);
        let lines = request.headers.iter();
        let asked = Asked {
            line: Cow::Owned(line),
            fields: lines.map(|line| (line.name, line.value)).collect(),
        };
        let mut hosts = asked.lines(header::HOST);
        let is_plain = hosts.next().is_some_and(|host| !host.contains(&b'@'));
        let is_plain = is_plain && hosts.next().is_none();
        drop(hosts);
        is_plain.then_some(asked)
    }

    /// One that Pingora has read.
    pub fn of(head: &'a RequestHeader) -> Self {
        // Not of HTTP/2, where there is no case to be kept.
        let written = head.case_header_iter();
        let written = written.filter_map(|(name, value)| {
            Some((str::from_utf8(name.as_slice()).ok()?, value.as_bytes()))
        });
        let lower = head.headers.iter();
        let lower = lower.map(|(name, value)| (name.as_str(), value.as_bytes()));
        Asked {
            fields: match head.has_case() {
                true => written.collect(),
                false => lower.collect(),
            },
            line: Cow::Borrowed(head),
        }
    }

    /// Method and version, which are public; for the target see [`target`](Self::target).
    pub fn line(&self) -> &RequestHeader {
        &self.line
    }

    /// What it asks for, as it came.
    pub fn target(&self) -> &[u8] {
        self.line.raw_path()
    }

    pub fn uri(&self) -> &Uri {
        &self.line.uri
    }

    /// The host that it asks for, port included; empty where there is none.
    pub fn host(&self) -> &str {
        let authority = self.line.uri.authority();
        let authority = authority.map(|authority| authority.as_str());
        // Pingora keeps the authority of an absolute target in its bytes alone.
        authority
            .or_else(|| authority_of(self.target()))
            .unwrap_or_else(|| self.text(header::HOST))
    }

    /// The value of a header as text; empty where there is none or it is not ASCII.
    pub fn text(&self, name: HeaderName) -> &str {
        let value = self.lines(name).next();
        let text = value.and_then(|value| str::from_utf8(value).ok());
        text.filter(|text| text.is_ascii()).unwrap_or_default()
    }

    /// All headers, in the order in which they came.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.fields.iter().copied()
    }

    /// Behaves as if headers of these names had not come, in any spelling that servers take for the same.
    pub fn forget(&mut self, names: &[HeaderName]) {
        if !names.is_empty() {
            let is = |name: &str| {
                names
                    .iter()
                    .any(|of| handshake::is_same_variable(of.as_str(), name))
            };
            self.fields.retain(|(name, _)| !is(name));
        }
    }
}

/// The authority of an absolute target, RFC 9112 §3.2.2.
fn authority_of(target: &[u8]) -> Option<&str> {
    let (scheme, rest) = str::from_utf8(target).ok()?.split_once("://")?;
    let is_http = ["http", "https"]
        .iter()
        .any(|of| of.eq_ignore_ascii_case(scheme));
    is_http.then(|| rest.split(['/', '?', '#']).next().unwrap_or_default())
}

impl Fields for Asked<'_> {
    fn lines(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        let fields = self.fields.iter();
        let fields = fields.filter(move |(field, _)| field.eq_ignore_ascii_case(name.as_str()));
        fields.map(|(_, value)| *value)
    }
}

/// Who sends a request, as far as the connection tells.
#[derive(Debug, Default)]
pub(super) struct Caller {
    /// `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    /// `None` where nothing is encrypted.
    pub tls: Option<Arc<SslDigest>>,
    /// The peer is a proxy that has said by the PROXY protocol that it names no client.
    pub unnamed: Option<Unnamed>,
}

fn unnamed(digest: Option<&Arc<ProxyDigest>>) -> Option<Unnamed> {
    digest?.user_data.as_ref()?.downcast_ref().copied()
}

impl Caller {
    /// Who is at the other end of this.
    pub fn of(stream: &Stream) -> Self {
        let digest = stream.get_socket_digest();
        let peer = digest.as_ref().and_then(|digest| digest.peer_addr());
        let peer = peer.and_then(|address| address.as_inet());
        Caller {
            peer: peer.map(|address| address.ip().to_canonical()),
            tls: stream.get_ssl_digest(),
            unnamed: unnamed(stream.get_proxy_digest().as_ref()),
        }
    }

    /// Who is at the other end of a session of Pingora's.
    pub fn of_session(session: &ServerSession) -> Self {
        let peer = session.client_addr().and_then(|address| address.as_inet());
        let digest = session.digest();
        Caller {
            peer: peer.map(|address| address.ip().to_canonical()),
            tls: digest.and_then(|digest| digest.ssl_digest.clone()),
            unnamed: unnamed(digest.and_then(|digest| digest.proxy_digest.as_ref())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unusual_is_left_to_pingora() {
        let host = "Host: a\r\n";
        for (line, headers, is_read) in [
            ("GET /a?b HTTP/1.1", host, true),
            ("GET /a?b HTTP/1.1", "host:a\r\nX: \r\n", true),
            ("POST / HTTP/1.1", host, true),
            ("GET / HTTP/1.0", host, false),
            ("GET http://a/ HTTP/1.1", host, false),
            ("OPTIONS * HTTP/1.1", host, false),
            ("CONNECT a:1 HTTP/1.1", host, false),
            ("GET /a b HTTP/1.1", host, false),
            ("GET / HTTP/1.1", "", false),
            ("GET / HTTP/1.1", "Host: a\r\nHost: a\r\n", false),
            ("GET / HTTP/1.1", "Host: a@b\r\n", false),
            ("GET / HTTP/1.1", "Host: a\r\nX : b\r\n", false),
            ("GET / HTTP/1.1", "Host: a\r\nX: b\r\n c\r\n", false),
            ("GET / HTTP/1.1", "Host: a\r\nX\r\n", false),
            ("GET / HTTP/1.1", "Host: a\r\nX: \x01\r\n", false),
        ] {
            let head = format!("{line}\r\n{headers}\r\n");
            assert_eq!(Asked::parse(head.as_bytes()).is_some(), is_read, "{head}");
            assert!(Asked::parse(&head.as_bytes()[..head.len() - 1]).is_none());
            assert!(Asked::parse(format!("{head}GET").as_bytes()).is_none());
        }
        let many = "X: a\r\n".repeat(MAX_HEADERS - 1);
        let head = |more: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{many}{more}\r\n");
        assert!(Asked::parse(head("").as_bytes()).is_some());
        assert!(Asked::parse(head("X: a\r\n").as_bytes()).is_none());
    }

    /// A route is chosen by what Pingora takes for the path.
    #[test]
    fn both_readers_see_the_same() {
        for target in [
            "/",
            "/a/b?c=d&e",
            "//a/b",
            "/%41?",
            "/\u{fc}/?\u{fc}",
            "/a#b",
        ] {
            let head = format!("GET {target} HTTP/1.1\r\nHOST: a:1\r\nX-a: b\r\nx-A:c\r\n\r\n");
            let Some(asked) = Asked::parse(head.as_bytes()) else {
                continue;
            };
            let mut read = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
            for (name, value) in [("HOST", "a:1"), ("X-a", "b"), ("x-A", "c")] {
                read.append_header(name, value).unwrap();
            }
            let other = Asked::of(&read);
            assert_eq!(asked.uri(), other.uri());
            assert_eq!(asked.target(), other.target());
            assert_eq!((asked.host(), other.host()), ("a:1", "a:1"));
            let fields: Vec<_> = asked.fields().collect();
            assert_eq!(fields, other.fields().collect::<Vec<_>>());
        }
    }
}
