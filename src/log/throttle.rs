//! How often the log says the same: the first event of a cause is written, those after it are counted for a while.
//!
//! A server that is down, or an attacker, makes one cause happen thousands of times a second. It is always true that a
//! cause is written at most once per period, that no event is forgotten (the next line has the number of those that were
//! not written, or [`Throttle::overdue`] where none follows), and that the memory for causes has a bound. No clock is read
//! here.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

/// An event that repeats, and its subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    /// How important its lines are.
    pub level: tracing::Level,
    /// The sentence that the log has for it.
    pub event: &'static str,
    /// A route, a server, a listener. Empty for all that there was no memory for.
    pub subject: String,
}

/// Events that were not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suppressed {
    /// How many.
    pub count: u64,
    /// Within this time.
    pub within: Duration,
}

impl fmt::Display for Suppressed {
    /// As it stands behind the sentence of an event: nothing where there is nothing to say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => Ok(()),
            count => write!(f, " ({count} more in the last {} s)", self.within.as_secs()),
        }
    }
}

#[derive(Debug)]
struct Account {
    /// When it was last written.
    since: Instant,
    suppressed: u64,
}

impl Account {
    fn take(&mut self, now: Instant) -> Suppressed {
        let within = now.saturating_duration_since(self.since);
        self.since = now;
        Suppressed {
            count: std::mem::take(&mut self.suppressed),
            within,
        }
    }

    fn is_over(&self, period: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= period
    }
}

/// Remembers what was written.
#[derive(Debug)]
pub struct Throttle {
    period: Duration,
    most: usize,
    causes: HashMap<Cause, Account>,
}

impl Throttle {
    /// Each cause once per period; at most so many are told apart, the others are one per event.
    pub fn new(period: Duration, most: usize) -> Self {
        Throttle {
            period,
            most,
            causes: HashMap::new(),
        }
    }

    /// Whether an event is to be written, with what of its cause was not written before.
    pub fn admit(&mut self, cause: Cause, now: Instant) -> Option<Suppressed> {
        let mut cause = cause;
        if self.causes.len() >= self.most && !self.causes.contains_key(&cause) {
            let period = self.period;
            self.causes
                .retain(|_, account| account.suppressed > 0 || !account.is_over(period, now));
            if self.causes.len() >= self.most {
                cause.subject = String::new();
            }
        }
        let Some(account) = self.causes.get_mut(&cause) else {
            let account = Account {
                since: now,
                suppressed: 0,
            };
            self.causes.insert(cause, account);
            return Some(Suppressed::default());
        };
        if account.is_over(self.period, now) {
            return Some(account.take(now));
        }
        account.suppressed += 1;
        None
    }

    /// The causes that have stopped, and of which something was not written. A cause that goes on is not among them: in its
    /// second period an event of it is written.
    pub fn overdue(&mut self, now: Instant) -> Vec<(Cause, Suppressed)> {
        let mut overdue = Vec::new();
        let two = 2 * self.period;
        self.causes.retain(|cause, account| {
            if !account.is_over(two, now) {
                return true;
            }
            let suppressed = account.take(now);
            if suppressed.count > 0 {
                overdue.push((cause.clone(), suppressed));
            }
            false
        });
        overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    fn cause(subject: &str) -> Cause {
        Cause {
            level: tracing::Level::WARN,
            event: "server cannot be reached",
            subject: subject.to_owned(),
        }
    }

    #[test]
    fn the_first_is_written_and_the_rest_is_counted() {
        let mut throttle = Throttle::new(PERIOD, 10);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = throttle.admit(cause("a"), start);
        assert_eq!(first.map(|more| more.to_string()), Some(String::new()));
        for second in 1..18 {
            assert_eq!(throttle.admit(cause("a"), at(second)), None);
        }
        assert!(
            throttle.admit(cause("b"), at(20)).is_some(),
            "another cause"
        );
        assert_eq!(throttle.overdue(at(60)), []);
        let next = throttle.admit(cause("a"), at(60)).unwrap();
        assert_eq!(next.to_string(), " (17 more in the last 60 s)");
        assert_eq!(throttle.admit(cause("a"), at(61)), None);
    }

    #[test]
    fn what_was_not_written_is_told_when_nothing_follows() {
        let mut throttle = Throttle::new(PERIOD, 10);
        let start = Instant::now();
        assert!(throttle.admit(cause("a"), start).is_some());
        assert!(throttle.admit(cause("b"), start).is_some());
        assert_eq!(throttle.admit(cause("a"), start), None);
        assert_eq!(throttle.overdue(start + PERIOD), [], "it may go on");
        let told = throttle.overdue(start + 2 * PERIOD);
        let more = Suppressed {
            count: 1,
            within: 2 * PERIOD,
        };
        assert_eq!(told, [(cause("a"), more)]);
        assert_eq!(throttle.causes.len(), 0, "what has stopped is forgotten");
        let again = throttle.admit(cause("a"), start + 2 * PERIOD);
        assert_eq!(again, Some(Suppressed::default()), "and written anew");
    }

    #[test]
    fn causes_without_end_take_a_bounded_memory_and_are_counted() {
        let mut throttle = Throttle::new(PERIOD, 10);
        let start = Instant::now();
        let admit = |throttle: &mut Throttle, now| {
            let all = (0..1000).filter(|n| throttle.admit(cause(&n.to_string()), now).is_some());
            all.count()
        };
        assert_eq!(admit(&mut throttle, start), 11, "ten and all the others");
        assert_eq!(throttle.causes.len(), 11);
        let told: u64 = throttle
            .overdue(start + 2 * PERIOD)
            .iter()
            .map(|(_, more)| more.count)
            .sum();
        assert_eq!(told, 1000 - 11);
        // There is room again then.
        assert_eq!(admit(&mut throttle, start + 2 * PERIOD), 11);
    }
}
