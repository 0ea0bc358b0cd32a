//! The part of the admin API about single WebSocket connections.
//!
//! | request | does |
//! |---|---|
//! | `GET /v1/connections` | lists connections by their number: with `upstream`, `route`, `server` (an address), `client` (an address or a network) those alone, `after` a number and at most `limit` (1 to 5000) |
//! | `POST /v1/connections/ID/close` | closes one: `{"code": 1008, "reason": "abuse"}` |

use super::bodies::{CloseOrder, Closed, Connection, Connections};
use super::drains::{Drains, not_allowed, parse};
use super::target::requester;
use super::{Answer, bad_request, failure, names, ok};
use crate::drain::{MemberId, Place};
use crate::edge::client::identity::is_in;
use crate::frame::close;
use crate::log::Field;
use crate::relay::{About, Figures, Handle};
use http::{Method, StatusCode};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Most connections of one answer.
const MOST: usize = 5000;

/// The time in which all connections of one answer have to tell their figures.
const PATIENCE: Duration = Duration::from_secs(2);

/// The connections that a request asks for.
#[derive(Debug, Default, PartialEq)]
struct Filter {
    upstream: Option<String>,
    route: Option<String>,
    server: Option<String>,
    client: Option<IpNet>,
    after: Option<u64>,
    limit: usize,
}

impl Filter {
    fn parse(query: &str) -> Result<Self, String> {
        let mut filter = Filter {
            limit: MOST,
            ..Filter::default()
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(value) = names::decode(value) else {
                return Err(format!(
                    "`{name}` is no UTF-8, or holds a `%` that is not written as %25"
                ));
            };
            match name {
                "upstream" => filter.upstream = Some(value),
                "route" => filter.route = Some(value),
                "server" => filter.server = Some(value),
                "client" => {
                    let network = value.parse().ok();
                    let network = network.or_else(|| value.parse::<IpAddr>().ok().map(IpNet::from));
                    let wrong = || format!("`client` is an IP address or a network, not `{value}`");
                    filter.client = Some(network.ok_or_else(wrong)?);
                }
                "after" => {
                    let wrong = |_| format!("`after` is the number of a connection, not `{value}`");
                    filter.after = Some(value.parse().map_err(wrong)?);
                }
                "limit" => {
                    let limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=MOST).contains(limit));
                    let wrong = || format!("`limit` is a number from 1 to {MOST}, not `{value}`");
                    filter.limit = limit.ok_or_else(wrong)?;
                }
                _ => {
                    return Err(format!(
                        "`{name}` is not known here; there are upstream, route, server, client, after and limit"
                    ));
                }
            }
        }
        Ok(filter)
    }
}

/// A connection that is listed.
struct Listed {
    id: MemberId,
    upstream: String,
    server: String,
    handle: Arc<Handle>,
}

impl Drains {
    /// Answers a request for `/v1/connections` or below. `None`: there is no such endpoint.
    pub(super) async fn answer_connections(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        body: &[u8],
        peer: &str,
    ) -> Option<Answer> {
        let rest = path.strip_prefix("/v1/connections")?;
        if rest.is_empty() {
            return Some(match (method, Filter::parse(query)) {
                (&Method::GET, Ok(filter)) => {
                    match filter.upstream.as_deref().map(|name| self.pool(name)) {
                        Some(Err(unknown)) => unknown,
                        _ => self.list(&filter).await,
                    }
                }
                (&Method::GET, Err(wrong)) => bad_request(&wrong),
                _ => not_allowed("GET"),
            });
        }
        let id = rest.strip_prefix('/')?.strip_suffix("/close")?;
        Some(match method {
            &Method::POST => self.close(id, body, peer).unwrap_or_else(|refusal| refusal),
            _ => not_allowed("POST"),
        })
    }

    async fn list(&self, filter: &Filter) -> Answer {
        let mut listed = self.select(filter);
        let is_more = listed.len() > filter.limit;
        listed.truncate(filter.limit);
        let asked: Vec<_> = listed.iter().map(|one| one.handle.ask()).collect();
        let deadline = Instant::now() + PATIENCE;
        let mut connections = Vec::with_capacity(listed.len());
        for (one, asked) in listed.iter().zip(asked) {
            let figures = timeout_at(deadline, asked).await;
            let figures = figures.ok().and_then(Result::ok);
            connections.extend(one.handle.about().map(|about| one.describe(about, figures)));
        }
        ok(&Connections {
            next: listed.last().filter(|_| is_more).map(|one| one.id.number()),
            connections,
        })
    }

