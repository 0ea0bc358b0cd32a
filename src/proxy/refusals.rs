//! Refusals of connections and of plain requests: each is answered, where anything can be said, and counted; a cause is in the
//! log once in a while.

use super::Gate;
use super::answer::Answer;
use super::asked::Caller;
use super::identity::ClientAddress;
use super::opening::Foreign;
use super::permit::Denied;
use super::table::Table;
use crate::metrics::Metrics;
use http::StatusCode;
use pingora::protocols::Stream;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What was refused of late, by its cause. There are as many causes as this file names, and statuses.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    causes: Mutex<HashMap<Cause, Reported>>,
}

/// A line of the log is about one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cause {
    Limit(&'static str),
    Foreign(&'static str),
    Request(StatusCode),
}

#[derive(Debug)]
struct Reported {
    /// When the last line was written.
    at: Instant,
    /// Refusals since then.
    since: u64,
}

/// From one line about a cause to the next.
const PAUSE: Duration = Duration::from_secs(10);

impl Refusals {
    /// A connection is beyond a limit, and ends before anything of it is read.
    pub fn limited(&self, metrics: &Metrics, reason: &'static str, listener: &str, peer: &str) {
        metrics.connection_refused(reason);
        if let Some(count) = self.report(Cause::Limit(reason), Instant::now()) {
            tracing::warn!(
                listener,
                peer,
                reason,
                count,
                "connection refused: a limit is reached"
            );
        }
    }

    /// A connection ends because something else is spoken on it than its listener expects.
    pub fn foreign(&self, metrics: &Metrics, foreign: Foreign, listener: &str, peer: &str) {
        let reason = foreign.label();
        metrics.connection_refused(reason);
        if let Some(count) = self.report(Cause::Foreign(reason), Instant::now()) {
            // Scanners do this all day long.
            tracing::info!(
                listener,
                peer,
                reason,
                count,
                "connection refused: {foreign}"
            );
        }
    }

    /// A plain request, or a head that cannot be read, gets an error of wsgate's own.
    pub fn request(
        &self,
        metrics: &Metrics,
        status: StatusCode,
        sentence: &str,
        route: Option<&str>,
        client: ClientAddress,
    ) {
        metrics.request_refused(status.as_str());
        let Some(count) = self.report(Cause::Request(status), Instant::now()) else {
            return;
        };
        let client = client.to_string();
        let status = status.as_u16();
        // What a client does wrong is no trouble of wsgate's.
        if status < 500 {
            tracing::info!(route, client, status, count, "request refused: {sentence}");
        } else {
            tracing::warn!(route, client, status, count, "request failed: {sentence}");
        }
    }

    /// How many refusals a line stands for, itself included; `None`: no line now.
    fn report(&self, cause: Cause, now: Instant) -> Option<u64> {
        let mut causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reported) = causes.get_mut(&cause) else {
            causes.insert(cause, Reported { at: now, since: 0 });
            return Some(1);
        };
        reported.since += 1;
        if now.saturating_duration_since(reported.at) < PAUSE {
            return None;
        }
        reported.at = now;
        Some(std::mem::take(&mut reported.since))
    }
}

impl Gate {
    /// Ends a connection beyond a limit, before anything of it is read.
    pub(super) async fn deny(&self, socket: Stream, denied: Denied, table: &Table) {
        let (listener, peer) = self.names(&socket);
        let everybody = &table.everybody;
        let refusals = &everybody.refusals;
        refusals.limited(&table.metrics, denied.label(), &listener, &peer);
        let listener = self.listener.as_ref();
        // Over TLS nothing can be said before the handshake, which is what costs.
        if listener.is_none_or(|listener| table.tls(listener).is_none()) {
            let answer = denied.answer();
            Box::pin(everybody.lingering.end(socket, &answer, false)).await;
        }
    }

    /// Ends a connection on which something else is spoken than its listener expects.
    pub(super) async fn refuse_foreign(&self, socket: Stream, foreign: Foreign, table: &Table) {
        let (listener, peer) = self.names(&socket);
        let everybody = &table.everybody;
        let refusals = &everybody.refusals;
        refusals.foreign(&table.metrics, foreign, &listener, &peer);
        let answer = Answer::new(StatusCode::BAD_REQUEST, foreign.to_string());
        // A client that speaks TLS is answered too: Go's says that the server speaks HTTP, OpenSSL's names a wrong version.
        Box::pin(everybody.lingering.end(socket, &answer, false)).await;
    }

    /// The listener and the peer of a connection, for the log.
    fn names(&self, socket: &Stream) -> (String, String) {
        let peer = socket.get_socket_digest();
        let peer = peer.as_ref().and_then(|digest| digest.peer_addr());
        let peer = peer.map_or_else(|| "unix".to_owned(), ToString::to_string);
        let listener = self.listener.as_ref().map(ToString::to_string);
        (listener.unwrap_or_default(), peer)
    }

    /// Answers a request whose head cannot be read, and which was reported, and ends its connection.
    pub(super) async fn part(
        &self,
        stream: Stream,
        answer: Answer,
        table: &Table,
        without_body: bool,
    ) {
        table.metrics.request_refused(answer.status().as_str());
        let lingering = &table.everybody.lingering;
        Box::pin(lingering.end(stream, &answer, without_body)).await;
    }

    /// Answers a request of which nothing but its head was read, and ends its connection.
    pub(super) async fn refuse(
        &self,
        stream: Stream,
        answer: Answer,
        table: &Table,
        without_body: bool,
    ) {
        let client = ClientAddress::of_peer(Caller::of(&stream).peer);
        let (everybody, metrics) = (&table.everybody, &table.metrics);
        let (status, sentence) = (answer.status(), answer.sentence());
        everybody
            .refusals
            .request(metrics, status, sentence, None, client);
        Box::pin(everybody.lingering.end(stream, &answer, without_body)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stands_for_those_before_it() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let full = Cause::Limit("max_connections");
        assert_eq!(refusals.report(full, at(0)), Some(1));
        for _ in 0..1000 {
            assert_eq!(refusals.report(full, at(5)), None);
        }
        // Another cause has lines of its own.
        let bad = Cause::Request(StatusCode::BAD_REQUEST);
        assert_eq!(refusals.report(bad, at(5)), Some(1));
        assert_eq!(refusals.report(full, at(11)), Some(1001));
        assert_eq!(refusals.report(full, at(100)), Some(1));
    }
}
