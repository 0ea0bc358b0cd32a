//! The identity of a client: its address, as far as the proxies in between are trusted, and the headers by which servers learn it.
//!
//! Address, scheme and host are taken from the same element of the header: the one that the last trusted proxy wrote.

use crate::edge::client::forwarded;
use crate::edge::client::forwarded::MOST;
use crate::edge::http::authority;
use crate::edge::http::authority::HostError;
use crate::edge::http::client_request::{ClientRequest, Downstream};
use crate::edge::http::headers::Changes;
use crate::edge::http::target;
use crate::edge::settings::{Client, ForwardedHeader};
use crate::handshake::Fields;
use crate::log;
use crate::transport::address::ClientAddress;
use crate::transport::socket::Unnamed;
use crate::transport::tls_stream;
use http::HeaderValue;
use http::header::{self, HeaderName};
use ipnet::IpNet;
use pingora::{ErrorType, OrErr, Result};
use std::net::{IpAddr, Ipv4Addr};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The peer of a connection, and the client behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub client: ClientAddress,
    /// The peer of the connection, `None` on a Unix socket.
    pub peer: Option<IpAddr>,
    /// The peer is a trusted proxy, and these headers of the request are its word.
    believed: Option<ForwardedHeader>,
    /// The place of the element that names the client, from the right.
    hop: u8,
}

impl Identity {
    /// The address by which limits count the client; `None` for a client on a Unix socket, which is not counted. All
    /// unknown clients behind one proxy share the account of the proxy's address.
    pub(crate) fn account(&self) -> Option<IpAddr> {
        match self.client {
            ClientAddress::Known(address) => Some(address),
            ClientAddress::Unknown => Some(self.peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into())),
            ClientAddress::Unix => None,
        }
    }

    /// The client where it is another than the peer.
    pub(crate) fn behind_peer(&self) -> Option<ClientAddress> {
        (self.client != ClientAddress::of_peer(self.peer)).then_some(self.client)
    }
}

/// Whether an address is in one of these networks. An IPv4 address in IPv6 clothes is an IPv4 address.
pub(crate) fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// Whether a peer is one of those whose word on the client is taken; `None` is one on a Unix socket.
pub(crate) fn is_trusted(peer: Option<IpAddr>, settings: &Client) -> bool {
    match peer {
        Some(peer) => is_in(&settings.trusted_proxies, peer),
        None => settings.trust_unix,
    }
}

/// Finds out which client a request comes from.
pub(crate) fn identify(
    downstream: &Downstream,
    headers: &impl Fields,
    settings: &Client,
) -> Identity {
    let peer = downstream.peer;
    let is_trusted = is_trusted(peer, settings);
    let (client, believed) = match downstream.unnamed {
        Some(Unnamed::Unknown) => (ClientAddress::Unknown, None),
        Some(Unnamed::Proxy) => (ClientAddress::of_peer(peer), None),
        None => (
            ClientAddress::of_peer(peer),
            is_trusted.then_some(settings.forwarded_header),
        ),
    };
    let mut identity = Identity {
        client,
        peer,
        believed,
        hop: 0,
    };
    let name = match believed {
        None => return identity,
        Some(ForwardedHeader::XForwardedFor) => X_FORWARDED_FOR,
        Some(ForwardedHeader::Forwarded) => header::FORWARDED,
    };
    let lines: Vec<&[u8]> = headers.lines(name).collect();
    let trusts = |address| is_in(&settings.trusted_proxies, address);
    let walked = match settings.forwarded_header {
        ForwardedHeader::XForwardedFor => walk(forwarded::x_forwarded_for(&lines), trusts),
        ForwardedHeader::Forwarded => {
            let elements = forwarded::elements(&lines);
            walk(elements.map(|element| element.address), trusts)
        }
    };
    match walked {
        Some((client, hop)) => (identity.client, identity.hop) = (client, hop),
        // The trusted proxy itself, as for a health check.
        None if lines.is_empty() => {}
        // The header is there and names nobody.
        None => identity.client = ClientAddress::Unknown,
    }
    identity
}