    /// The connections that the filter chooses, one more than the limit at most, in the order of their numbers.
    fn select(&self, filter: &Filter) -> Vec<Listed> {
        let pools = self.pools.all();
        let upstream_of = |place: Place| {
            let pool = pools.iter().find(|pool| pool.index == place.upstream)?;
            let members = pool.members();
            let server = members.all().find(|known| known.number == place.server);
            let server = server.map(|server| server.address.to_string());
            Some((pool.name.clone(), server.unwrap_or_default()))
        };
        let is =
            |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let mut listed = Vec::new();
        for (id, place, handle) in self
            .control
            .connections(filter.after.map(MemberId::from_number))
        {
            if listed.len() > filter.limit {
                break;
            }
            let Some(about) = handle.about() else {
                // Its handshake is under way.
                continue;
            };
            let is_client = |networks: IpNet| {
                let client = about.client().known();
                client.is_some_and(|client| is_in(&[networks], client))
            };
            if !is(&filter.route, &about.route.route) || !filter.client.is_none_or(is_client) {
                continue;
            }
            let (upstream, server) = upstream_of(place).unwrap_or_default();
            if is(&filter.upstream, &upstream) && is(&filter.server, &server) {
                listed.push(Listed {
                    id,
                    upstream,
                    server,
                    handle: handle.clone(),
                });
            }
        }
        listed
    }

    fn close(&self, id: &str, body: &[u8], peer: &str) -> Result<Answer, Answer> {
        let order: CloseOrder = parse(body)?;
        let by = requester(peer, order.by.as_deref())?;
        let code = order.code.unwrap_or(close::POLICY_VIOLATION);
        if !close::may_travel(code) {
            return Err(bad_request(&format!(
                "`code` {code} may not be sent in a Close; there are 1000 to 1003, 1007 to 1014, 3000 to 4999"
            )));
        }
        let reason = order.reason.unwrap_or_default();
        if reason.len() > close::MAX_REASON {
            return Err(bad_request(&format!(
                "`reason` has {} bytes; a Close has room for {}",
                reason.len(),
                close::MAX_REASON
            )));
        }
        let unknown = || {
            let error = format!("there is no connection `{id}`; it may have ended");
            failure(StatusCode::NOT_FOUND, &error)
        };
        let number: u64 = id.parse().map_err(|_| unknown())?;
        let handle = self.control.connection(MemberId::from_number(number));
        let handle = handle.filter(|handle| handle.about().is_some());
        let handle = handle.ok_or_else(unknown)?;
        tracing::info!(
            id = number,
            code,
            reason,
            by,
            "an operator closes a connection"
        );
        handle.close(code, reason.into_boxed_str());
        Ok(ok(&Closed { closed: number }))
    }
}

impl Listed {
    fn describe(&self, about: &About, figures: Option<Figures>) -> Connection {
        let detail = |field| about.details.get(field).map(ToOwned::to_owned);
        let figures = figures.unwrap_or_default();
        Connection {
            id: self.id.number(),
            client: about.client().to_string(),
            peer: about.peer(),
            route: about.route.route.clone(),
            upstream: self.upstream.clone(),
            server: self.server.clone(),
            protocol: detail(Field::Protocol),
            host: detail(Field::Host),
            path: detail(Field::Path),
            origin: detail(Field::Origin),
            user_agent: detail(Field::UserAgent),
            request_id: detail(Field::RequestId),
            traceparent: detail(Field::Traceparent),
            age_seconds: about.started.elapsed().as_secs(),
            idle_seconds: figures.idle.into(),
            messages_from_client: figures.messages[0],
            bytes_from_client: figures.bytes[0],
            messages_from_server: figures.messages[1],
            bytes_from_server: figures.bytes[1],
            buffered_bytes: figures.buffered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let filter = Filter::parse("client=10.0.0.0%2F8&after=7&limit=5&route=a%20b").unwrap();
        assert_eq!(filter.client, Some("10.0.0.0/8".parse().unwrap()));
        assert_eq!((filter.after, filter.limit), (Some(7), 5));
        assert_eq!(filter.route.as_deref(), Some("a b"));
        let one = Filter::parse("client=2001:db8::1").unwrap();
        assert_eq!(one.client, Some("2001:db8::1/128".parse().unwrap()));
        for wrong in [
            "client=x",
            "after=-1",
            "limit=0",
            "limit=5001",
            "clent=a",
            "route=%",
            "client=10.0.0.1/33",
        ] {
            let sentence = Filter::parse(wrong).unwrap_err();
            let name = wrong.split('=').next().unwrap();
            assert!(sentence.contains(&format!("`{name}`")), "{sentence}");
        }
    }
}
