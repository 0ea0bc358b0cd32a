//! Request targets, RFC 9112 §3.2.

use std::borrow::Cow;
use std::fmt;

/// The target of a request, in the bytes that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Of an absolute target.
    authority: Option<&'a [u8]>,
    /// Path and query, as a server gets them.
    origin_form: Cow<'a, [u8]>,
    /// How much of it is the path.
    path_len: usize,
}

/// Why a target is none that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// §3.2: neither a path nor an absolute URL of HTTP.
    Form,
    /// §3.2: "No whitespace is allowed in the request-target"; servers disagree on where such a target ends.
    Space,
    /// RFC 9110 §4.2.5 keeps fragments out of requests; servers disagree on whether `#` belongs to the path.
    Fragment,
}

impl fmt::Display for TargetError {
    /// The sentence in the body of the answer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TargetError::Form => {
                "the request target has to be a path that begins with `/`, or a URL with http:// or https://"
            }
            TargetError::Space => {
                "the request target holds a space or a control character; it has to be percent-encoded"
            }
            TargetError::Fragment => {
                "the request target holds a `#`; a fragment is not sent to servers, and the character itself is written %23"
            }
        })
    }
}

impl<'a> Target<'a> {
    /// Reads a target: a path with its query (§3.2.1), an absolute URL (§3.2.2), or `*` (§3.2.4).
    ///
    /// # Errors
    /// Anything else, `host:port` of CONNECT (§3.2.3) included.
    pub fn parse(target: &'a [u8]) -> Result<Self, TargetError> {
        if target.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f)) {
            return Err(TargetError::Space);
        }
        if target.contains(&b'#') {
            return Err(TargetError::Fragment);
        }
        let (authority, origin_form) = match target {
            [b'/', ..] | b"*" => (None, Cow::Borrowed(target)),
            _ => {
                let rest = after_scheme(target).ok_or(TargetError::Form)?;
                let is_end = |byte: &u8| matches!(byte, b'/' | b'?');
                let end = rest.iter().position(is_end).unwrap_or(rest.len());
                let (authority, rest) = rest.split_at(end);
                if authority.is_empty() {
                    return Err(TargetError::Form);
                }
                // §3.2.1: "If the target URI's path component is empty, the client MUST send "/" as the path".
                let origin_form = match rest.first() {
                    Some(b'/') => Cow::Borrowed(rest),
                    Some(_) | None => Cow::Owned([b"/", rest].concat()),
                };
                (Some(authority), origin_form)
            }
        };
        let query = origin_form.iter().position(|byte| *byte == b'?');
        Ok(Target {
            authority,
            path_len: query.unwrap_or(origin_form.len()),
            origin_form,
        })
    }

    /// The authority of an absolute target, which is to be held against [`Host`](super::authority::host_of).
    pub fn authority(&self) -> Option<&'a [u8]> {
        self.authority
    }

    /// Path and query as a server gets them.
    pub fn origin_form(&self) -> &[u8] {
        &self.origin_form
    }

    /// The path without its query.
    pub fn path(&self) -> &[u8] {
        &self.origin_form[..self.path_len]
    }

    /// The query without its question mark.
    pub fn query(&self) -> Option<&[u8]> {
        self.origin_form.get(self.path_len + 1..)
    }
}

/// A path and query whose `prefix` is replaced. The rest of the path stays as it was written, without the slashes at its beginning:
/// servers would read `//host/path` in different ways. The target is unchanged where the path does not begin with the prefix.
pub fn replace_prefix(origin_form: &[u8], prefix: &str, replacement: &str) -> Vec<u8> {
    let Some(rest) = origin_form.strip_prefix(prefix.as_bytes()) else {
        return origin_form.to_vec();
    };
    let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
    let rest = &rest[slashes..];
    let mut replaced = replacement.as_bytes().to_vec();
    let is_path = !matches!(rest.first(), None | Some(b'?'));
    if (is_path || slashes > 0 || prefix.ends_with('/')) && !replacement.ends_with('/') {
        replaced.push(b'/');
    }
    replaced.extend_from_slice(rest);
    replaced
}

