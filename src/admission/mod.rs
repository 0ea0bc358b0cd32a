//! How fast upgrades reach the servers of an upstream, whatever clients do with the advice that they get.
//!
//! ```text
//!                    a server has room, nobody waits
//!   upgrade --------------------------------------------------------> handshake --> end
//!      |                                                                 ^
//!      | no server has room            a server has room                 |
//!      +-------------------> waiting ------------------------------------+
//!      |                        |
//!      | the wait would be      | the client leaves, or `queue_timeout` is over
//!      | too long               v
//!      +--------------------> refused, with a Retry-After
//! ```
//!
//! - [`limit`]: how many handshakes may be under way toward one server, and how many may begin per second.
//! - [`ejection`]: when a server that fails connections is left alone for a while.
//! - [`queue`]: the upgrades that wait, in a fair order.
//! - [`reconnects`]: for how long clients are told to stay away.
//!
//! [`Admission`] is all of that for one upstream. Pure: time comes in as an argument, decisions go out as values. Which server
//! takes connections at all, and which of them an upgrade is balanced to, is the caller's to say.
//!
//! An upgrade that waits is never served after one that came later from the same network and wants the same server. While a
//! server answers as usual nobody waits.

pub mod ejection;
mod learnt;
pub mod limit;
pub mod queue;
mod rate;
pub mod reconnects;
mod under_way;

use limit::{ClientNetwork, Handshake, HandshakeEnd, Limit, Room, Settings};
use queue::{Queue, Waiter, Wanted};
use reconnects::{GUESS, Reconnects};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// An upgrade may wait only if the predicted wait is at most this part of the time that it may wait. The prediction is not exact,
/// and an upgrade that waits in vain is worse off than one that is refused at once.
const CAUTION: f64 = 0.8;

/// When the servers turn out to take less than was predicted, the last waiters are refused as soon as the predicted wait exceeds
/// this part of the time that an upgrade may wait.
const LATE: f64 = 0.9;

/// Most upgrades that wait for the servers of one upstream.
pub const MOST_WAITING: usize = 16_384;

/// The admission of upgrades to the servers of one upstream.
#[derive(Debug)]
pub struct Admission {
    settings: Settings,
    limits: HashMap<u32, Limit>,
    queue: Queue,
    reconnects: Reconnects,
}

/// The decision about an upgrade for which no server has room.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// The upgrade waits.
    Waits(Waiter),
    /// The upgrade would wait longer than it may. The client is to come again after this time.
    Refused(Duration),
}

/// A waiter whose turn has come.
#[derive(Debug)]
pub enum Turn {
    /// The handshake with this server has begun.
    Begins(u32, Handshake),
    /// The server that the waiter wants does not take connections any more: the upgrade has to choose a server anew.
    ChoosesAnew,
    /// The servers turned out to take less than was predicted when the waiter entered, so that it would wait longer than it may.
    /// The client is to come again after this time.
    Refused(Duration),
}

/// The admission of one server, for operators.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServerAdmission {
    /// Handshakes under way.
    pub under_way: u64,
    /// The bound on handshakes under way.
    pub bound: u64,
    /// Handshakes that the server answered within the last second.
    pub per_second: f64,
    /// Upgrades per second that the server is known to take.
    pub known_rate: Option<f64>,
}

