//! Plain requests to a server over TLS: Pingora's connector with our TLS.
//!
//! The connector asks us for a connection and gets one end of a local pair of sockets; a task carries what goes through
//! to the other end, the server. It is a copy more, which no WebSocket takes, and keeps one way of speaking TLS to
//! servers with one set of settings, and Pingora's reuse of connections: that looks at a real socket.

use super::settings::{Address, Tcp};
use super::shortage::Shortage;
use super::socket::Socket;
use crate::tls;
use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::{HttpPeer, Tracer, Tracing};
use pingora::{Error, ErrorType, OrErr, Result};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Has connections to this peer, a server at this address and of this name, made by TLS.
pub(super) fn through(
    peer: &mut HttpPeer,
    address: &Address,
    name: Option<&str>,
    settings: &tls::Connect,
    tcp: Tcp,
) {
    let mut hasher = DefaultHasher::new();
    (address, name, settings.number()).hash(&mut hasher);
    peer.group_key = hasher.finish();
    // Pingora compares the address of a socket that it would use again with this one; any socket is 0.0.0.0. The group
    // tells servers apart.
    peer._address = SocketAddr::Inet((Ipv4Addr::UNSPECIFIED, 443).into());
    let dropped = Dropped::default();
    peer.options.tracer = Some(Tracer(Box::new(dropped.clone())));
    peer.options.custom_l4 = Some(Arc::new(Tunnel {
        dropped,
        address: address.clone(),
        name: name.map(str::to_owned),
        settings: settings.clone(),
        tcp,
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
    settings: tls::Connect,
    tcp: Tcp,
}

#[async_trait]
impl L4Connect for Tunnel {
    async fn connect(&self, _: &SocketAddr) -> Result<Stream> {
        let (name, tls) = (self.name.as_deref(), Some(&self.settings));
        let opened = Socket::open(&self.address, name, tls, self.tcp).await;
        let mut socket = match opened {
            Ok(socket) => socket,
            Err(error) => {
                if Shortage::of(&error).is_none() {
                    tracing::warn!(server = %self.address, %error, "server cannot be reached");
                }
                let sentence = "TLS to the server";
                return Err(Error::because(ErrorType::ConnectError, sentence, error).into_up());
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
