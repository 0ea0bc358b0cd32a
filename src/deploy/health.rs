//! Health: when the checks of a server are taken for its end, and for its return. Pure.
//!
//! One failed check is nothing, and neither is one that passes: it takes several in a row. A server that goes up and
//! down all the time would have its clients told to reconnect each time. So after each fall it takes twice as many good
//! checks to be let in again, up to 32 times as many, until it has once stood for ten times as long as that took.

/// How many checks in a row it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Failed, to be taken out. At least one.
    pub unhealthy: u32,
    /// Passed, to be let in again. At least one.
    pub healthy: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            unhealthy: 3,
            healthy: 2,
        }
    }
}

/// The consequence of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// The server is taken out.
    Down,
    /// The server takes connections again.
    Up,
}

/// The state of a server by its checks.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    is_up: bool,
    /// Checks in a row that say the opposite of `is_up`.
    against: u32,
    /// Checks that it has passed since it is up.
    stood: u32,
    /// How often it fell, of late.
    falls: u32,
}

/// Falls that count: beyond them it takes no longer to return.
const MOST_FALLS: u32 = 6;

/// A server that has passed this many times the checks that it needed to be let in counts as one that never failed.
const FORGIVEN: u32 = 10;

impl Health {
    /// Of a server that serves, or of one that has to pass a check first.
    pub const fn new(is_up: bool) -> Self {
        Health {
            is_up,
            against: 0,
            stood: 0,
            falls: 0,
        }
    }

    /// A check has passed or failed. What follows, if anything.
    pub fn handle_check(&mut self, passed: bool, thresholds: Thresholds) -> Option<HealthChange> {
        if passed == self.is_up {
            self.against = 0;
            if self.is_up {
                self.stood = self.stood.saturating_add(1);
                if self.stood >= self.needed(thresholds).saturating_mul(FORGIVEN) {
                    self.falls = 0;
                }
            }
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = if self.is_up {
            thresholds.unhealthy
        } else {
            self.needed(thresholds)
        };
        if self.against < needed {
            return None;
        }
        self.is_up = passed;
        (self.against, self.stood) = (0, 0);
        if passed {
            Some(HealthChange::Up)
        } else {
            self.falls = (self.falls + 1).min(MOST_FALLS);
            Some(HealthChange::Down)
        }
    }

    /// Good checks that it takes to be let in: one where it never fell, and twice as many after each fall but the first.
    fn needed(&self, thresholds: Thresholds) -> u32 {
        match self.falls.checked_sub(1) {
            None => 1,
            Some(again) => thresholds.healthy.saturating_mul(1 << again),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(health: &mut Health, checks: &str) -> String {
        let turn = |check| match health.handle_check(check == '+', Thresholds::default()) {
            None => '.',
            Some(HealthChange::Down) => 'D',
            Some(HealthChange::Up) => 'U',
        };
        checks.chars().map(turn).collect()
    }

    #[test]
    fn it_takes_several_in_a_row() {
        for (starts_up, checks, turns) in [
            (true, "+--+--+", "......."),
            (true, "---", "..D"),
            (true, "-----+-++", "..D.....U"),
            (false, "-+", ".U"),
            (false, "-+-+-", ".U..."),
        ] {
            assert_eq!(run(&mut Health::new(starts_up), checks), turns, "{checks}");
        }
    }

    #[test]
    fn who_falls_again_and_again_is_let_in_ever_later() {
        let mut health = Health::new(true);
        let mut needed = Vec::new();
        for _ in 0..8 {
            assert_eq!(run(&mut health, "---"), "..D");
            let mut checks = 0;
            while health.handle_check(true, Thresholds::default()).is_none() {
                checks += 1;
            }
            needed.push(checks + 1);
        }
        assert_eq!(needed, [2, 4, 8, 16, 32, 64, 64, 64]);
        // Flapping at every check, it is never let in at all.
        assert_eq!(run(&mut health, &"+---".repeat(50)).matches('D').count(), 1);
        assert_eq!(run(&mut health, &"+-".repeat(50)).matches('U').count(), 0);
    }

    #[test]
    fn who_has_stood_for_long_enough_is_trusted_again() {
        let mut health = Health::new(true);
        run(&mut health, "---++---++++");
        assert_eq!(run(&mut health, "++++---++++++++"), "......D.......U");
        run(&mut health, &"+".repeat(80));
        assert_eq!(run(&mut health, "---++"), "..D.U");
    }
}
