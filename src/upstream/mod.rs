//! The servers of an upstream at run time: whose turn it is, and how one is reached.
//!
//! A [`Pool`] lives as long as the configuration has its upstream, whatever else of it changes. It is always true that
//! a new connection goes to a server that somebody drained, or that fails its checks, in no case; and to one that the
//! configuration has dropped only while none of the others can take it.

mod admitting;
mod availability;
pub(crate) mod balance;
mod connect;
pub(crate) mod discovery;
pub(crate) mod health_checks;
pub(crate) mod http2;
pub mod intents;
pub(crate) mod plain_connector;
mod plain_requests;
mod pools;
pub mod rebalance;
mod removed;
mod server;
pub(crate) mod servers_file;
pub mod settings;
pub mod state_file;
mod sticky;

pub use crate::admission::ejection::{Ejected, EjectionReason, SessionEnd};
pub use crate::admission::limit::ClientNetwork;
pub use crate::upstream::availability::{HealthStatus, Out, State};
pub(crate) use crate::upstream::connect::{
    Connected, ServerLeg, Unreachable, Wish, may_be_restarting, retry_pause, warn_unreachable,
};
pub(crate) use crate::upstream::plain_requests::PlainPermit;
pub use crate::upstream::pools::{Departure, Pools};
pub use crate::upstream::removed::RemovedServers;
pub use crate::upstream::server::{Server, ServerPermit};

use crate::admission::ServerAdmission;
use crate::deploy::{ServerId, UpstreamId};
use crate::duration::Shown;
use crate::metrics::Metrics;
use crate::transport::address::Address;
use crate::upstream::admitting::Admitting;
use crate::upstream::balance::{Ring, Turns};
use crate::upstream::intents::Intents;
use crate::upstream::settings::{Balance, Upstream};
use parking_lot::{Mutex, RwLock};
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::{Error, ErrorType, Result};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// A named pool of servers.
pub struct Pool {
    /// As routes, logs and metrics name it.
    pub name: String,
    /// Its number, by which drains know it. Never used twice.
    pub index: u32,
    members: RwLock<Arc<Members>>,
    turn: AtomicUsize,
    turns: Turns,
    /// A server may take connections that took none before.
    changed: Arc<Notify>,
    /// How fast upgrades reach the servers.
    admitting: Admitting,
    /// Queued while it is decided whether a server may be ejected.
    ejecting: Mutex<()>,
    /// What operators said of its servers.
    intents: Arc<Intents>,
}

/// A pool as the configuration has it now.
#[derive(Clone)]
pub struct Members {
    /// As configured.
    pub settings: Upstream,
    /// In the order of the configuration.
    pub servers: Vec<Arc<Server>>,
    /// Servers of earlier configurations that may still have connections.
    pub left: Vec<Arc<Server>>,
    /// Counts the changes of `settings.generation`.
    pub generation: u32,
    /// The addresses of each name and port, as they were found last.
    resolved: HashMap<(String, u16), Vec<SocketAddr>>,
    next_server: u32,
    /// Where the balance asks for one.
    ring: Option<Arc<Ring>>,
}

impl Members {
    /// Servers that the configuration has and those it had, by the name of their address.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.servers.iter().chain(&self.left)
    }

    fn ring(settings: &Upstream, servers: &[Arc<Server>]) -> Option<Arc<Ring>> {
        matches!(settings.balance, Balance::Hash(_)).then(|| Arc::new(Ring::new(servers)))
    }

    /// The servers that take new connections now: those of the configuration; without any, its backups; without any, servers of
    /// earlier configurations. Where all of them are ejected, the ejected ones, as one of them may have recovered.
    fn taking(&self) -> Vec<Arc<Server>> {
        let would = |server: &Arc<Server>| {
            !server.is_drained() && server.health() == HealthStatus::Good && !server.is_full()
        };
        let tiers = [
            (&self.servers, false),
            (&self.servers, true),
            (&self.left, false),
        ];
        for ejected in [false, true] {
            for (servers, backup) in tiers {
                let takes = |server: &&Arc<Server>| {
                    would(server)
                        && server.is_ejected() == ejected
                        && (server.has_left() || server.is_backup() == backup)
                };
                let taking: Vec<_> = servers.iter().filter(takes).cloned().collect();
                if !taking.is_empty() {
                    return taking;
                }
            }
        }
        Vec::new()
    }

    /// The backups that take the connections that none of these servers can be reached for.
    fn standing_by(&self, taking: &[Arc<Server>]) -> Vec<Arc<Server>> {
        let is_known = |server: &Arc<Server>| {
            let mut known = taking.iter();
            known.any(|known| known.number == server.number)
        };
        let stands_by = |server: &&Arc<Server>| {
            server.is_backup() && server.out().is_none() && !server.is_full() && !is_known(server)
        };
        self.servers.iter().filter(stands_by).cloned().collect()
    }
}

