//! A server that announces its restart: it closes its connections with 1001 or 1012, and its other clients are drained ahead
//! of its death. Pure.
//!
//! A single such Close may be about a single connection, and a client may be able to bring one about, so a server is believed
//! only where enough of its connections are closed at once:
//!
//! | closed within the window | then |
//! |---|---|
//! | fewer than `closes`, or less than `share` of its connections | nothing follows |
//! | at least that | the server is probed, and believed if it does not answer |
//! | at least that, and half of its connections | it is believed |
//!
//! Connections over which no message passed for `idle` are not counted: servers close idle ones with 1001 as well.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// When a server's own Closes are taken for its restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartThreshold {
    /// At least this many Closes; 0 for never.
    pub closes: usize,
    /// At least this part of the connections that the server had, in percent.
    pub share: u8,
    /// Within this time.
    pub within: Duration,
    /// A connection over which no message passed for so long does not count.
    pub idle: Duration,
}

impl Default for RestartThreshold {
    fn default() -> Self {
        RestartThreshold {
            closes: 3,
            share: 10,
            within: Duration::from_secs(1),
            idle: Duration::from_secs(10),
        }
    }
}

/// A server that closes this part of its connections is believed without a probe, in percent.
const BEYOND_DOUBT: u8 = 50;

/// Closes that come within this part of the window count as one moment, so that a server has few moments to remember.
const MOMENTS: u32 = 32;

/// A Close with 1001 or 1012 that a server sent of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerClose {
    /// How long no message had passed over the connection.
    pub silent: Duration,
    /// How long ago it came: it is told of when the connection is gone, and a client may take its time with its answer.
    pub ago: Duration,
}

/// The consequence of a server's Close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// Nothing.
    None,
    /// The server has to be probed: see `RestartDetector::handle_probe`.
    Probe,
    /// The server restarts.
    Restart,
}

/// The Closes of late, by upstream and server.
#[derive(Debug, Default)]
pub(super) struct RestartDetector {
    servers: HashMap<(u32, u32), Closes>,
}

#[derive(Debug)]
struct Closes {
    /// Moments within the window, and how many Closes came in each.
    moments: VecDeque<(Instant, usize)>,
    count: usize,
    belief: Belief,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Belief {
    /// Too few Closes came.
    Serves,
    /// The server is being probed.
    Probed,
    /// The server answered a probe, and is not probed again before this time.
    UpstreamResponse { until: Instant },
    /// The server restarts, for as long as Closes come.
    Restarts,
}

impl RestartDetector {
    /// A server has closed a connection and has `left` others.
    pub(super) fn handle_close(
        &mut self,
        server: (u32, u32),
        left: usize,
        close: ServerClose,
        now: Instant,
        threshold: RestartThreshold,
    ) -> Suspicion {
        let is_late = close.ago > threshold.within;
        if threshold.closes == 0 || close.silent >= threshold.idle || is_late {
            return Suspicion::None;
        }
        if !self.servers.contains_key(&server) {
            // Servers that said nothing of late are forgotten.
            self.servers.retain(|_, known| {
                known.belief == Belief::Probed || !known.is_over(now, threshold)
            });
        }
        let closes = self.servers.entry(server).or_insert(Closes {
            moments: VecDeque::new(),
            count: 0,
            belief: Belief::Serves,
        });
        closes.add(now, threshold.within);
        if closes.belief == Belief::Restarts || closes.count < threshold.closes {
            return Suspicion::None;
        }
        let is_part = |percent: u8| {
            closes.count.saturating_mul(100)
                >= (closes.count + left).saturating_mul(usize::from(percent))
        };
        if !is_part(threshold.share) {
            return Suspicion::None;
        }
        if is_part(threshold.share.max(BEYOND_DOUBT)) {
            closes.belief = Belief::Restarts;
            return Suspicion::Restart;
        }
        match closes.belief {
            Belief::Probed | Belief::Restarts => Suspicion::None,
            Belief::UpstreamResponse { until } if now < until => Suspicion::None,
            Belief::Serves | Belief::UpstreamResponse { .. } => {
                closes.belief = Belief::Probed;
                Suspicion::Probe
            }
        }
    }

