//! Random sessions, right and wrong, cut at random: the flow and the independent judge have to agree on all of them.
//!
//! Case `i` has the seed `WSGATE_SEED + i`; a failure prints it, and `WSGATE_SEED=<that> WSGATE_CASES=1` repeats it.
//! Sizes go from small to large with every eight seeds, so that the first failure is seldom the largest one.

mod drive;
mod judge;

use drive::{Frame, Length, Scene};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::{env, iter};
use wsgate::inspect::{Mode, Rules, Side};

#[test]
fn right_sessions_pass_whole() {
    for_each_case(4_000, |rng, size| {
        let side = side(rng);
        let rules = generous(rng);
        let stream = written_session(rng, side, rules.text_buffer, size);
        let judgement = judge::judge(&drive::law(side, &rules), &stream);
        assert!(
            !matches!(judgement.end, judge::End::Broken(_)),
            "{:?}",
            judgement.end
        );
        if judgement.end == judge::End::Open {
            assert_eq!(judgement.passes, stream.len());
        }
        drive::agree(
            side,
            &rules,
            &stream,
            &drive::random_cuts(rng, stream.len()),
        );
    });
}

#[test]
fn truncated_sessions() {
    for_each_case(2_000, |rng, size| {
        let side = side(rng);
        let rules = generous(rng);
        let mut stream = written_session(rng, side, rules.text_buffer, size);
        stream.truncate(rng.gen_range(0..=stream.len()));
        drive::agree(
            side,
            &rules,
            &stream,
            &drive::random_cuts(rng, stream.len()),
        );
    });
}

#[test]
fn corrupted_sessions() {
    for_each_case(8_000, |rng, size| {
        let side = side(rng);
        let rules = Rules {
            mode: mode(rng),
            ..generous(rng)
        };
        let stream = corrupted(rng, side, rules.text_buffer, size);
        drive::agree(
            side,
            &rules,
            &stream,
            &drive::random_cuts(rng, stream.len()),
        );
    });
}

#[test]
fn sessions_beyond_the_limits() {
    for_each_case(2_000, |rng, size| {
        let side = side(rng);
        let hold = hold(rng);
        let rules = Rules {
            mode: mode(rng),
            max_frame_size: length(rng, hold, size) as u64,
            max_message_size: length(rng, hold, size) as u64,
            max_fragments: rng.gen_range(0..6),
            text_buffer: hold,
            ..Rules::default()
        };
        let stream = written_session(rng, side, hold, size);
        drive::agree(
            side,
            &rules,
            &stream,
            &drive::random_cuts(rng, stream.len()),
        );
    });
}

/// However little has come, exactly that has passed which the judge lets pass of so much.
#[test]
fn at_every_byte_all_that_is_proven_has_passed_and_nothing_else() {
    for_each_case(400, |rng, _| {
        let side = side(rng);
        let rules = Rules {
            text_buffer: *[0, 5, 125, 1000].choose(rng).unwrap(),
            ..Rules::default()
        };
        let mut stream = corrupted(rng, side, 10, 8);
        stream.truncate(400);
        let law = drive::law(side, &rules);
        let played = drive::play(side, &rules, &stream, &drive::byte_by_byte(stream.len()));
        for (i, &(passed, ..)) in played.steps.iter().enumerate() {
            let judgement = judge::judge(&law, &stream[..=i]);
            assert_eq!(passed, judgement.passes, "after {} bytes", i + 1);
        }
    });
}

fn for_each_case(cases: u64, case: impl Fn(&mut StdRng, usize)) {
    let cases = env::var("WSGATE_CASES").map_or(cases, |n| n.parse().expect("a number of cases"));
    for i in 0..cases {
        let seed = drive::seed().wrapping_add(i);
        let _scene = Scene(format!("WSGATE_SEED={seed} WSGATE_CASES=1"));
        let rng = &mut StdRng::seed_from_u64(seed);
        // The size is part of what the seed gives, so that one case alone is the same case.
        let size = 1 << (seed % 8);
        case(rng, size);
    }
}

