//! RFC 7692, rule by rule: compressed messages, what passes of them and what is told. Every stream is sent by both
//! sides, whole, byte by byte and at random cuts, with the same result, and the independent judge has to agree.

mod drive;
mod judge;

use drive::compressor::Compressor;
use drive::{Frame, Scene, Sender, frame, written};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::env;
use wsgate::frame::deflate::DeflateParams;
use wsgate::inspect::{Block, Budget, Event, Flow, Kind, Mode, Rules, Side, StopAt, Tally};

const SIDES: [Side; 2] = [Side::Client, Side::Server];

/// FIN, RSV1 and opcode of compressed messages, and of their fragments.
const TEXT: u8 = 0xC1;
const BINARY: u8 = 0xC2;
const TEXT_START: u8 = 0x41;
const BINARY_START: u8 = 0x42;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;
const PLAIN_TEXT: u8 = 0x81;
const PING: u8 = 0x89;

const SHARED: DeflateParams = DeflateParams {
    takeover: true,
    window_bits: 15,
};
const ALONE: DeflateParams = DeflateParams {
    takeover: false,
    window_bits: 15,
};
const BOTH: [DeflateParams; 2] = [SHARED, ALONE];

/// §7.2.3: "Hello" in one block, without compression, in a last block, and in two blocks.
const HELLO: [&[u8]; 4] = [
    &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00],
    &[
        0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00,
    ],
    &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
    &[
        0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00,
    ],
];
/// §7.2.3.2: the same with a reference to the message before.
const HELLO_AGAIN: [u8; 5] = [0xF2, 0x00, 0x11, 0x00, 0x00];

/// `Ok`: all passes. `Err`: the frame after so many is wrong, for this reason, at this byte of the message or limit.
type Want = Result<(), (usize, Kind, u64)>;

#[test]
fn section_7_2_3_examples() {
    for hello in HELLO {
        for terms in BOTH {
            for first in [TEXT, BINARY] {
                let twice = [frame(first, hello), frame(first, hello)];
                check(terms, &twice, Ok(()));
            }
            for cut in 0..=hello.len() {
                let (start, rest) = hello.split_at(cut);
                let fragments = [
                    frame(TEXT_START, start),
                    frame(PING, b"\xFF"),
                    frame(MORE, ""),
                    frame(LAST, rest),
                    frame(PLAIN_TEXT, "plain"),
                ];
                check(terms, &fragments, Ok(()));
            }
        }
    }
    let again = [
        frame(TEXT, HELLO[0]),
        frame(PLAIN_TEXT, "a"),
        frame(BINARY, HELLO_AGAIN),
    ];
    check(SHARED, &again, Ok(()));
    check(ALONE, &again, Err((2, Kind::DeflateInvalid, 1)));
    // A last block is the end of what can be referred to.
    let after_last = [frame(TEXT, HELLO[2]), frame(TEXT, HELLO_AGAIN)];
    check(SHARED, &after_last, Err((1, Kind::DeflateInvalid, 1)));
}

/// §7.2.3.6: nothing at all is one byte.
#[test]
fn section_7_2_3_6_empty_messages() {
    for terms in BOTH {
        check(
            terms,
            &[frame(TEXT, [0]), frame(BINARY, [0]), frame(TEXT, HELLO[0])],
            Ok(()),
        );
        let in_fragments = [frame(TEXT_START, ""), frame(MORE, [0]), frame(LAST, "")];
        check(terms, &in_fragments, Ok(()));
    }
    check(ALONE, &[frame(TEXT, "")], Ok(()));
    check(
        SHARED,
        &[frame(TEXT, "")],
        Err((0, Kind::DeflateUnfinished, 0)),
    );
    check(
        SHARED,
        &[frame(TEXT_START, ""), frame(LAST, "")],
        Err((1, Kind::DeflateUnfinished, 0)),
    );
}

/// §6: on the first frame of a message and nowhere else.
#[test]
fn section_6_rsv1() {
    for terms in BOTH {
        for (wrong, passes) in [
            (vec![frame(TEXT_START, HELLO[0]), frame(LAST | 0x40, [])], 1),
            (vec![frame(0x01, "a"), frame(LAST | 0x40, HELLO[0])], 1),
            (vec![frame(0xC9, "")], 0),
            (vec![frame(0xCA, "")], 0),
            (vec![frame(0xC8, "")], 0),
            (vec![frame(TEXT, HELLO[0]), frame(TEXT | 0x20, HELLO[0])], 1),
            (vec![frame(0x91, "a")], 0),
            (vec![frame(0xC0, HELLO[0])], 0),
        ] {
            check_all(
                &Rules::default(),
                Some(terms),
                &wrong,
                Err((passes, Kind::ReservedBits, AT_FRAME)),
            );
        }
    }
    // Not agreed.
    check_all(
        &Rules::default(),
        None,
        &[frame(TEXT, HELLO[0])],
        Err((0, Kind::CompressionNotAgreed, AT_FRAME)),
    );
}

