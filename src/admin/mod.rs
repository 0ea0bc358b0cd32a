//! The admin interface: HTTP for operators and their tools on a listener of its own, with `/metrics`, `/healthz`, `/readyz`, and the
//! drains under `/v1`. It never touches a connection of a client itself.
//!
//! Requests that change something need the token, if one is configured; without one they are served only on an address that no other
//! machine reaches. Pages in a browser can change nothing and read nothing (`guard`). Every answer is wsgate's own, under `/v1` in
//! JSON, and everything that a client can make wait or grow has a bound (`connection`).

pub mod bodies;
mod client;
mod connection;
mod connections;
mod drains;
mod guard;
mod names;
mod rebalance;
mod request;
mod status;
mod target;

pub use client::Client;
pub use drains::Drains;
pub use names::encode as encode_name;

use crate::metrics::Metrics;
use crate::transport::address::Address;
use bodies::Reloaded;
use connection::Connections;
use guard::Guard;
use http::{Method, Response, StatusCode, header};
use parking_lot::RwLock;
use request::{Refusal, Request};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use subtle::ConstantTimeEq;
use tokio::sync::{mpsc, oneshot};

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `None`: there is none.
    pub listen: Option<Address>,
    /// Another listener, for the probes and the metrics alone: no other machine's prober has to reach `/v1`.
    pub probes: Option<Address>,
    /// The token that a request under `/v1` has to bear.
    pub token: Option<Token>,
    /// `/metrics` wants the token too.
    pub metrics_token: bool,
    /// Names by which the listener is asked, beside addresses, `localhost` and the machine's own name.
    pub hosts: Vec<String>,
    /// The mode of the Unix socket.
    pub socket_mode: u32,
    /// `/readyz` answers 503 while an upstream has no server that takes connections.
    pub ready_needs_servers: bool,
}

/// A secret that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in the text of a file, without the white space around it; `None` where there is nothing else.
    pub fn new(text: &str) -> Option<Token> {
        let token = text.trim();
        (!token.is_empty()).then(|| Token(token.to_owned()))
    }

    /// Compares in a time that tells nothing but the length.
    fn is(&self, offered: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(offered).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: Some(Address::Tcp(([127, 0, 0, 1], 9900).into())),
            probes: None,
            token: None,
            metrics_token: false,
            hosts: Vec::new(),
            socket_mode: 0o600,
            ready_needs_servers: false,
        }
    }
}

impl Settings {
    /// The addresses of both listeners.
    pub fn addresses(&self) -> Vec<Address> {
        self.listen.iter().chain(&self.probes).cloned().collect()
    }
}

/// A request for a reload.
#[derive(Debug)]
pub struct Reload {
    /// The requester, for the log.
    pub by: String,
    /// Takes the warnings, or why nothing has changed.
    pub answer: oneshot::Sender<Result<Vec<String>, String>>,
}

/// The endpoints. Clones share everything.
#[derive(Clone)]
pub struct Admin {
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    drains: Drains,
    guard: Arc<RwLock<Guard>>,
    reload: mpsc::Sender<Reload>,
    connections: Connections,
    /// The address of the listener that the connections come from, as configured.
    listener: Option<Address>,
}

impl Admin {
    /// Serves `metrics` and `drains`; `/readyz` answers as `ready` says; `reload` is asked for reloads.
    pub fn new(
        settings: &Settings,
        metrics: Arc<Metrics>,
        ready: Arc<AtomicBool>,
        drains: Drains,
        reload: mpsc::Sender<Reload>,
    ) -> Self {
        Admin {
            metrics,
            ready,
            drains,
            guard: Arc::new(RwLock::new(Guard::new(settings))),
            reload,
            connections: Connections::default(),
            listener: None,
        }
    }

    /// The endpoints for the connections of a listener at this address.
    pub fn at(&self, listener: &Address) -> Self {
        Admin {
            listener: Some(listener.clone()),
            ..self.clone()
        }
    }

    /// Uses these settings from now on.
    pub fn apply(&self, settings: &Settings) {
        *self.guard.write() = Guard::new(settings);
    }

