//! The id of a request: accepted from a trusted proxy, else made. It is in the log of wsgate, and the server gets it.

use crate::edge::client::identity::is_trusted;
use crate::edge::settings::Client;
use crate::handshake::Fields;
use std::net::IpAddr;

/// Longest id that is accepted, in bytes.
const MOST: usize = 128;

/// The id of a request from this peer; `None` where the configuration has no header for it. An id that came is accepted where
/// the peer is a trusted proxy, the header is there once, and it holds 1 to 128 visible characters of ASCII; else the id is 32
/// hexadecimal digits drawn at random.
pub(crate) fn of(headers: &impl Fields, peer: Option<IpAddr>, settings: &Client) -> Option<String> {
    let name = settings.request_id.clone()?;
    let mut came = headers.lines(name);
    let accepted = match (came.next(), came.next()) {
        (Some(id), None) if is_trusted(peer, settings) => str::from_utf8(id).ok(),
        _ => None,
    };
    let is_id = |id: &&str| {
        !id.is_empty() && id.len() <= MOST && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    Some(match accepted.filter(is_id) {
        Some(id) => id.to_owned(),
        None => format!("{:032x}", rand::random::<u128>()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::http::client_request::ClientRequest;

    #[test]
    fn an_id_is_accepted_from_a_trusted_proxy_alone() {
        let settings = Client {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            ..Client::default()
        };
        let long = "a".repeat(MOST + 1);
        for (lines, peer, accepted) in [
            (&["7f-a"][..], "10.0.0.1", Some("7f-a")),
            (&["7f-a"], "192.0.2.1", None),
            (&["7f-a", "b"], "10.0.0.1", None),
            (&["a b"], "10.0.0.1", None),
            (&[""], "10.0.0.1", None),
            (&["\u{fc}"], "10.0.0.1", None),
            (&[&*long], "10.0.0.1", None),
            (&[], "10.0.0.1", None),
        ] {
            let lines: String = lines
                .iter()
                .map(|line| format!("x-request-ID: {line}\r\n"))
                .collect();
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let request = ClientRequest::parse(head.as_bytes()).unwrap();
            let id = of(&request, Some(peer.parse().unwrap()), &settings).unwrap();
            match accepted {
                Some(accepted) => assert_eq!(id, accepted),
                None => assert!(
                    id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()),
                    "{id}"
                ),
            }
        }
        let off = Client {
            request_id: None,
            ..Client::default()
        };
        let request = ClientRequest::parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(of(&request, None, &off), None);
    }
}
