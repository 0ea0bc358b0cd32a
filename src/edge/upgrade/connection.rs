//! A proxied connection after its 101: what is done about its end, in the drains, the metrics and the log.

use crate::deploy::Enrolled;
use crate::drain;
use crate::drain::Place;
use crate::edge::route::permit::TunnelPermit;
use crate::edge::route::table::RouteState;
use crate::edge::upgrade::server_close;
use crate::inspect::Side;
use crate::inspect::closing::Cause;
use crate::limit::clients::network_of;
use crate::log::Field;
use crate::relay::{About, Relay};
use crate::session::{Outcome, Passed};
use crate::transport::socket::Socket;
use crate::upstream::{ClientNetwork, Server, ServerPermit, SessionEnd};
use pingora::protocols::Stream;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Where a connection of a route to this server stands in the roster.
pub(crate) fn place(route: &RouteState, server: &Server) -> Place {
    Place {
        upstream: route.pool.index,
        server: server.number,
        generation: route.pool.members().generation,
    }
}

/// The network of a client's address, as the limits of the route count it: who has one IPv6 address has a network of them.
pub(crate) fn client_network(route: &RouteState, client: Option<IpAddr>) -> ClientNetwork {
    let prefix = route.client.per_address.ipv6_prefix;
    client.map(|client| network_of(client, prefix))
}

/// A session that ends sooner than this was dropped at once.
const YOUNG: Duration = Duration::from_secs(2);

/// The end of a session as evidence about its server. `age` is the age of the session when its end began.
fn session_end(outcome: &Outcome, age: Duration) -> SessionEnd {
    match outcome.cause {
        Cause::Vanished { by: Side::Server } if age < YOUNG => {
            if outcome.from_client == Passed::default() {
                SessionEnd::Dropped
            } else {
                SessionEnd::Unclear
            }
        }
        _ => SessionEnd::Usual,
    }
}

/// The data of a connection that are kept until its end, for the log and the metrics.
pub(crate) struct Connection {
    pub permit: TunnelPermit,
    pub server: ServerPermit,
}

impl Connection {
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps a second place for each of its arguments, in every idle connection"
    )]
    pub(crate) fn run(
        self,
        mut relay: Relay<Stream, Socket>,
        enrolled: Enrolled,
    ) -> impl Future<Output = ()> + Send {
        async move {
            let outcome = (&mut relay).await;
            self.handle_end(&outcome, enrolled);
        }
    }

    fn handle_end(&self, outcome: &Outcome, mut enrolled: Enrolled) {
        let route = self.permit.route();
        let handle = enrolled.handle().clone();
        let Some(about) = handle.about() else {
            // Each connection is introduced before it runs.
            return;
        };
        self.tell_server(outcome, about);
        match outcome.cause {
            Cause::Drained { by } => route.context.metrics.drained(by),
            Cause::ServerRestarts { .. } => {
                if outcome.client_close.is_some() {
                    enrolled.handle_return();
                    route.context.metrics.drained(drain::Cause::Upstream);
                }
                server_close::handle_close(route, &self.server, outcome);
            }
            Cause::Vanished { by: Side::Server } | Cause::Stalled { by: Side::Server }
                if outcome.client_close.is_some() =>
            {
                enrolled.handle_return();
                route.context.metrics.drained(drain::Cause::Crash);
            }
            Cause::Violation { .. }
            | Cause::Closed { .. }
            | Cause::Vanished { .. }
            | Cause::Stalled { .. }
            | Cause::Idle
            | Cause::Operator { .. }
            | Cause::Overload => {}
        }
        let id = enrolled.id();
        drop(enrolled);
        self.log(outcome, about, id);
        route.context.metrics.connection_ended(
            route.name(),
            &outcome.cause,
            about.started.elapsed(),
        );
    }

    /// Reports the end of the session to the server's ejection and restart detection.
    fn tell_server(&self, outcome: &Outcome, about: &About) {
        let route = self.permit.route();
        let client = match about.client {
            None => about.peer.map(|peer| peer.ip()),
            Some(client) => client.known(),
        };
        let end_began = outcome.end_began.unwrap_or_else(Instant::now);
        let age = end_began.saturating_duration_since(about.started);
        let (end, whose) = (session_end(outcome, age), client_network(route, client));
        let (server, metrics) = (self.server.server(), &route.context.metrics);
        route
            .pool
            .handle_end(server, end, whose, about.started, metrics);
    }

    fn log(&self, outcome: &Outcome, about: &About, id: u64) {
        let Outcome {
            cause,
            from_client,
            from_server,
            ..
        } = outcome;
        let (violation, at) = match cause {
            Cause::Violation { violation, .. } => (
                Some(violation.kind.label()),
                Some(violation.place().value()),
            ),
            _ => (None, None),
        };
        tracing::info!(
            route = self.permit.route().name(),
            upstream = self.permit.route().pool.name,
            server = %self.server.address,
            id,
            peer = about.peer(),
            client = %about.client(),
            host = about.details.get(Field::Host),
            path = about.details.get(Field::Path),
            origin = about.details.get(Field::Origin),
            user_agent = about.details.get(Field::UserAgent),
            request_id = about.details.get(Field::RequestId),
            traceparent = about.details.get(Field::Traceparent),
            protocol = about.details.get(Field::Protocol),
            duration_ms = about.started.elapsed().as_millis() as u64,
            messages_from_client = from_client.messages,
            bytes_from_client = from_client.bytes,
            messages_from_server = from_server.messages,
            bytes_from_server = from_server.bytes,
            initiator = cause.initiator(),
            cause = cause.label(),
            violation,
            at,
            close_to_client = outcome.client_close.flatten(),
            close_to_server = outcome.server_close.flatten(),
            timed_out = outcome.timed_out,
            "connection ended"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state of an idle connection beside its two sockets is small: nothing of the handshake is kept.
    #[test]
    fn a_connection_takes_no_more_than_it_needs() {
        fn size<F>(_: impl FnOnce(Connection, Relay<Stream, Socket>, Enrolled) -> F) -> usize {
            size_of::<F>()
        }
        let parts = [
            size_of::<Connection>(),
            size_of::<Relay<Stream, Socket>>(),
            size_of::<Enrolled>(),
        ];
        let all: usize = parts.iter().sum();
        assert!(size(Connection::run) <= all + 16, "{parts:?}");
        // Tasks are allocated in steps of 128 bytes.
        assert!(all <= 672, "{parts:?}");
    }
}
