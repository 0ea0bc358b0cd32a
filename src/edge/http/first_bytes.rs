//! The first bytes of a connection without TLS: whether they can still become an HTTP/1 request.
//!
//! A client that speaks something else would otherwise wait for the time-out of the head. Pure: bytes in, a kind out.

use crate::handshake::is_token_byte as is_token;
use crate::metrics::ConnectionRefusal;
use std::fmt;

/// A protocol other than HTTP/1 that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// A TLS record: the client was told `https://` or `wss://`.
    Tls,
    /// HTTP/2 that was not agreed on ("prior knowledge", RFC 9113 §3.3).
    Http2,
    /// A header of the PROXY protocol, on a listener without `proxy_protocol`.
    ProxyHeader,
    /// HTTP, on a listener with TLS.
    HttpOnTls,
    /// Anything else: a banner of SSH, binary data, a request line of HTTP/0.9.
    Other,
}

impl Foreign {
    /// The reason that is counted.
    pub(crate) const fn reason(self) -> ConnectionRefusal {
        match self {
            Foreign::Tls => ConnectionRefusal::TlsOnClearPort,
            Foreign::Http2 => ConnectionRefusal::Http2WithoutAlpn,
            Foreign::ProxyHeader => ConnectionRefusal::UnexpectedProxyHeader,
            Foreign::HttpOnTls => ConnectionRefusal::HttpOnTlsPort,
            Foreign::Other => ConnectionRefusal::NotHttp,
        }
    }
}

/// The sentence that the client gets.
impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Foreign::Tls => "this port does not speak TLS: use http:// or ws://",
            Foreign::Http2 => "HTTP/2 is served over TLS only, where ALPN agrees on it: use HTTP/1.1",
            Foreign::ProxyHeader => {
                "this connection begins with a PROXY protocol header, which this port does not expect"
            }
            Foreign::HttpOnTls => "this port speaks TLS: use https:// or wss://",
            Foreign::Other => "this connection does not begin with an HTTP request",
        })
    }
}

/// Looks at the request line of a connection while it comes. Each byte is looked at once.
#[derive(Debug, Default)]
pub(crate) struct RequestLine {
    seen: usize,
    part: Part,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Method,
    Target,
    Complete,
}

impl RequestLine {
    /// `head` holds all bytes that came so far, without empty lines before them.
    ///
    /// # Errors
    /// The protocol that the client speaks, as soon as the bytes cannot become HTTP/1, whatever follows.
    pub(crate) fn check(&mut self, head: &[u8]) -> Result<(), Foreign> {
        // RFC 8446 §5.1: a record of the type `handshake`, whose version begins with 3.
        if let [0x16] | [0x16, 3, ..] = head {
            return Err(Foreign::Tls);
        }
        while let Some(byte) = head.get(self.seen) {
            match (self.part, byte) {
                (Part::Complete, _) => return Ok(()),
                (Part::Method, b' ') if self.seen > 0 => self.part = Part::Target,
                (Part::Method, byte) if is_token(*byte) => {}
                (Part::Target, b'\n') => {
                    let line = &head[..self.seen];
                    let line = line.strip_suffix(b"\r").unwrap_or(line);
                    if line == b"PRI * HTTP/2.0" {
                        return Err(Foreign::Http2);
                    }
                    let last = line.rsplit(|byte| *byte == b' ').next();
                    if !last.is_some_and(|last| last.starts_with(b"HTTP/")) {
                        return Err(match line.starts_with(b"PROXY ") {
                            true => Foreign::ProxyHeader,
                            false => Foreign::Other,
                        });
                    }
                    self.part = Part::Complete;
                }
                (Part::Target, b'\r' | b'\t' | b' '..) => {}
                // The signature of version 2 of the PROXY protocol, of which the empty lines are gone.
                (_, 0) if head.starts_with(b"\0\r\nQUIT\n") => return Err(Foreign::ProxyHeader),
                (Part::Method | Part::Target, _) => return Err(Foreign::Other),
            }
            self.seen += 1;
        }
        Ok(())
    }
}

/// Whether a connection to a listener with TLS begins with this byte as no TLS does, but text may.
pub(crate) fn is_text(first: u8) -> bool {
    first.is_ascii_graphic() || matches!(first, b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: &[(&[u8], Option<Foreign>)] = &[
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\0\x16", None),
        (b"GET / HTTP/1.0\n\n", None),
        (b"POST /{\"a\"} HTTP/1.1\r\n", None),
        (b"GET /\xc3\xbc HTTP/1.1\r\n", None),
        // The mistakes in these are found by the check of the whole head.
        (b"GET / HTTP/2.0\r\n", None),
        (b"GET /a b HTTP/1.1\r\n", None),
        (b"CONNECT a:1 HTTP/1.1\r\n", None),
        (b"G", None),
        (b"", None),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            Some(Foreign::Tls),
        ),
        (b"\x16", Some(Foreign::Tls)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Foreign::Http2)),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            Some(Foreign::ProxyHeader),
        ),
        (b"\0\r\nQUIT\n\x21\x11\0\x0c", Some(Foreign::ProxyHeader)),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Some(Foreign::Other)),
        (
            b"SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13\r\n",
            Some(Foreign::Other),
        ),
        (b"EHLO mail.test\r\n", Some(Foreign::Other)),
        (b"*1\r\n$4\r\nPING\r\n", Some(Foreign::Other)),
        (b"GET\r\n\r\n", Some(Foreign::Other)),
        (b"GET /\r\n", Some(Foreign::Other)),
        (b" GET / HTTP/1.1\r\n", Some(Foreign::Other)),
        (b"\x03\0\0\x13\x0e\xe0", Some(Foreign::Other)),
        (b"GET /\0", Some(Foreign::Other)),
    ];

    #[test]
    fn what_cannot_become_a_request_is_known_at_every_cut() {
        for (bytes, expected) in CASES {
            let whole = RequestLine::default().check(bytes).err();
            assert_eq!(whole, *expected, "{}", bytes.escape_ascii());
            // The signature of the PROXY protocol is looked for in one piece.
            if *expected == Some(Foreign::ProxyHeader) {
                continue;
            }
            let mut line = RequestLine::default();
            let found = (1..=bytes.len()).find_map(|len| line.check(&bytes[..len]).err());
            assert_eq!(found, *expected, "{} byte by byte", bytes.escape_ascii());
        }
    }

    #[test]
    fn tls_is_told_from_text() {
        assert!(is_text(b'G') && is_text(b'p') && is_text(b'*') && is_text(b'\r'));
        // A record of TLS, and a hello of SSL 2.
        assert!(!is_text(0x16) && !is_text(0x80) && !is_text(0));
    }
}
