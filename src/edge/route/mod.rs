//! Which route a request takes: its host and path in a form in which every spelling of the same thing is equal, and the table of
//! routes in force with what each of them needs at run time.

pub mod conditions;
pub(crate) mod hash_key;
pub mod path;
pub(crate) mod permit;
pub mod router;
pub(crate) mod sticky_cookie;
pub mod table;
