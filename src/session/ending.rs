//! The end of a session: who is told what, and when it is over. The table from cause to Close is
//! [`inspect::closing`](crate::inspect::closing)'s; this carries it out.

use super::inspection::Passing;
use super::phase::Phase;
use super::rare::EndBegan;
use super::timers::Timer;
use super::writing::{CloseDue, Writing};
use super::{ControlFrame, Event, ReaderLimit, ReconnectDelays, SIDES, Session};
use crate::drain;
use crate::frame::close;
use crate::inspect::Side;
use crate::inspect::closing;
use crate::inspect::closing::{Cause, Order, Orders};
use std::time::{Duration, Instant};

/// The time that a side has to take the answer that the other side owed it.
const OVERTIME: Duration = Duration::from_millis(500);

impl Session {
    /// A frame of wsgate for a side, if one is due and what the side was sent ends at a frame boundary. It follows what was
    /// forwarded to the side before.
    pub fn poll_frame(
        &mut self,
        to: Side,
        now: Instant,
        delays: &(impl ReconnectDelays + ?Sized),
    ) -> Option<ControlFrame> {
        let inbound = &self.inbound[to.other() as usize];
        let writing = &mut self.writing[to as usize];
        let Writing::CloseDue(_) = writing else {
            return self.poll_ping(to, now);
        };
        let Some(boundary) = inbound.flow.frame_boundary() else {
            if inbound.ended || !inbound.flow.is_inspecting() {
                *writing = Writing::Cut;
                self.finish_if_over();
            }
            return None;
        };
        let Writing::CloseDue(mut due) = std::mem::take(writing) else {
            return None;
        };
        if let Some(drawn) = due.crowd {
            let policy = &self.settings.closing;
            let delay = delays.delay(policy.reconnect_after, drawn);
            due.frame = close::Frame::new(due.code, &closing::restart_reason(delay), None);
        }
        *writing = Writing::Closed(due.code);
        // Until the caller says that the frame is written.
        self.blocked[to as usize] = true;
        self.report(Event::Close {
            from: None,
            to,
            code: due.code,
        });
        Some(ControlFrame::close(boundary, Box::new(due.frame)))
    }

    /// The session ends: the first cause is kept, and each side is told what the table says.
    pub(super) fn end(&mut self, cause: Cause, now: Instant) {
        let first = self.phase.cause().unwrap_or_else(|| {
            self.begin_end(now);
            cause
        });
        let orders = self.orders(&cause);
        match cause {
            // The server is told when the client has answered: see `release_server`.
            Cause::Drained { .. } | Cause::ServerRestarts { .. } => {
                self.arm_close(now);
                self.order(Side::Client, orders.client);
                self.phase.advance(Phase::ClientTold { cause: first });
            }
            // A Close that passes while the client is told first is the client's Close.
            Cause::Closed { .. } if matches!(self.phase, Phase::ClientTold { .. }) => {}
            Cause::Violation { .. }
            | Cause::Closed { .. }
            | Cause::Vanished { .. }
            | Cause::Stalled { .. }
            | Cause::Idle
            | Cause::Operator { .. }
            | Cause::Overload => {
                self.arm_close(now);
                self.order(Side::Client, orders.client);
                self.order(Side::Server, orders.upstream);
                self.phase.advance(Phase::BothTold { cause: first });
            }
        }
    }

    /// Notes when the end began, and for how long no message had passed by then.
    fn begin_end(&mut self, now: Instant) {
        let silent = Duration::from_secs(self.silence(now).into());
        self.rare().end = Some(EndBegan { at: now, silent });
    }

    /// A side is as good as gone.
    pub(super) fn lose(&mut self, by: Side, cause: Cause, now: Instant) {
        self.inbound[by as usize].ended = true;
        if self.phase.cause().is_none() {
            // A side that left without a Close gets none.
            let writing = &mut self.writing[by as usize];
            if !matches!(writing, Writing::Finished(_)) {
                *writing = Writing::Cut;
            }
            self.end(cause, now);
        }
    }

