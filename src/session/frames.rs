//! Frames of wsgate's own. One can be made only out of the proof that what was sent before it ends at a frame boundary.

use crate::frame::{close, ping};
use crate::inspect::flow::FrameBoundary;

/// A Ping or a Close of wsgate, to be written behind what was forwarded to its side.
#[derive(Debug)]
pub struct ControlFrame {
    /// A Close is the longest.
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Ping(ping::Frame),
    Close(Box<close::Frame>),
}

impl ControlFrame {
    pub(super) fn ping(_at: FrameBoundary, frame: ping::Frame) -> Self {
        let bytes = Bytes::Ping(frame);
        ControlFrame { bytes }
    }

    pub(super) fn close(_at: FrameBoundary, frame: Box<close::Frame>) -> Self {
        let bytes = Bytes::Close(frame);
        ControlFrame { bytes }
    }

    /// As the frame goes over the wire.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Ping(frame) => frame.as_bytes(),
            Bytes::Close(frame) => frame.as_bytes(),
        }
    }
}
