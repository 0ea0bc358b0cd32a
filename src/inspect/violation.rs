//! The violations of a side: one exhaustive table from kind to close code, label and sentence.

use crate::frame::close;
use std::fmt;

crate::with_all! {
    /// One rule broken.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Kind {
        /// RFC 6455 §5.2, RFC 7692 §6: RSV1-3 where no extension that was agreed gives them a meaning.
        ReservedBits,
        /// RFC 7692 §6: RSV1 on the first frame of a message, which says that it is compressed, where that was not agreed.
        CompressionNotAgreed,
        /// §5.2: opcodes 3-7 and B-F.
        ReservedOpcode,
        /// §5.5: a control frame without FIN.
        ControlFragmented,
        /// §5.5: a control frame of more than 125 bytes.
        ControlTooLong,
        /// §5.1: a client's frame without a masking key.
        MaskMissing,
        /// §5.1: a server's frame with one.
        MaskPresent,
        /// §5.2: a length in a longer form than it needs.
        LengthNotMinimal,
        /// §5.2: a 64-bit length with its highest bit set.
        LengthTopBit,
        /// §5.4: a continuation frame where no message is under way.
        ContinuationWithoutStart,
        /// §5.4: a new message before the one under way has ended.
        MessageInsideMessage,
        /// §5.5.1: a Close payload of one byte.
        CloseOneByte,
        /// §7.4: a code that may not stand in a Close frame.
        CloseCode,
        /// §5.5.1: a Close reason that is not UTF-8. The code of a server's is told to the client all the same, without the
        /// reason; a client's is answered with 1007.
        CloseReasonNotUtf8,
        /// §8.1: text that is not UTF-8.
        TextNotUtf8,
        /// §8.1: a text message that ends inside a code point.
        TextUnfinished,
        /// RFC 7692 §7.2.2: a compressed message that is not deflate data.
        DeflateInvalid,
        /// §7.2.1: one that ends inside a block, where the next one goes on with its window.
        DeflateUnfinished,
        /// The frame limit of the route.
        FrameTooBig,
        /// The message limit of the route.
        MessageTooBig,
        /// The limit of fragments per message of the route.
        TooManyFragments,
        /// The limit of data messages per second of the route.
        MessageRate,
        /// The limit of bytes per second of the route.
        ByteRate,
        /// The limit of control frames per second of the route.
        ControlRate,
        /// The limit of bytes per second that compressed messages may inflate to.
        InflatedRate,
    }
}

impl Kind {
    /// Close code for the side that broke the rule, label in metrics and logs, and the sentence for its developer with `{}` for the
    /// number of its [`Place`].
    const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Kind::ReservedBits => (
                close::PROTOCOL_ERROR,
                "reserved_bits",
                "reserved bits (RSV1-3) set where no agreed extension uses them (frame at byte {} of the stream)",
            ),
            Kind::CompressionNotAgreed => (
                close::PROTOCOL_ERROR,
                "compression_not_agreed",
                "compressed frame (RSV1), but permessage-deflate was not agreed (frame at byte {} of the stream)",
            ),
            Kind::ReservedOpcode => (
                close::PROTOCOL_ERROR,
                "reserved_opcode",
                "reserved opcode: only 0-2 and 8-10 are defined (frame at byte {} of the stream)",
            ),
            Kind::ControlFragmented => (
                close::PROTOCOL_ERROR,
                "control_fragmented",
                "Ping, Pong or Close without FIN: they cannot be fragmented (frame at byte {} of the stream)",
            ),
            Kind::ControlTooLong => (
                close::PROTOCOL_ERROR,
                "control_too_long",
                "Ping, Pong or Close with more than 125 bytes of payload (frame at byte {} of the stream)",
            ),
            Kind::MaskMissing => (
                close::PROTOCOL_ERROR,
                "mask_missing",
                "unmasked frame: a client has to mask every frame (frame at byte {} of the stream)",
            ),
            Kind::MaskPresent => (
                close::PROTOCOL_ERROR,
                "mask_present",
                "masked frame: a server must not mask (frame at byte {} of the stream)",
            ),
            Kind::LengthNotMinimal => (
                close::PROTOCOL_ERROR,
                "length_not_minimal",
                "payload length in more bytes than it needs (frame at byte {} of the stream)",
            ),
            Kind::LengthTopBit => (
                close::PROTOCOL_ERROR,
                "length_top_bit",
                "payload length of 2^63 or more: is this the start of a frame? (frame at byte {} of the stream)",
            ),
            Kind::ContinuationWithoutStart => (
                close::PROTOCOL_ERROR,
                "continuation_without_start",
                "continuation frame, but no message is under way (frame at byte {} of the stream)",
            ),
            Kind::MessageInsideMessage => (
                close::PROTOCOL_ERROR,
                "message_inside_message",
                "new message before the last one had its FIN: two writers? (frame at byte {} of the stream)",
            ),
            Kind::CloseOneByte => (
                close::PROTOCOL_ERROR,
                "close_one_byte",
                "Close with a payload of one byte: a code takes two (frame at byte {} of the stream)",
            ),
            Kind::CloseCode => (
                close::PROTOCOL_ERROR,
                "close_code",
                "Close with a code that must not be sent, {}",
            ),
            Kind::CloseReasonNotUtf8 => (
                close::INVALID_PAYLOAD,
                "close_reason_not_utf8",
                "Close reason is not UTF-8: cut inside a character? (frame at byte {} of the stream)",
            ),
            Kind::TextNotUtf8 => (
                close::INVALID_PAYLOAD,
                "text_not_utf8",
                "invalid UTF-8 at byte {} of the message; send raw bytes as binary",
            ),
            Kind::TextUnfinished => (
                close::INVALID_PAYLOAD,
                "text_unfinished",
                "text message ends inside a UTF-8 character, at byte {} of the message",
            ),
            Kind::DeflateInvalid => (
                close::INVALID_PAYLOAD,
                "deflate_invalid",
                "compressed message is not deflate data that follows on what was sent ({} bytes of it inflated)",
            ),
            Kind::DeflateUnfinished => (
                close::INVALID_PAYLOAD,
                "deflate_unfinished",
                "compressed message ends inside a deflate block: was it flushed? ({} bytes of it inflated)",
            ),
            Kind::FrameTooBig => (
                close::TOO_BIG,
                "frame_too_big",
                "frame larger than the limit of {} bytes",
            ),
            Kind::MessageTooBig => (
                close::TOO_BIG,
                "message_too_big",
                "message larger than the limit of {} bytes",
            ),
            Kind::TooManyFragments => (
                close::POLICY_VIOLATION,
                "too_many_fragments",
                "message of more fragments than the limit of {}",
            ),
            Kind::MessageRate => (
                close::POLICY_VIOLATION,
                "message_rate",
                "more messages than the limit of {} per second",
            ),
            Kind::ByteRate => (
                close::POLICY_VIOLATION,
                "byte_rate",
                "more bytes than the limit of {} per second",
            ),
            Kind::ControlRate => (
                close::POLICY_VIOLATION,
                "control_rate",
                "more control frames than the limit of {} per second",
            ),
            Kind::InflatedRate => (
                close::POLICY_VIOLATION,
                "inflated_rate",
                "more bytes, once inflated, than the limit of {} per second",
            ),
        }
    }

    /// The code that the side which broke the rule is closed with: 1002, 1007, 1008 or 1009.
    pub const fn code(self) -> u16 {
        self.row().0
    }

    /// Its name in metrics and logs.
    pub const fn label(self) -> &'static str {
        self.row().1
    }

    /// This kind as one bit, for a set of those seen.
    pub(super) const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A rule broken, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub kind: Kind,
    /// The number of its [`Place`]. The variant follows from the kind, so that a violation takes two words: every session has room for
    /// one.
    value: u64,
}

