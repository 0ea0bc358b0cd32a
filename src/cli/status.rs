//! `wsgate status`: upstreams, servers and drains; the exit status says whether every upstream has a server.

use super::show;
use super::target::{Message, Target, ask, finish};
use crate::admin::bodies;
use crate::stdout::{say, write};
use clap::Args;
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

/// How the status is shown.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// As JSON, as the admin listener has it.
    #[arg(long)]
    json: bool,
    /// Show it again every second, until Ctrl-C.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    #[command(flatten)]
    target: Target,
}

impl Status {
    /// Shows upstreams, servers and drains: success only if every upstream has a server that takes connections and can be reached.
    pub(super) fn execute(&self) -> ExitCode {
        finish(self.run())
    }

    fn run(&self) -> Result<bool, Message> {
        let client = self.target.client()?;
        loop {
            let answer: Value = ask(&client, "GET", "/v1/status", &())?;
            let status: bodies::Status =
                serde_json::from_value(answer.clone()).map_err(|error| {
                    format!("error: the answer is of another version of wsgate: {error}")
                })?;
            let is_up = |upstream: &bodies::Upstream| {
                upstream.servers.iter().any(|server| server.state == "up")
            };
            let result = status.upstreams.iter().all(is_up);
            if self.json {
                say!("{answer}");
                return Ok(result);
            }
            let text = show::status(&status);
            if !self.watch {
                write(format_args!("{text}"));
                return Ok(result);
            }
            // Clears the screen, and begins at its top.
            write(format_args!("\x1b[H\x1b[2J{text}"));
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}