fn side(rng: &mut StdRng) -> Side {
    *[Side::Client, Side::Server].choose(rng).unwrap()
}

fn mode(rng: &mut StdRng) -> Mode {
    *[Mode::Enforce, Mode::Enforce, Mode::Observe]
        .choose(rng)
        .unwrap()
}

fn hold(rng: &mut StdRng) -> usize {
    *[0, 7, 125, 1000, 8 << 10, 64 << 10].choose(rng).unwrap()
}

/// No limit is in the way of a session.
fn generous(rng: &mut StdRng) -> Rules {
    Rules {
        text_buffer: hold(rng),
        ..Rules::default()
    }
}

/// Messages, fragmented and with control frames in between, sometimes a Close at the end.
fn session(rng: &mut StdRng, hold: usize, size: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    for _ in 0..rng.gen_range(0..=size.min(12)) {
        let text = rng.gen_bool(0.7);
        let payload = payload(rng, text, hold, size);
        let opcode = if text { 1 } else { 2 };
        let mut cuts: Vec<usize> = match rng.gen_range(0..3) {
            0 => Vec::new(),
            n => iter::repeat_with(|| rng.gen_range(0..=payload.len()))
                .take(n * size.min(9))
                .collect(),
        };
        cuts.sort_unstable();
        cuts.push(payload.len());
        let (mut start, last) = (0, cuts.len() - 1);
        for (i, end) in cuts.into_iter().enumerate() {
            while rng.gen_bool(0.2) {
                frames.push(control(rng));
            }
            let fin = if i == last { 0x80 } else { 0 };
            let opcode = if i == 0 { opcode } else { 0 };
            frames.push(Frame::new(fin | opcode, &payload[start..end]));
            start = end;
        }
    }
    if rng.gen_bool(0.3) {
        frames.push(close(rng));
        // What comes after a Close is of no interest, right or wrong.
        frames.push(Frame::new(rng.r#gen(), "late"));
    }
    frames
}

fn control(rng: &mut StdRng) -> Frame {
    let first = *[0x89, 0x8A].choose(rng).unwrap();
    let len = *[0, 1, 124, 125].choose(rng).unwrap();
    Frame::new(first, bytes(rng, len))
}

fn close(rng: &mut StdRng) -> Frame {
    let code: u16 = *[1000, 1001, 1011, 1014, 3000, 4999].choose(rng).unwrap();
    let mut reason = text(rng, 120);
    while reason.len() > 123 {
        reason.pop();
    }
    match rng.gen_range(0..3) {
        0 => Frame::new(0x88, ""),
        1 => Frame::new(0x88, code.to_be_bytes()),
        _ => Frame::new(0x88, [&code.to_be_bytes(), reason.as_bytes()].concat()),
    }
}

fn payload(rng: &mut StdRng, is_text: bool, hold: usize, size: usize) -> Vec<u8> {
    let len = length(rng, hold, size);
    if is_text {
        text(rng, len).into_bytes()
    } else {
        bytes(rng, len)
    }
}

/// Around the edges of the three forms of length and of the text buffer, or any.
fn length(rng: &mut StdRng, hold: usize, size: usize) -> usize {
    let near = |edge: usize, rng: &mut StdRng| (edge + 3).saturating_sub(rng.gen_range(0..6));
    match rng.gen_range(0..size.max(2)) {
        0 => 0,
        1..=20 => rng.gen_range(0..size * 16),
        21..=40 => near(125, rng),
        41..=60 => near(hold, rng),
        61..=63 => near(65536, rng),
        _ => rng.gen_range(0..3000),
    }
}

/// About `len` bytes of code points from all planes; exactly so many where the last fits.
fn text(rng: &mut StdRng, len: usize) -> String {
    let ranges: [(u32, u32); 5] = [
        (0, 0x7F),
        (0x80, 0x7FF),
        (0x800, 0xD7FF),
        (0xE000, 0xFFFF),
        (0x1_0000, 0x10_FFFF),
    ];
    // One kind of text, or all mixed.
    let kinds = match rng.gen_range(0..4) {
        0 => 0..1,
        1 => 0..2,
        2 => 2..3,
        _ => 0..5,
    };
    let mut text = String::with_capacity(len + 4);
    while text.len() < len {
        let (first, last) = ranges[rng.gen_range(kinds.clone())];
        // The edges of a range are worth more than its middle.
        let code = match rng.gen_range(0..8) {
            0 => first,
            1 => last,
            _ => rng.gen_range(first..=last),
        };
        text.extend(char::from_u32(code));
    }
    while text.len() > len {
        text.pop();
    }
    text
}

fn bytes(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(bytes.as_mut_slice());
    bytes
}

fn written_session(rng: &mut StdRng, side: Side, hold: usize, size: usize) -> Vec<u8> {
    let frames = session(rng, hold, size);
    written(rng, side, &frames)
}

fn written(rng: &mut StdRng, side: Side, frames: &[Frame]) -> Vec<u8> {
    let mut stream = Vec::new();
    for frame in frames {
        // Keys with zeros and high bits, too: they decide what is seen without unmasking.
        let key = match rng.gen_range(0..4) {
            0 => [0; 4],
            1 => [0x80, 0, 0xFF, 0x7F],
            _ => rng.r#gen(),
        };
        frame.write(side, key, &mut stream);
    }
    stream
}

/// A session with something wrong, most of the time.
fn corrupted(rng: &mut StdRng, side: Side, hold: usize, size: usize) -> Vec<u8> {
    let mut frames = session(rng, hold, size);
    for _ in 0..rng.gen_range(0..3) {
        if !frames.is_empty() {
            spoil(rng, &mut frames);
        }
    }
    let mut stream = written(rng, side, &frames);
    for _ in 0..rng.gen_range(0..3) {
        if stream.is_empty() {
            break;
        }
        let at = rng.gen_range(0..stream.len());
        match rng.gen_range(0..4) {
            0 => stream[at] ^= 1 << rng.gen_range(0..8),
            1 => stream.insert(at, rng.r#gen()),
            2 => {
                stream.remove(at);
            }
            _ => stream.truncate(at),
        }
    }
    stream
}

/// Edits a frame so that the others stay what they were.
fn spoil(rng: &mut StdRng, frames: &mut Vec<Frame>) {
    let at = rng.gen_range(0..frames.len());
    let frame = &mut frames[at];
    match rng.gen_range(0..9) {
        0 => frame.first ^= 1 << rng.gen_range(0..8),
        1 => frame.first = rng.r#gen(),
        2 => *frame = frame.clone().contrary(),
        3 => frame.length = *[Length::In16, Length::In64].choose(rng).unwrap(),
        4 => frame.length = Length::Claimed(rng.r#gen::<u64>() >> rng.gen_range(0..64)),
        5 => {
            let wrong: &[u8] = [
                &[0x80][..],
                &[0xFF],
                &[0xC0, 0x80],
                &[0xED, 0xA0, 0x80],
                &[0xF4, 0x90, 0x80, 0x80],
                &[0xE2, 0x82],
                &[0xF0, 0x9F, 0x98],
            ]
            .choose(rng)
            .unwrap();
            let place = rng.gen_range(0..=frame.payload.len());
            frame.payload.splice(place..place, wrong.iter().copied());
        }
        6 => {
            let cut = rng.gen_range(0..4).min(frame.payload.len());
            frame.payload.truncate(frame.payload.len() - cut);
        }
        7 => {
            frames.remove(at);
        }
        _ => {
            let code: u16 = rng.gen_range(990..1020);
            let payload = [&code.to_be_bytes()[..], &bytes(rng, 1)].concat();
            let len = rng.gen_range(0..=payload.len());
            frames.insert(at, Frame::new(0x88, &payload[..len]));
        }
    }
}
