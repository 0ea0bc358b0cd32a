//! Bytes between two legs: reads, gives the [`Session`] what was read, writes what it lets pass, and its frames.
//!
//! One future per connection, without channels and without tasks of its own. A side that does not read makes the other
//! side wait: nothing is read for it while anything is unwritten, so that a connection never keeps more than one held text
//! frame and one chunk per direction.
//!
//! The relay decides nothing about a connection: what passes, what each side is sent and when the connection is over is the
//! [`session`](crate::session)'s to say.

mod about;
mod buffers;
mod handle;
mod pipe;
mod report;

pub use about::{About, Figures};
pub use buffers::{Buffers, Holding, Reservation};
pub use handle::Handle;

use crate::handshake::Deflate;
use crate::inspect::{Block, Side};
use crate::metrics::Metrics;
use crate::session::{Command, Outcome, Passage, Phase, ReconnectDelays, Session, Settings, Turn};
use crate::transport::delivery::Delivery;
use bytes::BytesMut;
use handle::Request;
use pipe::{CHUNK, Pipe};
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

/// The settings and counters that all connections of a route share.
pub struct RouteContext {
    /// Name of the route, for logs and metrics.
    pub route: String,
    /// The settings of its sessions.
    pub settings: Arc<Settings>,
    /// Where what its connections keep in memory is counted, with that of all others.
    pub buffers: Arc<Buffers>,
    /// Where all else is counted.
    pub metrics: Arc<Metrics>,
    /// The servers of its upstream.
    pub servers: Arc<dyn Servers>,
}

/// The questions of relays to the upstream of their route about its servers.
pub trait Servers: Send + Sync {
    /// For how long a client of the server of this number, which is gone, is told to stay away: as [`ReconnectDelays::delay`].
    fn delay(&self, gone: u32, range: (Duration, Duration), drawn: Duration) -> Duration;

    /// The address of the server of this number, for the log; `None` where it is not known any more.
    fn address(&self, server: u32) -> Option<String>;
}

/// The delays of the clients of one server.
struct DelaysOf<'a> {
    servers: &'a dyn Servers,
    server: u32,
}

impl ReconnectDelays for DelaysOf<'_> {
    fn delay(&self, range: (Duration, Duration), drawn: Duration) -> Duration {
        self.servers.delay(self.server, range, drawn)
    }
}

impl fmt::Debug for RouteContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteContext")
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

/// A proxied connection after its 101, until both sides are done with it.
#[derive(Debug)]
#[must_use = "a relay moves nothing unless it is polled"]
pub struct Relay<C, U> {
    client: C,
    server: U,
    state: State,
}

/// All of a relay but its legs.
#[derive(Debug)]
struct State {
    context: Arc<RouteContext>,
    handle: Arc<Handle>,
    session: Session,
    /// By the side that they read from.
    pipes: [Pipe; 2],
    /// While the session waits for a time.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<C, U> Relay<C, U> {
    /// `from_client` and `from_server` came behind the heads of the handshake and were read with them; `compression` is
    /// what the handshake agreed to. `handle` has the connection ended from outside.
    pub fn new(
        context: Arc<RouteContext>,
        handle: Arc<Handle>,
        compression: Option<Deflate>,
        (client, from_client): (C, BytesMut),
        (server, from_server): (U, BytesMut),
    ) -> Self {
        let mut session = Session::new(context.settings.clone(), compression, rand::random());
        session.start(Instant::now().into_std());
        session.handle_read(Side::Client, from_client.len());
        session.handle_read(Side::Server, from_server.len());
        let pipes = [Pipe::new(from_client), Pipe::new(from_server)];
        let state = State {
            context,
            handle,
            session,
            pipes,
            timer: None,
        };
        Relay {
            client,
            server,
            state,
        }
    }

    /// The handle of this relay.
    pub fn handle(&self) -> &Handle {
        &self.state.handle
    }
}

/// Room that all connections of a thread share: an idle one owns none.
struct Workspace {
    scratch: Box<[u8]>,
    block: Block,
    /// By side, of the relay that is polled.
    turns: [Turn; 2],
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::new(Workspace {
        scratch: vec![0; CHUNK].into_boxed_slice(),
        block: Block::default(),
        turns: [Turn::default(); 2],
    });
}

