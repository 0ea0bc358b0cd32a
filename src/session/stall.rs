//! A side that takes nothing of what waits for it, and is given up after its time.
//!
//! Whether the stream takes more is not all there is to know: a kernel may have megabytes on their way to a slow reader, and
//! room for more only when much of that has arrived. So before a side is given up, the relay is asked how much was delivered.

use super::timers::Timer;
use super::{Event, ReaderLimit, SIDES, Session};
use crate::inspect::Side;
use crate::inspect::closing::Cause;
use std::time::{Duration, Instant};

/// The time that bytes have to arrive which were on their way when a stream stopped taking more.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// The sides for which something waits.
#[derive(Debug, Default)]
pub(super) struct Stall {
    waiting: [Option<Waiting>; 2],
}

impl Stall {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().all(Option::is_none)
    }
}

/// Something waits for a side.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// When the side took something last, or when the waiting began.
    since: Instant,
    /// How much had been delivered when what was on its way could have arrived.
    delivered: Option<Option<u64>>,
}

impl Waiting {
    /// When to look next.
    fn next(&self, write_timeout: Duration) -> Instant {
        self.since
            + match self.delivered {
                None => IN_FLIGHT.min(write_timeout / 4),
                Some(_) => write_timeout,
            }
    }

    /// The time to look has come: whether the side has taken nothing since the last look.
    fn is_over(&mut self, delivered: Option<u64>, now: Instant) -> bool {
        let before = self.delivered.replace(delivered);
        if before.is_some_and(|before| before != delivered) {
            self.since = now;
        }
        before == Some(delivered)
    }
}

impl Session {
    pub(super) fn wait_for(&mut self, side: Side, took: bool, now: Instant) {
        // The end of a session has a time of its own.
        if self.settings.limits.write_timeout.is_zero() || self.phase.cause().is_some() {
            return;
        }
        let waiting = &mut self.rare().stall.waiting[side as usize];
        if took || waiting.is_none() {
            *waiting = Some(Waiting {
                since: now,
                delivered: None,
            });
        }
        self.arm_stall();
    }

    pub(super) fn stop_waiting(&mut self, side: Side) {
        if let Some(rare) = &mut self.rare {
            rare.stall.waiting[side as usize] = None;
            self.arm_stall();
        }
    }

    fn arm_stall(&mut self) {
        let write_timeout = self.settings.limits.write_timeout;
        let Some(rare) = &mut self.rare else {
            return;
        };
        let waiting = rare.stall.waiting.iter().flatten();
        match waiting.map(|waiting| waiting.next(write_timeout)).min() {
            Some(next) => rare.timers.set(Timer::Stall, next),
            None => rare.timers.clear(Timer::Stall),
        }
    }

    pub(super) fn look_for_stalls(
        &mut self,
        now: Instant,
        delivered: &impl Fn(Side) -> Option<u64>,
    ) {
        let write_timeout = self.settings.limits.write_timeout;
        for side in SIDES {
            let rare = self.rare.as_mut();
            let waiting = rare.and_then(|rare| rare.stall.waiting[side as usize].as_mut());
            if let Some(waiting) = waiting
                && waiting.next(write_timeout) <= now
                && waiting.is_over(delivered(side), now)
            {
                self.report(Event::SlowReader {
                    side,
                    limit: ReaderLimit::WriteTimeout,
                });
                self.lose(side, Cause::Stalled { by: side }, now);
                return;
            }
        }
        self.arm_stall();
    }
}
