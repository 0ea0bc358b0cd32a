//! Responses that wsgate writes itself, and the refusals that they belong to.

use crate::edge::http::headers;
use crate::edge::settings::HeaderRules;
use crate::metrics::Reason;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::StatusCode;
use http::header::{self, HeaderName};
use pingora::http::{IntoCaseHeaderName, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::{Error, ErrorType, OrErr, Result};
use rand::Rng;
use std::borrow::Cow;
use std::time::Duration;
use tokio::time::timeout;

/// A short answer in plain text.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    /// Without a line end.
    sentence: Cow<'static, str>,
    /// One more header.
    header: Option<(HeaderName, Cow<'static, str>)>,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, sentence: impl Into<Cow<'static, str>>) -> Self {
        Answer {
            status,
            sentence: sentence.into(),
            header: None,
        }
    }

    /// There is no descriptor, memory or local port for what the request needs.
    pub(crate) fn exhausted() -> Self {
        let sentence = "no more connections can be had now";
        Answer::unavailable(sentence)
    }

    /// 503 with a Retry-After of a few seconds.
    pub(crate) fn unavailable(sentence: &'static str) -> Self {
        Answer::new(StatusCode::SERVICE_UNAVAILABLE, sentence).with(header::RETRY_AFTER, "5")
    }

    /// 503 with a Retry-After that is drawn from `after` to twice as long, so that clients that are refused together do not come
    /// back together.
    pub(crate) fn unavailable_for(sentence: &'static str, after: Duration) -> Self {
        let drawn = after.mul_f64(rand::thread_rng().gen_range(1.0..2.0));
        let seconds = drawn.as_secs_f64().ceil().max(1.0).to_string();
        Answer::new(StatusCode::SERVICE_UNAVAILABLE, sentence).with(header::RETRY_AFTER, seconds)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn sentence(&self) -> &str {
        &self.sentence
    }

    /// The whole answer in HTTP/1.1, after which the connection ends; without its body in answer to HEAD.
    pub(crate) fn bytes(&self, without_body: bool) -> Vec<u8> {
        let body = format!("{}\n", self.sentence);
        let mut written = format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n",
            self.status,
            body.len(),
        );
        if let Some((name, value)) = &self.header {
            written += &format!("{}: {value}\r\n", titled(name));
        }
        written += "Connection: close\r\n\r\n";
        if !without_body {
            written += &body;
        }
        written.into_bytes()
    }

    pub(crate) fn with(self, name: HeaderName, value: impl Into<Cow<'static, str>>) -> Self {
        Answer {
            header: Some((name, value.into())),
            ..self
        }
    }

    /// Makes this answer the refusal of a request, for this reason.
    pub(crate) fn refusing(self, reason: Reason) -> Refused {
        Refused::new(reason, Told::Ours(self))
    }

    /// Writes the answer, changed by the header rules of the route. The connection is not used again afterwards.
    ///
    /// # Errors
    /// The errors of the client's connection.
    pub(crate) async fn write(
        self,
        session: &mut ServerSession,
        rules: Option<&HeaderRules>,
    ) -> Result<()> {
        let body = format!("{}\n", self.sentence);
        let mut head = ResponseHeader::build(self.status, Some(4))?;
        head.insert_header("Content-Type", "text/plain; charset=utf-8")?;
        head.insert_header("Content-Length", body.len())?;
        if let Some((name, value)) = self.header {
            head.insert_header(title_case(&name), &*value)?;
        }
        if let Some(rules) = rules {
            headers::apply_rules(&mut head, rules)?;
        }
        session.set_keepalive(None);
        let without_body = session.req_header().method == http::Method::HEAD;
        session.write_response_header(Box::new(head)).await?;
        if !without_body {
            session.write_response_body(body.into(), true).await?;
        }
        Ok(())
    }
}

/// Why a request is not served, and what its client is told. Small, as all requests carry the room for it.
pub(crate) struct Refused {
    pub reason: Reason,
    parts: Box<Parts>,
}

struct Parts {
    /// Details for the log, which the client does not get.
    detail: String,
    /// The answer that the client gets.
    told: Told,
    /// The rules of the route for headers of answers.
    rules: Option<HeaderRules>,
}

enum Told {
    Ours(Answer),
    /// The access service's own words.
    Access(Box<ResponseHeader>, BytesMut),
    /// The server's own answer, whose body is still to be read, each piece within a time.
    Server(Box<ResponseHeader>, ServerBody, Duration),
}

/// The body of a server's own answer, which is still to be read.
pub(crate) enum ServerBody {
    Http1(Box<HttpSession>),
    Http2 {
        stream: RecvStream,
        /// Counts the stream.
        _guard: Box<dyn Send + Sync>,
    },
}

