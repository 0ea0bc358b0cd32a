//! The bytes that one side sends: inspected by its flow, and compared with the limits of its route.

use super::limits::{Gauge, RateCheck};
use super::phase::Phase;
use super::timers::Timer;
use super::writing::Writing;
use super::{Event, Session, Turn};
use crate::frame::deflate::DeflateParams;
use crate::inspect;
use crate::inspect::{Block, Flow, Mode, Side, StopAt, Tally, Violation};
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
        mut first: Option<inspect::Inspection>,
        mut tally: Tally,
        (block, turn): (&mut Block, &mut Turn),
        now: Instant,
    ) -> (Passage, Option<Found>) {
        let passing = self.writing[from.other() as usize].is_passing();
        let cause = self.phase.cause();
        let until = self.until(from);
        let is_client_first = self.is_client_first();
        let settings = &*self.settings;
        let inbound = &mut self.inbound[from as usize];
        let (mut watch, meter) = match self.rare.as_deref_mut() {
            Some(rare) => (rare.watch.as_mut(), rare.meter.as_mut()),
            None => (None, None),
        };
        let mut gauge = match meter {
            Some(meter) if passing && cause.is_none() => {
                Some(Gauge::new(meter, settings, from, now))
            }
            _ => None,
        };
        // Frames that are counted one by one are inspected one by one.
        let counts = gauge.as_ref().is_some_and(Gauge::counts_frames);
        let step = if counts { StopAt::FrameEnd } else { until };
        let mut events = Vec::new();
        let (mut release, mut dropped, mut again) = (0, 0, false);
        let found = loop {
            let check = match (&first, &mut gauge) {
                (None, Some(gauge)) => gauge.check(&mut inbound.flow, &window[release..], &tally),
                _ => RateCheck::Pass,
            };
            let passage = match (check, first.take()) {
                (_, Some(first)) => first,
                (RateCheck::Pass, None) => {
                    let rest = &window[release..];
                    block.budget = match &mut gauge {
                        None => turn.budget(),
                        Some(gauge) => turn.budget().inflating(gauge.may_inflate()),
                    };
                    let rules = &settings.rules;
                    let passage = inbound.flow.inspect(rules, rest, step, block, &mut tally);
                    turn.handle_inspected(&block.budget);
                    if let Some(gauge) = &mut gauge {
                        gauge.handle_inflated(block.budget.inflated());
                    }
                    if counts {
                        turn.handle_counted();
                    }
                    passage
                }
                (RateCheck::Wait, None) => {
                    again = release < window.len();
                    break None;
                }
                (RateCheck::Violation(violation), None) => inspect::Inspection {
                    release: 0,
                    event: Some(inspect::Event::Violation(violation)),
                    spent: false,
                },
            };
            release += passage.release;
            match passage.event {
                None => {
                    let is_over = match until {
                        StopAt::End => false,
                        StopAt::FrameEnd => true,
                        StopAt::MessageEnd => inbound.flow.message_boundary().is_some(),
                    };
                    // Without progress the end is not there yet: only more bytes would tell more.
                    let steps = counts || until != StopAt::End;
                    let goes_on = passage.spent || (steps && passage.release > 0);
                    if goes_on && !is_over && release < window.len() && !turn.is_over() {
                        continue;
                    }
                    again = goes_on && release < window.len();
                    break None;
                }
                Some(inspect::Event::Violation(violation)) => {
                    let enforced = settings.rules.mode == Mode::Enforce;
                    if passing {
                        events.push(Event::Violation {
                            by: from,
                            violation,
                            enforced,
                        });
                    }
                    if enforced {
                        // The bytes behind it are not forwarded, but the Close of the side may be among them.
                        again = release < window.len();
                        break Some(Found::Violation(violation));
                    }
                }
                Some(inspect::Event::Close {
                    frame_len,
                    code,
                    garbled,
                }) => {
                    let is_translated = from == Side::Server
                        && cause.is_none()
                        && settings.closing.translates(code);
                    // The client's answer to a restart is none of the server's business, which gets a 1001.
                    let is_answer = from == Side::Client && is_client_first;
                    if garbled && passing {
                        events.push(Event::CloseWithoutReason { by: from, code });
                    }
                    let passing = match passing && !is_translated && !is_answer {
                        false => Passing::Not,
                        true if garbled => Passing::CodeAlone,
                        true => Passing::AsItCame,
                    };
                    if passing == Passing::AsItCame {
                        inbound.flow.release_close(frame_len, &mut tally);
                        release += frame_len;
                    }
                    break Some(Found::Close { code, passing });
                }
                Some(inspect::Event::Pong { frame_len, payload }) => {
                    if watch
                        .as_mut()
                        .is_some_and(|watch| watch.handle_pong(&payload))
                    {
                        dropped = frame_len;
                        again = release + dropped < window.len();
                        break None;
                    }
                    if passing {
                        inbound.flow.release_pong(frame_len, &mut tally);
                    }
                    release += frame_len;
                    if until != StopAt::End || turn.is_over() {
                        again = release < window.len();
                        break None;
                    }
                }
            }
        };
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
