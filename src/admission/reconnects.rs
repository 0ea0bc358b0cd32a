//! For how long a client that has to reconnect is told to wait.
//!
//! The delay is drawn from the range of the setting (`reconnect_after`), as long as the clients come back no faster than the
//! remaining servers are known to take them. Beyond that each client gets the next free slot: slots stand
//! one behind the other at that rate, so that the last of 9,000 clients waits 9,000 ÷ rate seconds, and no second gets more than
//! its share. A slot is shifted at random by up to [`JITTER`], as clients of several gates draw from slots of the same length.
//!
//! ```text
//!   clients per second
//!        rate |      ________________________________
//!             |     |       one slot behind the other |
//!  drawn from |  ___|                                 |
//!   the range | |                                     |
//!             +-+---+---------------------------------+----> delay
//!              min  max                        number / rate
//! ```

use std::time::{Duration, Instant};

/// Upgrades per second that a server is taken to bear before anything is learnt of it. Chosen below what the slowest backends of
/// practice take (a Django or Rails process with an authentication by database bears 200 to 500).
pub const GUESS: f64 = 200.0;
/// Of the known rate, the part that reconnecting clients may use: the rest is for clients that come anyway, and for those that do
/// not wait as they are told.
const SHARE: f64 = 0.8;
/// The longest delay that is suggested, unless the range of the setting goes beyond.
pub const LONGEST: Duration = Duration::from_secs(120);
/// By how much a slot is shifted at random.
pub const JITTER: Duration = Duration::from_millis(500);

/// The slots of one upstream.
#[derive(Debug)]
pub struct Reconnects {
    /// The first slot that is free.
    free: Instant,
    rate: f64,
}

impl Reconnects {
    /// At the guess for one server.
    pub fn new(now: Instant) -> Self {
        Reconnects {
            free: now,
            rate: GUESS * SHARE,
        }
    }

    /// The servers that are left are known to take so many upgrades per second.
    pub fn set_rate(&mut self, per_second: f64) {
        self.rate = (per_second * SHARE).max(1.0);
    }

    /// The delay for one more client, of this range; `draw` is a random number from 0 to 1.
    pub fn delay(
        &mut self,
        (low, high): (Duration, Duration),
        draw: f64,
        now: Instant,
    ) -> Duration {
        let slot = self.free.max(now + low);
        let drawn = low + (high.saturating_sub(low)).mul_f64(draw);
        if slot <= now + high {
            self.free = slot + Duration::from_secs_f64(1.0 / self.rate);
            return drawn;
        }
        let longest = LONGEST.max(high);
        if slot > now + longest {
            // There is no slot left: the queue and its refusals see to the rest.
            return high + (longest - high).mul_f64(draw);
        }
        self.free = slot + Duration::from_secs_f64(1.0 / self.rate);
        (slot - now + JITTER.mul_f64(draw)).min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

    /// How many of `count` clients that are told at once come back in each second.
    fn seconds(count: usize, rate: f64) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(1);
        let now = Instant::now();
        let mut reconnects = Reconnects::new(now);
        reconnects.set_rate(rate);
        let mut seconds = vec![0; 130];
        for _ in 0..count {
            let delay = reconnects.delay(RANGE, rng.gen_range(0.0..1.0), now);
            assert!(delay >= RANGE.0 && delay <= LONGEST);
            seconds[delay.as_secs() as usize] += 1;
        }
        seconds
    }

    #[test]
    fn few_clients_get_the_range_of_the_setting() {
        let seconds = seconds(400, 300.0);
        assert_eq!(seconds[1..5].iter().sum::<usize>(), 400);
        assert!(
            seconds[1..5].iter().all(|count| (70..130).contains(count)),
            "{seconds:?}"
        );
    }

    #[test]
    fn many_clients_come_back_at_the_known_rate() {
        let seconds = seconds(9000, 300.0);
        assert!(seconds.iter().all(|count| *count <= 290), "{seconds:?}");
        let last = seconds.iter().rposition(|count| *count > 0).expect("some");
        assert!((36..40).contains(&last), "{last}");
    }

    #[test]
    fn no_delay_is_longer_than_the_longest() {
        let seconds = seconds(100_000, 300.0);
        assert_eq!(seconds.iter().sum::<usize>(), 100_000);
    }

    /// Slots of a time in which no client had to reconnect are not saved up.
    #[test]
    fn a_quiet_time_is_forgotten() {
        let mut now = Instant::now();
        let mut reconnects = Reconnects::new(now);
        now += Duration::from_secs(3600);
        for _ in 0..1000 {
            reconnects.delay(RANGE, 0.5, now);
        }
        assert!(reconnects.delay(RANGE, 0.0, now) > RANGE.1);
    }
}
