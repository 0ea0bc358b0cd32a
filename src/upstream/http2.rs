//! The HTTP/2 connections to a server, whose streams carry WebSockets (RFC 8441).
//!
//! Streams are spread over as few connections as the server's limit and the setting allow. A connection is used only after the
//! server's SETTINGS have announced extended CONNECT. After a GOAWAY of the server a connection takes no new streams and ends with its last
//! stream. A connection on which the server does not answer a PING ends, and its streams with it. The next connection is opened before
//! the last one is full.

use crate::tls::Offer;
use crate::transport::address::Address;
use crate::transport::batched::Batched;
use crate::transport::socket::Socket;
use crate::upstream::settings::{Http2, Upstream};
use crate::upstream::{Members, Server};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong};
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};

/// How long HTTP/1.1 is used for a server that does not speak HTTP/2 or extended CONNECT, before HTTP/2 is tried again (`http2 = "prefer"`).
const NOT_SPOKEN: Duration = Duration::from_secs(600);

/// The same where the connection ended, or the server was silent: the server may be restarting.
const UNCERTAIN: Duration = Duration::from_secs(10);

/// Bytes that a server may send on one stream before they are read: a WebSocket whose client is slow waits alone.
pub(crate) const STREAM_WINDOW: u32 = 64 << 10;

/// Bytes that wsgate writes to a stream before the server has window for them.
pub(crate) const SEND_BUFFER: usize = 32 << 10;

/// Another connection is opened once at most 1/`AHEAD` of `http2_streams` places are free.
const AHEAD: usize = 8;

/// The time for the answer to a PING on a connection on which a handshake got no answer: the next upgrades would go there too.
const DOUBT: Duration = Duration::from_secs(5);

/// When a connection whose last stream has ended is polled again.
const SETTLED: Duration = Duration::from_secs(2);

/// A connection without a stream ends after this time.
const IDLE: Duration = Duration::from_secs(60);

/// The connections to one server.
#[derive(Debug, Default)]
pub(crate) struct Http2Connections {
    known: Mutex<Vec<Known>>,
    /// Held while a connection is opened, so that a herd opens one after the other instead of one each.
    opening: tokio::sync::Mutex<()>,
    not_spoken_until: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Known {
    sender: SendRequest<Bytes>,
    streams: Arc<Streams>,
    /// Identifies the TLS settings with which the connection was made; `None` without TLS.
    tls: Option<u64>,
}

/// The streams of one connection.
#[derive(Debug, Default)]
struct Streams {
    /// Open or being opened, with the flag [`OVER`](Streams::OVER).
    open: AtomicUsize,
    /// Notified when the last stream has ended.
    emptied: Notify,
    /// Notified when a handshake got no answer: the connection may be dead.
    doubted: Notify,
}

impl Streams {
    /// A flag beside the number: the connection takes no new streams.
    const OVER: usize = 1 << (usize::BITS - 1);

    /// Reserves a place for one more stream, if fewer than `most` are open.
    fn occupy(self: &Arc<Self>, most: usize) -> Option<StreamGuard> {
        let grown = |open| (open < most).then_some(open + 1);
        let result = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        result.is_ok().then(|| StreamGuard {
            streams: self.clone(),
            is_answered: false,
        })
    }

    /// The connection takes no new streams from now on.
    fn end(&self) {
        self.open.fetch_or(Streams::OVER, Ordering::Relaxed);
    }

    /// Ends the connection if it has no stream.
    fn end_if_idle(&self) -> bool {
        let over = |open: usize| (open & !Streams::OVER == 0).then_some(Streams::OVER);
        let result = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, over);
        result.is_ok()
    }

    fn is_over(&self) -> bool {
        self.open.load(Ordering::Relaxed) & Streams::OVER != 0
    }

    fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed) & !Streams::OVER
    }
}

/// Counts a stream as long as it lives.
#[derive(Debug)]
pub(crate) struct StreamGuard {
    streams: Arc<Streams>,
    is_answered: bool,
}

impl StreamGuard {
    /// The server has answered on the stream.
    pub(crate) fn handle_answer(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let before = self.streams.open.fetch_sub(1, Ordering::Relaxed);
        if before & !Streams::OVER == 1 {
            self.streams.emptied.notify_one();
        }
        if !self.is_answered {
            self.streams.doubted.notify_one();
        }
    }
}

