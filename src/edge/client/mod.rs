//! The identity of a client: its address, and the scheme and host of its request, behind the proxies that the operator trusts.

pub mod forwarded;
pub(crate) mod identity;
pub(crate) mod request_id;
