//! The signals, and how wsgate ends when it is asked to: nobody new, everybody told, then gone.

use super::handover;
use super::listening::Listeners;
use crate::admin::Admin;
use crate::deploy::{Control, Settings, Target, Trigger};
use crate::drain::{Cause, Pace, Selection, Terms};
use crate::duration::Shown;
use crate::edge::connections::ConnectionHandler;
use crate::service;
use crate::upstream::Pools;
use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

/// The parts of the process that end.
pub(super) struct Ending {
    pub control: Arc<Control>,
    pub pools: Arc<Pools>,
    pub listeners: Listeners<ConnectionHandler>,
    pub admin: Option<Listeners<Admin>>,
    /// The answer of `/readyz`.
    pub ready: Arc<AtomicBool>,
    /// Where a new process waits for the listeners.
    pub upgrade_socket: Option<PathBuf>,
    /// The file of the configuration; `None` where there is none.
    pub file: Option<PathBuf>,
    /// The path of the binary of this process at its start: later another binary may be there.
    pub binary: Option<PathBuf>,
}

impl Ending {
    /// SIGTERM: balancers are given time to notice, then nobody new comes.
    async fn terminate(&self) {
        let settings = self.control.settings();
        let connections = self.control.count(Selection::Everything);
        let (lame_duck, deadline) = (Shown(settings.lame_duck), Shown(settings.shutdown_deadline));
        tracing::info!(connections, %lame_duck, %deadline, "SIGTERM: draining all clients, then ending");
        service::stopping();
        self.ready.store(false, Ordering::Relaxed);
        sleep(settings.lame_duck).await;
        self.listeners.stop();
        self.drain(&settings, settings.shutdown_deadline).await;
    }

    /// SIGQUIT: the new process has the listeners already, and everybody is told to come to it. `false`: there is no new
    /// process, and nothing has changed. `child` is the new process where this one has started it.
    async fn hand_over(&self, child: Option<u32>) -> bool {
        let Some(path) = self.upgrade_socket.clone() else {
            tracing::error!(
                "SIGQUIT hands the listeners over to a new process, which needs `upgrade_socket`; to end wsgate send \
                 SIGTERM"
            );
            return false;
        };
        let mut sockets = self.listeners.sockets();
        if let Some(admin) = &self.admin {
            sockets.extend(admin.sockets());
        }
        let intents = self.pools.intents().all();
        // The hand-over waits for the other process.
        let handed =
            tokio::task::spawn_blocking(move || handover::hand_over(&path, &sockets, &intents))
                .await;
        let failure = match handed {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failure {
            tracing::error!(%error, "the listeners were not handed over; going on as before");
            return false;
        }
        tracing::info!("the new process serves");
        if let Some(child) = child {
            // The service manager believes the process that it knows, and only as long as that lives.
            service::main_process(child);
        }
        self.listeners.stop();
        if let Some(admin) = &self.admin {
            admin.stop();
        }
        let settings = self.control.settings();
        self.drain(&settings, settings.terms.deadline).await;
        true
    }

    /// SIGUSR2: starts the binary anew, which may be another one by now, and hands the listeners over to it. A child belongs to
    /// the service, so that this works below a service manager. `false`: nothing has changed.
    async fn replace(&self) -> bool {
        let (Some(binary), Some(file), Some(_)) = (&self.binary, &self.file, &self.upgrade_socket)
        else {
            tracing::error!(
                "SIGUSR2 starts the binary anew and hands the listeners over to it, which needs `upgrade_socket` and a \
                 configuration in a file"
            );
            return false;
        };
        let binary_shown = binary.display();
        tracing::info!(binary = %binary_shown, "SIGUSR2: starting the binary anew");
        let mut command = Command::new(binary);
        command.args(["run", "--upgrade", "--config"]).arg(file);
        let mut child = match command.stdin(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(binary = %binary_shown, %error, "the binary cannot be started; going on as before");
                return false;
            }
        };
        tracing::info!(pid = child.id(), "the new process is started");
        if self.hand_over(Some(child.id())).await {
            return true;
        }
        // It may have ended by itself, and said why.
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    /// Tells everybody, who is here and who still comes, and waits until all are gone or their time is over.
    async fn drain(&self, settings: &Settings, limit: Duration) {
        self.control.end(Cause::Shutdown);
        let deadline = Instant::now() + limit;
        // Clients reconnect to another process, so that this one sees no handshakes: they are spread over a time that their number
        // asks for.
        let connections = self.control.count(Selection::Everything);
        let spread = limit * 3 / 4;
        let pace = match settings.terms.pace {
            Pace::Adaptive => {
                let wanted = Duration::from_secs_f64(connections as f64 / RATE);
                Pace::Over(wanted.min(spread))
            }
            pace => pace,
        };
        let terms = Terms {
            pace,
            deadline: spread,
            ..settings.terms
        };
        self.control.start_on(
            Trigger {
                cause: Cause::Shutdown,
                target: Target::Everything,
            },
            terms,
        );
        let all_gone = async {
            self.listeners.app().idle().await;
            self.control.empty().await;
        };
        let mut all_gone = std::pin::pin!(all_gone);
        if timeout_at(deadline - limit / 4, &mut all_gone)
            .await
            .is_err()
        {
            // Graces and turns that are longer than what is left of the time: a Close at the end of a frame is better
            // than none.
            self.control.last_call();
            if timeout_at(deadline, all_gone).await.is_err() {
                let left = self.control.count(Selection::Everything);
                tracing::warn!(connections, left, "not all were gone in time");
                return;
            }
        }
        tracing::info!(connections, "all are gone");
    }
}

/// Connections per second that are told when wsgate ends, unless the deadline asks for more.
const RATE: f64 = 200.0;

/// The signals that end the process, heard from the moment this exists.
pub(super) struct Signals {
    /// SIGINT, SIGTERM, SIGQUIT and SIGUSR2.
    signals: Mutex<[Signal; 4]>,
    /// Signals are registered with a runtime, and Pingora's does not exist yet.
    runtime: Option<Runtime>,
    ending: Ending,
}

impl Signals {
    /// Also of SIGHUP, which is for somebody else.
    ///
    /// # Errors
    /// Where the system does not let the process handle signals.
    pub(super) fn new(ending: Ending) -> io::Result<(Signals, Signal)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let context = runtime.enter();
        let signals = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::quit())?,
            signal(SignalKind::user_defined2())?,
        ];
        let hangup = signal(SignalKind::hangup())?;
        drop(context);
        let signals = Signals {
            signals: Mutex::new(signals),
            runtime: Some(runtime),
            ending,
        };
        Ok((signals, hangup))
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
        let [interrupt, terminate, quit, user2] = &mut *signals;
        // Pingora ends its runtimes, and with them every connection, as soon as this returns.
        loop {
            let is_replaced = tokio::select! {
                _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
                _ = terminate.recv() => break,
                _ = quit.recv() => false,
                _ = user2.recv() => true,
            };
            let handing_over = async {
                match is_replaced {
                    true => self.ending.replace().await,
                    false => {
                        tracing::info!("SIGQUIT: handing the listeners over to a new process");
                        self.ending.hand_over(None).await
                    }
                }
            };
            tokio::select! {
                _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
                done = handing_over => if done {
                    return ShutdownSignal::GracefulTerminate;
                },
            }
        }
        tokio::select! {
            // Enough is enough.
            _ = interrupt.recv() => ShutdownSignal::FastShutdown,
            () = self.ending.terminate() => ShutdownSignal::GracefulTerminate,
        }
    }
}
