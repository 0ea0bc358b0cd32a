//! The commands that talk to a running wsgate: drain, deploy, resume, reload, status.

use crate::admin::bodies::{self, Change, Drained, Reloaded, Resumed};
use crate::admin::{Client, encode_name};
use crate::config::admin_address;
use crate::drain::State;
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Where the running wsgate is.
#[derive(Debug, Args)]
pub(super) struct Where {
    /// Its admin listener: `IP:PORT` or `unix:/PATH`.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9900")]
    admin: String,
    /// A file with the token that it wants.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// The servers to drain, and the pace.
#[derive(Debug, Args)]
pub(super) struct Drain {
    /// Name of the upstream.
    upstream: String,
    /// One of its servers, as the configuration writes it; all of them where none is named.
    #[arg(long, value_name = "ADDR")]
    server: Option<String>,
    /// Spread evenly over this time, for example `30s`.
    #[arg(long, value_name = "TIME", conflicts_with = "rate")]
    over: Option<String>,
    /// Connections per second.
    #[arg(long, value_name = "NUMBER")]
    rate: Option<f64>,
    /// When whoever is left is closed at once.
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
    /// Only say how long it would take.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: Where,
}

/// The servers to let in again.
#[derive(Debug, Args)]
pub(super) struct Resume {
    /// Name of the upstream.
    upstream: String,
    /// One of its servers; all of them where none is named.
    #[arg(long, value_name = "ADDR")]
    server: Option<String>,
    #[command(flatten)]
    at: Where,
}

/// Which wsgate reloads.
#[derive(Debug, Args)]
pub(super) struct Reload {
    #[command(flatten)]
    at: Where,
}

/// How the status is shown.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// As JSON, as the admin listener has it.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

/// Between two looks at a drain that runs.
const GLANCE: Duration = Duration::from_millis(250);

type Failure = String;

impl Where {
    fn client(&self) -> Result<Client, Failure> {
        let token = match &self.token_file {
            None => None,
            Some(file) => match std::fs::read_to_string(file) {
                Ok(token) => Some(token),
                Err(error) => {
                    return Err(format!("error: {} cannot be read: {error}", file.display()));
                }
            },
        };
        let address = admin_address(&self.admin).map_err(|error| error.to_string())?;
        Ok(Client { address, token })
    }
}

/// Asks, and makes a failure of every status but success.
fn ask<T: DeserializeOwned>(
    client: &Client,
    method: &str,
    path: &str,
    body: &impl Serialize,
) -> Result<T, Failure> {
    let (status, answer) = send(client, method, path, body)?;
    if !(200..300).contains(&status) {
        return Err(refusal(answer));
    }
    serde_json::from_value(answer)
        .map_err(|error| format!("error: the answer is of another version of wsgate: {error}"))
}

fn send(
    client: &Client,
    method: &str,
    path: &str,
    body: &impl Serialize,
) -> Result<(u16, Value), Failure> {
    let body = serde_json::to_value(body).map_err(|error| format!("error: {error}"))?;
    client
        .ask(method, path, &body)
        .map_err(|error| unreachable_at(client, &error))
}

fn unreachable_at(client: &Client, error: &std::io::Error) -> Failure {
    let address = &client.address;
    format!(
        "error: no answer from the admin listener at {address}: {error}; is wsgate running, and is it there?"
    )
}

/// The message for the user about a request that was refused.
fn refusal(answer: Value) -> Failure {
    let Ok(failure) = serde_json::from_value::<bodies::Failure>(answer) else {
        return "error: the request was refused".to_owned();
    };
    let mut message = format!("error: {}", failure.error);
    for names in [failure.upstreams, failure.servers].into_iter().flatten() {
        message += &format!("\n = help: there are: {}", names.join(", "));
    }
    message
}

impl Drain {
    /// Drains, or with `verb` "deploy" deploys, and shows how far it is until it ends: success only when all is drained.
    pub(super) fn execute(&self, verb: &str) -> ExitCode {
        finish(self.run(verb))
    }

