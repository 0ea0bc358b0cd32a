//! One server of an upstream, and why it does or does not take new connections.

use crate::proxy::settings::Address;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A server at run time. It outlives reloads that keep its address, and, while it has connections, those that don't.
#[derive(Debug)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// By which drains know it in its upstream. Never used twice.
    pub number: u32,
    /// Somebody took it out.
    drained: AtomicBool,
    /// The configuration does not have it any more.
    left: AtomicBool,
    /// What its checks say.
    standing: AtomicU8,
    /// When it became able to serve again, if that was while wsgate ran.
    back_since: Mutex<Option<Instant>>,
}

/// What the checks of a server say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// It passes them, or has none.
    Good = 0,
    /// It is new and has not passed one yet.
    Untried = 1,
    /// It fails them.
    Bad = 2,
}

/// What operators are told of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes connections.
    Up,
    /// It was taken out, by somebody or by a configuration without it.
    Draining,
    /// It does not pass its checks.
    Down,
}

impl State {
    /// Each of them.
    pub const ALL: [State; 3] = [State::Up, State::Draining, State::Down];

    /// Its name in JSON, logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Draining => "draining",
            State::Down => "down",
        }
    }
}

impl Server {
    pub(super) fn new(address: Address, number: u32, standing: Standing) -> Self {
        Server {
            address,
            number,
            drained: AtomicBool::new(false),
            left: AtomicBool::new(false),
            standing: AtomicU8::new(standing as u8),
            back_since: Mutex::new(None),
        }
    }

    /// Whether somebody took it out.
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// Whether the configuration does not have it any more.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// What its checks say.
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            0 => Standing::Good,
            1 => Standing::Untried,
            _ => Standing::Bad,
        }
    }

    /// What operators are told.
    pub fn state(&self) -> State {
        if self.is_drained() || self.has_left() {
            State::Draining
        } else if self.standing() == Standing::Good {
            State::Up
        } else {
            State::Down
        }
    }

    pub(super) fn set_drained(&self, drained: bool) {
        if self.drained.swap(drained, Ordering::Relaxed) && !drained {
            self.is_back();
        }
    }

    pub(super) fn set_left(&self, left: bool) {
        self.left.store(left, Ordering::Relaxed);
    }

    pub(super) fn set_standing(&self, standing: Standing) {
        let before = self.standing.swap(standing as u8, Ordering::Relaxed);
        if standing == Standing::Good && before != Standing::Good as u8 {
            self.is_back();
        }
    }

    fn is_back(&self) {
        *self.lock() = Some(Instant::now());
    }

    /// The share of connections that it takes of those that it would otherwise have: it grows from nothing to 1 in the
    /// time of a slow start.
    pub(super) fn share(&self, slow_start: Duration) -> f64 {
        if slow_start.is_zero() {
            return 1.0;
        }
        let since = self.lock().map(|since| since.elapsed());
        match since {
            Some(since) if since < slow_start => {
                // A tenth from the first moment on, or nothing would ever be learnt of it.
                (since.as_secs_f64() / slow_start.as_secs_f64()).max(0.1)
            }
            Some(_) | None => 1.0,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.back_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
