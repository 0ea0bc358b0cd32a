//! Origins of pages, RFC 6454 §6.2, as browsers and applications send them.

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
