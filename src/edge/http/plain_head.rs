//! Checks the head of a plain request before Pingora gets it, so that wsgate and not Pingora answers a malformed one.
//!
//! The usual form of a head is checked here, and Pingora accepts every head of that form: a test compares both. An unusual head is
//! first read by a session of Pingora without a connection, from a copy.

use crate::edge::http::answer::Answer;
use crate::edge::http::body::{Body, Chunks};
use crate::edge::http::head::Head;
use crate::metrics::Reason;
use bytes::{BufMut, BytesMut};
use http::{StatusCode, header};
use httparse::{Header, Request, Status};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use std::io::Cursor;
use std::mem::MaybeUninit;

/// A mistake in the head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// The request line is none.
    Line,
    /// Another version than 1.0 and 1.1.
    Version,
    /// A space, a control character or DEL in the target.
    TargetByte,
    /// Longer than `http::Uri` holds.
    TargetTooLong,
    /// Neither a path, nor an absolute URI of the host that `Host` names.
    Target,
    /// Longer than allowed, once its target is percent-encoded.
    TooLarge,
    /// More than [`MAX_HEADERS`].
    TooManyHeaders,
    /// A name with other characters than those of a token, white space before its colon, a folded line.
    HeaderName,
    /// A control character in a value.
    HeaderValue,
    /// More than one `Host`, or user information in it.
    Host,
    /// No number, or several.
    ContentLength,
    /// Not `chunked` at last, or in HTTP/1.0.
    TransferEncoding,
    /// `Upgrade` to a protocol that is not spoken here.
    Upgrade,
    /// Pingora does not accept the head, for another reason.
    Other,
}

impl Malformed {
    /// The reason that is counted.
    pub(crate) const fn reason(self) -> Reason {
        match self {
            Malformed::Version => Reason::HttpVersion,
            Malformed::TargetTooLong | Malformed::TooLarge | Malformed::TooManyHeaders => {
                Reason::HeadTooLarge
            }
            Malformed::Upgrade => Reason::Upgrade,
            Malformed::Host => Reason::Host,
            Malformed::Line
            | Malformed::TargetByte
            | Malformed::Target
            | Malformed::HeaderName
            | Malformed::HeaderValue
            | Malformed::ContentLength
            | Malformed::TransferEncoding
            | Malformed::Other => Reason::Malformed,
        }
    }

    /// The answer that the client gets.
    pub(crate) fn answer(self) -> Answer {
        let status = match self {
            Malformed::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Malformed::TargetTooLong => StatusCode::URI_TOO_LONG,
            Malformed::TooLarge | Malformed::TooManyHeaders => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Malformed::Upgrade => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        };
        let sentence = match self {
            Malformed::Line => "the request line is malformed",
            Malformed::Version => "HTTP/1.0 and HTTP/1.1 are spoken here, no other version",
            Malformed::TargetByte => {
                "the request target holds a space or a control character: percent-encode it"
            }
            Malformed::TargetTooLong => "the request target is longer than 65534 bytes",
            Malformed::Target => {
                "the request target is neither a path nor an absolute URI of the host that the Host header names"
            }
            Malformed::TooLarge => "the head of the request is too large",
            Malformed::TooManyHeaders => "the request has more than 256 headers",
            Malformed::HeaderName => {
                "a header's name is malformed, or a header is folded over several lines"
            }
            Malformed::HeaderValue => "a header's value holds a control character",
            Malformed::Host => "the Host header is there twice, or holds an @",
            Malformed::ContentLength => {
                "the Content-Length header is malformed or contradicts itself"
            }
            Malformed::TransferEncoding => {
                "the Transfer-Encoding header is not understood: its last coding has to be chunked, in HTTP/1.1"
            }
            Malformed::Upgrade => {
                "no protocol that the Upgrade header names is spoken here but websocket; leave the header out"
            }
            Malformed::Other => "the request is malformed",
        };
        Answer::new(status, sentence)
    }
}

/// Most headers of a request: as many as Pingora reads.
const MAX_HEADERS: usize = 256;

/// Longest request target, in bytes: what `http::Uri` holds.
const MAX_TARGET: usize = u16::MAX as usize - 1;

/// The properties of a head that must be known before Pingora gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Examined {
    pub body: Body,
    /// The request asks for a protocol whose `Upgrade` must not be ignored.
    pub wants_upgrade: bool,
}

