//! The paths, hosts and origins that requests are compared with.
//!
//! Every value that is accepted can match a request: a value that no browser and no client ever sends is a mistake, not a
//! rule that silently does nothing.

use super::error::Error;
use super::meaning::Reader;
use super::written;
use crate::edge::route::conditions::Conditions;
use crate::edge::route::path;
use crate::handshake::{is_token_byte, origin};
use crate::transport::written_address;
use http::Method;
use std::net::{Ipv4Addr, Ipv6Addr};
use toml::Spanned;

impl Reader<'_> {
    /// The mistake that a value "is not a host" or the like.
    fn wrong(&self, written: &Spanned<String>, what: &str, help: &str) -> Error {
        let message = format!("`{}` {what}", written.get_ref().escape_debug());
        self.source.error(written.span(), message, help)
    }

    pub(super) fn path(&self, written: Option<Spanned<String>>) -> Result<String, Error> {
        let Some(path) = written else {
            return Ok("/".to_owned());
        };
        let text = path.get_ref();
        let wrong = |what: &str, help: &str| Err(self.wrong(&path, what, help));
        if !text.starts_with('/') {
            return wrong("is not a path", "a path prefix begins with `/`: \"/ws\"");
        }
        if text.contains(['?', '#']) {
            return wrong(
                "is more than a path",
                "only the path is compared; leave out `?` and `#` and what follows",
            );
        }
        if text.contains('*') {
            let help = "a path is a prefix: \"/ws\" is \"/ws\" and everything below it, \"/ws/room\". A `*` that stands in requests is written %2A";
            return wrong("has a `*`", help);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let help = "write it as it stands in a request, percent-encoded: \"/caf%C3%A9\"";
            return wrong("has a character that no request has in its path", help);
        }
        // Requests are compared with it in their normal form too. But for percent-encoding, it has to be in that itself.
        let (decoded, normal) = (
            path::decode(text.as_bytes()),
            path::normalize(text.as_bytes()),
        );
        if decoded.contains(&0) {
            return wrong("holds a NUL", "no request with %00 in its path is served");
        }
        if *decoded != *normal {
            let help = format!(
                "paths are compared without `//`, `/./`, `/../`, `\\`, and `;` with what follows it, encoded or not; write \"{}\"",
                encoded(&normal)
            );
            return wrong("is not in its normal form", &help);
        }
        Ok(path.into_inner())
    }

    /// The conditions of a route beside its hosts and path.
    pub(super) fn conditions(&self, written: &written::Route) -> Conditions {
        let headers: Vec<_> = written.match_headers.iter().collect();
        let headers = self.each(&headers, |(name, value)| {
            let header = self.header_name(name, value)?.parse();
            let header =
                header.map_err(|_| self.wrong(value, "is not a header", "write its name"))?;
            Ok((header, wanted(value)))
        });
        let query: Vec<_> = written.match_query.iter().collect();
        let query = self.each(&query, |(name, value)| {
            let is_part = |byte: u8| byte.is_ascii_graphic() && !b"&#".contains(&byte);
            let is_right = !name.is_empty() && !name.contains('=') && name.bytes().all(is_part);
            if is_right && value.get_ref().bytes().all(is_part) {
                return Ok(((*name).clone(), wanted(value)));
            }
            let message = format!("`{}` is not an argument of a query", name.escape_debug());
            let help = "name and value are compared as they stand in a request, percent-encoded: { \"v\" = \"2\" }";
            Err(self.source.error(value.span(), message, help))
        });
        let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
        let methods = self.each(&written.methods, |method| {
            let text = method.get_ref();
            let parsed = text.parse::<Method>().ok().filter(|_| is_token(text));
            let parsed = parsed
                .filter(|parsed| *parsed != Method::CONNECT && *text == text.to_ascii_uppercase());
            parsed.ok_or_else(|| {
                self.wrong(
                    method,
                    "is not a method that is served",
                    "write it as requests have it: \"GET\", \"POST\"",
                )
            })
        });
        let subprotocols = self.each(&written.subprotocols, |name| {
            match is_token(name.get_ref()) {
                true => Ok(name.get_ref().clone()),
                false => Err(self.wrong(
                    name,
                    "is not a subprotocol",
                    "write it as clients offer it: \"graphql-transport-ws\"",
                )),
            }
        });
        Conditions {
            methods,
            headers,
            query,
            subprotocols,
        }
    }

    pub(super) fn host(&self, written: &Spanned<String>) -> Result<String, Error> {
        const FORMS: &str =
            "write a host name without scheme and port: \"chat.example.com\" or \"*.example.com\"";
        let text = written.get_ref();
        let wrong = |what: &str, help: &str| Err(self.wrong(written, what, help));
        if text == "*" {
            return wrong("is not a host", "for every host leave out `hosts`");
        }
        if text.contains('/') {
            return wrong("is a URL, not a host", FORMS);
        }
        if !text.is_ascii() {
            let help = "write it as browsers send it, in punycode: \"xn--mnchen-3ya.example\"";
            return wrong("is not ASCII", help);
        }
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = inner.unwrap_or(text).parse::<Ipv6Addr>() {
            return Ok(format!("[{ip}]"));
        }
        // The dot of a fully qualified name is left out of requests before they are compared.
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let below = name.strip_prefix("*.").unwrap_or(&name);
        let is_ip = below == name && below.parse::<Ipv4Addr>().is_ok();
        if written_address::is_name(below) || is_ip {
            return Ok(name);
        }
        match below.split_once(':') {
            Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                wrong("has a port", FORMS)
            }
            _ => wrong("is not a host", FORMS),
        }
    }

    /// An origin as RFC 6454 §6.2 has a browser write it, in the form in which it is compared.
    pub(super) fn origin(&self, written: &Spanned<String>) -> Result<String, Error> {
        const FORM: &str = "write it as a browser sends it: \"https://example.com\", \"app://name\", \"file://\" or \"null\"";
        let text = written.get_ref();
        let wrong = |what: &str, help: &str| Err(self.wrong(written, what, help));
        let lower = text.to_ascii_lowercase();
        if lower == "null" {
            return Ok(lower);
        }
        if text == "*" {
            return wrong(
                "is not an origin",
                "to allow every page leave out `allowed_origins`",
            );
        }
        let Some((scheme, rest)) = lower.split_once("://") else {
            return wrong("is not an origin", FORM);
        };
        if let Some((host, path)) = rest.split_once('/') {
            let help = if path.is_empty() {
                format!("drop the slash at the end: \"{scheme}://{host}\"")
            } else {
                format!("an origin has no path: \"{scheme}://{host}\"")
            };
            return wrong("has a path", &help);
        }
        let page = match scheme {
            "ws" => "http",
            "wss" => "https",
            other => other,
        };
        if page != scheme {
            let help =
                format!("an origin is that of the page, not of the WebSocket: \"{page}://{rest}\"");
            return wrong("is not an origin", &help);
        }
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let is_right = match scheme {
            "http" | "https" => is_host_and_port(rest),
            // Pages that are opened as files have no host.
            "file" => rest.is_empty(),
            // Applications name themselves as they like: `app://.`, `chrome-extension://abc`, `capacitor://localhost`.
            _ => {
                let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte);
                !rest.is_empty() && rest.bytes().all(is_part)
            }
        };
        if !is_scheme || !is_right {
            return wrong("is not an origin", FORM);
        }
        Ok(origin::normalize(text))
    }
}

/// The value that a header or an argument has to have; `*` is any.
fn wanted(value: &Spanned<String>) -> Option<String> {
    let value = value.get_ref();
    (value != "*").then(|| value.clone())
}

/// Whether this is what follows the scheme in the origin of a page that was loaded over HTTP.
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_host = written_address::is_name(host)
        || host.parse::<Ipv4Addr>().is_ok()
        || inner.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    is_host && port.is_none_or(|port| matches!(port.parse::<u16>(), Ok(1..)))
}

/// A path as it can stand in a request.
fn encoded(path: &[u8]) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path {
        match byte {
            b'"' | b'%' => encoded += &format!("%{byte:02X}"),
            byte if byte.is_ascii_graphic() => encoded.push(char::from(*byte)),
            byte => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}
