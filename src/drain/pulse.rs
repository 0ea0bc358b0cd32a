//! How the servers of one upstream take the clients that come back: the measurements of the adaptive pace, and its brake. The
//! rule is in [the room's header](super).

use super::DrainId;
use super::pace::{Meter, seconds};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The figures of the upgrades of one upstream, and the window that follows from them.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Upgrades per second that the servers which take connections are known to take.
    pub(super) known_rate: f64,
    /// Upgrades per second, learnt while nobody is away.
    arrivals: Meter,
    /// Connections that ended by themselves, per second, learnt while nobody is away.
    departures: Meter,
    /// Usual time of a handshake in seconds, learnt while nobody is away.
    baseline: Option<f64>,
    /// Lanes of running drains that have members waiting.
    lanes: usize,
    /// The clients that were told to reconnect and have neither come back nor been given up, in the order of telling.
    away: VecDeque<Away>,
    /// Since when nothing is learnt.
    deaf_since: Option<Instant>,
    /// Upgrades that would have come anyway and have not been seen yet.
    background: f64,
    /// Last upgrade seen while somebody was away.
    last_reconnect: Instant,
    window: Window,
}

#[derive(Clone, Copy, Debug)]
struct Away {
    since: Instant,
    until: Instant,
    /// `None`: no drain told it.
    drain: Option<DrainId>,
}

/// The meaning of an upgrade for drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A client that would have come anyway.
    Background,
    /// A client is back.
    Back {
        /// The drain that told it to reconnect, if any.
        drain: Option<DrainId>,
        /// The time since it was told.
        after: Duration,
    },
    /// The upgrade failed while clients of this drain were away.
    Failed(Option<DrainId>),
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Pulse {
            known_rate: GUESS,
            arrivals: Meter::new(now, MEMORY),
            departures: Meter::new(now, MEMORY),
            baseline: None,
            lanes: 0,
            away: VecDeque::new(),
            deaf_since: None,
            background: 0.0,
            last_reconnect: now,
            window: Window::new(now),
        }
    }

    /// A lane of a drain begins.
    pub(super) fn handle_start(&mut self, now: Instant) {
        self.expire(now);
        self.deafen(now);
        if self.lanes == 0 {
            let returning = self.window.returning;
            self.window = Window::new(now);
            self.window.returning = returning;
        }
        self.lanes += 1;
    }

    /// A lane has nobody left to tell, or was cancelled.
    pub(super) fn handle_end(&mut self) {
        self.lanes = self.lanes.saturating_sub(1);
    }

    /// Somebody was told to go. `jitter` is 0 to 1.
    pub(super) fn handle_told(
        &mut self,
        now: Instant,
        drain: DrainId,
        patience: Duration,
        jitter: f64,
    ) {
        self.deafen(now);
        self.away.push_back(Away {
            since: now,
            until: now + patience,
            drain: Some(drain),
        });
        self.window.handle_told(now, jitter);
    }

    /// Somebody is gone who will be back, and whom no drain told to go.
    pub(super) fn handle_away(&mut self, now: Instant) {
        self.expire(now);
        self.deafen(now);
        self.away.push_back(Away {
            since: now,
            until: now + PATIENCE,
            drain: None,
        });
    }

    /// An upgrade ended. `took` is the time of its handshake.
    pub(super) fn handle_upgrade(&mut self, now: Instant, took: Duration, ok: bool) -> Heard {
        self.expire(now);
        if self.lanes == 0 && self.away.is_empty() {
            self.learn(now, took, ok);
            return Heard::Background;
        }
        let usual = *self.baseline.get_or_insert(took.as_secs_f64());
        let away = self.away.len();
        let strained = self
            .window
            .handle_handshake(now, took.as_secs_f64(), usual, ok, away);
        let Some(front) = self.away.front().copied() else {
            return Heard::Background;
        };
        if !ok {
            return Heard::Failed(front.drain);
        }
        let since = now
            .saturating_duration_since(self.last_reconnect)
            .as_secs_f64();
        let usual = self.arrivals_before(now);
        self.background = (self.background + usual * since).min((usual * 2.0).max(1.0));
        self.last_reconnect = self.last_reconnect.max(now);
        if self.background >= 1.0 {
            self.background -= 1.0;
            return Heard::Background;
        }
        let busy = self.away.len() as f64 * 2.0 >= self.window.size;
        self.away.pop_front();
        // Which of them it was does not matter: the mean of the differences is the same for every pairing.
        let after = now.saturating_duration_since(front.since);
        self.window.handle_back(after, busy && !strained);
        Heard::Back {
            drain: front.drain,
            after,
        }
    }

    /// Gives up those who are away for longer than their drain's patience.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.away.front().is_some_and(|away| away.until <= now) {
            self.away.pop_front();
        }
    }

    /// Clients that were told to reconnect and have neither come back nor been given up.
    pub(super) fn away(&mut self, now: Instant) -> usize {
        self.expire(now);
        self.away.len()
    }

    /// The rate of an adaptive drain of these servers, in members per second, unless its deadline needs more.
    pub(super) fn drain_rate(&self) -> f64 {
        (self.known_rate * SHARE).max(1.0)
    }

    /// When the window lets the next one go, as things stand.
    pub(super) fn due(&self) -> Instant {
        match self.away.front() {
            Some(front) if self.away.len() as f64 >= self.window.size => {
                front.until.max(self.window.next)
            }
            _ => self.window.next.max(self.window.held_until),
        }
    }

    /// How many a second would come anyway. Of those who came before, only as many as went: a crowd that has just come, or
    /// come back from the drain of another server, is not what goes on coming.
    fn arrivals_before(&self, now: Instant) -> f64 {
        let then = self.deaf_since.unwrap_or(now);
        self.arrivals.rate(then).min(self.departures.rate(then))
    }

    /// A connection has ended that nobody told to go.
    pub(super) fn handle_left(&mut self, now: Instant) {
        if self.lanes == 0 && self.away.is_empty() {
            self.wake(now);
            self.departures.tick(now);
        }
    }

    /// Learns again, as if the time since it stopped had not been.
    fn wake(&mut self, now: Instant) {
        if let Some(since) = self.deaf_since.take() {
            let span = now.saturating_duration_since(since);
            self.arrivals.skip(span);
            self.departures.skip(span);
        }
    }

    fn deafen(&mut self, now: Instant) {
        if self.deaf_since.is_none() {
            self.deaf_since = Some(now);
            self.last_reconnect = now;
            self.background = 0.0;
        }
    }

    fn learn(&mut self, now: Instant, took: Duration, ok: bool) {
        self.wake(now);
        self.arrivals.tick(now);
        if ok {
            let took = took.as_secs_f64();
            let usual = self.baseline.get_or_insert(took);
            // A herd after a crash is not what is usual: one sample counts for so much at the most.
            *usual += (took.min(strain(*usual)) - *usual) / 16.0;
        }
    }
}

