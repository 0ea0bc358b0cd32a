//! Which clients move where some servers have more than their share of an upstream's connections, and when that happens by itself.
//!
//! A deploy leaves the server that was restarted last empty, because clients come back while it is away.

use crate::deploy::Control;
use crate::drain::{Cause, DrainId, MemberId, Place, State as DrainState, Terms};
use crate::relay::Handle;
use crate::upstream::settings::{Balance, Rebalance};
use crate::upstream::{Pool, Pools, Server, State};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The connections of a server that takes connections.
#[derive(Debug)]
pub struct Share {
    /// The server.
    pub server: Arc<Server>,
    /// WebSocket connections to it.
    pub connections: usize,
    /// The connections that move to other servers.
    pub moved: Vec<MemberId>,
}

/// A live connection.
type Live = (MemberId, Place, Arc<Handle>);

impl Pool {
    /// The share of each server that takes connections: with consistent hashing the connections move whose key belongs to another
    /// server, else the oldest of those beyond the share of the server, by weight, and `slack` percent of it. `None`: a sticky cookie
    /// brings each client back to its server.
    pub fn shares(&self, control: &Control, slack: u32) -> Option<Vec<Share>> {
        let members = self.members();
        if self.is_sticky() {
            return None;
        }
        let is_hashed = matches!(members.settings.balance, Balance::Hash(_));
        let up = members.servers.iter();
        let up: Vec<_> = up.filter(|server| server.state() == State::Up).collect();
        let mut live: BTreeMap<u32, Vec<Live>> = BTreeMap::new();
        for one in control.connections(None) {
            if one.1.upstream == self.index {
                live.entry(one.1.server).or_default().push(one);
            }
        }
        let of = |server: &Server| live.get(&server.number).map_or(&[][..], Vec::as_slice);
        let counts = up.iter().map(|server| (of(server).len(), server.weight()));
        let excess = excess(&counts.collect::<Vec<_>>(), slack);
        let share = |(server, excess): (&&Arc<Server>, usize)| {
            let connections = of(server);
            let moves = |one: &&Live| !is_hashed || self.belongs_elsewhere(one);
            let most = if is_hashed { usize::MAX } else { excess };
            // In the order of their age: the oldest have not been told to reconnect for the longest time.
            let moved = connections.iter().filter(moves).take(most);
            Share {
                server: (*server).clone(),
                connections: connections.len(),
                moved: moved.map(|(id, ..)| *id).collect(),
            }
        };
        Some(up.iter().zip(excess).map(share).collect())
    }

    /// Whether the key of a connection belongs to another server than it is connected to.
    fn belongs_elsewhere(&self, (_, place, handle): &Live) -> bool {
        let key = handle.about().and_then(|about| about.key.as_deref());
        let Some(key) = key else {
            return false;
        };
        let candidates = self.candidates(Some(key));
        let first = candidates.first();
        first.is_some_and(|server| server.number != place.server)
    }

    /// Tells the clients that move to reconnect. `None`: none has to move.
    pub fn rebalance(&self, control: &Control, shares: &[Share], terms: Terms) -> Option<DrainId> {
        let moved: Vec<_> = shares
            .iter()
            .flat_map(|share| share.moved.clone())
            .collect();
        (!moved.is_empty()).then(|| control.rebalance(&self.id(), moved, terms))
    }
}

/// How many connections each server, with its connections and its weight, has beyond its share.
fn excess(servers: &[(usize, u32)], slack: u32) -> Vec<usize> {
    let all: usize = servers.iter().map(|(connections, _)| connections).sum();
    let weights: u64 = servers.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let of_server = |(connections, weight): &(usize, u32)| {
        let share = all as f64 * f64::from(*weight) / weights.max(1) as f64;
        let most = (share * (1.0 + f64::from(slack) / 100.0)).ceil() as usize;
        match *connections > most {
            true => connections - share.ceil() as usize,
            false => 0,
        }
    };
    servers.iter().map(of_server).collect()
}

/// Rebalances the upstreams whose settings ask for it.
pub(crate) struct Rebalancing {
    pools: Arc<Pools>,
    control: Arc<Control>,
}

/// Between two looks.
const GLANCE: Duration = Duration::from_secs(1);

/// An upstream, as it was at the last look.
#[derive(Default)]
struct Seen {
    /// The numbers of the servers that took connections.
    up: HashSet<u32>,
    /// When it is rebalanced.
    due: Option<Instant>,
}

impl Rebalancing {
    /// Looks at these pools; `control` tells the clients.
    pub(crate) fn new(pools: Arc<Pools>, control: Arc<Control>) -> Self {
        Rebalancing { pools, control }
    }

    /// Rebalances for as long as it is polled.
    pub(crate) async fn run(self) {
        let mut seen: HashMap<u32, Seen> = HashMap::new();
        loop {
            let now = Instant::now();
            let pools = self.pools.current();
            seen.retain(|index, _| pools.iter().any(|pool| pool.index == *index));
            for pool in &pools {
                let is_first = !seen.contains_key(&pool.index);
                let known = seen.entry(pool.index).or_default();
                self.look(pool, known, is_first, now);
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    fn look(&self, pool: &Pool, seen: &mut Seen, is_first: bool, now: Instant) {
        let members = pool.members();
        let Rebalance { after, slack } = members.settings.rebalance;
        let up = members.servers.iter();
        let up = up.filter(|server| server.state() == State::Up);
        let up: HashSet<u32> = up.map(|server| server.number).collect();
        if !is_first && !after.is_zero() && up.iter().any(|server| !seen.up.contains(server)) {
            seen.due = Some(now + after);
        }
        seen.up = up;
        // Clients that are away would be counted for no server, and a drain under way moves others.
        let is_settled = || self.control.away(pool.index) == 0 && !self.is_draining(pool);
        if after.is_zero() || seen.due.is_none_or(|due| now < due) || !is_settled() {
            return;
        }
        seen.due = None;
        let terms = self.control.settings().terms;
        if let Some(shares) = pool.shares(&self.control, slack)
            && pool.rebalance(&self.control, &shares, terms).is_some()
        {
            tracing::info!(
                upstream = pool.name,
                "a server came: its share of the clients moves"
            );
        }
    }

    fn is_draining(&self, pool: &Pool) -> bool {
        self.control.drains().iter().any(|(_, progress)| {
            progress.state == DrainState::Running
                && progress.cause != Cause::MaxAge
                && progress.selection.upstream() == Some(pool.index)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_share() {
        for (servers, slack, beyond) in [
            (&[(100, 1), (100, 1), (0, 1)][..], 10, &[33, 33, 0][..]),
            (&[(100, 1), (100, 1), (85, 1)], 10, &[0, 0, 0]),
            (&[(100, 1), (100, 1), (85, 1)], 0, &[5, 5, 0]),
            (&[(200, 2), (0, 1), (100, 1)], 10, &[50, 0, 25]),
            (&[(5, 1)], 0, &[0]),
            (&[(1, 1), (0, 1)], 0, &[0, 0]),
            (&[], 0, &[]),
        ] {
            assert_eq!(excess(servers, slack), beyond, "{servers:?}, {slack} %");
        }
    }
}
