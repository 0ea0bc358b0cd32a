//! An upgrade request, from its head to the relay that carries the WebSocket: the list of its stages (`stages`), the hand-over
//! of both connections (`hand_over`), and the answer to a request that is refused. `connection` follows the WebSocket to its end.
//!
//! Nothing that a client sent behind its request reaches a server before the server's 101 was verified. A connection on
//! which an upgrade failed is never used again, on either side.

pub(crate) mod access;
pub(crate) mod connection;
mod hand_over;
pub(crate) mod refusal;
pub(crate) mod server_close;
pub(crate) mod server_handshake;
mod stages;

use crate::edge::http::answer::Refused;
use crate::edge::http::client_request::{ClientRequest, Downstream};
use crate::edge::http::head;
use crate::edge::http::head::Head;
use crate::edge::http::request_head::HeadError;
use crate::edge::http::transfer::WRITE_TIMEOUT;
use crate::edge::route::permit::Permit;
use crate::edge::route::table::{Table, Tables};
use crate::edge::upgrade::hand_over::Tunnel;
use crate::edge::upgrade::refusal::RefusedRequest;
use crate::edge::upgrade::stages::Attempt;
use crate::handshake;
use crate::metrics::Reason;
use crate::relay::Handle;
use crate::transport::http2_stream::Bounds;
use bytes::BytesMut;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::server::HttpSession;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::AsyncReadExt;

/// The result of a request that may be an attempt to open a WebSocket.
pub(crate) enum Served {
    /// The request was answered, with a 101 or with a refusal. The connection is used up.
    UpstreamResponse,
    /// The request is a plain one: it is given back, with its connection and the bytes behind its head.
    Plain(Stream, Head),
    /// Its head cannot be read, and it was not answered.
    Malformed(Stream, HeadError),
}

/// Answers a request that means to open a WebSocket. A tunnel takes the connection's permit with it.
pub(crate) async fn serve(
    tables: &Tables,
    mut stream: Stream,
    mut head: Head,
    permit: &mut Option<Permit>,
) -> Served {
    let mut behind = head.split_behind();
    let mut head = head.bytes;
    let client_request = match ClientRequest::parse(&head) {
        Ok(client_request) => client_request,
        Err(error) => return Served::Malformed(stream, error),
    };
    if !handshake::is_attempt(&client_request) {
        let len = head.len();
        head.unsplit(behind);
        return Served::Plain(stream, Head { bytes: head, len });
    }
    let downstream = Downstream::of(&stream);
    let client_left = client_left(&mut stream, &mut behind);
    let handled = handle_upgrade(tables, client_request, &downstream, client_left).await;
    match handled {
        Ok(tunnel) => tunnel.open(stream, behind, permit).await,
        // Few requests are refused: a box keeps the future of all others small.
        Err(refused) => Box::pin(refuse_on(stream, head, refused)).await,
    }
    Served::UpstreamResponse
}

/// The stream of HTTP/2 that a WebSocket is to have.
pub(crate) struct Http2Leg {
    pub bounds: Bounds,
    /// Lives as long as the stream is a WebSocket.
    pub guard: Box<dyn Send + Sync>,
}

/// The result of a request for a WebSocket on a stream of HTTP/2.
pub(crate) enum Outcome {
    /// The stream is a WebSocket.
    Opened(Arc<Handle>),
    /// The client got another answer.
    Refused,
    /// The client left before it had an answer.
    Unheard,
}

/// Answers an extended CONNECT; `head` is the same request as a head of HTTP/1.1. The WebSocket takes the permit with it.
pub(crate) async fn serve_http2(
    tables: &Tables,
    mut session: ServerSession,
    downstream: Downstream,
    head: &[u8],
    permit: Permit,
    leg: Http2Leg,
) -> Outcome {
    let client_request = match ClientRequest::parse(head) {
        Ok(client_request) => client_request,
        Err(error) => {
            let refused = head::malformed(&error).refusing(Reason::Malformed);
            return refuse_unrouted(&tables.current(), session, &downstream, refused).await;
        }
    };
    let mut behind = BytesMut::new();
    let client_left = stream_ended(&mut session, &mut behind);
    match handle_upgrade(tables, client_request, &downstream, client_left).await {
        Ok(tunnel) => match session {
            ServerSession::H2(session) => (*tunnel).open_http2(session, behind, permit, leg),
            // There are no others here.
            _ => Outcome::Unheard,
        },
        Err(refused) => answer(refused, session).await,
    }
}

