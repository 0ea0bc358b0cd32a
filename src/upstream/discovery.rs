//! Servers by name: which addresses a name has now, asked again and again.
//!
//! The system's resolver is asked, so that `/etc/hosts`, search domains and whatever else a machine is set up for hold
//! here too. It is always true that a name that cannot be resolved changes nothing: the servers that it had stay.

use crate::deploy::Control;
use crate::drain::Cause;
use crate::transport::address::Address;
use crate::upstream::{Pool, Pools, RemovedServers};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Resolves the names of all pools.
pub(crate) struct Discovery {
    pools: Arc<Pools>,
    control: Arc<Control>,
}

/// After a failure a name is asked for again so soon, at first.
const SOON: Duration = Duration::from_millis(500);

impl Discovery {
    /// Servers that vanish are drained by `control`.
    pub(crate) fn new(pools: Arc<Pools>, control: Arc<Control>) -> Self {
        Discovery { pools, control }
    }

    /// Resolves for as long as it is polled, in tasks of the runtime that polls it. A reload changes what is resolved.
    pub(crate) async fn run(self) {
        let mut changes = self.pools.watch();
        let mut running: HashMap<(u32, String, u16), AbortHandle> = HashMap::new();
        loop {
            let mut before = std::mem::take(&mut running);
            for pool in self.pools.current() {
                for server in &pool.members().settings.servers {
                    let Address::Name(name, port) = &server.address else {
                        continue;
                    };
                    let key = (pool.index, name.clone(), *port);
                    let known = before.remove(&key);
                    let task = known.unwrap_or_else(|| {
                        let lookup = Lookup {
                            pool: pool.clone(),
                            pools: self.pools.clone(),
                            control: self.control.clone(),
                            name: name.clone(),
                            port: *port,
                        };
                        tokio::spawn(lookup.run()).abort_handle()
                    });
                    running.insert(key, task);
                }
            }
            before.into_values().for_each(|gone| gone.abort());
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// A name of a pool.
struct Lookup {
    pool: Arc<Pool>,
    pools: Arc<Pools>,
    control: Arc<Control>,
    name: String,
    port: u16,
}

impl Lookup {
    async fn run(self) {
        let (upstream, name) = (self.pool.name.as_str(), self.name.as_str());
        let mut complaint = String::new();
        let mut soon = SOON;
        loop {
            let interval = self.pool.members().settings.resolve_interval;
            match self.ask().await {
                Ok(addresses) => {
                    if !complaint.is_empty() {
                        complaint.clear();
                        tracing::info!(upstream, name, "name resolves again");
                    }
                    soon = SOON;
                    let changed = self.pool.resolve((name, self.port), addresses);
                    if changed.is_some() {
                        self.pools.handle_change();
                    }
                    for server in changed.into_iter().flatten() {
                        tracing::info!(upstream, name, server = %server.address, "address has left the name");
                        let departing = RemovedServers::server(&self.pool, server);
                        departing.spawn(&self.control, &self.pools, Cause::Discovery);
                    }
                    sleep(interval).await;
                }
                Err(error) => {
                    // Once for each error, not each time.
                    if complaint != error {
                        tracing::warn!(
                            upstream,
                            name,
                            error,
                            "name does not resolve; nothing changes"
                        );
                        complaint = error;
                    }
                    sleep(soon.min(interval)).await;
                    soon *= 2;
                }
            }
        }
    }

    /// The addresses of the name; at least one.
    async fn ask(&self) -> Result<Vec<SocketAddr>, String> {
        let found = tokio::net::lookup_host((self.name.as_str(), self.port)).await;
        let mut addresses: Vec<SocketAddr> = found.map_err(|error| error.to_string())?.collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err("the answer has no address".to_owned());
        }
        Ok(addresses)
    }
}
