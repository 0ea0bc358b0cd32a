//! The lists by which proxies say for whom a request is: `Forwarded` (RFC 7239 §4), `X-Forwarded-For` and its kin.
//! Pure: the lines of a header in, its elements out. Public for the fuzz target.
//!
//! Lists are read from the right. The proxy that is nearest wrote the last element, and everything to the left of it may
//! be the client's own: read from the left, a quote that the client leaves open would swallow the elements of the
//! proxies behind it. A well-formed element is read the same from either side: inside of quotes each `"` has an odd
//! number of `\` before it, and the opening quote has none.
//!
//! The cost is linear in the bytes of the elements that are asked for; nothing here panics.

use crate::handshake::is_token_byte as is_token;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most elements that are read of one header. A longer chain of proxies is an attempt to cost time.
pub const MOST: usize = 32;

/// An element of `Forwarded`: what one proxy says of the request that it got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element<'a> {
    /// `for`: the address that the request came from; `None` where it is absent, hidden or unreadable.
    pub address: Option<IpAddr>,
    /// `proto`: the scheme by which it came.
    pub scheme: Option<&'static str>,
    /// `host`: the host that it asked for.
    pub host: Option<Cow<'a, str>>,
}

/// The elements of `Forwarded` over all its lines, from the right. An element that breaks the grammar says nothing.
pub fn elements<'a>(lines: &[&'a [u8]]) -> impl Iterator<Item = Element<'a>> {
    let parts = lines.iter().rev().flat_map(|line| quoted_parts(line, b','));
    parts.map(|part| element_of(part).unwrap_or_default())
}

/// The addresses of `X-Forwarded-For` over all its lines, from the right; `None` for what is unreadable.
pub fn x_forwarded_for(lines: &[&[u8]]) -> impl Iterator<Item = Option<IpAddr>> {
    values(lines).map(|value| {
        let bare: Option<Ipv6Addr> = text(value).and_then(|text| text.parse().ok());
        bare.map(|bare| IpAddr::from(bare).to_canonical())
            .or_else(|| address(value))
    })
}

/// The values of a list without quoting, as `X-Forwarded-For`, `-Proto` and `-Host` are, over all its lines, from the
/// right. RFC 9110 §5.6.1: empty ones are not counted.
pub fn values<'a>(lines: &[&'a [u8]]) -> impl Iterator<Item = &'a [u8]> {
    let values = lines.iter().rev();
    let values = values.flat_map(|line| line.rsplit(|byte| *byte == b','));
    values
        .map(<[u8]>::trim_ascii)
        .filter(|value| !value.is_empty())
}

/// An address as RFC 7239 §6 has it, with a port or without: `192.0.2.43:47011`, `[2001:db8::17]`. `unknown` and
/// obfuscated names (`_hidden`) are none; nor is an address with leading zeros, which some readers take for octal.
pub fn address(node: &[u8]) -> Option<IpAddr> {
    let node = text(node)?;
    let (ip, port) = match node.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']')?;
            (IpAddr::from(ip.parse::<Ipv6Addr>().ok()?), port)
        }
        None => {
            let end = node.find(':').unwrap_or(node.len());
            let (ip, port) = node.split_at(end);
            (IpAddr::from(ip.parse::<Ipv4Addr>().ok()?), port)
        }
    };
    let is_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(port) => match port.strip_prefix('_') {
            Some(hidden) => !hidden.is_empty() && hidden.bytes().all(is_hidden),
            None => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
        },
    };
    is_port.then(|| ip.to_canonical())
}

/// A scheme that a client of HTTP can come by, in lower case.
pub fn scheme(value: &[u8]) -> Option<&'static str> {
    let mut known = ["http", "https", "ws", "wss"].into_iter();
    known.find(|known| known.as_bytes().eq_ignore_ascii_case(value))
}

