//! Where deploys are learnt, and what carries them out: every source ends in the same drain.
//!
//! [`Control`] keeps the pure [`Conductor`] of the room `drain` under a lock, gives it the time, and passes on what it
//! decides to the handles of the connections. It knows nothing of frames and never decides who is closed, or when.

mod drain_log;
mod health;
pub(crate) mod load_shedder;
mod restart;
mod trigger;

pub use health::{Health, HealthChange, Thresholds};
pub use restart::{RestartThreshold, ServerClose, Suspicion};
pub use trigger::{ServerId, Target, Trigger, UpstreamId};

use crate::drain::{
    Cause, Conductor, DrainId, Forecast, MemberId, Order, Pace, Place, Progress, Selection, State,
    Terms,
};
use crate::metrics::Metrics;
use crate::relay::Handle;
use drain_log::DrainLog;
use parking_lot::{Mutex, MutexGuard, RwLock};
use rand::Rng;
use restart::RestartDetector;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How drains go unless one is told otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Pace, deadline, bound and order.
    pub terms: Terms,
    /// When a server's own Closes are taken for its restart.
    pub restart: RestartThreshold,
    /// The deadline where wsgate itself ends. Kubernetes grants 30 seconds in all.
    pub shutdown_deadline: Duration,
    /// How long wsgate goes on accepting after it was told to end, so that balancers in front of it notice.
    pub lame_duck: Duration,
    /// The log is reminded of a server that an operator drained after this time, and each time that it has passed again; zero: never.
    pub remind_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            terms: Terms {
                pace: Pace::Adaptive,
                deadline: Duration::from_secs(60),
                max_closing: 1000,
                order: Order::OldestFirst,
            },
            restart: RestartThreshold::default(),
            shutdown_deadline: Duration::from_secs(25),
            lame_duck: Duration::ZERO,
            remind_after: Duration::from_secs(3600),
        }
    }
}

/// Knows how many upgrades the servers of each upstream take: the room `upstream`.
pub trait UpgradeRates: Send + Sync {
    /// The number of each upstream, and the upgrades per second that its servers which take connections are known to take.
    fn upgrade_rates(&self) -> Vec<(u32, f64)>;
}

/// The drains of a process. Share it in an `Arc`.
pub struct Control {
    conductor: Mutex<Conductor<Arc<Handle>>>,
    /// Something has happened that may bring the next decision forward.
    changed: Notify,
    /// Whether there is any drain: while nobody is drained, connections come and go without waking anybody.
    busy: AtomicBool,
    /// A connection has left.
    left: Notify,
    restarts: Mutex<RestartDetector>,
    log: DrainLog,
    /// Why everybody is told who connects from now on, once wsgate ends.
    ending: OnceLock<Cause>,
    settings: RwLock<Settings>,
    rates: OnceLock<Arc<dyn UpgradeRates>>,
    metrics: Arc<Metrics>,
}

/// A connection is in the roster as long as this lives.
pub struct Enrolled {
    control: Arc<Control>,
    member: MemberId,
    handle: Arc<Handle>,
    returns: bool,
}

impl Enrolled {
    /// By which the connection is drained.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// The number of the connection, for the log and for operators. Never used twice.
    pub fn id(&self) -> u64 {
        self.member.number()
    }

    /// Its client has been told to reconnect, by whatever but a drain: it will be back.
    pub fn handle_return(&mut self) {
        self.returns = true;
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        let now = Instant::now();
        if self.returns {
            self.control.lock().leave_for_now(self.member, now);
        } else {
            self.control.lock().leave(self.member, now);
        }
        self.control.left.notify_waiters();
        self.control.hurry();
    }
}

