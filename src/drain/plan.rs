//! One drain: who is left, when the next is due, and the figures.

use super::pace::{Line, Meter, seconds};
use super::pulse::{CATCH_UP, PATIENCE, Pulse};
use super::{Cause, MemberId, Pace, Progress, Selection, State, Terms};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One drain.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) selection: Selection,
    pub(super) cause: Cause,
    pub(super) state: State,
    pub(super) terms: Terms,
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    /// One per upstream, in their order: each listens to its own.
    pub(super) lanes: Vec<Lane>,
    pub(super) raised: bool,
    pub(super) total: usize,
    pub(super) closing: usize,
    pub(super) closed: usize,
    pub(super) left: usize,
    pub(super) reconnected: usize,
    pub(super) failed: usize,
    meter: Meter,
    ended: Option<Instant>,
}

impl Plan {
    /// `terms.deadline` is the one in force: see [`Terms::deadline_in_force`].
    pub(super) fn new(selection: Selection, cause: Cause, terms: Terms, now: Instant) -> Self {
        Plan {
            selection,
            cause,
            state: State::Running,
            started: now,
            deadline: now + terms.deadline_in_force(),
            terms,
            lanes: Vec::new(),
            raised: false,
            total: 0,
            closing: 0,
            closed: 0,
            left: 0,
            reconnected: 0,
            failed: 0,
            meter: Meter::new(now, Duration::from_secs(3)),
            ended: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running
    }

    pub(super) fn waiting(&self) -> usize {
        self.lanes.iter().map(Lane::waiting).sum()
    }

    pub(super) fn lane_mut(&mut self, upstream: u32) -> Option<&mut Lane> {
        let at = self
            .lanes
            .binary_search_by_key(&upstream, |lane| lane.upstream)
            .ok()?;
        self.lanes.get_mut(at)
    }

    /// The lane of an upstream, made where there is none.
    pub(super) fn lane_at(&mut self, upstream: u32, make: impl FnOnce() -> Lane) -> &mut Lane {
        let found = self
            .lanes
            .binary_search_by_key(&upstream, |lane| lane.upstream);
        let at = found.unwrap_or_else(|at| {
            self.lanes.insert(at, make());
            at
        });
        &mut self.lanes[at]
    }

    /// How long those who were told are waited for.
    pub(super) fn patience(&self) -> Duration {
        PATIENCE.min((self.deadline - self.started) / 3)
    }

    /// Lays the time tables anew: at the start, and when the number or the deadline has changed. `rate` is that of an adaptive
    /// drain of an upstream, per second.
    pub(super) fn schedule(&mut self, now: Instant, rate: impl Fn(u32) -> f64) {
        let all = self.waiting();
        let left = self.deadline.saturating_duration_since(now);
        let is_adaptive = self.terms.pace == Pace::Adaptive;
        let needed = duration(self.terms.pace, all, left, 0.0);
        self.raised |= !is_adaptive && needed > left;
        for lane in &mut self.lanes {
            // Of an adaptive drain each lane has its own rate. Otherwise every lane ends with the others: the rate is shared by
            // number.
            let needed = match is_adaptive {
                true => duration(Pace::Adaptive, lane.waiting(), left, rate(lane.upstream)),
                false => needed,
            };
            lane.even = Line::new(now, now + needed.min(left), lane.settled, lane.total);
            lane.latest = Line::new(now + left / LATEST, self.deadline, lane.settled, lane.total);
        }
    }

    /// Adds this number of members to a lane. Members that wait already are not delayed by that.
    pub(super) fn extend(&mut self, upstream: u32, members: usize) {
        let (deadline, pace) = (self.deadline, self.terms.pace);
        let Some(lane) = self.lane_mut(upstream) else {
            return;
        };
        lane.latest = lane.latest.extend(members, false, deadline);
        let even = lane.even;
        let longer = even.extend(members, !matches!(pace, Pace::Over(_)), deadline);
        lane.even = longer;
        self.raised |= matches!(pace, Pace::Rate(_)) && longer.rate() > even.rate() * 1.05;
    }

    /// When the next of a lane is due, as things stand; `None` where nobody waits.
    pub(super) fn due(&self, lane: &Lane, pulse: &Pulse) -> Option<Instant> {
        if !self.is_running() || lane.waiting() == 0 {
            return None;
        }
        let latest = lane
            .latest
            .due(lane.settled, lane.jitter)
            .min(self.deadline);
        if self.closing >= self.terms.max_closing.max(1) {
            return Some(latest);
        }
        let even = lane.even.due(lane.settled, lane.jitter);
        let by_pace = match self.terms.pace {
            Pace::Adaptive => even.max(pulse.due()),
            Pace::Over(_) | Pace::Rate(_) => even,
        };
        Some(latest.min(by_pace))
    }

    /// Before a lane is asked: a poll that comes late does not make up for all that it missed at once.
    pub(super) fn refresh(&mut self, lane: usize, now: Instant) {
        let lane = &mut self.lanes[lane];
        if now >= self.deadline || lane.waiting() == 0 {
            return;
        }
        let is_late = |line: &Line| line.due(lane.settled, lane.jitter) + CATCH_UP < now;
        if is_late(&lane.even) {
            let resumed = lane.even.resume(now, lane.settled, self.deadline);
            let is_faster = resumed.rate() > lane.even.rate() * 1.05;
            self.raised |= is_faster && self.terms.pace != Pace::Adaptive;
            lane.even = resumed;
        }
        if is_late(&lane.latest) {
            lane.latest = Line::new(now, self.deadline, lane.settled, lane.total);
        }
    }

    pub(super) fn handle_told(&mut self, now: Instant) {
        self.closing += 1;
        self.meter.tick(now);
    }

    /// Ends it where nobody is left.
    pub(super) fn end_if_done(&mut self, now: Instant) -> bool {
        let done = self.is_running() && self.closing == 0 && self.waiting() == 0;
        if done {
            self.end(State::Done, now);
        }
        done
    }

    pub(super) fn end(&mut self, state: State, now: Instant) {
        self.state = state;
        self.ended = Some(now);
    }

    pub(super) fn progress(&self, now: Instant) -> Progress {
        let waiting = self.waiting();
        let rate = self.meter.rate(self.ended.unwrap_or(now));
        let by_rate = now + seconds(waiting as f64 / rate).min(self.deadline - self.started);
        let by_line = self
            .lanes
            .iter()
            .filter(|lane| lane.waiting() > 0)
            .map(|lane| lane.even.end())
            .max();
        let estimated = by_line.unwrap_or(by_rate).min(self.deadline).max(now);
        Progress {
            selection: self.selection,
            cause: self.cause,
            state: self.state,
            total: self.total,
            waiting,
            closing: self.closing,
            closed: self.closed,
            left: self.left,
            reconnected: self.reconnected,
            failed: self.failed,
            rate,
            raised: self.raised,
            started: self.started,
            deadline: self.deadline,
            ends: self.ended.unwrap_or(estimated),
        }
    }
}

/// The members of a drain that belong to one upstream.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) upstream: u32,
    /// In the order of closing. Those who are gone or told meanwhile are passed over when they come up.
    pub(super) queue: VecDeque<MemberId>,
    total: usize,
    /// Told, by whichever drain, or gone by themselves.
    settled: usize,
    /// The time table. The adaptive pace may fall behind it.
    even: Line,
    /// The latest time table that still ends by the deadline without haste: nothing holds back beyond it.
    latest: Line,
    /// Of the next one, 0 to 1 slots.
    pub(super) jitter: f64,
}