/// [`examine`]s a request that is no attempt to open a WebSocket.
///
/// # Errors
/// The mistake in its head, or that it asks for another protocol.
pub(crate) async fn examine_plain(
    head: &mut Head,
    max_header_size: usize,
) -> Result<Body, Malformed> {
    match examine(head, max_header_size).await? {
        examined if examined.wants_upgrade => Err(Malformed::Upgrade),
        examined => Ok(examined.body),
    }
}

/// Checks that Pingora will accept the head. The target is percent-encoded where Pingora needs that.
///
/// # Errors
/// The mistake in the head.
pub(crate) async fn examine(
    head: &mut Head,
    max_header_size: usize,
) -> Result<Examined, Malformed> {
    encode_target(head, max_header_size)?;
    let (examined, is_usual) = parse(&head.bytes[..head.len])?;
    // Few are unusual, and all connections would carry the room for it.
    if !is_usual && !Box::pin(is_taken(&head.bytes[..head.len])).await {
        return Err(Malformed::Target);
    }
    Ok(examined)
}

/// Whether Pingora takes this head.
async fn is_taken(head: &[u8]) -> bool {
    let mut session = ServerSession::new_http1(Box::new(Cursor::new(Vec::new())));
    session.set_pipelined_prefix(head.into());
    matches!(session.read_request().await, Ok(true))
}

/// Percent-encodes what `http::Uri` does not take of a target, and nginx, HAProxy and servers do: `<` and `>`, a backtick in
/// the path, `"` in the query, and all beyond ASCII where it is no UTF-8. All else stays as it is written.
fn encode_target(head: &mut Head, max: usize) -> Result<(), Malformed> {
    let line = head.bytes.iter().position(|byte| *byte == b'\n');
    let line = &head.bytes[..line.ok_or(Malformed::Line)?];
    let start = line.iter().position(|byte| *byte == b' ');
    let end = line.iter().rposition(|byte| *byte == b' ');
    let (Some(start), Some(end)) = (start.map(|at| at + 1), end) else {
        return Err(Malformed::Line);
    };
    let Some(target) = line.get(start..end) else {
        return Err(Malformed::Line);
    };
    if target.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f)) {
        return Err(Malformed::TargetByte);
    }
    let query = target.iter().position(|byte| *byte == b'?');
    let is_utf8 = str::from_utf8(target).is_ok();
    let is_refused = |at: usize, byte: u8| match byte {
        b'<' | b'>' => true,
        b'`' => query.is_none_or(|query| at < query),
        b'"' => query.is_some_and(|query| at > query),
        0x80.. => !is_utf8,
        _ => false,
    };
    let bytes = || target.iter().copied().enumerate();
    let count = bytes().filter(|(at, byte)| is_refused(*at, *byte)).count();
    if count == 0 {
        return Ok(());
    }
    let len = head.len + 2 * count;
    if len > max {
        return Err(Malformed::TooLarge);
    }
    let mut encoded = BytesMut::with_capacity(head.bytes.len() + 2 * count);
    encoded.put_slice(&head.bytes[..start]);
    for (at, byte) in bytes() {
        match is_refused(at, byte) {
            true => encoded.put_slice(format!("%{byte:02X}").as_bytes()),
            false => encoded.put_u8(byte),
        }
    }
    encoded.put_slice(&head.bytes[end..]);
    *head = Head {
        bytes: encoded,
        len,
    };
    Ok(())
}

/// Reads a head; and whether it is one of those that Pingora takes for sure.
fn parse(head: &[u8]) -> Result<(Examined, bool), Malformed> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut headers) {
        Ok(Status::Complete(len)) if len == head.len() => {}
        Ok(Status::Complete(_) | Status::Partial) => return Err(Malformed::Other),
        Err(error) => return Err(wrong(error, head)),
    }
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(Malformed::Line);
    };
    if target.len() > MAX_TARGET {
        return Err(Malformed::TargetTooLong);
    }
    // As Pingora does it, with what it takes for a method and a target.
    if RequestHeader::build_no_case(method, target.as_bytes(), Some(0)).is_err() {
        return Err(Malformed::Target);
    }
    let is_http11 = request.version == Some(1);
    let headers = request.headers;
    let mut hosts = values(headers, header::HOST.as_str());
    let host = hosts.next();
    if hosts.next().is_some() || host.is_some_and(|host| host.contains(&b'@')) {
        return Err(Malformed::Host);
    }
    let examined = Examined {
        body: framing(headers, is_http11)?,
        wants_upgrade: is_http11 && names_foreign_protocol(headers),
    };
    Ok((examined, target.starts_with('/')))
}

