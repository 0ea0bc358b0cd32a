//! Assembly: the only file that knows everybody. It binds the listeners, makes Pingora's server of them, and runs it.

use crate::admin::{Admin, Drains};
use crate::config::Config;
use crate::deploy::{self, Control};
use crate::drain::{Cause, Pace, Selection, Terms};
use crate::metrics::Metrics;
use crate::proxy::settings::Address;
use crate::proxy::{Gate, Pool};
use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::server::configuration::ServerConf;
use pingora::server::{
    ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch,
};
use pingora::services::background::{BackgroundService, background_service};
use pingora::services::listening::Service;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, watch};

/// A listener cannot be had.
#[derive(Debug)]
pub struct BindError {
    address: Address,
    source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BindError { address, source } = self;
        let advice = match source.kind() {
            io::ErrorKind::AddrInUse => {
                "; another process listens there: end it, or choose another address"
            }
            io::ErrorKind::AddrNotAvailable => "; the address is none of this machine's",
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 and foreign directories need the permission to use them"
            }
            io::ErrorKind::NotFound => "; the directory of the socket does not exist",
            _ => "",
        };
        write!(f, "cannot listen on {address}: {source}{advice}")
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// wsgate with its listeners bound, not yet serving.
pub struct Gateway {
    server: Server,
    addresses: Vec<Address>,
    admin: Option<Address>,
    ending: Ending,
}

impl Gateway {
    /// Binds every listener of the configuration.
    ///
    /// # Errors
    /// The first one that cannot be bound.
    pub fn bind(config: &Config) -> Result<Gateway, BindError> {
        raise_file_limit();
        let conf = ServerConf {
            threads: match config.threads {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                threads => threads,
            },
            // The connections that are left when the process is told to end are not waited for here.
            grace_period_seconds: Some(0),
            graceful_shutdown_timeout_seconds: Some(1),
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        let metrics = Arc::new(Metrics::new());
        let ready = Arc::new(AtomicBool::new(false));
        let control = Control::new(config.drain.clone(), metrics.clone());
        let pools: Vec<_> = (0..)
            .zip(&config.proxy.upstreams)
            .map(|(i, upstream)| Arc::new(Pool::new(upstream.clone(), i)))
            .collect();

        let bound = config
            .proxy
            .listeners
            .iter()
            .map(|listener| Bound::new(&listener.address));
        let bound = bound.collect::<Result<Vec<_>, _>>()?;
        let addresses = bound.iter().map(|bound| bound.address.clone()).collect();
        let (stop, stopping) = watch::channel(false);
        let gate = Gate::new(
            &config.proxy,
            &pools,
            &control,
            &metrics,
            &server.configuration,
        );
        server.add_service(Prebound::new("gate", gate, bound, None, Some(stopping)));

        let mut admin = None;
        if let Some(address) = &config.admin.listen {
            let bound = Bound::new(address)?;
            admin = Some(bound.address.clone());
            let drains = Drains::new(control.clone(), pools.clone(), config.drain.clone());
            let endpoints = Admin::new(&config.admin, metrics, ready.clone(), drains);
            server.add_service(Prebound::new(
                "admin",
                endpoints,
                vec![bound],
                Some(1),
                None,
            ));
        }
        let mut drains = background_service("drains", Conducting(control.clone()));
        drains.threads = Some(1);
        server.add_service(drains);
        let ending = Ending {
            control,
            settings: config.drain.clone(),
            ready,
            stop,
        };
        Ok(Gateway {
            server,
            addresses,
            admin,
            ending,
        })
    }

    /// Where clients are accepted, with the ports that were taken where port 0 was asked for.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> Option<&Address> {
        self.admin.as_ref()
    }

    /// Serves until the process is told to end: SIGTERM, SIGQUIT or SIGINT.
    ///
    /// # Errors
    /// Where the system does not let the process handle signals.
    pub fn run(self) -> io::Result<()> {
        // Before anybody is told that it serves: from here on a signal ends it as it should.
        let ready = self.ending.ready.clone();
        let signals = Signals::new(self.ending)?;
        for address in &self.addresses {
            tracing::info!(%address, "listening");
        }
        if let Some(address) = &self.admin {
            tracing::info!(%address, "admin listening");
        }
        // The sockets listen already: whoever connects from now on is served.
        ready.store(true, Ordering::Relaxed);
        self.server.run(RunArgs {
            shutdown_signal: Box::new(signals),
        });
        tracing::info!("stopped");
        Ok(())
    }
}

/// How wsgate ends when it is asked to: nobody new, everybody told, then gone.
struct Ending {
    control: Arc<Control>,
    settings: deploy::Settings,
    ready: Arc<AtomicBool>,
    /// Has the listeners of clients closed.
    stop: watch::Sender<bool>,
}

impl Ending {
    async fn drain(&self) {
        let deploy::Settings {
            terms,
            shutdown_deadline,
            lame_duck,
            ..
        } = &self.settings;
        self.ready.store(false, Ordering::Relaxed);
        tokio::time::sleep(*lame_duck).await;
        self.stop.send_replace(true);
        // Whoever reconnects does so elsewhere, where this process hears nothing of it: a pace that listens would wait
        // for nobody. So they are spread, over a time that their number asks for.
        let connections = self.control.count(Selection::Everything);
        let pace = match terms.pace {
            Pace::Adaptive => {
                let asked = Duration::from_secs_f64(connections as f64 / SHUTDOWN_RATE);
                // The last quarter is for those who were told, to answer.
                Pace::Over(asked.min(*shutdown_deadline * 3 / 4))
            }
            pace => pace,
        };
        let terms = Terms {
            pace,
            deadline: *shutdown_deadline,
            ..*terms
        };
        let drain = self
            .control
            .start(Selection::Everything, terms, Cause::Shutdown);
        match tokio::time::timeout(*shutdown_deadline, self.control.finished(drain)).await {
            Ok(_) => tracing::info!(connections, "drained"),
            Err(_) => {
                let left = self.control.count(Selection::Everything);
                tracing::warn!(connections, left, "not all were drained in time");
            }
        }
    }
}

