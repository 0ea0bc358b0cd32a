//! The handshake with a server: writes the upgrade request, and reads the answer.
//!
//! Every new connection passes here, so neither head is copied to be changed, and a 101 becomes the head for the client directly.
//! Over HTTP/2 (RFC 8441) the request is an extended CONNECT, and the head for the client is made of the 200.
//! Pingora reads every other answer, also one that this parser does not accept, because it may have a body.

use crate::edge::client::identity::{Identity, forwarded, set_host};
use crate::edge::http::answer::ServerBody;
use crate::edge::http::client_request::{ClientRequest, Downstream};
use crate::edge::http::head;
use crate::edge::http::headers::{AuthHeaders, Changes};
use crate::edge::settings::Route;
use crate::handshake;
use crate::handshake::{Agreed, Fields, InvalidUpgradeResponse, Request, Strictness};
use crate::inspect::Mode;
use crate::transport::http2_stream::{Bounds, Http2Stream};
use crate::transport::socket::Socket;
use crate::upstream::http2;
use crate::upstream::http2::Http2Lease;
use bytes::{BufMut, BytesMut};
use http::header::HeaderName;
use http::{HeaderMap, StatusCode};
use httparse::{Header, ParserConfig, Response, Status};
use pingora::http::ResponseHeader;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::{Error, ErrorType, OrErr, Result};
use std::mem::MaybeUninit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A server's answer.
pub(crate) enum UpstreamResponse {
    /// The 101 that the request asked for.
    Switched(Box<Switched>),
    /// One that is none.
    Bad(InvalidUpgradeResponse),
    /// Something else, of which a body is still to be read.
    Otherwise(Box<ResponseHeader>, ServerBody),
}

/// A verified 101.
pub(crate) struct Switched {
    pub agreed: Agreed,
    /// The 101 as the client gets it.
    pub head: BytesMut,
    pub socket: Socket,
    /// The bytes that came behind the 101.
    pub behind: BytesMut,
}

impl Switched {
    /// Adds a header to the 101.
    pub(crate) fn add_header(&mut self, name: &str, value: &str) {
        // The head ends with an empty line.
        self.head.truncate(self.head.len() - 2);
        for part in [name, ": ", value, "\r\n\r\n"] {
            self.head.put_slice(part.as_bytes());
        }
    }

    /// The head of the 200 that says in HTTP/2 what the 101 says in HTTP/1.1 (RFC 8441 §5).
    ///
    /// # Errors
    /// The head holds what HTTP/2 cannot carry.
    pub(crate) fn http2_head(&self) -> Result<Box<ResponseHeader>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = Response::new(&mut headers);
        let parsed = answer.parse(&self.head);
        parsed.or_err(ErrorType::InvalidHTTPHeader, "the 101")?;
        let mut head = ResponseHeader::build_no_case(StatusCode::OK, Some(answer.headers.len()))?;
        for line in answer.headers {
            let is_of_http1 = ["connection", "upgrade", "sec-websocket-accept"]
                .iter()
                .any(|name| line.name.eq_ignore_ascii_case(name));
            if !is_of_http1 {
                head.append_header(line.name.to_owned(), line.value)?;
            }
        }
        Ok(Box::new(head))
    }
}

