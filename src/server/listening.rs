//! Listening sockets, and who accepts on them: bound before anybody serves, added and removed while others go on.

use super::accepting::Acceptor;
use crate::admin::Admin;
use crate::edge::connections::ConnectionHandler;
use crate::metrics::Metrics;
use crate::service::Owner;
use crate::transport::address::{Address, Tcp};
use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use pingora::apps::ServerApp;
use pingora::server::{ListenFds, ShutdownWatch};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::fmt;
use std::fs::Permissions;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;

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

/// A listening socket.
pub(super) struct Bound {
    /// As the configuration has it.
    configured: Address,
    /// Where it listens.
    pub address: Address,
    /// The socket options that its accepted sockets inherit.
    tcp: Tcp,
    socket: OwnedFd,
}

impl Bound {
    /// Binds, or takes the socket for this address out of those that another process handed over.
    pub(super) fn new(
        address: &Address,
        tcp: Tcp,
        inherited: &mut Vec<(String, OwnedFd)>,
    ) -> Result<Bound, BindError> {
        Bound::with(address, tcp, None, inherited)
    }

    /// [`Bound::new`] for a listener whose Unix socket is nobody else's.
    pub(super) fn private(
        address: &Address,
        access: SocketAccess,
        inherited: &mut Vec<(String, OwnedFd)>,
    ) -> Result<Bound, BindError> {
        Bound::with(address, Tcp::OFF, Some(access), inherited)
    }

    fn with(
        address: &Address,
        tcp: Tcp,
        access: Option<SocketAccess>,
        inherited: &mut Vec<(String, OwnedFd)>,
    ) -> Result<Bound, BindError> {
        let error = |source| BindError {
            address: address.clone(),
            source,
        };
        let name = address.to_string();
        if let Some(at) = inherited.iter().position(|(known, _)| *known == name) {
            let (_, socket) = inherited.swap_remove(at);
            match (address, access) {
                // Without its file nobody connects anew.
                (Address::Unix(path), Some(access)) if path.exists() => {
                    access.apply(path).map_err(error)?;
                }
                (Address::Unix(_), _) => {}
                _ => prepare(&socket, tcp, Tcp::UNKNOWN).map_err(error)?,
            }
            return Ok(Bound {
                configured: address.clone(),
                address: address.clone(),
                tcp,
                socket,
            });
        }
        let (bound, socket) = match address {
            Address::Tcp(address) => {
                let listener = bind_tcp(address, tcp).map_err(error)?;
                let bound = listener.local_addr().map_err(error)?;
                (Address::Tcp(bound), listener.into())
            }
            Address::Unix(path) => {
                remove_stale(path).map_err(error)?;
                (address.clone(), bind_unix(path, access).map_err(error)?)
            }
            Address::Name(..) => {
                return Err(error(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a listener needs an IP address",
                )));
            }
        };
        Ok(Bound {
            configured: address.clone(),
            address: bound,
            tcp,
            socket,
        })
    }
}

/// The owner of a Unix socket, and its mode.
#[derive(Clone, Copy)]
pub(super) struct SocketAccess {
    mode: u32,
    /// User and group; `None`: those of the process.
    owner: Option<(u32, u32)>,
}

impl SocketAccess {
    /// This mode, and the owner that the process has or will have.
    pub(super) fn new(mode: u32, owner: Option<&Owner>) -> Self {
        SocketAccess {
            mode,
            owner: owner.map(|owner| (owner.uid, owner.gid)),
        }
    }

    /// Gives a socket its owner, then its mode.
    pub(super) fn apply(self, path: &Path) -> io::Result<()> {
        if let Some((user, group)) = self.owner {
            let found = std::fs::symlink_metadata(path)?;
            // The process that is not root's any more may not change what already is so.
            if (found.uid(), found.gid()) != (user, group) {
                std::os::unix::fs::lchown(path, Some(user), Some(group))?;
            }
        }
        std::fs::set_permissions(path, Permissions::from_mode(self.mode))
    }
}

/// A listening Unix socket. Nobody can connect before it has its owner and its mode.
fn bind_unix(path: &Path, access: Option<SocketAccess>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    if let Some(access) = access {
        access.apply(path)?;
    }
    net::listen(&socket, i32::MAX)?;
    Ok(socket)
}

/// A socket that has all its connections are to have from it before the first of them.
fn bind_tcp(address: &SocketAddr, tcp: Tcp) -> io::Result<TcpListener> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    // A restart does not wait for old connections to time out.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    prepare(&socket, tcp, Tcp::OFF)?;
    net::bind(&socket, address)?;
    // With the usual backlog of 128 a herd that comes back would find most places taken, and try again a second later; the
    // system grants what it allows (net.core.somaxconn).
    net::listen(&socket, i32::MAX)?;
    Ok(socket.into())
}

/// Gives a listening socket what the sockets of its connections are to have.
fn prepare(socket: &impl AsFd, tcp: Tcp, had: Tcp) -> io::Result<()> {
    // Whole frames are written at once; waiting for more to send would only delay them.
    sockopt::set_tcp_nodelay(socket, true)?;
    tcp.apply(socket, had)
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

/// An application that may want to know whose connections it takes.
pub(super) trait At: ServerApp + Clone + Send + Sync + 'static {
    /// The app for the connections of one listener, by its address in the configuration. Accepted sockets inherit these options.
    fn at(&self, listener: &Address, inherited: Tcp) -> Self;
}

