//! Where a session is in its life.
//!
//! ```text
//!            drain               message boundary, or grace is over
//!    Open ----------> DrainDue ----------------------------------------> ClientTold
//!     |                   |                                                  |
//!     |                   | the connection ends for another reason           | the client answered, is gone,
//!     | any other end     v                                                  | or its time is over
//!     +--------------> BothTold <--------------------------------------------+
//!                         |
//!                         | close_timeout is over
//!                         v
//!                      Overtime ----> Done         (every phase goes to Done as soon as both sides are done)
//! ```

use crate::drain;
use crate::inspect::closing::Cause;

/// Where a session is in its life. It only moves forward: each phase comes before those that are declared after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Both sides talk.
    Open,
    /// The client is to be told to reconnect as soon as no message toward it is under way.
    DrainDue {
        /// The cause of the drain, for the log.
        cause: drain::Cause,
    },
    /// The client was told to reconnect. What it still sends reaches the server, which is told when the client has answered.
    ClientTold {
        /// Why the session ends.
        cause: Cause,
    },
    /// Neither side is to be told anything more, but for the answer to a Close of its own.
    BothTold {
        /// Why the session ends.
        cause: Cause,
    },
    /// The time of the closing handshake is over. What could still be said was said.
    Overtime {
        /// Why the session ends.
        cause: Cause,
    },
    /// Nothing more is sent to, or read from, either side.
    Done {
        /// Why the session ended.
        cause: Cause,
        /// The closing handshake was not complete in its time.
        timed_out: bool,
    },
}

impl Phase {
    /// Why the session ends, once it does. The first cause is kept.
    pub const fn cause(&self) -> Option<Cause> {
        match *self {
            Phase::Open | Phase::DrainDue { .. } => None,
            Phase::ClientTold { cause }
            | Phase::BothTold { cause }
            | Phase::Overtime { cause }
            | Phase::Done { cause, .. } => Some(cause),
        }
    }

    /// Whether both sides talk.
    #[inline]
    pub const fn is_open(&self) -> bool {
        matches!(self, Phase::Open)
    }

    /// The place of the phase in the order in which phases follow each other.
    pub const fn rank(&self) -> u8 {
        match self {
            Phase::Open => 0,
            Phase::DrainDue { .. } => 1,
            Phase::ClientTold { .. } => 2,
            Phase::BothTold { .. } => 3,
            Phase::Overtime { .. } => 4,
            Phase::Done { .. } => 5,
        }
    }

    /// Moves on to a later phase; an earlier one changes nothing.
    pub(super) fn advance(&mut self, to: Phase) {
        if to.rank() > self.rank() {
            *self = to;
        }
    }
}
