//! The end of a connection: who is told what, and when it is over. The table is
//! [`inspect::closing`](crate::inspect::closing)'s; this carries it out.

use super::judge::Passing;
use super::pipe::{CloseOrder, Sink};
use super::{Outcome, State};
use crate::frame::close;
use crate::inspect::closing::{self, Cause, Order, Orders};
use crate::inspect::{Side, Violation};
use crate::metrics::Initiator;
use rand::Rng;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// A restart that the client is to be told of, but not yet.
#[derive(Debug)]
pub(super) struct Restart {
    when: When,
    /// It is told at this time at the latest.
    latest: Pin<Box<Sleep>>,
}

#[derive(Clone, Copy, Debug)]
enum When {
    /// A drain waits for the end of the message under way toward the client.
    AtMessageEnd { source: &'static str },
    /// The upstream vanished, and so for all its clients: each has its turn.
    InTurn,
}

impl State {
    pub(super) fn handle_violation(&mut self, by: Side, violation: Violation) {
        self.end(Cause::Violation { by, violation });
    }

    pub(super) fn handle_close(&mut self, by: Side, code: Option<u16>, how: Passing) {
        let pipe = &mut self.pipes[by as usize];
        pipe.source.closed = Some(code);
        pipe.drop_window();
        match how {
            Passing::AsItCame => {
                pipe.sink = Sink::Told;
                self.told[by.other() as usize] = Some(code);
                self.terms
                    .metrics
                    .close(Initiator::Side(by), by.other(), code);
                self.end(Cause::Closed { by, code });
            }
            Passing::CodeAlone => {
                self.end(Cause::Closed { by, code });
                self.order_close(by.other(), code, "");
            }
            Passing::Not if self.cause.is_none() => {
                self.end(Cause::UpstreamRestarts {
                    code: code.unwrap_or(close::GOING_AWAY),
                });
            }
            Passing::Not => {}
        }
        self.release_upstream();
        self.settle();
    }

    /// The stream of a side is at its end, or broken.
    pub(super) fn handle_end(&mut self, by: Side) {
        self.handle_loss(by, Cause::Vanished { by });
    }

    /// A side is as good as gone.
    pub(super) fn handle_loss(&mut self, by: Side, cause: Cause) {
        self.pipes[by as usize].source.ended = true;
        self.execute_order(by);
        if self.cause.is_none() {
            // It left without a word, and gets none.
            self.pipes[by.other() as usize].sink = Sink::Cut;
            self.end(cause);
        }
        self.release_upstream();
        self.settle();
    }

    /// The connection ends: the first cause is kept, and each side is told what the table says.
    pub(super) fn end(&mut self, cause: Cause) {
        let orders = self.orders(&cause);
        self.cause.get_or_insert(cause);
        let absorb = self.terms.closing.absorb;
        match cause {
            // All clients of the server learn it at this moment: each is told at one of its own.
            Cause::Vanished { by: Side::Upstream } | Cause::Stalled { by: Side::Upstream }
                if !absorb.is_zero() =>
            {
                let turn = rand::thread_rng().gen_range(Duration::ZERO..absorb);
                self.restart = Some(Box::new(Restart {
                    when: When::InTurn,
                    latest: Box::pin(sleep(turn)),
                }));
            }
            // The upstream is told when the client has answered: see `release_upstream`.
            Cause::Drained { .. } | Cause::UpstreamRestarts { .. } => {
                self.arm();
                self.order(Side::Client, orders.client);
            }
            Cause::Violation { .. }
            | Cause::Closed { .. }
            | Cause::Vanished { .. }
            | Cause::Stalled { .. }
            | Cause::Idle
            | Cause::Overload => {
                self.arm();
                self.order(Side::Client, orders.client);
                self.order(Side::Upstream, orders.upstream);
            }
        }
    }

    fn orders(&self, cause: &Cause) -> Orders {
        let (low, high) = self.terms.closing.reconnect_after;
        let delay = rand::thread_rng().gen_range(low..=high.max(low));
        closing::orders(cause, &self.terms.closing, delay)
    }

    /// Whether the client is told first, and the upstream when it has answered: what the client sent before that is
    /// delivered, and its answer is none of the upstream's business.
    pub(super) fn is_client_first(&self) -> bool {
        match self.cause {
            Some(Cause::Drained { .. } | Cause::UpstreamRestarts { .. }) => true,
            Some(
                Cause::Violation { .. }
                | Cause::Closed { .. }
                | Cause::Vanished { .. }
                | Cause::Stalled { .. }
                | Cause::Idle
                | Cause::Overload,
            )
            | None => false,
        }
    }

    /// Whether a side is not read, because the other one vanished and it has not been told yet: what it sends meanwhile
    /// would be lost.
    pub(super) fn is_absorbed(&self, side: Side) -> bool {
        side == Side::Client
            && matches!(
                self.restart.as_deref(),
                Some(Restart {
                    when: When::InTurn,
                    ..
                })
            )
    }