fn wrong(error: httparse::Error, head: &[u8]) -> Malformed {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    match error {
        httparse::Error::HeaderName => Malformed::HeaderName,
        httparse::Error::HeaderValue => Malformed::HeaderValue,
        httparse::Error::TooManyHeaders => Malformed::TooManyHeaders,
        httparse::Error::Version => match version {
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']
            | [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9'] => Malformed::Version,
            _ => Malformed::Line,
        },
        httparse::Error::Token => Malformed::Line,
        httparse::Error::NewLine | httparse::Error::Status => Malformed::Other,
    }
}

fn values<'a>(headers: &'a [Header<'a>], name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    let named = move |header: &&Header<'_>| header.name.eq_ignore_ascii_case(name);
    headers.iter().filter(named).map(|header| header.value)
}

/// RFC 9112 §6.3, as Pingora reads it: `Transfer-Encoding` counts more than `Content-Length`.
fn framing(headers: &[Header<'_>], is_http11: bool) -> Result<Body, Malformed> {
    if let Some(codings) = values(headers, header::TRANSFER_ENCODING.as_str()).last() {
        let last = codings.rsplit(|byte| *byte == b',').next();
        let is_chunked =
            last.is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        return match is_chunked && is_http11 {
            true => Ok(Body::Chunked(Chunks::START)),
            false => Err(Malformed::TransferEncoding),
        };
    }
    let mut length = None;
    for value in values(headers, header::CONTENT_LENGTH.as_str()) {
        // RFC 9110 §8.6: several that say the same may be taken for one.
        for number in value.split(|byte| *byte == b',') {
            let number = str::from_utf8(number.trim_ascii()).ok();
            let number = number.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
            let number = number.and_then(|number| number.parse::<u64>().ok());
            match (number, length) {
                (Some(number), None) => length = Some(number),
                (Some(number), Some(length)) if number == length => {}
                _ => return Err(Malformed::ContentLength),
            }
        }
    }
    Ok(Body::Length(length.unwrap_or(0)))
}

/// RFC 9110 §7.8: a server may ignore `Upgrade`. A client that offers HTTP/2 beside HTTP/1.1 lives with that (curl does it
/// by itself); one that means to speak anything else here has come to the wrong place and is told so.
fn names_foreign_protocol(headers: &[Header<'_>]) -> bool {
    let protocols = values(headers, header::UPGRADE.as_str());
    let mut protocols = protocols.flat_map(|value| value.split(|byte| *byte == b','));
    protocols.any(|protocol| {
        let protocol = protocol.trim_ascii();
        !protocol.is_empty() && !protocol.eq_ignore_ascii_case(b"h2c")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn head(bytes: &[u8]) -> Head {
        Head {
            bytes: bytes.into(),
            len: bytes.len(),
        }
    }

    fn checked(line: &str, headers: &str) -> Result<(Examined, bool), Malformed> {
        let mut head = head(format!("{line}\r\n{headers}\r\n").as_bytes());
        encode_target(&mut head, 32 << 10)?;
        parse(&head.bytes[..head.len])
    }

    #[test]
    fn what_is_wrong_is_named() {
        let get = "GET / HTTP/1.1";
        let many = "X: a\r\n".repeat(MAX_HEADERS + 1);
        let long = format!("GET /{} HTTP/1.1", "a".repeat(MAX_TARGET));
        for (line, headers, malformed) in [
            ("GET / HTTP/2.0", "Host: a\r\n", Malformed::Version),
            ("GET / HTTP/1.2", "Host: a\r\n", Malformed::Version),
            ("GET / HTTP/x", "Host: a\r\n", Malformed::Line),
            ("GET  / HTTP/1.1", "Host: a\r\n", Malformed::TargetByte),
            ("GET /a b HTTP/1.1", "Host: a\r\n", Malformed::TargetByte),
            ("GET /\x7f HTTP/1.1", "Host: a\r\n", Malformed::TargetByte),
            (&long, "Host: a\r\n", Malformed::TargetTooLong),
            ("G(T / HTTP/1.1", "Host: a\r\n", Malformed::Line),
            (get, &many, Malformed::TooManyHeaders),
            (get, "X : a\r\n", Malformed::HeaderName),
            (get, "X\r\n", Malformed::HeaderName),
            (get, "X: a\r\n b\r\n", Malformed::HeaderName),
            (get, "X: \x01\r\n", Malformed::HeaderValue),
            (get, "Host: a\r\nhost: a\r\n", Malformed::Host),
            (get, "Host: a@b\r\n", Malformed::Host),
            (
                get,
                "Content-Length: 1\r\nContent-Length: 2\r\n",
                Malformed::ContentLength,
            ),
            (get, "Content-Length: 1, 2\r\n", Malformed::ContentLength),
            (get, "Content-Length: +1\r\n", Malformed::ContentLength),
            (get, "Content-Length:\r\n", Malformed::ContentLength),
            (
                get,
                "Content-Length: 99999999999999999999\r\n",
                Malformed::ContentLength,
            ),
            (
                get,
                "Transfer-Encoding: gzip\r\n",
                Malformed::TransferEncoding,
            ),
            (
                get,
                "Transfer-Encoding: chunked, gzip\r\n",
                Malformed::TransferEncoding,
            ),
            (
                "GET / HTTP/1.0",
                "Transfer-Encoding: chunked\r\n",
                Malformed::TransferEncoding,
            ),
        ] {
            assert_eq!(
                checked(line, headers),
                Err(malformed),
                "{line:.40} {headers:.60}"
            );
        }
    }

    #[test]
    fn a_body_is_framed_as_the_head_says() {
        for (headers, body) in [
            ("", Body::Length(0)),
            ("Content-Length: 5\r\n", Body::Length(5)),
            (
                "content-length: 5, 5\r\nContent-Length: 5\r\n",
                Body::Length(5),
            ),
            (
                "Transfer-Encoding: gzip, Chunked\r\n",
                Body::Chunked(Chunks::START),
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: x\r\n",
                Body::Chunked(Chunks::START),
            ),
        ] {
            let (examined, _) = checked("POST / HTTP/1.1", headers).unwrap();
            assert_eq!(examined.body, body, "{headers}");
        }
    }

    #[test]
    fn other_protocols_are_told_from_http2() {
        for (version, upgrade, foreign) in [
            ("1.1", "h2c", false),
            ("1.1", "H2C, h2c", false),
            ("1.1", "", false),
            ("1.1", "tcp", true),
            ("1.1", "TLS/1.0", true),
            ("1.1", "h2c, SPDY/3.1", true),
            // RFC 9110 §7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request."
            ("1.0", "tcp", false),
        ] {
            let headers = format!("Connection: Upgrade\r\nUpgrade: {upgrade}\r\n");
            let (examined, _) = checked(&format!("GET / HTTP/{version}"), &headers).unwrap();
            assert_eq!(examined.wants_upgrade, foreign, "{upgrade}");
        }
    }

    /// Each byte that can stand in a target reaches Pingora as it is, or percent-encoded, and Pingora takes it.
    #[tokio::test]
    async fn targets_pass_as_they_are_written() {
        for byte in (b'!'..=b'~').chain(0x80..=0xff) {
            for prefix in ["/a", "/a?b="] {
                let target = [prefix.as_bytes(), &[byte], b"c"].concat();
                let written =
                    [b"GET ", &target[..], b" HTTP/1.1\r\nHost: a\r\n\r\nbehind"].concat();
                let mut head = head(&written);
                head.len -= b"behind".len();
                encode_target(&mut head, 1000).unwrap();
                let (_, is_usual) = parse(&head.bytes[..head.len]).unwrap();
                let mut session = ServerSession::new_http1(Box::new(Cursor::new(Vec::new())));
                session.set_pipelined_prefix(head.bytes[..head.len].into());
                assert!(
                    session.read_request().await.unwrap() && is_usual,
                    "{byte:#x}"
                );
                let is_query = prefix.contains('?');
                let expected = match (byte, is_query) {
                    (b'<' | b'>' | 0x80.., _) | (b'`', false) | (b'"', true) => {
                        format!("{prefix}%{byte:02X}c").into_bytes()
                    }
                    // RFC 3986 §3.5: a fragment is not sent.
                    (b'#', _) => prefix.into(),
                    _ => target,
                };
                let got = session.req_header().raw_path();
                assert_eq!(
                    got.escape_ascii().to_string(),
                    expected.escape_ascii().to_string()
                );
                assert!(head.bytes.ends_with(b"\r\n\r\nbehind"));
            }
        }
    }

    #[test]
    fn encoding_does_not_pass_the_limit() {
        let mut head = head(b"GET /?\"\" HTTP/1.1\r\n\r\n");
        let len = head.len;
        assert_eq!(encode_target(&mut head, len + 3), Err(Malformed::TooLarge));
        assert_eq!(encode_target(&mut head, len + 4), Ok(()));
        assert_eq!(head.bytes, &b"GET /?%22%22 HTTP/1.1\r\n\r\n"[..]);
        assert_eq!(head.len, len + 4);
    }

    #[test]
    fn utf8_stays_as_it_is() {
        let written = "GET /\u{fc}?\u{fc} HTTP/1.1\r\n\r\n".as_bytes();
        let mut head = head(written);
        encode_target(&mut head, 1000).unwrap();
        assert_eq!(head.bytes, written);
    }

    /// Pingora accepts every head that counts as usual, with the same framing of the body.
    #[tokio::test]
    async fn pingora_takes_what_is_usual() {
        const PIECES: &[&str] = &[
            "GET",
            "POST",
            "CONNECT",
            "OPTIONS",
            "G(T",
            " ",
            "  ",
            "\t",
            "/",
            "//",
            "/a?b=c",
            "*",
            "?a",
            "http://a/",
            "http:/\\a",
            "a:1",
            "http://b@a/",
            "/\u{fc}",
            "\"",
            "<",
            "#x",
            "%",
            "\\",
            " HTTP/1.1",
            " HTTP/1.0",
            " HTTP/2.0",
            "\r\n",
            "\n",
            "\r",
            "Host: a",
            "Host: a@b",
            "host:a",
            "Host:",
            "Content-Length: 5",
            "Content-Length: 5, 5",
            "content-length: 6",
            "Content-Length: -1",
            "Content-Length: ",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: gzip, chunked",
            "Connection: close",
            "Connection: upgrade",
            "Upgrade: tcp",
            "X: \u{fc}",
            "X : a",
            "X\0: a",
            "X: \0",
            " folded",
            ":",
            "X",
            "\u{7f}",
            "Expect: 100-continue",
        ];
        let mut chance = StdRng::seed_from_u64(13);
        let mut usual = 0;
        for _ in 0..60_000 {
            let mut bytes = String::new();
            // Half of them have a good request line.
            if chance.gen_bool(0.5) {
                let targets = ["/", "/a?b=\"c\"", "//x/y", "/\\", "/a#b"];
                bytes = format!(
                    "POST {} HTTP/1.1\r\n",
                    targets[chance.gen_range(0..targets.len())]
                );
            }
            for _ in 0..chance.gen_range(0..8) {
                bytes += PIECES[chance.gen_range(0..PIECES.len())];
                if chance.gen_bool(0.6) {
                    bytes += "\r\n";
                }
            }
            bytes += "\r\n\r\n";
            let mut bytes = bytes.into_bytes();
            for _ in 0..chance.gen_range(0..3) {
                let at = chance.gen_range(0..bytes.len());
                bytes[at] = chance.r#gen();
            }
            bytes.extend(b"\r\n\r\n");
            let len = super::super::head::end(&bytes).unwrap();
            let mut head = head(&bytes[..len]);
            if encode_target(&mut head, 32 << 10).is_err() {
                continue;
            }
            let Ok((examined, true)) = parse(&head.bytes) else {
                continue;
            };
            usual += 1;
            let text = head.bytes.escape_ascii().to_string();
            let mut session = ServerSession::new_http1(Box::new(Cursor::new(Vec::new())));
            session.set_pipelined_prefix(head.bytes);
            assert!(
                matches!(session.read_request().await, Ok(true)),
                "Pingora refuses {text}"
            );
            let headers = &session.req_header().headers;
            let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
            let length = headers.get(header::CONTENT_LENGTH).map(|value| {
                let number = value.to_str().unwrap().split(',').next().unwrap();
                number.trim().parse().unwrap()
            });
            let expected = match is_chunked {
                true => Body::Chunked(Chunks::START),
                false => Body::Length(length.unwrap_or(0)),
            };
            assert_eq!(examined.body, expected, "{text}");
        }
        assert!(usual > 1000, "{usual} of them were usual");
    }
}