    fn run(&self, verb: &str) -> Result<bool, Failure> {
        let client = self.at.client()?;
        let change = Change {
            server: self.server.clone(),
            over: self.over.clone(),
            rate: self.rate,
            deadline: self.deadline.clone(),
            dry_run: self.dry_run,
        };
        let upstream = encode_name(&self.upstream);
        let path = format!("/v1/upstreams/{upstream}/{verb}");
        let id = match ask(&client, "POST", &path, &change)? {
            Drained::Forecast { forecast } => {
                let raised = match forecast.raised {
                    true => "; the pace is raised to hold the deadline",
                    false => "",
                };
                let (connections, seconds) = (forecast.connections, forecast.seconds);
                println!("{connections} connections, about {seconds:.1} s{raised}");
                return Ok(true);
            }
            Drained::Already { message, .. } => {
                println!("{message}");
                return Ok(true);
            }
            Drained::Begun { drain } => drain.map(|drain| drain.id),
        };
        let path = format!("/v1/upstreams/{upstream}/drain");
        let mut out = std::io::stdout();
        let live = out.is_terminal();
        loop {
            let shown: bodies::Drains = ask(&client, "GET", &path, &())?;
            let Some(drain) = shown.drains.iter().find(|drain| Some(drain.id) == id) else {
                return Err(
                    "error: the drain is not known any more; was wsgate restarted?".to_owned(),
                );
            };
            let over = drain.state != State::Running.label() && drain.closing == 0;
            if live || over {
                // An error of the terminal does not change the drain.
                let _ = write!(
                    out,
                    "{}{}{}",
                    if live { "\r\x1b[K" } else { "" },
                    line(drain),
                    if over { "\n" } else { "" }
                );
                let _ = out.flush();
            }
            if over {
                return Ok(drain.state == State::Done.label());
            }
            std::thread::sleep(GLANCE);
        }
    }
}

/// A drain in one line, with a bar.
fn line(drain: &bodies::Drain) -> String {
    const WIDTH: f64 = 30.0;
    let told = drain.total - drain.waiting;
    let done = match drain.total {
        0 => 1.0,
        total => told as f64 / total as f64,
    };
    let bar = "#".repeat((done * WIDTH) as usize);
    format!(
        "[{bar:<30}] {} of {} closed, {} back, {} failed, {:.0}/s, {:.0} s left, {}",
        drain.closed,
        drain.total,
        drain.reconnected,
        drain.failed,
        drain.rate,
        drain.ends_in_seconds,
        drain.state,
    )
}

impl Resume {
    /// Lets a server in again.
    pub(super) fn execute(&self) -> ExitCode {
        let change = Change {
            server: self.server.clone(),
            ..Change::default()
        };
        let path = format!("/v1/upstreams/{}/resume", encode_name(&self.upstream));
        let client = self.at.client();
        let answer = client.and_then(|client| ask(&client, "POST", &path, &change));
        finish(answer.map(|resumed: Resumed| {
            println!("{} drains cancelled", resumed.cancelled);
            servers(&resumed.servers);
            true
        }))
    }
}

impl Reload {
    /// Has the configuration read again.
    pub(super) fn execute(&self) -> ExitCode {
        let result = self.at.client().and_then(|client| {
            let (_, answer) = send(&client, "POST", "/v1/reload", &())?;
            match serde_json::from_value(answer.clone()) {
                Ok(Reloaded::Yes { notes, .. }) => {
                    println!("reloaded");
                    notes.iter().for_each(|note| println!("warning: {note}"));
                    Ok(true)
                }
                // Of an invalid configuration it says where the mistake is, and what would be right.
                Ok(Reloaded::No { error, .. }) => Err(error),
                Err(_) => Err(refusal(answer)),
            }
        });
        finish(result)
    }
}

impl Status {
    /// Shows upstreams, servers and drains.
    pub(super) fn execute(&self) -> ExitCode {
        finish(self.run().map(|()| true))
    }

    fn run(&self) -> Result<(), Failure> {
        let client = self.at.client()?;
        if self.json {
            let status: Value = ask(&client, "GET", "/v1/status", &())?;
            println!("{status}");
            return Ok(());
        }
        let status: bodies::Status = ask(&client, "GET", "/v1/status", &())?;
        for upstream in &status.upstreams {
            println!(
                "{}: {} connections, {} away, {} upgrades queued{}",
                upstream.name,
                upstream.connections,
                upstream.away,
                upstream.queued,
                match upstream.queue_p99_seconds {
                    Some(wait) => format!(" (p99 of the last minute {wait:.1} s)"),
                    None => String::new(),
                },
            );
            servers(&upstream.servers);
            for drain in &upstream.drains {
                println!("  {} {}", drain.cause, line(drain));
            }
        }
        Ok(())
    }
}

fn servers(servers: &[bodies::Server]) {
    for server in servers {
        let handshakes = &server.handshakes;
        let known = match handshakes.known_rate {
            Some(rate) => format!(", takes {rate:.0}/s"),
            None => String::new(),
        };
        println!(
            "  {:<30} {:<9} {:>7} connections, {} of {} handshakes, {:.0}/s{known}",
            server.address,
            server.state,
            server.connections,
            handshakes.under_way,
            handshakes.limit,
            handshakes.per_second,
        );
    }
}

fn finish(result: Result<bool, Failure>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