/// The request that the server gets: the client's end-to-end headers as they came, and hop-by-hop headers of wsgate.
///
/// # Errors
/// The target, or the subject of the client's certificate, holds characters that a request cannot hold.
pub(crate) fn request(
    came: &ClientRequest<'_>,
    downstream: &Downstream,
    checked: &Request,
    route: &Route,
    identity: Identity,
    auth_headers: &AuthHeaders,
    request_id: Option<(&HeaderName, &str)>,
) -> Result<BytesMut> {
    let extensions = checked.extensions();
    let mut changes = Changes::of_request(handshake::hop_by_hop(came));
    // Only what can be inspected is offered.
    changes.remove("Sec-WebSocket-Extensions");
    if let Some(extensions) = &extensions {
        changes.add("Sec-WebSocket-Extensions", extensions.as_bytes());
    }
    changes.add("Connection", &b"Upgrade"[..]);
    changes.add("Upgrade", &b"websocket"[..]);
    // Routing has looked at it.
    let host = came.host().unwrap_or_default();
    forwarded(&mut changes, came, identity, host, downstream)?;
    set_host(&mut changes, came, host);
    changes.set_request_id(request_id);
    changes.tell_prefix(route);
    changes.vouch(route.access.auth.as_ref(), auth_headers);
    changes.apply_rules(&route.headers[0]);

    // Nearly all need no second allocation.
    let mut written = BytesMut::with_capacity(1024);
    written.put_slice(came.line().method.as_str().as_bytes());
    written.put_u8(b' ');
    written.put_slice(&route.server_target(came.target()));
    written.put_slice(b" HTTP/1.1\r\n");
    changes.write(came.fields(), &mut written);
    Ok(written)
}

/// A server did not answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub error: Box<Error>,
    /// Not one byte of an answer came.
    pub is_silent: bool,
    /// The server had ended the reused connection of HTTP/2, or takes no more streams on that connection: another connection may do.
    pub is_stale: bool,
    /// The request holds characters that HTTP/2 cannot carry: the server has not seen it.
    pub is_unsendable: bool,
}

/// Sends the server a [`request`], and reads what it answers.
///
/// # Errors
/// The connection broke, or what came is no answer.
pub(crate) async fn exchange(
    socket: Socket,
    request: BytesMut,
    checked: &Request,
    route: &Route,
) -> Result<UpstreamResponse, Unanswered> {
    let mut answered = false;
    let exchanged = send_and_read(socket, request, checked, route, &mut answered).await;
    exchanged.map_err(|error| Unanswered {
        error,
        is_silent: !answered,
        is_stale: false,
        is_unsendable: false,
    })
}

/// Sends the server a [`request`] as an extended CONNECT on a stream of HTTP/2 (RFC 8441 §4), and reads what it answers.
///
/// # Errors
/// The stream or its connection broke, or the target or a header has characters that HTTP/2 cannot carry.
pub(crate) async fn exchange_http2(
    mut lease: Http2Lease,
    request: &[u8],
    checked: &Request,
    route: &Route,
) -> Result<UpstreamResponse, Unanswered> {
    let is_reused = lease.is_reused;
    let connect = match extended_connect(request, lease.is_encrypted) {
        Some(connect) => connect,
        None => {
            let sentence =
                "the target or a header of the request has characters that HTTP/2 cannot carry";
            return Err(Unanswered {
                error: Error::explain(ErrorType::InvalidHTTPHeader, sentence),
                is_silent: false,
                is_stale: false,
                is_unsendable: true,
            });
        }
    };
    let exchanging = async {
        let mut sender = lease.sender.ready().await?;
        let (response, sender) = sender.send_request(connect, false)?;
        Ok((response.await?, sender))
    };
    let (response, sender) = match exchanging.await {
        Ok(answered) => answered,
        Err(error) => {
            let error: h2::Error = error;
            let is_refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
            let is_gone = error.is_io() || error.is_go_away() && error.is_remote();
            let is_silent = is_refused || is_gone;
            return Err(Unanswered {
                is_silent,
                is_stale: is_silent && is_reused,
                is_unsendable: false,
                error: Error::because(ErrorType::ReadError, "the stream", error),
            });
        }
    };
    lease.guard.handle_answer();
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        let mut head = Box::new(ResponseHeader::from(head));
        // A client of HTTP/1.1 gets it in its version.
        head.set_version(http::Version::HTTP_11);
        let body = ServerBody::Http2 {
            stream: body,
            _guard: Box::new(lease.guard),
        };
        return Ok(UpstreamResponse::Otherwise(head, body));
    }
    Ok(
        match handshake::check_http2_response(checked, &head.headers, strictness(route)) {
            Ok(agreed) => {
                let head = switch(&head.headers, checked, &agreed, route);
                let stream = Http2Stream::to_server(body, sender, BOUNDS, Box::new(lease.guard));
                UpstreamResponse::Switched(Box::new(Switched {
                    agreed,
                    head,
                    socket: Socket::Http2(Box::new(stream)),
                    behind: BytesMut::new(),
                }))
            }
            Err(bad) => UpstreamResponse::Bad(bad),
        },
    )
}

