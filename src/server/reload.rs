//! A new configuration without a new process: SIGHUP, and `wsgate reload`.
//!
//! If the file is invalid or a listener cannot be bound, the running configuration stays in force. Connections are touched only if
//! the new configuration does not have their server or generation any more: they are drained as soon as another server can take
//! their clients.

use super::certificates;
use super::certificates::ReportedErrors;
use super::listening::{BindError, Bound, Listeners, SocketAccess};
use crate::admin::{Admin, Reload};
use crate::config::{Config, Reading};
use crate::deploy::Control;
use crate::drain::Cause;
use crate::edge::connections::ConnectionHandler;
use crate::edge::route::table::Table;
use crate::log;
use crate::metrics::Metrics;
use crate::service;
use crate::service::Owner;
use crate::transport::address::Address;
use crate::upstream::state_file::StateFile;
use crate::upstream::{Departure, Pool, Pools, RemovedServers};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;

/// All that a reload can change.
pub(super) struct Live {
    /// `None`: started without a file.
    pub file: Option<PathBuf>,
    pub config: Config,
    pub control: Arc<Control>,
    pub pools: Arc<Pools>,
    pub metrics: Arc<Metrics>,
    pub listeners: Listeners<ConnectionHandler>,
    pub admin: Option<Listeners<Admin>>,
    pub reported_errors: ReportedErrors,
    pub at_start: AtStart,
}

/// The settings that a reload does not change, as they were when the process was started.
#[derive(Clone, Debug)]
pub(super) struct AtStart {
    threads: usize,
    format: log::Format,
    owner: Option<Owner>,
    upgrade_socket: Option<PathBuf>,
    state_file: StateFile,
}

impl AtStart {
    pub(super) fn of(config: &Config) -> Self {
        AtStart {
            threads: config.threads,
            format: config.log.format,
            owner: config.owner.clone(),
            upgrade_socket: config.upgrade_socket.clone(),
            state_file: config.state_file.clone(),
        }
    }
}

impl Live {
    /// Reloads whenever it is asked to, for as long as it is polled.
    pub(super) async fn run(mut self, mut hangup: Signal, mut reloads: mpsc::Receiver<Reload>) {
        let mut looks = tokio::time::interval(certificates::LOOK);
        loop {
            let (by, answer) = tokio::select! {
                _ = looks.tick() => {
                    self.renew();
                    continue;
                }
                Some(()) = hangup.recv() => ("SIGHUP".to_owned(), None),
                Some(Reload { by, answer }) = reloads.recv() => (by, Some(answer)),
            };
            service::reloading();
            let result = self.reload();
            service::ready();
            self.metrics.reload(result.is_ok());
            match &result {
                Ok(notes) => {
                    for note in notes {
                        tracing::warn!("{note}");
                    }
                    tracing::info!(by, "configuration reloaded");
                }
                Err(error) => {
                    // Before the lines of the error, where it is seen.
                    tracing::error!(
                        "configuration not reloaded, nothing has changed, by={by}: {error}"
                    )
                }
            }
            if let Some(answer) = answer {
                // The requester may be gone.
                let _ = answer.send(result);
            }
        }
    }

