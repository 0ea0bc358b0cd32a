//! The stream toward one side.

use crate::frame::close;
use std::time::Duration;

/// The state of the stream toward one side.
#[derive(Debug, Default)]
pub(super) enum Writing {
    /// The side is given what the other side sends.
    #[default]
    Passing,
    /// The side gets the rest of the frame under way, then this Close.
    CloseDue(Box<CloseDue>),
    /// The side was sent a Close with this code, of wsgate or of the other side: nothing follows.
    Closed(Option<u16>),
    /// The frame under way will never end, so that no Close can follow: the stream ends after what was forwarded.
    Cut,
    /// The stream toward the side is ended, or broken; after a Close with this code, if one was sent.
    Finished(Option<Option<u16>>),
}

/// A Close of wsgate that waits for a frame boundary.
#[derive(Debug)]
pub(super) struct CloseDue {
    pub frame: close::Frame,
    pub code: Option<u16>,
    /// The delay that was drawn for the client, where many clients are told at once: it is [stretched](super::ReconnectDelays)
    /// when the frame is sent.
    pub crowd: Option<Duration>,
}

impl Writing {
    /// Whether what the other side sends still goes to this side.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Writing::Passing | Writing::CloseDue(_))
    }

    /// Code of the Close that the side was sent. `None`: no Close, `Some(None)`: an empty one.
    pub(super) fn close_code(&self) -> Option<Option<u16>> {
        match self {
            Writing::Closed(code) => Some(*code),
            Writing::Finished(close) => *close,
            Writing::Passing | Writing::CloseDue(_) | Writing::Cut => None,
        }
    }

    /// The stream toward the side is ended, or broken.
    pub(super) fn finish(&mut self) {
        *self = Writing::Finished(self.close_code());
    }
}
