//! How many connections each client address has, and how fast it opens new ones.

use crate::limit::rate::{Bucket, Rate};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The limits of one client address; 429 with Retry-After beyond them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressLimits {
    /// Connections at a time; of clients behind trusted proxies, WebSockets and requests under way. 0 for no limit.
    pub max_connections: usize,
    /// New connections, and further requests on them, per second; 0 for no limit.
    pub rate: u32,
    /// IPv6 addresses that have so many bits in common are one.
    pub ipv6_prefix: u8,
}

impl AddressLimits {
    /// Whether there are any.
    pub fn is_some(&self) -> bool {
        self.max_connections != 0 || self.rate != 0
    }
}

/// The clients that are connected, or were a moment ago. Share it in an `Arc`.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: HashMap<IpAddr, Account>,
    /// The next look at who can be forgotten, by number of accounts.
    sweep_at: usize,
}

#[derive(Debug)]
struct Account {
    open: usize,
    /// New connections that it may open, where that is limited.
    bucket: Option<Bucket>,
}

/// Why a client address may not have one more connection or request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Throttled {
    /// `address_max_connections`.
    TooMany,
    /// `address_rate`; the next one may come after this time.
    TooFast(Duration),
}

/// A connection, or a request under way, counts against its address as long as this lives.
#[derive(Debug)]
pub(crate) struct AddressPermit {
    clients: Arc<Clients>,
    address: IpAddr,
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut known = self.clients.lock();
        if let Some(account) = known.addresses.get_mut(&self.address) {
            account.open -= 1;
        }
    }
}

impl AddressPermit {
    /// One more request of the same address.
    ///
    /// # Errors
    /// Where they come too fast.
    pub(crate) fn spend(&self, limits: &AddressLimits, now: Instant) -> Result<(), Throttled> {
        self.clients.spend(self.address, limits, now)
    }
}

impl Clients {
    /// One more connection, or request under way, of an address.
    ///
    /// # Errors
    /// Why it has to wait.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &AddressLimits,
        now: Instant,
    ) -> Result<AddressPermit, Throttled> {
        let address = network_of(address, limits.ipv6_prefix);
        let rate = Rate::new(u64::from(limits.rate), Duration::from_secs(1));
        let mut known = self.lock();
        known.sweep(rate, now);
        let account = known.account(address);
        if limits.max_connections != 0 && account.open >= limits.max_connections {
            return Err(Throttled::TooMany);
        }
        account.spend(rate, now)?;
        account.open += 1;
        Ok(AddressPermit {
            clients: self.clone(),
            address,
        })
    }

    /// One more request of an address whose connection is counted already.
    ///
    /// # Errors
    /// Where they come too fast.
    pub(crate) fn spend(
        &self,
        address: IpAddr,
        limits: &AddressLimits,
        now: Instant,
    ) -> Result<(), Throttled> {
        let Some(rate) = Rate::new(u64::from(limits.rate), Duration::from_secs(1)) else {
            return Ok(());
        };
        let address = network_of(address, limits.ipv6_prefix);
        let mut known = self.lock();
        known.sweep(Some(rate), now);
        known.account(address).spend(Some(rate), now)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }
}

impl Account {
    /// Takes a token, where the rate is limited.
    fn spend(&mut self, rate: Option<Rate>, now: Instant) -> Result<(), Throttled> {
        let Some(rate) = rate else {
            return Ok(());
        };
        let bucket = self.bucket.get_or_insert_with(|| Bucket::full(rate, now));
        if bucket.tokens(rate, now) < 1.0 {
            return Err(Throttled::TooFast(bucket.wait_for(1.0, rate, now)));
        }
        bucket.take(1);
        Ok(())
    }
}

impl Known {
    fn account(&mut self, address: IpAddr) -> &mut Account {
        self.addresses.entry(address).or_insert(Account {
            open: 0,
            bucket: None,
        })
    }