#[test]
fn section_8_1_text_that_is_not_utf8() {
    for terms in BOTH {
        for (wrong, at) in [
            (&b"\xFF"[..], 0),
            (b"ab\xC3\x28cd", 3),
            ("né\u{0}".as_bytes(), u64::MAX),
            (b"ab\xED\xA0\x80", 3),
            (b"abc\xF0\x9F\x98", 6),
        ] {
            let mut compressor = Compressor::new(terms);
            let fine = compressor.message("grüße".as_bytes());
            let deflated = compressor.message(wrong);
            let late = compressor.message(b"late");
            let kind = if at == 6 {
                Kind::TextUnfinished
            } else {
                Kind::TextNotUtf8
            };
            let want = if at == u64::MAX {
                Ok(())
            } else {
                Err((1, kind, at))
            };
            let whole = [
                frame(TEXT, &fine),
                frame(TEXT, &deflated),
                frame(TEXT, &late),
            ];
            check(terms, &whole, want);
            // Binary is only inflated.
            let binary = [
                frame(TEXT, &fine),
                frame(BINARY, &deflated),
                frame(TEXT, &late),
            ];
            check(terms, &binary, Ok(()));
        }
        // The proof is in the fragment where it inflates.
        let mut compressor = Compressor::new(terms);
        let start = compressor.part(b"ab\xE2\x82");
        let rest = compressor.message(b"\xAC\xE2\x28");
        let fragments = [
            frame(TEXT_START, start),
            frame(PING, "x"),
            frame(LAST, rest),
        ];
        check(terms, &fragments, Err((2, Kind::TextNotUtf8, 6)));
    }
}

#[test]
fn section_7_2_2_what_does_not_inflate() {
    for terms in BOTH {
        for (wrong, at) in [
            // A block of no type.
            (&[0x06][..], 0),
            (&[0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0x06], 2),
            // The length of a stored block and its complement.
            (&[0x00, 0x05, 0x00, 0xFA, 0xFE, 0x48], 0),
            // A reference to what is not there.
            (&HELLO_AGAIN, 1),
            // Too many codes, and none for the end of the block.
            (&[0xFC, 0xFF, 0xFF], 0),
        ] {
            for first in [TEXT, BINARY] {
                let stream = [
                    frame(PLAIN_TEXT, "fine"),
                    frame(first, wrong),
                    frame(first, HELLO[0]),
                ];
                check(terms, &stream, Err((1, Kind::DeflateInvalid, at)));
            }
        }
    }
    for (unfinished, at) in [
        (&HELLO[0][..3], 2),
        (&HELLO[0][..5], 4),
        (&HELLO[2][..7], 5),
        (&[0x00, 0x06, 0x00, 0xF9, 0xFF, 0x61], 1),
    ] {
        let stream = [frame(BINARY, unfinished), frame(BINARY, [0])];
        check(ALONE, &stream, Ok(()));
        check(SHARED, &stream, Err((0, Kind::DeflateUnfinished, at)));
    }
}

/// Bombs: no more is inflated than the limit, whatever is in them.
#[test]
fn the_limit_counts_what_is_inflated() {
    let rules = Rules {
        max_message_size: 10_000,
        ..Rules::default()
    };
    for terms in BOTH {
        for first in [TEXT, BINARY] {
            for (len, want) in [
                (9_999, Ok(())),
                (10_000, Ok(())),
                (10_001, Err((1, Kind::MessageTooBig, 10_000))),
                (1_000_000, Err((1, Kind::MessageTooBig, 10_000))),
            ] {
                let mut compressor = Compressor::new(terms);
                let stream = [
                    frame(TEXT, compressor.message(b"fine")),
                    frame(first, compressor.message(&vec![b'a'; len])),
                ];
                assert!(stream[1].payload.len() < 2_000);
                check_all(&rules, Some(terms), &stream, want);
            }
        }
        // Over fragments; and what does not shrink may be longer on the wire than the limit.
        let mut compressor = Compressor::new(terms);
        let noise: Vec<u8> = noise(10_000);
        let stream = [
            frame(BINARY_START, compressor.part(&noise[..6_000])),
            frame(LAST, compressor.message(&noise[6_000..])),
            frame(BINARY_START, compressor.part(&noise[..6_000])),
            frame(LAST, compressor.message(&noise[5_999..])),
        ];
        check_all(
            &rules,
            Some(terms),
            &stream,
            Err((3, Kind::MessageTooBig, 10_000)),
        );
    }
}

