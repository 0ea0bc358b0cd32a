//! The running wsgate that a command talks to.

use crate::admin::Client;
use crate::admin::bodies::{Change, Failure};
use crate::config::admin_address;
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the running wsgate is.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// Its admin listener: `IP:PORT` or `unix:/PATH`.
    #[arg(
        long,
        value_name = "ADDR",
        env = "WSGATE_ADMIN",
        default_value = "127.0.0.1:9900"
    )]
    admin: String,
    /// A file with the token that it wants.
    #[arg(long, value_name = "FILE", env = "WSGATE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// How fast clients are told to reconnect.
#[derive(Debug, Args)]
pub(super) struct Pace {
    /// Spread evenly over this time, for example `30s`.
    #[arg(long, value_name = "TIME", conflicts_with = "rate")]
    over: Option<String>,
    /// Connections per second.
    #[arg(long, value_name = "NUMBER")]
    rate: Option<f64>,
    /// All remaining clients are told at once after this time.
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
}

impl Pace {
    /// A change at this pace, by the user who runs the command.
    pub(super) fn change(&self) -> Change {
        Change {
            over: self.over.clone(),
            rate: self.rate,
            deadline: self.deadline.clone(),
            by: operator(),
            ..Change::default()
        }
    }
}

/// A sentence for the user about what went wrong.
pub(super) type Message = String;

/// Why a request was not carried out.
pub(super) enum Refused {
    /// It is carried out with `force`; the sentence says what that would do.
    NeedsForce(Message),
    /// It is not carried out.
    Failed(Message),
}

impl From<Message> for Refused {
    fn from(message: Message) -> Self {
        Refused::Failed(message)
    }
}

impl From<Refused> for Message {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NeedsForce(message) | Refused::Failed(message) => message,
        }
    }
}

impl Target {
    pub(super) fn client(&self) -> Result<Client, Message> {
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

/// Asks, and makes an error of every status but success.
pub(super) fn ask<T: DeserializeOwned>(
    client: &Client,
    method: &str,
    path: &str,
    body: &impl Serialize,
) -> Result<T, Refused> {
    let (status, answer) = send(client, method, path, body)?;
    if !(200..300).contains(&status) {
        return Err(refusal(client, status, answer));
    }
    let parsed = serde_json::from_value(answer);
    parsed.map_err(|error| {
        Refused::Failed(format!(
            "error: the answer is of another version of wsgate: {error}"
        ))
    })
}

pub(super) fn send(
    client: &Client,
    method: &str,
    path: &str,
    body: &impl Serialize,
) -> Result<(u16, Value), Message> {
    let body = serde_json::to_value(body).map_err(|error| format!("error: {error}"))?;
    client.ask(method, path, &body).map_err(|error| {
        let address = &client.address;
        format!(
            "error: no answer from the admin listener at {address}: {error}\n = help: is wsgate running? --admin or WSGATE_ADMIN \
             names another address"
        )
    })
}

/// The message for the user about a request that was refused.
pub(super) fn refusal(client: &Client, status: u16, answer: Value) -> Refused {
    let Ok(failure) = serde_json::from_value::<Failure>(answer) else {
        return Refused::Failed(format!(
            "error: the request was refused with status {status}"
        ));
    };
    let mut message = format!("error: {}", failure.error);
    for names in [failure.upstreams, failure.servers].into_iter().flatten() {
        message += &format!("\n = help: there are: {}", names.join(", "));
    }
    if status == 401 {
        message += match client.token {
            None => "\n = help: --token-file or WSGATE_TOKEN_FILE names the file of the token",
            Some(_) => "\n = help: the file of the token holds another one",
        };
    }
    match failure.needs_force {
        true => Refused::NeedsForce(message),
        false => Refused::Failed(message),
    }
}

/// The user who runs the command, for the log of wsgate.
pub(super) fn operator() -> Option<String> {
    let variable = |name| std::env::var(name).ok().filter(|user| !user.is_empty());
    let user = variable("SUDO_USER").or_else(|| variable("USER"))?;
    let host = rustix::system::uname();
    let name = format!("{user}@{}", host.nodename().to_string_lossy());
    (name.len() <= 100 && !name.chars().any(char::is_control)).then_some(name)
}

/// The exit status of a command: success only for `Ok(true)`.
pub(super) fn finish(result: Result<bool, Message>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
