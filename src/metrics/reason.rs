//! Why a request is refused, or fails: one table from reason to label, result and whose doing it is.

use super::Handshake;

/// The originator of a refusal, which decides about the level of its log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is not right.
    Client,
    /// Somebody has decided so: the configuration, the access service, the server.
    Policy,
    /// A limit of wsgate, or what stands behind it.
    Gate,
}

/// Declares the reasons: what each means, its label, the [`Handshake`] that it counts as, and whose doing it is.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $reason:ident = $label:literal, $result:ident, $fault:ident;)+) => {
        /// Why a request for a WebSocket, or a plain request, is refused, or fails.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $reason,)+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Reason] = &[$(Reason::$reason),+];

            /// The name in metrics and in the log.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Reason::$reason => $label,)+
                }
            }

            /// The result of the handshake.
            pub const fn result(self) -> Handshake {
                match self {
                    $(Reason::$reason => Handshake::$result,)+
                }
            }

            /// The originator of the refusal.
            pub const fn fault(self) -> Fault {
                match self {
                    $(Reason::$reason => Fault::$fault,)+
                }
            }
        }
    };
}

reasons! {
    /// Another method than GET: 400.
    Method = "method", BadRequest, Client;
    /// Another version of HTTP than 1.1: 400.
    HttpVersion = "http_version", BadRequest, Client;
    /// `Host` is missing, empty or there twice: 400.
    Host = "host", BadRequest, Client;
    /// No `Upgrade: websocket`: 400.
    Upgrade = "upgrade", BadRequest, Client;
    /// No `Connection: Upgrade`: 400.
    Connection = "connection", BadRequest, Client;
    /// No good `Sec-WebSocket-Key`: 400.
    Key = "key", BadRequest, Client;
    /// No `Sec-WebSocket-Version: 13`: 400, or 426 for another version.
    Version = "version", BadRequest, Client;
    /// `Sec-WebSocket-Protocol` is no list of different tokens: 400.
    Subprotocols = "subprotocols", BadRequest, Client;
    /// `Sec-WebSocket-Extensions` is no list of extensions: 400.
    Extensions = "extensions", BadRequest, Client;
    /// The request has a body: 400.
    Body = "body", BadRequest, Client;
    /// The head is no HTTP: 400.
    Malformed = "malformed", BadRequest, Client;
    /// The target, or the subject of the certificate, cannot be sent on in a request: 400.
    Unsendable = "unsendable", BadRequest, Client;
    /// The head was not complete within `header_timeout`, whatever it would have asked for: 408.
    HeadTimedOut = "head_timed_out", BadRequest, Client;
    /// The head is larger than `max_header_size`, whatever it asks for: 431.
    HeadTooLarge = "head_too_large", BadRequest, Client;
    /// The body of a plain request did not come within `body_timeout`: 408.
    BodyTimedOut = "body_timed_out", BadRequest, Client;
    /// The path can be read in two ways that lead to different routes, or is none: 400.
    Path = "path", BadRequest, Client;
    /// More subprotocols, extensions, parameters or names in `Connection` than are read: 400.
    Tokens = "tokens", BadRequest, Client;
    /// No route has this host and path: 404.
    NoRoute = "no_route", BadRequest, Client;
    /// The request came without TLS, and the route redirects it to HTTPS: 308.
    RedirectedToHttps = "redirected_to_https", BadRequest, Client;
    /// The page is none of `allowed_origins`: 403.
    Origin = "origin", Forbidden, Policy;
    /// The client is not in `allow`, or is in `deny`: 403.
    Address = "address", Forbidden, Policy;
    /// The route wants a certificate of the client, and there is none: 403.
    ClientCertificate = "client_certificate", Forbidden, Policy;
    /// The access service says no: 401 or 403.
    AccessService = "access_service", Forbidden, Policy;
    /// The client's address has `address_max_connections`, or opens more than `address_rate`: 429.
    AddressLimit = "address_limit", Throttled, Policy;
    /// The access service gives no good answer: 502.
    AccessFailed = "access_failed", Unchecked, Gate;
    /// The access service gives no answer within `auth_timeout`: 504.
    AccessTimedOut = "access_timed_out", Unchecked, Gate;
    /// The route has its `max_connections`: 503.
    RouteFull = "route_full", Full, Gate;
    /// A WebSocket on a stream of HTTP/2 would be one more than `[client] max_connections`: 503.
    MaxConnections = "max_connections", Full, Gate;
    /// `buffer_memory` is exceeded: 503.
    Memory = "memory", Full, Gate;
    /// The system has no descriptor or no memory for another connection: 503.
    Exhausted = "exhausted", Full, Gate;
    /// No server takes connections, and none did within `queue_timeout`: 503.
    NoServer = "no_server", QueueTimeout, Gate;
    /// The queue is so long that the upgrade would wait in vain: 503.
    QueueFull = "queue_full", QueueTimeout, Gate;
    /// The client left while its upgrade waited for a server.
    ClientLeft = "client_left", Abandoned, Client;
    /// The server of a plain request was drained, and the deadline of the drain is over: 503.
    ServerDrained = "server_drained", QueueTimeout, Gate;
    /// No server can be reached: 502.
    Unreachable = "unreachable", Unreachable, Gate;
    /// No server could be reached within `connect_timeout`: 504.
    ConnectTimedOut = "connect_timed_out", TimedOut, Gate;
    /// The server ended the connection instead of answering: 502.
    NoAnswer = "no_answer", Unreachable, Gate;
    /// The server gave no answer within `handshake_timeout`: 504.
    AnswerTimedOut = "answer_timed_out", TimedOut, Gate;
    /// The server's response to a plain request is malformed, or a 101: 502.
    InvalidResponse = "invalid_response", InvalidUpgradeResponse, Gate;
    /// wsgate could not handle the request: 500.
    Internal = "internal", Internal, Gate;
    /// The server's 101 is wrong: 502.
    InvalidUpgradeResponse = "invalid_upgrade", InvalidUpgradeResponse, Gate;
    /// The server's own answer, below 500, which the client gets as it is.
    Declined = "declined", Declined, Policy;
    /// The server's own answer of 500 and more, which the client gets as it is.
    ServerError = "server_error", Declined, Gate;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_different_words() {
        let labels: HashSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        let is_word = |label: &&&str| label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'));
        assert_eq!(labels.iter().filter(is_word).count(), labels.len());
    }

    /// Whoever sees one in the log looks there for what to do.
    #[test]
    fn the_readme_has_every_reason() {
        let readme = include_str!("../../README.md");
        for reason in Reason::ALL {
            let label = format!("`{}`", reason.label());
            assert!(readme.contains(&label), "{label} is missing in README.md");
        }
    }

    #[test]
    fn a_refusal_is_never_counted_as_a_success() {
        for reason in Reason::ALL {
            assert_ne!(reason.result(), Handshake::Ok, "{}", reason.label());
            let is_abandoned = reason.result() == Handshake::Abandoned;
            assert_eq!(is_abandoned, *reason == Reason::ClientLeft, "{reason:?}");
        }
    }
}
