//! The sticky cookie: all requests of a browser reach one server, as long as it takes connections.
//!
//! The value of the cookie is a hash of the names of upstream and server: it says nothing of the address by itself, it is the same in
//! every wsgate with this configuration and after each restart, and nothing is kept for it. A drain breaks it on purpose: a server that
//! takes no connections has no turn, and the answer of the next one replaces the cookie.

use crate::transport::address::Address;
use crate::upstream::settings::Balance;
use crate::upstream::{Members, Pool, Server};
use sha1::{Digest, Sha1};
use std::fmt::Write;
use std::sync::Arc;

/// The value that the cookie has for a server.
fn token(upstream: &str, server: &Address) -> String {
    let digest = Sha1::new()
        .chain_update(upstream)
        .chain_update([0])
        .chain_update(server.to_string())
        .finalize();
    digest
        .iter()
        .take(10)
        .fold(String::new(), |mut token, byte| {
            // Writing to a String cannot fail.
            let _ = write!(token, "{byte:02x}");
            token
        })
}

impl Pool {
    /// Whether the balance is by a sticky cookie.
    pub(crate) fn is_sticky(&self) -> bool {
        matches!(self.members().settings.balance, Balance::StickyCookie(_))
    }

    /// Name and value of the cookie for an answer of this server; `None` where the balance has none, or the client has it already.
    pub(crate) fn sticky_cookie(
        &self,
        server: &Server,
        known: Option<&[u8]>,
    ) -> Option<(String, String)> {
        let members = self.members();
        let Balance::StickyCookie(name) = &members.settings.balance else {
            return None;
        };
        let token = token(&self.name, &server.address);
        (known != Some(token.as_bytes())).then(|| (name.clone(), token))
    }
}

impl Members {
    /// Puts the server that the cookie names first. Returns false if none of these is it.
    pub(super) fn put_named_first(&self, cookie: &[u8], servers: &mut [Arc<Server>]) -> bool {
        let upstream = &self.settings.name;
        let is_it = |server: &Arc<Server>| token(upstream, &server.address).as_bytes() == cookie;
        let found = servers.iter().position(is_it);
        if let Some(index) = found {
            servers[..=index].rotate_right(1);
        }
        found.is_some()
    }

    /// Whether a request with this key belongs to one server, and waits for it rather than to go to another.
    pub(super) fn belongs_to_one(&self, key: Option<&[u8]>, candidates: &[Arc<Server>]) -> bool {
        match (&self.settings.balance, key) {
            (Balance::Hash(_), Some(_)) => true,
            (Balance::StickyCookie(_), Some(cookie)) => {
                let first = candidates.first();
                first.is_some_and(|server| {
                    token(&self.settings.name, &server.address).as_bytes() == cookie
                })
            }
            _ => false,
        }
    }
}
