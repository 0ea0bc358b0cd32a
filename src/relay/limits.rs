//! How much a side may send per second, and what follows where it sends more: the connection is closed, or the side is
//! read no faster than its limits allow.
//!
//! One timer per connection, and only while a side is slowed down. It is always true that a limit is known to be passed
//! only by what came beyond it, so that who uses a limit to the last byte and then stops is neither told of nor waited for.

use super::pipe::CHUNK;
use super::{State, Terms};
use crate::inspect::{Bucket, Counted, Flow, Kind, Mode, Rate, Side, Tally, Violation};
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// How much the sides of a connection may send, and how long they may leave what is sent to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// By side.
    pub rates: [Rates; 2],
    /// As much as the rates allow for this time may come at once.
    pub burst: Duration,
    /// What follows beyond them.
    pub beyond: Beyond,
    /// A side that takes nothing for so long, while something waits to be written to it, is given up. Zero: never.
    pub write_timeout: Duration,
}

/// What a side may send per second. Zero: as much as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Data messages, whatever their fragments.
    pub messages: u64,
    /// Bytes on the wire after the handshake, the headers of frames included.
    pub bytes: u64,
    /// Pings and Pongs; not the Pongs that answer our own Pings.
    pub control: u64,
    /// Bytes that compressed messages inflate to.
    pub inflated: u64,
}

/// What follows where a side sends more than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beyond {
    /// 1008, and what is beyond the limit does not pass. The default.
    #[default]
    Close,
    /// The side is read only as fast as it may send.
    Delay,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            rates: [Rates::default(); 2],
            burst: Duration::from_secs(1),
            beyond: Beyond::Close,
            write_timeout: Duration::from_secs(60),
        }
    }
}

impl Limits {
    fn rate(&self, of: Side, measure: Measure) -> Option<Rate> {
        Rate::new(self.per_second(of, measure), self.burst)
    }

