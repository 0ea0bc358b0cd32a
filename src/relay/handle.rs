//! The handle of a relay, by which the outside looks at its connection and ends it.

use super::Holding;
use super::about::{About, Figures};
use crate::drain;
use atomic_waker::AtomicWaker;
use parking_lot::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::Waker;
use tokio::sync::oneshot;

/// There is a cause to drain the connection.
const DRAINED: u8 = 1 << 3;
/// Nothing may be waited for any more.
const HURRIED: u8 = 1;
/// The memory of the connection is wanted back.
const SHED: u8 = 1 << 1;
/// There are requests.
const ASKED: u8 = 1 << 2;

/// A request of an operator to a relay.
#[derive(Debug)]
pub(super) enum Request {
    /// The client is sent a Close with this code and reason.
    Close { code: u16, reason: Box<str> },
    /// The figures of the connection are wanted.
    Figures(oneshot::Sender<Figures>),
}

/// Looks at a connection, or ends it, from outside: its client is told to reconnect, at a message boundary, or at once where
/// memory is wanted back.
///
/// The handle is all that the outside and the relay share. Reading it costs the relay a few atomic operations per poll.
#[derive(Debug, Default)]
pub struct Handle {
    /// The number of the server of the connection.
    server: u32,
    /// `HURRIED`, `SHED`, `ASKED`, `DRAINED`.
    flags: AtomicU8,
    drain: OnceLock<drain::Cause>,
    /// The memory that the relay keeps: bytes, then since when, 32 bits each.
    holding: AtomicU64,
    /// Of the task that polled the relay last.
    waker: AtomicWaker,
    /// From the 101 on.
    about: OnceLock<About>,
    /// Rare, and in a box for that reason: each connection has room for them.
    #[expect(clippy::box_collection, reason = "a third of the size of a Vec")]
    requests: Mutex<Option<Box<Vec<Request>>>>,
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

    /// The connection is a WebSocket from now on. Only the first call counts.
    pub fn introduce(&self, about: About) {
        let _ = self.about.set(about);
    }

    /// The facts about the connection; `None` before its 101.
    pub fn about(&self) -> Option<&About> {
        self.about.get()
    }

    /// Ends the connection for this cause. Only the first call counts.
    pub fn drain(&self, cause: drain::Cause) {
        if self.drain.set(cause).is_ok() {
            self.raise(DRAINED);
        }
    }

    /// The last call: a client that is to be told to reconnect is told now, at the end of the frame under way, whatever
    /// is left of the grace of its message.
    pub fn hurry(&self) {
        self.raise(HURRIED);
    }

    /// Ends the connection because of what it [keeps](Handle::holding): its client is told to try again later.
    pub fn shed(&self) {
        self.raise(SHED);
    }

    /// Whether it was told so.
    pub fn is_shed(&self) -> bool {
        self.is(SHED)
    }

    /// Ends the connection with this Close for its client, and 1001 for its server. Only the first call counts.
    pub fn close(&self, code: u16, reason: Box<str>) {
        self.request(Request::Close { code, reason });
    }

    /// Asks for the figures of the connection. The channel is closed where the connection ends first.
    pub fn ask(&self) -> oneshot::Receiver<Figures> {
        let (answer, told) = oneshot::channel();
        self.request(Request::Figures(answer));
        told
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

    fn request(&self, request: Request) {
        self.requests.lock().get_or_insert_default().push(request);
        self.raise(ASKED);
    }

    fn raise(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::Release);
        self.waker.wake();
    }

    fn is(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    /// Whether the outside wants anything of the connection, or ever wanted its end. From now on this waker is the one that is woken.
    pub(super) fn poll(&self, waker: &Waker) -> bool {
        // Registered before anything is looked at: what is stored later wakes it.
        self.waker.register(waker);
        self.flags.load(Ordering::Acquire) != 0
    }

    /// Why the connection is drained, once it is.
    pub fn drain_cause(&self) -> Option<drain::Cause> {
        self.drain.get().copied()
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.is(HURRIED)
    }

    /// The requests since the last call.
    pub(super) fn take_requests(&self) -> Vec<Request> {
        if !self.is(ASKED) {
            return Vec::new();
        }
        // Before the requests are taken: one that comes later raises the flag again.
        self.flags.fetch_and(!ASKED, Ordering::Relaxed);
        self.requests
            .lock()
            .take()
            .map_or_else(Vec::new, |all| *all)
    }
}
