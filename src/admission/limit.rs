//! How many handshakes may be under way toward one server, and how many may begin per second.
//!
//! # The rule, and why
//!
//! A server that gets more upgrades than it takes shows it in one of two ways. Its handshakes become slow, because they queue in
//! the server; or they fail, because the server refuses what is too much. Each way has a bound of its own.
//!
//! **Handshakes under way** are bounded as TCP Vegas and Netflix's concurrency-limits bound what is in flight: by the time that a
//! handshake takes beside the time that it usually takes. A queue in the server delays all handshakes, so the *fastest* one of a
//! window decides: a request whose handler is slow says nothing about the others.
//!
//! | the fastest handshake of a window | the bound |
//! |---|---|
//! | up to 1.25 times the usual time + 10 ms, and the bound was reached | grows: by half until the first strain, by a twentieth from there on |
//! | above twice the usual time + 20 ms | is multiplied by 0.75 |
//! | there is none, and handshakes are stuck | is halved |
//!
//! The usual time is the least of the last 30 to 60 seconds. A server that became slower for good (another version, another
//! network) would be taken for a strained one: where the bound is at its least for `PATIENCE` windows and the time does not
//! fall, it is not the gate that makes the server slow, and the time becomes the usual one.
//!
//! **Handshakes begun per second** are bounded because a server that refuses at once can be overrun by few handshakes in flight.
//! The rate begins at `rate::FIRST_RATE` and doubles with each window in which it is used up and nothing fails, so that it is out of
//! the way within a second where the server takes what comes. Where handshakes fail, it becomes 0.85 times what the server took
//! in the last second. From there on it grows by a tenth per second up to 0.95 times what the server took, and by a fiftieth
//! beyond, or by a tenth again after `RECOVERY`.
//!
//! Both bounds begin low. The predicted wait of an upgrade therefore takes their growth into account ([`Limit::admitting_rate`]):
//! otherwise most of a crowd that comes to a server of which nothing is known would be refused, although the server takes it.
//!
//! A client must not be able to slow the server down for all others. Failures count only if several clients have them, and as a
//! share of all answers. A handshake that takes longer than a second (or four times the usual time) is *stuck*, and does not
//! count as one under way any more: requests for a path that never answers cannot use the bound up.
//!
//! While a server answers as usual and the bounds are not reached, [`Limit::start`] and [`Limit::end`] cost a few comparisons.

use super::learnt::{Learnt, Taken, Usual};
use super::rate::{LEAST_RATE, Rate, WINDOW, mean_of_growth};
use super::under_way::UnderWay;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// The bound on handshakes under way before anything is learnt, in handshakes.
pub const FIRST_BOUND: f64 = 20.0;
/// The least bound on handshakes under way.
const LEAST_BOUND: f64 = 2.0;
/// The largest bound on handshakes under way.
const MOST_BOUND: f64 = 16_384.0;
/// The factor by which the bound on handshakes under way grows in a window in which it is used up, until the first strain.
const STARTING_GROWTH: f64 = 1.5;
/// Windows at the least bound after which a slow server counts as usually slow.
const PATIENCE: u32 = 10;
/// The time by which a handshake may exceed the usual time before the bound stops growing.
const SLACK: Duration = Duration::from_millis(10);
/// A handshake is stuck after this time, or four times the usual one.
const STUCK: Duration = Duration::from_secs(1);
/// How many failures of a second say that the server fails, and one in how many answers.
const FAILURES: (f64, f64) = (3.0, 25.0);

/// How many handshakes may be under way toward each server (`max_handshakes`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxHandshakes {
    /// As many as the server takes without strain.
    #[default]
    Adaptive,
    /// This number; at least one.
    Fixed(u32),
}

/// The settings of the admission of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How many handshakes may be under way toward each server.
    pub max_handshakes: MaxHandshakes,
    /// Upgrades per second that each server takes (`upgrade_rate`): no more begin, and clients that have to reconnect are
    /// spread accordingly. `None`: what is learnt of the server.
    pub upgrade_rate: Option<NonZeroU32>,
}

/// Whether one more handshake may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// One more handshake may begin.
    Yes,
    /// The bound is reached: none may begin before a handshake under way ends or counts as stuck. The oldest one counts as stuck
    /// at this moment; `None` where the bound is a fixed number, which counts stuck handshakes too.
    AtBound(Option<Instant>),
    /// The rate is used up: none may begin before this moment.
    AtRate(Instant),
}

