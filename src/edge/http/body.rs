//! A client's connection from which exactly one request can be read.
//!
//! Pingora keeps what it reads behind a request where nobody else gets it: a client that sends its next request early would
//! lose its connection, or even the answer that is under way. Here a session of Pingora's is given the bytes of its request
//! alone, and what comes behind them is the beginning of the next one, whose head wsgate reads itself.
//!
//! Where the request ends is decided twice, here and by Pingora. If both do not agree, the connection is not used again:
//! no byte that Pingora took for a body is ever read as a request, and the other way round.

use crate::edge::http::lingering;
use crate::transport::delegate::{delegate_identity, delegate_tls};
use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::protocols::{Shutdown, Stream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// How the body of a request is framed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// This number of bytes is still to come.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked(Chunks),
}

/// A connection from which the body of one request can be read, and no more.
#[derive(Debug)]
pub(crate) struct Framed {
    stream: Stream,
    /// Bytes that came behind the head and were not read from here yet; after the end of the body, the beginning of the next
    /// request.
    behind: BytesMut,
    body: Body,
    /// The sending side is shut down, and the client may still send.
    unread: Option<lingering::Unread>,
}

/// How much of the next request is read before its turn comes, in bytes, just to see whether the client is still there.
const AHEAD: usize = 512;

impl Framed {
    /// `behind` came behind the head of the request.
    pub(crate) fn new(stream: Stream, behind: BytesMut, body: Body) -> Self {
        Framed {
            stream,
            behind,
            body,
            unread: None,
        }
    }

    /// The connection after its request, with the beginning of the next one. `None` where the request was not read to its
    /// end: then nobody knows where the next one begins.
    pub(crate) fn after(stream: Stream) -> Option<(Stream, BytesMut)> {
        let framed = stream.into_any().downcast::<Framed>().ok()?;
        if !framed.body.is_over() {
            return None;
        }
        // An idle connection does not keep the buffer of its last request.
        let begun = match framed.behind.is_empty() {
            true => BytesMut::new(),
            false => framed.behind,
        };
        Some((framed.stream, begun))
    }

    /// The body is over: waits for the end of the connection, with which an unfinished answer is useless.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.behind.is_empty() {
            // Its turn comes; until then nothing more is read, so that a client cannot have us keep more.
            return Poll::Pending;
        }
        let mut ahead = [0; AHEAD];
        let mut ahead = ReadBuf::new(&mut ahead);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut ahead))?;
        if ahead.filled().is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.behind.extend_from_slice(ahead.filled());
        Poll::Pending
    }
}

impl AsyncRead for Framed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.body.is_over() {
            return this.poll_end(cx);
        }
        if !this.behind.is_empty() {
            let most = this.behind.len().min(buf.remaining());
            let own = this.body.take(&this.behind[..most]);
            buf.put_slice(&this.behind[..own]);
            this.behind.advance(own);
            return Poll::Ready(Ok(()));
        }
        let most = match this.body {
            // The bytes behind the body stay in the socket.
            Body::Length(left) => usize::try_from(left).unwrap_or(usize::MAX),
            Body::Chunked(_) => usize::MAX,
        };
        let most = most.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        let came = part.filled();
        let own = this.body.take(came);
        this.behind.extend_from_slice(&came[own..]);
        buf.advance(own);
        Poll::Ready(Ok(()))
    }
}

impl Body {
    /// Whether all of it was taken.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Body::Length(left) => *left == 0,
            Body::Chunked(chunks) => *chunks == Chunks::End,
        }
    }

    /// How many of these bytes, the next ones of the connection, belong to the body.
    fn take(&mut self, bytes: &[u8]) -> usize {
        match self {
            Body::Length(left) => {
                let own = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= own as u64;
                own
            }
            Body::Chunked(chunks) => chunks.take(bytes),
        }
    }
}

/// Where in a chunked body (RFC 9112 §7.1) a connection is. Strict: of what is doubtful all is body, so that nothing
/// behind it becomes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunks {
    /// In a size, of which so much was read; `None`: not one digit.
    Size(Option<u64>),
    /// In the extensions behind a size.
    Extension(u64),
    /// Behind the CR of a line with a size.
    SizeEnd(u64),
    /// This number of bytes of data is still to come.
    Data(u64),
    /// Behind the data: CR, LF.
    DataEnd,
    DataLineEnd,
    /// At the beginning of a line of the trailers.
    Trailer,
    /// Within one.
    TrailerLine,
    /// Behind the CR of a line; of the empty one that ends the body, if it is that.
    TrailerEnd {
        last: bool,
    },
    /// The body is over.
    End,
    /// The body is malformed, and never ends.
    Malformed,
}

