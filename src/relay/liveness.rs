//! Whether both sides are still there: Pings of our own, between frames, and what follows where nobody answers.
//!
//! One timer per connection, and only where a route asks for it. It goes off when something may have to be done, not
//! when something was heard: a busy connection looks at it once per interval. It is always true that our Pongs reach
//! nobody and that those of others pass.

use super::State;
use super::pipe::{Pipe, Sink};
use crate::frame::ping;
use crate::inspect::Side;
use crate::inspect::closing::Cause;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

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

impl Liveness {
    fn is_off(&self) -> bool {
        self.idle_timeout.is_zero() && self.ping_interval.iter().all(Duration::is_zero)
    }
}

/// What is known of both sides of a connection.
#[derive(Debug)]
pub(super) struct Watch {
    timer: Pin<Box<Sleep>>,
    settings: Liveness,
    /// What our Pings say, by which their Pongs are known.
    payload: [u8; ping::LEN],
    sides: [Pulse; 2],
    /// When something passed last that is not the answer to our Ping, and before that.
    active: [Instant; 2],
}

#[derive(Clone, Copy, Debug)]
struct Pulse {
    heard: Instant,
    /// It was sent a Ping then, and has sent nothing since.
    pinged: Option<Instant>,
    /// It is to be sent one as soon as a frame ends.
    due: bool,
}

impl Watch {
    /// `None` where nothing is asked for.
    pub fn new(settings: Liveness) -> Option<Box<Watch>> {
        if settings.is_off() {
            return None;
        }
        let now = Instant::now();
        let pulse = Pulse {
            heard: now,
            pinged: None,
            due: false,
        };
        let mut watch = Watch {
            timer: Box::pin(sleep_until(now)),
            settings,
            payload: rand::random(),
            sides: [pulse; 2],
            active: [now; 2],
        };
        let next = watch.next();
        watch.timer.as_mut().reset(next);
        Some(Box::new(watch))
    }

    /// A side has sent something.
    pub fn handle_read(&mut self, from: Side, now: Instant) {
        let pulse = &mut self.sides[from as usize];
        (pulse.heard, pulse.pinged, pulse.due) = (now, None, false);
        self.active = [now, self.active[0]];
    }

    /// A Pong came. Whether it is the answer to our Ping.
    pub fn handle_pong(&mut self, payload: &[u8; ping::LEN]) -> bool {
        let is_ours = *payload == self.payload;
        if is_ours {
            self.active[0] = self.active[1];
        }
        is_ours
    }

    /// The timer went off: who is to be sent a Ping, who is gone, and when to look again. Whether a side is there cannot be
    /// known while it is not read, because the other one does not take what it has sent.
    fn look(&mut self, now: Instant, is_unread: [bool; 2]) -> Option<Cause> {
        let Liveness {
            ping_interval,
            pong_timeout,
            idle_timeout,
        } = self.settings;
        if !idle_timeout.is_zero() && self.active[0] + idle_timeout <= now {
            return Some(Cause::Idle);
        }
        for side in [Side::Client, Side::Upstream] {
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
        let next = self.next();
        self.timer.as_mut().reset(next);
        None
    }

    /// When something may have to be done next.
    fn next(&self) -> Instant {
        let Liveness {
            ping_interval,
            pong_timeout,
            idle_timeout,
        } = self.settings;
        let of_sides = self
            .sides
            .iter()
            .zip(ping_interval)
            .map(|(pulse, interval)| match pulse.pinged {
                Some(at) => Some(at + pong_timeout),
                None if interval.is_zero() || pulse.due => None,
                None => Some(pulse.heard + interval),
            });
        let of_both = (!idle_timeout.is_zero()).then(|| self.active[0] + idle_timeout);
        let next = of_sides.chain([of_both]).flatten().min();
        // A Ping that is due waits for the end of a frame; whoever sends one is looked at again then.
        next.unwrap_or_else(|| Instant::now() + ping_interval[0].max(ping_interval[1]))
    }
}

impl State {
    /// Sends Pings that are due, and ends the connection where nobody answers. Whether anything happened.
    pub(super) fn poll_liveness(&mut self, cx: &mut Context<'_>) -> bool {
        if self.cause.is_some() {
            return false;
        }
        let mut moved = self.send_pings();
        // A timer that is set anew has to be asked again, or it wakes nobody.
        while let Some(watch) = &mut self.watch
            && watch.timer.as_mut().poll(cx).is_ready()
        {
            let is_unread = |pipe: &Pipe| pipe.is_passing() && !pipe.is_flushed();
            match watch.look(Instant::now(), self.pipes.each_ref().map(is_unread)) {
                None => {}
                Some(Cause::Vanished { by }) => {
                    let (route, side) = (self.terms.route.as_str(), by.label());
                    tracing::debug!(route, side, "side is gone: it answers no Ping");
                    self.handle_end(by);
                    return true;
                }
                Some(cause) => {
                    self.end(cause);
                    return true;
                }
            }
            moved |= self.send_pings();
        }
        moved
    }

    /// To each side that is due, where what it was sent ends with a frame and is all written.
    fn send_pings(&mut self) -> bool {
        let Some(watch) = &mut self.watch else {
            return false;
        };
        let mut sent = false;
        for side in [Side::Client, Side::Upstream] {
            let pulse = &mut watch.sides[side as usize];
            let pipe = &mut self.pipes[side.other() as usize];
            let may = pulse.due
                && matches!(pipe.sink, Sink::Flowing)
                && pipe.is_flushed()
                && pipe.flow.frame_boundary().is_some();
            if may {
                // §5.3: toward the upstream we are the client, and mask.
                let mask = (side == Side::Upstream).then(rand::random);
                pipe.insert(ping::Frame::new(watch.payload, mask).as_bytes());
                (pulse.due, pulse.pinged) = (false, Some(Instant::now()));
                sent = true;
                let next = watch.next();
                watch.timer.as_mut().reset(next);
                self.pipes[side as usize].flow.watch_pongs();
                if let Some(meter) = &mut self.meter {
                    meter.handle_ping(side);
                }
            }
        }
        sent
    }
}
