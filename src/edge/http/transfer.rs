//! The transfer of a plain request: the body of the request, the response, and the memory that both may need. HTTP/1.1 and HTTP/2
//! use the same mechanism.
//!
//! Pingora's proxy runs the request and calls the filters of `ProxyHttp`, which report every piece to the transfer.
//! [`Transfer::run`] drops the request if the client keeps it waiting for too long. The filters find the transfer by a
//! task-local value, because Pingora makes their context itself.

use crate::edge::http::patience::Patience;
use crate::edge::settings::Client;
use crate::metrics::{Metrics, PlainLimit};
use crate::relay::{Buffers, Reservation};
use crate::upstream::{PlainPermit, Server};
use parking_lot::{Mutex, MutexGuard};
use pingora::protocols::Stream;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

tokio::task_local! {
    static CURRENT: Arc<Transfer>;
}

/// One plain request, as far as clients can make it last.
#[derive(Debug)]
pub(crate) struct Transfer {
    state: Mutex<State>,
    /// A body is expected, or the request has a server, from now on.
    changed: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    body_timeout: Duration,
    write_timeout: Duration,
    min_rate: u64,
    body: Body,
    answered: bool,
    /// Of the response, where its head says so.
    length: Option<usize>,
    memory: Option<Reservation>,
    /// The place of the request at its server.
    server: Option<PlainPermit>,
    /// The server has answered: a head of a response is on its way.
    is_begun: bool,
    /// The request was ended for its server's sake before a response began.
    is_unserved: bool,
    /// The client's connection, then.
    returned: Option<Stream>,
}

/// Why a request ended before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The client kept its body waiting for too long.
    Late,
    /// Its server is drained, and the deadline of the drain is over.
    ServerDrained,
}

/// The body of the request, as far as it has to come from the client.
#[derive(Debug)]
enum Body {
    /// Nothing is expected: it is complete, absent, or has not been asked for.
    Quiet,
    Expected {
        patience: Patience,
        /// When something of it came last.
        since: Instant,
    },
}

/// The client keeps a body waiting for longer than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooSlow;

impl Transfer {
    /// For a request of a client that is held to these.
    pub(crate) fn new(client: &Client, metrics: &Arc<Metrics>) -> Arc<Transfer> {
        Arc::new(Transfer {
            state: Mutex::new(State {
                body_timeout: client.body_timeout,
                write_timeout: WRITE_TIMEOUT,
                min_rate: client.min_rate,
                body: Body::Quiet,
                answered: false,
                length: None,
                memory: None,
                server: None,
                is_begun: false,
                is_unserved: false,
                returned: None,
            }),
            changed: Notify::new(),
            metrics: metrics.clone(),
        })
    }

    /// The one that [runs](Self::run) now.
    pub(crate) fn current() -> Option<Arc<Transfer>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Runs the request.
    ///
    /// # Errors
    /// The request was dropped; that resets the stream, or closes the connection, and ends what goes on with the server.
    pub(crate) async fn run<T>(
        self: Arc<Self>,
        request: impl Future<Output = T>,
    ) -> Result<T, Stopped> {
        let request = CURRENT.scope(self.clone(), request);
        tokio::select! {
            biased;
            done = request => Ok(done),
            stopped = self.stopped() => {
                if stopped == Stopped::Late {
                    self.handle_end(PlainLimit::BodyTimeout);
                }
                Err(stopped)
            }
        }
    }

