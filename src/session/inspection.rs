//! The inspection of a window by all rules: limits are in force, the connection ends, Pings await their answer, or something was found.
//! Nearly all windows take the shorter way of `Session::inspect`.

use super::Event;
use super::inbound::{Found, Inbound, Passing};
use super::limits::{Gauge, RateCheck};
use super::liveness::Watch;
use super::{Settings, Turn};
use crate::frame::ping;
use crate::inspect::{self, Block, Mode, Side, StopAt, Tally};
use std::ops::ControlFlow;

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

    fn handle_violation(&mut self, violation: inspect::Violation) -> ControlFlow<Option<Found>> {
        let enforced = self.settings.rules.mode == Mode::Enforce;
        if self.passing {
            self.progress.events.push(Event::Violation {
                by: self.from,
                violation,
                enforced,
            });
        }
        if !enforced {
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
