//! What wsgate itself answers, and the headers that it adds to what it passes on.

use super::identity::{Identity, forwarded_proto};
use super::secured;
use http::header::{HeaderMap, HeaderName};
use http::{HeaderValue, StatusCode};
use pingora::http::{IntoCaseHeaderName, RequestHeader, ResponseHeader};
use pingora::protocols::tls::SslDigest;
use pingora::proxy::Session;
use pingora::{ErrorType, OrErr, Result};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A short answer in plain text.
pub(super) struct Answer<'a> {
    pub status: StatusCode,
    /// Without a line end.
    pub sentence: &'a str,
    /// One more header.
    pub header: Option<(HeaderName, &'a str)>,
}

impl<'a> Answer<'a> {
    pub fn new(status: StatusCode, sentence: &'a str) -> Self {
        Answer {
            status,
            sentence,
            header: None,
        }
    }

    pub fn with(self, name: HeaderName, value: &'a str) -> Self {
        Answer {
            header: Some((name, value)),
            ..self
        }
    }

    /// Writes it. The connection is not used again afterwards.
    pub async fn write(self, session: &mut Session) -> Result<()> {
        let body = format!("{}\n", self.sentence);
        let mut head = ResponseHeader::build(self.status, Some(4))?;
        head.insert_header("Content-Type", "text/plain; charset=utf-8")?;
        head.insert_header("Content-Length", body.len())?;
        if let Some((name, value)) = self.header {
            head.insert_header(title_case(&name), value)?;
        }
        session.set_keepalive(None);
        let without_body = session.req_header().method == http::Method::HEAD;
        session
            .write_response_header(Box::new(head), without_body)
            .await?;
        if !without_body {
            session.write_response_body(Some(body.into()), true).await?;
        }
        Ok(())
    }
}

/// Tells the server who asked, by which host and scheme.
///
/// `X-Forwarded-For` is continued with the peer; the others say what was seen here, unless a trusted peer said it before.
/// `host` is what the client asked for, `tls` what is known of a connection that is encrypted.
pub(super) fn forwarded(
    request: &mut RequestHeader,
    identity: Identity,
    host: Option<HeaderValue>,
    tls: Option<&SslDigest>,
) -> Result<()> {
    if let Some(peer) = identity.peer {
        let mut chain: Vec<String> = request
            .headers
            .get_all(X_FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok().map(|value| value.trim().to_owned()))
            .filter(|value| !value.is_empty())
            .collect();
        chain.push(peer.to_string());
        request.insert_header("X-Forwarded-For", chain.join(", "))?;
    }
    let claimed = identity.is_trusted && request.headers.contains_key(X_FORWARDED_HOST);
    if let Some(host) = host.filter(|_| !claimed) {
        request.insert_header("X-Forwarded-Host", host)?;
    }
    let proto = forwarded_proto(&request.headers).filter(|_| identity.is_trusted);
    let seen = if tls.is_some() { "https" } else { "http" };
    request.insert_header(
        "X-Forwarded-Proto",
        proto.unwrap_or_else(|| seen.to_owned()),
    )?;
    if let Some((name, subject)) = tls.and_then(secured::identity) {
        // RFC 4514 escapes what has no place in a header.
        let value = HeaderValue::from_bytes(subject.as_bytes()).or_err(
            ErrorType::InvalidHTTPHeader,
            "a subject that no header can hold",
        )?;
        request.insert_header(name.to_owned(), value)?;
    }
    Ok(())
}

/// The value of a header as text, for logs and for routing; empty where there is none or it is not ASCII.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value: &HeaderValue| value.to_str().ok())
        .unwrap_or_default()
}

/// `retry-after` as `Retry-After`: some clients of HTTP/1.1 still look at the case.
fn title_case(name: &HeaderName) -> impl IntoCaseHeaderName {
    let mut start = true;
    let titled = name.as_str().chars().map(|c| {
        let titled = if start { c.to_ascii_uppercase() } else { c };
        start = c == '-';
        titled
    });
    titled.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_continues_the_chain_and_overwrites_claims() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.insert_header("Host", "chat.example.com").unwrap();
        request
            .append_header("X-Forwarded-For", "203.0.113.7")
            .unwrap();
        request
            .append_header("X-Forwarded-For", " 10.0.0.1 ")
            .unwrap();
        request
            .insert_header("X-Forwarded-Proto", "gopher")
            .unwrap();
        request
            .insert_header("X-Forwarded-Host", "evil.example")
            .unwrap();
        let peer = Some([127, 0, 0, 1].into());
        let identity = |is_trusted| Identity {
            client: peer,
            peer,
            is_trusted,
        };
        let host = HeaderValue::from_static("chat.example.com");
        let mut trusted = request.clone();
        forwarded(&mut request, identity(false), Some(host.clone()), None).unwrap();
        assert_eq!(
            text(&request.headers, X_FORWARDED_FOR),
            "203.0.113.7, 10.0.0.1, 127.0.0.1"
        );
        assert_eq!(
            text(
                &request.headers,
                HeaderName::from_static("x-forwarded-proto")
            ),
            "http"
        );
        let host = X_FORWARDED_HOST;
        assert_eq!(text(&request.headers, host.clone()), "chat.example.com");
        assert_eq!(request.headers.get_all(host).iter().count(), 1);
        // Whom we trust may say it.
        trusted.insert_header("X-Forwarded-Proto", "https").unwrap();
        let asked = HeaderValue::from_static("chat.example.com");
        forwarded(&mut trusted, identity(true), Some(asked), None).unwrap();
        let of = |name| text(&trusted.headers, HeaderName::from_static(name));
        assert_eq!(
            (of("x-forwarded-proto"), of("x-forwarded-host")),
            ("https", "evil.example")
        );
    }
}
