//! Refusals of connections and of plain requests: each is answered, where anything can be said, and counted; a cause is in the
//! log once a minute, with the number of those in between (each of them at the level `debug`).

use crate::edge::connections::ConnectionHandler;
use crate::edge::http::answer::Answer;
use crate::edge::http::client_request::Downstream;
use crate::edge::http::first_bytes::Foreign;
use crate::edge::route::permit::Denied;
use crate::edge::route::table::Table;
use crate::log;
use crate::metrics::{Metrics, Reason};
use crate::transport::address::ClientAddress;
use http::StatusCode;
use pingora::protocols::Stream;
use tracing::Level;

/// A connection is beyond a limit, and ends before anything of it is read.
fn report_limited(metrics: &Metrics, denied: Denied, listener: &str, peer: &str) {
    metrics.connection_refused(denied.reason());
    let reason = denied.reason().label();
    let admitted = log::admit(Level::WARN, CONNECTION, reason);
    macro_rules! write {
        ($level:ident, $more:expr) => {
            tracing::$level!(
                listener,
                peer,
                reason,
                "{CONNECTION}: a limit is reached{}",
                $more
            )
        };
    }
    match admitted {
        Some(more) => write!(warn, more),
        None => write!(debug, ""),
    }
}

/// A connection ends because something else is spoken on it than its listener expects.
fn report_foreign(metrics: &Metrics, foreign: Foreign, listener: &str, peer: &str) {
    metrics.connection_refused(foreign.reason());
    let reason = foreign.reason().label();
    // Scanners do this all day long.
    let admitted = log::admit(Level::INFO, CONNECTION, reason);
    macro_rules! write {
        ($level:ident, $more:expr) => {
            tracing::$level!(listener, peer, reason, "{CONNECTION}: {foreign}{}", $more)
        };
    }
    match admitted {
        Some(more) => write!(info, more),
        None => write!(debug, ""),
    }
}

/// A plain request, or a head that cannot be read, gets an error of wsgate's own. Host and path are as they came, the path without
/// its query; empty where they were not read.
pub(crate) fn report_request(
    metrics: &Metrics,
    reason: Reason,
    status: StatusCode,
    sentence: &str,
    route: Option<&str>,
    client: ClientAddress,
    (host, path): (&[u8], &[u8]),
) {
    metrics.plain_refused(route.unwrap_or_default(), reason);
    // Mistakes of clients are no trouble of wsgate's.
    let (level, event) = match status.is_server_error() {
        false => (Level::INFO, "request refused"),
        true => (Level::WARN, "request failed"),
    };
    let (status, reason) = (status.as_u16(), reason.label());
    let about = format_args!("{reason}, route {}", route.unwrap_or_default());
    let admitted = log::admit(level, event, about);
    macro_rules! write {
        ($level:ident, $more:expr) => {
            tracing::$level!(
                route,
                client = client.to_string(),
                host = log::excerpt(host),
                path = log::excerpt(path),
                status,
                reason,
                "{event}: {sentence}{}",
                $more
            )
        };
    }
    match admitted {
        Some(more) if level == Level::WARN => write!(warn, more),
        Some(more) => write!(info, more),
        None => write!(debug, ""),
    }
}

/// How the line of a connection begins that ends before it has a request.
const CONNECTION: &str = "connection refused";

impl ConnectionHandler {
    /// Ends a connection beyond a limit, before anything of it is read.
    pub(crate) async fn deny(&self, socket: Stream, denied: Denied, table: &Table) {
        let (listener, peer) = self.names(&socket);
        let global_limits = &table.global_limits;
        report_limited(&table.metrics, denied, &listener, &peer);
        let listener = self.listener.as_ref();
        // Over TLS nothing can be said before the handshake, which is what costs.
        if listener.is_none_or(|listener| table.tls(listener).is_none()) {
            let answer = denied.answer();
            Box::pin(global_limits.lingering.end(socket, &answer, false)).await;
        }
    }

    /// Ends a connection on which something else is spoken than its listener expects.
    pub(crate) async fn refuse_foreign(&self, socket: Stream, foreign: Foreign, table: &Table) {
        let (listener, peer) = self.names(&socket);
        let global_limits = &table.global_limits;
        report_foreign(&table.metrics, foreign, &listener, &peer);
        let answer = Answer::new(StatusCode::BAD_REQUEST, foreign.to_string());
        // A client that speaks TLS is answered too: Go's says that the server speaks HTTP, OpenSSL's names a wrong version.
        Box::pin(global_limits.lingering.end(socket, &answer, false)).await;
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
    pub(crate) async fn part(
        &self,
        stream: Stream,
        answer: Answer,
        reason: Reason,
        table: &Table,
        without_body: bool,
    ) {
        table.metrics.plain_refused("", reason);
        let lingering = &table.global_limits.lingering;
        Box::pin(lingering.end(stream, &answer, without_body)).await;
    }

    /// Answers a request of which nothing but its head was read, and ends its connection.
    pub(crate) async fn refuse(
        &self,
        stream: Stream,
        answer: Answer,
        reason: Reason,
        table: &Table,
        without_body: bool,
    ) {
        let client = ClientAddress::of_peer(Downstream::of(&stream).peer);
        let (status, sentence) = (answer.status(), answer.sentence());
        let unread = (&b""[..], &b""[..]);
        report_request(
            &table.metrics,
            reason,
            status,
            sentence,
            None,
            client,
            unread,
        );
        let lingering = &table.global_limits.lingering;
        Box::pin(lingering.end(stream, &answer, without_body)).await;
    }
}
