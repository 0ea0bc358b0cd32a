//! A client's connection of HTTP/2: plain requests and WebSockets (RFC 8441), each on a stream and in a task of its own.
//!
//! The crate h2 reads and writes the frames, Pingora serves the plain requests. This module bounds the cost of a connection: the number
//! of its streams, its time without a stream, the number of streams that its client may reset. [`Transfer`] bounds the cost of a plain
//! request, its session that of a WebSocket. When the connection ends, its tasks end with it, and so do their requests to servers.
//!
//! A GOAWAY ends the WebSockets of some browsers, so none is sent while the connection has one. When wsgate ends, the
//! first WebSocket of the connection that is told to reconnect takes the others with it, so that the GOAWAY follows before any of them
//! comes back on this connection.

mod websocket;

use crate::drain::Cause;
use crate::edge::http::transfer::Transfer;
use crate::edge::plain::ProxyApp;
use crate::edge::refusals::report_request;
use crate::edge::route::table::Tables;
use crate::edge::settings::Client;
use crate::edge::upgrade::{Http2Leg, Outcome};
use crate::metrics::{Metrics, PlainLimit, Reason};
use crate::relay::{Handle, Reservation};
use crate::transport::address::ClientAddress;
use crate::transport::batched::Batched;
use crate::transport::http2_stream::Bounds;
use bytes::Bytes;
use h2::server::Connection;
use http::StatusCode;
use parking_lot::Mutex;
use pingora::Result;
use pingora::apps::HttpServerApp;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, handshake};
use pingora::protocols::{Digest, SocketDigest, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// Serves the connection to its end.
pub(crate) async fn serve(
    proxy: &Arc<HttpProxy<ProxyApp>>,
    tables: &Tables,
    stream: Stream,
    (client, metrics): (&Client, &Arc<Metrics>),
    with_websockets: bool,
    shutdown: &ShutdownWatch,
) {
    let digest = digest_of(&stream);
    let peer = digest.socket_digest.as_ref();
    let peer = peer.and_then(|socket| socket.peer_addr().cloned());
    let peer = peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
    let opening = handshake(stream, Some(options(client, with_websockets)));
    let Ok(Ok(mut connection)) = timeout(client.header_timeout, opening).await else {
        tracing::debug!(peer, "connection ended without the preface of HTTP/2");
        return;
    };

    let max_streams = client.http2_max_streams as usize;
    let mut streams = Streams::new(client);
    let mut resets = Resets::new(Instant::now());
    let mut stopping = shutdown.clone();
    let mut leaving = false;
    // A client that has just connected has a request on its way, as over HTTP/1.1.
    let mut idle = client.header_timeout;
    let mut within_limit = true;
    while within_limit {
        let limit = if leaving { FAREWELL } else { idle };
        let wait = streams.wait(connection.has_streams(), limit);
        let websockets = streams.websockets.clone();
        tokio::select! {
            biased;
            // A closed watch means shutdown too.
            _ = stopping.wait_for(|stopping| *stopping), if !leaving && websockets.is_empty() => {
                connection.graceful_shutdown();
                leaving = true;
                // The GOAWAY has its own time.
                streams.rest();
            }
            () = websockets.ended.notified() => streams.handle_websocket_end(),
            Some(answered) = streams.ended() => {
                if answered {
                    resets.handle_answer();
                } else {
                    within_limit = count_reset(&mut resets, metrics);
                }
            }
            accepted = accept(&mut connection, &digest) => match accepted {
                Ok(Some(H2Accept::Session(session))) => {
                    idle = client.keepalive_timeout;
                    // h2 counts the streams that are open. Requests of those that were reset take a moment to end.
                    if streams.len() < 2 * max_streams {
                        if websocket::protocol(session.req_header()).is_some() {
                            if streams.is_told {
                                // RFC 9113 §8.7: safe to be tried again, on another connection.
                                refuse(session);
                            } else {
                                streams.begin_websocket(tables, session);
                            }
                        } else {
                            let transfer = Transfer::new(client, metrics);
                            streams.begin(proxy, session, transfer, shutdown);
                        }
                    } else {
                        refuse(session);
                        within_limit = count_reset(&mut resets, metrics);
                    }
                }
                Ok(Some(H2Accept::Rejected)) => {
                    report_rejected(metrics, digest.socket_digest.as_deref());
                    within_limit = within(&mut resets, metrics);
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(peer, %error, "connection of HTTP/2 ended");
                    return;
                }
            },
            () = sleep_until(wait.unwrap_or_else(Instant::now)), if wait.is_some() => {
                let unsent = connection.has_streams();
                streams.release(unsent);
                if streams.is_idle(unsent, limit) {
                    if leaving || unsent {
                        return;
                    }
                    connection.graceful_shutdown();
                    leaving = true;
                    streams.rest();
                }
            }
        }
    }
    if within_limit {
        // Every response is out; its task may still have a connection to give back.
        let _ = timeout(FAREWELL, streams.join()).await;
        return;
    }
    report_resets(&peer);
    connection.abrupt_shutdown(ENHANCE_YOUR_CALM.into());
    let farewell = async {
        // Until the GOAWAY is out. What still comes is not served.
        while let Ok(Some(_)) = accept(&mut connection, &digest).await {}
    };
    let _ = timeout(FAREWELL, farewell).await;
}

/// The next request. Meanwhile the connection reads and writes for all of its streams.
async fn accept(
    connection: &mut Connection<Stream, Bytes>,
    digest: &Arc<Digest>,
) -> Result<Option<H2Accept>> {
    let accepting = pin!(HttpSession::from_h2_conn(connection, digest.clone()));
    Batched::new(accepting).await
}

/// What Pingora's sessions know of the connection.
fn digest_of(stream: &Stream) -> Arc<Digest> {
    Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    })
}

