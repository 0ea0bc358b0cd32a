//! A world around the [`Conductor`]: clients that come back, servers that can take so many upgrades a second, and
//! everything that happens to them. The seed is printed on failure; `WSGATE_SEED` sets it.

use super::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client tries to connect.
    Knock(usize),
    /// Its handshake is through, after so many milliseconds.
    Open(usize, u64),
    /// Its connection is gone.
    Gone(usize, MemberId),
    /// Something happens to the world.
    Fate,
}

/// A server takes one upgrade at a time; the others queue.
#[derive(Clone, Copy, Debug)]
struct Server {
    busy_until: Duration,
    generation: u32,
}

struct World {
    conductor: Conductor<usize>,
    rng: StdRng,
    epoch: Instant,
    /// What the world's clock says.
    now: Duration,
    /// What the conductor's clock is ahead of it.
    jumped: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    ordinal: u64,
    /// By upstream.
    servers: Vec<Vec<Server>>,
    /// Upgrades per second that one server takes.
    capacity: f64,
    returning: bool,
    clients: Vec<Option<(MemberId, Place)>>,
    told: HashSet<MemberId>,
    under_way: usize,
    /// Handshake times of the upgrades after the start of the drain, milliseconds; failed ones are `None`.
    handshakes: Vec<Option<u64>>,
    /// Members that a drain has to have told or lost by its deadline.
    due: HashMap<DrainId, (Vec<(usize, MemberId)>, Instant)>,
    /// When members were told.
    tellings: Vec<Duration>,
    /// Most closings under way so long as nothing had to yield to the deadline.
    most: usize,
    yields_at: Duration,
}

impl World {
    fn new(seed: u64, clients: usize, upstreams: &[usize], capacity: f64) -> Self {
        let server = Server {
            busy_until: Duration::ZERO,
            generation: 0,
        };
        let mut world = World {
            conductor: Conductor::new(seed),
            rng: StdRng::seed_from_u64(seed),
            epoch: Instant::now(),
            now: Duration::ZERO,
            jumped: Duration::ZERO,
            events: BinaryHeap::new(),
            ordinal: 0,
            servers: upstreams.iter().map(|many| vec![server; *many]).collect(),
            capacity,
            returning: true,
            clients: vec![None; clients],
            told: HashSet::new(),
            under_way: 0,
            handshakes: Vec::new(),
            due: HashMap::new(),
            tellings: Vec::new(),
            most: 0,
            yields_at: Duration::ZERO,
        };
        for client in 0..clients {
            let place = world.choose(client);
            world.enroll(client, place);
        }
        // What is usual: a few upgrades of strangers.
        for second in 1..=10 {
            world.now = Duration::from_secs(second);
            for upstream in 0..world.servers.len() as u32 {
                let (now, took) = (world.clock(), Duration::from_millis(BASE));
                world.conductor.handle_upgrade(upstream, now, took, true);
            }
        }
        world
    }

    fn clock(&self) -> Instant {
        self.epoch + self.now + self.jumped
    }

    fn at(&mut self, after: u64, event: Event) {
        self.ordinal += 1;
        let when = self.now + Duration::from_millis(after);
        self.events.push(Reverse((when, self.ordinal, event)));
    }

    fn choose(&mut self, client: usize) -> Place {
        let upstream = client % self.servers.len();
        let server = self.rng.gen_range(0..self.servers[upstream].len());
        Place {
            upstream: upstream as u32,
            server: server as u32,
            generation: self.servers[upstream][server].generation,
        }
    }

    fn enroll(&mut self, client: usize, place: Place) {
        let id = self.conductor.enroll(place, client);
        self.clients[client] = Some((id, place));
    }

    fn start(&mut self, selection: Selection, terms: Terms, cause: Cause) -> DrainId {
        let now = self.clock();
        let selected = |id: &MemberId, place: &Place| match selection {
            Selection::Server { upstream, server } => {
                (place.upstream, place.server) == (upstream, server)
            }
            Selection::Upstream { upstream } => place.upstream == upstream,
            Selection::OlderThan {
                upstream,
                generation,
            } => place.upstream == upstream && place.generation < generation,
            Selection::Everything => true,
            Selection::Member(one) => *id == one,
            Selection::Excess { .. } => false,
        };
        let members: Vec<_> = (0..self.clients.len())
            .filter_map(|client| self.clients[client].map(|(id, place)| (client, id, place)))
            .filter(|(_, id, place)| selected(id, place))
            .map(|(client, id, _)| (client, id))
            .collect();
        let forecast = self.conductor.forecast(selection, terms);
        assert_eq!(forecast.members, members.len());
        assert!(forecast.lasts <= terms.deadline_in_force());
        let drain = self.conductor.start(selection, terms, cause, now);
        let deadline = self.conductor.progress(drain, now).unwrap().deadline;
        assert!(deadline <= now + terms.deadline_in_force());
        if let Some((_, earlier)) = self.due.get_mut(&drain) {
            // Joined: it is still about those of its own start.
            *earlier = deadline;
            return drain;
        }
        self.due.insert(drain, (members, deadline));
        self.yields_at = self.now + terms.deadline_in_force() / plan::LATEST;
        drain
    }

