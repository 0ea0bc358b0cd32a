//! The stages of an upgrade request: route and identity, handshake, permits, access, the request for the server, the connect,
//! the exchange of handshakes, the verification of the server's answer. `upgrade` calls them in this order.
//!
//! Cheap checks stand before expensive steps: no permit is taken for a malformed handshake, the access service is
//! asked only for a request that has its permits, and no server is connected to for a request that the access service refuses.

use crate::admission::limit::HandshakeEnd;
use crate::deploy::Enrolled;
use crate::drain;
use crate::duration::Shown;
use crate::edge::client::identity;
use crate::edge::client::identity::Identity;
use crate::edge::client::request_id;
use crate::edge::http::answer::{Answer, Refused};
use crate::edge::http::client_request::{ClientRequest, Downstream};
use crate::edge::http::headers;
use crate::edge::http::headers::AuthHeaders;
use crate::edge::route::hash_key::hash_key;
use crate::edge::route::sticky_cookie::set_cookie;
use crate::edge::route::table::{RoutePermit, RouteState, Tables};
use crate::edge::upgrade::access;
use crate::edge::upgrade::connection::{client_network, place};
use crate::edge::upgrade::hand_over::Tunnel;
use crate::edge::upgrade::refusal;
use crate::edge::upgrade::refusal::RefusedRequest;
use crate::edge::upgrade::server_handshake;
use crate::edge::upgrade::server_handshake::{Switched, UpstreamResponse};
use crate::handshake;
use crate::handshake::{Fields, Violation};
use crate::limit::clients::AddressPermit;
use crate::log::Excerpt;
use crate::metrics::{Handshake, Reason};
use crate::relay::Buffers;
use crate::transport::error_text::words;
use crate::upstream::{ClientNetwork, Connected, EjectionReason, ServerLeg, ServerPermit, Wish};
use bytes::BytesMut;
use http::{StatusCode, header};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout;

/// An upgrade request whose route is known. Every stage reads it.
pub(crate) struct Attempt<'a> {
    request: ClientRequest<'a>,
    downstream: &'a Downstream,
    route: Arc<RouteState>,
    identity: Identity,
    /// Accepted or made, where requests have one.
    request_id: Option<String>,
    /// When the request was complete.
    began: Instant,
}

/// The permits of an upgrade: those of its client's address and of its route. Dropping them gives them back.
pub(crate) struct Permits {
    pub route: RoutePermit,
    /// `None` where the connection of the client is counted itself, or where addresses have no limits.
    pub address: Option<Box<AddressPermit>>,
}

/// A server that answered the handshake with a 101 which is right.
pub(crate) struct Answered {
    switched: Box<Switched>,
    server: ServerPermit,
    /// The connection in the roster of the drains.
    enrolled: Enrolled,
}

/// A server's answer that is none, or is a refusal.
pub(crate) struct ExchangeFailure {
    pub refused: Refused,
    /// The connection ended before one byte of an answer came.
    pub is_silent: bool,
    /// The connection was one of HTTP/2 that was there before: the same server may take the request on another one.
    pub is_stale: bool,
}

impl From<Refused> for ExchangeFailure {
    fn from(refused: Refused) -> Self {
        ExchangeFailure {
            refused,
            is_silent: false,
            is_stale: false,
        }
    }
}

impl<'a> Attempt<'a> {
    /// Finds the route of the request, and who the client is.
    ///
    /// # Errors
    /// There is no route, or the request does not say which; counted and logged.
    pub(super) fn find_route(
        tables: &Tables,
        mut request: ClientRequest<'a>,
        downstream: &'a Downstream,
    ) -> Result<Self, Refused> {
        let began = Instant::now();
        let table = tables.current();
        let found = table.route(&mut request, downstream);
        let (route, identity) = found.inspect_err(|refused| {
            let client = table.client(&request, downstream);
            refusal::report(
                &table.metrics,
                refused,
                &RefusedRequest::new(&request, None, client),
            );
        })?;
        Ok(Attempt {
            request_id: request_id::of(&request, downstream.peer, &table.client),
            request,
            downstream,
            route,
            identity,
            began,
        })
    }

    /// The request came over TLS, if the route wants that.
    ///
    /// # Errors
    /// 308 or 400.
    pub(super) fn check_scheme(&self) -> Result<(), Refused> {
        self.route
            .check_scheme(&self.request, self.identity, self.downstream)
    }