#[test]
fn windows_of_every_size() {
    let words: Vec<u8> = (0..3000u32)
        .flat_map(|i| {
            format!(
                "{{\"id\":{},\"text\":\"grüße {}\"}},",
                i * 7919 % 997,
                i % 13
            )
            .into_bytes()
        })
        .collect();
    for window_bits in 9..=15 {
        let terms = DeflateParams {
            takeover: true,
            window_bits,
        };
        let mut compressor = Compressor::new(terms);
        let mut stream: Vec<Frame> = Vec::new();
        let mut at = 0;
        for len in [200, 3_000, 1, 40_000, 700, 0, 200]
            .into_iter()
            .cycle()
            .take(14)
        {
            let payload: Vec<u8> = words.iter().copied().cycle().skip(at).take(len).collect();
            stream.push(frame(BINARY, compressor.message(&payload)));
            at = (at + len) % words.len();
        }
        check(terms, &stream, Ok(()));
        let (bytes, _) = written(Side::Client, &stream);
        let mut flow = Flow::new(Side::Client).with_compression(Some(terms));
        assert_eq!(flow.memory_change(), 0);
        let (rules, mut block, mut tally) = (Rules::default(), Block::default(), Tally::default());
        let passage = flow.inspect(&rules, &bytes, StopAt::End, &mut block, &mut tally);
        assert_eq!((passage.event, passage.release), (None, bytes.len()));
        // Between messages there is the window and nothing else.
        assert_eq!(flow.memory_change(), 1 << window_bits);
        assert_eq!(flow.memory_change(), 0);
    }
}

/// Compressed text up to the text buffer passes whole or not at all; what is longer passes in pieces, never with its end.
#[test]
fn compressed_text_is_held_like_plain_text() {
    for hold in [20, 64 << 10] {
        let rules = Rules {
            text_buffer: hold,
            ..Rules::default()
        };
        for terms in BOTH {
            let mut text = noise(300)
                .iter()
                .map(|byte| byte % 128)
                .collect::<Vec<u8>>();
            check_all(
                &rules,
                Some(terms),
                &[frame(TEXT, Compressor::new(terms).message(&text))],
                Ok(()),
            );
            text[299] = 0xC3;
            let stream = [frame(TEXT, Compressor::new(terms).message(&text))];
            check_all(
                &rules,
                Some(terms),
                &stream,
                Err((0, Kind::TextUnfinished, 300)),
            );
        }
    }
}

/// More flows than the pool keeps inflaters for, in turns and in two pools: it makes no difference.
#[test]
fn flows_that_share_a_pool_do_not_mix() {
    let mut rng = StdRng::seed_from_u64(drive::seed());
    let mut blocks = [Block::default(), Block::default()];
    let (rules, mut tally) = (Rules::default(), Tally::default());
    let mut flows: Vec<_> = (0..80)
        .map(|i| {
            let terms = if i % 4 == 3 { ALONE } else { SHARED };
            (
                Flow::new(Side::Server).with_compression(Some(terms)),
                Compressor::new(terms),
                i,
            )
        })
        .collect();
    for _ in 0..2_000 {
        // Some of them often, and so found where they were left.
        let at = if rng.r#gen() {
            rng.gen_range(0..80)
        } else {
            rng.gen_range(0..5)
        };
        let (flow, compressor, i) = &mut flows[at];
        let text = format!(
            "{{\"flow\":{i},\"n\":{},\"text\":\"Grüße an alle, {i} {i}\"}}",
            rng.gen_range(0..9)
        )
        .repeat(rng.gen_range(1..5));
        let (stream, _) = written(
            Side::Server,
            &[frame(TEXT, compressor.message(text.as_bytes()))],
        );
        let block = &mut blocks[usize::from(rng.gen_bool(0.2))];
        let before = tally.compressed.inflated;
        let cut = rng.gen_range(0..=stream.len());
        let first = flow.inspect(&rules, &stream[..cut], StopAt::End, block, &mut tally);
        assert_eq!(first.event, None);
        let block = &mut blocks[usize::from(rng.gen_bool(0.2))];
        let rest = flow.inspect(
            &rules,
            &stream[first.release..],
            StopAt::End,
            block,
            &mut tally,
        );
        assert_eq!(
            (rest.event, first.release + rest.release),
            (None, stream.len())
        );
        assert_eq!(tally.compressed.inflated - before, text.len() as u64);
    }
}

