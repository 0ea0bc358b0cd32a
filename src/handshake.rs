//! The opening handshake, RFC 6455 §4 and §9.1, RFC 7692 §7.1: a request and a 101, what was agreed, or why not. Pure.
//!
//! A proxy that believes in an upgrade before the server has agreed to it lets a client smuggle requests past it. So
//! both halves are checked to the letter: nothing but a correct request goes on, and nothing but a 101 that answers
//! *this* request makes a tunnel.

mod deflate;
mod names;
pub mod origin;
mod violation;

pub use deflate::{Compression, Deflate};
pub use names::{hop_by_hop, is_disguised, is_same_variable};
pub use violation::{Side, Strictness, Violation};

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use sha1::{Digest, Sha1};
use std::fmt;

/// The one version there is, RFC 6455 §4.1.
pub const VERSION: &str = "13";

/// §1.3: concatenated with the key before it is hashed.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Keys are random bytes; some clients draw the base64 text itself, whose last bits then are not zero.
const KEY_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Most subprotocols of a request. Clients offer a few; each is compared with each, and with the server's answer.
pub const MAX_SUBPROTOCOLS: usize = 64;

/// Most extensions of a request or a 101. Browsers offer one or two; each is read into memory.
pub const MAX_EXTENSIONS: usize = 32;

/// Most parameters of an extension. permessage-deflate has four; each is compared with each.
pub const MAX_EXTENSION_PARAMETERS: usize = 16;

/// Most names in `Connection` of a message. Clients name one to three; each header of the message is compared with each.
pub const MAX_CONNECTION_NAMES: usize = 32;

/// Longest name in `Connection`, in bytes. It bounds what the comparison of one header costs.
pub const MAX_CONNECTION_NAME: usize = 64;

/// The headers of a message, as whoever parsed it has them.
pub trait Fields {
    /// The values of the lines of this name, in their order.
    fn lines(&self, name: HeaderName) -> impl Iterator<Item = &[u8]>;
}

impl Fields for HeaderMap {
    fn lines(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        self.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

/// A correct request for a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    accept: String,
    protocols: Vec<String>,
    violations: Vec<Violation>,
    /// Of permessage-deflate, as the server gets them.
    offers: Vec<deflate::Parameters>,
}

impl Request {
    /// The `Sec-WebSocket-Accept` that the server has to answer with (§4.2.2).
    pub fn accept(&self) -> &str {
        &self.accept
    }

    /// The rules that it breaks and that were [tolerated](Strictness::Observe), each once.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Offers the server what of the client's `Sec-WebSocket-Extensions` can be inspected, and what of it `compression`
    /// lets be offered. Before this, it is nothing.
    ///
    /// # Errors
    /// [`Refusal::Extensions`], unless compression is off anyway.
    pub fn offer(
        &mut self,
        headers: &impl Fields,
        compression: Compression,
    ) -> Result<(), Refusal> {
        self.offers =
            deflate::offers(headers.lines(header::SEC_WEBSOCKET_EXTENSIONS), compression)?;
        Ok(())
    }

    /// `Sec-WebSocket-Extensions` for the server, if it is offered any.
    pub fn extensions(&self) -> Option<String> {
        let offers: Vec<String> = self.offers.iter().map(ToString::to_string).collect();
        (!offers.is_empty()).then(|| offers.join(", "))
    }
}

/// Both sides agreed to this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// The subprotocol, one of those offered, or none.
    pub protocol: Option<String>,
    /// How messages may be compressed, or none.
    pub deflate: Option<Deflate>,
    /// `Sec-WebSocket-Extensions` for the client.
    pub extensions: Option<String>,
    /// A rule that the 101 breaks and that was [tolerated](Strictness::Observe).
    pub violation: Option<Violation>,
}

