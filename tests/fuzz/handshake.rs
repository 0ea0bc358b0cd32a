//! The handshake: any headers of a request and of a 101. What is accepted has to be what RFC 6455 §4.1 asks for, said in
//! another way than the code says it; what is refused is refused without a panic.
//!
//! An input is a byte for method, version, compression and strictness, the lines of the request, an empty line, and the lines of the answer.
//! `{accept}` in an answer stands for the right `Sec-WebSocket-Accept`, which no fuzzer would find.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use libfuzzer_sys::fuzz_target;
use wsgate::handshake::{self, Compression, Strictness, Violation};

/// Lines that are no headers are left out, as the parser before the handshake does.
fn headers(lines: &[u8], accept: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let value = match line[colon + 1..].trim_ascii() {
            b"{accept}" => accept.as_bytes(),
            value => value,
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// All lines of a header as one list in lower case.
fn list(headers: &HeaderMap, name: &str) -> String {
    let lines = headers.get_all(name).iter();
    let joined = lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    joined.collect::<Vec<_>>().join(",").to_lowercase()
}

fn has(headers: &HeaderMap, name: &str, token: &str) -> bool {
    list(headers, name)
        .split(',')
        .any(|item| item.trim() == token)
}

fn count(headers: &HeaderMap, name: &str) -> usize {
    headers.get_all(name).iter().count()
}

fuzz_target!(|input: &[u8]| {
    let Some((&how, lines)) = input.split_first() else {
        return;
    };
    let end = lines
        .windows(2)
        .position(|two| two == b"\n\n")
        .unwrap_or(lines.len());
    let request_headers = headers(&lines[..end], "");
    let method = if how & 1 == 0 {
        Method::GET
    } else {
        Method::POST
    };
    let version = if how & 2 == 0 {
        Version::HTTP_11
    } else {
        Version::HTTP_10
    };

    for name in handshake::hop_by_hop(&request_headers) {
        let name = name.to_lowercase();
        assert!(!["host", "content-length", "transfer-encoding"].contains(&name.as_str()));
        assert!(!name.starts_with("sec-websocket-"));
    }
    let origin_allowed =
        handshake::origin::is_allowed(&["https://a.example".to_owned()], &request_headers);
    let origins = list(&request_headers, "origin");
    // The port that a scheme has anyway may be written.
    let is_expected = ["https://a.example", "https://a.example:443"].contains(&origins.as_str());
    assert!(!origin_allowed || origins.is_empty() || is_expected);

    let strictness = match how & 64 {
        0 => Strictness::Enforce,
        _ => Strictness::Observe,
    };
    let Ok(mut request) = handshake::check_request(&method, version, &request_headers, strictness)
    else {
        return;
    };
    let compression = match how >> 2 & 7 {
        0 => Compression::Off,
        bits => Compression::Inspect {
            context_takeover: how & 32 == 0,
            max_window_bits: 8 + bits,
        },
    };
    let offered = request.offer(&request_headers, compression).is_ok();
    let offer = request.extensions().unwrap_or_default();
    assert!(offered || offer.is_empty());
    for offer in offer.split(", ").filter(|offer| !offer.is_empty()) {
        let is = |parameter: &str| offer.split("; ").any(|other| other == parameter);
        assert!(is("permessage-deflate") && compression != Compression::Off);
        assert!(how & 32 == 0 || is("server_no_context_takeover"));
    }
    assert!(handshake::is_attempt(&request_headers));
    assert!(method == Method::GET && version == Version::HTTP_11);
    assert!(has(&request_headers, "upgrade", "websocket"));
    let tolerated = |violation| {
        assert!(strictness == Strictness::Observe || request.violations().is_empty());
        request.violations().contains(&violation)
    };
    assert!(has(&request_headers, "connection", "upgrade") || tolerated(Violation::Connection));
    assert_eq!(count(&request_headers, "host"), 1);
    assert_eq!(count(&request_headers, "sec-websocket-key"), 1);
    let version = list(&request_headers, "sec-websocket-version");
    assert!(version.trim() == "13" || version.is_empty() && tolerated(Violation::Version));
    let key = list(&request_headers, "sec-websocket-key");
    assert!(key.trim().len() == 24 || !key.is_empty() && tolerated(Violation::Key));
    let protocols = list(&request_headers, "sec-websocket-protocol");
    let protocols = protocols.split(',').filter(|item| !item.trim().is_empty());
    assert!(protocols.count() <= handshake::MAX_SUBPROTOCOLS);
    assert_eq!(count(&request_headers, "transfer-encoding"), 0);
    assert_eq!(request.accept().len(), 28);

    let answer = headers(&lines[end..], request.accept());
    let Ok(agreed) = handshake::check_switch(&request, &answer, strictness) else {
        return;
    };
    assert!(has(&answer, "upgrade", "websocket"));
    assert!(has(&answer, "connection", "upgrade"));
    assert_eq!(count(&answer, "sec-websocket-accept"), 1);
    let extensions = list(&answer, "sec-websocket-extensions").replace([',', ' ', '\t'], "");
    assert_eq!(agreed.deflate.is_some(), !extensions.is_empty());
    assert_eq!(agreed.deflate.is_some(), agreed.extensions.is_some());
    if let (
        Some(agreed),
        Compression::Inspect {
            context_takeover,
            max_window_bits,
        },
    ) = (agreed.deflate, compression)
    {
        assert!(!offer.is_empty() && extensions.starts_with("permessage-deflate"));
        assert!(context_takeover || !(agreed.client.takeover || agreed.server.takeover));
        assert!(agreed.server.window_bits <= max_window_bits);
    }
    if let Some(protocol) = agreed.protocol {
        let offered = has(
            &request_headers,
            "sec-websocket-protocol",
            &protocol.to_lowercase(),
        );
        assert!(offered || agreed.violation == Some(Violation::SubprotocolNotOffered));
        assert!(agreed.violation.is_none() || strictness == Strictness::Observe);
    }
});
