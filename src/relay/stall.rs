//! A side that takes nothing of what waits for it, and is given up after its time.
//!
//! One timer per connection, and only while something waits to be written. Whether our stream takes more is not all there
//! is to know: a kernel may have megabytes on their way to a slow reader, and room for more only when much of that has
//! arrived. So before a side is given up, what has [been delivered](Delivery) is asked for.

use super::State;
use crate::inspect::Side;
use crate::inspect::closing::Cause;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// What a stream knows of what it has taken, and can do about what it takes.
pub trait Delivery {
    /// How many bytes the far end has acknowledged since the stream began, where that is known.
    fn delivered(&self) -> Option<u64>;

    /// Memory that it owns to keep what it has not passed on, in bytes.
    fn memory(&self) -> usize;

    /// What is written next is the last of the stream, and its end follows at once: they may travel together.
    fn finish_with_next(&self);
}

/// The sides for which something waits.
#[derive(Debug)]
pub(super) struct Stall {
    timer: Pin<Box<Sleep>>,
    waiting: [Option<Waiting>; 2],
}

/// Something waits for a side.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// When it took something last, or when the waiting began.
    since: Instant,
    /// What had been delivered when what was on its way could have arrived.
    delivered: Option<Option<u64>>,
}

impl Waiting {
    /// When to look next.
    fn next(&self, patience: Duration) -> Instant {
        self.since
            + match self.delivered {
                None => SETTLING.min(patience / 4),
                Some(_) => patience,
            }
    }

    /// The time to look has come: whether the side has taken nothing since the last look.
    fn is_over(&mut self, delivered: Option<u64>) -> bool {
        let before = self.delivered.replace(delivered);
        if before.is_some_and(|before| before != delivered) {
            self.since = Instant::now();
        }
        before == Some(delivered)
    }
}

impl State {
    /// Gives up a side for which something has waited too long. Whether anything happened.
    pub(super) fn poll_stall(
        &mut self,
        cx: &mut Context<'_>,
        delivered: impl Fn(Side) -> Option<u64>,
    ) -> bool {
        let patience = self.terms.limits.write_timeout;
        // The end of a connection has a time of its own.
        if patience.is_zero() || self.cause.is_some() {
            self.stall = None;
            return false;
        }
        for side in [Side::Client, Side::Upstream] {
            let pipe = &self.pipes[side.other() as usize];
            if pipe.is_flushed() {
                if let Some(stall) = &mut self.stall {
                    stall.waiting[side as usize] = None;
                }
                continue;
            }
            let stall = self.stall.get_or_insert_with(|| {
                Box::new(Stall {
                    timer: Box::pin(sleep_until(Instant::now())),
                    waiting: [None; 2],
                })
            });
            let waiting = &mut stall.waiting[side as usize];
            if pipe.took || waiting.is_none() {
                *waiting = Some(Waiting {
                    since: Instant::now(),
                    delivered: None,
                });
            }
        }
        while let Some(stall) = &mut self.stall {
            let next = |waiting: &Option<Waiting>| waiting.map(|waiting| waiting.next(patience));
            let Some(next) = stall.waiting.iter().filter_map(next).min() else {
                self.stall = None;
                return false;
            };
            if stall.timer.deadline() != next {
                stall.timer.as_mut().reset(next);
            }
            if stall.timer.as_mut().poll(cx).is_pending() {
                return false;
            }
            for side in [Side::Client, Side::Upstream] {
                if let Some(waiting) = &mut stall.waiting[side as usize]
                    && waiting.next(patience) <= next
                    && waiting.is_over(delivered(side))
                {
                    self.give_up(side);
                    return true;
                }
            }
        }
        false
    }

    fn give_up(&mut self, side: Side) {
        self.terms.metrics.slow_reader(side, "write_timeout");
        self.handle_loss(side, Cause::Stalled { by: side });
    }
}

/// What was on its way when a stream stopped to take more has this long to arrive.
const SETTLING: Duration = Duration::from_secs(1);