impl<C, U> Future for Relay<C, U>
where
    C: AsyncRead + AsyncWrite + Delivery + Unpin,
    U: AsyncRead + AsyncWrite + Delivery + Unpin,
{
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Relay {
            client,
            server,
            state,
        } = self.get_mut();
        let now = Instant::now().into_std();
        WORKSPACE.with_borrow_mut(|work| {
            work.turns = [Turn::default(); 2];
            loop {
                let mut is_cut = false;
                let mut moved = state.poll_commands(cx, now);
                moved |= state.pump(Side::Client, client, server, cx, work, &mut is_cut, now);
                moved |= state.pump(Side::Server, server, client, cx, work, &mut is_cut, now);
                moved |= state.poll_timer(cx, |side| match side {
                    Side::Client => client.delivered(),
                    Side::Server => server.delivered(),
                });
                if let Some(outcome) = state.session.outcome() {
                    state.report();
                    // Best effort: what matters has been written, and the legs are dropped after this.
                    if !state.session.is_finished(Side::Client) {
                        let _ = Pin::new(client).poll_shutdown(cx);
                    }
                    if !state.session.is_finished(Side::Server) {
                        let _ = Pin::new(server).poll_shutdown(cx);
                    }
                    return Poll::Ready(outcome);
                }
                if !moved {
                    state.account(client.memory() + server.memory());
                    if is_cut {
                        yield_to_others(cx);
                    }
                    return Poll::Pending;
                }
            }
        })
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.let_go();
        let freed = self.session.stop_inflating();
        self.context.metrics.compression_memory(freed);
    }
}

impl State {
    /// Passes on what the outside asks for. Whether anything happened.
    fn poll_commands(&mut self, cx: &mut Context<'_>, now: std::time::Instant) -> bool {
        self.handle.poll(cx.waker()) && self.handle_commands(now)
    }

    #[cold]
    fn handle_commands(&mut self, now: std::time::Instant) -> bool {
        let drain = self.handle.drain_cause();
        let before = self.session.phase().rank();
        if self.handle.is_hurried() && !self.session.is_hurried() {
            self.session.handle_command(Command::Hurry, now);
        }
        if let (Some(cause), Phase::Open) = (drain, self.session.phase()) {
            self.session.handle_command(Command::Drain(cause), now);
        }
        if self.handle.is_shed() && self.session.phase().cause().is_none() {
            let [from_client, from_server] =
                [Side::Client, Side::Server].map(|from| self.memory(from));
            let slow = match from_server >= from_client {
                true => Side::Client,
                false => Side::Server,
            };
            self.session.handle_command(Command::Shed(slow), now);
        }
        for request in self.handle.take_requests() {
            match request {
                Request::Close { code, reason } => {
                    self.session
                        .handle_command(Command::Close { code, reason }, now);
                }
                Request::Figures(answer) => {
                    // The requester may be gone.
                    let _ = answer.send(self.figures(now));
                }
            }
        }
        let moved = self.session.phase().rank() != before;
        if moved {
            self.take_frames(now);
        }
        moved
    }

    fn figures(&mut self, now: std::time::Instant) -> Figures {
        let passed = [Side::Client, Side::Server].map(|from| self.session.passed(from));
        let memory = [Side::Client, Side::Server].map(|from| self.memory(from));
        Figures {
            messages: passed.map(|passed| passed.messages),
            bytes: passed.map(|passed| passed.bytes),
            idle: self.session.silence(now),
            buffered: memory.iter().sum(),
        }
    }