/// The settings that the client gets for the connection.
fn options(client: &Client, with_websockets: bool) -> H2Options {
    let mut options = H2Options::default();
    if with_websockets {
        options.enable_connect_protocol();
    }
    options
        .max_concurrent_streams(client.http2_max_streams)
        .initial_window_size(client.http2_stream_window)
        .initial_connection_window_size(client.http2_connection_window)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES)
        .max_header_list_size(u32::try_from(max_header_list(client)).unwrap_or(u32::MAX));
    options
}

/// The largest header list that h2 takes, in bytes as RFC 9113 §6.5.2 counts them. Of lists between `max_header_size` and
/// this size wsgate itself says that they are too large (`plain`). h2 answers a larger one with a 431 without a body.
fn max_header_list(client: &Client) -> usize {
    client.max_header_size.saturating_mul(2)
}

/// The size of the header list of a request, in bytes as RFC 9113 §6.5.2 counts them: "the length of the name and value [...]
/// plus an overhead of 32 octets for each field line". Of the pseudo-header fields the
/// values of `:path` and `:authority` are counted, without that overhead.
pub(crate) fn header_list_size(head: &RequestHeader) -> usize {
    const OVERHEAD: usize = 32;
    let authority = head
        .uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD);
    head.raw_path().len() + authority + fields.sum::<usize>()
}

/// A client reset a stream before its response. Returns false if the connection has to end. The metric of that end is counted
/// before the reset, so that a scrape that shows the reset shows the end too.
fn count_reset(resets: &mut Resets, metrics: &Metrics) -> bool {
    let within_limit = within(resets, metrics);
    metrics.http2_reset();
    within_limit
}

/// Whether a client may go on that had one more stream without a response.
fn within(resets: &mut Resets, metrics: &Metrics) -> bool {
    let within_limit = resets.handle_reset(Instant::now());
    if !within_limit {
        metrics.plain_ended(PlainLimit::Resets);
    }
    within_limit
}

/// Counts and logs a request that Pingora has rejected: with a reset of its stream, or with a 400 without a body.
fn report_rejected(metrics: &Metrics, socket: Option<&SocketDigest>) {
    let peer = socket.and_then(|socket| socket.peer_addr()?.as_inet());
    let client = ClientAddress::of_peer(peer.map(|peer| peer.ip()));
    let sentence = "malformed in HTTP/2 (RFC 9113 §8.1.1): `host` differs from `:authority` or is repeated, the lengths of the \
         body contradict each other, or the target holds characters that no target may hold";
    let (reason, status) = (Reason::Malformed, StatusCode::BAD_REQUEST);
    report_request(metrics, reason, status, sentence, None, client, (b"", b""));
}

/// Tells the log which client resets too many streams: of many such clients, one each second.
fn report_resets(peer: &str) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    static MORE: AtomicUsize = AtomicUsize::new(0);
    let mut last = LAST.lock();
    if last.is_some_and(|last| last.elapsed() < LOOK) {
        MORE.fetch_add(1, Ordering::Relaxed);
        return;
    }
    *last = Some(Instant::now());
    let more = MORE.swap(0, Ordering::Relaxed);
    tracing::warn!(
        peer,
        more,
        "connection of HTTP/2 ended with ENHANCE_YOUR_CALM: its client resets streams before they are answered"
    );
}

