//! The `Set-Cookie` by which a client comes back to its server.

use crate::upstream::{Pool, Server};

/// The value of `Set-Cookie` in an answer of this server; `None` where the client needs none. `known` is the cookie of the request.
///
/// `HttpOnly`, as no script has to read it. Over HTTPS also for pages of other sites, as a chat in a frame is: it grants nothing.
/// Browsers want `Secure` for that.
pub(crate) fn set_cookie(
    pool: &Pool,
    server: &Server,
    known: Option<&[u8]>,
    scheme: &str,
) -> Option<String> {
    let (name, value) = pool.sticky_cookie(server, known)?;
    let site = match scheme {
        "https" => "Secure; SameSite=None",
        _ => "SameSite=Lax",
    };
    Some(format!("{name}={value}; Path=/; HttpOnly; {site}"))
}
