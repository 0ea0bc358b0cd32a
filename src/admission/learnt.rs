//! The figures that wsgate learns of one server: the usual time of a handshake, and the number of upgrades that the server
//! takes per second.

use super::rate::WINDOW;
use super::reconnects::GUESS;
use std::time::{Duration, Instant};

/// The usual time is the least of the current and the last period of this length.
const PERIOD: Duration = Duration::from_secs(30);

/// The least time of the current and of the last period.
#[derive(Debug)]
pub(super) struct Usual {
    began: Instant,
    current: Option<Duration>,
    last: Option<Duration>,
}

impl Usual {
    pub(super) fn new(now: Instant) -> Self {
        Usual {
            began: now,
            current: None,
            last: None,
        }
    }

    pub(super) fn add(&mut self, time: Duration, now: Instant) {
        if now.saturating_duration_since(self.began) >= PERIOD {
            self.last = self.current.take();
            self.began = now;
        }
        self.current = Some(self.current.map_or(time, |current| current.min(time)));
    }

    pub(super) fn reset(&mut self, time: Duration, now: Instant) {
        *self = Usual::new(now);
        self.current = Some(time);
    }

    pub(super) fn get(&self) -> Option<Duration> {
        match (self.current, self.last) {
            (Some(current), Some(last)) => Some(current.min(last)),
            (current, last) => current.or(last),
        }
    }
}

/// A count of the events of the last second, kept in tenths of a second.
#[derive(Debug)]
pub(super) struct Taken {
    counts: [u32; 10],
    /// The tenth that is counted now, since `epoch`.
    tenth: u64,
    epoch: Instant,
    first: Option<Instant>,
}

impl Taken {
    pub(super) fn new(now: Instant) -> Self {
        Taken {
            counts: [0; 10],
            tenth: 0,
            epoch: now,
            first: None,
        }
    }

    pub(super) fn turn(&mut self, now: Instant) {
        let tenth = (now.saturating_duration_since(self.epoch).as_millis() / 100) as u64;
        for passed in (self.tenth + 1)..=tenth.min(self.tenth + 10) {
            self.counts[(passed % 10) as usize] = 0;
        }
        if tenth > self.tenth + 10 {
            self.first = None;
        }
        self.tenth = self.tenth.max(tenth);
    }

    pub(super) fn add(&mut self, now: Instant) {
        self.turn(now);
        self.first.get_or_insert(now);
        self.counts[(self.tenth % 10) as usize] += 1;
    }

    /// The events of the last second.
    pub(super) fn count(&mut self, now: Instant) -> f64 {
        self.turn(now);
        self.counts.iter().sum::<u32>().into()
    }

    /// Events per second. The divisor is the time since the first event, from one [`WINDOW`] to one second.
    pub(super) fn per_second(&mut self, now: Instant) -> f64 {
        let count = self.count(now);
        let seen = self
            .first
            .map_or(Duration::ZERO, |first| now.saturating_duration_since(first));
        count / seen.clamp(WINDOW, Duration::from_secs(1)).as_secs_f64()
    }
}

/// The number of upgrades per second that a server was seen to take.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    /// Upgrades per second that the server took while it was strained.
    pub(super) capacity: Option<f64>,
    /// The most upgrades that the server took in a second without strain.
    proven: f64,
}

impl Learnt {
    pub(super) fn handle_capacity(&mut self, taken: f64) {
        if taken >= 1.0 {
            let before = self.capacity.unwrap_or(taken);
            self.capacity = Some(before * 0.7 + taken * 0.3);
        }
    }

    pub(super) fn handle_proof(&mut self, taken: f64) {
        self.proven = self.proven.max(taken);
        if let Some(capacity) = &mut self.capacity {
            *capacity = capacity.max(taken);
        }
    }

    pub(super) fn rate(&self) -> Option<f64> {
        self.capacity
            .or((self.proven >= GUESS).then_some(self.proven))
    }
}
