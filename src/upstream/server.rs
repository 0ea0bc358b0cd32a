//! One server of an upstream, and why it does or does not take new connections.

use crate::drain::Cause;
use crate::transport::address::Address;
use crate::upstream::ejection::{ClientNetwork, Ejected, Ejector};
use crate::upstream::intents::Intent;
use crate::upstream::settings::ServerSettings;
use parking_lot::Mutex;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
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
    /// An operator drained it: `intent` says who. Apart from it, because every upgrade asks for this of every server.
    drained: AtomicBool,
    intent: Mutex<Option<Intent>>,
    /// Why the configuration, or its name, does not have it any more; see [`Server::left_by`].
    left: AtomicU8,
    /// The result of its checks.
    health: AtomicU8,
    /// When its health changed last.
    health_since: Mutex<Instant>,
    /// When it became able to serve again, if that was while wsgate ran.
    back_since: Mutex<Option<Instant>>,
    weight: AtomicU32,
    max_connections: AtomicUsize,
    backup: AtomicBool,
    /// WebSocket connections, those included that are being made.
    connections: AtomicUsize,
    ejector: Mutex<Ejector>,
    /// Notified when a server of the pool may take connections that took none before.
    changed: Arc<Notify>,
}

/// Values of `Server::left`: the configuration has it, or what has taken it away.
const PRESENT: u8 = 0;
const LEFT_BY_RELOAD: u8 = 1;
const LEFT_BY_DISCOVERY: u8 = 2;

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

/// The result of the checks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HealthStatus {
    /// The server passes its checks, or has none.
    Good = 0,
    /// The server is new and has not passed a check yet.
    Untried = 1,
    /// The server fails its checks.
    Bad = 2,
}

crate::with_all! {
    /// The state of a server as operators see it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum State {
        /// The server takes connections.
        Up,
        /// An operator took the server out, or a new configuration does not have it.
        Draining,
        /// The server fails its checks, or is ejected.
        Down,
    }
}

impl State {
    /// Its name in JSON, logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Draining => "draining",
            State::Down => "down",
        }
    }
}

/// Why a server takes no new connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// An operator drained it.
    Drained(Intent),
    /// A new configuration, or the name that it was resolved from, does not have it.
    Removed(Cause),
    /// It fails its checks.
    Unhealthy {
        /// Since then.
        since: Instant,
    },
    /// It is new, and has not passed a check yet.
    Untried {
        /// Since then.
        since: Instant,
    },
    /// It failed connections, and is left alone for a while.
    Ejected(Ejected),
}

impl Out {
    /// The state as operators see it.
    pub const fn state(&self) -> State {
        match self {
            Out::Drained(_) | Out::Removed(_) => State::Draining,
            Out::Unhealthy { .. } | Out::Untried { .. } | Out::Ejected(_) => State::Down,
        }
    }

    /// The reason in JSON and in `wsgate status`.
    pub fn reason(&self) -> String {
        match self {
            Out::Drained(_) => "drained".to_owned(),
            Out::Removed(cause) => format!("removed by {}", cause.label()),
            Out::Unhealthy { .. } => "fails its checks".to_owned(),
            Out::Untried { .. } => "not checked yet".to_owned(),
            Out::Ejected(ejected) => format!("ejected: {}", ejected.reason.label()),
        }
    }

    /// For how long; `None` where it is not known.
    pub fn age(&self) -> Option<Duration> {
        match self {
            Out::Drained(intent) => Some(intent.age()),
            Out::Removed(_) => None,
            Out::Unhealthy { since } | Out::Untried { since } => Some(since.elapsed()),
            Out::Ejected(ejected) => Some(ejected.since.elapsed()),
        }
    }

    /// The time until it ends by itself; `None` where an event has to end it.
    pub fn left(&self) -> Option<Duration> {
        match self {
            Out::Ejected(ejected) => Some(ejected.until.saturating_duration_since(Instant::now())),
            _ => None,
        }
    }