/// The most that the connection keeps of one stream.
const BOUNDS: Bounds = Bounds {
    window: http2::STREAM_WINDOW as usize,
    send_buffer: http2::SEND_BUFFER,
};

/// The extended CONNECT that asks for the same as this head of HTTP/1.1; `None` where HTTP/2 cannot carry it.
fn extended_connect(request: &[u8], is_encrypted: bool) -> Option<http::Request<()>> {
    let request = ClientRequest::parse(request).ok()?;
    let scheme = if is_encrypted { "https" } else { "http" };
    let uri = http::Uri::builder()
        .scheme(scheme)
        .authority(request.host().ok()?)
        .path_and_query(request.target())
        .build()
        .ok()?;
    let mut connect = http::Request::new(());
    *connect.method_mut() = http::Method::CONNECT;
    *connect.version_mut() = http::Version::HTTP_2;
    *connect.uri_mut() = uri;
    let protocol = h2::ext::Protocol::from_static("websocket");
    connect.extensions_mut().insert(protocol);
    for (name, value) in request.fields() {
        const NOT_SAID: [&str; 4] = ["host", "connection", "upgrade", "sec-websocket-key"];
        if NOT_SAID.iter().any(|not| name.eq_ignore_ascii_case(not)) {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = http::HeaderValue::from_bytes(value).ok()?;
        connect.headers_mut().append(name, value);
    }
    Some(connect)
}

async fn send_and_read(
    mut socket: Socket,
    request: BytesMut,
    checked: &Request,
    route: &Route,
    answered: &mut bool,
) -> Result<UpstreamResponse> {
    let writing = async {
        socket.write_all(&request).await?;
        socket.flush().await
    };
    writing.await.or_err(ErrorType::WriteError, "the request")?;
    drop(request);
    // Most answers need no second allocation; what comes behind them is the relay's to read.
    let mut came = BytesMut::with_capacity(1024);
    loop {
        let had = came.len();
        let n = socket.read_buf(&mut came).await;
        if n.or_err(ErrorType::ReadError, "the answer")? == 0 {
            let sentence = format!("after {had} bytes of an answer");
            return Err(Error::explain(ErrorType::ConnectionClosed, sentence));
        }
        *answered = true;
        let mut from = had.saturating_sub(3);
        while head::end(&came[from..]).is_some() {
            match read(&came, checked, route) {
                Read::Interim(len) => {
                    let _ = came.split_to(len);
                    from = 0;
                }
                Read::Switch(switch) => {
                    let (agreed, head, len) = *switch;
                    let switched = Switched {
                        agreed,
                        head,
                        socket,
                        behind: match len {
                            len if len == came.len() => BytesMut::new(),
                            len => came.split_off(len),
                        },
                    };
                    return Ok(UpstreamResponse::Switched(Box::new(switched)));
                }
                Read::Bad(bad) => return Ok(UpstreamResponse::Bad(bad)),
                Read::Otherwise => return Box::pin(read_otherwise(socket, came)).await,
            }
        }
        if came.len() > MAX_HEAD {
            let sentence = format!("more than {MAX_HEAD} bytes without the end of a head");
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, sentence));
        }
    }
}

/// How much of an answer is read before the end of its head has to be there, in bytes: as much as Pingora reads.
const MAX_HEAD: usize = 1 << 20;

/// Most headers of a 101.
const MAX_HEADERS: usize = 256;