/// Says that the pause of a server is over, unless a health check ended it before.
async fn announce_return(
    upstream: String,
    server: Arc<Server>,
    ejected: Ejected,
    changed: Arc<Notify>,
) {
    tokio::time::sleep_until(ejected.until.into()).await;
    changed.notify_waiters();
    let is_the_last = server.ejector().last() == Some(ejected);
    if is_the_last && !server.has_left() {
        let reason = ejected.reason.label();
        tracing::info!(upstream, server = %server.address, reason, "server was left alone for long enough and takes connections again");
    }
}

impl Pool {
    /// The pool of these servers. Those with a name come when it is resolved.
    pub fn new(settings: Upstream, index: u32, intents: Arc<Intents>) -> Self {
        let pool = Pool {
            name: settings.name.clone(),
            index,
            members: RwLock::new(Arc::new(Members {
                settings: settings.clone(),
                servers: Vec::new(),
                left: Vec::new(),
                generation: 0,
                resolved: HashMap::new(),
                next_server: 0,
                ring: None,
            })),
            turn: AtomicUsize::new(0),
            turns: Turns::default(),
            changed: Arc::default(),
            admitting: Admitting::new(settings.admission),
            ejecting: Mutex::new(()),
            intents,
        };
        pool.update(settings);
        pool
    }

    /// How the admission of upgrades to a server stands.
    pub fn admission(&self, server: &Server) -> ServerAdmission {
        self.admitting.server(server.number)
    }

    /// Upgrades that wait for a server.
    pub fn waiting(&self) -> usize {
        self.admitting.waiting()
    }

    /// The 99th percentile of the waits of the last minute that ended with a server; `None` without any.
    pub fn wait_p99(&self) -> Option<Duration> {
        self.admitting.wait_p99()
    }

    /// The pool as drains and operators know it.
    pub fn id(&self) -> UpstreamId {
        UpstreamId {
            number: self.index,
            name: self.name.clone(),
        }
    }

    /// One of its servers as drains and operators know it.
    pub fn server_id(&self, server: &Server) -> ServerId {
        ServerId {
            upstream: self.id(),
            number: server.number,
            address: server.address.clone(),
        }
    }

    /// As the configuration has it now.
    pub fn members(&self) -> Arc<Members> {
        self.members.read().clone()
    }

    /// Sets the result of a server's checks.
    pub fn set_health(&self, server: &Server, health: HealthStatus) {
        server.set_health(health);
        self.changed.notify_waiters();
    }

