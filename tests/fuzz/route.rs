//! Which route a request takes, by its path and host, whatever it is written like.
//!
//! A path that is let through leads to the same route for every kind of server in [`READERS`]; a path that is only written
//! in another way than one of [`PATHS`] leads to the route of that one, or is refused. The normal forms of paths and hosts
//! are normal forms of themselves.
//!
//! Whom a request is for, by `Forwarded` and `X-Forwarded-For`: no spelling of what a client wrote into them changes what
//! the nearest proxy added.
//!
//! An input is two bytes of choices, then a path, an empty line, and a host.
#![no_main]

use http::Version;
use libfuzzer_sys::fuzz_target;
use std::cell::LazyCell;
use wsgate::config::Config;
use wsgate::edge::{client::forwarded, route::router::Router};
use wsgate::edge::{http::authority, route::path};

const CONFIG: &str = r#"
[[listener]]
listen = "127.0.0.1:0"
[upstream.chat]
servers = ["127.0.0.1:1"]
[[route]]
name = "0"
upstream = "chat"
[[route]]
name = "1"
upstream = "chat"
path = "/a"
[[route]]
name = "2"
upstream = "chat"
path = "/a/b"
[[route]]
name = "3"
upstream = "chat"
path = "/c/d/"
[[route]]
name = "4"
upstream = "chat"
hosts = ["x.example", "*.y.example", "[::1]"]
"#;

/// The paths of the routes for every host, the most specific first.
const PREFIXES: [(&str, usize); 4] = [("/c/d/", 3), ("/a/b", 2), ("/a", 1), ("/", 0)];

/// Paths in plain spelling.
const PATHS: [&str; 6] = ["/", "/a", "/a/b/c", "/a/x", "/c/d/e", "/b/a"];

thread_local! {
    static ROUTER: LazyCell<Router> = LazyCell::new(|| {
        let config = Config::parse("route.toml", CONFIG).expect("a good configuration");
        Router::new(&config.proxy.routes)
    });
}

/// The route of a path that is plain.
fn route_of(path: &[u8]) -> usize {
    let is_below = |prefix: &str| {
        let rest = path.strip_prefix(prefix.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || prefix.ends_with('/'))
    };
    let found = PREFIXES.iter().find(|(prefix, _)| is_below(prefix));
    found.map_or(0, |(_, route)| *route)
}

/// Percent-decoding once, as nearly all servers do.
fn decode_once(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *byte == b'%');
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| str::from_utf8(digits).ok());
        match digits.map(|digits| u8::from_str_radix(digits, 16)) {
            Some(Ok(byte)) => {
                decoded.push(byte);
                rest = &after[2..];
            }
            _ => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    decoded
}

/// RFC 3986 §5.2.4, with empty segments dropped before, or kept.
fn resolve(path: &[u8], merges_slashes: bool) -> Vec<u8> {
    let mut stack: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        match segment {
            b"" if merges_slashes => {}
            b"." => {}
            b".." => drop(stack.pop()),
            name => stack.push(name),
        }
    }
    let ends_with_slash = path.ends_with(b"/") || path.ends_with(b"/.") || path.ends_with(b"/..");
    let mut resolved = Vec::new();
    for segment in stack {
        resolved.push(b'/');
        resolved.extend_from_slice(segment);
    }
    if resolved.is_empty() || ends_with_slash && !resolved.ends_with(b"/") {
        resolved.push(b'/');
    }
    resolved
}

/// Without what follows `;` in each segment.
fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    let plain = segments.map(|segment| {
        segment
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or(segment)
    });
    plain.collect::<Vec<_>>().join(&b'/')
}

fn slashes(path: &[u8]) -> Vec<u8> {
    let turned = path.iter();
    turned
        .map(|byte| if *byte == b'\\' { b'/' } else { *byte })
        .collect()
}

/// A path as a kind of server reads it.
type Reader = fn(&[u8]) -> Vec<u8>;

/// How servers read a path.
const READERS: [(&str, Reader); 10] = [
    ("as it is written", |path| path.to_vec()),
    ("nginx: decoded, slashes merged, dots resolved", |path| {
        resolve(&decode_once(path), true)
    }),
    ("RFC 3986: dots resolved, slashes kept, decoded", |path| {
        decode_once(&resolve(path, false))
    }),
    ("WSGI: decoded alone", decode_once),
    ("dots resolved after decoding, slashes kept", |path| {
        resolve(&decode_once(path), false)
    }),
    (
        "servlets: without parameters, decoded, dots resolved",
        |path| resolve(&decode_once(&without_parameters(path)), true),
    ),
    ("without parameters, decoded", |path| {
        decode_once(&without_parameters(path))
    }),
    ("decoded, without parameters, dots resolved", |path| {
        resolve(&without_parameters(&decode_once(path)), true)
    }),
    ("Windows: decoded, `\\` as `/`, dots resolved", |path| {
        resolve(&slashes(&decode_once(path)), true)
    }),
    ("decoded twice, dots resolved", |path| {
        resolve(&decode_once(&decode_once(path)), true)
    }),
];

