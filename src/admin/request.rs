//! The head of a request to the admin listener, read by `httparse` alone: no second parser looks at it.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use httparse::Status;
use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Most headers of a request.
const MAX_HEADERS: usize = 100;

/// Why a request is not answered with what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub sentence: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, sentence: impl Into<Cow<'static, str>>) -> Self {
        Refusal {
            status,
            sentence: sentence.into(),
        }
    }
}

/// A request whose body is still to be read.
#[derive(Debug)]
pub(super) struct Request {
    pub method: Method,
    /// As it was written, without the query. Endpoints are compared with it byte by byte.
    pub path: String,
    /// Without its question mark; empty where there is none.
    pub query: String,
    /// Of a target in absolute form: it counts instead of `Host` (RFC 9112 §3.2.2).
    authority: Option<String>,
    pub headers: HeaderMap,
    is_http_10: bool,
}

impl Request {
    /// Reads a complete head.
    ///
    /// # Errors
    /// The refusal of an invalid request.
    pub(super) fn parse(head: &[u8]) -> Result<Request, Refusal> {
        let malformed = |sentence: String| Refusal::new(StatusCode::BAD_REQUEST, sentence);
        let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut fields);
        match parsed.parse(head) {
            Ok(Status::Complete(_)) => {}
            Ok(Status::Partial) => return Err(malformed("the request is cut short".to_owned())),
            Err(httparse::Error::TooManyHeaders) => {
                let sentence = format!("the request has more than {MAX_HEADERS} headers");
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                return Err(Refusal::new(status, sentence));
            }
            Err(error) => return Err(malformed(format!("the request is malformed: {error}"))),
        }
        let method = parsed.method.unwrap_or_default();
        let method: Method = method
            .parse()
            .map_err(|_| malformed("the method of the request is malformed".to_owned()))?;
        let target = parsed.path.unwrap_or_default();
        let (authority, path) = match (target.strip_prefix('/'), target.split_once("://")) {
            (Some(_), _) => (None, target),
            (None, Some((scheme, rest)))
                if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
            {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                (Some(rest[..end].to_owned()), &rest[end..])
            }
            // These methods ask for no path.
            _ if matches!(method, Method::CONNECT | Method::OPTIONS) => (None, "/"),
            _ => {
                let sentence = "the target of the request has to begin with `/`";
                return Err(malformed(sentence.to_owned()));
            }
        };
        let mut headers = HeaderMap::new();
        for field in parsed.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            let value = HeaderValue::from_bytes(field.value);
            let (Ok(name), Ok(value)) = (name, value) else {
                let sentence = "a header of the request is malformed";
                return Err(malformed(sentence.to_owned()));
            };
            headers.append(name, value);
        }
        Ok(Request {
            method,
            path: path.split('?').next().unwrap_or_default().to_owned(),
            query: path
                .split_once('?')
                .map_or("", |(_, query)| query)
                .to_owned(),
            authority,
            headers,
            is_http_10: parsed.version == Some(0),
        })
    }

    /// Whether the request is for the API, whose answers are JSON.
    pub(super) fn is_api(&self) -> bool {
        self.path == "/v1" || self.path.starts_with("/v1/")
    }

    /// Whether the request may change something.
    pub(super) fn is_change(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }

    /// The host that is asked. `None`: a client of HTTP/1.0 has not said.
    ///
    /// # Errors
    /// Where it is missing, there twice, or none.
    pub(super) fn host(&self) -> Result<Option<Host<'_>>, Refusal> {
        let malformed = |sentence: &'static str| Refusal::new(StatusCode::BAD_REQUEST, sentence);
        let mut lines = self.headers.get_all(header::HOST).iter();
        let written = match (lines.next(), lines.next()) {
            (Some(_), Some(_)) => return Err(malformed("the Host header is there twice")),
            (None, _) if self.is_http_10 && self.authority.is_none() => return Ok(None),
            // RFC 9112 §3.2.
            (None, _) if !self.is_http_10 => return Err(malformed("the Host header is missing")),
            (host, _) => host.map_or(&b""[..], HeaderValue::as_bytes),
        };
        let written = match &self.authority {
            Some(authority) => Some(authority.as_str()),
            None => str::from_utf8(written).ok(),
        };
        match written.and_then(Host::parse) {
            Some(host) => Ok(Some(host)),
            None => Err(malformed(
                "the Host header has to be a name or an address, with a port or without",
            )),
        }
    }

    /// The value of a header that may be there once; one that is not text is as good as an unknown one.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let value = self.headers.get(name)?;
        Some(value.to_str().unwrap_or("?"))
    }

    /// How many bytes of a body follow.
    ///
    /// # Errors
    /// Where that is not said by one `Content-Length`.
    pub(super) fn content_length(&self) -> Result<u64, Refusal> {
        if self.headers.contains_key(header::TRANSFER_ENCODING) {
            let sentence = "a body needs a Content-Length here; chunks are not read";
            return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, sentence));
        }
        let mut lengths = self.headers.get_all(header::CONTENT_LENGTH).iter();
        let Some(first) = lengths.next() else {
            return Ok(0);
        };
        let digits = first.to_str().unwrap_or_default();
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number || lengths.any(|other| other != first) {
            let sentence = "Content-Length has to be one number";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, sentence));
        }
        // Only more than anybody accepts does not fit.
        Ok(digits.parse().unwrap_or(u64::MAX))
    }

    /// Whether the client waits for a word before it sends the body (RFC 9110 §10.1.1).
    pub(super) fn waits_for_continue(&self) -> bool {
        let expects = self.text("expect");
        !self.is_http_10 && expects.is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }

    /// Whether the client wants to use the connection again.
    pub(super) fn keeps_alive(&self) -> bool {
        let lines = self.headers.get_all(header::CONNECTION).iter();
        let mut options = lines.flat_map(|line| line.to_str().unwrap_or("close").split(','));
        !self.is_http_10 && !options.any(|option| option.trim().eq_ignore_ascii_case("close"))
    }
}