    async fn stopped(&self) -> Stopped {
        loop {
            let changed = self.changed.notified();
            let (deadline, server) = {
                let state = self.lock();
                let deadline = match &state.body {
                    Body::Quiet => None,
                    Body::Expected { patience, since } => Some(*since + patience.left() + GRACE),
                };
                (deadline, state.server.as_ref().map(PlainPermit::end))
            };
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Stopped::Late;
            }
            let ends = async {
                match server {
                    // The server, and with it the sender, lives as long as the permit.
                    Some(mut end) => drop(end.changed().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
                () = ends => {
                    // Before the request is dropped, and with it the client's connection.
                    let mut state = self.lock();
                    state.is_unserved = !state.is_begun;
                    state.server = None;
                    return Stopped::ServerDrained;
                }
            }
        }
    }

    /// The request goes to this server from now on.
    pub(crate) fn set_server(&self, server: &Arc<Server>) {
        self.lock().server = Some(server.begin_plain_request());
        self.changed.notify_one();
    }

    /// The head of a response of the server is on its way to the client.
    pub(crate) fn handle_response(&self) {
        self.lock().is_begun = true;
    }

    /// The request is done.
    pub(crate) fn release_server(&self) {
        self.lock().server = None;
    }

    /// Takes the client's connection back from a request that was dropped, if nothing was written to it yet.
    pub(super) fn give_back(&self, stream: impl FnOnce() -> Stream) {
        let mut state = self.lock();
        if state.is_unserved {
            state.returned = Some(stream());
        }
    }

    /// The client's connection, where the request was ended for its server's sake before a response began.
    pub(crate) fn take_returned(&self) -> Option<Stream> {
        self.lock().returned.take()
    }

    /// From now on the body of the request has to come.
    pub(crate) fn expect_body(&self) {
        let mut state = self.lock();
        let patience = Patience::new(state.body_timeout, state.min_rate);
        if let (Body::Quiet, Some(patience)) = (&state.body, patience) {
            state.body = Body::Expected {
                patience,
                since: Instant::now(),
            };
            drop(state);
            self.changed.notify_one();
        }
    }

    /// This number of bytes of the body came. Returns the time that the next bytes may take, if more are expected.
    ///
    /// # Errors
    /// The body is slower than `body_timeout` and `min_rate` allow.
    pub(crate) fn handle_body(&self, bytes: usize, end: bool) -> Result<Option<Duration>, TooSlow> {
        let mut state = self.lock();
        let Body::Expected { patience, since } = &mut state.body else {
            return Ok(None);
        };
        let now = Instant::now();
        let in_time = patience.handle_wait(now - *since);
        patience.handle_bytes(bytes);
        *since = now;
        if end {
            state.body = Body::Quiet;
            return Ok(None);
        }
        let left = patience.left();
        in_time.then_some(Some(left)).ok_or(TooSlow)
    }

    /// How long the client may leave the response, zero for ever; less where memory is short. What it comes to.
    pub(crate) fn set_write_timeout(&self, limit: Duration, buffers: &Buffers) -> Duration {
        let limit = match buffers.is_short() {
            true if limit.is_zero() => SHORT_WRITE_TIMEOUT,
            true => limit.min(SHORT_WRITE_TIMEOUT),
            false => limit,
        };
        self.lock().write_timeout = limit;
        limit
    }

    /// How long the client may leave the response; zero for ever.
    pub(crate) fn write_timeout(&self) -> Duration {
        self.lock().write_timeout
    }

    /// The time that the client may take to read the response; `None` for no limit.
    pub(crate) fn patience_for_response(&self) -> Option<Patience> {
        let state = self.lock();
        Patience::new(state.write_timeout, state.min_rate)
    }

    /// The request ends because its client did not keep this limit.
    pub(crate) fn handle_end(&self, limit: PlainLimit) {
        tracing::debug!(
            limit = limit.label(),
            "a plain request ended because of its client"
        );
        self.metrics.plain_ended(limit);
    }

    /// The head of a response went to the client.
    pub(crate) fn handle_answer(&self) {
        self.lock().answered = true;
    }

    /// The head of a response went to the client.
    pub(crate) fn is_answered(&self) -> bool {
        self.lock().answered
    }

    /// Counts the memory that the request may need, until it ends. Returns false where there is none left.
    pub(crate) fn reserve(&self, buffers: &Arc<Buffers>) -> bool {
        let memory = Buffers::reserve(buffers, MEMORY);
        let reserved = memory.is_some();
        if !reserved {
            self.handle_end(PlainLimit::BufferMemory);
        }
        self.lock().memory = memory;
        reserved
    }

    /// The response has so many bytes, and no more can wait for the client.
    pub(crate) fn handle_response_length(&self, bytes: usize) {
        let mut state = self.lock();
        state.length = Some(bytes);
        if let Some(memory) = &mut state.memory {
            memory.shrink(bytes.saturating_add(MEMORY_WITHOUT_RESPONSE));
        }
    }

    /// Hands over the reserved memory, shrunk to this number of bytes, to the owner of the end of the response.
    pub(crate) fn take_memory(&self, bytes: usize) -> Option<Reservation> {
        let mut state = self.lock();
        let mut memory = state.memory.take()?;
        memory.shrink(state.length.map_or(bytes, |length| length.min(bytes)));
        Some(memory)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// For responses that are written without a route's own setting.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// For clients that take no response while plain requests have reserved half of the memory that they may have.
const SHORT_WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that is late is told so by [`Transfer::handle_body`] or by Pingora's own time-out, where it can be told. Only
/// what those do not end in this time is dropped.
const GRACE: Duration = Duration::from_millis(500);

/// The most memory that a plain request can keep, in bytes: pieces of 64 KiB of the response in Pingora's pipe between the
/// two connections, half of them copied to be written together, and [what the request needs](MEMORY_WITHOUT_RESPONSE).
/// Measured with 100 requests for 8 MiB that nobody takes, resident memory by request: 590 KiB over HTTP/2, 750 over HTTP/1.1.
const MEMORY: usize = 768 << 10;

/// The most memory that a request with a small response can keep, in bytes: pieces of its body in the pipe and the first 64 KiB of it, which
/// Pingora keeps for another server, 64 KiB in the window of an HTTP/2 stream, heads and state.
const MEMORY_WITHOUT_RESPONSE: usize = 192 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn transfer(body_timeout: Duration, min_rate: u64) -> Arc<Transfer> {
        let client = Client {
            body_timeout,
            min_rate,
            ..Client::default()
        };
        Transfer::new(&client, &Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_ends_its_request() {
        let begun = Instant::now();
        let request = async {
            tokio::time::sleep(7 * SECOND).await;
            Transfer::current().unwrap().expect_body();
            std::future::pending::<()>().await;
        };
        assert_eq!(
            transfer(20 * SECOND, 0).run(request).await,
            Err(Stopped::Late)
        );
        assert_eq!(begun.elapsed().as_secs(), 27);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_too_slow() {
        let begun = Instant::now();
        let request = async {
            let transfer = Transfer::current().unwrap();
            transfer.expect_body();
            loop {
                tokio::time::sleep(5 * SECOND).await;
                let left = transfer.handle_body(1, false).unwrap().unwrap();
                if left < 5 * SECOND {
                    return left;
                }
            }
        };
        let left = transfer(20 * SECOND, 256).run(request).await.unwrap();
        assert!(left < SECOND, "{left:?}");
        assert_eq!(begun.elapsed(), 20 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_what_is_complete() {
        let request = async {
            let transfer = Transfer::current().unwrap();
            transfer.expect_body();
            tokio::time::sleep(19 * SECOND).await;
            transfer.handle_body(3, true).unwrap();
            // A long poll.
            tokio::time::sleep(3600 * SECOND).await;
        };
        assert_eq!(transfer(20 * SECOND, 256).run(request).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_timeout_a_body_is_waited_for() {
        let request = async {
            Transfer::current().unwrap().expect_body();
            tokio::time::sleep(3600 * SECOND).await;
        };
        assert_eq!(transfer(Duration::ZERO, 256).run(request).await, Ok(()));
    }
}