/// Appends a part of a request target to a URL that is sent in a header: what RFC 3986 does not allow in a URL is percent-encoded.
pub fn push_encoded(url: &mut String, part: &[u8]) {
    for byte in part {
        match byte {
            b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                *url += &format!("%{byte:02X}");
            }
            byte if byte.is_ascii_graphic() => url.push(char::from(*byte)),
            byte => *url += &format!("%{byte:02X}"),
        }
    }
}

/// The part of an HTTP URL behind its scheme.
fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"]
        .into_iter()
        .find_map(|scheme| {
            let (start, rest) = target.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for (target, prefix, replacement, expected) in [
            ("/api/a?b", "/api", "/", "/a?b"),
            ("/api", "/api", "/", "/"),
            ("/api?b", "/api", "/", "/?b"),
            ("/api/", "/api", "/", "/"),
            ("/api//host/a", "/api", "/", "/host/a"),
            ("/api/a", "/api", "/v2/chat", "/v2/chat/a"),
            ("/api/", "/api", "/v2", "/v2/"),
            ("/api", "/api", "/v2", "/v2"),
            ("/api?b", "/api", "/v2", "/v2?b"),
            ("/api/a", "/api/", "/v2/", "/v2/a"),
            ("/api/%2F/b", "/api", "/", "/%2F/b"),
            ("/a", "/", "/v2", "/v2/a"),
            ("/", "/", "/v2", "/v2/"),
            ("/other", "/api", "/", "/other"),
        ] {
            let replaced = replace_prefix(target.as_bytes(), prefix, replacement);
            let replaced = String::from_utf8(replaced).unwrap();
            assert_eq!(replaced, expected, "{target}: {prefix} by {replacement}");
        }
    }

    #[test]
    fn the_forms_of_a_target() {
        for (target, authority, path, query) in [
            ("/", None, "/", None),
            ("/a/b?c=d?e", None, "/a/b", Some("c=d?e")),
            ("//a", None, "//a", None),
            ("/?", None, "/", Some("")),
            ("/?filter={\"a\":1}", None, "/", Some("filter={\"a\":1}")),
            (
                "/\u{fc}<b>|\\^`?\u{fc}",
                None,
                "/\u{fc}<b>|\\^`",
                Some("\u{fc}"),
            ),
            ("/x:/y", None, "/x:/y", None),
            ("*", None, "*", None),
            ("http://a", Some("a"), "/", None),
            ("HTTP://a:1/b?c", Some("a:1"), "/b", Some("c")),
            ("https://a?c=/", Some("a"), "/", Some("c=/")),
            ("http://u@a\\b/", Some("u@a\\b"), "/", None),
        ] {
            let read = Target::parse(target.as_bytes()).unwrap();
            assert_eq!(read.authority(), authority.map(str::as_bytes), "{target}");
            assert_eq!(read.path(), path.as_bytes(), "{target}");
            assert_eq!(read.query(), query.map(str::as_bytes), "{target}");
        }
        assert_eq!(Target::parse(b"http://a?b").unwrap().origin_form(), b"/?b");
    }

    #[test]
    fn what_a_url_does_not_have_is_encoded() {
        let mut url = "https://a.test".to_owned();
        push_encoded(&mut url, b"/a%2Fb;c=d/<x>\"\\\x80\xff|~'");
        assert_eq!(url, "https://a.test/a%2Fb;c=d/%3Cx%3E%22%5C%80%FF%7C~'");
    }

    #[test]
    fn what_is_no_target() {
        for (target, error) in [
            ("", TargetError::Form),
            ("admin", TargetError::Form),
            ("?x=1", TargetError::Form),
            ("foo:/ws", TargetError::Form),
            ("a:443", TargetError::Form),
            ("http:/a", TargetError::Form),
            ("http:///a", TargetError::Form),
            ("http://?a", TargetError::Form),
            ("ws://a/b", TargetError::Form),
            ("**", TargetError::Form),
            ("/a b", TargetError::Space),
            ("/a\tb", TargetError::Space),
            ("/a?\x01", TargetError::Space),
            ("/a\x7f", TargetError::Space),
            ("/a\0", TargetError::Space),
            ("/a#b", TargetError::Fragment),
            ("/a?b#", TargetError::Fragment),
        ] {
            assert_eq!(Target::parse(target.as_bytes()), Err(error), "{target:?}");
        }
    }
}
