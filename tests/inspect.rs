//! RFC 6455, rule by rule: what passes, what is told, and where. Every stream is sent by both sides, whole, byte by
//! byte and at random cuts, with the same result; and the independent judge has to be of the same opinion.

mod drive;
mod judge;

use drive::{Cuts, Frame, Length, Played, Scene, frame, written};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wsgate::inspect::{Block, Budget, Event, Flow, Kind, Mode, Rules, Side, StopAt, Tally};

const SIDES: [Side; 2] = [Side::Client, Side::Server];

/// FIN and opcode of whole messages, and of their fragments.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const TEXT_START: u8 = 0x01;
const BINARY_START: u8 = 0x02;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

/// How a stream ends.
#[derive(Clone, Copy, Debug)]
enum Want {
    /// All is well so far.
    Open,
    Close(Option<u16>),
    /// A Close of which the code alone may pass.
    Garbled(Option<u16>),
    /// A rule is broken by the frame after those that passed.
    Frame(Kind),
    /// A rule is broken; this byte of the message, or this limit, is told.
    At(Kind, u64),
}
use Want::{At, Open};

#[test]
fn section_5_1_masking() {
    for first in [TEXT, BINARY, CLOSE, PING, PONG] {
        for payload in ["", "ab"] {
            let stream = [text("fine"), frame(first, payload).contrary(), text("late")];
            for side in SIDES {
                let kind = match side {
                    Side::Client => Kind::MaskMissing,
                    Side::Server => Kind::MaskPresent,
                };
                check_from(
                    side,
                    &Rules::default(),
                    &stream,
                    frames(1),
                    Want::Frame(kind),
                );
            }
        }
    }
}

#[test]
fn section_5_2_reserved_bits() {
    for rsv in [0x40, 0x20, 0x10, 0x60, 0x50, 0x30, 0x70] {
        for first in [TEXT, TEXT_START, BINARY, CLOSE, PING, PONG] {
            let stream = [binary("fine"), frame(first | rsv, "ab")];
            // RFC 7692 §6: that it is compressed, which was not agreed.
            let kind = match (first, rsv) {
                (TEXT | TEXT_START | BINARY, 0x40) => Kind::CompressionNotAgreed,
                _ => Kind::ReservedBits,
            };
            check(&stream, frames(1), Want::Frame(kind));
        }
        let stream = [frame(TEXT_START, "a"), frame(LAST | rsv, "b")];
        check(&stream, frames(1), Want::Frame(Kind::ReservedBits));
    }
}

#[test]
fn section_5_2_reserved_opcodes() {
    for opcode in [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        for fin in [0x80, 0] {
            let bad = frame(fin | opcode, "ab");
            let alone = std::slice::from_ref(&bad);
            check(alone, frames(0), Want::Frame(Kind::ReservedOpcode));
            let stream = [frame(TEXT_START, "a"), bad, frame(LAST, "b")];
            check(&stream, frames(1), Want::Frame(Kind::ReservedOpcode));
        }
    }
}

#[test]
fn section_5_2_lengths() {
    let not_minimal = Want::Frame(Kind::LengthNotMinimal);
    for (len, form, want, passes) in [
        (125, Length::Shortest, Open, 1),
        (126, Length::Shortest, Open, 1),
        (65535, Length::Shortest, Open, 1),
        (65536, Length::Shortest, Open, 1),
        (0, Length::In16, not_minimal, 0),
        (125, Length::In16, not_minimal, 0),
        (126, Length::In16, Open, 1),
        (0, Length::In64, not_minimal, 0),
        (125, Length::In64, not_minimal, 0),
        (126, Length::In64, not_minimal, 0),
        (65535, Length::In64, not_minimal, 0),
        (65536, Length::In64, Open, 1),
    ] {
        for first in [TEXT, BINARY] {
            let stream = [frame(first, vec![b'a'; len]).length(form)];
            check(&stream, frames(passes), want);
        }
    }
    for claim in [1 << 63, u64::MAX, (1 << 63) | 5] {
        let stream = [
            text("a"),
            frame(BINARY, "abc").length(Length::Claimed(claim)),
        ];
        check(&stream, frames(1), Want::Frame(Kind::LengthTopBit));
    }
}

/// The largest length that may be said: nothing is allocated for it, and with no limit in the way it is waited for.
#[test]
fn section_5_2_a_header_that_claims_everything() {
    let claim = (1 << 63) - 1;
    for first in [TEXT, BINARY, TEXT_START] {
        let stream = [frame(first, "abc").length(Length::Claimed(claim))];
        let limit = Rules::default().max_frame_size;
        check(&stream, frames(0), At(Kind::FrameTooBig, limit));
        let boundless = Rules {
            max_frame_size: u64::MAX,
            max_message_size: u64::MAX,
            ..Rules::default()
        };
        check_under(&boundless, &stream, (0, 3), Open);
        let message_only = Rules {
            max_frame_size: u64::MAX,
            ..Rules::default()
        };
        let limit = message_only.max_message_size;
        check_under(
            &message_only,
            &stream,
            frames(0),
            At(Kind::MessageTooBig, limit),
        );
    }
    // Two of them: their sum does not fit in what counts them.
    let boundless = Rules {
        max_frame_size: u64::MAX,
        max_message_size: u64::MAX,
        ..Rules::default()
    };
    for side in SIDES {
        let mut stream = Vec::new();
        frame(BINARY_START, "").write(side, [0; 4], &mut stream);
        frame(MORE, "")
            .length(Length::Claimed(claim))
            .write(side, [0; 4], &mut stream);
        let played = drive::play(
            side,
            &boundless,
            &stream,
            &drive::byte_by_byte(stream.len()),
        );
        assert_eq!(played.events, []);
    }
}