    pub(super) fn handle_close(
        &mut self,
        by: Side,
        code: Option<u16>,
        passing: Passing,
        now: Instant,
    ) {
        self.inbound[by as usize].closed = Some(code);
        let to = by.other();
        match passing {
            Passing::AsItCame => {
                self.writing[to as usize] = Writing::Closed(code);
                // Until the caller says that the frame is written.
                self.blocked[to as usize] = true;
                self.report(Event::Close {
                    from: Some(by),
                    to,
                    code,
                });
                self.end(Cause::Closed { by, code }, now);
            }
            Passing::CodeAlone => {
                self.end(Cause::Closed { by, code }, now);
                self.order_close(to, code, "", None);
            }
            Passing::Not if self.phase.cause().is_none() => {
                let code = code.unwrap_or(close::GOING_AWAY);
                self.end(Cause::ServerRestarts { code }, now);
            }
            Passing::Not => {}
        }
    }

    pub(super) fn drain(&mut self, cause: drain::Cause, now: Instant) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase.advance(Phase::DrainDue { cause });
        let grace = match self.is_hurried() {
            true => Duration::ZERO,
            false => self.settings.closing.message_grace,
        };
        self.set_timer(Timer::Restart, now + grace);
    }

    pub(super) fn hurry(&mut self, now: Instant) {
        if self.is_timer_set(Timer::Restart) {
            self.clear_timer(Timer::Restart);
            self.handle_restart_due(now);
        }
    }

    pub(super) fn shed(&mut self, side: Side, now: Instant) {
        if self.phase.cause().is_some() {
            return;
        }
        self.report(Event::SlowReader {
            side,
            limit: ReaderLimit::BufferMemory,
        });
        self.end(Cause::Overload, now);
    }

    /// An operator ends the session.
    pub(super) fn close(&mut self, code: u16, reason: Box<str>, now: Instant) {
        if self.phase.cause().is_none() {
            self.rare().close_reason = reason;
            self.end(Cause::Operator { code }, now);
        }
    }

    /// The client is told of a restart now, at the end of the frame under way.
    pub(super) fn handle_restart_due(&mut self, now: Instant) {
        match self.phase {
            Phase::DrainDue { cause } => self.end(Cause::Drained { by: cause }, now),
            // Something else has ended the session meanwhile.
            Phase::Open
            | Phase::ClientTold { .. }
            | Phase::BothTold { .. }
            | Phase::Overtime { .. }
            | Phase::Done { .. } => {}
        }
    }

    /// After every call: what follows from the state of both sides together.
    pub(super) fn advance(&mut self, now: Instant) {
        self.drain_at_message_boundary(now);
        self.release_server();
        self.answer_closes();
        if self.phase.cause().is_some() {
            self.stop_watching();
        }
        if !matches!(self.phase, Phase::DrainDue { .. }) {
            self.clear_timer(Timer::Restart);
        }
        self.finish_if_over();
    }

    /// A connection that ends has one time, that of its closing handshake.
    fn stop_watching(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.timers.clear(Timer::Liveness);
            rare.timers.clear(Timer::Limits);
            rare.timers.clear(Timer::Stall);
            rare.stall = Default::default();
            if let Some(meter) = &mut rare.meter {
                meter.resume_all();
            }
        }
    }

    /// Begins the drain that waits for it, if no message toward the client is under way.
    fn drain_at_message_boundary(&mut self, now: Instant) {
        let Phase::DrainDue { cause } = self.phase else {
            return;
        };
        let flow = &self.inbound[Side::Server as usize].flow;
        if flow.message_boundary().is_some() {
            self.end(Cause::Drained { by: cause }, now);
        }
    }

    /// Where the client is told first, tells the server when the client has answered, or is gone, or its time is over.
    fn release_server(&mut self) {
        let Some(cause) = self.phase.cause().filter(|_| self.is_client_first()) else {
            return;
        };
        let [client, server] = &self.inbound;
        let is_answered = client.closed.is_some() || client.ended;
        if is_answered || server.ended || self.is_overtime() {
            let orders = self.orders(&cause);
            self.order(Side::Server, orders.upstream);
            self.phase.advance(Phase::BothTold { cause });
        }
    }

    /// A side that closed has to be answered; where the other side cannot do that any more, wsgate does.
    fn answer_closes(&mut self) {
        for side in SIDES {
            let answerer = &self.inbound[side.other() as usize];
            if let (Some(code), true) = (
                self.inbound[side as usize].closed,
                answerer.ended || self.is_overtime(),
            ) {
                let reason = String::new();
                self.order(side, Order::Close { code, reason });
            }
        }
    }

    /// Whether the client is told first, and the server when the client has answered: what the client sent before that is
    /// delivered.
    pub(super) fn is_client_first(&self) -> bool {
        matches!(
            self.phase.cause(),
            Some(Cause::Drained { .. } | Cause::ServerRestarts { .. })
        )
    }

    fn is_overtime(&self) -> bool {
        matches!(self.phase, Phase::Overtime { .. })
    }

    fn orders(&mut self, cause: &Cause) -> Orders {
        let (low, high) = self.settings.closing.reconnect_after;
        let delay = self.generator.between(low, high);
        let reason = self.rare.as_ref().map_or("", |rare| &rare.close_reason);
        closing::orders(cause, &self.settings.closing, delay, reason)
    }

    fn order(&mut self, to: Side, order: Order) {
        let (code, reason, crowd) = match order {
            Order::Nothing => return,
            Order::Close { code, reason } => (code, reason, None),
            Order::Restart {
                code,
                delay,
                is_crowd,
            } => {
                let reason = closing::restart_reason(delay);
                (Some(code), reason, is_crowd.then_some(delay))
            }
        };
        match self.inbound[to as usize].closed {
            // RFC 6455 §5.5.1: a side that sent a Close gets its own code back, whatever happened meanwhile.
            Some(code) => self.order_close(to, code, "", None),
            None => self.order_close(to, code, &reason, crowd),
        }
    }

    /// Has a side sent this Close at the end of the frame under way, unless it is sent one already.
    fn order_close(&mut self, to: Side, code: Option<u16>, reason: &str, crowd: Option<Duration>) {
        if !matches!(self.writing[to as usize], Writing::Passing) {
            return;
        }
        // RFC 6455 §5.3: toward the server wsgate is the client, and masks.
        let mask = (to == Side::Server).then(|| self.generator.mask());
        let frame = close::Frame::new(code, reason, mask);
        let due = Box::new(CloseDue { frame, code, crowd });
        self.writing[to as usize] = Writing::CloseDue(due);
    }

    /// Gives the closing its time, from the first call on.
    pub(super) fn arm_close(&mut self, now: Instant) {
        if !self.is_timer_set(Timer::Close) && !self.is_overtime() {
            let at = now + self.settings.closing.close_timeout;
            self.set_timer(Timer::Close, at);
        }
    }

    pub(super) fn handle_close_timeout(&mut self, now: Instant) {
        match self.phase.cause() {
            // Writing to a side has failed a while ago, and nothing was to be read of it.
            None => {
                let by = match self.writing[Side::Client as usize] {
                    Writing::Finished(_) => Side::Client,
                    _ => Side::Server,
                };
                self.lose(by, Cause::Vanished { by }, now);
            }
            Some(_) if self.is_overtime() => {
                // The end of both streams, whatever they were about to say.
                for inbound in &mut self.inbound {
                    inbound.ended = true;
                }
            }
            Some(cause) => {
                // A side that closed and was never answered by the other gets its answer from wsgate, and a moment to take it.
                self.phase.advance(Phase::Overtime { cause });
                self.set_timer(Timer::Close, now + OVERTIME);
            }
        }
    }

    /// Whether nothing more is to be said to a side nor heard from it.
    fn is_done(&self, side: Side) -> bool {
        let inbound = &self.inbound[side as usize];
        let is_told = !self.blocked[side as usize] && !self.writing[side as usize].is_passing();
        inbound.ended || (inbound.closed.is_some() && is_told)
    }

    pub(super) fn finish_if_over(&mut self) {
        let Some(cause) = self.phase.cause() else {
            return;
        };
        if SIDES.into_iter().all(|side| self.is_done(side)) {
            let timed_out = self.is_overtime();
            self.phase.advance(Phase::Done { cause, timed_out });
            if let Some(rare) = &mut self.rare {
                rare.timers = Default::default();
            }
        }
    }
}
