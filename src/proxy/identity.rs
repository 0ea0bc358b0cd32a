//! Who a request comes from: the address of the client, as far as those between can be believed; and what servers are
//! told of it.

use super::answer::text;
use super::secured;
use super::settings::{Client, ForwardedHeader};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::tls::SslDigest;
use pingora::{ErrorType, OrErr, Result};
use std::net::{IpAddr, SocketAddr};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Who a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The client's address; `None` for one on a Unix socket that nobody vouches for.
    pub client: Option<IpAddr>,
    /// The peer of the connection, `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    /// The peer is one of those whose word is taken.
    pub is_trusted: bool,
}

/// Whether an address is in one of these networks. An IPv4 address in IPv6 clothes is an IPv4 address.
pub(super) fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Who the request of a session comes from.
pub(super) fn identify(session: &ServerSession, settings: &Client) -> Identity {
    let peer = session
        .client_addr()
        .and_then(|address| address.as_inet())
        .map(|address| address.ip().to_canonical());
    of(peer, &session.req_header().headers, settings)
}

fn of(peer: Option<IpAddr>, headers: &HeaderMap, settings: &Client) -> Identity {
    let is_trusted = match peer {
        Some(peer) => is_in(&settings.trusted_proxies, peer),
        None => settings.trust_unix,
    };
    let mut client = peer;
    if is_trusted {
        // From the nearest to the farthest: each vouches for the one before it, up to the first that is not trusted.
        for hop in chain(headers, settings.forwarded_header) {
            let Some(hop) = hop else { break };
            client = Some(hop);
            if !is_in(&settings.trusted_proxies, hop) {
                break;
            }
        }
    }
    Identity {
        client,
        peer,
        is_trusted,
    }
}

/// The addresses that a request passed by, the last first; `None` for what is no address.
fn chain(headers: &HeaderMap, header: ForwardedHeader) -> Vec<Option<IpAddr>> {
    // A longer chain is no chain but an attempt.
    const MOST: usize = 32;
    let name = match header {
        ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardedHeader::Forwarded => header::FORWARDED,
    };
    let values = headers.get_all(name);
    let mut hops: Vec<Option<IpAddr>> = Vec::new();
    for value in values.iter().rev() {
        let Ok(value) = value.to_str() else {
            hops.push(None);
            break;
        };
        for element in value.rsplit(',').take(MOST) {
            hops.push(match header {
                ForwardedHeader::XForwardedFor => address(element),
                // RFC 7239 §4: `for=192.0.2.43;proto=http`.
                ForwardedHeader::Forwarded => element.split(';').find_map(|pair| {
                    let (key, value) = pair.trim().split_once('=')?;
                    key.eq_ignore_ascii_case("for").then(|| address(value))?
                }),
            });
        }
        if hops.len() >= MOST {
            break;
        }
    }
    hops.truncate(MOST);
    hops
}

/// An address as proxies write it: with a port or without, in brackets and quotes or without.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let ip: Option<IpAddr> = inner.unwrap_or(text).parse().ok();
    let ip = ip.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    ip.map(|ip| ip.to_canonical())
}

/// Tells the server who asked, by which host and scheme.
///
/// `X-Forwarded-For` is continued with the peer; the others say what was seen here, unless a trusted peer said it before.
/// `host` is what the client asked for, `tls` what is known of a connection that is encrypted.
pub(super) fn forwarded(
    request: &mut RequestHeader,
    identity: Identity,
    host: Option<HeaderValue>,
    tls: Option<&SslDigest>,
) -> Result<()> {
    if let Some(peer) = identity.peer {
        let mut chain: Vec<String> = request
            .headers
            .get_all(X_FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok().map(|value| value.trim().to_owned()))
            .filter(|value| !value.is_empty())
            .collect();
        chain.push(peer.to_string());
        request.insert_header("X-Forwarded-For", chain.join(", "))?;
    }
    let claimed = identity.is_trusted && request.headers.contains_key(X_FORWARDED_HOST);
    if let Some(host) = host.filter(|_| !claimed) {
        request.insert_header("X-Forwarded-Host", host)?;
    }
    let proto = forwarded_proto(&request.headers).filter(|_| identity.is_trusted);
    let seen = if tls.is_some() { "https" } else { "http" };
    request.insert_header(
        "X-Forwarded-Proto",
        proto.unwrap_or_else(|| seen.to_owned()),
    )?;
    if let Some((name, subject)) = tls.and_then(secured::identity) {
        // RFC 4514 escapes what has no place in a header.
        let value = HeaderValue::from_bytes(subject.as_bytes()).or_err(
            ErrorType::InvalidHTTPHeader,
            "a subject that no header can hold",
        )?;
        request.insert_header(name.to_owned(), value)?;
    }
    Ok(())
}

