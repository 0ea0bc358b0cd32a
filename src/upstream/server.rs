//! One server of an upstream, and why it does or does not take new connections.

use crate::admission::ejection::{Ejected, Ejector, Unreachable};
use crate::admission::limit::ClientNetwork;
use crate::drain::Cause;
use crate::metrics::ServerHandshakes;
use crate::transport::address::Address;
use crate::upstream::availability::{Availability, HealthStatus, Out, State};
use crate::upstream::http2::Http2Connections;
use crate::upstream::intents::Intent;
use crate::upstream::plain_requests::PlainRequests;
use crate::upstream::settings::ServerSettings;
use parking_lot::Mutex;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A server at run time. It outlives reloads that keep its address, and, while it has connections, those that don't.
#[derive(Debug)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// As the configuration has it: other than `address` where that is what a name was resolved to.
    pub configured: Address,
    /// By which name it was configured.
    pub name: Option<String>,
    /// By which drains know it in its upstream. Never used twice.
    pub number: u32,
    availability: Availability,
    weight: AtomicU32,
    max_connections: AtomicUsize,
    backup: AtomicBool,
    /// WebSocket connections, those included that are being made.
    connections: AtomicUsize,
    ejector: Mutex<Ejector>,
    /// How long its answers to upgrade requests took.
    answers: ServerHandshakes,
    pub(super) plain_requests: PlainRequests,
    pub(super) http2: Arc<Http2Connections>,
    /// Notified when a server of the pool may take connections that took none before.
    changed: Arc<Notify>,
}

/// A connection counts against its server as long as this lives.
#[derive(Debug)]
pub struct ServerPermit(Arc<Server>);

impl ServerPermit {
    /// The server, beyond the life of this connection.
    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.0
    }
}

impl Deref for ServerPermit {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl Drop for ServerPermit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        if self.0.max_connections.load(Ordering::Relaxed) != 0 {
            self.0.changed.notify_waiters();
        }
    }
}

impl Server {
    pub(crate) fn new(
        settings: &ServerSettings,
        number: u32,
        health: HealthStatus,
        changed: Arc<Notify>,
    ) -> Self {
        let server = Server {
            address: settings.address.clone(),
            configured: settings.configured.clone(),
            name: settings.name.clone(),
            number,
            availability: Availability::new(health),
            weight: AtomicU32::new(1),
            max_connections: AtomicUsize::new(0),
            backup: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            ejector: Mutex::default(),
            answers: ServerHandshakes::new(),
            plain_requests: PlainRequests::default(),
            http2: Arc::default(),
            changed,
        };
        server.apply(settings);
        server
    }

    /// Obeys the settings of a new configuration, which has it at the same address.
    pub(crate) fn apply(&self, settings: &ServerSettings) {
        self.weight.store(settings.weight, Ordering::Relaxed);
        self.max_connections
            .store(settings.max_connections, Ordering::Relaxed);
        self.backup.store(settings.backup, Ordering::Relaxed);
    }

    pub(crate) fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    pub(crate) fn is_backup(&self) -> bool {
        self.backup.load(Ordering::Relaxed)
    }

