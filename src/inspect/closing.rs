//! The closing handshake and what each side is told.

use std::time::Duration;

/// What a client is told when its upstream closes with 1001 or 1012.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamClose {
    /// The client gets the restart code, with a suggested delay. The default.
    #[default]
    Translate,
    /// The client gets the upstream's code and reason, unchanged.
    Pass,
}

/// How connections of a route are ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long the closing handshake may take before the connection is cut.
    pub close_timeout: Duration,
    /// Close code of a restart toward clients: 1012 (the default), 1001 or 4000-4999.
    pub restart_code: u16,
    /// Bounds of the delay that a restart suggests to a client, drawn for each of them.
    pub reconnect_after: (Duration, Duration),
    /// What a client is told when its upstream closes with 1001 or 1012.
    pub upstream_close: UpstreamClose,
    /// Close code toward the client where its upstream broke a rule: 1011 (the default), or 4000-4999.
    pub upstream_fault_code: u16,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            close_timeout: Duration::from_secs(5),
            restart_code: 1012,
            reconnect_after: (Duration::from_secs(1), Duration::from_secs(5)),
            upstream_close: UpstreamClose::Translate,
            upstream_fault_code: 1011,
        }
    }
}