/// Why a request is not passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// §4.1: "The method of the request MUST be GET".
    Method,
    /// §4.1: "the HTTP version MUST be at least 1.1"; there is no other way to upgrade than 1.1.
    HttpVersion,
    /// §4.1: "MUST contain a |Host| header field".
    Host,
    /// §4.1: "MUST contain an |Upgrade| header field whose value MUST include the "websocket" keyword".
    Upgrade,
    /// §4.1: "MUST contain a |Connection| header field whose value MUST include the "Upgrade" token".
    Connection,
    /// §4.1: a key of 16 bytes in base64, once.
    Key,
    /// §4.1: `Sec-WebSocket-Version: 13`, once.
    MissingVersion,
    /// §4.4: another version than 13.
    OtherVersion,
    /// §4.1: subprotocols are tokens, each once.
    Protocols,
    /// §9.1: extensions are tokens with parameters.
    Extensions,
    /// RFC 9112 §6: a body, which would be taken for frames by one side and for a request by the other.
    Body,
    /// More than [`MAX_SUBPROTOCOLS`].
    TooManyProtocols,
    /// More than [`MAX_EXTENSIONS`].
    TooManyExtensions,
    /// More than [`MAX_EXTENSION_PARAMETERS`].
    TooManyParameters,
    /// More than [`MAX_CONNECTION_NAMES`].
    TooManyConnectionNames,
    /// One of more than [`MAX_CONNECTION_NAME`] bytes.
    LongConnectionName,
}

impl Refusal {
    /// 426 for another version, else 400.
    pub const fn status(&self) -> StatusCode {
        match self {
            Refusal::OtherVersion => StatusCode::UPGRADE_REQUIRED,
            Refusal::Method
            | Refusal::HttpVersion
            | Refusal::Host
            | Refusal::Upgrade
            | Refusal::Connection
            | Refusal::Key
            | Refusal::MissingVersion
            | Refusal::Protocols
            | Refusal::Extensions
            | Refusal::Body
            | Refusal::TooManyProtocols
            | Refusal::TooManyExtensions
            | Refusal::TooManyParameters
            | Refusal::TooManyConnectionNames
            | Refusal::LongConnectionName => StatusCode::BAD_REQUEST,
        }
    }
}

impl Refusal {
    /// The sentence of those that are about no bound.
    const fn sentence(&self) -> &'static str {
        match self {
            Refusal::Method => "a WebSocket is opened with GET",
            Refusal::HttpVersion => "a WebSocket is opened with HTTP/1.1",
            Refusal::Host => "the Host header is missing, empty or there twice",
            Refusal::Upgrade => {
                "the header `Upgrade: websocket` is missing; does a proxy in front of this one remove it?"
            }
            Refusal::Connection => {
                "the header `Connection: Upgrade` is missing; does a proxy in front of this one remove it?"
            }
            Refusal::Key => "Sec-WebSocket-Key has to be there once, 16 bytes in base64",
            Refusal::MissingVersion => {
                "Sec-WebSocket-Version has to be there once; this is a server of version 13"
            }
            Refusal::OtherVersion => "this is a server of WebSocket version 13",
            Refusal::Protocols => "Sec-WebSocket-Protocol has to be a list of different tokens",
            Refusal::Extensions => {
                "Sec-WebSocket-Extensions has to be a list of extensions with their parameters"
            }
            Refusal::Body => "a request for a WebSocket has no body",
            Refusal::TooManyProtocols
            | Refusal::TooManyExtensions
            | Refusal::TooManyParameters
            | Refusal::TooManyConnectionNames
            | Refusal::LongConnectionName => "a header of the request holds too much",
        }
    }
}

