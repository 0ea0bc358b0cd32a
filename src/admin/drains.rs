//! The part of the admin API that changes something: draining servers, deploys, and what becomes of them.
//!
//! | request | does |
//! |---|---|
//! | `POST /v1/upstreams/NAME/drain` | takes a server, or all, out: clients are told to reconnect, new ones go elsewhere |
//! | `POST /v1/upstreams/NAME/deploy` | tells those connected now to reconnect; new ones are welcome at once |
//! | `POST /v1/upstreams/NAME/resume` | lets a drained server, or all, in again and ends its drain |
//! | `GET /v1/upstreams/NAME/drain` | the drains of the upstream |
//! | `DELETE /v1/upstreams/NAME/drain` | ends the drains under way and lets their servers in: who was not told yet stays |
//! | `POST /v1/reload` | reads the configuration again |
//! | `GET /v1/status` | upstreams, servers, connections, drains |
//!
//! NAME is percent-encoded where it holds other characters than letters, digits, `-`, `.`, `_` and `~`.
//!
//! A body is JSON and says so, a change without one bears `X-Wsgate: 1`. Every field of a body is optional:
//! `{"server": "10.0.0.5:9000", "over": "30s", "rate": 200, "deadline": "60s", "dry_run": true}`.

use super::bodies::{self, Change, Drained, Failure, Handshakes, Resumed, Status};
use super::{Answer, answer, failure, names, ok};
use crate::deploy::{self, Control, Trigger};
use crate::drain::{Cause, DrainId, Pace, Progress, Selection, State, Terms};
use crate::duration;
use crate::metrics::{Metrics, ServerFigures, UpstreamFigures};
use crate::upstream::{Pool, Pools, Server, State as ServerState};
use http::{Method, StatusCode};
use std::sync::Arc;

/// The states of servers, as metrics name them.
const STATES: [&str; 3] = [
    ServerState::ALL[0].label(),
    ServerState::ALL[1].label(),
    ServerState::ALL[2].label(),
];

/// The upstreams that can be drained, and the control that drains them. Clones share everything.
#[derive(Clone)]
pub struct Drains {
    control: Arc<Control>,
    pools: Arc<Pools>,
}

/// The servers that a request is about.
struct Target {
    pool: Arc<Pool>,
    /// `None` for all.
    server: Option<Arc<Server>>,
}

impl Target {
    fn trigger(&self, cause: Cause) -> Trigger {
        let target = match &self.server {
            Some(server) => deploy::Target::Server(self.pool.server_id(server)),
            None => deploy::Target::Upstream(self.pool.id()),
        };
        Trigger { cause, target }
    }

    fn selection(&self) -> Selection {
        self.trigger(Cause::Operator).target.selection()
    }

    fn servers(&self) -> Vec<Arc<Server>> {
        match &self.server {
            Some(server) => vec![server.clone()],
            None => self.pool.members().servers.clone(),
        }
    }
}

impl Drains {
    /// Drains the servers of these pools.
    pub fn new(control: Arc<Control>, pools: Arc<Pools>) -> Self {
        Drains { control, pools }
    }

    /// Exports the figures of all upstreams. To be called once.
    pub fn export(&self, metrics: &Metrics) {
        // The metrics belong to the control too: a strong reference would keep both for ever.
        let (control, pools) = (Arc::downgrade(&self.control), Arc::downgrade(&self.pools));
        metrics.read_upstreams(move || {
            let upgraded = control.upgrade().zip(pools.upgrade());
            let drains = upgraded.map(|(control, pools)| Drains { control, pools });
            drains.map_or_else(Vec::new, |drains| drains.figures())
        });
    }

