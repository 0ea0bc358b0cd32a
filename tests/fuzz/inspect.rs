//! The inspector, both sides and modes, random cuts and limits, against the independent judge.
//!
//! The first four bytes of an input say how it is run, the rest is the stream.
#![no_main]

#[path = "../drive/mod.rs"]
mod drive;
#[path = "../judge/mod.rs"]
mod judge;

use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;
use wsgate::inspect::{Mode, Rules, Side};

fuzz_target!(|input: &[u8]| {
    let Some((&[how, limits, hold, cut], stream)) = input.split_first_chunk::<4>() else {
        return;
    };
    let pick = |bits: u8, of: [u64; 4]| of[usize::from(bits & 3)];
    let rules = Rules {
        mode: if how & 2 == 0 {
            Mode::Enforce
        } else {
            Mode::Observe
        },
        max_frame_size: pick(limits, [1 << 20, 200, 10, u64::MAX]),
        max_message_size: pick(limits >> 2, [1 << 20, 300, 15, u64::MAX]),
        max_fragments: pick(limits >> 4, [1024, 4, 2, 0]) as u32,
        text_buffer: usize::from(hold),
        ..Rules::default()
    };
    let side = if how & 1 == 0 {
        Side::Client
    } else {
        Side::Server
    };
    let cuts = match cut {
        0 => drive::whole(stream.len()),
        1 => drive::byte_by_byte(stream.len()),
        seed => drive::random_cuts(&mut StdRng::seed_from_u64(seed.into()), stream.len()),
    };
    drive::agree(side, &rules, stream, &cuts);
});
