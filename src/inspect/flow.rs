//! One direction of a connection: every frame that one side sends, inspected as it passes.
//!
//! The state of a frame (`FrameState`) is kept apart from the state of a message (`MessageState`): a Ping between two fragments must
//! not disturb the message.
//!
//! The flow never changes a byte, never copies one that passes, and never blocks. The bytes that it has released are always a prefix
//! of the bytes that the side sent, and this prefix breaks no rule. Bytes that it gives back after an enforced violation are only to be
//! discarded, and are not counted.

use super::inflation::{Content, InflateLimits, Inflation, Progress};
use super::passage::{Block, Event, Inspection, StopAt, Tally};
use super::violation::{Kind, Violation};
use super::{Budget, Mode, RateClass, Rules, Side};
use crate::frame::close;
use crate::frame::deflate::DeflateParams;
use crate::frame::header;
use crate::frame::header::{First, Header, MAX_CONTROL_PAYLOAD, Opcode, Second};
use crate::frame::mask::Mask;
use crate::frame::ping;
use crate::frame::utf8::Utf8;

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
/// violation is an event once per kind. Under [`Mode::Enforce`] the first one ends the judging: after it, the flow only
/// walks from frame to frame, so that the Close of the side is still found in what is discarded.
#[derive(Debug)]
pub struct Flow {
    from: Side,
    /// Set by a violation that was enforced: nothing more passes or is judged, frames are only walked.
    stopped: Option<Stopped>,
    frame: FrameState,
    message: Option<MessageState>,
    /// Where messages may be compressed.
    inflation: Option<Box<Inflation>>,
    /// How much of the window has been looked at.
    scanned: usize,
    /// How many bytes have been released, all in all.
    released: u64,
    /// Kinds of violations that were reported, one bit each.
    reported: u32,
    /// Pongs that could answer a Ping of ours are events.
    watches_pongs: bool,
}

/// How what had passed ended when the flow was stopped.
#[derive(Clone, Copy, Debug)]
struct Stopped {
    at_frame_boundary: bool,
    at_message_boundary: bool,
}

/// The frame under way.
#[derive(Clone, Copy, Debug)]
enum FrameState {
    /// Its header is not complete; the window begins with it.
    Header,
    /// Its payload is coming.
    Payload(Payload),
    /// Its length cannot be, so nobody knows where the next one begins.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Payload {
    kind: FrameKind,
    fin: bool,
    /// Nothing of the frame is released before all of it is there.
    held: bool,
    mask: Option<Mask>,
    /// In bytes, as the header says.
    len: u64,
    /// How much of it has not been looked at.
    remaining: u64,
    /// How much of it has been released; as long as it is 0, so is the header.
    passed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameKind {
    /// Text, Binary or Continuation: part of [`Flow::message`].
    Data,
    Close,
    Ping,
    Pong,
    /// A frame that breaks a rule and was let pass.
    Unknown,
}

/// The message under way, over all its fragments.
#[derive(Clone, Copy, Debug)]
struct MessageState {
    text: bool,
    form: Form,
    /// The bytes of it that were inspected, inflated where it is compressed.
    content: Content,
    /// Payload of all its frames whose headers were read, in bytes.
    announced: u64,
    fragments: u32,
}

/// Whether a message is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    /// Inflated so far, to its end or not.
    Compressed,
    /// To its end.
    Inflated,
    /// Nobody knows what it says.
    Opaque,
}

/// The bytes that one walk goes over, and its end.
#[derive(Clone, Copy)]
struct Walk<'a> {
    window: &'a [u8],
    until: StopAt,
    /// No frame is begun from here on: the budget may be spent.
    reach: usize,
}

/// A violation in a chunk of payload.
struct Wrong {
    violation: Violation,
    /// How much of the chunk comes before it, and is proven, if that is known.
    proven: Option<usize>,
}

/// The first byte of a frame that is a whole message and not compressed.
const WHOLE_TEXT: u8 = 0x80 | Opcode::Text.bits();
/// The first byte of a whole binary message.
const WHOLE_BINARY: u8 = 0x80 | Opcode::Binary.bits();

