//! The shell around a session that a simulation drives: two peers, the bytes on their way, and a clock.

use super::super::*;
use crate::frame::header;
use crate::frame::header::MAX_LEN;
use crate::frame::mask::Mask;
use crate::frame::{Opcode, close};
use std::time::Duration;

/// A frame as this side sends it, by its first byte.
pub(super) fn frame(from: Side, first: u8, payload: &[u8]) -> Vec<u8> {
    let key = (from == Side::Client).then_some([0x11, 0x22, 0xf3, 0x44]);
    let mut head = [0; MAX_LEN];
    let len = header::encode(Opcode::Text, payload.len() as u64, key, &mut head);
    head[0] = first;
    let mut frame = [&head[..len], payload].concat();
    if let Some(key) = key {
        Mask::new(key).apply(&mut frame[len..]);
    }
    frame
}

pub(super) fn close_frame(from: Side, code: u16) -> Vec<u8> {
    frame(from, 0x88, &code.to_be_bytes())
}

/// One direction, from the peer that sends to the peer that reads.
#[derive(Default)]
pub(super) struct Direction {
    /// All that the peer has sent.
    pub sent: Vec<u8>,
    /// How much of it the session was given.
    read: usize,
    /// The peer's stream is at its end.
    pub ended: bool,
    was_told_end: bool,
    window: Vec<u8>,
    fresh: bool,
    /// All that was forwarded of it.
    pub forwarded: Vec<u8>,
    /// All that was to be written to the other peer, frames of wsgate included.
    pub output: Vec<u8>,
    /// How much of that the other peer has taken.
    pub taken: usize,
    /// The stream toward the other peer was ended.
    pub shut_down: bool,
}

/// A session, its peers and the time. Directions are by the side that sends.
pub(super) struct World {
    pub session: Session,
    pub directions: [Direction; 2],
    pub now: Instant,
    pub events: Vec<Event>,
    /// By the side that reads: how much it takes when it is asked; `usize::MAX` for a peer that keeps up.
    pub appetite: [usize; 2],
    /// By the side that is written to: writing fails.
    pub broken: [bool; 2],
    block: Block,
    rank: u8,
}

impl World {
    pub(super) fn new(mut settings: Settings, seed: u64) -> World {
        let now = Instant::now();
        settings.epoch = Some(now);
        let mut session = Session::new(Arc::new(settings), None, seed);
        session.start(now);
        World {
            session,
            directions: Default::default(),
            now,
            events: Vec::new(),
            appetite: [usize::MAX; 2],
            broken: [false; 2],
            block: Block::default(),
            rank: 0,
        }
    }

    pub(super) fn send(&mut self, from: Side, bytes: &[u8]) {
        self.directions[from as usize].sent.extend_from_slice(bytes);
    }

    pub(super) fn end(&mut self, from: Side) {
        self.directions[from as usize].ended = true;
    }

    pub(super) fn command(&mut self, command: Command) {
        self.session.handle_command(command, self.now);
        self.run_until_idle();
    }

    /// What a side was sent, as whole frames by first byte and unmasked payload; and how much of an unfinished one followed.
    pub(super) fn frames_to(&self, to: Side) -> (Vec<(u8, Vec<u8>)>, usize) {
        let mut bytes = &self.directions[to.other() as usize].output[..];
        let mut frames = Vec::new();
        while let Some(header) = header::decode(bytes) {
            let end = header.len + header.payload_len as usize;
            if bytes.len() < end {
                break;
            }
            let mut payload = bytes[header.len..end].to_vec();
            if let Some(key) = header.mask {
                Mask::new(key).apply(&mut payload);
            }
            frames.push((header.first.0, payload));
            bytes = &bytes[end..];
        }
        (frames, bytes.len())
    }

    /// Code of the Close that a side was sent.
    pub(super) fn close_to(&self, to: Side) -> Option<u16> {
        let (frames, _) = self.frames_to(to);
        let (_, payload) = frames.into_iter().find(|(first, _)| *first == 0x88)?;
        close::parse(&payload).ok()?.code
    }

    /// Everything that can happen without more time and without more from the peers.
    pub(super) fn run_until_idle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = self.poll_frames();
            for from in SIDES {
                moved |= self.write(from);
                moved |= self.read(from);
            }
            let rank = self.session.phase().rank();
            assert!(rank >= self.rank, "the phase moves forward");
            self.rank = rank;
            if !moved {
                return;
            }
        }
        panic!("the session never comes to rest: {:?}", self.session);
    }

    /// Lets time pass, timer by timer.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        for _ in 0..100_000 {
            let next = self.session.poll_timeout().filter(|next| *next <= end);
            let Some(next) = next else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            let taken = SIDES.map(|to| self.directions[to.other() as usize].taken as u64);
            let now = self.now;
            self.session
                .handle_timeout(now, |side| Some(taken[side as usize]));
            self.run_until_idle();
        }
        panic!("timers fire for ever: {:?}", self.session);
    }

    fn poll_frames(&mut self) -> bool {
        let mut moved = false;
        for to in SIDES {
            while let Some(frame) = self.session.poll_frame(to, self.now, &()) {
                let output = &mut self.directions[to.other() as usize].output;
                output.extend_from_slice(frame.as_bytes());
                moved = true;
            }
        }
        while let Some(event) = self.session.poll_event() {
            self.events.push(event);
        }
        moved
    }

    fn write(&mut self, from: Side) -> bool {
        let to = from.other();
        let direction = &mut self.directions[from as usize];
        let waiting = direction.output.len() - direction.taken;
        if waiting > 0 && self.broken[to as usize] {
            direction.taken = direction.output.len();
            self.session.handle_write_error(to, self.now);
            return true;
        }
        let takes = waiting.min(self.appetite[to as usize]);
        direction.taken += takes;
        if self.appetite[to as usize] != usize::MAX {
            self.appetite[to as usize] -= takes;
        }
        match waiting - takes {
            0 => self.session.handle_written(to),
            _ => self.session.handle_blocked(to, takes > 0, self.now),
        }
        if self.session.wants_shutdown(to) && !direction.shut_down {
            direction.shut_down = true;
            self.session.handle_shutdown(to);
            return true;
        }
        takes > 0
    }

    fn read(&mut self, from: Side) -> bool {
        if self.session.outcome().is_some() {
            return false;
        }
        let Some(most) = self.session.wants_bytes(from, self.now) else {
            return false;
        };
        let direction = &mut self.directions[from as usize];
        if !direction.fresh {
            let count = (direction.sent.len() - direction.read).min(most);
            if count == 0 {
                let ends = direction.ended && !direction.was_told_end;
                if ends {
                    direction.was_told_end = true;
                    self.session.handle_eof(from, self.now);
                }
                return ends;
            }
            let read = direction.read..direction.read + count;
            direction.read += count;
            direction.window.extend_from_slice(&direction.sent[read]);
            self.session.handle_read(from, count);
        }
        let (window, turn) = (&direction.window, &mut Turn::default());
        let passage = self
            .session
            .handle_bytes(from, window, &mut self.block, turn, self.now);
        let forward: Vec<u8> = direction.window.drain(..passage.forward).collect();
        direction.window.drain(..passage.discard);
        direction.forwarded.extend_from_slice(&forward);
        direction.output.extend_from_slice(&forward);
        direction.fresh = passage.again;
        self.poll_frames();
        true
    }
}
