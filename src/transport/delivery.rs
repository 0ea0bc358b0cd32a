//! The delivery of a connection's data, as the kernel knows it: how much has arrived, and how the last bytes leave.

use crate::transport::http2_stream::Http2Stream;
use crate::transport::socket::Socket;
use crate::transport::tls_stream::Secured;
use pingora::protocols::{SocketDigest, Stream};
use rustix::net::sockopt;
use std::os::fd::AsRawFd;

/// A stream that knows how many of its bytes have arrived, and can send its last bytes together with its end.
pub trait Delivery {
    /// How many bytes the far end has acknowledged since the stream began, where that is known.
    fn delivered(&self) -> Option<u64>;

    /// Memory that it owns to keep what it has not passed on, in bytes.
    fn memory(&self) -> usize;

    /// The next write is the last of the stream, and the end of the stream follows at once: both may travel in one packet.
    fn finish_with_next(&self);
}

impl Delivery for Stream {
    fn delivered(&self) -> Option<u64> {
        if (**self).as_any().is::<Http2Stream>() {
            // The acknowledgements are those of all streams of the connection.
            return None;
        }
        acknowledged(&*self.get_socket_digest()?)
    }

    fn memory(&self) -> usize {
        let stream = (**self).as_any();
        if let Some(secured) = stream.downcast_ref::<Secured>() {
            secured.memory()
        } else {
            let stream = stream.downcast_ref::<Http2Stream>();
            stream.map_or(0, Http2Stream::memory)
        }
    }

    fn finish_with_next(&self) {
        let stream = (**self).as_any();
        if let Some(socket) = stream.downcast_ref::<Socket>() {
            socket.finish_with_next();
        } else if let Some(secured) = stream.downcast_ref::<Secured>() {
            secured.io().finish_with_next();
        }
    }
}

impl Delivery for Socket {
    fn delivered(&self) -> Option<u64> {
        match self {
            Socket::Tcp(stream, _) => acknowledged(&SocketDigest::from_raw_fd(stream.as_raw_fd())),
            // Bytes that a Unix socket has taken are in the reader's own queue.
            Socket::Unix(..) => None,
            // Acknowledged is what the connection sent, which is that of many streams.
            Socket::Http2(_) => None,
            Socket::Tls(stream) => stream.io().delivered(),
            Socket::Rewound(_, socket) | Socket::Unnamed(_, socket) => socket.delivered(),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Socket::Tcp(..) | Socket::Unix(..) => 0,
            Socket::Tls(stream) => stream.memory(),
            Socket::Http2(stream) => stream.memory(),
            Socket::Rewound(again, socket) => again.len() + socket.memory(),
            Socket::Unnamed(_, socket) => socket.memory(),
        }
    }

    fn finish_with_next(&self) {
        match self {
            // Without it they are two packets, which is no error.
            Socket::Tcp(stream, _) => drop(sockopt::set_tcp_cork(stream, true)),
            Socket::Unix(..) | Socket::Http2(_) => {}
            Socket::Tls(stream) => stream.io().finish_with_next(),
            Socket::Rewound(_, socket) | Socket::Unnamed(_, socket) => socket.finish_with_next(),
        }
    }
}

/// In bytes since the connection was made, encrypted where it is; `None` where it is not TCP, or not on Linux.
fn acknowledged(socket: &SocketDigest) -> Option<u64> {
    let acknowledged = socket.tcp_info()?.tcpi_bytes_acked;
    cfg!(target_os = "linux").then_some(acknowledged)
}
