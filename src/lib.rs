//! wsgate, a WebSocket-aware reverse proxy.
pub mod admin;
pub mod cli;
pub mod config;
pub mod demo;
pub mod frame;
pub mod handshake;
pub mod inspect;
pub mod log;
pub mod metrics;
pub mod proxy;
pub mod relay;
pub mod server;