    /// Calls the session when the time that it waits for has come. Whether anything happened.
    fn poll_timer(
        &mut self,
        cx: &mut Context<'_>,
        delivered: impl Fn(Side) -> Option<u64>,
    ) -> bool {
        let mut moved = false;
        // A timer that is set anew has to be polled again, or it wakes nobody.
        while let Some(next) = self.session.poll_timeout() {
            let next = Instant::from_std(next);
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(next)));
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return moved;
            }
            // The wheel may fire late, never early.
            let now = Instant::now().into_std();
            self.session.handle_timeout(now, &delivered);
            self.take_frames(now);
            moved = true;
        }
        self.timer = None;
        moved
    }

    /// Makes the frames of the session ready to be written. Whether there were any.
    fn take_frames(&mut self, now: std::time::Instant) -> bool {
        let mut taken = false;
        let delays = DelaysOf {
            servers: &*self.context.servers,
            server: self.handle.server(),
        };
        for to in [Side::Client, Side::Server] {
            while let Some(frame) = self.session.poll_frame(to, now, &delays) {
                self.pipes[to.other() as usize].insert(&frame);
                taken = true;
            }
        }
        self.report();
        taken
    }

    /// Moves what can be moved from one side to the other. Whether anything happened that the other direction has to be looked
    /// at for: that bytes passed is nothing of the kind, and is most of what happens. `is_cut` says that the turn of the side ended
    /// before all was done that could be done.
    #[expect(
        clippy::too_many_arguments,
        reason = "one direction of a poll, which is called twice"
    )]
    fn pump(
        &mut self,
        from: Side,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Delivery + Unpin),
        cx: &mut Context<'_>,
        work: &mut Workspace,
        is_cut: &mut bool,
        now: std::time::Instant,
    ) -> bool {
        let to = from.other();
        let mut stirred = false;
        let turn = &mut work.turns[from as usize];
        loop {
            stirred |= self.flush(to, sink, cx, now);
            let Some(most) = self.session.wants_bytes(from, now) else {
                return stirred;
            };
            if turn.is_over() {
                *is_cut = true;
                return stirred;
            }
            let missing = self.session.missing(from);
            let pipe = &mut self.pipes[from as usize];
            let mut chunk: &[u8] = &[];
            if !pipe.fresh {
                match pipe.poll_fill(Pin::new(source), cx, &mut work.scratch, most, missing) {
                    Poll::Pending => return stirred,
                    Poll::Ready(Ok(filled)) if filled.read > 0 => {
                        turn.handle_read(filled.read);
                        self.session.handle_read(from, filled.read);
                        chunk = &work.scratch[..filled.in_scratch];
                    }
                    Poll::Ready(Ok(_) | Err(_)) => {
                        self.session.handle_eof(from, now);
                        self.take_frames(now);
                        return true;
                    }
                }
            }
            let before = self.session.phase().rank();
            let pipe = &mut self.pipes[from as usize];
            let passage = if chunk.is_empty() {
                let window = pipe.take_window();
                let passage = self
                    .session
                    .handle_bytes(from, &window, &mut work.block, turn, now);
                pipe.put_window(window, passage.forward, passage.discard);
                passage
            } else {
                let passage = self
                    .session
                    .handle_bytes(from, chunk, &mut work.block, turn, now);
                if self.session.ends_after_write(to) {
                    sink.finish_with_next();
                }
                let (forward, rest) = chunk.split_at(passage.forward);
                let window = &rest[passage.discard..];
                if pipe.forward(forward, window, Pin::new(sink), cx).is_err() {
                    self.session.handle_write_error(to, now);
                }
                passage
            };
            self.pipes[from as usize].fresh = passage.again;
            self.count(from, &passage);
            let is_ending = !self.session.phase().is_open();
            if is_ending || self.session.has_news() {
                self.take_frames(now);
            }
            stirred |= is_ending || self.session.phase().rank() != before;
        }
    }

    fn count(&mut self, from: Side, passage: &Passage) {
        let metrics = &self.context.metrics;
        metrics.compression_memory(self.session.memory_change());
        if passage.tally != Default::default() {
            metrics.passed(from, &passage.tally);
        }
    }

    /// Writes what is ready for a side, and ends its stream where that is all. Whether the rest of the connection has to be
    /// looked at.
    fn flush(
        &mut self,
        to: Side,
        sink: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        now: std::time::Instant,
    ) -> bool {
        let pipe = &mut self.pipes[to.other() as usize];
        let wrote = match pipe.poll_flush(Pin::new(sink), cx) {
            Ok(wrote) => wrote,
            Err(_) => {
                // Its reading end tells soon whether it said something before it went; it has until the deadline.
                self.session.handle_write_error(to, now);
                return true;
            }
        };
        if pipe.is_flushed() {
            self.session.handle_written(to);
        } else {
            self.session.handle_blocked(to, pipe.took, now);
        }
        if self.session.has_ping(to) && self.take_frames(now) {
            return true;
        }
        if self.session.wants_shutdown(to) && Pin::new(sink).poll_shutdown(cx).is_ready() {
            self.session.handle_shutdown(to);
            return true;
        }
        wrote
    }
}

/// Has the task run again when the sockets of the thread have been looked at and others have had their turn.
///
/// A task that only wakes itself goes to the end of the queue; but as long as the queue is not empty, tokio looks at its
/// sockets every 61 polls alone, and all others would wait for as many turns of this one.
fn yield_to_others(cx: &mut Context<'_>) {
    // `yield_now` defers the wake-up; its result is not needed.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

#[cfg(test)]
mod tests;
