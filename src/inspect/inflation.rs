//! The compressed messages of one direction, inflated only to be judged: RFC 7692 §7.2.2.
//!
//! Three lives are kept apart. As long as the connection lives the [`Window`], where one was agreed to be shared by its
//! messages: as many bytes as were sent, at most 32 KiB, and none before the first message. As long as a message lives
//! an [`Inflater`]. As long as a call lives what it inflates to, in a block of fixed size that all flows share
//! ([`Workshop`]). So memory never follows from what a side claims or from what its data inflates to, and an inflater is
//! stopped at the message limit, however much more is in it.
//!
//! Between its messages a flow leaves its inflater in the workshop, where the next flow that has none may take it. Most
//! often it is still there, and nothing has to be copied; if not, another is given the window. Which of the two it was
//! makes no difference but time.

use super::Violation;
use super::passage::Block;
use super::violation::Kind;
use crate::frame::deflate::{Ending, Inflater, Stand, TAIL, Terms, Window, window_size};
use crate::frame::mask::Mask;
use crate::frame::utf8::Utf8;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is kept of a direction in which messages may be compressed.
#[derive(Debug)]
pub(super) struct Inflation {
    terms: Terms,
    /// Which inflater in a workshop is this direction's.
    tag: Tag,
    /// What the next message may refer back to.
    window: Window,
    /// Of the compressed message under way.
    live: Option<Inflater>,
    /// Something was not inflated that later messages may refer back to: nothing compressed can be judged any more.
    lost: bool,
    /// Observing, what else was found in the call that told of something.
    owed: Option<Violation>,
    /// How much memory the caller has been told of.
    told: usize,
}

/// Whose inflater it is, and after which of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    flow: u64,
    message: u64,
}

/// What has been inflated of a message, and what it is held to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    /// Whether it is text that is still to be judged.
    pub judged: bool,
    pub utf8: Utf8,
    /// In bytes.
    pub len: u64,
}

/// How a message is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Most bytes that it may inflate to.
    pub limit: u64,
    /// Whether it passes whatever is found, and the next one has to be understood.
    pub observing: bool,
}

impl Inflation {
    pub fn new(terms: Terms) -> Self {
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
    pub fn begin(&mut self, compressed: bool) -> bool {
        if self.live.is_some() {
            // Observing: the message before this one was never finished.
            self.give_up();
        }
        compressed && !self.lost
    }

    /// Nothing compressed is understood any more, or needs to be.
    pub fn stop(&mut self) {
        self.lost = true;
        self.live = None;
        self.window.clear();
    }

    /// What compressed the message under way is not understood any more; nor are the next ones, if they refer to it.
    pub fn give_up(&mut self) {
        self.live = None;
        if self.terms.takeover {
            self.stop();
        }
    }

    /// Observing: what is still to be told of.
    pub fn take_owed(&mut self) -> Option<Violation> {
        self.owed.take()
    }

    /// By how much the memory held has changed since the last call, in bytes.
    pub fn memory_change(&mut self) -> isize {
        let live = self.live.as_ref().map_or(0, |_| Inflater::SIZE);
        let now = self.window.memory() + live;
        let change = now as isize - self.told as isize;
        self.told = now;
        change
    }

    /// Inflates a piece of payload, to the end of the message if `fin`, and judges what comes out. What was found
    /// first, and how far it has come.
    pub fn feed(
        &mut self,
        chunk: &[u8],
        mask: Option<&mut Mask>,
        fin: bool,
        content: &mut Content,
        manner: Manner,
        block: &mut Block,
    ) -> (Option<Violation>, Progress) {
        let takeover = self.terms.takeover;
        let Block { workshop, .. } = block;
        let mut inflater = match self.live.take() {
            Some(inflater) => inflater,
            None => workshop.take(takeover.then_some(self.tag), &self.window),
        };
        let (copy, room) = workshop.rooms();
        let mut work = Work {
            inflater: &mut inflater,
            room,
            at: 0,
            filled: false,
            window: takeover.then_some((&mut self.window, window_size(self.terms))),
            content,
            manner,
            found: None,
        };
        let mut outcome = match mask {
            None => work.inflate(chunk),
            Some(mask) => chunk.chunks(copy.len()).try_for_each(|piece| {
                let copy = &mut copy[..piece.len()];
                mask.apply_to(piece, copy);
                work.inflate(copy)
            }),
        };
        if fin && outcome.is_ok() {
            outcome = work.finish();
        }
        if outcome.is_ok() {
            work.leave();
        }
        let found = work.found;
        let progress = match &outcome {
            Ok(()) if fin => {
                self.tag.message += 1;
                // An inflater knows 32 KiB. Where less was agreed, what it accepts must not depend on whether it was there.
                let knows = takeover && window_size(self.terms) == Inflater::WINDOW;
                workshop.put(inflater, knows.then_some(self.tag));
                Progress::Whole
            }
            Ok(()) => {
                self.live = Some(inflater);
                Progress::UnderWay
            }
            Err(_) => {
                workshop.put(inflater, None);
                self.give_up();
                Progress::Lost
            }
        };
        let first = match (found, outcome.err()) {
            (Some(first), second) => {
                self.owed = second;
                Some(first)
            }
            (None, only) => only,
        };
        (first, progress)
    }
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

/// One call of [`Inflation::feed`].
struct Work<'a> {
    inflater: &'a mut Inflater,
    /// What is inflated goes round in it, so that the last of it is still there in the end.
    room: &'a mut [u8],
    at: usize,
    filled: bool,
    /// Where the last of it is kept, and how much of it, if it is.
    window: Option<(&'a mut Window, usize)>,
    content: &'a mut Content,
    manner: Manner,
    /// Observing: what is wrong with the text.
    found: Option<Violation>,
}

impl Work<'_> {
    fn inflate(&mut self, mut input: &[u8]) -> Result<(), Violation> {
        loop {
            // The byte after the last one that the limit allows proves that it is passed; nothing is inflated beyond it.
            let left = self.manner.limit.saturating_sub(self.content.len);
            let left = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .saturating_add(1);
            let end = self.room.len().min(self.at.saturating_add(left));
            let step = self.inflater.step(input, &mut self.room[self.at..end]);
            let is_full = self.at + step.produced == end;
            input = &input[step.consumed..];
            self.take_in(step.produced)?;
            match step.stand {
                Stand::Corrupt => return Err(self.violation(Kind::DeflateInvalid)),
                Stand::Final => self.forget(),
                Stand::Open if is_full => continue,
                Stand::Open => {}
            }
            if input.is_empty() {
                return Ok(());
            }
        }
    }

    /// §7.2.2: what the sender has left out is put back.
    fn finish(&mut self) -> Result<(), Violation> {
        if self.window.is_some() {
            self.finish_between_blocks()?;
        } else {
            // No message begins where it ends: all that matters is what it inflates to.
            self.inflate(&TAIL)?;
        }
        if self.content.judged && !self.content.utf8.is_complete() {
            let unfinished = self.violation(Kind::TextUnfinished);
            self.tell(unfinished)?;
        }
        Ok(())
    }

    /// Where the next message goes on with the window, this one has to end as §7.2.1 says, with an empty stored block.
    /// If it did not, receivers would not agree on what the next one says: zlib's begin it inside of the block.
    fn finish_between_blocks(&mut self) -> Result<(), Violation> {
        let unfinished = self.violation(Kind::DeflateUnfinished);
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
            self.take_in(step.produced)?;
            if step.stand == Stand::Final {
                self.forget();
            }
            if ending.between_blocks == Some(true) {
                return Ok(());
            }
        }
    }

