//! The pools of all upstreams, and what a new configuration changes of them.

use crate::deploy::UpgradeRates;
use crate::drain::Cause;
use crate::transport::address::Address;
use crate::upstream::intents::Intents;
use crate::upstream::settings::{ServerSettings, Upstream};
use crate::upstream::{HealthStatus, Members, Pool, Server};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// Every pool, those included that the configuration dropped while they had connections.
#[derive(Default)]
pub struct Pools {
    inner: RwLock<Inner>,
    /// What operators said of servers.
    intents: Arc<Intents>,
    /// Counts the configurations, and the changes of names.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    current: Vec<Arc<Pool>>,
    dropped: Vec<Arc<Pool>>,
    next: u32,
}

/// The servers and generations of a pool that a new configuration does not have any more.
pub struct Departure {
    /// The pool.
    pub pool: Arc<Pool>,
    /// The configuration does not have the upstream any more.
    pub dropped: bool,
    /// Servers that it does not have any more.
    pub left: Vec<Arc<Server>>,
    /// The first generation that stays, where that is a new one.
    pub generation: Option<u32>,
}

/// The servers and the generation that a pool leaves behind with a new configuration.
pub(crate) struct Update {
    pub left: Vec<Arc<Server>>,
    pub generation: Option<u32>,
}

impl UpgradeRates for Pools {
    fn upgrade_rates(&self) -> Vec<(u32, f64)> {
        let rate = |pool: Arc<Pool>| (pool.index, pool.known_rate());
        self.current().into_iter().map(rate).collect()
    }
}

impl Pools {
    /// The pools of these upstreams. Servers that the intents name are drained from the beginning.
    pub fn new(upstreams: &[Upstream], intents: Arc<Intents>) -> Self {
        let pools = Pools {
            intents,
            ..Pools::default()
        };
        pools.apply(upstreams);
        pools
    }

    /// What operators said of servers.
    pub fn intents(&self) -> &Intents {
        &self.intents
    }

    /// The pools of the configuration, in its order.
    pub fn current(&self) -> Vec<Arc<Pool>> {
        self.read().current.clone()
    }

    /// The pools of the configuration, and those that it dropped while they had connections.
    pub fn all(&self) -> Vec<Arc<Pool>> {
        let inner = self.read();
        inner
            .current
            .iter()
            .chain(&inner.dropped)
            .cloned()
            .collect()
    }

    /// The pool of that name in the configuration.
    pub fn named(&self, name: &str) -> Option<Arc<Pool>> {
        let inner = self.read();
        inner.current.iter().find(|pool| pool.name == name).cloned()
    }

    /// Obeys a new configuration: pools and servers that it keeps are the same as before. What it leaves behind.
    pub fn apply(&self, upstreams: &[Upstream]) -> Vec<Departure> {
        let mut inner = self.inner.write();
        let before = std::mem::take(&mut inner.current);
        let is_first = before.is_empty();
        let mut departures = Vec::new();
        for settings in upstreams {
            if let Some(pool) = before.iter().find(|pool| pool.name == settings.name) {
                let update = pool.update(settings.clone());
                if !update.left.is_empty() || update.generation.is_some() {
                    departures.push(Departure {
                        pool: pool.clone(),
                        dropped: false,
                        left: update.left,
                        generation: update.generation,
                    });
                }
                inner.current.push(pool.clone());
            } else {
                let pool = Arc::new(Pool::new(
                    settings.clone(),
                    inner.next,
                    self.intents.clone(),
                ));
                if !is_first {
                    pool.distrust();
                }
                inner.next += 1;
                inner.current.push(pool);
            }
        }
        for pool in before {
            if !upstreams.iter().any(|settings| settings.name == pool.name) {
                let left = pool.members().servers.clone();
                departures.push(Departure {
                    pool: pool.clone(),
                    dropped: true,
                    left,
                    generation: None,
                });
                inner.dropped.push(pool);
            }
        }
        drop(inner);
        self.version.send_modify(|version| *version += 1);
        departures
    }

    /// An operator reloads: ejections end.
    pub fn lift_ejections(&self) {
        for pool in self.current() {
            let members = pool.members();
            members
                .servers
                .iter()
                .for_each(|server| pool.lift_ejection(server));
        }
    }

    /// Changes with each configuration, and with what names are resolved to.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The servers of a pool have changed without a configuration.
    pub fn handle_change(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Removes dropped pools, and servers that left, that have no connection.
    pub fn remove_unused(&self, connections: impl Fn(&Pool, Option<&Server>) -> usize) {
        let mut inner = self.inner.write();
        inner.dropped.retain(|pool| connections(pool, None) > 0);
        for pool in &inner.current {
            pool.remove_unused(|server| connections(pool, Some(server)) == 0);
        }
    }

    fn read(&self) -> parking_lot::RwLockReadGuard<'_, Inner> {
        self.inner.read()
    }
}