    /// Lets time pass up to the next thing that happens. False where nothing does any more.
    fn step(&mut self) -> bool {
        let event = self.events.peek().map(|Reverse((when, ..))| *when);
        let wake = self.conductor.next_wake().map(|wake| {
            let ahead = self.epoch + self.jumped;
            // The shell's timer has a granularity of a millisecond.
            (wake.saturating_duration_since(ahead) + Duration::from_millis(1)).max(self.now)
        });
        let Some(next) = event.into_iter().chain(wake).min() else {
            return false;
        };
        self.now = self.now.max(next);
        if event == Some(next)
            && let Some(Reverse((_, _, event))) = self.events.pop()
        {
            self.happen(event);
        }
        self.poll();
        true
    }

    fn poll(&mut self) {
        let now = self.clock();
        for (id, client, _) in self.conductor.poll(now) {
            assert!(self.told.insert(id), "told twice");
            assert_eq!(self.clients[client].map(|(id, _)| id), Some(id));
            self.under_way += 1;
            self.tellings.push(self.now);
            if self.now < self.yields_at {
                self.most = self.most.max(self.under_way);
            }
            let closing = match self.rng.gen_bool(0.98) {
                true => self.rng.gen_range(5..100),
                false => 5000,
            };
            self.at(closing, Event::Gone(client, id));
        }
        let (clients, told) = (&self.clients, &self.told);
        let conductor = &self.conductor;
        self.due.retain(|drain, (members, deadline)| {
            let progress = conductor.progress(*drain, now);
            if let Some(progress) = progress {
                let Progress {
                    total,
                    waiting,
                    closing,
                    closed,
                    ..
                } = progress;
                assert_eq!(total, waiting + closing + closed);
                assert!(progress.reconnected <= total);
            }
            if progress.is_none_or(|progress| progress.state == State::Cancelled) {
                return false;
            }
            let done = progress.is_some_and(|progress| progress.state == State::Done);
            if now < *deadline && !done {
                return true;
            }
            for (client, id) in members {
                let here = clients[*client].is_some_and(|(now, _)| now == *id);
                assert!(!here || (told.contains(id) && !done), "forgotten");
            }
            false
        });
    }

    fn happen(&mut self, event: Event) {
        let now = self.clock();
        match event {
            Event::Knock(client) => {
                let place = self.choose(client);
                let server = &mut self.servers[place.upstream as usize][place.server as usize];
                let from = server.busy_until.max(self.now);
                if from - self.now > Duration::from_millis(QUEUE) {
                    self.handshakes.push(None);
                    let took = Duration::from_millis(1);
                    self.conductor
                        .handle_upgrade(place.upstream, now, took, false);
                    let again = self.rng.gen_range(1000..5000);
                    self.at(again, Event::Knock(client));
                    return;
                }
                server.busy_until = from + Duration::from_secs_f64(1.0 / self.capacity);
                let took = (server.busy_until - self.now).as_millis() as u64 + BASE;
                self.at(took, Event::Open(client, took));
            }
            Event::Open(client, took) => {
                self.handshakes.push(Some(took));
                let place = self.choose(client);
                let took = Duration::from_millis(took);
                self.conductor
                    .handle_upgrade(place.upstream, now, took, true);
                self.enroll(client, place);
            }
            Event::Gone(client, id) => self.lose(client, id),
            Event::Fate => self.fate(),
        }
    }

    /// A client loses its connection and will be back.
    fn lose(&mut self, client: usize, id: MemberId) {
        if self.clients[client].map(|(id, _)| id) != Some(id) {
            return;
        }
        let now = self.clock();
        self.clients[client] = None;
        self.under_way -= usize::from(self.told.contains(&id));
        self.conductor.leave(id, now);
        self.conductor.leave(id, now);
        if self.returning {
            let after = self.rng.gen_range(1000..5000);
            self.at(after, Event::Knock(client));
        }
    }

