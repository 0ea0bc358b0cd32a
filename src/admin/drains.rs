//! The part of the admin API that changes something: draining servers, deploys, and what becomes of them.
//!
//! | request | does |
//! |---|---|
//! | `POST /v1/upstreams/NAME/drain` | takes a server, or all, out: clients are told to reconnect, new ones go elsewhere |
//! | `POST /v1/upstreams/NAME/deploy` | tells those connected now to reconnect; new ones are welcome at once |
//! | `POST /v1/upstreams/NAME/resume` | lets a drained server, or all, in again and ends its drain |
//! | `POST /v1/upstreams/NAME/rebalance` | tells clients beyond the share of their server to reconnect |
//! | `GET /v1/upstreams/NAME/drain` | the drains of the upstream |
//! | `DELETE /v1/upstreams/NAME/drain` | ends the drains under way and lets their servers in: who was not told yet stays |
//! | `POST /v1/reload` | reads the configuration again |
//! | `GET /v1/status` | upstreams, servers, connections, drains |
//!
//! NAME is percent-encoded where it holds other characters than letters, digits, `-`, `.`, `_` and `~`.
//!
//! A body is JSON and says so, a change without one bears `X-Wsgate: 1`. Every field of a body is optional:
//! `{"server": "10.0.0.5:9000", "over": "30s", "rate": 200, "deadline": "60s", "dry_run": true}`.

use super::bodies::{self, Change, Drained, Failure, Resumed};
use super::target::{Target, needs_force, requester, target};
use super::{Answer, answer, bad_request, failure, names, ok};
use crate::deploy::Control;
use crate::drain::{Cause, DrainId, Pace, Place, Selection, State, Terms};
use crate::duration;
use crate::transport::address::Address;
use crate::upstream::{Pool, Pools, Server};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The upstreams that can be drained, and the control that drains them. Clones share everything.
#[derive(Clone)]
pub struct Drains {
    pub(super) control: Arc<Control>,
    pub(super) pools: Arc<Pools>,
    pub(super) started: Instant,
    /// The addresses on which clients are accepted now.
    pub(super) listeners: Arc<dyn Fn() -> Vec<Address> + Send + Sync>,
    /// By the number of a drain: the longest delay that its clients are told.
    longest_delays: Arc<Mutex<BTreeMap<u64, Duration>>>,
}

impl Drains {
    /// Drains the servers of these pools.
    pub fn new(control: Arc<Control>, pools: Arc<Pools>) -> Self {
        Drains {
            control,
            pools,
            started: Instant::now(),
            listeners: Arc::new(Vec::new),
            longest_delays: Arc::default(),
        }
    }

    /// Shows the addresses that `listeners` returns as those on which clients are accepted.
    pub fn with_listeners(
        self,
        listeners: impl Fn() -> Vec<Address> + Send + Sync + 'static,
    ) -> Self {
        Drains {
            listeners: Arc::new(listeners),
            ..self
        }
    }

    /// `None`: there is no such endpoint. A GET changes nothing. `peer` is the requester, for the log.
    pub(super) fn answer(
        &self,
        method: &Method,
        path: &str,
        body: &[u8],
        peer: &str,
    ) -> Option<Answer> {
        if path == "/v1/reload" {
            return Some(not_allowed("POST"));
        }
        if path == "/v1/status" {
            return Some(if method == Method::GET {
                self.status()
            } else {
                not_allowed("GET")
            });
        }
        // The last slash, so that one in a name need not be encoded.
        let (name, verb) = path.strip_prefix("/v1/upstreams/")?.rsplit_once('/')?;
        let Some(name) = names::decode(name) else {
            return Some(bad_request(
                "the name of the upstream is no UTF-8, or holds a `%` that is not written as %25",
            ));
        };
        let name = name.as_str();
        let result = match (verb, method.as_str()) {
            ("drain", "GET") => self.pool(name).map(|pool| self.show(&pool)),
            ("drain", "POST") => self.begin(name, body, Cause::Operator, peer),
            ("deploy", "POST") => self.begin(name, body, Cause::Deploy, peer),
            ("resume", "POST") => self.resume(name, body, peer),
            ("rebalance", "POST") => self.rebalance(name, body, peer),
            ("drain", "DELETE") => self.cancel(name, peer),
            ("drain", _) => Err(not_allowed("GET, POST, DELETE")),
            ("deploy" | "resume" | "rebalance", _) => Err(not_allowed("POST")),
            _ => return None,
        };
        Some(result.unwrap_or_else(|refusal| refusal))
    }

