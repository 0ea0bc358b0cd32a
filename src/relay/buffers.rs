//! The memory that relays own beyond what an idle one needs, of all of them together: what they may not, or cannot, write
//! yet, as it came or encrypted; records begun; and what it takes to inflate the next compressed message.
//!
//! A relay tells of it when a poll leaves it with more or less than the one before; one that keeps nothing, which is
//! the rule, tells of nothing. Who has to let go is decided elsewhere: this knows no connection.

use super::State;
use crate::inspect::Side;
use crate::metrics::Metrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The memory that all relays keep, and its limit. Share it in an `Arc`.
#[derive(Debug)]
pub struct Buffers {
    metrics: Arc<Metrics>,
    /// The memory that all relays keep, in bytes.
    kept: AtomicUsize,
    /// In bytes; 0 for no limit.
    limit: AtomicUsize,
    over: Notify,
    start: Instant,
    /// The memory that plain requests and queued upgrades may need, in bytes. It is reserved at its largest, because Pingora and the
    /// runtime keep it where it cannot be measured.
    reserved: AtomicUsize,
}

/// Memory that a plain request or a queued upgrade may need, counted as long as this lives.
#[derive(Debug)]
pub struct Reservation {
    buffers: Arc<Buffers>,
    /// In bytes.
    bytes: usize,
}

impl Reservation {
    /// No more than this is needed any more.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.buffers.reserved.fetch_sub(less, Ordering::Relaxed);
        self.buffers.metrics.reserved_memory(-(less as isize));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// The memory that one relay keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// In bytes.
    pub bytes: u32,
    /// Since when nothing of it was taken, by the [clock](Buffers::clock) of the buffers.
    pub since: u32,
}

impl Buffers {
    /// Without a limit.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Buffers {
            metrics,
            kept: AtomicUsize::new(0),
            limit: AtomicUsize::new(0),
            over: Notify::new(),
            start: Instant::now(),
            reserved: AtomicUsize::new(0),
        }
    }

    /// From now on no more than this is to be kept, in bytes; 0 for no limit.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// How much may be kept, in bytes; 0 for no limit.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many bytes more are kept than may be, if any.
    pub fn excess(&self) -> usize {
        match self.limit() {
            0 => 0,
            limit => self.kept().saturating_sub(limit),
        }
    }

    /// The memory that all relays keep, in bytes.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// The memory that is kept and reserved, in bytes.
    fn kept(&self) -> usize {
        let reserved = self.reserved.load(Ordering::Relaxed);
        self.kept.load(Ordering::Relaxed).saturating_add(reserved)
    }

    /// Counts so many bytes for a plain request or a queued upgrade. `None`: there is no room for them. Both together have at most
    /// half of the limit, so that they cannot close WebSockets that were there before.
    pub fn reserve(buffers: &Arc<Buffers>, bytes: usize) -> Option<Reservation> {
        let before = buffers.reserved.fetch_add(bytes, Ordering::Relaxed);
        buffers.metrics.reserved_memory(bytes as isize);
        // Dropped, it gives back what it has taken.
        let reservation = Reservation {
            buffers: buffers.clone(),
            bytes,
        };
        let limit = buffers.limit();
        let fits = limit == 0 || (before + bytes <= limit / 2 && buffers.kept() <= limit);
        fits.then_some(reservation)
    }

    /// Plain requests have reserved half of what they may have: it is time to bear slow ones for less long.
    pub fn is_short(&self) -> bool {
        let limit = self.limit();
        limit != 0 && self.reserved.load(Ordering::Relaxed) > limit / 4
    }

    /// Waits until more is kept than may be.
    pub async fn over(&self) {
        self.over.notified().await;
    }

    /// Milliseconds since these were made. It begins anew after 49 days.
    pub fn clock(&self) -> u32 {
        self.start.elapsed().as_millis() as u32
    }

    /// One relay keeps more or less than before, by so many bytes.
    pub(super) fn handle_change(&self, change: isize) {
        self.metrics.buffer_memory(change);
        // Each relay takes back what it added.
        match change {
            0.. => self
                .kept
                .fetch_add(change.unsigned_abs(), Ordering::Relaxed),
            _ => self
                .kept
                .fetch_sub(change.unsigned_abs(), Ordering::Relaxed),
        };
        let limit = self.limit();
        if change > 0 && limit != 0 && self.kept() > limit {
            self.over.notify_one();
        }
    }
}

impl State {
    /// The memory that what a side sent takes: its buffer, used or not, and what its messages need to be inflated.
    pub(super) fn memory(&mut self, from: Side) -> usize {
        self.pipes[from as usize].memory() + self.session.memory(from)
    }

    /// Tells of what is kept at the end of a poll, `streams` bytes of it by the streams.
    pub(super) fn account(&mut self, streams: usize) {
        let bytes = self.memory(Side::Client) + self.memory(Side::Server) + streams;
        let took = self.pipes.iter().any(|pipe| pipe.took);
        self.pipes.iter_mut().for_each(|pipe| pipe.took = false);
        let before = self.handle.holding();
        if bytes == 0 && before.bytes == 0 {
            return;
        }
        let mut holding = before;
        holding.bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if took || before.bytes == 0 {
            holding.since = self.context.buffers.clock();
        }
        self.hold(holding, before);
    }

    /// Nothing is kept any more.
    pub(super) fn let_go(&mut self) {
        self.hold(Holding::default(), self.handle.holding());
    }

    fn hold(&mut self, holding: Holding, before: Holding) {
        self.handle.hold(holding);
        let change = holding.bytes as isize - before.bytes as isize;
        if change != 0 {
            self.context.buffers.handle_change(change);
        }
    }
}
