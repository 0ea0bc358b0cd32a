//! How a connection ended.

use super::pipe::Passed;
use crate::inspect::closing::Cause;
use std::time::Duration;

/// How a connection ended, and what passed over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why.
    pub cause: Cause,
    /// Code of the Close that the client was sent: ours or the upstream's. `None`: no Close, `Some(None)`: an empty one.
    pub client_told: Option<Option<u16>>,
    /// Code of the Close that the upstream was sent.
    pub upstream_told: Option<Option<u16>>,
    /// The closing handshake was not complete when its time was over.
    pub timed_out: bool,
    /// How long the end took, from its cause on.
    pub took: Duration,
    /// How long no message had passed, in either direction, when the end began; to the second.
    pub silent: Duration,
    /// What passed from the client to the upstream.
    pub from_client: Passed,
    /// What passed from the upstream to the client.
    pub from_upstream: Passed,
}
