//! Bytes between two streams: the loop that reads, has the [`Flow`](crate::inspect::Flow) judge, and writes.
//!
//! One future per connection, without channels and without tasks of its own. A side that does not read makes the other
//! side wait: nothing is read for it while anything is unwritten, so that a connection never holds more than one held
//! text frame and one chunk per direction. It is always true that toward a side the relay writes exactly what the other
//! side sent, then at most one Close of ours, then the end of the stream.
//!
//! It never parses a frame itself and never decides what a side is told: the first is
//! [`inspect::flow`](crate::inspect::flow)'s, the second [`inspect::closing`](crate::inspect::closing)'s.

mod activity;
mod buffers;
mod ending;
mod handle;
mod judge;
mod limits;
mod liveness;
mod outcome;
mod pipe;
mod stall;

pub use activity::count_seconds;
pub use buffers::{Buffers, Holding, Reservation};
pub use handle::Handle;
pub use limits::{Beyond, Limits, Rates};
pub use liveness::Liveness;
pub use outcome::Outcome;
pub use pipe::Passed;
pub use stall::Delivery;

use crate::handshake::Deflate;
use crate::inspect::closing::{Cause, Policy};
use crate::inspect::{Block, Rules, Side};
use crate::metrics::Metrics;
use activity::Activity;
use bytes::BytesMut;
use ending::{Closing, Restart};
use judge::Found;
use limits::Meter;
use liveness::Watch;
use pipe::{CHUNK, Pipe, Sink};
use stall::Stall;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// What every connection of a route is held to.
#[derive(Debug)]
pub struct Terms {
    /// Name of the route, for logs and metrics.
    pub route: String,
    /// What frames are held to.
    pub rules: Rules,
    /// How connections are ended.
    pub closing: Policy,
    /// How it is found out whether both sides are there.
    pub liveness: Liveness,
    /// How much they may send, and how long they may leave what is sent to them.
    pub limits: Limits,
    /// Where what they keep is counted, with that of all others.
    pub buffers: Arc<Buffers>,
    /// Where all else is counted.
    pub metrics: Arc<Metrics>,
}

/// A proxied connection after its 101, until both sides are done with it.
#[derive(Debug)]
#[must_use = "a relay moves nothing unless it is polled"]
pub struct Relay<C, U> {
    client: C,
    upstream: U,
    state: State,
}

impl<C, U> Relay<C, U> {
    /// `from_client` and `from_upstream` came behind the heads of the handshake and were read with them.
    /// `handle` has the connection drained from outside.
    pub fn new(
        terms: Arc<Terms>,
        handle: Arc<Handle>,
        client: C,
        from_client: BytesMut,
        upstream: U,
        from_upstream: BytesMut,
    ) -> Self {
        let meter = Meter::new(&terms.limits, [from_client.len(), from_upstream.len()]);
        let pipes = [
            Pipe::new(Side::Client, from_client),
            Pipe::new(Side::Upstream, from_upstream),
        ];
        let watch = Watch::new(terms.liveness);
        let state = State {
            terms,
            handle,
            pipes,
            cause: None,
            restart: None,
            watch,
            meter,
            stall: None,
            closing: None,
            overtime: false,
            told: [None; 2],
            activity: Activity::new(),
        };
        Relay {
            client,
            upstream,
            state,
        }
    }

    /// The stream of the client, to look at.
    pub fn client(&self) -> &C {
        &self.client
    }

    /// What was agreed about compressed messages.
    pub fn with_compression(mut self, agreed: Option<Deflate>) -> Self {
        let [client, upstream] = &mut self.state.pipes;
        client.compress(agreed.map(|agreed| agreed.client));
        upstream.compress(agreed.map(|agreed| agreed.server));
        self
    }
}

/// Room that all connections of a thread share: an idle one owns none.
struct Workspace {
    scratch: Box<[u8]>,
    block: Block,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::new(Workspace {
        scratch: vec![0; CHUNK].into_boxed_slice(),
        block: Block::default(),
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
            upstream,
            state,
        } = self.get_mut();
        WORKSPACE.with_borrow_mut(|work| {
            loop {
                let mut moved = state.poll_restart(cx);
                moved |= state.poll_overload();
                moved |= state.pump(Side::Client, client, upstream, cx, work);
                moved |= state.pump(Side::Upstream, upstream, client, cx, work);
                moved |= state.poll_liveness(cx);
                moved |= state.poll_limits(cx);
                moved |= state.poll_stall(cx, |side| match side {
                    Side::Client => client.delivered(),
                    Side::Upstream => upstream.delivered(),
                });
                moved |= state.poll_deadline(cx);
                if let Some(outcome) = state.outcome() {
                    // Best effort: what matters has been written, and the streams are dropped after this.
                    let [to_upstream, to_client] = &state.pipes;
                    if !matches!(to_client.sink, Sink::Finished) {
                        let _ = Pin::new(client).poll_shutdown(cx);
                    }
                    if !matches!(to_upstream.sink, Sink::Finished) {
                        let _ = Pin::new(upstream).poll_shutdown(cx);
                    }
                    return Poll::Ready(outcome);
                }
                if !moved {
                    state.account();
                    return Poll::Pending;
                }
            }
        })
    }
}

