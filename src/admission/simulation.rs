//! Whole herds against servers of all kinds, with a false clock and one seed (`WSGATE_SEED` replays another one).

use super::limit::{HandshakeEnd, Settings};
use super::queue::Waiter;
use super::{Admission, Entry, Turn};
use crate::admission::limit::Handshake;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

const CAPACITY: f64 = 300.0;
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
const RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// The kinds of clients, by the delay that a client takes after a Close 1012 or a refusal.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// The delay that wsgate suggests.
    Honours,
    /// 1 to 5 s, drawn anew each time.
    Random,
    /// 0 to 100 ms, drawn anew each time.
    AtOnce,
    /// phoenix.js.
    Phoenix,
    /// SignalR, which begins anew after its last step.
    SignalR,
    /// 1, 2, 4, 8, 16 s, without jitter.
    Exponential,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Honours,
        Kind::Random,
        Kind::AtOnce,
        Kind::Phoenix,
        Kind::SignalR,
        Kind::Exponential,
    ];

    fn delay(self, attempt: usize, told: Duration, rng: &mut StdRng) -> Duration {
        let step = |steps: &[u64]| Duration::from_millis(steps[attempt.min(steps.len() - 1)]);
        match self {
            Kind::Honours => told,
            Kind::Random => Duration::from_secs_f64(rng.gen_range(1.0..5.0)),
            Kind::AtOnce => Duration::from_secs_f64(rng.gen_range(0.0..0.1)),
            Kind::Phoenix => step(&[10, 50, 100, 150, 200, 250, 500, 1000, 2000, 5000]),
            Kind::SignalR => step(&[0, 2000, 10_000, 30_000]),
            Kind::Exponential => step(&[1000, 2000, 4000, 8000, 16_000]),
        }
    }

    /// The longest time for which a client of this kind may be away although it would be let in.
    fn own(self) -> f64 {
        match self {
            // The slots of the advice use 0.8 of the rate that is known or guessed.
            Kind::Honours => 30.0,
            Kind::Random => 6.0,
            Kind::AtOnce => 1.0,
            Kind::Phoenix => 6.0,
            // Clients of these kinds all come at the same moments, 30 and 16 s apart, and a queue of 5 s takes a part of them each time.
            Kind::SignalR => 75.0,
            Kind::Exponential => 50.0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ServerKind {
    /// 2 ms for each handshake, however many there are.
    Unlimited,
    /// 0.5 s for each handshake, however many there are.
    Slow,
    /// One after the other, 300 per second.
    Queues,
    /// 300 per second, with a burst of a tenth; what is beyond fails at once.
    Fails,
    /// As `Queues`, with a tenth of the capacity at first and all of it after 10 s.
    SlowStart,
}

struct Server {
    kind: ServerKind,
    busy_until: Instant,
    tokens: f64,
    at: Instant,
    epoch: Instant,
    /// Handshakes that arrived in each second.
    arrived: Vec<u32>,
    connections: usize,
    is_up: bool,
}

impl Server {
    fn new(kind: ServerKind, now: Instant) -> Self {
        Server {
            kind,
            busy_until: now,
            tokens: CAPACITY / 10.0,
            at: now,
            epoch: now,
            arrived: vec![0; 1000],
            connections: 0,
            is_up: true,
        }
    }

    /// When the handshake that arrives now ends, and how.
    fn handshake(&mut self, now: Instant) -> (Instant, HandshakeEnd) {
        const TIME: Duration = Duration::from_millis(2);
        const SLOW: Duration = Duration::from_millis(500);
        let age = now - self.epoch;
        self.arrived[age.as_secs() as usize] += 1;
        match self.kind {
            ServerKind::Unlimited => (now + TIME, HandshakeEnd::Answered),
            ServerKind::Slow => (now + SLOW, HandshakeEnd::Answered),
            ServerKind::Queues | ServerKind::SlowStart => {
                let part = match self.kind {
                    ServerKind::SlowStart => (age.as_secs_f64() / 10.0).clamp(0.1, 1.0),
                    _ => 1.0,
                };
                let step = Duration::from_secs_f64(1.0 / (CAPACITY * part));
                self.busy_until = self.busy_until.max(now) + step;
                (self.busy_until, HandshakeEnd::Answered)
            }
            ServerKind::Fails => {
                let passed = (now - self.at).as_secs_f64();
                self.tokens = (self.tokens + passed * CAPACITY).min(CAPACITY / 10.0);
                self.at = now;
                if self.tokens < 1.0 {
                    return (now + TIME / 2, HandshakeEnd::Failed);
                }
                self.tokens -= 1.0;
                (now + TIME, HandshakeEnd::Answered)
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(usize),
    HandshakeEnds(usize, u32),
    WaitIsOver(usize, u64),
    Poll,
    /// A server dies: its clients are told to reconnect.
    Dies(u32),
    /// A server that died takes connections again.
    Returns(u32),
}

struct Client {
    kind: Kind,
    attempt: usize,
    /// The waiter, and a number by which an old end of waiting is told from the present one.
    waits: Option<Waiter>,
    waited: u64,
    /// A server took connections when the wait began: the wait could be predicted.
    is_predicted: bool,
    handshake: Option<(Handshake, HandshakeEnd)>,
    connected: Option<u32>,
    network: IpAddr,
}

/// A herd that comes to the servers of one upstream.
struct World {
    rng: StdRng,
    now: Instant,
    start: Instant,
    admission: Admission,
    servers: Vec<Server>,
    clients: Vec<Client>,
    waiters: HashMap<Waiter, usize>,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    count: u64,
    next_poll: Option<Instant>,
    in_vain: usize,
    failed: usize,
    refused: usize,
    back: usize,
    last_back: Instant,
}

impl World {
    fn new(servers: &[ServerKind], seed: u64) -> Self {
        let now = Instant::now();
        World {
            rng: StdRng::seed_from_u64(seed),
            now,
            start: now,
            admission: Admission::new(Settings::default(), now),
            servers: servers.iter().map(|kind| Server::new(*kind, now)).collect(),
            clients: Vec::new(),
            waiters: HashMap::new(),
            events: BinaryHeap::new(),
            count: 0,
            next_poll: None,
            in_vain: 0,
            failed: 0,
            refused: 0,
            back: 0,
            last_back: now,
        }
    }

    fn at(&mut self, when: Instant, event: Event) {
        self.count += 1;
        self.events.push(Reverse((when, self.count, event)));
    }

    fn up(&self) -> Vec<u32> {
        let mut up: Vec<u32> = (0..self.servers.len() as u32)
            .filter(|server| self.servers[*server as usize].is_up)
            .collect();
        up.sort_by_key(|server| self.servers[*server as usize].connections);
        up
    }

    /// This number of clients of a kind is told to reconnect now, at once.
    fn tell(&mut self, number: usize, kind: Kind) {
        for _ in 0..number {
            let client = self.clients.len();
            self.clients.push(Client {
                kind,
                attempt: 0,
                waits: None,
                waited: 0,
                is_predicted: false,
                handshake: None,
                connected: None,
                network: IpAddr::from(self.rng.r#gen::<[u8; 4]>()),
            });
            self.tell_one(client);
        }
    }

    /// A client is told to reconnect now.
    fn tell_one(&mut self, client: usize) {
        let (up, draw) = (self.up(), self.rng.gen_range(0.0..1.0));
        let told = self.admission.reconnect_delay(RANGE, &up, draw, self.now);
        let of = &mut self.clients[client];
        of.connected = None;
        of.attempt = 1;
        let delay = of.kind.delay(0, told, &mut self.rng);
        self.at(self.now + delay, Event::Arrives(client));
    }

    fn retry(&mut self, client: usize, told: Duration) {
        let told = Duration::from_secs_f64(told.as_secs_f64().ceil().max(1.0));
        let of = &mut self.clients[client];
        let delay = of.kind.delay(of.attempt, told, &mut self.rng);
        of.attempt += 1;
        self.at(
            self.now + delay.max(Duration::from_millis(1)),
            Event::Arrives(client),
        );
    }

    fn begin(&mut self, client: usize, server: u32, handshake: Handshake) {
        let (at, end) = self.servers[server as usize].handshake(self.now);
        self.clients[client].handshake = Some((handshake, end));
        self.at(at, Event::HandshakeEnds(client, server));
    }

    fn arrive(&mut self, client: usize) {
        let up = self.up();
        for server in &up {
            if let Some(handshake) = self.admission.try_start(*server, self.now) {
                return self.begin(client, *server, handshake);
            }
        }
        let network = Some(self.clients[client].network);
        match self.admission.enter(None, network, &up, QUEUE_TIMEOUT) {
            Entry::Waits(waiter) => {
                let of = &mut self.clients[client];
                of.waits = Some(waiter);
                of.waited += 1;
                of.is_predicted = !up.is_empty();
                let number = of.waited;
                self.waiters.insert(waiter, client);
                self.at(self.now + QUEUE_TIMEOUT, Event::WaitIsOver(client, number));
                self.poll();
            }
            Entry::Refused(after) => {
                self.refused += 1;
                self.retry(client, after);
            }
        }
    }

    fn poll(&mut self) {
        let (turns, wake) = self.admission.poll(&self.up(), QUEUE_TIMEOUT, self.now);
        for (waiter, turn) in turns {
            let client = self.waiters.remove(&waiter).expect("it waits");
            self.clients[client].waits = None;
            match turn {
                Turn::Begins(server, handshake) => self.begin(client, server, handshake),
                Turn::ChoosesAnew => self.arrive(client),
                Turn::Refused(after) => {
                    self.refused += 1;
                    self.retry(client, after);
                }
            }
        }
        if let Some(wake) = wake
            && self
                .next_poll
                .is_none_or(|next| wake < next || next <= self.now)
        {
            self.next_poll = Some(wake);
            self.at(wake, Event::Poll);
        }
    }

    /// Until this second, or nobody is left that has to come back.
    fn run(&mut self, seconds: u64) {
        let until = self.start + Duration::from_secs(seconds);
        while self.events.peek().is_some_and(|next| next.0.0 <= until) {
            self.step();
        }
    }

    fn step(&mut self) {
        if let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            match event {
                Event::Arrives(client) => self.arrive(client),
                Event::HandshakeEnds(client, server) => {
                    let of = &mut self.clients[client];
                    let (handshake, end) = of.handshake.take().expect("it is under way");
                    let end = match self.servers[server as usize].is_up {
                        true => end,
                        false => HandshakeEnd::Failed,
                    };
                    let network = Some(of.network);
                    self.admission
                        .end(server, handshake, end, network, self.now);
                    if end == HandshakeEnd::Answered {
                        self.servers[server as usize].connections += 1;
                        self.clients[client].connected = Some(server);
                        self.back += 1;
                        self.last_back = self.now;
                    } else {
                        self.failed += 1;
                        self.retry(client, Duration::from_secs(1));
                    }
                    self.poll();
                }
                Event::WaitIsOver(client, number) => {
                    let of = &mut self.clients[client];
                    if of.waited == number
                        && let Some(waiter) = of.waits.take()
                    {
                        self.in_vain += usize::from(self.clients[client].is_predicted);
                        self.waiters.remove(&waiter);
                        self.admission.leave(waiter);
                        self.retry(client, Duration::from_secs(1));
                    }
                }
                Event::Poll => {
                    self.next_poll = None;
                    self.poll();
                }
                Event::Dies(server) => {
                    let of = &mut self.servers[server as usize];
                    of.is_up = false;
                    self.back -= std::mem::take(&mut of.connections);
                    self.admission.probe(server, self.now);
                    for client in 0..self.clients.len() {
                        if self.clients[client].connected == Some(server) {
                            self.tell_one(client);
                        }
                    }
                }
                Event::Returns(server) => {
                    self.servers[server as usize].is_up = true;
                    self.poll();
                }
            }
        }
    }

    fn took(&self) -> f64 {
        (self.last_back - self.start).as_secs_f64()
    }
}

fn seed() -> u64 {
    let seed = std::env::var("WSGATE_SEED").ok();
    seed.map_or(1, |seed| seed.parse().expect("WSGATE_SEED is a number"))
}

/// 3,000 clients of a server that died, for each kind of client and of server, with one or four servers left.
#[test]
fn a_herd_comes_back_at_the_pace_of_the_servers() {
    use ServerKind::*;
    for kind in Kind::ALL {
        for server in [Unlimited, Queues, Fails, SlowStart] {
            for left in [1, 4] {
                let clients = 3000;
                let mut world = World::new(&vec![server; left], seed());
                world.tell(clients, kind);
                world.run(400);
                let what = format!(
                    "{kind:?} clients, {left} {server:?} servers, seed {}",
                    seed()
                );
                assert_eq!(world.back, clients, "{what}");
                assert_eq!(world.in_vain, 0, "{what}: nobody waits in vain");
                if server != Unlimited {
                    for second in &world.servers {
                        let later = &second.arrived[3..];
                        let most = f64::from(*later.iter().max().expect("some"));
                        // `Fails` takes a burst of a tenth beyond its 300.
                        let takes = CAPACITY * if server == Fails { 1.1 } else { 1.0 };
                        assert!(most <= takes * 1.1, "{what}: {most} in a second");
                        let first = f64::from(*second.arrived[..3].iter().max().expect("some"));
                        assert!(first <= CAPACITY * 2.0, "{what}: {first} while it learns");
                    }
                    let ideal = clients as f64 / (CAPACITY * left as f64);
                    let slow = if server == SlowStart { 10.0 } else { 0.0 };
                    let most = ideal * 1.2 + kind.own() + slow;
                    assert!(
                        world.took() <= most,
                        "{what}: {:.1} s of {most:.1}",
                        world.took()
                    );
                }
            }
        }
    }
}

/// 5,000 clients come within 0.1 s to servers of which nothing is known and that take them all: all are admitted in about a second,
/// and none is refused because the bounds began low.
#[test]
fn a_crowd_at_once_is_not_refused_by_a_server_that_takes_it() {
    for left in [1, 4] {
        let clients = 5000;
        let mut world = World::new(&vec![ServerKind::Unlimited; left], seed());
        world.tell(clients, Kind::AtOnce);
        world.run(10);
        assert_eq!((world.back, world.refused), (clients, 0), "{left} servers");
        assert!(world.took() < 1.5, "{left} servers: {} s", world.took());
    }
}

/// 5,000 clients come within 0.1 s to servers whose handshakes always take half a second: nobody waits in vain, and all are back.
/// Where the bound on handshakes under way lets fewer through than came, the others get a 503 at once and come again.
#[test]
fn a_crowd_at_once_comes_through_to_slow_servers() {
    for (left, most) in [(1, 8.0), (4, 6.0)] {
        let clients = 5000;
        let mut world = World::new(&vec![ServerKind::Slow; left], seed());
        world.tell(clients, Kind::AtOnce);
        world.run(60);
        assert_eq!((world.back, world.in_vain), (clients, 0), "{left} servers");
        assert!(world.took() < most, "{left} servers: {} s", world.took());
    }
}

/// All servers die, and are back after 5 s. Then no upgrade waits in vain, and no server gets more than it takes once it is known.
#[test]
fn a_herd_comes_back_when_all_servers_were_gone() {
    for kind in Kind::ALL {
        let clients = 3000;
        let mut world = World::new(&[ServerKind::Queues; 2], seed());
        let (dead, back) = (world.now, world.now + Duration::from_secs(5));
        for server in 0..2 {
            world.at(dead, Event::Dies(server));
            world.at(back, Event::Returns(server));
        }
        world.run(0);
        world.tell(clients, kind);
        world.run(400);
        let what = format!("{kind:?} clients, seed {}", seed());
        assert_eq!((world.back, world.in_vain), (clients, 0), "{what}");
        for server in &world.servers {
            let most = f64::from(*server.arrived[9..].iter().max().expect("some"));
            assert!(most <= CAPACITY * 1.1, "{what}: {most} in a second");
        }
    }
}

/// One of two servers dies every 10 s, for 5 s each, and its clients have to come back each time. The other server never gets more
/// than it takes, and when the first one stays, all clients are connected.
#[test]
fn a_server_that_flaps_does_not_overrun_the_other() {
    for kind in Kind::ALL {
        let clients = 2000;
        let mut world = World::new(&[ServerKind::Queues; 2], seed());
        let start = world.now;
        for round in 1..5 {
            let dies = start + Duration::from_secs(20 + 10 * round);
            world.at(dies, Event::Dies(0));
            world.at(dies + Duration::from_secs(5), Event::Returns(0));
        }
        world.tell(clients, kind);
        world.run(400);
        let what = format!("{kind:?} clients, seed {}", seed());
        assert_eq!(world.back, clients, "{what}");
        let connected = world.clients.iter().filter(|one| one.connected.is_some());
        assert_eq!(connected.count(), clients, "{what}");
        let most = f64::from(*world.servers[1].arrived[3..].iter().max().expect("some"));
        assert!(most <= CAPACITY * 1.1, "{what}: {most} in a second");
    }
}
