//! What is changed of the headers of a message on its way.

use super::settings::{Auth, HeaderRules};
use crate::handshake::{self, Fields};
use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use std::borrow::Cow;

/// Headers that a server gets because the access service said so.
pub(super) type Vouched = Vec<(HeaderName, HeaderValue)>;

/// Which headers of a message do not go on, and which come with it instead. A later change counts more than an earlier
/// one.
///
/// Messages pass by this way, whether Pingora writes them or we do: what came is not copied to be changed.
#[derive(Debug, Default)]
pub(super) struct Changes<'a> {
    removed: Vec<Cow<'a, str>>,
    added: Vec<(Cow<'a, str>, Cow<'a, [u8]>)>,
}

impl<'a> Changes<'a> {
    /// Takes these away.
    pub fn of(names: impl Iterator<Item = &'a str>) -> Self {
        // As many as an upgrade has, whose changes are most.
        let mut removed = Vec::with_capacity(16);
        removed.extend(names.map(Cow::Borrowed));
        let added = Vec::with_capacity(8);
        Changes { removed, added }
    }

    /// None of this name goes on, in whatever case it is written.
    pub fn remove(&mut self, name: impl Into<Cow<'a, str>>) {
        let name = name.into();
        self.added
            .retain(|(added, _)| !added.eq_ignore_ascii_case(&name));
        self.removed.push(name);
    }

    /// This one takes the place of those of its name. The value has to be one that may stand in a header.
    pub fn set(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, [u8]>>) {
        let name = name.into();
        self.remove(name.clone());
        self.add(name, value);
    }

    /// This one comes beside those of its name. The value has to be one that may stand in a header.
    pub fn add(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, [u8]>>) {
        self.added.push((name.into(), value.into()));
    }

    /// The values of the lines of this name that came and go on.
    pub fn kept<'b, F: Fields>(
        &self,
        headers: &'b F,
        name: HeaderName,
    ) -> impl Iterator<Item = &'b [u8]> + use<'b, F> {
        let keeps = self.keeps(name.as_str());
        headers.lines(name).filter(move |_| keeps)
    }

    /// The rules of a route.
    pub fn obey(&mut self, rules: &'a HeaderRules) {
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

    /// What the access service vouches for, and nobody else.
    pub fn vouch(&mut self, auth: Option<&'a Auth>, vouched: &'a Vouched) {
        for name in auth.into_iter().flat_map(|auth| &auth.copy) {
            self.remove(name);
        }
        for (name, value) in vouched {
            self.set(name.as_str(), value.as_bytes());
        }
    }

    /// Makes them in a head that Pingora writes.
    ///
    /// # Errors
    /// None: names and values have been looked at.
    pub fn apply(self, head: &mut impl Head) -> Result<()> {
        for name in self.removed {
            head.remove(&name);
        }
        for (name, value) in self.added {
            head.append(name.into_owned(), &value)?;
        }
        Ok(())
    }

    /// Writes the headers that came, as they are changed, and the end of the head.
    pub fn write<'b>(
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
        let is = |removed: &Cow<'_, str>| removed.eq_ignore_ascii_case(name);
        !self.removed.iter().any(is)
    }
}

/// Takes away what goes no further than the hop that an answer came by.
pub(super) fn end_hop(head: &mut ResponseHeader) {
    let names: Vec<_> = handshake::hop_by_hop(&head.headers)
        .filter(|name| head.headers.contains_key(*name))
        .map(ToOwned::to_owned)
        .collect();
    for name in names {
        head.remove_header(&name);
    }
}

/// RFC 9113 §8.2.3: the cookies of HTTP/2 may come in several fields, and "MUST be concatenated into a single octet string
/// using the two-octet delimiter of 0x3b, 0x20 [...] before being passed into a non-HTTP/2 context".
///
/// # Errors
/// None: the values have been headers.
pub(super) fn join_cookies(head: &mut RequestHeader) -> Result<()> {
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
pub(super) fn body_length(request: &RequestHeader, response: &ResponseHeader) -> Option<usize> {
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
pub(super) trait Head {
    fn remove(&mut self, name: &str);
    fn append(&mut self, name: String, value: &[u8]) -> Result<()>;
}

macro_rules! is_head {
    ($head:ty) => {
        impl Head for $head {
            fn remove(&mut self, name: &str) {
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