/// RSV1 alone, of the three reserved bits.
const RSV1: u8 = 0b100;

/// Proof that all that was released ends at the end of a frame, so that a frame of our own may follow.
#[derive(Debug)]
pub struct FrameBoundary(());

/// Proof that it ends at the end of a message: no message is left unfinished if nothing more follows.
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

    /// Whether frames are still held against the rules: until a violation is enforced, or frames cannot be told apart.
    pub const fn is_judging(&self) -> bool {
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
            // A message counts once, however many its fragments; and whoever has had enough may always say so.
            Opcode::Continuation | Opcode::Close => None,
        }
    }

    /// The side goes beyond a limit on rates, which it takes a clock to see. Under [`Mode::Enforce`] the flow stops, as
    /// after any violation. `None` where this kind was reported before.
    pub fn exceed(&mut self, mode: Mode, kind: Kind, limit: u64) -> Option<Violation> {
        self.violated(mode, kind, limit)
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
    /// Released messages and bytes are added to `tally`. No input makes it panic, and no byte is looked at twice, apart from those of
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
        let (mut release, mut spent) = (0_usize, false);
        // Inspecting a small window costs less than reading it: its work is not counted.
        let counts = window.len() > Budget::UNCOUNTED;
        let mut walk = Walk {
            window,
            until,
            reach: window.len(),
        };
        let event = loop {
            if counts {
                walk.reach = window.len().min(release + block.budget.reach());
            }
            let before = tally.messages[0] + tally.messages[1];
            let event = self.walk(rules, walk, block, tally, &mut release, &mut spent);
            if !counts {
                break event;
            }
            let passed = tally.messages[0] + tally.messages[1] - before;
            block.budget.take_frames(passed);
            if !spent || block.budget.is_spent() {
                break event;
            }
            // It has come as far as could be reached without counting, and may go on.
            spent = false;
        };
        self.scanned -= release;
        // The call that stops the flow still releases what comes before the violation.
        if !was_stopped {
            self.released += release as u64;
        }
        Inspection {
            release,
            event,
            spent,
        }
    }

    /// After [`Event::Close`]: its frame of `frame_len` bytes goes on as well.
    pub fn release_close(&mut self, frame_len: usize, tally: &mut Tally) {
        self.released += frame_len as u64;
        let header_len = if self.from == Side::Client { 6 } else { 2 };
        tally.messages[Tally::CLOSE] += 1;
        tally.bytes[Tally::CLOSE] += frame_len.saturating_sub(header_len) as u64;
    }

    /// From now on Pongs of the length that our Pings have are [events](Event::Pong).
    pub fn watch_pongs(&mut self) {
        self.watches_pongs = true;
    }

    /// After [`Event::Pong`]: its frame of `frame_len` bytes goes on.
    pub fn release_pong(&mut self, frame_len: usize, tally: &mut Tally) {
        self.released += frame_len as u64;
        tally.messages[Tally::PONG] += 1;
        tally.bytes[Tally::PONG] += ping::LEN as u64;
    }

    /// All of `window` before `release` may pass; outside of a frame it is also where the next header begins.
    #[inline(always)]
    fn walk(
        &mut self,
        rules: &Rules,
        Walk {
            window,
            until,
            reach,
        }: Walk<'_>,
        block: &mut Block,
        tally: &mut Tally,
        release: &mut usize,
        spent: &mut bool,
    ) -> Option<Event> {
        loop {
            if let Some(len) = self.pass_at_once(rules, &window[*release..], block, tally) {
                *release += len;
                self.scanned = *release;
                if until == StopAt::End && *release < reach {
                    continue;
                }
                *spent = until == StopAt::End && *release < window.len();
                return None;
            }
            let mut payload = match self.frame {
                FrameState::Lost => {
                    self.scanned = window.len();
                    *release = window.len();
                    return None;
                }
                FrameState::Payload(payload) => payload,
                FrameState::Header => {
                    self.scanned = *release;
                    match self.read_header(rules, &window[*release..]) {
                        Err(violation) => return Some(Event::Violation(violation)),
                        Ok(Some((header, payload))) => {
                            block.budget.take_frames(1);
                            self.scanned += header.len;
                            payload
                        }
                        Ok(None) if matches!(self.frame, FrameState::Lost) => continue,
                        Ok(None) => return None,
                    }
                }
            };
            let have = window.len() - self.scanned;
            let take =
                usize::try_from(payload.remaining).map_or(have, |remaining| remaining.min(have));
            let chunk = &window[self.scanned..self.scanned + take];
            let (looked_at, verdict) = self.judge(rules, &mut payload, chunk, block);
            self.scanned += looked_at;
            payload.remaining -= looked_at as u64;
            let unproven = match &verdict {
                // The result for the chunk must not depend on the budget: the chunk waits for its rest.
                _ if looked_at < take => None,
                Err(wrong) => wrong.proven.map(|proven| looked_at - proven),
                Ok(()) => Some(0),
            };
            if let (false, Some(unproven)) = (payload.held, unproven) {
                // In chunks: all that is proven, up to the last whole code point.
                let unproven = unproven + self.pending(&payload);
                self.pass(&mut payload, unproven, release, tally);
            }
            self.frame = FrameState::Payload(payload);
            if let Err(Wrong { violation, .. }) = verdict {
                if let Some(message) = &mut self.message {
                    message.content.judged = false;
                }
                if let Some(violation) = self.violated(rules.mode, violation.kind, violation.at) {
                    return Some(Event::Violation(violation));
                }
                continue;
            }
            if payload.remaining > 0 {
                *spent = looked_at < take;
                return None;
            }
            let frame = *release..self.scanned;
            if payload.kind == FrameKind::Close {
                match self.read_close(rules, &payload, &window[frame.clone()]) {
                    Err(violation) => return Some(Event::Violation(violation)),
                    Ok((code, garbled)) => {
                        self.frame = FrameState::Header;
                        self.scanned = *release;
                        return Some(Event::Close {
                            frame_len: frame.len(),
                            code,
                            garbled,
                        });
                    }
                }
            }
            if payload.kind == FrameKind::Pong
                && self.watches_pongs
                && self.stopped.is_none()
                && let Some(said) = read_pong(&payload, &window[frame.clone()])
            {
                self.frame = FrameState::Header;
                self.scanned = *release;
                return Some(Event::Pong {
                    frame_len: frame.len(),
                    payload: said,
                });
            }
            if let Err(violation) = self.check_end(rules, &payload) {
                return Some(Event::Violation(violation));
            }
            self.pass(&mut payload, 0, release, tally);
            self.end_frame(&payload, tally);
            *release = self.scanned;
            let reached = match until {
                StopAt::End => false,
                StopAt::FrameEnd => true,
                StopAt::MessageEnd => self.message.is_none(),
            };
            if reached || self.scanned == window.len() {
                return None;
            }
            if self.scanned >= reach || block.budget.is_spent() {
                *spent = true;
                return None;
            }
        }
    }

    /// Passes the frame that `bytes` begin with where it is all there, a message of its own, not large, and right: most are,
    /// and nothing of such a frame has to be kept. Its length then. What anything else is, or what is wrong with it, is for
    /// the long way to say.
    #[inline]
    fn pass_at_once(
        &self,
        rules: &Rules,
        bytes: &[u8],
        block: &mut Block,
        tally: &mut Tally,
    ) -> Option<usize> {
        let &[first, second, ..] = bytes else {
            return None;
        };
        let text = match first {
            WHOLE_TEXT => true,
            WHOLE_BINARY => false,
            _ => return None,
        };
        let len = header::payload_len(bytes).filter(|len| len.minimal)?.value;
        let is_expected = matches!(self.frame, FrameState::Header)
            && self.message.is_none()
            && self.stopped.is_none()
            && self.inflation.is_none()
            && Second(second).masked() == (self.from == Side::Client)
            && len <= rules.max_frame_size.min(rules.max_message_size)
            && len <= Block::LEN as u64
            && rules.max_fragments > 0;
        if !is_expected {
            return None;
        }
        let (header, len) = (Second(second).header_len(), len as usize);
        let payload = bytes.get(header..header + len)?;
        if text && rules.inspect {
            let key = Second(second)
                .masked()
                .then(|| bytes[..header].last_chunk());
            let is_valid = match key.flatten() {
                None => simdutf8::basic::from_utf8(payload).is_ok(),
                Some(key) => {
                    let mut mask = Mask::new(*key);
                    mask.is_ascii(payload) || {
                        mask.apply_to(payload, &mut block.copy[..]);
                        simdutf8::basic::from_utf8(&block.copy[..len]).is_ok()
                    }
                }
            };
            if !is_valid {
                return None;
            }
        }
        let kind = usize::from(!text);
        tally.messages[kind] += 1;
        tally.bytes[kind] += len as u64;
        Some(header + len)
    }

    /// Reads and judges the header at the beginning of `bytes`, as far as it is there. `None`: more bytes are needed, or
    /// the frames are lost.
    fn read_header(
        &mut self,
        rules: &Rules,
        bytes: &[u8],
    ) -> Result<Option<(Header, Payload)>, Violation> {
        let at = self.released + self.scanned as u64;
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let first = First(first);
        // §5.2: "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values." RFC 7692 §6: RSV1
        // of the first frame of a message says that the message is compressed.
        let begins = matches!(first.opcode(), Some(Opcode::Text | Opcode::Binary));
        let may_be_compressed = begins && self.inflation.is_some();
        let compressed = may_be_compressed && first.rsv() == RSV1;
        if first.rsv() != 0 && !compressed {
            let says_compressed = begins && first.rsv() == RSV1;
            let kind = if says_compressed {
                Kind::CompressionNotAgreed
            } else {
                Kind::ReservedBits
            };
            self.check(false, rules, kind, at)?;
        }
        // §5.2: "If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket Connection_."
        self.check(first.opcode().is_some(), rules, Kind::ReservedOpcode, at)?;
        // §5.5: "All control frames [...] MUST NOT be fragmented."
        self.check(
            first.fin() || !first.is_control(),
            rules,
            Kind::ControlFragmented,
            at,
        )?;
        match first.opcode() {
            // §5.4: fragments "MUST NOT be interleaved" with those of another message.
            Some(Opcode::Continuation) => {
                self.check(
                    self.message.is_some(),
                    rules,
                    Kind::ContinuationWithoutStart,
                    at,
                )?;
            }
            Some(Opcode::Text | Opcode::Binary) => {
                self.check(
                    self.message.is_none(),
                    rules,
                    Kind::MessageInsideMessage,
                    at,
                )?;
            }
            Some(Opcode::Close | Opcode::Ping | Opcode::Pong) | None => {}
        }

        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        let second = Second(second);
        match self.from {
            // §5.1: "a client MUST mask all frames that it sends to the server".
            Side::Client => self.check(second.masked(), rules, Kind::MaskMissing, at)?,
            // §5.1: "A server MUST NOT mask any frames that it sends to the client."
            Side::Server => self.check(!second.masked(), rules, Kind::MaskPresent, at)?,
        }
        // §5.5: "All control frames MUST have a payload length of 125 bytes or less". The form alone tells.
        let short = u64::from(second.short_len()) <= MAX_CONTROL_PAYLOAD;
        self.check(
            short || !first.is_control(),
            rules,
            Kind::ControlTooLong,
            at,
        )?;

        let Some(len) = header::payload_len(bytes) else {
            return Ok(None);
        };
        // §5.2: "the most significant bit MUST be 0".
        if len.value >> 63 != 0 {
            self.check(false, rules, Kind::LengthTopBit, at)?;
            self.frame = FrameState::Lost;
            return Ok(None);
        }
        // §5.2: "the minimal number of bytes MUST be used to encode the length".
        self.check(len.minimal, rules, Kind::LengthNotMinimal, at)?;
        let is_data = !first.is_control() && first.opcode().is_some();
        let message = self
            .message
            .filter(|_| first.opcode() == Some(Opcode::Continuation));
        if is_data {
            let fits = len.value <= rules.max_frame_size;
            self.check(fits, rules, Kind::FrameTooBig, rules.max_frame_size)?;
            let announced = message.map_or(0, |m| m.announced).saturating_add(len.value);
            // Compressed messages are measured by their inflated size.
            let plain = message.map_or(!compressed, |m| {
                !matches!(m.form, Form::Compressed | Form::Inflated)
            });
            let fits = !plain || announced <= rules.max_message_size;
            self.check(fits, rules, Kind::MessageTooBig, rules.max_message_size)?;
            let fits = message.map_or(0, |m| m.fragments) < rules.max_fragments;
            self.check(
                fits,
                rules,
                Kind::TooManyFragments,
                u64::from(rules.max_fragments),
            )?;
        }

        let Some(header) = header::decode(bytes) else {
            return Ok(None);
        };
        let kind = match first.opcode() {
            Some(Opcode::Continuation | Opcode::Text | Opcode::Binary) => FrameKind::Data,
            Some(_) if !short => FrameKind::Unknown,
            Some(Opcode::Close) => FrameKind::Close,
            Some(Opcode::Ping) => FrameKind::Ping,
            Some(Opcode::Pong) => FrameKind::Pong,
            None => FrameKind::Unknown,
        };
        if is_data {
            let mut message =
                message.unwrap_or_else(|| self.begin_message(rules, first, begins, compressed));
            message.announced = message.announced.saturating_add(len.value);
            message.fragments = message.fragments.saturating_add(1);
            self.message = Some(message);
        }
        let judged = self.message.is_some_and(|message| message.content.judged);
        let held = match kind {
            FrameKind::Data => judged && len.value <= rules.text_buffer as u64,
            FrameKind::Close | FrameKind::Ping | FrameKind::Pong => true,
            FrameKind::Unknown => false,
        };
        let payload = Payload {
            kind,
            fin: first.fin(),
            held,
            mask: header.mask.map(Mask::new),
            len: len.value,
            remaining: len.value,
            passed: 0,
        };
        Ok(Some((header, payload)))
    }

    /// Begins the state of the message that this frame begins.
    fn begin_message(
        &mut self,
        rules: &Rules,
        first: First,
        begins: bool,
        compressed: bool,
    ) -> MessageState {
        let form = match &mut self.inflation {
            _ if !rules.inspect && first.rsv() != 0 => Form::Opaque,
            _ if first.rsv() == 0 && !begins => Form::Plain,
            None if first.rsv() == 0 => Form::Plain,
            None => Form::Opaque,
            Some(inflation) => {
                let understood = inflation.begin(compressed) && self.stopped.is_none();
                match (first.rsv(), understood) {
                    (0, _) => Form::Plain,
                    (RSV1, true) => Form::Compressed,
                    (_, _) => {
                        inflation.give_up();
                        Form::Opaque
                    }
                }
            }
        };
        let text = first.opcode() == Some(Opcode::Text);
        MessageState {
            text,
            form,
            content: Content {
                judged: text && rules.inspect && form != Form::Opaque && self.stopped.is_none(),
                utf8: Utf8::new(),
                len: 0,
            },
            announced: 0,
            fragments: 0,
        }
    }

    /// Judges a chunk of payload: how much of it was looked at, and what of that is wrong.
    #[inline(always)]
    fn judge(
        &mut self,
        rules: &Rules,
        payload: &mut Payload,
        chunk: &[u8],
        block: &mut Block,
    ) -> (usize, Result<(), Wrong>) {
        let verdict = match &mut self.message {
            Some(message) if payload.kind == FrameKind::Data => match message.form {
                Form::Plain if message.content.judged => {
                    judge_text(&mut message.content, payload, chunk, block)
                }
                Form::Plain => Ok(()),
                Form::Compressed | Form::Inflated | Form::Opaque => {
                    return self.judge_compressed(rules, payload, chunk, block);
                }
            },
            _ => Ok(()),
        };
        (chunk.len(), verdict)
    }

    /// Inflates a chunk of payload, as far as the budget goes, and judges what comes out. Which byte of it brings out a
    /// wrong one is not known, so nothing of it is proven then.
    #[inline(never)]
    fn judge_compressed(
        &mut self,
        rules: &Rules,
        payload: &mut Payload,
        chunk: &[u8],
        block: &mut Block,
    ) -> (usize, Result<(), Wrong>) {
        let (Some(inflation), Some(message)) = (&mut self.inflation, &mut self.message) else {
            return (chunk.len(), Ok(()));
        };
        let (looked_at, found) = match message.form {
            Form::Plain | Form::Inflated | Form::Opaque => (chunk.len(), inflation.take_owed()),
            Form::Compressed => {
                let fin = payload.fin && payload.remaining == chunk.len() as u64;
                let manner = InflateLimits {
                    limit: rules.max_message_size,
                    observing: rules.mode == Mode::Observe,
                };
                let mask = payload.mask.as_mut();
                let content = &mut message.content;
                let fed = inflation.feed(chunk, mask, fin, content, manner, block);
                message.form = match fed.progress {
                    Progress::UnderWay => Form::Compressed,
                    Progress::Whole => Form::Inflated,
                    Progress::Lost => Form::Opaque,
                };
                (fed.used, fed.found)
            }
        };
        let verdict = found.map_or(Ok(()), |violation| {
            let proven = None;
            Err(Wrong { violation, proven })
        });
        (looked_at, verdict)
    }

    /// Bytes of this frame that end what was looked at without ending a code point.
    fn pending(&self, payload: &Payload) -> usize {
        match &self.message {
            Some(message)
                if message.form == Form::Plain
                    && message.content.judged
                    && payload.kind == FrameKind::Data =>
            {
                message.content.utf8.pending()
            }
            _ => 0,
        }
    }

    /// Releases what was looked at of a frame, less its last `unproven` bytes.
    fn pass(&self, payload: &mut Payload, unproven: usize, release: &mut usize, tally: &mut Tally) {
        let proven = (payload.len - payload.remaining).saturating_sub(unproven as u64);
        if proven > payload.passed {
            if let Some(kind) = self.tally_index(payload) {
                tally.bytes[kind] += proven - payload.passed;
            }
            payload.passed = proven;
            *release = self.scanned - unproven;
        }
    }

    /// The code of a whole Close frame, and whether its reason is garbled.
    fn read_close(
        &mut self,
        rules: &Rules,
        payload: &Payload,
        frame: &[u8],
    ) -> Result<(Option<u16>, bool), Violation> {
        let mut copy = [0; MAX_CONTROL_PAYLOAD as usize];
        let copy = &mut copy[..payload.len as usize];
        copy.copy_from_slice(&frame[frame.len() - payload.len as usize..]);
        if let Some(mut mask) = payload.mask {
            mask.apply(copy);
        }
        let at = self.released + (self.scanned - frame.len()) as u64;
        let (kind, at, code) = match close::parse(copy) {
            Ok(close) => return Ok((close.code, false)),
            Err(close::Malformed::OneByte) => (Kind::CloseOneByte, at, None),
            Err(close::Malformed::Code(code)) => (Kind::CloseCode, u64::from(code), None),
            Err(close::Malformed::Reason(_)) => (Kind::CloseReasonNotUtf8, at, close::code(copy)),
        };
        // A server says by the code why its application ends the connection, and often cuts the reason at 123 bytes, inside a
        // character. The client is told the code.
        let keeps_code = kind == Kind::CloseReasonNotUtf8
            && self.from == Side::Server
            && rules.mode == Mode::Enforce
            && self.stopped.is_none();
        if keeps_code {
            return Ok((code, true));
        }
        self.check(false, rules, kind, at)?;
        // Let pass: whatever it says, a side that sent a Close has nothing more to say.
        Ok((code, false))
    }

    /// §8.1: a text message has to end with a whole code point.
    fn check_end(&mut self, rules: &Rules, payload: &Payload) -> Result<(), Violation> {
        match self.message {
            // Compressed text was told of with the end of its deflate data.
            Some(message)
                if payload.kind == FrameKind::Data
                    && payload.fin
                    && message.content.judged
                    && message.form == Form::Plain =>
            {
                self.check(
                    message.content.utf8.is_complete(),
                    rules,
                    Kind::TextUnfinished,
                    message.content.len,
                )
            }
            _ => Ok(()),
        }
    }

    fn end_frame(&mut self, payload: &Payload, tally: &mut Tally) {
        if payload.fin {
            if let Some(kind) = self.tally_index(payload) {
                tally.messages[kind] += 1;
            }
            if payload.kind == FrameKind::Data {
                if let Some(message) = self.message.filter(|m| m.form == Form::Inflated) {
                    tally.compressed.messages += 1;
                    tally.compressed.deflated += message.announced;
                    tally.compressed.inflated += message.content.len;
                }
                self.message = None;
            }
        }
        self.frame = FrameState::Header;
    }

    /// Where a frame is counted, if it is.
    fn tally_index(&self, payload: &Payload) -> Option<usize> {
        match payload.kind {
            _ if self.stopped.is_some() => None,
            FrameKind::Data => self.message.map(|message| usize::from(!message.text)),
            FrameKind::Ping => Some(2),
            FrameKind::Pong => Some(3),
            FrameKind::Close | FrameKind::Unknown => None,
        }
    }

    #[inline(always)]
    fn check(&mut self, holds: bool, rules: &Rules, kind: Kind, at: u64) -> Result<(), Violation> {
        if holds {
            return Ok(());
        }
        self.violated(rules.mode, kind, at).map_or(Ok(()), Err)
    }

    /// The violation, where it is one that has to be told of.
    #[cold]
    fn violated(&mut self, mode: Mode, kind: Kind, at: u64) -> Option<Violation> {
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
                message.content.judged = false;
                if message.form != Form::Plain {
                    message.form = Form::Opaque;
                }
            }
            if let Some(inflation) = &mut self.inflation {
                inflation.stop();
            }
        }
        Some(Violation { kind, at })
    }
}

