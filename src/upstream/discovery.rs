//! Servers by name and by file: which addresses a name has now, and which servers a file, looked at again and again.
//!
//! The system's resolver is asked, so that `/etc/hosts`, search domains and whatever else a machine is set up for hold
//! here too. It is always true that a name that cannot be resolved, or a file that cannot be read, changes nothing: the servers that it had stay.

use crate::deploy::Control;
use crate::drain::Cause;
use crate::transport::address::Address;
use crate::upstream::servers_file;
use crate::upstream::{Pool, Pools, RemovedServers, Server};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
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
        let mut running: HashMap<(u32, Source), AbortHandle> = HashMap::new();
        loop {
            let mut before = std::mem::take(&mut running);
            for pool in self.pools.current() {
                for source in sources(&pool) {
                    let key = (pool.index, source);
                    let known = before.remove(&key);
                    let task = known.unwrap_or_else(|| self.spawn(&pool, key.1.clone()));
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

impl Discovery {
    fn spawn(&self, pool: &Arc<Pool>, source: Source) -> AbortHandle {
        let target = Target {
            pool: pool.clone(),
            pools: self.pools.clone(),
            control: self.control.clone(),
        };
        let task = match source {
            Source::Name(name, port) => tokio::spawn(Lookup { target, name, port }.run()),
            Source::File(path) => tokio::spawn(Watch { target, path }.run()),
        };
        task.abort_handle()
    }
}

/// Where servers of a pool come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// A host name and a port.
    Name(String, u16),
    /// A file of servers.
    File(PathBuf),
}

fn sources(pool: &Pool) -> Vec<Source> {
    let members = pool.members();
    let settings = &members.settings;
    let names = settings
        .servers
        .iter()
        .filter_map(|server| match &server.address {
            Address::Name(name, port) => Some(Source::Name(name.clone(), *port)),
            Address::Tcp(_) | Address::Unix(_) => None,
        });
    let file = settings.servers_file.iter();
    names
        .chain(file.map(|file| Source::File(file.path.clone())))
        .collect()
}

/// The pool whose servers change.
struct Target {
    pool: Arc<Pool>,
    pools: Arc<Pools>,
    control: Arc<Control>,
}

impl Target {
    /// The servers of the pool have changed; these are drained once others can take their clients.
    fn handle_change(&self, left: Vec<Arc<Server>>, source: &str) {
        self.pools.handle_change();
        let upstream = self.pool.name.as_str();
        for server in left {
            tracing::info!(upstream, source, server = %server.address, "server has left its source");
            let departing = RemovedServers::server(&self.pool, server);
            departing.spawn(&self.control, &self.pools, Cause::Discovery);
        }
    }
}

/// The last error of a source: the log has an error once, not at each look.
#[derive(Default)]
struct Complaint(Option<String>);

impl Complaint {
    /// Whether this is another error than the last one.
    fn is_new(&mut self, error: &str) -> bool {
        let is_new = self.0.as_deref() != Some(error);
        self.0 = Some(error.to_owned());
        is_new
    }

    /// The source is good. Returns true if there was an error before.
    fn end(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// A file of servers of a pool.
struct Watch {
    target: Target,
    path: PathBuf,
}

impl Watch {
    async fn run(self) {
        let (pool, path) = (&self.target.pool, self.path.display().to_string());
        let (upstream, file) = (pool.name.as_str(), path.as_str());
        let mut complaint = Complaint::default();
        loop {
            sleep(servers_file::INTERVAL).await;
            let path = self.path.clone();
            let read = tokio::task::spawn_blocking(move || servers_file::read(&path)).await;
            let read = read.unwrap_or_else(|error| Err(error.to_string()));
            match read {
                Ok(servers) => {
                    if complaint.end() {
                        tracing::info!(upstream, file, "the file of servers is good again");
                    }
                    let members = pool.members();
                    let settings = &members.settings;
                    let fixed = settings.servers_file.as_ref().map_or(0, |file| file.fixed);
                    if settings.servers.get(fixed..) == Some(&servers) {
                        continue;
                    }
                    let count = servers.len();
                    tracing::info!(upstream, file, count, "the file of servers has changed");
                    let left = pool.set_file_servers(servers);
                    self.target.handle_change(left, file);
                }
                Err(error) if complaint.is_new(&error) => {
                    tracing::warn!(
                        upstream,
                        file,
                        error,
                        "the file of servers is not used; nothing changes"
                    );
                }
                Err(_) => {}
            }
        }
    }
}

/// A name of a pool.
struct Lookup {
    target: Target,
    name: String,
    port: u16,
}

impl Lookup {
    async fn run(self) {
        let pool = &self.target.pool;
        let (upstream, name) = (pool.name.as_str(), self.name.as_str());
        let mut complaint = Complaint::default();
        let mut soon = SOON;
        loop {
            let interval = pool.members().settings.resolve_interval;
            match self.ask().await {
                Ok(addresses) => {
                    if complaint.end() {
                        tracing::info!(upstream, name, "name resolves again");
                    }
                    soon = SOON;
                    let changed = pool.resolve((name, self.port), addresses);
                    if let Some(left) = changed {
                        self.target.handle_change(left, name);
                    }
                    sleep(interval).await;
                }
                Err(error) => {
                    if complaint.is_new(&error) {
                        tracing::warn!(
                            upstream,
                            name,
                            error,
                            "name does not resolve; nothing changes"
                        );
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
