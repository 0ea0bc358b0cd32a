//! The commands that talk to a running wsgate: drain, deploy, resume, reload, status.

use crate::admin::{Client, encode_name};
use crate::config::admin_address;
use clap::Args;
use serde_json::{Map, Value, json};
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

/// What is drained, and how.
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
    /// So many connections per second.
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

/// What is let in again.
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
fn ask(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
    let (status, answer) = client
        .ask(method, path, body)
        .map_err(|error| unreachable_at(client, &error))?;
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let mut message = format!("error: {}", refusal(&answer));
    for key in ["upstreams", "servers"] {
        if let Some(names) = answer[key].as_array() {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            message += &format!("\n = help: there are: {}", names.join(", "));
        }
    }
    Err(message)
}

fn unreachable_at(client: &Client, error: &std::io::Error) -> Failure {
    let address = &client.address;
    format!(
        "error: no answer from the admin listener at {address}: {error}; is wsgate running, and is it there?"
    )
}

fn refusal(answer: &Value) -> Failure {
    let message = answer["error"].as_str();
    message.unwrap_or("the request was refused").to_owned()
}

impl Drain {
    /// Drains, or with `verb` "deploy" deploys, and shows how far it is until it ends: success only when all is drained.
    pub fn execute(&self, verb: &str) -> ExitCode {
        finish(self.run(verb))
    }

    fn run(&self, verb: &str) -> Result<bool, Failure> {
        let client = self.at.client()?;
        let mut body = Map::new();
        for (key, value) in [
            ("server", &self.server),
            ("over", &self.over),
            ("deadline", &self.deadline),
        ] {
            if let Some(value) = value {
                body.insert(key.to_owned(), json!(value));
            }
        }
        if let Some(rate) = self.rate {
            body.insert("rate".to_owned(), json!(rate));
        }
        if self.dry_run {
            body.insert("dry_run".to_owned(), json!(true));
        }
        let upstream = encode_name(&self.upstream);
        let path = format!("/v1/upstreams/{upstream}/{verb}");
        let answer = ask(&client, "POST", &path, &Value::Object(body))?;
        if let Some(forecast) = answer.get("forecast") {
            let raised = if forecast["raised"] == true {
                "; the pace is raised to hold the deadline"
            } else {
                ""
            };
            println!(
                "{} connections, about {:.1} s{raised}",
                forecast["connections"],
                number(&forecast["seconds"])
            );
            return Ok(true);
        }
        if let Some(message) = answer["message"].as_str() {
            println!("{message}");
            return Ok(true);
        }
        let id = answer["drain"]["id"].clone();
        let path = format!("/v1/upstreams/{upstream}/drain");
        let mut out = std::io::stdout();
        let live = out.is_terminal();
        loop {
            let shown = ask(&client, "GET", &path, &Value::Null)?;
            let drains = shown["drains"].as_array().map_or(&[][..], Vec::as_slice);
            let Some(drain) = drains.iter().find(|drain| drain["id"] == id) else {
                return Err(
                    "error: the drain is not known any more; was wsgate restarted?".to_owned(),
                );
            };
            let over = drain["state"] != "running" && drain["closing"] == 0;
            if live || over {
                // What the terminal does not show changes nothing of the drain.
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
                return Ok(drain["state"] == "done");
            }
            std::thread::sleep(GLANCE);
        }
    }
}

/// A drain in one line, with a bar.
fn line(drain: &Value) -> String {
    const WIDTH: f64 = 30.0;
    let (total, waiting) = (number(&drain["total"]), number(&drain["waiting"]));
    let done = if total > 0.0 {
        (total - waiting) / total
    } else {
        1.0
    };
    let bar = "#".repeat((done * WIDTH) as usize);
    format!(
        "[{bar:<30}] {} of {} closed, {} back, {} failed, {:.0}/s, {:.0} s left, {}",
        drain["closed"],
        drain["total"],
        drain["reconnected"],
        drain["failed"],
        number(&drain["rate"]),
        number(&drain["ends_in_seconds"]),
        drain["state"].as_str().unwrap_or_default(),
    )
}

impl Resume {
    /// Lets a server in again.
    pub fn execute(&self) -> ExitCode {
        let body = match &self.server {
            Some(server) => json!({ "server": server }),
            None => json!({}),
        };
        let path = format!("/v1/upstreams/{}/resume", encode_name(&self.upstream));
        finish(
            self.at
                .client()
                .and_then(|client| ask(&client, "POST", &path, &body))
                .map(|answer| {
                    println!("{} drains cancelled", answer["cancelled"]);
                    servers(&answer["servers"]);
                    true
                }),
        )
    }
}

impl Reload {
    /// Has the configuration read again.
    pub fn execute(&self) -> ExitCode {
        let result = self.at.client().and_then(|client| {
            let (status, answer) = client
                .ask("POST", "/v1/reload", &Value::Null)
                .map_err(|error| unreachable_at(&client, &error))?;
            if status != 200 {
                // Of a configuration that is not good it says where, and what would be right.
                return Err(refusal(&answer));
            }
            println!("reloaded");
            for note in answer["notes"].as_array().into_iter().flatten() {
                println!("warning: {}", note.as_str().unwrap_or_default());
            }
            Ok(true)
        });
        finish(result)
    }
}

impl Status {
    /// Shows upstreams, servers and drains.
    pub fn execute(&self) -> ExitCode {
        finish(
            self.at
                .client()
                .and_then(|client| ask(&client, "GET", "/v1/status", &Value::Null))
                .map(|status| {
                    if self.json {
                        println!("{status}");
                        return true;
                    }
                    for upstream in status["upstreams"].as_array().into_iter().flatten() {
                        println!(
                            "{}: {} connections",
                            upstream["name"].as_str().unwrap_or_default(),
                            upstream["connections"]
                        );
                        servers(&upstream["servers"]);
                        for drain in upstream["drains"].as_array().into_iter().flatten() {
                            println!(
                                "  {} {}",
                                drain["cause"].as_str().unwrap_or_default(),
                                line(drain)
                            );
                        }
                    }
                    true
                }),
        )
    }
}

fn servers(servers: &Value) {
    for server in servers.as_array().into_iter().flatten() {
        let text = |key: &str| server[key].as_str().unwrap_or_default().to_owned();
        println!(
            "  {:<30} {:<9} {:>7} connections",
            text("address"),
            text("state"),
            server["connections"]
        );
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
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
