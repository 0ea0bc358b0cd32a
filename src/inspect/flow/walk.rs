//! The walk over the window: from frame to frame, each inspected and released.

use super::Flow;
use super::header::{CheckedHeader, HeaderContext, HeaderRead, RSV1};
use super::payload::{self, ChunkViolation};
use super::state::{Form, FrameKind, FrameState, MessageState, Payload};
use crate::frame::header::Opcode;
use crate::frame::mask::Mask;
use crate::frame::utf8::Utf8;
use crate::inspect::inflation::Content;
use crate::inspect::passage::{Block, Event, StopAt, Tally};
use crate::inspect::{Kind, Mode, Place, Rules, Side, Violation};
use std::ops::ControlFlow;

/// One walk over the window: what bounds it, and how far it has come.
pub(super) struct Walk<'a> {
    pub rules: &'a Rules,
    pub window: &'a [u8],
    pub until: StopAt,
    pub block: &'a mut Block,
    pub tally: &'a mut Tally,
    /// No frame is begun from this byte of the window on, as the budget may be used up there.
    pub reach: usize,
    /// The bytes of the window before this one are released. Outside of a frame it is also where the next header begins.
    pub release: usize,
    /// The budget was used up before the walk had come to its end.
    pub spent: bool,
}

impl Flow {
    /// Walks until the window is used up, the place to stop at is reached, the budget is used up, or an event has to be handled.
    #[inline(always)]
    pub(super) fn walk(&mut self, walk: &mut Walk<'_>) -> Option<Event> {
        loop {
            let bytes = &walk.window[walk.release..];
            if let Some(len) = self.pass_at_once(walk.rules, bytes, walk.block, walk.tally) {
                walk.release += len;
                self.scanned = walk.release;
                if walk.until == StopAt::End && walk.release < walk.reach {
                    continue;
                }
                walk.spent = walk.until == StopAt::End && walk.release < walk.window.len();
                return None;
            }
            let step = match self.frame {
                FrameState::Payload(payload) => self.inspect_payload(payload, walk),
                FrameState::Header => match self.begin_frame(walk) {
                    Ok(Some(payload)) => self.inspect_payload(payload, walk),
                    Ok(None) if matches!(self.frame, FrameState::Lost) => continue,
                    Ok(None) => return None,
                    Err(violation) => return Some(Event::Violation(violation)),
                },
                FrameState::Lost => {
                    self.scanned = walk.window.len();
                    walk.release = walk.window.len();
                    return None;
                }
            };
            if let ControlFlow::Break(event) = step {
                return event;
            }
        }
    }

    /// Reads the header at the end of what was released. `None`: more bytes are needed, or the frames are lost.
    fn begin_frame(&mut self, walk: &mut Walk<'_>) -> Result<Option<Payload>, Violation> {
        self.scanned = walk.release;
        let context = HeaderContext {
            rules: walk.rules,
            from: self.from,
            compression: self.inflation.is_some(),
            message: self.message,
            begin: self.released + self.scanned as u64,
        };
        let bytes = &walk.window[walk.release..];
        let mode = walk.rules.mode;
        let read = context.read(bytes, |kind, place| self.report(mode, kind, place))?;
        let header = match read {
            HeaderRead::Incomplete => return Ok(None),
            HeaderRead::Lost => {
                self.frame = FrameState::Lost;
                return Ok(None);
            }
            HeaderRead::Complete(header) => header,
        };
        walk.block.budget.take_frames(1);
        self.scanned += header.header.len;
        Ok(Some(self.enter_frame(walk.rules, &header)))
    }

    /// The state of the frame with this header, and of its message.
    fn enter_frame(&mut self, rules: &Rules, checked: &CheckedHeader) -> Payload {
        let (header, kind) = (&checked.header, checked.kind);
        if kind == FrameKind::Data {
            let continued = self
                .message
                .filter(|_| header.first.opcode() == Some(Opcode::Continuation));
            let mut message = continued.unwrap_or_else(|| self.begin_message(rules, checked));
            message.announced = message.announced.saturating_add(header.payload_len);
            message.fragments = message.fragments.saturating_add(1);
            self.message = Some(message);
        }
        let checks_utf8 = self.message.is_some_and(|m| m.content.checks_utf8);
        let held = match kind {
            FrameKind::Data => checks_utf8 && header.payload_len <= rules.text_buffer as u64,
            FrameKind::Close | FrameKind::Ping | FrameKind::Pong => true,
            FrameKind::Unknown => false,
        };
        Payload {
            kind,
            fin: header.first.fin(),
            held,
            mask: header.mask.map(Mask::new),
            len: header.payload_len,
            remaining: header.payload_len,
            passed: 0,
        }
    }