#[test]
fn section_5_4_fragmentation() {
    let without_start = Want::Frame(Kind::ContinuationWithoutStart);
    let inside = Want::Frame(Kind::MessageInsideMessage);
    check(&[frame(LAST, "a")], frames(0), without_start);
    check(&[frame(MORE, "a")], frames(0), without_start);
    check(&[frame(LAST, "")], frames(0), without_start);
    check(&[text("a"), frame(LAST, "b")], frames(1), without_start);
    let after_its_end = [frame(TEXT_START, "a"), frame(LAST, "b"), frame(LAST, "c")];
    check(&after_its_end, frames(2), without_start);
    for start in [TEXT_START, BINARY_START] {
        for next in [TEXT, BINARY, TEXT_START, BINARY_START] {
            check(&[frame(start, "a"), frame(next, "b")], frames(1), inside);
            check(&[frame(start, ""), frame(next, "")], frames(1), inside);
            let later = [
                frame(start, "a"),
                frame(MORE, "b"),
                frame(PING, ""),
                frame(next, "c"),
            ];
            check(&later, frames(3), inside);
        }
        let fine = [
            frame(start, "a"),
            frame(MORE, ""),
            frame(MORE, "b"),
            frame(LAST, ""),
            frame(start, ""),
            frame(LAST, ""),
        ];
        check(&fine, frames(6), Open);
    }
}

/// Control frames between fragments do not disturb the message, not even inside a code point.
#[test]
fn section_5_4_control_frames_between_fragments() {
    let between = [
        frame(TEXT_START, b"a\xF0"),
        frame(PING, b"\xFF"),
        frame(MORE, b"\x9F"),
        frame(PONG, vec![0x80; 125]),
        frame(PING, ""),
        frame(MORE, b"\x98\x80b\xC3"),
        frame(PONG, ""),
        frame(LAST, b"\xA9"),
        text("next"),
    ];
    check(&between, frames(9), Open);

    let wrong = [
        frame(TEXT_START, b"a\xF0"),
        frame(PING, "a"),
        frame(LAST, b"\x80"),
    ];
    check(&wrong, frames(2), At(Kind::TextNotUtf8, 2));

    let closed = [
        frame(TEXT_START, b"a\xF0"),
        frame(CLOSE, b"\x03\xE9"),
        frame(LAST, "b"),
    ];
    check(&closed, frames(1), Want::Close(Some(1001)));
}

#[test]
fn section_5_5_control_frames() {
    for opcode in [0x8, 0x9, 0xA] {
        let fragmented = Want::Frame(Kind::ControlFragmented);
        check(&[frame(opcode, ""), text("a")], frames(0), fragmented);
        let too_long = Want::Frame(Kind::ControlTooLong);
        for len in [126, 127, 65536] {
            let long = frame(0x80 | opcode, vec![b'a'; len]);
            check(&[text("a"), long, text("b")], frames(1), too_long);
        }
        // A long form is wrong whatever it says: too long, or not the shortest.
        for form in [Length::In16, Length::In64, Length::Claimed(u64::MAX)] {
            let long_form = frame(0x80 | opcode, "a").length(form);
            check(&[long_form], frames(0), too_long);
        }
    }
    for first in [PING, PONG] {
        for len in [0, 1, 124, 125] {
            check(&[frame(first, vec![0xFF; len])], frames(1), Open);
        }
    }
}

#[test]
fn section_5_5_1_close() {
    let close = |payload: &[u8]| [text("a"), frame(CLOSE, payload), text("late")];
    check(&close(b""), frames(1), Want::Close(None));
    check(&close(b"\x03\xE8"), frames(1), Want::Close(Some(1000)));
    let longest = [b"\x03\xE8".as_slice(), &[b'r'; 123]].concat();
    check(&close(&longest), frames(1), Want::Close(Some(1000)));
    let private = [b"\x0F\xA2", "grüße 🌍".as_bytes()].concat();
    check(&close(&private), frames(1), Want::Close(Some(4002)));

    check(&close(b"\x03"), frames(1), Want::Frame(Kind::CloseOneByte));
    for reason in [
        &b"\xFF"[..],
        b"ab\xC3",
        b"\xC0\x80",
        b"\xED\xA0\x80",
        b"\xF4\x90\x80\x80",
        b"ab\xE2\x82",
    ] {
        let payload = [b"\x0F\xA1", reason].concat();
        let kind = Kind::CloseReasonNotUtf8;
        let sent = close(&payload);
        check_from(
            Side::Client,
            &Rules::default(),
            &sent,
            frames(1),
            Want::Frame(kind),
        );
        // What a server's application says by the code is told without the reason.
        check_from(
            Side::Server,
            &Rules::default(),
            &sent,
            frames(1),
            Want::Garbled(Some(4001)),
        );
    }
}

/// The edges of every class of codes.
#[test]
fn section_7_4_close_codes() {
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ] {
        let stream = [frame(CLOSE, u16::to_be_bytes(code))];
        check(&stream, frames(0), Want::Close(Some(code)));
    }
    for code in [
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65535,
    ] {
        let stream = [frame(CLOSE, u16::to_be_bytes(code)), text("late")];
        check(&stream, frames(0), At(Kind::CloseCode, code.into()));
    }
}

