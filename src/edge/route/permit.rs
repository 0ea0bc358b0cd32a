//! The right to one more accepted connection: taken when the peer is known, given back when the connection is gone, whatever
//! came of it: HTTP, a WebSocket, or nothing.

use crate::edge::client::identity;
use crate::edge::http::answer::Answer;
use crate::edge::route::table::{GlobalLimits, RoutePermit, RouteState, Table};
use crate::limit::clients::{AddressPermit, Throttled};
use crate::metrics::ConnectionRefusal;
use http::{StatusCode, header};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One accepted connection.
#[derive(Debug)]
pub(crate) struct Permit {
    /// `None` once a tunnel has the place.
    global_limits: Option<Arc<GlobalLimits>>,
    /// The connection counts against the address of its client, where that is limited. Those of trusted proxies, which carry
    /// many clients, do not.
    address: Option<Box<AddressPermit>>,
}

/// The permits of a WebSocket. Each idle WebSocket has one, so nothing is stored twice.
pub(crate) struct TunnelPermit {
    /// The place among all connections as well: it is the same `everybody`, whatever a reload made of the routes.
    route_permit: RoutePermit,
    /// As in [`Permit`]; that of the WebSocket, where a trusted proxy speaks for its client.
    _address: Option<Box<AddressPermit>>,
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// `[client] max_connections`.
    All,
    /// The limits of one client address.
    Address(Throttled),
}

impl Table {
    /// A permit for a connection of this peer; a peer on a Unix socket has no address.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(crate) fn permit(&self, peer: Option<IpAddr>) -> Result<Permit, Denied> {
        let client = &self.client;
        if !self.global_limits.open_one(client.max_connections) {
            return Err(Denied::All);
        }
        // Dropping the permit gives the place back.
        let mut permit = Permit {
            global_limits: Some(self.global_limits.clone()),
            address: None,
        };
        let limits = &client.per_address;
        let direct = peer.filter(|_| limits.is_some() && !identity::is_trusted(peer, client));
        if let Some(address) = direct {
            let address_permit = self
                .global_limits
                .clients
                .admit(address, limits, Instant::now());
            permit.address = Some(Box::new(address_permit.map_err(Denied::Address)?));
        }
        Ok(permit)
    }
}

impl Permit {
    /// One more request on the connection of a direct client, whose first one came with the connection.
    ///
    /// # Errors
    /// Where the client's address has had all requests that it may have now.
    pub(crate) fn handle_request(&self, table: &Table) -> Result<(), Throttled> {
        let limits = &table.client.per_address;
        match &self.address {
            Some(address_permit) => address_permit.spend(limits, Instant::now()),
            None => Ok(()),
        }
    }

    /// The connection is a tunnel of a route; `admitted` is its client behind a trusted proxy.
    pub(crate) fn into_tunnel(
        mut self,
        route_permit: RoutePermit,
        address_permit: Option<Box<AddressPermit>>,
    ) -> TunnelPermit {
        self.global_limits = None;
        TunnelPermit {
            route_permit,
            _address: address_permit.or(self.address.take()),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(global_limits) = &self.global_limits {
            global_limits.close_one();
        }
    }
}

impl TunnelPermit {
    pub(crate) fn route(&self) -> &Arc<RouteState> {
        &self.route_permit.route
    }
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        self.route().global_limits.close_one();
    }
}

impl Denied {
    /// The reason that is counted.
    pub(crate) const fn reason(self) -> ConnectionRefusal {
        match self {
            Denied::All => ConnectionRefusal::MaxConnections,
            Denied::Address(Throttled::TooMany) => ConnectionRefusal::AddressMaxConnections,
            Denied::Address(Throttled::TooFast(_)) => ConnectionRefusal::AddressRate,
        }
    }

    /// The answer that the client gets.
    pub(crate) fn answer(self) -> Answer {
        match self {
            Denied::All => Answer::unavailable("all connections are taken"),
            Denied::Address(throttled) => throttled.answer(),
        }
    }
}

impl Throttled {
    /// The answer that the client gets.
    pub(crate) fn answer(self) -> Answer {
        let after = match self {
            Throttled::TooMany => Duration::from_secs(5),
            Throttled::TooFast(after) => after,
        };
        // Whole seconds, rounded up.
        let seconds = after.as_secs_f64().ceil().max(1.0).to_string();
        let sentence = "this address has, or opens, too many connections";
        Answer::new(StatusCode::TOO_MANY_REQUESTS, sentence).with(header::RETRY_AFTER, seconds)
    }
}
