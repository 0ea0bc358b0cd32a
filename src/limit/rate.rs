//! Limits per second: a bucket into which tokens fall at a rate, and out of which what passes takes them.

use std::time::{Duration, Instant};

/// How fast tokens come, and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    per_second: f64,
    /// At least one, or nothing would ever pass.
    most: f64,
}

impl Rate {
    /// This number per second, of which the share of `burst` may be taken at once. `None` for zero: no limit.
    pub fn new(per_second: u64, burst: Duration) -> Option<Rate> {
        let per_second = per_second as f64;
        let most = (per_second * burst.as_secs_f64()).max(1.0);
        (per_second > 0.0).then_some(Rate { per_second, most })
    }

    /// The tokens to wait for when none are left: those of a tenth of a second, so that a busy side causes at most ten wake-ups per
    /// second. At least one token.
    fn portion(self) -> f64 {
        (self.per_second / 10.0).clamp(1.0, self.most)
    }
}

/// Tokens of one limit. It fetches no time: every call is told.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Below zero where more was taken than there was.
    tokens: f64,
    since: Instant,
}

impl Bucket {
    /// As many as are kept.
    pub fn full(rate: Rate, now: Instant) -> Self {
        Bucket {
            tokens: rate.most,
            since: now,
        }
    }

    /// Tokens that are there now. A clock that goes backwards brings none.
    pub fn tokens(&mut self, rate: Rate, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.since).as_secs_f64();
        self.tokens = (self.tokens + rate.per_second * since).min(rate.most);
        self.since = self.since.max(now);
        self.tokens
    }

    /// Whether all are there that are kept.
    pub fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.tokens(rate, now) >= rate.most
    }

    /// One more than fell into it, up to what is kept.
    pub fn give(&mut self) {
        self.tokens += 1.0;
    }

    /// Takes so many, whether they are there or not.
    pub fn take(&mut self, count: u64) {
        self.tokens -= count as f64;
    }

    /// From now to when this many are there; at most a day.
    pub fn wait_for(&mut self, tokens: f64, rate: Rate, now: Instant) -> Duration {
        let missing = (tokens - self.tokens(rate, now)).max(0.0);
        Duration::from_secs_f64((missing / rate.per_second).min(DAY))
    }

    /// From now to when enough are there for going on.
    pub fn pause(&mut self, rate: Rate, now: Instant) -> Duration {
        self.wait_for(rate.portion(), rate, now)
    }
}

/// In seconds.
const DAY: f64 = 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Rate, burst in milliseconds, then what is asked for at which millisecond, and how many of those pass.
    #[test]
    fn what_passes() {
        for (per_second, burst, asked, passes) in [
            (10, 1000, &[(0, 20)][..], &[10][..]),
            (10, 1000, &[(0, 10), (99, 1), (100, 1)], &[10, 0, 1]),
            (10, 1000, &[(0, 10), (500, 10), (60_000, 20)], &[10, 5, 10]),
            // More or less at once, at the same rate.
            (10, 3000, &[(0, 50), (1000, 50)], &[30, 10]),
            (10, 200, &[(0, 50), (1000, 50)], &[2, 2]),
            // At least one.
            (1, 1, &[(0, 2), (999, 2), (1000, 2)], &[1, 0, 1]),
            // Time that goes backwards.
            (10, 1000, &[(1000, 10), (0, 1), (1100, 2)], &[10, 0, 1]),
        ] {
            let rate = Rate::new(per_second, Duration::from_millis(burst)).unwrap();
            let start = Instant::now();
            let mut bucket = Bucket::full(rate, start);
            for ((at, count), passes) in asked.iter().zip(passes) {
                let now = start + Duration::from_millis(*at);
                let mut passed = 0;
                while passed < *count && bucket.tokens(rate, now) > 0.999 {
                    bucket.take(1);
                    passed += 1;
                }
                assert_eq!(passed, *passes, "{per_second}/s, {burst} ms, at {at} ms");
            }
        }
    }

    /// What is owed has to come first; a pause is never longer than it takes, nor so short that it has to be repeated.
    #[test]
    fn how_long_to_wait() {
        for (per_second, burst, taken, pause) in [
            (10, 1000, 10, 100),
            (10, 1000, 30, 2100),
            (1000, 1000, 1000, 100),
            (1000, 1000, 1100, 200),
            (1000, 20, 20, 20),
            (1, 1000, 1, 1000),
            (1000, 1000, 0, 0),
        ] {
            let rate = Rate::new(per_second, Duration::from_millis(burst)).unwrap();
            let now = Instant::now();
            let mut bucket = Bucket::full(rate, now);
            bucket.take(taken);
            let wait = bucket.pause(rate, now);
            let pause = Duration::from_millis(pause);
            assert!(
                wait.abs_diff(pause) < Duration::from_micros(1),
                "{per_second}/s: {wait:?}"
            );
            assert!(bucket.tokens(rate, now + wait) > 0.999);
        }
    }

    #[test]
    fn extremes() {
        assert_eq!(Rate::new(0, Duration::from_secs(1)), None);
        let (now, day) = (Instant::now(), Duration::from_secs(86_400));
        for (per_second, burst) in [
            (1, Duration::ZERO),
            (u64::MAX, day),
            (u64::MAX, Duration::ZERO),
        ] {
            let rate = Rate::new(per_second, burst).unwrap();
            let mut bucket = Bucket::full(rate, now);
            assert!(bucket.tokens(rate, now) >= 1.0);
            bucket.take(u64::MAX);
            assert!(bucket.pause(rate, now) <= day);
        }
    }
}
