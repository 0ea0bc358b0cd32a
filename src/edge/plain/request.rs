//! The state of a plain request, and its admission: route, limits, access, servers.

use crate::edge::client::identity;
use crate::edge::client::identity::Identity;
use crate::edge::client::request_id;
use crate::edge::http::answer::{Answer, Refused};
use crate::edge::http::client_request::{ClientRequest, Downstream};
use crate::edge::http::head::NoHead;
use crate::edge::http::headers::AuthHeaders;
use crate::edge::http::target::TargetError;
use crate::edge::http::transfer::Transfer;
use crate::edge::http2;
use crate::edge::refusals;
use crate::edge::route::hash_key::hash_key;
use crate::edge::route::table::Table;
use crate::edge::route::table::{RoutePermit, RouteState};
use crate::edge::settings::HeaderRules;
use crate::edge::upgrade::access;
use crate::edge::upgrade::refusal;
use crate::edge::upgrade::refusal::RefusedRequest;
use crate::handshake;
use crate::handshake::Refusal;
use crate::limit::clients::{AddressPermit, Throttled};
use crate::log::Field;
use crate::metrics::{PlainRequest, Reason};
use crate::transport::address::ClientAddress;
use crate::upstream::Server;
use http::{Method, StatusCode, Version, header};
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;
use pingora::{Error, Result};
use rand::Rng;
use std::sync::Arc;

/// The state of a plain request between Pingora's calls.
#[derive(Default)]
pub(crate) struct Plain {
    pub(super) route: Option<Arc<RouteState>>,
    /// Servers of the pool in the order in which they are tried.
    pub(super) candidates: Vec<Arc<Server>>,
    pub(super) tried: usize,
    /// The key of the balance, where that is by hash.
    pub(super) key: Option<Vec<u8>>,
    /// One of the servers tried last may be restarting.
    pub(super) may_return: bool,
    /// The servers are tried again until then, where none could be connected to.
    pub(super) retry_until: Option<std::time::Instant>,
    /// When it was begun to connect to the one that is tried now.
    pub(super) connecting: Option<std::time::Instant>,
    /// There was no descriptor, memory or local port for a connection to one.
    pub(super) exhausted: bool,
    pub(super) identity: Option<Identity>,
    pub(super) auth_headers: AuthHeaders,
    /// Accepted or made, where requests have one.
    pub(super) request_id: Option<String>,
    /// The request asks for a WebSocket: its refusal is counted and logged as that of an upgrade.
    pub(super) is_attempt: bool,
    /// The request was sent to a server, or may have been.
    pub(super) is_sent: bool,
    /// The permit of its route.
    pub(super) route_permit: Option<RoutePermit>,
    /// The permit of its client's address, where many clients share a connection.
    pub(super) address_permit: Option<Box<AddressPermit>>,
    pub(super) transfer: Option<Arc<Transfer>>,
    /// Counts the request while it is under way, and its response.
    pub(super) counted: Option<PlainRequest>,
}