    /// WebSocket connections, those included that are being made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        let max = self.max_connections.load(Ordering::Relaxed);
        max != 0 && self.connections() >= max
    }

    /// A place for one more connection; `None` where it has all that it may have.
    pub(crate) fn occupy(self: &Arc<Self>) -> Option<ServerPermit> {
        let max = self.max_connections.load(Ordering::Relaxed);
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        // Dropped, it gives the place back.
        let occupied = ServerPermit(self.clone());
        (max == 0 || before < max).then_some(occupied)
    }

    /// The server accepted a connection.
    pub(crate) fn handle_connect(&self) {
        self.ejector().handle_connect();
    }

    /// The server has answered a handshake of this client correctly.
    pub(crate) fn handle_answer(&self, client: ClientNetwork) {
        self.ejector().handle_answer(client, Instant::now());
    }

    /// A session of this client began.
    pub(crate) fn handle_open(&self, client: ClientNetwork, began: Instant) {
        self.ejector().handle_open(client, began);
    }

    /// A handshake went wrong in a way that says little of the server: others are tried first for a moment.
    pub(crate) fn handle_doubt(&self) {
        self.ejector().handle_doubt(Instant::now());
    }

    /// How long its answers to upgrade requests took.
    pub fn answers(&self) -> &ServerHandshakes {
        &self.answers
    }

    /// Why, and until when, it is left alone for what connections found; `None`: it is not.
    pub fn ejection(&self) -> Option<Ejected> {
        self.ejector().ejected(Instant::now())
    }

    /// Whether it is left alone for what connections found.
    pub fn is_ejected(&self) -> bool {
        self.ejection().is_some()
    }

    /// Whether something went wrong there a moment ago.
    pub(crate) fn is_suspect(&self) -> bool {
        self.ejector().is_suspect(Instant::now())
    }

    /// Whether an operator drained it.
    pub fn is_drained(&self) -> bool {
        self.availability.is_drained()
    }

    /// The intent of the operator who drained it.
    pub fn intent(&self) -> Option<Intent> {
        self.availability.intent()
    }

    /// Whether operators mean it by this name: its address, or as the configuration names it.
    pub fn is_named(&self, name: &str) -> bool {
        self.address.to_string() == name || self.configured.to_string() == name
    }

    /// Whether the configuration does not have it any more.
    pub fn has_left(&self) -> bool {
        self.availability.is_removed()
    }

    /// The cause for which the server was removed: a reload, or discovery.
    pub fn left_by(&self) -> Option<Cause> {
        self.availability.removed_by()
    }

    /// The result of its checks.
    pub fn health(&self) -> HealthStatus {
        self.availability.health()
    }

    /// The state as operators see it.
    pub fn state(&self) -> State {
        match (self.out(), self.unreachable()) {
            (Some(out), _) => out.state(self.connections() == 0 && self.plain_requests() == 0),
            (None, Some(_)) => State::Unreachable,
            (None, None) => State::Up,
        }
    }

    /// Whether, and since when, every connect to it fails.
    pub fn unreachable(&self) -> Option<Unreachable> {
        self.ejector().unreachable()
    }

    /// Whether new connections are tried there, be it reachable or not.
    pub fn is_in_rotation(&self) -> bool {
        self.out().is_none()
    }

    /// Why it takes no new connections; `None`: it takes them, unless it has as many as it may have.
    pub fn out(&self) -> Option<Out> {
        let out = self.availability.out();
        out.or_else(|| self.ejection().map(Out::Ejected))
    }

    pub(crate) fn set_intent(&self, intent: Option<Intent>) {
        let is_drained = intent.is_some();
        self.availability.set_intent(intent);
        if is_drained {
            self.http2.retire();
        }
    }

    pub(crate) fn set_left(&self, by: Option<Cause>) {
        self.availability.set_removed(by);
        if by.is_some() {
            self.http2.retire();
        }
    }

    pub(crate) fn set_health(&self, health: HealthStatus) {
        self.availability.set_health(health);
    }

    /// The share of connections that it takes of those that it would otherwise have: it grows from nothing to 1 in the
    /// time of a slow start.
    pub(crate) fn share(&self, slow_start: Duration) -> f64 {
        if slow_start.is_zero() {
            return 1.0;
        }
        let since = self.availability.back_since().map(|since| since.elapsed());
        match since {
            Some(since) if since < slow_start => {
                // A tenth from the first moment on, or nothing would ever be learnt of it.
                (since.as_secs_f64() / slow_start.as_secs_f64()).max(0.1)
            }
            Some(_) | None => 1.0,
        }
    }

    pub(crate) fn ejector(&self) -> parking_lot::MutexGuard<'_, Ejector> {
        self.ejector.lock()
    }
}
