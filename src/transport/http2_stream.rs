//! One stream of an HTTP/2 connection as a stream of bytes: a WebSocket, RFC 8441 §5, of a client or to a server.
//!
//! Its bytes are those of the DATA frames. END_STREAM stands for the FIN of TCP, RST_STREAM with CANCEL for the reset. A stream that
//! is not read stops its far end by flow control, and the other streams of its connection go on.

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use pingora::protocols::http::v2::server::HttpSession;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest,
    Ssl, TimingDigest, UniqueID, UniqueIDType,
};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// A stream of HTTP/2 on which a WebSocket was opened: the 200 was sent or received.
///
/// A drop before `shutdown` resets the stream. A drop after `shutdown` keeps the stream for up to [`LINGER`], until the far end ends its
/// side: a reset could overtake data that the far end has not read yet.
pub struct Http2Stream {
    /// `None` in `Drop` alone.
    halves: Option<Halves>,
    /// The rest of the last DATA frame.
    unread: Bytes,
    /// `true`: all received bytes were read. `false`: received bytes may wait in the connection, up to the window of the stream.
    is_read_out: bool,
    /// The last write found no room: the connection holds as many written bytes as it keeps of one stream.
    is_write_blocked: bool,
    is_shut_down: bool,
    /// The far end has ended the stream, or reset it.
    is_ended: bool,
    /// The bytes that may wait in the connection: received ones, and written ones.
    bounds: Bounds,
}

struct Halves {
    reader: Reader,
    sender: SendStream<Bytes>,
    /// Something that lives as long as the stream.
    _guard: Box<dyn Send + Sync>,
}

/// How long a stream whose sending side has ended waits for the other.
const LINGER: Duration = Duration::from_secs(5);

impl Drop for Http2Stream {
    fn drop(&mut self) {
        let (true, false, Some(mut halves)) =
            (self.is_shut_down, self.is_ended, self.halves.take())
        else {
            return;
        };
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let end = poll_fn(|cx| {
                while let Some(Ok(_)) = ready!(halves.reader.poll_data(cx)) {}
                Poll::Ready(())
            });
            // A far end that does not end its side gets the reset.
            let _ = timeout(LINGER, end).await;
        });
    }
}

/// The half of a stream that receives.
enum Reader {
    /// Of a client: Pingora has accepted the stream.
    Session(Box<HttpSession>),
    /// To a server.
    Stream(RecvStream),
}

impl Reader {
    /// The payload of the next DATA frame, `None` at the end. The far end may send as many bytes again.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        match self {
            Reader::Session(session) => session.poll_read_body_bytes(cx),
            Reader::Stream(stream) => {
                let data = ready!(stream.poll_data(cx));
                if let Some(Ok(data)) = &data {
                    stream.flow_control().release_capacity(data.len())?;
                }
                Poll::Ready(data)
            }
        }
    }

    fn digest(&self) -> Option<&Digest> {
        match self {
            Reader::Session(session) => session.digest(),
            Reader::Stream(_) => None,
        }
    }
}

/// The most that the connection keeps of one stream, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes that the far end may send before wsgate reads them.
    pub window: usize,
    /// Bytes that wsgate writes to the stream before the far end has window for them.
    pub send_buffer: usize,
}

impl Http2Stream {
    /// The stream of a client whose response head was written. `None`: it was not.
    pub(crate) fn of_client(
        mut session: HttpSession,
        bounds: Bounds,
        guard: Box<dyn Send + Sync>,
    ) -> Option<Self> {
        let sender = session.take_response_body_writer()?;
        let reader = Reader::Session(Box::new(session));
        Some(Http2Stream::new(reader, sender, bounds, guard))
    }

    /// The stream to a server that has answered.
    pub(crate) fn to_server(
        receiver: RecvStream,
        sender: SendStream<Bytes>,
        bounds: Bounds,
        guard: Box<dyn Send + Sync>,
    ) -> Self {
        Http2Stream::new(Reader::Stream(receiver), sender, bounds, guard)
    }

    fn new(
        reader: Reader,
        sender: SendStream<Bytes>,
        bounds: Bounds,
        guard: Box<dyn Send + Sync>,
    ) -> Self {
        Http2Stream {
            halves: Some(Halves {
                reader,
                sender,
                _guard: guard,
            }),
            unread: Bytes::new(),
            is_read_out: true,
            is_write_blocked: false,
            is_shut_down: false,
            is_ended: false,
            bounds,
        }
    }

    fn digest(&self) -> Option<&Digest> {
        self.halves.as_ref()?.reader.digest()
    }

    /// The most that the stream may keep of what was not passed on, in bytes: what waits within HTTP/2 is not known exactly.
    pub(crate) fn memory(&self) -> usize {
        let received = if self.is_read_out {
            0
        } else {
            self.bounds.window
        };
        let written = if self.is_write_blocked {
            self.bounds.send_buffer
        } else {
            0
        };
        self.unread.len() + received + written
    }
}

impl fmt::Debug for Http2Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Stream")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// A reset of the stream or the end of its connection, as an error of a socket.
fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    } else {
        io::Error::new(io::ErrorKind::ConnectionReset, error)
    }
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(halves) = &mut this.halves else {
            return Poll::Ready(Ok(()));
        };
        // A DATA frame may be empty, or hold nothing but padding, which is no end.
        while this.unread.is_empty() {
            this.is_read_out = false;
            let Poll::Ready(read) = halves.reader.poll_data(cx) else {
                this.is_read_out = true;
                return Poll::Pending;
            };
            match read {
                Some(Ok(bytes)) => this.unread = bytes,
                Some(Err(error)) => {
                    this.is_ended = true;
                    return Poll::Ready(Err(broken(error)));
                }
                None => {
                    this.is_read_out = true;
                    this.is_ended = true;
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let len = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..len]);
        this.unread.advance(len);
        if this.unread.is_empty() {
            // The DATA frame is a part of what was read from the socket, which would be kept with it.
            this.unread = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(Halves { sender, .. }) = this.halves.as_mut().filter(|_| !buf.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        sender.reserve_capacity(buf.len());
        let mut room = sender.capacity();
        while room == 0 {
            this.is_write_blocked = true;
            room = match ready!(sender.poll_capacity(cx)) {
                Some(room) => room.map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        this.is_write_blocked = false;
        let len = room.min(buf.len());
        let data = Bytes::copy_from_slice(&buf[..len]);
        sender.send_data(data, false).map_err(broken)?;
        Poll::Ready(Ok(len))
    }

    /// Nothing waits for it: the connection writes what it has as soon as it can.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(halves) = this.halves.as_mut().filter(|_| !this.is_shut_down) {
            this.is_shut_down = true;
            halves.sender.reserve_capacity(0);
            let ended = halves.sender.send_data(Bytes::new(), true);
            ended.map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Shutdown for Http2Stream {
    async fn shutdown(&mut self) {
        // The stream is given up: whether the far end heard it changes nothing.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Http2Stream {
    fn id(&self) -> UniqueIDType {
        let halves = self.halves.as_ref();
        halves.map_or(0, |halves| halves.sender.stream_id().as_u32()) as UniqueIDType
    }
}

impl Peek for Http2Stream {}

impl GetTimingDigest for Http2Stream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.digest()
            .map_or_else(Vec::new, |digest| digest.timing_digest.clone())
    }
}

impl GetProxyDigest for Http2Stream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.digest()?.proxy_digest.clone()
    }
}

impl GetSocketDigest for Http2Stream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.digest()?.socket_digest.clone()
    }
}

impl Ssl for Http2Stream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.digest()?.ssl_digest.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(ALPN::H2)
    }
}
