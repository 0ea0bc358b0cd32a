//! One proxied WebSocket after its handshake, without I/O: what may pass, what each side is sent by wsgate, and when the
//! connection is over.
//!
//! [`Session`] is told bytes and time and is asked for frames, timers and the outcome. It never reads a clock, a random
//! number or a socket, never logs, and never counts a metric: what is worth a log line or a metric is an [`Event`]. Its
//! caller is the relay, which owns the two legs and the buffers between them.
//!
//! These statements always hold, and the simulation in `tests` checks them at every step:
//! - What is forwarded from one side is a prefix of what that side sent, without the Pongs that answer wsgate's own Pings.
//! - A frame of wsgate stands between two frames: it is made out of a [`FrameBoundary`](crate::inspect::flow::FrameBoundary).
//! - Each side is sent at most one Close, and nothing after it.
//! - The phase only moves forward.

mod contract;
mod ending;
mod frames;
mod generator;
mod inbound;
mod inspection;
mod limits;
mod liveness;
mod phase;
mod rare;
mod stall;
mod timers;
mod turn;
mod writing;

pub use contract::{Command, Event, Outcome, ReaderLimit, ReconnectDelays};
pub use frames::ControlFrame;
pub use inbound::{Passage, Passed};
pub use limits::{Beyond, Limits, Rates};
pub use liveness::Liveness;
pub use phase::Phase;
pub use turn::Turn;

use crate::handshake::Deflate;
use crate::inspect::closing::{Cause, Policy};
use crate::inspect::{Block, Rules, Side};
use generator::Generator;
use inbound::Inbound;
use inspection::Found;
use limits::Meter;
use liveness::Watch;
use rare::Rare;
use std::sync::Arc;
use std::time::{Duration, Instant};
use timers::Timer;
use writing::Writing;

/// The settings that all sessions of a route share.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The rules that frames have to keep.
    pub rules: Rules,
    /// How connections are ended.
    pub closing: Policy,
    /// How wsgate finds out whether both sides are there.
    pub liveness: Liveness,
    /// How much each side may send, and how long it may leave what is sent to it.
    pub limits: Limits,
    /// Any moment before the first of these sessions, from which sessions count seconds; `None`: silence is not measured.
    pub epoch: Option<Instant>,
}

impl Settings {
    /// Seconds since the [epoch](Settings::epoch): four bytes in each session, where a moment would take sixteen.
    fn seconds(&self, now: Instant) -> u32 {
        self.epoch.map_or(0, |epoch| {
            now.saturating_duration_since(epoch).as_secs() as u32
        })
    }
}

/// One proxied WebSocket after its handshake.
///
/// The driving contract, for a caller that owns the streams and, for each direction, the bytes that were read and are not
/// forwarded yet (the window) and the bytes that were forwarded and are not written yet:
///
/// 1. After every `handle_*` call, ask [`poll_frame`](Self::poll_frame) for both sides until it returns `None`, and write each
///    frame behind what was forwarded to that side before.
/// 2. Read from a side only while [`wants_bytes`](Self::wants_bytes) says so. Give what was read, behind what is left of the
///    window, to [`handle_bytes`](Self::handle_bytes), and again with the rest while it says [`Passage::again`].
/// 3. Say after each attempt to write whether all is written ([`handle_written`](Self::handle_written)) or something
///    waits ([`handle_blocked`](Self::handle_blocked)), and end the stream toward a side as soon as
///    [`wants_shutdown`](Self::wants_shutdown) says so.
/// 4. Arm one timer for [`poll_timeout`](Self::poll_timeout), and call [`handle_timeout`](Self::handle_timeout) when it fires.
/// 5. It is over when [`outcome`](Self::outcome) is there.
///
/// ```
/// use std::{sync::Arc, time::Instant};
/// use wsgate::inspect::{Block, Side};
/// use wsgate::session::{Session, Settings, Turn};
///
/// let (mut session, mut block) = (Session::new(Arc::new(Settings::default()), None, 7), Block::default());
/// let now = Instant::now();
/// let to_client = &mut Vec::new();
/// // The server sends one message and a text that is not UTF-8, in one read.
/// let mut window = b"\x81\x02hi\x81\x02\xc3\x28".to_vec();
/// loop {
///     let turn = &mut Turn::default();
///     let passage = session.handle_bytes(Side::Server, &window, &mut block, turn, now);
///     to_client.extend(window.drain(..passage.forward));
///     window.drain(..passage.discard);
///     while let Some(frame) = session.poll_frame(Side::Client, now, &()) {
///         to_client.extend_from_slice(frame.as_bytes());
///     }
///     if !passage.again {
///         break;
///     }
/// }
/// assert!(to_client.starts_with(b"\x81\x02hi\x88"), "the good message, then a Close");
/// ```
#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    /// By the side that sends.
    inbound: [Inbound; 2],
    /// By the side that is written to.
    writing: [Writing; 2],
    /// By the side that is written to: it has not taken all that was meant for it.
    blocked: [bool; 2],
    /// When a data message passed last, in [seconds](Settings::seconds).
    last_message: u32,
    phase: Phase,
    generator: Generator,
    /// Most sessions have none of it.
    rare: Option<Box<Rare>>,
}

