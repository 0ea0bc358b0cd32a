//! The routing table: the routes of a configuration, with the run-time state of each.

use crate::deploy::Control;
use crate::edge::client::identity::{Identity, https_url, identify, is_trusted, report_ignored};
use crate::edge::http::answer::{Answer, Refused};
use crate::edge::http::client_request::{ClientRequest, Downstream};
use crate::edge::http::lingering::Lingering;
use crate::edge::route::conditions::Conditions;
use crate::edge::route::router::Router;
use crate::edge::settings::{Client, Http2, Route, Settings};
use crate::limit::clients::{AddressPermit, Clients, Throttled};
use crate::metrics::{Metrics, Reason};
use crate::relay::{Buffers, RouteContext};
use crate::session;
use crate::tls::Accept;
use crate::transport::address::Address;
use crate::transport::address::ClientAddress;
use crate::upstream::{Pool, Pools};
use http::{HeaderName, StatusCode, header};
use parking_lot::RwLock;
use prometheus::IntGauge;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// The routes in force. A connection keeps the route that it was made by, whatever a reload makes of it.
pub struct Table {
    /// How requests of clients are read.
    pub(crate) client: Client,
    /// TLS of the listeners: the certificates that they present, and whether they ask for one.
    tls: HashMap<Address, Accept>,
    http2: HashMap<Address, Http2>,
    /// Listeners to which proxies say who the client is.
    proxied: HashSet<Address>,
    subject_headers: Vec<HeaderName>,
    pub(crate) metrics: Arc<Metrics>,
    router: Router,
    routes: Vec<Arc<RouteState>>,
    pub(crate) global_limits: Arc<GlobalLimits>,
}

/// The table in force, which a reload replaces: a request is served by the one that it found.
#[derive(Clone)]
pub(crate) struct Tables(pub(crate) Arc<RwLock<Arc<Table>>>);

impl Tables {
    pub(crate) fn current(&self) -> Arc<Table> {
        self.0.read().clone()
    }
}

/// Limits that hold for all routes together. A reload keeps their counts.
#[derive(Debug)]
pub(crate) struct GlobalLimits {
    /// Accepted connections.
    open: AtomicUsize,
    exported: IntGauge,
    /// By the address of the client.
    pub clients: Arc<Clients>,
    /// Connections that were refused and are still open.
    pub lingering: Lingering,
    /// The memory that connections keep.
    buffers: Arc<Buffers>,
}

impl GlobalLimits {
    fn new(metrics: &Arc<Metrics>) -> Arc<GlobalLimits> {
        Arc::new(GlobalLimits {
            open: AtomicUsize::new(0),
            exported: metrics.client_connections(),
            clients: Arc::default(),
            lingering: Lingering::default(),
            buffers: Arc::new(Buffers::new(metrics.clone())),
        })
    }

    /// Counts one more accepted connection, unless that is more than `max`; 0 is no limit.
    pub(crate) fn open_one(&self, max: usize) -> bool {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let has_room = max == 0 || before < max;
        match has_room {
            true => self.exported.inc(),
            false => {
                self.open.fetch_sub(1, Ordering::Relaxed);
            }
        }
        has_room
    }

    /// Whether connections keep more than all of them may keep.
    pub(crate) fn lacks_memory(&self) -> bool {
        self.buffers.excess() > 0
    }

    /// A connection that was counted is gone.
    pub(crate) fn close_one(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.exported.dec();
    }
}

/// A route at run time.
pub(crate) struct RouteState {
    pub settings: Route,
    pub context: Arc<RouteContext>,
    pub pool: Arc<Pool>,
    pub control: Arc<Control>,
    /// WebSocket connections and plain requests under way, those from before a reload included.
    open: Arc<AtomicUsize>,
    /// How requests of clients are read, and what they may have.
    pub client: Client,
    pub global_limits: Arc<GlobalLimits>,
}

impl RouteState {
    pub(crate) fn name(&self) -> &str {
        &self.context.route
    }

