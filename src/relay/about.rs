//! The facts about a connection that its handshake brought, and its figures: for the log, and for operators who list connections.

use super::RouteContext;
use crate::log::Details;
use crate::transport::address::ClientAddress;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// The facts about a connection that its handshake brought.
#[derive(Debug)]
pub struct About {
    /// The settings and the name of its route.
    pub route: Arc<RouteContext>,
    /// The address of the peer; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The client's address, where it is not that of the peer.
    pub client: Option<ClientAddress>,
    /// When the client got its 101.
    pub started: Instant,
    /// The key of the request, where the upstream balances by hash. In a box, because most connections have none.
    pub key: Option<Box<Vec<u8>>>,
    /// Fields of the request.
    pub details: Details,
}

impl About {
    /// The client's address: that of the peer, or the one that a trusted proxy names.
    pub fn client(&self) -> ClientAddress {
        let peer = self.peer.map(|peer| peer.ip().to_canonical());
        self.client.unwrap_or(ClientAddress::of_peer(peer))
    }

    /// The peer, as the log has it.
    pub fn peer(&self) -> String {
        self.peer
            .map_or_else(|| "unix".to_owned(), |peer| peer.to_string())
    }
}

/// The traffic of a connection until now, and the memory that it keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Whole data messages, from the client and from the server.
    pub messages: [u64; 2],
    /// Payload in bytes, from the client and from the server.
    pub bytes: [u64; 2],
    /// Seconds since the last message in either direction.
    pub idle: u32,
    /// Memory beyond that of an idle connection, in bytes.
    pub buffered: usize,
}
