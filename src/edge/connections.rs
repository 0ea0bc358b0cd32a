//! Takes the connections of the listeners: PROXY header, TLS, then one request head after another, each of which becomes a
//! WebSocket of wsgate's own (`upgrade`) or a plain request that Pingora serves (`plain`).

use crate::edge::client::identity;
use crate::edge::http::answer::Answer;
use crate::edge::http::body::Framed;
use crate::edge::http::client_request::Downstream;
use crate::edge::http::head::{Head, NoHead};
use crate::edge::http::paced::Paced;
use crate::edge::http::transfer::Transfer;
use crate::edge::http::{first_bytes, head, plain_head};
use crate::edge::plain::ProxyApp;
use crate::edge::route::permit::Permit;
use crate::edge::route::table::{Table, Tables};
use crate::edge::settings::Http2;
use crate::edge::upgrade::Served;
use crate::edge::upgrade::refusal;
use crate::edge::{http2, upgrade};
use crate::log;
use crate::metrics::Reason;
use crate::tls;
use crate::transport::address::Address;
use crate::transport::address::Tcp;
use crate::transport::socket::Socket;
use crate::transport::tls_stream::Secured;
use crate::transport::{proxy_protocol, tls_stream};
use async_trait::async_trait;
use bytes::BytesMut;
use parking_lot::RwLock;
use pingora::apps::{HttpServerApp, HttpServerOptions, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::{GetSocketDigest, Stream};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tracing::Level;

/// Takes the connections of the listeners. Clones share everything.
#[derive(Clone)]
pub struct ConnectionHandler {
    proxy: Arc<HttpProxy<ProxyApp>>,
    tables: Tables,
    requests: Arc<Requests>,
    /// The address of the listener, as configured.
    pub(crate) listener: Option<Address>,
    /// The socket options that accepted sockets inherit from the listening one.
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

impl ConnectionHandler {
    /// A gate that obeys this table.
    pub fn new(table: Table, conf: &Arc<ServerConf>) -> Self {
        let tables = Tables(Arc::new(RwLock::new(Arc::new(table))));
        let mut proxy = HttpProxy::new(ProxyApp(tables.clone()), conf.clone());
        let mut options = HttpServerOptions::default();
        // CONNECT is passed to `ProxyApp`, which refuses it with a sentence: Pingora's own refusal has none.
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

    /// A handler for the connections of one listener, whose sockets inherit these options. Later changes of the options are set on
    /// each accepted socket.
    pub fn at(&self, listener: &Address, inherited: Tcp) -> Self {
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
        let is_trusted = identity::is_trusted(socket.peer().map(|peer| peer.ip()), &table.client);
        let limit = table.client.header_timeout;
        let why = match proxy_protocol::receive(&mut socket, is_trusted, limit).await {
            Ok(source) => return Some(Box::new(socket.introduced(source))),
            Err(why) => why,
        };
        let peer = socket.peer();
        let peer = peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
        match why.reason() {
            Some(reason) => {
                const EVENT: &str = "connection ended for want of a PROXY protocol header";
                let label = reason.label();
                let subject = format_args!("{listener}, {label}");
                if let Some(more) = log::admit(Level::WARN, EVENT, subject) {
                    tracing::warn!(%listener, peer, reason = label, error = %why, "{EVENT}{more}");
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
            return match self.http2(table).in_clear_text {
                true => read_preface(socket, table.client.header_timeout).await,
                false => Some(Secure::Http1(socket)),
            };
        };
        let deadline = Instant::now() + table.client.header_timeout;
        let mut first = [0];
        if let Ok(Ok(1)) = timeout_at(deadline, socket.peek(&mut first)).await
            && first_bytes::is_text(first[0])
        {
            self.refuse_foreign(socket, first_bytes::Foreign::HttpOnTls, table)
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
                let (reason, error) = tls_stream::failure(&error, table.client.header_timeout);
                const EVENT: &str = "TLS handshake failed";
                let label = reason.label();
                if reason == tls::Failure::Ended {
                    // Balancers that look whether anybody listens do this all day long.
                    tracing::debug!(%listener, peer, error, "{EVENT}");
                } else if let Some(more) =
                    log::admit(Level::INFO, EVENT, format_args!("{listener}, {label}"))
                {
                    tracing::info!(%listener, peer, reason = label, error, "{EVENT}{more}");
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

    /// Uses another table from now on. Open connections are not touched.
    pub fn apply(&self, table: Table) {
        *self.tables.0.write() = Arc::new(table);
    }
}

impl ConnectionHandler {
    /// The connection after its PROXY header and TLS, with the permits of its peer. `None`: it was refused, or HTTP/2 was spoken on it
    /// until its end.
    async fn accept(
        &self,
        stream: Stream,
        table: &Table,
        shutdown: &ShutdownWatch,
    ) -> Option<(Stream, Permit)> {
        let socket = self.accept_proxy_header(stream, table).await?;
        let peer = socket.peer().map(|peer| peer.ip().to_canonical());
        let permit = match table.permit(peer) {
            Ok(permit) => permit,
            Err(denied) => {
                self.deny(socket, denied, table).await;
                return None;
            }
        };
        match self.accept_tls(socket, table).await? {
            Secure::Http1(stream) => Some((stream, permit)),
            Secure::Http2(stream) => {
                self.serve_http2(stream, table, shutdown).await;
                None
            }
        }
    }

    async fn serve_http2(&self, stream: Stream, table: &Table, shutdown: &ShutdownWatch) {
        let about = (&table.client, &table.metrics);
        let with_websockets = self.http2(table).websockets;
        let (proxy, tables) = (&self.proxy, &self.tables);
        http2::serve(proxy, tables, stream, about, with_websockets, shutdown).await;
    }

    /// HTTP/2 on the listener.
    fn http2(&self, table: &Table) -> Http2 {
        let listener = self.listener.as_ref();
        listener.map_or(Http2::DEFAULT, |at| table.http2(at))
    }

    /// The next request head of the connection. `None`: there was none, and the client has been told why.
    async fn read_head(
        &self,
        mut stream: Stream,
        begun: BytesMut,
        table: &Table,
        idle: Duration,
        ended: impl Future<Output = ()> + Send,
    ) -> Option<(Stream, Head)> {
        let head = tokio::select! {
            biased;
            head = head::read(&mut stream, begun, &table.client, idle) => head,
            () = ended => Err(NoHead::Idle),
        };
        match head {
            Ok(head) => Some((stream, head)),
            Err(NoHead::Foreign(foreign)) => {
                self.refuse_foreign(stream, foreign, table).await;
                None
            }
            Err(why) => {
                refusal::report_unread(&table.metrics, &why, &stream);
                if let Some((answer, reason)) = why.answer(&table.client).zip(why.reason()) {
                    self.part(stream, answer, reason, table, false).await;
                }
                None
            }
        }
    }
}

/// Finds out whether the client speaks HTTP/2 with prior knowledge, which begins with this preface (RFC 9113 §3.4). `None`: the
/// client left, or was silent for too long.
async fn read_preface(mut socket: Box<Socket>, limit: Duration) -> Option<Secure> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let deadline = Instant::now() + limit;
    let mut came = BytesMut::with_capacity(1024);
    while came.len() < PREFACE.len() && PREFACE.starts_with(&came) {
        match timeout_at(deadline, socket.read_buf(&mut came)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) | Err(_) => return None,
        }
    }
    let is_http2 = came.starts_with(PREFACE);
    let stream = Box::new(Socket::Rewound(came, socket));
    Some(match is_http2 {
        true => Secure::Http2(stream),
        false => Secure::Http1(stream),
    })
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
        let (mut stream, permit) = self.accept(stream, &table, shutdown).await?;
        let mut permit = Some(permit);
        let mut persistent = None;
        let mut begun = BytesMut::new();
        let mut is_first = true;
        // A client that has just connected has a request on its way.
        let mut patience = FIRST_REQUEST;
        loop {
            let mut stopping = shutdown.clone();
            // A connection without a request under way is not waited for when the listener has ended.
            let ended = async {
                let _ = stopping.wait_for(|stopping| *stopping).await;
                tokio::time::sleep(patience).await;
            };
            let begun_head = std::mem::take(&mut begun);
            let mut head;
            (stream, head) = self
                .read_head(stream, begun_head, &table, idle, ended)
                .await?;
            let without_body = head.bytes.starts_with(b"HEAD ");
            let further = permit.as_ref().filter(|_| !is_first);
            if let Some(Err(throttled)) = further.map(|permit| permit.handle_request(&table)) {
                let (answer, reason) = (throttled.answer(), Reason::AddressLimit);
                self.refuse(stream, answer, reason, &table, without_body)
                    .await;
                return None;
            }
            is_first = false;
            if head::may_upgrade(&head.bytes[..head.len]) {
                match upgrade::serve(&self.tables, stream, head, &mut permit).await {
                    Served::UpstreamResponse => return None,
                    Served::Plain(plain, its) => (stream, head) = (plain, its),
                    Served::Malformed(stream, error) => {
                        let downstream = Downstream::of(&stream);
                        refusal::report_malformed(&table.metrics, &error.to_string(), &downstream);
                        let (answer, reason) = (head::malformed(&error), Reason::Malformed);
                        self.part(stream, answer, reason, &table, without_body)
                            .await;
                        return None;
                    }
                }
            }
            let body =
                match plain_head::examine_plain(&mut head, table.client.max_header_size).await {
                    Ok(body) => body,
                    Err(malformed) => {
                        let (answer, reason) = (malformed.answer(), malformed.reason());
                        self.refuse(stream, answer, reason, &table, without_body)
                            .await;
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
            let reused = match transfer.clone().run(request).await {
                Ok(reused) => reused?,
                Err(_) => {
                    if let Some(stream) = transfer.take_returned() {
                        let sentence = "the server of this request is taken out of service";
                        let (answer, reason) =
                            (Answer::unavailable(sentence), Reason::ServerDrained);
                        self.refuse(stream, answer, reason, &table, without_body)
                            .await;
                    }
                    return None;
                }
            };
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
