//! Validation of streamed UTF-8 (RFC 3629, RFC 6455 §8.1), which fails at the first byte that proves an error.
//!
//! Whole code points are checked by `simdutf8`; only the bytes that a cut leaves unfinished, at most three, go through the
//! table of the Unicode standard (table 3-7, "Well-Formed UTF-8 Byte Sequences") byte by byte.

/// Where the stream stands within a code point. The state is one byte and is copied freely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8 {
    state: State,
    /// How many bytes of the unfinished code point have come, 0 to 3.
    pending: u8,
}

/// The bytes that may come next. The names are the ranges that the lead byte asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// A new code point.
    #[default]
    Start,
    /// The last byte, 80..BF.
    One,
    /// The last but one, 80..BF.
    Two,
    /// The second of four, 80..BF.
    Three,
    /// After E0: A0..BF, anything less would be overlong.
    AfterE0,
    /// After ED: 80..9F, anything more would be a surrogate.
    AfterEd,
    /// After F0: 90..BF, anything less would be overlong.
    AfterF0,
    /// After F4: 80..8F, anything more would be beyond U+10FFFF.
    AfterF4,
}

impl Utf8 {
    /// At the beginning of a message.
    pub const fn new() -> Self {
        Utf8 {
            state: State::Start,
            pending: 0,
        }
    }

    /// Whether the bytes so far end with a whole code point, as a message has to.
    pub fn is_complete(&self) -> bool {
        self.state == State::Start
    }

    /// How many bytes at the end of those fed belong to an unfinished code point, 0 to 3.
    pub fn pending(&self) -> usize {
        usize::from(self.pending)
    }

    /// Moves on over `bytes` that the caller knows to be ASCII.
    ///
    /// # Errors
    /// `0` where a code point is unfinished: its next byte cannot be ASCII.
    pub fn skip_ascii(&mut self, bytes: &[u8]) -> Result<(), usize> {
        if bytes.is_empty() || self.is_complete() {
            Ok(())
        } else {
            Err(0)
        }
    }

    /// Moves on over `bytes`.
    ///
    /// # Errors
    /// The index in `bytes` of the first byte that no valid text could have there. Up to it, [`Utf8::pending`] is as
    /// it was before that byte.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while !self.is_complete() {
            let Some(&byte) = bytes.get(at) else {
                return Ok(());
            };
            self.step(byte).map_err(|()| at)?;
            at += 1;
        }
        let whole = at + whole_code_points(&bytes[at..]);
        if simdutf8::basic::from_utf8(&bytes[at..whole]).is_err() {
            // Rare, so it may be slow: find the code point that is wrong, then the byte of it.
            at += match std::str::from_utf8(&bytes[at..whole]) {
                Ok(_) => whole - at,
                Err(e) => e.valid_up_to(),
            };
        } else {
            at = whole;
        }
        for (i, &byte) in bytes.iter().enumerate().skip(at) {
            self.step(byte).map_err(|()| i)?;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<(), ()> {
        let next = match (self.state, byte) {
            (State::Start, 0x00..=0x7F) => State::Start,
            (State::Start, 0xC2..=0xDF) => State::One,
            (State::Start, 0xE0) => State::AfterE0,
            (State::Start, 0xED) => State::AfterEd,
            (State::Start, 0xE1..=0xEF) => State::Two,
            (State::Start, 0xF0) => State::AfterF0,
            (State::Start, 0xF1..=0xF3) => State::Three,
            (State::Start, 0xF4) => State::AfterF4,
            (State::One, 0x80..=0xBF) => State::Start,
            (State::Two, 0x80..=0xBF)
            | (State::AfterE0, 0xA0..=0xBF)
            | (State::AfterEd, 0x80..=0x9F) => State::One,
            (State::Three, 0x80..=0xBF)
            | (State::AfterF0, 0x90..=0xBF)
            | (State::AfterF4, 0x80..=0x8F) => State::Two,
            _ => return Err(()),
        };
        self.pending = if next == State::Start {
            0
        } else {
            self.pending + 1
        };
        self.state = next;
        Ok(())
    }
}

