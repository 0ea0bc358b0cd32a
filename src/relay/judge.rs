//! What came of a side is judged by its flow, and held against the limits of its route.

use super::State;
use super::limits::{Gauge, Verdict};
use super::pipe::Sink;
use super::turn::Turn;
use crate::inspect::{Block, Event, Kind, Mode, Passage, Side, Tally, Until, Violation};

/// What has to be done about what was found in a window, once the bytes before it are out of the way.
pub(super) enum Found {
    Violation(Violation),
    Close { code: Option<u16>, how: Passing },
}

/// What becomes of a Close that a side sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passing {
    /// It passes as it came.
    AsItCame,
    /// Its code is told in a Close of ours, because its reason may not pass.
    CodeAlone,
    /// The other side does not get it.
    Not,
}

/// What was judged of a window.
pub(super) struct Judged {
    /// Bytes from its front that are released.
    pub release: usize,
    /// Bytes after those that are nobody's: the answer to our Ping.
    pub dropped: usize,
    /// What stopped it.
    pub found: Option<Found>,
}

impl State {
    /// Has the flow judge the window, as far as it goes.
    pub(super) fn judge(
        &mut self,
        from: Side,
        window: &[u8],
        block: &mut Block,
        turn: &mut Turn,
    ) -> Judged {
        let terms = &*self.terms;
        let client_first = self.is_client_first();
        let pipe = &mut self.pipes[from as usize];
        let passing = pipe.is_passing();
        let until = match pipe.sink {
            Sink::Ordered(_) => Until::FrameEnd,
            Sink::Flowing if from == Side::Upstream && self.restart.is_some() => Until::MessageEnd,
            Sink::Flowing | Sink::Told | Sink::Cut | Sink::Finished => Until::End,
        };
        let mut gauge = match &mut self.meter {
            Some(meter) if passing && self.cause.is_none() => Some(Gauge::new(meter, terms, from)),
            _ => None,
        };
        // What is counted one by one is looked at one by one.
        let counts = gauge.as_ref().is_some_and(Gauge::counts_frames);
        let step = if counts { Until::FrameEnd } else { until };
        let mut tally = Tally::default();
        let (mut release, mut dropped) = (0, 0);
        pipe.fresh = false;
        let found = loop {
            let verdict = gauge.as_mut().map_or(Verdict::Pass, |gauge| {
                gauge.look(&mut pipe.flow, &window[release..], &tally)
            });
            let passage = match verdict {
                Verdict::Pass => {
                    let rest = &window[release..];
                    block.budget = match &mut gauge {
                        None => turn.budget(),
                        Some(gauge) => turn.budget().inflating(gauge.may_inflate()),
                    };
                    let passage = pipe
                        .flow
                        .inspect(&terms.rules, rest, step, block, &mut tally);
                    turn.handle_judged(&block.budget);
                    if let Some(gauge) = &mut gauge {
                        gauge.handle_inflated(block.budget.inflated());
                    }
                    if counts {
                        turn.handle_counted();
                    }
                    passage
                }
                Verdict::Wait => {
                    pipe.fresh = release < window.len();
                    break None;
                }
                Verdict::Violation(violation) => Passage {
                    release: 0,
                    event: Some(Event::Violation(violation)),
                    spent: false,
                },
            };
            release += passage.release;
            match passage.event {
                None => {
                    let is_over = match until {
                        Until::End => false,
                        Until::FrameEnd => true,
                        Until::MessageEnd => pipe.flow.message_boundary().is_some(),
                    };
                    // Without progress it is the end that is not there yet: only more of it would tell more.
                    let steps = counts || until != Until::End;
                    let goes_on = passage.spent || (steps && passage.release > 0);
                    if goes_on && !is_over && release < window.len() && !turn.is_over() {
                        continue;
                    }
                    pipe.fresh = goes_on && release < window.len();
                    break None;
                }
                Some(Event::Violation(violation)) => {
                    if passing {
                        terms.metrics.violation(from, violation.kind);
                    }
                    if terms.rules.mode == Mode::Enforce {
                        // What follows is not passed on, but the side's Close may be in it.
                        pipe.fresh = release < window.len();
                        break Some(Found::Violation(violation));
                    }
                    let (route, side, kind) =
                        (terms.route.as_str(), from.label(), violation.kind.label());
                    tracing::warn!(route, side, kind, %violation, "violation observed");
                }
                Some(Event::Close {
                    frame_len,
                    code,
                    garbled,
                }) => {
                    let translated = from == Side::Upstream
                        && self.cause.is_none()
                        && terms.closing.translates(code);
                    // The answer to a 1012 of ours is not the upstream's business; it gets a 1001.
                    let answered = from == Side::Client && client_first;
                    if garbled && passing {
                        let kind = Kind::CloseReasonNotUtf8;
                        terms.metrics.violation(from, kind);
                        let (route, side, kind) =
                            (terms.route.as_str(), from.label(), kind.label());
                        tracing::warn!(route, side, kind, code, "Close passed without its reason");
                    }
                    let how = match passing && !translated && !answered {
                        false => Passing::Not,
                        true if garbled => Passing::CodeAlone,
                        true => Passing::AsItCame,
                    };
                    if how == Passing::AsItCame {
                        pipe.flow.release_close(frame_len, &mut tally);
                        release += frame_len;
                    }
                    break Some(Found::Close { code, how });
                }
                Some(Event::Pong { frame_len, payload }) => {
                    let watch = self.watch.as_mut();
                    if watch.is_some_and(|watch| watch.handle_pong(&payload)) {
                        dropped = frame_len;
                        pipe.fresh = release + dropped < window.len();
                        break None;
                    }
                    if passing {
                        pipe.flow.release_pong(frame_len, &mut tally);
                    }
                    release += frame_len;
                    if until != Until::End || turn.is_over() {
                        pipe.fresh = release < window.len();
                        break None;
                    }
                }
            }
        };
        if let Some(gauge) = &mut gauge {
            gauge.handle(&tally);
        }
        terms.metrics.compression_memory(pipe.flow.memory_change());
        if passing && tally != Tally::default() {
            pipe.count(&tally);
            terms.metrics.passed(from, &tally);
        }
        Judged {
            release,
            dropped,
            found,
        }
    }
}
