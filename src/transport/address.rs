//! Where listeners listen and servers are reached, and when the system gives up a connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Where a listener listens or a server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A host name and a port (servers only): each address that it resolves to is a server.
    Name(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => write!(f, "{addr}"),
            Address::Name(name, port) => write!(f, "{name}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The address of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// The address of the peer, or the one that a trusted proxy names.
    Known(IpAddr),
    /// A trusted proxy names none that can be read: no list contains it.
    Unknown,
    /// No address: the client is the peer on a Unix socket.
    Unix,
}

impl ClientAddress {
    /// A peer that speaks for itself.
    pub fn of_peer(peer: Option<IpAddr>) -> Self {
        peer.map_or(ClientAddress::Unix, ClientAddress::Known)
    }

    /// The address, if it is known.
    pub fn known(self) -> Option<IpAddr> {
        match self {
            ClientAddress::Known(address) => Some(address),
            ClientAddress::Unknown | ClientAddress::Unix => None,
        }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientAddress::Known(address) => write!(f, "{address}"),
            ClientAddress::Unknown => f.write_str("unknown"),
            ClientAddress::Unix => f.write_str("unix"),
        }
    }
}

/// When the system gives up a TCP connection whose other end says nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// After so long without a byte the other end is probed, [`Tcp::PROBES`] times within as long again; 1 s to 32,767 s,
    /// zero for never.
    pub keepalive: Duration,
    /// How long what was sent may stay unacknowledged, or the other end's window closed; zero for as long as the system
    /// likes. Where there are probes, it bounds them too.
    pub user_timeout: Duration,
}

impl Tcp {
    /// The number of unanswered probes that ends a connection.
    pub const PROBES: u32 = 6;

    /// The options of a socket that are not known.
    pub(crate) const UNKNOWN: Tcp = Tcp {
        keepalive: Duration::MAX,
        user_timeout: Duration::MAX,
    };

    /// The options of a new socket: the defaults of the system.
    pub const OFF: Tcp = Tcp {
        keepalive: Duration::ZERO,
        user_timeout: Duration::ZERO,
    };
}

impl Default for Tcp {
    fn default() -> Self {
        Tcp {
            keepalive: Duration::from_secs(60),
            // As long as the probes take in all: shorter, a single one that is lost could end a connection.
            user_timeout: Duration::from_secs(120),
        }
    }
}
