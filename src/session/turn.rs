//! A bound on the work for one side before other connections of the thread have their turn.
//!
//! The work of reading, inspecting and writing is counted, not timed: the same bytes always yield at the same places.

use crate::inspect::Budget;

/// The work that may still be done for one side before others have their turn. A caller makes one for each side whenever it runs, and
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
    /// The number of bytes whose reading, inspection and writing takes as long as the inflation of one byte.
    const PLAIN: usize = 2;

    /// Whether the side has to wait for its next turn.
    pub fn is_over(&self) -> bool {
        self.work == 0
    }

    /// This number of bytes was read.
    pub fn handle_read(&mut self, count: usize) {
        self.take(count / Turn::PLAIN);
    }

    /// A frame was held against limits that count one by one.
    pub(super) fn handle_counted(&mut self) {
        self.take(COUNTED);
    }

    /// The budget of the next call of a flow.
    pub(super) fn budget(&self) -> Budget {
        Budget::new(self.work)
    }

    /// Takes back what the call has left of its budget.
    pub(super) fn handle_inspected(&mut self, budget: &Budget) {
        self.work = budget.left();
    }

    fn take(&mut self, work: usize) {
        self.work = self.work.saturating_sub(work);
    }
}

/// As long as so many bytes take to be inflated.
const COUNTED: usize = 128;
