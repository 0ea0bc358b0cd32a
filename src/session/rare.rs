//! State that most sessions never have, or not before they end: timers, rate limits, liveness, a side that does not read, events.
//! One allocation holds all of it and is freed when it is empty, so that an idle session does not pay for it.

use super::Event;
use super::limits::Meter;
use super::liveness::Watch;
use super::stall::Stall;
use super::timers::Timers;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Rare {
    pub timers: Timers,
    /// Where the route asks whether both sides are there.
    pub watch: Option<Box<Watch>>,
    /// Where the route limits how much may be sent.
    pub meter: Option<Box<Meter>>,
    /// While something waits to be written.
    pub stall: Stall,
    /// The outside asked to wait for nothing any more.
    pub hurried: bool,
    pub events: Vec<Event>,
    pub end: Option<EndBegan>,
    /// The reason of an operator's Close.
    pub close_reason: Box<str>,
}

/// The moment at which a session began to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndBegan {
    pub at: Instant,
    /// For how long no message had passed by then, in either direction.
    pub silent: Duration,
}

impl Rare {
    pub(super) fn is_empty(&self) -> bool {
        self.timers.is_empty()
            && self.watch.is_none()
            && self.meter.is_none()
            && self.stall.is_empty()
            && !self.hurried
            && self.events.is_empty()
            && self.end.is_none()
            && self.close_reason.is_empty()
    }
}