/// A place for one stream on a connection.
pub(crate) struct Http2Lease {
    pub sender: SendRequest<Bytes>,
    pub guard: StreamGuard,
    /// The connection was there before: the server may have ended it meanwhile.
    pub is_reused: bool,
    /// The scheme of its requests: whether the connection is encrypted.
    pub is_encrypted: bool,
}

impl fmt::Debug for Http2Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Lease").finish_non_exhaustive()
    }
}

/// The protocol that the server speaks.
pub(crate) enum Opened {
    Http2(Http2Lease),
    /// With the connection on which ALPN agreed on HTTP/1.1, where there is such a connection.
    Http1(Option<Socket>),
}

/// Why a connection of HTTP/2 cannot be used for WebSockets.
#[derive(Clone, Copy, Debug)]
enum NotSpoken {
    Http2,
    ExtendedConnect,
}

impl fmt::Display for NotSpoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotSpoken::Http2 => "the server does not speak HTTP/2",
            NotSpoken::ExtendedConnect => {
                "the server does not announce extended CONNECT (RFC 8441 §3)"
            }
        })
    }
}

impl Http2Connections {
    /// No new streams on the connections that there are. Each ends with its last stream.
    pub(crate) fn retire(&self) {
        for known in self.known.lock().drain(..) {
            known.streams.end();
        }
    }

    /// A place on a connection that is there.
    fn reserve(&self, settings: &Upstream) -> Option<Http2Lease> {
        self.forget_ended();
        let tls = settings.tls.as_ref().map(|tls| tls.number());
        let mut known = self.known.lock();
        known.retain(|known| known.tls == tls);
        // The fullest first, as that is the oldest.
        known.iter().find_map(|known| {
            let most = settings
                .http2_streams
                .min(known.sender.current_max_send_streams());
            Some(Http2Lease {
                guard: known.streams.occupy(most)?,
                sender: known.sender.clone(),
                is_reused: true,
                is_encrypted: tls.is_some(),
            })
        })
    }

    /// Forgets connections that take no new streams: those that have ended, and those on which the server has said GOAWAY. A
    /// connection that is forgotten ends with its last stream.
    fn forget_ended(&self) {
        self.known.lock().retain_mut(|known| {
            let cx = &mut Context::from_waker(Waker::noop());
            let is_refused = matches!(known.sender.poll_ready(cx), Poll::Ready(Err(_)));
            !is_refused && !known.streams.is_over()
        });
    }

    /// Whether so few places are left that another connection is opened before it is needed.
    fn is_nearly_full(&self, settings: &Upstream) -> bool {
        let known = self.known.lock();
        let places = known.iter().map(|known| {
            let limit = known.sender.current_max_send_streams();
            let most = settings.http2_streams.min(limit);
            most.saturating_sub(known.streams.count())
        });
        places.sum::<usize>() <= settings.http2_streams / AHEAD
    }

    /// Whether HTTP/2 is tried. After a fallback to HTTP/1.1 it is not, for a while.
    fn is_tried(&self, settings: &Upstream) -> bool {
        match settings.http2 {
            Http2::Never => false,
            Http2::Only => true,
            Http2::Prefer => {
                let until = *self.not_spoken_until.lock();
                until.is_none_or(|until| until <= Instant::now())
            }
        }
    }
}

impl Server {
    /// A place for a WebSocket on a connection of HTTP/2, or the news that HTTP/1.1 has to be used.
    ///
    /// # Errors
    /// The errors of the connect; with `http2 = "only"`, that the server does not speak it.
    pub(crate) async fn open_http2(self: &Arc<Self>, members: &Arc<Members>) -> io::Result<Opened> {
        let settings = &members.settings;
        let connections = &self.http2;
        if let Some(lease) = connections.reserve(settings) {
            self.open_ahead(members);
            return Ok(Opened::Http2(lease));
        }
        if !connections.is_tried(settings) {
            return Ok(Opened::Http1(None));
        }
        let _opening = connections.opening.lock().await;
        // Another upgrade may have opened one meanwhile, or found that there is none to be had.
        if !connections.is_tried(settings) {
            return Ok(Opened::Http1(None));
        }
        if let Some(lease) = connections.reserve(settings) {
            return Ok(Opened::Http2(lease));
        }
        self.connect_http2(settings).await
    }

