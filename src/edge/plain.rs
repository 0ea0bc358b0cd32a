//! Plain HTTP requests: the callbacks by which Pingora's proxy asks for the route, the servers and the rules of each request.

mod request;

use crate::edge::client::identity;
use crate::edge::http::answer::Answer;
use crate::edge::http::client_request::{ClientRequest, Downstream};
use crate::edge::http::headers;
use crate::edge::http::headers::Changes;
use crate::edge::http::target::Target;
use crate::edge::http::transfer::Transfer;
use crate::edge::route::sticky_cookie::set_cookie;
use crate::edge::route::table::Tables;
use crate::metrics::{PlainLimit, Reason};
use crate::transport::exhaustion::Exhaustion;
use crate::upstream::{EjectionReason, may_be_restarting, retry_pause};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use request::Plain;
use std::io;
use std::os::fd::RawFd;

/// The filters that Pingora's proxy calls for each plain request.
pub(crate) struct ProxyApp(pub(crate) Tables);

/// RFC 9112 §3.2.2: an absolute target goes on in origin-form, and its authority as `Host`.
fn make_origin_form(head: &mut RequestHeader) -> Result<()> {
    let target = Target::parse(head.raw_path());
    let absolute = target.ok().and_then(|target| {
        let authority = target.authority()?.to_vec();
        Some((authority, target.origin_form().to_vec()))
    });
    let Some((authority, origin_form)) = absolute else {
        return Ok(());
    };
    head.set_raw_path(&origin_form)?;
    head.insert_header("Host", authority)
}

#[async_trait]
impl ProxyHttp for ProxyApp {
    type CTX = Plain;

    fn new_ctx(&self) -> Plain {
        Plain {
            transfer: Transfer::current(),
            ..Plain::default()
        }
    }

