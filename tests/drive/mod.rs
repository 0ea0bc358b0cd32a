//! Drives a flow as a relay does, and holds what it says against the judge.
#![allow(dead_code)] // Every test target takes what it needs of this.

pub(crate) mod compressor;

use crate::judge::{self, End, Judgement, Law};
use rand::Rng;
use std::fmt::Display;
use std::{env, iter, thread};
use wsgate::frame::deflate::{DeflateParams, window_size};
use wsgate::inspect::{
    Block, Budget, Event, Flow, Kind, Mode, Rules, Side, StopAt, Tally, Violation,
};

/// Where a stream is cut into the pieces that are fed: ends of pieces, rising, the last one the length of the stream.
pub(crate) type Cuts = Vec<usize>;

pub(crate) fn whole(len: usize) -> Cuts {
    vec![len]
}

pub(crate) fn byte_by_byte(len: usize) -> Cuts {
    (1..=len).collect()
}

/// A few large pieces, or many small ones.
pub(crate) fn random_cuts(rng: &mut impl Rng, len: usize) -> Cuts {
    let most = match rng.gen_range(0..4) {
        0 => 4,
        1 => 64,
        2 => 4096,
        _ => len.max(1),
    };
    let mut cuts = Vec::new();
    let mut at = 0;
    while at < len {
        at = len.min(at + rng.gen_range(1..=most));
        cuts.push(at);
    }
    cuts
}

/// The seed to begin with: `WSGATE_SEED`, or always the same one.
pub(crate) fn seed() -> u64 {
    env::var("WSGATE_SEED").map_or(6455, |seed| {
        seed.parse().expect("WSGATE_SEED is a whole number")
    })
}

/// Says where a test was if it panics.
pub(crate) struct Scene<T: Display>(pub T);

impl<T: Display> Drop for Scene<T> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("in: {}", self.0);
        }
    }
}

/// What a flow made of a stream.
#[derive(Debug, Default)]
pub(crate) struct Played {
    /// How many bytes passed.
    pub passed: usize,
    /// Every event, with how many bytes had been fed when it came.
    pub events: Vec<(usize, Event)>,
    pub tally: Tally,
    /// After a violation that was enforced: where in the stream the Close was found.
    pub close_after: Option<usize>,
    /// After each piece: bytes passed, at a frame boundary, at a message boundary.
    pub steps: Vec<(usize, bool, bool)>,
}

impl Played {
    /// The kinds of the violations, which have to be the only events.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let kinds = self.events.iter().map(|(_, event)| match event {
            Event::Violation(violation) => violation.kind,
            Event::Close { .. } | Event::Pong { .. } => panic!("{event:?}"),
        });
        kinds.collect()
    }
}

/// The sending side, and how its messages may be compressed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub side: Side,
    pub deflate: Option<DeflateParams>,
}

impl From<Side> for Sender {
    fn from(side: Side) -> Self {
        let deflate = None;
        Sender { side, deflate }
    }
}

/// Feeds a stream piece by piece, as far as its Close.
pub(crate) fn play(
    sender: impl Into<Sender>,
    rules: &Rules,
    stream: &[u8],
    cuts: &[usize],
) -> Played {
    play_with(sender, rules, stream, cuts, &mut Block::default())
}

/// The same where every call has so much to spend.
pub(crate) fn play_spending(
    sender: impl Into<Sender>,
    rules: &Rules,
    stream: &[u8],
    cuts: &[usize],
    budget: Budget,
) -> Played {
    let mut block = Block::default();
    block.budget = budget;
    play_with(sender, rules, stream, cuts, &mut block)
}

