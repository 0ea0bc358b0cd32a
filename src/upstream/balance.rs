//! Balancing: the servers that take connections, in the order in which they are tried.

use crate::transport::address::Address;
use crate::upstream::Server;
use crate::upstream::settings::Balance;
use parking_lot::Mutex;
use pingora_ketama::{Bucket, Continuum};
use sha1::{Digest, Sha1};
use std::collections::HashMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The state of round robin between two turns, by the number of the server.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<u32, f64>>);

/// The ring of consistent hashing: when a server goes, only its own keys go elsewhere.
pub(crate) struct Ring {
    continuum: Continuum,
    servers: HashMap<SocketAddr, u32>,
}

impl Ring {
    /// Of these servers by their addresses and weights, as nginx and memcached make it of IP addresses.
    pub(crate) fn new(servers: &[Arc<Server>]) -> Self {
        let nodes: Vec<_> = servers
            .iter()
            .map(|server| (point(&server.address), server))
            .collect();
        let buckets: Vec<_> = nodes
            .iter()
            .map(|(node, server)| Bucket::new(*node, server.weight().max(1)))
            .collect();
        Ring {
            continuum: Continuum::new(&buckets),
            servers: nodes
                .iter()
                .map(|(node, server)| (*node, server.number))
                .collect(),
        }
    }

    /// Numbers of all servers, beginning with the one that the key belongs to.
    fn order(&self, key: &[u8]) -> Vec<u32> {
        let mut order = Vec::with_capacity(self.servers.len());
        // The iterator goes round for ever; each server has many points.
        for node in self.continuum.node_iter(key) {
            if let Some(number) = self.servers.get(node)
                && !order.contains(number)
            {
                order.push(*number);
            }
            if order.len() == self.servers.len() {
                break;
            }
        }
        order
    }
}

/// Where a server lies on the ring: by its address, or by the hash of its name where that is no IP address.
fn point(address: &Address) -> SocketAddr {
    if let Address::Tcp(address) = address {
        return *address;
    }
    let digest: [u8; 20] = Sha1::digest(address.to_string()).into();
    let mut ip = [0; 16];
    ip.copy_from_slice(&digest[..16]);
    (Ipv6Addr::from(ip), 1).into()
}

/// These servers in the order in which a connection tries them. `turn` counts the calls.
pub(crate) fn order(
    mut servers: Vec<Arc<Server>>,
    balance: &Balance,
    slow_start: Duration,
    turn: usize,
    turns: &Turns,
    ring: Option<(&Ring, &[u8])>,
) -> Vec<Arc<Server>> {
    if servers.len() < 2 {
        return servers;
    }
    let weight = |server: &Server| f64::from(server.weight().max(1)) * server.share(slow_start);
    match (balance, ring) {
        (Balance::Hash(_), Some((ring, key))) => {
            let order = ring.order(key);
            servers.sort_by_key(|server| order.iter().position(|number| *number == server.number));
        }
        // Without a key any server will do.
        (Balance::LeastConnections | Balance::Hash(_) | Balance::StickyCookie(_), _) => {
            let first = turn % servers.len();
            servers.rotate_left(first);
            // A server at which connections fail has the fewest, and would get all that come. The sort is stable: servers that
            // have as many take turns.
            servers.sort_by_cached_key(|server| {
                let load = (server.connections() + 1) as f64 / weight(server);
                // Positive numbers are in the order of their bits.
                (server.is_suspect(), load.to_bits())
            });
        }
        (Balance::RoundRobin, _) => {
            // Smooth weighted round robin, as nginx has it: each gains its weight, who has most pays for all.
            let mut gained = turns.0.lock();
            gained.retain(|number, _| servers.iter().any(|server| server.number == *number));
            let mut total = 0.0;
            for server in &servers {
                let weight = weight(server);
                *gained.entry(server.number).or_default() += weight;
                total += weight;
            }
            let of = |server: &Server| gained.get(&server.number).copied().unwrap_or_default();
            servers.sort_by(|a, b| of(b).total_cmp(&of(a)));
            if let Some(first) = servers.first() {
                *gained.entry(first.number).or_default() -= total;
            }
        }
    }
    servers
}
