//! A request as it lies in memory: what routes, balance and handshake look at, whoever parsed it.

use crate::edge::http::authority::HostError;
use crate::edge::http::authority::host_of;
use crate::edge::http::request_head::{HeadError, RequestHead};
use crate::edge::http::target::{Target, TargetError};
use crate::handshake;
use crate::handshake::Fields;
use crate::log;
use crate::log::{Details, Field};
use crate::transport::socket::Unnamed;
use http::header::{self, HeaderName};
use http::{Method, Version};
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use std::net::IpAddr;
use std::sync::Arc;

/// The head of a request. It is not copied: every new connection comes by here.
#[derive(Debug)]
pub(crate) struct ClientRequest<'a> {
    line: Line,
    target: Target<'a>,
    /// The host of an absolute target or of `:authority`.
    authority: Option<&'a [u8]>,
    fields: Vec<(&'a str, &'a [u8])>,
}

/// The request line but for its target.
#[derive(Debug)]
pub(crate) struct Line {
    pub method: Method,
    pub version: Version,
}

impl<'a> ClientRequest<'a> {
    /// Reads a complete head of HTTP/1. Nothing may follow it.
    ///
    /// # Errors
    /// The bytes are not a valid head.
    pub(crate) fn parse(head: &'a [u8]) -> Result<Self, HeadError> {
        let head = RequestHead::parse(head)?;
        Ok(ClientRequest {
            line: Line {
                method: head.method,
                version: head.version,
            },
            authority: head.target.authority(),
            target: head.target,
            fields: head.fields,
        })
    }

    /// One that Pingora has read.
    ///
    /// # Errors
    /// Pingora takes targets that are none.
    pub(crate) fn of(head: &'a RequestHeader) -> Result<Self, TargetError> {
        // Not of HTTP/2, where there is no case to be kept.
        let written = head.case_header_iter();
        let written = written.filter_map(|(name, value)| {
            Some((str::from_utf8(name.as_slice()).ok()?, value.as_bytes()))
        });
        let lower = head.headers.iter();
        let lower = lower.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let target = Target::parse(head.raw_path())?;
        let authority = head.uri.authority();
        let authority = authority.map(|authority| authority.as_str().as_bytes());
        Ok(ClientRequest {
            fields: match head.has_case() {
                true => written.collect(),
                false => lower.collect(),
            },
            authority: authority.or(target.authority()),
            target,
            line: Line {
                method: head.method.clone(),
                version: head.version,
            },
        })
    }

    /// The size of the head, in bytes, as far as it was read.
    pub(crate) fn size(&self) -> usize {
        let fields = self.fields.iter();
        let fields = fields.map(|(name, value)| name.len() + value.len() + ": \r\n".len());
        self.target().len() + fields.sum::<usize>()
    }

    /// Method and version, which are public.
    pub(crate) fn line(&self) -> &Line {
        &self.line
    }

    /// The target in origin-form: path and query as they came.
    pub(crate) fn target(&self) -> &[u8] {
        self.target.origin_form()
    }

    /// The path as it came, without its query.
    pub(crate) fn path(&self) -> &[u8] {
        self.target.path()
    }

    /// The query as it came, without its question mark.
    pub(crate) fn query(&self) -> Option<&[u8]> {
        self.target.query()
    }

    /// The requested host, port included; empty in a request of HTTP/1.0 without one.
    ///
    /// # Errors
    /// There is no host, more than one, or an invalid one.
    pub(crate) fn host(&self) -> Result<&str, HostError> {
        host_of(self.line.version, self.authority, self.lines(header::HOST))
    }

    /// The host that it asks for, whatever it is, for the log; empty where there is none.
    pub(crate) fn host_as_it_came(&self) -> &[u8] {
        let host = || self.lines(header::HOST).next();
        self.authority.or_else(host).unwrap_or_default()
    }

    /// These fields of the request, for the log; `protocol` is the subprotocol that was agreed.
    pub(crate) fn details(
        &self,
        fields: log::Fields,
        request_id: Option<&str>,
        protocol: Option<&str>,
    ) -> Details {
        const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
        Details::of(fields, |field| match field {
            Field::Host => Some(self.host_as_it_came()),
            Field::Path => Some(self.path()),
            Field::Protocol => protocol.map(str::as_bytes),
            Field::Origin => self.lines(header::ORIGIN).next(),
            Field::UserAgent => self.lines(header::USER_AGENT).next(),
            Field::RequestId => request_id.map(str::as_bytes),
            Field::Traceparent => self.lines(TRACEPARENT).next(),
        })
    }

    /// All headers, in the order in which they came.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.fields.iter().copied()
    }

    /// Behaves as if headers of these names had not come, in any spelling that servers take for the same.
    pub(crate) fn remove(&mut self, names: &[HeaderName]) {
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

impl Fields for ClientRequest<'_> {
    fn lines(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        let fields = self.fields.iter();
        let fields = fields.filter(move |(field, _)| field.eq_ignore_ascii_case(name.as_str()));
        fields.map(|(_, value)| *value)
    }
}

/// The sender of a request, as far as the connection shows it.
#[derive(Debug, Default)]
pub(crate) struct Downstream {
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

impl Downstream {
    /// The peer of a stream.
    pub(crate) fn of(stream: &Stream) -> Self {
        let digest = stream.get_socket_digest();
        let peer = digest.as_ref().and_then(|digest| digest.peer_addr());
        let peer = peer.and_then(|address| address.as_inet());
        Downstream {
            peer: peer.map(|address| address.ip().to_canonical()),
            tls: stream.get_ssl_digest(),
            unnamed: unnamed(stream.get_proxy_digest().as_ref()),
        }
    }

    /// The peer of a session of Pingora.
    pub(crate) fn of_session(session: &ServerSession) -> Self {
        let peer = session.client_addr().and_then(|address| address.as_inet());
        let digest = session.digest();
        Downstream {
            peer: peer.map(|address| address.ip().to_canonical()),
            tls: digest.and_then(|digest| digest.ssl_digest.clone()),
            unnamed: unnamed(digest.and_then(|digest| digest.proxy_digest.as_ref())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route is chosen by the same path and host, whoever read the head.
    #[test]
    fn both_readers_see_the_same() {
        for target in [
            "/",
            "/a/b?c=d&e",
            "//a/b",
            "/%41?",
            "/\u{fc}/",
            "http://a:1/b?c",
            "http://a:1",
            "*",
        ] {
            let head = format!("GET {target} HTTP/1.1\r\nHOST: a:1\r\nX-a: b\r\nx-A:c\r\n\r\n");
            let client_request = ClientRequest::parse(head.as_bytes()).unwrap();
            let mut read = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
            for (name, value) in [("HOST", "a:1"), ("X-a", "b"), ("x-A", "c")] {
                read.append_header(name, value).unwrap();
            }
            let other = ClientRequest::of(&read).unwrap();
            assert_eq!(client_request.target(), other.target());
            assert_eq!(
                (client_request.path(), client_request.query()),
                (other.path(), other.query())
            );
            assert_eq!(
                (client_request.host(), other.host()),
                (Ok("a:1"), Ok("a:1"))
            );
            let fields: Vec<_> = client_request.fields().collect();
            assert_eq!(fields, other.fields().collect::<Vec<_>>());
        }
    }
}
