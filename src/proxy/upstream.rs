//! The servers of an upstream at run time: whose turn it is, and how one is reached.

use super::settings::{Address, Upstream};
use super::socket::Socket;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::{Error, ErrorType, OrErr, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::timeout;

/// A named pool of servers.
pub struct Pool {
    /// As it was configured.
    pub settings: Upstream,
    turn: AtomicUsize,
}

/// No server of a pool could be reached.
#[derive(Debug)]
pub(super) struct Unreachable {
    /// The last one failed by time-out.
    pub timed_out: bool,
}

impl Pool {
    /// The pool of these servers, the first of which is the first to be used.
    pub fn new(settings: Upstream) -> Self {
        Pool {
            settings,
            turn: AtomicUsize::new(0),
        }
    }

    /// All servers once, by index, each call beginning with the next one (round robin).
    pub(super) fn candidates(&self) -> impl Iterator<Item = usize> + use<> {
        let count = self.settings.servers.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1);
        (first..count).chain(0..first)
    }

    /// A connection to the first candidate that takes one, and its index.
    pub(super) async fn connect(&self) -> Result<(Socket, usize), Unreachable> {
        let mut unreachable = Unreachable { timed_out: false };
        let upstream = self.settings.name.as_str();
        for index in self.candidates() {
            let server = &self.settings.servers[index];
            match timeout(self.settings.connect_timeout, Socket::connect(server)).await {
                Ok(Ok(socket)) => return Ok((socket, index)),
                Ok(Err(error)) => {
                    tracing::warn!(upstream, %server, %error, "server cannot be reached");
                    unreachable.timed_out = false;
                }
                Err(_) => {
                    let after = self.settings.connect_timeout;
                    tracing::warn!(upstream, %server, ?after, "server cannot be reached in time");
                    unreachable.timed_out = true;
                }
            }
        }
        Err(unreachable)
    }

    /// The server as Pingora's connectors know it; a name is resolved now.
    pub(super) async fn peer(&self, address: &Address) -> Result<HttpPeer> {
        let mut peer = match address {
            Address::Tcp(address) => HttpPeer::new(address, false, String::new()),
            Address::Name(name, port) => {
                let resolved = tokio::net::lookup_host((name.as_str(), *port)).await;
                let address = resolved
                    .or_err(ErrorType::ConnectError, "the name does not resolve")?
                    .next();
                let none = || Error::explain(ErrorType::ConnectError, "the name has no address");
                HttpPeer::new(address.ok_or_else(none)?, false, String::new())
            }
            Address::Unix(path) => {
                HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())?
            }
        };
        peer.options.connection_timeout = Some(self.settings.connect_timeout);
        peer.options.total_connection_timeout = Some(self.settings.connect_timeout);
        peer.options.read_timeout = Some(self.settings.read_timeout);
        // Only WebSockets are upgraded here, and those do not take Pingora's path.
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        Ok(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_begins_with_the_next_server_and_has_them_all() {
        let servers: Vec<Address> = (1..=3)
            .map(|port| Address::Name("a".into(), port))
            .collect();
        let pool = Pool::new(Upstream::new("a", servers.clone()));
        for turn in 0..7 {
            let order: Vec<_> = pool
                .candidates()
                .map(|index| servers[index].clone())
                .collect();
            let expected: Vec<_> = servers
                .iter()
                .cycle()
                .skip(turn % 3)
                .take(3)
                .cloned()
                .collect();
            assert_eq!(order, expected);
        }
    }
}
