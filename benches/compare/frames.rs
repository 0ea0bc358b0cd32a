//! What is asked and what is answered, as it stands on the wire.

use std::fmt;
use std::str::FromStr;
use wsgate::frame::header::{self, MAX_LEN, Opcode};
use wsgate::frame::mask::Mask;
use zlib_rs::{Deflate, DeflateFlush};

/// What messages hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text of one byte a character.
    Ascii,
    /// Text of one to four.
    Mixed,
    /// Text of three.
    Cjk,
    /// Anything.
    Binary,
    /// JSON, compressed without context takeover.
    Deflate,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Ascii, "ascii"),
    (Kind::Mixed, "mixed"),
    (Kind::Cjk, "cjk"),
    (Kind::Binary, "binary"),
    (Kind::Deflate, "deflate"),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(kind, _)| kind == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let kind = KINDS.iter().find(|(_, name)| *name == text);
        kind.map(|(kind, _)| *kind)
            .ok_or_else(|| format!("no kind of message: {text}"))
    }
}

/// A question and its answer.
pub(crate) struct Exchange {
    /// What both hold.
    pub kind: Kind,
    /// Bytes of the question, as a reader of it would count them.
    pub up: usize,
    /// Bytes of the answer.
    pub down: usize,
    /// The frame of the client.
    pub question: Vec<u8>,
    /// The frame of the server.
    pub answer: Vec<u8>,
}

impl Exchange {
    /// The same frames for the same arguments, so that both ends know them.
    pub(crate) fn new(kind: Kind, up: usize, down: usize) -> Exchange {
        Exchange {
            kind,
            up,
            down,
            question: frame(kind, up, Some([0x37, 0xFA, 0x21, 0x3D])),
            answer: frame(kind, down, None),
        }
    }
}

fn frame(kind: Kind, len: usize, key: Option<[u8; 4]>) -> Vec<u8> {
    let (opcode, payload, rsv1) = match kind {
        Kind::Ascii => (
            Opcode::Text,
            repeated("the quick brown fox 0123456789, ", len),
            0,
        ),
        Kind::Mixed => (
            Opcode::Text,
            repeated("price 12 €, größe, naïve, Ωμέγα 🌍; ", len),
            0,
        ),
        Kind::Cjk => (
            Opcode::Text,
            repeated("吾輩は猫である名前はまだ無い", len),
            0,
        ),
        Kind::Binary => (
            Opcode::Binary,
            (0..len).map(|i| (i * 7 + i / 251) as u8).collect(),
            0,
        ),
        Kind::Deflate => (Opcode::Text, deflated(&json(len)), 0x40),
    };
    let mut head = [0; MAX_LEN];
    let head_len = header::encode(opcode, payload.len() as u64, key, &mut head);
    head[0] |= rsv1;
    let mut frame = head[..head_len].to_vec();
    let start = frame.len();
    frame.extend_from_slice(&payload);
    if let Some(key) = key {
        Mask::new(key).apply(&mut frame[start..]);
    }
    frame
}

/// Whole characters of this, and spaces where no other fits.
fn repeated(text: &str, len: usize) -> Vec<u8> {
    let mut filled = String::with_capacity(len);
    for c in text.chars().cycle() {
        if filled.len() + c.len_utf8() > len {
            break;
        }
        filled.push(c);
    }
    while filled.len() < len {
        filled.push(' ');
    }
    filled.into_bytes()
}

fn json(len: usize) -> Vec<u8> {
    let mut text = String::new();
    for id in 0_usize.. {
        if text.len() >= len {
            break;
        }
        let (user, word) = (id * 7919 % 97, id * 104_729 % 9973);
        text +=
            &format!("{{\"id\":{id},\"user\":\"user{user}\",\"text\":\"hello there {word}\"}}\n");
    }
    text.truncate(len);
    text.into_bytes()
}

/// RFC 7692 §7.2.1.
fn deflated(text: &[u8]) -> Vec<u8> {
    let mut deflate = Deflate::new(6, false, 15);
    let mut payload = vec![0; text.len() + 1024];
    deflate
        .compress(text, &mut payload, DeflateFlush::SyncFlush)
        .expect("it compresses");
    payload.truncate(deflate.total_out() as usize - 4);
    payload
}