impl At for ConnectionHandler {
    fn at(&self, listener: &Address, inherited: Tcp) -> Self {
        ConnectionHandler::at(self, listener, inherited)
    }
}

impl At for Admin {
    fn at(&self, listener: &Address, _inherited: Tcp) -> Self {
        Admin::at(self, listener)
    }
}

/// The sockets on which an application takes connections.
///
/// Each has an accept loop of its own, so that one can begin or end without the others. Clones share everything.
pub(super) struct Listeners<A> {
    app: A,
    name: &'static str,
    metrics: Arc<Metrics>,
    state: Arc<Mutex<State>>,
}

struct State {
    open: Vec<Open>,
    /// Where the connections are served, once they are.
    running: Option<Handle>,
}

/// A socket that connections are accepted on, or will be as soon as the service runs.
struct Open {
    configured: Address,
    address: Address,
    tcp: Tcp,
    /// For a new process. The accept loop has a descriptor of its own.
    socket: Arc<OwnedFd>,
    stop: watch::Sender<bool>,
}

impl<A: Clone> Clone for Listeners<A> {
    fn clone(&self) -> Self {
        Listeners {
            app: self.app.clone(),
            name: self.name,
            metrics: self.metrics.clone(),
            state: self.state.clone(),
        }
    }
}

impl<A: At> Listeners<A> {
    /// Serves `app`; `name` is that of the service.
    pub(super) fn new(name: &'static str, app: A, metrics: Arc<Metrics>) -> Self {
        let state = State {
            open: Vec::new(),
            running: None,
        };
        Listeners {
            app,
            name,
            metrics,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The app that takes the connections.
    pub(super) fn app(&self) -> &A {
        &self.app
    }

    /// The addresses of the configuration that are not listened on yet.
    pub(super) fn missing(&self, wanted: &[Address]) -> Vec<Address> {
        let state = self.lock();
        let is_open = |address: &Address| state.open.iter().any(|open| open.configured == *address);
        wanted
            .iter()
            .filter(|address| !is_open(address))
            .cloned()
            .collect()
    }

    /// Accepts on these as well.
    pub(super) fn add(&self, bound: Vec<Bound>) {
        let mut state = self.lock();
        for bound in bound {
            let open = Open {
                configured: bound.configured,
                address: bound.address,
                tcp: bound.tcp,
                socket: Arc::new(bound.socket),
                stop: watch::Sender::new(false),
            };
            if let Some(runtime) = &state.running {
                self.start(runtime, &open);
            }
            state.open.push(open);
        }
    }

    /// Accepts no more on those that the configuration does not have.
    pub(super) fn keep(&self, wanted: &[Address]) {
        self.lock().open.retain(|open| {
            let stays = wanted.contains(&open.configured);
            if !stays {
                tracing::info!(address = %open.address, "no longer listening");
                open.stop.send_replace(true);
            }
            stays
        });
    }

    /// Accepts no more.
    pub(super) fn stop(&self) {
        for open in self.lock().open.drain(..) {
            open.stop.send_replace(true);
        }
    }

    /// Where connections are accepted.
    pub(super) fn addresses(&self) -> Vec<Address> {
        let state = self.lock();
        state.open.iter().map(|open| open.address.clone()).collect()
    }

    /// The sockets, by the name of their address.
    pub(super) fn sockets(&self) -> Vec<(String, Arc<OwnedFd>)> {
        let state = self.lock();
        let socket = |open: &Open| (open.address.to_string(), open.socket.clone());
        state.open.iter().map(socket).collect()
    }

    fn start(&self, runtime: &Handle, open: &Open) {
        let _entered = runtime.enter();
        let socket = open.socket.try_clone();
        match socket.and_then(|socket| Acceptor::new(&open.address, socket)) {
            Ok(acceptor) => {
                let app = Arc::new(self.app.at(&open.configured, open.tcp));
                let (metrics, stop) = (self.metrics.clone(), open.stop.subscribe());
                runtime.spawn(acceptor.run(open.address.clone(), app, metrics, stop));
            }
            Err(error) => {
                tracing::error!(address = %open.address, %error, "nobody can be accepted here");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// The service of the listeners that Pingora runs.
pub(super) struct Serving<A> {
    listeners: Listeners<A>,
    threads: Option<usize>,
}

impl<A> Serving<A> {
    /// On so many threads, or on as many as the server has by default.
    pub(super) fn new(listeners: Listeners<A>, threads: Option<usize>) -> Self {
        Serving { listeners, threads }
    }
}

#[async_trait]
impl<A: At> pingora::services::Service for Serving<A> {
    async fn start_service(
        &mut self,
        _sockets: Option<ListenFds>,
        mut shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
    ) {
        {
            let mut state = self.listeners.lock();
            let runtime = Handle::current();
            for open in &state.open {
                self.listeners.start(&runtime, open);
            }
            state.running = Some(runtime);
        }
        // The runtime of this service is that of all its connections: it lasts until Pingora ends.
        let _ = shutdown.wait_for(|stopping| *stopping).await;
        self.listeners.stop();
        self.listeners.app.cleanup().await;
    }

    fn name(&self) -> &str {
        self.listeners.name
    }

    fn threads(&self) -> Option<usize> {
        self.threads
    }
}