/// Judges a chunk of the payload of plain text.
#[inline(always)]
fn judge_text(
    content: &mut Content,
    payload: &mut Payload,
    chunk: &[u8],
    block: &mut Block,
) -> Result<(), Wrong> {
    let wrong = |len: u64, proven: usize| Wrong {
        violation: Violation {
            kind: Kind::TextNotUtf8,
            at: len + proven as u64,
        },
        proven: Some(proven),
    };
    match &mut payload.mask {
        None => content
            .utf8
            .feed(chunk)
            .map_err(|at| wrong(content.len, at))?,
        Some(mask) => {
            for (i, piece) in chunk.chunks(Block::LEN).enumerate() {
                let result = if content.utf8.is_complete() && mask.is_ascii(piece) {
                    mask.advance(piece.len());
                    Ok(())
                } else {
                    mask.apply_to(piece, &mut block.copy[..]);
                    content.utf8.feed(&block.copy[..piece.len()])
                };
                result.map_err(|at| wrong(content.len, i * Block::LEN + at))?;
            }
        }
    }
    content.len += chunk.len() as u64;
    Ok(())
}

/// The payload of a whole Pong, if it is as long as those of wsgate's Pings.
fn read_pong(payload: &Payload, frame: &[u8]) -> Option<[u8; ping::LEN]> {
    let mut said: [u8; ping::LEN] = *frame.last_chunk()?;
    if payload.len != ping::LEN as u64 {
        return None;
    }
    if let Some(mut mask) = payload.mask {
        mask.apply(&mut said);
    }
    Some(said)
}
