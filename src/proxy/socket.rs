//! A connection to a server, as small as it can be.
//!
//! Pingora's own stream to a server carries its digests, timings and buffers for as long as it lives: 800 bytes that an
//! idle WebSocket has no use for. This one is a socket and nothing else. It is a stream of Pingora's only for the time of
//! the handshake.

use super::settings::Address;
use super::upstream::Server;
use crate::tls;
use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// One of the others inside: a socket without TLS does not pay for one with it.
    Tls(Box<tls::ClientStream<Socket>>),
}

impl Socket {
    /// Connects to a server as its upstream wants it: with TLS, where it does.
    ///
    /// # Errors
    /// Those of the connection, and what TLS has against the server.
    pub async fn open(server: &Server, settings: Option<&tls::Connect>) -> io::Result<Socket> {
        let socket = Socket::connect(&server.address).await?;
        let Some(settings) = settings else {
            return Ok(socket);
        };
        let host = match (&server.name, &server.address) {
            (Some(name), _) | (None, Address::Name(name, _)) => tls::Connect::name(name).ok(),
            (None, Address::Tcp(address)) => Some(address.ip().into()),
            (None, Address::Unix(_)) => None,
        };
        let stream = settings.open(socket, host).await?;
        Ok(Socket::Tls(Box::new(stream)))
    }

    /// Connects; a name is resolved now, and its addresses are tried in turn.
    ///
    /// # Errors
    /// Those of the last address.
    pub async fn connect(address: &Address) -> io::Result<Socket> {
        let stream = match address {
            Address::Unix(path) => return UnixStream::connect(path).await.map(Socket::Unix),
            Address::Tcp(address) => TcpStream::connect(address).await?,
            Address::Name(name, port) => TcpStream::connect((name.as_str(), *port)).await?,
        };
        // Whole frames are written at once; waiting for more to send would only delay them.
        stream.set_nodelay(true)?;
        Ok(Socket::Tcp(stream))
    }
}

/// Does the same with whichever socket it is.
macro_rules! with {
    ($socket:expr, $stream:ident => $do:expr) => {
        match $socket {
            Socket::Tcp($stream) => $do,
            Socket::Unix($stream) => $do,
            Socket::Tls($stream) => $do,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with!(self.get_mut(), stream => Pin::new(&mut *stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        with!(self.get_mut(), stream => Pin::new(&mut *stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with!(self.get_mut(), stream => Pin::new(&mut *stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        with!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self.get_mut(), stream => Pin::new(&mut *stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with!(self.get_mut(), stream => Pin::new(&mut *stream).poll_shutdown(cx))
    }
}

// What Pingora asks of a stream, for the time of the handshake.

#[async_trait]
impl Shutdown for Socket {
    async fn shutdown(&mut self) {
        // The connection is given up: whether the far end heard it changes nothing.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Socket {
    fn id(&self) -> UniqueIDType {
        match self {
            Socket::Tcp(stream) => stream.as_raw_fd(),
            Socket::Unix(stream) => stream.as_raw_fd(),
            Socket::Tls(stream) => stream.io().id(),
        }
    }
}

impl Ssl for Socket {}

impl Peek for Socket {}

impl GetTimingDigest for Socket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Socket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