/// How a handshake ended, as far as that says something of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeEnd {
    /// The server answered, with a 101 or a refusal of its own.
    Answered,
    /// The server failed in a way that overload explains: no connection, no answer, 502 to 504.
    Failed,
    /// The end says nothing of the server: the client left, or wsgate had no descriptor for the connection.
    Unknown,
}

/// A handshake that is under way. To be given back by [`Limit::end`], whatever comes of it.
#[derive(Debug)]
#[must_use]
pub struct Handshake(u64);

/// The network of a client's address; see [`Limit::end`].
pub type ClientNetwork = Option<IpAddr>;

/// The bounds of one server, and what was learnt of it.
#[derive(Debug)]
pub struct Limit {
    settings: Settings,
    under_way: UnderWay,
    bound: f64,
    rate: Rate,
    is_starting: bool,
    usual: Usual,
    window: Window,
    /// One handshake has to succeed before others begin.
    is_probing: bool,
    /// Windows at the least bound, without a handshake of the usual time, one after the other.
    slow_windows: u32,
    taken: Taken,
    failed: Taken,
    /// The clients that the failures of the last second were found with.
    failed_clients: Clients,
    learnt: Learnt,
}

impl Limit {
    /// Without anything learnt.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let mut rate = Rate::new(now);
        rate.fix(settings.upgrade_rate);
        Limit {
            settings,
            under_way: UnderWay::default(),
            bound: FIRST_BOUND,
            rate,
            is_starting: true,
            usual: Usual::new(now),
            window: Window::new(now),
            is_probing: false,
            slow_windows: 0,
            taken: Taken::new(now),
            failed: Taken::new(now),
            failed_clients: Clients::None,
            learnt: Learnt::default(),
        }
    }

    /// Follows other settings from now on; what was learnt is kept.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.rate.fix(settings.upgrade_rate);
    }

    /// The server failed: one handshake has to succeed before others begin.
    pub fn probe(&mut self) {
        self.is_probing = true;
    }

    /// Whether one more handshake may begin.
    pub fn room(&mut self, now: Instant) -> Room {
        if let MaxHandshakes::Fixed(most) = self.settings.max_handshakes {
            if self.under_way.all() >= u64::from(most.max(1)) {
                return Room::AtBound(None);
            }
            return match self.settings.upgrade_rate {
                None => Room::Yes,
                Some(_) => self.rate.ready(now).map_or(Room::Yes, Room::AtRate),
            };
        }
        self.advance(now);
        let bound = if self.is_probing {
            1.0
        } else {
            self.bound.floor()
        };
        if self.under_way.fresh() as f64 >= bound {
            self.window.is_used_up = !self.is_probing;
            let oldest = self.under_way.oldest();
            return Room::AtBound(oldest.map(|began| began + self.stuck_after()));
        }
        match self.rate.ready(now) {
            None => Room::Yes,
            Some(at) => {
                self.window.is_rate_used_up = true;
                Room::AtRate(at)
            }
        }
    }

    /// One more handshake begins. The caller has asked whether there is [room](Limit::room), or begins it all the same: the
    /// bounds know of it either way.
    pub fn start(&mut self, now: Instant) -> Handshake {
        self.rate.take(now);
        Handshake(self.under_way.add(now))
    }

    /// A handshake is over. Failures are held against the server only if clients of several networks have them.
    pub fn end(
        &mut self,
        handshake: Handshake,
        end: HandshakeEnd,
        client: ClientNetwork,
        now: Instant,
    ) {
        let began = self.under_way.remove(handshake.0);
        match (end, began) {
            (HandshakeEnd::Answered, began) => {
                self.is_probing = false;
                self.taken.add(now);
                self.window.answered += 1;
                // The time of one that was stuck is that of its path, not that of the server.
                if let Some(began) = began {
                    let took = now.saturating_duration_since(began);
                    self.window.fastest = Some(self.window.fastest.map_or(took, |f| f.min(took)));
                }
            }
            (HandshakeEnd::Failed, _) => {
                self.failed.add(now);
                self.window.failed += 1;
                self.failed_clients.add(client);
            }
            (HandshakeEnd::Unknown, _) => {}
        }
        self.advance(now);
    }

    /// Handshakes under way, those that are stuck included.
    pub fn under_way(&self) -> u64 {
        self.under_way.all()
    }

    /// Handshakes that the server answered within the last second.
    pub fn answered_per_second(&mut self, now: Instant) -> f64 {
        self.taken.count(now)
    }

    /// The bound on handshakes under way that are not stuck.
    pub fn bound(&self) -> u64 {
        match self.settings.max_handshakes {
            MaxHandshakes::Adaptive => self.bound as u64,
            MaxHandshakes::Fixed(most) => most.max(1).into(),
        }
    }

    /// Upgrades per second that the server is known to take, by the setting or as it was learnt. `None` where it was never asked
    /// for more than the guess ([`GUESS`](super::reconnects::GUESS)) and was never strained.
    pub fn known_rate(&self) -> Option<f64> {
        let fixed = self.settings.upgrade_rate.map(|rate| rate.get().into());
        fixed.or(self.learnt.rate())
    }

    /// Upgrades per second that would be admitted on average within `patience` from now; `None` where the server has not answered
    /// yet and no rate is set. Until the first strain or failure, the growth of the bounds within this time is counted.
    pub fn admitting_rate(&self, patience: Duration) -> Option<f64> {
        if let Some(capacity) = self.learnt.capacity {
            return Some(capacity.min(self.rate.per_second).max(1.0));
        }
        let usual = self.usual.get();
        let windows = patience.as_secs_f64() / WINDOW.max(usual.unwrap_or_default()).as_secs_f64();
        let by_bound = usual.map(|usual| {
            let is_adaptive = self.settings.max_handshakes == MaxHandshakes::Adaptive;
            let bound = if is_adaptive && self.is_starting {
                mean_of_growth(self.bound, STARTING_GROWTH, windows).min(MOST_BOUND)
            } else {
                self.bound() as f64
            };
            bound / usual.max(Duration::from_millis(1)).as_secs_f64()
        });
        match (self.settings.max_handshakes, self.settings.upgrade_rate) {
            (MaxHandshakes::Fixed(_), None) => by_bound,
            (_, Some(_)) => Some(by_bound.unwrap_or(f64::INFINITY).min(self.rate.per_second)),
            (MaxHandshakes::Adaptive, None) => Some(by_bound?.min(self.rate.mean_within(windows))),
        }
    }

    fn stuck_after(&self) -> Duration {
        STUCK.max(self.usual.get().unwrap_or_default() * 4)
    }

    /// Counts the handshakes that have become stuck, and ends the window if its time is over.
    fn advance(&mut self, now: Instant) {
        if self.settings.max_handshakes != MaxHandshakes::Adaptive {
            return;
        }
        let stuck = self.under_way.expire(now, self.stuck_after());
        self.window.stuck += stuck;
        let length = WINDOW.max(self.usual.get().unwrap_or_default());
        if now.saturating_duration_since(self.window.began) >= length {
            self.end_window(now);
        }
    }

    fn end_window(&mut self, now: Instant) {
        let window = std::mem::replace(&mut self.window, Window::new(now));
        let taken = self.taken.per_second(now);
        if self.failed.count(now) == 0.0 {
            self.failed_clients = Clients::None;
        }
        let is_failing = window.failed > 0 && self.is_failing(taken, now);
        if is_failing {
            self.rate.reduce(taken, now);
            self.learnt.capacity = Some(taken.max(LEAST_RATE));
        } else {
            self.rate
                .grow(window.is_rate_used_up, self.learnt.capacity, now);
        }
        let Some(fastest) = window.fastest else {
            if window.stuck > 0 && window.answered == 0 {
                self.shrink(0.5);
            }
            return;
        };
        let usual = self.usual.get().unwrap_or(fastest);
        let is_slow = fastest > usual * 2 + SLACK * 2;
        let is_usual = fastest <= usual.mul_f64(1.25) + SLACK;
        self.usual.add(fastest, now);
        if is_slow {
            self.slow_windows += u32::from(self.bound <= LEAST_BOUND);
            if self.slow_windows >= PATIENCE {
                self.usual.reset(fastest, now);
                self.slow_windows = 0;
                return;
            }
            // A server that is slow with few handshakes has another reason for it.
            if window.is_used_up {
                self.learnt.handle_capacity(taken);
            }
            self.shrink(0.75);
            return;
        }
        self.slow_windows = 0;
        if !is_failing {
            self.learnt.handle_proof(self.taken.count(now));
        }
        if is_usual && window.is_used_up && !is_failing {
            let factor = if self.is_starting {
                STARTING_GROWTH
            } else {
                1.05
            };
            self.bound = (self.bound * factor).max(self.bound + 1.0).min(MOST_BOUND);
        }
    }

    fn is_failing(&mut self, taken: f64, now: Instant) -> bool {
        let (least, share) = FAILURES;
        let failed = self.failed.count(now);
        let is_several = matches!(self.failed_clients, Clients::Several);
        is_several && failed >= least && failed * share >= failed + taken
    }

    fn shrink(&mut self, factor: f64) {
        self.is_starting = false;
        self.bound = (self.bound * factor).max(LEAST_BOUND);
    }
}

