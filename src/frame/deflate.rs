//! permessage-deflate on the wire, RFC 7692 §7.2: what a compressed message inflates to. Nothing is ever deflated here.
//!
//! [`Inflater`] is the library, asked for one bounded piece at a time; [`Window`] is what a sender may refer back to
//! from one message to the next. Between two messages the window is *all* there is: a message ends between two blocks
//! of deflate data, where an inflater remembers nothing else. So a connection that is silent keeps the bytes of its
//! window, as many as there are, and no inflater (which takes about 48 KiB, however little it has seen).
//!
//! The library is zlib-rs: its inflating is the fastest of those that need no `unsafe` here, and it can stop at the end
//! of a block, which is how that end is told from a message cut short. flate2, whose backend Pingora's features decide
//! (zlib-ng), offers neither. Inflated MiB/s, JSON chat, 64 KiB of room for the output, one core:
//!
//! | message | zlib-rs 0.6 | zlib-ng (flate2) | miniz_oxide 0.8 |
//! |---|---:|---:|---:|
//! | 200 B | 514 | 468 | 74 |
//! | 4 KiB | 401 | 269 | 184 |
//! | 1 MiB | 1242 | 441 | 197 |

use std::cmp::Ordering::{Equal, Greater, Less};
use std::collections::VecDeque;
use std::fmt;
use zlib_rs::{Inflate, InflateFlush, Status};

/// The bytes at the end of a message that its sender leaves out: the rest of an empty stored block (§7.2.1).
pub const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// A whole empty stored block: what is always right between two blocks, and changes nothing there.
const EMPTY_BLOCK: [u8; 5] = [0x00, 0x00, 0x00, 0xFF, 0xFF];

/// The agreed parameters of one direction, §7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateParams {
    /// Whether a message may refer back to those before it.
    pub takeover: bool,
    /// How far it may refer back: 2 to the power of this, in bytes. 8 to 15.
    pub window_bits: u8,
}

impl Default for DeflateParams {
    /// The parameters without an agreement (§7.1.1, §7.1.2).
    fn default() -> Self {
        DeflateParams {
            takeover: true,
            window_bits: 15,
        }
    }
}

/// One inflater of the library.
pub struct Inflater(Inflate);

/// The result of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that were used up.
    pub consumed: usize,
    /// Bytes of the room that were filled.
    pub produced: usize,
    /// Where it stands.
    pub stand: InflateStatus,
}

/// Where an inflater stands after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateStatus {
    /// The inflater needs more input, or more room.
    Open,
    /// A block that says it is the last one has ended (BFINAL, RFC 1951 §3.2.3). What follows is deflate data anew, from
    /// the next whole byte, and the inflater is ready for it; it refers to nothing before it, because a data set ends
    /// with its last block. Chromium and Node's ws forget their window there, too.
    Final,
    /// This is not deflate data.
    Corrupt,
}

impl Inflater {
    /// About what one holds on to, in bytes: its tables and its window.
    pub const SIZE: usize = 48 << 10;

    /// How far back it can refer, in bytes, whatever was agreed.
    pub const WINDOW: usize = 32 << 10;

    /// At the beginning of deflate data.
    pub fn new() -> Self {
        Inflater(Inflate::new(false, 15))
    }

    /// Forgets all it knows.
    pub fn reset(&mut self) {
        self.0.reset(false);
    }

    /// Of an inflater that knows nothing yet: makes it refer back to this.
    pub fn resume(&mut self, window: &Window) {
        let (older, newer) = window.0.as_slices();
        for part in [older, newer] {
            if !part.is_empty() {
                // Refused only to a stream with a header, and this one has none.
                let _ = self.0.set_dictionary(part);
            }
        }
    }

    /// Inflates what fits into `room`, which is not empty.
    ///
    /// Each byte comes out with the byte of the input that completes it and no later; so does the news that the data is
    /// corrupt.
    pub fn step(&mut self, input: &[u8], room: &mut [u8]) -> Step {
        self.call(input, room, InflateFlush::SyncFlush)
    }

