//! A request head of HTTP/1, read where it lies.
//!
//! # The contract of the two parsers
//!
//! Two parsers may read one connection: this one the upgrade requests, Pingora's all others. If both read one head differently, a
//! client could smuggle a request. So the contract is: every head that is accepted here, with its host ([`authority`](super::authority))
//! and its body (`handshake`), is accepted by Pingora, with the same method, version, target and fields. The fuzz target `head` compares
//! the two, and the tests of `plain_head` compare what is checked before Pingora gets a head.
//!
//! | part | accepted here and by Pingora | refused here, whatever Pingora does |
//! |---|---|---|
//! | request line | `METHOD SP TARGET SP HTTP/1.0` or `1.1`, one space each | other versions; more spaces; a target with a space or a control byte |
//! | target | origin-form; `*`; an absolute URL of HTTP whose authority is the value of `Host` | authority-form (CONNECT); a fragment |
//! | line end | CR LF, LF | a lone CR |
//! | field name | a token, the colon behind it | white space before the colon, a folded line, an empty name |
//! | field value | visible bytes, space, tab, bytes from 0x80 on | other control bytes |
//! | number of fields | up to 256 | more |
//! | `Host` | one, a name or an address with a port or without; none in HTTP/1.0 | several; anything else (`authority`) |
//! | `Content-Length` | 0 in an upgrade; in a plain request one number, or the same several times | other forms, different numbers |
//! | `Transfer-Encoding` | in a plain request of HTTP/1.1 with `chunked` at last; it counts more than `Content-Length` | in an upgrade; any other last coding; in HTTP/1.0 |
//!
//! The exception: targets that `http::Uri` does not take (`{`, `<`, bytes that are not ASCII, more than 64 KiB) are accepted here and
//! not by Pingora. They reach a server only in an upgrade, which Pingora does not see; in a plain request they are percent-encoded or
//! refused.

use crate::edge::http::target::{Target, TargetError};
use crate::handshake::Fields;
use http::header::HeaderName;
use http::{Method, Version};
use httparse::{Request, Status};
use std::fmt;
use std::mem::MaybeUninit;

/// Most fields of a head; Pingora's parser takes as many.
pub const MAX_FIELDS: usize = 256;

/// A request head. Nothing of it is copied.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: Method,
    /// 1.0 or 1.1.
    pub version: Version,
    /// The request target.
    pub target: Target<'a>,
    /// The header fields in the order in which they came.
    pub fields: Vec<(&'a str, &'a [u8])>,
}

/// Why a head cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The request target.
    Target(TargetError),
    /// RFC 9112 §3: the line is no `METHOD TARGET HTTP/1.1`.
    RequestLine,
    /// §5.1: a field name that is no token. White space before the colon and folded lines (§5.2) are of this kind.
    FieldName,
    /// RFC 9110 §5.5: a control character in a field value.
    FieldValue,
    /// RFC 9112 §2.2: a line that ends otherwise than with CR LF or LF.
    LineEnd,
    /// More than [`MAX_FIELDS`].
    TooManyFields,
}

impl fmt::Display for HeadError {
    /// The sentence in the body of the answer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = match self {
            HeadError::Target(error) => return error.fmt(f),
            HeadError::RequestLine => {
                "the first line of the request is not `METHOD TARGET HTTP/1.1`"
            }
            HeadError::FieldName => {
                "a header of the request has no valid name: there is no colon, a space before it, or the line is folded"
            }
            HeadError::FieldValue => "a header of the request holds a control character",
            HeadError::LineEnd => "a line of the request's head does not end with CR LF",
            HeadError::TooManyFields => {
                return write!(f, "the request has more than {MAX_FIELDS} headers");
            }
        };
        f.write_str(sentence)
    }
}

impl<'a> RequestHead<'a> {
    /// Reads a complete head, without anything behind it.
    ///
    /// # Errors
    /// The bytes are not a valid head.
    pub fn parse(head: &'a [u8]) -> Result<Self, HeadError> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(head, &mut fields);
        if let Err(error) = parsed {
            return Self::parse_odd_target(head, error);
        }
        let (Some(method), Some(target), Some(version)) =
            (request.method, request.path, request.version)
        else {
            return Err(HeadError::RequestLine);
        };
        if parsed != Ok(Status::Complete(head.len())) {
            return Err(HeadError::LineEnd);
        }
        let lines = request.headers.iter();
        Ok(RequestHead {
            method: Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::RequestLine)?,
            version: match version {
                1 => Version::HTTP_11,
                _ => Version::HTTP_10,
            },
            target: Target::parse(target.as_bytes()).map_err(HeadError::Target)?,
            fields: lines.map(|line| (line.name, line.value)).collect(),
        })
    }
}