/// Connections per second that are told when wsgate ends, unless the deadline asks for more.
const SHUTDOWN_RATE: f64 = 200.0;

/// Gives the drains a task to be carried out in.
struct Conducting(Arc<Control>);

#[async_trait]
impl BackgroundService for Conducting {
    async fn start(&self, _shutdown: ShutdownWatch) {
        // To the very end: the drain that ends wsgate itself is carried out here too.
        self.0.conduct().await;
    }
}

/// Each connection needs two file descriptors, and the soft limit of most systems is 1,024: takes what the hard limit
/// allows.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard)
        } else {
            Ok(soft)
        }
    });
    match raised {
        Ok(limit) => tracing::debug!(limit, "file descriptors"),
        Err(error) => tracing::warn!(%error, "the limit of file descriptors cannot be raised"),
    }
}

/// A listening socket.
struct Bound {
    /// Where it listens.
    address: Address,
    socket: OwnedFd,
}

impl Bound {
    fn new(address: &Address) -> Result<Bound, BindError> {
        let error = |source| BindError {
            address: address.clone(),
            source,
        };
        match address {
            Address::Tcp(socket) => {
                // The standard library sets SO_REUSEADDR: a restart does not wait for old connections to time out.
                let listener = TcpListener::bind(socket).map_err(error)?;
                let socket: SocketAddr = listener.local_addr().map_err(error)?;
                listener.set_nonblocking(true).map_err(error)?;
                Ok(Bound {
                    address: Address::Tcp(socket),
                    socket: listener.into(),
                })
            }
            Address::Unix(path) => {
                remove_stale(path).map_err(error)?;
                let listener = UnixListener::bind(path).map_err(error)?;
                listener.set_nonblocking(true).map_err(error)?;
                Ok(Bound {
                    address: address.clone(),
                    socket: listener.into(),
                })
            }
            Address::Name(..) => Err(error(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a listener needs an IP address",
            ))),
        }
    }
}

/// Removes a socket that nobody listens on any more; one that somebody does listen on is in use.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a file that is not a socket is in the way",
        )),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => std::fs::remove_file(path),
        },
    }
}

/// The signals that end the process, heard from the moment this exists.
struct Signals {
    /// SIGINT, SIGTERM and SIGQUIT.
    signals: Mutex<[Signal; 3]>,
    /// Signals are registered with a runtime, and Pingora's does not exist yet.
    runtime: Option<Runtime>,
    ending: Ending,
}

impl Signals {
    fn new(ending: Ending) -> io::Result<Signals> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let context = runtime.enter();
        let signals = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::quit())?,
        ];
        drop(context);
        Ok(Signals {
            signals: Mutex::new(signals),
            runtime: Some(runtime),
            ending,
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Pingora drops this inside its own runtime, where another one must not be waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let mut signals = self.signals.lock().await;
        let [interrupt, terminate, quit] = &mut *signals;
        tokio::select! {
            _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
            _ = terminate.recv() => {}
            // Pingora begins the upgrade of a running process with it; so far it is another word for SIGTERM.
            _ = quit.recv() => {}
        }
        // Pingora ends its runtimes, and with them every connection, as soon as this returns.
        tokio::select! {
            // Enough is enough.
            _ = interrupt.recv() => ShutdownSignal::FastShutdown,
            () = self.ending.drain() => ShutdownSignal::GracefulTerminate,
        }
    }
}

/// A listening service of Pingora's whose sockets were bound before it starts, so that an address in use is an error
/// that can be reported, and a port that was chosen by the system is known.
struct Prebound<A> {
    service: Service<A>,
    bound: Vec<Bound>,
    /// Ends the listening before Pingora does.
    stop: Option<ShutdownWatch>,
}

impl<A: ServerApp + Send + Sync + 'static> Prebound<A> {
    fn new(
        name: &str,
        app: A,
        bound: Vec<Bound>,
        threads: Option<usize>,
        stop: Option<ShutdownWatch>,
    ) -> Self {
        let mut service = Service::new(name.to_owned(), app);
        service.threads = threads;
        for socket in &bound {
            let endpoint = match &socket.address {
                Address::Unix(path) => ListenerConfig::uds(path.to_string_lossy()),
                address => ListenerConfig::tcp(address.to_string()),
            };
            // Buffers of Pingora's would cost each idle connection 14 KiB.
            service.add_listener(endpoint.l4_buffer(L4BufferSettings::unbuffered()));
        }
        Prebound {
            service,
            bound,
            stop,
        }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> pingora::services::Service for Prebound<A> {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        // On Unix Pingora always passes its table of sockets; those in it are used instead of being bound again.
        for bound in self.bound.drain(..) {
            let name = match &bound.address {
                Address::Unix(path) => path.to_string_lossy().into_owned(),
                address => address.to_string(),
            };
            if let Some(fds) = &fds {
                fds.lock().add(name, bound.socket.into_raw_fd());
            }
        }
        let shutdown = self.stop.clone().unwrap_or(shutdown);
        self.service
            .start_service(fds, shutdown, listeners_per_fd)
            .await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }
}
