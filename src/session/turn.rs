//! How much may be done for one side before other connections of the thread have their turn.
//!
//! What it takes to read, inspect and write is counted, not timed: the same bytes always yield at the same places.

use crate::inspect::Budget;

/// What may still be done for one side before others have their turn. A caller makes one for each side whenever it runs, and
/// gives [`Session::handle_bytes`](super::Session::handle_bytes) nothing more of the side once the turn [is
/// over](Turn::is_over).
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    work: usize,
}

impl Default for Turn {
    fn default() -> Self {
        Turn { work: Turn::WORK }
    }
}

impl Turn {
    /// In bytes inflated: about a fifth of a millisecond. Less would be felt by who sends much (each turn costs a round of
    /// the scheduler, about a microsecond), more by everybody else.
    const WORK: usize = 512 << 10;
    /// So many bytes that are read, inspected and written take as long as one that is inflated.
    const PLAIN: usize = 2;

    /// Whether the side has to wait for its next turn.
    pub fn is_over(&self) -> bool {
        self.work == 0
    }

    /// So many bytes were read.
    pub fn handle_read(&mut self, count: usize) {
        self.take(count / Turn::PLAIN);
    }

    /// A frame was held against limits that count one by one.
    pub(super) fn handle_counted(&mut self) {
        self.take(COUNTED);
    }

    /// What the next call of a flow may do.
    pub(super) fn budget(&self) -> Budget {
        Budget::new(self.work)
    }

    /// What it has left of that.
    pub(super) fn handle_inspected(&mut self, budget: &Budget) {
        self.work = budget.left();
    }

    fn take(&mut self, work: usize) {
        self.work = self.work.saturating_sub(work);
    }
}

/// As long as so many bytes take to be inflated.
const COUNTED: usize = 128;
