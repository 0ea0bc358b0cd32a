//! RFC 1951 and RFC 7692 §7.2.2 once more: bit by bit, the whole message each time, nothing clever.

use super::{Law, look_at_text};

/// What one side has compressed so far.
pub(crate) struct Sender {
    shared: bool,
    window: usize,
    before: Vec<u8>,
}

/// What is to be said of a message.
pub(crate) enum Deflated {
    Fine {
        inflated: usize,
    },
    Broken {
        rules: Vec<(&'static str, u64)>,
        /// Index of the byte of the payload that proves it; `None`: its end does.
        proof: Option<usize>,
    },
}

/// Why bits are no deflate data, or that there are no more of them.
enum Stop {
    Wrong,
    NoMore,
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Result<usize, Stop> {
        let byte = self.bytes.get(self.at / 8).ok_or(Stop::NoMore)?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Ok(usize::from(bit))
    }

    fn number(&mut self, bits: usize) -> Result<usize, Stop> {
        let mut number = 0;
        for i in 0..bits {
            number |= self.bit()? << i;
        }
        Ok(number)
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }
}

/// RFC 1951 §3.2.2: a code for each symbol that has a length.
struct Codes(Vec<(usize, usize, usize)>);

impl Codes {
    /// Length, code and symbol of each, from the lengths of all symbols.
    fn new(lengths: &[usize]) -> Codes {
        let mut codes = Vec::new();
        let mut code = 0;
        for length in 1..=15 {
            code <<= 1;
            for symbol in (0..lengths.len()).filter(|symbol| lengths[*symbol] == length) {
                codes.push((length, code, symbol));
                code += 1;
            }
        }
        Codes(codes)
    }

    /// How much of the room for codes is used, in parts of 2 to the power of 15.
    fn used(&self) -> usize {
        self.0.iter().map(|(length, ..)| 1 << (15 - length)).sum()
    }

    /// Codes have to use all the room, but for a single one of one bit.
    fn is_right(&self) -> bool {
        let single = self.0.len() == 1 && self.0[0].0 == 1;
        self.0.is_empty() || single || self.used() == 1 << 15
    }

    fn symbol(&self, bits: &mut Bits<'_>) -> Result<usize, Stop> {
        let (mut length, mut code) = (0, 0);
        loop {
            code = code << 1 | bits.bit()?;
            length += 1;
            let mut possible = false;
            for &(other, full, symbol) in &self.0 {
                if other >= length && full >> (other - length) == code {
                    possible = true;
                    if other == length {
                        return Ok(symbol);
                    }
                }
            }
            if !possible {
                return Err(Stop::Wrong);
            }
        }
    }
}

impl Sender {
    pub(crate) fn new(shared: bool, window: usize) -> Self {
        Sender {
            shared,
            window,
            before: Vec::new(),
        }
    }

