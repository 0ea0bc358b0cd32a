//! A server closes connections with 1001 or 1012 of its own accord: whether it restarts is asked of the server itself, by its
//! health check, or by a connect where it has none.

use crate::deploy::{ServerClose, Suspicion};
use crate::edge::route::table::RouteState;
use crate::session::Outcome;
use crate::transport::exhaustion::ProbeError;
use crate::upstream::ServerPermit;
use crate::upstream::health_checks;
use std::time::Duration;
use tokio::time::timeout;

/// A server has closed a connection, which ended so.
pub(crate) fn handle_close(route: &RouteState, server: &ServerPermit, outcome: &Outcome) {
    let (control, pool) = (route.control.clone(), route.pool.clone());
    let id = pool.server_id(server);
    let close = ServerClose {
        silent: outcome.silent,
        ago: outcome
            .end_began
            .map_or(Duration::ZERO, |began| began.elapsed()),
    };
    if control.handle_close(&id, close) != Suspicion::Probe {
        return;
    }
    let (server, metrics) = (server.server().clone(), route.context.metrics.clone());
    tokio::spawn(async move {
        let health = pool.members().settings.health.clone().unwrap_or_default();
        let answered =
            match timeout(health.timeout, health_checks::ask(&pool, &server, &health)).await {
                Ok(Ok(_)) => true,
                // A probe that wsgate could not send says nothing of the server.
                Ok(Err(ProbeError::Exhausted(shortage, error))) => {
                    shortage.report(&metrics, &error);
                    true
                }
                Ok(Err(ProbeError::Failed(_))) | Err(_) => false,
            };
        control.handle_probe(&id, answered);
    });
}