impl Violation {
    /// The violation of a rule at a place of the variant that belongs to the rule.
    pub(super) fn new(kind: Kind, place: Place) -> Violation {
        let value = place.value();
        let violation = Violation { kind, value };
        debug_assert_eq!(violation.place(), place, "{}", kind.label());
        violation
    }

    /// Where the rule was broken.
    pub const fn place(self) -> Place {
        let value = self.value;
        match self.kind {
            Kind::ReservedBits
            | Kind::CompressionNotAgreed
            | Kind::ReservedOpcode
            | Kind::ControlFragmented
            | Kind::ControlTooLong
            | Kind::MaskMissing
            | Kind::MaskPresent
            | Kind::LengthNotMinimal
            | Kind::LengthTopBit
            | Kind::ContinuationWithoutStart
            | Kind::MessageInsideMessage
            | Kind::CloseOneByte
            | Kind::CloseReasonNotUtf8 => Place::Frame(value),
            Kind::CloseCode => Place::CloseCode(value as u16),
            Kind::TextNotUtf8 | Kind::TextUnfinished => Place::Message(value),
            Kind::DeflateInvalid | Kind::DeflateUnfinished => Place::Inflated(value),
            Kind::FrameTooBig
            | Kind::MessageTooBig
            | Kind::TooManyFragments
            | Kind::MessageRate
            | Kind::ByteRate
            | Kind::ControlRate
            | Kind::InflatedRate => Place::Limit(value),
        }
    }
}

/// Where a rule was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The byte of the stream after the handshake, from 0, at which the frame begins.
    Frame(u64),
    /// The byte of the text message, from 0 and once inflated, that proves the violation.
    Message(u64),
    /// How many bytes of the compressed message were inflated.
    Inflated(u64),
    /// The code in the Close frame.
    CloseCode(u16),
    /// The limit that was passed, in the unit of its setting.
    Limit(u64),
}

impl Place {
    /// Its number, for the log; the kind of the violation says what it means.
    pub const fn value(self) -> u64 {
        match self {
            Place::Frame(value)
            | Place::Message(value)
            | Place::Inflated(value)
            | Place::Limit(value) => value,
            Place::CloseCode(code) => code as u64,
        }
    }
}

impl fmt::Display for Violation {
    /// The sentence that goes into the Close reason: at most 123 bytes, never payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = self.kind.row().2;
        let (before, after) = sentence.split_once("{}").unwrap_or((sentence, ""));
        write!(f, "{before}{}{after}", self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_no_doubles_and_every_reason_fits() {
        for kind in Kind::ALL {
            assert!(close::may_travel(kind.code()));
            let same = Kind::ALL
                .iter()
                .filter(|other| other.label() == kind.label());
            assert_eq!(same.count(), 1, "{}", kind.label());
            assert_eq!(kind.row().2.matches("{}").count(), 1, "{}", kind.label());
            let value = u64::MAX;
            let longest = Violation { kind, value }.to_string();
            assert!(longest.len() <= close::MAX_REASON, "{longest}");
        }
    }
}
