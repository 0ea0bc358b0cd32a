//! How much one side may have done for it in one poll, so that a side that sends what is dear to look at shares its thread
//! with all others.
//!
//! What it takes to read, judge and write is counted, not timed: the same bytes always yield at the same places.

use crate::inspect::Budget;
use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// What may still be done for one side in this poll.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    work: usize,
    /// It ended before all was done that could be done.
    pub cut: bool,
}

impl Turn {
    /// In bytes inflated: about a fifth of a millisecond. Less would be felt by who sends much (each turn costs a round of
    /// the scheduler, about a microsecond), more by everybody else.
    const WORK: usize = 512 << 10;
    /// So many bytes that are read, judged and written take as long as one that is inflated.
    const PLAIN: usize = 2;

    pub fn new() -> Self {
        Turn {
            work: Turn::WORK,
            cut: false,
        }
    }

    pub fn is_over(&self) -> bool {
        self.work == 0
    }

    /// So many bytes were read.
    pub fn handle_read(&mut self, count: usize) {
        self.take(count / Turn::PLAIN);
    }

    /// A frame was held against limits that count one by one.
    pub fn handle_counted(&mut self) {
        self.take(COUNTED);
    }

    /// What the next call of a flow may do.
    pub fn budget(&self) -> Budget {
        Budget::new(self.work)
    }

    /// What it has left of that.
    pub fn handle_judged(&mut self, budget: &Budget) {
        self.work = budget.left();
    }

    fn take(&mut self, work: usize) {
        self.work = self.work.saturating_sub(work);
    }
}

/// As long as so many bytes take to be inflated.
const COUNTED: usize = 128;

/// Has the task run again when the sockets of the thread have been looked at and others have had their turn.
///
/// A task that only wakes itself goes to the end of the queue; but as long as the queue is not empty, tokio looks at its
/// sockets every 61 polls alone, and all others would wait for as many turns of this one.
pub(super) fn yield_to_others(cx: &mut Context<'_>) {
    // It defers the wake-up, and has nothing else to be polled for.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