    /// Removes addresses without a connection whose tokens are all back. This happens whenever the number has doubled,
    /// so that a connection costs the same however many there are.
    fn sweep(&mut self, rate: Option<Rate>, now: Instant) {
        if self.addresses.len() < self.sweep_at.max(1024) {
            return;
        }
        self.addresses.retain(|_, account| {
            let bucket = account.bucket.as_mut().zip(rate);
            let is_full = bucket.is_none_or(|(bucket, rate)| bucket.is_full(rate, now));
            account.open > 0 || !is_full
        });
        self.sweep_at = self.addresses.len() * 2;
    }
}

/// The network of an address: a client with one IPv6 address has a whole network of them.
pub(crate) fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(prefix.min(128)))
                .unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AddressLimits = AddressLimits {
        max_connections: 2,
        rate: 0,
        ipv6_prefix: 64,
    };

    #[test]
    fn each_address_has_its_own_places() {
        let (clients, now) = (Arc::<Clients>::default(), Instant::now());
        let admit = |address: &str| clients.admit(address.parse().unwrap(), &LIMITS, now);
        let first = admit("203.0.113.7").unwrap();
        let _second = admit("::ffff:203.0.113.7").unwrap();
        assert!(admit("203.0.113.7").is_err());
        let _other = admit("203.0.113.8").unwrap();
        drop(first);
        assert!(admit("203.0.113.7").is_ok());
        // A network of IPv6 is one client.
        let _v6 = [
            admit("2001:db8::1").unwrap(),
            admit("2001:db8::ffff:1").unwrap(),
        ];
        assert!(admit("2001:db8::2").is_err() && admit("2001:db8:0:1::2").is_ok());
    }

    #[test]
    fn new_ones_come_at_a_rate() {
        let (clients, start) = (Arc::<Clients>::default(), Instant::now());
        let limits = AddressLimits {
            max_connections: 0,
            rate: 10,
            ..LIMITS
        };
        let admit = |ms| {
            let now = start + Duration::from_millis(ms);
            clients
                .admit([203, 0, 113, 7].into(), &limits, now)
                .map(drop)
        };
        assert_eq!((0..20).filter(|_| admit(0).is_ok()).count(), 10);
        assert_eq!(
            admit(50),
            Err(Throttled::TooFast(Duration::from_millis(50)))
        );
        assert!(admit(100).is_ok());
        assert_eq!((0..20).filter(|_| admit(60_000).is_ok()).count(), 10);
    }

    #[test]
    fn requests_and_connections_spend_the_same_tokens() {
        let (clients, now) = (Arc::<Clients>::default(), Instant::now());
        let limits = AddressLimits {
            max_connections: 1,
            rate: 3,
            ..LIMITS
        };
        let client = [203, 0, 113, 7].into();
        let admitted = clients.admit(client, &limits, now).unwrap();
        assert_eq!(
            clients.admit(client, &limits, now).err(),
            Some(Throttled::TooMany)
        );
        assert_eq!(admitted.spend(&limits, now), Ok(()));
        assert_eq!(clients.spend(client, &limits, now), Ok(()));
        let full = admitted.spend(&limits, now);
        assert!(matches!(full, Err(Throttled::TooFast(_))), "{full:?}");
        // Without a limit nothing is remembered of it.
        assert_eq!(clients.spend([203, 0, 113, 8].into(), &LIMITS, now), Ok(()));
        assert_eq!(clients.lock().addresses.len(), 1);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let (clients, start) = (Arc::<Clients>::default(), Instant::now());
        let limits = AddressLimits { rate: 1, ..LIMITS };
        for n in 0..100_000_u32 {
            let address = IpAddr::V4(n.to_be_bytes().into());
            let now = start + Duration::from_millis(u64::from(n));
            assert!(clients.admit(address, &limits, now).is_ok());
        }
        let known = clients.lock().addresses.len();
        assert!(known < 5000, "{known} addresses are remembered");
    }
}
