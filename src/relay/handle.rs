//! What holds on to a relay from outside, to have its connection ended.

use super::Holding;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::task::Waker;

/// Has a connection ended from outside: its client is told to reconnect, at a message boundary, or, where memory is
/// wanted back, at once.
///
/// All that outside and relay share. To look at it costs the relay one load per poll.
#[derive(Debug, Default)]
pub struct Handle {
    source: OnceLock<&'static str>,
    /// Nothing may be waited for any more.
    hurried: AtomicBool,
    /// What it keeps is wanted back.
    shed: AtomicBool,
    /// What the relay keeps: bytes, then since when, 32 bits each.
    holding: AtomicU64,
    /// Of the task that the relay lives in, from its first poll on.
    waker: OnceLock<Waker>,
}

impl Handle {
    /// Ends the connection; `source` is what logs call the reason. Only the first call counts.
    pub fn drain(&self, source: &'static str) {
        if self.source.set(source).is_ok() {
            self.wake();
        }
    }

    /// The last call: a client that is to be told to reconnect is told now, at the end of the frame under way, whatever
    /// is left of the grace of its message or of its turn after a crash.
    pub fn hurry(&self) {
        self.hurried.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Ends the connection because of what it [keeps](Handle::holding): its client is told to try again later.
    pub fn shed(&self) {
        self.shed.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Whether it was told so.
    pub fn is_shed(&self) -> bool {
        self.shed.load(Ordering::Relaxed)
    }

    /// What the relay keeps in its buffers.
    pub fn holding(&self) -> Holding {
        let packed = self.holding.load(Ordering::Relaxed);
        Holding {
            bytes: (packed >> 32) as u32,
            since: packed as u32,
        }
    }

    pub(super) fn hold(&self, holding: Holding) {
        let packed = u64::from(holding.bytes) << 32 | u64::from(holding.since);
        self.holding.store(packed, Ordering::Relaxed);
    }

    fn wake(&self) {
        // Either this sees the waker or the relay sees what was stored before.
        fence(Ordering::SeqCst);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// The source, once there is one. A relay stays in one task, so its waker is kept once.
    pub(super) fn poll_drain(&self, waker: &Waker) -> Option<&'static str> {
        if self.waker.get().is_none() {
            // Nobody else sets it.
            let _ = self.waker.set(waker.clone());
            fence(Ordering::SeqCst);
        }
        self.source.get().copied()
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Relaxed)
    }
}
