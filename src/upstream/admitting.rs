//! The admission of a pool at run time: gives the pure [`Admission`] the time and the servers that take connections, and wakes
//! the upgrades whose turn has come.
//!
//! While nobody waits there is no task. The first upgrade that waits starts one, which ends with the last. It is woken by what
//! may give a turn: the end of a handshake, a server that takes connections again, and the moments that [`Admission::poll`] names.

use crate::admission::limit::{ClientNetwork, Handshake, HandshakeEnd, Settings};
use crate::admission::queue::{Waiter, Wanted};
use crate::admission::{Admission, Entry, ServerAdmission, Turn};
use crate::relay::Servers;
use crate::upstream::Pool;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout_at};

/// The clock of the runtime, which tests can hold.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The admission of one pool.
#[derive(Debug)]
pub(crate) struct Admitting(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    admission: Admission,
    waiters: HashMap<Waiter, oneshot::Sender<Turn>>,
    /// A task that gives turns to the waiters is running.
    is_driven: bool,
    /// The last waits that ended with a server: when they ended, and how long they were.
    waits: VecDeque<(Instant, Duration)>,
}

/// Waits of which the 99th percentile is shown, at most.
const MOST_WAITS: usize = 1024;

/// The age up to which they count.
const WAITS_AGE: Duration = Duration::from_secs(60);

/// A handshake that was admitted. Dropping it without an [end](AdmittedHandshake::end) ends it as `HandshakeEnd::Unknown`.
pub(crate) struct AdmittedHandshake {
    pool: Arc<Pool>,
    server: u32,
    network: ClientNetwork,
    handshake: Option<Handshake>,
}

/// How the wait of an upgrade ended.
#[derive(Debug)]
pub(crate) enum WaitEnd {
    /// The handshake with this server may begin.
    Begins(AdmittedHandshake),
    /// Servers have changed: the upgrade has to choose a server anew.
    ChoosesAnew,
    /// The upgrade would wait in vain. The client is to come again after this time.
    Refused(Duration),
    /// No server had room in time.
    Expired,
    /// The client left.
    Abandoned,
}