    /// Looks whether the connection is to be drained, and whether the time of a restart has come.
    pub(super) fn poll_restart(&mut self, cx: &mut Context<'_>) -> bool {
        // Asked for in any case: it is how the handle learns whom to wake.
        let source = self.handle.poll_drain(cx.waker());
        if self.cause.is_none()
            && self.restart.is_none()
            && let Some(source) = source
        {
            let latest = Box::pin(sleep(self.terms.closing.message_grace));
            self.restart = Some(Box::new(Restart {
                when: When::AtMessageEnd { source },
                latest,
            }));
            self.drain_at_message_end();
        }
        let Some(restart) = &mut self.restart else {
            return false;
        };
        if !self.handle.is_hurried() && restart.latest.as_mut().poll(cx).is_pending() {
            return false;
        }
        let when = restart.when;
        self.restart = None;
        match (when, self.cause) {
            // Its message has had its time: the end of the frame under way has to do.
            (When::AtMessageEnd { source }, None) => self.end(Cause::Drained { source }),
            (When::InTurn, Some(cause)) => {
                let orders = self.orders(&cause);
                self.arm();
                self.order(Side::Client, orders.client);
            }
            // Something else has ended it meanwhile.
            (When::AtMessageEnd { .. }, Some(_)) | (When::InTurn, None) => {}
        }
        true
    }

    /// Begins the drain that waits for it, if no message toward the client is under way.
    pub(super) fn drain_at_message_end(&mut self) {
        let Some(&Restart {
            when: When::AtMessageEnd { source },
            ..
        }) = self.restart.as_deref()
        else {
            return;
        };
        if self.cause.is_some() {
            self.restart = None;
        } else if self.pipes[Side::Upstream as usize]
            .flow
            .message_boundary()
            .is_some()
        {
            self.restart = None;
            self.end(Cause::Drained { source });
        }
    }

    /// Where the client is told first, tells the upstream when the client has answered, or is gone, or its time is over.
    fn release_upstream(&mut self) {
        let Some(cause) = self.cause.filter(|_| self.is_client_first()) else {
            return;
        };
        let [client, upstream] = &self.pipes;
        let answered = client.source.closed.is_some() || client.source.ended;
        if answered || upstream.source.ended || self.overtime {
            let orders = self.orders(&cause);
            self.order(Side::Upstream, orders.upstream);
        }
    }

    /// A side that closed has to be answered; where the other side cannot do that any more, it is us.
    fn settle(&mut self) {
        for side in [Side::Client, Side::Upstream] {
            let answerer = &self.pipes[side.other() as usize];
            if let (Some(code), true) = (
                self.pipes[side as usize].source.closed,
                answerer.source.ended || self.overtime,
            ) {
                self.order(
                    side,
                    Order::Close {
                        code,
                        reason: String::new(),
                    },
                );
            }
        }
    }

    fn order(&mut self, to: Side, order: Order) {
        let order = match (order, self.pipes[to as usize].source.closed) {
            // §5.5.1: who sent a Close gets its own code back, whatever happened meanwhile.
            (Order::Close { .. }, Some(code)) => Order::Close {
                code,
                reason: String::new(),
            },
            (order, _) => order,
        };
        if let Order::Close { code, reason } = order {
            self.order_close(to, code, &reason);
        }
    }

    /// Has a side be told this at the end of the frame under way, unless it is told something already.
    fn order_close(&mut self, to: Side, code: Option<u16>, reason: &str) {
        let pipe = &mut self.pipes[to.other() as usize];
        if matches!(pipe.sink, Sink::Flowing) {
            // §5.3: the key "MUST be derived from a strong source of entropy". Toward the upstream we are the client.
            let mask = (to == Side::Upstream).then(|| rand::thread_rng().r#gen());
            let frame = close::Frame::new(code, reason, mask);
            pipe.sink = Sink::Ordered(Box::new(CloseOrder { frame, code }));
            self.execute_order(to.other());
        }
    }

    pub(super) fn execute_order(&mut self, from: Side) {
        if let Some(code) = self.pipes[from as usize].execute_order() {
            self.told[from.other() as usize] = Some(code);
            self.terms
                .metrics
                .close(Initiator::Gate, from.other(), code);
        }
    }

    /// Gives the closing its time, from the first call on.
    pub(super) fn arm(&mut self) {
        if self.deadline.is_none() {
            self.deadline = Some(Box::pin(sleep(self.terms.closing.close_timeout)));
        }
    }

    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = &mut self.deadline else {
            return false;
        };
        if deadline.as_mut().poll(cx).is_pending() {
            return false;
        }
        if self.overtime {
            // The end of both streams, whatever they were about to say.
            self.pipes
                .iter_mut()
                .for_each(|pipe| pipe.source.ended = true);
        } else {
            // A side that closed and was never answered by the other gets its answer from us, and a moment to take it.
            self.overtime = true;
            deadline.as_mut().reset(Instant::now() + OVERTIME);
            self.release_upstream();
            self.settle();
        }
        true
    }

    /// Whether nothing more is to be said to a side nor heard from it.
    fn is_done(&self, side: Side) -> bool {
        let (source, to_it) = (
            &self.pipes[side as usize].source,
            &self.pipes[side.other() as usize],
        );
        source.ended || (source.closed.is_some() && to_it.is_flushed() && !to_it.is_passing())
    }

    pub(super) fn outcome(&self) -> Option<Outcome> {
        let over = self.is_done(Side::Client) && self.is_done(Side::Upstream);
        let [client, upstream] = &self.pipes;
        let vanished = Cause::Vanished {
            by: if client.source.ended {
                Side::Client
            } else {
                Side::Upstream
            },
        };
        over.then(|| Outcome {
            cause: self.cause.unwrap_or(vanished),
            client_told: self.told[Side::Client as usize],
            upstream_told: self.told[Side::Upstream as usize],
            timed_out: self.overtime,
            from_client: client.passed,
            from_upstream: upstream.passed,
        })
    }
}

/// What a side has to take the answer that the other side owed it.
const OVERTIME: Duration = Duration::from_millis(500);
