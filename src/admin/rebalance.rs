//! `POST /v1/upstreams/NAME/rebalance`: clients beyond the share of their server are told to reconnect, at the pace of a drain. A
//! deploy leaves the server that was restarted last empty, because clients come back while it is away.

use super::bodies::{Change, Rebalanced, Share};
use super::drains::{Drains, parse};
use super::target::requester;
use super::{Answer, answer, bad_request, failure, ok};
use crate::drain::{MemberId, Place};
use crate::relay::Handle;
use crate::upstream::settings::Balance;
use crate::upstream::{Pool, Server, State};
use http::StatusCode;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The share of connections that a server may have beyond its own without being told, in percent, unless the request says.
const SLACK: u32 = 10;

/// A live connection.
type Live = (MemberId, Place, Arc<Handle>);

impl Drains {
    pub(super) fn rebalance(&self, name: &str, body: &[u8], peer: &str) -> Result<Answer, Answer> {
        let pool = self.pool(name)?;
        let body: Change = parse(body)?;
        let by = requester(peer, body.by.as_deref())?;
        let terms = self.terms(&body)?;
        if body.server.is_some() || body.force {
            return Err(bad_request(
                "a rebalance concerns all servers of an upstream: leave out `server` and `force`",
            ));
        }
        let slack = match body.slack.as_deref() {
            None => SLACK,
            Some(text) => {
                let number = text
                    .strip_suffix('%')
                    .and_then(|number| number.trim().parse().ok());
                let wrong = || bad_request("`slack` is a whole number of percent: \"10%\"");
                number
                    .filter(|percent| *percent <= 1000)
                    .ok_or_else(wrong)?
            }
        };
        let members = pool.members();
        if let Balance::StickyCookie(_) = members.settings.balance {
            let error = "the upstream balances by a cookie, which brings each client back to its server; drain a server to move its clients";
            return Err(failure(StatusCode::CONFLICT, error));
        }
        let up: Vec<_> = members
            .servers
            .iter()
            .filter(|server| server.state() == State::Up)
            .collect();
        let mut live: BTreeMap<u32, Vec<Live>> = BTreeMap::new();
        for one in self.control.connections(None) {
            if one.1.upstream == pool.index {
                live.entry(one.1.server).or_default().push(one);
            }
        }
        let of = |server: &Server| live.get(&server.number).map_or(&[][..], Vec::as_slice);
        let (mut shares, mut chosen) = (Vec::new(), Vec::new());
        let counts: Vec<_> = up
            .iter()
            .map(|server| (of(server).len(), server.weight()))
            .collect();
        for (server, excess) in up.iter().zip(excess(&counts, slack)) {
            let is_hashed = matches!(members.settings.balance, Balance::Hash(_));
            let connections = of(server);
            let moved: Vec<_> = match is_hashed {
                true => connections
                    .iter()
                    .filter(|one| belongs_elsewhere(&pool, one))
                    .collect(),
                // The oldest: they have not been told to reconnect for the longest time.
                false => connections.iter().take(excess).collect(),
            };
            shares.push(Share {
                server: server.address.to_string(),
                connections: connections.len(),
                moved: moved.len(),
            });
            chosen.extend(moved.into_iter().map(|(id, ..)| *id));
        }
        let mut rebalanced = Rebalanced {
            servers: shares,
            begun: None,
        };
        if body.dry_run || chosen.is_empty() {
            return Ok(ok(&rebalanced));
        }
        tracing::info!(
            upstream = name,
            by,
            connections = chosen.len(),
            "an operator rebalances"
        );
        let id = self.control.rebalance(&pool.id(), chosen, terms);
        let progress = self.control.progress(id);
        rebalanced.begun = progress.map(|progress| self.describe(id, &progress));
        Ok(answer(StatusCode::ACCEPTED, &rebalanced))
    }
}

/// Whether the key of a connection belongs to another server than it is connected to.
fn belongs_elsewhere(pool: &Pool, (_, place, handle): &Live) -> bool {
    let key = handle.about().and_then(|about| about.key.as_deref());
    let Some(key) = key else {
        return false;
    };
    let candidates = pool.candidates(Some(key));
    candidates
        .first()
        .is_some_and(|server| server.number != place.server)
}

/// How many connections each server has beyond its share of all, by its weight, and `slack` percent of that.
fn excess(servers: &[(usize, u32)], slack: u32) -> Vec<usize> {
    let all: usize = servers.iter().map(|(connections, _)| connections).sum();
    let weights: u64 = servers.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let of_server = |(connections, weight): &(usize, u32)| {
        let share = all as f64 * f64::from(*weight) / weights.max(1) as f64;
        let most = (share * (1.0 + f64::from(slack) / 100.0)).ceil() as usize;
        // With less than one of slack a share of 3.3 is met by 4.
        match *connections > most {
            true => connections - share.ceil() as usize,
            false => 0,
        }
    };
    servers.iter().map(of_server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_share() {
        for (servers, slack, beyond) in [
            (&[(100, 1), (100, 1), (0, 1)][..], 10, &[33, 33, 0][..]),
            (&[(100, 1), (100, 1), (85, 1)], 10, &[0, 0, 0]),
            (&[(100, 1), (100, 1), (85, 1)], 0, &[5, 5, 0]),
            (&[(200, 2), (0, 1), (100, 1)], 10, &[50, 0, 25]),
            (&[(5, 1)], 0, &[0]),
            (&[(1, 1), (0, 1)], 0, &[0, 0]),
            (&[], 0, &[]),
        ] {
            assert_eq!(excess(servers, slack), beyond, "{servers:?}, {slack} %");
        }
    }
}
