//! wsgate, a WebSocket-aware reverse proxy.
pub mod frame;
pub mod handshake;
pub mod inspect;
pub mod proxy;