/// The first and last code point of each length and the neighbours of the surrogates, whole and cut by fragments.
#[test]
fn section_8_1_text_that_is_utf8() {
    for c in [
        "\0",
        "\u{7F}",
        "\u{80}",
        "\u{7FF}",
        "\u{800}",
        "\u{FFF}",
        "\u{1000}",
        "\u{CFFF}",
        "\u{D7FF}",
        "\u{E000}",
        "\u{FFFE}",
        "\u{FFFF}",
        "\u{10000}",
        "\u{3FFFF}",
        "\u{40000}",
        "\u{FFFFF}",
        "\u{100000}",
        "\u{10FFFF}",
    ] {
        let payload = format!("a{c}b").into_bytes();
        check(&[frame(TEXT, &payload)], frames(1), Open);
        for cut in 0..=payload.len() {
            let (start, rest) = payload.split_at(cut);
            let two = [frame(TEXT_START, start), frame(LAST, rest)];
            check(&two, frames(2), Open);
        }
        let singly: Vec<Frame> = [frame(TEXT_START, "")]
            .into_iter()
            .chain(payload.iter().map(|byte| frame(MORE, [*byte])))
            .chain([frame(LAST, "")])
            .collect();
        check(&singly, frames(singly.len()), Open);
    }
}

/// What no text contains, and the byte that proves it.
const WRONG: [(&[u8], u64); 22] = [
    // Continuation bytes without a lead byte, and bytes that are nothing.
    (&[0x80], 0),
    (&[0xBF], 0),
    (&[0xFE], 0),
    (&[0xFF], 0),
    // Overlong.
    (&[0xC0, 0x80], 0),
    (&[0xC1, 0xBF], 0),
    (&[0xE0, 0x80, 0x80], 1),
    (&[0xE0, 0x9F, 0xBF], 1),
    (&[0xF0, 0x80, 0x80, 0x80], 1),
    (&[0xF0, 0x8F, 0xBF, 0xBF], 1),
    // Surrogates.
    (&[0xED, 0xA0, 0x80], 1),
    (&[0xED, 0xAF, 0xBF], 1),
    (&[0xED, 0xB0, 0x80], 1),
    (&[0xED, 0xBF, 0xBF], 1),
    // Beyond U+10FFFF.
    (&[0xF4, 0x90, 0x80, 0x80], 1),
    (&[0xF5, 0x80, 0x80, 0x80], 0),
    (&[0xF8, 0x88, 0x80, 0x80, 0x80], 0),
    // Cut short by what follows.
    (&[0xC3, 0x28], 1),
    (&[0xE2, 0x28, 0xA1], 1),
    (&[0xE2, 0x82, 0x28], 2),
    (&[0xF0, 0x9F, 0x98, 0x41], 3),
    (&[0xF0, 0x9F, 0xC3, 0xA9], 2),
];

#[test]
fn section_8_1_text_that_is_not_utf8_in_one_frame() {
    for (wrong, at) in WRONG {
        for before in ["", "a", "κόσμε", &"x".repeat(200), &"🌍".repeat(3000)] {
            let payload = [before.as_bytes(), wrong, b" and more"].concat();
            let stream = [text("fine"), frame(TEXT, payload), text("late")];
            let at = before.len() as u64 + at;
            check(&stream, frames(1), At(Kind::TextNotUtf8, at));
        }
        // Binary is not looked at.
        check(&[frame(BINARY, wrong)], frames(1), Open);
    }
}

#[test]
fn section_8_1_text_that_is_not_utf8_across_fragments() {
    for (wrong, at) in WRONG {
        let payload = ["né".as_bytes(), wrong, b"!"].concat();
        let proof = 3 + at as usize;
        for cut in 0..=payload.len() {
            let (start, rest) = payload.split_at(cut);
            let stream = [frame(TEXT_START, start), frame(PING, ""), frame(LAST, rest)];
            let passed = if proof < cut { 0 } else { 2 };
            check(&stream, frames(passed), At(Kind::TextNotUtf8, proof as u64));
        }
    }
}

#[test]
fn section_8_1_text_unfinished_at_its_end() {
    for unfinished in [
        &b"\xC3"[..],
        b"\xE2",
        b"\xE2\x82",
        b"\xED\x9F",
        b"\xF0",
        b"\xF0\x9F",
        b"\xF4\x8F\xBF",
    ] {
        let payload = [b"ab", unfinished].concat();
        let want = At(Kind::TextUnfinished, payload.len() as u64);
        check(&[frame(TEXT, &payload), text("late")], frames(0), want);
        for cut in 0..=payload.len() {
            let (start, rest) = payload.split_at(cut);
            let stream = [frame(TEXT_START, start), frame(LAST, rest)];
            check(&stream, frames(1), want);
        }
        let empty_end = [
            frame(TEXT_START, &payload),
            frame(MORE, ""),
            frame(LAST, ""),
        ];
        check(&empty_end, frames(2), want);
        // The next message begins anew.
        let next = [frame(BINARY, &payload), text("ab")];
        check(&next, frames(2), Open);
    }
}

