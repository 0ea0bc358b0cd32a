//! wsgate, a WebSocket-aware reverse proxy.
pub mod frame;
pub mod handshake;
pub mod inspect;
pub mod metrics;
pub mod proxy;
pub mod relay;
