//! One direction of a connection: every frame that one side sends, inspected as it passes.
//!
//! The state of a frame (`FrameState`) is kept apart from the state of a message (`MessageState`): a Ping between two fragments must
//! not disturb the message.
//!
//! The flow never changes a byte, never copies one that passes, and never blocks. The bytes that it has released are always a prefix
//! of the bytes that the side sent, and this prefix breaks no rule. Bytes that it gives back after an enforced violation are only to be
//! discarded, and are not counted.
//!
//! - `state`: the frame and the message under way.
//! - `walk`: from frame to frame over the window; `fast_path`: the same for a whole small message in one step.
//! - `header`, `payload`: the rules, without the state of the flow.

mod fast_path;
mod header;
mod payload;
mod state;
mod walk;

use self::state::{Form, FrameKind, FrameState, MessageState, Payload, Stopped};
use self::walk::Walk;
use super::inflation::Inflation;
use super::passage::{Block, Inspection, StopAt, Tally};
use super::violation::{Kind, Place, Violation};
use super::{Budget, Mode, RateClass, Rules, Side};
use crate::frame::deflate::DeflateParams;
use crate::frame::header::{First, Opcode};
use crate::frame::ping;

/// One direction of a connection.
///
/// The caller keeps the *window*: the bytes that the side sent and the flow has not released yet. It calls
/// [`Flow::inspect`] whenever the window has grown and takes what was released off its front:
///
/// ```
/// use wsgate::inspect::{Block, Event, Flow, Rules, Side, Tally, StopAt};
///
/// let (rules, mut block, mut tally) = (Rules::default(), Block::default(), Tally::default());
/// let mut flow = Flow::new(Side::Server);
/// let (mut window, mut passed) = (Vec::new(), Vec::new());
/// for byte in *b"\x81\x02hi\x81\x02\xc3\x28" {
///     window.push(byte);
///     let passage = flow.inspect(&rules, &window, StopAt::End, &mut block, &mut tally);
///     passed.extend(window.drain(..passage.release));
///     if let Some(Event::Violation(violation)) = passage.event {
///         assert_eq!(violation.to_string(), "invalid UTF-8 at byte 1 of the message; send raw bytes as binary");
///     }
/// }
/// assert_eq!(passed, b"\x81\x02hi");
/// ```
///
/// An event ends the call early: the caller deals with it and calls again with what is left of the window. A
/// violation is an event once per kind. Under [`Mode::Enforce`] the first one ends the inspection: after it, the flow only
/// walks from frame to frame, so that the side's Close is still found in what is discarded.
#[derive(Debug)]
pub struct Flow {
    from: Side,
    /// Set by a violation that was enforced: nothing more passes or is inspected, frames are only walked.
    stopped: Option<Stopped>,
    frame: FrameState,
    message: Option<MessageState>,
    /// `None` where messages are never compressed.
    inflation: Option<Box<Inflation>>,
    /// How much of the window has been inspected, in bytes.
    scanned: usize,
    /// How many bytes have been released since the handshake.
    released: u64,
    /// Kinds of violations that were reported, one bit each.
    reported: u32,
    /// Pongs that could answer a Ping of ours are events.
    watches_pongs: bool,
}

/// Proof that all that was released ends at the end of a frame, so that a frame of wsgate's own may follow.
#[derive(Debug)]
pub struct FrameBoundary(());

/// Proof that all that was released ends at the end of a message: no message is left unfinished if nothing more follows.
#[derive(Debug)]
pub struct MessageBoundary(());

impl Flow {
    /// The flow of what `from` sends, right after the handshake.
    pub const fn new(from: Side) -> Self {
        Flow {
            from,
            stopped: None,
            frame: FrameState::Header,
            message: None,
            inflation: None,
            scanned: 0,
            released: 0,
            reported: 0,
            watches_pongs: false,
        }
    }

    /// A flow in which messages may be compressed, as both sides agreed (RFC 7692).
    pub fn with_compression(self, terms: Option<DeflateParams>) -> Self {
        Flow {
            inflation: terms.map(|terms| Box::new(Inflation::new(terms))),
            ..self
        }
    }

