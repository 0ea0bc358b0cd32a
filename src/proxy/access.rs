//! Whom a route serves: by the client's address, and by the word of a service that is asked (`auth_url`).

use super::answer::Answer;
use super::headers::{self, Changes};
use super::identity::{Identity, forwarded, is_in};
use super::settings::{Access, Auth, Tcp};
use super::shortage::Unanswered;
use super::socket::Socket;
use super::tls_of;
use crate::handshake;
use crate::metrics::{Handshake, Metrics};
use bytes::BytesMut;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::client::HttpSession;
use tokio::time::timeout;

/// Headers that a server gets because the access service said so.
pub(super) type Vouched = Vec<(HeaderName, HeaderValue)>;

/// Why a request does not pass; it has been answered.
pub(super) type Refused = Handshake;

/// Lets a request pass, with what the access service says of it; or answers it.
///
/// # Errors
/// Only those of the client's own connection.
pub(super) async fn admit(
    session: &mut ServerSession,
    access: &Access,
    identity: Identity,
    metrics: &Metrics,
) -> Result<std::result::Result<Vouched, Refused>> {
    if !is_allowed(access, identity) {
        Answer::new(StatusCode::FORBIDDEN, "this address is not served here")
            .write(session)
            .await?;
        return Ok(Err(Handshake::Forbidden));
    }
    let Some(auth) = &access.auth else {
        return Ok(Ok(Vec::new()));
    };
    // Few routes ask, and the requests of all would carry the room for it.
    let asking = Box::pin(ask(auth, session, identity));
    let verdict = match timeout(auth.timeout, asking).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(Unanswered::Exhausted(shortage, error))) => {
            shortage.report(metrics, &error);
            Answer::exhausted().write(session).await?;
            return Ok(Err(Handshake::Full));
        }
        Ok(Err(Unanswered::Failed(error))) => {
            tracing::warn!(service = %auth.address, error, "the access service failed; the request is refused");
            let sentence = "whether this is allowed could not be found out";
            Answer::new(StatusCode::BAD_GATEWAY, sentence)
                .write(session)
                .await?;
            return Ok(Err(Handshake::Unchecked));
        }
        Err(_) => {
            tracing::warn!(service = %auth.address, "the access service did not answer in time; the request is refused");
            let sentence = "whether this is allowed could not be found out in time";
            Answer::new(StatusCode::GATEWAY_TIMEOUT, sentence)
                .write(session)
                .await?;
            return Ok(Err(Handshake::Unchecked));
        }
    };
    match verdict {
        Verdict::Pass(vouched) => Ok(Ok(vouched)),
        Verdict::Refuse(mut head, body) => {
            headers::end_hop(&mut head);
            head.remove_header(&header::TRANSFER_ENCODING);
            head.insert_header("Content-Length", body.len())?;
            session.set_keepalive(None);
            let writing = Box::pin(async {
                session.write_response_header(head).await?;
                session.write_response_body(body.freeze(), true).await
            });
            writing.await?;
            Ok(Err(Handshake::Forbidden))
        }
    }
}

fn is_allowed(access: &Access, identity: Identity) -> bool {
    let Some(client) = identity.client else {
        // Who comes over a Unix socket was let in by its permissions.
        return true;
    };
    let allowed = access.allow.is_empty() || is_in(&access.allow, client);
    allowed && !is_in(&access.deny, client)
}

enum Verdict {
    Pass(Vouched),
    Refuse(Box<ResponseHeader>, BytesMut),
}

/// Largest body of a refusal that is passed on, in bytes.
const MAX_BODY: usize = 64 << 10;

async fn ask(
    auth: &Auth,
    session: &ServerSession,
    identity: Identity,
) -> std::result::Result<Verdict, Unanswered> {
    let wrong = |error: Box<pingora::Error>| error.to_string();
    let socket = Socket::connect(&auth.address, Tcp::OFF).await?;
    let mut service = HttpSession::new(Box::new(socket));
    let request = question(auth, session, identity).map_err(wrong)?;
    service
        .write_request_header(Box::new(request))
        .await
        .map_err(wrong)?;
    service.read_response().await.map_err(wrong)?;
    let head = service.resp_header().cloned();
    let head = head.ok_or_else(|| "no answer".to_owned())?;
    if head.status.is_success() {
        let vouched = auth.copy.iter().filter_map(|name| {
            let name: HeaderName = name.parse().ok()?;
            let value = head.headers.get(&name)?.clone();
            Some((name, value))
        });
        return Ok(Verdict::Pass(vouched.collect()));
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
    Ok(Verdict::Refuse(Box::new(head), body))
}

/// The request that is asked about, without what belongs to this hop, its handshake and its body.
fn question(auth: &Auth, session: &ServerSession, identity: Identity) -> Result<RequestHeader> {
    let asked = session.req_header();
    let mut request = RequestHeader::build(Method::GET, auth.path.as_bytes(), None)?;
    request.set_version(Version::HTTP_11);
    let mut changes = Changes::of(handshake::hop_by_hop(&asked.headers));
    for (name, value) in &asked.headers {
        let is_ours = name.as_str().starts_with("sec-websocket-")
            || matches!(
                *name,
                header::HOST | header::CONTENT_LENGTH | header::CONTENT_TYPE | header::EXPECT
            );
        if !is_ours {
            request.append_header(name.clone(), value.clone())?;
        }
    }
    changes.set("Host", auth.host.as_bytes());
    changes.set("Connection", &b"close"[..]);
    changes.set("X-Original-Method", asked.method.as_str().as_bytes());
    let uri = asked.uri.path_and_query().map_or("/", |uri| uri.as_str());
    changes.set("X-Original-URI", uri.as_bytes());
    if let Some(host) = asked.headers.get(header::HOST) {
        changes.set("X-Forwarded-Host", host.as_bytes());
    }
    forwarded(
        &mut changes,
        &asked.headers,
        identity,
        None,
        tls_of(session),
    )?;
    changes.apply(&mut request)?;
    Ok(request)
}