    /// Who asked for it, where somebody did.
    pub fn by(&self) -> Option<&str> {
        match self {
            Out::Drained(intent) => Some(&intent.by),
            _ => None,
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
            drained: AtomicBool::new(false),
            intent: Mutex::default(),
            left: AtomicU8::new(PRESENT),
            health: AtomicU8::new(health as u8),
            health_since: Mutex::new(Instant::now()),
            back_since: Mutex::new(None),
            weight: AtomicU32::new(1),
            max_connections: AtomicUsize::new(0),
            backup: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            ejector: Mutex::default(),
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
        self.drained.load(Ordering::Relaxed)
    }

    /// The intent of the operator who drained it.
    pub fn intent(&self) -> Option<Intent> {
        self.intent.lock().clone()
    }

    /// Whether operators mean it by this name: its address, or as the configuration names it.
    pub fn is_named(&self, name: &str) -> bool {
        self.address.to_string() == name || self.configured.to_string() == name
    }

    /// Whether the configuration does not have it any more.
    pub fn has_left(&self) -> bool {
        self.left_by().is_some()
    }

    /// The cause for which the server was removed: a reload, or discovery.
    pub fn left_by(&self) -> Option<Cause> {
        match self.left.load(Ordering::Relaxed) {
            PRESENT => None,
            LEFT_BY_DISCOVERY => Some(Cause::Discovery),
            _ => Some(Cause::Reload),
        }
    }

    /// The result of its checks.
    pub fn health(&self) -> HealthStatus {
        match self.health.load(Ordering::Relaxed) {
            0 => HealthStatus::Good,
            1 => HealthStatus::Untried,
            _ => HealthStatus::Bad,
        }
    }

    /// The state as operators see it.
    pub fn state(&self) -> State {
        self.out().map_or(State::Up, |out| out.state())
    }

    /// Why it takes no new connections; `None`: it takes them, unless it has as many as it may have.
    pub fn out(&self) -> Option<Out> {
        let since = || *self.health_since.lock();
        match (self.intent(), self.left_by(), self.health()) {
            (Some(intent), _, _) => Some(Out::Drained(intent)),
            (None, Some(cause), _) => Some(Out::Removed(cause)),
            (None, None, HealthStatus::Bad) => Some(Out::Unhealthy { since: since() }),
            (None, None, HealthStatus::Untried) => Some(Out::Untried { since: since() }),
            (None, None, HealthStatus::Good) => self.ejection().map(Out::Ejected),
        }
    }

    pub(crate) fn set_intent(&self, intent: Option<Intent>) {
        let mut known = self.intent.lock();
        let drained = intent.is_some();
        *known = intent;
        if self.drained.swap(drained, Ordering::Relaxed) && !drained {
            self.is_back();
        }
    }

    pub(crate) fn set_left(&self, by: Option<Cause>) {
        let by = match by {
            None => PRESENT,
            Some(Cause::Discovery) => LEFT_BY_DISCOVERY,
            Some(_) => LEFT_BY_RELOAD,
        };
        self.left.store(by, Ordering::Relaxed);
    }

    pub(crate) fn set_health(&self, health: HealthStatus) {
        let before = self.health.swap(health as u8, Ordering::Relaxed);
        if before != health as u8 {
            *self.health_since.lock() = Instant::now();
        }
        if health == HealthStatus::Good && before != HealthStatus::Good as u8 {
            self.is_back();
        }
    }

    fn is_back(&self) {
        *self.lock() = Some(Instant::now());
    }

    /// The share of connections that it takes of those that it would otherwise have: it grows from nothing to 1 in the
    /// time of a slow start.
    pub(crate) fn share(&self, slow_start: Duration) -> f64 {
        if slow_start.is_zero() {
            return 1.0;
        }
        let since = self.lock().map(|since| since.elapsed());
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

    fn lock(&self) -> parking_lot::MutexGuard<'_, Option<Instant>> {
        self.back_since.lock()
    }
}