    /// The request is a handshake of RFC 6455 §4.2.1, from an origin that the route allows.
    ///
    /// # Errors
    /// 400, 403, 405 or 426.
    pub(super) fn check_handshake(&self) -> Result<handshake::Request, Refused> {
        let (request, settings) = (&self.request, &self.route.settings);
        let line = request.line();
        let strictness = server_handshake::strictness(settings);
        let checked = handshake::check_request(&line.method, line.version, request, strictness);
        let mut checked = checked.map_err(|wrong| refusal::of_handshake(&wrong))?;
        if !handshake::origin::is_allowed(&settings.allowed_origins, request) {
            let sentence = "this origin may not open a WebSocket here";
            let answer = Answer::new(StatusCode::FORBIDDEN, sentence);
            let origin = request.lines(header::ORIGIN).next().unwrap_or_default();
            // In quotes: text of the client must not look like a field of the log line.
            let detail = format!("it is \"{}\"", Excerpt(origin, 100));
            return Err(answer.refusing(Reason::Origin).because(detail));
        }
        let offered = checked.offer(request, settings.compression);
        offered.map_err(|wrong| refusal::of_handshake(&wrong))?;
        Ok(checked)
    }

    /// Counts the upgrade against its client's address, the memory of all connections, and its route.
    ///
    /// # Errors
    /// 429 or 503 with Retry-After.
    pub(super) fn take_permits(&self) -> Result<Permits, Refused> {
        let route = &self.route;
        let address = route.admit_forwarded(&self.identity);
        let address = address.map_err(|full| full.answer().refusing(Reason::AddressLimit))?;
        if route.global_limits.lacks_memory() {
            let answer = Answer::unavailable(refusal::NO_MEMORY);
            return Err(answer.refusing(Reason::Memory));
        }
        Ok(Permits {
            route: RoutePermit::take(route)?,
            address,
        })
    }

    /// The route serves this client: by its address, its certificate, and the access service.
    ///
    /// # Errors
    /// 403, the access service's own answer, or 503 where the service fails.
    pub(super) async fn check_access(&self) -> Result<AuthHeaders, Refused> {
        let (access, metrics) = (&self.route.settings.access, &self.route.context.metrics);
        access::admit(
            &self.request,
            self.downstream,
            access,
            self.identity,
            metrics,
        )
        .await
    }

    /// The request head that a server gets.
    ///
    /// # Errors
    /// 400 where the target or the certificate's subject holds characters that cannot be sent to a server.
    pub(super) fn write_request(
        &self,
        checked: &handshake::Request,
        auth_headers: &AuthHeaders,
    ) -> Result<BytesMut, Refused> {
        let head = server_handshake::request(
            &self.request,
            self.downstream,
            checked,
            &self.route.settings,
            self.identity,
            auth_headers,
            self.route
                .client
                .request_id
                .as_ref()
                .zip(self.request_id.as_deref()),
        );
        let head = head.map_err(|error| {
            tracing::debug!(%error, "a request cannot be passed on");
            unsendable("")
        })?;
        Ok(head)
    }

    /// Another server than this one takes connections.
    pub(super) fn has_another(&self, server: u32) -> bool {
        let candidates = self.route.pool.candidates(None);
        candidates
            .iter()
            .any(|candidate| candidate.number != server)
    }

    /// A connection to a server of the route's upstream, but not to `avoid`. Where the upgrade has to wait for one, the wait ends
    /// with the client's connection (`client_left`).
    ///
    /// # Errors
    /// 502, 503 or 504.
    pub(super) async fn connect(
        &self,
        avoid: Option<u32>,
        client_left: Pin<&mut (dyn Future<Output = ()> + Send)>,
    ) -> Result<Box<Connected>, Refused> {
        let (pool, metrics) = (&self.route.pool, &self.route.context.metrics);
        let key = hash_key(&self.request, self.identity.client.known(), pool);
        let buffers = &self.route.context.buffers;
        let reserve = || Buffers::reserve(buffers, QUEUED_UPGRADE + self.request.size());
        let wish = Wish {
            key: key.as_deref(),
            avoid,
            network: self.network(),
            reserve: &reserve,
        };
        let connected = pool.connect(&wish, metrics, client_left).await;
        connected.map_err(|unreachable| refusal::not_connected(&unreachable))
    }