    fn begin(&self, name: &str, body: &[u8], cause: Cause, peer: &str) -> Result<Answer, Answer> {
        let pool = self.pool(name)?;
        let body = without_slack(parse(body)?)?;
        let target = target(pool.clone(), body.server.as_deref())?;
        let by = requester(peer, body.by.as_deref())?;
        let terms = self.terms(&body)?;
        let leaves_none = cause == Cause::Operator && target.is_last();
        if body.dry_run {
            let forecast = self.forecast(&target, terms, leaves_none);
            return Ok(ok(&Drained::Forecast { forecast }));
        }
        if leaves_none && !body.force {
            return Err(needs_force(&target));
        }
        let server = target.name.as_deref().unwrap_or("all");
        let mut notes = Vec::new();
        if cause == Cause::Operator {
            let was_out = target.servers.iter().all(|server| server.is_drained());
            let requests = target.plain_requests();
            let kept = pool.drain(target.name.as_deref(), &by);
            notes.extend(kept.err().map(|error| not_kept(&error)));
            let connections = target.selections().into_iter();
            let connections: usize = connections.map(|of| self.control.count(of)).sum();
            if was_out && connections == 0 && requests == 0 {
                let message = "it is drained already; a resume lets it in again";
                return Ok(ok(&Drained::Already {
                    message: message.to_owned(),
                    drains: self.drains_of(&pool),
                }));
            }
            tracing::info!(upstream = name, server, by, "an operator drains");
            if requests > 0 {
                tokio::spawn(end_requests(target.servers.clone(), terms.deadline));
            }
            if leaves_none {
                tracing::warn!(
                    upstream = name,
                    by,
                    "no server of the upstream takes connections"
                );
                notes.push(format!(
                    "no server of `{name}` takes connections until one is resumed"
                ));
            }
        } else {
            tracing::info!(upstream = name, server, by, "an operator deploys");
        }
        let longest_delay = self.longest_delay(&target);
        let begin = |trigger| {
            let id = self.control.start_on(trigger, terms);
            self.keep_longest_delay(id, longest_delay);
            let progress = self.control.progress(id)?;
            Some(self.describe(id, &progress))
        };
        let begun = target.triggers(cause).into_iter().filter_map(begin);
        let begun = begun.collect();
        Ok(answer(
            StatusCode::ACCEPTED,
            &Drained::Begun { begun, notes },
        ))
    }

    /// The longest delay that clients of these servers are told when they are drained (`reconnect_after` of their routes).
    fn longest_delay(&self, target: &Target) -> Duration {
        let is_target = |place: &Place| {
            let mut servers = target.servers.iter();
            place.upstream == target.pool.index
                && servers.any(|server| server.number == place.server)
        };
        let connections = self.control.connections(None).into_iter();
        let of_target = connections.filter(|(_, place, _)| is_target(place));
        let delays = of_target.filter_map(|(_, _, handle)| {
            let (_, longest) = handle.about()?.route.settings.closing.reconnect_after;
            Some(longest)
        });
        delays.max().unwrap_or_default()
    }

    fn keep_longest_delay(&self, id: DrainId, delay: Duration) {
        let known: Vec<_> = self
            .control
            .drains()
            .iter()
            .map(|(id, _)| id.number())
            .collect();
        let mut delays = self.longest_delays.lock();
        delays.retain(|id, _| known.contains(id));
        // A drain that joins one under way has that one's number.
        let longest = delays.entry(id.number()).or_default();
        *longest = (*longest).max(delay);
    }

    /// The longest delay that the clients of a drain are told, in seconds; `None` for a drain that was not begun here.
    pub(super) fn longest_delay_of(&self, id: DrainId) -> Option<f64> {
        let delays = self.longest_delays.lock();
        delays.get(&id.number()).map(Duration::as_secs_f64)
    }