    /// Opens another connection where those that there are will soon be full.
    fn open_ahead(self: &Arc<Self>, members: &Arc<Members>) {
        if !self.http2.is_nearly_full(&members.settings) {
            return;
        }
        let (server, members) = (self.clone(), members.clone());
        tokio::spawn(async move {
            let settings = &members.settings;
            let Ok(_opening) = server.http2.opening.try_lock() else {
                return;
            };
            if server.http2.is_nearly_full(settings) && server.is_in_rotation() {
                // An upgrade that needs one finds out what is wrong.
                let _ = timeout(settings.connect_timeout, server.connect_http2(settings)).await;
            }
        });
    }

    async fn connect_http2(&self, settings: &Upstream) -> io::Result<Opened> {
        let (tls, name) = (settings.tls.as_ref(), self.name.as_deref());
        let opening = Socket::open(
            &self.address,
            name,
            tls,
            settings.tcp,
            &settings.sources,
            Offer::Http2,
        );
        let socket = opening.await?;
        if socket.agreed_http2() == Some(false) {
            return self.fall_back(settings, NotSpoken::Http2, NOT_SPOKEN, Some(socket));
        }
        // A server of HTTP/1.1 may wait for more than the preface: half of the time is left for it.
        let limit = settings.connect_timeout / 2;
        let began = timeout(limit, begin(socket, self, settings)).await;
        match began {
            Ok(Ok((sender, streams))) if sender.is_extended_connect_protocol_enabled() => {
                let guard = streams.occupy(Streams::OVER);
                let number = tls.map(|tls| tls.number());
                self.http2.known.lock().push(Known {
                    sender: sender.clone(),
                    streams,
                    tls: number,
                });
                if !self.is_in_rotation() {
                    // Drained meanwhile: this stream is the last.
                    self.http2.retire();
                }
                let guard = guard.ok_or(io::ErrorKind::ConnectionReset)?;
                Ok(Opened::Http2(Http2Lease {
                    sender,
                    guard,
                    is_reused: false,
                    is_encrypted: number.is_some(),
                }))
            }
            Ok(Ok(_)) => self.fall_back(settings, NotSpoken::ExtendedConnect, NOT_SPOKEN, None),
            // HTTP/2 was agreed by ALPN: the server is at fault.
            Ok(Err(error)) if error.is_io() && tls.is_some() => {
                Err(io::Error::new(io::ErrorKind::ConnectionReset, error))
            }
            Err(_) if tls.is_some() => Err(io::ErrorKind::TimedOut.into()),
            Ok(Err(error)) if !error.is_io() => {
                self.fall_back(settings, NotSpoken::Http2, NOT_SPOKEN, None)
            }
            // The server may speak HTTP/1.1 alone, or be restarting.
            Ok(Err(_)) | Err(_) => self.fall_back(settings, NotSpoken::Http2, UNCERTAIN, None),
        }
    }

    fn fall_back(
        &self,
        settings: &Upstream,
        why: NotSpoken,
        pause: Duration,
        socket: Option<Socket>,
    ) -> io::Result<Opened> {
        if settings.http2 == Http2::Only {
            let sentence = format!("{why}, and its upstream has http2 = \"only\"");
            return Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
        }
        let until = Instant::now() + pause;
        if self.http2.not_spoken_until.lock().replace(until).is_none() {
            let (upstream, server) = (&settings.name, &self.address);
            tracing::info!(upstream, %server, "WebSockets use HTTP/1.1: {why}");
        }
        Ok(Opened::Http1(socket))
    }
}

