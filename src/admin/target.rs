//! The servers that a request of the admin API is about, and who asks.

use super::bodies::Failure;
use super::{Answer, answer, bad_request};
use crate::deploy::{self, Trigger};
use crate::drain::{Cause, Selection};
use crate::duration;
use crate::upstream::{Pool, Server, State as ServerState};
use http::StatusCode;
use std::sync::Arc;

/// The servers that a request is about.
pub(super) struct Target {
    pub pool: Arc<Pool>,
    /// As the request names the server; `None` for all.
    pub name: Option<String>,
    pub servers: Vec<Arc<Server>>,
}

impl Target {
    /// The triggers of a drain: one for the upstream, or one for each server of the name.
    pub(super) fn triggers(&self, cause: Cause) -> Vec<Trigger> {
        let of_server = |server: &Arc<Server>| Trigger {
            cause,
            target: deploy::Target::Server(self.pool.server_id(server)),
        };
        match &self.name {
            Some(_) => self.servers.iter().map(of_server).collect(),
            None => vec![Trigger {
                cause,
                target: deploy::Target::Upstream(self.pool.id()),
            }],
        }
    }

    pub(super) fn selections(&self) -> Vec<Selection> {
        let triggers = self.triggers(Cause::Operator).into_iter();
        triggers.map(|trigger| trigger.target.selection()).collect()
    }

    /// Plain requests under way.
    pub(super) fn plain_requests(&self) -> usize {
        self.servers
            .iter()
            .map(|server| server.plain_requests())
            .sum()
    }

    /// Whether the upstream has a server that takes connections now, and would have none without these.
    pub(super) fn is_last(&self) -> bool {
        let members = self.pool.members();
        let is_up = |server: &&Arc<Server>| server.state() == ServerState::Up;
        let mut up = members.servers.iter().filter(is_up).peekable();
        let is_target = |server: &Arc<Server>| {
            self.servers
                .iter()
                .any(|known| known.number == server.number)
        };
        up.peek().is_some() && up.all(is_target)
    }
}

/// The requester of a change: the peer, with the name that it gives itself.
pub(super) fn requester(peer: &str, by: Option<&str>) -> Result<String, Answer> {
    match by {
        None => Ok(peer.to_owned()),
        Some(name) if name.len() <= 100 && !name.chars().any(char::is_control) => {
            Ok(format!("{name} ({peer})"))
        }
        Some(_) => Err(bad_request(
            "`by` is a name of at most 100 bytes without control characters",
        )),
    }
}

/// The servers of a pool that a request names; all of them where it names none.
pub(super) fn target(pool: Arc<Pool>, name: Option<&str>) -> Result<Target, Answer> {
    let mut servers = pool.members().servers.clone();
    let Some(name) = name else {
        return Ok(Target {
            pool,
            name: None,
            servers,
        });
    };
    let addresses = servers.iter().map(|server| server.address.to_string());
    let addresses: Vec<String> = addresses.collect();
    servers.retain(|server| server.is_named(name));
    if servers.is_empty() {
        let failure = Failure {
            error: format!("upstream `{}` has no server `{name}`", pool.name),
            servers: Some(addresses),
            ..Failure::default()
        };
        return Err(answer(StatusCode::NOT_FOUND, &failure));
    }
    Ok(Target {
        pool,
        name: Some(name.to_owned()),
        servers,
    })
}

/// The answer to a drain that would leave an upstream without a server.
pub(super) fn needs_force(target: &Target) -> Answer {
    let upstream = &target.pool.name;
    let wait = duration::Shown(target.pool.members().settings.queue_timeout);
    let error = format!(
        "no other server of upstream `{upstream}` takes connections: new clients would wait for {wait} and get 503 until one is \
         resumed; `force` drains it all the same"
    );
    let failure = Failure {
        error,
        needs_force: true,
        ..Failure::default()
    };
    answer(StatusCode::CONFLICT, &failure)
}
