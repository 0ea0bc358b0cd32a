//! How much work one call may do: what bounds the time for which one flow keeps its thread from all others.

/// The work that a call of [`Flow::inspect`](super::Flow::inspect) may still do. A call that comes to the end of its budget
/// stops where it is, in the middle of a payload if need be, and goes on from there when it is called again.
///
/// Work is counted in bytes inflated; everything else by about how many of those take as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    work: usize,
    inflate: usize,
    inflated: u64,
}

impl Budget {
    /// The size of a window, in bytes, up to which uncompressed messages are not counted.
    pub(super) const UNCOUNTED: usize = 1024;
    /// For a whole frame: its header, and what is done once per frame.
    const FRAME: usize = 128;
    /// For each call of the inflater with a piece of a message: taking an inflater and keeping its window.
    const PIECE: usize = 1024;
    /// For each byte that is to be inflated. The tables of a block take long to build, and the block may hold nothing.
    const DEFLATED: usize = 32;

    /// This amount of work, at least 1: with 0 no call would make progress.
    pub const fn new(work: usize) -> Self {
        Budget {
            work,
            inflate: usize::MAX,
            inflated: 0,
        }
    }

    /// The budget with a bound on inflated bytes, which a single code may exceed by its output.
    pub const fn inflating(self, bytes: usize) -> Self {
        Budget {
            inflate: bytes,
            ..self
        }
    }

    /// Work that is left.
    pub const fn left(&self) -> usize {
        self.work
    }

    /// Bytes that were inflated.
    pub const fn inflated(&self) -> u64 {
        self.inflated
    }

    /// Whether nothing more may be done.
    pub(super) const fn is_spent(&self) -> bool {
        self.work == 0 || self.inflate == 0
    }

    /// Bytes of a window that can be looked at before it has to be known how many frames they were: the smallest frame of a
    /// client has six, that of a server two, which may come to a little more than there is to be done.
    pub(super) fn reach(&self) -> usize {
        (self.work / (Self::FRAME / 4)).max(1)
    }

    /// Most bytes that may be given to the inflater, and most that may come out.
    pub(super) fn of_piece(&self) -> (usize, usize) {
        (
            (self.work / Self::DEFLATED).max(1),
            self.work.min(self.inflate),
        )
    }

    pub(super) fn take_frames(&mut self, count: u64) {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.take(count.saturating_mul(Self::FRAME));
    }

    pub(super) fn take_piece(&mut self) {
        self.take(Self::PIECE);
    }

    pub(super) fn take_inflated(&mut self, deflated: usize, inflated: usize) {
        self.take(
            deflated
                .saturating_mul(Self::DEFLATED)
                .saturating_add(inflated),
        );
        self.inflate = self.inflate.saturating_sub(inflated);
        self.inflated += inflated as u64;
    }

    fn take(&mut self, work: usize) {
        self.work = self.work.saturating_sub(work);
    }
}

impl Default for Budget {
    /// As much work as there is.
    fn default() -> Self {
        Budget::new(usize::MAX)
    }
}
