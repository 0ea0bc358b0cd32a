//! A trigger: one reason to drain connections, with the connections that it concerns. Every source makes one: an operator's
//! request, a failed health check, a server's own Closes, discovery, a reload, the shutdown of wsgate.

use crate::drain::{Cause, Selection};
use crate::transport::address::Address;
use std::fmt;

/// A reason to drain connections. [`Control::start`](super::Control::start) selects, labels, logs and counts by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The source of the trigger.
    pub cause: Cause,
    /// The connections to drain.
    pub target: Target,
}

/// The connections that a drain closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All connections.
    Everything,
    /// The connections to the servers of one upstream.
    Upstream(UpstreamId),
    /// The connections to one server of an upstream.
    Server(ServerId),
    /// The connections to the servers of one upstream that are older than this generation of the upstream.
    OlderThan {
        /// The upstream.
        upstream: UpstreamId,
        /// The first generation that stays.
        generation: u32,
    },
}

/// An upstream: its number, by which drains select, and its name, by which operators know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamId {
    /// A number that no other upstream ever has.
    pub number: u32,
    /// The name in the configuration.
    pub name: String,
}

/// A server of an upstream: its number, by which drains select, and its address, by which operators know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerId {
    /// The upstream of the server.
    pub upstream: UpstreamId,
    /// A number that no other server of the upstream ever has.
    pub number: u32,
    /// The address of the server.
    pub address: Address,
}

impl Target {
    /// The target as the room `drain` selects it.
    pub fn selection(&self) -> Selection {
        match self {
            Target::Everything => Selection::Everything,
            Target::Upstream(upstream) => Selection::Upstream {
                upstream: upstream.number,
            },
            Target::Server(server) => Selection::Server {
                upstream: server.upstream.number,
                server: server.number,
            },
            Target::OlderThan {
                upstream,
                generation,
            } => Selection::OlderThan {
                upstream: upstream.number,
                generation: *generation,
            },
        }
    }
}

/// As the field `selection` of log lines has it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Everything => f.write_str("everything"),
            Target::Upstream(upstream) => f.write_str(&upstream.name),
            Target::Server(server) => server.fmt(f),
            Target::OlderThan { upstream, .. } => {
                write!(f, "{} before this generation", upstream.name)
            }
        }
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.upstream.name, self.address)
    }
}
