//! The seat on Pingora; the only room that names its HTTP types.
//!
//! [`ConnectionHandler`] takes the connections of the listeners and reads the head of each request. A plain request takes Pingora's
//! ordinary path to the same pools; [`ProxyApp`] is the [`ProxyHttp`] that Pingora's proxy asks. An upgrade request does not
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
mod farewell;
pub mod forwarded;
mod framed;
pub(crate) mod head;
mod headers;
mod http2;
mod identity;
mod opening;
mod paced;
mod patience;
mod permit;
mod plain_head;
#[doc(hidden)]
pub mod probe;
mod proxy_protocol;
mod refusal;
mod refusals;
mod relief;
mod restart;
mod router;
mod secured;
pub mod settings;
mod shortage;
mod socket;
mod sources;
mod table;
mod transfer;
mod tunnel;
mod upgrade;
mod upstream;
mod words;

pub use checks::Checks;
pub use discovery::Discovery;
pub use relief::LoadShedder;
pub use router::{PathError, Router};
pub use shortage::Exhaustion;
pub use socket::{Socket, Unnamed};
pub use table::Table;
pub use upstream::{Departure, Pool, Pools, RemovedServers, Server, State};

use crate::edge::{Target, TargetError};
use crate::handshake::{self, Refusal};
use crate::log;
use crate::metrics::Reason;
use answer::{Answer, Refused};
use asked::{Downstream, UpgradeRequest};
use async_trait::async_trait;
use balance::hash_key;
use bytes::{Bytes, BytesMut};
use clients::{AddressPermit, Throttled};
use framed::Framed;
use head::NoHead;
use headers::{AuthHeaders, Changes};
use http::{HeaderName, Method, StatusCode, Version, header};
use identity::{ClientAddress, Identity};
use paced::Paced;
use pingora::apps::{HttpServerApp, HttpServerOptions, ServerApp};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::ServerSession;
use pingora::protocols::{Digest, GetSocketDigest, Stream};
use pingora::proxy::{FailToProxy, HttpProxy, ProxyHttp, Session};
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use refusal::About;
use secured::Secured;
use settings::{HeaderRules, Tcp};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use table::{RoutePermit, RouteState};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tracing::Level;
use transfer::Transfer;
use upgrade::Served;
use upstream::EjectionReason;