/// The clients that something was found with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Clients {
    #[default]
    None,
    One(ClientNetwork),
    Several,
}

impl Clients {
    pub(super) fn add(&mut self, client: ClientNetwork) {
        *self = match *self {
            Clients::None => Clients::One(client),
            Clients::One(known) if known == client => Clients::One(known),
            Clients::One(_) | Clients::Several => Clients::Several,
        };
    }
}

#[derive(Debug)]
struct Window {
    began: Instant,
    answered: u32,
    failed: u32,
    stuck: u64,
    fastest: Option<Duration>,
    /// The bound was reached.
    is_used_up: bool,
    /// The rate was reached.
    is_rate_used_up: bool,
}

impl Window {
    fn new(began: Instant) -> Self {
        Window {
            began,
            answered: 0,
            failed: 0,
            stuck: 0,
            fastest: None,
            is_used_up: false,
            is_rate_used_up: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn client(number: u8) -> ClientNetwork {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    /// A server that answers each handshake after `time`, asked for as many as there is room for during `rounds` rounds.
    fn rounds(limit: &mut Limit, now: &mut Instant, time: Duration, rounds: u32) -> u32 {
        let mut begun = 0;
        for _ in 0..rounds {
            let mut under_way = Vec::new();
            while limit.room(*now) == Room::Yes {
                under_way.push(limit.start(*now));
                begun += 1;
            }
            *now += time;
            for handshake in under_way {
                limit.end(handshake, HandshakeEnd::Answered, client(1), *now);
            }
        }
        begun
    }

    #[test]
    fn a_server_that_answers_as_usual_is_not_bounded() {
        let mut now = Instant::now();
        let mut limit = Limit::new(Settings::default(), now);
        rounds(&mut limit, &mut now, MS, 1000);
        assert!(limit.bound() >= 20, "{}", limit.bound());
        let began = now;
        let begun = rounds(&mut limit, &mut now, MS, 1000);
        let rate = f64::from(begun) / (now - began).as_secs_f64();
        assert!(rate > 10_000.0, "{rate} per second");
    }

    /// A server whose handshakes take half a second: the bound of 20 admits 40 per second at first, and 2,266 in 10 windows,
    /// which is 453 per second.
    #[test]
    fn the_predicted_rate_counts_the_growth_of_the_bounds() {
        let mut now = Instant::now();
        let mut limit = Limit::new(Settings::default(), now);
        let patience = Duration::from_secs(5);
        assert_eq!(limit.admitting_rate(patience), None);
        let handshake = limit.start(now);
        now += MS * 500;
        limit.end(handshake, HandshakeEnd::Answered, client(1), now);
        let rate = limit.admitting_rate(patience).expect("it is known now");
        assert_eq!(rate.round(), 453.0);
        assert_eq!(limit.admitting_rate(MS * 500), Some(40.0));
    }

    /// A quiet server whose handshakes jump from 0.2 ms to 2 ms is as usual.
    #[test]
    fn noise_is_no_strain() {
        let mut now = Instant::now();
        let mut limit = Limit::new(Settings::default(), now);
        for round in 0..2000 {
            assert_eq!(limit.room(now), Room::Yes, "round {round}");
            let handshake = limit.start(now);
            now += if round % 7 == 0 { MS * 2 } else { MS / 5 };
            limit.end(handshake, HandshakeEnd::Answered, client(1), now);
            now += MS * 10;
        }
        assert!(limit.bound() >= FIRST_BOUND as u64);
    }

    #[test]
    fn a_server_that_became_slower_for_good_is_learnt_anew() {
        let mut now = Instant::now();
        let mut limit = Limit::new(Settings::default(), now);
        rounds(&mut limit, &mut now, MS, 1000);
        rounds(&mut limit, &mut now, MS * 80, 60);
        let before = limit.bound();
        rounds(&mut limit, &mut now, MS * 80, 60);
        assert!(limit.bound() > before, "{} > {before}", limit.bound());
    }

    /// Requests for a path that never answers use nothing up for longer than a second.
    #[test]
    fn stuck_handshakes_do_not_count() {
        let mut now = Instant::now();
        let mut limit = Limit::new(Settings::default(), now);
        let mut stuck = Vec::new();
        while limit.room(now) == Room::Yes {
            stuck.push(limit.start(now));
        }
        let Room::AtBound(Some(at)) = limit.room(now) else {
            panic!("there is a bound");
        };
        assert_eq!(at - now, STUCK);
        now = at;
        assert_eq!(limit.room(now), Room::Yes);
        for handshake in stuck {
            limit.end(handshake, HandshakeEnd::Unknown, client(1), now);
        }
        assert_eq!(limit.under_way(), 0);
    }

    #[test]
    fn failures_of_one_client_change_nothing() {
        for (clients, is_bounded) in [(1, false), (2, true)] {
            let mut now = Instant::now();
            let mut limit = Limit::new(Settings::default(), now);
            for number in 0..200_u8 {
                let handshake = limit.start(now);
                now += MS;
                let end = if number % 2 == 0 {
                    HandshakeEnd::Failed
                } else {
                    HandshakeEnd::Answered
                };
                limit.end(handshake, end, client(number / 2 % clients), now);
            }
            let rate = limit.rate.per_second;
            assert_eq!(
                rate < crate::admission::rate::FIRST_RATE,
                is_bounded,
                "{clients} clients: {rate}"
            );
        }
    }

    #[test]
    fn a_server_that_returns_is_probed_by_one_handshake() {
        let mut now = Instant::now();
        let mut limit = Limit::new(Settings::default(), now);
        limit.probe();
        for end in [
            HandshakeEnd::Failed,
            HandshakeEnd::Unknown,
            HandshakeEnd::Answered,
        ] {
            assert_eq!(limit.room(now), Room::Yes);
            let handshake = limit.start(now);
            assert!(matches!(limit.room(now), Room::AtBound(Some(_))), "{end:?}");
            now += MS * 10;
            limit.end(handshake, end, client(1), now);
        }
        let _first = limit.start(now);
        assert_eq!(limit.room(now), Room::Yes);
    }

    #[test]
    fn a_fixed_rate_is_kept() {
        for max_handshakes in [MaxHandshakes::Adaptive, MaxHandshakes::Fixed(50)] {
            let mut now = Instant::now();
            let settings = Settings {
                max_handshakes,
                upgrade_rate: NonZeroU32::new(40),
            };
            let mut limit = Limit::new(settings, now);
            assert_eq!(limit.known_rate(), Some(40.0));
            let end = now + Duration::from_secs(10);
            let mut begun = 0;
            while now < end {
                match limit.room(now) {
                    Room::Yes => {
                        let handshake = limit.start(now);
                        limit.end(handshake, HandshakeEnd::Answered, None, now);
                        begun += 1;
                    }
                    Room::AtRate(at) => now = at,
                    Room::AtBound(_) => unreachable!("nothing is under way"),
                }
            }
            assert!((400..=405).contains(&begun), "{begun} in 10 s");
        }
    }

    #[test]
    fn a_fixed_number_is_kept() {
        let mut now = Instant::now();
        let settings = Settings {
            max_handshakes: MaxHandshakes::Fixed(3),
            ..Settings::default()
        };
        let mut limit = Limit::new(settings, now);
        assert_eq!(rounds(&mut limit, &mut now, MS, 10), 30);
        let _under_way: Vec<_> = (0..3).map(|_| limit.start(now)).collect();
        now += Duration::from_secs(60);
        assert_eq!(limit.room(now), Room::AtBound(None));
    }
}
