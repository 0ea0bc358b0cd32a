//! Access control of a route: by the client's address and certificate, and by an access service that is asked (`auth_url`).

use crate::duration::Shown;
use crate::edge::client::identity::{Identity, forwarded, is_in};
use crate::edge::http::answer::{Answer, Refused};
use crate::edge::http::client_request::{ClientRequest, Downstream};
use crate::edge::http::headers;
use crate::edge::http::headers::{AuthHeaders, Changes};
use crate::edge::settings::{Access, Auth};
use crate::handshake;
use crate::log;
use crate::metrics::{Metrics, Reason};
use crate::transport::address::ClientAddress;
use crate::transport::address::Tcp;
use crate::transport::error_text::words;
use crate::transport::exhaustion::ProbeError;
use crate::transport::socket::Socket;
use crate::transport::source_addresses::Sources;
use crate::transport::tls_stream;
use bytes::BytesMut;
use http::header::{self, HeaderName};
use http::{Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::v1::client::HttpSession;
use tokio::time::timeout;
use tracing::Level;

/// Decides whether a request may pass. Returns the headers that the access service has for the server.
///
/// # Errors
/// The refusal that the client gets.
pub(crate) async fn admit(
    client_request: &ClientRequest<'_>,
    downstream: &Downstream,
    access: &Access,
    identity: Identity,
    metrics: &Metrics,
) -> Result<AuthHeaders, Refused> {
    if !is_allowed(access, identity) {
        let sentence = "this address is not served here";
        let answer = Answer::new(StatusCode::FORBIDDEN, sentence);
        return Err(answer.refusing(Reason::Address));
    }
    if access.client_certificate
        && !downstream
            .tls
            .as_deref()
            .is_some_and(tls_stream::has_certificate)
    {
        let sentence = match downstream.tls {
            Some(_) => "a client certificate is required here, and none was shown",
            None => "a client certificate is required here, and this connection is not over TLS",
        };
        let answer = Answer::new(StatusCode::FORBIDDEN, sentence);
        return Err(answer.refusing(Reason::ClientCertificate));
    }
    let Some(auth) = &access.auth else {
        return Ok(Vec::new());
    };
    // Few routes ask, and the requests of all would carry the room for it.
    let asking = Box::pin(ask(auth, client_request, downstream, identity));
    match timeout(auth.timeout, asking).await {
        Ok(Ok(AccessAnswer::Grant(auth_headers))) => Ok(auth_headers),
        Ok(Ok(AccessAnswer::Refuse(head, body))) => Err(Refused::by_access(head, body)),
        Ok(Err(ProbeError::Exhausted(shortage, error))) => {
            shortage.report(metrics, &error);
            Err(Answer::exhausted().refusing(Reason::Exhausted))
        }
        Ok(Err(ProbeError::Failed(error))) => {
            const EVENT: &str = "the access service failed, and requests are refused";
            if let Some(more) = log::admit(Level::WARN, EVENT, &auth.address) {
                tracing::warn!(service = %auth.address, error, "{EVENT}{more}");
            }
            let sentence = "whether this is allowed could not be found out";
            let answer = Answer::new(StatusCode::BAD_GATEWAY, sentence);
            Err(answer.refusing(Reason::AccessFailed))
        }
        Err(_) => {
            const EVENT: &str =
                "the access service did not answer in time, and requests are refused";
            if let Some(more) = log::admit(Level::WARN, EVENT, &auth.address) {
                tracing::warn!(service = %auth.address, after = %Shown(auth.timeout), "{EVENT}{more}");
            }
            let sentence = "whether this is allowed could not be found out in time";
            let answer = Answer::new(StatusCode::GATEWAY_TIMEOUT, sentence);
            Err(answer.refusing(Reason::AccessTimedOut))
        }
    }
}

fn is_allowed(access: &Access, identity: Identity) -> bool {
    match identity.client {
        ClientAddress::Known(client) => {
            let allowed = access.allow.is_empty() || is_in(&access.allow, client);
            allowed && !is_in(&access.deny, client)
        }
        // No list contains an unknown address.
        ClientAddress::Unknown => access.allow.is_empty(),
        // The permissions of a Unix socket have decided about its clients.
        ClientAddress::Unix => true,
    }
}

/// The answer of the access service.
enum AccessAnswer {
    Grant(AuthHeaders),
    Refuse(Box<ResponseHeader>, BytesMut),
}

/// Largest body of a refusal that is passed on, in bytes.
const MAX_BODY: usize = 64 << 10;

async fn ask(
    auth: &Auth,
    client_request: &ClientRequest<'_>,
    downstream: &Downstream,
    identity: Identity,
) -> Result<AccessAnswer, ProbeError> {
    let wrong = |error: Box<pingora::Error>| words(&error);
    let socket = Socket::connect(&auth.address, Tcp::OFF, &Sources::default()).await?;
    let mut service = HttpSession::new(Box::new(socket));
    let request = question(auth, client_request, downstream, identity).map_err(wrong)?;
    service
        .write_request_header(Box::new(request))
        .await
        .map_err(wrong)?;
    service.read_response().await.map_err(wrong)?;
    let head = service.resp_header().cloned();
    let head = head.ok_or_else(|| "no answer".to_owned())?;
    if head.status.is_success() {
        let auth_headers = auth.copy.iter().filter_map(|name| {
            let name: HeaderName = name.parse().ok()?;
            let value = head.headers.get(&name)?.clone();
            Some((name, value))
        });
        return Ok(AccessAnswer::Grant(auth_headers.collect()));
    }
    if !matches!(
        head.status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    ) {
        return Err(format!("status {}", head.status.as_u16()).into());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = service.read_body_bytes().await.map_err(wrong)? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(format!("a refusal of more than {MAX_BODY} bytes").into());
        }
        body.extend_from_slice(&chunk);
    }
    let mut head = Box::new(head);
    headers::end_hop(&mut head);
    head.remove_header(&header::TRANSFER_ENCODING);
    let length = head.insert_header("Content-Length", body.len());
    length.map_err(wrong)?;
    Ok(AccessAnswer::Refuse(head, body))
}

