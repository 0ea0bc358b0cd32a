//! What wsgate itself answers.

use super::headers;
use super::settings::HeaderRules;
use crate::metrics::Handshake;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http::header::{self, HeaderName};
use pingora::http::{IntoCaseHeaderName, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::{Error, ErrorType, Result};
use std::borrow::Cow;
use std::time::Duration;
use tokio::time::timeout;

/// A short answer in plain text.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    /// Without a line end.
    sentence: Cow<'static, str>,
    /// One more header.
    header: Option<(HeaderName, Cow<'static, str>)>,
}

impl Answer {
    pub fn new(status: StatusCode, sentence: impl Into<Cow<'static, str>>) -> Self {
        Answer {
            status,
            sentence: sentence.into(),
            header: None,
        }
    }

    /// There is no descriptor, memory or local port for what the request needs.
    pub fn exhausted() -> Self {
        let sentence = "no more connections can be had now";
        Answer::new(StatusCode::SERVICE_UNAVAILABLE, sentence).with(header::RETRY_AFTER, "5")
    }

    pub fn with(self, name: HeaderName, value: impl Into<Cow<'static, str>>) -> Self {
        Answer {
            header: Some((name, value.into())),
            ..self
        }
    }

    /// What a request that is not served is answered, and counted as.
    pub fn refusing(self, counted: Handshake) -> Refused {
        Refused {
            counted,
            told: Box::new(Told::Ours(self)),
            rules: None,
        }
    }

    /// Writes it, with what the route, if there is one, changes of answers. The connection is not used again afterwards.
    ///
    /// # Errors
    /// Those of the client's connection.
    pub async fn write(
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
            headers::obey(&mut head, rules)?;
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
pub(super) struct Refused {
    pub counted: Handshake,
    told: Box<Told>,
    /// What the route of the request changes of answers.
    rules: Option<Box<HeaderRules>>,
}

enum Told {
    Ours(Answer),
    /// The access service's own words.
    Access(Box<ResponseHeader>, BytesMut),
    /// The server's own answer, whose body is still to be read, each piece within a time.
    Server(Box<ResponseHeader>, Box<HttpSession>, Duration),
}

impl Refused {
    /// The access service has said no, with this body.
    pub fn by_access(head: Box<ResponseHeader>, body: BytesMut) -> Self {
        Refused {
            counted: Handshake::Forbidden,
            told: Box::new(Told::Access(head, body)),
            rules: None,
        }
    }

    /// The server has answered something else than was asked for.
    pub fn by_server(
        head: Box<ResponseHeader>,
        session: Box<HttpSession>,
        limit: Duration,
    ) -> Self {
        Refused {
            counted: Handshake::Declined,
            told: Box::new(Told::Server(head, session, limit)),
            rules: None,
        }
    }

    /// The same with what a route changes of answers, whoever gives them.
    pub fn under(self, rules: Option<&HeaderRules>) -> Self {
        let rules = rules.filter(|rules| **rules != HeaderRules::default());
        Refused {
            rules: rules.cloned().map(Box::new),
            ..self
        }
    }

    /// Tells the client. The connection is not used again afterwards.
    ///
    /// # Errors
    /// Those of the client's connection; where the server's answer breaks, the connection is all that can tell it.
    pub async fn write(self, session: &mut ServerSession) -> Result<()> {
        session.set_keepalive(None);
        let rules = self.rules.as_deref();
        let obey = |head: &mut ResponseHeader| rules.map_or(Ok(()), |of| headers::obey(head, of));
        match *self.told {
            Told::Ours(answer) => answer.write(session, rules).await,
            Told::Access(mut head, body) => {
                obey(&mut head)?;
                session.write_response_header(head).await?;
                session.write_response_body(body.freeze(), true).await
            }
            Told::Server(mut head, mut server, limit) => {
                obey(&mut head)?;
                session.write_response_header(head).await?;
                loop {
                    let chunk = timeout(limit, server.read_body_bytes()).await;
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
    let mut start = true;
    let titled = name.as_str().chars().map(|c| {
        let titled = if start { c.to_ascii_uppercase() } else { c };
        start = c == '-';
        titled
    });
    titled.collect::<String>()
}
