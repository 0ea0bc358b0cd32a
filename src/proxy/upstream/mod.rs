//! The servers of an upstream at run time: whose turn it is, and how one is reached.
//!
//! A [`Pool`] lives as long as the configuration has its upstream, whatever else of it changes. It is always true that
//! a new connection goes to a server that somebody drained, or that fails its checks, in no case; and to one that the
//! configuration has dropped only while none of the others can take it.

mod pools;
mod server;

pub use pools::{Departure, Pools};
pub use server::{Server, Standing, State};

use super::settings::{Address, Upstream};
use super::socket::Socket;
use crate::metrics::{HoldEnd, Metrics};
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::{Error, ErrorType, OrErr, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

/// A named pool of servers.
pub struct Pool {
    /// As routes, logs and metrics name it.
    pub name: String,
    /// Its number, by which drains know it. Never used twice.
    pub index: u32,
    members: RwLock<Arc<Members>>,
    turn: AtomicUsize,
    /// A server may take connections that took none before.
    changed: Notify,
}

/// A pool as the configuration has it now.
#[derive(Debug)]
pub struct Members {
    /// As configured.
    pub settings: Upstream,
    /// In the order of the configuration.
    pub servers: Vec<Arc<Server>>,
    /// Those that the configuration had before, and that may still have connections.
    pub left: Vec<Arc<Server>>,
    /// Counts the changes of `settings.generation`.
    pub generation: u32,
    next_server: u32,
}

impl Members {
    /// Servers that the configuration has and those it had, by the name of their address.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.servers.iter().chain(&self.left)
    }

    /// Those that take new connections now.
    fn taking(&self) -> impl Iterator<Item = &Arc<Server>> {
        let is_up = |server: &&Arc<Server>| server.state() == State::Up;
        let of_before = if self.servers.iter().any(|server| is_up(&server)) {
            &[][..]
        } else {
            &self.left
        };
        let would =
            |server: &&Arc<Server>| !server.is_drained() && server.standing() == Standing::Good;
        self.servers
            .iter()
            .filter(is_up)
            .chain(of_before.iter().filter(would))
    }
}

/// No server of a pool could be reached.
#[derive(Debug)]
pub(super) struct Unreachable {
    /// The last one failed by time-out.
    pub timed_out: bool,
    /// None was tried: none takes connections.
    pub none_taking: bool,
}

