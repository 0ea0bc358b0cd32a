//! Compressed messages, both sides and modes, windows shared or not, random cuts and limits, against the independent
//! judge.
//!
//! The first five bytes of an input say how it is run. The rest are frames: a byte for its kind and length each, then its
//! payload, so that the fuzzer need not find out about headers and masks.
#![no_main]

#[path = "../drive/mod.rs"]
mod drive;
#[path = "../judge/mod.rs"]
mod judge;

use drive::{Frame, Sender};
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;
use wsgate::frame::deflate::DeflateParams;
use wsgate::inspect::{Mode, Rules, Side};

/// Compressed and plain messages, whole or begun, their fragments, and a Ping.
const FIRST: [u8; 8] = [0xC1, 0xC1, 0xC2, 0x41, 0x42, 0x00, 0x80, 0x89];

fuzz_target!(|input: &[u8]| {
    let Some((&[how, limits, hold, cut, bits], mut rest)) = input.split_first_chunk::<5>() else {
        return;
    };
    let rules = Rules {
        mode: if how & 2 == 0 {
            Mode::Enforce
        } else {
            Mode::Observe
        },
        max_message_size: [1 << 20, 300, 15, u64::MAX][usize::from(limits & 3)],
        text_buffer: usize::from(hold),
        ..Rules::default()
    };
    let side = if how & 1 == 0 {
        Side::Client
    } else {
        Side::Server
    };
    let deflate = Some(DeflateParams {
        takeover: how & 4 == 0,
        window_bits: 8 + bits % 8,
    });
    let mut stream = Vec::new();
    while let Some((&kind, after)) = rest.split_first() {
        // The last one takes all that there is.
        let len = usize::from(kind >> 3) * 8;
        let len = if len == 248 {
            after.len()
        } else {
            len.min(after.len())
        };
        let (payload, after) = after.split_at(len);
        let first = FIRST[usize::from(kind & 7)];
        Frame::new(first, payload).write(side, [0, 0x80, 0xFF, kind], &mut stream);
        rest = after;
    }
    let cuts = match cut {
        0 => drive::whole(stream.len()),
        1 => drive::byte_by_byte(stream.len()),
        seed => drive::random_cuts(&mut StdRng::seed_from_u64(seed.into()), stream.len()),
    };
    drive::agree(Sender { side, deflate }, &rules, &stream, &cuts);
});
