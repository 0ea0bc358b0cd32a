//! The compressed messages of one direction, inflated only to be inspected: RFC 7692 §7.2.2.
//!
//! Three lives are kept apart. As long as the connection lives the [`Window`], where one was agreed to be shared by its
//! messages: as many bytes as were sent, at most 32 KiB, and none before the first message. As long as a message lives
//! an [`Inflater`]. As long as a call lives what it inflates to, in a block of fixed size that all flows share
//! (the [pool](super::inflater_pool)). So memory never follows from what a side claims or from what its data inflates to, and an inflater is
//! stopped at the message limit, however much more is in it.
//!
//! Between its messages a flow leaves its inflater in the pool, where the next flow that has none may take it. Most
//! often it is still there, and nothing has to be copied; if not, another is given the window. Which of the two it was
//! makes no difference but time.

use super::inflater_pool::Tag;
use super::passage::Block;
use super::violation::{Kind, Place};
use super::{Budget, Violation};
use crate::frame::deflate::{
    DeflateParams, Ending, InflateStatus, Inflater, Step, TAIL, Window, window_size,
};
use crate::frame::mask::Mask;
use crate::frame::utf8::Utf8;
use std::sync::atomic::{AtomicU64, Ordering};

/// The inflation state of a direction in which messages may be compressed.
#[derive(Debug)]
pub(super) struct Inflation {
    terms: DeflateParams,
    /// Which inflater in a pool is this direction's.
    tag: Tag,
    /// The window that the next message may refer back to.
    window: Window,
    /// Of the compressed message under way.
    live: Option<Inflater>,
    /// Something was not inflated that later messages may refer back to: no later compressed message can be inspected.
    lost: bool,
    /// Observing, what else was found in the call that told of something.
    owed: Option<Violation>,
    /// How much memory the caller has been told of.
    told: usize,
}

/// The inflated bytes of a message, and their limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    /// Whether the bytes are text that still has to be proven UTF-8.
    pub checks_utf8: bool,
    pub utf8: Utf8,
    /// In bytes.
    pub len: u64,
}

/// How a message is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct InflateLimits {
    /// Most bytes that it may inflate to.
    pub limit: u64,
    /// Whether it passes whatever is found, and the next one has to be understood.
    pub observing: bool,
}

impl Inflation {
    pub(super) fn new(terms: DeflateParams) -> Self {
        static FLOWS: AtomicU64 = AtomicU64::new(0);
        Inflation {
            terms,
            tag: Tag {
                flow: FLOWS.fetch_add(1, Ordering::Relaxed),
                message: 0,
            },
            window: Window::new(),
            live: None,
            lost: false,
            owed: None,
            told: 0,
        }
    }

    /// A message begins, compressed or not. Whether it can be inflated.
    pub(super) fn begin(&mut self, compressed: bool) -> bool {
        if self.live.is_some() {
            // Observing: the message before this one was never finished.
            self.give_up();
        }
        compressed && !self.lost
    }

    /// Nothing compressed is understood any more, or needs to be.
    pub(super) fn stop(&mut self) {
        self.lost = true;
        self.live = None;
        self.window.clear();
    }

    /// Gives up the message under way, which cannot be inflated any more; nor can later messages that refer to it.
    pub(super) fn give_up(&mut self) {
        self.live = None;
        if self.terms.takeover {
            self.stop();
        }
    }

    /// Observing: what is still to be told of.
    pub(super) fn take_owed(&mut self) -> Option<Violation> {
        self.owed.take()
    }

    /// The memory held, in bytes.
    pub(super) fn memory(&self) -> usize {
        let live = self.live.as_ref().map_or(0, |_| Inflater::SIZE);
        self.window.memory() + live
    }

    /// By how much it has changed since the last call.
    pub(super) fn memory_change(&mut self) -> isize {
        let now = self.memory();
        let change = now as isize - self.told as isize;
        self.told = now;
        change
    }