/// Observing, everything passes; what is judged of it after a wrong message is what can be understood.
#[test]
fn observing() {
    let rules = Rules {
        mode: Mode::Observe,
        max_message_size: 1_000,
        ..Rules::default()
    };
    for terms in BOTH {
        let mut compressor = Compressor::new(terms);
        let mut messages = vec![
            frame(TEXT, compressor.message(b"ab\xFFcd, ab, cd")),
            frame(TEXT, compressor.message(b"ab, cd")),
            frame(TEXT, compressor.message("é".as_bytes())),
        ];
        all_passes(&rules, terms, &messages, &[Kind::TextNotUtf8]);
        messages.push(frame(BINARY, compressor.message(&[b'a'; 5_000])));
        messages.push(frame(TEXT, compressor.message(b"aaaaaaaaaa\xC3")));
        let told = if terms.takeover {
            // Not understood any more: it may refer to what was not inflated.
            &[Kind::TextNotUtf8, Kind::MessageTooBig][..]
        } else {
            &[Kind::TextNotUtf8, Kind::MessageTooBig, Kind::TextUnfinished]
        };
        all_passes(&rules, terms, &messages, told);
        // Both in one frame.
        let both = [frame(
            TEXT,
            [&[0x00, 0x01, 0x00, 0xFE, 0xFF, 0xFF][..], &[0x06]].concat(),
        )];
        all_passes(
            &rules,
            terms,
            &both,
            &[Kind::TextNotUtf8, Kind::DeflateInvalid],
        );
        let interrupted = [
            frame(TEXT_START, &HELLO[0][..3]),
            frame(TEXT, HELLO[0]),
            frame(TEXT, HELLO[0]),
        ];
        all_passes(&rules, terms, &interrupted, &[Kind::MessageInsideMessage]);
    }
}

// What a call may do.

/// Every budget there is, at every cut: the same is found, at the same place, and no more passes than is proven.
#[test]
fn every_budget_comes_to_the_same() {
    let json = "{\"é\":\"🌍\"}".repeat(30).into_bytes();
    let budgets: Vec<Budget> = (1..=300)
        .flat_map(|n| [Budget::new(n), Budget::default().inflating(n)])
        .collect();
    for terms in BOTH {
        let mut compressor = Compressor::new(terms);
        let (start, rest) = (
            compressor.part(&json[..200]),
            compressor.message(&json[200..]),
        );
        let mut sent = vec![
            frame(TEXT_START, start),
            frame(PING, "p"),
            frame(LAST, rest),
            frame(PLAIN_TEXT, "plain"),
            frame(BINARY, compressor.message(&[b'a'; 900])),
        ];
        for (wrong, max_message_size) in [
            (frame(TEXT, compressor.message(&json)), 1_000),
            (frame(BINARY, compressor.message(&[b'b'; 1_001])), 1_000),
            (
                frame(TEXT, [&compressor.part(&json[..300])[..], &[6]].concat()),
                1_000,
            ),
            (
                frame(TEXT, compressor.message(&[&json[..380], b"\xFF"].concat())),
                1_000,
            ),
        ] {
            sent.push(wrong);
            for hold in [10, 64 << 10] {
                let rules = Rules {
                    max_message_size,
                    text_buffer: hold,
                    ..Rules::default()
                };
                for side in SIDES {
                    let deflate = Some(terms);
                    let sender = Sender { side, deflate };
                    let (stream, _) = written(side, &sent);
                    for cuts in [
                        drive::whole(stream.len()),
                        drive::byte_by_byte(stream.len()),
                    ] {
                        let _scene = Scene(format!("{sender:?}, {sent:02X?}"));
                        drive::agree_spending(sender, &rules, &stream, &cuts, &budgets);
                    }
                }
            }
            sent.pop();
        }
    }
}

