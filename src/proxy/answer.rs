//! What wsgate itself answers.

use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, StatusCode};
use pingora::Result;
use pingora::http::{IntoCaseHeaderName, ResponseHeader};
use pingora::protocols::http::ServerSession;

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

    /// There is no descriptor, or no memory, for what the request needs.
    pub fn exhausted() -> Self {
        let sentence = "no more connections can be had now";
        Answer::new(StatusCode::SERVICE_UNAVAILABLE, sentence).with(header::RETRY_AFTER, "5")
    }

    pub fn with(self, name: HeaderName, value: &'a str) -> Self {
        Answer {
            header: Some((name, value)),
            ..self
        }
    }

    /// Writes it. The connection is not used again afterwards.
    ///
    /// # Errors
    /// Those of the client's connection.
    pub async fn write(self, session: &mut ServerSession) -> Result<()> {
        let body = format!("{}\n", self.sentence);
        let mut head = ResponseHeader::build(self.status, Some(4))?;
        head.insert_header("Content-Type", "text/plain; charset=utf-8")?;
        head.insert_header("Content-Length", body.len())?;
        if let Some((name, value)) = self.header {
            head.insert_header(title_case(&name), value)?;
        }
        session.set_keepalive(None);
        let without_body = session.req_header().method == http::Method::HEAD;
        // Most requests get no answer of ours, and all would carry the room to write one.
        let writing = Box::pin(async {
            session.write_response_header(Box::new(head)).await?;
            if !without_body {
                session.write_response_body(body.into(), true).await?;
            }
            Ok(())
        });
        writing.await
    }
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