    /// The request came over TLS, if the route wants that (`redirect_https`).
    ///
    /// # Errors
    /// 308 to the same URL over TLS; 400 where the request names no host.
    pub(crate) fn check_scheme(
        &self,
        request: &ClientRequest<'_>,
        identity: Identity,
        downstream: &Downstream,
    ) -> Result<(), Refused> {
        let port = self.settings.redirect_https;
        if port == 0 {
            return Ok(());
        }
        match https_url(request, identity, downstream, port) {
            Ok(None) => Ok(()),
            Ok(Some(url)) => {
                let sentence = "this is served over TLS only: use https:// or wss://";
                let answer = Answer::new(StatusCode::PERMANENT_REDIRECT, sentence)
                    .with(header::LOCATION, url);
                Err(answer.refusing(Reason::RedirectedToHttps))
            }
            Err(error) => {
                let answer = Answer::new(StatusCode::BAD_REQUEST, error.to_string());
                Err(answer.refusing(Reason::Host))
            }
        }
    }

    /// A WebSocket or a request under way counts against its client's address, where that is limited and its connection,
    /// one of a trusted proxy, does not.
    ///
    /// # Errors
    /// Why it has to wait.
    pub(crate) fn admit_forwarded(
        &self,
        identity: &Identity,
    ) -> Result<Option<Box<AddressPermit>>, Throttled> {
        let limits = &self.client.per_address;
        let is_limited = limits.is_some() && is_trusted(identity.peer, &self.client);
        let Some(client) = identity.account().filter(|_| is_limited) else {
            return Ok(None);
        };
        let address_permit = self
            .global_limits
            .clients
            .admit(client, limits, Instant::now());
        address_permit.map(|address_permit| Some(Box::new(address_permit)))
    }
}

impl Table {
    /// The table of a configuration that was applied to `pools`. Routes that were in the table `before` go on counting
    /// their connections.
    pub fn new(
        settings: &Settings,
        pools: &Pools,
        control: &Arc<Control>,
        metrics: &Arc<Metrics>,
        before: Option<&Table>,
    ) -> Self {
        let pools = pools.current();
        let global_limits = match before {
            None => GlobalLimits::new(metrics),
            Some(table) => table.global_limits.clone(),
        };
        global_limits
            .buffers
            .set_limit(settings.client.buffer_memory);
        let state = |route: &Route| {
            metrics.add_route(&route.name, route.rules.mode);
            metrics.add_upstream(&pools[route.upstream].name);
            let context = RouteContext {
                route: route.name.clone(),
                settings: Arc::new(session::Settings {
                    rules: route.rules,
                    closing: route.closing.clone(),
                    liveness: route.liveness,
                    limits: route.limits,
                    epoch: Some(Instant::now()),
                }),
                buffers: global_limits.buffers.clone(),
                metrics: metrics.clone(),
                servers: pools[route.upstream].clone(),
            };
            let known = before.and_then(|table| table.named(&route.name));
            Arc::new(RouteState {
                settings: route.clone(),
                context: Arc::new(context),
                pool: pools[route.upstream].clone(),
                control: control.clone(),
                open: known.map_or_else(Arc::default, |route| route.open.clone()),
                client: settings.client.clone(),
                global_limits: global_limits.clone(),
            })
        };
        let tls: HashMap<_, _> = settings
            .listeners
            .iter()
            .filter_map(|listener| Some((listener.address.clone(), listener.tls.clone()?)))
            .collect();
        for listener in &settings.listeners {
            let (has_tls, is_proxied) = (listener.tls.is_some(), listener.proxy_protocol);
            metrics.add_listener(&listener.address.to_string(), has_tls, is_proxied);
        }
        let http2 = settings.listeners.iter();
        let http2 = http2.map(|listener| (listener.address.clone(), listener.http2));
        let proxied = settings.listeners.iter();
        let proxied = proxied.filter(|listener| listener.proxy_protocol);
        let headers = tls.values().filter_map(|tls| tls.subject_header.clone());
        Table {
            subject_headers: headers.collect(),
            tls,
            http2: http2.collect(),
            proxied: proxied.map(|listener| listener.address.clone()).collect(),
            metrics: metrics.clone(),
            client: settings.client.clone(),
            router: Router::new(&settings.routes),
            routes: settings.routes.iter().map(state).collect(),
            global_limits,
        }
    }