    /// Reads and applies the configuration. Returns its warnings, or the reason why nothing has changed.
    fn reload(&mut self) -> Result<Vec<String>, String> {
        let Some(file) = &self.file else {
            return Err(
                "wsgate was started without a file, so there is nothing to reload".to_owned(),
            );
        };
        let reading = Reading {
            before: Some(&self.config),
            is_offline: false,
        };
        let mut config = Config::load_as(file, reading).map_err(|error| error.to_string())?;
        let mut notes = std::mem::take(&mut config.warnings);
        notes.extend(self.later(&config));

        // All that can fail comes before anything changes.
        let wanted: Vec<_> = config
            .proxy
            .listeners
            .iter()
            .map(|listener| listener.address.clone())
            .collect();
        let wanted_admin = config.admin.addresses();
        let words = |error: BindError| error.to_string();
        let tcp = config.proxy.client.tcp;
        let missing = self.listeners.missing(&wanted);
        let bound = missing
            .iter()
            .map(|address| Bound::new(address, tcp, &mut Vec::new()));
        let bound = bound.collect::<Result<Vec<_>, _>>().map_err(words)?;
        let access = SocketAccess::new(config.admin.socket_mode, self.config.owner.as_ref());
        let missing = match &self.admin {
            Some(admin) => admin.missing(&wanted_admin),
            None => Vec::new(),
        };
        let bound_admin = missing
            .iter()
            .map(|address| Bound::private(address, access, &mut Vec::new()));
        let bound_admin = bound_admin.collect::<Result<Vec<_>, _>>().map_err(words)?;
        if let Some(Address::Unix(path)) = &config.admin.listen
            && config.admin.socket_mode != self.config.admin.socket_mode
            && missing.is_empty()
        {
            let applied = access.apply(path);
            applied.map_err(|error| format!("`socket_mode` cannot be set: {error}"))?;
        }

        log::set_level(config.log.level);
        self.control.apply(config.drain.clone());
        let departures = self.pools.apply(&config.proxy.upstreams);
        self.pools.lift_ejections();
        let handler = self.listeners.app();
        let before = handler.table();
        let table = Table::new(
            &config.proxy,
            &self.pools,
            &self.control,
            &self.metrics,
            Some(&before),
        );
        for departure in departures {
            let successors = table.successors(&departure.pool, &before);
            self.drain(departure, successors);
        }
        handler.apply(table);
        for bound in &bound {
            tracing::info!(address = %bound.address, "listening");
        }
        self.listeners.add(bound);
        self.listeners.keep(&wanted);
        if let Some(admin) = &self.admin {
            admin.app().apply(&config.admin);
            for bound in &bound_admin {
                tracing::info!(address = %bound.address, "admin listening");
            }
            admin.add(bound_admin);
            admin.keep(&wanted_admin);
        }
        self.config = config;
        self.renew();
        Ok(notes)
    }

    /// The changes of a configuration that are not made before the next start.
    fn later(&self, config: &Config) -> Vec<String> {
        let mut notes = Vec::new();
        let later = "takes effect when wsgate is started anew";
        let at_start = &self.at_start;
        if config.threads != at_start.threads {
            notes.push(format!("`threads` {later}"));
        }
        if config.log.format != at_start.format {
            notes.push(format!("`log.format` {later}"));
        }
        if config.owner != at_start.owner {
            notes.push(format!("`user` and `group` {later}"));
        }
        if config.upgrade_socket != at_start.upgrade_socket {
            notes.push(format!("`upgrade_socket` {later}"));
        }
        if config.state_file != at_start.state_file {
            notes.push(format!("`state_file` {later}"));
        }
        if self.admin.is_none() && !config.admin.addresses().is_empty() {
            notes.push(format!("an admin listener, where there was none, {later}"));
        }
        notes
    }

    /// Puts certificates that were written anew in force.
    fn renew(&mut self) {
        if self.reported_errors.renew(&mut self.config.proxy) {
            let handler = self.listeners.app();
            // The servers are the same: none is removed.
            self.pools.apply(&self.config.proxy.upstreams);
            let before = handler.table();
            handler.apply(Table::new(
                &self.config.proxy,
                &self.pools,
                &self.control,
                &self.metrics,
                Some(&before),
            ));
        }
        self.metrics
            .certificates(&certificates::expiries(&self.config.proxy));
    }

    /// Drains what a configuration has left behind, as soon as a server that it has can take those clients.
    fn drain(&self, departure: Departure, successors: Vec<Arc<Pool>>) {
        let Departure {
            pool,
            dropped,
            left,
            generation,
        } = departure;
        let mut departing = Vec::new();
        if dropped {
            departing.push(RemovedServers::pool(&pool, successors));
        } else {
            let servers = left.into_iter();
            departing.extend(servers.map(|server| RemovedServers::server(&pool, server)));
            departing.extend(generation.map(|first| RemovedServers::older(&pool, first)));
        }
        for departing in departing {
            departing.spawn(&self.control, &self.pools, Cause::Reload);
        }
    }
}
