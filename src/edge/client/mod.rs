//! Who a client is, behind the proxies that the operator trusts.

pub mod forwarded;
pub(crate) mod identity;
