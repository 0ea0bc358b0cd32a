//! Bytes between two streams: the loop that reads, has the [`Flow`](crate::inspect::Flow) judge, and writes.
//!
//! One future per connection, without channels and without tasks of its own. A side that does not read makes the other
//! side wait: nothing is read for it while anything is unwritten, so that a connection never holds more than one held
//! text frame and one chunk per direction. It is always true that toward a side the relay writes exactly what the other
//! side sent, then at most one Close of ours, then the end of the stream.
//!
//! It never parses a frame itself and never decides what a side is told: the first is
//! [`inspect::flow`](crate::inspect::flow)'s, the second [`inspect::closing`](crate::inspect::closing)'s.

mod ending;
mod handle;
mod liveness;
mod outcome;
mod pipe;

pub use handle::Handle;
pub use liveness::Liveness;
pub use outcome::Outcome;
pub use pipe::Passed;

use crate::handshake::Deflate;
use crate::inspect::closing::Cause;
use crate::inspect::{Block, Event, Mode, Rules, Side, Tally, Until, Violation, closing::Policy};
use crate::metrics::Metrics;
use bytes::BytesMut;
use ending::Restart;
use liveness::Watch;
use pipe::{CHUNK, Pipe, Sink};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

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
    /// Where it is counted.
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
            deadline: None,
            overtime: false,
            told: [None; 2],
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
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
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
                moved |= state.pump(Side::Client, client, upstream, cx, work);
                moved |= state.pump(Side::Upstream, upstream, client, cx, work);
                moved |= state.poll_liveness(cx);
                moved |= state.poll_deadline(cx);
                if let Some(outcome) = state.outcome() {
                    // Best effort: what matters has been written, and the streams are dropped after this.
                    let _ = Pin::new(client).poll_shutdown(cx);
                    let _ = Pin::new(upstream).poll_shutdown(cx);
                    return Poll::Ready(outcome);
                }
                if !moved {
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
    restart: Option<Restart>,
    /// Where the route asks whether both sides are there.
    watch: Option<Box<Watch>>,
    /// When the closing is cut short.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The deadline has passed once and what could still be said was said.
    overtime: bool,
    /// Code of the Close that each side was sent.
    told: [Option<Option<u16>>; 2],
}

impl Drop for State {
    fn drop(&mut self) {
        for pipe in &mut self.pipes {
            let freed = pipe.flow.forget();
            self.terms.metrics.compression_memory(freed);
        }
    }
}

/// What has to be done about what was found in a window, once the bytes before it are out of the way.
enum Found {
    Violation(Violation),
    Close { code: Option<u16>, passed: bool },
}

/// What was judged of a window.
struct Judged {
    /// Bytes from its front that are released.
    release: usize,
    /// Bytes after those that are nobody's: the answer to our Ping.
    dropped: usize,
    /// What stopped it.
    found: Option<Found>,
}

impl State {
    /// Moves what can be moved from one side to the other. Whether anything happened.
    fn pump(
        &mut self,
        from: Side,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        work: &mut Workspace,
    ) -> bool {
        let mut moved = false;
        loop {
            moved |= self.flush(from, sink, cx);
            let pipe = &mut self.pipes[from as usize];
            if pipe.source.ended
                || (pipe.is_passing() && !pipe.is_flushed())
                || self.is_absorbed(from)
            {
                return moved;
            }
            let pipe = &mut self.pipes[from as usize];
            let mut chunk: &[u8] = &[];
            if !pipe.fresh {
                let was_empty = pipe.is_empty();
                match pipe.poll_fill(Pin::new(source), cx, &mut work.scratch) {
                    Poll::Pending => return moved,
                    Poll::Ready(Ok(n)) if n > 0 => {
                        if was_empty {
                            chunk = &work.scratch[..n];
                        }
                    }
                    Poll::Ready(Ok(_) | Err(_)) => {
                        self.handle_end(from);
                        return true;
                    }
                }
            }
            moved = true;
            if let Some(watch) = &mut self.watch {
                watch.handle_read(from, Instant::now());
            }
            let pipe = &mut self.pipes[from as usize];
            if pipe.source.closed.is_some() {
                // §5.5.1: after a Close a side sends nothing more; whatever this is, nobody gets it.
                pipe.drop_window();
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
                let pipe = &mut self.pipes[from as usize];
                if pipe.forward(released, window, Pin::new(sink), cx).is_err() {
                    self.arm();
                }
                judged.found
            };
            self.execute_order(from);
            self.drain_at_message_end();
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

    /// Has the flow judge the window, as far as it goes.
    fn judge(&mut self, from: Side, window: &[u8], block: &mut Block) -> Judged {
        let terms = &*self.terms;
        let client_first = self.is_client_first();
        let pipe = &mut self.pipes[from as usize];
        let passing = pipe.is_passing();
        let until = match pipe.sink {
            Sink::Ordered(_) => Until::FrameEnd,
            Sink::Flowing if from == Side::Upstream && self.restart.is_some() => Until::MessageEnd,
            Sink::Flowing | Sink::Told | Sink::Cut | Sink::Finished => Until::End,
        };
        let mut tally = Tally::default();
        let (mut release, mut dropped) = (0, 0);
        pipe.fresh = false;
        let found = loop {
            let passage =
                pipe.flow
                    .inspect(&terms.rules, &window[release..], until, block, &mut tally);
            release += passage.release;
            match passage.event {
                None => {
                    pipe.fresh = until != Until::End && release < window.len();
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
        terms.metrics.compression_memory(pipe.flow.memory_change());
        if passing && tally != Tally::default() {
            pipe.count(&tally);
            terms.metrics.passed(from, &tally);
        }
        Judged {
            release,
            dropped,
            found,
        }
    }
}

#[cfg(test)]
mod tests;
