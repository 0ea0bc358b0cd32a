//! The last stage of an upgrade: the client gets its 101, or its 200 over HTTP/2, and both connections go to a relay.

use crate::deploy::Enrolled;
use crate::edge::route::permit::Permit;
use crate::edge::route::table::RouteState;
use crate::edge::upgrade::connection::Connection;
use crate::edge::upgrade::server_handshake::Switched;
use crate::edge::upgrade::stages::{Permits, note_handshake};
use crate::edge::upgrade::{Http2Leg, Outcome};
use crate::log::Details;
use crate::metrics::Handshake;
use crate::relay::{About, Relay};
use crate::transport::address::ClientAddress;
use crate::transport::http2_stream::Http2Stream;
use crate::upstream::{ClientNetwork, ServerPermit};
use bytes::BytesMut;
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::v2::server::HttpSession;
use std::fmt;
use std::time::Instant;
use tokio::io::AsyncWriteExt;

/// Both halves of the handshake are done but for what the client is told.
pub(crate) struct Tunnel {
    pub switched: Box<Switched>,
    pub enrolled: Enrolled,
    pub permits: Permits,
    /// The client's address, where it is not that of the peer.
    pub client: Option<ClientAddress>,
    pub network: ClientNetwork,
    pub server: ServerPermit,
    /// The key of the request, where the upstream balances by hash.
    pub key: Option<Vec<u8>>,
    /// Fields of the request, for the log.
    pub details: Details,
    /// When the request was complete.
    pub began: Instant,
}

impl Tunnel {
    /// Tells the client with a 101, and begins to relay; `behind` came behind its request.
    pub(super) async fn open(
        self: Box<Self>,
        mut client: Stream,
        behind: BytesMut,
        permit: &mut Option<Permit>,
    ) {
        let writing = async {
            client.write_all(&self.switched.head).await?;
            client.flush().await
        };
        if let Err(error) = writing.await {
            self.abandon(&error);
            return;
        }
        // Each connection has one until it is a tunnel.
        if let Some(permit) = permit.take() {
            self.begin(client, behind, permit);
        }
    }

    /// Tells the client with a 200, and begins to relay the stream; `behind` came in its first DATA frames.
    pub(super) fn open_http2(
        self,
        mut session: HttpSession,
        behind: BytesMut,
        permit: Permit,
        leg: Http2Leg,
    ) -> Outcome {
        let head = self.switched.http2_head();
        let written = head.and_then(|head| session.write_response_header(head, false));
        if let Err(error) = written {
            self.abandon(&error);
            return Outcome::Unheard;
        }
        // The request head is no longer needed, and the stream would keep it as long as the WebSocket lives.
        if let Ok(nothing) = RequestHeader::build_no_case("GET", b"/", None) {
            *session.req_header_mut() = nothing;
        }
        let Some(stream) = Http2Stream::of_client(session, leg.bounds, leg.guard) else {
            return Outcome::Unheard;
        };
        let handle = self.enrolled.handle().clone();
        self.begin(Box::new(stream), behind, permit);
        Outcome::Opened(handle)
    }

    /// The client left before it was told.
    fn abandon(self, error: &dyn fmt::Display) {
        let route = &self.permits.route.route;
        tracing::debug!(route = route.name(), %error, "client left during the handshake");
        self.server.handle_answer(self.network);
        count(route, Handshake::Abandoned, self.began);
    }

    /// Begins to relay: the client was told.
    fn begin(self, client: Stream, behind: BytesMut, permit: Permit) {
        let switched = *self.switched;
        let route = self.permits.route.route.clone();
        let connection = Connection {
            permit: permit.into_tunnel(self.permits.route, self.permits.address),
            server: self.server,
        };
        let peer = client.get_socket_digest();
        let peer = peer.as_ref().and_then(|digest| digest.peer_addr());
        let started = Instant::now();
        self.enrolled.handle().introduce(About {
            route: route.context.clone(),
            peer: peer.and_then(|peer| peer.as_inet()).copied(),
            client: self.client,
            started,
            key: self.key.map(Box::new),
            details: self.details,
        });
        let relay = Relay::new(
            route.context.clone(),
            self.enrolled.handle().clone(),
            switched.agreed.deflate,
            (client, behind),
            (switched.socket, switched.behind),
        );
        route.context.metrics.connection_opened(route.name());
        connection.server.handle_open(self.network, started);
        tokio::spawn(connection.run(relay, self.enrolled));
        count(&route, Handshake::Ok, self.began);
    }
}

fn count(route: &RouteState, counted: Handshake, started: Instant) {
    route.context.metrics.handshake(route.name(), counted);
    note_handshake(route, counted, started);
}
