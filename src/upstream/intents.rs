//! What operators said of servers: which are drained, since when and by whom.
//!
//! An intent is kept by the names of upstream and server, so that it outlives the objects that a reload replaces, and in a
//! [`Store`], so that it outlives the process. A server is drained as long as an intent names it, its address, or all servers of its
//! upstream; only a resume ends that.

use crate::upstream::{Pool, Server};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A drain that an operator asked for and that no resume has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// The name of the upstream.
    pub upstream: String,
    /// The server, by its address or as the configuration names it; `None` for all servers of the upstream.
    pub server: Option<String>,
    /// When the operator asked for it, in seconds since 1970 (UTC).
    pub since: u64,
    /// The requester: the name that the operator gave, and the address of the peer.
    pub by: String,
}

impl Intent {
    /// The time since the operator asked for it.
    pub fn age(&self) -> Duration {
        let since = UNIX_EPOCH + Duration::from_secs(self.since);
        SystemTime::now().duration_since(since).unwrap_or_default()
    }
}

/// A place that keeps intents beyond the life of the process.
pub trait Store: Send + Sync {
    /// Replaces what is kept.
    ///
    /// # Errors
    /// If nothing was replaced.
    fn save(&self, intents: &[Intent]) -> io::Result<()>;
}

/// The intents of all upstreams.
#[derive(Default)]
pub struct Intents {
    known: Mutex<Vec<Intent>>,
    store: Option<Box<dyn Store>>,
}

impl Intents {
    /// These intents; every change is given to the store.
    pub fn new(known: Vec<Intent>, store: Option<Box<dyn Store>>) -> Self {
        Intents {
            known: Mutex::new(known),
            store,
        }
    }

    /// All intents, in the order in which they came.
    pub fn all(&self) -> Vec<Intent> {
        self.known.lock().clone()
    }

    /// Gives the intents to the store as they are.
    ///
    /// # Errors
    /// Those of the store.
    pub fn save(&self) -> io::Result<()> {
        let known = self.known.lock();
        self.store
            .as_ref()
            .map_or(Ok(()), |store| store.save(&known))
    }

    /// Removes the intents of an upstream that the configuration does not have. Returns false if there are none.
    ///
    /// # Errors
    /// If the change cannot be kept beyond the life of the process.
    pub fn remove_upstream(&self, upstream: &str) -> io::Result<bool> {
        let mut found = false;
        self.change(|known| {
            let before = known.len();
            known.retain(|intent| intent.upstream != upstream);
            found = known.len() < before;
        })?;
        Ok(found)
    }

    /// The intent by which a server is drained. One that names the server comes before one of the whole upstream.
    fn of(&self, upstream: &str, server: &Server) -> Option<Intent> {
        let known = self.known.lock();
        let of_upstream = |intent: &&Intent| intent.upstream == upstream;
        let names = |intent: &&Intent| {
            let name = intent.server.as_deref();
            name.is_some_and(|name| server.is_named(name))
        };
        let mut all = known.iter().filter(of_upstream);
        let named = all.clone().find(names);
        named
            .or_else(|| all.find(|intent| intent.server.is_none()))
            .cloned()
    }

    /// Changes the intents, if the store keeps what `change` makes of them.
    fn change(&self, change: impl FnOnce(&mut Vec<Intent>)) -> io::Result<()> {
        let mut known = self.known.lock();
        let mut next = known.clone();
        change(&mut next);
        if next != *known {
            let saved = self
                .store
                .as_ref()
                .map_or(Ok(()), |store| store.save(&next));
            // The operator's word counts in this process even if it cannot be kept.
            *known = next;
            return saved;
        }
        Ok(())
    }
}

