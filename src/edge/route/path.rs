//! The normal form of a path. Routes are compared in it, so that another spelling of a path does not pass an access rule.
//!
//! Servers read one path in different ways: some decode twice, some take `\` for `/`, some cut `;jsessionid=1` off each
//! segment. The normal form is the path as the most lenient server reads it. It serves only for comparison: a server gets
//! the path as the client wrote it.
//!
//! It always holds that the normal form of a normal form is itself, that a normal form is no longer than the path, and that
//! it takes time linear in the length of the path. Upper and lower case stay different.

use std::borrow::Cow;
use std::ops::Range;

/// The normal form of a path, which begins with `/` and has no query:
///
/// * percent-encoding is decoded until nothing is left to decode: `%2561` is `a`;
/// * ASCII characters in overlong UTF-8 (RFC 3629 §3 forbids it) are ASCII: `%c0%af` is `/`;
/// * `\` is `/`;
/// * what follows `;` within a segment is dropped (RFC 3986 §3.3: parameters), and what follows an encoded `?` or `#`;
/// * empty segments are dropped, but for the last one: `//a///b/` is `/a/b/`;
/// * `.` and `..` are resolved (RFC 3986 §5.2.4); above the root is the root, and a last one leaves its slash: `/a/b/..` is
///   `/a/`.
pub fn normalize(path: &[u8]) -> Cow<'_, [u8]> {
    if is_plain(path) {
        return Cow::Borrowed(path);
    }
    match resolve(&decode(path)) {
        same if same == path => Cow::Borrowed(path),
        normal => Cow::Owned(normal),
    }
}

/// A path with percent-encoding and overlong UTF-8 decoded, to the last layer, and nothing else changed.
pub fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    for byte in path {
        decoded.push(*byte);
        if !byte.is_ascii_hexdigit() && !matches!(byte, 0x80..=0xbf) {
            // No encoding ends so.
            continue;
        }
        // The decoded character may be the last one of another encoding. Each turn removes a byte, so that the turns of
        // all bytes together are no more than the bytes.
        while let Some((len, byte)) = encoded_at_end(&decoded) {
            decoded.truncate(decoded.len() - len);
            decoded.push(byte);
        }
    }
    decoded
}

