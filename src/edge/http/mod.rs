//! HTTP as bytes on a client's connection: request heads and targets, bodies, responses, and how slow a peer may be with them.
//! Nothing here knows routes or servers.

pub(crate) mod answer;
pub mod authority;
pub(crate) mod body;
pub(crate) mod client_request;
pub(crate) mod first_bytes;
pub(crate) mod head;
pub(crate) mod headers;
pub(crate) mod lingering;
pub(crate) mod paced;
pub(crate) mod patience;
pub(crate) mod plain_head;
pub mod request_head;
pub mod target;
pub(crate) mod transfer;