impl fmt::Display for Refusal {
    /// The sentence in the body of the answer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most =
            |name: &str, bound: usize, what: &str| format!("{name} holds more than {bound} {what}");
        let sentence = match self {
            Refusal::TooManyProtocols => {
                most("Sec-WebSocket-Protocol", MAX_SUBPROTOCOLS, "subprotocols")
            }
            Refusal::TooManyExtensions => {
                most("Sec-WebSocket-Extensions", MAX_EXTENSIONS, "extensions")
            }
            Refusal::TooManyParameters => {
                let what = "parameters of one extension";
                most("Sec-WebSocket-Extensions", MAX_EXTENSION_PARAMETERS, what)
            }
            Refusal::TooManyConnectionNames => most("Connection", MAX_CONNECTION_NAMES, "names"),
            Refusal::LongConnectionName => {
                format!("Connection holds a name of more than {MAX_CONNECTION_NAME} bytes")
            }
            other => return f.write_str(other.sentence()),
        };
        f.write_str(&sentence)
    }
}
/// Why a 101 does not make a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidUpgradeResponse {
    /// RFC 9112 §5: lines that are folded, that are too many, or that are no headers.
    Head,
    /// §4.1: `Upgrade: websocket` is missing or says more.
    Upgrade,
    /// §4.1: `Connection: Upgrade` is missing.
    Connection,
    /// §4.1: `Sec-WebSocket-Accept` is missing, there twice, or not the answer to the key.
    Accept,
    /// §4.1: a subprotocol that was not offered, or more than one.
    Protocol,
    /// §4.1: an extension that was not offered.
    Extension,
    /// RFC 7692 §7.1: parameters of an extension that are wrong or answer no offer.
    ExtensionParameters,
    /// More than [`MAX_CONNECTION_NAMES`], or one of more than [`MAX_CONNECTION_NAME`] bytes.
    ConnectionNames,
}

impl fmt::Display for InvalidUpgradeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidUpgradeResponse::Head => "the head of its 101 is malformed",
            InvalidUpgradeResponse::Upgrade => "its 101 has no `Upgrade: websocket`",
            InvalidUpgradeResponse::Connection => "its 101 has no `Connection: Upgrade`",
            InvalidUpgradeResponse::Accept => {
                "the Sec-WebSocket-Accept of its 101 does not answer the key"
            }
            InvalidUpgradeResponse::Protocol => "its 101 names a subprotocol that was not offered",
            InvalidUpgradeResponse::Extension => "its 101 names an extension that was not offered",
            InvalidUpgradeResponse::ExtensionParameters => {
                "the extension parameters of its 101 answer no offer"
            }
            InvalidUpgradeResponse::ConnectionNames => {
                "the Connection header of its 101 holds too many or too long names"
            }
        })
    }
}

/// Whether a request means to open a WebSocket, correctly or not.
///
/// `Sec-WebSocket-Key` without `Upgrade` counts: it is what is left where a proxy in front removes hop-by-hop headers.
pub fn is_attempt(headers: &impl Fields) -> bool {
    tokens(headers, header::UPGRADE).any(is_websocket)
        || headers.lines(header::SEC_WEBSOCKET_KEY).next().is_some()
}

