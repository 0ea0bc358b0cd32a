//! The frame header, RFC 6455 §5.2.
//!
//! ```text
//!  byte 0          byte 1          0, 2 or 8 bytes      0 or 4 bytes
//! +-+-+-+-+-------+-+-------------+--------------------+-------------+
//! |F|R|R|R|opcode |M|  length     |  extended length   | masking key |
//! |I|S|S|S|       |A|  0..=125,   |  if 126: 16 bits   | if MASK     |
//! |N|V|V|V|       |S|  126 or 127 |  if 127: 64 bits   |             |
//! | |1|2|3|       |K|             |  network order     |             |
//! +-+-+-+-+-------+-+-------------+--------------------+-------------+
//! ```
//!
//! A header comes in pieces, and most of its rules can be checked before it is complete. So the parts are read one
//! by one: [`First`] from the first byte, [`Second`] from the second, [`payload_len`] as soon as the length is
//! there, and [`decode`] when all of it is.

/// Longest header: two bytes, a 64-bit length and a masking key.
pub const MAX_LEN: usize = 14;

/// Longest payload of a control frame, RFC 6455 §5.5.
pub const MAX_CONTROL_PAYLOAD: u64 = 125;

/// The kind of a frame, RFC 6455 §5.2 and §11.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// 0x0: the next fragment of the message under way.
    Continuation,
    /// 0x1: the first frame of a text message.
    Text,
    /// 0x2: the first frame of a binary message.
    Binary,
    /// 0x8: the end of what this side has to say.
    Close,
    /// 0x9
    Ping,
    /// 0xA
    Pong,
}

impl Opcode {
    /// The opcode with this number, or `None` for the reserved ones (0x3-0x7 and 0xB-0xF).
    pub const fn from_bits(bits: u8) -> Option<Opcode> {
        match bits {
            0x0 => Some(Opcode::Continuation),
            0x1 => Some(Opcode::Text),
            0x2 => Some(Opcode::Binary),
            0x8 => Some(Opcode::Close),
            0x9 => Some(Opcode::Ping),
            0xA => Some(Opcode::Pong),
            _ => None,
        }
    }

    /// Its number on the wire.
    pub const fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0x0,
            Opcode::Text => 0x1,
            Opcode::Binary => 0x2,
            Opcode::Close => 0x8,
            Opcode::Ping => 0x9,
            Opcode::Pong => 0xA,
        }
    }
}

/// The first byte of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First(pub u8);

impl First {
    /// FIN: this is the last frame of its message.
    pub const fn fin(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// RSV1, RSV2 and RSV3 as three bits, RSV1 the highest.
    pub const fn rsv(self) -> u8 {
        (self.0 >> 4) & 0b111
    }

    /// The opcode, or `None` where it is a reserved one.
    pub const fn opcode(self) -> Option<Opcode> {
        Opcode::from_bits(self.0 & 0x0F)
    }

    /// Control frames are those with the highest bit of the opcode set, reserved ones included (§5.5).
    pub const fn is_control(self) -> bool {
        self.0 & 0x08 != 0
    }
}

/// The second byte of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Second(pub u8);

impl Second {
    /// MASK: a masking key follows the length.
    pub const fn masked(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// The seven bits: the length itself up to 125, or the form of the extended one.
    pub const fn short_len(self) -> u8 {
        self.0 & 0x7F
    }

    /// How many bytes of extended length follow: 0, 2 or 8.
    pub const fn extended_len(self) -> usize {
        match self.short_len() {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    /// Length of the whole header in bytes, 2 to 14.
    pub const fn header_len(self) -> usize {
        2 + self.extended_len() + if self.masked() { 4 } else { 0 }
    }
}

/// A payload length as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadLen {
    /// In bytes. The top bit is as it came; §5.2 forbids it.
    pub value: u64,
    /// "The minimal number of bytes MUST be used to encode the length" (§5.2).
    pub minimal: bool,
}

/// The payload length at the beginning of `bytes`, or `None` where more bytes are needed to read it.
pub fn payload_len(bytes: &[u8]) -> Option<PayloadLen> {
    let second = Second(*bytes.get(1)?);
    Some(match second.extended_len() {
        0 => PayloadLen {
            value: u64::from(second.short_len()),
            minimal: true,
        },
        2 => {
            let value = u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?));
            PayloadLen {
                value,
                minimal: value > 125,
            }
        }
        _ => {
            let value = u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?);
            PayloadLen {
                value,
                minimal: value > 0xFFFF,
            }
        }
    })
}

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// FIN, RSV and opcode.
    pub first: First,
    /// Length of the payload in bytes.
    pub payload_len: u64,
    /// The masking key, where there is one.
    pub mask: Option<[u8; 4]>,
    /// Length of the header itself in bytes, 2 to 14.
    pub len: usize,
}

