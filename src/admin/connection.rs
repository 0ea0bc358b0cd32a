//! The connections of the admin listener: HTTP/1.1 as far as scrapers, probes, scripts and `curl` need it.
//!
//! It is always true that a client keeps a descriptor no longer than these times, and makes wsgate keep no more than these
//! sizes, whatever it sends and however slowly it reads.

use super::request::{Refusal, Request};
use super::{Admin, refuse};
use crate::duration::Shown;
use crate::edge::http::head;
use crate::edge::http::head::{Head, NoHead};
use crate::edge::settings::Client;
use async_trait::async_trait;
use bytes::BytesMut;
use http::{Method, Response, StatusCode, header};
use parking_lot::{Mutex, MutexGuard};
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 128;

const FULL: &str = "all connections of the admin listener are taken";

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 64 << 10;

/// For the head of a request, from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// For its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// For an answer to be taken: all series of a large configuration over a slow line.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may wait for its next request: Prometheus scrapes once a minute at the most.
const KEEPALIVE: Duration = Duration::from_secs(90);

/// How long a connection beyond the most may take to be read from before it is told so.
const TURNED_AWAY: Duration = Duration::from_millis(50);

/// The connections that are open now. Clones share everything.
///
/// Where there are as many as there may be, a new one takes the place of the one that has waited longest for its client:
/// whoever opens connections and says nothing, or says it slowly, keeps nobody out.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    number: usize,
    /// Connections that wait for their clients, in the order in which they began to wait.
    waiting: BTreeMap<u64, Arc<Notify>>,
    next: u64,
}

impl Connections {
    /// A place for one more, as long as it lives; `None` where all are answering.
    fn take(&self) -> Option<Place> {
        let mut open = self.lock();
        if open.number >= MAX_CONNECTIONS {
            let (_, longest) = open.waiting.pop_first()?;
            longest.notify_one();
        }
        open.number += 1;
        Some(Place(self.clone()))
    }

    /// Does what depends on the client; `None` where another connection has taken the place meanwhile.
    async fn wait_for<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let wait = {
            let mut open = self.lock();
            let (number, place_taken) = (open.next, Arc::new(Notify::new()));
            open.next += 1;
            open.waiting.insert(number, place_taken.clone());
            Wait {
                connections: self,
                number,
                place_taken,
            }
        };
        tokio::select! {
            done = work => Some(done),
            () = wait.place_taken.notified() => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock()
    }
}

struct Place(Connections);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().number -= 1;
    }
}

/// A connection waits for its client as long as this lives.
struct Wait<'a> {
    connections: &'a Connections,
    number: u64,
    place_taken: Arc<Notify>,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.connections.lock().waiting.remove(&self.number);
    }
}

#[async_trait]
impl ServerApp for Admin {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        match self.connections.take() {
            Some(_place) => self.converse(stream, shutdown).await,
            None => turn_away(stream).await,
        }
        None
    }
}

impl Admin {
    /// Answers one request after the other.
    async fn converse(&self, mut stream: Stream, shutdown: &ShutdownWatch) {
        let bounds = Client {
            header_timeout: HEAD_TIMEOUT,
            max_header_size: 32 << 10,
            ..Client::default()
        };
        let mut stopping = shutdown.clone();
        let mut idle = HEAD_TIMEOUT;
        loop {
            let reading =
                self.connections
                    .wait_for(head::read(&mut stream, BytesMut::new(), &bounds, idle));
            let head = tokio::select! {
                head = reading => head.unwrap_or(Err(NoHead::Idle)),
                _ = stopping.wait_for(|stopping| *stopping) => Err(NoHead::Idle),
            };
            let head = match head {
                Ok(head) => head,
                Err(why) => {
                    let refusing = head::refuse(stream, &why, &bounds);
                    self.connections.wait_for(refusing).await;
                    return;
                }
            };
            let answered = self.answer_head(head, &mut stream).await;
            let Some((mut response, is_head, mut goes_on)) = answered else {
                return;
            };
            goes_on &= !*shutdown.borrow();
            let option = if goes_on { "keep-alive" } else { "close" };
            let option = header::HeaderValue::from_static(option);
            response.headers_mut().insert(header::CONNECTION, option);
            let wire = write(&response, is_head);
            if !goes_on {
                self.connections.wait_for(part(stream, &wire)).await;
                return;
            }
            let writing = timeout(WRITE_TIMEOUT, send(&mut stream, &wire));
            if !matches!(self.connections.wait_for(writing).await, Some(Ok(Ok(())))) {
                // The client is gone, or takes nothing.
                return;
            }
            idle = KEEPALIVE;
        }
    }

