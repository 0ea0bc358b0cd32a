//! When a server is left alone for what the connections of clients found, as Envoy's outlier detection does. Pure: it is
//! told what happened and at what time, and knows no clock, no lock and no log.
//!
//! ```text
//!        eject_after failures           the pause is over, or a health check passes
//!  In  ------------------------> Out  ----------------------------------------------> In, on probation
//!                                 ^                                                     |
//!                                 +------------ one failure within the next pause ------+
//!                                               (twice as long, up to 32 times)
//! ```
//!
//! A client must not be able to take a server from all others. What a client can cause by the path that it asks for (a
//! status other than 502 to 504, an answer that does not come in time) is no failure here. A connect that fails is one,
//! whoever asked for it. An end without an answer, a 502 to 504 and a session that the server drops at once are failures
//! that one client may cause alone: where all of them come from one client, they count only while there is no sign that
//! the server serves others.
//!
//! It is always true that a failure of an attempt that began before the end of the last pause changes nothing, so that
//! however many attempts fail at once, the pause is raised once; and that a server whose last health check passed is not
//! ejected. That no more than half of the servers of an upstream are out is the pool's to see to.

use super::limit::{ClientNetwork, Clients};
use std::time::{Duration, Instant};

/// When a server that fails connections of clients is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// After so many failures in a row, or sessions dropped at once; 0 for never.
    pub after: u32,
    /// For this long at first, twice as long each time, up to [`Ejection::LONGEST`] times as long.
    pub pause: Duration,
}

impl Ejection {
    /// The longest pause, in units of the first.
    pub const LONGEST: u32 = 32;
}

impl Default for Ejection {
    fn default() -> Self {
        Ejection {
            after: 5,
            pause: Duration::from_secs(5),
        }
    }
}

crate::with_all! {
    /// Why a server is left alone.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum EjectionReason {
        /// A connect to the server failed.
        Unreachable,
        /// The server ended the connection instead of answering the handshake.
        NoAnswer,
        /// The server answered with 502, 503 or 504.
        GatewayError,
        /// The server completed handshakes and dropped the connections at once, without a Close.
        Dropped,
    }
}

impl EjectionReason {
    /// Its name in logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            EjectionReason::Unreachable => "unreachable",
            EjectionReason::NoAnswer => "no_answer",
            EjectionReason::GatewayError => "gateway_error",
            EjectionReason::Dropped => "dropped",
        }
    }

    /// Whether no client can bring it about, whatever it asks for.
    const fn is_beyond_clients(self) -> bool {
        match self {
            EjectionReason::Unreachable => true,
            EjectionReason::NoAnswer | EjectionReason::GatewayError | EjectionReason::Dropped => {
                false
            }
        }
    }
}

/// One ejection of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejected {
    /// The kind of its last failure.
    pub reason: EjectionReason,
    /// When it was left alone.
    pub since: Instant,
    /// When it takes connections again.
    pub until: Instant,
}

impl Ejected {
    fn pause(&self) -> Duration {
        self.until - self.since
    }
}

/// A server to which every connect fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// When the first connect failed after the last one that was accepted.
    pub since: Instant,
    /// When a connect failed last.
    pub last: Instant,
}

/// How a session ended, as far as that says something of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// By a Close, by the client, or after a while.
    Usual,
    /// The server dropped it at once, without a Close, before its client had sent anything.
    Dropped,
    /// As before, but the client had sent something, which may be why.
    Unclear,
}

/// How long the service of another client speaks for a server.
const MEMORY: Duration = Duration::from_secs(60);

/// Sessions are counted over so long.
const WINDOW: Duration = Duration::from_secs(10);

/// For so long after a failure of any kind a server is tried after those without one.
const SUSPICION: Duration = Duration::from_secs(1);

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    count: u32,
    /// Of them, those that no client can cause.
    beyond_clients: u32,
    clients: Clients,
}

/// Sessions of the window.
#[derive(Clone, Copy, Debug, Default)]
struct Sessions {
    began: Option<Instant>,
    opened: u32,
    opened_by: Clients,
    /// Of those opened, those that are over.
    ended: u32,
    /// Of those opened, those that say nothing of the server.
    unclear: u32,
    dropped: u32,
    dropped_of: Clients,
}

