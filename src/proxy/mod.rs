//! The seat on Pingora; the only room that names its HTTP types.
//!
//! [`Gate`] takes the connections of the listeners and reads the head of each request. A plain request takes Pingora's
//! ordinary path to the same pools; [`Seat`] is the [`ProxyHttp`] that Pingora's proxy asks. An upgrade request does not
//! come there (`upgrade`): it is read where it lies and becomes a tunnel of our own, because body filters run only when
//! bytes arrive, and an idle connection could then never be told anything. Pingora's sessions serve those that are refused.

mod access;
mod answer;
mod asked;
mod balance;
mod checks;
mod clients;
mod connection;
mod delivery;
mod discovery;
mod exchange;
mod head;
mod headers;
mod http2;
mod identity;
mod paced;
mod patience;
mod proxy_protocol;
mod relief;
mod router;
mod secured;
pub mod settings;
mod shortage;
mod socket;
mod table;
mod transfer;
mod tunnel;
mod upgrade;
mod upstream;

pub use checks::Checks;
pub use discovery::Discovery;
pub use relief::Relief;
pub use router::Router;
pub use shortage::Shortage;
pub use socket::Socket;
pub use table::Table;
pub use upstream::{Departing, Departure, Pool, Pools, Server, State};

use crate::handshake::{self, Refusal};
use crate::metrics::Handshake;
use answer::{Answer, Refused};
use asked::{Asked, Caller};
use async_trait::async_trait;
use balance::hash_key;
use bytes::Bytes;
use head::NoHead;
use headers::{Changes, Vouched};
use http::{HeaderValue, StatusCode, header};
use identity::Identity;
use paced::Paced;
use pingora::apps::{HttpServerApp, HttpServerOptions, ServerApp};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, HttpProxy, ProxyHttp, Session};
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use secured::Secured;
use settings::Tcp;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use table::RouteState;
use tokio::sync::Notify;
use transfer::Transfer;

/// Takes the connections of the listeners. Clones share everything.
#[derive(Clone)]
pub struct Gate {
    proxy: Arc<HttpProxy<Seat>>,
    tables: Tables,
    requests: Arc<Requests>,
    /// Whose connections it takes, as the configuration has it.
    listener: Option<settings::Address>,
    /// What their sockets have from the listening one.
    inherited: Tcp,
}

/// Connections that are in the hands of HTTP: before their upgrade, or without one.
#[derive(Default)]
struct Requests {
    open: AtomicUsize,
    ended: Notify,
}

/// Counts one as long as it lives.
struct Request(Arc<Requests>);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.notify_waiters();
    }
}

/// The table in force, which a reload replaces: a request is served by the one that it found.
#[derive(Clone)]
struct Tables(Arc<RwLock<Arc<Table>>>);

