//! A connection, of a client or to a server, as small as it can be.
//!
//! Pingora's own stream carries its digests, timings and buffers for as long as it lives: 800 bytes that an idle WebSocket
//! has no use for, and a look at the clock for each read and write. This one is a socket and the address of its peer. It is
//! a stream of Pingora's only for the time of the handshake.

use crate::tls;
use crate::transport::address::{Address, Tcp};
use crate::transport::exhaustion::Exhaustion;
use crate::transport::http2_stream::Http2Stream;
use crate::transport::proxy_protocol::Source;
use crate::transport::source_addresses::Sources;
use async_trait::async_trait;
use bytes::BytesMut;
#[cfg(target_os = "linux")]
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use rustix::net::{RecvFlags, recv, sockopt};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// With the address of the peer, which is not to be had any more once the peer has reset the connection.
    Tcp(TcpStream, SocketAddr),
    /// A Unix socket. The address is that of the client for which a proxy speaks; a peer itself has none.
    Unix(UnixStream, Option<SocketAddr>),
    /// One of the others inside: a socket without TLS does not pay for one with it.
    Tls(Box<tls::ClientStream<Socket>>),
    /// One of the others inside, of which this much was read; it is read again first.
    Rewound(BytesMut, Box<Socket>),
    /// A stream of a connection of HTTP/2, on which a WebSocket was opened.
    Http2(Box<Http2Stream>),
    /// One of a client without an address: a PROXY protocol header said [`Unnamed`] of it. Boxed, as these are few.
    Unnamed(Unnamed, Box<Socket>),
}

/// A PROXY protocol header that does not name the client's address. No forwarded header on such a connection is believed:
/// the peer's address is the proxy's, but the requests may be written by its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unnamed {
    /// The client has no address that the proxy knows.
    Unknown,
    /// The proxy itself is the client.
    Proxy,
}

impl Socket {
    /// Connects to a server, with TLS if its upstream has TLS settings. `name` is the host name by which its address was
    /// configured.
    ///
    /// # Errors
    /// Errors of the connect, of the TLS handshake and of the verification of the server.
    pub async fn open(
        address: &Address,
        name: Option<&str>,
        settings: Option<&tls::Connect>,
        tcp: Tcp,
        sources: &Sources,
        offer: tls::Offer,
    ) -> io::Result<Socket> {
        let socket = Socket::connect(address, tcp, sources).await?;
        let Some(settings) = settings else {
            return Ok(socket);
        };
        let host = match (name, address) {
            (Some(name), _) => tls::Connect::name(name).ok(),
            (None, Address::Name(name, _)) => tls::Connect::name(name).ok(),
            (None, Address::Tcp(address)) => Some(address.ip().into()),
            (None, Address::Unix(_)) => None,
        };
        let stream = Box::pin(settings.open(socket, host, offer)).await?;
        Ok(Socket::Tls(Box::new(stream)))
    }

    /// Connects, from one of these addresses; a name is resolved now, and its addresses are tried in turn.
    ///
    /// # Errors
    /// The error of the last address that was tried.
    pub async fn connect(address: &Address, tcp: Tcp, sources: &Sources) -> io::Result<Socket> {
        match address {
            Address::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?, None)),
            Address::Tcp(address) => Socket::connect_tcp(*address, tcp, sources).await,
            Address::Name(name, port) => {
                let mut failed = io::Error::from(io::ErrorKind::NotFound);
                for address in Box::pin(lookup_host((name.as_str(), *port))).await? {
                    match Box::pin(Socket::connect_tcp(address, tcp, sources)).await {
                        Ok(socket) => return Ok(socket),
                        Err(error) => failed = error,
                    }
                }
                Err(failed)
            }
        }
    }

    /// Connects from the first of the addresses that has a port left.
    async fn connect_tcp(address: SocketAddr, tcp: Tcp, sources: &Sources) -> io::Result<Socket> {
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for source in sources.of(address) {
            let socket = match prepare(address, tcp, source) {
                Ok(socket) => socket,
                Err(error) => match Exhaustion::of(&error) {
                    // The others serve meanwhile; an operator is to know.
                    Some(Exhaustion::Source) => {
                        Exhaustion::Source.say(&error);
                        failed = error;
                        continue;
                    }
                    Some(Exhaustion::LocalPorts) => {
                        failed = error;
                        continue;
                    }
                    Some(Exhaustion::Descriptors | Exhaustion::Memory) | None => return Err(error),
                },
            };
            let error = match socket.connect(address).await {
                Ok(stream) => return Ok(Socket::Tcp(stream, address)),
                Err(error) => Exhaustion::of_connect(error, source, address),
            };
            if Exhaustion::of(&error) != Some(Exhaustion::LocalPorts) {
                return Err(error);
            }
            failed = error;
        }
        Err(failed)
    }

    /// Sets the options for keep-alive and time-outs that differ from `had`. Unix sockets have none.
    ///
    /// # Errors
    /// The errors of the socket options.
    pub(crate) fn apply(&self, tcp: Tcp, had: Tcp) -> io::Result<()> {
        match self {
            Socket::Tcp(stream, _) => tcp.apply(stream, had),
            Socket::Unix(..) | Socket::Http2(_) => Ok(()),
            Socket::Tls(stream) => stream.io().apply(tcp, had),
            Socket::Rewound(_, socket) | Socket::Unnamed(_, socket) => socket.apply(tcp, had),
        }
    }

    /// The address of the peer, or of the client for which a proxy speaks.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Socket::Tcp(_, peer) => Some(*peer),
            Socket::Unix(_, peer) => *peer,
            Socket::Http2(_) => None,
            Socket::Tls(stream) => stream.io().peer(),
            Socket::Rewound(_, socket) | Socket::Unnamed(_, socket) => socket.peer(),
        }
    }

    /// HTTP/2 was agreed by ALPN; `None`: nothing is encrypted, so nothing was agreed.
    pub(crate) fn agreed_http2(&self) -> Option<bool> {
        match self {
            Socket::Tls(stream) => Some(stream.end().alpn_protocol() == Some(b"h2")),
            _ => None,
        }
    }

    /// The connection with the client address of a PROXY protocol header.
    pub(crate) fn introduced(self, source: Source) -> Socket {
        match (source, self) {
            (Source::Address(client), Socket::Tcp(stream, _)) => Socket::Tcp(stream, client),
            (Source::Address(client), Socket::Unix(stream, _)) => {
                Socket::Unix(stream, Some(client))
            }
            // To servers.
            (Source::Address(_), socket) => socket,
            (Source::Unknown, socket) => Socket::Unnamed(Unnamed::Unknown, Box::new(socket)),
            (Source::Local, socket) => Socket::Unnamed(Unnamed::Proxy, Box::new(socket)),
        }
    }

    /// Waits for bytes and copies as many as fit; the bytes stay to be read. Returns 0 at the end of the stream.
    ///
    /// # Errors
    /// The errors of the socket. Streams that are encrypted or rewound cannot be peeked at.
    pub(crate) async fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream, _) => stream.peek(into).await,
            Socket::Unix(stream, _) => {
                let peek = || Ok(recv(stream, &mut *into, RecvFlags::PEEK)?.1);
                stream.async_io(Interest::READABLE, peek).await
            }
            Socket::Tls(_) | Socket::Rewound(..) | Socket::Unnamed(..) | Socket::Http2(_) => {
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }
}

