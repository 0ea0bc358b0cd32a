//! Who a request comes from: the address of the client, as far as those between can be believed; and what servers are
//! told of it.

use super::headers::Changes;
use super::secured;
use super::settings::{Client, ForwardedHeader};
use crate::handshake::Fields;
use http::HeaderValue;
use http::header::{self, HeaderName};
use ipnet::IpNet;
use pingora::protocols::tls::SslDigest;
use pingora::{ErrorType, OrErr, Result};
use std::net::{IpAddr, SocketAddr};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

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

/// Whether a peer is one of those whose word on the client is taken; `None` is one on a Unix socket.
pub(super) fn is_trusted(peer: Option<IpAddr>, settings: &Client) -> bool {
    match peer {
        Some(peer) => is_in(&settings.trusted_proxies, peer),
        None => settings.trust_unix,
    }
}

/// Who a request comes from that this peer sent.
pub(super) fn identify(peer: Option<IpAddr>, headers: &impl Fields, settings: &Client) -> Identity {
    let is_trusted = is_trusted(peer, settings);
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
fn chain(headers: &impl Fields, header: ForwardedHeader) -> Vec<Option<IpAddr>> {
    // A longer chain is no chain but an attempt.
    const MOST: usize = 32;
    let name = match header {
        ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardedHeader::Forwarded => header::FORWARDED,
    };
    let values: Vec<&[u8]> = headers.lines(name).collect();
    let mut hops: Vec<Option<IpAddr>> = Vec::new();
    for value in values.into_iter().rev() {
        let Ok(value) = str::from_utf8(value) else {
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
/// `headers` are those that came, `host` is what the client asked for, `tls` what is known of a connection that is
/// encrypted.
///
/// # Errors
/// A subject that no header can hold.
pub(super) fn forwarded<'a>(
    changes: &mut Changes<'a>,
    headers: &impl Fields,
    identity: Identity,
    host: Option<&'a [u8]>,
    tls: Option<&'a SslDigest>,
) -> Result<()> {
    if let Some(peer) = identity.peer {
        let mut chain = String::new();
        for hop in changes.kept(headers, X_FORWARDED_FOR) {
            let hop = str::from_utf8(hop).unwrap_or_default().trim();
            if !hop.is_empty() && hop.is_ascii() {
                chain.push_str(hop);
                chain.push_str(", ");
            }
        }
        chain.push_str(&peer.to_string());
        changes.set("X-Forwarded-For", chain.into_bytes());
    }
    let mut claimed = changes.kept(headers, X_FORWARDED_HOST);
    let is_claimed = identity.is_trusted && claimed.next().is_some();
    if let Some(host) = host.filter(|_| !is_claimed) {
        changes.set("X-Forwarded-Host", host);
    }
    let mut claimed = changes.kept(headers, X_FORWARDED_PROTO);
    let claimed = claimed.next().filter(|_| identity.is_trusted);
    let known = ["http", "https", "ws", "wss"].into_iter();
    let proto = claimed.and_then(|claimed| known.clone().find(|known| known.as_bytes() == claimed));
    let seen = if tls.is_some() { "https" } else { "http" };
    changes.set("X-Forwarded-Proto", proto.unwrap_or(seen).as_bytes());
    if let Some((name, subject)) = tls.and_then(secured::identity) {
        // RFC 4514 escapes what has no place in a header.
        HeaderValue::from_bytes(subject.as_bytes()).or_err(
            ErrorType::InvalidHTTPHeader,
            "a subject that no header can hold",
        )?;
        changes.set(name, subject.as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use http::HeaderMap;

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
        identify(peer.parse().ok(), &headers, &settings(header)).client
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

    /// What a server gets of these headers.
    fn told(came: &[(&'static str, &str)], is_trusted: bool, named: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in came {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let peer = Some([127, 0, 0, 1].into());
        let identity = Identity {
            client: peer,
            peer,
            is_trusted,
        };
        let host = b"chat.example.com".as_slice();
        let mut changes = Changes::of(named.iter().copied());
        forwarded(&mut changes, &headers, identity, Some(host), None).unwrap();
        let mut written = BytesMut::new();
        let came = headers.iter();
        let came = came.map(|(name, value)| (name.as_str(), value.as_bytes()));
        changes.write(came, &mut written);
        let mut lines: Vec<_> = str::from_utf8(&written).unwrap().lines().collect();
        assert_eq!(lines.pop(), Some(""));
        lines.sort();
        lines.into_iter().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn forwarding_continues_the_chain_and_overwrites_claims() {
        let came = [
            ("x-forwarded-for", "203.0.113.7"),
            ("x-forwarded-for", " 10.0.0.1 "),
            ("x-forwarded-for", "\u{fc}"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-user", "ann"),
        ];
        let seen = [
            "X-Forwarded-For: 203.0.113.7, 10.0.0.1, 127.0.0.1",
            "X-Forwarded-Host: chat.example.com",
            "X-Forwarded-Proto: http",
            "x-user: ann",
        ];
        assert_eq!(told(&came, false, &[]), seen);
        // Whom we trust may say it.
        let said = [
            "X-Forwarded-For: 203.0.113.7, 10.0.0.1, 127.0.0.1",
            "X-Forwarded-Proto: https",
            "x-forwarded-host: evil.example",
            "x-user: ann",
        ];
        assert_eq!(told(&came, true, &[]), said);
        // Nobody says what is none, or what he takes away himself.
        let gopher = [("x-forwarded-proto", "gopher")];
        assert_eq!(told(&gopher, true, &[])[2], "X-Forwarded-Proto: http");
        let named = ["X-Forwarded-For", "x-forwarded-HOST", "x-forwarded-proto"];
        let fresh = [
            "X-Forwarded-For: 127.0.0.1",
            "X-Forwarded-Host: chat.example.com",
            "X-Forwarded-Proto: http",
            "x-user: ann",
        ];
        assert_eq!(told(&came, true, &named), fresh);
    }
}