impl Pool {
    /// The pool of these servers, the first of which is the first to be used.
    pub fn new(settings: Upstream, index: u32) -> Self {
        let servers: Vec<_> = (0..)
            .zip(&settings.servers)
            // wsgate starts with all of them: who waits for the first round of checks refuses everybody meanwhile.
            .map(|(number, address)| Arc::new(Server::new(address.clone(), number, Standing::Good)))
            .collect();
        Pool {
            name: settings.name.clone(),
            index,
            members: RwLock::new(Arc::new(Members {
                next_server: servers.len() as u32,
                settings,
                servers,
                left: Vec::new(),
                generation: 0,
            })),
            turn: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }

    /// As the configuration has it now.
    pub fn members(&self) -> Arc<Members> {
        self.members
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes a server out, or lets it in again: who is connected stays, nobody new gets there.
    pub fn set_drained(&self, server: &Server, drained: bool) {
        server.set_drained(drained);
        self.changed.notify_waiters();
    }

    /// What the checks of a server say now.
    pub fn set_standing(&self, server: &Server, standing: Standing) {
        server.set_standing(standing);
        self.changed.notify_waiters();
    }

    /// Whether a server takes new connections as things stand.
    pub fn is_taking(&self, server: &Server) -> bool {
        self.members()
            .taking()
            .any(|taking| taking.number == server.number)
    }

    /// Waits until a server that the configuration has takes connections, other than `but`.
    pub async fn ready(&self, but: Option<&Server>) {
        loop {
            let changed = self.changed.notified();
            let members = self.members();
            let is_other = |server: &Arc<Server>| but.is_none_or(|but| but.number != server.number);
            if members
                .servers
                .iter()
                .any(|server| server.state() == State::Up && is_other(server))
            {
                return;
            }
            changed.await;
        }
    }

    /// All servers that take connections, once, each call beginning with the next one (round robin). One that has just
    /// come back is passed over for its share of the calls, and comes last then.
    pub(super) fn candidates(&self) -> Vec<Arc<Server>> {
        let members = self.members();
        let mut taking: Vec<_> = members.taking().cloned().collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % taking.len().max(1);
        taking.rotate_left(turn);
        let slow_start = members
            .settings
            .health
            .as_ref()
            .map(|health| health.slow_start)
            .unwrap_or_default();
        if !slow_start.is_zero() {
            let is_passed_over =
                |server: &Arc<Server>| rand::random::<f64>() >= server.share(slow_start);
            let passed: Vec<bool> = taking.iter().map(is_passed_over).collect();
            let mut passed = passed.into_iter();
            let (last, first): (Vec<_>, Vec<_>) = taking
                .into_iter()
                .partition(|_| passed.next().unwrap_or(false));
            taking = [first, last].concat();
        }
        taking
    }

    /// A connection to the first candidate that takes one. Where none does, it waits for one up to `hold`.
    pub(super) async fn connect(
        &self,
        metrics: &Metrics,
    ) -> Result<(Socket, Arc<Server>), Unreachable> {
        let deadline = Instant::now() + self.members().settings.hold;
        let mut held = None;
        loop {
            let changed = self.changed.notified();
            match self.connect_now().await {
                Err(unreachable) if unreachable.none_taking => {
                    held.get_or_insert_with(|| metrics.hold(&self.name));
                    if timeout_at(deadline, changed).await.is_err() {
                        if let Some(held) = held {
                            held.end(HoldEnd::Expired);
                        }
                        return Err(unreachable);
                    }
                }
                result => {
                    if let Some(held) = held {
                        held.end(HoldEnd::Served);
                    }
                    return result;
                }
            }
        }
    }

    async fn connect_now(&self) -> Result<(Socket, Arc<Server>), Unreachable> {
        let mut unreachable = Unreachable {
            timed_out: false,
            none_taking: true,
        };
        let upstream = self.name.as_str();
        let after = self.members().settings.connect_timeout;
        for server in self.candidates() {
            let address = &server.address;
            unreachable.none_taking = false;
            match timeout(after, Socket::connect(address)).await {
                Ok(Ok(socket)) => return Ok((socket, server)),
                Ok(Err(error)) => {
                    tracing::warn!(upstream, server = %address, %error, "server cannot be reached");
                    unreachable.timed_out = false;
                }
                Err(_) => {
                    tracing::warn!(upstream, server = %address, ?after, "server cannot be reached in time");
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
        let members = self.members();
        let settings = &members.settings;
        peer.options.connection_timeout = Some(settings.connect_timeout);
        peer.options.total_connection_timeout = Some(settings.connect_timeout);
        peer.options.read_timeout = Some(settings.read_timeout);
        // Only WebSockets are upgraded here, and those do not take Pingora's path.
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        Ok(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(servers: u16) -> Pool {
        let servers = (1..=servers)
            .map(|port| Address::Name("a".into(), port))
            .collect();
        Pool::new(Upstream::new("a", servers), 0)
    }

    fn order(pool: &Pool) -> Vec<u32> {
        pool.candidates()
            .iter()
            .map(|server| server.number)
            .collect()
    }

    #[test]
    fn each_turn_begins_with_the_next_server_and_has_them_all() {
        let pool = pool(3);
        for turn in 0..7 {
            let expected: Vec<_> = (0..3).cycle().skip(turn % 3).take(3).collect();
            assert_eq!(order(&pool), expected);
        }
    }

    #[test]
    fn a_server_that_is_drained_or_down_has_no_turn() {
        let pool = pool(3);
        let second = pool.members().servers[1].clone();
        pool.set_drained(&second, true);
        for _ in 0..6 {
            let order = order(&pool);
            assert!(order == [0, 2] || order == [2, 0], "{order:?}");
        }
        pool.set_drained(&second, false);
        assert_eq!(pool.candidates().len(), 3);
        pool.set_standing(&second, Standing::Bad);
        assert_eq!((pool.candidates().len(), second.state()), (2, State::Down));
    }

    #[test]
    fn a_server_that_left_serves_until_another_one_can() {
        let pool = pool(1);
        let health = Some(crate::proxy::settings::Health::default());
        let next = Upstream {
            servers: vec![Address::Name("b".into(), 1)],
            health,
            ..pool.members().settings.clone()
        };
        let update = pool.update(next);
        assert_eq!(update.left.len(), 1);
        assert_eq!(order(&pool), [0], "the new one has not passed its checks");
        let new = pool.members().servers[0].clone();
        pool.set_standing(&new, Standing::Good);
        assert_eq!(order(&pool), [1]);
    }

    #[test]
    fn who_comes_back_slowly_is_asked_less_often() {
        let pool = pool(2);
        let health = crate::proxy::settings::Health {
            slow_start: std::time::Duration::from_secs(3600),
            ..Default::default()
        };
        pool.update(Upstream {
            health: Some(health),
            ..pool.members().settings.clone()
        });
        let second = pool.members().servers[1].clone();
        pool.set_standing(&second, Standing::Bad);
        pool.set_standing(&second, Standing::Good);
        let first = (0..1000).filter(|_| order(&pool)[0] == 1).count();
        assert!((20..90).contains(&first), "{first} of 1000");
    }

    #[tokio::test(start_paused = true)]
    async fn where_none_takes_it_an_upgrade_waits_for_one() {
        let pool = Pool::new(
            Upstream::new("a", vec![Address::Unix("/nonexistent".into())]),
            0,
        );
        let server = pool.members().servers[0].clone();
        pool.set_drained(&server, true);
        let metrics = Metrics::new();
        let (held, hold) = (Instant::now(), pool.members().settings.hold);
        let unreachable = pool.connect(&metrics).await.expect_err("it is out");
        assert!(unreachable.none_taking);
        assert_eq!(held.elapsed(), hold);
        let (unreachable, ()) = tokio::join!(pool.connect(&metrics), async {
            tokio::time::sleep(hold / 2).await;
            pool.set_drained(&server, false);
        });
        assert!(
            !unreachable.expect_err("nobody listens there").none_taking,
            "it was tried once it was in again"
        );
    }
}
