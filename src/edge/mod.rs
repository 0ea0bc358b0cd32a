//! HTTP toward clients, from the accepted connection to the response or the 101.
//!
//! | room | what it knows |
//! |---|---|
//! | [`http`] | request heads, bodies and responses as bytes on a connection; their limits of time and size |
//! | [`client`] | who the client is: its address behind trusted proxies, what it may have |
//! | [`route`] | which route a request takes, and what the route needs at run time |
//! | `upgrade` | an upgrade request, from its head to the relay that carries the WebSocket |
//! | [`connections`], `http2` | the requests of a connection, one after another or as streams |
//! | `plain` | plain requests, which Pingora serves |
//!
//! A later row may use the rows above it; none uses the rows below it.

pub mod client;
pub mod connections;
pub mod http;
pub(crate) mod http2;
pub(crate) mod plain;
#[doc(hidden)]
pub mod probe;
pub(crate) mod refusals;
pub mod route;
pub mod settings;
pub(crate) mod upgrade;
