//! What of a request decides on its server, where the balance of an upstream is by hash.

use super::asked::Asked;
use super::settings::{Balance, HashKey};
use super::upstream::Pool;
use http::header;
use std::net::IpAddr;

/// The key of a request; `None` where the upstream wants none, or it is absent.
pub(super) fn hash_key(asked: &Asked<'_>, client: Option<IpAddr>, pool: &Pool) -> Option<Vec<u8>> {
    let members = pool.members();
    match &members.settings.balance {
        Balance::LeastConnections | Balance::RoundRobin => None,
        Balance::Hash(key) => find(key, asked, client),
    }
}

fn find(key: &HashKey, asked: &Asked<'_>, client: Option<IpAddr>) -> Option<Vec<u8>> {
    let found = match key {
        HashKey::Header(name) => {
            let mut fields = asked.fields();
            let (_, value) = fields.find(|(field, _)| field.eq_ignore_ascii_case(name))?;
            value.to_vec()
        }
        HashKey::Cookie(name) => {
            let pairs = asked.text(header::COOKIE).split(';');
            let mut values = pairs.filter_map(|pair| pair.trim().split_once('='));
            let (_, value) = values.find(|(known, _)| known == name)?;
            value.as_bytes().to_vec()
        }
        HashKey::Query(name) => {
            let pairs = asked.uri().query()?.split('&');
            let mut values = pairs.filter_map(|pair| pair.split_once('='));
            let (_, value) = values.find(|(known, _)| known == name)?;
            value.as_bytes().to_vec()
        }
        HashKey::Path => asked.uri().path().as_bytes().to_vec(),
        HashKey::ClientAddress => client?.to_string().into_bytes(),
    };
    (!found.is_empty()).then_some(found)
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
        let asked = Asked::of(&request);
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
            assert_eq!(find(&key, &asked, client), expected, "{key:?}");
        }
        assert_eq!(find(&HashKey::ClientAddress, &asked, None), None);
    }
}