/// The failures and successes that connections found of one server.
#[derive(Debug, Default)]
pub(crate) struct Ejector {
    row: Row,
    sessions: Sessions,
    /// Sessions that are open now.
    open: u32,
    /// The last two clients that were answered as they must be, and when.
    served: [Option<(Instant, ClientNetwork)>; 2],
    /// The last ejection, whether it is over or not.
    last: Option<Ejected>,
    /// Ejections one after the other, without a good time between them.
    times: u32,
    /// The server has answered since the last ejection.
    redeemed: bool,
    suspect_until: Option<Instant>,
    unreachable: Option<Unreachable>,
    /// A health check passed, and the next one is not due before.
    vouched_until: Option<Instant>,
}

impl Ejector {
    /// A handshake was answered as it must be, with whatever status.
    pub(crate) fn handle_answer(&mut self, client: ClientNetwork, now: Instant) {
        self.row = Row::default();
        self.redeemed = true;
        let [last, before] = self.served;
        let is_last = last.is_some_and(|(_, known)| known == client);
        self.served = [Some((now, client)), if is_last { before } else { last }];
    }

    /// A connection was made: failures to connect are not in a row any more.
    pub(crate) fn handle_connect(&mut self) {
        self.unreachable = None;
        self.row.count -= self.row.beyond_clients;
        self.row.beyond_clients = 0;
    }

    /// A session began.
    pub(crate) fn handle_open(&mut self, client: ClientNetwork, now: Instant) {
        self.handle_answer(client, now);
        self.open = self.open.saturating_add(1);
        let sessions = self.sessions(now);
        sessions.opened = sessions.opened.saturating_add(1);
        sessions.opened_by.add(client);
    }

    /// A session that began at `began` is over. Whether the server is to be ejected.
    pub(crate) fn handle_end(
        &mut self,
        end: SessionEnd,
        client: ClientNetwork,
        began: Instant,
        now: Instant,
        settings: Ejection,
    ) -> bool {
        self.open = self.open.saturating_sub(1);
        let sessions = self.sessions(now);
        if sessions.began.is_some_and(|window| window <= began) {
            sessions.ended = sessions.ended.saturating_add(1);
        }
        if end == SessionEnd::Usual {
            return false;
        }
        self.handle_doubt(now);
        if self.is_of_before(began) {
            return false;
        }
        let needed = self.needed(now, settings, false);
        let sessions = self.sessions(now);
        if end == SessionEnd::Unclear {
            // It speaks neither for the server nor against it.
            sessions.unclear = sessions.unclear.saturating_add(1);
            return false;
        }
        sessions.dropped = sessions.dropped.saturating_add(1);
        sessions.dropped_of.add(client);
        let Sessions {
            opened,
            opened_by,
            unclear,
            dropped,
            dropped_of,
            ..
        } = *sessions;
        let is_most = u64::from(dropped) * 2 > u64::from(opened.saturating_sub(unclear));
        let is_one_of_several = dropped_of != Clients::Several && opened_by == Clients::Several;
        let is_alone_at_fault =
            is_one_of_several || (dropped_of != Clients::Several && self.has_older_sessions(now));
        needed.is_some_and(|needed| dropped >= needed)
            && is_most
            && !is_alone_at_fault
            && !self.is_vouched(now)
    }

    /// An attempt that began at `began` failed. Whether the server is to be ejected.
    pub(crate) fn handle_failure(
        &mut self,
        reason: EjectionReason,
        client: ClientNetwork,
        began: Instant,
        now: Instant,
        settings: Ejection,
    ) -> bool {
        self.handle_doubt(now);
        if reason == EjectionReason::Unreachable {
            let since = self.unreachable.map_or(now, |known| known.since);
            self.unreachable = Some(Unreachable { since, last: now });
        }
        if self.is_of_before(began) {
            return false;
        }
        self.row.count = self.row.count.saturating_add(1);
        if reason.is_beyond_clients() {
            self.row.beyond_clients = self.row.beyond_clients.saturating_add(1);
        } else {
            self.row.clients.add(client);
        }
        let Some(needed) = self.needed(now, settings, self.redeemed) else {
            return false;
        };
        let is_certain = self.row.beyond_clients >= needed;
        let is_likely = self.row.count >= needed && !self.is_one_clients_doing(now);
        (is_certain || is_likely) && !self.is_vouched(now)
    }

    /// Something went wrong that a client may have caused: other servers are tried first for a moment.
    pub(crate) fn handle_doubt(&mut self, now: Instant) {
        self.suspect_until = Some(now + SUSPICION);
    }

