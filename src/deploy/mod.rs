//! Where deploys are learnt, and what carries them out: every source ends in the same drain.
//!
//! [`Control`] keeps the pure [`Conductor`] of the room `drain` under a lock, gives it the time, and passes on what it
//! decides to the handles of the connections. It knows nothing of frames and never decides who is closed, or when.

use crate::drain::{
    Cause, Conductor, DrainId, Forecast, MemberId, Order, Pace, Place, Progress, Selection, State,
    Terms,
};
use crate::metrics::Metrics;
use crate::relay::Handle;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How drains go unless one is told otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Pace, deadline, bound and order.
    pub terms: Terms,
    /// The deadline where wsgate itself ends. Kubernetes grants 30 seconds in all.
    pub shutdown_deadline: Duration,
    /// How long wsgate goes on accepting after it was told to end, so that balancers in front of it notice.
    pub lame_duck: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            terms: Terms {
                pace: Pace::Adaptive,
                deadline: Duration::from_secs(60),
                at_once: 1000,
                order: Order::OldestFirst,
            },
            shutdown_deadline: Duration::from_secs(25),
            lame_duck: Duration::ZERO,
        }
    }
}

/// The drains of a process. Share it in an `Arc`.
pub struct Control {
    conductor: Mutex<Conductor<Arc<Handle>>>,
    /// Something has happened that may bring the next decision forward.
    changed: Notify,
    /// Whether there is any decision to come: while nobody is drained, connections come and go without waking anybody.
    busy: AtomicBool,
    /// A connection has left.
    left: Notify,
    metrics: Arc<Metrics>,
}

/// A connection is in the roster as long as this lives.
pub struct Enrolled {
    control: Arc<Control>,
    member: MemberId,
    handle: Arc<Handle>,
}

impl Enrolled {
    /// By which the connection is drained.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.control.lock().leave(self.member, Instant::now());
        self.control.left.notify_waiters();
        self.control.hurry();
    }
}

impl Control {
    /// Without connections and drains.
    pub fn new(metrics: Arc<Metrics>) -> Arc<Control> {
        Arc::new(Control {
            conductor: Mutex::new(Conductor::new(rand::random())),
            changed: Notify::new(),
            busy: AtomicBool::new(false),
            left: Notify::new(),
            metrics,
        })
    }

    /// A connection begins.
    pub fn enroll(self: &Arc<Self>, place: Place) -> Enrolled {
        let handle = Arc::<Handle>::default();
        let member = self.lock().enroll(place, handle.clone());
        Enrolled {
            control: self.clone(),
            member,
            handle,
        }
    }

    /// An upgrade for an upstream has succeeded or failed after this time.
    pub fn handle_upgrade(&self, upstream: u32, took: Duration, ok: bool) {
        self.lock()
            .handle_upgrade(upstream, Instant::now(), took, ok);
        self.hurry();
    }

    /// Begins to drain.
    pub fn start(&self, selection: Selection, terms: Terms, cause: Cause) -> DrainId {
        let (id, progress) = {
            let mut conductor = self.lock();
            let id = conductor.start(selection, terms, cause, Instant::now());
            self.busy.store(true, Ordering::Relaxed);
            (id, conductor.progress(id, Instant::now()))
        };
        if let Some(progress) = progress {
            let (cause, connections, raised) = (cause.label(), progress.total, progress.raised);
            tracing::info!(cause, connections, raised, "drain begins");
        }
        self.changed.notify_one();
        id
    }

    /// What a drain would be like.
    pub fn forecast(&self, selection: Selection, terms: Terms) -> Forecast {
        self.lock().forecast(selection, terms)
    }

    /// Ends a drain; those that were not told yet stay. Whether there was one to end.
    pub fn cancel(&self, id: DrainId) -> bool {
        self.lock().cancel(id, Instant::now())
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

    /// Carries the decisions out, for as long as it is polled.
    pub async fn conduct(&self) {
        loop {
            let changed = self.changed.notified();
            let (due, wake) = {
                let mut conductor = self.lock();
                let due = conductor.poll(Instant::now());
                let wake = conductor.next_wake();
                // Under the lock, so that a drain that starts now is not forgotten.
                self.busy.store(wake.is_some(), Ordering::Relaxed);
                (due, wake)
            };
            for (_, handle, cause) in due {
                handle.drain(cause.label());
            }
            let running = self
                .drains()
                .into_iter()
                .filter(|(_, progress)| progress.state == State::Running);
            let (open, waiting) = running.fold((0, 0), |(open, waiting), (_, p)| {
                (open + 1, waiting + p.waiting)
            });
            self.metrics.draining(open, waiting);
            match wake {
                Some(wake) => {
                    let _ = tokio::time::timeout_at(wake.into(), changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// Connections in a selection.
    pub fn count(&self, selection: Selection) -> usize {
        self.lock().count(selection)
    }

    /// Those drains that are still known, running or not.
    pub fn drains(&self) -> Vec<(DrainId, Progress)> {
        let conductor = self.lock();
        let now = Instant::now();
        conductor
            .drains()
            .filter_map(|id| Some((id, conductor.progress(id, now)?)))
            .collect()
    }

    /// Has the next decision looked at again, if there is one to come.
    fn hurry(&self) {
        if self.busy.load(Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Conductor<Arc<Handle>>> {
        // A panic under the lock is a bug of ours; the roster is no less true for it.
        self.conductor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