/// Reads a request that [means](is_attempt) to open a WebSocket.
///
/// # Errors
/// The first rule of RFC 6455 §4.1 that it breaks and that is not tolerated.
pub fn check_request(
    method: &Method,
    version: Version,
    headers: &impl Fields,
    strictness: Strictness,
) -> Result<Request, Refusal> {
    let holds = |ok: bool, refusal| if ok { Ok(()) } else { Err(refusal) };
    let mut violations = Vec::new();
    let mut tolerates = |ok: bool, violation: Violation, refusal| match strictness {
        _ if ok => Ok(()),
        Strictness::Enforce => Err(refusal),
        Strictness::Observe => {
            if !violations.contains(&violation) {
                violations.push(violation);
            }
            Ok(())
        }
    };
    holds(method == Method::GET, Refusal::Method)?;
    holds(version == Version::HTTP_11, Refusal::HttpVersion)?;
    holds(
        single(headers, header::HOST).is_some_and(|host| !host.is_empty()),
        Refusal::Host,
    )?;
    holds(
        tokens(headers, header::UPGRADE).any(is_websocket),
        Refusal::Upgrade,
    )?;
    let names = connection_names(headers);
    let is_upgrading = names.map_err(|error| match error {
        ConnectionNamesError::TooMany => Refusal::TooManyConnectionNames,
        ConnectionNamesError::TooLong => Refusal::LongConnectionName,
    })?;
    tolerates(is_upgrading, Violation::Connection, Refusal::Connection)?;
    let no_body = headers.lines(header::TRANSFER_ENCODING).next().is_none()
        && headers
            .lines(header::CONTENT_LENGTH)
            .all(|length| length == b"0");
    holds(no_body, Refusal::Body)?;
    match single(headers, header::SEC_WEBSOCKET_VERSION) {
        Some(version) => holds(version == VERSION.as_bytes(), Refusal::OtherVersion)?,
        None => {
            let mut lines = headers.lines(header::SEC_WEBSOCKET_VERSION);
            holds(lines.next().is_none(), Refusal::MissingVersion)?;
            tolerates(false, Violation::Version, Refusal::MissingVersion)?;
        }
    }
    let key = single(headers, header::SEC_WEBSOCKET_KEY).ok_or(Refusal::Key)?;
    let is_visible = !key.is_empty() && key.iter().all(u8::is_ascii_graphic);
    let decoded = KEY_BASE64.decode(key);
    let is_right = decoded.is_ok_and(|decoded| decoded.len() == 16);
    holds(is_right || is_visible, Refusal::Key)?;
    tolerates(is_right, Violation::Key, Refusal::Key)?;
    let mut protocols: Vec<String> = Vec::new();
    for protocol in tokens(headers, header::SEC_WEBSOCKET_PROTOCOL) {
        holds(
            protocols.len() < MAX_SUBPROTOCOLS,
            Refusal::TooManyProtocols,
        )?;
        let protocol = printable(protocol).ok_or(Refusal::Protocols)?;
        let is_token = protocol.bytes().all(is_token_byte);
        tolerates(is_token, Violation::SubprotocolSyntax, Refusal::Protocols)?;
        let is_new = protocols.iter().all(|known| known != protocol);
        tolerates(is_new, Violation::SubprotocolTwice, Refusal::Protocols)?;
        protocols.push(protocol.to_owned());
    }
    Ok(Request {
        accept: accept_for(key),
        protocols,
        violations,
        offers: Vec::new(),
    })
}

/// Holds the headers of a server's 101 against the request that it answers.
///
/// # Errors
/// The first rule of RFC 6455 §4.1 (the client's checks) that it breaks and that is not tolerated.
pub fn check_switch(
    request: &Request,
    headers: &impl Fields,
    strictness: Strictness,
) -> Result<Agreed, InvalidUpgradeResponse> {
    let holds = |ok: bool, bad| if ok { Ok(()) } else { Err(bad) };
    let mut upgrade = tokens(headers, header::UPGRADE);
    holds(
        upgrade.next().is_some_and(is_websocket) && upgrade.next().is_none(),
        InvalidUpgradeResponse::Upgrade,
    )?;
    let is_upgrading =
        connection_names(headers).map_err(|_| InvalidUpgradeResponse::ConnectionNames)?;
    holds(is_upgrading, InvalidUpgradeResponse::Connection)?;
    let accept =
        single(headers, header::SEC_WEBSOCKET_ACCEPT).ok_or(InvalidUpgradeResponse::Accept)?;
    holds(
        accept == request.accept.as_bytes(),
        InvalidUpgradeResponse::Accept,
    )?;
    check_http2_response(request, headers, strictness)
}

