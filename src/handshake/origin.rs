//! Origins of pages, RFC 6454 §6.2, as browsers and applications send them.

use super::Fields;
use http::header;

/// An origin without the port that its scheme has anyway: `https://a.example:443` is `https://a.example`.
fn without_default_port(origin: &[u8]) -> &[u8] {
    for (scheme, port) in [(&b"https://"[..], &b":443"[..]), (b"http://", b":80")] {
        let start = origin.get(..scheme.len());
        if start.is_some_and(|start| start.eq_ignore_ascii_case(scheme)) {
            return origin.strip_suffix(port).unwrap_or(origin);
        }
    }
    origin
}

/// An origin in the form in which it is compared: in lower case, without the default port of its scheme.
pub fn normalize(origin: &str) -> String {
    let mut lower = origin.to_ascii_lowercase();
    lower.truncate(without_default_port(origin.as_bytes()).len());
    lower
}

/// Whether a request's Origin is this one, which is [normalized](normalize).
pub fn is(origin: &[u8], normalized: &str) -> bool {
    without_default_port(origin).eq_ignore_ascii_case(normalized.as_bytes())
}

/// Whether a request may come from here: cross-site hijacking is prevented by nothing but the server (RFC 6455 §10.2).
///
/// Without an `Origin` a request does not come from a browser page, and is allowed. The allowed origins are
/// [normalized](normalize).
pub fn is_allowed(allowed: &[String], headers: &impl Fields) -> bool {
    if allowed.is_empty() {
        return true;
    }
    let mut origins = headers.lines(header::ORIGIN);
    let Some(origin) = origins.next() else {
        return true;
    };
    let is_allowed = allowed.iter().any(|allowed| is(origin, allowed));
    is_allowed && origins.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    fn headers(origins: &[&'static str]) -> HeaderMap {
        let lines = origins
            .iter()
            .map(|origin| (header::ORIGIN, HeaderValue::from_static(origin)));
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn the_default_port_says_nothing() {
        for (origin, normal) in [
            ("https://A.example:443", "https://a.example"),
            ("HTTP://a.example:80", "http://a.example"),
            ("https://[::1]:443", "https://[::1]"),
            ("https://a.example:80", "https://a.example:80"),
            ("http://a.example:443", "http://a.example:443"),
            ("https://a.example:4430", "https://a.example:4430"),
            ("app://a:443", "app://a:443"),
            ("null", "null"),
            ("file://", "file://"),
        ] {
            assert_eq!(normalize(origin), normal);
            assert!(is(origin.as_bytes(), normal), "{origin}");
        }
        assert!(!is(b"https://a.example:44", "https://a.example"));
        assert!(!is(b"file:///", "file://"));
    }

    #[test]
    fn section_10_2_origins() {
        let allowed = [
            "https://example.com".to_owned(),
            "http://localhost:3000".to_owned(),
        ];
        let from = |origins: &[&'static str]| is_allowed(&allowed, &headers(origins));
        assert!(from(&["https://example.com"]));
        assert!(from(&["HTTPS://Example.com"]));
        assert!(from(&[]));
        assert!(!from(&["https://example.com.evil.net"]));
        assert!(!from(&["http://example.com"]));
        assert!(!from(&["null"]));
        assert!(!from(&["https://example.com", "https://evil.net"]));
        assert!(is_allowed(&[], &headers(&["https://evil.net"])));
    }
}