/// A call does no more than it may, give or take a code and the end of a message, however much one read holds.
#[test]
fn a_budget_bounds_what_is_inflated_at_once() {
    const WORK: usize = 64 << 10;
    for terms in BOTH {
        let mut compressor = Compressor::new(terms);
        let bombs: Vec<Frame> = (0..5)
            .map(|_| frame(BINARY, compressor.message(&[0; 1 << 20])))
            .collect();
        for side in SIDES {
            let (stream, _) = written(side, &bombs);
            let mut flow = Flow::new(side).with_compression(Some(terms));
            let (rules, mut block, mut tally) =
                (Rules::default(), Block::default(), Tally::default());
            let (mut window, mut calls) = (&stream[..], 0);
            loop {
                block.budget = Budget::new(WORK);
                let passage = flow.inspect(&rules, window, StopAt::End, &mut block, &mut tally);
                assert_eq!(passage.event, None);
                let inflated = block.budget.inflated();
                assert!(inflated < WORK as u64 + 5_000, "{inflated} bytes");
                window = &window[passage.release..];
                calls += 1;
                if !passage.spent {
                    break;
                }
            }
            assert!(window.is_empty());
            assert_eq!(tally.compressed.inflated, 5 << 20);
            assert!(calls >= 80, "{calls} calls");
        }
    }
}

// Random sessions.

#[test]
fn right_sessions_pass_whole() {
    for_each_case(1_500, |rng, size| {
        let (sender, rules) = (sender(rng), rules(rng, Mode::Enforce));
        let stream = session(rng, sender, size);
        let judgement = judge::judge(&drive::law(sender, &rules), &stream);
        assert_eq!(judgement.end, judge::End::Open);
        assert_eq!(judgement.passes, stream.len());
        let cuts = drive::random_cuts(rng, stream.len());
        drive::agree(sender, &rules, &stream, &cuts);
    });
}

#[test]
fn corrupted_sessions() {
    for_each_case(6_000, |rng, size| {
        let mode = *[Mode::Enforce, Mode::Enforce, Mode::Observe]
            .choose(rng)
            .unwrap();
        let (sender, mut rules) = (sender(rng), rules(rng, mode));
        if rng.gen_bool(0.3) {
            rules.max_message_size = rng.gen_range(0..2_000);
        }
        let mut stream = session(rng, sender, size);
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
        let cuts = drive::random_cuts(rng, stream.len());
        drive::agree(sender, &rules, &stream, &cuts);
    });
}

/// Bytes that nobody compressed.
#[test]
fn arbitrary_payloads() {
    for_each_case(6_000, |rng, size| {
        let mode = *[Mode::Enforce, Mode::Observe].choose(rng).unwrap();
        let (sender, rules) = (sender(rng), rules(rng, mode));
        let mut frames = Vec::new();
        for _ in 0..rng.gen_range(1..4) {
            let mut payload = vec![0; rng.gen_range(0..=size * 2)];
            rng.fill(payload.as_mut_slice());
            if let Some(first) = payload.first_mut() {
                // A block of some type, and not always the last one.
                *first = *first & 0xF8 | *[0, 2, 4, 4, 5, 3].choose(rng).unwrap();
            }
            let first = *[TEXT, BINARY].choose(rng).unwrap();
            frames.push(frame(first, payload));
        }
        let (stream, _) = written(sender.side, &frames);
        let cuts = drive::random_cuts(rng, stream.len());
        drive::agree(sender, &rules, &stream, &cuts);
    });
}

fn for_each_case(cases: u64, case: impl Fn(&mut StdRng, usize)) {
    let cases = env::var("WSGATE_CASES").map_or(cases, |n| n.parse().expect("a number of cases"));
    for i in 0..cases {
        let seed = drive::seed().wrapping_add(i);
        let _scene = Scene(format!("WSGATE_SEED={seed} WSGATE_CASES=1"));
        case(&mut StdRng::seed_from_u64(seed), 1 << (seed % 8));
    }
}

fn sender(rng: &mut StdRng) -> Sender {
    Sender {
        side: *SIDES.choose(rng).unwrap(),
        deflate: Some(DeflateParams {
            takeover: rng.r#gen(),
            window_bits: rng.gen_range(8..=15),
        }),
    }
}

fn rules(rng: &mut StdRng, mode: Mode) -> Rules {
    Rules {
        mode,
        text_buffer: *[0, 7, 125, 1000, 64 << 10].choose(rng).unwrap(),
        ..Rules::default()
    }
}