/// Refuses an extended CONNECT before its route is looked for.
pub(crate) async fn refuse_unrouted(
    table: &Table,
    session: ServerSession,
    downstream: &Downstream,
    refused: Refused,
) -> Outcome {
    if let Ok(client_request) = ClientRequest::of(session.req_header()) {
        let client = table.client(&client_request, downstream);
        let about = RefusedRequest::new(&client_request, None, client);
        refusal::report(&table.metrics, &refused, &about);
    } else {
        refusal::report_malformed(&table.metrics, &refused.why(), downstream);
    }
    answer(refused, session).await
}

async fn answer(refused: Refused, session: ServerSession) -> Outcome {
    match write_response(refused, session).await {
        true => Outcome::Refused,
        false => Outcome::Unheard,
    }
}

/// Waits for the end of a client's stream, and keeps in `behind` the bytes that the client sends meanwhile.
async fn stream_ended(session: &mut ServerSession, behind: &mut BytesMut) {
    while behind.len() < MOST_EARLY {
        match session.read_request_body().await {
            Ok(Some(bytes)) => behind.extend_from_slice(&bytes),
            Ok(None) | Err(_) => return,
        }
    }
    std::future::pending().await
}

/// How often a request is sent again because the server had ended the connection of HTTP/2 that was chosen: after a restart of the
/// server all known connections may have ended.
const MOST_REPEATS: usize = 3;

/// The bytes that are read behind a request while it waits for a server. Once a client has sent more, its connection is not read
/// until the server has answered.
const MOST_EARLY: usize = 4 << 10;

/// Waits for the end of a client's connection. What the client sends meanwhile is kept in `behind`.
async fn client_left(stream: &mut Stream, behind: &mut BytesMut) {
    while behind.len() < MOST_EARLY {
        if !matches!(stream.read_buf(behind).await, Ok(1..)) {
            return;
        }
    }
    std::future::pending().await
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
        let _ = write_response(refused, session).await;
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

/// Tells a client why it is refused. Returns false if the client left before that.
async fn write_response(refused: Refused, mut session: ServerSession) -> bool {
    // A server's own answer may be long. Each piece of it has so much time.
    session.set_write_timeout(Some(WRITE_TIMEOUT));
    let telling = async {
        refused.write(&mut session).await?;
        session.finish().await.map(drop)
    };
    let told: pingora::Result<()> = telling.await;
    if let Err(error) = &told {
        tracing::debug!(%error, "client left before it was answered");
    }
    told.is_ok()
}

/// Takes an upgrade request through its stages, in this order; each stage takes what the one before returned. A request that is
/// refused is counted and logged here, whatever the stage.
///
/// # Errors
/// The answer that the client gets instead of a 101.
async fn handle_upgrade(
    tables: &Tables,
    request: ClientRequest<'_>,
    downstream: &Downstream,
    client_left: impl Future<Output = ()> + Send,
) -> Result<Box<Tunnel>, Refused> {
    let attempt = Attempt::find_route(tables, request, downstream)?;
    let negotiated = async {
        attempt.check_scheme()?;
        let checked = attempt.check_handshake()?;
        let permits = attempt.take_permits()?;
        let auth_headers = attempt.check_access().await?;
        attempt.observe(checked.violations());
        let mut client_left = pin!(client_left);
        let mut silent = None;
        let mut repeated = 0;
        loop {
            let request_head = attempt.write_request(&checked, &auth_headers)?;
            let connected = attempt.connect(silent, client_left.as_mut()).await?;
            let server = connected.server.number;
            match attempt.exchange(&checked, request_head, connected).await {
                Ok(answered) => return Ok(attempt.verify_answer(answered, permits)),
                // A connection of HTTP/2 that the server had ended.
                Err(failure) if failure.is_stale && repeated < MOST_REPEATS => repeated += 1,
                // A server that died meanwhile. An upgrade request is a GET, which may be repeated (RFC 9110 §9.2.2).
                Err(failure)
                    if failure.is_silent && silent.is_none() && attempt.has_another(server) =>
                {
                    silent = Some(server);
                }
                Err(failure) => return Err(failure.refused),
            }
        }
    };
    negotiated.await.map_err(|refused| attempt.refuse(refused))
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
        // Boxes hold the rare cases: refusals, the access service, TLS to servers.
        assert!(size(serve) <= 3 << 10, "{}", size(serve));
    }
}
