//! Changes to the headers of a message on its way.

use crate::edge::settings::{Auth, HeaderRules, Route};
use crate::handshake;
use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use std::borrow::Cow;

/// Headers that a server gets because the access service said so.
pub(crate) type AuthHeaders = Vec<(HeaderName, HeaderValue)>;

/// Which headers of a message do not go on, and which come with it instead. A later change counts more than an earlier
/// one.
///
/// Messages pass by this way, whether Pingora writes them or we do: what came is not copied to be changed.
///
/// Names in a request are compared as servers may take them (`X_User` is `X-User`), those in a response as HTTP has them.
#[derive(Debug)]
pub(crate) struct Changes<'a> {
    removed: Vec<Cow<'a, str>>,
    added: Vec<(Cow<'a, str>, Cow<'a, [u8]>)>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request {
        /// Headers by which proxies speak of a client are removed: the client itself may have written them.
        drops_claims: bool,
    },
    Response,
}

impl<'a> Changes<'a> {
    /// Takes these away from a request.
    pub(crate) fn of_request(names: impl Iterator<Item = &'a str>) -> Self {
        let drops_claims = false;
        Changes::of(names, Kind::Request { drops_claims })
    }

    /// Takes these away from a response.
    pub(crate) fn of_response(names: impl Iterator<Item = &'a str>) -> Self {
        Changes::of(names, Kind::Response)
    }

    fn of(names: impl Iterator<Item = &'a str>, kind: Kind) -> Self {
        // As many as an upgrade has, whose changes are most.
        let mut removed = Vec::with_capacity(16);
        removed.extend(names.map(Cow::Borrowed));
        Changes {
            removed,
            added: Vec::with_capacity(8),
            kind,
        }
    }

    /// Removes the headers of the request that only a proxy in front could honestly have set.
    pub(crate) fn drop_claims(&mut self) {
        if let Kind::Request { drops_claims } = &mut self.kind {
            *drops_claims = true;
        }
    }

    /// None of this name goes on, in whatever case it is written.
    pub(crate) fn remove(&mut self, name: impl Into<Cow<'a, str>>) {
        let name = name.into();
        let kind = self.kind;
        self.added.retain(|(added, _)| !kind.is_same(added, &name));
        self.removed.push(name);
    }

    /// This one takes the place of those of its name. The value has to be one that may stand in a header.
    pub(crate) fn set(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, [u8]>>) {
        let name = name.into();
        self.remove(name.clone());
        self.add(name, value);
    }

    /// This one comes beside those of its name. The value has to be one that may stand in a header.
    pub(crate) fn add(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, [u8]>>) {
        self.added.push((name.into(), value.into()));
    }

    /// Sets the id of the request, in the header that the configuration has for it.
    pub(crate) fn set_request_id(&mut self, request_id: Option<(&'a HeaderName, &'a str)>) {
        if let Some((name, id)) = request_id {
            self.set(name.as_str(), id.as_bytes());
        }
    }

    /// Tells the server which beginning of the path was replaced. Without the slash at its end, so that a server writes its own
    /// paths behind it.
    pub(crate) fn tell_prefix(&mut self, route: &'a Route) {
        if route.replace_path.is_some() {
            let prefix = route.path.trim_end_matches('/');
            self.set("X-Forwarded-Prefix", prefix.as_bytes());
        }
    }

    /// The rules of a route.
    pub(crate) fn apply_rules(&mut self, rules: &'a HeaderRules) {
        for name in &rules.remove {
            self.remove(name);
        }
        for (name, value) in &rules.set {
            self.set(name, value.as_bytes());
        }
        for (name, value) in &rules.add {
            self.add(name, value.as_bytes());
        }
    }

    /// Sets the headers of the access service. The client's own headers of these names are removed.
    pub(crate) fn vouch(&mut self, auth: Option<&'a Auth>, auth_headers: &'a AuthHeaders) {
        for name in auth.into_iter().flat_map(|auth| &auth.copy) {
            self.remove(name);
        }
        for (name, value) in auth_headers {
            self.set(name.as_str(), value.as_bytes());
        }
    }

    /// Applies the changes to a head that Pingora writes.
    ///
    /// # Errors
    /// None in practice: names and values were checked before.
    pub(crate) fn apply(self, head: &mut impl Head) -> Result<()> {
        let names = head.names().filter(|name| !self.keeps(name.as_str()));
        let gone: Vec<HeaderName> = names.cloned().collect();
        for name in gone {
            head.remove(&name);
        }
        for (name, value) in self.added {
            head.append(name.into_owned(), &value)?;
        }
        Ok(())
    }