    /// A health check passed, and vouches for the server until the next one is due; or it failed. The ejection that a passed
    /// check ends.
    pub(crate) fn handle_check(
        &mut self,
        vouched_until: Option<Instant>,
        now: Instant,
    ) -> Option<Ejected> {
        self.vouched_until = vouched_until;
        vouched_until?;
        self.lift(now)
    }

    /// The server is believed to be good again. Ends the ejection that is in force, and returns it.
    pub(crate) fn lift(&mut self, now: Instant) -> Option<Ejected> {
        self.unreachable = None;
        let ejected = self.last.as_mut().filter(|last| now < last.until)?;
        let lifted = *ejected;
        ejected.until = now;
        self.row = Row::default();
        Some(lifted)
    }

    /// Leaves the server alone from now on.
    pub(crate) fn eject(
        &mut self,
        reason: EjectionReason,
        now: Instant,
        settings: Ejection,
    ) -> Ejected {
        self.times = if self.is_on_probation(now) {
            self.times.saturating_add(1)
        } else {
            1
        };
        let factor = 1 << (self.times - 1).min(Ejection::LONGEST.ilog2());
        let ejected = Ejected {
            reason,
            since: now,
            until: now + settings.pause * factor,
        };
        self.last = Some(ejected);
        self.redeemed = false;
        self.row = Row::default();
        self.sessions = Sessions::default();
        ejected
    }

    /// The ejection that is in force.
    pub(crate) fn ejected(&self, now: Instant) -> Option<Ejected> {
        self.last.filter(|last| now < last.until)
    }

    /// The last ejection, whether it is in force or over.
    pub(crate) fn last(&self) -> Option<Ejected> {
        self.last
    }

    /// Whether, and since when, every connect to the server fails. It takes connections nevertheless, unless it is ejected:
    /// the next attempt may find it back.
    pub(crate) fn unreachable(&self) -> Option<Unreachable> {
        self.unreachable
    }

    /// Whether others are to be tried first.
    pub(crate) fn is_suspect(&self, now: Instant) -> bool {
        self.suspect_until.is_some_and(|until| now < until)
    }

    /// How many failures it takes; `None`: no number is enough.
    fn needed(&self, now: Instant, settings: Ejection, redeemed: bool) -> Option<u32> {
        match settings.after {
            0 => None,
            _ if self.is_on_probation(now) && !redeemed => Some(1),
            after => Some(after),
        }
    }

    /// After a pause, for as long as that was.
    fn is_on_probation(&self, now: Instant) -> bool {
        self.last
            .is_some_and(|last| now < last.until + last.pause())
    }

    /// An attempt of that time says nothing that is not known already.
    fn is_of_before(&self, began: Instant) -> bool {
        self.last.is_some_and(|last| began < last.until)
    }

    fn is_vouched(&self, now: Instant) -> bool {
        self.vouched_until.is_some_and(|until| now < until)
    }

    /// Whether the failures in a row come from one client, and the server serves others.
    fn is_one_clients_doing(&mut self, now: Instant) -> bool {
        let Clients::One(client) = self.row.clients else {
            return false;
        };
        let serves = |(at, other): &(Instant, ClientNetwork)| {
            *other != client && now.saturating_duration_since(*at) < MEMORY
        };
        self.served.iter().flatten().any(serves) || self.has_older_sessions(now)
    }

    /// Whether sessions are open that began before those of the window.
    fn has_older_sessions(&mut self, now: Instant) -> bool {
        let open = self.open;
        let sessions = self.sessions(now);
        open > sessions.opened.saturating_sub(sessions.ended)
    }