    /// Whether this request may be answered.
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let guard = self.guard.read();
        guard.check(request, self.listener.as_ref())
    }

    /// Has the configuration read again, and waits for what comes of it.
    async fn reload(&self, peer: &str) -> Response<Vec<u8>> {
        let (answer, told) = oneshot::channel();
        let by = peer.to_owned();
        let result = match self.reload.send(Reload { by, answer }).await {
            Ok(()) => told.await.ok(),
            Err(_) => None,
        };
        let failed = |error| Reloaded::No {
            reloaded: false,
            error,
        };
        let (status, answer) = match result {
            Some(Ok(notes)) => {
                let reloaded = true;
                (StatusCode::OK, Reloaded::Yes { reloaded, notes })
            }
            Some(Err(error)) => (StatusCode::UNPROCESSABLE_ENTITY, failed(error)),
            None => {
                let error = "wsgate is ending".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, failed(error))
            }
        };
        json(&self::answer(status, &answer))
    }

    /// Answers a request that may be answered. `peer` is the requester, for the log.
    async fn serve(&self, request: &Request, body: &[u8], peer: &str) -> Response<Vec<u8>> {
        let (method, path) = (&request.method, request.path.as_str());
        if !request.is_api() {
            return self.answer(method, path);
        }
        if (method.as_str(), path) == ("POST", "/v1/reload") {
            return self.reload(peer).await;
        }
        let as_read = match *method {
            Method::HEAD => &Method::GET,
            _ => method,
        };
        let (drains, query) = (&self.drains, request.query.as_str());
        let of_connections = drains
            .answer_connections(as_read, path, query, body, peer)
            .await;
        match of_connections.or_else(|| drains.answer(as_read, path, body, peer)) {
            Some(answer) => json(&answer),
            None => {
                let error = format!("nothing is served here; {ENDPOINTS}");
                json(&failure(StatusCode::NOT_FOUND, &error))
            }
        }
    }

    fn readiness(&self) -> Response<Vec<u8>> {
        let unavailable = |sentence: &str| text(StatusCode::SERVICE_UNAVAILABLE, sentence);
        if !self.ready.load(Ordering::Relaxed) {
            return unavailable("not ready");
        }
        let without = match self.guard.read().ready_needs_servers {
            true => self.drains.upstreams_without_servers(),
            false => Vec::new(),
        };
        match without.as_slice() {
            [] => text(StatusCode::OK, "ready"),
            names => unavailable(&format!(
                "no server takes connections: {}",
                names.join(", ")
            )),
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Vec<u8>> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are served here",
            );
            response
                .headers_mut()
                .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => respond(
                StatusCode::OK,
                prometheus::TEXT_FORMAT,
                self.metrics.render(),
            ),
            "/healthz" => text(StatusCode::OK, "ok"),
            "/readyz" => self.readiness(),
            _ => text(StatusCode::NOT_FOUND, ENDPOINTS),
        }
    }
}

const ENDPOINTS: &str = "there are /metrics, /healthz, /readyz, /v1/status, /v1/connections, /v1/connections/ID/close, /v1/reload and /v1/upstreams/NAME/drain, deploy, resume and rebalance";

/// The answer that a request is refused.
fn refuse(refusal: &Refusal, is_api: bool) -> Response<Vec<u8>> {
    let Refusal { status, sentence } = refusal;
    let mut response = match is_api {
        true => json(&failure(*status, sentence)),
        false => text(*status, sentence),
    };
    if *status == StatusCode::UNAUTHORIZED {
        let bearer = header::HeaderValue::from_static("Bearer");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, bearer);
    }
    response
}

fn text(status: StatusCode, sentence: &str) -> Response<Vec<u8>> {
    respond(
        status,
        "text/plain; charset=utf-8",
        format!("{sentence}\n").into_bytes(),
    )
}

/// A status and a body in JSON.
type Answer = (StatusCode, serde_json::Value);

/// An answer with this body.
fn answer(status: StatusCode, body: &impl serde::Serialize) -> Answer {
    // The bodies are structs of numbers, texts and lists, which have no form that JSON lacks.
    let body = serde_json::to_value(body).unwrap_or_default();
    (status, body)
}

/// The answer to a request that is done.
fn ok(body: &impl serde::Serialize) -> Answer {
    answer(StatusCode::OK, body)
}

/// The answer to a request that is refused.
fn failure(status: StatusCode, error: &str) -> Answer {
    let error = error.to_owned();
    let failure = bodies::Failure {
        error,
        ..bodies::Failure::default()
    };
    answer(status, &failure)
}

fn bad_request(message: &str) -> Answer {
    failure(StatusCode::BAD_REQUEST, message)
}

fn json((status, answer): &Answer) -> Response<Vec<u8>> {
    respond(
        *status,
        "application/json",
        format!("{answer}\n").into_bytes(),
    )
}

fn respond(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(header::CONTENT_LENGTH, length.into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy;
    use crate::deploy::Control;

    fn admin(settings: &Settings, ready: Arc<AtomicBool>) -> Admin {
        let drains = Drains::new(
            Control::new(deploy::Settings::default(), Arc::default()),
            Arc::default(),
        );
        let (reload, _) = mpsc::channel(1);
        Admin::new(settings, Arc::new(Metrics::new()), ready, drains, reload)
    }

    #[test]
    fn every_endpoint_answers() {
        let ready = Arc::new(AtomicBool::new(false));
        let admin = admin(&Settings::default(), ready.clone());
        let status = |method: Method, path| admin.answer(&method, path).status().as_u16();
        assert_eq!(status(Method::GET, "/healthz"), 200);
        assert_eq!(status(Method::GET, "/readyz"), 503);
        ready.store(true, Ordering::Relaxed);
        assert_eq!(status(Method::GET, "/readyz"), 200);
        assert_eq!(status(Method::GET, "/"), 404);
        assert_eq!(status(Method::POST, "/metrics"), 405);
        let metrics = admin.answer(&Method::GET, "/metrics");
        assert_eq!(
            metrics.headers()[header::CONTENT_TYPE],
            "text/plain; version=0.0.4"
        );
        assert!(String::from_utf8_lossy(metrics.body()).contains("wsgate_build_info"));
    }
}
