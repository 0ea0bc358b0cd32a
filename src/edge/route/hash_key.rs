//! The key of a request: the part of it that selects the server, where the balance of an upstream is by hash.

use crate::edge::http::client_request::ClientRequest;
use crate::handshake::Fields;
use crate::upstream::Pool;
use crate::upstream::settings::{Balance, HashKey};
use http::header;
use std::net::IpAddr;

/// The key of a request; `None` where the upstream wants none, or it is absent.
pub(crate) fn hash_key(
    client_request: &ClientRequest<'_>,
    client: Option<IpAddr>,
    pool: &Pool,
) -> Option<Vec<u8>> {
    let members = pool.members();
    match &members.settings.balance {
        Balance::LeastConnections | Balance::RoundRobin => None,
        Balance::Hash(key) => find(key, client_request, client),
        Balance::StickyCookie(name) => find(&HashKey::Cookie(name.clone()), client_request, client),
    }
}

pub(crate) fn find(
    key: &HashKey,
    client_request: &ClientRequest<'_>,
    client: Option<IpAddr>,
) -> Option<Vec<u8>> {
    let found = match key {
        HashKey::Header(name) => {
            let mut fields = client_request.fields();
            let (_, value) = fields.find(|(field, _)| field.eq_ignore_ascii_case(name))?;
            value.to_vec()
        }
        HashKey::Cookie(name) => {
            // RFC 9113 §8.2.3: in HTTP/2 they come in several lines.
            let pairs = client_request
                .lines(header::COOKIE)
                .flat_map(|line| line.split(is(b';')));
            let mut values = pairs.filter_map(|pair| named(pair.trim_ascii(), name));
            values.next()?.to_vec()
        }
        HashKey::Query(name) => {
            let pairs = client_request.query()?.split(is(b'&'));
            let mut values = pairs.filter_map(|pair| named(pair, name));
            values.next()?.to_vec()
        }
        HashKey::Path => client_request.path().to_vec(),
        HashKey::ClientAddress => client?.to_string().into_bytes(),
    };
    (!found.is_empty()).then_some(found)
}

pub(super) fn is(wanted: u8) -> impl Fn(&u8) -> bool {
    move |byte| *byte == wanted
}

/// The value of `name=value`.
pub(super) fn named<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::http::RequestHeader;

    #[test]
    fn keys_of_a_request() {
        let mut request =
            RequestHeader::build("GET", b"/room/7?a=1&user=ann&user=bob", None).unwrap();
        request.insert_header("Cookie", "x=1; sid=42; y=").unwrap();
        request.insert_header("X-User", "carol").unwrap();
        let client_request = ClientRequest::of(&request).unwrap();
        let client = Some([10, 0, 0, 1].into());
        let name = |name: &str| name.to_owned();
        for (key, found) in [
            (HashKey::Header(name("x-user")), Some("carol")),
            (HashKey::Header(name("x-room")), None),
            (HashKey::Cookie(name("sid")), Some("42")),
            (HashKey::Cookie(name("y")), None),
            (HashKey::Cookie(name("si")), None),
            (HashKey::Query(name("user")), Some("ann")),
            (HashKey::Query(name("room")), None),
            (HashKey::Path, Some("/room/7")),
            (HashKey::ClientAddress, Some("10.0.0.1")),
        ] {
            let expected = found.map(|found| found.as_bytes().to_vec());
            assert_eq!(find(&key, &client_request, client), expected, "{key:?}");
        }
        assert_eq!(find(&HashKey::ClientAddress, &client_request, None), None);
    }
}
