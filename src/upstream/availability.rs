//! Whether a server takes new connections, and why not: one state for each server.
//!
//! ```text
//!            drain ---> Drained ----- resume --------------------------+
//! Taking --- reload, discovery ---> Removed ----- the server is back --+---> the next reason that holds, or Taking
//!            a check fails ---> Unhealthy ----- a check passes --------+
//!            a new server with checks ---> Untried --- a check passes -+
//!            connections fail ---> Ejected ----- the pause is over, ---+
//!                                                a check passes, resume, reload
//! ```
//!
//! Several reasons may hold at a time, and each ends by its own event. The state that operators see is the first that holds of Drained,
//! Removed, Unhealthy, Untried, Ejected. Ejections end by time and have their evidence in `admission::ejection`; all others are kept here.

use crate::admission::ejection::Ejected;
use crate::drain::Cause;
use crate::upstream::intents::Intent;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// The result of the checks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// The server passes its checks, or has none.
    Good,
    /// The server is new and has not passed a check yet.
    Untried,
    /// The server fails its checks.
    Bad,
}

crate::with_all! {
    /// The state of a server as operators see it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum State {
        /// The server takes connections.
        Up,
        /// The server is to take connections, but every connect to it fails.
        Unreachable,
        /// An operator took the server out, or a new configuration does not have it; it has connections or plain requests.
        Draining,
        /// As before, and none of its connections and plain requests is left: it can be stopped.
        Drained,
        /// The server fails its checks, or is ejected.
        Down,
    }
}

impl State {
    /// Its name in JSON, logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Unreachable => "unreachable",
            State::Draining => "draining",
            State::Drained => "drained",
            State::Down => "down",
        }
    }
}

/// Why a server takes no new connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// An operator drained it.
    Drained(Intent),
    /// A new configuration, or the name that it was resolved from, does not have it.
    Removed(Cause),
    /// It fails its checks.
    Unhealthy {
        /// Since then.
        since: Instant,
    },
    /// It is new, and has not passed a check yet.
    Untried {
        /// Since then.
        since: Instant,
    },
    /// It failed connections, and is left alone for a while.
    Ejected(Ejected),
}

impl Out {
    /// The state as operators see it, of a server that has connections or plain requests, or has none.
    pub const fn state(&self, is_empty: bool) -> State {
        match self {
            Out::Drained(_) | Out::Removed(_) if is_empty => State::Drained,
            Out::Drained(_) | Out::Removed(_) => State::Draining,
            Out::Unhealthy { .. } | Out::Untried { .. } | Out::Ejected(_) => State::Down,
        }
    }

    /// The reason in JSON and in `wsgate status`.
    pub fn reason(&self) -> String {
        match self {
            Out::Drained(_) => "drained".to_owned(),
            Out::Removed(cause) => format!("removed by {}", cause.label()),
            Out::Unhealthy { .. } => "fails its checks".to_owned(),
            Out::Untried { .. } => "not checked yet".to_owned(),
            Out::Ejected(ejected) => format!("ejected: {}", ejected.reason.label()),
        }
    }

    /// For how long; `None` where it is not known.
    pub fn age(&self) -> Option<Duration> {
        match self {
            Out::Drained(intent) => Some(intent.age()),
            Out::Removed(_) => None,
            Out::Unhealthy { since } | Out::Untried { since } => Some(since.elapsed()),
            Out::Ejected(ejected) => Some(ejected.since.elapsed()),
        }
    }

    /// The time until it ends by itself; `None` where an event has to end it.
    pub fn left(&self) -> Option<Duration> {
        match self {
            Out::Ejected(ejected) => Some(ejected.until.saturating_duration_since(Instant::now())),
            _ => None,
        }
    }

    /// The requester of a drain.
    pub fn by(&self) -> Option<&str> {
        match self {
            Out::Drained(intent) => Some(&intent.by),
            _ => None,
        }
    }
}

/// The reasons that hold for a server, without its ejection.
#[derive(Debug)]
pub(super) struct Availability {
    reasons: Mutex<Reasons>,
    /// Which reasons hold, one bit each: every upgrade asks this of every server, and takes no lock.
    flags: AtomicU8,
}

const DRAINED: u8 = 1;
const REMOVED: u8 = 2;
const UNHEALTHY: u8 = 4;
const UNTRIED: u8 = 8;

#[derive(Debug)]
struct Reasons {
    intent: Option<Intent>,
    removed: Option<Cause>,
    health: HealthStatus,
    /// When its health changed last.
    health_since: Instant,
    /// When it became able to serve again, if that was while wsgate ran.
    back_since: Option<Instant>,
}

impl Reasons {
    fn flags(&self) -> u8 {
        let health = match self.health {
            HealthStatus::Good => 0,
            HealthStatus::Untried => UNTRIED,
            HealthStatus::Bad => UNHEALTHY,
        };
        let drained = self.intent.as_ref().map_or(0, |_| DRAINED);
        health | drained | self.removed.map_or(0, |_| REMOVED)
    }
}

