//! A WebSocket from its upgrade request to the relay: the handshake with the server, the 101, the take-over of both
//! connections; what comes after that is `connection`'s.
//!
//! Nothing that a client sent behind its request reaches a server before the server's 101 was verified. A connection on
//! which an upgrade failed is never used again, on either side.

pub(crate) mod access;
pub(crate) mod connection;
pub(crate) mod refusal;
pub(crate) mod server_close;
pub(crate) mod server_handshake;

use crate::deploy::Enrolled;
use crate::drain;
use crate::duration::Shown;
use crate::edge::client::identity::{ClientAddress, Identity};
use crate::edge::client::permit::Permit;
use crate::edge::http::answer::{Answer, Refused};
use crate::edge::http::error_text::words;
use crate::edge::http::head::Head;
use crate::edge::http::headers;
use crate::edge::http::request_head::HeadError;
use crate::edge::http::transfer::WRITE_TIMEOUT;
use crate::edge::http::upgrade_request::{Downstream, UpgradeRequest};
use crate::edge::route::hash_key::hash_key;
use crate::edge::route::table::Tables;
use crate::edge::route::table::{RoutePermit, RouteState};
use crate::edge::upgrade::connection::{Connection, client_network, place};
use crate::edge::upgrade::refusal::About;
use crate::edge::upgrade::server_handshake::{Switched, UpstreamResponse};
use crate::handshake;
use crate::handshake::{Fields, Refusal, Violation};
use crate::limit::clients::AddressPermit;
use crate::log::Excerpt;
use crate::metrics::{Handshake, Reason};
use crate::relay::Relay;
use crate::upstream::{ClientNetwork, EjectionReason, ServerPermit, Unreachable};
use bytes::BytesMut;
use http::StatusCode;
use http::header;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::server::HttpSession;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// What became of a request that may mean to open a WebSocket.
pub(crate) enum Served {
    /// It was answered, with a tunnel or with the reason why there is none. The connection is not there any more.
    UpstreamResponse,
    /// It means nothing of the kind: it is given back, with its connection and what came behind its head.
    Plain(Stream, Head),
    /// Its head cannot be read, and it was not answered.
    Malformed(Stream, HeadError),
}

/// Answers a request that means to open a WebSocket. A tunnel takes the connection's permit with it.
pub(crate) async fn serve(
    tables: &Tables,
    stream: Stream,
    mut head: Head,
    permit: &mut Option<Permit>,
) -> Served {
    let behind = head.split_behind();
    let mut head = head.bytes;
    let asked = match UpgradeRequest::parse(&head) {
        Ok(asked) => asked,
        Err(error) => return Served::Malformed(stream, error),
    };
    if !handshake::is_attempt(&asked) {
        let len = head.len();
        head.unsplit(behind);
        return Served::Plain(stream, Head { bytes: head, len });
    }
    match handle_upgrade(tables, asked, &Downstream::of(&stream)).await {
        Ok(tunnel) => tunnel.open(stream, behind, permit).await,
        // What few requests come to is in a box of its own.
        Err(refused) => Box::pin(refuse_on(stream, head, refused)).await,
    }
    Served::UpstreamResponse
}

/// Tells a client why its request is refused.
async fn refuse_on(stream: Stream, head: BytesMut, refused: Refused) {
    // Pingora reads the head anew, for a session that can answer it. It does not take every target that is served here.
    let session = match session(stream, head).await {
        Ok(session) => Some(session),
        Err(stream) => {
            let plain = BytesMut::from(&b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"[..]);
            session(stream, plain).await.ok()
        }
    };
    if let Some(session) = session {
        write_response(refused, session).await;
    }
}

/// Pingora's session of a request whose head was read.
///
/// # Errors
/// Pingora refuses the head; the connection is given back.
async fn session(stream: Stream, head: BytesMut) -> Result<ServerSession, Stream> {
    let mut session = HttpSession::new(stream);
    session.set_pipelined_prefix(head);
    match session.read_request().await {
        Ok(_) => Ok(ServerSession::H1(session)),
        Err(error) => {
            tracing::debug!(%error, "Pingora does not take the head of a request");
            Err(session.into_inner())
        }
    }
}

/// Tells a client why it is refused.
async fn write_response(refused: Refused, mut session: ServerSession) {
    // A server's own answer may be long. Each piece of it has so much time.
    session.set_write_timeout(Some(WRITE_TIMEOUT));
    let telling = async {
        refused.write(&mut session).await?;
        session.finish().await.map(drop)
    };
    if let Err(error) = telling.await {
        tracing::debug!(%error, "client left before it was answered");
    }
}

/// Brings a request before a server, and counts what came of it unless it is to become a tunnel.
///
/// # Errors
/// Why there is none.
async fn handle_upgrade(
    tables: &Tables,
    mut asked: UpgradeRequest<'_>,
    caller: &Downstream,
) -> Result<Box<Tunnel>, Refused> {
    let started = Instant::now();
    let table = tables.current();
    let (route, identity) = table.route(&mut asked, caller).inspect_err(|refused| {
        let client = table.client(&asked, caller);
        refusal::report(&table.metrics, refused, &About::new(&asked, None, client));
    })?;
    drop(table);
    let negotiated = connect_upstream(&asked, caller, &route, identity, started).await;
    negotiated.map_err(|refused| {
        let about = About::new(&asked, Some(route.name()), identity.client);
        refusal::report(&route.terms.metrics, &refused, &about);
        note(&route, refused.reason.result(), started);
        refused.under(Some(&route.settings.headers[1]))
    })
}

fn count(route: &RouteState, counted: Handshake, started: Instant) {
    route.terms.metrics.handshake(route.name(), counted);
    note(route, counted, started);
}

/// Tells the drains how long servers take for their handshakes.
fn note(route: &RouteState, counted: Handshake, started: Instant) {
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
        | Handshake::Abandoned => return,
    };
    let pool = &route.pool;
    let took = started.elapsed();
    route
        .control
        .handle_upgrade(pool.index, &pool.name, took, answered);
}

