//! The header of the PROXY protocol, versions 1 and 2. Pure: bytes in, the client's address out.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>; the sections named here are its. What is behind the
//! addresses of version 2 (TLVs) is looked at only as far as its lengths go.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// §2.2, version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// §2.1, version 1.
const PREFIX: &[u8] = b"PROXY ";

/// §2.1: "a 108-byte buffer is always enough to store all the line and a trailing zero".
const LONGEST_LINE: usize = 107;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Its length in bytes; what follows belongs to the client.
    pub len: usize,
    /// For whom the connection is.
    pub source: Source,
}

/// For whom a proxy has made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// For the client at this address.
    Address(SocketAddr),
    /// For a client of whose address the header says nothing (`UNKNOWN`), or nothing that is an IP address.
    Unknown,
    /// For the proxy itself, as for a health check (`LOCAL`).
    Local,
}

/// Why bytes are no header, and will not become one whatever follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Neither version begins like that.
    NotAHeader,
    /// No end of line within [`LONGEST_LINE`].
    TooLong,
    /// A line that is not one of version 1.
    Line,
    /// Neither 1 nor 2.
    Version(u8),
    /// Neither `LOCAL` nor `PROXY`.
    Command(u8),
    /// None that there is, or over none of the transports that there are.
    Family(u8),
    /// Too little for the addresses of the family, in bytes.
    Length(u16),
    /// A TLV that is longer than what is left of the header.
    Tlv,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::NotAHeader => f.write_str("it does not begin with one"),
            Malformed::TooLong => write!(f, "no end of line within {LONGEST_LINE} bytes"),
            Malformed::Line => f.write_str("its line is malformed"),
            Malformed::Version(version) => write!(f, "its version is {version}"),
            Malformed::Command(command) => write!(f, "its command is {command}"),
            Malformed::Family(family) => write!(f, "its address family is {family:#04x}"),
            Malformed::Length(len) => write!(f, "its length, {len}, leaves no room for addresses"),
            Malformed::Tlv => f.write_str("a TLV of it is longer than the header"),
        }
    }
}

/// Reads the header that `bytes` begin with; `None` where more of it has to come.
///
/// More bytes change neither a header nor an error.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let may_be = |beginning: &[u8]| bytes.iter().zip(beginning).all(|(a, b)| a == b);
    if may_be(SIGNATURE) {
        binary(bytes)
    } else if may_be(PREFIX) {
        line(bytes)
    } else {
        Err(Malformed::NotAHeader)
    }
}

/// §2.1: `PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n`.
fn line(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let line = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = line.windows(2).position(|two| two == b"\r\n") else {
        return match bytes.len() {
            0..LONGEST_LINE => Ok(None),
            _ => Err(Malformed::TooLong),
        };
    };
    let words: Vec<&[u8]> = line[..end].split(|byte| *byte == b' ').collect();
    let source = match words[1..] {
        // "the receiver must ignore anything presented before the CRLF"
        [b"UNKNOWN", ..] => Some(Source::Unknown),
        [b"TCP4", from, to, port, to_port] => {
            endpoints::<Ipv4Addr>([from, to], [port, to_port]).map(Source::Address)
        }
        [b"TCP6", from, to, port, to_port] => {
            endpoints::<Ipv6Addr>([from, to], [port, to_port]).map(Source::Address)
        }
        _ => None,
    };
    Ok(Some(Header {
        len: end + 2,
        source: source.ok_or(Malformed::Line)?,
    }))
}

/// The source; the destination has to be right as well.
fn endpoints<A: FromStr + Into<IpAddr>>(
    [from, to]: [&[u8]; 2],
    [port, to_port]: [&[u8]; 2],
) -> Option<SocketAddr> {
    let address = |word| std::str::from_utf8(word).ok()?.parse::<A>().ok();
    let source = (address(from)?.into(), decimal(port)?);
    address(to)?;
    decimal(to_port)?;
    Some(source.into())
}

