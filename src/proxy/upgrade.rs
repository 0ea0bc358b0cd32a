//! A WebSocket from its upgrade request to the relay: the handshake with the server, the 101, the take-over of both
//! connections; what comes after that is `connection`'s.
//!
//! Nothing that a client sent behind its request reaches a server before the server's 101 was verified. A connection on
//! which an upgrade failed is never used again, on either side.

use super::Tables;
use super::access;
use super::answer::{Answer, text};
use super::balance::hash_key;
use super::connection::{Connection, place};
use super::exchange::{self, Answered, Switched};
use super::head::Head;
use super::headers;
use super::identity::Identity;
use super::table::{Full, RouteState, Ticket};
use crate::deploy::Enrolled;
use crate::drain;
use crate::handshake::{self, Refusal};
use crate::metrics::Handshake;
use crate::relay::Relay;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{self, HeaderName};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::{Error, ErrorType, OrErr, Result};
use std::sync::Arc;
use std::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// Answers a request that means to open a WebSocket: with a tunnel, or with the reason why there is none. One that means
/// nothing of the kind is given back, with its connection.
///
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
    let mut session = Box::new(ServerSession::new_http1(stream));
    session.set_pipelined_prefix(head.bytes);
    match session.read_request().await {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) => {
            tracing::debug!(%error, "a request cannot be read");
            if matches!(error.etype(), ErrorType::InvalidHTTPHeader) {
                // The client is at fault and may be gone: whether it heard us changes nothing.
                let _ = Box::pin(session.respond_error(400)).await;
            }
            session.shutdown().await;
            return None;
        }
    }
    if !handshake::is_attempt(&session.req_header().headers) {
        let ServerSession::H1(session) = *session else {
            return None;
        };
        let mut head = BytesMut::from(session.get_headers_raw_bytes());
        head.unsplit(behind);
        return Some((session.into_inner(), head));
    }
    if let Err(error) = answer(tables, session, behind).await {
        tracing::debug!(%error, "client left before it was answered");
    }
    None
}

/// Answers one that does, and counts what came of it. `behind` came behind its head.
///
/// # Errors
/// Only those of the client's own connection.
async fn answer(tables: &Tables, mut session: Box<ServerSession>, behind: BytesMut) -> Result<()> {
    let Some((route, identity)) = tables.route(&mut session).await? else {
        Box::pin(session.finish()).await?;
        return Ok(());
    };
    let started = Instant::now();
    let route = &route;
    let (result, rest) = match negotiate(&mut session, route, identity).await {
        Ok(Negotiated::Refused(refused)) => (Ok(refused), Some(session)),
        Ok(Negotiated::Agreed(tunnel)) => {
            let opened = tunnel.open(session, behind, route).await;
            (opened.map(|()| Handshake::Ok), None)
        }
        Err(error) => (Err(error), None),
    };
    let counted = result.unwrap_or_else(|error| {
        tracing::debug!(route = route.name(), %error, "client left during the handshake");
        Handshake::Abandoned
    });
    route.terms.metrics.handshake(route.name(), counted);
    let answered = match counted {
        Handshake::Ok => Some(true),
        Handshake::BadSwitch | Handshake::Unreachable | Handshake::TimedOut => Some(false),
        // These say nothing of the servers.
        Handshake::BadRequest
        | Handshake::Forbidden
        | Handshake::Throttled
        | Handshake::Unchecked
        | Handshake::Full
        | Handshake::Held
        | Handshake::Declined
        | Handshake::Abandoned => None,
    };
    if let Some(ok) = answered {
        let pool = &route.pool;
        route
            .control
            .handle_upgrade(pool.index, &pool.name, started.elapsed(), ok);
    }
    if let Some(session) = rest {
        Box::pin(session.finish()).await?;
    }
    Ok(())
}

/// What came of a request, up to the server's answer.
enum Negotiated {
    /// The client has been told why not.
    Refused(Handshake),
    /// The server's 101 is as it must be.
    Agreed(Box<Tunnel>),
}

