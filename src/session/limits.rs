//! How much a side may send per second, and what follows where it sends more: the session ends, or the side is read no
//! faster than its limits allow.
//!
//! A limit is known to be passed only by what came beyond it: a side that uses a limit to the last byte and then stops is
//! neither closed nor slowed down.

use super::timers::Timer;
use super::{Event, SIDES, Session, Settings};
use crate::inspect::{Flow, Kind, Mode, RateClass, Side, Tally, Violation};
use crate::limit::rate::{Bucket, Rate};
use std::time::{Duration, Instant};

/// How much the sides of a connection may send, and how long they may leave what is sent to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// By side.
    pub rates: [Rates; 2],
    /// As much as the rates allow for this time may come at once.
    pub burst: Duration,
    /// The action when a limit is exceeded.
    pub beyond: Beyond,
    /// A side that takes nothing for so long, while something waits to be written to it, is given up. Zero: never.
    pub write_timeout: Duration,
}

/// The rates at which a side may send, per second. Zero: no limit.
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

/// The action when a side exceeds a rate.
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

/// Most bytes that are read at once, where no limit says less.
const UNLIMITED: usize = usize::MAX;

crate::with_all! {
    #[derive(Clone, Copy, Debug)]
    enum Measure {
        Messages,
        Bytes,
        Control,
        Inflated,
    }
}

impl Measure {
    /// The violation of exceeding this rate.
    const fn kind(self) -> Kind {
        match self {
            Measure::Messages => Kind::MessageRate,
            Measure::Bytes => Kind::ByteRate,
            Measure::Control => Kind::ControlRate,
            Measure::Inflated => Kind::InflatedRate,
        }
    }

    fn per_second(self, limits: &Limits, of: Side) -> u64 {
        let rates = &limits.rates[of as usize];
        match self {
            Measure::Messages => rates.messages,
            Measure::Bytes => rates.bytes,
            Measure::Control => rates.control,
            Measure::Inflated => rates.inflated,
        }
    }

    fn rate(self, limits: &Limits, of: Side) -> Option<Rate> {
        Rate::new(self.per_second(limits, of), limits.burst)
    }
}

/// The rate limits of both sides of a connection.
#[derive(Debug)]
pub(super) struct Meter {
    /// By side and measure; `None` where there is no limit.
    buckets: [[Option<Bucket>; Measure::ALL.len()]; 2],
    /// Until when a side is not read.
    slowed: [Option<Instant>; 2],
}

impl Meter {
    /// `None` where nothing is limited.
    pub(super) fn new(limits: &Limits, now: Instant) -> Option<Box<Meter>> {
        if limits.rates == [Rates::default(); 2] {
            return None;
        }
        let bucket = |of: Side| {
            Measure::ALL.map(|measure| Some(Bucket::full(measure.rate(limits, of)?, now)))
        };
        Some(Box::new(Meter {
            buckets: SIDES.map(bucket),
            slowed: [None; 2],
        }))
    }

    /// A side has sent so many bytes.
    pub(super) fn handle_read(&mut self, from: Side, count: usize) {
        self.take(from, Measure::Bytes, count as u64);
    }

    /// A side is sent a Ping of wsgate: one more control frame of it is wsgate's own doing.
    pub(super) fn handle_ping(&mut self, to: Side) {
        if let Some(bucket) = &mut self.buckets[to as usize][Measure::Control as usize] {
            bucket.give();
        }
    }

    pub(super) fn is_slowed(&self, from: Side) -> bool {
        self.slowed[from as usize].is_some()
    }

    pub(super) fn resume_all(&mut self) {
        self.slowed = [None; 2];
    }

    fn take(&mut self, from: Side, measure: Measure, count: u64) {
        if let Some(bucket) = &mut self.buckets[from as usize][measure as usize] {
            bucket.take(count);
        }
    }

    fn tokens(&mut self, from: Side, measure: Measure, limits: &Limits, now: Instant) -> f64 {
        let Some(bucket) = &mut self.buckets[from as usize][measure as usize] else {
            return f64::INFINITY;
        };
        let rate = measure.rate(limits, from);
        rate.map_or(f64::INFINITY, |rate| bucket.tokens(rate, now))
    }
}

/// The result of checking the limits before a part of a window is inspected.
pub(super) enum RateCheck {
    Pass,
    /// The part waits, and its side is not read meanwhile.
    Wait,
    Violation(Violation),
}

/// The limits of one side while what it sent is inspected.
pub(super) struct Gauge<'a> {
    meter: &'a mut Meter,
    settings: &'a Settings,
    from: Side,
    now: Instant,
    /// Messages and control frames of the tally that were taken into account.
    counted: [u64; 2],
    slowed_down: Option<Violation>,
}

impl<'a> Gauge<'a> {
    pub(super) fn new(
        meter: &'a mut Meter,
        settings: &'a Settings,
        from: Side,
        now: Instant,
    ) -> Self {
        Gauge {
            meter,
            settings,
            from,
            now,
            counted: [0; 2],
            slowed_down: None,
        }
    }

