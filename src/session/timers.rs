//! The timers of a session: one table, of which the relay arms the earliest.

use std::time::Instant;

crate::with_all! {
    /// The event that a timer stands for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Timer {
        /// The client is told of a restart, message boundary or not.
        Restart,
        /// The closing handshake has had its time.
        Close,
        /// A Ping may be due, or its answer overdue.
        Liveness,
        /// A side that takes nothing is looked at.
        Stall,
        /// A side that was slowed down is read again.
        Limits,
    }
}

#[derive(Debug, Default)]
pub(super) struct Timers([Option<Instant>; Timer::ALL.len()]);

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    pub(super) fn clear(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// The earliest timer that is due; it is cleared.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let due = |timer: &Timer| self.0[*timer as usize].filter(|at| *at <= now);
        let timer = Timer::ALL
            .into_iter()
            .filter(|timer| due(timer).is_some())
            .min_by_key(due)?;
        self.clear(timer);
        Some(timer)
    }
}