/// A port: "represented in the decimal form without leading zeroes", and without what else Rust would take.
fn decimal(word: &[u8]) -> Option<u16> {
    match word {
        [b'0', _, ..] | [b'+', ..] => None,
        _ => std::str::from_utf8(word).ok()?.parse().ok(),
    }
}

/// §2.2: signature, version and command, family and transport, length; addresses and TLVs of that length.
fn binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((head, rest)) = bytes.split_first_chunk::<16>() else {
        return Ok(None);
    };
    let [.., version_command, family, high, low] = *head;
    let (version, command) = (version_command >> 4, version_command & 0xf);
    let len = u16::from_be_bytes([high, low]);
    if version != 2 {
        return Err(Malformed::Version(version));
    }
    let addresses = match (command, family >> 4) {
        // "the receiver must accept this connection as valid and must use the real connection endpoints and discard the
        // protocol block including the family which is ignored"
        (0, _) => None,
        (1, _) if family & 0xf > 2 => return Err(Malformed::Family(family)),
        // "The receiver should ignore all the information" of unspecified ones.
        (1, 0) => None,
        (1, 1) => Some(12),
        (1, 2) => Some(36),
        (1, 3) => Some(216),
        (1, _) => return Err(Malformed::Family(family)),
        (command, _) => return Err(Malformed::Command(command)),
    };
    if addresses.is_some_and(|addresses| usize::from(len) < addresses) {
        return Err(Malformed::Length(len));
    }
    let Some(block) = rest.get(..len.into()) else {
        return Ok(None);
    };
    if let Some(addresses) = addresses
        && !is_tlvs(&block[addresses..])
    {
        return Err(Malformed::Tlv);
    }
    let address = match (addresses, family, block) {
        (Some(_), 0x11, [a, b, c, d, _, _, _, _, high, low, ..]) => {
            let port = u16::from_be_bytes([*high, *low]);
            Some((Ipv4Addr::new(*a, *b, *c, *d), port).into())
        }
        (Some(_), 0x21, _) => {
            let port = block[32..].first_chunk().copied().map(u16::from_be_bytes);
            let address = block.first_chunk::<16>().map(|ip| Ipv6Addr::from(*ip));
            address.zip(port).map(SocketAddr::from)
        }
        // Unix sockets; and datagrams, of which no connection comes.
        _ => None,
    };
    Ok(Some(Header {
        len: head.len() + block.len(),
        source: match (command, address) {
            (0, _) => Source::Local,
            (_, Some(address)) => Source::Address(address),
            (_, None) => Source::Unknown,
        },
    }))
}