    async fn request_filter(&self, session: &mut Session, plain: &mut Plain) -> Result<bool> {
        let session = session.as_downstream_mut();
        let table = self.0.current();
        let body_timeout = Some(table.client.body_timeout).filter(|limit| !limit.is_zero());
        session.set_read_timeout(body_timeout);
        session.set_total_drain_timeout(body_timeout);
        if session.is_http2() {
            headers::join_cookies(session.req_header_mut())?;
        }
        // Pingora passes on what it has read: what nobody may send has to go from there.
        if !table.subject_headers().is_empty() {
            let names = table.subject_headers().iter().map(HeaderName::as_str);
            Changes::of_request(names).apply(session.req_header_mut())?;
        }
        let address_permit = plain.admit(session, &table).await;
        match address_permit.and_then(|()| plain.apply_limits(session)) {
            Ok(()) => {
                make_origin_form(session.req_header_mut())?;
                Ok(false)
            }
            Err(refused) => {
                if !plain.is_attempt {
                    let (status, sentence) = refused.said();
                    plain.report(&table, session, refused.reason, status, sentence);
                }
                let refused = refused.under(plain.answer_rules());
                Box::pin(refused.write(session))
                    .await
                    .map_err(|error| error.into_down())?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        plain: &mut Plain,
    ) -> Result<Box<HttpPeer>> {
        if plain.tried > 0
            && plain.tried == plain.candidates.len()
            && let Some(route) = &plain.route
        {
            // The only server may be restarting.
            tokio::time::sleep(retry_pause()).await;
            plain.candidates = route.pool.candidates(plain.key.as_deref());
            plain.tried = 0;
            plain.may_return = false;
        }
        let (Some(route), Some(server)) = (&plain.route, plain.candidates.get(plain.tried)) else {
            return Err(
                Error::explain(ErrorType::ConnectError, "no server is left to try").into_up(),
            );
        };
        plain.connecting = Some(std::time::Instant::now());
        if let Some(transfer) = &plain.transfer {
            transfer.set_server(server);
        }
        match route.pool.peer(server) {
            Ok(peer) => Ok(Box::new(peer)),
            Err(mut error) => {
                plain.tried += 1;
                error.set_retry(plain.tried < plain.candidates.len());
                Err(error.into_up())
            }
        }
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        plain: &mut Plain,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let cause = error.root_cause().downcast_ref::<io::Error>();
        plain.may_return |= cause.is_some_and(may_be_restarting);
        let shortage = cause.and_then(|cause| Some((Exhaustion::of(cause)?, cause)));
        let mut is_for_every_server = false;
        if let Some(route) = &plain.route {
            let metrics = &route.context.metrics;
            match (
                shortage,
                plain.candidates.get(plain.tried),
                plain.connecting,
            ) {
                (Some((shortage, cause)), ..) => {
                    shortage.report(metrics, cause);
                    plain.exhausted = true;
                    is_for_every_server = shortage.is_for_every_server();
                }
                (None, Some(server), Some(began)) => {
                    let pool = &route.pool;
                    pool.handle_failure(server, EjectionReason::Unreachable, None, began, metrics);
                }
                (None, ..) => {}
            }
        }
        plain.tried += 1;
        let is_time = || {
            let until = plain.retry_until.filter(|_| plain.may_return);
            until.is_some_and(|until| std::time::Instant::now() < until)
        };
        let has_another = plain.tried < plain.candidates.len();
        error.set_retry(!is_for_every_server && (has_another || !plain.exhausted && is_time()));
        error
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: RawFd,
        _digest: Option<&Digest>,
        plain: &mut Plain,
    ) -> Result<()> {
        plain.exhausted = false;
        if let Some(server) = plain.candidates.get(plain.tried) {
            server.handle_connect();
        }
        Ok(())
    }

    /// RFC 9110 §9.2.2: "A proxy MUST NOT automatically retry non-idempotent requests." nginx does the same by default.
    /// The others are sent once more where the server has closed a connection that was kept for them, and only if all of
    /// their body is still there.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        plain: &mut Plain,
        is_reused: bool,
    ) -> Box<Error> {
        plain.is_sent = true;
        let mut error = error.more_context(format!("Peer: {peer}"));
        let is_broken = matches!(
            error.etype(),
            ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError
        );
        let can_be_repeated = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none();
        let is_of_server = *error.esource() == ErrorSource::Upstream;
        error.set_retry(is_reused && is_broken && is_of_server && can_be_repeated);
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        plain: &mut Plain,
    ) -> Result<()> {
        let (Some(route), Some(identity)) = (&plain.route, plain.identity) else {
            return Ok(());
        };
        if let Some(transfer) = plain.transfer.as_ref().filter(|_| !session.is_body_done()) {
            transfer.expect_body();
        }
        let settings = &route.settings;
        let downstream = Downstream::of_session(session);
        let client_request = ClientRequest::of(session.req_header());
        let client_request = client_request
            .map_err(|error| Error::explain(ErrorType::InvalidHTTPHeader, error.to_string()))?;
        // Routing has looked at it.
        let host = client_request.host().unwrap_or_default();
        let mut changes = Changes::of_request(std::iter::empty());
        identity::forwarded(&mut changes, &client_request, identity, host, &downstream)?;
        identity::set_host(&mut changes, &request.headers, host);
        let name = route.client.request_id.as_ref();
        changes.set_request_id(name.zip(plain.request_id.as_deref()));
        changes.tell_prefix(settings);
        if settings.replace_path.is_some() {
            let target = settings.server_target(client_request.target());
            request.set_raw_path(&target)?;
        }
        changes.vouch(settings.access.auth.as_ref(), &plain.auth_headers);
        changes.apply_rules(&settings.headers[0]);
        changes.apply(request)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        plain: &mut Plain,
    ) -> Result<()> {
        let bytes = body.as_ref().map_or(0, Bytes::len);
        if end && bytes == 0 {
            // Pingora's writer takes an empty piece for the end of a chunked body, and writes the end once more then: what
            // is left over would be the beginning of the next request on that connection.
            *body = None;
        }
        let Some(transfer) = &plain.transfer else {
            return Ok(());
        };
        let left = transfer.handle_body(bytes, end).map_err(|_| {
            let sentence = "the body of the request is slower than it may be";
            Error::explain(ErrorType::ReadTimedout, sentence).into_down()
        })?;
        if left.is_some() {
            // With this time-out a client of HTTP/1.1 gets 408; over HTTP/2 Pingora has no such time-out.
            session.set_read_timeout(left);
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        plain: &mut Plain,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // RFC 9110 §15.2.2: only in answer to an Upgrade, and this request had none. Passed on, it would make the client
            // and whatever stands before it believe in a tunnel that is none.
            let error = Error::explain(ErrorType::InvalidHTTPHeader, "a 101 that nobody asked for");
            return Err(error.into_up());
        }
        if let Some(transfer) = &plain.transfer {
            transfer.handle_response();
        }
        let length = headers::body_length(session.req_header(), response);
        if let (Some(transfer), Some(length)) = (&plain.transfer, length) {
            transfer.handle_response_length(length);
        }
        headers::end_hop(response);
        if let (Some(route), Some(server), Some(identity)) = (
            &plain.route,
            plain.candidates.get(plain.tried),
            plain.identity,
        ) && route.pool.is_sticky()
        {
            let downstream = Downstream::of_session(session);
            let request = &session.req_header().headers;
            let scheme = identity::scheme(request, identity, &downstream);
            if let Some(cookie) = set_cookie(&route.pool, server, plain.key.as_deref(), scheme) {
                response.append_header("Set-Cookie", cookie)?;
            }
        }
        match plain.answer_rules() {
            Some(rules) => headers::apply_rules(response, rules),
            None => Ok(()),
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, plain: &mut Plain) {
        let response = session.response_written();
        let status = response.map(|response| response.status.as_u16());
        plain.log(session, error);
        if let Some(counted) = plain.counted.take() {
            counted.end(status);
        }
        let Some(transfer) = &plain.transfer else {
            return;
        };
        transfer.release_server();
        if session.response_written().is_some() {
            transfer.handle_answer();
        }
        match error.map(|error| (error.etype(), error.esource())) {
            Some((ErrorType::ReadTimedout, ErrorSource::Downstream)) => {
                transfer.handle_end(PlainLimit::BodyTimeout);
            }
            Some((ErrorType::WriteTimedout, ErrorSource::Downstream)) => {
                transfer.handle_end(PlainLimit::WriteTimeout);
            }
            _ => {}
        }
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        plain: &mut Plain,
    ) -> FailToProxy {
        let timed_out = matches!(
            error.etype(),
            ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout
        );
        let (reason, status, sentence) = match (error.etype(), error.esource()) {
            (ErrorType::HTTPStatus(code), _) => {
                let status =
                    StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let reason = match status.is_server_error() {
                    true => Reason::Internal,
                    false => Reason::Malformed,
                };
                let sentence = status.canonical_reason().unwrap_or("error");
                (reason, status, sentence)
            }
            (_, ErrorSource::Upstream) if timed_out => (
                match plain.is_sent {
                    true => Reason::AnswerTimedOut,
                    false => Reason::ConnectTimedOut,
                },
                StatusCode::GATEWAY_TIMEOUT,
                "no server answered in time",
            ),
            (ErrorType::InvalidHTTPHeader, ErrorSource::Upstream) => (
                Reason::InvalidResponse,
                StatusCode::BAD_GATEWAY,
                "the server's answer is malformed",
            ),
            (_, ErrorSource::Upstream) if plain.is_sent => (
                Reason::NoAnswer,
                StatusCode::BAD_GATEWAY,
                "the server ended the connection before it answered; it may have handled the request or not",
            ),
            (_, ErrorSource::Upstream) => (
                Reason::Unreachable,
                StatusCode::BAD_GATEWAY,
                "no server can be reached",
            ),
            // Nobody is there to be told.
            (
                ErrorType::WriteError
                | ErrorType::WriteTimedout
                | ErrorType::ReadError
                | ErrorType::ConnectionClosed
                | ErrorType::H2Error,
                ErrorSource::Downstream,
            ) => {
                return FailToProxy {
                    error_code: 0,
                    can_reuse_downstream: false,
                };
            }
            (_, ErrorSource::Downstream) if timed_out => (
                Reason::BodyTimedOut,
                StatusCode::REQUEST_TIMEOUT,
                "the body of the request did not come in time",
            ),
            (_, ErrorSource::Downstream) => (
                Reason::Malformed,
                StatusCode::BAD_REQUEST,
                "the request is malformed",
            ),
            (_, ErrorSource::Internal | ErrorSource::Unset) => (
                Reason::Internal,
                StatusCode::INTERNAL_SERVER_ERROR,
                "wsgate failed to handle the request",
            ),
        };
        let (reason, answer) = match plain.exhausted {
            true => (Reason::Exhausted, Answer::exhausted()),
            false => (reason, Answer::new(status, sentence)),
        };
        let status = answer.status();
        if session.response_written().is_none() {
            let table = self.0.current();
            plain.report(&table, session, reason, status, answer.sentence());
            match answer.write(session, plain.answer_rules()).await {
                // The body may still be on its way; Pingora would close the connection, and so reset it.
                Ok(()) if !session.is_http2() => session.as_downstream_mut().shutdown().await,
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "client left before it was answered"),
            }
        }
        FailToProxy {
            error_code: status.as_u16(),
            can_reuse_downstream: false,
        }
    }
}
