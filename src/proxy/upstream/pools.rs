//! The pools of all upstreams, and what a new configuration changes of them.

use super::{Members, Pool, Server, Standing};
use crate::proxy::settings::Upstream;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// Every pool, those included that the configuration dropped while they had connections.
#[derive(Default)]
pub struct Pools {
    inner: RwLock<Inner>,
    /// Counts the configurations.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    current: Vec<Arc<Pool>>,
    dropped: Vec<Arc<Pool>>,
    next: u32,
}

/// What a new configuration leaves behind in a pool.
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

/// What a new configuration leaves behind of the servers of a pool.
pub(super) struct Update {
    pub left: Vec<Arc<Server>>,
    pub generation: Option<u32>,
}

impl Pools {
    /// The pools of these upstreams.
    pub fn new(upstreams: &[Upstream]) -> Self {
        let pools = Pools::default();
        pools.apply(upstreams);
        pools
    }

    /// Those of the configuration, in its order.
    pub fn current(&self) -> Vec<Arc<Pool>> {
        self.read().current.clone()
    }

    /// Those of the configuration and those it dropped.
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
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
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
                let pool = Arc::new(Pool::new(settings.clone(), inner.next));
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

    /// Changes with each configuration.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Forgets dropped pools, and servers that left, that nobody is connected to.
    pub fn forget(&self, connections: impl Fn(&Pool, Option<&Server>) -> usize) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.dropped.retain(|pool| connections(pool, None) > 0);
        for pool in &inner.current {
            pool.forget(|server| connections(pool, Some(server)) == 0);
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Obeys a new configuration of the same upstream.
    pub(super) fn update(&self, settings: Upstream) -> Update {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        let before = members.clone();
        let mut next_server = before.next_server;
        let is_checked = settings.health.is_some();
        let servers: Vec<Arc<Server>> = settings
            .servers
            .iter()
            .map(|wanted| {
                let known = before.all().find(|server| server.address == wanted.address);
                if let Some(known) = known {
                    known.apply(wanted);
                }
                known.cloned().unwrap_or_else(|| {
                    let number = next_server;
                    next_server += 1;
                    // Others serve meanwhile, so it is used when it has shown that it can.
                    let standing = if is_checked {
                        Standing::Untried
                    } else {
                        Standing::Good
                    };
                    Arc::new(Server::new(wanted, number, standing))
                })
            })
            .collect();
        for server in &servers {
            server.set_left(false);
            if !is_checked {
                server.set_standing(Standing::Good);
            }
        }
        let stays = |server: &Arc<Server>| servers.iter().any(|kept| Arc::ptr_eq(kept, server));
        let gone = before.servers.iter().filter(|server| !stays(server));
        let gone: Vec<Arc<Server>> = gone.cloned().collect();
        gone.iter().for_each(|server| server.set_left(true));
        let still_left = before.left.iter().filter(|server| !stays(server)).cloned();
        let is_new = settings.generation != before.settings.generation;
        let generation = before.generation + u32::from(is_new);
        *members = Arc::new(Members {
            ring: Members::ring(&settings, &servers),
            left: gone.iter().cloned().chain(still_left).collect(),
            settings,
            servers,
            generation,
            next_server,
        });
        drop(members);
        self.changed.notify_waiters();
        Update {
            left: gone,
            generation: is_new.then_some(generation),
        }
    }

    /// Others serve meanwhile, so its servers are used when they have shown that they can.
    fn distrust(&self) {
        let members = self.members();
        if members.settings.health.is_some() {
            members
                .servers
                .iter()
                .for_each(|server| server.set_standing(Standing::Untried));
        }
    }

    /// Forgets those of the servers that left which have no connection.
    fn forget(&self, is_empty: impl Fn(&Server) -> bool) {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if members.left.iter().any(|server| is_empty(server)) {
            let mut kept = members.left.clone();
            kept.retain(|server| !is_empty(server));
            *members = Arc::new(Members {
                settings: members.settings.clone(),
                servers: members.servers.clone(),
                left: kept,
                ring: members.ring.clone(),
                ..**members
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::settings::Address;

    fn upstream(name: &str, servers: &[u16]) -> Upstream {
        let address = |port: &u16| Address::Name("a".into(), *port);
        Upstream::new(name, servers.iter().map(address).collect())
    }

    #[test]
    fn what_stays_stays_the_same() {
        let pools = Pools::new(&[upstream("a", &[1, 2]), upstream("b", &[3])]);
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
        let pools = Pools::new(&[upstream("a", &[1, 2])]);
        let pool = pools.current().remove(0);
        let second = pool.members().servers[1].clone();
        let departures = pools.apply(&[upstream("a", &[1, 3])]);
        assert_eq!(departures.len(), 1);
        assert_eq!(departures[0].left[0].number, second.number);
        assert!(second.has_left() && !departures[0].dropped);
        assert_eq!(
            pool.members().servers[1].number,
            2,
            "no number is used twice"
        );
        assert_eq!(pools.apply(&[upstream("a", &[1, 2])]).len(), 1);
        assert!(!second.has_left() && Arc::ptr_eq(&second, &pool.members().servers[1]));
        pools.forget(|_, _| 0);
        assert!(pool.members().left.is_empty());
    }

    #[test]
    fn a_new_generation_and_a_dropped_upstream() {
        let pools = Pools::new(&[upstream("a", &[1]), upstream("b", &[2])]);
        let mut next = upstream("a", &[1]);
        next.generation = Some("v2".to_owned());
        let departures = pools.apply(&[next.clone()]);
        assert_eq!(departures[0].generation, Some(1));
        assert!(departures[1].dropped && departures[1].pool.name == "b");
        assert_eq!((pools.current().len(), pools.all().len()), (1, 2));
        pools.forget(|_, _| 0);
        assert_eq!(pools.all().len(), 1);
        assert!(pools.apply(&[next]).is_empty(), "it is no change any more");
    }
}
