//! What came of a side is judged by its flow, and held against the limits of its route.

use super::State;
use super::limits::{Gauge, Verdict};
use super::pipe::Sink;
use crate::inspect::{Block, Event, Mode, Passage, Side, Tally, Until, Violation};

/// What has to be done about what was found in a window, once the bytes before it are out of the way.
pub(super) enum Found {
    Violation(Violation),
    Close { code: Option<u16>, passed: bool },
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
    pub(super) fn judge(&mut self, from: Side, window: &[u8], block: &mut Block) -> Judged {
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
                    pipe.flow
                        .inspect(&terms.rules, rest, step, block, &mut tally)
                }
                Verdict::Wait => {
                    pipe.fresh = release < window.len();
                    break None;
                }
                Verdict::Violation(violation) => Passage {
                    release: 0,
                    event: Some(Event::Violation(violation)),
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
                    if counts && !is_over && passage.release > 0 && release < window.len() {
                        continue;
                    }
                    // Without progress it is the end that is not there yet: only more of it would tell more.
                    let is_at_end = until != Until::End && passage.release > 0;
                    pipe.fresh = is_at_end && release < window.len();
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
                Some(Event::Close { frame_len, code }) => {
                    let translated = from == Side::Upstream
                        && self.cause.is_none()
                        && terms.closing.translates(code);
                    // The answer to a 1012 of ours is not the upstream's business; it gets a 1001.
                    let answered = from == Side::Client && client_first;
                    let passed = passing && !translated && !answered;
                    if passed {
                        pipe.flow.release_close(frame_len, &mut tally);
                        release += frame_len;
                    }
                    break Some(Found::Close { code, passed });
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
                    if until != Until::End {
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
            if self.cause.is_none() && tally.has_data() {
                self.activity.handle_message();
            }
        }
        Judged {
            release,
            dropped,
            found,
        }
    }
}