/// Begins HTTP/2 on a connection, and waits for the server's SETTINGS.
async fn begin(
    socket: Socket,
    server: &Server,
    settings: &Upstream,
) -> Result<(SendRequest<Bytes>, Arc<Streams>), h2::Error> {
    let streams = u32::try_from(settings.http2_streams).unwrap_or(u32::MAX);
    // A client that is slow never stops the clients of other streams.
    let connection_window = STREAM_WINDOW.saturating_mul(streams).min((1 << 31) - 1);
    let (sender, mut connection) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window)
        .max_send_buffer_size(SEND_BUFFER)
        // Frames that were under way to a stream when it was reset say nothing against the server.
        .max_concurrent_reset_streams(settings.http2_streams)
        .max_local_error_reset_streams(None)
        // Small frames that wait for slow clients: the server is trusted with as many as its windows take.
        .data_frame_budget(connection_window as usize * 8)
        .handshake::<_, Bytes>(socket)
        .await?;
    let mut pings = connection.ping_pong();
    let streams = Arc::new(Streams::default());
    let watch = Watch {
        connections: Arc::downgrade(&server.http2),
        streams: streams.clone(),
        interval: settings.http2_ping_interval,
        server: server.address.clone(),
    };
    let (watched, address) = (streams.clone(), server.address.clone());
    let (tell, told) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let watching = async {
            let Some(pings) = pings.as_mut() else {
                return std::future::pending().await;
            };
            // RFC 9113 §3.4: SETTINGS are the first frame of a server, so they are here with the first PONG.
            let result = pings.ping(Ping::opaque()).await.map(drop);
            let is_good = result.is_ok();
            let _ = tell.send(result);
            if is_good {
                watch.run(pings).await;
            }
        };
        tokio::select! {
            biased;
            // Its error reaches each stream.
            ended = Batched::new(&mut connection) => {
                let (streams, error) = (watched.count(), ended.err().map(|error| error.to_string()));
                if streams > 0 {
                    tracing::warn!(server = %address, streams, error, "connection of HTTP/2 ended under its WebSockets");
                }
            }
            () = watching => {}
        }
        watched.end();
    });
    match told.await {
        Ok(Ok(())) => Ok((sender, streams)),
        Ok(Err(error)) => Err(error),
        // The connection ended before, and its senders know why.
        Err(_) => Err(match sender.ready().await {
            Err(error) => error,
            Ok(_) => h2::Reason::PROTOCOL_ERROR.into(),
        }),
    }
}

/// Watches a connection while it is open.
struct Watch {
    connections: Weak<Http2Connections>,
    streams: Arc<Streams>,
    interval: Duration,
    server: Address,
}

impl Watch {
    /// Returns when the connection does not answer a PING, or had no stream for a while.
    async fn run(&self, pings: &mut PingPong) {
        let (interval, is_pinged) = match self.interval {
            Duration::ZERO => (IDLE, false),
            interval => (interval, true),
        };
        let mut idle_since = Some(Instant::now());
        let mut next = tokio::time::Instant::now() + interval;
        loop {
            let idle_end = idle_since.map_or(next.into_std(), |since| since + IDLE);
            tokio::select! {
                () = self.streams.emptied.notified() => {
                    idle_since = Some(Instant::now());
                    if let Some(connections) = self.connections.upgrade() {
                        connections.forget_ended();
                    }
                    // h2 remembers a stream that was reset for a second. The connection ends after that, once it is polled again.
                    next = next.min(tokio::time::Instant::now() + SETTLED);
                    continue;
                }
                () = self.streams.doubted.notified(), if is_pinged => {
                    if !self.is_answered(pings, DOUBT).await {
                        return;
                    }
                    continue;
                }
                () = sleep_until(next.min(idle_end.into())) => {}
            }
            if self.streams.count() > 0 {
                idle_since = None;
            } else if idle_since.is_none_or(|since| since + IDLE <= Instant::now())
                && self.streams.end_if_idle()
            {
                return;
            }
            if tokio::time::Instant::now() < next {
                continue;
            }
            if is_pinged && self.streams.count() > 0 && !self.is_answered(pings, interval).await {
                return;
            }
            next = tokio::time::Instant::now() + interval;
        }
    }

    async fn is_answered(&self, pings: &mut PingPong, limit: Duration) -> bool {
        match timeout(limit, pings.ping(Ping::opaque())).await {
            Ok(answered) => answered.is_ok(),
            Err(_) => {
                let (server, streams) = (&self.server, self.streams.count());
                tracing::warn!(%server, streams, "connection of HTTP/2 ended: the server does not answer its PING");
                false
            }
        }
    }
}
