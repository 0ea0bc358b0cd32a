//! Assembly: the only room that knows everybody. It binds the listeners, makes Pingora's server of them, and runs it.

mod accepting;
mod certificates;
mod ending;
mod handover;
mod listening;
mod reload;
mod state;

pub use handover::{HandoverError, Inherited};
pub use listening::BindError;
pub use state::StartError;

use crate::admin::{Admin, Drains};
use crate::config::Config;
use crate::deploy::Control;
use crate::deploy::load_shedder::LoadShedder;
use crate::edge::connections::ConnectionHandler;
use crate::edge::route::table::Table;
use crate::metrics::Metrics;
use crate::service;
use crate::transport::address::Address;
use crate::upstream::Pools;
use crate::upstream::discovery::Discovery;
use crate::upstream::health_checks::Checks;
use crate::upstream::rebalance::Rebalancing;
use async_trait::async_trait;
use certificates::ReportedErrors;
use ending::{Ending, Signals};
use listening::{Bound, Listeners, Serving, SocketAccess};
use parking_lot::Mutex;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server as PingoraServer, ShutdownWatch};
use pingora::services::background::{BackgroundService, background_service};
use reload::{AtStart, Live};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// wsgate with its listeners bound, not yet serving.
pub struct Server {
    pingora: PingoraServer,
    ending: Ending,
    live: Live,
    checks: Checks,
    discovery: Discovery,
    rebalancing: Rebalancing,
    load_shedder: LoadShedder,
    reloads: mpsc::Receiver<crate::admin::Reload>,
    inherited: Option<Inherited>,
}

impl Server {
    /// Binds every listener of the configuration, but for those that another process has handed over. `file` is where the
    /// configuration comes from, if it can be reloaded.
    ///
    /// # Errors
    /// The first one that cannot be bound; a state that cannot be read.
    pub fn bind(
        config: Config,
        file: Option<PathBuf>,
        mut inherited: Option<Inherited>,
    ) -> Result<Server, StartError> {
        raise_file_limit();
        let conf = ServerConf {
            threads: match config.threads {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => threads,
            },
            // The connections that are left when the process is told to end are not waited for here.
            grace_period_seconds: Some(0),
            // How often a plain request is tried again is bounded by `queue_timeout`.
            max_retries: 1000,
            graceful_shutdown_timeout_seconds: Some(1),
            ..ServerConf::default()
        };
        let mut pingora = PingoraServer::new_with_opt_and_conf(None, conf);
        let metrics = Arc::new(Metrics::new());
        let ready = Arc::new(AtomicBool::new(false));
        let control = Control::new(config.drain.clone(), metrics.clone());
        let intents = Arc::new(state::open(&config, inherited.as_ref())?);
        let pools = Arc::new(Pools::new(&config.proxy.upstreams, intents));
        control.set_rates(pools.clone());
        let checks = Checks::new(pools.clone(), control.clone(), metrics.clone());
        let discovery = Discovery::new(pools.clone(), control.clone());
        let rebalancing = Rebalancing::new(pools.clone(), control.clone());

        let mut sockets = inherited
            .as_mut()
            .map(|inherited| std::mem::take(&mut inherited.sockets))
            .unwrap_or_default();
        let table = Table::new(&config.proxy, &pools, &control, &metrics, None);
        let load_shedder = LoadShedder::new(control.clone(), table.buffers().clone());
        let listeners = Listeners::new(
            "wsgate",
            ConnectionHandler::new(table, &pingora.configuration),
            metrics.clone(),
        );
        let configured = config.proxy.listeners.iter();
        let tcp = config.proxy.client.tcp;
        let bound = configured.map(|listener| Bound::new(&listener.address, tcp, &mut sockets));
        listeners.add(bound.collect::<Result<_, _>>()?);
        pingora.add_service(Serving::new(listeners.clone(), None));

        let (reload, reloads) = mpsc::channel(1);
        let mut admin = None;
        let addresses = config.admin.addresses();
        if !addresses.is_empty() {
            let accepting = listeners.clone();
            let drains = Drains::new(control.clone(), pools.clone())
                .with_listeners(move || accepting.addresses());
            drains.export(&metrics);
            let endpoints = Admin::new(
                &config.admin,
                metrics.clone(),
                ready.clone(),
                drains,
                reload,
            );
            let own = Listeners::new("admin", endpoints, metrics.clone());
            let access = SocketAccess::new(config.admin.socket_mode, config.owner.as_ref());
            let bound = addresses.iter();
            let bound = bound.map(|address| Bound::private(address, access, &mut sockets));
            own.add(bound.collect::<Result<_, _>>()?);
            pingora.add_service(Serving::new(own.clone(), Some(1)));
            admin = Some(own);
        }
        let ending = Ending {
            control: control.clone(),
            pools: pools.clone(),
            listeners: listeners.clone(),
            admin: admin.clone(),
            ready,
            upgrade_socket: config.upgrade_socket.clone(),
            file: file.clone(),
            binary: std::env::current_exe().ok(),
        };
        let live = Live {
            file,
            at_start: AtStart::of(&config),
            config,
            control,
            pools,
            metrics,
            listeners,
            admin,
            reported_errors: ReportedErrors::default(),
        };
        Ok(Server {
            pingora,
            ending,
            live,
            checks,
            discovery,
            rebalancing,
            load_shedder,
            reloads,
            inherited,
        })
    }