/// Brings the request before a server.
///
/// # Errors
/// Why there is no tunnel.
async fn connect_upstream(
    asked: &UpgradeRequest<'_>,
    caller: &Downstream,
    route: &Arc<RouteState>,
    identity: Identity,
    started: Instant,
) -> Result<Box<Tunnel>, Refused> {
    let line = asked.line();
    let strictness = server_handshake::strictness(&route.settings);
    let checked = handshake::check_request(&line.method, line.version, asked, strictness);
    let mut request = checked.map_err(|refusal| refuse(&refusal))?;
    if !handshake::origin_is_allowed(&route.settings.allowed_origins, asked) {
        let sentence = "this origin may not open a WebSocket here";
        let answer = Answer::new(StatusCode::FORBIDDEN, sentence);
        let origin = asked.lines(header::ORIGIN).next().unwrap_or_default();
        // Between quotes, as the fields of a line are: what is in it is no field.
        let detail = format!("it is \"{}\"", Excerpt(origin, 100));
        return Err(answer.refusing(Reason::Origin).because(detail));
    }
    request
        .offer(asked, route.settings.compression)
        .map_err(|refusal| refuse(&refusal))?;
    let admitted = route.admit_forwarded(&identity);
    let admitted = admitted.map_err(|full| full.answer().refusing(Reason::AddressLimit))?;
    if route.everybody.lacks_memory() {
        let answer = Answer::unavailable("all memory for slow connections is taken");
        return Err(answer.refusing(Reason::Memory));
    }
    let ticket = RoutePermit::take(route)?;
    let (settings, metrics) = (&route.settings, &route.terms.metrics);
    let vouched = access::admit(asked, caller, &settings.access, identity, metrics).await?;

    let connecting = Instant::now();
    let pool = &route.pool;
    let key = hash_key(asked, identity.client.known(), pool);
    let connected = pool.connect(key.as_deref(), metrics).await;
    let (socket, server) = connected.map_err(|unreachable| not_connected(&unreachable))?;
    let upstream_request =
        server_handshake::request(asked, caller, &request, settings, identity, &vouched);
    let upstream_request = upstream_request.map_err(|error| {
        tracing::debug!(%error, "a request cannot be passed on");
        let sentence = "what the request says, or the certificate, has no place in a header";
        Answer::new(StatusCode::BAD_REQUEST, sentence).refusing(Reason::Unsendable)
    })?;
    observe(route, request.violations());
    // From here on it is one of those that a drain finds: one that begins while the server answers is not missed.
    let enrolled = route
        .control
        .enroll(place(route, &server), settings.max_age);
    if !pool.is_taking(&server) {
        // The drain began while the connection was made.
        let cause = if server.is_drained() {
            drain::Cause::Operator
        } else {
            server.left_by().unwrap_or(drain::Cause::Health)
        };
        enrolled.handle().drain(cause.label());
    }
    let exchange = server_handshake::exchange(socket, upstream_request, &request, settings);
    let at = || format!("server {} of upstream {}", server.address, pool.name);
    let whose = client_network(route, identity.client.known());
    let failed = |reason| {
        pool.handle_failure(server.server(), reason, whose, connecting, metrics);
    };
    let limit = pool.members().settings.handshake_timeout;
    let answered = match timeout(limit, exchange).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(error)) => {
            failed(EjectionReason::NoAnswer);
            let sentence = "the server ended the connection instead of answering";
            let answer = Answer::new(StatusCode::BAD_GATEWAY, sentence);
            let detail = format!("{}: {}", at(), words(&error));
            return Err(answer.refusing(Reason::NoAnswer).because(detail));
        }
        Err(_) => {
            // The client may have asked for something slow.
            server.handle_doubt();
            let detail = format!("{}, after {}", at(), Shown(limit));
            return Err(timed_out().refusing(Reason::AnswerTimedOut).because(detail));
        }
    };
    metrics.upstream_answered(connecting.elapsed());
    let mut switched = match answered {
        UpstreamResponse::Switched(switched) => switched,
        UpstreamResponse::Bad(bad) => {
            server.handle_doubt();
            let sentence = format!("the server's handshake is wrong: {bad}");
            let answer = Answer::new(StatusCode::BAD_GATEWAY, sentence);
            return Err(answer
                .refusing(Reason::InvalidUpgradeResponse)
                .because(at()));
        }
        UpstreamResponse::Otherwise(mut head, session) => {
            match head.status {
                StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => failed(EjectionReason::GatewayError),
                // A client can have it at will, by asking for what crashes.
                status if status.is_server_error() => {}
                _ => server.handle_answer(whose),
            }
            headers::end_hop(&mut head);
            let limit = pool.members().settings.read_timeout;
            return Err(Refused::by_server(head, session, limit).because(at()));
        }
    };
    observe(route, switched.agreed.violation.as_slice());
    let protocol = switched.agreed.protocol.take();
    Ok(Box::new(Tunnel {
        enrolled,
        ticket,
        admitted,
        client: identity.behind_peer(),
        whose,
        server,
        protocol: protocol.map(String::into_boxed_str),
        switched,
        asked: started,
    }))
}

