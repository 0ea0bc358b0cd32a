//! Addresses as they are written: `10.0.0.5:9000`, `chat.internal:9000`, `unix:/run/chat.sock`.

use crate::proxy::settings::Address;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What is wrong with an address, and what would be right.
pub(super) type Wrong = (String, String);

/// Where a server is.
pub(super) fn server(text: &str) -> Result<Address, Wrong> {
    const FORMS: &str =
        "write HOST:PORT or unix:/PATH, for example \"10.0.0.5:9000\" or \"unix:/run/chat.sock\"";
    let wrong = |what: &str| (format!("`{text}` {what}"), FORMS.to_owned());
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
    let Some((name, port)) = text.rsplit_once(':') else {
        return Err(wrong("has no port"));
    };
    let port: u16 = match port.parse() {
        Ok(port) if port > 0 => port,
        _ => return Err(wrong("has no valid port; ports are 1 to 65535")),
    };
    let is_name = !name.is_empty()
        && name.split('.').all(|label| !label.is_empty())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if is_name {
        Ok(Address::Name(name.to_owned(), port))
    } else {
        Err(wrong("is not an address"))
    }
}

/// Where a listener is; port 0 asks for a free one.
pub(super) fn listener(text: &str) -> Result<Address, Wrong> {
    const FORMS: &str = "write IP:PORT or unix:/PATH, for example \"0.0.0.0:8080\", \"[::]:8080\" or \"unix:/run/wsgate.sock\"";
    let wrong = |what: &str| (format!("`{text}` {what}"), FORMS.to_owned());
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path).map_err(wrong);
    }
    let text_with_ip = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    match text_with_ip.parse() {
        Ok(address) => Ok(Address::Tcp(address)),
        Err(_) if !text.contains(':') => Err(wrong("has no port")),
        Err(_) => Err(wrong("is not an IP address with a port")),
    }
}

fn unix(path: &str) -> Result<Address, &'static str> {
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
        ] {
            assert!(listener(text).is_err(), "{text}");
        }
    }
}
