//! A request for a WebSocket on a stream of HTTP/2: the extended CONNECT of RFC 8441 §4.
//!
//! wsgate rewrites the request as an upgrade request of HTTP/1.1, so that every stage of an upgrade treats both versions alike: routes,
//! limits, access, the handshake with the server, the log. wsgate makes the key of that handshake and verifies the answer to the
//! key: toward the client RFC 8441 §5 has neither.

use crate::edge::http::answer::{Answer, Refused};
use crate::edge::http::client_request::Downstream;
use crate::edge::http::head::NoHead;
use crate::edge::http2::header_list_size;
use crate::edge::route::permit::Denied;
use crate::edge::route::table::Tables;
use crate::edge::upgrade::{self, Http2Leg, Outcome};
use crate::metrics::Reason;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use http::{Method, StatusCode, header};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::HttpSession;

/// The protocol that an extended CONNECT asks for; `None`: the request is no extended CONNECT.
pub(super) fn protocol(request: &RequestHeader) -> Option<&str> {
    let protocol = request.extensions.get::<h2::ext::Protocol>()?;
    (request.method == Method::CONNECT).then(|| protocol.as_str())
}

/// Answers an extended CONNECT: with 200, behind which the stream is a WebSocket, or with a refusal.
pub(super) async fn serve(tables: &Tables, session: HttpSession, leg: Http2Leg) -> Outcome {
    let table = tables.current();
    let session = ServerSession::new_http2(session);
    let downstream = Downstream::of_session(&session);
    let request = session.req_header();
    let refused = match protocol(request) {
        Some("websocket") if header_list_size(request) > table.client.max_header_size => {
            let answer = NoHead::TooLarge.answer(&table.client);
            answer.map(|answer| answer.refusing(Reason::HeadTooLarge))
        }
        Some("websocket") => None,
        // RFC 9220 §3: "a :protocol value that is unknown or is not supported".
        _ => {
            let sentence = "the only protocol of extended CONNECT that is served here is websocket";
            Some(Answer::new(StatusCode::NOT_IMPLEMENTED, sentence).refusing(Reason::Upgrade))
        }
    };
    if let Some(refused) = refused {
        return upgrade::refuse_unrouted(&table, session, &downstream, refused).await;
    }
    let permit = match table.permit(downstream.peer) {
        Ok(permit) => permit,
        Err(denied) => {
            let refused = refusal(denied);
            return upgrade::refuse_unrouted(&table, session, &downstream, refused).await;
        }
    };
    let head = http1_head(request);
    Box::pin(upgrade::serve_http2(
        tables, session, downstream, &head, permit, leg,
    ))
    .await
}

/// The answer where a limit on connections is reached: a WebSocket on a stream counts as a connection.
fn refusal(denied: Denied) -> Refused {
    let reason = match denied {
        Denied::All => Reason::MaxConnections,
        Denied::Address(_) => Reason::AddressLimit,
    };
    denied.answer().refusing(reason)
}

/// The head of HTTP/1.1 that asks for the same WebSocket.
fn http1_head(request: &RequestHeader) -> BytesMut {
    let mut head = BytesMut::with_capacity(1024);
    head.put_slice(b"GET ");
    head.put_slice(request.raw_path());
    head.put_slice(b" HTTP/1.1\r\n");
    let mut field = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            head.put_slice(part);
        }
    };
    let authority = request.uri.authority();
    if let Some(authority) = authority {
        field("host", authority.as_str().as_bytes());
    }
    field("connection", b"Upgrade");
    field("upgrade", b"websocket");
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    field("sec-websocket-key", key.as_bytes());
    for (name, value) in &request.headers {
        let is_replaced = name == header::SEC_WEBSOCKET_KEY
            || name == header::COOKIE
            || name == header::HOST && authority.is_some();
        if !is_replaced {
            field(name.as_str(), value.as_bytes());
        }
    }
    // RFC 9113 §8.2.3: cookies may come in several fields, and "MUST be concatenated into a single octet string".
    let cookies = request.headers.get_all(header::COOKIE).iter();
    let cookies: Vec<_> = cookies.map(|cookie| cookie.as_bytes()).collect();
    if !cookies.is_empty() {
        field("cookie", &cookies.join(&b"; "[..]));
    }
    head.put_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::http::client_request::ClientRequest;
    use crate::handshake::{self, Fields, Strictness};

    fn connect(fields: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = http::Request::builder()
            .method(Method::CONNECT)
            .uri("https://a.test:1/room?b=c")
            .extension(h2::ext::Protocol::from_static("websocket"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0.into()
    }

    #[test]
    fn an_extended_connect_is_an_upgrade_request() {
        let request = connect(&[
            ("host", "a.test:1"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "the client's, which means nothing"),
            ("cookie", "a=b"),
            ("origin", "https://a.test"),
            ("cookie", "c=d"),
        ]);
        assert_eq!(protocol(&request), Some("websocket"));
        let head = http1_head(&request);
        let read = ClientRequest::parse(&head).unwrap();
        assert_eq!(
            (read.target(), read.host()),
            (&b"/room?b=c"[..], Ok("a.test:1"))
        );
        let line = read.line();
        let checked =
            handshake::check_request(&line.method, line.version, &read, Strictness::Enforce);
        assert!(checked.is_ok(), "{checked:?}");
        let lines = |name| read.lines(name).collect::<Vec<_>>();
        assert_eq!(lines(header::COOKIE), [b"a=b; c=d"]);
        assert_eq!(lines(header::ORIGIN), [b"https://a.test"]);
        assert_ne!(
            lines(header::SEC_WEBSOCKET_KEY),
            ClientRequest::parse(&http1_head(&request))
                .unwrap()
                .lines(header::SEC_WEBSOCKET_KEY)
                .collect::<Vec<_>>(),
            "each attempt has a key of its own"
        );
    }

    /// An extended CONNECT is refused for the same faults as an upgrade request of HTTP/1.1.
    #[test]
    fn rules_of_the_handshake_hold() {
        use crate::handshake::Refusal;
        for (fields, expected) in [
            (&[][..], Refusal::MissingVersion),
            (&[("sec-websocket-version", "8")][..], Refusal::OtherVersion),
            (
                &[("sec-websocket-version", "13"), ("content-length", "1")][..],
                Refusal::Body,
            ),
            (
                &[
                    ("sec-websocket-version", "13"),
                    ("sec-websocket-protocol", "a, a"),
                ][..],
                Refusal::Protocols,
            ),
        ] {
            let head = http1_head(&connect(fields));
            let read = ClientRequest::parse(&head).unwrap();
            let line = read.line();
            let checked =
                handshake::check_request(&line.method, line.version, &read, Strictness::Enforce);
            assert_eq!(checked.err(), Some(expected), "{fields:?}");
        }
    }
}