impl Control {
    /// Without connections and drains.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Arc<Control> {
        Arc::new(Control {
            conductor: Mutex::new(Conductor::new(rand::random())),
            changed: Notify::new(),
            busy: AtomicBool::new(false),
            left: Notify::new(),
            restarts: Mutex::default(),
            log: DrainLog::default(),
            ending: OnceLock::new(),
            settings: RwLock::new(settings),
            rates: OnceLock::new(),
            metrics,
        })
    }

    /// The source of the rates at which adaptive drains close connections. Without one they go by a guess. Set once.
    pub fn set_rates(&self, rates: Arc<dyn UpgradeRates>) {
        let _ = self.rates.set(rates);
    }

    /// The conductor, with the rates as they are known now.
    fn lock_with_rates(&self) -> MutexGuard<'_, Conductor<Arc<Handle>>> {
        let rates = self.rates.get().map(|rates| rates.upgrade_rates());
        let mut conductor = self.lock();
        for (upstream, per_second) in rates.into_iter().flatten() {
            conductor.set_known_rate(upstream, per_second, Instant::now());
        }
        conductor
    }

    /// How drains go unless one is told otherwise.
    pub fn settings(&self) -> Settings {
        self.settings.read().clone()
    }

    /// Uses these settings from now on; drains under way keep theirs.
    pub fn apply(&self, settings: Settings) {
        *self.settings.write() = settings;
    }

    /// A connection begins. After `max_age`, if it is not zero, it is drained.
    pub fn enroll(self: &Arc<Self>, place: Place, max_age: Duration) -> Enrolled {
        let handle = Arc::new(Handle::new(place.server));
        let member = {
            let mut conductor = self.lock();
            let member = conductor.enroll(place, handle.clone());
            if !max_age.is_zero() {
                // Connections that began together must not end together.
                let age = max_age.mul_f64(rand::thread_rng().gen_range(0.8..1.0));
                let next = conductor.next_wake();
                conductor.retire_at(member, Instant::now() + age, self.settings().terms);
                if conductor.next_wake() != next {
                    self.changed.notify_one();
                }
            }
            member
        };
        if let Some(cause) = self.ending.get() {
            handle.drain(*cause);
        }
        Enrolled {
            control: self.clone(),
            member,
            handle,
            returns: false,
        }
    }

    /// wsgate ends: every connection that begins from now on is drained at once, for this cause.
    pub fn end(&self, cause: Cause) {
        let _ = self.ending.set(cause);
    }

    /// The last call: who was told of a drain, or is to be told of a crash, waits for nothing any more.
    pub fn last_call(&self) {
        self.visit(|handle| handle.hurry());
    }

    /// Looks at the handle of every connection.
    pub fn visit(&self, look: impl FnMut(&Arc<Handle>)) {
        self.lock().handles().for_each(look);
    }

    /// The connections with numbers above this one, in the order of their numbers, and where they stand.
    pub fn connections(&self, after: Option<MemberId>) -> Vec<(MemberId, Place, Arc<Handle>)> {
        self.lock().members(after)
    }

    /// The connection of this number.
    pub fn connection(&self, id: MemberId) -> Option<Arc<Handle>> {
        self.lock().handle(id).cloned()
    }

    /// An upgrade for an upstream, of this number and name, has succeeded or failed after this time.
    pub fn handle_upgrade(&self, upstream: u32, name: &str, took: Duration, ok: bool) {
        let back = self
            .lock()
            .handle_upgrade(upstream, Instant::now(), took, ok);
        if let Some(after) = back {
            self.metrics.reconnected(name, after);
        }
        self.hurry();
    }

    /// A server has closed a connection that is still enrolled. Where the server has to be probed, the caller does that, and
    /// reports by [`Control::handle_probe`].
    pub fn handle_close(&self, server: &ServerId, close: ServerClose) -> Suspicion {
        let key = (server.upstream.number, server.number);
        let threshold = self.settings().restart;
        let selection = Target::Server(server.clone()).selection();
        let others = self.count(selection).saturating_sub(1);
        let now = Instant::now();
        let suspicion = self
            .restarts()
            .handle_close(key, others, close, now, threshold);
        if suspicion == Suspicion::Restart {
            self.drain_restarting(server);
        }
        suspicion
    }

    /// A server that had to be probed has answered, or not.
    pub fn handle_probe(&self, server: &ServerId, answered: bool) {
        let key = (server.upstream.number, server.number);
        let (threshold, now) = (self.settings().restart, Instant::now());
        let is_restart = self.restarts().handle_probe(key, answered, now, threshold);
        if is_restart {
            self.drain_restarting(server);
        } else if answered {
            tracing::info!(
                %server,
                "server closed connections with 1001 or 1012 and still answers: its other clients stay"
            );
        }
    }

    fn drain_restarting(&self, server: &ServerId) {
        self.start(Trigger {
            cause: Cause::Upstream,
            target: Target::Server(server.clone()),
        });
    }

    /// Begins to drain what the trigger concerns, on the terms of the settings.
    pub fn start(&self, trigger: Trigger) -> DrainId {
        self.start_on(trigger, self.settings().terms)
    }

    /// Begins to drain what the trigger concerns, on these terms.
    pub fn start_on(&self, trigger: Trigger, terms: Terms) -> DrainId {
        let (cause, name) = (trigger.cause, trigger.target.to_string());
        let selection = trigger.target.selection();
        self.start_by(&name, cause, &terms, |conductor| {
            conductor.start(selection, terms, cause, Instant::now())
        })
    }

    /// Begins to drain these connections of an upstream, whose servers have more than their share.
    pub fn rebalance(
        &self,
        upstream: &UpstreamId,
        connections: Vec<MemberId>,
        terms: Terms,
    ) -> DrainId {
        let name = format!("{} beyond the shares of its servers", upstream.name);
        self.start_by(&name, Cause::Rebalance, &terms, |conductor| {
            let upstream = upstream.number;
            let (selection, cause) = (Selection::Excess { upstream }, Cause::Rebalance);
            conductor.start_chosen(connections, selection, terms, cause, Instant::now())
        })
    }

    fn start_by(
        &self,
        name: &str,
        cause: Cause,
        terms: &Terms,
        start: impl FnOnce(&mut Conductor<Arc<Handle>>) -> DrainId,
    ) -> DrainId {
        let (id, progress) = {
            let mut conductor = self.lock_with_rates();
            let id = start(&mut conductor);
            self.busy.store(true, Ordering::Relaxed);
            (id, conductor.progress(id, Instant::now()))
        };
        if let Some(progress) = progress {
            let is_new = self.log.handle_start(id, name, cause, &progress, terms);
            if is_new {
                self.metrics.drain_begins(cause, progress.raised);
            }
        }
        self.changed.notify_one();
        id
    }

    /// The forecast of a drain.
    pub fn forecast(&self, selection: Selection, terms: Terms) -> Forecast {
        self.lock_with_rates().forecast(selection, terms)
    }

    /// Ends a drain; those that were not told yet stay. Whether there was one to end.
    pub fn cancel(&self, id: DrainId) -> bool {
        let was_running = self.lock().cancel(id, Instant::now());
        self.changed.notify_one();
        was_running
    }

    /// How far a drain is; `None` where it is not known any more.
    pub fn progress(&self, id: DrainId) -> Option<Progress> {
        self.lock().progress(id, Instant::now())
    }

    /// Waits until a drain has nobody left to close and nobody that was told is still there.
    pub async fn finished(&self, id: DrainId) -> Option<Progress> {
        loop {
            let left = self.left.notified();
            match self.progress(id) {
                Some(progress) if progress.waiting + progress.closing > 0 => left.await,
                progress => return progress,
            }
        }
    }

    /// Waits until there is no connection any more.
    pub async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self.count(Selection::Everything) == 0 {
                return;
            }
            left.await;
        }
    }

    /// Carries the decisions out, for as long as it is polled.
    pub async fn conduct(&self) {
        loop {
            let changed = self.changed.notified();
            let (due, wake) = {
                let mut conductor = self.lock();
                let due = conductor.poll(Instant::now());
                // Under the lock, so that a drain that starts now is not forgotten.
                self.busy.store(conductor.is_draining(), Ordering::Relaxed);
                (due, conductor.next_wake())
            };
            for (_, handle, cause) in due {
                handle.drain(cause);
            }
            self.report();
            match wake {
                Some(wake) => {
                    let _ = tokio::time::timeout_at(wake.into(), changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// Brings the metrics up to date, and logs the end of drains.
    fn report(&self) {
        let drains = self.drains();
        let running = drains
            .iter()
            .filter(|(_, progress)| progress.state == State::Running);
        let (open, waiting, rate) =
            running.fold((0, 0, 0.0), |(open, waiting, rate), (_, progress)| {
                (open + 1, waiting + progress.waiting, rate + progress.rate)
            });
        self.metrics.draining(open, waiting, rate);
        self.log.report(&drains);
    }

    /// Clients of an upstream that were told to reconnect and are not back yet.
    pub fn away(&self, upstream: u32) -> usize {
        self.lock().away(upstream, Instant::now())
    }

    /// Connections in a selection.
    pub fn count(&self, selection: Selection) -> usize {
        self.lock().count(selection)
    }

    /// The drains that are still known, running or not.
    pub fn drains(&self) -> Vec<(DrainId, Progress)> {
        let conductor = self.lock();
        let now = Instant::now();
        conductor
            .drains()
            .filter_map(|id| Some((id, conductor.progress(id, now)?)))
            .collect()
    }

    /// Has the next decision looked at again, if there is any drain.
    fn hurry(&self) {
        if self.busy.load(Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }

    fn restarts(&self) -> MutexGuard<'_, RestartDetector> {
        self.restarts.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Conductor<Arc<Handle>>> {
        self.conductor.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::address::Address;

    const ACTIVE: ServerClose = ServerClose {
        silent: Duration::ZERO,
        ago: Duration::ZERO,
    };

    fn server_id() -> ServerId {
        ServerId {
            upstream: UpstreamId {
                number: 0,
                name: "a".to_owned(),
            },
            number: 0,
            address: Address::Tcp(([127, 0, 0, 1], 9000).into()),
        }
    }

    #[tokio::test]
    async fn a_server_that_says_it_restarts_is_drained() {
        let control = Control::new(Settings::default(), Arc::default());
        let place = |server| Place {
            upstream: 0,
            server,
            generation: 0,
        };
        let members = [0, 0, 0, 0, 1].map(|server| control.enroll(place(server), Duration::ZERO));
        let close = || control.handle_close(&server_id(), ACTIVE);
        assert_eq!([close(), close()], [Suspicion::None; 2]);
        assert_eq!(control.drains().len(), 0);
        assert_eq!(
            close(),
            Suspicion::Restart,
            "three, and they are half of all"
        );
        let drains = control.drains();
        let [(_, progress)] = drains.as_slice() else {
            panic!("{drains:?}")
        };
        assert_eq!((progress.cause, progress.total), (Cause::Upstream, 4));
        drop(members);
    }

    #[tokio::test]
    async fn a_server_that_may_restart_is_drained_if_it_does_not_answer() {
        let control = Control::new(Settings::default(), Arc::default());
        let place = Place {
            upstream: 0,
            server: 0,
            generation: 0,
        };
        let members: Vec<_> = (0..20)
            .map(|_| control.enroll(place, Duration::ZERO))
            .collect();
        let close = || control.handle_close(&server_id(), ACTIVE);
        assert_eq!([close(), close(), close()].last(), Some(&Suspicion::Probe));
        control.handle_probe(&server_id(), true);
        assert_eq!((close(), control.drains().len()), (Suspicion::None, 0));
        control.handle_probe(&server_id(), false);
        assert_eq!(control.drains().len(), 0, "nobody had to ask again yet");
        drop(members);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_is_finished_when_the_last_one_has_left() {
        let control = Control::new(Settings::default(), Arc::default());
        let member = control.enroll(
            Place {
                upstream: 0,
                server: 0,
                generation: 0,
            },
            Duration::ZERO,
        );
        let terms = Terms {
            pace: Pace::Over(Duration::ZERO),
            ..Settings::default().terms
        };
        let drain = control.start_on(
            Trigger {
                cause: Cause::Shutdown,
                target: Target::Everything,
            },
            terms,
        );
        let conducting = tokio::spawn({
            let control = control.clone();
            async move { control.conduct().await }
        });
        let waiting = tokio::time::timeout(Duration::from_secs(1), control.finished(drain)).await;
        assert!(waiting.is_err(), "it is told, and still there");
        drop(member);
        let progress = control.finished(drain).await.expect("it is known");
        assert_eq!((progress.total, progress.closed), (1, 1));
        conducting.abort();
    }

    /// `drain` has the guess of `admission` as a constant of its own: neither room knows the other.
    #[tokio::test]
    async fn drains_and_admission_guess_the_same_rate() {
        use crate::admission::reconnects::GUESS;
        let control = Control::new(Settings::default(), Arc::default());
        let place = Place {
            upstream: 0,
            server: 0,
            generation: 0,
        };
        let members: Vec<_> = (0..GUESS as usize)
            .map(|_| control.enroll(place, Duration::ZERO))
            .collect();
        let selection = Selection::Upstream { upstream: 0 };
        let forecast = control.forecast(selection, Settings::default().terms);
        assert_eq!(forecast.lasts, Duration::from_secs_f64(1.0 / 0.8));
        drop(members);
    }
}