    /// The memory that connections keep, those of earlier tables included.
    pub fn buffers(&self) -> &Arc<Buffers> {
        &self.global_limits.buffers
    }

    /// The route of a request, and who sends it; headers that nobody may send are gone from it then.
    ///
    /// # Errors
    /// The answer that there is none, or that the request does not say which.
    pub(crate) fn route(
        &self,
        client_request: &mut ClientRequest<'_>,
        downstream: &Downstream,
    ) -> Result<(Arc<RouteState>, Identity), Refused> {
        let refuse = |status, sentence: String, reason| {
            let answer = Answer::new(status, sentence);
            Err(answer.refusing(reason))
        };
        let found = match client_request.host() {
            Ok(host) => {
                let meets = |conditions: &Conditions| conditions.hold(client_request);
                self.router.find(host, client_request.path(), meets)
            }
            Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string(), Reason::Host),
        };
        let route = match found {
            Ok(found) => found.and_then(|found| self.routes.get(found)),
            Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string(), Reason::Path),
        };
        let Some(route) = route else {
            let sentence = "no route for this host and path".to_owned();
            return refuse(StatusCode::NOT_FOUND, sentence, Reason::NoRoute);
        };
        // Only wsgate may tell a server the subject of a client's certificate: what the client itself says there is removed.
        client_request.remove(&self.subject_headers);
        let identity = identify(downstream, client_request, &self.client);
        report_ignored(client_request, &identity);
        Ok((route.clone(), identity))
    }

    /// The client of a request for which there is no route.
    pub(crate) fn client(
        &self,
        client_request: &ClientRequest<'_>,
        downstream: &Downstream,
    ) -> ClientAddress {
        identify(downstream, client_request, &self.client).client
    }

    /// TLS on this listener.
    pub(crate) fn tls(&self, listener: &Address) -> Option<&Accept> {
        self.tls.get(listener)
    }

    /// HTTP/2 on this listener, as far as its TLS settings do not decide it.
    pub(crate) fn http2(&self, listener: &Address) -> Http2 {
        self.http2.get(listener).copied().unwrap_or(Http2::DEFAULT)
    }

    /// Connections to this listener begin with a header of the PROXY protocol.
    pub(crate) fn is_proxied(&self, listener: &Address) -> bool {
        self.proxied.contains(listener)
    }

    /// Headers by which any listener tells the subject of its clients.
    pub(crate) fn subject_headers(&self) -> &[HeaderName] {
        &self.subject_headers
    }

    fn named(&self, name: &str) -> Option<&Arc<RouteState>> {
        self.routes.iter().find(|route| route.name() == name)
    }

    /// The pools that take over from one: those of the routes that used it and that are in this table too.
    pub fn successors(&self, of: &Pool, before: &Table) -> Vec<Arc<Pool>> {
        let used = before
            .routes
            .iter()
            .filter(|route| route.pool.index == of.index);
        used.filter_map(|route| self.named(route.name()))
            .map(|route| route.pool.clone())
            .collect()
    }
}

/// A WebSocket connection, or a plain request, counts against its route as long as this lives.
pub(crate) struct RoutePermit {
    pub route: Arc<RouteState>,
}

impl RoutePermit {
    /// # Errors
    /// The answer that the route has all that it may have.
    pub(crate) fn take(route: &Arc<RouteState>) -> Result<RoutePermit, Refused> {
        // Dropping the ticket gives the place back.
        let route_permit = RoutePermit {
            route: route.clone(),
        };
        let before = route.open.fetch_add(1, Ordering::Relaxed);
        let max = route.settings.max_connections;
        match max == 0 || before < max {
            true => Ok(route_permit),
            false => {
                let answer = Answer::unavailable("all connections of this route are taken");
                Err(answer.refusing(Reason::RouteFull))
            }
        }
    }
}

impl Drop for RoutePermit {
    fn drop(&mut self) {
        self.route.open.fetch_sub(1, Ordering::Relaxed);
    }
}