/// Brings the request before a server.
///
/// # Errors
/// Only those of the client's own connection.
async fn negotiate(
    session: &mut ServerSession,
    route: &Arc<RouteState>,
    identity: Identity,
) -> Result<Negotiated> {
    let head = session.req_header();
    let checked = handshake::check_request(&head.method, head.version, &head.headers);
    let compression = route.settings.compression;
    let checked = checked.and_then(|mut request| {
        request.offer(&head.headers, compression)?;
        Ok(request)
    });
    let request = match checked {
        Ok(request) => request,
        Err(refusal) => return refuse(session, &refusal).await.map(Negotiated::Refused),
    };
    if !handshake::origin_is_allowed(&route.settings.allowed_origins, &head.headers) {
        let sentence = "this origin may not open a WebSocket here";
        Answer::new(StatusCode::FORBIDDEN, sentence)
            .write(session)
            .await?;
        return Ok(Negotiated::Refused(Handshake::Forbidden));
    }
    let limits = &route.client.per_address;
    let limited = identity
        .client
        .filter(|_| limits.max_connections != 0 || limits.rate != 0);
    let admitted = match limited {
        None => None,
        Some(client) => match route
            .everybody
            .clients
            .admit(client, limits, Instant::now())
        {
            Ok(admitted) => Some(Box::new(admitted)),
            Err(after) => return throttle(session, after).await.map(Negotiated::Refused),
        },
    };
    let ticket = match Ticket::take(route) {
        Ok(ticket) => ticket,
        Err(full) => {
            let sentence = match full {
                Full::Route => "all connections of this route are taken",
                Full::Everybody => "all connections are taken",
                Full::Memory => "all memory for slow connections is taken",
            };
            let answer = Answer::new(StatusCode::SERVICE_UNAVAILABLE, sentence);
            answer.with(header::RETRY_AFTER, "5").write(session).await?;
            return Ok(Negotiated::Refused(Handshake::Full));
        }
    };
    let access = &route.settings.access;
    let vouched = match access::admit(session, access, identity, &route.terms.metrics).await? {
        Ok(vouched) => vouched,
        Err(refused) => return Ok(Negotiated::Refused(refused)),
    };

    let started = Instant::now();
    let pool = &route.pool;
    let key = hash_key(session.req_header(), identity.client, pool);
    let connecting = pool.connect(key.as_deref(), &route.terms.metrics);
    let (socket, server) = match connecting.await {
        Ok(connected) => connected,
        Err(unreachable) if unreachable.none_taking => {
            let answer = Answer::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no server takes connections now",
            );
            answer.with(header::RETRY_AFTER, "5").write(session).await?;
            return Ok(Negotiated::Refused(Handshake::Held));
        }
        Err(unreachable) if unreachable.timed_out => {
            return timed_out(session).await.map(Negotiated::Refused);
        }
        Err(unreachable) if unreachable.exhausted => {
            Answer::exhausted().write(session).await?;
            return Ok(Negotiated::Refused(Handshake::Full));
        }
        Err(_) => {
            Answer::new(StatusCode::BAD_GATEWAY, "no server can be reached")
                .write(session)
                .await?;
            return Ok(Negotiated::Refused(Handshake::Unreachable));
        }
    };
    let upstream_request =
        exchange::request(session, &request, &route.settings, identity, &vouched)?;
    // From here on it is one of those that a drain finds: one that begins while the server answers is not missed.
    let enrolled = route
        .control
        .enroll(place(route, &server), route.settings.max_age);
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
    let exchange = exchange::exchange(socket, upstream_request, &request, &route.settings);
    let (name, route_name) = (pool.name.as_str(), route.name());
    let limit = pool.members().settings.handshake_timeout;
    let answered = match timeout(limit, exchange).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(error)) => {
            pool.handle_failure(&server);
            tracing::warn!(route = route_name, upstream = name, server = %server.address, %error, "server did not answer the handshake");
            let sentence = "the server ended the connection instead of answering";
            Answer::new(StatusCode::BAD_GATEWAY, sentence)
                .write(session)
                .await?;
            return Ok(Negotiated::Refused(Handshake::Unreachable));
        }
        Err(_) => {
            pool.handle_failure(&server);
            tracing::warn!(route = route_name, upstream = name, server = %server.address, "server did not answer the handshake in time");
            return timed_out(session).await.map(Negotiated::Refused);
        }
    };
    route.terms.metrics.upstream_answered(started.elapsed());
    let mut switched = match answered {
        Answered::Switched(switched) => switched,
        Answered::Bad(bad) => {
            pool.handle_failure(&server);
            tracing::warn!(route = route_name, upstream = name, server = %server.address, %bad, "server's handshake is wrong");
            let sentence = format!("the server's handshake is wrong: {bad}");
            Answer::new(StatusCode::BAD_GATEWAY, &sentence)
                .write(session)
                .await?;
            return Ok(Negotiated::Refused(Handshake::BadSwitch));
        }
        Answered::Otherwise(answer) => {
            let (head, upstream) = *answer;
            if head.status.is_server_error() {
                pool.handle_failure(&server);
            } else {
                server.handle_success();
            }
            Box::pin(relay_answer(session, upstream, head, route)).await?;
            return Ok(Negotiated::Refused(Handshake::Declined));
        }
    };
    server.handle_success();
    Ok(Negotiated::Agreed(Box::new(Tunnel {
        enrolled,
        connection: Connection {
            ticket,
            _admitted: admitted,
            client: identity
                .client
                .filter(|client| Some(*client) != identity.peer),
            server,
            protocol: switched.agreed.protocol.take().map(String::into_boxed_str),
            started: Instant::now(),
        },
        switched,
    })))
}