/// Compressed and plain messages, fragmented, with Pings in between.
fn session(rng: &mut StdRng, sender: Sender, size: usize) -> Vec<u8> {
    let mut compressor = Compressor::new(sender.deflate.unwrap());
    let mut frames = Vec::new();
    for _ in 0..rng.gen_range(0..=size.min(10)) {
        let text: bool = rng.r#gen();
        let len = rng.gen_range(0..=size * 30);
        let mut payload = match rng.gen_range(0..4) {
            0 if !text => noise(len),
            0 => "aé".repeat(len / 3).into_bytes(),
            _ => (0..len / 16)
                .flat_map(|_| {
                    format!("{{\"n\":{},\"é\":\"🌍\"}}", rng.gen_range(0..50)).into_bytes()
                })
                .collect(),
        };
        let compressed = rng.gen_bool(0.8);
        if compressed {
            payload = compressor.random(&payload, rng);
        }
        let opcode = if text { 1 } else { 2 };
        let mut cuts: Vec<usize> = (0..*[0, 0, 1, 3].choose(rng).unwrap())
            .map(|_| rng.gen_range(0..=payload.len()))
            .collect();
        cuts.sort_unstable();
        cuts.push(payload.len());
        let (mut start, last) = (0, cuts.len() - 1);
        for (i, end) in cuts.into_iter().enumerate() {
            let mut first = if i == 0 { opcode } else { 0 };
            first |= if i == 0 && compressed { 0x40 } else { 0 };
            first |= if i == last { 0x80 } else { 0 };
            frames.push(frame(first, &payload[start..end]));
            start = end;
            if rng.gen_bool(0.2) {
                frames.push(frame(PING, noise(rng.gen_range(0..=125))));
            }
        }
    }
    written(sender.side, &frames).0
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(len as u64).fill(bytes.as_mut_slice());
    bytes
}

// How a row is checked.

/// Told is where the frame begins.
const AT_FRAME: u64 = u64::MAX;

fn check(terms: DeflateParams, sent: &[Frame], want: Want) {
    check_all(&Rules::default(), Some(terms), sent, want);
}

fn check_all(rules: &Rules, deflate: Option<DeflateParams>, sent: &[Frame], want: Want) {
    let mut rng = StdRng::seed_from_u64(drive::seed());
    for side in SIDES {
        let sender = Sender { side, deflate };
        let (stream, starts) = written(side, sent);
        let mut all = vec![
            drive::whole(stream.len()),
            drive::byte_by_byte(stream.len()),
        ];
        all.extend((0..4).map(|_| drive::random_cuts(&mut rng, stream.len())));
        for cuts in all {
            let _scene = Scene(format!("{sender:?}, {} pieces, {sent:02X?}", cuts.len()));
            let played = drive::play(sender, rules, &stream, &cuts);
            let first = played.events.first().map(|(_, event)| event.clone());
            match (want, first) {
                (Ok(()), None) => assert_eq!(played.passed, stream.len()),
                (Err((frames, kind, at)), Some(Event::Violation(violation))) => {
                    let at = if at == AT_FRAME {
                        starts[frames] as u64
                    } else {
                        at
                    };
                    assert_eq!((violation.kind, violation.place().value()), (kind, at));
                    let more = starts[frames]..starts[frames + 1];
                    assert!(more.contains(&played.passed), "{} passed", played.passed);
                    let held = sent[frames].first & 0x0F == 1
                        && sent[frames].payload.len() <= rules.text_buffer;
                    assert!(!held || played.passed == starts[frames]);
                }
                (want, first) => panic!("{first:?} where {want:?} is right"),
            }
            drive::agree(sender, rules, &stream, &cuts);
        }
    }
}

fn all_passes(rules: &Rules, terms: DeflateParams, sent: &[Frame], kinds: &[Kind]) {
    let mut rng = StdRng::seed_from_u64(drive::seed());
    for side in SIDES {
        let deflate = Some(terms);
        let sender = Sender { side, deflate };
        let (stream, _) = written(side, sent);
        for cuts in [
            drive::whole(stream.len()),
            drive::byte_by_byte(stream.len()),
            drive::random_cuts(&mut rng, stream.len()),
        ] {
            let _scene = Scene(format!("{sender:?}, cut at {cuts:?}, {sent:02X?}"));
            let played = drive::play(sender, rules, &stream, &cuts);
            assert_eq!(played.passed, stream.len());
            assert_eq!(played.kinds(), kinds);
        }
    }
}
