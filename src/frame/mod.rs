//! The wire: RFC 6455 §5 (frames), §7.4 (close codes) and §8.1 (UTF-8), RFC 7692 §7.2 (deflate). Bytes in, values out.
//!
//! Nothing here knows which side sent the bytes, what is allowed on this connection or what comes next;
//! that is [`inspect`](crate::inspect). Nothing here allocates, but for
//! [`deflate`].

pub mod close;
pub mod deflate;
pub mod header;
pub mod mask;
pub mod ping;
pub mod utf8;

pub use header::{Header, Opcode};