impl ServerBody {
    /// The next piece; `None` at the end.
    async fn read(&mut self) -> Result<Option<Bytes>> {
        match self {
            ServerBody::Http1(session) => session.read_body_bytes().await,
            ServerBody::Http2 { stream, .. } => {
                let Some(data) = stream.data().await else {
                    return Ok(None);
                };
                let data = data.or_err(ErrorType::ReadError, "the server's answer")?;
                let _ = stream.flow_control().release_capacity(data.len());
                Ok(Some(data))
            }
        }
    }
}

impl Refused {
    fn new(reason: Reason, told: Told) -> Self {
        Refused {
            reason,
            parts: Box::new(Parts {
                detail: String::new(),
                told,
                rules: None,
            }),
        }
    }

    /// The access service has said no, with this body.
    pub(crate) fn by_access(head: Box<ResponseHeader>, body: BytesMut) -> Self {
        Refused::new(Reason::AccessService, Told::Access(head, body))
    }

    /// The server has answered something else than was asked for.
    pub(crate) fn by_server(head: Box<ResponseHeader>, body: ServerBody, limit: Duration) -> Self {
        let reason = match head.status.is_server_error() {
            true => Reason::ServerError,
            false => Reason::Declined,
        };
        Refused::new(reason, Told::Server(head, body, limit))
    }

    /// Adds details for the log that the client does not get: names of servers, errors of sockets.
    pub(crate) fn because(mut self, detail: impl Into<String>) -> Self {
        self.parts.detail = detail.into();
        self
    }

    /// Sets the rules of the route for headers of answers: they hold for every answer, also for one of wsgate or the access service.
    pub(crate) fn under(mut self, rules: Option<&HeaderRules>) -> Self {
        let rules = rules.filter(|rules| **rules != HeaderRules::default());
        self.parts.rules = rules.cloned();
        self
    }

    /// The status that the client gets.
    pub(crate) fn status(&self) -> StatusCode {
        match &self.parts.told {
            Told::Ours(answer) => answer.status,
            Told::Access(head, _) | Told::Server(head, ..) => head.status,
        }
    }

    /// Why, for the log.
    pub(crate) fn why(&self) -> String {
        let sentence = match &self.parts.told {
            Told::Ours(answer) => &*answer.sentence,
            Told::Access(..) => "the access service has said no",
            Told::Server(..) => "the server has answered with something else than 101",
        };
        match self.parts.detail.as_str() {
            "" => sentence.to_owned(),
            detail => format!("{sentence} ({detail})"),
        }
    }

    /// The status that the client gets, and the sentence if the answer is wsgate's own.
    pub(crate) fn said(&self) -> (StatusCode, &str) {
        match &self.parts.told {
            Told::Ours(answer) => (answer.status, &answer.sentence),
            Told::Access(head, _) => (head.status, "the access service refused it"),
            Told::Server(head, ..) => (head.status, "the server declined it"),
        }
    }

    /// Writes the answer to the client. The connection is not used again afterwards.
    ///
    /// # Errors
    /// The errors of the client's connection. If the server's answer breaks off, the client learns it by the end of the connection.
    pub(crate) async fn write(self, session: &mut ServerSession) -> Result<()> {
        session.set_keepalive(None);
        let parts = *self.parts;
        let rules = parts.rules.as_ref();
        let apply_rules =
            |head: &mut ResponseHeader| rules.map_or(Ok(()), |of| headers::apply_rules(head, of));
        match parts.told {
            Told::Ours(answer) => answer.write(session, rules).await,
            Told::Access(mut head, body) => {
                apply_rules(&mut head)?;
                session.write_response_header(head).await?;
                session.write_response_body(body.freeze(), true).await
            }
            Told::Server(mut head, mut server, limit) => {
                apply_rules(&mut head)?;
                session.write_response_header(head).await?;
                loop {
                    let chunk = timeout(limit, server.read()).await;
                    let late = |_| {
                        let what = "the body of the server's answer";
                        Error::explain(ErrorType::ReadTimedout, what)
                    };
                    match chunk.map_err(late)?? {
                        Some(chunk) => session.write_response_body(chunk, false).await?,
                        None => return session.write_response_body(Bytes::new(), true).await,
                    }
                }
            }
        }
    }
}

/// `retry-after` as `Retry-After`: some clients of HTTP/1.1 still look at the case.
fn title_case(name: &HeaderName) -> impl IntoCaseHeaderName {
    titled(name)
}

fn titled(name: &HeaderName) -> String {
    let mut start = true;
    let titled = name.as_str().chars().map(|c| {
        let titled = if start { c.to_ascii_uppercase() } else { c };
        start = c == '-';
        titled
    });
    titled.collect()
}
