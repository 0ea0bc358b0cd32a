//! Close frames: codes (RFC 6455 §7.4) and payload (§5.5.1).

use super::header;
use super::header::{MAX_LEN, Opcode};
use super::mask::Mask;
use std::str;

/// 1000: the purpose of the connection is fulfilled.
pub const NORMAL: u16 = 1000;
/// 1001: an endpoint goes away.
pub const GOING_AWAY: u16 = 1001;
/// 1002: the protocol was broken.
pub const PROTOCOL_ERROR: u16 = 1002;
/// 1007: a message was not what its type says, above all text that is not UTF-8.
pub const INVALID_PAYLOAD: u16 = 1007;
/// 1008: a message violates the policy of the receiver.
pub const POLICY_VIOLATION: u16 = 1008;
/// 1009: a message is too big.
pub const TOO_BIG: u16 = 1009;
/// 1011: the server cannot go on.
pub const INTERNAL_ERROR: u16 = 1011;
/// 1012: the service is restarted (IANA registry).
pub const SERVICE_RESTART: u16 = 1012;
/// Try Again Later: the server is overloaded.
pub const TRY_AGAIN_LATER: u16 = 1013;

/// Longest reason in bytes: a control frame's 125 less the code.
pub const MAX_REASON: usize = 123;

/// Longest Close frame: header with a masking key, then 125 bytes.
pub const MAX_FRAME: usize = 2 + 4 + 125;

/// Whether a code may stand in a Close frame.
///
/// §7.4.1 keeps 1004, 1005, 1006 and 1015 off the wire, §7.4.2 leaves 0-999 unused and 1016-2999 to later
/// specifications; 1012-1014 are in the registry that §7.4.2 founded; 3000-3999 are for libraries and 4000-4999 private.
pub const fn may_travel(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The content of a Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// `None` where the payload is empty (what an API shows as 1005).
    pub code: Option<u16>,
    /// In UTF-8, at most 123 bytes.
    pub reason: &'a str,
}

/// Why a Close payload is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// One byte: no room for a code (§5.5.1).
    OneByte,
    /// A code that may not travel.
    Code(u16),
    /// The reason is not UTF-8; the byte of the reason, from 0, that proves it, or its length where it ends too early.
    Reason(usize),
}

/// The code at the beginning of the unmasked payload of a Close frame, whatever follows it.
pub fn code(payload: &[u8]) -> Option<u16> {
    payload.first_chunk().map(|code| u16::from_be_bytes(*code))
}

/// Reads the unmasked payload of a Close frame.
///
/// # Errors
/// [`Malformed`], the first rule of §5.5.1 and §7.4 that it breaks.
pub fn parse(payload: &[u8]) -> Result<Payload<'_>, Malformed> {
    match payload {
        [] => Ok(Payload {
            code: None,
            reason: "",
        }),
        [_] => Err(Malformed::OneByte),
        [a, b, reason @ ..] => {
            let code = u16::from_be_bytes([*a, *b]);
            if !may_travel(code) {
                return Err(Malformed::Code(code));
            }
            let mut utf8 = super::utf8::Utf8::new();
            utf8.feed(reason).map_err(Malformed::Reason)?;
            // From here on only an end inside a code point fails.
            let reason = str::from_utf8(reason).map_err(|_| Malformed::Reason(reason.len()))?;
            Ok(Payload {
                code: Some(code),
                reason,
            })
        }
    }
}

/// A Close frame ready to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: [u8; MAX_FRAME],
    len: u8,
}

impl Frame {
    /// A Close with this code, or an empty one, and as much of the reason as fits in 123 bytes; masked with `mask`
    /// where it goes to a server (§5.1).
    pub fn new(code: Option<u16>, reason: &str, mask: Option<[u8; 4]>) -> Self {
        debug_assert!(code.is_none_or(may_travel));
        let mut payload = [0; 125];
        let mut payload_len = 0;
        if let Some(code) = code {
            payload[..2].copy_from_slice(&code.to_be_bytes());
            let end = reason.floor_char_boundary(MAX_REASON);
            payload_len = 2 + end;
            payload[2..payload_len].copy_from_slice(&reason.as_bytes()[..end]);
        }
        let payload = &mut payload[..payload_len];
        let mut head = [0; MAX_LEN];
        let head_len = header::encode(Opcode::Close, payload_len as u64, mask, &mut head);
        if let Some(key) = mask {
            Mask::new(key).apply(payload);
        }
        let mut bytes = [0; MAX_FRAME];
        bytes[..head_len].copy_from_slice(&head[..head_len]);
        bytes[head_len..head_len + payload_len].copy_from_slice(payload);
        Frame {
            bytes,
            len: (head_len + payload_len) as u8,
        }
    }

    /// The frame as it goes over the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_7_4_codes() {
        let travelling: Vec<u16> = (0..=u16::MAX).filter(|code| may_travel(*code)).collect();
        let expected: Vec<u16> = (1000..=1003)
            .chain(1007..=1014)
            .chain(3000..=4999)
            .collect();
        assert_eq!(travelling, expected);
    }

    #[test]
    fn section_5_5_1_payloads() {
        assert_eq!(
            parse(b""),
            Ok(Payload {
                code: None,
                reason: ""
            })
        );
        assert_eq!(parse(b"\x03"), Err(Malformed::OneByte));
        assert_eq!(
            parse(b"\x03\xe8"),
            Ok(Payload {
                code: Some(1000),
                reason: ""
            })
        );
        assert_eq!(parse("\x03èadieu".as_bytes()), Err(Malformed::Code(0x03c3)));
        assert_eq!(
            parse(b"\x0f\xa1bye"),
            Ok(Payload {
                code: Some(4001),
                reason: "bye"
            })
        );
        assert_eq!(parse(b"\x03\xedx"), Err(Malformed::Code(1005)));
        assert_eq!(parse(b"\x03\xe8a\xff"), Err(Malformed::Reason(1)));
        assert_eq!(parse(b"\x03\xe8a\xc3"), Err(Malformed::Reason(2)));
    }

    #[test]
    fn a_frame_is_what_it_was_made_of() {
        let long = "é".repeat(100);
        for (code, reason, kept) in [
            (None, "", 0),
            (Some(1000), "", 0),
            (Some(1012), "service restart", 15),
            (Some(4999), long.as_str(), 122),
        ] {
            for mask in [None, Some([9, 8, 7, 6])] {
                let frame = Frame::new(code, reason, mask);
                let header = header::decode(frame.as_bytes()).unwrap();
                assert_eq!(header.first, header::First(0x88));
                assert_eq!(header.mask, mask);
                let mut payload = frame.as_bytes()[header.len..].to_vec();
                assert_eq!(payload.len() as u64, header.payload_len);
                if let Some(key) = mask {
                    Mask::new(key).apply(&mut payload);
                }
                let expected = Payload {
                    code,
                    reason: &reason[..kept],
                };
                assert_eq!(parse(&payload), Ok(expected));
            }
        }
    }
}
