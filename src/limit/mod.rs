//! Token buckets, and what one client address may have. Pure: amounts and moments in, decisions out.

pub mod clients;
pub mod rate;