    /// Inflates a piece of payload, to the end of the message if `fin`, and inspects what comes out, as far as the budget of
    /// the block goes: the rest of the piece is to be given again.
    pub(super) fn feed(
        &mut self,
        chunk: &[u8],
        mask: Option<&mut Mask>,
        fin: bool,
        content: &mut Content,
        limits: InflateLimits,
        block: &mut Block,
    ) -> Fed {
        let takeover = self.terms.takeover;
        let Block { pool, budget, .. } = block;
        let mut inflater = match self.live.take() {
            Some(inflater) => inflater,
            None => pool.take(takeover.then_some(self.tag), &self.window),
        };
        let (copy, room) = pool.rooms();
        let mut work = Work {
            inflater: &mut inflater,
            room,
            at: 0,
            filled: false,
            window: takeover.then_some((&mut self.window, window_size(self.terms))),
            content,
            limits,
            found: None,
            budget,
        };
        let mut used = 0;
        let mut outcome = match mask {
            None => work.inflate(chunk).map(|all| used = all),
            Some(mask) => loop {
                let rest = &chunk[used..];
                let most = copy.len().min(work.budget.of_piece().0);
                let piece = &rest[..rest.len().min(most)];
                let copy = &mut copy[..piece.len()];
                let mut unmasking = *mask;
                unmasking.apply_to(piece, copy);
                match work.inflate(copy) {
                    Err(violation) => break Err(violation),
                    Ok(part) => {
                        mask.advance(part);
                        used += part;
                        if used == chunk.len() || part < piece.len() {
                            break Ok(());
                        }
                    }
                }
            },
        };
        let fin = fin && used == chunk.len();
        if fin && outcome.is_ok() {
            outcome = work.finish();
        }
        work.budget.take_piece();
        if outcome.is_ok() {
            work.leave();
        }
        let found = work.found;
        let progress = match &outcome {
            Ok(()) if fin => {
                self.tag.message += 1;
                // An inflater knows 32 KiB. Where less was agreed, what it accepts must not depend on whether it was there.
                let knows = takeover && window_size(self.terms) == Inflater::WINDOW;
                pool.put(inflater, knows.then_some(self.tag));
                Progress::Whole
            }
            Ok(()) => {
                self.live = Some(inflater);
                Progress::UnderWay
            }
            Err(_) => {
                pool.put(inflater, None);
                self.give_up();
                // Nothing more is made of it.
                used = chunk.len();
                Progress::Lost
            }
        };
        let found = match (found, outcome.err()) {
            (Some(first), second) => {
                self.owed = second;
                Some(first)
            }
            (None, only) => only,
        };
        Fed {
            used,
            found,
            progress,
        }
    }
}

/// The result for a piece of payload.
pub(super) struct Fed {
    /// How much of it was used: less than all of it where the budget was spent.
    pub used: usize,
    /// The first violation.
    pub found: Option<Violation>,
    /// How far it has come.
    pub progress: Progress,
}

/// How far the inflating of a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    UnderWay,
    /// To its end.
    Whole,
    /// To where it cannot go on.
    Lost,
}

/// One step of [`Work`].
struct Stepped {
    /// Bytes of the input that were used.
    consumed: usize,
    /// They bring out no more than came out.
    is_all_out: bool,
}

/// One call of [`Inflation::feed`].
struct Work<'a> {
    inflater: &'a mut Inflater,
    /// A ring for inflated bytes: at the end it holds the last of them.
    room: &'a mut [u8],
    at: usize,
    filled: bool,
    /// Where the last of it is kept, and how much of it, if it is.
    window: Option<(&'a mut Window, usize)>,
    content: &'a mut Content,
    limits: InflateLimits,
    /// Observing: what is wrong with the text.
    found: Option<Violation>,
    budget: &'a mut Budget,
}