    /// Writes the headers that came, as they are changed, and the end of the head.
    pub(crate) fn write<'b>(
        &self,
        headers: impl Iterator<Item = (&'b str, &'b [u8])>,
        into: &mut BytesMut,
    ) {
        let mut line = |name: &str, value: &[u8]| {
            into.put_slice(name.as_bytes());
            into.put_slice(b": ");
            into.put_slice(value);
            into.put_slice(b"\r\n");
        };
        for (name, value) in headers.filter(|(name, _)| self.keeps(name)) {
            line(name, value);
        }
        for (name, value) in &self.added {
            line(name, value);
        }
        into.put_slice(b"\r\n");
    }

    fn keeps(&self, name: &str) -> bool {
        let is_dropped = match self.kind {
            Kind::Request { drops_claims } => {
                handshake::is_disguised(name) || drops_claims && is_claim(name)
            }
            Kind::Response => false,
        };
        let is = |removed: &Cow<'_, str>| self.kind.is_same(removed, name);
        !is_dropped && !self.removed.iter().any(is)
    }
}

impl Kind {
    fn is_same(self, one: &str, other: &str) -> bool {
        match self {
            Kind::Request { .. } => handshake::is_same_variable(one, other),
            Kind::Response => one.eq_ignore_ascii_case(other),
        }
    }
}

// Envoy removes all of its own from requests of strangers too.
const CLAIM_BEGINNINGS: [&str; 2] = ["x-forwarded-", "x-envoy-"];
const CLAIMS: [&str; 26] = [
    "x-original-for",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-method",
    "x-original-proto",
    "x-original-uri",
    "x-original-url",
    "forwarded",
    "forwarded-for",
    "x-forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-remote-addr",
    "x-remote-ip",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "proxy-client-ip",
    "wl-proxy-client-ip",
    "front-end-https",
    "x-scheme",
    "x-url-scheme",
    "x-rewrite-url",
];

/// Whether proxies use this header to tell servers the client's address or scheme, or the host, target or method that it
/// asked for. No client has a reason to send one, and some framework believes each of them.
fn is_claim(name: &str) -> bool {
    let begins = |with: &&str| {
        name.get(..with.len())
            .is_some_and(|start| handshake::is_same_variable(start, with))
    };
    CLAIM_BEGINNINGS.iter().any(begins)
        || CLAIMS
            .iter()
            .any(|claim| handshake::is_same_variable(claim, name))
}

/// Takes away what goes no further than the hop that an answer came by.
pub(crate) fn end_hop(head: &mut ResponseHeader) {
    let names: Vec<_> = handshake::hop_by_hop(&head.headers)
        .filter(|name| head.headers.contains_key(*name))
        .map(ToOwned::to_owned)
        .collect();
    for name in names {
        head.remove_header(&name);
    }
}

/// Applies the header rules of a route to an answer.
///
/// # Errors
/// None in practice: names and values were checked before.
pub(crate) fn apply_rules(head: &mut ResponseHeader, rules: &HeaderRules) -> Result<()> {
    let mut changes = Changes::of_response(std::iter::empty());
    changes.apply_rules(rules);
    changes.apply(head)
}

/// RFC 9113 §8.2.3: the cookies of HTTP/2 may come in several fields, and "MUST be concatenated into a single octet string
/// using the two-octet delimiter of 0x3b, 0x20 [...] before being passed into a non-HTTP/2 context".
///
/// # Errors
/// None in practice: the values were headers before.
pub(crate) fn join_cookies(head: &mut RequestHeader) -> Result<()> {
    let mut crumbs = head.headers.get_all(header::COOKIE).iter();
    if crumbs.by_ref().nth(1).is_none() {
        return Ok(());
    }
    let crumbs = head.headers.get_all(header::COOKIE).iter();
    let crumbs: Vec<_> = crumbs.map(HeaderValue::as_bytes).collect();
    let joined = crumbs.join(&b"; "[..]);
    head.insert_header(header::COOKIE, joined)
}

