//! How many handshakes may begin per second.

use super::reconnects::GUESS;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// The least rate at which handshakes may begin, per second.
pub(super) const LEAST_RATE: f64 = 10.0;
/// The factor by which the rate grows in a window in which it is used up, until the first failure.
const STARTING_GROWTH: f64 = 2.0;
/// From here on the rate is no bound any more, per second.
const MOST_RATE: f64 = 1e6;
/// After this time without a failure the rate grows fast again.
const RECOVERY: Duration = Duration::from_secs(10);

/// The rate at which handshakes may begin before anything is learnt, per second.
pub(super) const FIRST_RATE: f64 = 500.0;

/// The least length of a window.
pub(super) const WINDOW: Duration = Duration::from_millis(100);

/// The rate at which handshakes may begin: a token bucket that holds the tokens of one [`WINDOW`] at most.
#[derive(Debug)]
pub(super) struct Rate {
    pub(super) per_second: f64,
    /// The rate is a setting: it neither grows nor is reduced.
    is_fixed: bool,
    tokens: f64,
    at: Instant,
    /// True until the first failure.
    is_starting: bool,
    changed: Instant,
    /// When the rate was reduced last.
    reduced: Instant,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        let burst = FIRST_RATE * WINDOW.as_secs_f64();
        Rate {
            per_second: FIRST_RATE,
            is_fixed: false,
            tokens: burst,
            at: now,
            is_starting: true,
            changed: now,
            reduced: now,
        }
    }

    /// Sets the rate, or lets it be learnt again from where it is.
    pub(super) fn fix(&mut self, per_second: Option<NonZeroU32>) {
        self.is_fixed = per_second.is_some();
        if let Some(per_second) = per_second {
            self.per_second = per_second.get().into();
            self.tokens = self.tokens.min(self.most());
        }
    }

    /// Tokens that the bucket holds at most.
    fn most(&self) -> f64 {
        (self.per_second * WINDOW.as_secs_f64()).max(1.0)
    }

    pub(super) fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.most());
        self.at = now;
    }

    /// When the next handshake may begin; `None` for now.
    pub(super) fn ready(&mut self, now: Instant) -> Option<Instant> {
        self.refill(now);
        let missing = 1.0 - self.tokens;
        // Tokens are counted in fractions: a billionth is no reason to wait.
        (missing > 1e-9).then(|| {
            now + Duration::from_secs_f64(missing / self.per_second) + Duration::from_nanos(1)
        })
    }

    pub(super) fn take(&mut self, now: Instant) {
        self.refill(now);
        self.tokens -= 1.0;
    }

    /// The mean rate of this number of windows from now on, per second, where each uses it up and no handshake fails.
    pub(super) fn mean_within(&self, windows: f64) -> f64 {
        if self.is_starting && !self.is_fixed {
            mean_of_growth(self.per_second, STARTING_GROWTH, windows).min(MOST_RATE)
        } else {
            self.per_second
        }
    }

    pub(super) fn grow(&mut self, is_used_up: bool, capacity: Option<f64>, now: Instant) {
        if !is_used_up || self.is_fixed {
            return;
        }
        if self.is_starting {
            self.per_second = (self.per_second * STARTING_GROWTH).min(MOST_RATE);
            return;
        }
        let since = now.saturating_duration_since(self.changed).as_secs_f64();
        // Fast up to what the server took before, and carefully from there on, unless nothing has failed for a while.
        let is_below = capacity.is_some_and(|capacity| self.per_second < capacity * 0.95);
        let growth = if self.per_second < GUESS {
            0.5
        } else if is_below || now.saturating_duration_since(self.reduced) > RECOVERY {
            0.1
        } else {
            0.02
        };
        self.per_second = (self.per_second * (1.0 + growth * since.min(1.0))).min(MOST_RATE);
        self.changed = now;
    }

    /// Lowers the rate, at most once per second: handshakes that fail shortly after a reduction began before it.
    pub(super) fn reduce(&mut self, taken: f64, now: Instant) {
        if self.is_fixed {
            return;
        }
        let is_first = std::mem::replace(&mut self.is_starting, false);
        if !is_first && now.saturating_duration_since(self.changed) < Duration::from_secs(1) {
            return;
        }
        self.per_second = (taken.min(self.per_second) * 0.85).max(LEAST_RATE);
        self.tokens = self.tokens.min(0.0);
        self.changed = now;
        self.reduced = now;
    }
}

/// The mean over this number of windows of a figure that is multiplied by `factor`, above 1, after each of them.
pub(super) fn mean_of_growth(first: f64, factor: f64, windows: f64) -> f64 {
    let windows = windows.max(1.0);
    first * (factor.powf(windows) - 1.0) / (factor - 1.0) / windows
}
