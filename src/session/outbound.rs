//! What is written to one side.

use crate::frame::close;

/// What a session does with the stream toward one side.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    pub writing: Writing,
    /// The side has not taken all that was meant for it.
    pub is_blocked: bool,
    /// Code of the Close that it was sent, wsgate's or the other side's.
    pub closed_with: Option<Option<u16>>,
}

#[derive(Debug, Default)]
pub(super) enum Writing {
    /// The side is given what the other side sends.
    #[default]
    Passing,
    /// It is given the rest of the frame under way, then this Close.
    CloseDue(Box<CloseDue>),
    /// It was sent a Close: nothing follows.
    Closed,
    /// The frame under way will never end, so that no Close can follow: the stream ends after what was forwarded.
    Cut,
    /// The stream toward the side is ended, or broken.
    Finished,
}

/// A Close of wsgate that waits for a frame boundary.
#[derive(Debug)]
pub(super) struct CloseDue {
    pub frame: close::Frame,
    pub code: Option<u16>,
}

impl Outbound {
    /// Whether what the other side sends still goes to this side.
    pub fn is_passing(&self) -> bool {
        matches!(self.writing, Writing::Passing | Writing::CloseDue(_))
    }
}
