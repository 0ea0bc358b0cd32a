//! The handle of a relay, by which its connection is ended from outside.

use super::Holding;
use crate::drain;
use atomic_waker::AtomicWaker;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

/// Ends a connection from outside: its client is told to reconnect, at a message boundary, or at once where memory is wanted
/// back.
///
/// The handle is all that the outside and the relay share. Reading it costs the relay a few atomic operations per poll.
#[derive(Debug, Default)]
pub struct Handle {
    /// The number of the server of the connection.
    server: u32,
    drain: OnceLock<drain::Cause>,
    /// Nothing may be waited for any more.
    hurried: AtomicBool,
    /// Its memory is wanted back.
    shed: AtomicBool,
    /// The memory that the relay keeps: bytes, then since when, 32 bits each.
    holding: AtomicU64,
    /// Of the task that polled the relay last.
    waker: AtomicWaker,
}

impl Handle {
    /// The handle of a connection to the server of this number.
    pub fn new(server: u32) -> Self {
        Handle {
            server,
            ..Handle::default()
        }
    }

    /// The number of the server of the connection.
    pub(super) fn server(&self) -> u32 {
        self.server
    }

    /// Ends the connection for this cause. Only the first call counts.
    pub fn drain(&self, cause: drain::Cause) {
        if self.drain.set(cause).is_ok() {
            self.wake();
        }
    }

    /// The last call: a client that is to be told to reconnect is told now, at the end of the frame under way, whatever
    /// is left of the grace of its message.
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

    /// The memory that the relay keeps in its buffers.
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
        self.waker.wake();
    }

    /// Why the connection is drained, once it is. From now on this waker is the one that is woken.
    pub(super) fn poll_drain(&self, waker: &Waker) -> Option<drain::Cause> {
        // Registered before anything is looked at: what is stored later wakes it.
        self.waker.register(waker);
        self.drain.get().copied()
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Relaxed)
    }
}
