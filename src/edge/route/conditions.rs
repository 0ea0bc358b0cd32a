//! The conditions of a route: properties that a request has to have beside the host and the path of the route. A condition selects a
//! route and protects nothing, because a client can send any header and any query.

use crate::edge::http::client_request::ClientRequest;
use crate::edge::route::hash_key::{is, named};
use crate::handshake::Fields;
use http::header::HeaderName;
use http::{Method, header};

/// The conditions of a route. All of them have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Conditions {
    /// The method is one of these; empty for any.
    pub methods: Vec<Method>,
    /// Each of these headers has one line with this value, or exists where no value is given.
    pub headers: Vec<(HeaderName, Option<String>)>,
    /// The query has each of these arguments with this value, or with any where no value is given. Compared as it is written.
    pub query: Vec<(String, Option<String>)>,
    /// The client offers one of these subprotocols; empty for any offer, and for none.
    pub subprotocols: Vec<String>,
}

impl Conditions {
    /// How many there are: of the routes of one host and path, the one with most conditions is tried first.
    pub(super) fn count(&self) -> usize {
        let lists = [!self.methods.is_empty(), !self.subprotocols.is_empty()];
        let lists = lists.into_iter().filter(|is_there| *is_there).count();
        lists + self.headers.len() + self.query.len()
    }

    /// Whether a request meets all of them.
    pub(crate) fn hold(&self, request: &ClientRequest<'_>) -> bool {
        let has_header = |(name, value): &(HeaderName, Option<String>)| {
            let mut lines = request.lines(name.clone());
            match value {
                None => lines.next().is_some(),
                Some(value) => lines.any(|line| line == value.as_bytes()),
            }
        };
        let has_argument = |(name, value): &(String, Option<String>)| {
            let mut pairs = request.query().unwrap_or_default().split(is(b'&'));
            pairs.any(|pair| match (named(pair, name), value) {
                (Some(found), Some(value)) => found == value.as_bytes(),
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => pair == name.as_bytes(),
            })
        };
        let offers = || {
            let lines = request.lines(header::SEC_WEBSOCKET_PROTOCOL);
            let mut offers = lines
                .flat_map(|line| line.split(is(b',')))
                .map(<[u8]>::trim_ascii);
            offers.any(|offer| {
                self.subprotocols
                    .iter()
                    .any(|wanted| wanted.as_bytes() == offer)
            })
        };
        (self.methods.is_empty() || self.methods.contains(&request.line().method))
            && self.headers.iter().all(has_header)
            && self.query.iter().all(has_argument)
            && (self.subprotocols.is_empty() || offers())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_conditions_have_to_hold() {
        let head =
            b"POST /a?v=2&debug&x=1 HTTP/1.1\r\nHost: a\r\nX-Tenant: acme\r\nX-Tenant: other\r\n\
            Sec-WebSocket-Protocol: soap, chat\r\nSec-WebSocket-Protocol: graphql-ws\r\n\r\n";
        let request = ClientRequest::parse(head).unwrap();
        let value = |value: &str| (!value.is_empty()).then(|| value.to_owned());
        let header = |name: &str, of: &str| Conditions {
            headers: vec![(name.parse().unwrap(), value(of))],
            ..Conditions::default()
        };
        let query = |name: &str, of: &str| Conditions {
            query: vec![(name.to_owned(), value(of))],
            ..Conditions::default()
        };
        let subprotocol = |name: &str| Conditions {
            subprotocols: vec!["mqtt".to_owned(), name.to_owned()],
            ..Conditions::default()
        };
        let method = |method| Conditions {
            methods: vec![method],
            ..Conditions::default()
        };
        for (conditions, hold) in [
            (Conditions::default(), true),
            (header("x-tenant", "acme"), true),
            (header("x-tenant", "other"), true),
            (header("x-tenant", ""), true),
            (header("x-tenant", "acm"), false),
            (header("x-room", ""), false),
            (query("v", "2"), true),
            (query("v", ""), true),
            (query("debug", ""), true),
            (query("debug", "1"), false),
            (query("v", "1"), false),
            (query("w", ""), false),
            (subprotocol("chat"), true),
            (subprotocol("graphql-ws"), true),
            (subprotocol("Chat"), false),
            (method(Method::POST), true),
            (method(Method::GET), false),
        ] {
            assert_eq!(conditions.hold(&request), hold, "{conditions:?}");
            let with_one_that_holds = Conditions {
                methods: match conditions.methods.is_empty() {
                    true => vec![Method::POST],
                    false => conditions.methods.clone(),
                },
                ..conditions
            };
            assert_eq!(with_one_that_holds.hold(&request), hold);
        }
    }
}