    /// Gives up what only root may, now that the listeners are bound, where the configuration names a user.
    ///
    /// # Errors
    /// Where the process may not, or its user cannot keep the state.
    pub fn drop_privileges(&self) -> Result<(), StartError> {
        if let Some(owner) = &self.live.config.owner {
            owner.take_over()?;
        }
        state::check(&self.live.config, self.live.pools.intents())
    }

    /// Where clients are accepted, with the ports that were taken where port 0 was asked for.
    pub fn addresses(&self) -> Vec<Address> {
        self.ending.listeners.addresses()
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> Option<Address> {
        self.admin_addresses().into_iter().next()
    }

    /// The addresses of the admin listener and of the one for probes, in this order.
    fn admin_addresses(&self) -> Vec<Address> {
        let admin = self.ending.admin.as_ref();
        admin.map_or_else(Vec::new, Listeners::addresses)
    }

    /// Serves until the process is told to end: SIGTERM, SIGINT, or SIGQUIT where a new process takes over.
    ///
    /// # Errors
    /// Where the system does not let the process handle signals.
    pub fn run(mut self) -> io::Result<()> {
        let (addresses, admin) = (self.addresses(), self.admin_addresses());
        // Before anybody is told that it serves: from here on a signal ends it as it should.
        let ready = self.ending.ready.clone();
        let (reminding, settings) = (self.ending.pools.clone(), self.ending.control.clone());
        let control = self.ending.control.clone();
        let (signals, hangup) = Signals::new(self.ending)?;
        let has_control = self.live.config.admin.listen.is_some();
        let (live, reloads) = (self.live, self.reloads);
        let (checks, discovery, load_shedder) = (self.checks, self.discovery, self.load_shedder);
        let rebalancing = self.rebalancing;
        let work = async move {
            tokio::join!(
                control.conduct(),
                checks.run(),
                discovery.run(),
                rebalancing.run(),
                load_shedder.run(),
                live.run(hangup, reloads),
                state::remind(&reminding, &settings),
                write_suppressed()
            );
        };
        let mut background = background_service("drains", Background::new(work));
        background.threads = Some(1);
        self.pingora.add_service(background);
        for address in addresses {
            tracing::info!(%address, "listening");
        }
        for (index, address) in admin.iter().enumerate() {
            match index {
                0 if has_control => tracing::info!(%address, "admin listening"),
                _ => tracing::info!(%address, "probes and metrics are served"),
            }
        }
        // The sockets listen already: whoever connects from now on is served.
        ready.store(true, Ordering::Relaxed);
        service::ready();
        if let Some(inherited) = self.inherited {
            inherited.confirm();
        }
        self.pingora.run(RunArgs {
            shutdown_signal: Box::new(signals),
        });
        tracing::info!("stopped");
        Ok(())
    }
}

/// The tasks beside the connections: drains, checks, reloads.
struct Background(Mutex<Option<BoxFuture>>);

type BoxFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl Background {
    fn new(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Background(Mutex::new(Some(Box::pin(work))))
    }
}

#[async_trait]
impl BackgroundService for Background {
    async fn start(&self, _shutdown: ShutdownWatch) {
        let work = self.0.lock().take();
        // To the very end: the drain that ends wsgate itself is carried out here too.
        if let Some(work) = work {
            work.await;
        }
    }
}

/// Says every now and then what the log has left out.
async fn write_suppressed() {
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        crate::log::write_suppressed();
    }
}

/// Each connection needs two file descriptors, and the soft limit of most systems is 1,024: takes what the hard limit
/// allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: limit,
        maximum: limit,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(limit, "file descriptors"),
        Err(error) => tracing::warn!(%error, "the limit of file descriptors cannot be raised"),
    }
}
