//! `wsgate resume`: drained servers take new connections again.

use super::show;
use super::target::{Target, ask, finish, operator};
use crate::admin::bodies::{Change, Resumed};
use crate::admin::encode_name;
use clap::Args;
use std::process::ExitCode;

/// The servers to let in again.
#[derive(Debug, Args)]
pub(super) struct Resume {
    /// Name of the upstream.
    upstream: String,
    /// One of its servers, by its address or as the configuration writes it; all of them where none is named.
    #[arg(long, value_name = "ADDR")]
    server: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Resume {
    /// Lets servers in again, and says which.
    pub(super) fn execute(&self) -> ExitCode {
        let change = Change {
            server: self.server.clone(),
            by: operator(),
            ..Change::default()
        };
        let path = format!("/v1/upstreams/{}/resume", encode_name(&self.upstream));
        let client = self.target.client();
        let answer = client.and_then(|client| Ok(ask(&client, "POST", &path, &change)?));
        finish(answer.map(|resumed: Resumed| {
            show::resumed(&resumed);
            true
        }))
    }
}
