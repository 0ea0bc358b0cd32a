//! Time tables: when the next of a number of members is due.

use std::time::{Duration, Instant};

/// A straight line from a number of members settled to all of them, each due at a random moment of its own slot.
///
/// Slots of equal length with a jitter inside each keep the spread even, which independent random moments would not,
/// and yet no two gateways beat in time. It is always true that the last one is due before the end of the line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    from: Instant,
    to: Instant,
    /// Members settled when it began.
    first: usize,
    /// Members settled when it ends.
    last: usize,
}

impl Line {
    pub(super) fn new(from: Instant, to: Instant, first: usize, last: usize) -> Self {
        Line {
            from,
            to: to.max(from),
            first,
            last,
        }
    }

    /// When the next is due after so many are settled, with a jitter of 0 to 1 slots.
    ///
    /// Members that went by themselves are settled too: whoever follows waits as if they had been closed, because they
    /// come back like those who were.
    pub(super) fn due(&self, settled: usize, jitter: f64) -> Instant {
        let done = settled.saturating_sub(self.first) as f64 + jitter;
        let all = self.last.saturating_sub(self.first).max(1) as f64;
        self.from + (self.to - self.from).mul_f64((done / all).min(1.0))
    }

    pub(super) fn end(&self) -> Instant {
        self.to
    }

    /// Closings per second. Infinite where it has no length.
    pub(super) fn rate(&self) -> f64 {
        self.last.saturating_sub(self.first) as f64 / (self.to - self.from).as_secs_f64()
    }

    /// For so many more: at its speed, as far as the deadline allows, or by the same end.
    pub(super) fn extend(&self, members: usize, at_speed: bool, deadline: Instant) -> Self {
        let last = self.last + members;
        let needed = seconds((last - self.first) as f64 / self.rate());
        let longer = self
            .from
            .checked_add(needed)
            .map_or(deadline, |to| to.min(deadline));
        let to = if at_speed {
            longer.max(self.to)
        } else {
            self.to
        };
        Line { to, last, ..*self }
    }

    /// The line from here on at the same speed, or faster where `deadline` needs that.
    pub(super) fn resume(&self, now: Instant, settled: usize, deadline: Instant) -> Self {
        let waiting = self.last.saturating_sub(settled);
        let needed = seconds(waiting as f64 / self.rate());
        let to = now
            .checked_add(needed)
            .map_or(deadline, |to| to.min(deadline));
        Line::new(now, to, settled, self.last)
    }
}

/// How many per second, with a memory of a given length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    count: f64,
    born: Instant,
    last: Instant,
    memory: Duration,
}

impl Meter {
    pub(super) fn new(now: Instant, memory: Duration) -> Self {
        Meter {
            count: 0.0,
            born: now,
            last: now,
            memory,
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.count = self.faded(now) + 1.0;
        self.last = self.last.max(now);
    }

    /// Per second. In its first moments it knows less than its memory could hold, and says so by the mean of those.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        let memory = self.memory.as_secs_f64();
        let age = now
            .saturating_duration_since(self.born)
            .as_secs_f64()
            .max(1.0);
        self.faded(now) / (memory * (1.0 - (-age / memory).exp()))
    }

    /// Forgets that a span of time was there.
    pub(super) fn skip(&mut self, span: Duration) {
        self.born += span;
        self.last += span;
    }

    fn faded(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.last);
        self.count * (-since.as_secs_f64() / self.memory.as_secs_f64()).exp()
    }
}

/// Seconds as a span of time, within what a deadline can be added to.
pub(super) fn seconds(seconds: f64) -> Duration {
    const YEAR: f64 = 365.0 * 86_400.0;
    if seconds.is_nan() {
        // Of nothing, at no rate.
        return Duration::ZERO;
    }
    Duration::from_secs_f64(seconds.clamp(0.0, YEAR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_even_and_ends_in_time() {
        let start = Instant::now();
        let line = Line::new(start, start + Duration::from_secs(10), 0, 10);
        for settled in 0..10 {
            for jitter in [0.0, 0.5, 0.999] {
                let due = line.due(settled, jitter) - start;
                let expected = settled as f64 + jitter;
                assert!((due.as_secs_f64() - expected).abs() < 1e-6);
            }
        }
        assert_eq!(line.rate(), 1.0);
        assert_eq!(line.due(40, 0.5), line.end());
    }

    #[test]
    fn a_line_resumes_at_its_speed_or_faster() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let line = Line::new(start, at(10), 0, 10);
        assert_eq!(line.resume(at(20), 2, at(60)).end(), at(28));
        let hurried = line.resume(at(20), 2, at(24));
        assert_eq!((hurried.end(), hurried.rate()), (at(24), 2.0));
        let none = Line::new(start, start, 0, 0).resume(at(3), 0, at(9));
        assert_eq!(none.end(), at(3));
    }

    #[test]
    fn a_meter_knows_a_steady_rate() {
        let start = Instant::now();
        let mut meter = Meter::new(start, Duration::from_secs(10));
        let mut now = start;
        for _ in 0..600 {
            now += Duration::from_millis(100);
            meter.tick(now);
        }
        assert!((meter.rate(now) - 10.0).abs() < 1.0);
        let hour = Duration::from_secs(3600);
        assert!(meter.rate(now + hour) < 0.001);
        meter.skip(hour);
        assert!((meter.rate(now + hour) - 10.0).abs() < 1.0);
    }
}