#[test]
fn limits_are_told_as_soon_as_the_header_is_there() {
    let rules = Rules {
        max_frame_size: 1000,
        max_message_size: 1500,
        max_fragments: 3,
        ..Rules::default()
    };
    let of = |first: u8, len: usize| frame(first, vec![b'a'; len]);
    for (start, single) in [(TEXT_START, TEXT), (BINARY_START, BINARY)] {
        check_under(&rules, &[of(single, 1000)], frames(1), Open);
        let frame_limit = At(Kind::FrameTooBig, 1000);
        check_under(&rules, &[of(single, 1001)], frames(0), frame_limit);
        check_under(&rules, &[of(start, 1001)], frames(0), frame_limit);

        let message_limit = At(Kind::MessageTooBig, 1500);
        let at_it = [of(start, 1000), of(LAST, 500), of(single, 1000)];
        check_under(&rules, &at_it, frames(3), Open);
        let over = [of(start, 1000), frame(PING, "a"), of(LAST, 501)];
        check_under(&rules, &over, frames(2), message_limit);

        let fragments_limit = At(Kind::TooManyFragments, 3);
        let at_it = [
            of(start, 1),
            of(MORE, 1),
            frame(PONG, ""),
            of(LAST, 1),
            of(single, 1),
        ];
        check_under(&rules, &at_it, frames(5), Open);
        let over = [of(start, 1), of(MORE, 1), of(MORE, 1), of(LAST, 0)];
        check_under(&rules, &over, frames(3), fragments_limit);
    }
    // Control frames are no part of a message and have a limit of their own.
    let tiny = Rules {
        max_frame_size: 1,
        max_message_size: 1,
        max_fragments: 1,
        ..Rules::default()
    };
    let stream = [frame(PING, "longer"), text("a"), frame(CLOSE, "")];
    check_under(&tiny, &stream, frames(2), Want::Close(None));

    // The header alone, and of that the length alone: the masking key need not have come.
    for side in SIDES {
        let mut stream = Vec::new();
        of(BINARY, 1001).write(side, [1; 4], &mut stream);
        for (len, told) in [(3, 0), (4, 1)] {
            let played = drive::play(side, &rules, &stream[..len], &drive::whole(len));
            assert_eq!(played.events.len(), told);
        }
    }
}

#[test]
fn ten_thousand_empty_fragments() {
    for start in [TEXT_START, BINARY_START] {
        let mut stream = vec![frame(MORE, ""); 10_000];
        stream[0] = frame(start, "");
        check(&stream, frames(1024), At(Kind::TooManyFragments, 1024));
        let patient = Rules {
            max_fragments: 10_000,
            ..Rules::default()
        };
        check_under(&patient, &stream, frames(10_000), Open);
    }
}

/// Text frames up to the text buffer are forwarded whole or not at all.
#[test]
fn text_up_to_the_hold_passes_whole_or_not_at_all() {
    let rules = Rules {
        text_buffer: 300,
        ..Rules::default()
    };
    for side in SIDES {
        for len in [1, 125, 126, 299, 300] {
            let sent = frame(TEXT, &"é".repeat(len).as_bytes()[..len & !1]);
            let mut stream = Vec::new();
            sent.write(side, [7, 0, 0x80, 0xFF], &mut stream);
            for end in 0..stream.len() {
                let played = drive::play(side, &rules, &stream[..end], &drive::byte_by_byte(end));
                assert_eq!(played.passed, 0, "{end} of {len}");
            }
        }
    }
    let mut bytes = vec![b'a'; 300];
    bytes[299] = 0xFF;
    check_under(
        &rules,
        &[frame(TEXT, &bytes)],
        frames(0),
        At(Kind::TextNotUtf8, 299),
    );
}

/// A larger one passes in chunks of which every byte is proven: whole code points, and nothing behind the first wrong
/// byte.
#[test]
fn text_larger_than_the_hold_passes_in_whole_code_points() {
    for hold in [0, 1, 300, 8 << 10, 64 << 10] {
        let rules = Rules {
            text_buffer: hold,
            ..Rules::default()
        };
        let pattern = "aé世🌍";
        let payload = pattern.repeat(hold / pattern.len() + 2);
        for side in SIDES {
            let mut stream = Vec::new();
            let sent = frame(TEXT, &payload);
            let header_len = sent.header_len(side);
            sent.write(side, [0x37, 0xFA, 0x21, 0x3D], &mut stream);
            let near = |end: &usize| *end < 40 || stream.len() - *end < 40;
            for end in (0..stream.len()).filter(near) {
                let played = drive::play(side, &rules, &stream[..end], &drive::whole(end));
                let text = &payload.as_bytes()[..end.saturating_sub(header_len)];
                let proven =
                    std::str::from_utf8(text).map_or_else(|e| e.valid_up_to(), |text| text.len());
                let expected = if proven > 0 { header_len + proven } else { 0 };
                assert_eq!(played.passed, expected, "{end} bytes of {hold}");
            }
        }
        check_under(&rules, &[frame(TEXT, &payload)], frames(1), Open);

        for (wrong, at) in [(&[0xFF][..], 0), (&[0xE2, 0x82, 0x28], 2)] {
            let kept = payload.len() - pattern.len();
            let bytes = [&payload.as_bytes()[..kept], wrong, b"more text"].concat();
            let proof = kept as u64 + at;
            check_under(
                &rules,
                &[frame(TEXT, bytes), text("late")],
                (0, kept),
                At(Kind::TextNotUtf8, proof),
            );
        }
        let unfinished = &payload.as_bytes()[..payload.len() - 1];
        check_under(
            &rules,
            &[frame(TEXT, unfinished)],
            (0, payload.len() - 4),
            At(Kind::TextUnfinished, unfinished.len() as u64),
        );
    }
}

