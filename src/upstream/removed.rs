//! Servers that a configuration, or discovery, does not have any more: they keep their clients until other servers can take
//! them, and are drained then.

use crate::deploy::{Control, Target, Trigger};
use crate::drain::{Cause, Selection};
use crate::upstream::{Pool, Pools, Server};
use std::sync::Arc;

/// Connections that are to go somewhere else.
pub struct RemovedServers {
    target: Target,
    /// The pools that take over.
    successors: Vec<Arc<Pool>>,
    /// Only if that one is still gone then.
    server: Option<Arc<Server>>,
}

impl RemovedServers {
    /// The connections to a server that its pool does not have any more.
    pub fn server(pool: &Arc<Pool>, server: Arc<Server>) -> Self {
        RemovedServers {
            target: Target::Server(pool.server_id(&server)),
            successors: vec![pool.clone()],
            server: Some(server),
        }
    }

    /// The connections of earlier generations of a pool.
    pub fn older(pool: &Arc<Pool>, generation: u32) -> Self {
        RemovedServers {
            target: Target::OlderThan {
                upstream: pool.id(),
                generation,
            },
            successors: vec![pool.clone()],
            server: None,
        }
    }

    /// All of a pool that the configuration does not have any more.
    pub fn pool(pool: &Pool, successors: Vec<Arc<Pool>>) -> Self {
        RemovedServers {
            target: Target::Upstream(pool.id()),
            successors,
            server: None,
        }
    }

    /// Drains them in a task of its own, as soon as the successors have a server that takes connections; then they are
    /// forgotten.
    pub fn spawn(self, control: &Arc<Control>, pools: &Arc<Pools>, cause: Cause) {
        let (control, pools) = (control.clone(), pools.clone());
        tokio::spawn(async move {
            for successor in &self.successors {
                successor.ready(None).await;
            }
            if self.server.is_some_and(|server| !server.has_left()) {
                return;
            }
            let target = self.target;
            let drain = control.start(Trigger { cause, target });
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
