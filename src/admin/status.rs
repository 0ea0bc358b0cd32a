//! The figures of upstreams, servers and drains: for `/v1/status`, for the metrics, for `/readyz`.

use super::bodies::{self, Handshakes, Status};
use super::drains::Drains;
use super::{Answer, ok};
use crate::drain::{Cause, DrainId, Progress, Selection};
use crate::metrics::{Metrics, ServerFigures, UpstreamFigures};
use crate::upstream::intents::Intent;
use crate::upstream::{Pool, Server, State as ServerState};
use std::sync::Arc;
use std::time::Instant;

/// The states of servers, as metrics name them.
const STATES: [&str; 5] = [
    ServerState::ALL[0].label(),
    ServerState::ALL[1].label(),
    ServerState::ALL[2].label(),
    ServerState::ALL[3].label(),
    ServerState::ALL[4].label(),
];

impl Drains {
    /// Exports the figures of all upstreams. To be called once.
    pub fn export(&self, metrics: &Metrics) {
        // The metrics belong to the control too: a strong reference would keep both for ever.
        let (control, pools) = (Arc::downgrade(&self.control), Arc::downgrade(&self.pools));
        metrics.read_upstreams(move || {
            let upgraded = control.upgrade().zip(pools.upgrade());
            let drains = upgraded.map(|(control, pools)| Drains::new(control, pools));
            drains.map_or_else(Vec::new, |drains| drains.figures())
        });
    }

    /// The upstreams of the configuration that have no server in rotation. A server that cannot be reached is in rotation: were it not,
    /// a gate that is not ready would get no client whose connect could find the server back.
    pub(super) fn upstreams_without_servers(&self) -> Vec<String> {
        let takes = |server: &Arc<Server>| server.is_in_rotation();
        let mut pools = self.pools.current();
        pools.retain(|pool| !pool.members().servers.iter().any(takes));
        pools.iter().map(|pool| pool.name.clone()).collect()
    }

    pub(super) fn figures(&self) -> Vec<UpstreamFigures> {
        let of_server = |pool: &Pool, server: &Server| {
            let admission = pool.admission(server);
            ServerFigures {
                server: server.address.to_string(),
                state: self.state(pool, server).label(),
                states: &STATES,
                drained_seconds: server
                    .intent()
                    .map_or(0.0, |intent| intent.age().as_secs_f64()),
                connections: self.connections(pool, server),
                plain_requests: server.plain_requests(),
                handshakes: admission.under_way,
                handshake_limit: admission.bound,
                known_rate: admission.known_rate,
                answers: server.answers().clone(),
            }
        };
        let of_pool = |pool: &Arc<Pool>| UpstreamFigures {
            upstream: pool.name.clone(),
            queued: pool.waiting(),
            away: self.control.away(pool.index),
            servers: pool
                .members()
                .all()
                .map(|server| of_server(pool, server))
                .collect(),
        };
        self.pools.all().iter().map(of_pool).collect()
    }

    /// The state of a server, as its connections in the roster have it: they end a moment after the server's own count.
    fn state(&self, pool: &Pool, server: &Server) -> ServerState {
        match server.state() {
            ServerState::Drained if self.connections(pool, server) > 0 => ServerState::Draining,
            state => state,
        }
    }

    pub(super) fn connections(&self, pool: &Pool, server: &Server) -> usize {
        self.control.count(Selection::Server {
            upstream: pool.index,
            server: server.number,
        })
    }

    pub(super) fn status(&self) -> Answer {
        let pools = self.pools.all();
        let upstream = |pool: &Arc<Pool>| bodies::Upstream {
            name: pool.name.clone(),
            connections: self.control.count(Selection::Upstream {
                upstream: pool.index,
            }),
            plain_requests: pool
                .members()
                .all()
                .map(|server| server.plain_requests())
                .sum(),
            away: self.control.away(pool.index),
            queued: pool.waiting(),
            queue_p99_seconds: pool.wait_p99().map(|wait| wait.as_secs_f64()),
            servers: self.servers_of(pool),
            drains: self.drains_of(pool),
            unresolved: pool.unresolved(),
            absent: pool.absent_intents().into_iter().map(absent).collect(),
        };
        ok(&Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listeners: (self.listeners)().iter().map(ToString::to_string).collect(),
            upstreams: pools.iter().map(upstream).collect(),
        })
    }

    pub(super) fn servers_of(&self, pool: &Pool) -> Vec<bodies::Server> {
        let members = pool.members();
        let server = |server: &Arc<Server>| {
            let admission = pool.admission(server);
            bodies::Server {
                address: server.address.to_string(),
                state: self.state(pool, server).label().to_owned(),
                out: server.out().map(bodies::Out::from),
                unreachable: server.unreachable().map(bodies::Unreachable::from),
                connections: self.connections(pool, server),
                plain_requests: server.plain_requests(),
                handshakes: Handshakes {
                    under_way: admission.under_way,
                    limit: admission.bound,
                    per_second: admission.per_second,
                    known_rate: admission.known_rate,
                },
            }
        };
        members.all().map(server).collect()
    }

    pub(super) fn drains_of(&self, pool: &Pool) -> Vec<bodies::Drain> {
        let drains = self.control.drains().into_iter();
        let of_it =
            drains.filter(|(_, progress)| progress.selection.upstream() == Some(pool.index));
        of_it
            .map(|(id, progress)| self.describe(id, &progress))
            .collect()
    }

    pub(super) fn describe(&self, id: DrainId, progress: &Progress) -> bodies::Drain {
        let servers = self.servers_in(progress.selection);
        let is_waiting = progress.cause == Cause::Operator && Instant::now() < progress.deadline;
        let drained = servers
            .iter()
            .filter(|server| server.is_drained() && is_waiting);
        let requests = drained.map(|server| server.plain_requests()).sum();
        let one = match (progress.selection, servers.as_slice()) {
            (Selection::Server { .. }, [server]) => Some(server.address.to_string()),
            _ => None,
        };
        bodies::Drain {
            longest_delay_seconds: self.longest_delay_of(id),
            ..bodies::Drain::new(id, one, progress, requests)
        }
    }

    /// The servers of a selection that are still known.
    fn servers_in(&self, selection: Selection) -> Vec<Arc<Server>> {
        let pools = self.pools.all();
        let pool = selection.upstream();
        let Some(pool) = pools.iter().find(|known| Some(known.index) == pool) else {
            return Vec::new();
        };
        let is_in = |server: &&Arc<Server>| match selection {
            Selection::Server { server: number, .. } => server.number == number,
            _ => true,
        };
        pool.members().all().filter(is_in).cloned().collect()
    }
}

fn absent(intent: Intent) -> bodies::Absent {
    bodies::Absent {
        address: intent.server.clone().unwrap_or_default(),
        for_seconds: intent.age().as_secs(),
        by: intent.by,
    }
}