    fn forecast(&self, target: &Target, terms: Terms, leaves_none: bool) -> bodies::Forecast {
        let mut sum = bodies::Forecast {
            connections: 0,
            plain_requests: target.plain_requests(),
            seconds: 0.0,
            deadline_seconds: 0.0,
            rate: 0.0,
            raised: false,
            leaves_none,
        };
        for selection in target.selections() {
            let one = self.control.forecast(selection, terms);
            sum.connections += one.members;
            sum.seconds = sum.seconds.max(one.lasts.as_secs_f64());
            sum.deadline_seconds = sum.deadline_seconds.max(one.deadline.as_secs_f64());
            sum.rate += one.rate;
            sum.raised |= one.raised;
        }
        sum
    }

    fn resume(&self, name: &str, body: &[u8], peer: &str) -> Result<Answer, Answer> {
        let pool = match self.pool(name) {
            Ok(pool) => pool,
            Err(refusal) => {
                // A drain of an upstream that an earlier configuration had.
                let note = match self.pools.intents().remove_upstream(name) {
                    Ok(true) => {
                        format!(
                            "the configuration has no upstream `{name}`; its drains are removed"
                        )
                    }
                    Ok(false) => return Err(refusal),
                    Err(error) => not_kept(&error),
                };
                return Ok(ok(&Resumed {
                    resumed: Vec::new(),
                    cancelled: 0,
                    servers: Vec::new(),
                    notes: vec![note],
                }));
            }
        };
        let body = without_slack(parse(body)?)?;
        let target = match target(pool.clone(), body.server.as_deref()) {
            // A server that the configuration does not have can be resumed, too.
            Err(_)
                if pool
                    .absent_intents()
                    .iter()
                    .any(|intent| intent.server == body.server) =>
            {
                Target {
                    pool: pool.clone(),
                    name: body.server.clone(),
                    servers: Vec::new(),
                }
            }
            found => found?,
        };
        let by = requester(peer, body.by.as_deref())?;
        let concerned = |selection| match (selection, &target.name) {
            (Selection::Server { upstream, server }, Some(_)) => {
                upstream == pool.index && target.servers.iter().any(|of| of.number == server)
            }
            // The others of a drain of all are still drained.
            (_, Some(_)) => false,
            (selection, None) => selection.upstream() == Some(pool.index),
        };
        let running = self.control.drains().into_iter().filter(|(_, progress)| {
            progress.state == State::Running && concerned(progress.selection)
        });
        let running: Vec<DrainId> = running.map(|(id, _)| id).collect();
        tracing::info!(
            upstream = pool.name,
            server = target.name.as_deref().unwrap_or("all"),
            by,
            "an operator resumes"
        );
        Ok(self.let_in(&pool, &[target.name], &running))
    }

    /// Ends what is under way; a server whose drain has ended stays out until it is resumed.
    fn cancel(&self, name: &str, peer: &str) -> Result<Answer, Answer> {
        let pool = self.pool(name)?;
        let running = self.control.drains().into_iter().filter(|(_, progress)| {
            progress.state == State::Running && progress.selection.upstream() == Some(pool.index)
        });
        let running: Vec<_> = running.collect();
        let members = pool.members();
        let name_of = |selection| match selection {
            Selection::Server { server, .. } => {
                let mut all = members.all();
                let found = all.find(|known| known.number == server);
                found.map(|server| server.address.to_string())
            }
            _ => None,
        };
        let drained = running
            .iter()
            .filter(|(_, progress)| progress.cause == Cause::Operator);
        let names: Vec<Option<String>> = drained
            .map(|(_, progress)| name_of(progress.selection))
            .collect();
        let ids: Vec<DrainId> = running.iter().map(|(id, _)| *id).collect();
        tracing::info!(
            upstream = pool.name,
            drains = ids.len(),
            by = peer,
            "an operator cancels drains"
        );
        Ok(self.let_in(&pool, &names, &ids))
    }

