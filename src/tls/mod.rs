//! TLS by rustls: certificates from files, trusted authorities, and the encrypted stream.
//!
//! Pingora could carry rustls as well. Its listeners build their configuration once and panic where it is bad, its
//! connectors skip the verification where there is no name, build a new configuration for each connection with a CA of its
//! own, and refuse to start where the system has no CAs; and either keeps buffers for as long as a connection lives. So
//! both ends are done here, by the same means: settings that exist are settings that work ([`Accept`], [`Connect`]), and
//! a stream without buffers of its own ([`Stream`]).
//!
//! While connections are served, files are read only when certificates are renewed. No bytes of a peer can cause a panic.

mod accept;
mod certificate;
mod connect;
mod error;
mod stream;

pub use accept::{Accept, Version};
pub use certificate::{Authorities, Certificate, Fault, Part, subject};
pub use connect::{Connect, InvalidName, Offer};
pub use error::{Error, Failure, Peer};
pub use stream::{ClientStream, Closing, End, ServerStream, Stream};

use rustls::crypto::CryptoProvider;
use std::sync::{Arc, LazyLock};

/// The algorithms. Not installed for the whole process: nobody else here uses rustls.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

#[cfg(test)]
mod tests;
