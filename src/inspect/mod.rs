//! One proxied connection after its 101: what may pass, what may not, and what each side is told.
//!
//! - [`flow`]: one direction, frame by frame.
//! - `inflation`, `inflater_pool`: what of a direction is compressed, seen through; what all of them share for that.
//! - [`passage`]: what a flow is told and what it tells.
//! - [`budget`]: how much work one call may do.
//! - [`violation`]: the table of what can be wrong.
//! - [`closing`]: the table of what each side is told in the end.
//!
//! Pure: bytes and time come in as arguments, decisions go out as values. No I/O, no clock, no lock.

pub mod budget;
pub mod closing;
pub mod flow;
mod inflater_pool;
mod inflation;
pub mod passage;
pub mod violation;

pub use budget::Budget;
pub use flow::Flow;
pub use passage::{Block, Compressed, Event, Inspection, StopAt, Tally};
pub use violation::{Kind, Place, Violation};

/// The classes of frames whose rate a route can limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateClass {
    /// A text or binary message, whatever its fragments.
    Message,
    /// A Ping or a Pong.
    Control,
}

crate::with_all! {
    /// One end of a proxied connection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Side {
        /// The side that asked for the connection.
        Client,
        /// The server that was chosen for it.
        Server,
    }
}

impl Side {
    /// The opposite one.
    pub const fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }

    /// Its name in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Server => "server",
        }
    }
}

crate::with_all! {
    /// The action for a violation.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum Mode {
        /// The message does not pass and the connection is closed. The default.
        #[default]
        Enforce,
        /// Violations are counted and logged, once per connection and kind; everything passes.
        Observe,
    }
}

impl Mode {
    /// Its name in metrics and in the log.
    pub const fn label(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        }
    }
}

/// The rules for one direction of a connection. All sizes are in bytes of payload as it is on the wire, but for the
/// message limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Enforce or observe.
    pub mode: Mode,
    /// Look at what messages hold: that text is UTF-8, and what compressed ones inflate to. If not, frames alone are held
    /// to the protocol and to the limits, a compressed message by its size on the wire.
    pub inspect: bool,
    /// Largest payload of one frame; a longer one is 1009 as soon as its header is read.
    pub max_frame_size: u64,
    /// Largest message, all its fragments together, inflated where it is compressed; 1009.
    pub max_message_size: u64,
    /// Most frames that one message may consist of; 1008.
    pub max_fragments: u32,
    /// A text frame up to this size is forwarded whole or not at all; a larger one in validated chunks.
    pub text_buffer: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            mode: Mode::Enforce,
            inspect: true,
            max_frame_size: 16 << 20,
            max_message_size: 16 << 20,
            max_fragments: 1024,
            text_buffer: 64 << 10,
        }
    }
}