/// A code point may begin in one fragment, whose end is released, and end in a streamed one.
#[test]
fn streamed_fragments_share_code_points() {
    let rules = Rules {
        text_buffer: 4,
        ..Rules::default()
    };
    let shared = [
        frame(TEXT_START, b"abcdef\xF0"),
        frame(MORE, b"\x9F"),
        frame(PING, "between"),
        frame(MORE, b"\x98\x80ghijk\xE4\xB8"),
        frame(LAST, b"\x96lmnopq"),
    ];
    check_under(&rules, &shared, frames(5), Open);
    let wrong = [
        frame(TEXT_START, b"abcdef\xF0"),
        frame(LAST, b"\x9F\x98\x28ghijkl"),
    ];
    check_under(&rules, &wrong, frames(1), At(Kind::TextNotUtf8, 9));
    let wrong_at_once = [
        frame(TEXT_START, b"abcdef\xF0"),
        frame(LAST, b"a\x98\x28ghijkl"),
    ];
    check_under(&rules, &wrong_at_once, frames(1), At(Kind::TextNotUtf8, 7));
}

/// Told to stop at the end of the frame under way, the flow stops there and nowhere else.
#[test]
fn until_frame_end() {
    for side in SIDES {
        let sent = [
            frame(BINARY_START, "abc"),
            frame(PING, "p"),
            frame(LAST, ""),
            text("next"),
        ];
        let (stream, starts) = written(side, &sent);
        let (rules, mut block, mut tally) = tools();
        let mut flow = Flow::new(side);
        let mut until = |window: &[u8]| {
            let passage = flow.inspect(&rules, window, StopAt::FrameEnd, &mut block, &mut tally);
            assert_eq!(passage.event, None);
            assert_eq!(
                flow.frame_boundary().is_some(),
                starts.contains(&(flow.released() as usize))
            );
            passage.release
        };
        // In the middle of the first frame, then its rest with all that follows, then frame by frame.
        let middle = starts[1] - 1;
        assert_eq!(until(&stream[..middle]), middle);
        for pair in [middle]
            .iter()
            .chain(&starts[1..])
            .collect::<Vec<_>>()
            .windows(2)
        {
            assert_eq!(until(&stream[*pair[0]..]), pair[1] - pair[0]);
        }
        assert_eq!(until(&[]), 0);
    }
}

/// However many small frames one read holds, a call looks at no more of them than it may, and the next ones at the rest.
#[test]
fn a_budget_bounds_how_many_frames_are_looked_at_at_once() {
    const WORK: usize = 128_000;
    for side in SIDES {
        for small in [
            frame(TEXT, ""),
            frame(BINARY, "a"),
            frame(PING, ""),
            frame(PONG, "ab"),
        ] {
            let sent = vec![small; 20_000];
            let (stream, _) = written(side, &sent);
            let (rules, mut block, mut tally) = tools();
            let mut flow = Flow::new(side);
            let (mut window, mut before) = (&stream[..], 0);
            loop {
                block.budget = Budget::new(WORK);
                let passage = flow.inspect(&rules, window, StopAt::End, &mut block, &mut tally);
                let frames: u64 = tally.messages.iter().sum();
                assert!(frames - before <= 2_001, "{} frames", frames - before);
                assert_eq!(passage.event, None);
                assert!(passage.release > 0);
                window = &window[passage.release..];
                before = frames;
                if !passage.spent {
                    break;
                }
            }
            assert_eq!((window.len(), before), (0, 20_000));
        }
    }
}

/// Where a frame of our own may be put, and where a message would be left unfinished.
#[test]
fn boundaries() {
    let hold = Rules {
        text_buffer: 8,
        ..Rules::default()
    };
    // What was sent so far, the bytes that are missing of its last frame; at a frame's end, at a message's end.
    for (sent, missing, at_frame, at_message) in [
        (vec![], 0, true, true),
        (vec![text("a")], 0, true, true),
        // Held: nothing of it has passed.
        (vec![text("held")], 1, true, true),
        (vec![text("held")], 4, true, true),
        // Streamed: it has begun, unless only its header is there.
        (vec![text("streamed text")], 1, false, false),
        (vec![text("streamed text")], 13, true, true),
        (vec![binary("ab")], 2, true, true),
        (vec![binary("ab")], 1, false, false),
        (vec![frame(BINARY_START, "ab")], 2, true, true),
        (vec![frame(BINARY_START, "ab")], 0, true, false),
        (vec![frame(TEXT_START, "a")], 0, true, false),
        (vec![frame(TEXT_START, "")], 0, true, false),
        // A control frame between fragments ends a frame, but no message.
        (
            vec![frame(TEXT_START, "a"), frame(PING, "p")],
            0,
            true,
            false,
        ),
        (
            vec![frame(TEXT_START, "a"), frame(PING, "p")],
            1,
            true,
            false,
        ),
        (
            vec![frame(TEXT_START, "a"), frame(LAST, "b")],
            1,
            true,
            false,
        ),
        (
            vec![frame(TEXT_START, "a"), frame(LAST, "b")],
            0,
            true,
            true,
        ),
        (vec![frame(PING, "p")], 1, true, true),
    ] {
        for side in SIDES {
            let (stream, _) = written(side, &sent);
            let end = stream.len() - missing;
            for cuts in [drive::whole(end), drive::byte_by_byte(end)] {
                let _scene = Scene(format!("{sent:?} less {missing}, {side:?}"));
                let played = drive::play(side, &hold, &stream[..end], &cuts);
                let last = played.steps.last().copied().unwrap_or((0, true, true));
                assert_eq!((last.1, last.2), (at_frame, at_message));
            }
        }
    }
}