    fn fate(&mut self) {
        let upstream = self.rng.gen_range(0..self.servers.len());
        let server = self.rng.gen_range(0..self.servers[upstream].len());
        let (numbered, server_numbered) = (upstream as u32, server as u32);
        match self.rng.gen_range(0..10) {
            0 | 1 => {
                let selection = Selection::Server {
                    upstream: numbered,
                    server: server_numbered,
                };
                let terms = self.any_terms();
                self.start(selection, terms, Cause::Operator);
            }
            2 => {
                let selection = Selection::Upstream { upstream: numbered };
                let terms = self.any_terms();
                self.start(selection, terms, Cause::Deploy);
            }
            3 => {
                let generation = self.servers[upstream][server].generation + 1;
                for server in &mut self.servers[upstream] {
                    server.generation = generation;
                }
                let selection = Selection::OlderThan {
                    upstream: numbered,
                    generation,
                };
                let terms = self.any_terms();
                self.start(selection, terms, Cause::Reload);
            }
            4 => {
                let terms = self.any_terms();
                self.start(Selection::Everything, terms, Cause::Upstream);
            }
            5 => {
                for _ in 0..20 {
                    let client = self.rng.gen_range(0..self.clients.len());
                    if let Some((id, _)) = self.clients[client] {
                        let terms = self.any_terms();
                        let now = self.clock();
                        self.conductor
                            .start(Selection::Member(id), terms, Cause::MaxAge, now);
                    }
                }
            }
            6 => {
                let dead: Vec<_> = (0..self.clients.len())
                    .filter_map(|client| {
                        self.clients[client].map(|(id, place)| (client, id, place))
                    })
                    .filter(|(_, _, place)| {
                        (place.upstream, place.server) == (numbered, server_numbered)
                    })
                    .collect();
                for (client, id, _) in dead {
                    self.lose(client, id);
                }
            }
            7 => {
                let now = self.clock();
                let drains: Vec<_> = self.conductor.drains().collect();
                if let Some(drain) = drains.choose(&mut self.rng) {
                    self.conductor.cancel(*drain, now);
                }
            }
            8 => self.jumped += Duration::from_secs(self.rng.gen_range(1..120)),
            _ => self.jumped += Duration::from_millis(self.rng.gen_range(1..2000)),
        }
    }

    fn any_terms(&mut self) -> Terms {
        let pace = match self.rng.gen_range(0..4) {
            0 => Pace::Over(Duration::from_secs(self.rng.gen_range(0..60))),
            1 => Pace::Rate(self.rng.gen_range(1.0..2000.0)),
            _ => Pace::Adaptive,
        };
        Terms {
            pace,
            deadline: Duration::from_secs(self.rng.gen_range(0..90)),
            max_closing: self.rng.gen_range(0..1000),
            order: if self.rng.r#gen() {
                Order::Random
            } else {
                Order::OldestFirst
            },
        }
    }
}

fn seed() -> u64 {
    let seed = match std::env::var("WSGATE_SEED") {
        Ok(seed) => seed.parse().expect("WSGATE_SEED is a number"),
        Err(_) => rand::thread_rng().r#gen(),
    };
    // Shown by the test harness on failure only.
    println!("WSGATE_SEED={seed}");
    seed
}

#[test]
fn nobody_is_closed_twice_or_forgotten() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..8 {
        let mut world = World::new(rng.r#gen(), 10_000, &[1, 2, 5], 300.0);
        for _ in 0..30 {
            let after = world.rng.gen_range(0..120_000);
            world.at(after, Event::Fate);
        }
        while world.step() {}
        assert!(world.due.is_empty(), "{:?}", world.due.keys());
        assert_eq!(world.under_way, 0);
        assert_eq!(world.conductor.len(), 10_000, "all are back");
        for drain in world.conductor.drains() {
            let progress = world.conductor.progress(drain, world.clock()).unwrap();
            assert_ne!(progress.state, State::Running);
            assert_eq!(progress.closing, 0);
        }
    }
}

#[test]
fn pace_and_closings_stay_within_their_bounds() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..12 {
        let paces = [
            Pace::Adaptive,
            Pace::Rate(rng.gen_range(10.0..2000.0)),
            Pace::Over(Duration::from_secs(rng.gen_range(5..60))),
        ];
        let terms = Terms {
            pace: paces[rng.gen_range(0..3)],
            deadline: Duration::from_secs(rng.gen_range(5..90)),
            max_closing: rng.gen_range(1..400),
            order: Order::Random,
        };
        let mut world = World::new(rng.r#gen(), 3000, &[1], 500.0);
        world.returning = rng.r#gen();
        let began = world.now;
        world.start(Selection::Everything, terms, Cause::Deploy);
        while world.step() {}
        let deadline = terms.deadline_in_force();
        let lasted = *world.tellings.last().unwrap() - began;
        assert!(lasted <= deadline + Duration::from_millis(2), "{terms:?}");
        assert_eq!(world.told.len(), 3000);
        assert!(world.most <= terms.max_closing, "{} {terms:?}", world.most);
        // No second has more than the pace, or than the latest line, makes of it: there is no big bang.
        let latest = 1.5 * 3000.0 / deadline.as_secs_f64();
        let bound = match terms.pace {
            Pace::Rate(rate) => rate.max(latest),
            Pace::Over(_) => latest,
            // Its bound is the window, see `tests`.
            Pace::Adaptive => continue,
        };
        let peak = peak(&world.tellings);
        // A quarter of a second may be caught up.
        assert!(peak as f64 <= bound * 1.25 + 5.0, "{peak} {terms:?}");
    }
}