/// The byte that the end of `bytes` encodes, and in how many bytes.
fn encoded_at_end(bytes: &[u8]) -> Option<(usize, u8)> {
    let ascii = |high: u8, low: u8| ((high & 1) << 6) | (low & 0x3f);
    match bytes {
        [.., b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
            Some((3, hex(*high) << 4 | hex(*low)))
        }
        [.., high @ 0xc0..=0xc1, low @ 0x80..=0xbf] => Some((2, ascii(*high, *low))),
        [.., 0xf0, 0x80, high @ 0x80..=0x81, low @ 0x80..=0xbf] => Some((4, ascii(*high, *low))),
        [.., 0xe0, high @ 0x80..=0x81, low @ 0x80..=0xbf] => Some((3, ascii(*high, *low))),
        _ => None,
    }
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// Where the segments of a decoded path are, without their parameters.
fn segments(decoded: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    decoded.split(is_slash).map(move |segment| {
        let len = segment.iter().position(is_parameter);
        let range = start..start + len.unwrap_or(segment.len());
        start += segment.len() + 1;
        range
    })
}

/// The segments that name something: neither empty nor `.`.
fn names(decoded: &[u8]) -> impl Iterator<Item = Range<usize>> {
    segments(decoded).filter(|segment| !matches!(&decoded[segment.clone()], b"" | b"."))
}

/// A path of which servers can come to more than the two readings that are compared anyway, as it is written and its
/// [normal form](normalize):
///
/// * It has a `..`. Some servers resolve them, some do not, some after they dropped empty segments and parameters and some
///   before.
/// * It has an encoded slash, or a `\`, in parameters. A server that takes it for none drops with them what follows it, up to
///   the next slash.
#[derive(Debug)]
pub struct Doubtful {
    /// Decoded.
    path: Vec<u8>,
    /// Where the segments that name something are in it, or the first of them.
    names: Vec<Range<usize>>,
    /// There are more than [`MAX_NAMES`], which are not looked at.
    is_longer: bool,
    /// A `..` may resolve more than one segment of the normal form: what is one segment for a server that takes an encoded
    /// slash, or a `\`, for none.
    is_depth_unknown: bool,
}

/// Most segments of a doubtful path. They may be compared with the path of every route.
const MAX_NAMES: usize = 256;

impl Doubtful {
    /// `None` for a path that has only the two readings.
    pub fn of(path: &[u8]) -> Option<Self> {
        let decoded = decode(path);
        let has_parent = names(&decoded).any(|name| &decoded[name] == b"..");
        // Only these can be decoded to more than one segment.
        let can_divide = |byte: &u8| matches!(byte, b'%' | b'\\' | 0x80..);
        let written = || {
            let segments = path.split(|byte| *byte == b'/');
            segments.filter(|segment| segment.iter().any(can_divide))
        };
        let hides = decoded.iter().any(is_parameter) && written().any(hides);
        if !has_parent && !hides {
            return None;
        }
        let mut all = names(&decoded);
        let names: Vec<_> = all.by_ref().take(MAX_NAMES).collect();
        let is_longer = all.next().is_some();
        drop(all);
        Some(Doubtful {
            names,
            is_longer,
            is_depth_unknown: has_parent && written().any(|name| decode(name).iter().any(is_slash)),
            path: decoded,
        })
    }

    /// Whether the path, which begins with the segments of `prefix`, stays below it in every reading.
    pub fn stays_below(&self, prefix: &[u8]) -> bool {
        let least = names(prefix).count();
        let mut depth = 0_usize;
        let stays = self.names.iter().all(|name| {
            if self.path[name.clone()] != *b".." {
                depth += 1;
                return true;
            }
            // Those before it are the segments of the prefix.
            let stays = depth > least;
            depth = depth.saturating_sub(1);
            stays
        });
        least == 0 || stays && !self.is_longer && !self.is_depth_unknown
    }

    /// Whether a reading could be below `prefix`: the path has its segments in this order, with others between them.
    pub fn may_be_below(&self, prefix: &[u8]) -> bool {
        let mut wanted = names(prefix).peekable();
        for name in &self.names {
            wanted.next_if(|wanted| prefix[wanted.clone()] == self.path[name.clone()]);
        }
        wanted.peek().is_none() || self.is_longer
    }
}

/// Whether the parameters of a segment as it is written have a slash for servers that decode them.
fn hides(segment: &[u8]) -> bool {
    let decoded = decode(segment);
    let parameters = decoded.iter().position(is_parameter);
    let parameters = parameters.map(|at| &decoded[at..]);
    parameters.is_some_and(|parameters| parameters.iter().any(is_slash))
}

fn is_slash(byte: &u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

/// Whether what follows in the segment is dropped.
fn is_parameter(byte: &u8) -> bool {
    matches!(byte, b';' | b'?' | b'#')
}

/// Resolves the segments of a decoded path.
fn resolve(decoded: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(decoded.len() + 1);
    let mut ends_with_slash = false;
    for segment in segments(decoded) {
        ends_with_slash = true;
        match &decoded[segment] {
            b"" | b"." => {}
            b".." => {
                let parent = normal.iter().rposition(|byte| *byte == b'/');
                normal.truncate(parent.unwrap_or(0));
            }
            segment => {
                normal.push(b'/');
                normal.extend_from_slice(segment);
                ends_with_slash = false;
            }
        }
    }
    if ends_with_slash {
        normal.push(b'/');
    }
    normal
}

/// Whether a path is its own normal form for sure. Nearly all are.
fn is_plain(path: &[u8]) -> bool {
    let mut last = 0;
    let is_plain = path.iter().all(|byte| {
        let is_odd_segment = last == b'/' && matches!(byte, b'/' | b'.');
        last = *byte;
        PLAIN[usize::from(*byte)] && !is_odd_segment
    });
    is_plain && path.first() == Some(&b'/')
}

/// Characters that mean nothing but themselves.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ' as usize + 1;
    while byte < 0x7f {
        plain[byte] = !matches!(byte as u8, b'%' | b';' | b'\\' | b'?' | b'#');
        byte += 1;
    }
    plain
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_has_one_normal_form() {
        for (path, normal) in [
            ("/admin", "/admin"),
            ("//admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/%2561dmin", "/admin"),
            ("/%25252561dmin", "/admin"),
            // The hexadecimal digits are encoded themselves.
            ("/%%36%31dmin", "/admin"),
            ("/x/../admin", "/admin"),
            ("/x/..%2fadmin", "/admin"),
            ("/x%2F%2e%2E%2fadmin", "/admin"),
            ("/x/..%252fadmin", "/admin"),
            ("/admin;a=b", "/admin"),
            ("/admin%3Ba=b", "/admin"),
            ("/admin%3fa", "/admin"),
            ("/admin%23a", "/admin"),
            ("/x/..;/admin", "/admin"),
            ("/x/..;a=b/admin", "/admin"),
            ("/;/admin", "/admin"),
            ("/\\admin", "/admin"),
            ("/x\\..\\admin", "/admin"),
            ("/x%5c..%5Cadmin", "/admin"),
            ("/./admin", "/admin"),
            ("/%2e/admin", "/admin"),
            ("/../../admin", "/admin"),
            ("/%c0%afadmin", "/admin"),
            ("/%c1%a1dmin", "/admin"),
            ("/%e0%81%a1dmin", "/admin"),
            ("/%f0%80%81%a1dmin", "/admin"),
            ("/x/%c0%ae%c0%ae/admin", "/admin"),
            ("/admin/", "/admin/"),
            ("/admin//", "/admin/"),
            ("/admin/.", "/admin/"),
            ("/admin/x/..", "/admin/"),
            ("/admin/x/../", "/admin/"),
            ("/admin/;a", "/admin/"),
            ("/", "/"),
            ("//", "/"),
            ("/.", "/"),
            ("/..", "/"),
            ("/a/../..", "/"),
            ("", "/"),
            ("admin", "/admin"),
            // What only looks like something else.
            ("/Admin", "/Admin"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/a..b/.c", "/a..b/.c"),
            ("/100%", "/100%"),
            ("/%zz%4", "/%zz%4"),
            ("/caf%C3%A9", "/caf\u{e9}"),
            ("/a+b", "/a+b"),
        ] {
            let found = normalize(path.as_bytes());
            assert_eq!(
                found.escape_ascii().to_string(),
                normal.as_bytes().escape_ascii().to_string(),
                "{path}"
            );
            assert_eq!(normalize(&found), found, "{path}");
        }
    }

    #[test]
    fn what_does_not_change_is_not_copied() {
        for path in ["/", "/chat/room-7/~ann", "/.well-known/x", "/caf\u{e9}"] {
            assert!(
                matches!(normalize(path.as_bytes()), Cow::Borrowed(_)),
                "{path}"
            );
        }
    }

    #[test]
    fn an_encoded_nul_is_found() {
        for path in ["/a%00b", "/%2500", "/%c0%80", "/\0"] {
            assert!(decode(path.as_bytes()).contains(&0), "{path}");
        }
    }
}