impl Availability {
    pub(super) fn new(health: HealthStatus) -> Self {
        let reasons = Reasons {
            intent: None,
            removed: None,
            health,
            health_since: Instant::now(),
            back_since: None,
        };
        Availability {
            flags: AtomicU8::new(reasons.flags()),
            reasons: Mutex::new(reasons),
        }
    }

    /// Why the server takes no new connections, ejections aside.
    pub(super) fn out(&self) -> Option<Out> {
        let reasons = self.reasons.lock();
        let since = reasons.health_since;
        match (&reasons.intent, reasons.removed, reasons.health) {
            (Some(intent), _, _) => Some(Out::Drained(intent.clone())),
            (None, Some(cause), _) => Some(Out::Removed(cause)),
            (None, None, HealthStatus::Bad) => Some(Out::Unhealthy { since }),
            (None, None, HealthStatus::Untried) => Some(Out::Untried { since }),
            (None, None, HealthStatus::Good) => None,
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.has(DRAINED)
    }

    pub(super) fn is_removed(&self) -> bool {
        self.has(REMOVED)
    }

    pub(super) fn health(&self) -> HealthStatus {
        match (self.has(UNHEALTHY), self.has(UNTRIED)) {
            (true, _) => HealthStatus::Bad,
            (false, true) => HealthStatus::Untried,
            (false, false) => HealthStatus::Good,
        }
    }

    pub(super) fn intent(&self) -> Option<Intent> {
        self.reasons.lock().intent.clone()
    }

    pub(super) fn removed_by(&self) -> Option<Cause> {
        self.reasons.lock().removed
    }

    /// When the server became able to serve again, by a resume or a passed check.
    pub(super) fn back_since(&self) -> Option<Instant> {
        self.reasons.lock().back_since
    }

    pub(super) fn set_intent(&self, intent: Option<Intent>) {
        self.change(|reasons| {
            let resumed = reasons.intent.is_some() && intent.is_none();
            reasons.intent = intent;
            resumed
        });
    }

    pub(super) fn set_removed(&self, by: Option<Cause>) {
        self.change(|reasons| {
            reasons.removed = by;
            false
        });
    }

    pub(super) fn set_health(&self, health: HealthStatus) {
        self.change(|reasons| {
            let changed = reasons.health != health;
            if changed {
                reasons.health = health;
                reasons.health_since = Instant::now();
            }
            changed && health == HealthStatus::Good
        });
    }

    /// Changes the reasons; `change` returns true if a slow start begins.
    fn change(&self, change: impl FnOnce(&mut Reasons) -> bool) {
        let mut reasons = self.reasons.lock();
        if change(&mut reasons) {
            reasons.back_since = Some(Instant::now());
        }
        self.flags.store(reasons.flags(), Ordering::Relaxed);
    }

    fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent() -> Intent {
        Intent {
            upstream: "a".to_owned(),
            server: None,
            since: 0,
            by: "alice".to_owned(),
        }
    }

    /// Every set of reasons, set and ended in every order: what is shown is the first that holds.
    #[test]
    fn each_reason_ends_by_its_own_event() {
        type Event = fn(&Availability, bool);
        const EVENTS: [Event; 3] = [
            |of, on| of.set_intent(on.then(intent)),
            |of, on| of.set_removed(on.then_some(Cause::Discovery)),
            |of, on| {
                of.set_health(if on {
                    HealthStatus::Bad
                } else {
                    HealthStatus::Good
                })
            },
        ];
        const SHOWN: [&str; 3] = ["drained", "removed by discovery", "fails its checks"];
        for order in 0..6_usize {
            let of = Availability::new(HealthStatus::Good);
            let mut holds = [false; 3];
            let first = order % 3;
            let second = (first + 1 + order / 3) % 3;
            let third = 3 - first - second;
            for (event, on) in [first, second, third, first, second, third]
                .into_iter()
                .zip([true, true, true, false, false, false])
            {
                EVENTS[event](&of, on);
                holds[event] = on;
                let shown = holds
                    .iter()
                    .position(|holds| *holds)
                    .map(|index| SHOWN[index]);
                assert_eq!(of.out().map(|out| out.reason()).as_deref(), shown);
                assert_eq!((of.is_drained(), of.is_removed()), (holds[0], holds[1]));
                assert_eq!(of.health() == HealthStatus::Bad, holds[2]);
            }
        }
    }

    #[test]
    fn a_slow_start_begins_with_a_resume_and_with_a_passed_check() {
        let of = Availability::new(HealthStatus::Untried);
        assert_eq!(of.back_since(), None);
        of.set_removed(Some(Cause::Reload));
        of.set_removed(None);
        assert_eq!(
            of.back_since(),
            None,
            "a reload that has it again is no return"
        );
        of.set_health(HealthStatus::Good);
        let passed = of.back_since().expect("a check has passed");
        of.set_intent(Some(intent()));
        of.set_intent(None);
        assert!(of.back_since() >= Some(passed));
    }
}
