//! The input and the output of a flow: how far to go, what passes, which event stopped the walk, and the counts.

use super::inflater_pool::InflaterPool;
use super::{Budget, Violation};
use crate::frame::ping;

/// How far to go in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopAt {
    /// To the end of the window.
    End,
    /// To the end of the frame under way, because something else is to be sent after it.
    FrameEnd,
    /// To the first end of a frame at which no message is under way.
    MessageEnd,
}

/// The result of a call.
#[derive(Debug, PartialEq, Eq)]
pub struct Inspection {
    /// How many bytes of the window, from its front, may go on to the other side.
    pub release: usize,
    /// The event that stopped the walk, if any.
    pub event: Option<Event>,
    /// The [budget](Block::budget) stopped it: what is left of the window is to be looked at without more of it.
    pub spent: bool,
}

/// An event that the caller handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A rule was broken. The first byte after those released belongs to the offending frame.
    Violation(Violation),
    /// A Close frame came whole and right. It is *not* released: it is the first `frame_len` bytes of the window after
    /// what was released, and nothing of this side passes after it. See [`Flow::release_close`](super::Flow::release_close).
    Close {
        /// Length of the frame on the wire, in bytes.
        frame_len: usize,
        /// Its code; `None` where it was empty.
        code: Option<u16>,
        /// Enforcing, and of a server: its reason is not UTF-8. The code is the application's, so it is no violation that
        /// ends the inspection; but the frame must not pass as it is. See
        /// [`Kind::CloseReasonNotUtf8`](super::Kind::CloseReasonNotUtf8).
        garbled: bool,
    },
    /// A Pong came that could be the answer to a Ping of ours, of a flow that [watches](super::Flow::watch_pongs) them. As
    /// with a Close, it is not released. See [`Flow::release_pong`](super::Flow::release_pong); where it is ours, its bytes
    /// are taken out of the window instead.
    Pong {
        /// Length of the frame on the wire, in bytes.
        frame_len: usize,
        /// Its payload.
        payload: [u8; ping::LEN],
    },
}

/// Messages and payload bytes that were released, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Whole messages (text, binary) and control frames.
    pub messages: [u64; Tally::KINDS],
    /// Their payload in bytes.
    pub bytes: [u64; Tally::KINDS],
    /// Of the whole messages, those that were compressed.
    pub compressed: Compressed,
}

/// Compressed messages, and what compressing them was good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compressed {
    /// Whole messages that were inflated to their end.
    pub messages: u64,
    /// Their payload as it passed, in bytes.
    pub deflated: u64,
    /// Their inflated size, in bytes.
    pub inflated: u64,
}

impl Tally {
    /// Text, binary, ping, pong and close.
    pub const KINDS: usize = 5;
    /// Their labels, in order.
    pub const LABELS: [&'static str; Tally::KINDS] = ["text", "binary", "ping", "pong", "close"];
    /// Whether messages are among it, or parts of them.
    pub fn has_data(&self) -> bool {
        self.messages[0] + self.messages[1] + self.bytes[0] + self.bytes[1] > 0
    }

    pub(super) const PONG: usize = 3;
    pub(super) const CLOSE: usize = 4;
}

/// Room for the unmasked copy of what is validated, and for what it inflates to. One serves any number of flows in turn.
#[derive(Debug)]
pub struct Block {
    pub(super) copy: Box<[u8; Block::LEN]>,
    /// Empty before the first compressed message.
    pub(super) pool: InflaterPool,
    /// How much work the calls that are given this block may still do, all together. Boundless unless it is set.
    pub budget: Budget,
}

impl Block {
    /// Large enough to make the cost of a call small, small enough to stay in the first-level cache.
    pub(super) const LEN: usize = 8 << 10;
}

impl Default for Block {
    fn default() -> Self {
        Block {
            copy: Box::new([0; Block::LEN]),
            pool: InflaterPool::default(),
            budget: Budget::default(),
        }
    }
}