    /// Whether single frames have to be looked at.
    pub(super) fn counts_frames(&self) -> bool {
        let [messages, _, control, _] = &self.meter.buckets[self.from as usize];
        messages.is_some() || control.is_some()
    }

    /// How many bytes may be inflated before this is looked at again: what is left, or one, which tells that there is more.
    pub(super) fn may_inflate(&mut self) -> usize {
        match self.settings.rules.mode {
            // Truncates, and takes what is owed for nothing. Without a limit it is all that a number can say.
            Mode::Enforce => (self.tokens(Measure::Inflated) as usize).max(1),
            Mode::Observe => usize::MAX,
        }
    }

    /// This number of bytes was inflated.
    pub(super) fn handle_inflated(&mut self, count: u64) {
        self.meter.take(self.from, Measure::Inflated, count);
    }

    /// Before the next frame of `window`, or the next part of one, is inspected; `tally` is what passed since this was made.
    pub(super) fn check(&mut self, flow: &mut Flow, window: &[u8], tally: &Tally) -> RateCheck {
        self.count(tally);
        // Bytes that were read or inflated beyond the limit are owed.
        for measure in [Measure::Bytes, Measure::Inflated] {
            if self.tokens(measure) < 0.0 {
                return self.beyond(flow, measure);
            }
        }
        let measure = match flow.begins(window) {
            Some(RateClass::Message) => Measure::Messages,
            Some(RateClass::Control) => Measure::Control,
            None => return RateCheck::Pass,
        };
        if self.tokens(measure) < 1.0 {
            return self.beyond(flow, measure);
        }
        RateCheck::Pass
    }

    /// Takes what passed into account. When the side that is slowed down is read again, and what is to be told of it.
    pub(super) fn finish(mut self, tally: &Tally) -> (Option<Instant>, Option<Event>) {
        self.count(tally);
        let by = self.from;
        let event = self.slowed_down;
        let event = event.map(|violation| Event::SlowedDown { by, violation });
        (self.meter.slowed.iter().flatten().min().copied(), event)
    }

    fn count(&mut self, tally: &Tally) {
        let [text, binary, ping, pong, _] = tally.messages;
        let passed = [text + binary, ping + pong];
        for (i, measure) in [Measure::Messages, Measure::Control]
            .into_iter()
            .enumerate()
        {
            self.meter
                .take(self.from, measure, passed[i] - self.counted[i]);
        }
        self.counted = passed;
    }

    fn tokens(&mut self, measure: Measure) -> f64 {
        let limits = &self.settings.limits;
        self.meter.tokens(self.from, measure, limits, self.now)
    }

    fn beyond(&mut self, flow: &mut Flow, measure: Measure) -> RateCheck {
        let (limits, mode) = (&self.settings.limits, self.settings.rules.mode);
        let limit = measure.per_second(limits, self.from);
        if mode == Mode::Observe || limits.beyond == Beyond::Close {
            let violation = flow.exceed(mode, measure.kind(), limit);
            return violation.map_or(RateCheck::Pass, RateCheck::Violation);
        }
        // Nothing is wrong with what comes, so the flow goes on; but it is told of once.
        if let Some(violation) = flow.exceed(Mode::Observe, measure.kind(), limit) {
            self.slowed_down = Some(violation);
        }
        let bucket = self.meter.buckets[self.from as usize][measure as usize].as_mut();
        let pause = bucket
            .zip(measure.rate(limits, self.from))
            .map_or(Duration::ZERO, |(bucket, rate)| {
                bucket.pause(rate, self.now)
            });
        self.meter.slowed[self.from as usize] = Some(self.now + pause);
        RateCheck::Wait
    }
}

impl Session {
    /// How many bytes may be read of a side at once: what it may send, or one byte, which tells that it sends more.
    pub(super) fn most(&mut self, from: Side, now: Instant) -> usize {
        let is_ending = self.phase.cause().is_some();
        let (limits, mode) = (&self.settings.limits, self.settings.rules.mode);
        match self.rare.as_mut().and_then(|rare| rare.meter.as_mut()) {
            Some(meter) if !is_ending && mode == Mode::Enforce => {
                // Truncates, and takes what is owed for nothing.
                let tokens = meter.tokens(from, Measure::Bytes, limits, now);
                (tokens as usize).max(1)
            }
            _ => UNLIMITED,
        }
    }

    pub(super) fn is_slowed(&self, from: Side) -> bool {
        let meter = self.rare.as_ref().and_then(|rare| rare.meter.as_ref());
        meter.is_some_and(|meter| meter.is_slowed(from))
    }

    /// Lets those sides be read again that have waited for long enough.
    pub(super) fn resume_reading(&mut self, now: Instant) {
        let Some(rare) = &mut self.rare else {
            return;
        };
        let Some(meter) = &mut rare.meter else {
            return;
        };
        for slowed in &mut meter.slowed {
            *slowed = slowed.filter(|at| *at > now);
        }
        if let Some(next) = meter.slowed.iter().flatten().min() {
            rare.timers.set(Timer::Limits, *next);
        }
    }
}
