//! The local addresses that connections to servers are made from (`source` of an upstream).
//!
//! A connection takes a local port that no other connection from its address to the same server has: some 28,000 for each
//! pair of addresses (`net.ipv4.ip_local_port_range`). Each further address is as many more.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Local addresses, taken in turn.
#[derive(Debug, Default)]
pub struct Sources {
    addresses: Vec<IpAddr>,
    turn: AtomicUsize,
}

/// By the addresses, whosever turn it is.
impl PartialEq for Sources {
    fn eq(&self, other: &Self) -> bool {
        self.addresses == other.addresses
    }
}

impl Eq for Sources {}

impl Sources {
    /// These; where there are none, the system chooses.
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        Sources {
            addresses,
            turn: AtomicUsize::new(0),
        }
    }

    /// All of them.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The local addresses from which a server of this address can be reached, beginning with the next in turn. `None` leaves the
    /// choice to the system, where no address is of the server's family.
    pub(crate) fn of(&self, server: SocketAddr) -> impl Iterator<Item = Option<IpAddr>> {
        let fits = move |source: &&IpAddr| source.is_ipv4() == server.is_ipv4();
        let count = self.addresses.iter().filter(fits).count();
        let first = match count {
            0 | 1 => 0,
            count => self.turn.fetch_add(1, Ordering::Relaxed) % count,
        };
        let fitting = self.addresses.iter().filter(fits).cycle();
        let fitting = fitting.skip(first).take(count).copied().map(Some);
        fitting.chain((count == 0).then_some(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_taken_in_turn_by_family() {
        let [a, b, c] = ["10.0.0.7", "10.0.0.8", "fd00::7"].map(|ip| ip.parse().unwrap());
        let sources = Sources::new(vec![a, c, b]);
        let of =
            |server: &str| -> Vec<Option<IpAddr>> { sources.of(server.parse().unwrap()).collect() };
        assert_eq!(of("10.0.0.1:80"), [Some(a), Some(b)]);
        assert_eq!(of("10.0.0.1:80"), [Some(b), Some(a)]);
        assert_eq!(of("[fd00::1]:80"), [Some(c)]);
        assert_eq!(of("10.0.0.1:80"), [Some(a), Some(b)]);
        let none: Vec<_> = Sources::default()
            .of("10.0.0.1:80".parse().unwrap())
            .collect();
        assert_eq!(none, [None]);
    }
}