/// Holds the headers of a server's 200 to an extended CONNECT against the request that it answers (RFC 8441 §5): only the subprotocol
/// and the extensions, as the response has neither `Upgrade` and `Connection` nor `Sec-WebSocket-Accept`.
///
/// # Errors
/// The first rule that the response breaks and that is not tolerated.
pub fn check_http2_response(
    request: &Request,
    headers: &impl Fields,
    strictness: Strictness,
) -> Result<Agreed, InvalidUpgradeResponse> {
    let holds = |ok: bool, bad| if ok { Ok(()) } else { Err(bad) };
    let answer = deflate::answer(
        headers.lines(header::SEC_WEBSOCKET_EXTENSIONS),
        &request.offers,
    )?;
    let mut protocols = tokens(headers, header::SEC_WEBSOCKET_PROTOCOL);
    let (mut protocol, mut violation) = (None, None);
    if let Some(chosen) = protocols.next() {
        holds(protocols.next().is_none(), InvalidUpgradeResponse::Protocol)?;
        let chosen = printable(chosen).ok_or(InvalidUpgradeResponse::Protocol)?;
        if request.protocols.iter().all(|offered| offered != chosen) {
            holds(
                strictness == Strictness::Observe,
                InvalidUpgradeResponse::Protocol,
            )?;
            violation = Some(Violation::SubprotocolNotOffered);
        }
        protocol = Some(chosen.to_owned());
    }
    Ok(Agreed {
        protocol,
        deflate: answer.map(|answer| answer.agreed()),
        extensions: answer.map(|answer| answer.to_string()),
        violation,
    })
}

enum ConnectionNamesError {
    TooMany,
    TooLong,
}

/// Whether `Connection` names `Upgrade`.
fn connection_names(headers: &impl Fields) -> Result<bool, ConnectionNamesError> {
    let mut is_upgrading = false;
    for (at, name) in tokens(headers, header::CONNECTION).enumerate() {
        if at >= MAX_CONNECTION_NAMES {
            return Err(ConnectionNamesError::TooMany);
        }
        if name.len() > MAX_CONNECTION_NAME {
            return Err(ConnectionNamesError::TooLong);
        }
        is_upgrading |= is_upgrade(name);
    }
    Ok(is_upgrading)
}

/// Bytes as text, if they are printable ASCII, which can stand in a header and in the log.
fn printable(bytes: &[u8]) -> Option<&str> {
    let is_printable = bytes.iter().all(|byte| matches!(byte, b' '..=b'~'));
    str::from_utf8(bytes).ok().filter(|_| is_printable)
}

/// `Sec-WebSocket-Accept` for a key (§4.2.2, item 5.4).
pub fn accept_for(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// The elements of a list header over all its lines, RFC 9110 §5.6.1. Empty ones are left out.
fn tokens(headers: &impl Fields, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    headers
        .lines(name)
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// The value of a header that is there exactly once.
fn single(headers: &impl Fields, name: HeaderName) -> Option<&[u8]> {
    let mut lines = headers.lines(name);
    let value = lines.next()?.trim_ascii();
    lines.next().is_none().then_some(value)
}

fn is_websocket(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"websocket")
}

fn is_upgrade(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"upgrade")
}