    /// Sends the request and reads the server's answer.
    ///
    /// # Errors
    /// 502 or 504 where there is no answer, or a wrong one; otherwise the server's own answer.
    pub(super) async fn exchange(
        &self,
        checked: &handshake::Request,
        request_head: BytesMut,
        connected: Box<Connected>,
    ) -> Result<Answered, ExchangeFailure> {
        let Connected {
            leg,
            server,
            handshake,
            began,
        } = *connected;
        let (pool, metrics) = (&self.route.pool, &self.route.context.metrics);
        let enrolled = self.enroll(&server);
        let settings = &self.route.settings;
        let exchange = async {
            match leg {
                ServerLeg::Socket(socket) => {
                    server_handshake::exchange(socket, request_head, checked, settings).await
                }
                ServerLeg::Http2(lease) => {
                    let exchange =
                        server_handshake::exchange_http2(lease, &request_head, checked, settings);
                    Box::pin(exchange).await
                }
            }
        };
        let at = || format!("server {} of upstream {}", server.address, pool.name);
        let failed = |reason| {
            pool.handle_failure(server.server(), reason, self.network(), began, metrics);
        };
        let limit = pool.members().settings.handshake_timeout;
        let answered = match timeout(limit, exchange).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) if error.is_unsendable => {
                return Err(unsendable(&words(&error.error)).into());
            }
            Ok(Err(error)) => {
                if !error.is_stale {
                    failed(EjectionReason::NoAnswer);
                    handshake.end(HandshakeEnd::Failed);
                }
                let sentence = "the server ended the connection instead of answering";
                let answer = Answer::new(StatusCode::BAD_GATEWAY, sentence);
                let detail = format!("{}: {}", at(), words(&error.error));
                return Err(ExchangeFailure {
                    refused: answer.refusing(Reason::NoAnswer).because(detail),
                    is_silent: error.is_silent,
                    is_stale: error.is_stale,
                });
            }
            Err(_) => {
                // The client may have asked for something slow; the handshake does not count as one under way for long.
                server.handle_doubt();
                let detail = format!("{}, after {}", at(), Shown(limit));
                let answer = refusal::timed_out();
                let refused = answer.refusing(Reason::AnswerTimedOut).because(detail);
                return Err(refused.into());
            }
        };
        server.answers().observe(began.elapsed());
        handshake.end(match &answered {
            UpstreamResponse::Otherwise(head, _) if is_gateway_error(head.status) => {
                HandshakeEnd::Failed
            }
            _ => HandshakeEnd::Answered,
        });
        let cookie = self.sticky_cookie(&server);
        match answered {
            UpstreamResponse::Switched(mut switched) => {
                if let Some(cookie) = cookie {
                    switched.add_header("Set-Cookie", &cookie);
                }
                Ok(Answered {
                    switched,
                    server,
                    enrolled,
                })
            }
            UpstreamResponse::Bad(bad) => {
                server.handle_doubt();
                let sentence = format!("the server's handshake is wrong: {bad}");
                let answer = Answer::new(StatusCode::BAD_GATEWAY, sentence);
                let refused = answer.refusing(Reason::InvalidUpgradeResponse);
                Err(refused.because(at()).into())
            }
            UpstreamResponse::Otherwise(mut head, session) => {
                match head.status {
                    status if is_gateway_error(status) => failed(EjectionReason::GatewayError),
                    // A client can cause any other 5xx at will, by a path whose handler crashes.
                    status if status.is_server_error() => {}
                    _ => server.handle_answer(self.network()),
                }
                headers::end_hop(&mut head);
                if let Some(cookie) = cookie {
                    // A name and a value of printable characters.
                    let _ = head.append_header("Set-Cookie", cookie);
                }
                let limit = pool.members().settings.read_timeout;
                let refused = Refused::by_server(head, session, limit);
                Err(refused.because(at()).into())
            }
        }
    }

    /// The cookie by which the client comes back to this server, where the upstream has one.
    fn sticky_cookie(&self, server: &ServerPermit) -> Option<String> {
        let pool = &self.route.pool;
        if !pool.is_sticky() {
            return None;
        }
        let known = hash_key(&self.request, self.identity.client.known(), pool);
        let scheme = identity::scheme(&self.request, self.identity, self.downstream);
        set_cookie(pool, server, known.as_deref(), scheme)
    }

    /// Puts the connection into the roster before the server has answered, so that a drain which begins meanwhile finds it.
    fn enroll(&self, server: &ServerPermit) -> Enrolled {
        let route = &self.route;
        let place = place(route, server);
        let enrolled = route.control.enroll(place, route.settings.max_age);
        if !route.pool.is_taking(server) {
            // The drain began while the connection was made.
            let cause = if server.is_drained() {
                drain::Cause::Operator
            } else {
                server.left_by().unwrap_or(drain::Cause::Health)
            };
            enrolled.handle().drain(cause);
        }
        enrolled
    }

    /// Both handshakes are done, but for the 101 that the client gets.
    pub(super) fn verify_answer(&self, answered: Answered, permits: Permits) -> Box<Tunnel> {
        let mut switched = answered.switched;
        self.observe(switched.agreed.violation.as_slice());
        let protocol = switched.agreed.protocol.take();
        let pool = &self.route.pool;
        let key = hash_key(&self.request, self.identity.client.known(), pool);
        Box::new(Tunnel {
            key: key.filter(|key| key.len() <= LONGEST_KEY && !pool.is_sticky()),
            enrolled: answered.enrolled,
            permits,
            client: self.identity.behind_peer(),
            network: self.network(),
            server: answered.server,
            details: self.request.details(
                self.route.client.log.fields,
                self.request_id.as_deref(),
                protocol.as_deref(),
            ),
            switched,
            began: self.began,
        })
    }

    /// Counts and logs a refusal. The answer takes the header rules of the route.
    pub(super) fn refuse(&self, refused: Refused) -> Refused {
        let route = &self.route;
        let mut about =
            RefusedRequest::new(&self.request, Some(route.name()), self.identity.client);
        about.request_id = self.request_id.as_deref();
        refusal::report(&route.context.metrics, &refused, &about);
        note_handshake(route, refused.reason.result(), self.began);
        refused.under(Some(&route.settings.headers[1]))
    }

    /// The network of the client's address, by which failures of one client are told from those of several.
    fn network(&self) -> ClientNetwork {
        client_network(&self.route, self.identity.client.known())
    }

    /// Counts and logs rules of the handshake that are broken and passed on (`mode = "observe"`).
    pub(super) fn observe(&self, violations: &[Violation]) {
        let (metrics, route) = (&self.route.context.metrics, self.route.name());
        for violation in violations {
            let (side, kind) = (violation.side().label(), violation.label());
            metrics.handshake_violation(route, *violation);
            let (client, id) = (self.identity.client, self.request_id.as_deref());
            tracing::warn!(route, side, kind, %client, request_id = id, %violation, "handshake violation observed");
        }
    }
}