impl Chunks {
    /// Before the first chunk.
    pub(crate) const START: Chunks = Chunks::Size(None);

    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && *self != Chunks::End {
            if let Chunks::Data(left) = *self {
                let data = bytes.len() - at;
                let data = usize::try_from(left).map_or(data, |left| left.min(data));
                at += data;
                *self = match left - data as u64 {
                    0 => Chunks::DataEnd,
                    left => Chunks::Data(left),
                };
                continue;
            }
            *self = self.next(bytes[at]);
            at += 1;
        }
        at
    }

    fn next(self, byte: u8) -> Chunks {
        match (self, byte) {
            (Chunks::Size(size), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let size = size.unwrap_or_default().checked_mul(16);
                match size.map(|size| size | u64::from(digit)) {
                    Some(size) => Chunks::Size(Some(size)),
                    None => Chunks::Malformed,
                }
            }
            (Chunks::Size(Some(size)), b';' | b' ' | b'\t') => Chunks::Extension(size),
            (Chunks::Size(Some(size)) | Chunks::Extension(size), b'\r') => Chunks::SizeEnd(size),
            (Chunks::Extension(size), byte) if byte != b'\n' => Chunks::Extension(size),
            (Chunks::SizeEnd(0), b'\n') => Chunks::Trailer,
            (Chunks::SizeEnd(size), b'\n') => Chunks::Data(size),
            (Chunks::DataEnd, b'\r') => Chunks::DataLineEnd,
            (Chunks::DataLineEnd, b'\n') => Chunks::START,
            (Chunks::Trailer, b'\r') => Chunks::TrailerEnd { last: true },
            (Chunks::TrailerLine, b'\r') => Chunks::TrailerEnd { last: false },
            (Chunks::Trailer | Chunks::TrailerLine, byte) if byte != b'\n' => Chunks::TrailerLine,
            (Chunks::TrailerEnd { last: true }, b'\n') => Chunks::End,
            (Chunks::TrailerEnd { last: false }, b'\n') => Chunks::Trailer,
            _ => Chunks::Malformed,
        }
    }
}

impl AsyncWrite for Framed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    /// Also reads what the client still sends, if its request was not read to the end: all ways of Pingora to give up a
    /// connection come here, and end the socket next.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unread.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if this.body.is_over() && this.behind.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        let unread = this.unread.get_or_insert_default();
        unread.poll_read_out(&mut this.stream, cx).map(Ok)
    }
}

#[async_trait]
impl Shutdown for Framed {
    async fn shutdown(&mut self) {
        // The connection is given up: whether the far end heard it changes nothing.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

delegate_identity!(Framed, this => this.stream);
delegate_tls!(Framed, this => this.stream);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, duplex};

    const CHUNKED: Body = Body::Chunked(Chunks::START);

    #[test]
    fn a_body_ends_where_it_says() {
        for (body, bytes, own) in [
            (Body::Length(0), &b"GET"[..], Some(0)),
            (Body::Length(3), b"abcGET", Some(3)),
            (Body::Length(7), b"abc", None),
            (CHUNKED, b"0\r\n\r\nGET", Some(5)),
            (CHUNKED, b"3\r\nabc\r\n0\r\n\r\nGET", Some(13)),
            (
                CHUNKED,
                b"3;a=\"b\"\r\n\r\n0\r\n0 \r\nA: b\r\nC: d\r\n\r\nGET",
                Some(32),
            ),
            (
                CHUNKED,
                b"0000A\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\n\r\nGET",
                Some(24),
            ),
            // Never over: what follows does not become a request.
            (CHUNKED, b"\r\n0\r\n\r\nGET", None),
            (CHUNKED, b"3\nabc\n0\n\nGET", None),
            (CHUNKED, b"3\r\nabcd\r\n0\r\n\r\nGET", None),
            (CHUNKED, b"0x3\r\nabc\r\n0\r\n\r\nGET", None),
            (CHUNKED, b"-1\r\n\r\n0\r\n\r\nGET", None),
            (CHUNKED, b"1ffffffffffffffff\r\na\r\n0\r\n\r\nGET", None),
            (CHUNKED, b"0\r\n\nGET", None),
            (CHUNKED, b"0;a\n\r\n\r\nGET", None),
        ] {
            let mut whole = body;
            let taken = whole.take(bytes);
            let found = whole.is_over().then_some(taken);
            assert_eq!(found, own, "{}", bytes.escape_ascii());
            // Byte by byte it is the same.
            let mut piecewise = body;
            let taken: usize = bytes.iter().map(|byte| piecewise.take(&[*byte])).sum();
            let found = piecewise.is_over().then_some(taken);
            assert_eq!(found, own, "{} byte by byte", bytes.escape_ascii());
        }
    }

    #[tokio::test]
    async fn what_is_behind_a_body_is_not_read() {
        for (body, sent) in [
            (Body::Length(5), &b"helloGET / HTTP/1.1\r\n"[..]),
            (CHUNKED, b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n"),
        ] {
            let body_len = sent.len() - b"GET / HTTP/1.1\r\n".len();
            for cut in 0..=sent.len() {
                let (mut far, near) = duplex(1 << 10);
                let behind = BytesMut::from(&sent[..cut]);
                let mut framed = Framed::new(Box::new(near), behind, body);
                far.write_all(&sent[cut..]).await.unwrap();
                let mut got = vec![0; body_len];
                framed.read_exact(&mut got).await.unwrap();
                assert_eq!(got, sent[..body_len]);
                // Neither the next request nor the end of the connection is read while that request waits.
                let mut more = [0; 100];
                let read = tokio::time::timeout(
                    std::time::Duration::from_millis(1),
                    framed.read(&mut more),
                );
                assert!(read.await.is_err(), "read behind the body, cut at {cut}");
                let (mut stream, mut rest) = Framed::after(Box::new(framed)).unwrap();
                drop(far);
                stream.read_buf(&mut rest).await.unwrap();
                assert_eq!(rest, sent[body_len..], "cut at {cut}");
            }
        }
    }

    #[tokio::test]
    async fn the_end_of_the_connection_is_seen_behind_the_body() {
        let (far, near) = duplex(1 << 10);
        let mut framed = Framed::new(Box::new(near), BytesMut::new(), Body::Length(0));
        drop(far);
        assert_eq!(framed.read(&mut [0; 10]).await.unwrap(), 0);
    }

    #[test]
    fn an_unfinished_request_is_the_last() {
        let (_far, near) = duplex(1);
        let framed = Framed::new(Box::new(near), BytesMut::new(), Body::Length(1));
        assert!(Framed::after(Box::new(framed)).is_none());
    }
}