/// All of a connection but its streams.
#[derive(Debug)]
struct State {
    terms: Arc<Terms>,
    /// By the side that they read from.
    pipes: [Pipe; 2],
    handle: Arc<Handle>,
    /// Why the connection ends, once it does.
    cause: Option<Cause>,
    /// The client is to be told of a restart, but not yet.
    restart: Option<Box<Restart>>,
    /// Where the route asks whether both sides are there.
    watch: Option<Box<Watch>>,
    /// Where the route limits how much they may send.
    meter: Option<Box<Meter>>,
    /// While something waits to be written.
    stall: Option<Box<Stall>>,
    /// Once the connection ends.
    closing: Option<Box<Closing>>,
    /// The deadline has passed once and what could still be said was said.
    overtime: bool,
    /// Code of the Close that each side was sent.
    told: [Option<Option<u16>>; 2],
    /// When a message passed last.
    activity: Activity,
}

impl Drop for State {
    fn drop(&mut self) {
        self.let_go();
        for pipe in &mut self.pipes {
            let freed = pipe.flow.forget();
            self.terms.metrics.compression_memory(freed);
        }
    }
}

impl State {
    /// Moves what can be moved from one side to the other. Whether anything happened that the rest of the connection has to
    /// be looked at for: that bytes passed is nothing of the kind, and is most of what happens.
    fn pump(
        &mut self,
        from: Side,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Delivery + Unpin),
        cx: &mut Context<'_>,
        work: &mut Workspace,
    ) -> bool {
        let mut stirred = false;
        loop {
            stirred |= self.flush(from, sink, cx);
            let pipe = &mut self.pipes[from as usize];
            if pipe.source.ended
                || (pipe.is_passing() && !pipe.is_flushed())
                || self.is_absorbed(from)
                || self.is_slowed(from)
            {
                return stirred;
            }
            let mut chunk: &[u8] = &[];
            if !self.pipes[from as usize].fresh {
                let most = self.most(from);
                let pipe = &mut self.pipes[from as usize];
                match pipe.poll_fill(Pin::new(source), cx, &mut work.scratch, most) {
                    Poll::Pending => return stirred,
                    Poll::Ready(Ok(filled)) if filled.read > 0 => {
                        if let Some(meter) = &mut self.meter {
                            meter.handle_read(from, filled.read);
                        }
                        chunk = &work.scratch[..filled.in_scratch];
                    }
                    Poll::Ready(Ok(_) | Err(_)) => {
                        self.handle_end(from);
                        return true;
                    }
                }
            }
            if let Some(watch) = &mut self.watch {
                watch.handle_read(from, Instant::now());
            }
            let pipe = &mut self.pipes[from as usize];
            if pipe.source.closed.is_some() {
                // §5.5.1: after a Close a side sends nothing more; whatever this is, nobody gets it.
                pipe.drop_window();
                stirred = true;
                continue;
            }
            let passing = pipe.is_passing();
            let found = if chunk.is_empty() {
                let window = pipe.take_window();
                let judged = self.judge(from, &window, &mut work.block);
                let pipe = &mut self.pipes[from as usize];
                pipe.put_window(window, judged.release, judged.dropped, passing);
                judged.found
            } else {
                let judged = self.judge(from, chunk, &mut work.block);
                let (released, window) = chunk.split_at(judged.release);
                let window = &window[judged.dropped..];
                let released = if passing { released } else { &[] };
                let answered = self.pipes[from.other() as usize].source.closed.is_some();
                if answered
                    && from == Side::Upstream
                    && matches!(judged.found, Some(Found::Close { passed: true, .. }))
                {
                    sink.finish_with_next();
                }
                let pipe = &mut self.pipes[from as usize];
                if pipe.forward(released, window, Pin::new(sink), cx).is_err() {
                    self.arm();
                }
                judged.found
            };
            self.execute_order(from);
            self.drain_at_message_end();
            stirred |= found.is_some() || self.cause.is_some() || self.restart.is_some();
            match found {
                None => {}
                Some(Found::Violation(violation)) => self.handle_violation(from, violation),
                Some(Found::Close { code, passed }) => self.handle_close(from, code, passed),
            }
        }
    }

    /// Writes what is ready for the side opposite to `from`, and ends its stream where that is all.
    fn flush(
        &mut self,
        from: Side,
        sink: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> bool {
        let to = from.other();
        let pipe = &mut self.pipes[from as usize];
        let moved = match pipe.poll_flush(Pin::new(sink), cx) {
            Ok(moved) => moved,
            Err(_) => {
                // Its reading end tells soon whether it said something before it went; it has until the deadline.
                self.arm();
                return true;
            }
        };
        let pipe = &self.pipes[from as usize];
        let ends = pipe.is_flushed()
            && match pipe.sink {
                Sink::Cut => true,
                // §7.1.1: the server ends the TCP connection first, and toward the client that is us.
                Sink::Told => to == Side::Client && self.pipes[to as usize].source.closed.is_some(),
                Sink::Flowing | Sink::Ordered(_) | Sink::Finished => false,
            };
        if ends && Pin::new(sink).poll_shutdown(cx).is_ready() {
            self.pipes[from as usize].sink = Sink::Finished;
            return true;
        }
        moved
    }
}

#[cfg(test)]
mod tests;
