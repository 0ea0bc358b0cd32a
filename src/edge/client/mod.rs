//! Who a client is, behind the proxies that the operator trusts, and its right to one more connection.

pub mod forwarded;
pub(crate) mod identity;
pub(crate) mod permit;
