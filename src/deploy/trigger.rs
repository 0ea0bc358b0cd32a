//! What every reason to drain connections becomes, wherever it was learnt: an operator's request, a failed check, a server's own
//! Closes, discovery, a reload, the end of wsgate.

use crate::drain::{Cause, Selection};
use crate::transport::address::Address;
use std::fmt;

/// A reason to drain connections. [`Control::start`](super::Control::start) selects, labels, logs and counts by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Where it was learnt.
    pub cause: Cause,
    /// The connections that it concerns.
    pub target: Target,
}

/// The connections that a drain concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All of them.
    Everything,
    /// Those to any server of an upstream.
    Upstream(UpstreamId),
    /// Those to one server of an upstream.
    Server(ServerId),
    /// Those to any server of an upstream, made before its generation became this one.
    OlderThan {
        /// The upstream.
        upstream: UpstreamId,
        /// The first generation that stays.
        generation: u32,
    },
}

/// An upstream, as drains and as operators know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamId {
    /// Never used twice.
    pub number: u32,
    /// As configured.
    pub name: String,
}

/// A server of an upstream, as drains and as operators know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerId {
    /// Its upstream.
    pub upstream: UpstreamId,
    /// Never used twice in its upstream.
    pub number: u32,
    /// Where it is.
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