/// Both halves of the handshake are done but for what the client is told.
struct Tunnel {
    switched: Box<Switched>,
    enrolled: Enrolled,
    connection: Connection,
}

impl Tunnel {
    /// Tells the client, takes its connection out of the session, and begins to relay; `from_client` came behind its
    /// request.
    ///
    /// # Errors
    /// Those of the client's connection.
    async fn open(
        self: Box<Self>,
        session: Box<ServerSession>,
        from_client: BytesMut,
        route: &RouteState,
    ) -> Result<()> {
        let ServerSession::H1(session) = *session else {
            return Err(Error::explain(
                ErrorType::InternalError,
                "a WebSocket over something else than HTTP/1.1",
            ));
        };
        let mut client = session.into_inner();
        let switched = *self.switched;
        let writing = async {
            client.write_all(&switched.head).await?;
            client.flush().await
        };
        writing.await.or_err(ErrorType::WriteError, "the 101")?;
        let relay = Relay::new(
            route.terms.clone(),
            self.enrolled.handle().clone(),
            client,
            from_client,
            switched.socket,
            switched.behind,
        )
        .with_compression(switched.agreed.deflate);
        route.terms.metrics.connection_opened(route.name());
        tokio::spawn(self.connection.run(relay, self.enrolled));
        Ok(())
    }
}

pub(super) async fn refuse(session: &mut ServerSession, refusal: &Refusal) -> Result<Handshake> {
    let sentence = refusal.to_string();
    let mut answer = Answer::new(refusal.status(), &sentence);
    if matches!(refusal, Refusal::OtherVersion | Refusal::MissingVersion) {
        // RFC 6455 §4.4.
        answer = answer.with(header::SEC_WEBSOCKET_VERSION, handshake::VERSION);
    }
    answer.write(session).await?;
    Ok(Handshake::BadRequest)
}

async fn throttle(session: &mut ServerSession, after: std::time::Duration) -> Result<Handshake> {
    // Whole seconds, rounded up.
    let seconds = after.as_secs_f64().ceil().max(1.0).to_string();
    let sentence = "this address has, or opens, too many connections";
    Answer::new(StatusCode::TOO_MANY_REQUESTS, sentence)
        .with(header::RETRY_AFTER, &seconds)
        .write(session)
        .await?;
    Ok(Handshake::Throttled)
}

async fn timed_out(session: &mut ServerSession) -> Result<Handshake> {
    let sentence = "no server answered in time";
    Answer::new(StatusCode::GATEWAY_TIMEOUT, sentence)
        .write(session)
        .await?;
    Ok(Handshake::TimedOut)
}

/// Passes on an answer that is not a 101, with its body. Both connections end with it.
async fn relay_answer(
    session: &mut ServerSession,
    mut upstream: HttpSession,
    mut response: ResponseHeader,
    route: &RouteState,
) -> Result<()> {
    headers::end_hop(&mut response);
    session.set_keepalive(None);
    session.write_response_header(Box::new(response)).await?;
    let limit = route.pool.members().settings.read_timeout;
    loop {
        match timeout(limit, upstream.read_body_bytes()).await {
            Ok(Ok(Some(chunk))) => session.write_response_body(chunk, false).await?,
            Ok(Ok(None)) => return session.write_response_body(Bytes::new(), true).await,
            // The head is out: all that can be told now is that the body is not complete, by ending the connection.
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                return Err(Error::explain(
                    ErrorType::ReadTimedout,
                    "the body of the server's answer",
                ));
            }
        }
    }
}

/// The host that a request asks for, port included.
pub(super) fn host_of(request: &RequestHeader) -> &str {
    match request.uri.authority() {
        Some(authority) => authority.as_str(),
        None => text(&request.headers, HeaderName::from_static("host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

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