    /// The payload of a message so far; `end`: there is no more of it.
    pub(crate) fn inflate(&mut self, payload: &[u8], end: bool, law: &Law, text: bool) -> Deflated {
        let start = self.before.len().saturating_sub(self.window);
        let mut stream = payload.to_vec();
        if end {
            stream.extend([0, 0, 0xFF, 0xFF]);
        }
        let mut run = Run {
            bits: Bits {
                bytes: &stream,
                at: 0,
            },
            out: self.before[start..].to_vec(),
            origin: 0,
            skipped: self.before.len() - start,
            came: Vec::new(),
            most: law.max_message_size,
            between_blocks: true,
        };
        let stop = run.blocks();
        let inflated: Vec<u8> = run.out[run.skipped..].to_vec();
        // What had come out when the payload ended.
        let by_then = run.came.iter().filter(|at| **at < payload.len()).count() as u64;
        let index = |at: usize| Some(at).filter(|at| *at < payload.len());
        // Each of these with the byte that proves it; the first one is told.
        let mut all: Vec<(usize, &'static str, u64)> = Vec::new();
        if text {
            let (_, wrong) = look_at_text(&inflated);
            if let Some(at) = wrong {
                all.push((run.came[at], "text_not_utf8", at as u64));
            }
        }
        if inflated.len() as u64 > law.max_message_size {
            let at = law.max_message_size;
            // Text beyond the limit is not looked at.
            all.retain(|(_, _, wrong)| *wrong < at);
            if self.shared && run.came[at as usize] >= payload.len() {
                all.push((run.came[at as usize], "deflate_unfinished", by_then));
            }
            all.push((run.came[at as usize], "message_too_big", at));
        } else if let Stop::Wrong = stop {
            let at = (run.bits.at - 1) / 8;
            all.push((at, "deflate_invalid", inflated.len() as u64));
            if at >= payload.len() {
                all.push((at, "deflate_unfinished", by_then));
            }
        } else if end {
            let at = stream.len() - 1;
            let len = inflated.len() as u64;
            // Some of the bits before a whole byte are ones, from the last byte.
            let between = run.between_blocks && run.bits.at == stream.len() * 8;
            if self.shared && !between {
                all.push((at, "deflate_unfinished", by_then));
            }
            if text && std::str::from_utf8(&inflated).is_err() {
                all.push((at, "text_unfinished", len));
            }
        }
        if let Some(first) = all.iter().map(|(at, ..)| *at).min() {
            let proof = index(first);
            let rules = all.iter().filter(|(at, ..)| index(*at) == proof);
            return Deflated::Broken {
                rules: rules.map(|(_, label, at)| (*label, *at)).collect(),
                proof,
            };
        }
        if end && self.shared {
            self.before = run.out[run.origin..].to_vec();
        }
        Deflated::Fine {
            inflated: inflated.len(),
        }
    }
}

struct Run<'a> {
    bits: Bits<'a>,
    out: Vec<u8>,
    /// Where in `out` the data set begins that may be referred to.
    origin: usize,
    /// How much of `out` is from earlier messages.
    skipped: usize,
    /// With which byte of the stream each byte came out.
    came: Vec<usize>,
    most: u64,
    between_blocks: bool,
}

const LENGTHS: [(usize, usize); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

impl Run<'_> {
    fn blocks(&mut self) -> Stop {
        loop {
            match self.block() {
                Ok(()) => {}
                Err(stop) => return stop,
            }
        }
    }

    fn give(&mut self, byte: u8) -> Result<(), Stop> {
        self.out.push(byte);
        self.came.push((self.bits.at - 1) / 8);
        // Nobody asks what comes after the limit.
        if self.came.len() as u64 > self.most {
            Err(Stop::NoMore)
        } else {
            Ok(())
        }
    }

    fn block(&mut self) -> Result<(), Stop> {
        let begin = self.bits.at;
        if begin == self.bits.bytes.len() * 8 {
            return Err(Stop::NoMore);
        }
        self.between_blocks = false;
        let last = self.bits.bit()?;
        match self.bits.number(2)? {
            0 => self.stored()?,
            1 => {
                let lengths: Vec<usize> = (0..288)
                    .map(|symbol| match symbol {
                        0..=143 => 8,
                        144..=255 => 9,
                        256..=279 => 7,
                        _ => 8,
                    })
                    .collect();
                self.codes(&Codes::new(&lengths), &Codes::new(&[5; 32]))?;
            }
            2 => {
                let (literals, distances) = self.tables()?;
                self.codes(&literals, &distances)?;
            }
            _ => return Err(Stop::Wrong),
        }
        self.between_blocks = true;
        if last == 1 {
            self.bits.align();
            self.origin = self.out.len();
        }
        Ok(())
    }

    fn stored(&mut self) -> Result<(), Stop> {
        self.bits.align();
        let len = self.bits.number(16)?;
        if self.bits.number(16)? != !len & 0xFFFF {
            return Err(Stop::Wrong);
        }
        for _ in 0..len {
            let byte = self.bits.number(8)? as u8;
            self.give(byte)?;
        }
        Ok(())
    }

    /// RFC 1951 §3.2.7.
    fn tables(&mut self) -> Result<(Codes, Codes), Stop> {
        let literals = self.bits.number(5)? + 257;
        let distances = self.bits.number(5)? + 1;
        let count = self.bits.number(4)? + 4;
        if literals > 286 || distances > 30 {
            return Err(Stop::Wrong);
        }
        let mut lengths = [0; 19];
        for place in [
            16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
        ]
        .iter()
        .take(count)
        {
            lengths[*place] = self.bits.number(3)?;
        }
        let codes = Codes::new(&lengths);
        // No single code here.
        if !codes.0.is_empty() && codes.used() != 1 << 15 {
            return Err(Stop::Wrong);
        }
        let mut all: Vec<usize> = Vec::new();
        while all.len() < literals + distances {
            // Without any code zlib reads zeros of one bit each, and complains of what comes of it.
            let symbol = if codes.0.is_empty() {
                self.bits.bit()?;
                0
            } else {
                codes.symbol(&mut self.bits)?
            };
            let (again, times) = match symbol {
                16 => {
                    let times = 3 + self.bits.number(2)?;
                    (*all.last().ok_or(Stop::Wrong)?, times)
                }
                17 => (0, 3 + self.bits.number(3)?),
                18 => (0, 11 + self.bits.number(7)?),
                length => (length, 1),
            };
            all.extend(std::iter::repeat_n(again, times));
        }
        let right = all.len() == literals + distances && all[256] != 0;
        let (first, second) = all.split_at(literals.min(all.len()));
        let (first, second) = (Codes::new(first), Codes::new(second));
        if right && first.is_right() && second.is_right() {
            Ok((first, second))
        } else {
            Err(Stop::Wrong)
        }
    }

    fn codes(&mut self, literals: &Codes, distances: &Codes) -> Result<(), Stop> {
        loop {
            match literals.symbol(&mut self.bits)? {
                literal @ 0..=255 => self.give(literal as u8)?,
                256 => return Ok(()),
                length => {
                    let (length, extra) = *LENGTHS.get(length - 257).ok_or(Stop::Wrong)?;
                    let length = length + self.bits.number(extra)?;
                    let code = distances.symbol(&mut self.bits)?;
                    let (base, extra) = match code {
                        0..=3 => (code + 1, 0),
                        4..=29 => (((2 + code % 2) << (code / 2 - 1)) + 1, code / 2 - 1),
                        _ => return Err(Stop::Wrong),
                    };
                    let distance = base + self.bits.number(extra)?;
                    if distance > self.out.len() - self.origin {
                        return Err(Stop::Wrong);
                    }
                    for _ in 0..length {
                        let byte = self.out[self.out.len() - distance];
                        self.give(byte)?;
                    }
                }
            }
        }
    }
}
