//! What a configuration, or a name, has left behind: it serves until others can, and is drained then.

use crate::deploy::Control;
use crate::drain::{Cause, Selection};
use crate::upstream::{Pool, Pools, Server};
use std::sync::Arc;

/// Connections that are to go somewhere else.
pub struct RemovedServers {
    selection: Selection,
    /// What logs call it.
    name: String,
    /// The pools that take over.
    successors: Vec<Arc<Pool>>,
    /// Only if that one is still gone then.
    server: Option<Arc<Server>>,
}

impl RemovedServers {
    /// Those of a server that its pool does not have any more.
    pub fn server(pool: &Arc<Pool>, server: Arc<Server>) -> Self {
        RemovedServers {
            selection: Selection::Server {
                upstream: pool.index,
                server: server.number,
            },
            name: format!("{} {}", pool.name, server.address),
            successors: vec![pool.clone()],
            server: Some(server),
        }
    }

    /// Those of earlier generations of a pool.
    pub fn older(pool: &Arc<Pool>, generation: u32) -> Self {
        RemovedServers {
            selection: Selection::OlderThan {
                upstream: pool.index,
                generation,
            },
            name: format!("{} before this generation", pool.name),
            successors: vec![pool.clone()],
            server: None,
        }
    }

    /// All of a pool that the configuration does not have any more.
    pub fn pool(pool: &Pool, successors: Vec<Arc<Pool>>) -> Self {
        RemovedServers {
            selection: Selection::Upstream {
                upstream: pool.index,
            },
            name: pool.name.clone(),
            successors,
            server: None,
        }
    }

    /// Drains them in a task of its own, as soon as the successors have a server that takes connections; then they are
    /// forgotten.
    pub fn spawn(self, control: &Arc<Control>, pools: &Arc<Pools>, cause: Cause) {
        let (control, pools) = (control.clone(), pools.clone());
        tokio::spawn(async move {
            for heir in &self.successors {
                heir.ready(None).await;
            }
            if self.server.is_some_and(|server| !server.has_left()) {
                return;
            }
            let terms = control.settings().terms;
            let drain = control.start(self.selection, &self.name, terms, cause);
            control.finished(drain).await;
            pools.remove_unused(|pool, server| {
                let upstream = pool.index;
                control.count(match server {
                    None => Selection::Upstream { upstream },
                    Some(server) => Selection::Server {
                        upstream,
                        server: server.number,
                    },
                })
            });
        });
    }
}