    /// The state of the message that this frame begins.
    fn begin_message(&mut self, rules: &Rules, checked: &CheckedHeader) -> MessageState {
        let first = checked.header.first;
        let form = match &mut self.inflation {
            _ if !rules.inspect && first.rsv() != 0 => Form::Opaque,
            _ if first.rsv() == 0 && !checked.begins_message() => Form::Plain,
            None if first.rsv() == 0 => Form::Plain,
            None => Form::Opaque,
            Some(inflation) => {
                let understood = inflation.begin(checked.compressed) && self.stopped.is_none();
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
        let is_read = rules.inspect && form != Form::Opaque && self.stopped.is_none();
        MessageState {
            text,
            form,
            content: Content {
                checks_utf8: text && is_read,
                utf8: Utf8::new(),
                len: 0,
            },
            announced: 0,
            fragments: 0,
        }
    }

    /// Inspects what has come of a frame's payload, and releases what is proven. `Continue`: the walk goes on behind it.
    #[inline(always)]
    fn inspect_payload(
        &mut self,
        mut payload: Payload,
        walk: &mut Walk<'_>,
    ) -> ControlFlow<Option<Event>> {
        let have = walk.window.len() - self.scanned;
        let take = usize::try_from(payload.remaining).map_or(have, |remaining| remaining.min(have));
        let chunk = &walk.window[self.scanned..self.scanned + take];
        let (inspected, result) = self.inspect_chunk(walk.rules, &mut payload, chunk, walk.block);
        self.scanned += inspected;
        payload.remaining -= inspected as u64;
        let unproven = match &result {
            // The result for the chunk must not depend on the budget: the chunk waits for its rest.
            _ if inspected < take => None,
            Err(wrong) => wrong.proven.map(|proven| inspected - proven),
            Ok(()) => Some(0),
        };
        if let (false, Some(unproven)) = (payload.held, unproven) {
            // In chunks: all that is proven, up to the last whole code point.
            let unproven = unproven + self.pending(&payload);
            self.pass(&mut payload, unproven, walk);
        }
        self.frame = FrameState::Payload(payload);
        if let Err(ChunkViolation { violation, .. }) = result {
            if let Some(message) = &mut self.message {
                message.content.checks_utf8 = false;
            }
            return match self.report(walk.rules.mode, violation.kind, violation.place()) {
                Ok(()) => ControlFlow::Continue(()),
                Err(violation) => ControlFlow::Break(Some(Event::Violation(violation))),
            };
        }
        if payload.remaining > 0 {
            walk.spent = inspected < take;
            return ControlFlow::Break(None);
        }
        self.finish_frame(payload, walk)
    }

    /// Inspects a chunk of payload: how much of it was inspected, and what of that is wrong.
    #[inline(always)]
    fn inspect_chunk(
        &mut self,
        rules: &Rules,
        payload: &mut Payload,
        chunk: &[u8],
        block: &mut Block,
    ) -> (usize, Result<(), ChunkViolation>) {
        let result = match (&mut self.message, &mut self.inflation) {
            (Some(message), inflation) if payload.kind == FrameKind::Data => {
                match (message.form, inflation) {
                    (Form::Plain, _) if message.content.checks_utf8 => {
                        payload::inspect_text(&mut message.content, payload, chunk, block)
                    }
                    (Form::Plain, _) | (_, None) => Ok(()),
                    (Form::Compressed | Form::Inflated | Form::Opaque, Some(inflation)) => {
                        return payload::inspect_compressed(
                            inflation, message, rules, payload, chunk, block,
                        );
                    }
                }
            }
            _ => Ok(()),
        };
        (chunk.len(), result)
    }

    /// All payload of the frame has come and is valid so far: hands the frame to the caller as an event, or releases it.
    #[inline(always)]
    fn finish_frame(
        &mut self,
        mut payload: Payload,
        walk: &mut Walk<'_>,
    ) -> ControlFlow<Option<Event>> {
        let frame = &walk.window[walk.release..self.scanned];
        let event = match payload.kind {
            FrameKind::Close => Some(self.close_event(walk.rules, &payload, frame)),
            FrameKind::Pong if self.watches_pongs && self.stopped.is_none() => {
                payload::read_pong(&payload, frame).map(|payload| Event::Pong {
                    frame_len: frame.len(),
                    payload,
                })
            }
            _ => None,
        };
        match event {
            None => {}
            Some(Event::Violation(_)) => return ControlFlow::Break(event),
            Some(Event::Close { .. } | Event::Pong { .. }) => {
                // The frame is the caller's to release.
                self.frame = FrameState::Header;
                self.scanned = walk.release;
                return ControlFlow::Break(event);
            }
        }
        if let Err(violation) = self.check_text_end(walk.rules, &payload) {
            return ControlFlow::Break(Some(Event::Violation(violation)));
        }
        self.pass(&mut payload, 0, walk);
        self.end_frame(&payload, walk.tally);
        walk.release = self.scanned;
        let reached = match walk.until {
            StopAt::End => false,
            StopAt::FrameEnd => true,
            StopAt::MessageEnd => self.message.is_none(),
        };
        if reached || self.scanned == walk.window.len() {
            return ControlFlow::Break(None);
        }
        if self.scanned >= walk.reach || walk.block.budget.is_spent() {
            walk.spent = true;
            return ControlFlow::Break(None);
        }
        ControlFlow::Continue(())
    }

    /// The event of a complete Close frame: the Close, or the rule that it breaks.
    fn close_event(&mut self, rules: &Rules, payload: &Payload, frame: &[u8]) -> Event {
        let begin = self.released + (self.scanned - frame.len()) as u64;
        let (code, garbled) = match payload::read_close(payload, frame, begin) {
            Ok(code) => (code, false),
            Err(invalid) => {
                let (kind, place) = (invalid.violation.kind, invalid.violation.place());
                // The code of a server's Close is its application's word for why the connection ends, and the reason is often cut at
                // 123 bytes, inside a character. So the client is told the code.
                let keeps_code = kind == Kind::CloseReasonNotUtf8
                    && self.from == Side::Server
                    && rules.mode == Mode::Enforce
                    && self.stopped.is_none();
                if !keeps_code && let Err(violation) = self.report(rules.mode, kind, place) {
                    return Event::Violation(violation);
                }
                (invalid.code, keeps_code)
            }
        };
        Event::Close {
            frame_len: frame.len(),
            code,
            garbled,
        }
    }

    /// §8.1: a text message has to end with a whole code point.
    fn check_text_end(&mut self, rules: &Rules, payload: &Payload) -> Result<(), Violation> {
        match self.message {
            // For compressed text, the end of its deflate data has told.
            Some(MessageState { content, form, .. })
                if payload.kind == FrameKind::Data
                    && payload.fin
                    && content.checks_utf8
                    && form == Form::Plain
                    && !content.utf8.is_complete() =>
            {
                let place = Place::Message(content.len);
                self.report(rules.mode, Kind::TextUnfinished, place)
            }
            _ => Ok(()),
        }
    }

    /// How many of the inspected bytes at the end of an uncompressed text frame are the beginning of a code point.
    fn pending(&self, payload: &Payload) -> usize {
        match &self.message {
            Some(message)
                if message.form == Form::Plain
                    && message.content.checks_utf8
                    && payload.kind == FrameKind::Data =>
            {
                message.content.utf8.pending()
            }
            _ => 0,
        }
    }

    /// Releases the inspected bytes of a frame, except for the last `unproven` of them.
    fn pass(&self, payload: &mut Payload, unproven: usize, walk: &mut Walk<'_>) {
        let proven = (payload.len - payload.remaining).saturating_sub(unproven as u64);
        if proven > payload.passed {
            if let Some(kind) = self.tally_index(payload) {
                walk.tally.bytes[kind] += proven - payload.passed;
            }
            payload.passed = proven;
            walk.release = self.scanned - unproven;
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

    /// The index of a frame's kind in a [`Tally`]; `None` where it is not counted.
    fn tally_index(&self, payload: &Payload) -> Option<usize> {
        match payload.kind {
            _ if self.stopped.is_some() => None,
            FrameKind::Data => self.message.map(|message| usize::from(!message.text)),
            FrameKind::Ping => Some(2),
            FrameKind::Pong => Some(3),
            FrameKind::Close | FrameKind::Unknown => None,
        }
    }
}