/// Writes a plain path in another way, as the choices say.
fn respell(plain: &str, mut choices: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut written = Vec::new();
    for byte in plain.bytes() {
        let choice = choices.next().unwrap_or_default();
        if byte == b'/' {
            let slash: &[u8] = match choice % 12 {
                0 => b"//",
                1 => b"/./",
                2 => b"/q/../",
                3 => b"/;z/",
                4 => b"/q;z/..;/",
                5 => b"\\",
                6 if !written.is_empty() => b"%2f",
                7 if !written.is_empty() => b";p=1/",
                8 if !written.is_empty() => b"%252F",
                _ => b"/",
            };
            written.extend_from_slice(slash);
            continue;
        }
        match choice % 6 {
            0 => written.extend_from_slice(format!("%{byte:02x}").as_bytes()),
            1 => written.extend_from_slice(format!("%25{byte:02X}").as_bytes()),
            2 => written.extend_from_slice(format!("%c1%{:02x}", byte & 0x3f | 0x80).as_bytes()),
            _ => written.push(byte),
        }
    }
    if written.first() != Some(&b'/') {
        written.insert(0, b'/');
    }
    written
}

fn check_path(router: &Router, written: &[u8]) {
    let normal = path::normalize(written);
    assert_eq!(path::normalize(&normal), normal);
    assert!(normal.starts_with(b"/") && normal.len() <= written.len() + 1);
    let decoded = path::decode(written);
    assert_eq!(path::decode(&decoded), decoded);
    let Ok(found) = router.find("any.example", written, |_| true) else {
        return;
    };
    let Some(route) = found else {
        assert!(!written.starts_with(b"/"));
        return;
    };
    for (reader, read) in READERS {
        let read = read(written);
        let (written, read) = (written.escape_ascii(), read.as_slice());
        assert_eq!(
            route,
            route_of(read),
            "{written} is {} to: {reader}",
            read.escape_ascii()
        );
    }
}

fn check_host(router: &Router, host: &[u8]) {
    let Ok(host) = authority::host_of(Version::HTTP_11, None, [host].into_iter()) else {
        return;
    };
    let normal = authority::normalize(host);
    assert_eq!(authority::normalize(&normal), normal);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    assert!(!normal.is_empty() && normal.bytes().all(is_plain));
    let route = router.find(host, b"/", |_| true);
    for other in [
        normal.to_string(),
        normal.to_ascii_uppercase(),
        format!("{normal}:"),
        format!("{normal}:8080"),
    ] {
        let read = authority::host_of(Version::HTTP_11, None, [other.as_bytes()].into_iter());
        assert_eq!(read, Ok(other.as_str()));
        assert_eq!(router.find(&other, b"/", |_| true), route);
    }
}

/// Elements of `Forwarded` as a trusted proxy writes them.
const WRITTEN: [&[u8]; 4] = [
    b"for=192.0.2.43",
    b"for=\"[2001:db8::17]:4711\";proto=https;host=a.example",
    b"for=_hidden;host=\"a, \\\"b\\\\\"",
    b"proto=http, for=198.51.100.7;by=unknown",
];

/// What a client writes to the left of a trusted proxy's element changes nothing of what that element says, and an
/// address is read back as it was written.
fn check_forwarded(of_client: &[u8]) {
    for written in WRITTEN {
        let joined = [of_client, b",", written].concat();
        let alone: Vec<_> = forwarded::elements(&[written]).collect();
        for lines in [&[joined.as_slice()][..], &[of_client, written][..]] {
            let both = forwarded::elements(lines).take(alone.len());
            assert!(both.eq(alone.iter().cloned()), "{}", joined.escape_ascii());
        }
    }
    let last = b"192.0.2.43";
    let joined = [of_client, b",", last].concat();
    let nearest = forwarded::x_forwarded_for(&[&joined]).next().flatten();
    assert_eq!(nearest, forwarded::address(last));
    for value in forwarded::values(&[of_client]).take(forwarded::MOST) {
        let read = forwarded::x_forwarded_for(&[value]).next().flatten();
        if let Some(address) = read {
            let again = address.to_string();
            let again = forwarded::x_forwarded_for(&[again.as_bytes()]).next();
            assert_eq!(again, Some(read));
        }
        if let Some(host) = forwarded::host(value) {
            assert_eq!(host.as_bytes(), value);
        }
        forwarded::scheme(value);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some(([base, skip], rest)) = input.split_first_chunk() else {
        return;
    };
    let border = rest.windows(2).position(|two| two == b"\n\n");
    let (path, host) = match border {
        Some(at) => (&rest[..at], &rest[at + 2..]),
        None => (rest, &b""[..]),
    };
    ROUTER.with(|router| {
        check_path(router, path);
        check_path(router, &[b"/", path].concat());
        let plain = PATHS[usize::from(*base) % PATHS.len()];
        let choices = rest.iter().copied().skip(usize::from(*skip));
        let written = respell(plain, choices);
        check_path(router, &written);
        if let Ok(found) = router.find("any.example", &written, |_| true) {
            assert_eq!(
                found,
                Some(route_of(plain.as_bytes())),
                "{}",
                written.escape_ascii()
            );
        }
        check_host(router, host);
    });
    check_forwarded(path);
    check_forwarded(host);
});
