//! A WebSocket from its upgrade request to the relay: the handshake with the server, the 101, the take-over of both
//! connections; what comes after that is `connection`'s.
//!
//! Nothing that a client sent behind its request reaches a server before the server's 101 was verified. A connection on
//! which an upgrade failed is never used again, on either side.

use super::Tables;
use super::access;
use super::answer::{Answer, Refused};
use super::asked::{Asked, Caller};
use super::balance::hash_key;
use super::clients::Admitted;
use super::connection::{Connection, place};
use super::exchange::{self, Answered, Switched};
use super::head::Head;
use super::headers;
use super::identity::Identity;
use super::permit::Permit;
use super::plain_head::{self, Malformed};
use super::table::{RouteState, Ticket};
use super::upstream::{Occupied, Unreachable};
use crate::deploy::Enrolled;
use crate::drain;
use crate::handshake::{self, Refusal};
use crate::metrics::Handshake;
use crate::relay::Relay;
use bytes::BytesMut;
use http::StatusCode;
use http::header;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// What became of a request that may mean to open a WebSocket.
pub(super) enum Served {
    /// It was answered, with a tunnel or with the reason why there is none. The connection is not there any more.
    Answered,
    /// It means nothing of the kind: it is given back, with its connection and what came behind its head.
    Plain(Stream, Head),
    /// Its head cannot be read, and it was not answered.
    Malformed(Stream, Malformed),
}

/// Answers a request that means to open a WebSocket. A tunnel takes the connection's permit with it.
pub(super) async fn serve(
    tables: &Tables,
    stream: Stream,
    mut head: Head,
    permit: &mut Option<Permit>,
) -> Served {
    let behind = head.split_behind();
    let mut head = head.bytes;
    let Some(asked) = Asked::parse(&head) else {
        return Box::pin(serve_unusual(tables, stream, head, behind, permit)).await;
    };
    if !handshake::is_attempt(&asked) {
        let len = head.len();
        head.unsplit(behind);
        return Served::Plain(stream, Head { bytes: head, len });
    }
    match attend(tables, asked, &Caller::of(&stream)).await {
        Ok(tunnel) => tunnel.open(stream, behind, permit).await,
        Err(refused) => {
            // What few requests come to is in a box of its own.
            let refusing = Box::pin(async {
                let session = session(stream, head).await?;
                tell(refused, session).await;
                Some(())
            });
            refusing.await;
        }
    }
    Served::Answered
}

/// [`serve`] for a head that Pingora has to read, or to refuse.
async fn serve_unusual(
    tables: &Tables,
    stream: Stream,
    head: BytesMut,
    behind: BytesMut,
    permit: &mut Option<Permit>,
) -> Served {
    let len = head.len();
    let mut head = Head { bytes: head, len };
    if let Err(malformed) = plain_head::examine(&mut head, &tables.current()).await {
        return Served::Malformed(stream, malformed);
    }
    let Some(session) = session(stream, head.bytes).await else {
        return Served::Answered;
    };
    let caller = Caller::of_session(&session);
    let asked = Asked::of(session.req_header());
    if !handshake::is_attempt(&asked) {
        let ServerSession::H1(session) = session else {
            return Served::Answered;
        };
        let mut head = BytesMut::from(session.get_headers_raw_bytes());
        let len = head.len();
        head.unsplit(behind);
        return Served::Plain(session.into_inner(), Head { bytes: head, len });
    }
    match (attend(tables, asked, &caller).await, session) {
        (Ok(tunnel), ServerSession::H1(session)) => {
            tunnel.open(session.into_inner(), behind, permit).await;
        }
        // Made of a connection of HTTP/1.
        (Ok(_), _) => {}
        (Err(refused), session) => tell(refused, session).await,
    }
    Served::Answered
}

/// Pingora's session of a request whose head was read, and which Pingora takes.
async fn session(stream: Stream, head: BytesMut) -> Option<ServerSession> {
    let mut session = ServerSession::new_http1(stream);
    session.set_pipelined_prefix(head);
    match session.read_request().await {
        Ok(true) => return Some(session),
        Ok(false) => {}
        Err(error) => {
            // Nothing is answered: what Pingora does not take has been answered before.
            tracing::warn!(%error, "a request that was found to be in order cannot be read");
            session.shutdown().await;
        }
    }
    None
}

