//! Upgrade requests that are refused, and heads that may have been of such: each is counted by its reason, and is one line of
//! the log that says why.
//!
//! The line of a fault of a client or of a decision has the level `info`; what operators have to look after, limits and
//! servers, is a warning, written once a minute per route and reason with the number of those in between (each of them at the level `debug`).

use crate::edge::http::answer::{Answer, Refused};
use crate::edge::http::client_request::{ClientRequest, Downstream};
use crate::edge::http::head::NoHead;
use crate::handshake;
use crate::handshake::Refusal;
use crate::log;
use crate::metrics::{Fault, Metrics, Reason};
use crate::transport::address::ClientAddress;
use crate::upstream::Unreachable;
use http::{StatusCode, header};
use pingora::protocols::Stream;
use std::net::IpAddr;
use tracing::Level;

/// The request that is refused, for the log. Nothing of it is copied before a line is written.
pub(crate) struct RefusedRequest<'a> {
    /// `None`: there is none, or it was not looked for.
    pub route: Option<&'a str>,
    /// The one that a trusted proxy names, or who is connected.
    pub client: ClientAddress,
    /// As it came.
    pub host: &'a [u8],
    /// As it came, without the query, which may hold secrets.
    pub path: &'a [u8],
    /// Accepted or made, where the request has one.
    pub request_id: Option<&'a str>,
}

impl<'a> RefusedRequest<'a> {
    pub(crate) fn new(
        client_request: &'a ClientRequest<'_>,
        route: Option<&'a str>,
        client: ClientAddress,
    ) -> Self {
        RefusedRequest {
            route,
            client,
            host: client_request.host_as_it_came(),
            path: client_request.path(),
            request_id: None,
        }
    }

    /// One whose head was not read.
    fn unread(peer: Option<IpAddr>) -> Self {
        RefusedRequest {
            route: None,
            client: ClientAddress::of_peer(peer),
            host: b"",
            path: b"",
            request_id: None,
        }
    }
}

/// Counts an upgrade request that is refused, and says so in the log.
pub(crate) fn report(metrics: &Metrics, refused: &Refused, about: &RefusedRequest<'_>) {
    let status = refused.status().as_u16();
    report_as(
        metrics,
        UPGRADE,
        refused.reason,
        status,
        &refused.why(),
        about,
    );
}

/// Counts and logs a request whose head was not read. It is not known whether it would have been an upgrade.
pub(crate) fn report_unread(metrics: &Metrics, why: &NoHead, stream: &Stream) {
    let Some(reason) = why.reason() else {
        return;
    };
    let (status, sentence) = match reason {
        Reason::HeadTimedOut => (408, "its head was not complete within `header_timeout`"),
        _ => (431, "its head is larger than `max_header_size`"),
    };
    let about = RefusedRequest::unread(Downstream::of(stream).peer);
    report_as(metrics, REQUEST, reason, status, sentence, &about);
}

/// Counts and logs a request whose head is not valid HTTP.
pub(crate) fn report_malformed(metrics: &Metrics, sentence: &str, downstream: &Downstream) {
    let about = RefusedRequest::unread(downstream.peer);
    report_as(metrics, REQUEST, Reason::Malformed, 400, sentence, &about);
}

/// How the line of an upgrade request begins,
const UPGRADE: &str = "upgrade refused";
/// and that of a request which nobody can know to be one.
const REQUEST: &str = "request refused";

fn report_as(
    metrics: &Metrics,
    event: &'static str,
    reason: Reason,
    status: u16,
    why: &str,
    about: &RefusedRequest<'_>,
) {
    let route = about.route.unwrap_or_default();
    metrics.refused(route, reason);
    let label = reason.label();
    // The level of a line is a constant; its values are made only where it is written.
    macro_rules! write {
        ($level:ident, $more:expr) => {
            tracing::$level!(
                route = about.route,
                client = about.client.to_string(),
                host = log::excerpt(about.host),
                path = log::excerpt(about.path),
                request_id = about.request_id,
                status,
                reason = label,
                "{event}: {why}{}",
                $more
            )
        };
    }
    match reason.fault() {
        Fault::Client | Fault::Policy => write!(info, ""),
        Fault::Gate => match log::admit(Level::WARN, event, format_args!("{label}, route {route}"))
        {
            Some(more) => write!(warn, more),
            None => write!(debug, ""),
        },
    }
}

/// The reason for which an invalid handshake is refused.
pub(crate) const fn reason(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::Method => Reason::Method,
        Refusal::HttpVersion => Reason::HttpVersion,
        Refusal::Host => Reason::Host,
        Refusal::Upgrade => Reason::Upgrade,
        Refusal::Connection => Reason::Connection,
        Refusal::Key => Reason::Key,
        Refusal::MissingVersion | Refusal::OtherVersion => Reason::Version,
        Refusal::Protocols => Reason::Subprotocols,
        Refusal::Extensions => Reason::Extensions,
        Refusal::Body => Reason::Body,
        Refusal::TooManyProtocols
        | Refusal::TooManyExtensions
        | Refusal::TooManyParameters
        | Refusal::TooManyConnectionNames
        | Refusal::LongConnectionName => Reason::Tokens,
    }
}

/// The answer to a request that is not a correct handshake.
pub(crate) fn of_handshake(refusal: &Refusal) -> Refused {
    let mut answer = Answer::new(refusal.status(), refusal.to_string());
    if matches!(refusal, Refusal::OtherVersion | Refusal::MissingVersion) {
        // RFC 6455 §4.4.
        answer = answer.with(header::SEC_WEBSOCKET_VERSION, handshake::VERSION);
    }
    answer.refusing(reason(refusal))
}

/// The answer where no server took the connection.
pub(crate) fn not_connected(unreachable: &Unreachable) -> Refused {
    if let Some(after) = unreachable.retry_after {
        let sentence = "the servers have as many new connections as they take; come again later";
        Answer::unavailable_for(sentence, after).refusing(Reason::QueueFull)
    } else if unreachable.lacks_memory {
        Answer::unavailable(NO_MEMORY).refusing(Reason::Memory)
    } else if unreachable.is_abandoned {
        Answer::unavailable("the client left").refusing(Reason::ClientLeft)
    } else if unreachable.is_expired || !unreachable.is_tried {
        Answer::unavailable("no server takes connections now").refusing(Reason::NoServer)
    } else if unreachable.exhausted {
        Answer::exhausted().refusing(Reason::Exhausted)
    } else if unreachable.timed_out {
        timed_out().refusing(Reason::ConnectTimedOut)
    } else {
        let answer = Answer::new(StatusCode::BAD_GATEWAY, "no server can be reached");
        answer.refusing(Reason::Unreachable)
    }
}

/// The sentence for a request that finds `buffer_memory` used up.
pub(crate) const NO_MEMORY: &str = "all memory for slow connections is taken";

/// The answer where a server took too long.
pub(crate) fn timed_out() -> Answer {
    Answer::new(StatusCode::GATEWAY_TIMEOUT, "no server answered in time")
}