impl Plain {
    /// Finds the request its route and its servers.
    pub(super) async fn admit(
        &mut self,
        session: &ServerSession,
        table: &Table,
    ) -> Result<(), Refused> {
        let malformed = |error: TargetError| {
            let answer = Answer::new(StatusCode::BAD_REQUEST, error.to_string());
            answer.refusing(Reason::Malformed)
        };
        if has_fragment(session) {
            return Err(malformed(TargetError::Fragment));
        }
        let head = session.req_header();
        if session.is_http2()
            && http2::header_list_size(head) > table.client.max_header_size
            && let Some(answer) = NoHead::TooLarge.answer(&table.client)
        {
            return Err(answer.refusing(Reason::HeadTooLarge));
        }
        if head.method == Method::CONNECT {
            let answer = Answer::new(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here");
            let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
            return Err(answer.with(header::ALLOW, allowed).refusing(Reason::Method));
        }
        let mut client_request = ClientRequest::of(head).map_err(malformed)?;
        let downstream = Downstream::of_session(session);
        self.is_attempt = handshake::is_attempt(&client_request);
        let routed = table.route(&mut client_request, &downstream);
        let (route, identity) = routed.inspect_err(|refused| {
            if self.is_attempt {
                let client = table.client(&client_request, &downstream);
                refusal::report(
                    &table.metrics,
                    refused,
                    &RefusedRequest::new(&client_request, None, client),
                );
            }
        })?;
        // Also where it is refused: the rules of the route hold for the answer.
        self.route = Some(route.clone());
        self.identity = Some(identity);
        self.request_id = request_id::of(&client_request, downstream.peer, &table.client);
        let allowed = match route.check_scheme(&client_request, identity, &downstream) {
            // Upgrade requests of HTTP/1.1 are served by `upgrade`.
            Ok(()) if self.is_attempt => Err(refusal::of_handshake(&Refusal::HttpVersion)),
            allowed => allowed,
        };
        allowed.inspect_err(|refused| {
            if self.is_attempt {
                let about =
                    RefusedRequest::new(&client_request, Some(route.name()), identity.client);
                refusal::report(&table.metrics, refused, &about);
            }
        })?;
        self.counted = Some(table.metrics.plain_request(route.name()));
        self.count(&route, identity, head.version)?;
        let (access, metrics) = (&route.settings.access, &route.context.metrics);
        self.auth_headers =
            access::admit(&client_request, &downstream, access, identity, metrics).await?;
        let key = hash_key(&client_request, identity.client.known(), &route.pool);
        self.candidates = route.pool.wait_for_candidates(key.as_deref()).await;
        if self.candidates.is_empty() {
            let answer = Answer::unavailable("no server takes connections now");
            return Err(answer.refusing(Reason::NoServer));
        }
        let queue_timeout = route.pool.members().settings.queue_timeout;
        self.retry_until = Some(std::time::Instant::now() + queue_timeout);
        self.key = key;
        Ok(())
    }

    /// The rules of the route for headers of answers.
    pub(super) fn answer_rules(&self) -> Option<&HeaderRules> {
        let route = self.route.as_ref()?;
        Some(&route.settings.headers[1])
    }

    /// Takes what the request needs of the limits.
    fn count(
        &mut self,
        route: &Arc<RouteState>,
        identity: Identity,
        version: Version,
    ) -> Result<(), Refused> {
        let throttled = |full: Throttled| full.answer().refusing(Reason::AddressLimit);
        self.address_permit = route.admit_forwarded(&identity).map_err(throttled)?;
        // In HTTP/1.1 the accept loop has done this.
        let direct = identity
            .peer
            .filter(|peer| !identity::is_trusted(Some(*peer), &route.client))
            .filter(|_| version == Version::HTTP_2);
        if let Some(client) = direct {
            let (clients, now) = (&route.global_limits.clients, std::time::Instant::now());
            let spent = clients.spend(client, &route.client.per_address, now);
            spent.map_err(throttled)?;
        }
        let route_permit = RoutePermit::take(route)?;
        self.route_permit = Some(route_permit);
        Ok(())
    }

    /// Counts an answer of wsgate's own.
    pub(super) fn report(
        &self,
        table: &Table,
        session: &ServerSession,
        reason: Reason,
        status: StatusCode,
        sentence: &str,
    ) {
        let client = match &self.identity {
            Some(identity) => identity.client,
            None => ClientAddress::of_peer(Downstream::of_session(session).peer),
        };
        let route = self.route.as_ref().map(|route| route.name());
        let head = session.req_header();
        let host = head.headers.get(header::HOST).map(|host| host.as_bytes());
        let authority = head.uri.authority().map(|host| host.as_str().as_bytes());
        let path = head.raw_path().split(|byte| *byte == b'?').next();
        let asked = (
            authority.or(host).unwrap_or_default(),
            path.unwrap_or_default(),
        );
        refusals::report_request(
            &table.metrics,
            reason,
            status,
            sentence,
            route,
            client,
            asked,
        );
    }

    /// Writes the line of a request that ended: of each, of a share of all, or of none, as `plain_requests` says.
    pub(super) fn log(&self, session: &Session, error: Option<&Error>) {
        let (Some(route), Some(identity)) = (&self.route, &self.identity) else {
            return;
        };
        let log = route.client.log;
        if rand::thread_rng().gen_range(0..100) >= log.plain_requests {
            return;
        }
        let head = session.req_header();
        let Ok(request) = ClientRequest::of(head) else {
            return;
        };
        let details = request.details(log.fields, self.request_id.as_deref(), None);
        let server = self.candidates.get(self.tried);
        let peer = session.client_addr().map(ToString::to_string);
        tracing::info!(
            route = route.name(),
            upstream = route.pool.name,
            server = server.filter(|_| self.connecting.is_some()).map(|server| tracing::field::display(&server.address)),
            peer,
            client = identity.behind_peer().map(tracing::field::display),
            method = %head.method,
            version = ?head.version,
            host = details.get(Field::Host),
            path = details.get(Field::Path),
            origin = details.get(Field::Origin),
            user_agent = details.get(Field::UserAgent),
            request_id = details.get(Field::RequestId),
            traceparent = details.get(Field::Traceparent),
            status = session.response_written().map(|head| head.status.as_u16()),
            duration_ms = self.counted.as_ref().map(|counted| counted.age().as_millis() as u64),
            bytes_from_client = session.body_bytes_read(),
            bytes_from_server = session.body_bytes_sent(),
            error = error.map(tracing::field::display),
            "plain request ended"
        );
    }

    /// Holds an admitted request to the limits of its route, and counts its memory.
    pub(super) fn apply_limits(&self, session: &mut ServerSession) -> Result<(), Refused> {
        let (Some(route), Some(transfer)) = (&self.route, &self.transfer) else {
            return Ok(());
        };
        let buffers = &route.context.buffers;
        let limit = transfer.set_write_timeout(route.settings.limits.write_timeout, buffers);
        if session.is_http2() {
            // HTTP/1.1 has `Paced`, which is not unjust to what is written at once.
            session.set_write_timeout(Some(limit).filter(|limit| !limit.is_zero()));
        }
        if transfer.reserve(buffers) {
            return Ok(());
        }
        Err(Answer::unavailable(refusal::NO_MEMORY).refusing(Reason::Memory))
    }
}

/// Whether the target of a request has a fragment. Pingora cuts it off: the servers would get another target than came.
fn has_fragment(session: &ServerSession) -> bool {
    let ServerSession::H1(session) = session else {
        return false;
    };
    let head = session.get_headers_raw_bytes();
    let line = head.split(|byte| *byte == b'\n').next();
    line.is_some_and(|line| line.contains(&b'#'))
}