fn refuse(mut session: HttpSession) {
    session.shutdown_with_reason(REFUSED_STREAM.into());
}

/// The WebSockets of a connection.
#[derive(Default)]
struct WebSockets {
    open: AtomicUsize,
    ended: Notify,
}

impl WebSockets {
    fn is_empty(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }
}

/// Counts a WebSocket, or the request for one, as long as it lives.
struct WebSocketGuard(Arc<WebSockets>);

impl WebSocketGuard {
    fn new(of: &Arc<WebSockets>) -> Self {
        of.open.fetch_add(1, Ordering::Relaxed);
        WebSocketGuard(of.clone())
    }
}

impl Drop for WebSocketGuard {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.notify_one();
    }
}

/// The requests of a connection that are under way, and its WebSockets.
struct Streams {
    tasks: JoinSet<Ended>,
    websockets: Arc<WebSockets>,
    /// The handles of the WebSockets, by which they are told to reconnect.
    handles: Vec<Arc<Handle>>,
    /// wsgate is ending and has told the WebSockets of this connection to reconnect.
    is_told: bool,
    bounds: Bounds,
    max: usize,
    /// Since when the connection has had neither a request nor a WebSocket.
    since: Instant,
    /// Memory of finished requests whose last bytes h2 may still hold, at most [`SEND_BUFFER`] each.
    unsent: Vec<Reservation>,
    /// How long a client may take for the last bytes of its responses.
    write_timeout: Duration,
}

/// The end of the task of a request.
struct Ended {
    answered: bool,
    opened: Option<Arc<Handle>>,
    memory: Option<Reservation>,
    /// Zero: no limit.
    write_timeout: Duration,
}

impl Streams {
    fn new(client: &Client) -> Self {
        Streams {
            tasks: JoinSet::new(),
            websockets: Arc::default(),
            handles: Vec::new(),
            is_told: false,
            bounds: Bounds {
                window: client.http2_stream_window as usize,
                send_buffer: SEND_BUFFER,
            },
            max: client.http2_max_streams as usize,
            since: Instant::now(),
            unsent: Vec::new(),
            write_timeout: REFUSAL_TIMEOUT,
        }
    }

    fn len(&self) -> usize {
        self.tasks.len()
    }

    fn begin(
        &mut self,
        proxy: &Arc<HttpProxy<ProxyApp>>,
        session: HttpSession,
        transfer: Arc<Transfer>,
        shutdown: &ShutdownWatch,
    ) {
        let (proxy, shutdown) = (proxy.clone(), shutdown.clone());
        self.tasks.spawn(async move {
            let mut session = ServerSession::new_http2(session);
            session.set_write_timeout(Some(REFUSAL_TIMEOUT));
            let request = proxy.process_new_http(session, &shutdown);
            let done = transfer.clone().run(request).await;
            let is_stopped = done.is_err();
            // Before the answer to the question whether it was answered.
            drop(done);
            Ended {
                answered: is_stopped || transfer.is_answered(),
                opened: None,
                memory: transfer.take_memory(SEND_BUFFER),
                write_timeout: transfer.write_timeout(),
            }
        });
    }

    /// The task ends with the answer to the request; the WebSocket has a task of its own.
    fn begin_websocket(&mut self, tables: &Tables, session: HttpSession) {
        let tables = tables.clone();
        let leg = Http2Leg {
            bounds: self.bounds,
            guard: Box::new(WebSocketGuard::new(&self.websockets)),
        };
        self.tasks.spawn(async move {
            let outcome = websocket::serve(&tables, session, leg).await;
            Ended {
                answered: !matches!(outcome, Outcome::Unheard),
                opened: match outcome {
                    Outcome::Opened(handle) => Some(handle),
                    Outcome::Refused | Outcome::Unheard => None,
                },
                memory: None,
                write_timeout: REFUSAL_TIMEOUT,
            }
        });
    }

    /// A WebSocket, or the request for one, has ended. Where wsgate is ending and has told a client of the connection to reconnect, the
    /// other clients of the connection are told at once.
    fn handle_websocket_end(&mut self) {
        let mut handles = self.handles.iter();
        self.is_told |= handles.any(|handle| handle.drain_cause() == Some(Cause::Shutdown));
        // Nothing else holds the handle of a WebSocket that has ended.
        self.handles.retain(|handle| Arc::strong_count(handle) > 1);
        if self.is_told {
            let rest = self.handles.iter();
            rest.for_each(|handle| handle.drain(Cause::Shutdown));
        }
        if self.websockets.is_empty() && self.tasks.is_empty() {
            self.rest();
        }
    }

