//! All the randomness of a session, out of one seed, so that a simulation can be replayed.

use crate::frame::ping;
use std::time::Duration;

/// SplitMix64 (Steele, Lea and Flood, 2014): eight bytes of state, and every seed is good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generator(u64);

impl Generator {
    pub(super) const fn new(seed: u64) -> Self {
        Generator(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A masking key for a frame toward the server (RFC 6455 §5.3). The frames that it masks hold nothing that a client chose,
    /// so that predicting it gains nothing.
    pub(super) fn mask(&mut self) -> [u8; 4] {
        (self.next() as u32).to_be_bytes()
    }

    /// A payload for Pings.
    pub(super) fn payload(&mut self) -> [u8; ping::LEN] {
        self.next().to_be_bytes()
    }

    /// A duration from `low` to `high`, to the millisecond; `low` where that is larger.
    pub(super) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = high.saturating_sub(low).as_millis() as u64;
        // The remainder favours small values by less than 1 in 2^40 for spans of hours.
        low + Duration::from_millis(self.next() % (span + 1))
    }
}