    fn per_second(&self, of: Side, measure: Measure) -> u64 {
        let rates = &self.rates[of as usize];
        match measure {
            Measure::Messages => rates.messages,
            Measure::Bytes => rates.bytes,
            Measure::Control => rates.control,
            Measure::Inflated => rates.inflated,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Measure {
    Messages,
    Bytes,
    Control,
    Inflated,
}

impl Measure {
    const ALL: [Measure; 4] = [
        Measure::Messages,
        Measure::Bytes,
        Measure::Control,
        Measure::Inflated,
    ];

    /// What going beyond its limit is.
    const fn kind(self) -> Kind {
        match self {
            Measure::Messages => Kind::MessageRate,
            Measure::Bytes => Kind::ByteRate,
            Measure::Control => Kind::ControlRate,
            Measure::Inflated => Kind::InflatedRate,
        }
    }
}

/// What both sides of a connection may still send.
#[derive(Debug)]
pub(super) struct Meter {
    /// By side and measure; `None` where there is no limit.
    buckets: [[Option<Bucket>; Measure::ALL.len()]; 2],
    /// Until when a side is not read.
    slowed: [Option<Instant>; 2],
    timer: Option<Pin<Box<Sleep>>>,
}

impl Meter {
    /// `read` bytes of each side came with the handshake. `None` where nothing is limited.
    pub fn new(limits: &Limits, read: [usize; 2]) -> Option<Box<Meter>> {
        if limits.rates == [Rates::default(); 2] {
            return None;
        }
        let now = Instant::now().into_std();
        let buckets = [Side::Client, Side::Upstream].map(|side| {
            Measure::ALL.map(|measure| {
                let rate = limits.rate(side, measure)?;
                Some(Bucket::full(rate, now))
            })
        });
        let mut meter = Meter {
            buckets,
            slowed: [None; 2],
            timer: None,
        };
        for side in [Side::Client, Side::Upstream] {
            meter.handle_read(side, read[side as usize]);
        }
        Some(Box::new(meter))
    }

    /// A side has sent so many bytes.
    pub fn handle_read(&mut self, from: Side, count: usize) {
        self.take(from, Measure::Bytes, count as u64);
    }

    /// A side is sent a Ping of ours: one more control frame of it is our own doing.
    pub fn handle_ping(&mut self, to: Side) {
        if let Some(bucket) = &mut self.buckets[to as usize][Measure::Control as usize] {
            bucket.give();
        }
    }

    fn take(&mut self, from: Side, measure: Measure, count: u64) {
        if let Some(bucket) = &mut self.buckets[from as usize][measure as usize] {
            bucket.take(count);
        }
    }
}

/// What comes of looking at the limits before a part of a window is judged.
pub(super) enum Verdict {
    /// It may come.
    Pass,
    /// It is to wait, and its side with it.
    Wait,
    /// It is beyond a limit.
    Violation(Violation),
}

/// The limits of one side while what it sent is judged.
pub(super) struct Gauge<'a> {
    meter: &'a mut Meter,
    terms: &'a Terms,
    from: Side,
    now: std::time::Instant,
    /// Messages and control frames of the tally that were taken into account.
    counted: [u64; 2],
}

impl<'a> Gauge<'a> {
    pub fn new(meter: &'a mut Meter, terms: &'a Terms, from: Side) -> Self {
        Gauge {
            meter,
            terms,
            from,
            now: Instant::now().into_std(),
            counted: [0; 2],
        }
    }

    /// Whether single frames have to be looked at.
    pub fn counts_frames(&self) -> bool {
        let [messages, _, control, _] = &self.meter.buckets[self.from as usize];
        messages.is_some() || control.is_some()
    }

    /// How many bytes may be inflated before this is looked at again: what is left, or one, which tells that there is more.
    pub fn may_inflate(&mut self) -> usize {
        match self.terms.rules.mode {
            // Truncates, and takes what is owed for nothing. Without a limit it is all that a number can say.
            Mode::Enforce => (self.tokens(Measure::Inflated) as usize).max(1),
            Mode::Observe => usize::MAX,
        }
    }

    /// So many bytes were inflated.
    pub fn handle_inflated(&mut self, count: u64) {
        self.meter.take(self.from, Measure::Inflated, count);
    }

    /// Before the next frame of `window`, or the next part of one, is judged; `tally` is what passed since this was made.
    pub fn look(&mut self, flow: &mut Flow, window: &[u8], tally: &Tally) -> Verdict {
        self.handle(tally);
        // What was read, or inflated, beyond the limit is owed.
        for measure in [Measure::Bytes, Measure::Inflated] {
            if self.tokens(measure) < 0.0 {
                return self.beyond(flow, measure);
            }
        }
        let measure = match flow.begins(window) {
            Some(Counted::Message) => Measure::Messages,
            Some(Counted::Control) => Measure::Control,
            None => return Verdict::Pass,
        };
        if self.tokens(measure) < 1.0 {
            return self.beyond(flow, measure);
        }
        Verdict::Pass
    }

    /// Takes what has passed into account.
    pub fn handle(&mut self, tally: &Tally) {
        let [text, binary, ping, pong, _] = tally.messages;
        let passed = [text + binary, ping + pong];
        for (i, measure) in [Measure::Messages, Measure::Control]
            .into_iter()
            .enumerate()
        {
            let count = passed[i] - self.counted[i];
            self.meter.take(self.from, measure, count);
        }
        self.counted = passed;
    }

    /// As many as there could ever be, where there is no limit.
    fn tokens(&mut self, measure: Measure) -> f64 {
        let Some(bucket) = &mut self.meter.buckets[self.from as usize][measure as usize] else {
            return f64::INFINITY;
        };
        let rate = self.terms.limits.rate(self.from, measure);
        rate.map_or(f64::INFINITY, |rate| bucket.tokens(rate, self.now))
    }

    fn beyond(&mut self, flow: &mut Flow, measure: Measure) -> Verdict {
        let (limits, mode) = (&self.terms.limits, self.terms.rules.mode);
        let limit = limits.per_second(self.from, measure);
        if mode == Mode::Observe || limits.beyond == Beyond::Close {
            let violation = flow.exceed(mode, measure.kind(), limit);
            return violation.map_or(Verdict::Pass, Verdict::Violation);
        }
        // Nothing is wrong with what comes, so the flow goes on; but it is told of once.
        if let Some(violation) = flow.exceed(Mode::Observe, measure.kind(), limit) {
            self.terms.metrics.violation(self.from, violation.kind);
            let (route, side, kind) = (
                self.terms.route.as_str(),
                self.from.label(),
                violation.kind.label(),
            );
            tracing::warn!(route, side, kind, %violation, "slowed down");
        }
        let bucket = self.meter.buckets[self.from as usize][measure as usize].as_mut();
        let pause = bucket
            .zip(limits.rate(self.from, measure))
            .map_or(Duration::ZERO, |(bucket, rate)| {
                bucket.pause(rate, self.now)
            });
        self.meter.slowed[self.from as usize] = Some(Instant::from_std(self.now + pause));
        Verdict::Wait
    }
}

impl State {
    /// Whether a side is not read for now, because it has sent more than it may. Once the connection ends, what a side sent
    /// before it knew is not kept waiting any more.
    pub(super) fn is_slowed(&self, side: Side) -> bool {
        let meter = self.meter.as_ref().filter(|_| self.cause.is_none());
        meter.is_some_and(|meter| meter.slowed[side as usize].is_some())
    }

    /// How much may be read of a side at once: what it may send, or one byte, which tells that it sends more.
    pub(super) fn most(&mut self, from: Side) -> usize {
        let (terms, is_ending) = (&self.terms, self.cause.is_some());
        let Some(meter) = self.meter.as_mut().filter(|_| !is_ending) else {
            return CHUNK;
        };
        let bucket = meter.buckets[from as usize][Measure::Bytes as usize].as_mut();
        match bucket.zip(terms.limits.rate(from, Measure::Bytes)) {
            // Truncates, and takes what is owed for nothing.
            Some((bucket, rate)) if terms.rules.mode == Mode::Enforce => {
                let tokens = bucket.tokens(rate, Instant::now().into_std());
                (tokens as usize).clamp(1, CHUNK)
            }
            _ => CHUNK,
        }
    }

    /// Lets those be read again who have waited for long enough. Whether there are any.
    pub(super) fn poll_limits(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(meter) = &mut self.meter else {
            return false;
        };
        if self.cause.is_some() {
            meter.slowed = [None; 2];
        }
        let mut moved = false;
        while let Some(next) = meter.slowed.iter().flatten().min().copied() {
            let timer = meter
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(next)));
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return moved;
            }
            for slowed in &mut meter.slowed {
                *slowed = slowed.filter(|at| *at > next);
            }
            moved = true;
        }
        meter.timer = None;
        moved
    }
}