/// Tells a client why it is refused.
async fn tell(refused: Refused, mut session: ServerSession) {
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
async fn attend(
    tables: &Tables,
    mut asked: Asked<'_>,
    caller: &Caller,
) -> Result<Box<Tunnel>, Refused> {
    let started = Instant::now();
    let (route, identity) = tables.current().route(&mut asked, caller)?;
    let negotiated = negotiate(&asked, caller, &route, identity, started).await;
    if let Err(refused) = &negotiated {
        count(&route, refused.counted, started);
    }
    negotiated
}

fn count(route: &RouteState, counted: Handshake, started: Instant) {
    route.terms.metrics.handshake(route.name(), counted);
    let answered = match counted {
        Handshake::Ok => true,
        Handshake::BadSwitch | Handshake::Unreachable | Handshake::TimedOut => false,
        // These say nothing of the servers.
        Handshake::BadRequest
        | Handshake::Forbidden
        | Handshake::Throttled
        | Handshake::Unchecked
        | Handshake::Full
        | Handshake::Held
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
async fn negotiate(
    asked: &Asked<'_>,
    caller: &Caller,
    route: &Arc<RouteState>,
    identity: Identity,
    started: Instant,
) -> Result<Box<Tunnel>, Refused> {
    let line = asked.line();
    let checked = handshake::check_request(&line.method, line.version, asked);
    let mut request = checked.map_err(|refusal| refuse(&refusal))?;
    request
        .offer(asked, route.settings.compression)
        .map_err(|refusal| refuse(&refusal))?;
    if !handshake::origin_is_allowed(&route.settings.allowed_origins, asked) {
        let sentence = "this origin may not open a WebSocket here";
        let answer = Answer::new(StatusCode::FORBIDDEN, sentence);
        return Err(answer.refusing(Handshake::Forbidden));
    }
    let admitted = route.admit_forwarded(&identity);
    let admitted = admitted.map_err(|full| full.answer().refusing(Handshake::Throttled))?;
    if route.everybody.lacks_memory() {
        let answer = Answer::unavailable("all memory for slow connections is taken");
        return Err(answer.refusing(Handshake::Full));
    }
    let ticket = Ticket::take(route).map_err(|full| full.refusing(Handshake::Full))?;
    let (settings, metrics) = (&route.settings, &route.terms.metrics);
    let vouched = access::admit(asked, caller, &settings.access, identity, metrics).await?;

    let connecting = Instant::now();
    let pool = &route.pool;
    let key = hash_key(asked, identity.client, pool);
    let connected = pool.connect(key.as_deref(), metrics).await;
    let (socket, server) = connected.map_err(|unreachable| not_connected(&unreachable))?;
    let upstream_request = exchange::request(asked, caller, &request, settings, identity, &vouched);
    let upstream_request = upstream_request.map_err(|error| {
        tracing::debug!(%error, "a request cannot be passed on");
        let sentence = "what the request says, or the certificate, has no place in a header";
        Answer::new(StatusCode::BAD_REQUEST, sentence).refusing(Handshake::BadRequest)
    })?;
    // From here on it is one of those that a drain finds: one that begins while the server answers is not missed.
    let enrolled = route
        .control
        .enroll(place(route, &server), settings.max_age);
    if !pool.is_taking(&server) {
        // The drain began while the connection was made.
        let cause = if server.is_drained() {
            drain::Cause::Operator
        } else if server.has_left() {
            drain::Cause::Reload
        } else {
            drain::Cause::Health
        };
        enrolled.handle().drain(cause.label());
    }
    let exchange = exchange::exchange(socket, upstream_request, &request, settings);
    let (name, route_name) = (pool.name.as_str(), route.name());
    let limit = pool.members().settings.handshake_timeout;
    let answered = match timeout(limit, exchange).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(error)) => {
            pool.handle_failure(&server);
            tracing::warn!(route = route_name, upstream = name, server = %server.address, %error, "server did not answer the handshake");
            let sentence = "the server ended the connection instead of answering";
            let answer = Answer::new(StatusCode::BAD_GATEWAY, sentence);
            return Err(answer.refusing(Handshake::Unreachable));
        }
        Err(_) => {
            pool.handle_failure(&server);
            tracing::warn!(route = route_name, upstream = name, server = %server.address, "server did not answer the handshake in time");
            return Err(timed_out().refusing(Handshake::TimedOut));
        }
    };
    metrics.upstream_answered(connecting.elapsed());
    let mut switched = match answered {
        Answered::Switched(switched) => switched,
        Answered::Bad(bad) => {
            pool.handle_failure(&server);
            tracing::warn!(route = route_name, upstream = name, server = %server.address, %bad, "server's handshake is wrong");
            let sentence = format!("the server's handshake is wrong: {bad}");
            let answer = Answer::new(StatusCode::BAD_GATEWAY, sentence);
            return Err(answer.refusing(Handshake::BadSwitch));
        }
        Answered::Otherwise(mut head, session) => {
            if head.status.is_server_error() {
                pool.handle_failure(&server);
            } else {
                server.handle_success();
            }
            headers::end_hop(&mut head);
            let limit = pool.members().settings.read_timeout;
            return Err(Refused::by_server(head, session, limit));
        }
    };
    server.handle_success();
    let protocol = switched.agreed.protocol.take();
    Ok(Box::new(Tunnel {
        enrolled,
        ticket,
        admitted,
        client: identity
            .client
            .filter(|client| Some(*client) != identity.peer),
        server,
        protocol: protocol.map(String::into_boxed_str),
        switched,
        asked: started,
    }))
}

/// Both halves of the handshake are done but for what the client is told.
struct Tunnel {
    switched: Box<Switched>,
    enrolled: Enrolled,
    ticket: Ticket,
    /// The client behind a trusted proxy.
    admitted: Option<Box<Admitted>>,
    client: Option<IpAddr>,
    server: Occupied,
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
            client,
            behind,
            switched.socket,
            switched.behind,
        )
        .with_compression(switched.agreed.deflate);
        route.terms.metrics.connection_opened(route.name());
        tokio::spawn(connection.run(relay, self.enrolled));
        count(&route, Handshake::Ok, self.asked);
    }
}

/// What a request is answered that is no correct one.
pub(super) fn refuse(refusal: &Refusal) -> Refused {
    let mut answer = Answer::new(refusal.status(), refusal.to_string());
    if matches!(refusal, Refusal::OtherVersion | Refusal::MissingVersion) {
        // RFC 6455 §4.4.
        answer = answer.with(header::SEC_WEBSOCKET_VERSION, handshake::VERSION);
    }
    answer.refusing(Handshake::BadRequest)
}

fn not_connected(unreachable: &Unreachable) -> Refused {
    if unreachable.none_taking {
        Answer::unavailable("no server takes connections now").refusing(Handshake::Held)
    } else if unreachable.timed_out {
        timed_out().refusing(Handshake::TimedOut)
    } else if unreachable.exhausted {
        Answer::exhausted().refusing(Handshake::Full)
    } else {
        let answer = Answer::new(StatusCode::BAD_GATEWAY, "no server can be reached");
        answer.refusing(Handshake::Unreachable)
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