/// Says in the log, once for each peer, that its word on the client is not taken.
pub(crate) fn report_ignored(headers: &impl Fields, identity: &Identity) {
    let Some(peer) = identity.peer.filter(|_| identity.believed.is_none()) else {
        return;
    };
    let mut names = [X_FORWARDED_FOR, header::FORWARDED].into_iter();
    let came = names.find(|name| headers.lines(name.clone()).next().is_some());
    const EVENT: &str =
        "a header that names the client is ignored: its peer is none of `trusted_proxies`";
    if let Some(header) = came
        && log::admit_once(EVENT, peer)
    {
        tracing::info!(%peer, %header, "{EVENT}");
    }
}

/// The client, and the place of the element that names it. From the nearest hop to the farthest: each that is trusted
/// vouches for the one before it. `None` where there is no hop.
fn walk(
    hops: impl Iterator<Item = Option<IpAddr>>,
    trusts: impl Fn(IpAddr) -> bool,
) -> Option<(ClientAddress, u8)> {
    let mut found = None;
    for (place, hop) in hops.take(MOST + 1).enumerate() {
        // Elements beyond that number are not read: the client is unknown.
        let Some(address) = hop.filter(|_| place < MOST) else {
            return Some((ClientAddress::Unknown, place as u8));
        };
        found = Some((ClientAddress::Known(address), place as u8));
        if !trusts(address) {
            break;
        }
    }
    found
}

/// Tells the server who asked, by which host and scheme: each of `X-Forwarded-For`, `-Host` and `-Proto` is set or removed.
///
/// `X-Forwarded-For` is continued with the peer; the others say what was seen here, unless a trusted peer says it of the
/// client. `headers` are those that came, `host` is the one by which the route was chosen.
///
/// # Errors
/// A subject that no header can hold.
pub(crate) fn forwarded<'a>(
    changes: &mut Changes<'a>,
    headers: &impl Fields,
    identity: Identity,
    host: &'a str,
    downstream: &'a Downstream,
) -> Result<()> {
    if identity.believed != Some(ForwardedHeader::XForwardedFor) {
        changes.drop_claims();
    }
    // CGI makes of it the variable HTTP_PROXY, which many programs apply_rules (CVE-2016-5385).
    changes.remove("Proxy");
    // RFC 7239 §8.1: of two headers that say the same, one may be the client's. Servers get one.
    changes.remove("Forwarded");
    match chain(headers, identity, downstream.unnamed) {
        chain if chain.is_empty() => changes.remove("X-Forwarded-For"),
        chain => changes.set("X-Forwarded-For", chain.into_bytes()),
    }
    let (claimed_scheme, claimed_host) = claims(headers, identity);
    let scheme = claimed_scheme.unwrap_or(seen_scheme(downstream));
    changes.set("X-Forwarded-Proto", scheme.as_bytes());
    match claimed_host {
        Some(host) => changes.set("X-Forwarded-Host", host.into_bytes()),
        None if host.is_empty() => changes.remove("X-Forwarded-Host"),
        None => changes.set("X-Forwarded-Host", host.as_bytes()),
    }
    if let Some((name, subject)) = downstream.tls.as_deref().and_then(tls_stream::identity) {
        // RFC 4514 escapes what has no place in a header.
        HeaderValue::from_bytes(subject.as_bytes()).or_err(
            ErrorType::InvalidHTTPHeader,
            "a subject that no header can hold",
        )?;
        changes.set(name, subject.as_bytes());
    }
    Ok(())
}