/// The same with a block that others have used.
pub(crate) fn play_with(
    sender: impl Into<Sender>,
    rules: &Rules,
    stream: &[u8],
    cuts: &[usize],
    block: &mut Block,
) -> Played {
    let budget = block.budget;
    let Sender { side, deflate } = sender.into();
    let mut flow = Flow::new(side).with_compression(deflate);
    let mut played = Played::default();
    let mut window = Vec::new();
    let (mut fed, mut taken, mut passing) = (0, 0, true);
    for &cut in cuts {
        window.extend_from_slice(&stream[fed..cut]);
        fed = cut;
        loop {
            block.budget = budget;
            let passage = flow.inspect(rules, &window, StopAt::End, block, &mut played.tally);
            window.drain(..passage.release);
            taken += passage.release;
            if passing {
                played.passed = taken;
                assert_eq!(flow.released(), taken as u64);
            }
            if passage.spent {
                assert_eq!(passage.event, None);
                assert!(!window.is_empty(), "there is more to look at");
                continue;
            }
            let Some(event) = passage.event else {
                break;
            };
            match &event {
                Event::Violation(_) => {
                    assert!(passing, "a second violation after one that was enforced");
                    passing = rules.mode == Mode::Observe;
                }
                Event::Close { garbled: true, .. } if passing => {}
                Event::Close { frame_len, .. } if passing => {
                    flow.release_close(*frame_len, &mut played.tally);
                    assert_eq!(flow.released(), (taken + frame_len) as u64);
                }
                Event::Close { .. } => played.close_after = Some(taken),
                Event::Pong { .. } => panic!("nobody watches for Pongs here"),
            }
            let ends = matches!(event, Event::Close { .. });
            played.events.push((fed, event));
            if ends {
                return played;
            }
        }
        played.steps.push((
            played.passed,
            flow.frame_boundary().is_some(),
            flow.message_boundary().is_some(),
        ));
    }
    played
}

/// Holds a flow against the judge: verdict, byte, what passed, what was counted, and the boundaries, at these cuts.
///
/// However little a call may do, it makes no difference. Here it may do the more, the more there is to be done; two budgets
/// each, by what is at hand, so that all have their turn.
pub(crate) fn agree(sender: impl Into<Sender>, rules: &Rules, stream: &[u8], cuts: &[usize]) {
    let size = stream.len() * 4;
    let (some, odd) = (1 + size / 1_000, 1 + size / 200 + cuts.len() % 97);
    let budgets = [
        Budget::new(some),
        Budget::new(odd * 40),
        Budget::default().inflating(some),
        Budget::new(odd),
        Budget::default().inflating(odd),
    ];
    let at = stream.len() + cuts.len();
    let two = [at, at + 1].map(|at| budgets[at % budgets.len()]);
    agree_spending(
        sender,
        rules,
        stream,
        cuts,
        [Budget::default()].iter().chain(&two),
    );
}

/// The same where every call has so much to spend, of each of these budgets.
pub(crate) fn agree_spending<'a>(
    sender: impl Into<Sender>,
    rules: &Rules,
    stream: &[u8],
    cuts: &[usize],
    budgets: impl IntoIterator<Item = &'a Budget>,
) {
    let sender = sender.into();
    let judgement = judge::judge(&law(sender, rules), stream);
    for &budget in budgets {
        let _scene = Scene(format!("{budget:?}"));
        let played = play_spending(sender, rules, stream, cuts, budget);
        match rules.mode {
            Mode::Enforce => enforced(stream, cuts, &judgement, &played),
            Mode::Observe => observed(sender, rules, stream, cuts, &judgement, &played),
        }
    }
}

pub(crate) fn law(sender: impl Into<Sender>, rules: &Rules) -> Law {
    let sender = sender.into();
    Law {
        masked: sender.side == Side::Client,
        deflate: sender
            .deflate
            .map(|terms| (terms.takeover, window_size(terms))),
        max_frame_size: rules.max_frame_size,
        max_message_size: rules.max_message_size,
        max_fragments: rules.max_fragments,
        text_buffer: rules.text_buffer,
        keeps_close_codes: sender.side == Side::Server && rules.mode == Mode::Enforce,
    }
}