/// A host as a request names it, without its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host<'a> {
    /// An IP address.
    Address,
    /// A name, in the case in which it was written.
    Name(&'a str),
}

impl Host<'_> {
    fn parse(text: &str) -> Option<Host<'_>> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']')?;
                address.parse::<Ipv6Addr>().ok()?;
                let port = match rest.strip_prefix(':') {
                    Some(port) => port,
                    None if rest.is_empty() => "",
                    None => return None,
                };
                (Host::Address, port)
            }
            None => {
                let (name, port) = text.split_once(':').unwrap_or((text, ""));
                let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                if name.is_empty() || !name.bytes().all(is_good) {
                    return None;
                }
                match name.parse::<Ipv4Addr>() {
                    Ok(_) => (Host::Address, port),
                    Err(_) => (Host::Name(name.strip_suffix('.').unwrap_or(name)), port),
                }
            }
        };
        (port.is_empty() || port.parse::<u16>().is_ok()).then_some(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, expected) in [
            ("127.0.0.1", Some(Host::Address)),
            ("127.0.0.1:9900", Some(Host::Address)),
            ("[::1]", Some(Host::Address)),
            ("[fd00::7]:1", Some(Host::Address)),
            ("localhost", Some(Host::Name("localhost"))),
            ("Gate-1.internal:9900", Some(Host::Name("Gate-1.internal"))),
            ("gate.internal.", Some(Host::Name("gate.internal"))),
            (
                "127.0.0.1.evil.example",
                Some(Host::Name("127.0.0.1.evil.example")),
            ),
            ("localhost:", Some(Host::Name("localhost"))),
            ("", None),
            (":9900", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[1.2.3.4]", None),
            ("a b", None),
            ("user@localhost", None),
            ("localhost:99999", None),
            ("localhost:1:2", None),
            ("localhost/", None),
        ] {
            assert_eq!(Host::parse(text), expected, "{text}");
        }
    }

    /// No head makes the parser panic, and what it reads is what was written.
    #[test]
    fn heads_that_are_cut_or_changed() {
        let head = b"POST http://a:1/v1/x?y HTTP/1.1\r\nHost: [::1]:1\r\nContent-Length: 2\r\nConnection: a, close\r\n\r\n";
        let look = |head: &[u8]| {
            if let Ok(request) = Request::parse(head) {
                let _ = (request.host(), request.content_length());
                let _ = (request.keeps_alive(), request.waits_for_continue());
                assert!(!request.is_api() || request.path.starts_with("/v1"));
            }
        };
        look(head);
        for at in 0..head.len() {
            assert!(Request::parse(&head[..at]).is_err());
            for other in [0, b'\n', b'\r', b' ', b':', b'[', b'/', b'?', 0x7f, 0xff] {
                let mut changed = head.to_vec();
                changed[at] = other;
                look(&changed);
            }
        }
    }

    #[test]
    fn targets() {
        let parse = |target: &str| {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            Request::parse(head.as_bytes()).map(|request| (request.path, request.authority))
        };
        let good = |path: &str| Ok((path.to_owned(), None));
        assert_eq!(parse("/"), good("/"));
        assert_eq!(parse("/metrics?a=b?c"), good("/metrics"));
        assert_eq!(parse("//v1/status"), good("//v1/status"));
        let absolute = parse("HTTP://b:1/metrics");
        assert_eq!(
            absolute,
            Ok(("/metrics".to_owned(), Some("b:1".to_owned())))
        );
        for wrong in ["metrics", "ftp://a/", "a:1", "?"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
