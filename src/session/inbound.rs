//! The bytes that one side sends: inspected by its flow, and compared with the limits of its route.

use super::inspection::{Progress, WindowInspection};
use super::limits::Gauge;
use super::phase::Phase;
use super::timers::Timer;
use super::writing::Writing;
use super::{Session, Turn};
use crate::frame::deflate::DeflateParams;
use crate::inspect;
use crate::inspect::{Block, Flow, Side, StopAt, Tally, Violation};
use std::time::Instant;

/// The state of a session about one sending side.
#[derive(Debug)]
pub(super) struct Inbound {
    pub flow: Flow,
    /// The side has sent a Close, with this code if any.
    pub closed: Option<Option<u16>>,
    /// Its stream is at its end, broken, or given up.
    pub ended: bool,
    pub passed: Passed,
}

/// How much has passed in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Whole data messages.
    pub messages: u64,
    /// Payload of data and control frames, in bytes.
    pub bytes: u64,
}

/// The result for a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// The number of bytes from its front that are forwarded to the other side.
    pub forward: usize,
    /// The number of bytes behind them that are dropped.
    pub discard: usize,
    /// The rest of the window holds bytes that were not inspected: the caller polls frames, and gives the window again.
    pub again: bool,
    /// The messages and bytes that are forwarded, for the metrics.
    pub tally: Tally,
}

impl Passage {
    pub(super) fn discarding(discard: usize) -> Self {
        Passage {
            discard,
            ..Passage::default()
        }
    }
}

/// The event that stopped the inspection of a window.
pub(super) enum Found {
    Violation(Violation),
    Close { code: Option<u16>, passing: Passing },
}

/// The fate of a Close that a side sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passing {
    /// The Close is forwarded as it came.
    AsItCame,
    /// Its code is sent on in a Close of wsgate, because its reason may not pass.
    CodeAlone,
    /// The other side does not get it.
    Not,
}

impl Inbound {
    pub(super) fn new(from: Side, compression: Option<DeflateParams>) -> Self {
        Inbound {
            flow: Flow::new(from).with_compression(compression),
            closed: None,
            ended: false,
            passed: Passed::default(),
        }
    }
}

impl Session {
    /// How far the inspection of what `from` sends may go at once.
    fn until(&self, from: Side) -> StopAt {
        match self.writing[from.other() as usize] {
            Writing::CloseDue(_) => StopAt::FrameEnd,
            Writing::Passing
                if from == Side::Server && matches!(self.phase, Phase::DrainDue { .. }) =>
            {
                StopAt::MessageEnd
            }
            Writing::Passing | Writing::Closed(_) | Writing::Cut | Writing::Finished(_) => {
                StopAt::End
            }
        }
    }

    /// Has the flow inspect the window, as far as it goes.
    pub(super) fn inspect(
        &mut self,
        from: Side,
        window: &[u8],
        block: &mut Block,
        turn: &mut Turn,
        now: Instant,
    ) -> (Passage, Option<Found>) {
        let mut tally = Tally::default();
        let is_usual = self.rare.is_none() && self.phase.is_open();
        if !is_usual || !self.writing[from.other() as usize].is_passing() {
            return self.inspect_on(from, window, None, tally, (block, turn), now);
        }
        // The way of nearly all windows: nothing is limited, nothing ends, nothing is found.
        let inbound = &mut self.inbound[from as usize];
        block.budget = turn.budget();
        let rules = &self.settings.rules;
        let inspection = inbound
            .flow
            .inspect(rules, window, StopAt::End, block, &mut tally);
        turn.handle_inspected(&block.budget);
        if inspection.event.is_some() || inspection.spent {
            return self.inspect_on(from, window, Some(inspection), tally, (block, turn), now);
        }
        self.count(from, &tally, now);
        let passage = Passage {
            forward: inspection.release,
            tally,
            ..Passage::default()
        };
        (passage, None)
    }

    /// Notes what has passed to the other side.
    fn count(&mut self, from: Side, tally: &Tally, now: Instant) {
        if tally.has_data() && self.phase.cause().is_none() {
            self.last_message = self.settings.seconds(now);
        }
        let passed = &mut self.inbound[from as usize].passed;
        passed.messages += tally.messages[0] + tally.messages[1];
        passed.bytes += tally.bytes.iter().sum::<u64>();
    }

    /// [`inspect`](Self::inspect) for all that is not usual; `first` is what was found already, and `tally` what it released.
    #[inline(never)]
    fn inspect_on(
        &mut self,
        from: Side,
        window: &[u8],
        first: Option<inspect::Inspection>,
        tally: Tally,
        (block, turn): (&mut Block, &mut Turn),
        now: Instant,
    ) -> (Passage, Option<Found>) {
        let passing = self.writing[from.other() as usize].is_passing();
        let is_unended = self.phase.cause().is_none();
        let until = self.until(from);
        let is_client_first = self.is_client_first();
        let (watch, meter) = match self.rare.as_deref_mut() {
            Some(rare) => (rare.watch.as_deref_mut(), rare.meter.as_deref_mut()),
            None => (None, None),
        };
        let meter = meter.filter(|_| passing && is_unended);
        let mut inspection = WindowInspection {
            from,
            window,
            settings: &self.settings,
            inbound: &mut self.inbound[from as usize],
            watch,
            gauge: meter.map(|meter| Gauge::new(meter, &self.settings, from, now)),
            passing,
            is_unended,
            is_client_first,
            until,
            progress: Progress {
                tally,
                ..Progress::default()
            },
        };
        let found = inspection.run(first, block, turn);
        let WindowInspection {
            gauge, progress, ..
        } = inspection;
        let Progress {
            tally,
            mut events,
            release,
            dropped,
            again,
        } = progress;
        let slowed = gauge.map(|gauge| gauge.finish(&tally));
        if passing {
            self.count(from, &tally, now);
        }
        let passage = Passage {
            forward: if passing { release } else { 0 },
            discard: if passing { dropped } else { release + dropped },
            again,
            tally: if passing { tally } else { Tally::default() },
        };
        if let Some((until, event)) = slowed {
            events.extend(event);
            if let Some(until) = until {
                self.set_timer(Timer::Limits, until);
            }
        }
        if !events.is_empty() {
            self.rare().events.append(&mut events);
        }
        (passage, found)
    }
}
