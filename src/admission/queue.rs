//! Upgrades that wait for a server: in the order in which they came, one network of clients after the other, so that a network
//! that asks for a thousand waits for itself, not the others for it.
//!
//! A waiter may want a certain server (consistent hashing); such a waiter is served when that server has room. An operation takes
//! time in the logarithm of the number of waiters, and nothing is kept of a waiter that does not wait any more.

use super::limit::ClientNetwork;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// One upgrade that waits. Never used twice; later ones are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Waiter(u64);

/// The server that a waiter wants; `None` for any.
pub type Wanted = Option<u32>;

/// Waiters of one upstream.
#[derive(Debug, Default)]
pub struct Queue {
    next: u64,
    lines: HashMap<Wanted, Line>,
    waiting: BTreeMap<Waiter, (Wanted, ClientNetwork)>,
}

/// Waiters that want the same server.
#[derive(Debug, Default)]
struct Line {
    next: u64,
    /// Networks by their turn; each that has waiters is in it once.
    turns: BTreeMap<u64, ClientNetwork>,
    networks: HashMap<ClientNetwork, Network>,
}

/// Waiters of the same network.
#[derive(Debug)]
struct Network {
    turn: u64,
    waiters: BTreeSet<Waiter>,
}

impl Queue {
    /// One more waiter, at the end.
    pub fn enter(&mut self, wanted: Wanted, network: ClientNetwork) -> Waiter {
        let waiter = Waiter(self.next);
        self.next += 1;
        self.waiting.insert(waiter, (wanted, network));
        self.lines.entry(wanted).or_default().add(network, waiter);
        waiter
    }

    /// A waiter does not wait any more. Returns true if it was in the queue.
    pub fn leave(&mut self, waiter: Waiter) -> bool {
        let Some((wanted, network)) = self.waiting.remove(&waiter) else {
            return false;
        };
        if let Some(line) = self.lines.get_mut(&wanted) {
            line.remove(network, waiter);
            if line.turns.is_empty() {
                self.lines.remove(&wanted);
            }
        }
        true
    }

    /// The waiter that is served next by this server. It does not wait any more.
    pub fn take(&mut self, server: u32) -> Option<Waiter> {
        // The waiters that want this server cannot go elsewhere, so they come first.
        let own = self.take_wanting(Some(server));
        own.or_else(|| self.take_wanting(None))
    }

    /// The waiter that came last. It does not wait any more.
    pub fn take_last(&mut self) -> Option<Waiter> {
        let (waiter, _) = self.waiting.last_key_value()?;
        let waiter = *waiter;
        self.leave(waiter);
        Some(waiter)
    }

    /// Waiters that want a server which is not among these; they do not wait any more, and may want another one now.
    pub fn take_strays(&mut self, servers: &[u32]) -> Vec<Waiter> {
        let is_gone = |wanted: &&Wanted| wanted.is_some_and(|wanted| !servers.contains(&wanted));
        let gone: Vec<Wanted> = self.lines.keys().filter(is_gone).copied().collect();
        let mut strays = Vec::new();
        for wanted in gone {
            strays.extend(std::iter::from_fn(|| self.take_wanting(wanted)));
        }
        strays
    }

    fn take_wanting(&mut self, wanted: Wanted) -> Option<Waiter> {
        let line = self.lines.get_mut(&wanted)?;
        let taken = line.take();
        if line.turns.is_empty() {
            self.lines.remove(&wanted);
        }
        self.waiting.remove(&taken?);
        taken
    }

    /// The number of waiters.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns true if there is no waiter.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Line {
    fn add(&mut self, network: ClientNetwork, waiter: Waiter) {
        let known = self.networks.entry(network).or_insert_with(|| {
            let turn = self.next;
            self.next += 1;
            self.turns.insert(turn, network);
            let waiters = BTreeSet::new();
            Network { turn, waiters }
        });
        known.waiters.insert(waiter);
    }

    fn remove(&mut self, network: ClientNetwork, waiter: Waiter) {
        if let Some(known) = self.networks.get_mut(&network) {
            known.waiters.remove(&waiter);
            if known.waiters.is_empty() {
                self.turns.remove(&known.turn);
                self.networks.remove(&network);
            }
        }
    }

    /// The first waiter of the network whose turn it is; the network's next turn is behind all others.
    fn take(&mut self) -> Option<Waiter> {
        let (_, network) = self.turns.pop_first()?;
        let known = self.networks.get_mut(&network)?;
        let waiter = known.waiters.pop_first()?;
        if known.waiters.is_empty() {
            self.networks.remove(&network);
        } else {
            known.turn = self.next;
            self.next += 1;
            self.turns.insert(known.turn, network);
        }
        Some(waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::net::IpAddr;

    fn network(number: u8) -> ClientNetwork {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    #[test]
    fn networks_are_served_one_after_the_other() {
        let mut queue = Queue::default();
        let many: Vec<_> = (0..3).map(|_| queue.enter(None, network(1))).collect();
        let one = queue.enter(None, network(2));
        assert_eq!(queue.len(), 4);
        let served: Vec<_> = std::iter::from_fn(|| queue.take(7)).collect();
        assert_eq!(served, [many[0], one, many[1], many[2]]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_waiter_that_wants_a_server_is_served_by_that_server_only() {
        let mut queue = Queue::default();
        let any = queue.enter(None, network(1));
        let wants_two = queue.enter(Some(2), network(1));
        assert_eq!(queue.take(1), Some(any));
        assert_eq!(queue.take(1), None);
        assert_eq!(queue.take_strays(&[1, 2]), []);
        assert_eq!(queue.take_strays(&[1]), [wants_two]);
        assert!(queue.is_empty());
    }

    /// Each waiter is served once, or leaves. The queue keeps nothing of a waiter that was served or left.
    #[test]
    fn no_waiter_is_lost_or_served_twice() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut queue = Queue::default();
        let mut waiting: HashMap<Waiter, ()> = HashMap::new();
        for _ in 0..20_000 {
            match rng.gen_range(0..5) {
                0 | 1 => {
                    let wanted = rng.gen_bool(0.3).then(|| rng.gen_range(0..3));
                    let waiter = queue.enter(wanted, network(rng.gen_range(0..4)));
                    waiting.insert(waiter, ());
                }
                2 | 3 => {
                    if let Some(waiter) = queue.take(rng.gen_range(0..3)) {
                        assert!(waiting.remove(&waiter).is_some(), "served twice");
                    }
                }
                _ => {
                    let Some(waiter) = waiting.keys().min().copied() else {
                        continue;
                    };
                    waiting.remove(&waiter);
                    assert!(queue.leave(waiter));
                    assert!(!queue.leave(waiter));
                }
            }
            assert_eq!(queue.len(), waiting.len());
        }
        for server in 0..3 {
            while let Some(waiter) = queue.take(server) {
                assert!(waiting.remove(&waiter).is_some());
            }
        }
        assert!(waiting.is_empty() && queue.lines.is_empty());
        assert!(queue.take_last().is_none());
    }
}