impl Pool {
    /// Obeys a new configuration of the same upstream.
    pub(crate) fn update(&self, settings: Upstream) -> Update {
        self.rebuild(Cause::Reload, |before| Members {
            generation: before.generation
                + u32::from(settings.generation != before.settings.generation),
            settings,
            ..before.clone()
        })
    }

    /// A name and port of the configuration has these addresses now. The servers that it has no more; `None` where nothing
    /// has changed.
    pub fn resolve(
        &self,
        (name, port): (&str, u16),
        addresses: Vec<SocketAddr>,
    ) -> Option<Vec<Arc<Server>>> {
        let key = (name.to_owned(), port);
        if self.members().resolved.get(&key) == Some(&addresses) {
            return None;
        }
        let update = self.rebuild(Cause::Discovery, |before| {
            let mut after = before.clone();
            after.resolved.insert(key, addresses);
            after
        });
        Some(update.left)
    }

    /// The file of servers has these now. The servers that the pool has no more.
    pub(crate) fn set_file_servers(&self, servers: Vec<ServerSettings>) -> Vec<Arc<Server>> {
        let update = self.rebuild(Cause::Discovery, |before| {
            let mut after = before.clone();
            if let Some(file) = &after.settings.servers_file {
                after.settings.servers.truncate(file.fixed);
                after.settings.servers.extend(servers);
            }
            after
        });
        update.left
    }

    /// Makes the servers be those that settings and names ask for: a server that stays is the same as before, one that does
    /// not has left by `cause`.
    fn rebuild(&self, cause: Cause, change: impl FnOnce(&Members) -> Members) -> Update {
        let mut members = self.members.write();
        let before = members.clone();
        let mut after = change(&before);
        let is_checked = after.settings.health.is_some();
        let is_first = before.next_server == 0;
        after.servers.clear();
        for wanted in expand(&after.settings, &after.resolved) {
            let is_known = |server: &Arc<Server>| server.address == wanted.address;
            if after.servers.iter().any(is_known) {
                continue;
            }
            let known = before.all().find(|server| is_known(server)).cloned();
            let server = known.unwrap_or_else(|| {
                let number = after.next_server;
                after.next_server += 1;
                // wsgate starts with all of them: who waits for the first round of checks refuses everybody meanwhile.
                // Later others serve, so one that comes is used when it has shown that it can.
                let health = if is_checked && !is_first {
                    HealthStatus::Untried
                } else {
                    HealthStatus::Good
                };
                let changed = self.changed.clone();
                Arc::new(Server::new(&wanted, number, health, changed))
            });
            server.apply(&wanted);
            server.set_left(None);
            if !is_checked {
                server.set_health(HealthStatus::Good);
            }
            after.servers.push(server);
        }
        let names = after.settings.servers.iter();
        let names: Vec<_> = names.map(|server| server.address.clone()).collect();
        after
            .resolved
            .retain(|(name, port), _| names.contains(&Address::Name(name.clone(), *port)));
        let stays =
            |server: &Arc<Server>| after.servers.iter().any(|kept| Arc::ptr_eq(kept, server));
        let gone = before.servers.iter().filter(|server| !stays(server));
        let gone: Vec<Arc<Server>> = gone.cloned().collect();
        let still_left = before.left.iter().filter(|server| !stays(server));
        let left = gone.iter().chain(still_left).cloned().collect();
        gone.iter().for_each(|server| server.set_left(Some(cause)));
        after.left = left;
        after.ring = Members::ring(&after.settings, &after.servers);
        let generation = (after.generation != before.generation).then_some(after.generation);
        let numbers: Vec<u32> = after.all().map(|server| server.number).collect();
        let setting = after.settings.admission;
        *members = Arc::new(after);
        drop(members);
        self.admitting.apply(setting, &numbers);
        self.apply_intents();
        Update {
            left: gone,
            generation,
        }
    }

    /// Names of servers, as the configuration has them, that have no address.
    pub fn unresolved(&self) -> Vec<String> {
        let members = self.members();
        let has_none = |server: &&ServerSettings| match &server.address {
            Address::Name(name, port) => {
                let found = members.resolved.get(&(name.clone(), *port));
                found.is_none_or(Vec::is_empty)
            }
            Address::Tcp(_) | Address::Unix(_) => false,
        };
        let names = members.settings.servers.iter().filter(has_none);
        names.map(|server| server.address.to_string()).collect()
    }

    /// Others serve meanwhile, so its servers are used when they have shown that they can.
    fn distrust(&self) {
        let members = self.members();
        if members.settings.health.is_some() {
            members
                .servers
                .iter()
                .for_each(|server| server.set_health(HealthStatus::Untried));
        }
    }

