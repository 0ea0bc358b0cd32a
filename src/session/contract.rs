//! The types by which a session talks to its caller: commands, events, the outcome, and the delays that it asks for.

use super::Passed;
use crate::drain;
use crate::inspect::closing::Cause;
use crate::inspect::{Mode, Side, Violation};
use std::time::{Duration, Instant};

/// The delays that clients are told where all clients of a server have to reconnect at once.
pub trait ReconnectDelays {
    /// The delay for one more client. `drawn` was drawn from `range` at random; the delay is not shorter than the range.
    fn delay(&self, range: (Duration, Duration), drawn: Duration) -> Duration;
}

/// The delay that was drawn, however many clients there are.
impl ReconnectDelays for () {
    fn delay(&self, _: (Duration, Duration), drawn: Duration) -> Duration {
        drawn
    }
}

/// A command to a session from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Tell the client to reconnect, at a message boundary; what logs call the reason.
    Drain(drain::Cause),
    /// Wait for nothing any more: whatever the client is still to be told is told at the end of the frame under way.
    Hurry,
    /// End the connection with this Close for the client.
    Close {
        /// A code that may be sent: 1000 to 1003, 1007 to 1014, 3000 to 4999.
        code: u16,
        /// At most 123 bytes are sent of it.
        reason: Box<str>,
    },
    /// Give up the memory that this connection keeps: 1013. The side that reads too slowly.
    Shed(Side),
}

crate::with_all! {
    /// The limit that ends a connection to a side which does not read.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ReaderLimit {
        /// The side took nothing for `write_timeout`.
        WriteTimeout,
        /// All connections together keep more than `buffer_memory`, and this one keeps most.
        BufferMemory,
    }
}

impl ReaderLimit {
    /// Its name in metrics: the key of the configuration.
    pub const fn label(self) -> &'static str {
        match self {
            ReaderLimit::WriteTimeout => "write_timeout",
            ReaderLimit::BufferMemory => "buffer_memory",
        }
    }
}

/// An event for metrics and log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A side broke a rule.
    Violation {
        /// The side that broke it.
        by: Side,
        /// Which rule, and where.
        violation: Violation,
        /// Enforced: the connection ends for it. Observed: the message passes.
        mode: Mode,
    },
    /// A server's Close was sent on without its reason, which is not UTF-8.
    CloseWithoutReason {
        /// The side that sent it.
        by: Side,
        /// Its code; `None` where it was empty.
        code: Option<u16>,
    },
    /// A side sends more than a rate limit allows and is read more slowly; once per connection and limit.
    SlowedDown {
        /// The side that sends.
        by: Side,
        /// Which limit.
        violation: Violation,
    },
    /// A Close frame was forwarded or sent to a side.
    Close {
        /// The side whose Close it is; `None` for wsgate's own.
        from: Option<Side>,
        /// The side that is sent it.
        to: Side,
        /// `None` for an empty Close.
        code: Option<u16>,
    },
    /// A side did not take what was sent to it.
    SlowReader {
        /// The side that does not read.
        side: Side,
        /// The limit that ends the connection.
        limit: ReaderLimit,
    },
    /// A side answered no Ping of wsgate.
    NoPong {
        /// The side that is taken for gone.
        side: Side,
    },
}

/// How a session ended, and what passed over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why.
    pub cause: Cause,
    /// Code of the Close that the client was sent, wsgate's or the server's. `None`: no Close, `Some(None)`: an empty one.
    pub client_close: Option<Option<u16>>,
    /// Code of the Close that the server was sent.
    pub server_close: Option<Option<u16>>,
    /// The closing handshake was not complete when its time was over.
    pub timed_out: bool,
    /// When the end began; the outcome is there when it is over.
    pub end_began: Option<Instant>,
    /// For how long no data message had passed when the end began, in either direction; to the second.
    pub silent: Duration,
    /// The messages and bytes that passed from the client to the server.
    pub from_client: Passed,
    /// The messages and bytes that passed from the server to the client.
    pub from_server: Passed,
}