fn enforced(stream: &[u8], cuts: &[usize], judgement: &Judgement, played: &Played) {
    let compressed = played.tally.compressed;
    assert_eq!(
        [
            compressed.messages,
            compressed.deflated,
            compressed.inflated
        ],
        judgement.compressed
    );
    // Of a compressed frame that passes in pieces, those before the one that is wrong have passed.
    let in_pieces = match &judgement.end {
        End::Broken(broken) => broken.in_pieces_from.zip(Some(broken.proof)),
        End::Open | End::Close { .. } => None,
    };
    let before = in_pieces.and_then(|(payload, proof)| {
        let before = cuts.iter().copied().take_while(|cut| *cut <= proof).last();
        before
            .filter(|cut| *cut > payload)
            .map(|cut| (cut, cut - payload))
    });
    match before {
        Some((cut, _)) => assert_eq!(played.passed, cut, "bytes that passed in pieces"),
        None => {
            assert_eq!(played.passed, judgement.passes, "bytes that passed");
            assert_eq!(played.tally.bytes[..4], judgement.bytes, "bytes counted");
        }
    }
    assert_eq!(
        played.tally.messages[..4],
        judgement.messages,
        "messages counted"
    );
    match (&judgement.end, played.events.as_slice()) {
        (End::Open, []) => {}
        (
            &End::Close {
                frame_len,
                code,
                garbled,
            },
            [(_, event)],
        ) => {
            let close = Event::Close {
                frame_len,
                code,
                garbled,
            };
            assert_eq!(*event, close);
            assert_eq!(played.tally.messages[4], u64::from(!garbled));
        }
        (End::Broken(broken), [(fed, Event::Violation(violation)), after @ ..]) => {
            assert!(
                is_one_of(violation, &broken.rules),
                "{violation:?} {broken:?} {cuts:?}"
            );
            let earliest = cuts.iter().find(|cut| **cut > broken.proof);
            assert_eq!(
                Some(fed),
                earliest,
                "told at the byte that proves it, {}",
                broken.proof
            );
            assert!(after.len() <= 1);
            assert_eq!(
                played.close_after,
                judge::next_close(stream, broken.frame),
                "the Close after it"
            );
            assert_eq!(played.tally.messages[4], 0);
        }
        (_, events) => panic!("events {events:?}"),
    }
    for &(passed, at_frame, at_message) in &played.steps {
        // What has passed in pieces before the wrong one ends inside of its frame.
        let is_end = |ends: &[usize]| ends.binary_search(&passed).is_ok();
        assert_eq!(
            at_frame,
            is_end(&judgement.frame_ends),
            "frame boundary at {passed}"
        );
        assert_eq!(
            at_message,
            is_end(&judgement.message_ends),
            "message boundary at {passed}"
        );
    }
}

fn observed(
    sender: Sender,
    rules: &Rules,
    stream: &[u8],
    cuts: &[usize],
    judgement: &Judgement,
    played: &Played,
) {
    match (&judgement.end, played.events.first()) {
        (End::Open, None) => assert_eq!(played.passed, judgement.passes),
        (
            &End::Close {
                frame_len, code, ..
            },
            Some((_, event)),
        ) => {
            let garbled = false;
            let close = Event::Close {
                frame_len,
                code,
                garbled,
            };
            assert_eq!(*event, close);
            assert_eq!(played.passed, judgement.passes);
        }
        (End::Broken(broken), Some((fed, Event::Violation(violation)))) => {
            assert!(
                is_one_of(violation, &broken.rules),
                "{violation:?} {broken:?} {cuts:?}"
            );
            assert_eq!(Some(fed), cuts.iter().find(|cut| **cut > broken.proof));
        }
        (end, first) => panic!("{first:?} where the judge says {end:?}"),
    }
    let kinds: Vec<_> = played.events.iter().map(|(_, event)| event).collect();
    for (i, event) in kinds.iter().enumerate() {
        if let Event::Violation(violation) = event {
            let again = kinds[..i].iter().any(
                |other| matches!(other, Event::Violation(other) if other.kind == violation.kind),
            );
            assert!(!again, "{violation:?} twice");
        }
    }
    // What is kept back is at most one held frame.
    let closed = matches!(kinds.last(), Some(Event::Close { .. }));
    let kept = stream.len() - played.passed;
    assert!(
        closed || kept < rules.text_buffer.max(125) + 14,
        "{kept} bytes kept back"
    );
    let at_once = play(sender, rules, stream, &whole(stream.len()));
    let events =
        |played: &Played| -> Vec<Event> { played.events.iter().map(|(_, e)| e.clone()).collect() };
    assert_eq!(events(&at_once), events(played));
    assert_eq!(at_once.passed, played.passed);
    assert_eq!(at_once.tally, played.tally);
}

