//! Violations of the handshake that can be passed on: one table from kind to side, label and sentence.
//!
//! A violation can be passed on if it leaves no doubt where the handshake ends, which bytes are frames, and what both ends agree on.
//! Real clients of sloppy libraries break these rules, and their servers accept it. All other rules are always enforced.

use std::fmt;

/// The action for a [`Violation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// The handshake is refused.
    Enforce,
    /// The handshake is passed on, and the caller learns the violation.
    Observe,
}

/// One end of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The request.
    Client,
    /// The 101.
    Server,
}

impl Side {
    /// In metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Server => "server",
        }
    }
}

crate::with_all! {
    /// A rule of RFC 6455 §4.1 that is broken and can be passed on.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Violation {
        /// A key that is not 16 bytes in base64. The answer to it is computed from its characters, whatever they are.
        Key,
        /// `Connection` does not name `Upgrade`. wsgate writes its own.
        Connection,
        /// There is no `Sec-WebSocket-Version`. The server decides, and a tunnel needs its right answer to the key.
        Version,
        /// A subprotocol with a character that no token has.
        SubprotocolSyntax,
        /// A subprotocol that is offered twice.
        SubprotocolTwice,
        /// A 101 names a subprotocol that was not offered.
        SubprotocolNotOffered,
    }
}

impl Violation {
    /// The side that breaks the rule, the label in metrics and logs, and the sentence for the developer.
    const fn row(self) -> (Side, &'static str, &'static str) {
        match self {
            Violation::Key => (
                Side::Client,
                "key",
                "Sec-WebSocket-Key is not 16 bytes in base64",
            ),
            Violation::Connection => (
                Side::Client,
                "connection",
                "the header `Connection: Upgrade` is missing",
            ),
            Violation::Version => (
                Side::Client,
                "version",
                "the header `Sec-WebSocket-Version: 13` is missing",
            ),
            Violation::SubprotocolSyntax => (
                Side::Client,
                "subprotocol_syntax",
                "Sec-WebSocket-Protocol holds a character that no token has",
            ),
            Violation::SubprotocolTwice => (
                Side::Client,
                "subprotocol_twice",
                "Sec-WebSocket-Protocol holds the same subprotocol twice",
            ),
            Violation::SubprotocolNotOffered => (
                Side::Server,
                "subprotocol_not_offered",
                "the 101 names a subprotocol that was not offered",
            ),
        }
    }

    /// The side that breaks the rule.
    pub const fn side(self) -> Side {
        self.row().0
    }

    /// In metrics and logs.
    pub const fn label(self) -> &'static str {
        self.row().1
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().2)
    }
}
