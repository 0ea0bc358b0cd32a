//! What wsgate itself answers, and the headers that it adds to what it passes on.

use super::secured;
use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, StatusCode};
use pingora::http::{IntoCaseHeaderName, RequestHeader, ResponseHeader};
use pingora::protocols::tls::SslDigest;
use pingora::proxy::Session;
use pingora::{ErrorType, OrErr, Result};
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

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
/// `X-Forwarded-For` is continued; the others say what was seen here, whatever the client claims.
pub(super) fn forwarded(
    request: &mut RequestHeader,
    client: Option<IpAddr>,
    tls: Option<&SslDigest>,
) -> Result<()> {
    if let Some(client) = client {
        let mut chain: Vec<String> = request
            .headers
            .get_all(X_FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok().map(|value| value.trim().to_owned()))
            .filter(|value| !value.is_empty())
            .collect();
        chain.push(client.to_string());
        request.insert_header("X-Forwarded-For", chain.join(", "))?;
    }
    if let Some(host) = request.headers.get(header::HOST).cloned() {
        request.insert_header("X-Forwarded-Host", host)?;
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    request.insert_header("X-Forwarded-Proto", scheme)?;
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
        forwarded(&mut request, Some([127, 0, 0, 1].into()), None).unwrap();
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
        let host = HeaderName::from_static("x-forwarded-host");
        assert_eq!(text(&request.headers, host.clone()), "chat.example.com");
        assert_eq!(request.headers.get_all(host).iter().count(), 1);
    }
}
