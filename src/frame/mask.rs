//! Masking, RFC 6455 §5.3: octet i of the payload is XORed with octet `i mod 4` of the key.
//!
//! The bytes that are passed on stay masked as they came. What is read here is a copy in a small block, or no copy at
//! all where the question is only whether the text is ASCII.

/// A masking key at some position of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask {
    /// The key, rotated so that its first octet belongs to the next octet of the payload.
    key: [u8; 4],
}

impl Mask {
    /// The key at the beginning of the payload.
    pub const fn new(key: [u8; 4]) -> Self {
        Mask { key }
    }

    /// Moves on by `n` octets of payload.
    pub fn advance(&mut self, n: usize) {
        let bits = 8 * (n % 4) as u32;
        self.key = u32::from_be_bytes(self.key).rotate_left(bits).to_be_bytes();
    }

    /// XORs `from` into the beginning of `to`, which must be at least as long, and moves on.
    pub fn apply_to(&mut self, from: &[u8], to: &mut [u8]) {
        let to = &mut to[..from.len()];
        let key = u64::from_ne_bytes(self.doubled());
        let (wide_from, rest_from) = from.as_chunks::<32>();
        let (wide_to, rest_to) = to.as_chunks_mut::<32>();
        for (from, to) in wide_from.iter().zip(wide_to) {
            // Four words at a time: the compiler makes vector instructions of it, without any unsafe code here.
            for i in 0..4 {
                let word = u64::from_ne_bytes(word(from, i)) ^ key;
                to[i * 8..i * 8 + 8].copy_from_slice(&word.to_ne_bytes());
            }
        }
        for (i, (from, to)) in rest_from.iter().zip(rest_to).enumerate() {
            *to = from ^ self.key[i % 4];
        }
        self.advance(from.len());
    }

    /// XORs `bytes` in place and moves on.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= self.key[i % 4];
        }
        self.advance(bytes.len());
    }

    /// Whether `bytes` are ASCII once unmasked. Does not move on.
    ///
    /// Most text is, and to know it no unmasked copy is needed: an octet is ASCII where its highest bit equals the
    /// highest bit of its octet of the key.
    pub fn is_ascii(&self, bytes: &[u8]) -> bool {
        const HIGH: u32 = 0x8080_8080;
        let key = u32::from_ne_bytes(self.key);
        // A plain fold over a block of known length is what the compiler makes the best vector instructions of.
        let seen = |words: &[[u8; 4]]| {
            words
                .iter()
                .fold(0, |seen, word| seen | (u32::from_ne_bytes(*word) ^ key))
        };
        let (blocks, rest) = bytes.as_chunks::<512>();
        if blocks
            .iter()
            .any(|block| seen(block.as_chunks::<4>().0) & HIGH != 0)
        {
            return false;
        }
        let (words, last) = rest.as_chunks::<4>();
        let tail = last
            .iter()
            .zip(self.key)
            .fold(0, |seen, (byte, key)| seen | (byte ^ key));
        seen(words) & HIGH == 0 && tail < 0x80
    }

    fn doubled(&self) -> [u8; 8] {
        let [a, b, c, d] = self.key;
        [a, b, c, d, a, b, c, d]
    }
}

/// The `i`th group of eight octets of a block.
#[inline(always)]
fn word<const N: usize>(block: &[u8; N], i: usize) -> [u8; 8] {
    let mut word = [0; 8];
    word.copy_from_slice(&block[i * 8..i * 8 + 8]);
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plainly(key: [u8; 4], offset: usize, bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .enumerate()
            .map(|(i, b)| b ^ key[(i + offset) % 4])
            .collect()
    }

    #[test]
    fn section_5_3_at_every_length_and_phase() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let payload: Vec<u8> = (0..300u32).map(|i| (i * 7 + 3) as u8).collect();
        for len in 0..payload.len() {
            for cut in [0, 1, 2, 3, 5, 63].map(|cut: usize| cut.min(len)) {
                let mut mask = Mask::new(key);
                let mut out = vec![0; len];
                mask.apply_to(&payload[..cut], &mut out);
                mask.apply_to(&payload[cut..len], &mut out[cut..]);
                assert_eq!(out, plainly(key, 0, &payload[..len]));
                let mut in_place = payload[..len].to_vec();
                Mask::new(key).apply(&mut in_place);
                assert_eq!(in_place, out);
            }
        }
    }

    #[test]
    fn ascii_is_seen_through_the_mask_wherever_the_other_byte_stands() {
        let key = [0x80, 0x7f, 0xff, 0x00];
        for len in (0..270).chain([511, 512, 513, 1023, 1024, 1100]) {
            let ascii = plainly(key, 1, &vec![b'a'; len]);
            let mut mask = Mask::new(key);
            mask.advance(1);
            assert!(mask.is_ascii(&ascii));
            // All of the short ones, and of the long ones those beside the edges of a block.
            let near = |at: &usize| len < 270 || at % 64 < 2 || len - at < 9;
            for at in (0..len).filter(near) {
                let mut other = ascii.clone();
                other[at] ^= 0x80;
                assert!(!mask.is_ascii(&other), "{at} of {len}");
            }
        }
    }
}
