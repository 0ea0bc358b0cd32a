//! Whom a route serves: by the client's address, and by the word of a service that is asked (`auth_url`).

use super::answer::{Answer, Refused};
use super::asked::{Asked, Caller};
use super::headers::{self, Changes, Vouched};
use super::identity::{Identity, forwarded, is_in};
use super::settings::{Access, Auth, Tcp};
use super::shortage::Unanswered;
use super::socket::Socket;
use crate::handshake::{self, Fields};
use crate::metrics::{Handshake, Metrics};
use bytes::BytesMut;
use http::header::{self, HeaderName};
use http::{Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::v1::client::HttpSession;
use tokio::time::timeout;

/// Lets a request pass, with what the access service says of it.
///
/// # Errors
/// Why it does not.
pub(super) async fn admit(
    asked: &Asked<'_>,
    caller: &Caller,
    access: &Access,
    identity: Identity,
    metrics: &Metrics,
) -> Result<Vouched, Refused> {
    if !is_allowed(access, identity) {
        let sentence = "this address is not served here";
        let answer = Answer::new(StatusCode::FORBIDDEN, sentence);
        return Err(answer.refusing(Handshake::Forbidden));
    }
    let Some(auth) = &access.auth else {
        return Ok(Vec::new());
    };
    // Few routes ask, and the requests of all would carry the room for it.
    let asking = Box::pin(ask(auth, asked, caller, identity));
    match timeout(auth.timeout, asking).await {
        Ok(Ok(Verdict::Pass(vouched))) => Ok(vouched),
        Ok(Ok(Verdict::Refuse(head, body))) => Err(Refused::by_access(head, body)),
        Ok(Err(Unanswered::Exhausted(shortage, error))) => {
            shortage.report(metrics, &error);
            Err(Answer::exhausted().refusing(Handshake::Full))
        }
        Ok(Err(Unanswered::Failed(error))) => {
            tracing::warn!(service = %auth.address, error, "the access service failed; the request is refused");
            let sentence = "whether this is allowed could not be found out";
            let answer = Answer::new(StatusCode::BAD_GATEWAY, sentence);
            Err(answer.refusing(Handshake::Unchecked))
        }
        Err(_) => {
            tracing::warn!(service = %auth.address, "the access service did not answer in time; the request is refused");
            let sentence = "whether this is allowed could not be found out in time";
            let answer = Answer::new(StatusCode::GATEWAY_TIMEOUT, sentence);
            Err(answer.refusing(Handshake::Unchecked))
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
    asked: &Asked<'_>,
    caller: &Caller,
    identity: Identity,
) -> Result<Verdict, Unanswered> {
    let wrong = |error: Box<pingora::Error>| error.to_string();
    let socket = Socket::connect(&auth.address, Tcp::OFF).await?;
    let mut service = HttpSession::new(Box::new(socket));
    let request = question(auth, asked, caller, identity).map_err(wrong)?;
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
    let mut head = Box::new(head);
    headers::end_hop(&mut head);
    head.remove_header(&header::TRANSFER_ENCODING);
    let length = head.insert_header("Content-Length", body.len());
    length.map_err(wrong)?;
    Ok(Verdict::Refuse(head, body))
}

/// The request that is asked about, without what belongs to this hop, its handshake and its body.
pub(super) fn question(
    auth: &Auth,
    asked: &Asked<'_>,
    caller: &Caller,
    identity: Identity,
) -> pingora::Result<RequestHeader> {
    let mut request = RequestHeader::build(Method::GET, auth.path.as_bytes(), None)?;
    request.set_version(Version::HTTP_11);
    let mut changes = Changes::of(handshake::hop_by_hop(asked));
    for (name, value) in asked.fields() {
        let lower = name.to_ascii_lowercase();
        let is_ours = lower.starts_with("sec-websocket-")
            || matches!(
                &*lower,
                "host" | "content-length" | "content-type" | "expect"
            );
        if !is_ours {
            request.append_header(name.to_owned(), value)?;
        }
    }
    changes.set("Host", auth.host.as_bytes());
    changes.set("Connection", &b"close"[..]);
    changes.set("X-Original-Method", asked.line().method.as_str().as_bytes());
    changes.set("X-Original-URI", asked.target());
    if let Some(host) = asked.lines(header::HOST).next() {
        changes.set("X-Forwarded-Host", host);
    }
    forwarded(&mut changes, asked, identity, None, caller.tls.as_deref())?;
    changes.apply(&mut request)?;
    Ok(request)
}