/// A complete head of an answer, with its length where bytes may follow it.
enum Read {
    /// RFC 9110 §15.2: interim answers come before the one that counts; 101 is the one.
    Interim(usize),
    /// With the head for the client.
    Switch(Box<(Agreed, BytesMut, usize)>),
    Bad(InvalidUpgradeResponse),
    Otherwise,
}

/// How strict a route is with handshakes that break a rule and could be passed on.
pub(crate) fn strictness(route: &Route) -> Strictness {
    match route.rules.mode {
        Mode::Enforce => Strictness::Enforce,
        Mode::Observe => Strictness::Observe,
    }
}

fn read(came: &[u8], checked: &Request, route: &Route) -> Read {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut answer = Response::new(&mut []);
    let mut config = ParserConfig::default();
    // RFC 9112 §5.1: a proxy removes them, as the parser does.
    config.allow_spaces_after_header_name_in_responses(true);
    let parsed = config.parse_response_with_uninit_headers(&mut answer, came, &mut headers);
    match (parsed, answer.code) {
        (Ok(Status::Complete(len)), Some(101)) => {
            let headers = Lines(answer.headers);
            match handshake::check_switch(checked, &headers, strictness(route)) {
                Ok(agreed) => {
                    let head = switch(&headers, checked, &agreed, route);
                    Read::Switch(Box::new((agreed, head, len)))
                }
                Err(bad) => Read::Bad(bad),
            }
        }
        (Ok(Status::Complete(len)), Some(100..200)) => Read::Interim(len),
        _ => Read::Otherwise,
    }
}

/// Has Pingora read an answer of which this much came.
async fn read_otherwise(socket: Socket, came: BytesMut) -> Result<UpstreamResponse> {
    let mut session = HttpSession::new(Box::new(Socket::Rewound(came, Box::new(socket))));
    session.read_timeout = None;
    loop {
        session.read_response().await?;
        let head = session.resp_header();
        let head = head.ok_or_else(|| Error::new(ErrorType::InvalidHTTPHeader))?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(UpstreamResponse::Bad(InvalidUpgradeResponse::Head));
        }
        if !head.status.is_informational() {
            let head = Box::new(head.clone());
            let body = ServerBody::Http1(Box::new(session));
            return Ok(UpstreamResponse::Otherwise(head, body));
        }
    }
}

/// The server's 101 as the client gets it.
fn switch(
    headers: &impl ResponseFields,
    checked: &Request,
    agreed: &Agreed,
    route: &Route,
) -> BytesMut {
    let mut changes = Changes::of_response(handshake::hop_by_hop(headers));
    // RFC 9110 §8.6, RFC 9112 §6.1: not in a 101, where a client might take them for the framing of what follows.
    changes.remove("Content-Length");
    changes.remove("Transfer-Encoding");
    changes.remove("Sec-WebSocket-Extensions");
    if let Some(extensions) = &agreed.extensions {
        changes.add("Sec-WebSocket-Extensions", extensions.as_bytes());
    }
    changes.apply_rules(&route.headers[1]);
    changes.add("Upgrade", &b"websocket"[..]);
    changes.add("Connection", &b"Upgrade"[..]);
    changes.set("Sec-WebSocket-Accept", checked.accept().as_bytes());
    let mut head = BytesMut::with_capacity(512);
    head.put_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    changes.write(headers.all(), &mut head);
    head
}

/// The headers of an answer, to be looked at and to be written.
trait ResponseFields: Fields {
    fn all(&self) -> impl Iterator<Item = (&str, &[u8])>;
}

impl ResponseFields for Lines<'_> {
    fn all(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|line| (line.name, line.value))
    }
}

impl ResponseFields for HeaderMap {
    fn all(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
    }
}

/// The headers of an answer where they were read.
struct Lines<'a>(&'a [Header<'a>]);

impl Fields for Lines<'_> {
    fn lines(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        let lines = self.0.iter();
        let lines = lines.filter(move |line| line.name.eq_ignore_ascii_case(name.as_str()));
        lines.map(|line| line.value)
    }
}