    /// The side that sends the flow.
    pub const fn from(&self) -> Side {
        self.from
    }

    /// Gives up what is kept to inflate messages, for good: what [`Flow::memory_change`] says then.
    pub fn stop_inflating(&mut self) -> isize {
        if let Some(inflation) = &mut self.inflation {
            inflation.stop();
        }
        self.memory_change()
    }

    /// By how much the memory that compression takes here has changed since the last call, in bytes.
    pub fn memory_change(&mut self) -> isize {
        let inflation = self.inflation.as_mut();
        inflation.map_or(0, |inflation| inflation.memory_change())
    }

    /// The memory that compression takes here, in bytes.
    pub fn memory(&self) -> usize {
        let inflation = self.inflation.as_ref();
        inflation.map_or(0, |inflation| inflation.memory())
    }

    /// Bytes released so far, frame headers included.
    pub const fn released(&self) -> u64 {
        self.released
    }

    /// Proof that what has passed ends at a frame boundary, or `None` where it ends inside a frame.
    ///
    /// After a violation under [`Mode::Enforce`] nothing more passes, so the answer stays what it was then.
    pub fn frame_boundary(&self) -> Option<FrameBoundary> {
        let at_boundary = match (self.stopped, self.frame) {
            (Some(stopped), _) => stopped.at_frame_boundary,
            (None, FrameState::Header) => true,
            (None, FrameState::Payload(payload)) => payload.passed == 0,
            (None, FrameState::Lost) => false,
        };
        at_boundary.then_some(FrameBoundary(()))
    }

    /// Whether frames are still inspected: until a violation is enforced, or the beginnings of frames are lost.
    pub const fn is_inspecting(&self) -> bool {
        self.stopped.is_none() && !matches!(self.frame, FrameState::Lost)
    }

    /// Proof that what has passed ends at a message boundary. After a violation the answer stays, too.
    pub fn message_boundary(&self) -> Option<MessageBoundary> {
        let inside = match (self.stopped, self.frame, self.message) {
            (Some(stopped), _, _) => !stopped.at_message_boundary,
            (None, _, None) => false,
            // The first frame of a message, still held: nothing of the message has passed.
            (
                None,
                FrameState::Payload(Payload {
                    kind: FrameKind::Data,
                    ..
                }),
                Some(m),
            ) => m.fragments > 1,
            (None, _, Some(_)) => true,
        };
        self.frame_boundary()
            .filter(|_| !inside)
            .map(|_| MessageBoundary(()))
    }

    /// The rate class of the frame that `window` begins with; `None` where a frame is under way, where nothing of the next one is
    /// there, and for frames that no rate counts.
    pub fn begins(&self, window: &[u8]) -> Option<RateClass> {
        let at_header = matches!(self.frame, FrameState::Header) && self.stopped.is_none();
        let first = window.first().filter(|_| at_header)?;
        match First(*first).opcode()? {
            Opcode::Text | Opcode::Binary => Some(RateClass::Message),
            Opcode::Ping | Opcode::Pong => Some(RateClass::Control),
            // A message counts once, however many its fragments; and a Close is never refused.
            Opcode::Continuation | Opcode::Close => None,
        }
    }

    /// The side goes beyond a limit on rates, which it takes a clock to see. Under [`Mode::Enforce`] the flow stops, as
    /// after any violation. `None` where this kind was reported before.
    pub fn exceed(&mut self, mode: Mode, kind: Kind, limit: u64) -> Option<Violation> {
        self.violated(mode, kind, Place::Limit(limit))
    }

    /// How many bytes the frame under way still needs before it can be released, 0 where that is not known. A hint for
    /// how much to read.
    pub fn missing(&self) -> usize {
        match self.frame {
            FrameState::Payload(Payload {
                held: true,
                remaining,
                ..
            }) => remaining as usize,
            _ => 0,
        }
    }