const SIDES: [Side; 2] = [Side::Client, Side::Server];

impl Session {
    /// A session right after its handshake, in which messages may be compressed as was agreed. `seed` is all the
    /// randomness that it gets: masking keys and the delays that clients are told are drawn from it.
    pub fn new(settings: Arc<Settings>, compression: Option<Deflate>, seed: u64) -> Session {
        let inbound = [
            Inbound::new(Side::Client, compression.map(|agreed| agreed.client)),
            Inbound::new(Side::Server, compression.map(|agreed| agreed.server)),
        ];
        Session {
            settings,
            inbound,
            writing: [Writing::Passing, Writing::Passing],
            blocked: [false; 2],
            last_message: 0,
            phase: Phase::Open,
            generator: Generator::new(seed),
            rare: None,
        }
    }

    /// The session begins now: from here on limits per second and the silence of a side are measured. To be called once,
    /// before anything else; without limits and liveness settings it does nothing.
    pub fn start(&mut self, now: Instant) {
        self.last_message = self.settings.seconds(now);
        let meter = Meter::new(&self.settings.limits, now);
        let watch = Watch::new(self.settings.liveness, self.generator.payload(), now);
        if meter.is_some() || watch.is_some() {
            let rare = self.rare();
            (rare.meter, rare.watch) = (meter, watch);
            self.arm_liveness();
        }
    }

    /// Inspects the new bytes at the end of a side's window. Returns how many bytes are forwarded, and how many are dropped.
    ///
    /// The window holds the bytes of the side that were neither forwarded nor dropped before. No byte is inspected twice. The `turn`
    /// bounds the work of one call: where it is over, the rest waits for the next turn.
    pub fn handle_bytes(
        &mut self,
        from: Side,
        window: &[u8],
        block: &mut Block,
        turn: &mut Turn,
        now: Instant,
    ) -> Passage {
        if let Some(rare) = &mut self.rare
            && let Some(watch) = &mut rare.watch
        {
            watch.handle_read(from, now);
        }
        if self.inbound[from as usize].closed.is_some() {
            // RFC 6455 §5.5.1: after a Close a side sends nothing more.
            return Passage::discarding(window.len());
        }
        let (mut passage, found) = self.inspect(from, window, block, turn, now);
        if found.is_none() && self.phase.is_open() {
            // As nearly always: nothing has changed but what passed.
            return passage;
        }
        match found {
            None => {}
            Some(Found::Violation(violation)) => {
                self.end(
                    Cause::Violation {
                        by: from,
                        violation,
                    },
                    now,
                );
            }
            Some(Found::Close { code, passing }) => {
                self.handle_close(from, code, passing, now);
                passage.discard = window.len() - passage.forward;
                passage.again = false;
            }
        }
        self.advance(now);
        passage
    }

    /// This number of bytes of a side was read. Rate limits count them before they are inspected.
    #[inline]
    pub fn handle_read(&mut self, from: Side, count: usize) {
        if let Some(rare) = &mut self.rare
            && let Some(meter) = &mut rare.meter
        {
            meter.handle_read(from, count);
        }
    }