/// After a violation nothing more passes, so the boundaries stay what they were and nothing more is counted, however
/// long the flow walks on.
#[test]
fn a_violation_freezes_what_has_passed() {
    let rules = Rules {
        text_buffer: 8,
        ..Rules::default()
    };
    let top_bit = || frame(BINARY, "abc").length(Length::Claimed(1 << 63));
    let rest = || vec![text("a"), frame(TEXT_START, "b")];
    for (sent, at_frame, at_message) in [
        (vec![frame(TEXT, b"\xFF")], true, true),
        (vec![frame(TEXT, b"\xFFlonger than the hold")], true, true),
        (vec![frame(TEXT, b"longer than the hold\xFF")], false, false),
        (
            vec![frame(TEXT_START, "a"), frame(LAST, b"\xFF")],
            true,
            false,
        ),
        (vec![frame(TEXT_START, "a"), text("b")], true, false),
        (vec![frame(LAST, "a")], true, true),
        (vec![top_bit()], true, true),
        (vec![frame(BINARY_START, "a"), top_bit()], true, false),
    ] {
        for side in SIDES {
            let _scene = Scene(format!("{sent:?}, {side:?}"));
            let (bad, _) = written(side, &sent);
            let (rest, _) = written(side, &rest());
            let (rules, (_, mut block, mut tally)) = (rules, tools());
            let mut flow = Flow::new(side);
            let mut window = bad;
            let passage = loop {
                let passage = flow.inspect(&rules, &window, StopAt::End, &mut block, &mut tally);
                window.drain(..passage.release);
                if passage.event.is_some() {
                    break passage;
                }
            };
            assert!(matches!(passage.event, Some(Event::Violation(_))));
            let then = (flow.released(), tally);
            window.extend(rest);
            for byte in 0..=window.len() {
                assert_eq!(flow.frame_boundary().is_some(), at_frame);
                assert_eq!(flow.message_boundary().is_some(), at_message);
                assert_eq!((flow.released(), tally), then);
                if byte < window.len() {
                    let passage =
                        flow.inspect(&rules, &window, StopAt::End, &mut block, &mut tally);
                    assert_eq!(passage.event, None);
                    window.drain(..passage.release);
                }
            }
        }
    }
}

/// What follows a violation is only walked through: not even text that would be held is kept for that.
#[test]
fn nothing_is_kept_of_what_is_discarded() {
    let mut wrong = vec![b'a'; 60_000];
    wrong[0] = 0xFF;
    for side in SIDES {
        let (stream, _) = written(side, &[frame(TEXT, &wrong), text("b".repeat(60_000))]);
        let (rules, mut block, mut tally) = tools();
        let (mut flow, mut window) = (Flow::new(side), Vec::new());
        for piece in stream.chunks(1000) {
            window.extend_from_slice(piece);
            // A second call where an event ended the first.
            for _ in 0..2 {
                let passage = flow.inspect(&rules, &window, StopAt::End, &mut block, &mut tally);
                window.drain(..passage.release);
            }
            assert!(window.len() < 14, "{} bytes kept", window.len());
        }
    }
}

/// The Close of a side that broke a rule is found in what is discarded, even if it is itself what broke it.
#[test]
fn the_close_after_a_violation_is_found() {
    let close = || frame(CLOSE, b"\x03\xE8bye");
    for (sent, found) in [
        (vec![frame(TEXT, b"\xFF"), close()], Some(1)),
        (
            vec![frame(TEXT, b"\xFF"), text("a"), frame(PING, "b"), close()],
            Some(3),
        ),
        (
            vec![
                frame(TEXT, [0xFF; 100_000]),
                binary(vec![1; 70_000]),
                close(),
            ],
            Some(2),
        ),
        (vec![frame(LAST, "a"), frame(MORE, "b"), close()], Some(2)),
        (vec![frame(0xC1, "a"), close()], Some(1)),
        (vec![frame(0x8F, "a"), close()], Some(1)),
        (vec![text("a").contrary(), close(), text("b")], Some(1)),
        (vec![frame(PING, [0; 126]), close()], Some(1)),
        (vec![text("a").length(Length::In64), close()], Some(1)),
        // Wrong Closes are Closes.
        (vec![frame(CLOSE, "x"), text("a")], Some(0)),
        (vec![frame(CLOSE, b"\x03\xED")], Some(0)),
        (vec![frame(0x08, "")], Some(0)),
        (vec![frame(0xC8, b"\x03\xE8")], Some(0)),
        (vec![frame(CLOSE, b"\x03\xE8").contrary()], Some(0)),
        // Not found: no Close, or the frames are lost.
        (vec![frame(TEXT, b"\xFF"), text("a")], None),
        (
            vec![
                frame(BINARY, "a").length(Length::Claimed(u64::MAX)),
                close(),
            ],
            None,
        ),
    ] {
        for side in SIDES {
            let (stream, starts) = written(side, &sent);
            let mut rng = StdRng::seed_from_u64(drive::seed());
            for cuts in cuts_of(stream.len(), &mut rng) {
                let played = drive::play(side, &Rules::default(), &stream, &cuts);
                assert_eq!(played.passed, 0, "{sent:?}");
                assert_eq!(played.close_after, found.map(|i| starts[i]), "{side:?}");
            }
        }
    }
}