impl Admission {
    /// Without anything learnt.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Admission {
            settings,
            limits: HashMap::new(),
            queue: Queue::default(),
            reconnects: Reconnects::new(now),
        }
    }

    /// Follows other settings from now on.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.limits
            .values_mut()
            .for_each(|limit| limit.set(settings));
    }

    /// Forgets the servers that are not among these.
    pub fn retain(&mut self, servers: &[u32]) {
        self.limits
            .retain(|server, limit| servers.contains(server) || limit.under_way() > 0);
    }

    /// Begins a handshake with this server, if it has room and nobody waits for that.
    pub fn try_start(&mut self, server: u32, now: Instant) -> Option<Handshake> {
        if !self.queue.is_empty() {
            return None;
        }
        let limit = self.limit(server, now);
        (limit.room(now) == Room::Yes).then(|| limit.start(now))
    }

    /// A server failed and is left alone: of the next handshakes with it one has to succeed before others begin.
    pub fn probe(&mut self, server: u32, now: Instant) {
        self.limit(server, now).probe();
    }

    /// A handshake with this server is over; see [`Limit::end`].
    pub fn end(
        &mut self,
        server: u32,
        handshake: Handshake,
        end: HandshakeEnd,
        client: ClientNetwork,
        now: Instant,
    ) {
        self.limit(server, now).end(handshake, end, client, now);
    }

    /// An upgrade for which no server has room. `servers` are the servers that take connections;
    /// `patience` is the time that the upgrade may wait.
    pub fn enter(
        &mut self,
        wanted: Wanted,
        client: ClientNetwork,
        servers: &[u32],
        patience: Duration,
    ) -> Entry {
        let wait = self.wait_of(self.queue.len() + 1, servers, patience);
        if self.queue.len() >= MOST_WAITING
            || wait.is_some_and(|wait| wait > patience.mul_f64(CAUTION))
        {
            return Entry::Refused(wait.unwrap_or(patience));
        }
        Entry::Waits(self.queue.enter(wanted, client))
    }

    /// A waiter does not wait any more: its client left, or its time is over.
    pub fn leave(&mut self, waiter: Waiter) {
        self.queue.leave(waiter);
    }

    /// Gives turns to waiters, as many as the servers that take connections have room for. The time is when to ask again at the
    /// latest; `None` where the next event (an end, a server that takes connections again, a waiter more) is soon enough.
    /// `patience` is how long an upgrade may wait.
    pub fn poll(
        &mut self,
        servers: &[u32],
        patience: Duration,
        now: Instant,
    ) -> (Vec<(Waiter, Turn)>, Option<Instant>) {
        let mut turns = Vec::new();
        let mut wake: Option<Instant> = None;
        if self.queue.is_empty() {
            return (turns, wake);
        }
        if !servers.is_empty() {
            let strays = self.queue.take_strays(servers);
            turns.extend(strays.into_iter().map(|waiter| (waiter, Turn::ChoosesAnew)));
        }
        if let Some(wait) = self.wait_of(self.queue.len(), servers, patience)
            && wait > patience.mul_f64(LATE)
        {
            let part = patience.as_secs_f64() * CAUTION / wait.as_secs_f64();
            let most = (self.queue.len() as f64 * part) as usize;
            while self.queue.len() > most
                && let Some(waiter) = self.queue.take_last()
            {
                turns.push((waiter, Turn::Refused(wait)));
            }
        }
        // One at a time of each server, so that all get the same share.
        let mut ready = servers.to_vec();
        while !ready.is_empty() {
            ready.retain(|&server| {
                let limit = self.limits.entry(server);
                let limit = limit.or_insert_with(|| Limit::new(self.settings, now));
                let at = match limit.room(now) {
                    Room::Yes => {
                        let Some(waiter) = self.queue.take(server) else {
                            return false;
                        };
                        turns.push((waiter, Turn::Begins(server, limit.start(now))));
                        return true;
                    }
                    Room::AtBound(at) => at,
                    Room::AtRate(at) => Some(at),
                };
                wake = match (wake, at) {
                    (Some(wake), Some(at)) => Some(wake.min(at)),
                    (wake, at) => wake.or(at),
                };
                false
            });
        }
        (turns, wake)
    }

    /// The number of waiters.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// How long a client that has to reconnect is told to wait, of this range. `servers` are those that take connections; `draw`
    /// is a random number from 0 to 1.
    pub fn reconnect_delay(
        &mut self,
        range: (Duration, Duration),
        servers: &[u32],
        draw: f64,
        now: Instant,
    ) -> Duration {
        let rate = self.known_rate(servers);
        self.reconnects.set_rate(rate);
        self.reconnects.delay(range, draw, now)
    }

    /// Upgrades per second that these servers, those that take connections, are known to take; [`GUESS`] for each server of
    /// which nothing is known.
    pub fn known_rate(&self, servers: &[u32]) -> f64 {
        let known = |server: &u32| self.limits.get(server).and_then(Limit::known_rate);
        // Where no server takes connections, one will be back before the clients are.
        let of_none = if servers.is_empty() { GUESS } else { 0.0 };
        let rates = servers.iter().map(|server| known(server).unwrap_or(GUESS));
        of_none + rates.sum::<f64>()
    }

    /// The admission of a server.
    pub fn server(&mut self, server: u32, now: Instant) -> ServerAdmission {
        let settings = self.settings;
        let mut unknown = None;
        let limit = match self.limits.get_mut(&server) {
            Some(limit) => limit,
            None => unknown.insert(Limit::new(settings, now)),
        };
        ServerAdmission {
            under_way: limit.under_way(),
            bound: limit.bound(),
            per_second: limit.answered_per_second(now),
            known_rate: limit.known_rate(),
        }
    }

    /// The predicted wait of the last of this number of waiters, who may wait for `patience`; `None` where no rate is known.
    fn wait_of(&self, number: usize, servers: &[u32], patience: Duration) -> Option<Duration> {
        let rates = servers
            .iter()
            .map(|server| self.limits.get(server)?.admitting_rate(patience));
        let rate: f64 = rates.sum::<Option<f64>>().filter(|rate| *rate > 0.0)?;
        Some(Duration::from_secs_f64(number as f64 / rate))
    }

    fn limit(&mut self, server: u32, now: Instant) -> &mut Limit {
        let settings = self.settings;
        self.limits
            .entry(server)
            .or_insert_with(|| Limit::new(settings, now))
    }
}

#[cfg(test)]
mod simulation;
