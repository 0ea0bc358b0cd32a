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
use super::connection::{Connection, place};
use super::exchange::{self, Answered, Switched};
use super::head::Head;
use super::headers;
use super::identity::Identity;
use super::table::{Full, RouteState, Ticket};
use super::transfer::WRITE_TIMEOUT;
use super::upstream::Unreachable;
use crate::deploy::Enrolled;
use crate::drain;
use crate::handshake::{self, Refusal};
use crate::metrics::Handshake;
use crate::relay::Relay;
use bytes::BytesMut;
use http::StatusCode;
use http::header;
use pingora::ErrorType;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// Answers a request that means to open a WebSocket: with a tunnel, or with the reason why there is none. One that means
/// nothing of the kind is given back, with its connection and what came behind its head.
pub(super) async fn serve(
    tables: &Tables,
    stream: Stream,
    mut head: Head,
) -> Option<(Stream, BytesMut)> {
    let behind = match head.len {
        // As nearly always. Splitting off nothing would have both share the memory.
        len if len == head.bytes.len() => BytesMut::new(),
        len => head.bytes.split_off(len),
    };
    let mut head = head.bytes;
    let Some(asked) = Asked::parse(&head) else {
        return Box::pin(serve_unusual(tables, stream, head, behind)).await;
    };
    if !handshake::is_attempt(&asked) {
        head.unsplit(behind);
        return Some((stream, head));
    }
    match attend(tables, asked, &Caller::of(&stream)).await {
        Ok(tunnel) => tunnel.open(stream, behind).await,
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
    None
}

/// [`serve`] for a head that Pingora has to read, or to refuse.
async fn serve_unusual(
    tables: &Tables,
    stream: Stream,
    head: BytesMut,
    behind: BytesMut,
) -> Option<(Stream, BytesMut)> {
    let session = session(stream, head).await?;
    let caller = Caller::of_session(&session);
    let asked = Asked::of(session.req_header());
    if !handshake::is_attempt(&asked) {
        let ServerSession::H1(session) = session else {
            return None;
        };
        let mut head = BytesMut::from(session.get_headers_raw_bytes());
        head.unsplit(behind);
        return Some((session.into_inner(), head));
    }
    match (attend(tables, asked, &caller).await, session) {
        (Ok(tunnel), ServerSession::H1(session)) => {
            tunnel.open(session.into_inner(), behind).await;
        }
        // Made of a connection of HTTP/1.
        (Ok(_), _) => {}
        (Err(refused), session) => tell(refused, session).await,
    }
    None
}

/// Pingora's session of a request whose head was read. `None`: it has been refused.
async fn session(stream: Stream, head: BytesMut) -> Option<ServerSession> {
    let mut session = ServerSession::new_http1(stream);
    session.set_pipelined_prefix(head);
    match session.read_request().await {
        Ok(true) => return Some(session),
        Ok(false) => {}
        Err(error) => {
            tracing::debug!(%error, "a request cannot be read");
            if matches!(error.etype(), ErrorType::InvalidHTTPHeader) {
                // The client is at fault and may be gone: whether it heard us changes nothing.
                let _ = session.respond_error(400).await;
            }
            session.shutdown().await;
        }
    }
    None
}

/// Tells a client why it is refused.
async fn tell(refused: Refused, mut session: ServerSession) {
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
    let limits = &route.client.per_address;
    let limited = identity
        .client
        .filter(|_| limits.max_connections != 0 || limits.rate != 0);
    let admitted = limited.map(|client| {
        let clients = &route.everybody.clients;
        clients.admit(client, limits, Instant::now())
    });
    let admitted = admitted.transpose().map_err(throttle)?.map(Box::new);
    let ticket = Ticket::take(route).map_err(|full| {
        let sentence = match full {
            Full::Route => "all connections of this route are taken",
            Full::Everybody => "all connections are taken",
            Full::Memory => "all memory for slow connections is taken",
        };
        unavailable(sentence).refusing(Handshake::Full)
    })?;
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
        connection: Connection {
            ticket,
            _admitted: admitted,
            client: identity
                .client
                .filter(|client| Some(*client) != identity.peer),
            server,
            protocol: protocol.map(String::into_boxed_str),
            started: Instant::now(),
        },
        switched,
        asked: started,
    }))
}

/// Both halves of the handshake are done but for what the client is told.
struct Tunnel {
    switched: Box<Switched>,
    enrolled: Enrolled,
    connection: Connection,
    asked: Instant,
}

impl Tunnel {
    /// Tells the client, and begins to relay; `behind` came behind its request.
    async fn open(self: Box<Self>, mut client: Stream, behind: BytesMut) {
        let switched = *self.switched;
        let writing = async {
            client.write_all(&switched.head).await?;
            client.flush().await
        };
        let written = writing.await;
        let route = self.connection.ticket.route.clone();
        if let Err(error) = written {
            tracing::debug!(route = route.name(), %error, "client left during the handshake");
            count(&route, Handshake::Abandoned, self.asked);
            return;
        }
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
        tokio::spawn(self.connection.run(relay, self.enrolled));
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

fn throttle(after: Duration) -> Refused {
    // Whole seconds, rounded up.
    let seconds = after.as_secs_f64().ceil().max(1.0).to_string();
    let sentence = "this address has, or opens, too many connections";
    let answer = Answer::new(StatusCode::TOO_MANY_REQUESTS, sentence);
    let answer = answer.with(header::RETRY_AFTER, seconds);
    answer.refusing(Handshake::Throttled)
}

fn not_connected(unreachable: &Unreachable) -> Refused {
    if unreachable.none_taking {
        unavailable("no server takes connections now").refusing(Handshake::Held)
    } else if unreachable.timed_out {
        timed_out().refusing(Handshake::TimedOut)
    } else if unreachable.exhausted {
        Answer::exhausted().refusing(Handshake::Full)
    } else {
        let answer = Answer::new(StatusCode::BAD_GATEWAY, "no server can be reached");
        answer.refusing(Handshake::Unreachable)
    }
}

fn unavailable(sentence: &'static str) -> Answer {
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, sentence).with(header::RETRY_AFTER, "5")
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
        fn size<'a, F>(_: impl FnOnce(&'a Tables, Stream, Head) -> F) -> usize {
            size_of::<F>()
        }
        // What few requests come to is in boxes of its own: answers of ours, the access service, TLS to servers.
        assert!(size(serve) <= 3 << 10, "{}", size(serve));
    }
}