/// Observing, everything passes unchanged, and each kind is told once.
#[test]
fn observing_lets_everything_pass_and_tells_each_kind_once() {
    let rules = Rules {
        mode: Mode::Observe,
        max_frame_size: 400,
        max_message_size: 500,
        max_fragments: 2,
        text_buffer: 50,
        ..Rules::default()
    };
    let long_text = [&[b'a'; 60][..], b"\xFF", &[b'b'; 60]].concat();
    let mut bad: Vec<(Frame, &[Kind])> = vec![
        (
            frame(0xC1, b"\xFF compressed, who knows"),
            &[Kind::CompressionNotAgreed],
        ),
        (frame(0x83, "a"), &[Kind::ReservedOpcode]),
        (frame(0x09, "a"), &[Kind::ControlFragmented]),
        (frame(PONG, [1; 200]), &[Kind::ControlTooLong]),
        (binary("ab").length(Length::In16), &[Kind::LengthNotMinimal]),
        (frame(LAST, "a"), &[Kind::ContinuationWithoutStart]),
        (frame(TEXT, b"\xC3\x28"), &[Kind::TextNotUtf8]),
        (frame(TEXT, long_text), &[Kind::TextNotUtf8]),
        (frame(TEXT, b"\xC3"), &[Kind::TextUnfinished]),
        (binary([1; 401]), &[Kind::FrameTooBig]),
        (binary([1; 501]), &[Kind::FrameTooBig, Kind::MessageTooBig]),
    ];
    // Everything at once, in the order of the bytes that prove it.
    let everything: &[Kind] = &[
        Kind::ReservedBits,
        Kind::ReservedOpcode,
        Kind::ControlFragmented,
        Kind::ControlTooLong,
    ];
    bad.push((frame(0x7B, [0; 300]), everything));
    for (frame, kinds) in &bad {
        let stream = [text("a"), frame.clone(), frame.clone(), text("é")];
        all_passes(&rules, &stream, kinds);
    }
    let inside = [
        frame(TEXT_START, b"\xC3"),
        frame(TEXT_START, "a"),
        frame(MORE, "b"),
        frame(LAST, "c"),
        frame(TEXT_START, "d"),
        text("e"),
    ];
    all_passes(
        &rules,
        &inside,
        &[Kind::MessageInsideMessage, Kind::TooManyFragments],
    );
    for side in SIDES {
        let kind = match side {
            Side::Client => Kind::MaskMissing,
            Side::Server => Kind::MaskPresent,
        };
        let stream = [text("a").contrary(), text("b"), frame(TEXT, "c").contrary()];
        all_passes_from(side, &rules, &stream, &[kind]);
    }
    // After a length that cannot be, nobody knows where a frame begins: all goes on as it comes.
    let lost = [
        frame(BINARY, b"abc").length(Length::Claimed(1 << 63)),
        frame(0xFF, b"\xFF"),
        frame(CLOSE, "x"),
    ];
    all_passes(&rules, &lost, &[Kind::LengthTopBit, Kind::FrameTooBig][..1]);
}

/// What messages hold is nobody's concern then; that they are messages still is.
#[test]
fn without_inspection_frames_are_held_to_the_protocol() {
    let rules = Rules {
        inspect: false,
        max_message_size: 500,
        ..Rules::default()
    };
    let bad = frame(TEXT, b"\xFF");
    let cut = [frame(TEXT_START, b"\xC3"), frame(LAST, b"\x28")];
    // Compressed, and nothing that inflates.
    let opaque = frame(TEXT | 0x40, b"\xFF\xFF\xFF");
    let lost = Kind::ContinuationWithoutStart;
    for (sent, passes, want) in [
        (vec![bad.clone(), cut[0].clone(), cut[1].clone()], 3, None),
        (vec![opaque.clone(), bad.clone(), opaque], 3, None),
        (vec![bad, frame(LAST, "a")], 1, Some(lost)),
        (vec![frame(TEXT, [b'a'; 501])], 0, Some(Kind::MessageTooBig)),
    ] {
        for side in SIDES {
            let deflate = Some(wsgate::frame::deflate::DeflateParams::default());
            let sender = drive::Sender { side, deflate };
            let (stream, starts) = written(side, &sent);
            let mut rng = StdRng::seed_from_u64(drive::seed());
            for cuts in cuts_of(stream.len(), &mut rng) {
                let played = drive::play(sender, &rules, &stream, &cuts);
                let kinds = played.events.iter().map(|(_, event)| match event {
                    Event::Violation(violation) => Some(violation.kind),
                    Event::Close { .. } | Event::Pong { .. } => None,
                });
                assert_eq!(kinds.collect::<Vec<_>>(), want.map(Some).as_slice());
                assert_eq!(played.passed, starts[passes], "{sent:?}");
            }
        }
    }
}

/// Observing, a wrong Close is told of and is a Close all the same.
#[test]
fn observing_a_wrong_close() {
    let rules = Rules {
        mode: Mode::Observe,
        ..Rules::default()
    };
    for (payload, kind, code) in [
        (&b"x"[..], Kind::CloseOneByte, None),
        (b"\x03\xED", Kind::CloseCode, None),
        (b"\x03\xE8\xFF", Kind::CloseReasonNotUtf8, Some(1000)),
    ] {
        for side in SIDES {
            let (stream, starts) = written(side, &[text("a"), frame(CLOSE, payload), text("b")]);
            for cuts in [
                drive::whole(stream.len()),
                drive::byte_by_byte(stream.len()),
            ] {
                let played = drive::play(side, &rules, &stream, &cuts);
                let frame_len = starts[2] - starts[1];
                let garbled = false;
                let events: Vec<Event> = played.events.into_iter().map(|(_, e)| e).collect();
                assert_eq!(events.len(), 2);
                let violation = |e: &Event| matches!(e, Event::Violation(v) if v.kind == kind);
                assert!(violation(&events[0]), "{events:?}");
                let close = Event::Close {
                    frame_len,
                    code,
                    garbled,
                };
                assert_eq!(events[1], close);
                assert_eq!(played.passed, starts[1]);
                assert_eq!(played.tally.bytes[4], payload.len() as u64);
            }
        }
    }
}

