//! Names of headers: which go no further than one hop, and which servers may take for another.

use super::{Fields, tokens};
use http::header;

/// The headers of a message that go no further than one hop, RFC 9110 §7.6.1: those that always are, there or not, and
/// those it names, in whatever case.
///
/// A `Connection` that names what the message cannot do without (`Host`, the handshake's own fields, the framing) is
/// not obeyed in that: it is a known way to make a proxy drop a header that somebody relies on.
pub fn hop_by_hop(headers: &impl Fields) -> impl Iterator<Item = &str> {
    let always = [
        "connection",
        "upgrade",
        "te",
        "keep-alive",
        "proxy-connection",
    ];
    let named = tokens(headers, header::CONNECTION).filter_map(|name| str::from_utf8(name).ok());
    always
        .into_iter()
        .chain(named.filter(|name| !is_kept(name)))
}

/// Whether a message cannot do without this header.
fn is_kept(name: &str) -> bool {
    const HANDSHAKE: &str = "sec-websocket-";
    let framing = ["host", "content-length", "transfer-encoding"];
    framing.iter().any(|kept| is_same_variable(kept, name))
        || name
            .get(..HANDSHAKE.len())
            .is_some_and(|start| is_same_variable(start, HANDSHAKE))
}

/// Whether servers may take two names of headers for the same.
///
/// CGI (RFC 3875 §4.1.18), and WSGI, Rack and PHP after it, make the variable `HTTP_X_USER` of `X-User` and `X_User`
/// alike: what is said of the one has to hold for the other.
pub fn is_same_variable(one: &str, other: &str) -> bool {
    let fold = |byte: u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    let mut bytes = one.bytes().zip(other.bytes());
    one.len() == other.len() && bytes.all(|(a, b)| fold(a) == fold(b))
}

/// Whether a name is another spelling, with `_`, of a header that frames a message, or belongs to one hop or to the
/// handshake. No honest client sends one: a server that takes the name for the header itself sees another request than
/// the proxies before it.
pub fn is_disguised(name: &str) -> bool {
    let hop = [
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "http2-settings",
    ];
    name.contains('_') && (is_kept(name) || hop.iter().any(|of| is_same_variable(of, name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    #[test]
    fn rfc_9110_section_7_6_1() {
        let named = [
            ("Connection", "close, X-Trace, Host"),
            ("Connection", "Sec-WebSocket-Key, content-length"),
            ("Keep-Alive", "timeout=5"),
            ("X-Trace", "1"),
            ("X-Kept", "1"),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in named {
            headers.append(name, value.parse().unwrap());
        }
        let names: Vec<&str> = hop_by_hop(&headers).collect();
        let always = [
            "connection",
            "upgrade",
            "te",
            "keep-alive",
            "proxy-connection",
        ];
        assert_eq!(names[..5], always);
        assert_eq!(names[5..], ["close", "X-Trace"]);
    }
}
