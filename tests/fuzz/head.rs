//! Request heads, read by wsgate's parser and by Pingora's: one reads the upgrade requests of a connection, the other its
//! plain ones and the answers to refused ones. What ours accepts, Pingora's accepts too, with the same method, version,
//! target and fields; otherwise a client could send a request that both read differently.
//!
//! An exception are targets that are no URI for Pingora's parser (`{`, `<`, bytes that are not UTF-8): only ours takes them.
//! An input is a head; its end is added where it is missing.
#![no_main]

use bytes::BytesMut;
use http::uri::PathAndQuery;
use http::{Method, header};
use libfuzzer_sys::fuzz_target;
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use wsgate::edge::http::authority::host_of;
use wsgate::edge::http::{request_head::RequestHead, target::Target};
use wsgate::handshake::Fields;

thread_local! {
    static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
}

/// What wsgate serves: a head with one host and without a body.
fn ours(bytes: &[u8]) -> Option<RequestHead<'_>> {
    let head = RequestHead::parse(bytes).ok()?;
    host_of(
        head.version,
        head.target.authority(),
        head.lines(header::HOST),
    )
    .ok()?;
    let mut lengths = head.lines(header::CONTENT_LENGTH);
    let has_body = head.lines(header::TRANSFER_ENCODING).next().is_some()
        || lengths.any(|length| length != b"0");
    drop(lengths);
    // CONNECT opens tunnels of another kind, with targets of its own.
    (!has_body && head.method != Method::CONNECT).then_some(head)
}

/// What Pingora reads.
fn pingora(bytes: &[u8]) -> Option<RequestHeader> {
    let (_, near) = tokio::io::duplex(1);
    let stream: Stream = Box::new(near);
    let mut session = ServerSession::new_http1(stream);
    session.set_pipelined_prefix(BytesMut::from(bytes));
    let read = RUNTIME.with(|runtime| runtime.block_on(session.read_request()));
    matches!(read, Ok(true)).then(|| session.req_header().clone())
}

fuzz_target!(|input: &[u8]| {
    let mut bytes = input.to_vec();
    if RequestHead::parse(&bytes).is_err() {
        bytes.extend_from_slice(b"\r\n\r\n");
    }
    let Some(head) = ours(&bytes) else {
        return;
    };
    let Some(other) = pingora(&bytes) else {
        let is_uri = PathAndQuery::try_from(head.target.origin_form()).is_ok();
        assert!(!is_uri, "only wsgate takes {}", bytes.escape_ascii());
        return;
    };
    assert_eq!((&head.method, head.version), (&other.method, other.version));
    assert_eq!(Ok(&head.target), Target::parse(other.raw_path()).as_ref());
    assert_eq!(head.fields.len(), other.headers.len());
    for (name, _) in &head.fields {
        let same = head.fields.iter();
        let same = same.filter(|(of, _)| of.eq_ignore_ascii_case(name));
        let values = other.headers.get_all(*name).iter();
        let values: Vec<&[u8]> = values.map(|value| value.as_bytes()).collect();
        assert_eq!(same.map(|(_, value)| *value).collect::<Vec<_>>(), values);
    }
});