    fn figures(&self) -> Vec<UpstreamFigures> {
        let of_server = |pool: &Pool, server: &Server| {
            let admission = pool.admission(server);
            ServerFigures {
                server: server.address.to_string(),
                state: server.state().label(),
                states: &STATES,
                connections: self.connections(pool, server),
                handshakes: admission.under_way,
                handshake_limit: admission.bound,
                known_rate: admission.known_rate,
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

    fn connections(&self, pool: &Pool, server: &Server) -> usize {
        self.control.count(Selection::Server {
            upstream: pool.index,
            server: server.number,
        })
    }

    /// `None`: there is no such endpoint. What is asked for by GET changes nothing.
    pub(super) fn answer(&self, method: &Method, path: &str, body: &[u8]) -> Option<Answer> {
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
            ("drain", "POST") => self.begin(name, body, Cause::Operator),
            ("deploy", "POST") => self.begin(name, body, Cause::Deploy),
            ("resume", "POST") => self.resume(name, body),
            ("drain", "DELETE") => self.cancel(name),
            ("drain", _) => Err(not_allowed("GET, POST, DELETE")),
            ("deploy" | "resume", _) => Err(not_allowed("POST")),
            _ => return None,
        };
        Some(result.unwrap_or_else(|refusal| refusal))
    }

    fn begin(&self, name: &str, body: &[u8], cause: Cause) -> Result<Answer, Answer> {
        let pool = self.pool(name)?;
        let body = parse(body)?;
        let target = target(pool.clone(), body.server.as_deref())?;
        let terms = self.terms(&body)?;
        if body.dry_run {
            let forecast = self.control.forecast(target.selection(), terms);
            let forecast = bodies::Forecast {
                connections: forecast.members,
                seconds: forecast.lasts.as_secs_f64(),
                deadline_seconds: forecast.deadline.as_secs_f64(),
                rate: forecast.rate,
                raised: forecast.raised,
            };
            return Ok(ok(&Drained::Forecast { forecast }));
        }
        let servers = target.servers();
        let was_out = servers.iter().all(|server| server.is_drained());
        if cause == Cause::Operator {
            servers
                .iter()
                .for_each(|server| pool.set_drained(server, true));
            if was_out && self.control.count(target.selection()) == 0 {
                let message = "it is drained already; POST .../resume lets it in again";
                return Ok(ok(&Drained::Already {
                    message: message.to_owned(),
                    drains: self.drains_of(&pool),
                }));
            }
        }
        let id = self.control.start_on(target.trigger(cause), terms);
        let drain = self
            .control
            .progress(id)
            .map(|progress| self.describe(id, &progress));
        Ok(answer(StatusCode::ACCEPTED, &Drained::Begun { drain }))
    }

    fn resume(&self, name: &str, body: &[u8]) -> Result<Answer, Answer> {
        let pool = self.pool(name)?;
        let body = parse(body)?;
        let target = target(pool.clone(), body.server.as_deref())?;
        target
            .servers()
            .iter()
            .for_each(|server| pool.set_drained(server, false));
        let concerned = |selection| match (selection, &target.server) {
            (Selection::Server { upstream, server }, Some(only)) => {
                upstream == pool.index && server == only.number
            }
            // The others of a drain of all are still drained.
            (_, Some(_)) => false,
            (selection, None) => upstream_of(selection) == Some(pool.index),
        };
        let running = self.control.drains().into_iter().filter(|(_, progress)| {
            progress.state == State::Running && concerned(progress.selection)
        });
        let cancelled = running.filter(|(id, _)| self.control.cancel(*id)).count();
        Ok(ok(&Resumed {
            cancelled,
            servers: self.servers_of(&pool),
        }))
    }

    /// Ends what is under way; a server whose drain has ended stays out until it is resumed.
    fn cancel(&self, name: &str) -> Result<Answer, Answer> {
        let pool = self.pool(name)?;
        let running = self.control.drains().into_iter().filter(|(_, progress)| {
            progress.state == State::Running && upstream_of(progress.selection) == Some(pool.index)
        });
        let mut cancelled = 0;
        for (id, progress) in running {
            cancelled += usize::from(self.control.cancel(id));
            if progress.cause == Cause::Operator {
                let members = pool.members();
                let concerned = members
                    .servers
                    .iter()
                    .filter(|known| match progress.selection {
                        Selection::Server { server, .. } => known.number == server,
                        _ => true,
                    });
                concerned.for_each(|server| pool.set_drained(server, false));
            }
        }
        Ok(ok(&Resumed {
            cancelled,
            servers: self.servers_of(&pool),
        }))
    }

    fn show(&self, pool: &Pool) -> Answer {
        ok(&bodies::Drains {
            upstream: pool.name.clone(),
            drains: self.drains_of(pool),
        })
    }

    fn status(&self) -> Answer {
        let pools = self.pools.all();
        let upstream = |pool: &Arc<Pool>| bodies::Upstream {
            name: pool.name.clone(),
            connections: self.control.count(Selection::Upstream {
                upstream: pool.index,
            }),
            away: self.control.away(pool.index),
            queued: pool.waiting(),
            queue_p99_seconds: pool.wait_p99().map(|wait| wait.as_secs_f64()),
            servers: self.servers_of(pool),
            drains: self.drains_of(pool),
        };
        ok(&Status {
            upstreams: pools.iter().map(upstream).collect(),
        })
    }

    fn servers_of(&self, pool: &Pool) -> Vec<bodies::Server> {
        let members = pool.members();
        let server = |server: &Arc<Server>| {
            let admission = pool.admission(server);
            bodies::Server {
                address: server.address.to_string(),
                state: server.state().label().to_owned(),
                connections: self.connections(pool, server),
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

    fn drains_of(&self, pool: &Pool) -> Vec<bodies::Drain> {
        let drains = self.control.drains().into_iter();
        let of_it =
            drains.filter(|(_, progress)| upstream_of(progress.selection) == Some(pool.index));
        of_it
            .map(|(id, progress)| self.describe(id, &progress))
            .collect()
    }

    fn describe(&self, id: DrainId, progress: &Progress) -> bodies::Drain {
        let server = match progress.selection {
            Selection::Server { upstream, server } => {
                let pools = self.pools.all();
                let pool = pools.iter().find(|pool| pool.index == upstream);
                pool.and_then(|pool| {
                    let members = pool.members();
                    let found = members.all().find(|known| known.number == server);
                    found.map(|server| server.address.to_string())
                })
            }
            _ => None,
        };
        bodies::Drain::new(id, server, progress)
    }

    fn pool(&self, name: &str) -> Result<Arc<Pool>, Answer> {
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

    fn terms(&self, body: &Change) -> Result<Terms, Answer> {
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

fn target(pool: Arc<Pool>, server: Option<&str>) -> Result<Target, Answer> {
    let Some(server) = server else {
        return Ok(Target { pool, server: None });
    };
    let servers = pool.members().servers.clone();
    let addresses: Vec<String> = servers
        .iter()
        .map(|server| server.address.to_string())
        .collect();
    match addresses.iter().position(|address| address == server) {
        Some(index) => Ok(Target {
            pool,
            server: Some(servers[index].clone()),
        }),
        None => {
            let failure = Failure {
                error: format!("upstream `{}` has no server `{server}`", pool.name),
                servers: Some(addresses),
                ..Failure::default()
            };
            Err(answer(StatusCode::NOT_FOUND, &failure))
        }
    }
}

fn parse(body: &[u8]) -> Result<Change, Answer> {
    if body.trim_ascii().is_empty() {
        return Ok(Change::default());
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

fn upstream_of(selection: Selection) -> Option<u32> {
    match selection {
        Selection::Server { upstream, .. }
        | Selection::Upstream { upstream }
        | Selection::OlderThan { upstream, .. } => Some(upstream),
        Selection::Everything | Selection::Member(_) => None,
    }
}

fn bad_request(message: &str) -> Answer {
    failure(StatusCode::BAD_REQUEST, message)
}

fn not_allowed(methods: &str) -> Answer {
    let message = format!("this endpoint takes {methods}");
    failure(StatusCode::METHOD_NOT_ALLOWED, &message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::Settings;
    use crate::transport::address::Address;
    use crate::upstream::settings::Upstream;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn drains() -> Drains {
        let servers = vec![Address::Unix("/a".into()), Address::Unix("/b".into())];
        Drains::new(
            Control::new(Settings::default(), Arc::default()),
            Arc::new(Pools::new(&[Upstream::new("chat", servers)])),
        )
    }

    fn is_drained(drains: &Drains, server: usize) -> bool {
        drains.pools.current()[0].members().servers[server].is_drained()
    }

    fn ask(drains: &Drains, request: &str, body: &str) -> (u16, Value) {
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let method = method.parse().expect("a method");
        let (status, body) = drains
            .answer(&method, path, body.as_bytes())
            .expect("an endpoint");
        (status.as_u16(), body)
    }

    #[tokio::test]
    async fn a_server_is_drained_and_resumed() {
        let drains = drains();
        let place = |server| crate::drain::Place {
            upstream: 0,
            server,
            generation: 0,
        };
        let members = [
            drains.control.enroll(place(0), Duration::ZERO),
            drains.control.enroll(place(1), Duration::ZERO),
        ];
        let (status, body) = ask(
            &drains,
            "POST /v1/upstreams/chat/drain",
            r#"{"server": "unix:/a", "over": "30s"}"#,
        );
        assert_eq!((status, &body["drain"]["total"]), (202, &json!(1)));
        let (_, status) = ask(&drains, "GET /v1/status", "");
        let servers = &status["upstreams"][0]["servers"];
        let handshakes =
            json!({ "under_way": 0, "limit": 20, "per_second": 0.0, "known_rate": null });
        for (server, address, state) in [(0, "unix:/a", "draining"), (1, "unix:/b", "up")] {
            let expected = json!({
                "address": address, "state": state, "connections": 1, "handshakes": handshakes,
            });
            assert_eq!(servers[server], expected);
        }
        let (_, shown) = ask(&drains, "GET /v1/upstreams/chat/drain", "");
        assert_eq!(shown["drains"][0]["state"], "running");
        let (status, body) = ask(
            &drains,
            "POST /v1/upstreams/chat/resume",
            r#"{"server": "unix:/a"}"#,
        );
        assert_eq!((status, &body["cancelled"]), (200, &json!(1)));
        assert!(!is_drained(&drains, 0));
        drop(members);
    }

    #[tokio::test]
    async fn what_is_drained_already_is_said() {
        let drains = drains();
        assert_eq!(ask(&drains, "POST /v1/upstreams/chat/drain", "").0, 202);
        let (status, body) = ask(&drains, "POST /v1/upstreams/chat/drain", "{}");
        assert_eq!(status, 200);
        assert!(
            body["message"]
                .as_str()
                .is_some_and(|message| message.contains("already")),
            "{body}"
        );
        assert_eq!(ask(&drains, "DELETE /v1/upstreams/chat/drain", "").0, 200);
        assert!(
            is_drained(&drains, 0) && is_drained(&drains, 1),
            "their drain has ended"
        );
        assert_eq!(ask(&drains, "POST /v1/upstreams/chat/resume", "").0, 200);
        assert!(!is_drained(&drains, 0) && !is_drained(&drains, 1));
    }

    #[tokio::test]
    async fn a_deploy_takes_no_server_out_and_a_dry_run_does_nothing() {
        let drains = drains();
        let place = crate::drain::Place {
            upstream: 0,
            server: 0,
            generation: 0,
        };
        let member = drains.control.enroll(place, Duration::ZERO);
        let (status, body) = ask(
            &drains,
            "POST /v1/upstreams/chat/deploy",
            r#"{"dry_run": true, "rate": 1}"#,
        );
        assert_eq!((status, &body["forecast"]["connections"]), (200, &json!(1)));
        assert_eq!(drains.control.drains().len(), 0);
        assert_eq!(ask(&drains, "POST /v1/upstreams/chat/deploy", "").0, 202);
        assert!(!is_drained(&drains, 0));
        drop(member);
    }

    #[tokio::test]
    async fn bad_requests_say_what_is_wrong() {
        let drains = drains();
        for (request, body, status, says) in [
            ("POST /v1/upstreams/chta/drain", "", 404, "chat"),
            (
                "POST /v1/upstreams/chat/drain",
                r#"{"server": "c:3"}"#,
                404,
                "unix:/b",
            ),
            (
                "POST /v1/upstreams/chat/drain",
                "{\"over\": ",
                400,
                "line 1 column 9",
            ),
            (
                "POST /v1/upstreams/chat/drain",
                r#"{"ovr": "30s"}"#,
                400,
                "unknown field `ovr`",
            ),
            (
                "POST /v1/upstreams/chat/drain",
                r#"{"over": "30"}"#,
                400,
                "`30` is not a duration; write",
            ),
            (
                "POST /v1/upstreams/chat/drain",
                r#"{"over": "3s", "rate": 2}"#,
                400,
                "two paces",
            ),
            (
                "POST /v1/upstreams/chat/drain",
                r#"{"rate": 0}"#,
                400,
                "above 0",
            ),
            ("PUT /v1/upstreams/chat/drain", "", 405, "GET, POST, DELETE"),
            ("GET /v1/upstreams/chat/resume", "", 405, "POST"),
            ("POST /v1/status", "", 405, "GET"),
        ] {
            let (got, answer) = ask(&drains, request, body);
            assert_eq!(got, status, "{request} {body}: {answer}");
            assert!(
                answer.to_string().contains(says),
                "{request} {body}: {answer}"
            );
        }
        assert!(!is_drained(&drains, 0), "nothing has changed");
    }
}
