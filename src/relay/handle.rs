//! What holds on to a relay from outside, to have its connection ended.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::Waker;

/// Has a connection ended from outside: its client is told to reconnect, at a message boundary.
///
/// All that outside and relay share. To look at it costs the relay one load per poll.
#[derive(Debug, Default)]
pub struct Handle {
    source: OnceLock<&'static str>,
    /// Nothing may be waited for any more.
    hurried: AtomicBool,
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