/// Whether a token may hold this byte, RFC 9110 §5.6.2.
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    /// The request of §1.2.
    const REQUEST: [(&str, &str); 7] = [
        ("Host", "server.example.com"),
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Origin", "http://example.com"),
        ("Sec-WebSocket-Protocol", "chat, superchat"),
        ("Sec-WebSocket-Version", "13"),
    ];

    const SWITCH: [(&str, &str); 4] = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("Sec-WebSocket-Protocol", "chat"),
    ];

    /// `lines` with `name` replaced by these values: none takes it away, two make it come twice.
    fn with(
        lines: &[(&'static str, &'static str)],
        name: &'static str,
        values: &[&'static str],
    ) -> HeaderMap {
        let mut lines = lines.to_vec();
        lines.retain(|(other, _)| *other != name);
        lines.extend(values.iter().map(|value| (name, *value)));
        headers(&lines)
    }

    fn check(headers: &HeaderMap) -> Result<Request, Refusal> {
        check_request(&Method::GET, Version::HTTP_11, headers, Strictness::Enforce)
    }

    fn check_switch(
        request: &Request,
        headers: &HeaderMap,
    ) -> Result<Agreed, InvalidUpgradeResponse> {
        super::check_switch(request, headers, Strictness::Enforce)
    }

    fn request() -> Request {
        check(&headers(&REQUEST)).unwrap()
    }

    #[test]
    fn section_1_3_example() {
        assert_eq!(request().accept(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let agreed = check_switch(&request(), &headers(&SWITCH)).unwrap();
        assert_eq!(agreed.protocol.as_deref(), Some("chat"));
    }

    #[test]
    fn section_4_1_requests() {
        for (name, values, refusal) in [
            ("Host", &[][..], Some(Refusal::Host)),
            ("Host", &[""], Some(Refusal::Host)),
            ("Host", &["a", "b"], Some(Refusal::Host)),
            ("Upgrade", &[], Some(Refusal::Upgrade)),
            ("Upgrade", &["h2c"], Some(Refusal::Upgrade)),
            ("Upgrade", &["h2c, WebSocket"], None),
            ("Connection", &[], Some(Refusal::Connection)),
            ("Connection", &["close"], Some(Refusal::Connection)),
            ("Connection", &["keep-alive", "upgrade"], None),
            ("Sec-WebSocket-Key", &[], Some(Refusal::Key)),
            (
                "Sec-WebSocket-Key",
                &["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="],
                Some(Refusal::Key),
            ),
            (
                "Sec-WebSocket-Key",
                &["dGhlIHNhbXBsZQ=="],
                Some(Refusal::Key),
            ),
            (
                "Sec-WebSocket-Key",
                &["not base64 at all"],
                Some(Refusal::Key),
            ),
            ("Sec-WebSocket-Key", &["dGhlIHNhbXBsZSBub25jZT=="], None),
            ("Sec-WebSocket-Version", &[], Some(Refusal::MissingVersion)),
            (
                "Sec-WebSocket-Version",
                &["13", "13"],
                Some(Refusal::MissingVersion),
            ),
            ("Sec-WebSocket-Version", &["8"], Some(Refusal::OtherVersion)),
            (
                "Sec-WebSocket-Version",
                &["013"],
                Some(Refusal::OtherVersion),
            ),
            ("Sec-WebSocket-Protocol", &[], None),
            ("Sec-WebSocket-Protocol", &["a", "b, c"], None),
            (
                "Sec-WebSocket-Protocol",
                &["a, a"],
                Some(Refusal::Protocols),
            ),
            ("Sec-WebSocket-Protocol", &["a b"], Some(Refusal::Protocols)),
            ("Content-Length", &["0"], None),
            ("Content-Length", &["5"], Some(Refusal::Body)),
            ("Transfer-Encoding", &["chunked"], Some(Refusal::Body)),
        ] {
            assert_eq!(
                check(&with(&REQUEST, name, values)).err(),
                refusal,
                "{name}: {values:?}"
            );
        }
        let right = headers(&REQUEST);
        assert_eq!(
            check_request(&Method::POST, Version::HTTP_11, &right, Strictness::Enforce),
            Err(Refusal::Method)
        );
        assert_eq!(
            check_request(&Method::GET, Version::HTTP_10, &right, Strictness::Enforce),
            Err(Refusal::HttpVersion)
        );
    }

    #[test]
    fn section_4_1_answers() {
        for (name, values, bad) in [
            ("Upgrade", &[][..], Some(InvalidUpgradeResponse::Upgrade)),
            ("Upgrade", &["h2c"], Some(InvalidUpgradeResponse::Upgrade)),
            (
                "Upgrade",
                &["websocket, h2c"],
                Some(InvalidUpgradeResponse::Upgrade),
            ),
            ("Upgrade", &["WebSocket"], None),
            ("Connection", &[], Some(InvalidUpgradeResponse::Connection)),
            (
                "Connection",
                &["keep-alive"],
                Some(InvalidUpgradeResponse::Connection),
            ),
            (
                "Sec-WebSocket-Accept",
                &[],
                Some(InvalidUpgradeResponse::Accept),
            ),
            (
                "Sec-WebSocket-Accept",
                &["S3pPLMBiTxaQ9kYGzzhZRbK+xOo="],
                Some(InvalidUpgradeResponse::Accept),
            ),
            (
                "Sec-WebSocket-Accept",
                &[SWITCH[2].1, SWITCH[2].1],
                Some(InvalidUpgradeResponse::Accept),
            ),
            ("Sec-WebSocket-Protocol", &[], None),
            ("Sec-WebSocket-Protocol", &["superchat"], None),
            (
                "Sec-WebSocket-Protocol",
                &["Chat"],
                Some(InvalidUpgradeResponse::Protocol),
            ),
            (
                "Sec-WebSocket-Protocol",
                &["mqtt"],
                Some(InvalidUpgradeResponse::Protocol),
            ),
            (
                "Sec-WebSocket-Protocol",
                &["chat, superchat"],
                Some(InvalidUpgradeResponse::Protocol),
            ),
            (
                "Sec-WebSocket-Extensions",
                &["permessage-deflate"],
                Some(InvalidUpgradeResponse::Extension),
            ),
            ("Sec-WebSocket-Extensions", &[""], None),
        ] {
            let checked = check_switch(&request(), &with(&SWITCH, name, values));
            assert_eq!(checked.err(), bad, "{name}: {values:?}");
        }
    }

    #[test]
    fn what_is_observed_passes_where_it_is_safe() {
        let observe = |headers: &HeaderMap| {
            let strictness = Strictness::Observe;
            check_request(&Method::GET, Version::HTTP_11, headers, strictness)
        };
        for (name, values, violations) in [
            (
                "Sec-WebSocket-Key",
                &["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="][..],
                Some(&[Violation::Key][..]),
            ),
            ("Sec-WebSocket-Key", &["key!"], Some(&[Violation::Key])),
            ("Sec-WebSocket-Key", &[""], None),
            ("Sec-WebSocket-Key", &["a b"], None),
            ("Sec-WebSocket-Key", &[], None),
            ("Sec-WebSocket-Key", &["a", "b"], None),
            (
                "Connection",
                &["keep-alive"],
                Some(&[Violation::Connection]),
            ),
            ("Connection", &[], Some(&[Violation::Connection])),
            ("Sec-WebSocket-Version", &[], Some(&[Violation::Version])),
            ("Sec-WebSocket-Version", &["13", "13"], None),
            ("Sec-WebSocket-Version", &["8"], None),
            (
                "Sec-WebSocket-Protocol",
                &["a=b, a=b, c d"],
                Some(&[Violation::SubprotocolSyntax, Violation::SubprotocolTwice]),
            ),
            ("Sec-WebSocket-Protocol", &["a\tb"], None),
            ("Sec-WebSocket-Protocol", &["a"], Some(&[])),
            ("Host", &[], None),
            ("Upgrade", &[], None),
            ("Content-Length", &["5"], None),
        ] {
            let read = observe(&with(&REQUEST, name, values)).ok();
            let found = read.as_ref().map(Request::violations);
            assert_eq!(found, violations, "{name}: {values:?}");
        }
        let strictness = Strictness::Observe;
        for (name, values, violation) in [
            ("Sec-WebSocket-Protocol", &["chat"][..], Ok(None)),
            (
                "Sec-WebSocket-Protocol",
                &["mqtt"],
                Ok(Some(Violation::SubprotocolNotOffered)),
            ),
            (
                "Sec-WebSocket-Protocol",
                &["mqtt, chat"],
                Err(InvalidUpgradeResponse::Protocol),
            ),
            (
                "Sec-WebSocket-Protocol",
                &["a\tb"],
                Err(InvalidUpgradeResponse::Protocol),
            ),
            (
                "Sec-WebSocket-Accept",
                &["x"],
                Err(InvalidUpgradeResponse::Accept),
            ),
            ("Upgrade", &[], Err(InvalidUpgradeResponse::Upgrade)),
        ] {
            let agreed = super::check_switch(&request(), &with(&SWITCH, name, values), strictness);
            let found = agreed.map(|agreed| agreed.violation);
            assert_eq!(found, violation, "{name}: {values:?}");
        }
    }

    /// Each list up to its bound, and one more.
    #[test]
    fn lists_are_bounded() {
        let list = |count: usize, separator: &str, item: &dyn Fn(usize) -> String| {
            let items: Vec<String> = (0..count).map(item).collect();
            items.join(separator)
        };
        let number = |n: usize| format!("x{n}");
        let request = |name: &'static str, value: &str| {
            let mut lines = headers(&REQUEST);
            lines.append(name, HeaderValue::from_str(value).unwrap());
            let mut request = check(&lines)?;
            request.offer(&lines, Compression::default())
        };
        let protocols = "sec-websocket-protocol";
        let few = list(MAX_SUBPROTOCOLS - 2, ",", &number);
        assert_eq!(request(protocols, &few), Ok(()));
        let many = list(MAX_SUBPROTOCOLS - 1, ",", &number);
        assert_eq!(request(protocols, &many), Err(Refusal::TooManyProtocols));
        let few = list(MAX_CONNECTION_NAMES - 2, ", ,", &number);
        assert_eq!(request("connection", &few), Ok(()));
        let many = list(MAX_CONNECTION_NAMES - 1, ",", &number);
        let refusal = Refusal::TooManyConnectionNames;
        assert_eq!(request("connection", &many), Err(refusal));
        let long = "x".repeat(MAX_CONNECTION_NAME + 1);
        let refusal = Refusal::LongConnectionName;
        assert_eq!(request("connection", &long), Err(refusal));
        let extensions = "sec-websocket-extensions";
        let few = list(MAX_EXTENSIONS, ",", &number);
        assert_eq!(request(extensions, &few), Ok(()));
        let many = list(MAX_EXTENSIONS + 1, ",", &number);
        assert_eq!(request(extensions, &many), Err(Refusal::TooManyExtensions));
        let few = format!("a;{}", list(MAX_EXTENSION_PARAMETERS, ";", &number));
        assert_eq!(request(extensions, &few), Ok(()));
        let many = format!("a;{}", list(MAX_EXTENSION_PARAMETERS + 1, ";", &number));
        assert_eq!(request(extensions, &many), Err(Refusal::TooManyParameters));
        for refusal in [
            Refusal::TooManyProtocols,
            Refusal::TooManyExtensions,
            Refusal::TooManyParameters,
            Refusal::TooManyConnectionNames,
            Refusal::LongConnectionName,
        ] {
            assert!(refusal.to_string().contains("more than"), "{refusal}");
        }
        let mut named = headers(&SWITCH);
        assert!(check_switch(&self::request(), &named).is_ok());
        let many = list(MAX_CONNECTION_NAMES, ",", &number);
        named.append("connection", HeaderValue::from_str(&many).unwrap());
        let bad = check_switch(&self::request(), &named);
        assert_eq!(bad, Err(InvalidUpgradeResponse::ConnectionNames));
    }

    #[test]
    fn attempts_are_told_from_plain_requests() {
        assert!(is_attempt(&headers(&REQUEST)));
        assert!(is_attempt(&with(&REQUEST, "Upgrade", &[])));
        assert!(is_attempt(&headers(&[("Upgrade", "websocket")])));
        assert!(!is_attempt(&headers(&[
            ("Upgrade", "h2c"),
            ("Connection", "Upgrade")
        ])));
        assert!(!is_attempt(&headers(&[("Host", "a")])));
    }
}
