//! How fast the inspector is, beside `memcpy` and `simdutf8` over the same bytes, as a Markdown table in GB/s.
//!
//! The flow is fed as the relay feeds it: windows of up to 64 KiB, the default rules, one block for all. Every column
//! is measured once per round, so that what disturbs the machine disturbs all of them; the table has the medians.

use std::hint::black_box;
use std::time::{Duration, Instant};
use wsgate::frame::header::{self, MAX_LEN, Opcode};
use wsgate::frame::mask::Mask;
use wsgate::inspect::{Block, Flow, Rules, Side, StopAt, Tally};

const ROUNDS: usize = 41;
/// Bytes per measurement: the same message again and again, so that it is as warm as what the relay has just read.
const BYTES: usize = 8 << 20;
/// What the relay reads at once.
const READ: usize = 64 << 10;

fn main() {
    // `cargo test --benches` asks only whether it runs.
    let rounds = if std::env::args().any(|arg| arg == "--bench") {
        ROUNDS
    } else {
        1
    };
    println!(
        "| payload | message | memcpy | simdutf8 | unmasked | masked | unmasked/simdutf8 | masked/simdutf8 |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let contents = [
        ("ASCII", "The quick brown fox jumps over the lazy dog. "),
        ("mixed", "Grüße an alle, καλημέρα κόσμε! 🌍 All is well. "),
        ("CJK", "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"),
    ];
    for (name, pattern) in contents {
        for len in [125, 4 << 10, 64 << 10, 1 << 20] {
            let mut text = pattern.repeat(len / pattern.len() + 1);
            text.truncate(text.floor_char_boundary(len));
            row(name, Opcode::Text, text.as_bytes(), len, rounds);
        }
    }
    for len in [125, 4 << 10, 64 << 10, 1 << 20] {
        let bytes: Vec<u8> = (0..len as u32).map(|i| ((i * 167) >> 3) as u8).collect();
        row("binary", Opcode::Binary, &bytes, len, rounds);
    }
}

fn row(name: &str, opcode: Opcode, payload: &[u8], len: usize, rounds: usize) {
    let times = (BYTES / payload.len()).max(1);
    let unmasked = Sent::new(Side::Server, opcode, payload);
    let masked = Sent::new(Side::Client, opcode, payload);
    let mut copy = vec![0; payload.len()];
    let mut block = Block::default();
    let mut samples: [Vec<Duration>; 4] = Default::default();
    for _ in 0..rounds {
        samples[0].push(time(times, || {
            for (from, to) in payload.chunks(READ).zip(copy.chunks_mut(READ)) {
                to.copy_from_slice(black_box(from));
                black_box(to);
            }
        }));
        samples[1].push(time(times, || {
            assert!(simdutf8::basic::from_utf8(black_box(payload)).is_ok() || name == "binary");
        }));
        samples[2].push(unmasked.inspect(times, &mut block));
        samples[3].push(masked.inspect(times, &mut block));
    }
    let [memcpy, simdutf8, unmasked, masked] = samples.map(|mut samples| {
        samples.sort_unstable();
        let median = samples[samples.len() / 2];
        (payload.len() * times) as f64 / median.as_secs_f64() / 1e9
    });
    let size = match len {
        0..1024 => format!("{len} B"),
        1024..0x10_0000 => format!("{} KiB", len >> 10),
        _ => format!("{} MiB", len >> 20),
    };
    // Nobody validates binary.
    if opcode == Opcode::Binary {
        println!("| {name} | {size} | {memcpy:.1} | – | {unmasked:.1} | {masked:.1} | – | – |");
    } else {
        println!(
            "| {name} | {size} | {memcpy:.1} | {simdutf8:.1} | {unmasked:.1} | {masked:.1} | {:.2} | {:.2} |",
            unmasked / simdutf8,
            masked / simdutf8
        );
    }
}

/// One message as a side sends it.
struct Sent {
    side: Side,
    stream: Vec<u8>,
}

impl Sent {
    fn new(side: Side, opcode: Opcode, payload: &[u8]) -> Self {
        let key = (side == Side::Client).then_some([0x37, 0xFA, 0x21, 0x3D]);
        let mut head = [0; MAX_LEN];
        let head_len = header::encode(opcode, payload.len() as u64, key, &mut head);
        let mut stream = [&head[..head_len], payload].concat();
        if let Some(key) = key {
            Mask::new(key).apply(&mut stream[head_len..]);
        }
        Sent { side, stream }
    }

    /// As often as `times`, on one connection.
    fn inspect(&self, times: usize, block: &mut Block) -> Duration {
        let (rules, mut tally) = (Rules::default(), Tally::default());
        let mut flow = Flow::new(self.side);
        let duration = time(times, || {
            let (mut start, mut end) = (0, 0);
            while end < self.stream.len() {
                end = self.stream.len().min(end + READ);
                let window = black_box(&self.stream[start..end]);
                let passage = flow.inspect(&rules, window, StopAt::End, block, &mut tally);
                assert_eq!(passage.event, None);
                start += passage.release;
            }
        });
        assert_eq!(flow.released(), (times * self.stream.len()) as u64);
        duration
    }
}

fn time(times: usize, mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..times {
        run();
    }
    start.elapsed()
}