/// Length of the beginning of `bytes` that does not end inside a code point, as far as lead bytes tell.
fn whole_code_points(bytes: &[u8]) -> usize {
    // A code point has at most four bytes: an unfinished one began within the last three.
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let wanted = match bytes[at] {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xFF => 4,
            _ => 1,
        };
        return if wanted > back { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the bytes are proven wrong, by trying every continuation: slow, and written from the definition alone.
    fn proof(bytes: &[u8]) -> Option<usize> {
        (0..bytes.len()).find(|&at| !can_be_continued(&bytes[..=at]))
    }

    fn can_be_continued(bytes: &[u8]) -> bool {
        let valid = match std::str::from_utf8(bytes) {
            Ok(_) => return true,
            Err(e) => e.valid_up_to(),
        };
        let tail = &bytes[valid..];
        let finish = |more: &[u8]| std::str::from_utf8(&[tail, more].concat()).is_ok();
        // Only the byte after the lead byte has a range of its own; those after it are 80..BF.
        (0x80..=0xBFu8).any(|a| finish(&[a]) || finish(&[a, 0x80]) || finish(&[a, 0x80, 0x80]))
    }

    fn at_every_cut(bytes: &[u8], expected: Option<usize>, complete: bool) {
        for cut in 0..=bytes.len() {
            let mut utf8 = Utf8::new();
            let result = utf8
                .feed(&bytes[..cut])
                .and_then(|()| utf8.feed(&bytes[cut..]).map_err(|at| at + cut));
            assert_eq!(result.err(), expected, "{bytes:02x?} cut at {cut}");
            if expected.is_none() {
                assert_eq!(utf8.is_complete(), complete, "{bytes:02x?} cut at {cut}");
            }
        }
        let mut utf8 = Utf8::new();
        let result = bytes.iter().position(|byte| utf8.feed(&[*byte]).is_err());
        assert_eq!(result, expected, "{bytes:02x?} byte by byte");
    }

    /// The first and the last code point of each length, and the neighbours of the surrogates.
    #[test]
    fn boundaries_of_each_length() {
        for c in [
            '\0',
            '\u{7F}',
            '\u{80}',
            '\u{7FF}',
            '\u{800}',
            '\u{FFF}',
            '\u{1000}',
            '\u{CFFF}',
            '\u{D000}',
            '\u{D7FF}',
            '\u{E000}',
            '\u{FFFD}',
            '\u{FFFE}',
            '\u{FFFF}',
            '\u{10000}',
            '\u{3FFFF}',
            '\u{40000}',
            '\u{FFFFF}',
            '\u{100000}',
            '\u{10FFFF}',
        ] {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            at_every_cut(bytes, None, true);
            let framed = [b"ab", bytes, "é".as_bytes()].concat();
            at_every_cut(&framed, None, true);
            for end in 1..bytes.len() {
                at_every_cut(&bytes[..end], None, false);
                // A code point cut short by ASCII, by a lead byte and by nothing that may ever come.
                for next in [b'a', 0xC3, 0xFF] {
                    at_every_cut(&[&bytes[..end], &[next]].concat(), Some(end), false);
                }
            }
        }
    }

    #[test]
    fn overlong_forms_surrogates_and_beyond_the_last() {
        for (bytes, at) in [
            (&[0x80][..], 0),
            (&[0xBF], 0),
            (&[0xC0, 0x80], 0),
            (&[0xC0, 0xAF], 0),
            (&[0xC1, 0xBF], 0),
            (&[0xE0, 0x80, 0x80], 1),
            (&[0xE0, 0x9F, 0xBF], 1),
            (&[0xF0, 0x80, 0x80, 0x80], 1),
            (&[0xF0, 0x8F, 0xBF, 0xBF], 1),
            (&[0xED, 0xA0, 0x80], 1),
            (&[0xED, 0xAD, 0xBF], 1),
            (&[0xED, 0xAE, 0x80], 1),
            (&[0xED, 0xBF, 0xBF], 1),
            (&[0xF4, 0x90, 0x80, 0x80], 1),
            (&[0xF5, 0x80, 0x80, 0x80], 0),
            (&[0xF8, 0x88, 0x80, 0x80, 0x80], 0),
            (&[0xFC, 0x84, 0x80, 0x80, 0x80, 0x80], 0),
            (&[0xFE], 0),
            (&[0xFF], 0),
        ] {
            at_every_cut(bytes, Some(at), false);
            let later = ["κόσμε".as_bytes(), bytes, b"tail"].concat();
            at_every_cut(&later, Some(at + "κόσμε".len()), false);
        }
    }

    /// Every sequence of two bytes, and every of three and four from the edges of the ranges.
    #[test]
    fn every_short_sequence_against_the_definition() {
        const EDGES: [u8; 26] = [
            0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1,
            0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFE, 0xFF,
        ];
        let agree = |bytes: &[u8]| {
            let mut utf8 = Utf8::new();
            let result = utf8.feed(bytes);
            assert_eq!(result.err(), proof(bytes), "{bytes:02x?}");
            assert_eq!(
                result.is_ok() && utf8.is_complete(),
                std::str::from_utf8(bytes).is_ok(),
                "{bytes:02x?}"
            );
        };
        for a in 0..=255 {
            for b in 0..=255 {
                agree(&[a, b]);
            }
        }
        for a in EDGES {
            for b in EDGES {
                for c in EDGES {
                    agree(&[a, b, c]);
                    if a >= 0xF0 {
                        EDGES.iter().for_each(|&d| agree(&[a, b, c, d]));
                    }
                }
            }
        }
    }

    #[test]
    fn an_error_deep_in_a_long_text_is_at_its_byte() {
        let text = "Grüße, 世界 🌍 ".repeat(400);
        for at in (0..text.len())
            .step_by(97)
            .filter(|at| text.is_char_boundary(*at))
        {
            let mut bytes = text.clone().into_bytes();
            bytes.insert(at, 0xFF);
            let mut utf8 = Utf8::new();
            assert_eq!(utf8.feed(&bytes), Err(at));
        }
    }
}