/// A host with or without a port, by its characters alone (RFC 3986 §3.2): no user, no list, nothing else.
pub fn host(value: &[u8]) -> Option<&str> {
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+=:[]".contains(byte);
    let value = text(value)?;
    (!value.is_empty() && value.bytes().all(|byte| is_host(&byte))).then_some(value)
}

/// RFC 7239 §4: `forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )`.
fn element_of(element: &[u8]) -> Option<Element<'_>> {
    let mut known: [Option<Cow<'_, [u8]>>; 3] = [None, None, None];
    for pair in quoted_parts(element, b';') {
        let (name, value) = pair_of(pair)?;
        let names: [&[u8]; 3] = [b"for", b"proto", b"host"];
        let index = names.iter().position(|of| of.eq_ignore_ascii_case(name));
        if let Some(index) = index
            // "Each parameter MUST NOT occur more than once per forwarded-element."
            && known[index].replace(value).is_some()
        {
            return None;
        }
    }
    let [node, proto, named] = known;
    Some(Element {
        address: node.and_then(|node| address(&node)),
        scheme: proto.and_then(|proto| scheme(&proto)),
        host: match named {
            Some(Cow::Borrowed(named)) => host(named).map(Cow::Borrowed),
            Some(Cow::Owned(named)) => host(&named).map(|named| Cow::Owned(named.to_owned())),
            None => None,
        },
    })
}

/// `forwarded-pair = token "=" value`. Colons and brackets are taken without quotes too, as many proxies write them.
fn pair_of(pair: &[u8]) -> Option<(&[u8], Cow<'_, [u8]>)> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (&pair[..equals], &pair[equals + 1..]);
    let is_name = !name.is_empty() && name.iter().all(|byte| is_token(*byte));
    let value = match value {
        [b'"', inner @ .., b'"'] => unquoted(inner)?,
        [] => return None,
        bare => {
            let is_bare = |byte: &u8| is_token(*byte) || b":[]@/=".contains(byte);
            bare.iter().all(is_bare).then_some(Cow::Borrowed(bare))?
        }
    };
    is_name.then_some((name, value))
}

/// The content of a quoted string (RFC 9110 §5.6.4).
fn unquoted(inner: &[u8]) -> Option<Cow<'_, [u8]>> {
    let is_text = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    if !inner.contains(&b'\\') {
        let is_quoted = inner.iter().all(|byte| is_text(*byte) && *byte != b'"');
        return is_quoted.then_some(Cow::Borrowed(inner));
    }
    let mut value = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'\\' => bytes.next()?,
            b'"' => return None,
            byte => byte,
        };
        is_text(byte).then(|| value.push(byte))?;
    }
    Some(Cow::Owned(value))
}

/// The parts of a list, from the right, without white space around them and without empty ones. A separator within
/// quotes is none.
fn quoted_parts(list: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(list);
    let parts = std::iter::from_fn(move || {
        let (before, part) = split_last(rest?, separator);
        rest = before;
        Some(part.trim_ascii())
    });
    parts.filter(|part| !part.is_empty())
}

/// Splits a list at its last separator outside of quotes: the part before it, if there is a separator, and the part behind it.
fn split_last(list: &[u8], separator: u8) -> (Option<&[u8]>, &[u8]) {
    let mut is_quoted = false;
    for at in (0..list.len()).rev() {
        match list[at] {
            b'"' if is_quoted => {
                // No run of them is looked at twice: it ends at a quote.
                let escapes = list[..at].iter().rev().take_while(|byte| **byte == b'\\');
                is_quoted = escapes.count() % 2 == 1;
            }
            b'"' => is_quoted = true,
            byte if byte == separator && !is_quoted => return (Some(&list[..at]), &list[at + 1..]),
            _ => {}
        }
    }
    (None, list)
}

fn text(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().filter(|text| text.is_ascii())
}