    /// Removes the servers that left and have no connection.
    fn remove_unused(&self, is_empty: impl Fn(&Server) -> bool) {
        let mut members = self.members.write();
        if members.left.iter().any(|server| is_empty(server)) {
            let mut kept = members.left.clone();
            kept.retain(|server| !is_empty(server));
            *members = Arc::new(Members {
                left: kept,
                ..(**members).clone()
            });
        }
    }
}

/// The servers that a configuration means: one for each address of a name.
fn expand(
    settings: &Upstream,
    resolved: &HashMap<(String, u16), Vec<SocketAddr>>,
) -> Vec<ServerSettings> {
    let mut servers = Vec::new();
    for server in &settings.servers {
        match &server.address {
            Address::Tcp(_) | Address::Unix(_) => servers.push(server.clone()),
            Address::Name(name, port) => {
                let found = resolved.get(&(name.clone(), *port)).into_iter().flatten();
                servers.extend(found.map(|address| ServerSettings {
                    address: Address::Tcp(*address),
                    ..server.clone()
                }));
            }
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(name: &str, servers: &[u16]) -> Upstream {
        let address = |port: &u16| Address::Tcp(([10, 0, 0, 1], *port).into());
        Upstream::new(name, servers.iter().map(address).collect())
    }

    #[test]
    fn what_stays_stays_the_same() {
        let pools = Pools::new(
            &[upstream("a", &[1, 2]), upstream("b", &[3])],
            Arc::default(),
        );
        let before = pools.current();
        assert!(
            pools
                .apply(&[upstream("b", &[3]), upstream("a", &[2, 1])])
                .is_empty()
        );
        let after = pools.current();
        assert!(Arc::ptr_eq(&before[0], &after[1]) && Arc::ptr_eq(&before[1], &after[0]));
        let numbers = |pool: &Pool| -> Vec<u32> {
            let members = pool.members();
            members.servers.iter().map(|server| server.number).collect()
        };
        assert_eq!(numbers(&after[1]), [1, 0]);
    }

    #[test]
    fn servers_leave_and_come_back_as_who_they_were() {
        let pools = Pools::new(&[upstream("a", &[1, 2])], Arc::default());
        let pool = pools.current().remove(0);
        let second = pool.members().servers[1].clone();
        let departures = pools.apply(&[upstream("a", &[1, 3])]);
        assert_eq!(departures.len(), 1);
        assert_eq!(departures[0].left[0].number, second.number);
        assert!(second.left_by() == Some(Cause::Reload) && !departures[0].dropped);
        assert_eq!(
            pool.members().servers[1].number,
            2,
            "no number is used twice"
        );
        assert_eq!(pools.apply(&[upstream("a", &[1, 2])]).len(), 1);
        assert!(!second.has_left() && Arc::ptr_eq(&second, &pool.members().servers[1]));
        pools.remove_unused(|_, _| 0);
        assert!(pool.members().left.is_empty());
    }

    #[test]
    fn a_name_is_all_of_its_addresses() {
        let name = Address::Name("chat.internal".into(), 9000);
        let pools = Pools::new(&[Upstream::new("a", vec![name])], Arc::default());
        let pool = pools.current().remove(0);
        let address = |last| SocketAddr::from(([10, 0, 0, last], 9000));
        let key = ("chat.internal", 9000);
        assert!(pool.members().servers.is_empty());
        assert!(pool.resolve(key, vec![address(1), address(2)]).is_some());
        let first = pool.members().servers[0].clone();
        let gone = pool
            .resolve(key, vec![address(1), address(3)])
            .expect("a change");
        assert_eq!(gone[0].address, Address::Tcp(address(2)));
        assert_eq!(gone[0].left_by(), Some(Cause::Discovery));
        assert!(Arc::ptr_eq(&first, &pool.members().servers[0]));
        assert!(pool.resolve(key, vec![address(1), address(3)]).is_none());
        // A reload that keeps the name keeps what it was resolved to.
        let settings = Upstream {
            queue_timeout: std::time::Duration::ZERO,
            ..pool.members().settings.clone()
        };
        assert!(pools.apply(&[settings]).is_empty());
        assert_eq!(pool.members().servers.len(), 2);
    }

    #[test]
    fn a_new_generation_and_a_dropped_upstream() {
        let pools = Pools::new(&[upstream("a", &[1]), upstream("b", &[2])], Arc::default());
        let mut next = upstream("a", &[1]);
        next.generation = Some("v2".to_owned());
        let departures = pools.apply(&[next.clone()]);
        assert_eq!(departures[0].generation, Some(1));
        assert!(departures[1].dropped && departures[1].pool.name == "b");
        assert_eq!((pools.current().len(), pools.all().len()), (1, 2));
        pools.remove_unused(|_, _| 0);
        assert_eq!(pools.all().len(), 1);
        assert!(pools.apply(&[next]).is_empty(), "it is no change any more");
    }
}