    /// Judges what was inflated.
    fn take_in(&mut self, produced: usize) -> Result<(), Violation> {
        let limit = self.manner.limit;
        let fits = limit.saturating_sub(self.content.len);
        let fits = usize::try_from(fits).map_or(produced, |fits| fits.min(produced));
        let text = &self.room[self.at..self.at + fits];
        if self.content.judged
            && let Err(at) = self.content.utf8.feed(text)
        {
            self.tell(Violation {
                kind: Kind::TextNotUtf8,
                at: self.content.len + at as u64,
            })?;
        }
        self.content.len += fits as u64;
        self.at += produced;
        if self.at == self.room.len() {
            (self.at, self.filled) = (0, true);
        }
        if fits < produced {
            return Err(Violation {
                kind: Kind::MessageTooBig,
                at: limit,
            });
        }
        Ok(())
    }

    /// Observing, the rest of the message is inflated all the same, for the messages after it.
    fn tell(&mut self, violation: Violation) -> Result<(), Violation> {
        self.content.judged = false;
        if !self.manner.observing {
            return Err(violation);
        }
        self.found.get_or_insert(violation);
        Ok(())
    }

    /// What was inflated so far cannot be referred to any more.
    fn forget(&mut self) {
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

    fn violation(&self, kind: Kind) -> Violation {
        Violation {
            kind,
            at: self.content.len,
        }
    }
}

/// Inflaters that no message has at the moment, and room for what they bring out: what all flows of a thread share.
#[derive(Debug, Default)]
pub(super) struct Workshop {
    /// For the unmasked copy of what is inflated, then for what comes out.
    rooms: Vec<u8>,
    idle: Vec<Idle>,
    /// Counts what comes and goes, to know what was left the longest ago.
    turn: u64,
}

#[derive(Debug)]
struct Idle {
    /// Whose window it still has, if anyone's.
    tag: Option<Tag>,
    left: u64,
    inflater: Inflater,
}

impl Workshop {
    /// Large, because each call of the library that comes to the end of it copies a window.
    const ROOM: usize = 128 << 10;
    const COPY: usize = 32 << 10;
    /// Most inflaters that are kept: 1.5 MiB of them.
    const IDLE: usize = 32;

    fn rooms(&mut self) -> (&mut [u8], &mut [u8]) {
        self.rooms.resize(Workshop::COPY + Workshop::ROOM, 0);
        self.rooms.split_at_mut(Workshop::COPY)
    }

    /// An inflater that knows the window of this tag, or for `None` nothing.
    fn take(&mut self, tag: Option<Tag>, window: &Window) -> Inflater {
        let of_flow = |idle: &Idle| match (idle.tag, tag) {
            (Some(idle), Some(tag)) => idle.flow == tag.flow,
            (Some(_), None) | (None, _) => false,
        };
        let taken = self
            .idle
            .iter()
            .position(of_flow)
            .or_else(|| self.idle.iter().position(|idle| idle.tag.is_none()))
            .or_else(|| {
                let oldest = self
                    .idle
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, idle)| idle.left);
                oldest
                    .map(|(at, _)| at)
                    .filter(|_| self.idle.len() >= Workshop::IDLE)
            });
        let mut inflater = match taken.map(|at| self.idle.swap_remove(at)) {
            None => Inflater::new(),
            // It is where this flow left it, and no other workshop has gone on from there.
            Some(idle) if tag.is_some() && idle.tag == tag => return idle.inflater,
            Some(mut idle) => {
                idle.inflater.reset();
                idle.inflater
            }
        };
        if tag.is_some() {
            inflater.resume(window);
        }
        inflater
    }

    fn put(&mut self, inflater: Inflater, tag: Option<Tag>) {
        self.turn += 1;
        if self.idle.len() < Workshop::IDLE {
            self.idle.push(Idle {
                tag,
                left: self.turn,
                inflater,
            });
        }
    }
}