/// Tells the server the host by which the route was chosen, whatever a `Host` header beside the target says: RFC 9112
/// §3.2.2 and RFC 9113 §8.3.1 have the target's count.
pub(crate) fn set_host<'a>(changes: &mut Changes<'a>, headers: &impl Fields, host: &'a str) {
    let mut hosts = headers.lines(header::HOST);
    let is_told = hosts.next() == Some(host.as_bytes()) && hosts.next().is_none();
    if !is_told && !host.is_empty() {
        changes.set("Host", host.as_bytes());
    }
}

/// `X-Forwarded-For` for the server: the hops that came, and the peer.
fn chain(headers: &impl Fields, identity: Identity, unnamed: Option<Unnamed>) -> String {
    const UNKNOWN: &str = "unknown";
    let mut chain = String::new();
    let mut push = |hop: &str| {
        if !chain.is_empty() {
            chain.push_str(", ");
        }
        chain.push_str(hop);
    };
    if identity.believed == Some(ForwardedHeader::Forwarded) {
        let lines: Vec<&[u8]> = headers.lines(header::FORWARDED).collect();
        let elements: Vec<_> = forwarded::elements(&lines).take(MOST).collect();
        for element in elements.into_iter().rev() {
            match element.address {
                Some(address) => push(&address.to_string()),
                None => push(UNKNOWN),
            }
        }
    } else {
        for line in headers.lines(X_FORWARDED_FOR).map(<[u8]>::trim_ascii) {
            match str::from_utf8(line) {
                Ok("") => {}
                Ok(hops) if hops.is_ascii() => push(hops),
                // Left out, it would make what is to its left the word of the next hop.
                _ => push(UNKNOWN),
            }
        }
    }
    if chain.is_empty() && identity.believed.is_some() && identity.client == ClientAddress::Unknown
    {
        // The header is there and names nobody: left out, it would make the proxy the client.
        chain.push_str(UNKNOWN);
    }
    let peer = match (unnamed, identity.peer, identity.believed) {
        (Some(Unnamed::Unknown), ..) => UNKNOWN.to_owned(),
        (_, Some(peer), _) => peer.to_string(),
        (_, None, None) => UNKNOWN.to_owned(),
        // A trusted proxy on a Unix socket has no address, and its word is the last.
        (_, None, Some(_)) => return chain,
    };
    if !chain.is_empty() {
        chain.push_str(", ");
    }
    chain + &peer
}

/// The scheme of the client's request: as seen here, unless a trusted peer says it of the client.
pub(crate) fn scheme(
    headers: &impl Fields,
    identity: Identity,
    downstream: &Downstream,
) -> &'static str {
    let (claimed, _) = claims(headers, identity);
    claimed.unwrap_or(seen_scheme(downstream))
}

/// The URL to which a request is redirected that did not come over TLS: the host that the client asked for, with this port.
/// `None` if it came over TLS.
///
/// # Errors
/// The request names no host.
pub(crate) fn https_url(
    request: &ClientRequest<'_>,
    identity: Identity,
    downstream: &Downstream,
    port: u16,
) -> Result<Option<String>, HostError> {
    let (scheme, host) = claims(request, identity);
    if matches!(scheme.unwrap_or(seen_scheme(downstream)), "https" | "wss") {
        return Ok(None);
    }
    let host = match &host {
        Some(host) => host,
        None => request.host()?,
    };
    let host = authority::normalize(host);
    if host.is_empty() {
        return Err(HostError::Missing);
    }
    let mut url = format!("https://{host}");
    if port != 443 {
        url += &format!(":{port}");
    }
    target::push_encoded(&mut url, request.path());
    if let Some(query) = request.query() {
        url.push('?');
        target::push_encoded(&mut url, query);
    }
    Ok(Some(url))
}

fn seen_scheme(downstream: &Downstream) -> &'static str {
    match downstream.tls {
        Some(_) => "https",
        None => "http",
    }
}

