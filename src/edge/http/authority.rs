//! The host that a request is for: `Host`, `:authority`, or the authority of an absolute request target.

use http::Version;
use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why the host of a request is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that lacks
    /// a Host header field".
    Missing,
    /// §3.2: "and to any request message that contains more than one Host header field line".
    Twice,
    /// §3.2: "or a Host header field with an invalid field value".
    Invalid,
    /// §3.2.2 has a proxy replace `Host` by the authority of an absolute target. Where they differ, somebody in front chose
    /// by the other one.
    Contradiction,
}

impl fmt::Display for HostError {
    /// The sentence in the body of the answer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HostError::Missing => "the Host header is missing",
            HostError::Twice => "the Host header is there twice",
            HostError::Invalid => {
                "the host of the request has to be a name (letters, digits, `-`, `_` and single dots), an IPv4 address, or an \
                 IPv6 address in brackets, with a port or without"
            }
            HostError::Contradiction => "the Host header names another host than the request target",
        })
    }
}

/// The host of a request as it came, port included; empty for a request of HTTP/1.0 that names none. `target` is what its
/// target says (an absolute one, or `:authority`), `hosts` what its Host headers say.
///
/// # Errors
/// Two servers could take it for different hosts.
pub fn host_of<'a>(
    version: Version,
    target: Option<&'a [u8]>,
    mut hosts: impl Iterator<Item = &'a [u8]>,
) -> Result<&'a str, HostError> {
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HostError::Twice);
    }
    let named = match (target, host) {
        (_, None) if version == Version::HTTP_11 => return Err(HostError::Missing),
        (None, None) => return Ok(""),
        (Some(target), Some(host)) if target != host => return Err(HostError::Contradiction),
        (Some(named), _) | (None, Some(named)) => named,
    };
    let named = str::from_utf8(named).map_err(|_| HostError::Invalid)?;
    match is_host(named) {
        true => Ok(named),
        false => Err(HostError::Invalid),
    }
}

/// Whether this is a host with a port or without, RFC 3986 §3.2.2, of the kinds that there are in HTTP.
fn is_host(text: &str) -> bool {
    let (host, port) = split(text);
    let is_port = |port: &str| port.is_empty() || port.len() <= 5 && port.parse::<u16>().is_ok();
    let is_known = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => is_name(host.strip_suffix('.').unwrap_or(host)),
    };
    is_known && port.is_none_or(|port| !port.starts_with('+') && is_port(port))
}

/// Whether this is a name or an IPv4 address. A name whose last label is a number is a way to write an IPv4 address
/// (`127.1`, `0x7f.1`) that a route for `127.0.0.1` would not match.
fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        let mut bytes = label.bytes();
        !label.is_empty() && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_number = match hex {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => last.bytes().all(|byte| byte.is_ascii_digit()),
    };
    host.split('.').all(is_label) && (!is_number || host.parse::<Ipv4Addr>().is_ok())
}

/// A host and its port. The colons inside the brackets of an IPv6 address are not the port's.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}

/// A [host](host_of) in the form in which routes are compared: without its port and the dot of a fully qualified name, in
/// lower case, an IPv6 address in its shortest form.
pub fn normalize(host: &str) -> Cow<'_, str> {
    let (host, _) = split(host);
    let ip = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(ip) = ip.and_then(|ip| ip.parse::<Ipv6Addr>().ok()) {
        return Cow::Owned(format!("[{ip}]"));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_their_normal_form() {
        for (host, normal) in [
            ("Chat.Example.COM", Some("chat.example.com")),
            ("chat.example.com.", Some("chat.example.com")),
            ("chat_1.example:8080", Some("chat_1.example")),
            ("a:", Some("a")),
            ("a:0", Some("a")),
            ("a:65535", Some("a")),
            ("127.0.0.1:80", Some("127.0.0.1")),
            ("[::1]", Some("[::1]")),
            ("[0:0::0:1]:443", Some("[::1]")),
            ("", None),
            (":80", None),
            (".", None),
            ("a..b", None),
            (".example.com", None),
            ("a..", None),
            ("a b", None),
            ("a\t", None),
            ("a,b", None),
            ("a@b", None),
            ("evil.net/.example.com", None),
            ("evil.net\\.example.com", None),
            ("evil.net#.example.com", None),
            ("evil.net%2f.example.com", None),
            ("a:b", None),
            ("a:80:80", None),
            ("a:65536", None),
            ("a:+80", None),
            ("a:000080", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]a", None),
            ("[::1]:x", None),
            ("[fe80::1%25eth0]", None),
            ("[127.0.0.1]", None),
            ("127.1", None),
            ("2130706433", None),
            ("0177.0.0.1", None),
            ("0x7f.0.0.0x1", None),
            ("b\u{fc}cher.example", None),
        ] {
            let found = host_of(Version::HTTP_11, None, [host.as_bytes()].into_iter());
            assert_eq!(found.ok(), normal.map(|_| host), "{host:?}");
            if let Some(normal) = normal {
                assert_eq!(normalize(host), normal, "{host:?}");
                assert_eq!(normalize(normal), normal, "{host:?}");
            }
        }
    }

    #[test]
    fn there_is_one_host() {
        let of = |version, target: Option<&'static str>, hosts: &[&'static str]| {
            let hosts = hosts.iter().map(|host| host.as_bytes());
            host_of(version, target.map(str::as_bytes), hosts)
        };
        let (old, new, two) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        assert_eq!(of(new, None, &[]), Err(HostError::Missing));
        assert_eq!(of(new, Some("a"), &[]), Err(HostError::Missing));
        assert_eq!(of(new, None, &["a", "a"]), Err(HostError::Twice));
        assert_eq!(of(new, Some("a"), &["a"]), Ok("a"));
        assert_eq!(of(new, Some("a"), &["b"]), Err(HostError::Contradiction));
        assert_eq!(of(old, None, &[]), Ok(""));
        assert_eq!(of(old, Some("a"), &[]), Ok("a"));
        assert_eq!(of(two, Some("a"), &[]), Ok("a"));
        assert_eq!(of(two, Some("a"), &["b"]), Err(HostError::Contradiction));
        assert_eq!(of(two, Some("a/b"), &[]), Err(HostError::Invalid));
    }
}