/// RFC 7239 §6.3: `obfnode = "_" 1*( ALPHA / DIGIT / "." / "_" / "-")`, and so is an obfuscated port.
fn is_hidden(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn addresses(lines: &[&str]) -> Vec<Option<IpAddr>> {
        let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        elements(&lines).map(|element| element.address).collect()
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn addresses_and_what_is_none() {
        for (node, expected) in [
            ("203.0.113.7", ip("203.0.113.7")),
            ("203.0.113.7:4711", ip("203.0.113.7")),
            ("203.0.113.7:_hidden", ip("203.0.113.7")),
            ("[2001:db8::7]", ip("2001:db8::7")),
            ("[2001:db8::7]:4711", ip("2001:db8::7")),
            ("[::ffff:203.0.113.7]:1", ip("203.0.113.7")),
            ("203.0.113.007", None),
            ("0x7f.0.0.1", None),
            ("127.1", None),
            ("unknown", None),
            ("_hidden", None),
            ("203.0.113.7:", None),
            ("203.0.113.7:65536", None),
            ("203.0.113.7:+1", None),
            ("203.0.113.7:_", None),
            ("203.0.113.7 ", None),
            ("[203.0.113.7]", None),
            ("[2001:db8::7", None),
            ("[2001:db8::7]4711", None),
            ("[fe80::1%eth0]", None),
            // An address, or one and a port?
            ("2001:db8::7:4711", None),
            ("\"203.0.113.7\"", None),
            ("", None),
        ] {
            assert_eq!(address(node.as_bytes()), expected, "{node}");
        }
        let of = |line: &str| -> Vec<_> { x_forwarded_for(&[line.as_bytes()]).collect() };
        let listed = "203.0.113.7 ,, 2001:db8::7,[2001:db8::8]:1, unknown,\t";
        let expected = [
            None,
            ip("2001:db8::8"),
            ip("2001:db8::7"),
            ip("203.0.113.7"),
        ];
        assert_eq!(of(listed), expected);
        assert_eq!(of("::ffff:10.0.0.1"), [ip("10.0.0.1")]);
    }

    #[test]
    fn elements_of_forwarded() {
        let element = |line: &'static str| {
            let elements: Vec<_> = elements(&[line.as_bytes()]).collect();
            <[Element<'_>; 1]>::try_from(elements).unwrap()
        };
        let [said] =
            element("PROTO=\"https\"; For=\"[2001:db8::7]:4711\";by=10.0.0.1;;HOST=a.test:81");
        assert_eq!(said.address, ip("2001:db8::7"));
        assert_eq!(
            (said.scheme, said.host.as_deref()),
            (Some("https"), Some("a.test:81"))
        );
        let [said] = element(r#"for="203.0.113\.7";host="a\.test";proto=Http"#);
        assert_eq!(said.address, ip("203.0.113.7"));
        assert_eq!(
            (said.scheme, said.host.as_deref()),
            (Some("http"), Some("a.test"))
        );
        let [said] = element(r#"for=203.0.113.7;host="a.test, b.test";proto=gopher"#);
        assert_eq!(
            (said.address, said.host, said.scheme),
            (ip("203.0.113.7"), None, None)
        );
        for broken in [
            "for=203.0.113.7;for=10.0.0.1",
            "for=203.0.113.7;proto",
            "for=203.0.113.7;=a",
            "for=203.0.113.7;a=",
            "for=203.0.113.7;a b=c",
            "for=203.0.113.7;a=b c",
            "for = 203.0.113.7",
            "for=\"203.0.113.7",
            "for=203.0.113.7\"",
            "for=\"203.0.113.7\"x",
            "for=\"203.0.113.7\\\"",
            "203.0.113.7",
        ] {
            assert_eq!(element(broken), [Element::default()], "{broken}");
        }
    }

    /// The text of a client's own element, even with an open quote, does not change the elements behind it.
    #[test]
    fn quotes_hide_separators_and_nothing_else() {
        let of = |line: &str| addresses(&[line]);
        assert_eq!(
            of(r#"host="evil;for=10.0.0.1";for=203.0.113.7"#),
            [ip("203.0.113.7")]
        );
        assert_eq!(
            of(r#"for=1.2.3.4;host="a,for=10.0.0.1,b", for=203.0.113.7"#),
            [ip("203.0.113.7"), ip("1.2.3.4")]
        );
        assert_eq!(
            of(r#"host="a\",for=10.0.0.1,\\\"";for=203.0.113.7"#),
            [ip("203.0.113.7")]
        );
        assert_eq!(of(r#"host="a\\";for=203.0.113.7"#), [ip("203.0.113.7")]);
        for open in [
            r#"for="10.0.0.1"#,
            r#"host="\"#,
            r#"host="a\\\"#,
            r#"""""#,
            r#"=\""#,
        ] {
            let line = format!(r#"{open}, for="203.0.113.7:4711";proto=https"#);
            assert_eq!(of(&line)[0], ip("203.0.113.7"), "{line}");
        }
        assert_eq!(
            addresses(&[
                "for=1.1.1.1, for=2.2.2.2",
                "",
                "for=\"3.3.3.3",
                "for=4.4.4.4"
            ]),
            [ip("4.4.4.4"), None, ip("2.2.2.2"), ip("1.1.1.1")]
        );
    }

    /// Reads a list from the left, as the grammar is written.
    fn from_the_left(list: &[u8]) -> Vec<&[u8]> {
        let (mut parts, mut start, mut is_quoted, mut at) = (Vec::new(), 0, false, 0);
        while at < list.len() {
            match list[at] {
                b'\\' if is_quoted => at += 1,
                b'"' => is_quoted = !is_quoted,
                b',' if !is_quoted => {
                    parts.push(&list[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        parts.push(&list[start..]);
        parts.reverse();
        parts
    }

    /// Well-formed lists are the same from either side, whatever is in their quotes; and whatever stands before them.
    #[test]
    fn either_side_sees_the_same() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..20_000 {
            let mut list = Vec::new();
            for _ in 0..random.gen_range(1..4) {
                list.extend_from_slice(b"for=1.1.1.1;host=\"");
                for _ in 0..random.gen_range(0..8) {
                    let bytes: [&[u8]; 7] = [b",", b";", b"a", b" ", b"=", b"\\\"", b"\\\\"];
                    list.extend_from_slice(bytes[random.gen_range(0..7)]);
                }
                list.extend_from_slice(b"\",");
            }
            list.pop();
            let parts: Vec<_> = quoted_parts(&list, b',').collect();
            assert_eq!(parts, from_the_left(&list), "{}", list.escape_ascii());
            let before: Vec<u8> = (0..random.gen_range(0..12))
                .map(|_| b"\",;\\=a"[random.gen_range(0..6)])
                .collect();
            let behind = [&before[..], b",", &list].concat();
            let count = parts.len();
            let again: Vec<_> = quoted_parts(&behind, b',').take(count).collect();
            assert_eq!(again, parts, "{}", behind.escape_ascii());
            // Nothing panics, and a part is never longer than what there was.
            let elements = elements(&[&before, &behind]).count();
            assert!(elements <= before.len() + behind.len());
        }
    }

    #[test]
    fn schemes_and_hosts() {
        for (value, expected) in [
            ("HTTPS", Some("https")),
            ("wss", Some("wss")),
            ("https,http", None),
            ("gopher", None),
            ("", None),
        ] {
            assert_eq!(scheme(value.as_bytes()), expected, "{value}");
        }
        for value in ["a.test", "a.test:81", "[::1]:81", "xn--a_b"] {
            assert_eq!(host(value.as_bytes()), Some(value));
        }
        for value in ["", "a b", "a,b", "user@a", "a/b", "a\"", "\u{fc}"] {
            assert_eq!(host(value.as_bytes()), None, "{value}");
        }
    }
}
