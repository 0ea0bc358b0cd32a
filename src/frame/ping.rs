//! A Ping of our own (RFC 6455 §5.5.2), with a payload by which its Pong is known.

/// Length of the payload, in bytes.
pub const LEN: usize = 8;

/// A whole Ping frame, masked or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: [u8; 2 + 4 + LEN],
    len: usize,
}

impl Frame {
    /// A Ping with this payload; `mask` is the key where it goes to a server (§5.3).
    pub fn new(payload: [u8; LEN], mask: Option<[u8; 4]>) -> Self {
        let mut bytes = [0; 2 + 4 + LEN];
        bytes[0] = 0x89;
        bytes[1] = LEN as u8;
        let Some(key) = mask else {
            bytes[2..2 + LEN].copy_from_slice(&payload);
            return Frame {
                bytes,
                len: 2 + LEN,
            };
        };
        bytes[1] |= 0x80;
        bytes[2..6].copy_from_slice(&key);
        for (i, byte) in payload.iter().enumerate() {
            bytes[6 + i] = byte ^ key[i % 4];
        }
        let len = bytes.len();
        Frame { bytes, len }
    }

    /// As it goes over the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_the_wire() {
        let plain = Frame::new(*b"12345678", None);
        assert_eq!(plain.as_bytes(), b"\x89\x0812345678");
        let masked = Frame::new([0; LEN], Some([1, 2, 3, 4]));
        assert_eq!(
            masked.as_bytes(),
            [0x89, 0x88, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]
        );
    }
}