    /// Resumes the servers of these names (`None`: all of them), and cancels these drains.
    fn let_in(&self, pool: &Arc<Pool>, names: &[Option<String>], drains: &[DrainId]) -> Answer {
        let up = || -> Vec<String> {
            let members = pool.members();
            let up = members
                .servers
                .iter()
                .filter(|server| server.is_in_rotation());
            up.map(|server| server.address.to_string()).collect()
        };
        let before = up();
        let mut notes = Vec::new();
        for name in names {
            let kept = pool.resume(name.as_deref());
            notes.extend(kept.err().map(|error| not_kept(&error)));
            let members = pool.members();
            let is_meant =
                |server: &&Arc<Server>| name.as_deref().is_none_or(|name| server.is_named(name));
            let meant = members.servers.iter().filter(is_meant);
            meant.for_each(|server| pool.lift_ejection(server));
        }
        let cancelled = drains.iter().filter(|id| self.control.cancel(**id)).count();
        let mut resumed = up();
        resumed.retain(|address| !before.contains(address));
        ok(&Resumed {
            resumed,
            cancelled,
            servers: self.servers_of(pool),
            notes,
        })
    }

    fn show(&self, pool: &Pool) -> Answer {
        ok(&bodies::Drains {
            upstream: pool.name.clone(),
            drains: self.drains_of(pool),
        })
    }

    pub(super) fn pool(&self, name: &str) -> Result<Arc<Pool>, Answer> {
        self.pools.named(name).ok_or_else(|| {
            let pools = self.pools.current();
            let failure = Failure {
                error: format!("there is no upstream `{name}`"),
                upstreams: Some(pools.iter().map(|pool| pool.name.clone()).collect()),
                ..Failure::default()
            };
            answer(StatusCode::NOT_FOUND, &failure)
        })
    }

    pub(super) fn terms(&self, body: &Change) -> Result<Terms, Answer> {
        let time = |key: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => duration::parse(text)
                .map(Some)
                .map_err(|wrong| bad_request(&format!("`{key}`: {}", wrong.replace('\n', "; ")))),
        };
        let mut terms = self.control.settings().terms;
        if let Some(deadline) = time("deadline", &body.deadline)? {
            terms.deadline = deadline;
        }
        match (time("over", &body.over)?, body.rate) {
            (Some(_), Some(_)) => {
                return Err(bad_request(
                    "`over` and `rate` are two paces; name one of them",
                ));
            }
            (Some(over), None) => terms.pace = Pace::Over(over),
            (None, Some(rate)) if rate.is_finite() && rate > 0.0 => terms.pace = Pace::Rate(rate),
            (None, Some(_)) => {
                return Err(bad_request(
                    "`rate` is a number of connections per second above 0",
                ));
            }
            (None, None) => {}
        }
        Ok(terms)
    }
}

/// Waits for the plain requests of servers that an operator has drained, and ends those that are left when the time is over.
/// Servers that were resumed meanwhile keep theirs.
async fn end_requests(servers: Vec<Arc<Server>>, deadline: Duration) {
    let drained: Vec<_> = servers
        .iter()
        .map(|server| (server, server.intent()))
        .collect();
    tokio::time::sleep(deadline).await;
    for (server, intent) in drained {
        let count = server.plain_requests();
        if count > 0 && intent.is_some() && server.intent() == intent {
            let address = &server.address;
            tracing::warn!(server = %address, count, "plain requests are ended: the deadline of the drain is over");
            server.end_plain_requests();
        }
    }
}

/// A change that is no rebalance.
fn without_slack(change: Change) -> Result<Change, Answer> {
    match change.slack {
        None => Ok(change),
        Some(_) => Err(bad_request("`slack` belongs to a rebalance")),
    }
}

fn not_kept(error: &std::io::Error) -> String {
    tracing::error!(%error, "the drained servers cannot be written to `state_file`");
    format!(
        "this is in force, but a restart of wsgate forgets it: `state_file` cannot be written: {error}"
    )
}

pub(super) fn parse<T: Default + DeserializeOwned>(body: &[u8]) -> Result<T, Answer> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        // A list would be read as the fields in their order, and an empty one would drain everything.
        return Err(bad_request(
            "the body is not a JSON object, at line 1 column 1",
        ));
    }
    // Says what, and at which line and column.
    serde_json::from_slice(body).map_err(|error| bad_request(&error.to_string()))
}

pub(super) fn not_allowed(methods: &str) -> Answer {
    let message = format!("this endpoint takes {methods}");
    failure(StatusCode::METHOD_NOT_ALLOWED, &message)
}

#[cfg(test)]
mod tests;
