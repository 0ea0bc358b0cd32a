//! How fast compressed messages are inspected, beside the bare library inflating the same data, in MiB/s of inflated
//! text, as a Markdown table: JSON chat messages of three sizes, masked as clients send them, windows shared or not.
//!
//! Both are given what the relay would read at once, and the library the same block of 64 KiB for its output, without a
//! look at what is in it. Every column is measured once per round; the table has the medians. `-- "200 B yes"` measures
//! the rows whose names begin so.

use std::hint::black_box;
use std::time::{Duration, Instant};
use wsgate::frame::deflate::{DeflateParams, TAIL};
use wsgate::frame::header::{self, MAX_LEN, Opcode};
use wsgate::frame::mask::Mask;
use wsgate::inspect::{Block, Flow, Rules, Side, StopAt, Tally};
use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush};

const ROUNDS: usize = 41;
/// Inflated bytes per measurement.
const BYTES: usize = 4 << 20;
const READ: usize = 64 << 10;

fn main() {
    // `cargo test --benches` asks only whether it runs.
    let rounds = if std::env::args().any(|arg| arg == "--bench") {
        ROUNDS
    } else {
        1
    };
    println!(
        "| JSON | takeover | ratio | bare zlib-rs | wsgate, unmasked | wsgate, masked | masked/bare |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|");
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    for (name, len) in [("200 B", 200), ("4 KiB", 4 << 10), ("1 MiB", 1 << 20)] {
        for (takeover, word) in [(true, "yes"), (false, "no")] {
            let is_wanted = |wanted| format!("{name} {word}").starts_with(wanted);
            if wanted.as_deref().is_none_or(is_wanted) {
                row(name, len, takeover, rounds);
            }
        }
    }
}

fn row(name: &str, len: usize, takeover: bool, rounds: usize) {
    let mut number = 7;
    let texts: Vec<Vec<u8>> = (0..BYTES / len).map(|_| chat(len, &mut number)).collect();
    let inflated: usize = texts.iter().map(Vec::len).sum();
    let messages = compress(&texts, takeover);
    let deflated: usize = messages.iter().map(Vec::len).sum();
    let unmasked = written(Side::Server, &messages);
    let masked = written(Side::Client, &messages);
    let mut block = Block::default();
    let mut room = vec![0; READ];
    let mut samples: [Vec<Duration>; 3] = Default::default();
    for _ in 0..rounds {
        samples[0].push(bare(&messages, takeover, &mut room, inflated));
        samples[1].push(inspect(
            Side::Server,
            &unmasked,
            takeover,
            &mut block,
            inflated,
        ));
        samples[2].push(inspect(
            Side::Client,
            &masked,
            takeover,
            &mut block,
            inflated,
        ));
    }
    let [bare, unmasked, masked] = samples.map(|mut samples| {
        samples.sort_unstable();
        inflated as f64 / samples[samples.len() / 2].as_secs_f64() / f64::from(1 << 20)
    });
    println!(
        "| {name} | {} | {:.1} | {bare:.0} | {unmasked:.0} | {masked:.0} | {:.2} |",
        if takeover { "yes" } else { "no" },
        inflated as f64 / deflated as f64,
        masked / bare
    );
}

/// About `len` bytes of a conversation.
fn chat(len: usize, number: &mut u64) -> Vec<u8> {
    const WORDS: &str = "hello there how is the deploy going today I think we should check metrics before lunch \
        and then ship it größe naïve 🌍 maybe tomorrow";
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut any = |below: u64| {
        *number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*number >> 33) % below
    };
    let mut text = String::new();
    while text.len() < len {
        text += &format!(
            "{{\"type\":\"message\",\"room\":\"general\",\"id\":{},\"user\":\"user{}\",\"text\":\"",
            any(1 << 30),
            any(500)
        );
        for _ in 0..6 + any(12) {
            text += words[any(words.len() as u64) as usize];
            text.push(' ');
        }
        text += "\"}\n";
    }
    text.truncate(text.floor_char_boundary(len));
    text.into_bytes()
}

/// What a sender makes of them, without their tails.
fn compress(texts: &[Vec<u8>], takeover: bool) -> Vec<Vec<u8>> {
    let mut deflate = Deflate::new(6, false, 15);
    let compress = |text: &Vec<u8>| {
        let mut message = vec![0; text.len() + 1024];
        let before = deflate.total_out();
        deflate
            .compress(text, &mut message, DeflateFlush::SyncFlush)
            .expect("it compresses");
        message.truncate((deflate.total_out() - before) as usize - TAIL.len());
        if !takeover {
            deflate.reset();
        }
        message
    };
    texts.iter().map(compress).collect()
}

fn written(side: Side, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = Vec::new();
    for message in messages {
        let key = (side == Side::Client).then_some([0x37, 0xFA, 0x21, 0x3D]);
        let mut head = [0; MAX_LEN];
        let head_len = header::encode(Opcode::Text, message.len() as u64, key, &mut head);
        head[0] |= 0x40;
        stream.extend_from_slice(&head[..head_len]);
        let start = stream.len();
        stream.extend_from_slice(message);
        if let Some(key) = key {
            Mask::new(key).apply(&mut stream[start..]);
        }
    }
    stream
}

fn bare(messages: &[Vec<u8>], takeover: bool, room: &mut [u8], inflated: usize) -> Duration {
    let mut inflate = Inflate::new(false, 15);
    let mut produced = 0;
    let start = Instant::now();
    for message in messages {
        for input in [message, &TAIL[..]] {
            let mut rest = black_box(input);
            loop {
                let before = (inflate.total_in(), inflate.total_out());
                inflate
                    .decompress(rest, room, InflateFlush::SyncFlush)
                    .expect("it inflates");
                rest = &rest[(inflate.total_in() - before.0) as usize..];
                let out = (inflate.total_out() - before.1) as usize;
                produced += out;
                black_box(&room[..out]);
                if rest.is_empty() && out < room.len() {
                    break;
                }
            }
        }
        if !takeover {
            inflate.reset(false);
        }
    }
    let duration = start.elapsed();
    assert_eq!(produced, inflated);
    duration
}

/// On one connection, in windows as the relay would have them.
fn inspect(
    side: Side,
    stream: &[u8],
    takeover: bool,
    block: &mut Block,
    inflated: usize,
) -> Duration {
    let (rules, mut tally) = (Rules::default(), Tally::default());
    let terms = DeflateParams {
        takeover,
        window_bits: 15,
    };
    let mut flow = Flow::new(side).with_compression(Some(terms));
    let start = Instant::now();
    let (mut from, mut to) = (0, 0);
    while to < stream.len() {
        to = stream.len().min(to + READ);
        let window = black_box(&stream[from..to]);
        let passage = flow.inspect(&rules, window, StopAt::End, block, &mut tally);
        assert_eq!(passage.event, None);
        from += passage.release;
    }
    let duration = start.elapsed();
    assert_eq!(tally.compressed.inflated, inflated as u64);
    duration
}