/// The header at the beginning of `bytes`, or `None` where it is not complete yet. It checks no rule.
pub fn decode(bytes: &[u8]) -> Option<Header> {
    let first = First(*bytes.first()?);
    let second = Second(*bytes.get(1)?);
    let len = second.header_len();
    let payload_len = payload_len(bytes)?.value;
    let mask = if second.masked() {
        Some(bytes.get(len - 4..len)?.try_into().ok()?)
    } else {
        None
    };
    Some(Header {
        first,
        payload_len,
        mask,
        len,
    })
}

/// Writes the header of an unfragmented frame without reserved bits into `out` and returns its length.
pub fn encode(
    opcode: Opcode,
    payload_len: u64,
    mask: Option<[u8; 4]>,
    out: &mut [u8; MAX_LEN],
) -> usize {
    out[0] = 0x80 | opcode.bits();
    let mut len = match payload_len {
        0..=125 => {
            out[1] = payload_len as u8;
            2
        }
        126..=0xFFFF => {
            out[1] = 126;
            out[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            out[1] = 127;
            out[2..10].copy_from_slice(&payload_len.to_be_bytes());
            10
        }
    };
    if let Some(key) = mask {
        out[1] |= 0x80;
        out[len..len + 4].copy_from_slice(&key);
        len += 4;
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    /// §5.7, the RFC's own examples.
    #[test]
    fn section_5_7_examples() {
        let unmasked = decode(&[0x81, 0x05, b'H']).unwrap();
        assert!(unmasked.first.fin());
        assert_eq!(unmasked.first.opcode(), Some(Opcode::Text));
        assert_eq!(
            (unmasked.payload_len, unmasked.mask, unmasked.len),
            (5, None, 2)
        );
        let masked = decode(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f]).unwrap();
        assert_eq!((masked.payload_len, masked.len), (5, 6));
        assert_eq!(masked.mask, Some([0x37, 0xfa, 0x21, 0x3d]));
        assert!(!decode(&[0x01, 0x03]).unwrap().first.fin());
        assert_eq!(decode(&[0x82, 0x7E, 0x01, 0x00]).unwrap().payload_len, 256);
        assert_eq!(
            decode(&[0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0])
                .unwrap()
                .payload_len,
            65536
        );
    }

    #[test]
    fn what_is_encoded_is_decoded_and_every_prefix_is_incomplete() {
        for payload_len in [0, 1, 125, 126, 127, 65535, 65536, 1 << 32, (1 << 63) - 1] {
            for mask in [None, Some([1, 2, 3, 4])] {
                for opcode in [Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping] {
                    let mut out = [0; MAX_LEN];
                    let len = encode(opcode, payload_len, mask, &mut out);
                    let header = decode(&out[..len]).unwrap();
                    assert_eq!(header.first.opcode(), Some(opcode));
                    assert_eq!(
                        (header.payload_len, header.mask, header.len),
                        (payload_len, mask, len)
                    );
                    assert!(super::payload_len(&out).unwrap().minimal);
                    for cut in 0..len {
                        assert_eq!(decode(&out[..cut]), None);
                    }
                }
            }
        }
    }

    #[test]
    fn lengths_that_are_not_minimal_are_seen() {
        for (bytes, minimal) in [
            (&[0x82, 126, 0, 125][..], false),
            (&[0x82, 126, 0, 126], true),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], false),
            (&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], true),
        ] {
            assert_eq!(payload_len(bytes).unwrap().minimal, minimal, "{bytes:?}");
        }
    }

    #[test]
    fn opcodes_are_their_bits() {
        for bits in 0..=0xF {
            if let Some(opcode) = Opcode::from_bits(bits) {
                assert_eq!(opcode.bits(), bits);
            }
            let known = matches!(bits, 0..=2 | 8..=10);
            assert_eq!(Opcode::from_bits(bits).is_some(), known);
        }
    }
}