    /// The stream of a side is at its end, or reading from it failed.
    pub fn handle_eof(&mut self, from: Side, now: Instant) {
        self.lose(from, Cause::Vanished { by: from }, now);
        self.advance(now);
    }

    /// Writing to a side failed: nothing reaches it any more. What it sent before is still read.
    pub fn handle_write_error(&mut self, to: Side, now: Instant) {
        self.writing[to as usize].finish();
        self.blocked[to as usize] = false;
        self.arm_close(now);
        self.advance(now);
    }

    /// All that was meant for a side is written.
    #[inline]
    pub fn handle_written(&mut self, to: Side) {
        if self.blocked[to as usize] {
            self.unblock(to);
        }
    }

    #[inline(never)]
    fn unblock(&mut self, to: Side) {
        self.blocked[to as usize] = false;
        self.stop_waiting(to);
        self.trim();
        self.finish_if_over();
    }

    /// A side does not take all that is meant for it; `took` says whether it took something just now.
    pub fn handle_blocked(&mut self, to: Side, took: bool, now: Instant) {
        self.blocked[to as usize] = true;
        self.wait_for(to, took, now);
    }

    /// The stream toward a side was ended because [`wants_shutdown`](Self::wants_shutdown) asked for it.
    pub fn handle_shutdown(&mut self, to: Side) {
        self.writing[to as usize].finish();
        self.finish_if_over();
    }

