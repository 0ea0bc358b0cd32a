//! Addresses as they are written: `10.0.0.5:9000`, `chat.internal:9000`, `unix:/run/chat.sock`.

use crate::transport::address::Address;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// The mistake in an address, and the remedy.
pub(crate) type Wrong = (String, String);

/// Where a server is.
pub(crate) fn server(text: &str) -> Result<Address, Wrong> {
    const FORMS: &str =
        "write HOST:PORT or unix:/PATH, for example \"10.0.0.5:9000\" or \"unix:/run/chat.sock\"";
    let wrong = |what: &str| (format!("`{text}` {what}"), FORMS.to_owned());
    let no_port = |help| (format!("`{text}` has no port"), help);
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path).map_err(wrong);
    }
    if text.contains("://") {
        return Err(wrong("is a URL; an address has no scheme and no path"));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 {
            Err(wrong("has port 0"))
        } else {
            Ok(Address::Tcp(address))
        };
    }
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Err(no_port(format!(
            "write an IPv6 address in brackets: \"[{ip}]:9000\""
        )));
    }
    let Some((name, port)) = text.rsplit_once(':') else {
        return Err(no_port(
            if is_name(text) || text.parse::<Ipv4Addr>().is_ok() {
                format!("add the port of the server: \"{text}:9000\"")
            } else {
                FORMS.to_owned()
            },
        ));
    };
    let port: u16 = match port.parse() {
        Ok(port) if port > 0 => port,
        _ => return Err(wrong("has no valid port; ports are 1 to 65535")),
    };
    if is_name(name) {
        Ok(Address::Name(name.to_ascii_lowercase(), port))
    } else {
        Err(wrong("is not an address"))
    }
}

/// Where a listener is; port 0 asks for a free one.
pub(crate) fn listener(text: &str) -> Result<Address, Wrong> {
    const FORMS: &str = "write IP:PORT or unix:/PATH, for example \"0.0.0.0:8080\", \"[::]:8080\" or \"unix:/run/wsgate.sock\"";
    let wrong = |what: &str| (format!("`{text}` {what}"), FORMS.to_owned());
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path).map_err(wrong);
    }
    let text_with_ip = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    if let Ok(address) = text_with_ip.parse() {
        return Ok(Address::Tcp(address));
    }
    let no_port = |example| (format!("`{text}` has no port"), format!("write {example}"));
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Err(no_port(format!(
            "an IPv6 address in brackets: \"[{ip}]:8080\""
        )));
    }
    match text.rsplit_once(':') {
        None if text.parse::<u16>().is_ok() => Err(no_port(format!(
            "\"0.0.0.0:{text}\" on every IPv4 address, \"127.0.0.1:{text}\" on this machine alone"
        ))),
        None if text.parse::<Ipv4Addr>().is_ok() => Err(no_port(format!("\"{text}:8080\""))),
        None => Err(wrong("has no port")),
        Some((name, port)) if is_name(name) && port.parse::<u16>().is_ok() => {
            let help = format!(
                "a listener needs an IP address, of this machine: \"0.0.0.0:{port}\" for every one"
            );
            Err((format!("`{text}` names a host"), help))
        }
        Some(_) => Err(wrong("is not an IP address with a port")),
    }
}

/// Whether two listeners cannot both have these. That `[::]` takes IPv4 as well is a setting of the machine, and so left
/// to the moment of listening.
pub(crate) fn collide(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::Tcp(a), Address::Tcp(b)) => {
            let (one, other) = (a.ip(), b.ip());
            let same = one == other || one.is_unspecified() || other.is_unspecified();
            a.port() == b.port() && a.port() != 0 && a.is_ipv4() == b.is_ipv4() && same
        }
        _ => a == b,
    }
}

/// Whether an address can be reached from this machine alone.
pub(crate) fn is_private(address: &Address) -> bool {
    match address {
        Address::Tcp(socket) => socket.ip().is_loopback(),
        Address::Name(..) => false,
        Address::Unix(_) => true,
    }
}

/// Whether this can be the name of a host. One that ends in a number would be taken for an IPv4 address, and is a wrong
/// one.
pub(crate) fn is_name(text: &str) -> bool {
    let label_is_good = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.split('.').all(label_is_good) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// A Unix socket by its path, or what is wrong with that.
pub(crate) fn unix(path: &str) -> Result<Address, &'static str> {
    // sockaddr_un holds 108 bytes with the zero at the end.
    match path {
        _ if !path.starts_with('/') => Err("has a path that does not begin with `/`"),
        _ if path.len() > 107 => {
            Err("has a path of more than 107 bytes, too long for a Unix socket")
        }
        _ => Ok(Address::Unix(PathBuf::from(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        for text in [
            "127.0.0.1:9001",
            "[::1]:9001",
            "chat.internal:9002",
            "chat_1:80",
            "unix:/run/chat.sock",
        ] {
            assert_eq!(server(text).unwrap().to_string(), text);
        }
        let long = format!("unix:/{}", "a".repeat(107));
        for text in [
            "",
            ":80",
            "127.0.0.1",
            "chat",
            "chat:0",
            "chat:70000",
            "127.0.0.1:0",
            "http://chat:80",
            "chat:80/ws",
            "a b:80",
            "unix:run/chat.sock",
            "unix:",
            "::1:80",
            "a..b:80",
            "10.0.0.256:80",
            "::1",
            "fe80::1",
            &long,
        ] {
            let wrong = server(text).expect_err(text);
            assert!(wrong.0.starts_with(&format!("`{text}` ")), "{wrong:?}");
        }
    }

    #[test]
    fn listeners() {
        for (text, shown) in [
            ("0.0.0.0:8080", "0.0.0.0:8080"),
            ("[::]:8080", "[::]:8080"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("localhost:8080", "127.0.0.1:8080"),
            ("unix:/run/wsgate.sock", "unix:/run/wsgate.sock"),
        ] {
            assert_eq!(listener(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "8080",
            ":8080",
            "*:8080",
            "example.com:80",
            "127.0.0.1",
            "unix:x",
            "::",
        ] {
            assert!(listener(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_do_not_differ_by_case() {
        assert_eq!(server("Chat.Internal:1"), server("chat.internal:1"));
    }

    #[test]
    fn collisions() {
        for (a, b, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::1]:80", "[::]:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "0.0.0.0:81", false),
            ("0.0.0.0:80", "[::1]:80", false),
            ("0.0.0.0:0", "0.0.0.0:0", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
        ] {
            let (one, other) = (listener(a).unwrap(), listener(b).unwrap());
            assert_eq!(collide(&one, &other), expected, "{a} {b}");
            assert_eq!(collide(&other, &one), expected, "{b} {a}");
        }
    }
}