impl Tables {
    fn current(&self) -> Arc<Table> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Gate {
    /// A gate that obeys this table.
    pub fn new(table: Table, conf: &Arc<ServerConf>) -> Self {
        let tables = Tables(Arc::new(RwLock::new(Arc::new(table))));
        let mut proxy = HttpProxy::new(Seat(tables.clone()), conf.clone());
        proxy.server_options = Some(HttpServerOptions::default());
        proxy.handle_init_modules();
        Gate {
            proxy: Arc::new(proxy),
            tables,
            requests: Arc::default(),
            listener: None,
            inherited: Tcp::OFF,
        }
    }

    /// The same for the connections of one listener. Their sockets have this from the listening one; what changes later is
    /// told to each.
    pub fn at(&self, listener: &settings::Address, inherited: Tcp) -> Self {
        Gate {
            listener: Some(listener.clone()),
            inherited,
            ..self.clone()
        }
    }

    /// The connection, as if it were the client's itself where a proxy in front says whose it is. `None`: it does not come to
    /// anything.
    async fn introduce(&self, stream: Stream, table: &Table) -> Option<Stream> {
        let mut socket = stream.into_any().downcast::<Socket>().ok()?;
        if let Err(error) = socket.obey(table.client.tcp, self.inherited) {
            tracing::debug!(%error, "the options of a client's socket cannot be set");
        }
        let listener = self.listener.as_ref();
        let Some(listener) = listener.filter(|at| table.is_proxied(at)) else {
            return Some(socket);
        };
        let Err(why) = proxy_protocol::receive(&mut socket, &table.client).await else {
            return Some(socket);
        };
        let peer = socket.peer();
        let peer = peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
        match why.label() {
            Some(reason) => {
                tracing::warn!(%listener, peer, error = %why, "connection ended for want of a PROXY protocol header");
                let listener = listener.to_string();
                table.metrics.proxy_protocol_failed(&listener, reason);
            }
            // Load balancers do this all day long.
            None => tracing::debug!(%listener, peer, "connection ended without a byte"),
        }
        None
    }

    /// The connection as its listener wants it: with TLS, where it does. `None`: it does not come to anything.
    async fn secure(&self, stream: Stream, table: &Table) -> Option<Secure> {
        let listener = self.listener.as_ref();
        let Some((listener, tls)) = listener.and_then(|at| Some((at, table.tls(at)?))) else {
            return Some(Secure::Http1(stream));
        };
        let peer = stream.get_socket_digest();
        match Secured::accept(stream, tls, table.client.header_timeout).await {
            Ok(secured) if secured.is_http2() => Some(Secure::Http2(Box::new(secured))),
            Ok(secured) => Some(Secure::Http1(Box::new(secured))),
            Err(error) => {
                let peer = peer.as_ref().and_then(|digest| digest.peer_addr());
                let peer = peer.map_or_else(|| "unix".to_owned(), ToString::to_string);
                // Scanners do this all day long: it is counted, and told to those who ask.
                tracing::debug!(%listener, peer, %error, "TLS handshake failed");
                table.metrics.tls_failed(&listener.to_string());
                None
            }
        }
    }

    /// Waits until no connection is in the hands of HTTP: once no listener accepts, each leaves them in its time.
    pub async fn idle(&self) {
        loop {
            let ended = self.requests.ended.notified();
            if self.requests.open.load(Ordering::Relaxed) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// The table in force.
    pub fn table(&self) -> Arc<Table> {
        self.tables.current()
    }

    /// Obeys another table from now on. No connection is touched.
    pub fn apply(&self, table: Table) {
        *self
            .tables
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }
}

/// A connection of a client by what is spoken on it.
enum Secure {
    Http1(Stream),
    Http2(Stream),
}

#[async_trait]
impl ServerApp for Gate {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        self.requests.open.fetch_add(1, Ordering::Relaxed);
        let _request = Request(self.requests.clone());
        let mut table = self.table();
        let mut idle = table.client.header_timeout;
        let stream = self.introduce(stream, &table).await?;
        let mut stream = match self.secure(stream, &table).await? {
            Secure::Http1(stream) => stream,
            Secure::Http2(stream) => {
                let (client, metrics) = (&table.client, &table.metrics);
                http2::serve(&self.proxy, stream, client, metrics, shutdown).await;
                return None;
            }
        };
        let mut persistent = None;
        // Who has just connected has a request on its way.
        let mut patience = FIRST_REQUEST;
        loop {
            let mut stopping = shutdown.clone();
            let head = tokio::select! {
                biased;
                head = head::read(&mut stream, &table.client, idle) => head,
                // A connection without a request under way is not waited for when the listener has ended.
                () = async {
                    let _ = stopping.wait_for(|stopping| *stopping).await;
                    tokio::time::sleep(patience).await;
                } => Err(NoHead::Idle),
            };
            let head = match head {
                Ok(head) => head,
                Err(why) => {
                    head::refuse(stream, &why, &table.client).await;
                    return None;
                }
            };
            let (plain, head) = match head::may_upgrade(&head.bytes[..head.len]) {
                true => upgrade::serve(&self.tables, stream, head).await?,
                false => (stream, head.bytes),
            };
            stream = plain;
            let keepalive = table.client.keepalive_timeout;
            let transfer = Transfer::new(&table.client, &table.metrics);
            let mut session = ServerSession::new_http1(Paced::wrap(stream, &transfer));
            match persistent.take() {
                Some(settings) => {
                    pingora::apps::HttpPersistentSettings::apply_to_session(settings, &mut session)
                }
                None => session.set_keepalive((!*shutdown.borrow()).then_some(keepalive.as_secs())),
            }
            session.set_pipelined_prefix(head);
            let request = self.proxy.process_new_http(session, shutdown);
            let reused = transfer.run(request).await??;
            let reused = reused.consume();
            (stream, persistent) = (Paced::unwrap(reused.0)?, reused.1);
            table = self.table();
            idle = keepalive;
            patience = Duration::ZERO;
        }
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// How long the first request of a connection is waited for when the listener has ended.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// What Pingora's proxy asks for each request.
pub struct Seat(Tables);

/// What is remembered of a plain request between Pingora's calls.
#[derive(Default)]
pub struct Plain {
    route: Option<Arc<RouteState>>,
    /// Servers of the pool in the order in which they are tried.
    candidates: Vec<Arc<Server>>,
    tried: usize,
    /// There was no descriptor, or no memory, for a connection to one.
    exhausted: bool,
    identity: Option<Identity>,
    vouched: Vouched,
    transfer: Option<Arc<Transfer>>,
}

impl Plain {
    /// Finds the request its route and its servers.
    async fn admit(&mut self, session: &ServerSession, table: &Table) -> Result<(), Refused> {
        let mut asked = Asked::of(session.req_header());
        let caller = Caller::of_session(session);
        let (route, identity) = table.route(&mut asked, &caller)?;
        if handshake::is_attempt(&asked) {
            // Those of HTTP/1.1 do not come here.
            return Err(upgrade::refuse(&Refusal::HttpVersion));
        }
        let (access, metrics) = (&route.settings.access, &route.terms.metrics);
        self.vouched = access::admit(&asked, &caller, access, identity, metrics).await?;
        let key = hash_key(&asked, identity.client, &route.pool);
        self.candidates = route.pool.candidates(key.as_deref());
        self.identity = Some(identity);
        self.route = Some(route);
        Ok(())
    }

    /// Holds an admitted request to the limits of its route, and counts its memory.
    fn apply_limits(&self, session: &mut ServerSession) -> Result<(), Refused> {
        let (Some(route), Some(transfer)) = (&self.route, &self.transfer) else {
            return Ok(());
        };
        let buffers = &route.terms.buffers;
        let limit = transfer.set_write_timeout(route.settings.limits.write_timeout, buffers);
        if session.is_http2() {
            // HTTP/1.1 has `Paced`, which is not unjust to what is written at once.
            session.set_write_timeout(Some(limit).filter(|limit| !limit.is_zero()));
        }
        if transfer.reserve(buffers) {
            return Ok(());
        }
        let sentence = "all memory for slow connections is taken";
        let answer = Answer::new(StatusCode::SERVICE_UNAVAILABLE, sentence);
        Err(answer
            .with(header::RETRY_AFTER, "5")
            .refusing(Handshake::Full))
    }
}

#[async_trait]
impl ProxyHttp for Seat {
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
        for name in table.subject_headers() {
            session.req_header_mut().remove_header(name);
        }
        let admitted = plain.admit(session, &table).await;
        match admitted.and_then(|()| plain.apply_limits(session)) {
            Ok(()) => Ok(false),
            Err(refused) => {
                Box::pin(refused.write(session)).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        plain: &mut Plain,
    ) -> Result<Box<HttpPeer>> {
        let (Some(route), Some(server)) = (&plain.route, plain.candidates.get(plain.tried)) else {
            return Err(Error::explain(
                ErrorType::ConnectError,
                "no server is left to try",
            ));
        };
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
        let shortage = cause.and_then(|cause| Some((Shortage::of(cause)?, cause)));
        if let (Some((shortage, cause)), Some(route)) = (shortage, &plain.route) {
            shortage.report(&route.terms.metrics, cause);
            plain.exhausted = true;
        }
        plain.tried += 1;
        // For another server there would be none either.
        error.set_retry(!plain.exhausted && plain.tried < plain.candidates.len());
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
        let tls = Caller::of_session(session).tls;
        let host = request.headers.get(header::HOST).cloned();
        let host = host.as_ref().map(HeaderValue::as_bytes);
        let mut changes = Changes::default();
        let came = &request.headers;
        identity::forwarded(&mut changes, came, identity, host, tls.as_deref())?;
        changes.vouch(settings.access.auth.as_ref(), &plain.vouched);
        changes.obey(&settings.headers[0]);
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
            // So that a client of HTTP/1.1 is told 408; over HTTP/2 Pingora has no such time-out.
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
        let length = headers::body_length(session.req_header(), response);
        if let (Some(transfer), Some(length)) = (&plain.transfer, length) {
            transfer.handle_response_length(length);
        }
        headers::end_hop(response);
        let Some(route) = &plain.route else {
            return Ok(());
        };
        let mut changes = Changes::default();
        changes.obey(&route.settings.headers[1]);
        changes.apply(response)
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, plain: &mut Plain) {
        let Some(transfer) = &plain.transfer else {
            return;
        };
        if session.response_written().is_some() {
            transfer.handle_answer();
        }
        match error.map(|error| (error.etype(), error.esource())) {
            Some((ErrorType::ReadTimedout, ErrorSource::Downstream)) => {
                transfer.handle_end("body_timeout");
            }
            Some((ErrorType::WriteTimedout, ErrorSource::Downstream)) => {
                transfer.handle_end("write_timeout");
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
        let (status, sentence) = match (error.etype(), error.esource()) {
            (ErrorType::HTTPStatus(code), _) => {
                let status =
                    StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                (status, status.canonical_reason().unwrap_or("error"))
            }
            (_, ErrorSource::Upstream) if timed_out => {
                (StatusCode::GATEWAY_TIMEOUT, "no server answered in time")
            }
            (ErrorType::InvalidHTTPHeader, ErrorSource::Upstream) => {
                (StatusCode::BAD_GATEWAY, "the server's answer is malformed")
            }
            (_, ErrorSource::Upstream) => (StatusCode::BAD_GATEWAY, "no server can be reached"),
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
            (ErrorType::ReadTimedout, ErrorSource::Downstream) => {
                let sentence = "the body of the request did not come in time";
                (StatusCode::REQUEST_TIMEOUT, sentence)
            }
            (_, ErrorSource::Downstream) => (StatusCode::BAD_REQUEST, "the request is malformed"),
            (_, ErrorSource::Internal | ErrorSource::Unset) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the gateway failed to handle the request",
            ),
        };
        let (status, answer) = match plain.exhausted {
            true => (StatusCode::SERVICE_UNAVAILABLE, Answer::exhausted()),
            false => (status, Answer::new(status, sentence)),
        };
        if session.response_written().is_none()
            && let Err(error) = answer.write(session).await
        {
            tracing::debug!(%error, "client left before it was answered");
        }
        FailToProxy {
            error_code: status.as_u16(),
            can_reuse_downstream: false,
        }
    }
}