    /// The outside asks for something.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Drain(cause) => self.drain(cause, now),
            Command::Hurry => {
                self.rare().hurried = true;
                self.hurry(now);
            }
            Command::Close { code, reason } => self.close(code, reason, now),
            Command::Shed(slow) => self.shed(slow, now),
        }
        self.advance(now);
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come. `delivered` says how many bytes the far end of a
    /// side has acknowledged since its stream began, where that is known; it is asked about a side that takes nothing.
    pub fn handle_timeout(&mut self, now: Instant, delivered: impl Fn(Side) -> Option<u64>) {
        while let Some(rare) = &mut self.rare
            && let Some(timer) = rare.timers.take_due(now)
        {
            match timer {
                Timer::Restart => self.handle_restart_due(now),
                Timer::Close => self.handle_close_timeout(now),
                Timer::Liveness => self.look_for_life(now),
                Timer::Stall => self.look_for_stalls(now, &delivered),
                Timer::Limits => self.resume_reading(now),
            }
        }
        self.advance(now);
    }

    /// The messages and bytes of a side that have passed until now.
    pub fn passed(&self, from: Side) -> Passed {
        self.inbound[from as usize].passed
    }

    /// Seconds since the last data message in either direction; 0 where no [epoch](Settings::epoch) is set.
    pub fn silence(&self, now: Instant) -> u32 {
        self.settings.seconds(now).saturating_sub(self.last_message)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.rare.as_ref()?.timers.next()
    }

    /// The next thing that is worth a metric or a log line.
    pub fn poll_event(&mut self) -> Option<Event> {
        let rare = self.rare.as_mut()?;
        if rare.events.is_empty() {
            self.trim();
            return None;
        }
        // Events are few, and polled after each call.
        Some(rare.events.remove(0))
    }

    /// How many bytes may be read of a side at once; `None` while it is not to be read.
    #[inline]
    pub fn wants_bytes(&mut self, from: Side, now: Instant) -> Option<usize> {
        let inbound = &self.inbound[from as usize];
        let to = from.other() as usize;
        let is_paused = inbound.ended
            || (self.writing[to].is_passing() && self.blocked[to])
            || self.is_slowed(from);
        (!is_paused).then(|| self.most(from, now))
    }

    /// Whether the stream toward a side is to be ended, now that all that was meant for it is written.
    #[inline]
    pub fn wants_shutdown(&self, to: Side) -> bool {
        let ends = match self.writing[to as usize] {
            Writing::Cut => true,
            // RFC 6455 §7.1.1: the server ends the TCP connection first. Toward the client wsgate is the server, and a client that
            // broke a rule may wait for that.
            Writing::Closed(_) => self.ends_after_write(to),
            Writing::Passing | Writing::CloseDue(_) | Writing::Finished(_) => false,
        };
        ends && !self.blocked[to as usize]
    }

    /// Whether the stream toward a side ends as soon as all is written: what is written next and the end may travel together.
    pub fn ends_after_write(&self, to: Side) -> bool {
        let ends_at_once = |cause: Cause| cause.ends_client_at_once();
        to == Side::Client
            && matches!(self.writing[to as usize], Writing::Closed(_))
            && (self.inbound[to as usize].closed.is_some()
                || self.phase.cause().is_some_and(ends_at_once))
    }

    /// Whether something of wsgate's own, or of the other side, still has to be written to a side.
    pub fn is_blocked(&self, to: Side) -> bool {
        self.blocked[to as usize]
    }

    /// Whether the outside asked to wait for nothing any more.
    pub fn is_hurried(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.hurried)
    }

    /// Whether the stream toward a side was ended, or is broken.
    pub fn is_finished(&self, to: Side) -> bool {
        matches!(self.writing[to as usize], Writing::Finished(_))
    }

    /// Where the session is in its life.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// How the session ended, once both sides are done.
    #[inline]
    pub fn outcome(&self) -> Option<Outcome> {
        let Phase::Done { cause, timed_out } = self.phase else {
            return None;
        };
        let [client_close, server_close] = self.writing.each_ref().map(Writing::close_code);
        let end = self.rare.as_ref().and_then(|rare| rare.end);
        let [from_client, from_server] = self.inbound.each_ref().map(|from| from.passed);
        Some(Outcome {
            cause,
            client_close,
            server_close,
            timed_out,
            end_began: end.map(|end| end.at),
            silent: end.map_or(Duration::ZERO, |end| end.silent),
            from_client,
            from_server,
        })
    }

    /// Whether there may be an event, or a Ping to be polled: a quick look for the path of every message, as long as the
    /// session is [open](Phase::is_open).
    #[inline]
    pub fn has_news(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| {
            let watch = rare.watch.as_ref();
            let has_ping = |watch: &Watch| SIDES.into_iter().any(|side| watch.is_due(side));
            !rare.events.is_empty() || watch.is_some_and(|watch| has_ping(watch))
        })
    }

    /// Whether a Ping for a side waits until it may be sent.
    #[inline]
    pub fn has_ping(&self, to: Side) -> bool {
        let watch = self.rare.as_ref().and_then(|rare| rare.watch.as_ref());
        watch.is_some_and(|watch| watch.is_due(to))
    }

    /// How many bytes the frame under way from a side still needs before it can be forwarded, 0 where that is not known.
    #[inline]
    pub fn missing(&self, from: Side) -> usize {
        self.inbound[from as usize].flow.missing()
    }

    /// Gives up what is kept to inflate messages, for good: what [`memory_change`](Self::memory_change) says then.
    pub fn stop_inflating(&mut self) -> isize {
        let flows = self.inbound.iter_mut();
        flows.map(|inbound| inbound.flow.stop_inflating()).sum()
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Frees what an idle session does not need.
    fn trim(&mut self) {
        self.rare.take_if(|rare| rare.is_empty());
    }

    fn report(&mut self, event: Event) {
        self.rare().events.push(event);
    }

    fn set_timer(&mut self, timer: Timer, at: Instant) {
        self.rare().timers.set(timer, at);
    }

    fn clear_timer(&mut self, timer: Timer) {
        if let Some(rare) = &mut self.rare {
            rare.timers.clear(timer);
        }
    }

    fn is_timer_set(&self, timer: Timer) -> bool {
        let rare = self.rare.as_ref();
        rare.is_some_and(|rare| rare.timers.is_set(timer))
    }

    /// The memory that compressed messages of a side take, in bytes.
    #[inline]
    pub fn memory(&self, from: Side) -> usize {
        self.inbound[from as usize].flow.memory()
    }

    /// By how much the memory that compressed messages take has changed since the last call, in bytes.
    #[inline]
    pub fn memory_change(&mut self) -> isize {
        let flows = self.inbound.iter_mut();
        flows.map(|inbound| inbound.flow.memory_change()).sum()
    }
}

#[cfg(test)]
mod tests;
