//! `wsgate reload`: the configuration is read again.

use super::target::{Target, finish, refusal, send};
use crate::admin::bodies::Reloaded;
use crate::stdout::say;
use clap::Args;
use std::process::ExitCode;

/// Which wsgate reloads.
#[derive(Debug, Args)]
pub(super) struct Reload {
    #[command(flatten)]
    target: Target,
}

impl Reload {
    /// Has the configuration read again.
    pub(super) fn execute(&self) -> ExitCode {
        let result = self.target.client().and_then(|client| {
            let (status, answer) = send(&client, "POST", "/v1/reload", &())?;
            match serde_json::from_value(answer.clone()) {
                Ok(Reloaded::Yes { notes, .. }) => {
                    say!("reloaded");
                    notes.iter().for_each(|note| eprintln!("warning: {note}"));
                    Ok(true)
                }
                // Of an invalid configuration it says where the mistake is, and what would be right.
                Ok(Reloaded::No { error, .. }) => Err(error),
                Err(_) => Err(refusal(&client, status, answer).into()),
            }
        });
        finish(result)
    }
}
