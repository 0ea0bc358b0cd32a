//! Drains: a roster of every live connection, drains that select some of them, and the pace at which each drain closes them.
//!
//! Pure: the caller reports events with their time, and asks which connections to close now and when to ask again. The room knows no
//! clock, no lock, no I/O and no Close code. Three properties always hold. A member is handed out at most once, whatever drains
//! overlap. A drain has handed out all of its members by its deadline, if it is polled then. A connection that was enrolled after
//! the start of a drain is no part of it. [`Conductor`] shows how the room is driven.
//!
//! # The paces
//!
//! Every pace follows a time table: slots of equal length, one member in each, at a random moment of its slot. They differ in the
//! length of the table. [`Pace::Over`] and [`Pace::Rate`] name it; the adaptive pace derives it from what the servers take, and
//! may fall behind it. All paces have these rules in common:
//!
//! - `max_closing` bounds how many closings are under way: told, and not gone yet.
//! - If number, pace and deadline cannot all hold, the pace is raised from the beginning, and [`Forecast::raised`] and
//!   [`Progress::raised`] say so.
//! - Nothing holds back beyond the *latest line*. A drain that waits for clients that never come back would close all that are
//!   left in one blow at the deadline. So a drain is never further behind than on the straight line from the first third of its
//!   time to the deadline, which takes 1.5 times the rate of an even spread at the most, and `max_closing` yields to it. The
//!   members that are left at the deadline are handed out at once.
//! - A member that goes by itself counts as closed, and the members behind it wait as if it had been told: its client will come
//!   back like the others, and a herd after a crash must not grow.
//! - A poll that comes late (a suspended machine, a clock that jumped) does not make up for what it missed: the time table goes
//!   on from there, faster where the deadline needs it.
//!
//! # The adaptive pace
//!
//! **The rate** is the same from the first second to the last, so that the busiest second of a drain is its average second:
//!
//! - 0.8 of the upgrades per second that the servers which take connections are known to take
//!   ([`Conductor::set_known_rate`]; the room `admission` learns it), or of 200 per server where nothing is known. 330 clients
//!   are told within 2 s, 9,000 clients of a server that takes 1,000 per second within 11 s.
//! - More where the drain would otherwise take longer than 0.8 of its deadline. The rest of the time is for what follows.
//!
//! **The brake.** The rate may be wrong: the servers have just restarted, or take less than before. A server shows it in the same
//! way as a network path that is overloaded: answers become slow, then they fail. So the rule is that of congestion control,
//! multiplicative decrease and additive increase, of which it is known that it finds the capacity and stays near it:
//!
//! | congestion control | here |
//! |---|---|
//! | segment sent, acknowledged | client told to reconnect, upgrade seen |
//! | in flight | *away*: told to reconnect and not back yet |
//! | round trip | from telling to coming back, seconds (mostly the delay that the client was suggested) |
//! | loss, growing delay | failed upgrade, handshake time above twice the usual + 20 ms |
//!
//! - There is no window until the first bad sign. At a bad sign no client is told for a quarter of a second (and so for as long
//!   as the signs last), and a window bounds how many clients of the upstream may be away: 0.7 of those that are, once per
//!   round, as the clients on their way left before. The next clients are told only as others come back, and the window
//!   grows by a step per round, an eighth of the window that was right, while it is used and handshakes take no longer than 1.25
//!   times the usual.
//! - A drain that fell behind its table goes on at the rate of the table. It does not catch up unless its deadline needs that.
//! - *Back* is an upgrade that succeeded, beyond the rate of those that came before the drain and only replaced others
//!   that went. That rate and the usual handshake time are learnt only while no client is away. It is not known, and need not
//!   be, which client is back.
//! - A client that is not back after 10 s (or a third of the drain's time, if that is less) is given up: its place in the window
//!   is free, and the window does not grow. Clients that do not reconnect are no sign of strain.
//!
//! The figures are those of the simulation (`simulation`, 10,000 clients, deadline 60 s): a server that takes 300 per second and
//! of which nothing is known has no failed and no slow upgrade in 50 s; one that takes 200 per second, less than the deadline
//! needs, fails 1,200 times where an even spread over 30 s fails 27,000 times.

mod conductor;
mod forecast;
mod pace;
mod plan;
mod pulse;
mod roster;

pub use conductor::Conductor;

use std::time::{Duration, Instant};

/// Where a connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Number of the upstream.
    pub upstream: u32,
    /// Number of the server in it.
    pub server: u32,
    /// Generation of the upstream when the connection was made.
    pub generation: u32,
}

/// A connection in the roster. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(u64);

impl MemberId {
    /// The number that stands for it in JSON and logs.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The connection of this number, which need not exist.
    pub const fn from_number(number: u64) -> Self {
        MemberId(number)
    }
}

/// A drain. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrainId(u64);

impl DrainId {
    /// The number that stands for it in JSON and logs.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The drain of this number, which need not exist.
    pub const fn from_number(number: u64) -> Self {
        DrainId(number)
    }
}

