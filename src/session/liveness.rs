//! Whether both sides are still there: Pings of wsgate, between frames, and what follows where no answer comes.
//!
//! The timer fires when something may have to be done, not when something was heard: a busy connection is looked at once
//! per interval.

use super::timers::Timer;
use super::writing::Writing;
use super::{ControlFrame, Event, SIDES, Session};
use crate::frame::ping;
use crate::inspect::Side;
use crate::inspect::closing::Cause;
use std::time::{Duration, Instant};

/// How a route finds out whether both sides are there. Zero: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    /// A side that has been silent for so long is sent a Ping. By side.
    pub ping_interval: [Duration; 2],
    /// A side that has sent nothing for so long after a Ping is gone.
    pub pong_timeout: Duration,
    /// A connection over which nothing has passed for so long is closed with 1001.
    pub idle_timeout: Duration,
}

/// The liveness of both sides of a connection.
#[derive(Debug)]
pub(super) struct Watch {
    settings: Liveness,
    /// The payload of wsgate's Pings, by which the Pongs that answer them are known.
    payload: [u8; ping::LEN],
    sides: [Pulse; 2],
    /// When something passed last that is not the answer to a Ping of wsgate, and before that.
    active: [Instant; 2],
}

#[derive(Clone, Copy, Debug)]
struct Pulse {
    heard: Instant,
    /// The side was sent a Ping then, and has sent nothing since.
    pinged: Option<Instant>,
    /// The side is to be sent a Ping at the next frame boundary.
    due: bool,
}

impl Watch {
    /// `None` where the route asks for nothing.
    pub(super) fn new(
        settings: Liveness,
        payload: [u8; ping::LEN],
        now: Instant,
    ) -> Option<Box<Watch>> {
        let is_off =
            settings.idle_timeout.is_zero() && settings.ping_interval.iter().all(Duration::is_zero);
        let pulse = Pulse {
            heard: now,
            pinged: None,
            due: false,
        };
        (!is_off).then(|| {
            Box::new(Watch {
                settings,
                payload,
                sides: [pulse; 2],
                active: [now; 2],
            })
        })
    }

    /// A side has sent something.
    pub(super) fn handle_read(&mut self, from: Side, now: Instant) {
        let pulse = &mut self.sides[from as usize];
        (pulse.heard, pulse.pinged, pulse.due) = (now, None, false);
        self.active = [now, self.active[0]];
    }

    /// A Pong came. Whether it answers a Ping of wsgate.
    pub(super) fn handle_pong(&mut self, payload: &[u8; ping::LEN]) -> bool {
        let is_answer = *payload == self.payload;
        if is_answer {
            self.active[0] = self.active[1];
        }
        is_answer
    }

    /// Whether a side is to be sent a Ping.
    pub(super) fn is_due(&self, side: Side) -> bool {
        self.sides[side as usize].due
    }

    /// Finds out who is to be sent a Ping, and returns the cause if the connection ends. Whether a side is there cannot be known while
    /// it is not read, because the other side does not take what it has sent.
    fn look(&mut self, now: Instant, is_unread: [bool; 2]) -> Option<Cause> {
        let Liveness {
            ping_interval,
            pong_timeout,
            idle_timeout,
        } = self.settings;
        if !idle_timeout.is_zero() && self.active[0] + idle_timeout <= now {
            return Some(Cause::Idle);
        }
        for side in SIDES {
            let interval = ping_interval[side as usize];
            let pulse = &mut self.sides[side as usize];
            if is_unread[side as usize] {
                (pulse.heard, pulse.pinged, pulse.due) = (now, None, false);
                continue;
            }
            match pulse.pinged {
                Some(at) if at + pong_timeout <= now => {
                    return Some(Cause::Vanished { by: side });
                }
                Some(_) => {}
                None => pulse.due |= !interval.is_zero() && pulse.heard + interval <= now,
            }
        }
        None
    }

    /// When something may have to be done next; `None` while a Ping waits for a frame boundary.
    fn next(&self) -> Option<Instant> {
        let Liveness {
            ping_interval,
            pong_timeout,
            idle_timeout,
        } = self.settings;
        let of_side = |(pulse, interval): (&Pulse, Duration)| match pulse.pinged {
            Some(at) => Some(at + pong_timeout),
            None if interval.is_zero() || pulse.due => None,
            None => Some(pulse.heard + interval),
        };
        let of_sides = self.sides.iter().zip(ping_interval).map(of_side);
        let of_both = (!idle_timeout.is_zero()).then(|| self.active[0] + idle_timeout);
        of_sides.chain([of_both]).flatten().min()
    }
}

impl Session {
    pub(super) fn arm_liveness(&mut self) {
        let Some(rare) = &mut self.rare else {
            return;
        };
        match rare.watch.as_ref().and_then(|watch| watch.next()) {
            Some(next) => rare.timers.set(Timer::Liveness, next),
            None => rare.timers.clear(Timer::Liveness),
        }
    }

    pub(super) fn look_for_life(&mut self, now: Instant) {
        let is_unread = SIDES.map(|side| {
            let to = side.other() as usize;
            self.writing[to].is_passing() && self.blocked[to]
        });
        let Some(watch) = self.rare.as_mut().and_then(|rare| rare.watch.as_mut()) else {
            return;
        };
        match watch.look(now, is_unread) {
            None => self.arm_liveness(),
            Some(Cause::Vanished { by }) => {
                self.report(Event::NoPong { side: by });
                self.lose(by, Cause::Vanished { by }, now);
            }
            Some(cause) => self.end(cause, now),
        }
    }

    /// A Ping for a side that is due, where all that it was sent is written and ends at a frame boundary.
    pub(super) fn poll_ping(&mut self, to: Side, now: Instant) -> Option<ControlFrame> {
        let rare = self.rare.as_mut()?;
        let watch = rare.watch.as_mut()?;
        let pulse = &mut watch.sides[to as usize];
        let is_free =
            matches!(self.writing[to as usize], Writing::Passing) && !self.blocked[to as usize];
        if !pulse.due || !is_free || self.phase.cause().is_some() {
            return None;
        }
        let boundary = self.inbound[to.other() as usize].flow.frame_boundary()?;
        (pulse.due, pulse.pinged) = (false, Some(now));
        // Until the caller says that the frame is written.
        self.blocked[to as usize] = true;
        // RFC 6455 §5.3: toward the server wsgate is the client, and masks.
        let mask = (to == Side::Server).then(|| self.generator.mask());
        let frame = ping::Frame::new(watch.payload, mask);
        self.inbound[to as usize].flow.watch_pongs();
        if let Some(meter) = &mut rare.meter {
            meter.handle_ping(to);
        }
        self.arm_liveness();
        Some(ControlFrame::ping(boundary, frame))
    }
}
