//! Plain requests to a server: Pingora's connector with our sockets, and our TLS.
//!
//! The connector asks us for a connection. Without TLS it gets our socket itself, made as those of WebSockets are. With TLS it
//! gets one end of a local pair of sockets; a task carries what goes through to the other end, the server. It is a copy more,
//! which no WebSocket takes, and keeps one way of speaking TLS to servers with one set of settings, and Pingora's reuse of
//! connections: that looks at a real socket.

use crate::tls;
use crate::transport::address::{Address, Tcp};
use crate::transport::exhaustion::Exhaustion;
use crate::transport::socket::Socket;
use crate::transport::source_addresses::Sources;
use crate::upstream::settings::Upstream;
use crate::upstream::{Server, warn_unreachable};
use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::{HttpPeer, Tracer, Tracing};
use pingora::{Error, ErrorType, OrErr, Result};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Has connections to this peer, a server of this upstream, made by us. Unix sockets without TLS are Pingora's.
pub(crate) fn through(peer: &mut HttpPeer, server: &Server, upstream: &Upstream) {
    let (address, name, tls) = (&server.address, server.name.as_deref(), &upstream.tls);
    if matches!(address, Address::Unix(_)) && tls.is_none() {
        return;
    }
    let number = tls.as_ref().map(tls::Connect::number);
    let mut hasher = DefaultHasher::new();
    (address, name, number, upstream.sources.addresses()).hash(&mut hasher);
    peer.group_key = hasher.finish();
    let dropped = Dropped::default();
    if tls.is_some() {
        // Pingora compares the address of a socket that it would use again with this one; any socket is 0.0.0.0. The group
        // tells servers apart.
        peer._address = SocketAddr::Inet((Ipv4Addr::UNSPECIFIED, 443).into());
        peer.options.tracer = Some(Tracer(Box::new(dropped.clone())));
    }
    peer.options.custom_l4 = Some(Arc::new(Tunnel {
        dropped,
        address: address.clone(),
        name: name.map(str::to_owned),
        tls: tls.clone(),
        tcp: upstream.tcp,
        sources: upstream.sources.clone(),
    }));
}

/// Tells the task that carries the bytes when Pingora has dropped its end of the connection. The end of the local stream
/// tells it too, but only where the server takes what lies before it.
#[derive(Clone, Debug, Default)]
struct Dropped(Arc<Notify>);

impl Tracing for Dropped {
    fn on_connected(&self) {}

    fn on_disconnected(&self) {
        self.0.notify_one();
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

#[derive(Debug)]
struct Tunnel {
    dropped: Dropped,
    address: Address,
    name: Option<String>,
    tls: Option<tls::Connect>,
    tcp: Tcp,
    sources: Arc<Sources>,
}

#[async_trait]
impl L4Connect for Tunnel {
    async fn connect(&self, _: &SocketAddr) -> Result<Stream> {
        let (name, tls) = (self.name.as_deref(), self.tls.as_ref());
        let opened = Socket::open(
            &self.address,
            name,
            tls,
            self.tcp,
            &self.sources,
            tls::Offer::Http1,
        )
        .await;
        let mut socket = match opened {
            Ok(Socket::Tcp(stream, _)) => return Ok(stream.into()),
            Ok(socket) => socket,
            Err(error) => {
                if Exhaustion::of(&error).is_none() {
                    warn_unreachable(None, &self.address, &error);
                }
                let kind = match error.kind() {
                    ErrorKind::TimedOut => ErrorType::ConnectTimedout,
                    _ => ErrorType::ConnectError,
                };
                return Err(Error::because(kind, "a connection to the server", error).into_up());
            }
        };
        let (near, mut far) =
            UnixStream::pair().or_err(ErrorType::InternalError, "a pair of sockets")?;
        let dropped = self.dropped.clone();
        tokio::spawn(async move {
            // Pingora never half-closes: once its end is gone nobody waits for the server.
            tokio::select! {
                biased;
                () = dropped.0.notified() => {}
                _ = tokio::io::copy_bidirectional(&mut far, &mut socket) => {}
            }
            // The server may be gone, or take nothing: whether it heard of the end changes nothing.
            let _ = timeout(FAREWELL, socket.shutdown()).await;
        });
        Ok(near.into())
    }
}

/// How long a server may take to read the end of a connection.
const FAREWELL: Duration = Duration::from_secs(1);
