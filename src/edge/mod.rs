//! What of a request head decides on its route: the request target, the host, the path. Pure: bytes in, values or errors
//! out, in time linear in the bytes.
//!
//! A route can carry access rules, so what decides on the route is compared in a form in which every spelling of the same
//! thing is the same ([`path`], [`authority`]). What a server gets are the bytes that the client wrote.

pub mod authority;
pub mod path;
pub mod request;
pub mod target;

pub use authority::HostError;
pub use request::{HeadError, RequestHead};
pub use target::{Target, TargetError};
