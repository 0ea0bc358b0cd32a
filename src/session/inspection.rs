//! The bytes that one side sends: inspected by its flow, and compared with the limits of its route.
//!
//! `Session::inspect` is the way of nearly all windows. A [`WindowInspection`] applies all rules: limits are in force, the connection
//! ends, Pings await their answer, or something was found.

use super::inbound::{Inbound, Passage};
use super::limits::{Gauge, RateCheck};
use super::liveness::Watch;
use super::phase::Phase;
use super::timers::Timer;
use super::writing::Writing;
use super::{Event, Session, Settings, Turn};
use crate::frame::ping;
use crate::inspect::{self, Block, Mode, Side, StopAt, Tally, Violation};
use std::ops::ControlFlow;
use std::time::Instant;

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

/// One inspection of a window: what it depends on, and how far it has come.
pub(super) struct WindowInspection<'a> {
    pub from: Side,
    pub window: &'a [u8],
    pub settings: &'a Settings,
    pub inbound: &'a mut Inbound,
    /// Looks for the answers to wsgate's own Pings.
    pub watch: Option<&'a mut Watch>,
    /// The limits, if there are any and if they count now.
    pub gauge: Option<Gauge<'a>>,
    /// What is released is forwarded to the other side.
    pub passing: bool,
    /// The connection has no cause to end yet.
    pub is_unended: bool,
    /// The client is told of a restart before the server.
    pub is_client_first: bool,
    pub until: StopAt,
    pub progress: Progress,
}

/// How far the inspection of a window has come.
#[derive(Default)]
pub(super) struct Progress {
    pub tally: Tally,
    pub events: Vec<Event>,
    /// Bytes at the front of the window that were released.
    pub release: usize,
    /// Bytes behind them that are dropped.
    pub dropped: usize,
    /// The rest of the window has to be inspected again.
    pub again: bool,
}

impl WindowInspection<'_> {
    /// Inspects until the window is used up, its end for now is reached, or something is found. `first` is the result of an inspection
    /// that was made already.
    pub(super) fn run(
        &mut self,
        mut first: Option<inspect::Inspection>,
        block: &mut Block,
        turn: &mut Turn,
    ) -> Option<Found> {
        loop {
            let Some(inspection) = first.take().or_else(|| self.inspect_part(block, turn)) else {
                // The rate is reached: the rest waits.
                self.progress.again = self.has_rest();
                return None;
            };
            self.progress.release += inspection.release;
            let step = match inspection.event {
                None => self.handle_end_of_part(&inspection, turn),
                Some(inspect::Event::Violation(violation)) => self.handle_violation(violation),
                Some(inspect::Event::Close {
                    frame_len,
                    code,
                    garbled,
                }) => ControlFlow::Break(Some(self.handle_close(frame_len, code, garbled))),
                Some(inspect::Event::Pong { frame_len, payload }) => {
                    self.handle_pong(frame_len, &payload, turn)
                }
            };
            if let ControlFlow::Break(found) = step {
                return found;
            }
        }
    }

    /// Frames that are counted one by one are inspected one by one.
    fn counts_frames(&self) -> bool {
        self.gauge.as_ref().is_some_and(Gauge::counts_frames)
    }

    fn has_rest(&self) -> bool {
        self.progress.release + self.progress.dropped < self.window.len()
    }

    /// Inspects the next part of the window: a frame where frames are counted. `None`: the rate is reached.
    fn inspect_part(&mut self, block: &mut Block, turn: &mut Turn) -> Option<inspect::Inspection> {
        let counts = self.counts_frames();
        let rest = &self.window[self.progress.release..];
        let (flow, tally) = (&mut self.inbound.flow, &mut self.progress.tally);
        let check = match &mut self.gauge {
            Some(gauge) => gauge.check(flow, rest, tally),
            None => RateCheck::Pass,
        };
        match check {
            RateCheck::Pass => {}
            RateCheck::Wait => return None,
            RateCheck::Violation(violation) => {
                return Some(inspect::Inspection {
                    release: 0,
                    event: Some(inspect::Event::Violation(violation)),
                    spent: false,
                });
            }
        }
        block.budget = match &mut self.gauge {
            None => turn.budget(),
            Some(gauge) => turn.budget().inflating(gauge.may_inflate()),
        };
        let step = if counts { StopAt::FrameEnd } else { self.until };
        let inspection = flow.inspect(&self.settings.rules, rest, step, block, tally);
        turn.handle_inspected(&block.budget);
        if let Some(gauge) = &mut self.gauge {
            gauge.handle_inflated(block.budget.inflated());
        }
        if counts {
            turn.handle_counted();
        }
        Some(inspection)
    }

    /// A part was inspected, and nothing was found.
    fn handle_end_of_part(
        &mut self,
        inspection: &inspect::Inspection,
        turn: &Turn,
    ) -> ControlFlow<Option<Found>> {
        let is_over = match self.until {
            StopAt::End => false,
            StopAt::FrameEnd => true,
            StopAt::MessageEnd => self.inbound.flow.message_boundary().is_some(),
        };
        // Without progress the end is not there yet: only more bytes would tell more.
        let steps = self.counts_frames() || self.until != StopAt::End;
        let goes_on = inspection.spent || (steps && inspection.release > 0);
        if goes_on && !is_over && self.has_rest() && !turn.is_over() {
            return ControlFlow::Continue(());
        }
        self.progress.again = goes_on && self.has_rest();
        ControlFlow::Break(None)
    }

    fn handle_violation(&mut self, violation: Violation) -> ControlFlow<Option<Found>> {
        let mode = self.settings.rules.mode;
        if self.passing {
            self.progress.events.push(Event::Violation {
                by: self.from,
                violation,
                mode,
            });
        }
        if mode == Mode::Observe {
            return ControlFlow::Continue(());
        }
        // The bytes behind it are not forwarded, but the Close of the side may be among them.
        self.progress.again = self.has_rest();
        ControlFlow::Break(Some(Found::Violation(violation)))
    }

    fn handle_close(&mut self, frame_len: usize, code: Option<u16>, garbled: bool) -> Found {
        let is_translated =
            self.from == Side::Server && self.is_unended && self.settings.closing.translates(code);
        // The client's answer to a restart is not forwarded to the server, which gets a 1001.
        let is_answer = self.from == Side::Client && self.is_client_first;
        if garbled && self.passing {
            let by = self.from;
            let event = Event::CloseWithoutReason { by, code };
            self.progress.events.push(event);
        }
        let passing = match self.passing && !is_translated && !is_answer {
            false => Passing::Not,
            true if garbled => Passing::CodeAlone,
            true => Passing::AsItCame,
        };
        if passing == Passing::AsItCame {
            let tally = &mut self.progress.tally;
            self.inbound.flow.release_close(frame_len, tally);
            self.progress.release += frame_len;
        }
        Found::Close { code, passing }
    }

    fn handle_pong(
        &mut self,
        frame_len: usize,
        payload: &[u8; ping::LEN],
        turn: &Turn,
    ) -> ControlFlow<Option<Found>> {
        let watch = self.watch.as_mut();
        if watch.is_some_and(|watch| watch.handle_pong(payload)) {
            self.progress.dropped = frame_len;
            self.progress.again = self.has_rest();
            return ControlFlow::Break(None);
        }
        if self.passing {
            let tally = &mut self.progress.tally;
            self.inbound.flow.release_pong(frame_len, tally);
        }
        self.progress.release += frame_len;
        if self.until != StopAt::End || turn.is_over() {
            self.progress.again = self.has_rest();
            return ControlFlow::Break(None);
        }
        ControlFlow::Continue(())
    }
}