    /// The answer to a request, whether it is to HEAD, and whether the connection can be used again. `None`: another
    /// connection has taken its place.
    async fn answer_head(
        &self,
        mut head: Head,
        stream: &mut Stream,
    ) -> Option<(Response<Vec<u8>>, bool, bool)> {
        let behind = head.bytes.split_off(head.len);
        let request = match Request::parse(&head.bytes) {
            Ok(request) => request,
            Err(refusal) => return Some((refuse(&refusal, false), false, false)),
        };
        let is_head = request.method == Method::HEAD;
        let (is_api, keeps_alive) = (request.is_api(), request.keeps_alive());
        // A body that nobody wants is not read, and what is behind it is not found.
        if let Err(refusal) = self.check(&request) {
            let no_body = request.content_length() == Ok(0) && behind.is_empty();
            return Some((refuse(&refusal, is_api), is_head, keeps_alive && no_body));
        }
        let reading = read_body(&request, behind, stream);
        let (body, behind) = match self.connections.wait_for(reading).await {
            Some(Ok(read)) => read,
            Some(Err(refusal)) => return Some((refuse(&refusal, is_api), is_head, false)),
            None => return None,
        };
        let response = self.serve(&request, &body, &peer_of(stream)).await;
        // Requests one after the other without waiting for the answers are nothing that a client of this has.
        Some((response, is_head, keeps_alive && behind.is_empty()))
    }
}

/// The peer, for the log.
fn peer_of(stream: &Stream) -> String {
    let digest = stream.get_socket_digest();
    let peer = digest.as_ref().and_then(|digest| digest.peer_addr());
    match peer.and_then(|peer| peer.as_inet()) {
        Some(address) => address.ip().to_string(),
        None => "Unix socket".to_owned(),
    }
}

/// The body, and what came behind it.
async fn read_body(
    request: &Request,
    mut came: BytesMut,
    stream: &mut Stream,
) -> Result<(BytesMut, BytesMut), Refusal> {
    let length = request.content_length()?;
    let length = match usize::try_from(length) {
        Ok(length) if length <= MAX_BODY => length,
        _ => {
            let sentence = format!("a body of more than {MAX_BODY} bytes is not read");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, sentence));
        }
    };
    let reading = async {
        if came.len() < length && request.waits_for_continue() {
            send(stream, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        while came.len() < length {
            if stream.read_buf(&mut came).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        io::Result::Ok(())
    };
    match timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => {
            let sentence = "the connection ended within the body of the request";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, sentence));
        }
        Err(_) => {
            let limit = Shown(BODY_TIMEOUT);
            let sentence = format!("the body of the request was not complete after {limit}");
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, sentence));
        }
    }
    let behind = came.split_off(length);
    Ok((came, behind))
}

/// An answer as it goes over the wire.
fn write(response: &Response<Vec<u8>>, is_head: bool) -> Vec<u8> {
    let status = response.status();
    let mut wire = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in response.headers() {
        wire.extend_from_slice(name.as_str().as_bytes());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"\r\n");
    if !is_head {
        wire.extend_from_slice(response.body());
    }
    wire
}

async fn send(stream: &mut Stream, wire: &[u8]) -> io::Result<()> {
    stream.write_all(wire).await?;
    stream.flush().await
}

/// Sends the last answer of a connection: a long one first, as far as the client takes it.
async fn part(mut stream: Stream, wire: &[u8]) {
    let sent = timeout(WRITE_TIMEOUT, send(&mut stream, wire)).await;
    if matches!(sent, Ok(Ok(()))) {
        head::part(stream, b"").await;
    }
}

/// Tells a client that there are too many. It is not waited for: what it has sent is read once, as closing a socket with
/// unread bytes resets it.
async fn turn_away(mut stream: Stream) {
    let mut unread = [0; 4096];
    let telling = async {
        let _ = timeout(TURNED_AWAY, stream.read(&mut unread)).await;
        let wire = head::plain_text(StatusCode::SERVICE_UNAVAILABLE, FULL);
        send(&mut stream, &wire).await
    };
    // The client may be gone: whether it heard us changes nothing.
    let _ = timeout(WRITE_TIMEOUT, telling).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test]
    async fn the_one_that_has_waited_longest_makes_room() {
        let connections = Connections::default();
        let wait = |connections: Connections| async move {
            let place = connections.take().unwrap();
            let done = connections.wait_for(pending::<()>()).await;
            drop(place);
            done
        };
        let mut waiting = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            waiting.push(tokio::spawn(wait(connections.clone())));
            tokio::task::yield_now().await;
        }
        let answering: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connections.take()).collect();
        for (number, task) in waiting.into_iter().enumerate() {
            let ended = tokio::time::timeout(Duration::from_secs(5), task).await;
            assert_eq!(ended.unwrap().unwrap(), None, "{number}");
        }
        assert!(answering.iter().all(Option::is_some));
        assert!(connections.take().is_none(), "all are answering");
        drop(answering);
        assert!(connections.take().is_some());
        assert_eq!(connections.lock().waiting.len(), 0);
    }
}
