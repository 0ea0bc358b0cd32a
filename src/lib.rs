//! wsgate, a WebSocket-aware reverse proxy.
pub mod inspect;
pub mod proxy;