    fn sessions(&mut self, now: Instant) -> &mut Sessions {
        let is_over = |began: Instant| now.saturating_duration_since(began) > WINDOW;
        if self.sessions.began.is_none_or(is_over) {
            self.sessions = Sessions {
                began: Some(now),
                ..Sessions::default()
            };
        }
        &mut self.sessions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a server was ejected, in milliseconds, why, and for how many seconds.
    type Found = (u64, EjectionReason, u64);

    const SETTINGS: Ejection = Ejection {
        after: 3,
        pause: Duration::from_secs(5),
    };

    /// Plays what happened, `milliseconds:event` each, and returns when the server was ejected, in order. Events, each of the
    /// client that its number names: `u` connect failed, `c` connected, `n` no answer, `g` gateway error, `a` answered, `o`
    /// session opened, `d` dropped, `x` dropped after its client had spoken, `e` ended as usual; `+` check passed, `-` check
    /// failed. An attempt began when it failed, unless its time is `began/failed`.
    fn play(story: &str) -> Vec<Found> {
        let start = Instant::now();
        let at = |text: &str| start + Duration::from_millis(text.parse().expect("milliseconds"));
        let mut ejector = Ejector::default();
        let mut ejections = Vec::new();
        for event in story.split_whitespace() {
            let (times, event) = event.split_once(':').expect("a time and an event");
            let (began, now) = times.split_once('/').unwrap_or((times, times));
            let (began, now) = (at(began), at(now));
            let client: ClientNetwork = event[1..]
                .parse::<u8>()
                .ok()
                .map(|last| [10, 0, 0, last].into());
            let failure = |ejector: &mut Ejector, reason| {
                let fails = ejector.handle_failure(reason, client, began, now, SETTINGS);
                fails.then_some(reason)
            };
            let end = |ejector: &mut Ejector, end| {
                let fails = ejector.handle_end(end, client, began, now, SETTINGS);
                fails.then_some(EjectionReason::Dropped)
            };
            let play_one = |ejector: &mut Ejector| match &event[..1] {
                "u" => failure(ejector, EjectionReason::Unreachable),
                "n" => failure(ejector, EjectionReason::NoAnswer),
                "g" => failure(ejector, EjectionReason::GatewayError),
                "d" => end(ejector, SessionEnd::Dropped),
                "x" => end(ejector, SessionEnd::Unclear),
                "e" => end(ejector, SessionEnd::Usual),
                "c" => {
                    ejector.handle_connect();
                    None
                }
                "a" => {
                    ejector.handle_answer(client, now);
                    None
                }
                "o" => {
                    ejector.handle_open(client, now);
                    None
                }
                "+" => {
                    ejector.handle_check(Some(now + Duration::from_secs(6)), now);
                    None
                }
                "-" => {
                    ejector.handle_check(None, now);
                    None
                }
                other => panic!("no event {other}"),
            };
            if let Some(reason) = play_one(&mut ejector) {
                let ejected = ejector.eject(reason, now, SETTINGS);
                assert_eq!(ejector.ejected(now), Some(ejected));
                assert_eq!(ejector.ejected(ejected.until), None);
                let since_start = (now - start).as_millis() as u64;
                ejections.push((since_start, reason, ejected.pause().as_secs()));
            }
        }
        ejections
    }

    #[test]
    fn when_a_server_is_left_alone() {
        use EjectionReason::{Dropped, GatewayError, NoAnswer, Unreachable};
        let cases: &[(&str, &str, &[Found])] = &[
            ("three in a row", "0:u1 1:u1 2:u1", &[(2, Unreachable, 5)]),
            ("an answer between them", "0:u1 1:u1 2:a1 3:u1 4:u1", &[]),
            ("a connect between them", "0:u1 1:u1 2:c1 3:u1 4:u1", &[]),
            (
                "connects say nothing of answers",
                "0:n1 1:c1 2:n1 3:c1 4:n1",
                &[(4, NoAnswer, 5)],
            ),
            ("whatever they are", "0:u1 1:g1 2:n1", &[(2, NoAnswer, 5)]),
            (
                "of any client while nobody else is served",
                "0:g1 1:g1 2:g1",
                &[(2, GatewayError, 5)],
            ),
            (
                "of one client, others are served",
                "0:a2 1:g1 2:g1 3:g1 4:n1 5:n1",
                &[],
            ),
            (
                "who answers itself between",
                "0:a2 0:a1 1:g1 2:g1 3:g1 4:n1",
                &[],
            ),
            (
                "the service of others is forgotten",
                "0:a2 61000:g1 61001:g1 61002:g1",
                &[(61_002, GatewayError, 5)],
            ),
            (
                "of two clients, others are served",
                "0:a2 1:g1 2:g3 3:g1",
                &[(3, GatewayError, 5)],
            ),
            (
                "of one client, who cannot cause it",
                "0:a2 1:u1 2:u1 3:u1",
                &[(3, Unreachable, 5)],
            ),
            (
                "of one client, whose own session just began",
                "0:o1 1:n1 2:n1 3:n1",
                &[(3, NoAnswer, 5)],
            ),
            (
                "of one client, older sessions go on",
                "0:o2 70000:o1 70000/70001:e1 70002:n1 70003:n1 70004:n1",
                &[],
            ),
            (
                "a hundred at once raise it once",
                "0:u1 0:u1 0:u1 0:u1 0:u1 0:u1 0:u1 0:u1",
                &[(0, Unreachable, 5)],
            ),
            (
                "those on their way when it began say nothing when it is over",
                "0:u1 0:u1 0:u1 0/5001:u1 4999/5002:u1 5000/5003:u1",
                &[(0, Unreachable, 5), (5003, Unreachable, 10)],
            ),
            (
                "twice as long each time, and from the beginning after a good time",
                "0:u1 0:u1 0:u1 5001:u1 15002:u1 60000:u1 60000:u1 60000:u1",
                &[
                    (0, Unreachable, 5),
                    (5001, Unreachable, 10),
                    (15_002, Unreachable, 20),
                    (60_000, Unreachable, 5),
                ],
            ),
            (
                "one that answers again is not held to one failure",
                "0:u1 0:u1 0:u1 5001:a1 5002:u1 5003:u1 5004:u1",
                &[(0, Unreachable, 5), (5004, Unreachable, 10)],
            ),
            (
                "while its check passes",
                "0:+ 1:u1 2:u1 3:u1 4:u1 5900:u1",
                &[],
            ),
            (
                "once its check fails",
                "0:+ 1:u1 2:u1 3:u1 4:- 5:u1",
                &[(5, Unreachable, 5)],
            ),
            (
                "once its checks do not come any more",
                "0:+ 1:u1 2:u1 3:u1 6001:u1",
                &[(6001, Unreachable, 5)],
            ),
            (
                "dropped at once",
                "0:o1 1:d1 2:o2 3:d2 4:o3 5:d3",
                &[(5, Dropped, 5)],
            ),
            (
                "dropped at once, one client is all there is",
                "0:o1 1:d1 2:o1 3:d1 4:o1 5:d1",
                &[(5, Dropped, 5)],
            ),
            (
                "dropped at once, of one of several clients",
                "0:o2 0:o1 1:d1 2:o1 3:d1 4:o1 5:d1 6:o1 7:d1",
                &[],
            ),
            (
                "dropped at once, older sessions go on",
                "0:o2 20000:o1 20001:d1 20002:o1 20003:d1 20004:o1 20005:d1",
                &[],
            ),
            (
                "half of them stay",
                "0:o1 0:o2 0:o3 0:o4 0:o5 0:o6 1:d1 2:d2 3:d3",
                &[],
            ),
            (
                "more than half go",
                "0:o1 0:o2 0:o3 0:o4 0:o5 1:d1 2:d2 3:d3",
                &[(3, Dropped, 5)],
            ),
            (
                "its clients had spoken",
                "0:o1 0:o2 0:o3 1:x1 2:x2 3:x3",
                &[],
            ),
            (
                "now and then",
                "0:o1 1:d1 11000:o2 11001:d2 22000:o3 22001:d3",
                &[],
            ),
            (
                "a 101 does not redeem one that drops",
                "0:o1 1:d1 2:o2 3:d2 4:o3 5:d3 5006:o1 5007:d1",
                &[(5, Dropped, 5), (5007, Dropped, 10)],
            ),
            (
                "dropped at once, its check passes",
                "0:+ 0:o1 1:d1 2:o2 3:d2 4:o3 5:d3",
                &[],
            ),
        ];
        for (name, story, ejections) in cases {
            assert_eq!(play(story), *ejections, "{name}: {story}");
        }
    }

    #[test]
    fn a_check_that_passes_ends_the_pause() {
        let (mut ejector, now) = (Ejector::default(), Instant::now());
        let ejected = ejector.eject(EjectionReason::NoAnswer, now, SETTINGS);
        let later = now + Duration::from_secs(1);
        assert_eq!(ejector.handle_check(None, later), None);
        assert_eq!(ejector.ejected(later), Some(ejected));
        let until = Some(later + Duration::from_secs(5));
        assert_eq!(ejector.handle_check(until, later), Some(ejected));
        assert_eq!(ejector.ejected(later), None);
        assert_eq!(ejector.handle_check(until, later), None, "it was told");
    }

    #[test]
    fn none_is_never_enough() {
        let (mut ejector, now) = (Ejector::default(), Instant::now());
        let never = Ejection {
            after: 0,
            ..SETTINGS
        };
        assert!((0..100).all(|_| !ejector.handle_failure(
            EjectionReason::Unreachable,
            None,
            now,
            now,
            never
        )));
        assert!(ejector.is_suspect(now) && !ejector.is_suspect(now + SUSPICION));
    }
}