impl Pool {
    /// Takes servers out of rotation until they are resumed: the one of this name, or all.
    ///
    /// # Errors
    /// If the intent cannot be kept beyond the life of the process; the servers are drained all the same.
    pub fn drain(&self, server: Option<&str>, by: &str) -> io::Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let intent = Intent {
            upstream: self.name.clone(),
            server: server.map(str::to_owned),
            since: since.unwrap_or_default().as_secs(),
            by: by.to_owned(),
        };
        let result = self.intents.change(|known| {
            let is_known = |known: &Intent| {
                known.upstream == intent.upstream
                    && (known.server.is_none() || known.server == intent.server)
            };
            if !known.iter().any(is_known) {
                known.push(intent);
            }
        });
        self.apply_intents();
        result
    }

    /// Puts servers into rotation again: the one of this name, or all.
    ///
    /// # Errors
    /// If the change cannot be kept beyond the life of the process; the servers are resumed all the same.
    pub fn resume(&self, server: Option<&str>) -> io::Result<()> {
        let members = self.members();
        let is_meant = |of: &Arc<Server>| server.is_none_or(|name| of.is_named(name));
        let result = self.intents.change(|known| {
            let mut of_others = Vec::new();
            known.retain(|intent| {
                let name = intent.server.as_deref();
                let covers = |of: &&Arc<Server>| name.is_none_or(|name| of.is_named(name));
                let ends = intent.upstream == self.name
                    && (server.is_none()
                        || name == server
                        || members.all().filter(covers).any(is_meant));
                if ends {
                    // The other servers of a name, or of the upstream, stay drained.
                    let others = members.all().filter(covers).filter(|of| !is_meant(of));
                    of_others.extend(others.map(|of| Intent {
                        server: Some(of.address.to_string()),
                        ..intent.clone()
                    }));
                }
                !ends
            });
            known.extend(of_others);
        });
        self.apply_intents();
        result
    }

    /// Intents for servers of this upstream that the configuration does not have.
    pub fn absent_intents(&self) -> Vec<Intent> {
        let members = self.members();
        let is_absent = |intent: &Intent| {
            let name = intent.server.as_deref();
            intent.upstream == self.name
                && name.is_some_and(|name| !members.all().any(|server| server.is_named(name)))
        };
        let mut intents = self.intents.all();
        intents.retain(is_absent);
        intents
    }

    /// Drains and resumes servers as the intents say.
    pub(super) fn apply_intents(&self) {
        for server in self.members().all() {
            server.set_intent(self.intents.of(&self.name, server));
        }
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::address::Address;
    use crate::upstream::Pools;
    use crate::upstream::settings::Upstream;

    /// Keeps what it is given, or fails.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<(Vec<Intent>, bool)>>);

    impl Store for Kept {
        fn save(&self, intents: &[Intent]) -> io::Result<()> {
            let mut kept = self.0.lock();
            if kept.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            kept.0 = intents.to_vec();
            Ok(())
        }
    }

    fn upstream(name: &str, ports: &[u16]) -> Upstream {
        let address = |port: &u16| Address::Tcp(([10, 0, 0, 1], *port).into());
        Upstream::new(name, ports.iter().map(address).collect())
    }

    fn drained(pool: &Pool) -> Vec<bool> {
        let members = pool.members();
        members
            .servers
            .iter()
            .map(|server| server.is_drained())
            .collect()
    }

    #[test]
    fn a_server_stays_drained_whatever_replaces_it() {
        let kept = Kept::default();
        let intents = Intents::new(Vec::new(), Some(Box::new(kept.clone())));
        let both = [upstream("a", &[1, 2]), upstream("b", &[1])];
        let pools = Pools::new(&both, Arc::new(intents));
        let pool = pools.named("a").unwrap();
        pool.drain(Some("10.0.0.1:1"), "alice").unwrap();
        assert_eq!(drained(&pool), [true, false]);
        assert_eq!(
            drained(&pools.named("b").unwrap()),
            [false],
            "another upstream"
        );

        // A reload drops the server, and another one adds it again.
        pools.apply(&[upstream("a", &[2])]);
        pools.remove_unused(|_, _| 0);
        assert_eq!(pool.absent_intents().len(), 1);
        pools.apply(&both);
        assert_eq!(drained(&pools.named("a").unwrap()), [true, false]);

        // A restart.
        let intents = Intents::new(kept.0.lock().0.clone(), None);
        let pools = Pools::new(&both, Arc::new(intents));
        let pool = pools.named("a").unwrap();
        assert_eq!(drained(&pool), [true, false]);
        let intent = pool.members().servers[0].intent().unwrap();
        assert_eq!(intent.by, "alice");
        assert!(intent.age() < Duration::from_secs(60));
    }

    #[test]
    fn a_resume_of_one_leaves_the_others_of_a_whole_upstream() {
        let pools = Pools::new(&[upstream("a", &[1, 2, 3])], Arc::default());
        let pool = pools.named("a").unwrap();
        pool.drain(None, "alice").unwrap();
        assert_eq!(drained(&pool), [true, true, true]);
        pools.apply(&[upstream("a", &[1, 2, 3, 4])]);
        assert_eq!(drained(&pool), [true; 4], "a server that comes later too");
        pool.resume(Some("10.0.0.1:2")).unwrap();
        assert_eq!(drained(&pool), [true, false, true, true]);
        pool.resume(None).unwrap();
        assert_eq!(drained(&pool), [false; 4]);
        assert!(pool.intents.all().is_empty());
    }

    #[test]
    fn a_resume_of_one_address_leaves_the_others_of_its_name() {
        let name = Address::Name("chat.internal".into(), 9000);
        let pools = Pools::new(&[Upstream::new("a", vec![name])], Arc::default());
        let pool = pools.named("a").unwrap();
        let address = |last| std::net::SocketAddr::from(([10, 0, 0, last], 9000));
        pool.resolve(("chat.internal", 9000), vec![address(1), address(2)]);
        pool.drain(Some("chat.internal:9000"), "alice").unwrap();
        assert_eq!(drained(&pool), [true, true]);
        pool.resume(Some("10.0.0.1:9000")).unwrap();
        assert_eq!(drained(&pool), [false, true]);
        pool.resume(Some("chat.internal:9000")).unwrap();
        assert_eq!(drained(&pool), [false, false]);
    }

    #[test]
    fn the_intents_of_an_upstream_that_is_gone_can_be_removed() {
        let pools = Pools::new(&[upstream("a", &[1]), upstream("b", &[1])], Arc::default());
        pools.named("b").unwrap().drain(None, "alice").unwrap();
        pools.apply(&[upstream("a", &[1])]);
        assert!(pools.named("b").is_none());
        assert_eq!(pools.intents().all().len(), 1);
        assert!(pools.intents().remove_upstream("b").unwrap());
        assert!(!pools.intents().remove_upstream("b").unwrap());
        assert!(pools.intents().all().is_empty());
    }

    #[test]
    fn what_cannot_be_kept_counts_all_the_same_and_is_told() {
        let kept = Kept::default();
        kept.0.lock().1 = true;
        let intents = Intents::new(Vec::new(), Some(Box::new(kept)));
        let pools = Pools::new(&[upstream("a", &[1])], Arc::new(intents));
        let pool = pools.named("a").unwrap();
        assert!(pool.drain(None, "alice").is_err());
        assert_eq!(drained(&pool), [true]);
    }
}