impl Lane {
    pub(super) fn new(upstream: u32, now: Instant, jitter: f64) -> Self {
        Lane {
            upstream,
            queue: VecDeque::new(),
            total: 0,
            settled: 0,
            even: Line::new(now, now, 0, 0),
            latest: Line::new(now, now, 0, 0),
            jitter,
        }
    }

    pub(super) fn push(&mut self, id: MemberId) {
        self.queue.push_back(id);
        self.total += 1;
    }

    pub(super) fn waiting(&self) -> usize {
        self.total - self.settled
    }

    /// One of them is told or gone. Whether that was the last.
    pub(super) fn handle_settled(&mut self) -> bool {
        self.settled += 1;
        if self.waiting() == 0 {
            self.queue = VecDeque::new();
        }
        self.waiting() == 0
    }
}

/// The time that a pace takes for this number of members, of the time that is left. `rate` is that of an adaptive drain, per
/// second; a drain that would take longer than [`AT_MOST`] of the time that is left is faster than that.
pub(super) fn duration(pace: Pace, members: usize, left: Duration, rate: f64) -> Duration {
    match pace {
        Pace::Over(over) => over.min(left),
        // A rate of zero, or of what is no number, would never end: the deadline rules then.
        Pace::Rate(rate) if rate > 0.0 => seconds(members as f64 / rate),
        Pace::Rate(_) if members > 0 => seconds(f64::INFINITY),
        Pace::Rate(_) => Duration::ZERO,
        Pace::Adaptive => seconds(members as f64 / rate).min(left.mul_f64(AT_MOST)),
    }
}

/// Of the time that a drain has, the part that an adaptive drain uses if nothing strains the servers. The rest is for what it
/// has to wait where they are strained.
const AT_MOST: f64 = 0.8;

/// The latest line begins after this part of a drain's time: one in so many.
pub(super) const LATEST: u32 = 3;