/// Which of the connections that there are at its start a drain closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Selection {
    /// The connections to one server.
    Server {
        /// Number of the upstream.
        upstream: u32,
        /// Number of the server in it.
        server: u32,
    },
    /// The connections to an upstream.
    Upstream {
        /// Number of the upstream.
        upstream: u32,
    },
    /// The connections to an upstream that were made in an earlier generation.
    OlderThan {
        /// Number of the upstream.
        upstream: u32,
        /// The first generation that stays.
        generation: u32,
    },
    /// Connections to an upstream that were chosen one by one, because their servers have more than their share.
    Excess {
        /// Number of the upstream.
        upstream: u32,
    },
    /// All.
    Everything,
    /// One. Those of one upstream and cause that are asked for within half a deadline share a drain, so that many
    /// members with a maximal age make few drains.
    Member(MemberId),
}

impl Selection {
    /// The number of its upstream, where it is about one.
    pub const fn upstream(self) -> Option<u32> {
        match self {
            Selection::Server { upstream, .. }
            | Selection::Upstream { upstream }
            | Selection::OlderThan { upstream, .. }
            | Selection::Excess { upstream } => Some(upstream),
            Selection::Everything | Selection::Member(_) => None,
        }
    }
}

/// How fast members are closed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Spread evenly over this time, which is the deadline too.
    Over(Duration),
    /// This number of connections per second.
    Rate(f64),
    /// As those who were closed come back.
    Adaptive,
}

/// The order in which members are closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest connection first.
    #[default]
    OldestFirst,
    /// A random order.
    Random,
}

/// The terms of a drain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// How fast.
    pub pace: Pace,
    /// From the start to the moment at which what is left is closed at once. [`Pace::Over`] replaces it.
    pub deadline: Duration,
    /// How many closings may be under way: told, and not gone yet. At least one.
    pub max_closing: usize,
    /// The order in which members are closed.
    pub order: Order,
}

impl Terms {
    /// The deadline, or the time that the pace names in its place. A year at the most.
    pub fn deadline_in_force(&self) -> Duration {
        let deadline = match self.pace {
            Pace::Over(over) => over,
            Pace::Rate(_) | Pace::Adaptive => self.deadline,
        };
        deadline.min(Duration::from_secs(365 * 86_400))
    }
}

crate::with_all! {
    /// Why a drain is. Each is a source of the room `deploy`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Cause {
        /// Somebody asked for a drain.
        Operator,
        /// Somebody said that there is a new version behind an address that stays.
        Deploy,
        /// A configuration without the server, or with another generation.
        Reload,
        /// The server failed its checks.
        Health,
        /// The upstream's own Close said that it restarts.
        Upstream,
        /// The server is gone without a Close.
        Crash,
        /// wsgate itself ends.
        Shutdown,
        /// The connection reached its maximal age.
        MaxAge,
        /// The name of the server has its address no more.
        Discovery,
        /// The server has more than its share of the connections.
        Rebalance,
    }
}

impl Cause {
    /// Its name in logs, metrics and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::Operator => "operator",
            Cause::Deploy => "deploy",
            Cause::Reload => "reload",
            Cause::Health => "health",
            Cause::Upstream => "upstream",
            Cause::Crash => "crash",
            Cause::Shutdown => "shutdown",
            Cause::MaxAge => "max_age",
            Cause::Discovery => "discovery",
            Cause::Rebalance => "rebalance",
        }
    }
}

/// Where a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Members wait, or were told and are not gone yet.
    Running,
    /// All of them are gone.
    Done,
    /// The rest stays.
    Cancelled,
}

impl State {
    /// Its name in logs and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Done => "done",
            State::Cancelled => "cancelled",
        }
    }
}

/// The figures of a drain. `total` is always `waiting + closing + closed`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The connections that it closes.
    pub selection: Selection,
    /// Why.
    pub cause: Cause,
    /// Where it is.
    pub state: State,
    /// Members that it has, or had.
    pub total: usize,
    /// Not told yet. Once cancelled: those who stayed.
    pub waiting: usize,
    /// Told, and not gone yet.
    pub closing: usize,
    /// Gone.
    pub closed: usize,
    /// Members of `closed` that ended by themselves, before they were told.
    pub left: usize,
    /// Upgrades seen beyond the usual rate after members were told: an estimate, never more than were told.
    pub reconnected: usize,
    /// Upgrades that failed while members were away.
    pub failed: usize,
    /// Members told per second, of late.
    pub rate: f64,
    /// The pace was too slow for the deadline and was raised.
    pub raised: bool,
    /// When it began.
    pub started: Instant,
    /// When what is left is closed at once.
    pub deadline: Instant,
    /// When the last member is told, as far as is known now; once it is over, when it was over.
    pub ends: Instant,
}

/// The forecast of a drain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// How many it would close.
    pub members: usize,
    /// How long it would take to tell them. For the adaptive pace: if the upstream takes them back with ease.
    pub lasts: Duration,
    /// How long it may take at the most.
    pub deadline: Duration,
    /// Members told per second, in the mean of `lasts`. Zero where it lasts no time.
    pub rate: f64,
    /// The pace is too slow for the deadline and would be raised.
    pub raised: bool,
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
