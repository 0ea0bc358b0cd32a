//! The accept loop of one listening socket.
//!
//! Pingora's own wraps each connection in a stream with digests, timings and buffers that lives as long as the connection:
//! 800 bytes that an idle WebSocket has no use for, and a look at the clock for each read and write. Here a connection is a
//! socket and the address of its peer. What is done with it is Pingora's again.

use crate::metrics::Metrics;
use crate::transport::address::Address;
use crate::transport::exhaustion::Exhaustion;
use crate::transport::socket::Socket;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};

/// How long it waits where the system has no descriptor, or no memory, for another connection.
const PAUSE: Duration = Duration::from_millis(50);

/// A socket that connections are accepted on.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Registers a bound socket with the runtime that this is called in.
    pub(super) fn new(address: &Address, socket: OwnedFd) -> io::Result<Acceptor> {
        match address {
            Address::Unix(_) => UnixListener::from_std(socket.into()).map(Acceptor::Unix),
            Address::Tcp(_) | Address::Name(..) => {
                TcpListener::from_std(socket.into()).map(Acceptor::Tcp)
            }
        }
    }

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Acceptor::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Socket::Tcp(stream, peer))
            }
            Acceptor::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Socket::Unix(stream, None))
            }
        }
    }

    /// Accepts until it is told to stop. The connections go on after that.
    pub(super) async fn run<A: ServerApp + Send + Sync + 'static>(
        self,
        address: Address,
        app: Arc<A>,
        metrics: Arc<Metrics>,
        stop: ShutdownWatch,
    ) {
        let mut stopping = stop.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            let error = match accepted {
                Ok(socket) => {
                    let (app, stop) = (app.clone(), stop.clone());
                    tokio::spawn(async move {
                        let mut next: Option<Stream> = Some(Box::new(socket));
                        while let Some(stream) = next {
                            next = app.process_new(stream, &stop).await;
                        }
                    });
                    continue;
                }
                Err(error) => error,
            };
            let Some(shortage) = Exhaustion::of(&error) else {
                // accept(2) tells of errors that are those of the one connection, which is gone.
                tracing::debug!(%address, %error, "a connection was gone before it was accepted");
                continue;
            };
            shortage.report(&metrics, &error);
            // The error comes again at once for as long as it is so.
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }
}