/// The request that is asked about, without what belongs to this hop, its handshake and its body.
pub(crate) fn question(
    auth: &Auth,
    client_request: &ClientRequest<'_>,
    downstream: &Downstream,
    identity: Identity,
) -> pingora::Result<RequestHeader> {
    let mut request = RequestHeader::build(Method::GET, auth.path.as_bytes(), None)?;
    request.set_version(Version::HTTP_11);
    let mut changes = Changes::of_request(handshake::hop_by_hop(client_request));
    for (name, value) in client_request.fields().filter(|(name, _)| is_asked(name)) {
        request.append_header(name.to_owned(), value)?;
    }
    changes.set("Host", auth.host.as_bytes());
    changes.set("Connection", &b"close"[..]);
    forwarded(
        &mut changes,
        client_request,
        identity,
        client_request.host().unwrap_or_default(),
        downstream,
    )?;
    changes.set(
        "X-Original-Method",
        client_request.line().method.as_str().as_bytes(),
    );
    changes.set("X-Original-URI", client_request.target());
    changes.apply(&mut request)?;
    Ok(request)
}

/// Whether a field of the request is one of the question too, which has no body and does not upgrade. The service is to
/// say yes or no, so that it gets no conditions either: 304 or 416 would be neither.
fn is_asked(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    let beginnings = ["content-", "if-", "sec-websocket-", "upgrade"];
    let names = [
        "host",
        "transfer-encoding",
        "expect",
        "trailer",
        "te",
        "range",
        "http2-settings",
    ];
    !names.contains(&&*name) && !beginnings.iter().any(|with| name.starts_with(with))
}