    /// Waits for the next request that ends. Returns whether the request was answered.
    async fn ended(&mut self) -> Option<bool> {
        let ended = self.tasks.join_next().await?;
        if self.tasks.is_empty() {
            self.rest();
        }
        let Ok(ended) = ended else {
            // The task panicked, which the client did not cause.
            return Some(true);
        };
        self.write_timeout = match ended.write_timeout {
            Duration::ZERO => Duration::MAX,
            limit => limit.max(self.write_timeout),
        };
        if let Some(handle) = ended.opened {
            if self.is_told {
                handle.drain(Cause::Shutdown);
            }
            self.handles.push(handle);
        }
        // h2 has the last bytes of no more streams than are open.
        let memory = ended.memory.filter(|_| self.unsent.len() < self.max);
        self.unsent.extend(memory);
        Some(ended.answered)
    }

    async fn join(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    /// There is nothing to do from now on.
    fn rest(&mut self) {
        self.since = Instant::now();
    }

    /// Gives back the memory of those that are done, where everything is out.
    fn release(&mut self, unsent: bool) {
        if !unsent {
            self.unsent.clear();
        }
    }

    /// There has been nothing to do for so long, or only clients to be waited for that do not take the last bytes.
    fn is_idle(&self, unsent: bool, limit: Duration) -> bool {
        let limit = if unsent { self.write_timeout } else { limit };
        self.tasks.is_empty() && self.websockets.is_empty() && self.since.elapsed() >= limit
    }

    /// When to look at the connection again, whatever happens on it.
    fn wait(&self, unsent: bool, limit: Duration) -> Option<Instant> {
        let soon = Instant::now() + LOOK;
        if !self.tasks.is_empty() || !self.websockets.is_empty() {
            return (!self.unsent.is_empty()).then_some(soon);
        }
        let end = self.since + limit;
        Some(match unsent || !self.unsent.is_empty() {
            true => soon,
            false => end,
        })
    }
}

/// The number of streams that a client may still reset before their answers, each of which may have cost a connection to a
/// server. Every answered stream raises it: browsers that scroll through a map reset many streams and take more.
#[derive(Debug)]
struct Resets {
    left: f64,
    at: Instant,
}

impl Resets {
    /// At once: three pages of 32 requests each that are left before they have loaded.
    const BURST: f64 = 100.0;
    /// And per second: a search that asks anew with each key.
    const RATE: f64 = 10.0;

    fn new(now: Instant) -> Self {
        Resets {
            left: Resets::BURST,
            at: now,
        }
    }

    fn handle_answer(&mut self) {
        self.left = (self.left + 1.0).min(Resets::BURST);
    }

    /// A stream was reset. Returns false if those are too many.
    fn handle_reset(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * Resets::RATE;
        self.left = (self.left + earned).min(Resets::BURST) - 1.0;
        self.at = now;
        self.left >= 0.0
    }
}

/// The bound on small DATA frames of a connection that are not read, as h2 counts them: 256 bytes each, less their payload. Beyond
/// the bound the connection ends with ENHANCE_YOUR_CALM. 18,000 messages of 30 bytes may wait for servers that do not read.
const SMALL_FRAMES: usize = 4 << 20;

/// Bytes of a response that h2 takes before they can be written.
const SEND_BUFFER: usize = 32 << 10;

/// For a client to take what it is told before its request has a route, whose setting holds then.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// For a client to acknowledge a GOAWAY.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often it is looked whether the last bytes of responses are out.
const LOOK: Duration = Duration::from_secs(1);

// Error codes, RFC 9113 §7.
const REFUSED_STREAM: u32 = 0x07;
const ENHANCE_YOUR_CALM: u32 = 0x0b;

#[cfg(test)]
mod tests {
    use super::*;

    /// How many streams of those that come every so often are reset until the connection ends, of at most 10,000.
    fn resets(every: Duration, answered: usize) -> Option<usize> {
        let begin = Instant::now();
        let mut resets = Resets::new(begin);
        (1..10_000).find(|number| {
            (0..answered).for_each(|_| resets.handle_answer());
            !resets.handle_reset(begin + every * *number as u32)
        })
    }

    #[test]
    fn resets_are_borne_up_to_a_rate() {
        assert_eq!(resets(Duration::ZERO, 0), Some(101));
        let fast = resets(Duration::from_millis(3), 0).unwrap();
        assert!((102..=105).contains(&fast), "{fast}");
        assert_eq!(resets(Duration::from_millis(101), 0), None);
        assert_eq!(resets(Duration::ZERO, 1), None, "as many are answered");
    }
}
