//! The handshakes that are under way toward one server.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Handshakes under way in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    /// When each handshake began; `None` for one that has ended.
    entries: VecDeque<Option<Instant>>,
    /// The number of the first entry.
    first: u64,
    fresh: u64,
    stuck: u64,
}

impl UnderWay {
    pub(super) fn add(&mut self, now: Instant) -> u64 {
        self.entries.push_back(Some(now));
        self.fresh += 1;
        self.first + self.entries.len() as u64 - 1
    }

    /// A handshake has ended. Returns when it began; `None` where it counted as stuck.
    pub(super) fn remove(&mut self, number: u64) -> Option<Instant> {
        let Some(index) = number.checked_sub(self.first) else {
            self.stuck -= 1;
            return None;
        };
        let began = self.entries.get_mut(index as usize)?.take();
        self.fresh -= u64::from(began.is_some());
        self.trim();
        began
    }

    /// Counts the handshakes that began at least `after` ago as stuck. Returns how many of them were not counted so before.
    pub(super) fn expire(&mut self, now: Instant, after: Duration) -> u64 {
        let before = self.stuck;
        while let Some(Some(began)) = self.entries.front() {
            if now.saturating_duration_since(*began) < after {
                break;
            }
            self.entries.pop_front();
            self.first += 1;
            self.fresh -= 1;
            self.stuck += 1;
            self.trim();
        }
        self.stuck - before
    }

    pub(super) fn trim(&mut self) {
        while let Some(None) = self.entries.front() {
            self.entries.pop_front();
            self.first += 1;
        }
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.entries.front().copied().flatten()
    }

    pub(super) fn fresh(&self) -> u64 {
        self.fresh
    }

    pub(super) fn all(&self) -> u64 {
        self.fresh + self.stuck
    }
}