    /// Whether a server takes new connections as things stand.
    pub fn is_taking(&self, server: &Server) -> bool {
        // A connection that has its place already does not count against `max_connections`.
        let members = self.members();
        let is_here = |known: &Arc<Server>| known.number == server.number;
        !server.is_drained()
            && server.health() == HealthStatus::Good
            && (members.servers.iter().any(is_here) || members.taking().iter().any(is_here))
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
                .any(|server| server.is_in_rotation() && is_other(server))
            {
                return;
            }
            changed.await;
        }
    }

    /// All servers that take connections, once, in the order in which they are tried; behind them the backups, which are tried where
    /// none of the others can be reached. A key decides where the balance asks for one.
    pub(crate) fn candidates(&self, key: Option<&[u8]>) -> Vec<Arc<Server>> {
        let members = self.members();
        let settings = &members.settings;
        let slow_start = settings.health.as_ref().map(|health| health.slow_start);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let order = |servers| {
            balance::order(
                servers,
                &settings.balance,
                slow_start.unwrap_or_default(),
                turn,
                &self.turns,
                members.ring.as_deref().zip(key),
            )
        };
        let taking = members.taking();
        let standing_by = match settings.servers.iter().any(|server| server.backup) {
            true => members.standing_by(&taking),
            false => Vec::new(),
        };
        let mut candidates = order(taking);
        if let (Balance::StickyCookie(_), Some(cookie)) = (&settings.balance, key) {
            members.put_named_first(cookie, &mut candidates);
        }
        if !standing_by.is_empty() {
            candidates.extend(order(standing_by));
        }
        candidates
    }

    /// An attempt of this client that began at `began` failed by the server's fault.
    pub(crate) fn handle_failure(
        &self,
        server: &Arc<Server>,
        reason: EjectionReason,
        client: ClientNetwork,
        began: std::time::Instant,
        metrics: &Metrics,
    ) {
        let (settings, now) = (self.members().settings.ejection, std::time::Instant::now());
        let mut ejector = server.ejector();
        let is_enough = ejector.handle_failure(reason, client, began, now, settings);
        drop(ejector);
        if is_enough {
            self.eject(server, reason, metrics);
        }
    }

    /// A session of this client that began at `began` is over.
    pub(crate) fn handle_end(
        &self,
        server: &Arc<Server>,
        end: SessionEnd,
        client: ClientNetwork,
        began: std::time::Instant,
        metrics: &Metrics,
    ) {
        let (settings, now) = (self.members().settings.ejection, std::time::Instant::now());
        let mut ejector = server.ejector();
        let is_enough = ejector.handle_end(end, client, began, now, settings);
        drop(ejector);
        if is_enough {
            self.eject(server, EjectionReason::Dropped, metrics);
        }
    }

    /// A health check of a server passed, and the next one is due by then; or it failed.
    pub(crate) fn handle_check(&self, server: &Server, vouched_until: Option<std::time::Instant>) {
        let mut ejector = server.ejector();
        let lifted = ejector.handle_check(vouched_until, std::time::Instant::now());
        drop(ejector);
        if let Some(ejected) = lifted {
            self.handle_lifted(
                server,
                ejected,
                "server passes a check and takes connections again",
            );
        }
    }

    /// An operator resumes the server, or reloads the configuration: an ejection ends.
    pub(crate) fn lift_ejection(&self, server: &Server) {
        let lifted = server.ejector().lift(std::time::Instant::now());
        if let Some(ejected) = lifted {
            self.handle_lifted(
                server,
                ejected,
                "server is not left alone any more, as an operator asks for it",
            );
        }
    }

    fn handle_lifted(&self, server: &Server, ejected: Ejected, message: &str) {
        let (upstream, reason) = (self.name.as_str(), ejected.reason.label());
        tracing::info!(upstream, server = %server.address, reason, "{message}");
        self.changed.notify_waiters();
    }

    /// Leaves a server alone, unless too few would be left.
    fn eject(&self, server: &Arc<Server>, reason: EjectionReason, metrics: &Metrics) {
        // Two that fail at once are counted one after the other.
        let deciding = self.ejecting.lock();
        let members = self.members();
        let serves =
            |server: &&Arc<Server>| !server.is_drained() && server.health() == HealthStatus::Good;
        let serving = members.servers.iter().filter(serves);
        let (count, out) = serving.fold((0, 0), |(count, out), server| {
            (count + 1, out + usize::from(server.is_ejected()))
        });
        let (upstream, label) = (self.name.as_str(), reason.label());
        if (out + 1) * 2 > count || server.is_ejected() {
            tracing::debug!(upstream, server = %server.address, reason = label, "server failed again and again, and is needed");
            return;
        }
        let now = std::time::Instant::now();
        let ejected = server
            .ejector()
            .eject(reason, now, members.settings.ejection);
        drop(deciding);
        self.admitting.probe(server.number);
        metrics.ejected(upstream, reason);
        let pause = Shown(ejected.until - ejected.since);
        tracing::warn!(upstream, server = %server.address, reason = label, %pause, "server failed again and again, and is left alone");
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(announce_return(
                self.name.clone(),
                server.clone(),
                ejected,
                self.changed.clone(),
            ));
        }
    }

    /// The server as Pingora's connectors know it.
    pub(crate) fn peer(&self, server: &Arc<Server>) -> Result<HttpPeer> {
        let mut peer = match &server.address {
            Address::Tcp(address) => HttpPeer::new(address, false, String::new()),
            Address::Name(..) => {
                // A server at run time is what a name was resolved to.
                let sentence = "a name that was not resolved";
                return Err(Error::explain(ErrorType::ConnectError, sentence));
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
        // Pingora does not read while it writes: a server that takes nothing of a body would never be given up.
        peer.options.write_timeout = Some(settings.read_timeout);
        peer.options.idle_timeout = Some(settings.keepalive_timeout);
        plain_connector::through(&mut peer, server, settings);
        // Only WebSockets are upgraded here, and those do not take Pingora's path.
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
        Ok(peer)
    }
}

#[cfg(test)]
mod tests;