/// By which scheme the client came and for which host it asked, as the proxy says that names the client.
///
/// Lists of their own that have fewer values than there are hops are those of proxies that pass on what they got: then the
/// leftmost value is the one nearest to the client.
fn claims(headers: &impl Fields, identity: Identity) -> (Option<&'static str>, Option<String>) {
    let place = usize::from(identity.hop);
    match identity.believed {
        None => (None, None),
        Some(ForwardedHeader::Forwarded) => {
            let lines: Vec<&[u8]> = headers.lines(header::FORWARDED).collect();
            let element = forwarded::elements(&lines).nth(place);
            let element = element.unwrap_or_default();
            (element.scheme, element.host.map(|host| host.into_owned()))
        }
        Some(ForwardedHeader::XForwardedFor) => {
            let value = |name| {
                let lines: Vec<&[u8]> = headers.lines(name).collect();
                forwarded::values(&lines).take(place + 1).last()
            };
            let scheme = value(X_FORWARDED_PROTO).and_then(forwarded::scheme);
            let host = value(X_FORWARDED_HOST).and_then(forwarded::host);
            (scheme, host.map(ToOwned::to_owned))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use http::HeaderMap;

    const XFF: ForwardedHeader = ForwardedHeader::XForwardedFor;
    const FORWARDED: ForwardedHeader = ForwardedHeader::Forwarded;

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

    fn headers(came: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in came {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn peer(address: &str) -> Downstream {
        Downstream {
            peer: address.parse().ok(),
            ..Downstream::default()
        }
    }

    fn client(peer_address: &str, header: ForwardedHeader, values: &[&str]) -> String {
        let name = match header {
            XFF => "x-forwarded-for",
            FORWARDED => "forwarded",
        };
        let came: Vec<_> = values.iter().map(|value| (name, *value)).collect();
        let identity = identify(&peer(peer_address), &headers(&came), &settings(header));
        identity.client.to_string()
    }

    #[test]
    fn only_the_word_of_trusted_ones_is_taken() {
        let of = |peer, values: &[&str]| client(peer, XFF, values);
        for (peer, values, expected) in [
            ("203.0.113.9", &["1.2.3.4"][..], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            ("::ffff:10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
            // Elements that the client itself wrote stand to the left of those of the proxies.
            (
                "10.0.0.1",
                &["1.2.3.4, 203.0.113.7, 10.9.9.9"],
                "203.0.113.7",
            ),
            ("10.0.0.1", &["1.2.3.4", "203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
            ("10.0.0.1", &["10.2.2.2,, 10.3.3.3 ,"], "10.2.2.2"),
            ("10.0.0.1", &["203.0.113.7:4711"], "203.0.113.7"),
            ("2001:db8::1", &["[2001:470::7]:4711"], "2001:470::7"),
            // A hop that cannot be read is nobody whom a list may contain.
            ("10.0.0.1", &["203.0.113.7, nonsense"], "unknown"),
            ("10.0.0.1", &["nonsense, 10.2.2.2"], "unknown"),
            ("10.0.0.1", &["unknown"], "unknown"),
            ("10.0.0.1", &["203.0.113.007"], "unknown"),
            ("10.0.0.1", &[""], "unknown"),
            ("10.0.0.1", &["\u{fc}"], "unknown"),
            ("10.0.0.1", &["nonsense, 203.0.113.7"], "203.0.113.7"),
        ] {
            assert_eq!(of(peer, values), expected, "{peer} {values:?}");
        }
        let of = |hops| of("10.0.0.1", &[&vec!["10.1.1.1"; hops].join(",")]);
        assert_eq!(
            (of(MOST), of(MOST + 1)),
            ("10.1.1.1".into(), "unknown".into())
        );
        assert_eq!(of(100_000), "unknown");
    }

    #[test]
    fn the_standard_header_too() {
        for (value, expected) in [
            ("for=203.0.113.7", "203.0.113.7"),
            (
                "proto=https;For=\"[2001:470::7]:4711\";by=10.0.0.1",
                "2001:470::7",
            ),
            ("for=1.2.3.4, for=203.0.113.7, for=10.9.9.9", "203.0.113.7"),
            ("host=\"evil;for=10.0.0.1\";for=203.0.113.7", "203.0.113.7"),
            ("for=\"10.0.0.1, for=203.0.113.7", "203.0.113.7"),
            ("for=_hidden", "unknown"),
            ("for=unknown", "unknown"),
            ("proto=https", "unknown"),
            ("for=203.0.113.7, for=10.9.9.9;for=1.2.3.4", "unknown"),
        ] {
            assert_eq!(client("10.0.0.1", FORWARDED, &[value]), expected, "{value}");
        }
        let came = headers(&[("x-forwarded-for", "203.0.113.7")]);
        let identity = identify(&peer("10.0.0.1"), &came, &settings(FORWARDED));
        assert_eq!(identity.client.to_string(), "10.0.0.1");
    }

    /// All unknown clients of one proxy count as one.
    #[test]
    fn limits_count_unknown_clients_too() {
        let account = |peer_address: &str, value| {
            let downstream = peer(peer_address);
            let settings = Client {
                trust_unix: true,
                ..settings(XFF)
            };
            let came = headers(&[("x-forwarded-for", value)]);
            let account = identify(&downstream, &came, &settings).account();
            account
                .map(|account| account.to_string())
                .unwrap_or_default()
        };
        assert_eq!(account("10.0.0.1", "203.0.113.7"), "203.0.113.7");
        assert_eq!(account("10.0.0.1", "unknown"), "10.0.0.1");
        assert_eq!(account("unix", "unknown"), "0.0.0.0");
        assert_eq!(account("unix", "203.0.113.7"), "203.0.113.7");
        // Hashing by the client's address has no key for it.
        assert_eq!(ClientAddress::Unknown.known(), None);
    }

    /// The forwarding headers that a server gets for a request with these headers.
    fn sent_headers(
        downstream: &Downstream,
        family: ForwardedHeader,
        came: &[(&'static str, &str)],
    ) -> Vec<String> {
        let headers = headers(came);
        let settings = Client {
            trust_unix: true,
            ..settings(family)
        };
        let identity = identify(downstream, &headers, &settings);
        let mut changes = Changes::of_request(std::iter::empty());
        forwarded(
            &mut changes,
            &headers,
            identity,
            "chat.example.com",
            downstream,
        )
        .unwrap();
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
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("proxy", "evil.example"),
            ("x-user", "ann"),
        ];
        let seen = [
            "X-Forwarded-For: 203.0.113.7, 10.0.0.1, 192.0.2.1",
            "X-Forwarded-Host: chat.example.com",
            "X-Forwarded-Proto: http",
            "x-user: ann",
        ];
        assert_eq!(sent_headers(&peer("192.0.2.1"), XFF, &came), seen);
        // A trusted proxy may say it.
        let said = [
            "X-Forwarded-For: 203.0.113.7, 10.0.0.1, 10.0.0.2",
            "X-Forwarded-Host: evil.example",
            "X-Forwarded-Proto: https",
            "x-forwarded-port: 443",
            "x-real-ip: 10.0.0.1",
            "x-user: ann",
        ];
        assert_eq!(sent_headers(&peer("10.0.0.2"), XFF, &came), said);
        let empty = sent_headers(&peer("10.0.0.2"), XFF, &[("x-forwarded-for", " ")]);
        assert_eq!(empty[0], "X-Forwarded-For: unknown, 10.0.0.2");
        // Where the proxy speaks by `Forwarded`, the client may have written the other headers.
        let other = [
            "X-Forwarded-For: 10.0.0.1, 10.0.0.2",
            "X-Forwarded-Host: chat.example.com",
            "X-Forwarded-Proto: http",
            "x-user: ann",
        ];
        assert_eq!(sent_headers(&peer("10.0.0.2"), FORWARDED, &came), other);
    }

    #[test]
    fn a_peer_that_names_no_client_is_not_believed() {
        let came = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
        ];
        let unnamed = |address, unnamed| Downstream {
            unnamed: Some(unnamed),
            ..peer(address)
        };
        for (downstream, client, chain) in [
            (
                unnamed("10.0.0.1", Unnamed::Unknown),
                "unknown",
                "1.2.3.4, unknown",
            ),
            (
                unnamed("10.0.0.1", Unnamed::Proxy),
                "10.0.0.1",
                "1.2.3.4, 10.0.0.1",
            ),
            (
                unnamed("unix", Unnamed::Unknown),
                "unknown",
                "1.2.3.4, unknown",
            ),
            (unnamed("unix", Unnamed::Proxy), "unix", "1.2.3.4, unknown"),
            (peer("unix"), "1.2.3.4", "1.2.3.4"),
        ] {
            let settings = Client {
                trust_unix: true,
                ..settings(XFF)
            };
            let identity = identify(&downstream, &headers(&came), &settings);
            assert_eq!(identity.client.to_string(), client, "{downstream:?}");
            let lines = sent_headers(&downstream, XFF, &came);
            assert_eq!(lines[0], format!("X-Forwarded-For: {chain}"));
            let is_believed = lines.contains(&"X-Forwarded-Proto: https".to_owned());
            assert_eq!(is_believed, downstream.unnamed.is_none());
        }
    }

    /// Scheme and host are those of the element that names the client.
    #[test]
    fn scheme_and_host_are_of_the_same_hop_as_the_address() {
        let line = |lines: &[String], name: &str| {
            let found = lines.iter().find_map(|line| line.strip_prefix(name));
            found
                .unwrap_or_default()
                .trim_start_matches(": ")
                .to_owned()
        };
        let of = |family, came: &[(&'static str, &str)]| {
            let lines = sent_headers(&peer("10.0.0.1"), family, came);
            (
                line(&lines, "X-Forwarded-Proto"),
                line(&lines, "X-Forwarded-Host"),
            )
        };
        for (hops, proto, expected) in [
            ("203.0.113.7", "https", "https"),
            ("203.0.113.7", "HTTPS", "https"),
            ("203.0.113.7", "wss", "wss"),
            ("203.0.113.7", "gopher", "http"),
            ("203.0.113.7", "", "http"),
            // Elements to the left of the trusted proxy's own may be the client's.
            ("203.0.113.7", "https, http", "http"),
            ("203.0.113.7", "http,https", "https"),
            ("203.0.113.7, 10.0.0.2", "https,http", "https"),
            ("203.0.113.7, 10.0.0.2", "https, https", "https"),
            ("203.0.113.7, 10.0.0.2", "https", "https"),
            (
                "1.2.3.4, 203.0.113.7, 10.0.0.2",
                "http, https, http",
                "https",
            ),
            ("unknown, 10.0.0.2", "https,http", "https"),
        ] {
            let came = [("x-forwarded-for", hops), ("x-forwarded-proto", proto)];
            assert_eq!(of(XFF, &came).0, expected, "{hops} {proto}");
        }
        let came = [
            ("x-forwarded-for", "203.0.113.7, 10.0.0.2"),
            ("x-forwarded-host", "a.test, b.test"),
        ];
        assert_eq!(of(XFF, &came).1, "a.test");
        let came = [("x-forwarded-host", "evil.test, a.test")];
        assert_eq!(of(XFF, &came).1, "a.test");
        let came = [("x-forwarded-host", "a b")];
        assert_eq!(of(XFF, &came).1, "chat.example.com");
        let value = "for=1.2.3.4;host=evil.test, for=203.0.113.7;proto=HTTPS;host=\"a.test:81\", for=10.0.0.2;proto=http;host=b.test";
        let said = of(FORWARDED, &[("forwarded", value)]);
        assert_eq!(said, ("https".into(), "a.test:81".into()));
    }
}
