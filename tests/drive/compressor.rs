//! A sender that compresses, as RFC 7692 §7.2.1 says.

use rand::Rng;
use wsgate::frame::deflate::{DeflateParams, TAIL};
use zlib_rs::{Deflate, DeflateFlush, Status};

pub(crate) struct Compressor {
    terms: DeflateParams,
    deflate: Deflate,
}

impl Compressor {
    pub(crate) fn new(terms: DeflateParams) -> Self {
        Compressor {
            terms,
            deflate: new(terms, 6),
        }
    }

    /// A message, or its last part.
    pub(crate) fn message(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut out = self.write(payload, DeflateFlush::SyncFlush);
        assert!(out.ends_with(&TAIL));
        out.truncate(out.len() - TAIL.len());
        if !self.terms.takeover {
            self.deflate = new(self.terms, 6);
        }
        out
    }

    /// A part of a message, flushed.
    pub(crate) fn part(&mut self, payload: &[u8]) -> Vec<u8> {
        self.write(payload, DeflateFlush::SyncFlush)
    }

    /// A message flushed anywhere and anyhow, with last blocks in it, and sometimes without compression.
    pub(crate) fn random(&mut self, mut payload: &[u8], rng: &mut impl Rng) -> Vec<u8> {
        let mut out = Vec::new();
        while rng.gen_bool(0.3) {
            let (part, rest) = payload.split_at(rng.gen_range(0..=payload.len()));
            payload = rest;
            match rng.gen_range(0..5) {
                0 => out.extend(self.write(part, DeflateFlush::FullFlush)),
                1 => out.extend(self.write(part, DeflateFlush::PartialFlush)),
                2 => {
                    out.extend(self.write(part, DeflateFlush::Finish));
                    self.deflate = new(self.terms, rng.gen_range(0..=9));
                }
                _ => out.extend(self.write(part, DeflateFlush::SyncFlush)),
            }
        }
        let level = rng.gen_range(0..=9);
        out.extend(self.message(payload));
        if !self.terms.takeover {
            self.deflate = new(self.terms, level);
        }
        out
    }

    fn write(&mut self, mut payload: &[u8], flush: DeflateFlush) -> Vec<u8> {
        let mut out = Vec::new();
        let mut room = vec![0; 4096];
        // Two flushes on end would be one.
        let _ = self.deflate.compress(&[], &mut room, DeflateFlush::NoFlush);
        loop {
            let before = (self.deflate.total_in(), self.deflate.total_out());
            let status = self.deflate.compress(payload, &mut room, flush);
            let status = status.expect("it compresses");
            payload = &payload[(self.deflate.total_in() - before.0) as usize..];
            let produced = (self.deflate.total_out() - before.1) as usize;
            out.extend_from_slice(&room[..produced]);
            let done = status == Status::StreamEnd || produced < room.len();
            if payload.is_empty() && done {
                return out;
            }
        }
    }
}

fn new(terms: DeflateParams, level: i32) -> Deflate {
    Deflate::new(level, false, terms.window_bits.max(9))
}