/// A socket for a connection to this address.
fn prepare(address: SocketAddr, tcp: Tcp, source: Option<IpAddr>) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Whole frames are written at once; waiting for more to send would only delay them.
    socket.set_nodelay(true)?;
    // The request goes out at once and acknowledges the connection: that it is acknowledged before is a packet more.
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_quickack(&socket, false)?;
    tcp.apply(&socket, Tcp::OFF)?;
    if let Some(source) = source {
        // ip(7): the port is chosen by connect(2), which knows the server: one that is in use toward another server is free.
        #[cfg(target_os = "linux")]
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        let bound = socket.bind((source, 0).into());
        bound.map_err(|error| Exhaustion::of_bind(error, source))?;
    }
    Ok(socket)
}

impl Tcp {
    /// Sets the options (tcp(7)) that differ from `had`. Accepted sockets inherit the options of their listening socket.
    ///
    /// # Errors
    /// The errors of the socket options.
    pub(crate) fn apply(self, socket: impl AsFd, had: Tcp) -> io::Result<()> {
        let socket = socket.as_fd();
        if self.keepalive != had.keepalive {
            if !self.keepalive.is_zero() {
                // Whole seconds, rounded up.
                sockopt::set_tcp_keepidle(socket, self.keepalive)?;
                sockopt::set_tcp_keepintvl(socket, self.keepalive / Tcp::PROBES)?;
                sockopt::set_tcp_keepcnt(socket, Tcp::PROBES)?;
            }
            sockopt::set_socket_keepalive(socket, !self.keepalive.is_zero())?;
        }
        if self.user_timeout != had.user_timeout {
            let milliseconds = u32::try_from(self.user_timeout.as_millis()).unwrap_or(u32::MAX);
            sockopt::set_tcp_user_timeout(socket, milliseconds)?;
        }
        Ok(())
    }
}

/// Does the same with whichever socket it is.
macro_rules! with {
    ($socket:expr, $stream:ident => $do:expr) => {
        match $socket {
            Socket::Tcp($stream, _) => $do,
            Socket::Unix($stream, _) => $do,
            Socket::Tls($stream) => $do,
            Socket::Http2($stream) => $do,
            Socket::Rewound(_, $stream) | Socket::Unnamed(_, $stream) => $do,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Rewound(again, _) if !again.is_empty() => {
                let fits = again.len().min(buf.remaining());
                buf.put_slice(&again.split_to(fits));
                Poll::Ready(Ok(()))
            }
            socket => with!(socket, stream => Pin::new(&mut *stream).poll_read(cx, buf)),
        }
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

// Pingora's traits of a stream, which it uses for the time of the handshake.

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
            Socket::Tcp(stream, _) => stream.as_raw_fd(),
            Socket::Unix(stream, _) => stream.as_raw_fd(),
            Socket::Tls(stream) => stream.io().id(),
            Socket::Http2(stream) => stream.id(),
            Socket::Rewound(_, socket) | Socket::Unnamed(_, socket) => socket.id(),
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
    /// Carries what a PROXY protocol header said, which Pingora has no other place for.
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        let Socket::Unnamed(unnamed, _) = self else {
            return None;
        };
        let answer = ResponseHeader::build(200, None).ok()?;
        let digest = ProxyDigest::new(Box::new(answer), Some(Box::new(*unnamed)));
        Some(Arc::new(digest))
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        if let Socket::Http2(_) = self {
            return None;
        }
        let digest = SocketDigest::from_raw_fd(self.id());
        // Nobody else has it yet.
        let _ = digest.peer_addr.set(self.peer().map(Into::into));
        Some(Arc::new(digest))
    }
}
