//! Streams of bytes between wsgate and its peers: addresses, sockets and their options, PROXY headers, TLS toward clients, streams of HTTP/2, and
//! what the kernel knows of data under way. Nothing here knows requests or WebSockets.

pub mod address;
pub(crate) mod batched;
pub(crate) mod delegate;
pub mod delivery;
pub(crate) mod error_text;
pub mod exhaustion;
pub(crate) mod http2_stream;
pub(crate) mod proxy_protocol;
pub mod socket;
pub(crate) mod source_addresses;
pub(crate) mod tls_stream;
pub(crate) mod written_address;