/// Memory of an upgrade that waits for a server, without its head, in bytes: its task and connection, and the
/// [early bytes](super::MOST_EARLY) of its client.
const QUEUED_UPGRADE: usize = 4096 + super::MOST_EARLY;

/// Longest key that is kept with a connection, in bytes: a connection whose key is longer is not moved when its upstream is
/// rebalanced.
const LONGEST_KEY: usize = 256;

/// The answer to a request that cannot be passed on.
fn unsendable(detail: &str) -> Refused {
    let sentence = "the request target, or the client certificate's subject, holds characters that cannot be sent to a server";
    let answer = Answer::new(StatusCode::BAD_REQUEST, sentence);
    answer.refusing(Reason::Unsendable).because(detail)
}

/// A status by which a server, or a proxy before it, says that it cannot take the request now.
fn is_gateway_error(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Tells the drains how long servers take for their handshakes.
pub(crate) fn note_handshake(route: &RouteState, counted: Handshake, started: Instant) {
    let answered = match counted {
        Handshake::Ok => true,
        Handshake::InvalidUpgradeResponse | Handshake::Unreachable | Handshake::TimedOut => false,
        // These say nothing of the servers.
        Handshake::BadRequest
        | Handshake::Forbidden
        | Handshake::Throttled
        | Handshake::Unchecked
        | Handshake::Full
        | Handshake::QueueTimeout
        | Handshake::Declined
        | Handshake::Abandoned
        | Handshake::Internal => return,
    };
    let pool = &route.pool;
    let took = started.elapsed();
    route
        .control
        .handle_upgrade(pool.index, &pool.name, took, answered);
}
