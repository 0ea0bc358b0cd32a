//! The command line.

mod check;
mod connections;
mod drain;
mod rebalance;
mod reload;
mod resume;
mod show;
mod status;
mod target;

use crate::config::{Config, Errors};
use crate::server::{Inherited, Server};
use crate::{demo, log};
use clap::{Args, Parser, Subcommand};
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

/// A WebSocket-aware reverse proxy: every frame inspected, every deploy a paced Close 1012.
#[derive(Debug, Parser)]
#[command(name = "wsgate", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy.
    Run(Run),
    /// Say whether configurations are good; exit status 1 where one is not.
    Check(check::Check),
    /// Take a server, or a whole upstream, out: its clients are told to reconnect at a pace, new ones go elsewhere.
    Drain(drain::Drain),
    /// Tell everybody connected to an upstream to reconnect, at a pace, because what is behind its address has changed.
    Deploy(drain::Drain),
    /// Let drained servers in again.
    Resume(resume::Resume),
    /// Move clients from servers that have more than their share, for example after a deploy.
    Rebalance(rebalance::Rebalance),
    /// Have the configuration read again; exit status 1 where it is not good, and then nothing has changed.
    Reload(reload::Reload),
    /// Show upstreams, servers, connections and drains; exit status 1 where an upstream has no server that can be reached.
    Status(status::Status),
    /// List live WebSocket connections.
    Connections(connections::Connections),
    /// Close one WebSocket connection: its client gets a Close, its server 1001.
    Close(connections::Close),
    /// Run the proxy in front of backends of its own, on free ports, and show what it does.
    Demo {
        /// End after the tour: status 0 if everything was as announced.
        #[arg(long)]
        once: bool,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The configuration, in TOML.
    #[arg(long, value_name = "FILE", required_unless_present_all = ["listen", "upstream"])]
    #[arg(conflicts_with_all = ["listen", "upstream", "admin"])]
    config: Option<PathBuf>,
    /// Take the listeners over from a running wsgate: start this, then send SIGQUIT to the old process.
    #[arg(long, requires = "config")]
    upgrade: bool,
    /// Without a file: where to listen, `IP:PORT` or `unix:/PATH`. May be repeated.
    #[arg(long, value_name = "ADDR", requires = "upstream")]
    listen: Vec<String>,
    /// Without a file: a server, `HOST:PORT` or `unix:/PATH`. May be repeated.
    #[arg(long, value_name = "ADDR", requires = "listen")]
    upstream: Vec<String>,
    /// Without a file: where to serve /metrics, /healthz, /readyz and /v1, or `off`.
    #[arg(long, value_name = "ADDR", requires = "listen")]
    admin: Option<String>,
}

impl Cli {
    /// Does what the command says.
    pub fn execute(self) -> ExitCode {
        match self.command {
            Command::Run(run) => run.execute(),
            Command::Check(check) => check.execute(),
            Command::Drain(drain) => drain.execute("drain"),
            Command::Deploy(drain) => drain.execute("deploy"),
            Command::Resume(resume) => resume.execute(),
            Command::Rebalance(rebalance) => rebalance.execute(),
            Command::Reload(reload) => reload.execute(),
            Command::Status(status) => status.execute(),
            Command::Connections(connections) => connections.execute(),
            Command::Close(close) => close.execute(),
            Command::Demo { once } => demo::run(once),
        }
    }
}

impl Run {
    fn execute(self) -> ExitCode {
        let config = match &self.config {
            Some(file) => Config::load(file),
            None => Config::from_command_line(&self.listen, &self.upstream, self.admin.as_deref())
                .map_err(Errors::from),
        };
        let config = match config {
            Ok(config) => config,
            Err(error) => return fail(&error),
        };
        log::init(config.log);
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let inherited = match self.inherit(&config) {
            Ok(inherited) => inherited,
            Err(error) => return fail(&error),
        };
        let server = match Server::bind(config, self.config.clone(), inherited) {
            Ok(server) => server,
            Err(error) => return fail(&format_args!("error: {error}")),
        };
        if let Err(error) = server.drop_privileges() {
            return fail(&format_args!("error: {error}"));
        }
        match server.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format_args!("error: {error}")),
        }
    }
}

impl Run {
    /// The sockets that the running process hands over, with `--upgrade`.
    fn inherit(&self, config: &Config) -> Result<Option<Inherited>, String> {
        if !self.upgrade {
            return Ok(None);
        }
        let Some(socket) = config.upgrade_socket.as_deref() else {
            return Err(
                "error: --upgrade needs `upgrade_socket`, where both processes meet\n = help: add upgrade_socket = \"/run/wsgate/upgrade\" to the configuration of both"
                    .to_owned(),
            );
        };
        tracing::info!(socket = %socket.display(), "waiting for the listeners of the old process, for 60 s at most: SIGQUIT or SIGUSR2 has it hand them over");
        Inherited::receive(socket, config.owner.as_ref().map(|owner| owner.uid))
            .map(Some)
            .map_err(|error| format!("error: {error}"))
    }
}

fn fail(error: &dyn fmt::Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}