/// Counts and logs rules of the handshake that are broken and passed on.
fn observe(route: &RouteState, violations: &[Violation]) {
    for violation in violations {
        let (side, kind) = (violation.side().label(), violation.label());
        route.terms.metrics.handshake_violation(side, kind);
        tracing::warn!(route = route.name(), side, kind, %violation, "handshake violation observed");
    }
}

/// Both halves of the handshake are done but for what the client is told.
struct Tunnel {
    switched: Box<Switched>,
    enrolled: Enrolled,
    ticket: RoutePermit,
    /// The client behind a trusted proxy.
    admitted: Option<Box<AddressPermit>>,
    client: Option<ClientAddress>,
    /// By which failures of one client are told from those of several.
    whose: ClientNetwork,
    server: ServerPermit,
    protocol: Option<Box<str>>,
    asked: Instant,
}

impl Tunnel {
    /// Tells the client, and begins to relay; `behind` came behind its request.
    async fn open(
        self: Box<Self>,
        mut client: Stream,
        behind: BytesMut,
        permit: &mut Option<Permit>,
    ) {
        let switched = *self.switched;
        let writing = async {
            client.write_all(&switched.head).await?;
            client.flush().await
        };
        let written = writing.await;
        let route = self.ticket.route.clone();
        if let Err(error) = written {
            tracing::debug!(route = route.name(), %error, "client left during the handshake");
            self.server.handle_answer(self.whose);
            count(&route, Handshake::Abandoned, self.asked);
            return;
        }
        let Some(permit) = permit.take() else {
            // Each connection has one until it is a tunnel.
            return;
        };
        let connection = Connection {
            permit: permit.into_tunnel(self.ticket, self.admitted),
            client: self.client,
            server: self.server,
            protocol: self.protocol,
            started: Instant::now(),
        };
        let relay = Relay::new(
            route.terms.clone(),
            self.enrolled.handle().clone(),
            switched.agreed.deflate,
            (client, behind),
            (switched.socket, switched.behind),
        );
        route.terms.metrics.connection_opened(route.name());
        connection
            .server
            .handle_open(self.whose, connection.started);
        tokio::spawn(connection.run(relay, self.enrolled));
        count(&route, Handshake::Ok, self.asked);
    }
}

/// What a request is answered that is no correct one.
pub(crate) fn refuse(refusal: &Refusal) -> Refused {
    let mut answer = Answer::new(refusal.status(), refusal.to_string());
    if matches!(refusal, Refusal::OtherVersion | Refusal::MissingVersion) {
        // RFC 6455 §4.4.
        answer = answer.with(header::SEC_WEBSOCKET_VERSION, handshake::VERSION);
    }
    answer.refusing(refusal::reason(refusal))
}

fn not_connected(unreachable: &Unreachable) -> Refused {
    if unreachable.none_taking {
        Answer::unavailable("no server takes connections now").refusing(Reason::NoServer)
    } else if unreachable.exhausted {
        Answer::exhausted().refusing(Reason::Exhausted)
    } else if unreachable.timed_out {
        timed_out().refusing(Reason::ConnectTimedOut)
    } else {
        let answer = Answer::new(StatusCode::BAD_GATEWAY, "no server can be reached");
        answer.refusing(Reason::Unreachable)
    }
}

fn timed_out() -> Answer {
    Answer::new(StatusCode::GATEWAY_TIMEOUT, "no server answered in time")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A herd is as many requests under way at once.
    #[test]
    fn a_request_takes_little_room() {
        type Held = Option<Permit>;
        fn size<'a, F>(_: impl FnOnce(&'a Tables, Stream, Head, &'a mut Held) -> F) -> usize {
            size_of::<F>()
        }
        // What few requests come to is in boxes of its own: answers of ours, the access service, TLS to servers.
        assert!(size(serve) <= 3 << 10, "{}", size(serve));
    }
}
