//! `POST /v1/upstreams/NAME/rebalance`: clients beyond the share of their server are told to reconnect, at the pace of a drain.

use super::bodies::{Change, Rebalanced, Share};
use super::drains::{Drains, parse};
use super::target::requester;
use super::{Answer, answer, bad_request, failure, ok};
use crate::upstream::rebalance;
use http::StatusCode;

impl Drains {
    pub(super) fn rebalance(&self, name: &str, body: &[u8], peer: &str) -> Result<Answer, Answer> {
        let pool = self.pool(name)?;
        let body: Change = parse(body)?;
        let by = requester(peer, body.by.as_deref())?;
        let terms = self.terms(&body)?;
        if body.server.is_some() || body.force {
            let error =
                "a rebalance concerns all servers of an upstream: leave out `server` and `force`";
            return Err(bad_request(error));
        }
        let slack = match body.slack.as_deref() {
            None => pool.members().settings.rebalance.slack,
            Some(text) => {
                let number = text.strip_suffix('%');
                let number = number.and_then(|number| number.trim().parse().ok());
                let wrong = || bad_request("`slack` is a whole number of percent: \"10%\"");
                number
                    .filter(|percent| *percent <= 1000)
                    .ok_or_else(wrong)?
            }
        };
        let Some(shares) = pool.shares(&self.control, slack) else {
            let error = "the upstream balances by a cookie, which brings each client back to its server; drain a server to move its clients";
            return Err(failure(StatusCode::CONFLICT, error));
        };
        let share = |share: &rebalance::Share| Share {
            server: share.server.address.to_string(),
            connections: share.connections,
            moved: share.moved.len(),
        };
        let mut rebalanced = Rebalanced {
            servers: shares.iter().map(share).collect(),
            away: self.control.away(pool.index),
            begun: None,
        };
        if body.dry_run {
            return Ok(ok(&rebalanced));
        }
        let Some(id) = pool.rebalance(&self.control, &shares, terms) else {
            return Ok(ok(&rebalanced));
        };
        let connections: usize = rebalanced.servers.iter().map(|share| share.moved).sum();
        tracing::info!(upstream = name, by, connections, "an operator rebalances");
        let progress = self.control.progress(id);
        rebalanced.begun = progress.map(|progress| self.describe(id, &progress));
        Ok(answer(StatusCode::ACCEPTED, &rebalanced))
    }
}
