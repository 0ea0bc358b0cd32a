//! The header rules of a route.

use super::access::Vouched;
use super::settings::{Auth, HeaderRules};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};

/// Both kinds of heads have the same methods and no trait for them.
macro_rules! apply {
    ($head:expr, $rules:expr) => {{
        for name in &$rules.remove {
            $head.remove_header(name.as_str());
        }
        for (name, value) in &$rules.set {
            $head.insert_header(name.clone(), value.as_str())?;
        }
        for (name, value) in &$rules.add {
            $head.append_header(name.clone(), value.as_str())?;
        }
        Ok(())
    }};
}

/// What a server gets.
pub(super) fn change_request(head: &mut RequestHeader, rules: &HeaderRules) -> Result<()> {
    apply!(head, rules)
}

/// What a client gets.
pub(super) fn change_response(head: &mut ResponseHeader, rules: &HeaderRules) -> Result<()> {
    apply!(head, rules)
}

/// What the access service vouches for, and nobody else.
pub(super) fn vouch(
    head: &mut RequestHeader,
    auth: Option<&Auth>,
    vouched: &Vouched,
) -> Result<()> {
    for name in auth.into_iter().flat_map(|auth| &auth.copy) {
        head.remove_header(name.as_str());
    }
    for (name, value) in vouched {
        head.insert_header(name.clone(), value.clone())?;
    }
    Ok(())
}