/// §2.2.1: type, length and value, one after the other, to the end.
fn is_tlvs(mut bytes: &[u8]) -> bool {
    while let Some(([_, high, low], rest)) = bytes.split_first_chunk() {
        match rest.get(u16::from_be_bytes([*high, *low]).into()..) {
            Some(next) => bytes = next,
            None => return false,
        }
    }
    bytes.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    /// A header of version 2.
    fn v2(version_command: u8, family: u8, len: u16, block: &[u8]) -> Vec<u8> {
        let [high, low] = len.to_be_bytes();
        [&SIGNATURE[..], &[version_command, family, high, low], block].concat()
    }

    /// The same with its true length.
    fn proxy(family: u8, parts: &[&[u8]]) -> Vec<u8> {
        let block = parts.concat();
        v2(0x21, family, block.len() as u16, &block)
    }

    const V4: &[u8] = &[203, 0, 113, 7, 127, 0, 0, 1, 0x12, 0x67, 0x01, 0xbb];

    fn v6() -> Vec<u8> {
        let from: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let ports: &[u8] = &[0x12, 0x67, 0x01, 0xbb];
        [&from.octets()[..], &Ipv6Addr::LOCALHOST.octets(), ports].concat()
    }

    /// With the address, or what is said instead of one.
    fn good() -> Vec<(Vec<u8>, &'static str)> {
        let line = |text: &str| format!("{text}\r\n").into_bytes();
        let ssl: &[u8] = b"\x20\x00\x0f\x01\x00\x00\x00\x00\x21\x00\x07TLSv1.3";
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = format!("PROXY TCP6 {longest} {longest} 65535 65535");
        vec![
            (
                line("PROXY TCP4 203.0.113.7 127.0.0.1 4711 443"),
                "203.0.113.7:4711",
            ),
            (line("PROXY TCP4 0.0.0.0 0.0.0.0 0 0"), "0.0.0.0:0"),
            (
                line("PROXY TCP6 2001:db8::7 ::1 4711 443"),
                "[2001:db8::7]:4711",
            ),
            (
                line(&longest),
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            ),
            (line("PROXY UNKNOWN"), "unknown"),
            (
                line("PROXY UNKNOWN x \r y  \u{fc} 1 2 3 4 5 6 7"),
                "unknown",
            ),
            (
                line(
                    &longest
                        .replacen("TCP6", "UNKNOWN", 1)
                        .replace("65535 ", "6553 "),
                ),
                "unknown",
            ),
            (proxy(0x11, &[V4]), "203.0.113.7:4711"),
            (proxy(0x11, &[V4, ssl, b"\x04\0\0"]), "203.0.113.7:4711"),
            (proxy(0x21, &[&v6(), ssl]), "[2001:db8::7]:4711"),
            (proxy(0x31, &[&[b'/'; 216], ssl]), "unknown"),
            // Datagrams, and what is not specified.
            (proxy(0x12, &[V4]), "unknown"),
            (proxy(0x00, &[]), "unknown"),
            (proxy(0x00, &[b"anything"]), "unknown"),
            (
                proxy(0x11, &[V4, b"\xea\xff\xed", &[7; 0xffed]]),
                "203.0.113.7:4711",
            ),
            // LOCAL: the rest does not matter.
            (v2(0x20, 0x00, 0, b""), "local"),
            (v2(0x20, 0xff, 5, b"12345"), "local"),
            (v2(0x20, 0x11, 12, V4), "local"),
        ]
    }

    #[test]
    fn good_ones_at_every_cut() {
        for (header, source) in good() {
            let source = match source {
                "unknown" => Source::Unknown,
                "local" => Source::Local,
                address => Source::Address(address.parse().unwrap()),
            };
            let whole = Ok(Some(Header {
                len: header.len(),
                source,
            }));
            let all_cuts = header.len().min(300);
            for cut in (0..all_cuts).chain([header.len() - 1]) {
                assert_eq!(parse(&header[..cut]), Ok(None), "{header:?} at {cut}");
            }
            assert_eq!(parse(&header), whole, "{header:?}");
            for behind in [
                &b"G"[..],
                b"GET / HTTP/1.1\r\n\r\n",
                b"\x16\x03\x01",
                &header,
            ] {
                assert_eq!(parse(&[&header, behind].concat()), whole, "{header:?}");
            }
        }
    }

    #[test]
    fn bad_ones() {
        let line = |text: &str| text.as_bytes().to_vec();
        let bad = [
            (line("G"), Malformed::NotAHeader),
            (line("GET / HTTP/1.1\r\n\r\n"), Malformed::NotAHeader),
            (line("\x16\x03\x01"), Malformed::NotAHeader),
            (line("proxy TCP4 "), Malformed::NotAHeader),
            (line("PROXY\t"), Malformed::NotAHeader),
            (line("\r\n\r\n\0\r\nQUIT\r"), Malformed::NotAHeader),
            (
                line(&format!("PROXY TCP4 {:0101}\r\n", 1)),
                Malformed::TooLong,
            ),
            (
                line(&format!("PROXY UNKNOWN {}", "x".repeat(93))),
                Malformed::TooLong,
            ),
            (line("PROXY \r\n"), Malformed::Line),
            (line("PROXY TCP4\r\n"), Malformed::Line),
            (line("PROXY UNKNOWNS\r\n"), Malformed::Line),
            (line("PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n"), Malformed::Line),
            (line("PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n"), Malformed::Line),
            (line("PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n"), Malformed::Line),
            (line("PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n"), Malformed::Line),
            (
                line("PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n"),
                Malformed::Line,
            ),
            (line("PROXY TCP4 1.1.1.1 1.1.1.1 1 -1\r\n"), Malformed::Line),
            (line("PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n"), Malformed::Line),
            (line("PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n"), Malformed::Line),
            (
                line("PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n\r\n"),
                Malformed::Line,
            ),
            (
                line("PROXY TCP4 1.1.1.256 1.1.1.1 1 1\r\n"),
                Malformed::Line,
            ),
            (line("PROXY TCP4 01.1.1.1 1.1.1.1 1 1\r\n"), Malformed::Line),
            (line("PROXY TCP4 ::1 ::1 1 1\r\n"), Malformed::Line),
            (line("PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n"), Malformed::Line),
            (line("PROXY TCP6 ::1 nowhere 1 1\r\n"), Malformed::Line),
            (line("PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n"), Malformed::Line),
            (v2(0x11, 0x11, 12, V4), Malformed::Version(1)),
            (v2(0x31, 0x11, 12, V4), Malformed::Version(3)),
            (v2(0x22, 0x11, 12, V4), Malformed::Command(2)),
            (v2(0x21, 0x41, 12, V4), Malformed::Family(0x41)),
            (v2(0x21, 0x13, 12, V4), Malformed::Family(0x13)),
            // Said before the rest has come.
            (v2(0x21, 0x11, 11, b""), Malformed::Length(11)),
            (v2(0x21, 0x21, 12, b""), Malformed::Length(12)),
            (v2(0x21, 0x31, 215, b""), Malformed::Length(215)),
            (proxy(0x11, &[V4, b"\x04"]), Malformed::Tlv),
            (proxy(0x11, &[V4, b"\x04\0\x01"]), Malformed::Tlv),
            // It says that it is longer than it is, and takes in the beginning of the request.
            (
                v2(0x21, 0x11, 28, &[V4, b"GET /chat HTTP/1.1\r\n"].concat()),
                Malformed::Tlv,
            ),
        ];
        for (bytes, why) in bad {
            assert_eq!(parse(&bytes), Err(why), "{bytes:?}");
            let more = [&bytes[..], b"\r\n and whatever follows\r\n"].concat();
            assert_eq!(parse(&more), Err(why), "{bytes:?}");
            assert!(!why.to_string().is_empty());
        }
    }

    /// Nothing panics, and what was said once is not taken back when more comes.
    #[test]
    fn whatever_comes() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let good: Vec<_> = good().into_iter().map(|(header, _)| header).collect();
        for _ in 0..20_000 {
            let mut bytes = good[random.gen_range(0..good.len())].clone();
            bytes.truncate(400);
            for _ in 0..random.gen_range(0..4) {
                let at = random.gen_range(0..bytes.len());
                match random.gen_range(0..3) {
                    0 => bytes[at] = random.r#gen(),
                    1 => bytes.insert(at, *b"\0 \r\n1:".get(random.gen_range(0..6)).unwrap()),
                    _ => drop(bytes.remove(at)),
                }
            }
            let cut = random.gen_range(0..=bytes.len());
            let (before, after) = (parse(&bytes[..cut]), parse(&bytes));
            match before {
                Ok(None) => {
                    if let Ok(Some(header)) = after {
                        assert!(cut < header.len && header.len <= bytes.len(), "{bytes:?}");
                    }
                }
                said => assert_eq!(said, after, "{bytes:?} at {cut}"),
            }
        }
    }
}