/// What a trusted peer says of the scheme that the client used.
fn forwarded_proto(headers: &HeaderMap) -> Option<String> {
    let claimed = text(headers, HeaderName::from_static("x-forwarded-proto"));
    matches!(claimed, "http" | "https" | "ws" | "wss").then(|| claimed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(header: ForwardedHeader) -> Client {
        Client {
            trusted_proxies: vec![
                "10.0.0.0/8".parse().unwrap(),
                "2001:db8::/32".parse().unwrap(),
            ],
            forwarded_header: header,
            ..Client::default()
        }
    }

    fn client(peer: &str, header: ForwardedHeader, values: &[&str]) -> Option<IpAddr> {
        let name = match header {
            ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => header::FORWARDED,
        };
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        of(peer.parse().ok(), &headers, &settings(header)).client
    }

    #[test]
    fn only_the_word_of_trusted_ones_is_taken() {
        let of = |peer, values: &[&str]| client(peer, ForwardedHeader::XForwardedFor, values);
        for (peer, values, expected) in [
            ("203.0.113.9", &["1.2.3.4"][..], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            ("::ffff:10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            // What the client itself wrote is to the left of what the proxies saw.
            (
                "10.0.0.1",
                &["1.2.3.4, 203.0.113.7, 10.9.9.9"],
                "203.0.113.7",
            ),
            ("10.0.0.1", &["1.2.3.4", "203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
            ("10.0.0.1", &["203.0.113.7, nonsense"], "10.0.0.1"),
            ("10.0.0.1", &["nonsense, 10.2.2.2"], "10.2.2.2"),
            ("10.0.0.1", &["203.0.113.7:4711"], "203.0.113.7"),
            ("2001:db8::1", &["[2001:470::7]:4711"], "2001:470::7"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["\u{fc}"], "10.0.0.1"),
        ] {
            assert_eq!(of(peer, values), expected.parse().ok(), "{peer} {values:?}");
        }
        let long = vec!["10.1.1.1"; 100_000].join(",");
        assert_eq!(of("10.0.0.1", &[&long]), "10.1.1.1".parse().ok());
    }

    #[test]
    fn the_standard_header_too() {
        let of = |values: &[&str]| client("10.0.0.1", ForwardedHeader::Forwarded, values);
        for (value, expected) in [
            ("for=203.0.113.7", "203.0.113.7"),
            (
                "proto=https;For=\"[2001:470::7]:4711\";by=10.0.0.1",
                "2001:470::7",
            ),
            ("for=1.2.3.4, for=203.0.113.7, for=10.9.9.9", "203.0.113.7"),
            ("for=_hidden", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
        ] {
            assert_eq!(of(&[value]), expected.parse().ok(), "{value}");
        }
    }

    #[test]
    fn forwarding_continues_the_chain_and_overwrites_claims() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("Host", "chat.example.com").unwrap();
        request
            .append_header("X-Forwarded-For", "203.0.113.7")
            .unwrap();
        request
            .append_header("X-Forwarded-For", " 10.0.0.1 ")
            .unwrap();
        request
            .insert_header("X-Forwarded-Proto", "gopher")
            .unwrap();
        request
            .insert_header("X-Forwarded-Host", "evil.example")
            .unwrap();
        let peer = Some([127, 0, 0, 1].into());
        let identity = |is_trusted| Identity {
            client: peer,
            peer,
            is_trusted,
        };
        let host = HeaderValue::from_static("chat.example.com");
        let mut trusted = request.clone();
        forwarded(&mut request, identity(false), Some(host.clone()), None).unwrap();
        assert_eq!(
            text(&request.headers, X_FORWARDED_FOR),
            "203.0.113.7, 10.0.0.1, 127.0.0.1"
        );
        assert_eq!(
            text(
                &request.headers,
                HeaderName::from_static("x-forwarded-proto")
            ),
            "http"
        );
        let host = X_FORWARDED_HOST;
        assert_eq!(text(&request.headers, host.clone()), "chat.example.com");
        assert_eq!(request.headers.get_all(host).iter().count(), 1);
        // Whom we trust may say it.
        trusted.insert_header("X-Forwarded-Proto", "https").unwrap();
        let asked = HeaderValue::from_static("chat.example.com");
        forwarded(&mut trusted, identity(true), Some(asked), None).unwrap();
        let of = |name| text(&trusted.headers, HeaderName::from_static(name));
        assert_eq!(
            (of("x-forwarded-proto"), of("x-forwarded-host")),
            ("https", "evil.example")
        );
    }
}