/// Takes the connections of the listeners. Clones share everything.
#[derive(Clone)]
pub struct ConnectionHandler {
    proxy: Arc<HttpProxy<ProxyApp>>,
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

impl ConnectionHandler {
    /// A gate that obeys this table.
    pub fn new(table: Table, conf: &Arc<ServerConf>) -> Self {
        let tables = Tables(Arc::new(RwLock::new(Arc::new(table))));
        let mut proxy = HttpProxy::new(ProxyApp(tables.clone()), conf.clone());
        let mut options = HttpServerOptions::default();
        // So that CONNECT comes to `ProxyApp`, which refuses it: Pingora's own refusal has no sentence.
        options.allow_connect_method_proxying = true;
        proxy.server_options = Some(options);
        proxy.handle_init_modules();
        ConnectionHandler {
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
        ConnectionHandler {
            listener: Some(listener.clone()),
            inherited,
            ..self.clone()
        }
    }

    /// The connection, as if it were the client's itself where a proxy in front says whose it is. `None`: it does not come to
    /// anything.
    async fn accept_proxy_header(&self, stream: Stream, table: &Table) -> Option<Box<Socket>> {
        let mut socket = stream.into_any().downcast::<Socket>().ok()?;
        if let Err(error) = socket.apply(table.client.tcp, self.inherited) {
            tracing::debug!(%error, "the options of a client's socket cannot be set");
        }
        let listener = self.listener.as_ref();
        let Some(listener) = listener.filter(|at| table.is_proxied(at)) else {
            return Some(socket);
        };
        let why = match proxy_protocol::receive(&mut socket, &table.client).await {
            Ok(source) => return Some(Box::new(socket.introduced(source))),
            Err(why) => why,
        };
        let peer = socket.peer();
        let peer = peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
        match why.label() {
            Some(reason) => {
                const EVENT: &str = "connection ended for want of a PROXY protocol header";
                let subject = format_args!("{listener}, {reason}");
                if let Some(more) = log::admit(Level::WARN, EVENT, subject) {
                    tracing::warn!(%listener, peer, reason, error = %why, "{EVENT}{more}");
                }
                let listener = listener.to_string();
                table.metrics.proxy_protocol_failed(&listener, reason);
            }
            // Load balancers do this all day long.
            None => tracing::debug!(%listener, peer, "connection ended without a byte"),
        }
        None
    }

    /// The connection as its listener wants it: with TLS, where it does. `None`: it does not come to anything.
    async fn accept_tls(&self, socket: Box<Socket>, table: &Table) -> Option<Secure> {
        let listener = self.listener.as_ref();
        let Some((listener, tls)) = listener.and_then(|at| Some((at, table.tls(at)?))) else {
            return Some(Secure::Http1(socket));
        };
        let deadline = Instant::now() + table.client.header_timeout;
        let mut first = [0];
        if let Ok(Ok(1)) = timeout_at(deadline, socket.peek(&mut first)).await
            && opening::is_text(first[0])
        {
            self.refuse_foreign(socket, opening::Foreign::HttpOnTls, table)
                .await;
            return None;
        }
        let peer = socket.get_socket_digest();
        let left = deadline.saturating_duration_since(Instant::now());
        match Secured::accept(socket, tls, left).await {
            Ok(secured) if secured.is_http2() => Some(Secure::Http2(Box::new(secured))),
            Ok(secured) => Some(Secure::Http1(Box::new(secured))),
            Err(error) => {
                let peer = peer.as_ref().and_then(|digest| digest.peer_addr());
                let peer = peer.map_or_else(|| "unix".to_owned(), ToString::to_string);
                let (reason, error) = secured::failure(&error, table.client.header_timeout);
                const EVENT: &str = "TLS handshake failed";
                if reason == secured::ENDED {
                    // Balancers that look whether anybody listens do this all day long.
                    tracing::debug!(%listener, peer, error, "{EVENT}");
                } else if let Some(more) =
                    log::admit(Level::INFO, EVENT, format_args!("{listener}, {reason}"))
                {
                    tracing::info!(%listener, peer, reason, error, "{EVENT}{more}");
                }
                table.metrics.tls_failed(&listener.to_string(), reason);
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
impl ServerApp for ConnectionHandler {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        self.requests.open.fetch_add(1, Ordering::Relaxed);
        let _request = Request(self.requests.clone());
        let mut table = self.table();
        let mut idle = table.client.header_timeout;
        let socket = self.accept_proxy_header(stream, &table).await?;
        let peer = socket.peer().map(|peer| peer.ip().to_canonical());
        let mut permit = match table.permit(peer) {
            Ok(permit) => Some(permit),
            Err(denied) => {
                self.deny(socket, denied, &table).await;
                return None;
            }
        };
        let mut stream = match self.accept_tls(socket, &table).await? {
            Secure::Http1(stream) => stream,
            Secure::Http2(stream) => {
                let (client, metrics) = (&table.client, &table.metrics);
                http2::serve(&self.proxy, stream, client, metrics, shutdown).await;
                return None;
            }
        };
        let mut persistent = None;
        let mut begun = BytesMut::new();
        let mut is_first = true;
        // Who has just connected has a request on its way.
        let mut patience = FIRST_REQUEST;
        loop {
            let mut stopping = shutdown.clone();
            let head = tokio::select! {
                biased;
                head = head::read(&mut stream, std::mem::take(&mut begun), &table.client, idle) => head,
                // A connection without a request under way is not waited for when the listener has ended.
                () = async {
                    let _ = stopping.wait_for(|stopping| *stopping).await;
                    tokio::time::sleep(patience).await;
                } => Err(NoHead::Idle),
            };
            let mut head = match head {
                Ok(head) => head,
                Err(NoHead::Foreign(foreign)) => {
                    self.refuse_foreign(stream, foreign, &table).await;
                    return None;
                }
                Err(why) => {
                    refusal::report_unread(&table.metrics, &why, &stream);
                    if let Some(answer) = why.answer(&table.client) {
                        self.part(stream, answer, &table, false).await;
                    }
                    return None;
                }
            };
            let without_body = head.bytes.starts_with(b"HEAD ");
            let further = permit.as_ref().filter(|_| !is_first);
            if let Some(Err(denied)) = further.map(|permit| permit.handle_request(&table)) {
                let answer = denied.answer();
                self.refuse(stream, answer, &table, without_body).await;
                return None;
            }
            is_first = false;
            if head::may_upgrade(&head.bytes[..head.len]) {
                match upgrade::serve(&self.tables, stream, head, &mut permit).await {
                    Served::UpstreamResponse => return None,
                    Served::Plain(plain, its) => (stream, head) = (plain, its),
                    Served::Malformed(stream, error) => {
                        let caller = Downstream::of(&stream);
                        refusal::report_malformed(&table.metrics, &error.to_string(), &caller);
                        let answer = head::malformed(&error);
                        self.part(stream, answer, &table, without_body).await;
                        return None;
                    }
                }
            }
            let body = match plain_head::examine_plain(&mut head, &table).await {
                Ok(body) => body,
                Err(malformed) => {
                    let answer = malformed.answer();
                    self.refuse(stream, answer, &table, without_body).await;
                    return None;
                }
            };
            let keepalive = table.client.keepalive_timeout;
            let framed = Framed::new(stream, head.split_behind(), body);
            let transfer = Transfer::new(&table.client, &table.metrics);
            let mut session = ServerSession::new_http1(Paced::wrap(Box::new(framed), &transfer));
            match persistent.take() {
                Some(settings) => {
                    pingora::apps::HttpPersistentSettings::apply_to_session(settings, &mut session)
                }
                None => session.set_keepalive((!*shutdown.borrow()).then_some(keepalive.as_secs())),
            }
            session.set_pipelined_prefix(head.bytes);
            let request = self.proxy.process_new_http(session, shutdown);
            let reused = transfer.run(request).await??;
            let (after, settings) = reused.consume();
            (stream, begun) = Framed::after(Paced::unwrap(after)?)?;
            persistent = settings;
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
pub struct ProxyApp(Tables);

/// What is remembered of a plain request between Pingora's calls.
#[derive(Default)]
pub struct Plain {
    route: Option<Arc<RouteState>>,
    /// Servers of the pool in the order in which they are tried.
    candidates: Vec<Arc<Server>>,
    tried: usize,
    /// When it was begun to connect to the one that is tried now.
    connecting: Option<std::time::Instant>,
    /// There was no descriptor, memory or local port for a connection to one.
    exhausted: bool,
    identity: Option<Identity>,
    vouched: AuthHeaders,
    /// It asks for a WebSocket, and its refusal is counted and logged as one of those.
    is_attempt: bool,
    /// It was sent to a server, or may have been.
    is_sent: bool,
    /// It counts against its route,
    ticket: Option<RoutePermit>,
    /// and against its client's address, where many clients share a connection.
    admitted: Option<Box<AddressPermit>>,
    transfer: Option<Arc<Transfer>>,
}

impl Plain {
    /// Finds the request its route and its servers.
    async fn admit(&mut self, session: &ServerSession, table: &Table) -> Result<(), Refused> {
        let malformed = |error: TargetError| {
            let answer = Answer::new(StatusCode::BAD_REQUEST, error.to_string());
            answer.refusing(Reason::Malformed)
        };
        if has_fragment(session) {
            return Err(malformed(TargetError::Fragment));
        }
        let head = session.req_header();
        if head.method == Method::CONNECT {
            let answer = Answer::new(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here");
            let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
            return Err(answer.with(header::ALLOW, allowed).refusing(Reason::Method));
        }
        let mut asked = UpgradeRequest::of(head).map_err(malformed)?;
        let caller = Downstream::of_session(session);
        self.is_attempt = handshake::is_attempt(&asked);
        let routed = table.route(&mut asked, &caller);
        let (route, identity) = routed.inspect_err(|refused| {
            if self.is_attempt {
                let client = table.client(&asked, &caller);
                refusal::report(&table.metrics, refused, &About::new(&asked, None, client));
            }
        })?;
        // Also where it is refused: the rules of the route hold for the answer.
        self.route = Some(route.clone());
        self.identity = Some(identity);
        if self.is_attempt {
            // Those of HTTP/1.1 do not come here.
            let refused = upgrade::refuse(&Refusal::HttpVersion);
            let about = About::new(&asked, Some(route.name()), identity.client);
            refusal::report(&table.metrics, &refused, &about);
            return Err(refused);
        }
        self.count(&route, identity, head.version)?;
        let (access, metrics) = (&route.settings.access, &route.terms.metrics);
        self.vouched = access::admit(&asked, &caller, access, identity, metrics).await?;
        let key = hash_key(&asked, identity.client.known(), &route.pool);
        self.candidates = route.pool.candidates(key.as_deref());
        Ok(())
    }

    /// What the route changes of answers.
    fn answer_rules(&self) -> Option<&HeaderRules> {
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
        self.admitted = route.admit_forwarded(&identity).map_err(throttled)?;
        // In HTTP/1.1 the accept loop has done this.
        let direct = identity
            .peer
            .filter(|peer| !identity::is_trusted(Some(*peer), &route.client))
            .filter(|_| version == Version::HTTP_2);
        if let Some(client) = direct {
            let (clients, now) = (&route.everybody.clients, std::time::Instant::now());
            let spent = clients.spend(client, &route.client.per_address, now);
            spent.map_err(throttled)?;
        }
        let ticket = RoutePermit::take(route)?;
        self.ticket = Some(ticket);
        Ok(())
    }

    /// Counts an answer of wsgate's own.
    fn report(&self, table: &Table, session: &ServerSession, status: StatusCode, sentence: &str) {
        let client = match &self.identity {
            Some(identity) => identity.client,
            None => ClientAddress::of_peer(Downstream::of_session(session).peer),
        };
        let route = self.route.as_ref().map(|route| route.name());
        refusals::report_request(&table.metrics, status, sentence, route, client);
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
        Err(Answer::unavailable(sentence).refusing(Reason::Memory))
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
        let admitted = plain.admit(session, &table).await;
        match admitted.and_then(|()| plain.apply_limits(session)) {
            Ok(()) => {
                make_origin_form(session.req_header_mut())?;
                Ok(false)
            }
            Err(refused) => {
                if !plain.is_attempt {
                    let (status, sentence) = refused.said();
                    plain.report(&table, session, status, sentence);
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
        let (Some(route), Some(server)) = (&plain.route, plain.candidates.get(plain.tried)) else {
            return Err(Error::explain(
                ErrorType::ConnectError,
                "no server is left to try",
            ));
        };
        plain.connecting = Some(std::time::Instant::now());
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
        let shortage = cause.and_then(|cause| Some((Exhaustion::of(cause)?, cause)));
        let mut is_for_every_server = false;
        if let Some(route) = &plain.route {
            let metrics = &route.terms.metrics;
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
        error.set_retry(!is_for_every_server && plain.tried < plain.candidates.len());
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
        let caller = Downstream::of_session(session);
        let asked = UpgradeRequest::of(session.req_header());
        let asked = asked
            .map_err(|error| Error::explain(ErrorType::InvalidHTTPHeader, error.to_string()))?;
        // Routing has looked at it.
        let host = asked.host().unwrap_or_default();
        let mut changes = Changes::of_request(std::iter::empty());
        identity::forwarded(&mut changes, &asked, identity, host, &caller)?;
        identity::set_host(&mut changes, &request.headers, host);
        changes.vouch(settings.access.auth.as_ref(), &plain.vouched);
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
        match plain.answer_rules() {
            Some(rules) => headers::apply_rules(response, rules),
            None => Ok(()),
        }
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
            (_, ErrorSource::Upstream) if plain.is_sent => (
                StatusCode::BAD_GATEWAY,
                "the server ended the connection before it answered; it may have handled the request or not",
            ),
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
            (_, ErrorSource::Downstream) if timed_out => (
                StatusCode::REQUEST_TIMEOUT,
                "the body of the request did not come in time",
            ),
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
        if session.response_written().is_none() {
            plain.report(&self.0.current(), session, status, answer.sentence());
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
