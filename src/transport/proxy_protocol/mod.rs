//! The PROXY protocol: a proxy in front that passes on bytes names its client before all other bytes.
//!
//! Two properties always hold. No byte behind the header is taken from the connection: TLS or HTTP follows. Nothing at all is read
//! from a peer that is not trusted.

mod header;

use crate::metrics::ProxyHeaderFailure;
pub(crate) use crate::transport::proxy_protocol::header::Source;
use crate::transport::proxy_protocol::header::{Malformed, parse};
use crate::transport::socket::Socket;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// Why a connection does not come to anything.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The peer is not trusted.
    Untrusted,
    /// The bytes are no PROXY header.
    Malformed(Malformed),
    /// The header was not complete in time.
    TimedOut,
    /// The connection ended within it.
    Ended,
    /// The connection ended before it began, as that of a look whether anybody listens.
    Silent,
    /// The connection broke.
    Broken(io::Error),
}

impl Refused {
    /// The reason that is counted; `None` for what is not.
    pub(crate) fn reason(&self) -> Option<ProxyHeaderFailure> {
        match self {
            Refused::Untrusted => Some(ProxyHeaderFailure::Untrusted),
            Refused::Malformed(_) => Some(ProxyHeaderFailure::Malformed),
            Refused::TimedOut => Some(ProxyHeaderFailure::TimedOut),
            Refused::Ended | Refused::Broken(_) => Some(ProxyHeaderFailure::Ended),
            Refused::Silent => None,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Untrusted => f.write_str("the peer is none of `trusted_proxies`"),
            Refused::Malformed(why) => write!(f, "what came is none: {why}"),
            Refused::TimedOut => f.write_str("it did not come within `header_timeout`"),
            Refused::Ended => f.write_str("the connection ended within it"),
            Refused::Silent => f.write_str("the connection ended without it"),
            Refused::Broken(error) => write!(f, "the connection broke: {error}"),
        }
    }
}

/// Reads the PROXY header of a connection, which says whose the connection is. Only a trusted peer may send one.
///
/// # Errors
/// Why the connection is refused; nothing is read from a peer that is not trusted.
pub(crate) async fn receive(
    socket: &mut Socket,
    is_trusted: bool,
    limit: Duration,
) -> Result<Source, Refused> {
    if !is_trusted {
        return Err(Refused::Untrusted);
    }
    let source = timeout(limit, read(socket)).await;
    source.map_err(|_| Refused::TimedOut)?
}

async fn read(socket: &mut Socket) -> Result<Source, Refused> {
    // Both are gone before the first request: more than an address is kept of nobody.
    let mut header = Vec::new();
    let mut ahead = vec![0; AHEAD];
    loop {
        let n = socket.peek(&mut ahead).await.map_err(Refused::Broken)?;
        let had = header.len();
        match (n, had) {
            (0, 0) => return Err(Refused::Silent),
            (0, _) => return Err(Refused::Ended),
            _ => header.extend_from_slice(&ahead[..n]),
        }
        let found = parse(&header).map_err(Refused::Malformed)?;
        // Of a header that is not complete yet all bytes are its own.
        let own = found.map_or(n, |found| found.len - had);
        let read = socket.read_exact(&mut ahead[..own]).await;
        read.map_err(Refused::Broken)?;
        if let Some(found) = found {
            return Ok(found.source);
        }
    }
}

/// How much is looked at at once, in bytes: more than HAProxy sends without certificates of clients.
const AHEAD: usize = 512;