    /// A server that had to be probed has answered, or not. Whether it restarts.
    pub(super) fn handle_probe(
        &mut self,
        server: (u32, u32),
        answered: bool,
        now: Instant,
        threshold: RestartThreshold,
    ) -> bool {
        let Some(closes) = self.servers.get_mut(&server) else {
            return false;
        };
        if closes.belief != Belief::Probed {
            return false;
        }
        closes.belief = if answered {
            Belief::UpstreamResponse {
                until: now + threshold.within,
            }
        } else {
            Belief::Restarts
        };
        !answered
    }
}

impl Closes {
    /// One more Close.
    fn add(&mut self, now: Instant, within: Duration) {
        while let Some((at, count)) = self.moments.front()
            && now.saturating_duration_since(*at) > within
        {
            self.count -= count;
            self.moments.pop_front();
        }
        if self.moments.is_empty() && self.belief == Belief::Restarts {
            // The announced restart is over.
            self.belief = Belief::Serves;
        }
        self.count += 1;
        match self.moments.back_mut() {
            Some((at, count)) if now.saturating_duration_since(*at) < within / MOMENTS => {
                *count += 1;
            }
            _ => self.moments.push_back((now, 1)),
        }
    }

    /// Whether all that is remembered is older than the window.
    fn is_over(&self, now: Instant, threshold: RestartThreshold) -> bool {
        let last = self.moments.back();
        last.is_none_or(|(at, _)| now.saturating_duration_since(*at) > threshold.within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Suspicion::{None, Probe, Restart};

    const ACTIVE: ServerClose = ServerClose {
        silent: Duration::ZERO,
        ago: Duration::ZERO,
    };

    /// `count` Closes, evenly over `ms`, of a server that has `connections`; what followed, in order, and after how many.
    fn close(
        detector: &mut RestartDetector,
        start: Instant,
        connections: usize,
        count: usize,
        ms: u64,
        threshold: RestartThreshold,
    ) -> Vec<(usize, Suspicion)> {
        let each = |number: usize| {
            let at = start + Duration::from_millis(ms * number as u64 / count as u64);
            let left = connections - number;
            let found = detector.handle_close((0, 0), left, ACTIVE, at, threshold);
            (number, found)
        };
        let found = (1..=count).map(each);
        found.filter(|(_, found)| *found != None).collect()
    }

    #[test]
    fn enough_closes_at_once_are_a_restart() {
        let default = RestartThreshold::default();
        for (connections, count, ms, expected) in [
            // Small servers: half of what they have, and three at least.
            (2, 2, 100, &[][..]),
            (3, 3, 100, &[(3, Restart)]),
            (4, 3, 100, &[(3, Restart)]),
            (6, 3, 100, &[(3, Restart)]),
            (7, 7, 100, &[(3, Probe), (4, Restart)]),
            (30, 3, 100, &[(3, Probe)]),
            // A large one: three are nothing, a tenth is worth a question, half is beyond doubt.
            (31, 3, 100, &[]),
            (10_000, 3, 100, &[]),
            (10_000, 999, 500, &[]),
            (10_000, 10_000, 900, &[(1000, Probe), (5000, Restart)]),
            // Slower than the window: 2,500 in any second are enough for a question at first, and for certainty once they
            // are half of what is left.
            (10_000, 10_000, 4000, &[(1000, Probe), (7423, Restart)]),
            // Never a tenth within a second before the end.
            (1000, 500, 10_000, &[]),
        ] {
            let mut detector = RestartDetector::default();
            let found = close(
                &mut detector,
                Instant::now(),
                connections,
                count,
                ms,
                default,
            );
            // The moments are as exact as a 32nd of the window.
            let is_near = |(found, expected): (&(usize, Suspicion), &(usize, Suspicion))| {
                found.1 == expected.1 && found.0.abs_diff(expected.0) <= connections / 25
            };
            assert!(
                found.len() == expected.len() && found.iter().zip(expected).all(is_near),
                "{count} of {connections} over {ms} ms: {found:?}, expected {expected:?}"
            );
        }
    }

    #[test]
    fn those_of_another_time_or_server_and_idle_ones_do_not_count() {
        let (mut detector, start) = (RestartDetector::default(), Instant::now());
        let mut close = |server, ms, silent| {
            let (now, silent) = (
                start + Duration::from_millis(ms),
                Duration::from_secs(silent),
            );
            let close = ServerClose { silent, ..ACTIVE };
            detector.handle_close((0, server), 0, close, now, RestartThreshold::default())
        };
        // One now and then is nothing, nor are those of different servers.
        assert_eq!([0, 900, 1950].map(|ms| close(0, ms, 0)), [None; 3]);
        assert_eq!([1, 2].map(|server| close(server, 1960, 0)), [None; 2]);
        // Nor are those that had been idle, however many.
        assert_eq!([1970; 50].map(|ms| close(0, ms, 10)), [None; 50]);
        assert_eq!(close(0, 1980, 9), None);
        assert_eq!(close(0, 1990, 9), Restart, "three within a second");
        assert_eq!(
            [2000; 50].map(|ms| close(0, ms, 0)),
            [None; 50],
            "it was said"
        );
        assert_eq!(
            [4000, 4001, 4002].map(|ms| close(0, ms, 0)),
            [None, None, Restart]
        );
    }

    #[test]
    fn clients_cannot_bring_closes_together_by_answering_late() {
        let (mut detector, now) = (RestartDetector::default(), Instant::now());
        let late = ServerClose {
            ago: Duration::from_millis(1001),
            ..ACTIVE
        };
        let mut close =
            |close| detector.handle_close((0, 0), 0, close, now, RestartThreshold::default());
        assert_eq!([late; 50].map(&mut close), [None; 50]);
        assert_eq!([ACTIVE; 3].map(close), [None, None, Restart]);
    }

    #[test]
    fn a_server_that_answers_is_asked_again_later() {
        let (mut detector, start) = (RestartDetector::default(), Instant::now());
        let threshold = RestartThreshold::default();
        let at = |ms| start + Duration::from_millis(ms);
        let mut found = Vec::new();
        for ms in (0..3000).step_by(100) {
            match detector.handle_close((0, 0), 50, ACTIVE, at(ms), threshold) {
                Probe => {
                    found.push(ms);
                    // Nothing is asked meanwhile, and the answer takes a while.
                    let again = detector.handle_close((0, 0), 50, ACTIVE, at(ms), threshold);
                    assert_eq!(again, None);
                    assert!(!detector.handle_probe((0, 0), true, at(ms + 50), threshold));
                }
                other => assert_eq!(other, None),
            }
        }
        // Six of 56 within a second are a tenth; then it is asked once in a window.
        assert_eq!(found, [500, 1600, 2700]);
        assert!(
            !detector.handle_probe((0, 0), false, at(3000), threshold),
            "nobody asked"
        );
        assert_eq!(
            detector.handle_close((0, 0), 50, ACTIVE, at(3800), threshold),
            None
        );
        let found =
            [3801; 9].map(|ms| detector.handle_close((0, 0), 50, ACTIVE, at(ms), threshold));
        assert!(found.contains(&Probe), "{found:?}");
        assert!(detector.handle_probe((0, 0), false, at(3810), threshold));
        assert_eq!(
            detector.handle_close((0, 0), 0, ACTIVE, at(3820), threshold),
            None,
            "it was said"
        );
    }

    #[test]
    fn settings_at_their_ends() {
        let (start, default) = (Instant::now(), RestartThreshold::default());
        let with = |threshold| {
            close(
                &mut RestartDetector::default(),
                start,
                100,
                100,
                100,
                threshold,
            )
        };
        assert_eq!(
            with(RestartThreshold {
                closes: 0,
                ..default
            }),
            []
        );
        let any = RestartThreshold {
            share: 0,
            ..default
        };
        assert_eq!(with(any), [(3, Probe), (50, Restart)]);
        let all = RestartThreshold {
            share: 100,
            ..default
        };
        assert_eq!(with(all), [(100, Restart)]);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let (mut detector, start) = (RestartDetector::default(), Instant::now());
        for server in 0..1000 {
            let now = start + Duration::from_secs(2 * u64::from(server));
            detector.handle_close((0, server), 0, ACTIVE, now, RestartThreshold::default());
            for _ in 0..100 {
                detector.handle_close((0, server), 1000, ACTIVE, now, RestartThreshold::default());
            }
        }
        assert_eq!(detector.servers.len(), 1);
        assert_eq!(detector.servers[&(0, 999)].moments.len(), 1);
    }
}
