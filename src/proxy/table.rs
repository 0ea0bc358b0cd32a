//! What requests meet: the routes of a configuration, with what each of them needs at run time.

use super::Router;
use super::settings::{Address, Client, Route, Settings};
use super::upstream::{Pool, Pools};
use crate::deploy::Control;
use crate::metrics::Metrics;
use crate::relay::Terms;
use crate::tls::Accept;
use http::HeaderName;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The routes in force. A connection keeps the route that it was made by, whatever a reload makes of it.
pub struct Table {
    /// How requests of clients are read.
    pub(super) client: Client,
    /// What the listeners present and ask for.
    tls: HashMap<Address, Accept>,
    subject_headers: Vec<HeaderName>,
    router: Router,
    routes: Vec<Arc<RouteState>>,
}

/// A route at run time.
pub(super) struct RouteState {
    pub settings: Route,
    pub terms: Arc<Terms>,
    pub pool: Arc<Pool>,
    pub control: Arc<Control>,
    /// WebSocket connections, those from before a reload included.
    open: Arc<AtomicUsize>,
}

impl RouteState {
    pub fn name(&self) -> &str {
        &self.terms.route
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
        let state = |route: &Route| {
            metrics.add_route(&route.name);
            let terms = Terms {
                route: route.name.clone(),
                rules: route.rules,
                closing: route.closing.clone(),
                metrics: metrics.clone(),
            };
            let known = before.and_then(|table| table.named(&route.name));
            Arc::new(RouteState {
                settings: route.clone(),
                terms: Arc::new(terms),
                pool: pools[route.upstream].clone(),
                control: control.clone(),
                open: known.map_or_else(Arc::default, |route| route.open.clone()),
            })
        };
        let tls: HashMap<_, _> = settings
            .listeners
            .iter()
            .filter_map(|listener| Some((listener.address.clone(), listener.tls.clone()?)))
            .collect();
        let headers = tls.values().filter_map(|tls| tls.subject_header.clone());
        Table {
            subject_headers: headers.collect(),
            tls,
            client: settings.client.clone(),
            router: Router::new(&settings.routes),
            routes: settings.routes.iter().map(state).collect(),
        }
    }

    /// The route of a request, by its host, port included, and its path.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<&Arc<RouteState>> {
        self.routes.get(self.router.find(host, path)?)
    }

    /// TLS on this listener.
    pub(super) fn tls(&self, listener: Option<&Address>) -> Option<&Accept> {
        self.tls.get(listener?)
    }

    /// Headers by which any listener tells the subject of its clients.
    pub(super) fn subject_headers(&self) -> &[HeaderName] {
        &self.subject_headers
    }

    fn named(&self, name: &str) -> Option<&Arc<RouteState>> {
        self.routes.iter().find(|route| route.name() == name)
    }

    /// The pools that take over from one: those of the routes that used it and that are in this table too.
    pub fn heirs(&self, of: &Pool, before: &Table) -> Vec<Arc<Pool>> {
        let used = before
            .routes
            .iter()
            .filter(|route| route.pool.index == of.index);
        used.filter_map(|route| self.named(route.name()))
            .map(|route| route.pool.clone())
            .collect()
    }
}

/// A WebSocket connection counts against its route as long as this lives.
pub(super) struct Ticket {
    pub route: Arc<RouteState>,
}

impl Ticket {
    /// `None` where the route has all that it may have.
    pub fn take(route: &Arc<RouteState>) -> Option<Ticket> {
        let max = route.settings.max_connections;
        let ticket = Ticket {
            route: route.clone(),
        };
        // Dropping the ticket gives the place back.
        let before = route.open.fetch_add(1, Ordering::Relaxed);
        (max == 0 || before < max).then_some(ticket)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.route.open.fetch_sub(1, Ordering::Relaxed);
    }
}