impl Admitting {
    pub(super) fn new(settings: Settings) -> Self {
        Admitting(Mutex::new(Inner {
            admission: Admission::new(settings, now()),
            waiters: HashMap::new(),
            is_driven: false,
            waits: VecDeque::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }

    /// Follows the settings of a new configuration, which has these servers.
    pub(super) fn apply(&self, settings: Settings, servers: &[u32]) {
        let mut inner = self.lock();
        inner.admission.set(settings);
        inner.admission.retain(servers);
    }

    /// The admission of a server, for operators.
    pub(super) fn server(&self, server: u32) -> ServerAdmission {
        self.lock().admission.server(server, now())
    }

    /// Upgrades per second that these servers are known to take together.
    pub(super) fn known_rate(&self, servers: &[u32]) -> f64 {
        self.lock().admission.known_rate(servers)
    }

    /// Upgrades that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().admission.waiting()
    }

    /// An upgrade that waited for so long has got a server.
    fn handle_wait(&self, wait: Duration) {
        let mut inner = self.lock();
        if inner.waits.len() >= MOST_WAITS {
            inner.waits.pop_front();
        }
        inner.waits.push_back((now(), wait));
    }

    /// The 99th percentile of the waits of the last minute that ended with a server; `None` without any.
    pub(super) fn wait_p99(&self) -> Option<Duration> {
        let now = now();
        let inner = self.lock();
        let recent = inner.waits.iter();
        let recent = recent.filter(|(at, _)| now.saturating_duration_since(*at) <= WAITS_AGE);
        let mut waits: Vec<Duration> = recent.map(|(_, wait)| *wait).collect();
        drop(inner);
        waits.sort_unstable();
        let last = waits.len().checked_sub(1)?;
        waits.get(last * 99 / 100).copied()
    }

    /// A server is ejected: when it takes connections again, one handshake has to succeed before others begin.
    pub(super) fn probe(&self, server: u32) {
        self.lock().admission.probe(server, now());
    }
}

impl AdmittedHandshake {
    /// The number of the server.
    pub(crate) fn server(&self) -> u32 {
        self.server
    }

    /// The handshake is over.
    pub(crate) fn end(mut self, end: HandshakeEnd) {
        self.give_back(end);
    }

    fn give_back(&mut self, end: HandshakeEnd) {
        let Some(handshake) = self.handshake.take() else {
            return;
        };
        let now = now();
        let mut inner = self.pool.admitting.lock();
        let admission = &mut inner.admission;
        admission.end(self.server, handshake, end, self.network, now);
        let is_waited_for = admission.waiting() > 0;
        drop(inner);
        if is_waited_for {
            self.pool.changed.notify_waiters();
        }
    }
}

impl Drop for AdmittedHandshake {
    fn drop(&mut self) {
        self.give_back(HandshakeEnd::Unknown);
    }
}

impl fmt::Debug for AdmittedHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmittedHandshake")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Begins a handshake with this server, if it has room and nobody waits for that.
    pub(crate) fn try_admit(
        self: &Arc<Self>,
        server: u32,
        network: ClientNetwork,
    ) -> Option<AdmittedHandshake> {
        let now = now();
        let handshake = self.admitting.lock().admission.try_start(server, now)?;
        Some(self.admitted(server, network, handshake))
    }

    fn admitted(
        self: &Arc<Self>,
        server: u32,
        network: ClientNetwork,
        handshake: Handshake,
    ) -> AdmittedHandshake {
        AdmittedHandshake {
            pool: self.clone(),
            server,
            network,
            handshake: Some(handshake),
        }
    }

    /// Waits in the queue of the pool.
    pub(crate) async fn wait_for_turn(
        self: &Arc<Self>,
        wanted: Wanted,
        network: ClientNetwork,
        deadline: Instant,
        mut client_left: Pin<&mut (dyn Future<Output = ()> + Send)>,
    ) -> WaitEnd {
        let mut waiting = match self.enter(wanted, network, deadline) {
            Ok(waiting) => waiting,
            Err(after) => return WaitEnd::Refused(after),
        };
        self.drive();
        let began = now();
        let turn = tokio::select! {
            biased;
            turn = &mut waiting.turn => turn,
            () = client_left.as_mut() => return WaitEnd::Abandoned,
            () = sleep_until(deadline.into()) => return WaitEnd::Expired,
        };
        match turn {
            Ok(Turn::Begins(server, handshake)) => {
                self.admitting
                    .handle_wait(now().saturating_duration_since(began));
                WaitEnd::Begins(self.admitted(server, network, handshake))
            }
            Ok(Turn::Refused(after)) => WaitEnd::Refused(after),
            // The task that gives turns never drops a waiter of the queue.
            Ok(Turn::ChoosesAnew) | Err(_) => WaitEnd::ChoosesAnew,
        }
    }

    fn enter(
        self: &Arc<Self>,
        wanted: Wanted,
        network: ClientNetwork,
        deadline: Instant,
    ) -> Result<Waiting, Duration> {
        let servers = self.taking_numbers();
        let patience = deadline.saturating_duration_since(now());
        let mut inner = self.admitting.lock();
        match inner.admission.enter(wanted, network, &servers, patience) {
            Entry::Refused(after) => Err(after),
            Entry::Waits(waiter) => {
                let (sender, turn) = oneshot::channel();
                inner.waiters.insert(waiter, sender);
                Ok(Waiting {
                    pool: self.clone(),
                    waiter,
                    turn,
                })
            }
        }
    }

    /// Upgrades per second that the servers which take connections are known to take together.
    pub(crate) fn known_rate(&self) -> f64 {
        self.admitting.known_rate(&self.taking_numbers())
    }

    /// Numbers of the servers that take connections, those with the fewest first.
    fn taking_numbers(&self) -> Vec<u32> {
        let mut taking = self.members().taking();
        taking.sort_by_key(|server| server.connections());
        taking.iter().map(|server| server.number).collect()
    }

    /// Wakes the task that gives turns to the waiters, and starts it if it is not running. The task ends when there is no waiter.
    fn drive(self: &Arc<Self>) {
        let is_driven = std::mem::replace(&mut self.admitting.lock().is_driven, true);
        if is_driven {
            self.changed.notify_waiters();
        } else {
            tokio::spawn(self.clone().give_turns());
        }
    }

    async fn give_turns(self: Arc<Self>) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let Some(wake) = self.poll_turns() else {
                return;
            };
            match wake {
                Some(wake) => drop(timeout_at(wake.into(), changed).await),
                None => changed.await,
            }
        }
    }

    /// Gives the turns that there are. Returns the latest time at which to look again, or `None` where there is no waiter.
    fn poll_turns(&self) -> Option<Option<Instant>> {
        let servers = self.taking_numbers();
        let patience = self.members().settings.queue_timeout;
        let mut inner = self.admitting.lock();
        loop {
            let now = now();
            let (turns, wake) = inner.admission.poll(&servers, patience, now);
            let mut is_given_back = false;
            for (waiter, turn) in turns {
                let unsent = match inner.waiters.remove(&waiter) {
                    Some(sender) => sender.send(turn).err(),
                    None => Some(turn),
                };
                // The waiter left at this moment.
                if let Some(Turn::Begins(server, handshake)) = unsent {
                    let end = HandshakeEnd::Unknown;
                    inner.admission.end(server, handshake, end, None, now);
                    is_given_back = true;
                }
            }
            if inner.admission.waiting() == 0 {
                inner.is_driven = false;
                return None;
            }
            if !is_given_back {
                return Some(wake);
            }
        }
    }
}

/// An upgrade in the queue. Dropping it removes the upgrade from the queue; a turn that was given at this moment is given back.
struct Waiting {
    pool: Arc<Pool>,
    waiter: Waiter,
    turn: oneshot::Receiver<Turn>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut inner = self.pool.admitting.lock();
        inner.waiters.remove(&self.waiter);
        inner.admission.leave(self.waiter);
        drop(inner);
        if let Ok(Turn::Begins(server, handshake)) = self.turn.try_recv() {
            // Its drop tells the others that there is room.
            drop(self.pool.admitted(server, None, handshake));
        }
    }
}

impl Servers for Pool {
    /// The clients of a server that is gone come back no faster than the others are known to take them.
    fn delay(&self, gone: u32, range: (Duration, Duration), drawn: Duration) -> Duration {
        let (low, high) = range;
        let span = high.saturating_sub(low).as_secs_f64();
        let draw = match span > 0.0 {
            true => (drawn.saturating_sub(low).as_secs_f64() / span).min(1.0),
            false => 0.0,
        };
        // The server that is gone may not be ejected yet.
        let mut servers = self.taking_numbers();
        servers.retain(|server| *server != gone);
        let mut inner = self.admitting.lock();
        let admission = &mut inner.admission;
        admission.reconnect_delay(range, &servers, draw, now())
    }

    fn address(&self, server: u32) -> Option<String> {
        let members = self.members();
        let found = members.all().find(|known| known.number == server);
        found.map(|server| server.address.to_string())
    }
}
