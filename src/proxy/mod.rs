//! The seat on Pingora.

pub mod settings;