impl Work<'_> {
    /// Inflates as much as the budget allows: how much of the input that was.
    fn inflate(&mut self, input: &[u8]) -> Result<usize, Violation> {
        let mut used: usize = 0;
        loop {
            // Each byte of the input is used with all that it brings out, or a message would end before all of it is inspected:
            // without a budget nothing more is used, and what is left to come out are a few codes.
            let is_spent = self.budget.is_spent();
            let (most, most_out) = match self.budget.of_piece() {
                _ if is_spent => (0, usize::MAX),
                most => most,
            };
            let piece = &input[used..input.len().min(used.saturating_add(most))];
            let step = self.step(piece, most_out)?;
            used += step.consumed;
            if step.is_all_out && (is_spent || used == input.len()) {
                return Ok(used);
            }
        }
    }

    /// Inflates a piece of the input and inspects what comes out, at most so many bytes.
    fn step(&mut self, input: &[u8], most: usize) -> Result<Stepped, Violation> {
        // The byte after the last one that the limit allows proves that it is passed; nothing is inflated beyond it.
        let left = self.limits.limit.saturating_sub(self.content.len);
        let left = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .saturating_add(1);
        let end = self.at.saturating_add(left.min(most)).min(self.room.len());
        let Step {
            consumed,
            produced,
            stand,
        } = self.inflater.step(input, &mut self.room[self.at..end]);
        let is_full = self.at + produced == end;
        self.budget.take_inflated(consumed, produced);
        self.push(produced)?;
        match stand {
            InflateStatus::Corrupt => return Err(self.invalid(Kind::DeflateInvalid)),
            InflateStatus::Final => self.clear_window(),
            InflateStatus::Open => {}
        }
        Ok(Stepped {
            consumed,
            is_all_out: !is_full || stand == InflateStatus::Final,
        })
    }

    /// §7.2.2: what the sender has left out is put back.
    fn finish(&mut self) -> Result<(), Violation> {
        if self.window.is_some() {
            self.finish_between_blocks()?;
        } else {
            // No message begins where it ends: all that matters is what it inflates to.
            let mut rest = &TAIL[..];
            loop {
                let step = self.step(rest, usize::MAX)?;
                rest = &rest[step.consumed..];
                if step.is_all_out && rest.is_empty() {
                    break;
                }
            }
        }
        if self.content.checks_utf8 && !self.content.utf8.is_complete() {
            self.tell(Violation::new(
                Kind::TextUnfinished,
                Place::Message(self.content.len),
            ))?;
        }
        Ok(())
    }

    /// Where the next message goes on with the window, this one has to end as §7.2.1 says, with an empty stored block.
    /// If it did not, receivers would not agree on what the next one says: zlib's begin it inside of the block.
    fn finish_between_blocks(&mut self) -> Result<(), Violation> {
        let unfinished = self.invalid(Kind::DeflateUnfinished);
        let mut ending = Ending::default();
        loop {
            if self.room.len() - self.at < Ending::ROOM {
                self.leave();
            }
            let step = self
                .inflater
                .step_ending(&mut ending, &mut self.room[self.at..]);
            if ending.between_blocks == Some(false) {
                // What has come out may be more than the tail's.
                return Err(unfinished);
            }
            self.push(step.produced)?;
            if step.stand == InflateStatus::Final {
                self.clear_window();
            }
            if ending.between_blocks == Some(true) {
                return Ok(());
            }
        }
    }

    /// Inspects what was inflated.
    fn push(&mut self, produced: usize) -> Result<(), Violation> {
        let limit = self.limits.limit;
        let fits = limit.saturating_sub(self.content.len);
        let fits = usize::try_from(fits).map_or(produced, |fits| fits.min(produced));
        let text = &self.room[self.at..self.at + fits];
        if self.content.checks_utf8
            && let Err(at) = self.content.utf8.feed(text)
        {
            self.tell(Violation::new(
                Kind::TextNotUtf8,
                Place::Message(self.content.len + at as u64),
            ))?;
        }
        self.content.len += fits as u64;
        self.at += produced;
        if self.at == self.room.len() {
            (self.at, self.filled) = (0, true);
        }
        if fits < produced {
            return Err(Violation::new(Kind::MessageTooBig, Place::Limit(limit)));
        }
        Ok(())
    }

    /// Observing, the rest of the message is inflated all the same, for the messages after it.
    fn tell(&mut self, violation: Violation) -> Result<(), Violation> {
        self.content.checks_utf8 = false;
        if !self.limits.observing {
            return Err(violation);
        }
        self.found.get_or_insert(violation);
        Ok(())
    }

    /// Forgets the inflated bytes: later messages cannot refer to them any more.
    fn clear_window(&mut self) {
        if let Some((window, _)) = &mut self.window {
            window.clear();
        }
        (self.at, self.filled) = (0, false);
    }

    /// Leaves the last of what was inflated in the window.
    fn leave(&mut self) {
        if let Some((window, size)) = &mut self.window {
            if self.filled && self.at < *size {
                let older = self.room.len() - (*size - self.at);
                window.push(&self.room[older..], *size);
            }
            window.push(&self.room[..self.at], *size);
        }
        (self.at, self.filled) = (0, false);
    }

    /// A violation of deflate.
    fn invalid(&self, kind: Kind) -> Violation {
        Violation::new(kind, Place::Inflated(self.content.len))
    }
}
