//! The state of a flow between two calls: the frame under way, apart from the message under way.

use crate::frame::mask::Mask;
use crate::inspect::inflation::Content;

/// The place at which the released bytes ended when an enforced violation stopped the flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopped {
    pub at_frame_boundary: bool,
    pub at_message_boundary: bool,
}

/// The frame under way.
#[derive(Clone, Copy, Debug)]
pub(super) enum FrameState {
    /// Its header is not complete; the window begins with it.
    Header,
    /// Its payload is coming.
    Payload(Payload),
    /// Its length is impossible, so the beginning of the next frame is unknown for the rest of the connection.
    Lost,
}

/// A frame whose header was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    pub kind: FrameKind,
    pub fin: bool,
    /// Nothing of the frame is released before all of it has come.
    pub held: bool,
    pub mask: Option<Mask>,
    /// In bytes, from the header.
    pub len: u64,
    /// Bytes that have not been inspected.
    pub remaining: u64,
    /// Bytes that have been released. As long as this is 0, the header has not been released either.
    pub passed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// Text, Binary or Continuation: part of the message under way.
    Data,
    Close,
    Ping,
    Pong,
    /// A frame that breaks a rule and passes, as violations are only observed.
    Unknown,
}

/// The message under way, over all its fragments.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageState {
    pub text: bool,
    pub form: Form,
    /// The inspected bytes, inflated where the message is compressed.
    pub content: Content,
    /// Payload of all its frames whose headers were read, in bytes.
    pub announced: u64,
    pub fragments: u32,
}

/// Whether a message is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    /// Its end has not been inflated yet.
    Compressed,
    /// All of it has been inflated.
    Inflated,
    /// Its content cannot be read: nothing that was agreed gives its reserved bits a meaning, or an earlier message that it refers to
    /// was not inflated.
    Opaque,
}