/// The congestion window: how many may be away at a time. Until the first bad sign it is infinite.
#[derive(Debug)]
struct Window {
    size: f64,
    /// Below it the window grows by half in a round, above it by a step.
    threshold: f64,
    /// Handshake time of late, seconds.
    recent: Option<f64>,
    /// Mean time from telling somebody to seeing one come back, seconds: the length of a round.
    returning: f64,
    /// When the pacing inside a round lets the next one go.
    next: Instant,
    /// Nobody goes before it: there was a bad sign.
    held_until: Instant,
    /// The window is not reduced again before this moment: the clients on their way left before the last reduction.
    recovered_at: Instant,
}

impl Window {
    fn new(now: Instant) -> Self {
        Window {
            size: f64::INFINITY,
            threshold: f64::INFINITY,
            recent: None,
            returning: RETURNING,
            next: now,
            held_until: now,
            recovered_at: now,
        }
    }

    fn handle_told(&mut self, now: Instant, jitter: f64) {
        // Faster than one window per round, or the pacing and not the window would be the bound.
        let interval = self.returning / self.size / 1.25;
        let late = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.next = self.next.max(late) + seconds(interval * (0.5 + jitter));
    }

    fn handle_back(&mut self, after: Duration, grow: bool) {
        self.returning += (after.as_secs_f64().max(0.05) - self.returning) / 16.0;
        if grow {
            self.size += if self.size < self.threshold {
                0.5
            } else {
                (self.threshold / 8.0).max(1.0) / self.size
            };
        }
    }

    /// A handshake ended while this number of clients was away. Returns true if the window must not grow.
    fn handle_handshake(
        &mut self,
        now: Instant,
        took: f64,
        usual: f64,
        ok: bool,
        away: usize,
    ) -> bool {
        let recent = self.recent.get_or_insert(usual);
        if ok {
            *recent += (took - *recent) / 8.0;
        }
        let recent = *recent;
        if !ok || recent > strain(usual) {
            self.held_until = self.held_until.max(now + HOLD);
            if now >= self.recovered_at {
                self.size = (self.size.min(away as f64) * 0.7).max(1.0);
                self.threshold = self.size;
                self.recovered_at = now + seconds(self.returning);
            }
        }
        now < self.held_until || recent > usual * 1.25 + NOISE / 2.0
    }
}

/// The handshake time, in seconds, beyond which an upstream with this usual one has too much to do.
fn strain(usual: f64) -> f64 {
    usual * 2.0 + NOISE
}

/// Upgrades per second that one server is taken to bear before anything is learnt of it: see `admission::reconnects`.
const GUESS: f64 = 200.0;

/// Of the rate that the servers are known to take, the part that a drain uses. The rest is for clients that come anyway.
const SHARE: f64 = 0.8;

/// The rate of an adaptive drain of which nothing is known, in members per second.
pub(super) const FIRST_RATE: f64 = GUESS * SHARE;

/// Length of a round before one was measured, seconds: the middle of the delays suggested by default.
const RETURNING: f64 = 3.0;

/// How far back the arrival rate remembers.
const MEMORY: Duration = Duration::from_secs(10);

/// How long nobody is told to go after a bad sign.
const HOLD: Duration = Duration::from_millis(250);

/// Changes of the handshake time below this say nothing, seconds: they are the network's and the scheduler's.
const NOISE: f64 = 0.02;

/// How long somebody who was told is expected to come back, at most: twice the longest delay suggested by default.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The most that a late poll may catch up.
pub(super) const CATCH_UP: Duration = Duration::from_millis(250);