    fn call(&mut self, input: &[u8], room: &mut [u8], flush: InflateFlush) -> Step {
        let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, room, flush);
        let consumed = (self.0.total_in() - before_in) as usize;
        let produced = (self.0.total_out() - before_out) as usize;
        let stuck = consumed == 0 && produced == 0 && !input.is_empty();
        let stand = match status {
            Ok(Status::StreamEnd) => {
                self.reset();
                InflateStatus::Final
            }
            Ok(Status::Ok | Status::BufError) if !stuck => InflateStatus::Open,
            Ok(Status::Ok | Status::BufError) | Err(_) => InflateStatus::Corrupt,
        };
        Step {
            consumed,
            produced,
            stand,
        }
    }

    /// Inflates the [`TAIL`] of a message that has to end between two blocks. The caller repeats the call until the end is known;
    /// `room` is at least [`Ending::ROOM`] each time.
    pub fn step_ending(&mut self, ending: &mut Ending, room: &mut [u8]) -> Step {
        const TAIL_AND_EMPTY_BLOCK: [u8; 9] =
            [0x00, 0x00, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0xFF, 0xFF];
        let rest = &TAIL_AND_EMPTY_BLOCK[ending.fed..];
        let mut step = self.call(rest, room, InflateFlush::Block);
        ending.fed += step.consumed;
        ending.between_blocks = match step.stand {
            InflateStatus::Corrupt => Some(false),
            InflateStatus::Open | InflateStatus::Final => match ending.fed.cmp(&TAIL.len()) {
                Less => None,
                Equal => Some(self.is_at_whole_byte(&mut step.stand)),
                Greater => Some(false),
            },
        };
        step
    }

    fn is_at_whole_byte(&mut self, stand: &mut InflateStatus) -> bool {
        let mut step = self.step(&EMPTY_BLOCK, &mut [0; 1]);
        if step.stand == InflateStatus::Final && step.consumed == 0 {
            // The inflater had stopped at the end of the last block.
            *stand = InflateStatus::Final;
            step = self.step(&EMPTY_BLOCK, &mut [0; 1]);
        }
        step == Step {
            consumed: EMPTY_BLOCK.len(),
            produced: 0,
            stand: InflateStatus::Open,
        }
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Inflater::new()
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

/// The end of a message: its [`TAIL`], and the proof that it ends between two blocks, at a whole byte.
///
/// The library does not tell; but asked to stop at the end of a block it leaves alone what follows. So the tail is given
/// to it with an empty block behind: the first must be used up to its last byte and the second be left, and then it must
/// be taken for what it is. Bits that a block left over would spoil it: they are ones, like all of the tail's last byte,
/// and 1, 11 and 111 before zeros begin a last stored block, a last fixed one, and nothing at all.
#[derive(Debug, Default)]
pub struct Ending {
    /// Whether the message ends as it has to, once that is known.
    pub between_blocks: Option<bool>,
    /// Of the tail and the empty block.
    fed: usize,
}

impl Ending {
    /// More than the tail can still bring out: it has 32 bits, and the shortest reference, to 258 bytes, takes two.
    pub const ROOM: usize = 17 * 258 + 1;
}

/// The end of all that a sender has compressed, as far back as it may refer to it.
#[derive(Debug)]
pub struct Window(VecDeque<u8>);

impl Window {
    /// Nothing yet; takes no memory.
    pub const fn new() -> Self {
        Window(VecDeque::new())
    }

    /// Nothing any more.
    pub fn clear(&mut self) {
        self.0 = VecDeque::new();
    }

    /// The memory that it takes, in bytes.
    pub fn memory(&self) -> usize {
        self.0.capacity()
    }

    /// Moves on over `bytes`, keeping the last `size` of all.
    pub fn push(&mut self, bytes: &[u8], size: usize) {
        let bytes = &bytes[bytes.len().saturating_sub(size)..];
        let over = (self.0.len() + bytes.len()).saturating_sub(size);
        self.0.drain(..over.min(self.0.len()));
        let wanted = self.0.len() + bytes.len();
        if wanted > self.0.capacity() {
            // Doubled, but never beyond what it can come to.
            let capacity = (self.0.capacity() * 2).clamp(wanted, size.max(wanted));
            self.0.reserve_exact(capacity - self.0.len());
        }
        self.0.extend(bytes);
    }
}

impl Default for Window {
    fn default() -> Self {
        Window::new()
    }
}

/// How large the window of a direction is.
///
/// Never less than 512 bytes: zlib knows no smaller ones, and quietly takes 512 where 256 was agreed.
pub const fn window_size(terms: DeflateParams) -> usize {
    let bits = if terms.window_bits < 9 {
        9
    } else if terms.window_bits > 15 {
        15
    } else {
        terms.window_bits
    };
    1 << bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inflate(inflater: &mut Inflater, input: &[u8]) -> Result<Vec<u8>, ()> {
        let (mut out, mut at) = (Vec::new(), 0);
        let mut room = [0; 16];
        loop {
            let step = inflater.step(&input[at..], &mut room);
            at += step.consumed;
            out.extend_from_slice(&room[..step.produced]);
            match step.stand {
                InflateStatus::Corrupt => return Err(()),
                InflateStatus::Open | InflateStatus::Final
                    if at < input.len() || step.produced == room.len() => {}
                InflateStatus::Open | InflateStatus::Final => return Ok(out),
            }
        }
    }

    fn ends_between_blocks(inflater: &mut Inflater) -> bool {
        let mut ending = Ending::default();
        let mut room = [0; Ending::ROOM];
        loop {
            inflater.step_ending(&mut ending, &mut room);
            if let Some(done) = ending.between_blocks {
                return done;
            }
        }
    }

    /// §7.2.3, the RFC's own examples, all of them "Hello".
    const EXAMPLES: [&[u8]; 5] = [
        // §7.2.3.1: one block.
        &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00],
        // §7.2.3.3: no compression.
        &[
            0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00,
        ],
        // §7.2.3.4: BFINAL set.
        &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
        // §7.2.3.5: two blocks.
        &[
            0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00,
        ],
        // The same as the first once more.
        &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00],
    ];

    #[test]
    fn section_7_2_3_examples() {
        let mut inflater = Inflater::new();
        for example in EXAMPLES {
            assert_eq!(inflate(&mut inflater, example), Ok(b"Hello".to_vec()));
            assert!(ends_between_blocks(&mut inflater), "{example:02X?}");
        }
    }

    /// §7.2.3.2: the second message refers back to the first.
    #[test]
    fn section_7_2_3_2_sharing_the_window() {
        let again = [0xF2, 0x00, 0x11, 0x00, 0x00];
        let mut inflater = Inflater::new();
        assert_eq!(inflate(&mut inflater, EXAMPLES[0]), Ok(b"Hello".to_vec()));
        assert!(ends_between_blocks(&mut inflater));
        assert_eq!(inflate(&mut inflater, &again), Ok(b"Hello".to_vec()));
        assert!(ends_between_blocks(&mut inflater));
        // Another one, that is given the window.
        let mut window = Window::new();
        window.push(b"He", 512);
        window.push(b"llo", 512);
        let mut other = Inflater::new();
        other.resume(&window);
        assert_eq!(inflate(&mut other, &again), Ok(b"Hello".to_vec()));
        // Without it there is nothing to refer to.
        other.reset();
        assert_eq!(inflate(&mut other, &again), Err(()));
        // Nor is there after a last block.
        assert_eq!(inflate(&mut inflater, EXAMPLES[2]), Ok(b"Hello".to_vec()));
        assert!(ends_between_blocks(&mut inflater));
        assert_eq!(inflate(&mut inflater, &again), Err(()));
    }

    #[test]
    fn what_ends_inside_a_block_is_found_out() {
        for cut_short in [
            &b""[..],
            &EXAMPLES[0][..3],
            &EXAMPLES[0][..6],
            // Its tail was not taken off.
            &[
                0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00, 0x00, 0xFF, 0xFF,
            ],
            // A last block, and no empty one after it.
            &EXAMPLES[2][..7],
            // A stored block that takes the tail for its content, in part and as a whole.
            &[0x00, 0x06, 0x00, 0xF9, 0xFF, b'a'],
        ] {
            let mut inflater = Inflater::new();
            inflate(&mut inflater, cut_short).unwrap();
            assert!(!ends_between_blocks(&mut inflater), "{cut_short:02X?}");
        }
        let filled_by_the_tail = [0x00, 0x05, 0x00, 0xFA, 0xFF, b'a'];
        let mut inflater = Inflater::new();
        inflate(&mut inflater, &filled_by_the_tail).unwrap();
        assert!(ends_between_blocks(&mut inflater));
    }

    #[test]
    fn a_window_keeps_the_last_of_all_and_no_more_memory() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| ((i * 7) >> 2) as u8).collect();
        for step in [1, 3, 100, 511, 512, 513, 3000] {
            let mut window = Window::new();
            for (i, piece) in bytes.chunks(step).enumerate() {
                window.push(piece, 512);
                let end = (i * step + piece.len()).min(bytes.len());
                let wanted = &bytes[end.saturating_sub(512)..end];
                assert!(window.0.iter().eq(wanted), "{step}");
                assert!(window.memory() <= 512);
            }
        }
        assert_eq!(Window::new().memory(), 0);
    }
}
