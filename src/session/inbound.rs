//! The state of a session about one sending side, and the result for what it sent.

use crate::frame::deflate::DeflateParams;
use crate::inspect::{Flow, Side, Tally};

/// The state of a session about one sending side.
#[derive(Debug)]
pub(super) struct Inbound {
    pub flow: Flow,
    /// The side has sent a Close, with this code if any.
    pub closed: Option<Option<u16>>,
    /// Its stream is at its end, broken, or given up.
    pub ended: bool,
    pub passed: Passed,
}

/// How much has passed in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Whole data messages.
    pub messages: u64,
    /// Payload of data and control frames, in bytes.
    pub bytes: u64,
}

/// The result for a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// The number of bytes from its front that are forwarded to the other side.
    pub forward: usize,
    /// The number of bytes behind them that are dropped.
    pub discard: usize,
    /// The rest of the window holds bytes that were not inspected: the caller polls frames, and gives the window again.
    pub again: bool,
    /// The messages and bytes that are forwarded, for the metrics.
    pub tally: Tally,
}

impl Passage {
    pub(super) fn discarding(discard: usize) -> Self {
        Passage {
            discard,
            ..Passage::default()
        }
    }
}

impl Inbound {
    pub(super) fn new(from: Side, compression: Option<DeflateParams>) -> Self {
        Inbound {
            flow: Flow::new(from).with_compression(compression),
            closed: None,
            ended: false,
            passed: Passed::default(),
        }
    }
}