/// How many bytes the body of a response to this request has, where its head says so.
pub(crate) fn body_length(request: &RequestHeader, response: &ResponseHeader) -> Option<usize> {
    let status = response.status;
    let never = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if never || request.method == Method::HEAD {
        return Some(0);
    }
    if response.headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    let length = response.headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Both kinds of heads that Pingora has, which have the same methods and no trait for them.
pub(crate) trait Head {
    fn names(&self) -> impl Iterator<Item = &HeaderName>;
    fn remove(&mut self, name: &HeaderName);
    fn append(&mut self, name: String, value: &[u8]) -> Result<()>;
}

macro_rules! is_head {
    ($head:ty) => {
        impl Head for $head {
            fn names(&self) -> impl Iterator<Item = &HeaderName> {
                self.headers.keys()
            }

            fn remove(&mut self, name: &HeaderName) {
                self.remove_header(name);
            }

            fn append(&mut self, name: String, value: &[u8]) -> Result<()> {
                self.append_header(name, value).map(drop)
            }
        }
    };
}

is_head!(RequestHeader);
is_head!(ResponseHeader);

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that are left of these, in lower case.
    fn left(changes: &Changes<'_>, came: &[&'static str]) -> Vec<&'static str> {
        let mut written = BytesMut::new();
        changes.write(came.iter().map(|name| (*name, &b"1"[..])), &mut written);
        let text = str::from_utf8(&written).unwrap();
        let is_left = |name: &&&'static str| text.contains(&format!("{name}: 1\r\n"));
        came.iter().filter(is_left).copied().collect()
    }

    #[test]
    fn what_servers_take_for_the_same_is_the_same_in_a_request() {
        let came = ["X-User", "x_user", "X_uSER", "X-Users", "X", "User_Agent"];
        let mut request = Changes::of_request(["x-user"].into_iter());
        assert_eq!(left(&request, &came), ["X-Users", "X", "User_Agent"]);
        request.add("X_User", &b"2"[..]);
        request.set("X-USER", &b"3"[..]);
        let mut written = BytesMut::new();
        request.write(std::iter::empty(), &mut written);
        assert_eq!(written, "X-USER: 3\r\n\r\n");
        let response = Changes::of_response(["x-user"].into_iter());
        assert_eq!(left(&response, &came), &came[1..]);
    }

    #[test]
    fn framing_in_disguise_goes_no_further() {
        let came = [
            "Content-Length",
            "Content_Length",
            "content_length",
            "Transfer_Encoding",
            "Sec_WebSocket_Key",
            "Sec-WebSocket_Key",
            "Sec-WebSocket-Key",
            "Keep_Alive",
            "Content_Type",
        ];
        let request = Changes::of_request(std::iter::empty());
        let kept = ["Content-Length", "Sec-WebSocket-Key", "Content_Type"];
        assert_eq!(left(&request, &came), kept);
    }

    #[test]
    fn the_reference_names_every_claim() {
        let reference = include_str!("../../../conf/reference.toml").to_ascii_lowercase();
        for name in CLAIMS.iter().chain(&CLAIM_BEGINNINGS) {
            // The reference writes the second half of these alone.
            let written = name.strip_prefix("x-original").unwrap_or(name);
            assert!(reference.contains(written), "{name}");
        }
    }

    #[test]
    fn claims_are_dropped_where_nobody_is_believed() {
        let came = [
            "X-Real-IP",
            "X_Real_Ip",
            "X-Forwarded-Port",
            "X_FORWARDED_ANYTHING",
            "Forwarded",
            "X-Original-URL",
            "True-Client-IP",
            "X-Forwardedness",
            "X-Original-Filename",
            "X-Real",
            "Host",
        ];
        let mut request = Changes::of_request(std::iter::empty());
        assert_eq!(left(&request, &came), came);
        request.drop_claims();
        assert_eq!(left(&request, &came), &came[7..]);
    }

    #[test]
    fn cookies_are_one_field() {
        for (crumbs, joined) in [
            (&[][..], &[][..]),
            (&["a=1"], &["a=1"]),
            (&["a=1; b=2"], &["a=1; b=2"]),
            (&["a=1", "b=2; c=3", "d=4"], &["a=1; b=2; c=3; d=4"]),
        ] {
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            for crumb in crumbs {
                head.append_header("cookie", *crumb).unwrap();
            }
            join_cookies(&mut head).unwrap();
            let lines = head.headers.get_all(header::COOKIE).iter();
            let lines: Vec<_> = lines.map(|line| line.to_str().unwrap()).collect();
            assert_eq!(lines, joined, "{crumbs:?}");
        }
    }

    #[test]
    fn lengths_of_responses() {
        for (method, status, headers, length) in [
            ("GET", 200, &[("content-length", "7")][..], Some(7)),
            ("HEAD", 200, &[("content-length", "7")], Some(0)),
            ("GET", 204, &[], Some(0)),
            ("GET", 304, &[("content-length", "7")], Some(0)),
            ("GET", 200, &[], None),
            ("GET", 200, &[("content-length", "seven")], None),
            (
                "GET",
                200,
                &[("content-length", "7"), ("transfer-encoding", "chunked")],
                None,
            ),
        ] {
            let request = RequestHeader::build(method, b"/", None).unwrap();
            let mut response = ResponseHeader::build(status, None).unwrap();
            for (name, value) in headers {
                response.append_header(*name, *value).unwrap();
            }
            let found = body_length(&request, &response);
            assert_eq!(found, length, "{method} {status} {headers:?}");
        }
    }
}
