//! Where deploys are learnt, and what carries them out: every source ends in the same drain.
//!
//! [`Control`] keeps the pure [`Conductor`] of the room `drain` under a lock, gives it the time, and passes on what it
//! decides to the handles of the connections. It knows nothing of frames and never decides who is closed, or when.

mod word;

pub use word::Several;

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
use word::Word;

/// How drains go unless one is told otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Pace, deadline, bound and order.
    pub terms: Terms,
    /// When a server's own Closes are taken for its restart.
    pub several: Several,
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
            several: Several::default(),
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
    word: Mutex<Word>,
    settings: Settings,
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
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Arc<Control> {
        Arc::new(Control {
            conductor: Mutex::new(Conductor::new(rand::random())),
            changed: Notify::new(),
            busy: AtomicBool::new(false),
            left: Notify::new(),
            word: Mutex::default(),
            settings,
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

    /// A server has closed a connection with 1001 or 1012, of its own accord.
    pub fn handle_restart(&self, place: Place) {
        let Place {
            upstream, server, ..
        } = place;
        let mut word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        if word.handle_close((upstream, server), Instant::now(), self.settings.several) {
            drop(word);
            self.start(
                Selection::Server { upstream, server },
                self.settings.terms,
                Cause::Upstream,
            );
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_says_it_restarts_is_drained() {
        let control = Control::new(Settings::default(), Arc::default());
        let place = |server| Place {
            upstream: 0,
            server,
            generation: 0,
        };
        let members = [
            control.enroll(place(0)),
            control.enroll(place(0)),
            control.enroll(place(1)),
        ];
        (0..2).for_each(|_| control.handle_restart(place(0)));
        assert_eq!(control.drains().len(), 0);
        control.handle_restart(place(0));
        let drains = control.drains();
        let [(_, progress)] = drains.as_slice() else {
            panic!("{drains:?}")
        };
        assert_eq!((progress.cause, progress.total), (Cause::Upstream, 2));
        drop(members);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_is_finished_when_the_last_one_has_left() {
        let control = Control::new(Settings::default(), Arc::default());
        let member = control.enroll(Place {
            upstream: 0,
            server: 0,
            generation: 0,
        });
        let terms = Terms {
            pace: Pace::Over(Duration::ZERO),
            ..Settings::default().terms
        };
        let drain = control.start(Selection::Everything, terms, Cause::Shutdown);
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
}