    /// Inspects the new bytes in `window`, which begins after the last byte released.
    ///
    /// Released messages and bytes are added to `tally`. No input makes it panic, and no byte is inspected twice, apart from those of
    /// an unfinished header and of a message of at most 8 KiB that breaks a rule. Nothing is allocated but for compressed
    /// messages: an inflater, and a window of what was sent.
    ///
    /// Where the [budget](Block::budget) ends the call early, the next one goes on from there: what is found, where, and how
    /// much of the window passes in the end, does not depend on it.
    pub fn inspect(
        &mut self,
        rules: &Rules,
        window: &[u8],
        until: StopAt,
        block: &mut Block,
        tally: &mut Tally,
    ) -> Inspection {
        let was_stopped = self.stopped.is_some();
        // Inspecting a small window costs less than reading it: its work is not counted.
        let counts = window.len() > Budget::UNCOUNTED;
        let mut walk = Walk {
            rules,
            window,
            until,
            block,
            tally,
            reach: window.len(),
            release: 0,
            spent: false,
        };
        let event = loop {
            if counts {
                walk.reach = window.len().min(walk.release + walk.block.budget.reach());
            }
            let before = walk.tally.messages[0] + walk.tally.messages[1];
            let event = self.walk(&mut walk);
            if !counts {
                break event;
            }
            let passed = walk.tally.messages[0] + walk.tally.messages[1] - before;
            walk.block.budget.take_frames(passed);
            if !walk.spent || walk.block.budget.is_spent() {
                break event;
            }
            // The walk has come as far as could be reached without counting, and may go on.
            walk.spent = false;
        };
        self.scanned -= walk.release;
        // The call that stops the flow still releases what comes before the violation.
        if !was_stopped {
            self.released += walk.release as u64;
        }
        Inspection {
            release: walk.release,
            event,
            spent: walk.spent,
        }
    }

    /// After [`Event::Close`](super::Event::Close): its frame of `frame_len` bytes goes on as well.
    pub fn release_close(&mut self, frame_len: usize, tally: &mut Tally) {
        self.released += frame_len as u64;
        let header_len = if self.from == Side::Client { 6 } else { 2 };
        tally.messages[Tally::CLOSE] += 1;
        tally.bytes[Tally::CLOSE] += frame_len.saturating_sub(header_len) as u64;
    }

    /// From now on Pongs of the length that wsgate's Pings have are [events](super::Event::Pong).
    pub fn watch_pongs(&mut self) {
        self.watches_pongs = true;
    }

    /// After [`Event::Pong`](super::Event::Pong): its frame of `frame_len` bytes goes on.
    pub fn release_pong(&mut self, frame_len: usize, tally: &mut Tally) {
        self.released += frame_len as u64;
        tally.messages[Tally::PONG] += 1;
        tally.bytes[Tally::PONG] += ping::LEN as u64;
    }

    /// Takes note of a broken rule. `Err` where the caller has to handle it: the first of its kind, on a flow that is not stopped.
    fn report(&mut self, mode: Mode, kind: Kind, place: Place) -> Result<(), Violation> {
        self.violated(mode, kind, place).map_or(Ok(()), Err)
    }

    /// The violation, if it is the first of its kind on a flow that is not stopped.
    #[cold]
    fn violated(&mut self, mode: Mode, kind: Kind, place: Place) -> Option<Violation> {
        let new = self.stopped.is_none() && self.reported & kind.bit() == 0;
        if !new {
            return None;
        }
        self.reported |= kind.bit();
        if mode == Mode::Enforce {
            self.stopped = Some(Stopped {
                at_frame_boundary: self.frame_boundary().is_some(),
                at_message_boundary: self.message_boundary().is_some(),
            });
            if let FrameState::Payload(payload) = &mut self.frame {
                // Nothing of it will pass, so there is nothing to hold it for; a Close is still read whole.
                payload.held &= payload.kind == FrameKind::Close;
            }
            if let Some(message) = &mut self.message {
                message.content.checks_utf8 = false;
                if message.form != Form::Plain {
                    message.form = Form::Opaque;
                }
            }
            if let Some(inflation) = &mut self.inflation {
                inflation.stop();
            }
        }
        Some(Violation::new(kind, place))
    }
}