fn is_one_of(violation: &Violation, rules: &[(&'static str, u64)]) -> bool {
    rules.contains(&(violation.kind.label(), violation.place().value()))
}

/// A frame to be written, right or wrong.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// FIN, reserved bits and opcode.
    pub first: u8,
    pub payload: Vec<u8>,
    pub length: Length,
    /// Whether it is masked as its side has to, or contrary to that.
    pub masking: Masking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Shortest,
    In16,
    In64,
    /// In 64 bits, and not true.
    Claimed(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Masking {
    AsItsSide,
    Contrary,
}

impl Frame {
    pub(crate) fn new(first: u8, payload: impl AsRef<[u8]>) -> Self {
        Frame {
            first,
            payload: payload.as_ref().to_vec(),
            length: Length::Shortest,
            masking: Masking::AsItsSide,
        }
    }

    pub(crate) fn length(self, length: Length) -> Self {
        Frame { length, ..self }
    }

    pub(crate) fn contrary(self) -> Self {
        let masking = Masking::Contrary;
        Frame { masking, ..self }
    }

    /// Length of its header when `side` sends it.
    pub(crate) fn header_len(&self, side: Side) -> usize {
        self.length_bytes().len() + 1 + if self.masked(side) { 4 } else { 0 }
    }

    pub(crate) fn write(&self, side: Side, key: [u8; 4], stream: &mut Vec<u8>) {
        stream.push(self.first);
        let mut length = self.length_bytes();
        if !self.masked(side) {
            stream.extend(length);
            stream.extend(&self.payload);
            return;
        }
        length[0] |= 0x80;
        stream.extend(length);
        stream.extend(key);
        let key = key.iter().cycle();
        stream.extend(self.payload.iter().zip(key).map(|(byte, key)| byte ^ key));
    }

    fn masked(&self, side: Side) -> bool {
        (side == Side::Client) == (self.masking == Masking::AsItsSide)
    }

    fn length_bytes(&self) -> Vec<u8> {
        let len = self.payload.len();
        let (form, number) = match self.length {
            Length::Claimed(len) => (127, len.to_be_bytes().to_vec()),
            Length::In64 => (127, (len as u64).to_be_bytes().to_vec()),
            Length::In16 => (126, (len as u16).to_be_bytes().to_vec()),
            Length::Shortest => match len {
                0..=125 => (len as u8, Vec::new()),
                126..=0xFFFF => (126, (len as u16).to_be_bytes().to_vec()),
                _ => (127, (len as u64).to_be_bytes().to_vec()),
            },
        };
        iter::once(form).chain(number).collect()
    }
}

pub(crate) fn frame(first: u8, payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(first, payload)
}

/// The frames as `side` writes them, and where each begins; the end is the last of these.
pub(crate) fn written(side: Side, sent: &[Frame]) -> (Vec<u8>, Vec<usize>) {
    let mut stream = Vec::new();
    let mut starts = vec![0];
    for (i, frame) in sent.iter().enumerate() {
        let key = [0x37, 0xFA, 0x21, 0x3D].map(|octet: u8| octet.wrapping_mul(i as u8 | 1));
        frame.write(side, key, &mut stream);
        starts.push(stream.len());
    }
    (stream, starts)
}
