//! The fast path: a whole message in one frame, uncompressed, complete and valid. Most messages are.
//!
//! [`Flow::pass_at_once`] states the rules for such a frame a second time, and accepts no frame that the walk would not pass: whatever
//! is unusual or wrong about a frame is left to the walk. `tests/inspect.rs` holds the two equal: it runs every case at every cut, and
//! a frame that comes in two pieces never takes the fast path.

use super::Flow;
use super::state::FrameState;
use crate::frame::header::{self, Opcode, Second};
use crate::frame::mask::Mask;
use crate::inspect::{Block, Rules, Side, Tally};

/// The first byte of an uncompressed text message in one frame.
const WHOLE_TEXT: u8 = 0x80 | Opcode::Text.bits();
/// The first byte of an uncompressed binary message in one frame.
const WHOLE_BINARY: u8 = 0x80 | Opcode::Binary.bits();

impl Flow {
    /// The length of the frame at the beginning of `bytes`, in bytes, if the fast path passes it; the frame is then counted in `tally`.
    /// No state of the flow changes.
    #[inline]
    pub(super) fn pass_at_once(
        &self,
        rules: &Rules,
        bytes: &[u8],
        block: &mut Block,
        tally: &mut Tally,
    ) -> Option<usize> {
        let &[first, second, ..] = bytes else {
            return None;
        };
        let text = match first {
            WHOLE_TEXT => true,
            WHOLE_BINARY => false,
            _ => return None,
        };
        let len = header::payload_len(bytes).filter(|len| len.minimal)?.value;
        let is_expected = matches!(self.frame, FrameState::Header)
            && self.message.is_none()
            && self.stopped.is_none()
            && self.inflation.is_none()
            && Second(second).masked() == (self.from == Side::Client)
            && len <= rules.max_frame_size.min(rules.max_message_size)
            && len <= Block::LEN as u64
            && rules.max_fragments > 0;
        if !is_expected {
            return None;
        }
        let (header, len) = (Second(second).header_len(), len as usize);
        let payload = bytes.get(header..header + len)?;
        if text && rules.inspect {
            let key = Second(second)
                .masked()
                .then(|| bytes[..header].last_chunk());
            let is_valid = match key.flatten() {
                None => simdutf8::basic::from_utf8(payload).is_ok(),
                Some(key) => {
                    let mut mask = Mask::new(*key);
                    mask.is_ascii(payload) || {
                        mask.apply_to(payload, &mut block.copy[..]);
                        simdutf8::basic::from_utf8(&block.copy[..len]).is_ok()
                    }
                }
            };
            if !is_valid {
                return None;
            }
        }
        let kind = usize::from(!text);
        tally.messages[kind] += 1;
        tally.bytes[kind] += len as u64;
        Some(header + len)
    }
}
