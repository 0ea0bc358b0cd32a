//! The seat on Pingora; the only room that names its HTTP types.
//!
//! [`Gate`] takes the connections of the listeners and reads the head of each request; [`Seat`] is the
//! [`ProxyHttp`] that Pingora's proxy asks. A plain request takes Pingora's ordinary path to the same pools. An upgrade
//! request is answered in `request_filter` (`upgrade`): it has to leave Pingora's session, because body filters run
//! only when bytes arrive, and an idle connection could then never be told anything.

mod answer;
mod head;
mod router;
pub mod settings;
mod socket;
mod upgrade;
mod upstream;

pub use router::Router;
pub use upstream::Pool;

use crate::deploy::Control;
use crate::handshake;
use crate::metrics::Metrics;
use crate::relay::Terms;
use answer::Answer;
use async_trait::async_trait;
use head::NoHead;
use http::{StatusCode, Version, header};
use pingora::apps::{HttpServerApp, ServerApp};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, HttpProxy, ProxyHttp, Session};
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use settings::{Client, Route, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use upgrade::host_of;

/// Takes the connections of the listeners. Clones share everything.
#[derive(Clone)]
pub struct Gate {
    proxy: Arc<HttpProxy<Seat>>,
    client: Client,
}

impl Gate {
    /// A gate that obeys these settings, has `pools` by the number of their upstream, and counts in `metrics`.
    pub fn new(
        settings: &Settings,
        pools: &[Arc<Pool>],
        control: &Arc<Control>,
        metrics: &Arc<Metrics>,
        conf: &Arc<ServerConf>,
    ) -> Self {
        let seat = Seat::new(settings, pools, control, metrics);
        let mut proxy = HttpProxy::new(seat, conf.clone());
        proxy.handle_init_modules();
        Gate {
            proxy: Arc::new(proxy),
            client: settings.client.clone(),
        }
    }
}

#[async_trait]
impl ServerApp for Gate {
    async fn process_new(
        self: &Arc<Self>,
        mut stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let keepalive = self.client.keepalive_timeout;
        let mut idle = self.client.header_timeout;
        let mut persistent = None;
        loop {
            let mut stopping = shutdown.clone();
            let head = tokio::select! {
                biased;
                head = head::read(&mut stream, &self.client, idle) => head,
                // A connection without a request under way is not waited for.
                Ok(_) = stopping.wait_for(|stopping| *stopping) => Err(NoHead::Idle),
            };
            let head = match head {
                Ok(head) => head,
                Err(why) => {
                    head::refuse(stream, &why, &self.client).await;
                    return None;
                }
            };
            let mut session = ServerSession::new_http1(stream);
            match persistent.take() {
                Some(settings) => {
                    pingora::apps::HttpPersistentSettings::apply_to_session(settings, &mut session)
                }
                None => session.set_keepalive((!*shutdown.borrow()).then_some(keepalive.as_secs())),
            }
            session.set_pipelined_prefix(head);
            let reused = self.proxy.process_new_http(session, shutdown).await?;
            (stream, persistent) = reused.consume();
            idle = keepalive;
        }
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// What Pingora's proxy asks for each request.
pub struct Seat {
    router: Router,
    routes: Vec<Arc<RouteState>>,
}

/// A route at run time.
pub struct RouteState {
    settings: Route,
    terms: Arc<Terms>,
    pool: Arc<Pool>,
    control: Arc<Control>,
    open: AtomicUsize,
}

impl RouteState {
    fn name(&self) -> &str {
        &self.terms.route
    }
}

/// A WebSocket connection counts against its route as long as this lives.
struct Ticket {
    route: Arc<RouteState>,
}

impl Ticket {
    /// `None` where the route has all that it may have.
    fn take(route: &Arc<RouteState>) -> Option<Ticket> {
        let max = route.settings.max_connections;
        let ticket = Ticket {
            route: route.clone(),
        };
        // Dropping the ticket gives the place back.
        let before = route.open.fetch_add(1, Ordering::Relaxed);
        (max == 0 || before < max).then_some(ticket)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.route.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Seat {
    fn new(
        settings: &Settings,
        pools: &[Arc<Pool>],
        control: &Arc<Control>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let state = |route: &Route| {
            metrics.add_route(&route.name);
            let terms = Terms {
                route: route.name.clone(),
                rules: route.rules,
                closing: route.closing.clone(),
                metrics: metrics.clone(),
            };
            Arc::new(RouteState {
                settings: route.clone(),
                terms: Arc::new(terms),
                pool: pools[route.upstream].clone(),
                control: control.clone(),
                open: AtomicUsize::new(0),
            })
        };
        Seat {
            router: Router::new(&settings.routes),
            routes: settings.routes.iter().map(state).collect(),
        }
    }

    fn route_of(&self, request: &RequestHeader) -> Option<&Arc<RouteState>> {
        let route = self.router.find(host_of(request), request.uri.path())?;
        self.routes.get(route)
    }
}

/// What is remembered of a plain request between Pingora's calls.
#[derive(Default)]
pub struct Plain {
    route: Option<Arc<RouteState>>,
    /// Servers of the pool, by index, in the order in which they are tried.
    candidates: Vec<usize>,
    tried: usize,
}

#[async_trait]
impl ProxyHttp for Seat {
    type CTX = Plain;

    fn new_ctx(&self) -> Plain {
        Plain::default()
    }

    async fn request_filter(&self, session: &mut Session, plain: &mut Plain) -> Result<bool> {
        let head = session.req_header();
        if head.version == Version::HTTP_11 && !head.headers.contains_key(header::HOST) {
            // RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code".
            let sentence = "the Host header is missing";
            Answer::new(StatusCode::BAD_REQUEST, sentence)
                .write(session)
                .await?;
            return Ok(true);
        }
        let Some(route) = self.route_of(session.req_header()) else {
            Answer::new(StatusCode::NOT_FOUND, "no route for this host and path")
                .write(session)
                .await?;
            return Ok(true);
        };
        if handshake::is_attempt(&session.req_header().headers) {
            upgrade::serve(session, route).await?;
            return Ok(true);
        }
        plain.candidates = route.pool.candidates().collect();
        plain.route = Some(route.clone());
        Ok(false)
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        plain: &mut Plain,
    ) -> Result<Box<HttpPeer>> {
        let (Some(route), Some(&index)) = (&plain.route, plain.candidates.get(plain.tried)) else {
            return Err(Error::explain(
                ErrorType::ConnectError,
                "no server is left to try",
            ));
        };
        match route.pool.peer(&route.pool.settings.servers[index]).await {
            Ok(peer) => Ok(Box::new(peer)),
            Err(mut error) => {
                plain.tried += 1;
                error.set_retry(plain.tried < plain.candidates.len());
                Err(error.into_up())
            }
        }
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        plain: &mut Plain,
        mut error: Box<Error>,
    ) -> Box<Error> {
        plain.tried += 1;
        error.set_retry(plain.tried < plain.candidates.len());
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _plain: &mut Plain,
    ) -> Result<()> {
        let client = session
            .client_addr()
            .and_then(|address| address.as_inet())
            .map(|address| address.ip());
        answer::forwarded(request, client)
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        _plain: &mut Plain,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 9110 §15.2.2: only in answer to an Upgrade, and this request had none. Passed on, it would make the client
            // and whatever stands before it believe in a tunnel that is none.
            let error = Error::explain(ErrorType::InvalidHTTPHeader, "a 101 that nobody asked for");
            return Err(error.into_up());
        }
        for name in handshake::hop_by_hop(&response.headers) {
            response.remove_header(&name);
        }
        Ok(())
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        _plain: &mut Plain,
    ) -> FailToProxy {
        let timed_out = matches!(
            error.etype(),
            ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout
        );
        let (status, sentence) = match (error.etype(), error.esource()) {
            (ErrorType::HTTPStatus(code), _) => {
                let status =
                    StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                (status, status.canonical_reason().unwrap_or("error"))
            }
            (_, ErrorSource::Upstream) if timed_out => {
                (StatusCode::GATEWAY_TIMEOUT, "no server answered in time")
            }
            (ErrorType::InvalidHTTPHeader, ErrorSource::Upstream) => {
                (StatusCode::BAD_GATEWAY, "the server's answer is malformed")
            }
            (_, ErrorSource::Upstream) => (StatusCode::BAD_GATEWAY, "no server can be reached"),
            // Nobody is there to be told.
            (
                ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed,
                ErrorSource::Downstream,
            ) => {
                return FailToProxy {
                    error_code: 0,
                    can_reuse_downstream: false,
                };
            }
            (_, ErrorSource::Downstream) => (StatusCode::BAD_REQUEST, "the request is malformed"),
            (_, ErrorSource::Internal | ErrorSource::Unset) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the gateway failed to handle the request",
            ),
        };
        if session.response_written().is_none()
            && let Err(error) = Answer::new(status, sentence).write(session).await
        {
            tracing::debug!(%error, "client left before it was answered");
        }
        FailToProxy {
            error_code: status.as_u16(),
            can_reuse_downstream: false,
        }
    }
}
