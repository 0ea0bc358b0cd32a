//! Bounds on how long a peer may keep a transfer waiting: the longest pause, and a minimal rate.
//!
//! Pure: waits and bytes are reported by the caller.

use std::time::Duration;

/// The time that may still be spent on waiting. Bytes earn it back at the minimal rate, up to the longest pause: a peer that
/// moves nothing is given up after one pause, and so is, sooner or later, a peer that is slower than the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    pause: Duration,
    /// In bytes per second; 0: any byte earns the whole pause.
    rate: u64,
    left: Duration,
}

impl Patience {
    /// `None` where nobody is given up: a pause of zero.
    pub(crate) fn new(pause: Duration, rate: u64) -> Option<Patience> {
        (!pause.is_zero()).then_some(Patience {
            pause,
            rate,
            left: pause,
        })
    }

    /// How long may still be waited.
    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    /// A wait of this length is over. Returns false if the time of the peer is used up.
    pub(crate) fn handle_wait(&mut self, waited: Duration) -> bool {
        self.left = self.left.saturating_sub(waited);
        !self.left.is_zero()
    }

    /// This number of bytes was moved.
    pub(crate) fn handle_bytes(&mut self, bytes: usize) {
        let earned = match (bytes as u64, self.rate) {
            (0, _) => Duration::ZERO,
            (_, 0) => self.pause,
            (bytes, rate) => {
                let millis = bytes.saturating_mul(1000) / rate;
                Duration::from_millis(millis)
            }
        };
        self.left = self.left.saturating_add(earned).min(self.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Waits and bytes, in turn, until the peer is given up; how long that took, in seconds. Nobody is asked for ever.
    fn lasts(pause: u32, rate: u64, wait: Duration, bytes: usize) -> Option<u64> {
        let mut patience = Patience::new(pause * SECOND, rate)?;
        let mut waited = Duration::ZERO;
        while waited < 3600 * SECOND {
            let wait = wait.min(patience.left());
            waited += wait;
            if !patience.handle_wait(wait) {
                return Some(waited.as_secs());
            }
            patience.handle_bytes(bytes);
        }
        None
    }

    #[test]
    fn who_is_given_up() {
        for (pause, rate, wait, bytes, end) in [
            // Nothing at all.
            (60, 256, 7 * SECOND, 0, Some(60)),
            (60, 0, 7 * SECOND, 0, Some(60)),
            // A byte a minute, and 100 in a second.
            (60, 256, 59 * SECOND, 1, Some(60)),
            (60, 256, SECOND, 100, Some(97)),
            // Slow, but alive: 10 kB/s, and 300 B/s in one piece after each 50 s.
            (60, 256, SECOND, 10_000, None),
            (60, 256, 50 * SECOND, 15_000, None),
            // Without a rate a byte is enough.
            (60, 0, 59 * SECOND, 1, None),
            (0, 256, SECOND, 0, None),
        ] {
            assert_eq!(
                lasts(pause, rate, wait, bytes),
                end,
                "{bytes} bytes after each {wait:?}, {rate} wanted"
            );
        }
    }
}
