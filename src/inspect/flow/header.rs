//! The rules for a frame header, RFC 6455 §5 and RFC 7692 §6, and the limits that a header is enough to enforce.
//!
//! Each rule is checked as soon as the bytes that it needs have come, so that a side that breaks one is closed before it has sent the
//! rest of the frame.

use super::state::{Form, FrameKind, MessageState};
use crate::frame::header::{self, First, Header, MAX_CONTROL_PAYLOAD, Opcode, Second};
use crate::inspect::{Kind, Place, Rules, Side, Violation};

/// RSV1 alone, of the three reserved bits.
pub(super) const RSV1: u8 = 0b100;

/// The facts that the rules depend on, besides the bytes of the header.
pub(super) struct HeaderContext<'a> {
    pub rules: &'a Rules,
    pub from: Side,
    /// Whether permessage-deflate was agreed.
    pub compression: bool,
    /// The message under way.
    pub message: Option<MessageState>,
    /// The byte of the stream at which the frame begins.
    pub begin: u64,
}

/// The result of reading a header.
pub(super) enum HeaderRead {
    /// More bytes are needed.
    Incomplete,
    /// The length is impossible, so the next frame cannot be found.
    Lost,
    Complete(CheckedHeader),
}

/// A complete header.
pub(super) struct CheckedHeader {
    pub header: Header,
    pub kind: FrameKind,
    /// RSV1 marks the first frame of a compressed message.
    pub compressed: bool,
}

impl CheckedHeader {
    /// Whether the opcode begins a message.
    pub(super) fn begins_message(&self) -> bool {
        begins_message(self.header.first)
    }
}

fn begins_message(first: First) -> bool {
    matches!(first.opcode(), Some(Opcode::Text | Opcode::Binary))
}

impl HeaderContext<'_> {
    /// Reads the header at the beginning of `bytes`, as far as it has come.
    ///
    /// Every rule that it breaks is given to `report`, which decides whether reading goes on (`Ok`, under
    /// [`Mode::Observe`](crate::inspect::Mode::Observe)) or ends with the violation.
    pub(super) fn read(
        &self,
        bytes: &[u8],
        mut report: impl FnMut(Kind, Place) -> Result<(), Violation>,
    ) -> Result<HeaderRead, Violation> {
        let Some(&first) = bytes.first() else {
            return Ok(HeaderRead::Incomplete);
        };
        let first = First(first);
        let compressed = self.compression && begins_message(first) && first.rsv() == RSV1;
        self.check_first(first, compressed, &mut report)?;

        let Some(&second) = bytes.get(1) else {
            return Ok(HeaderRead::Incomplete);
        };
        let second = Second(second);
        // §5.5: "All control frames MUST have a payload length of 125 bytes or less". The form of the length is enough to tell.
        let is_short = u64::from(second.short_len()) <= MAX_CONTROL_PAYLOAD;
        self.check_mask(second, &mut report)?;
        if first.is_control() && !is_short {
            report(Kind::ControlTooLong, Place::Frame(self.begin))?;
        }

        let Some(len) = header::payload_len(bytes) else {
            return Ok(HeaderRead::Incomplete);
        };
        // §5.2: "the most significant bit MUST be 0".
        if len.value >> 63 != 0 {
            report(Kind::LengthTopBit, Place::Frame(self.begin))?;
            return Ok(HeaderRead::Lost);
        }
        // §5.2: "the minimal number of bytes MUST be used to encode the length".
        if !len.minimal {
            report(Kind::LengthNotMinimal, Place::Frame(self.begin))?;
        }
        if !first.is_control() && first.opcode().is_some() {
            self.check_limits(first, len.value, compressed, &mut report)?;
        }

        let Some(header) = header::decode(bytes) else {
            return Ok(HeaderRead::Incomplete);
        };
        let kind = match first.opcode() {
            Some(Opcode::Continuation | Opcode::Text | Opcode::Binary) => FrameKind::Data,
            Some(_) if !is_short => FrameKind::Unknown,
            Some(Opcode::Close) => FrameKind::Close,
            Some(Opcode::Ping) => FrameKind::Ping,
            Some(Opcode::Pong) => FrameKind::Pong,
            None => FrameKind::Unknown,
        };
        Ok(HeaderRead::Complete(CheckedHeader {
            header,
            kind,
            compressed,
        }))
    }

    /// FIN, the reserved bits and the opcode.
    fn check_first(
        &self,
        first: First,
        compressed: bool,
        report: &mut impl FnMut(Kind, Place) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let place = Place::Frame(self.begin);
        // §5.2: "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values." RFC 7692 §6: RSV1
        // of the first frame of a message says that the message is compressed.
        if first.rsv() != 0 && !compressed {
            let kind = if begins_message(first) && first.rsv() == RSV1 {
                Kind::CompressionNotAgreed
            } else {
                Kind::ReservedBits
            };
            report(kind, place)?;
        }
        // §5.2: "If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket Connection_."
        if first.opcode().is_none() {
            report(Kind::ReservedOpcode, place)?;
        }
        // §5.5: "All control frames [...] MUST NOT be fragmented."
        if first.is_control() && !first.fin() {
            report(Kind::ControlFragmented, place)?;
        }
        // §5.4: fragments "MUST NOT be interleaved" with those of another message.
        match first.opcode() {
            Some(Opcode::Continuation) if self.message.is_none() => {
                report(Kind::ContinuationWithoutStart, place)
            }
            Some(Opcode::Text | Opcode::Binary) if self.message.is_some() => {
                report(Kind::MessageInsideMessage, place)
            }
            _ => Ok(()),
        }
    }

    fn check_mask(
        &self,
        second: Second,
        report: &mut impl FnMut(Kind, Place) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let kind = match (self.from, second.masked()) {
            // §5.1: "a client MUST mask all frames that it sends to the server".
            (Side::Client, false) => Kind::MaskMissing,
            // §5.1: "A server MUST NOT mask any frames that it sends to the client."
            (Side::Server, true) => Kind::MaskPresent,
            (Side::Client, true) | (Side::Server, false) => return Ok(()),
        };
        report(kind, Place::Frame(self.begin))
    }

    /// The limits of the route, for a data frame of `len` bytes of payload.
    fn check_limits(
        &self,
        first: First,
        len: u64,
        compressed: bool,
        report: &mut impl FnMut(Kind, Place) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        let rules = self.rules;
        let continued = self
            .message
            .filter(|_| first.opcode() == Some(Opcode::Continuation));
        if len > rules.max_frame_size {
            report(Kind::FrameTooBig, Place::Limit(rules.max_frame_size))?;
        }
        let announced = continued.map_or(0, |m| m.announced).saturating_add(len);
        // Compressed messages are measured by their inflated size, as they are inflated.
        let is_inflated = continued.map_or(compressed, |m| {
            matches!(m.form, Form::Compressed | Form::Inflated)
        });
        if !is_inflated && announced > rules.max_message_size {
            report(Kind::MessageTooBig, Place::Limit(rules.max_message_size))?;
        }
        if continued.map_or(0, |m| m.fragments) >= rules.max_fragments {
            let limit = u64::from(rules.max_fragments);
            report(Kind::TooManyFragments, Place::Limit(limit))?;
        }
        Ok(())
    }
}