/// One block serves any number of flows: what one left in it does not reach the next.
#[test]
fn a_used_block_is_as_good_as_a_new_one() {
    let mut block = Block::default();
    for payload in ["🌍".repeat(5000), "é".repeat(9), "x".repeat(20_000)] {
        let (stream, _) = written(Side::Client, &[text(&payload)]);
        let cuts = drive::whole(stream.len());
        let played = drive::play_with(Side::Client, &Rules::default(), &stream, &cuts, &mut block);
        assert_eq!((played.passed, played.events.len()), (stream.len(), 0));
    }
}

/// How much of a held frame is missing is told, for whoever reads.
#[test]
fn missing_is_what_a_held_frame_still_needs() {
    for side in SIDES {
        let (stream, starts) = written(side, &[text("0123456789"), binary("0123456789")]);
        let (rules, mut block, mut tally) = tools();
        let mut flow = Flow::new(side);
        for end in 0..starts[1] {
            flow.inspect(&rules, &stream[..end], StopAt::End, &mut block, &mut tally);
            let header_len = starts[1] - 10;
            let missing = if end < header_len { 0 } else { starts[1] - end };
            assert_eq!(flow.missing(), missing);
        }
        let streamed = &stream[..stream.len() - 1];
        flow.inspect(&rules, streamed, StopAt::End, &mut block, &mut tally);
        assert_eq!(flow.missing(), 0);
    }
}

// How a row is checked.

/// So many whole frames pass, and nothing of the next.
fn frames(n: usize) -> (usize, usize) {
    (n, 0)
}

fn text(payload: impl AsRef<str>) -> Frame {
    frame(TEXT, payload.as_ref())
}

fn binary(payload: impl AsRef<[u8]>) -> Frame {
    frame(BINARY, payload)
}

fn tools() -> (Rules, Block, Tally) {
    (Rules::default(), Block::default(), Tally::default())
}

fn check(sent: &[Frame], passes: (usize, usize), want: Want) {
    check_under(&Rules::default(), sent, passes, want);
}

fn check_under(rules: &Rules, sent: &[Frame], passes: (usize, usize), want: Want) {
    for side in SIDES {
        check_from(side, rules, sent, passes, want);
    }
}

/// `passes`: whole frames, and bytes of the payload of the next.
fn check_from(side: Side, rules: &Rules, sent: &[Frame], passes: (usize, usize), want: Want) {
    let (stream, starts) = written(side, sent);
    let next = starts[passes.0];
    let passed = match passes.1 {
        0 => next,
        more => next + sent[passes.0].header_len(side) + more,
    };
    let seed = drive::seed();
    let mut rng = StdRng::seed_from_u64(seed);
    for cuts in cuts_of(stream.len(), &mut rng) {
        let beginning = &stream[..stream.len().min(64)];
        let cut_at = &cuts[..cuts.len().min(32)];
        let _scene = Scene(format!(
            "{side:?}, WSGATE_SEED={seed}, cut at {cut_at:?}, {beginning:02X?}"
        ));
        let played = drive::play(side, rules, &stream, &cuts);
        assert_eq!(played.passed, passed, "bytes that passed");
        assert_result(&played, want, next as u64);
        drive::agree(side, rules, &stream, &cuts);
    }
}

fn assert_result(played: &Played, want: Want, next: u64) {
    let first = played.events.first().map(|(_, event)| event);
    let (kind, at) = match (want, first) {
        (Open, None) => return,
        (
            Want::Close(code) | Want::Garbled(code),
            Some(Event::Close {
                code: read,
                garbled,
                ..
            }),
        ) => {
            assert_eq!(code, *read);
            assert_eq!(*garbled, matches!(want, Want::Garbled(_)));
            return;
        }
        (Want::Frame(kind), Some(_)) => (kind, next),
        (At(kind, at), Some(_)) => (kind, at),
        (want, first) => panic!("{first:?} where {want:?} is right"),
    };
    let Some(Event::Violation(violation)) = first else {
        panic!("{first:?} where {want:?} is right");
    };
    assert_eq!((violation.kind, violation.place().value()), (kind, at));
}

fn all_passes(rules: &Rules, sent: &[Frame], kinds: &[Kind]) {
    for side in SIDES {
        all_passes_from(side, rules, sent, kinds);
    }
}

fn all_passes_from(side: Side, rules: &Rules, sent: &[Frame], kinds: &[Kind]) {
    let (stream, _) = written(side, sent);
    let mut rng = StdRng::seed_from_u64(drive::seed());
    for cuts in cuts_of(stream.len(), &mut rng) {
        let _scene = Scene(format!("{side:?}, cut at {cuts:?}, {sent:?}"));
        let played = drive::play(side, rules, &stream, &cuts);
        assert_eq!(played.passed, stream.len());
        assert_eq!(played.kinds(), kinds);
        drive::agree(side, rules, &stream, &cuts);
    }
}

/// Whole, byte by byte, and at random.
fn cuts_of(len: usize, rng: &mut impl Rng) -> Vec<Cuts> {
    let mut all = vec![drive::whole(len), drive::byte_by_byte(len)];
    all.extend((0..6).map(|_| drive::random_cuts(rng, len)));
    all
}
