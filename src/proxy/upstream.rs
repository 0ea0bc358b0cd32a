//! The servers of an upstream at run time: whose turn it is, and how one is reached.

use super::settings::{Address, Upstream};
use super::socket::Socket;
use crate::metrics::Metrics;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::{Error, ErrorType, OrErr, Result};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

/// A named pool of servers.
pub struct Pool {
    /// As it was configured.
    pub settings: Upstream,
    /// Its number, by which drains know it.
    pub index: u32,
    turn: AtomicUsize,
    /// By server: it is being drained, or was, and takes no new connection.
    out: Vec<AtomicBool>,
    /// A server takes connections again.
    resumed: Notify,
}

/// No server of a pool could be reached.
#[derive(Debug)]
pub(super) struct Unreachable {
    /// The last one failed by time-out.
    pub timed_out: bool,
    /// None was tried: all are drained.
    pub drained: bool,
}

impl Pool {
    /// The pool of these servers, the first of which is the first to be used.
    pub fn new(settings: Upstream, index: u32) -> Self {
        let out = settings
            .servers
            .iter()
            .map(|_| AtomicBool::new(false))
            .collect();
        Pool {
            settings,
            index,
            turn: AtomicUsize::new(0),
            out,
            resumed: Notify::new(),
        }
    }

    /// Takes a server out, or lets it in again: who is connected stays, nobody new gets there.
    pub fn set_out(&self, server: usize, out: bool) {
        if let Some(state) = self.out.get(server) {
            state.store(out, Ordering::Relaxed);
        }
        if !out {
            self.resumed.notify_waiters();
        }
    }

    /// Whether a server takes no new connections.
    pub fn is_out(&self, server: usize) -> bool {
        self.out
            .get(server)
            .is_some_and(|out| out.load(Ordering::Relaxed))
    }

    /// All servers that take connections, once, by index, each call beginning with the next one (round robin).
    pub(super) fn candidates(&self) -> impl Iterator<Item = usize> + use<'_> {
        let count = self.settings.servers.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1);
        (first..count)
            .chain(0..first)
            .filter(|server| !self.is_out(*server))
    }

    /// A connection to the first candidate that takes one, and its index. Where all are drained, it waits for one.
    pub(super) async fn connect(&self, metrics: &Metrics) -> Result<(Socket, usize), Unreachable> {
        let deadline = Instant::now() + self.settings.hold;
        let mut held = None;
        loop {
            let resumed = self.resumed.notified();
            match self.connect_now().await {
                Err(Unreachable { drained: true, .. }) => {
                    held.get_or_insert_with(|| metrics.hold());
                    if timeout_at(deadline, resumed).await.is_err() {
                        return Err(Unreachable {
                            timed_out: false,
                            drained: true,
                        });
                    }
                }
                result => return result,
            }
        }
    }

    async fn connect_now(&self) -> Result<(Socket, usize), Unreachable> {
        let mut unreachable = Unreachable {
            timed_out: false,
            drained: true,
        };
        let upstream = self.settings.name.as_str();
        for index in self.candidates() {
            let server = &self.settings.servers[index];
            unreachable.drained = false;
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
        let pool = Pool::new(Upstream::new("a", servers.clone()), 0);
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

    #[test]
    fn a_server_that_is_out_has_no_turn() {
        let servers: Vec<Address> = (1..=3)
            .map(|port| Address::Name("a".into(), port))
            .collect();
        let pool = Pool::new(Upstream::new("a", servers), 0);
        pool.set_out(1, true);
        for _ in 0..6 {
            let order: Vec<_> = pool.candidates().collect();
            assert!(order == [0, 2] || order == [2, 0], "{order:?}");
        }
        pool.set_out(1, false);
        assert_eq!(pool.candidates().count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_out_an_upgrade_waits_for_one() {
        let pool = Pool::new(
            Upstream::new("a", vec![Address::Unix("/nonexistent".into())]),
            0,
        );
        pool.set_out(0, true);
        let metrics = Metrics::new();
        let held = Instant::now();
        let unreachable = pool.connect(&metrics).await.expect_err("it is out");
        assert!(unreachable.drained);
        assert_eq!(held.elapsed(), pool.settings.hold);
        let (unreachable, ()) = tokio::join!(pool.connect(&metrics), async {
            tokio::time::sleep(pool.settings.hold / 2).await;
            pool.set_out(0, false);
        });
        assert!(
            !unreachable.expect_err("nobody listens there").drained,
            "it was tried once it was in again"
        );
    }
}