impl<'a> RequestHead<'a> {
    /// [`parse`](Self::parse) for a head that the parser refuses: it takes no target that is not UTF-8, and says of all
    /// others only that something is wrong with the line.
    fn parse_odd_target(head: &'a [u8], error: httparse::Error) -> Result<Self, HeadError> {
        match error {
            httparse::Error::Token | httparse::Error::Version | httparse::Error::Status => {}
            other => return Err(other.into()),
        }
        let line_len = head
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(head.len());
        let (line, rest) = head.split_at(line_len);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let start = line.iter().position(|byte| *byte == b' ');
        let end = line.iter().rposition(|byte| *byte == b' ');
        let (Some(start), Some(end)) = (start, end) else {
            return Err(HeadError::RequestLine);
        };
        let version = match &line[end + 1..] {
            b"HTTP/1.1" => Version::HTTP_11,
            b"HTTP/1.0" => Version::HTTP_10,
            _ => return Err(HeadError::RequestLine),
        };
        let target = line.get(start + 1..end).ok_or(HeadError::RequestLine)?;
        let method = Method::from_bytes(&line[..start]).map_err(|_| HeadError::RequestLine)?;
        let target = Target::parse(target).map_err(HeadError::Target)?;
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let rest = rest.get(1..).unwrap_or_default();
        match httparse::parse_headers(rest, &mut fields)? {
            Status::Complete((len, lines)) if len == rest.len() => Ok(RequestHead {
                method,
                version,
                target,
                fields: lines.iter().map(|line| (line.name, line.value)).collect(),
            }),
            _ => Err(HeadError::LineEnd),
        }
    }
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName => HeadError::FieldName,
            httparse::Error::HeaderValue => HeadError::FieldValue,
            httparse::Error::NewLine => HeadError::LineEnd,
            httparse::Error::TooManyHeaders => HeadError::TooManyFields,
            httparse::Error::Token | httparse::Error::Version | httparse::Error::Status => {
                HeadError::RequestLine
            }
        }
    }
}

impl Fields for RequestHead<'_> {
    fn lines(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        let fields = self.fields.iter();
        let fields = fields.filter(move |(field, _)| field.eq_ignore_ascii_case(name.as_str()));
        fields.map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_what_is_none() {
        let host = "Host: a\r\n";
        let (target, space) = (HeadError::Target, TargetError::Space);
        for (line, fields, error) in [
            ("GET /a?b HTTP/1.1", host, None),
            ("GET /a?b HTTP/1.1", "host:a\r\nX: \r\n", None),
            ("GET /?filter={\"a\":1}&b=<c>\u{fc} HTTP/1.1", host, None),
            ("POST / HTTP/1.1", host, None),
            ("GET / HTTP/1.0", "", None),
            ("GET http://a/ HTTP/1.1", host, None),
            ("OPTIONS * HTTP/1.1", host, None),
            ("GET / HTTP/1.1", "Host: a\r\nHost: a\r\n", None),
            (
                "CONNECT a:1 HTTP/1.1",
                host,
                Some(target(TargetError::Form)),
            ),
            ("GET admin HTTP/1.1", host, Some(target(TargetError::Form))),
            ("GET /a b HTTP/1.1", host, Some(target(space))),
            ("GET /a\x01b HTTP/1.1", host, Some(target(space))),
            ("GET /a\tb HTTP/1.1", host, Some(target(space))),
            (
                "GET /a#b HTTP/1.1",
                host,
                Some(target(TargetError::Fragment)),
            ),
            ("GET / HTTP/2.0", host, Some(HeadError::RequestLine)),
            ("GET /", host, Some(HeadError::RequestLine)),
            ("G\u{fc}T / HTTP/1.1", host, Some(HeadError::RequestLine)),
            ("GET / HTTP/1.1", "X : b\r\n", Some(HeadError::FieldName)),
            (
                "GET / HTTP/1.1",
                "X: b\r\n c\r\n",
                Some(HeadError::FieldName),
            ),
            ("GET / HTTP/1.1", "X\r\n", Some(HeadError::FieldName)),
            ("GET / HTTP/1.1", "X: \x01\r\n", Some(HeadError::FieldValue)),
        ] {
            let head = format!("{line}\r\n{fields}\r\n");
            assert_eq!(RequestHead::parse(head.as_bytes()).err(), error, "{head}");
            if error.is_none() {
                assert!(RequestHead::parse(&head.as_bytes()[..head.len() - 1]).is_err());
                assert!(RequestHead::parse(format!("{head}GET").as_bytes()).is_err());
            }
        }
        let odd = b"GET /\xfc?\xff HTTP/1.1\r\nHost: a\r\nX: b\r\n\r\n";
        let read = RequestHead::parse(odd).unwrap();
        assert_eq!(read.target.origin_form(), b"/\xfc?\xff");
        assert_eq!(read.fields, [("Host", &b"a"[..]), ("X", b"b")]);
        let many = "X: a\r\n".repeat(MAX_FIELDS);
        let head = |more: &str| format!("GET / HTTP/1.1\r\n{many}{more}\r\n");
        assert!(RequestHead::parse(head("").as_bytes()).is_ok());
        let error = RequestHead::parse(head("X: a\r\n").as_bytes()).err();
        assert_eq!(error, Some(HeadError::TooManyFields));
    }
}