/// Most in any second.
fn peak(times: &[Duration]) -> usize {
    let within = |from: usize| {
        let end = times[from] + Duration::from_secs(1);
        times.partition_point(|time| *time < end) - from
    };
    (0..times.len()).map(within).max().unwrap_or(0)
}

/// What a deploy of 10,000 clients does to a backend.
#[derive(Debug)]
struct Figures {
    /// Until the last client was told, seconds.
    lasted: f64,
    /// Upgrades that failed.
    failed: usize,
    /// Upgrades that took more than a tenth of a second, or failed.
    strained: usize,
    /// Most members told in one second.
    peak: usize,
    progress: Progress,
}

fn deploy(seed: u64, pace: Pace, capacity: f64, returning: bool, known: Option<f64>) -> Figures {
    let mut world = World::new(seed, 10_000, &[1], capacity);
    world.returning = returning;
    if let Some(known) = known {
        let now = world.clock();
        world.conductor.set_known_rate(0, known, now);
    }
    let terms = Terms {
        pace,
        deadline: Duration::from_secs(60),
        max_closing: 1000,
        order: Order::Random,
    };
    let began = world.now;
    let selection = Selection::Upstream { upstream: 0 };
    let drain = world.start(selection, terms, Cause::Deploy);
    while world.step() {}
    let mut took: Vec<u64> = world.handshakes.iter().flatten().copied().collect();
    took.sort_unstable();
    let failed = world.handshakes.len() - took.len();
    let figures = Figures {
        lasted: (*world.tellings.last().unwrap() - began).as_secs_f64(),
        failed,
        strained: took.iter().filter(|took| **took > 100).count() + failed,
        peak: peak(&world.tellings),
        progress: world.conductor.progress(drain, world.clock()).unwrap(),
    };
    println!(
        "{capacity:>4}/s, {pace:?}: {:.1} s, {failed} failed, {} strained, p99 {} ms, peak {}/s",
        figures.lasted,
        figures.strained,
        took.get(took.len() * 99 / 100).unwrap_or(&0),
        figures.peak,
    );
    figures
}

/// `cargo test spares_the_backend -- --nocapture` shows the figures.
#[test]
fn the_adaptive_pace_spares_the_backend_and_is_not_slower_where_there_is_room() {
    let seed = seed();
    let fixed = Pace::Over(Duration::from_secs(30));
    // Little room: the fixed pace was right for a faster backend.
    for (capacity, known) in [(200.0, None), (300.0, None), (300.0, Some(300.0))] {
        let fixed = deploy(seed, fixed, capacity, true, None);
        let adaptive = deploy(seed, Pace::Adaptive, capacity, true, known);
        assert!(adaptive.failed * 4 <= fixed.failed, "{adaptive:?}");
        assert!(adaptive.strained * 4 <= fixed.strained, "{adaptive:?}");
        assert!(adaptive.lasted <= 60.01, "{adaptive:?}");
    }
    // Room enough, which upgrades before the drain have shown.
    for (capacity, known) in [(1000.0, Some(1000.0)), (5000.0, Some(1000.0))] {
        let fixed = deploy(seed, fixed, capacity, true, None);
        let adaptive = deploy(seed, Pace::Adaptive, capacity, true, known);
        assert!(adaptive.lasted <= fixed.lasted, "{adaptive:?}");
        assert_eq!(adaptive.failed, 0);
        assert!(adaptive.progress.reconnected >= 9500, "{adaptive:?}");
    }
    // Nobody comes back: by the deadline, and without haste.
    let alone = deploy(seed, Pace::Adaptive, 500.0, false, None);
    assert_eq!(alone.progress.closed, 10_000);
    assert_eq!(alone.progress.reconnected, 0);
    assert!(alone.lasted <= 60.01, "{alone:?}");
    assert!(alone.peak <= 10_000 / 60 * 3 / 2, "{alone:?}");
}

/// Time of a handshake without a queue, milliseconds.
const BASE: u64 = 10;

/// Who would have to queue for longer is refused, milliseconds.
const QUEUE: u64 = 1000;
