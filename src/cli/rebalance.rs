//! `wsgate rebalance`: moves clients from servers that have more than their share, for example after a deploy.

use super::drain::follow;
use super::target::{Message, Pace, Target, ask, finish};
use crate::admin::bodies::{Change, Rebalanced};
use crate::admin::encode_name;
use crate::stdout::say;
use clap::Args;
use std::process::ExitCode;

/// The upstream to rebalance, and the pace.
#[derive(Debug, Args)]
pub(super) struct Rebalance {
    /// Name of the upstream.
    upstream: String,
    /// The excess over its share that a server may have, for example `10%`; without this option the configuration's `slack`.
    #[arg(long, value_name = "PERCENT")]
    slack: Option<String>,
    #[command(flatten)]
    pace: Pace,
    /// Only say how many connections would move.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: Target,
}

impl Rebalance {
    /// Rebalances, and shows the progress until it ends.
    pub(super) fn execute(&self) -> ExitCode {
        finish(self.run())
    }

    fn run(&self) -> Result<bool, Message> {
        let client = self.target.client()?;
        let upstream = encode_name(&self.upstream);
        let change = Change {
            slack: self.slack.clone(),
            dry_run: self.dry_run,
            ..self.pace.change()
        };
        let path = format!("/v1/upstreams/{upstream}/rebalance");
        let rebalanced: Rebalanced = ask(&client, "POST", &path, &change)?;
        for share in &rebalanced.servers {
            let moved = match share.moved {
                0 => String::new(),
                moved => format!(", {moved} to move"),
            };
            say!("{}: {} connections{moved}", share.server, share.connections);
        }
        if rebalanced.away > 0 {
            let away = rebalanced.away;
            eprintln!(
                "warning: {away} clients are still to come back and count for no server; repeat this when they are"
            );
        }
        match rebalanced.begun {
            Some(drain) => {
                let drains = format!("/v1/upstreams/{upstream}/drain");
                follow(&client, &drains, &[drain.id])
            }
            None => Ok(true),
        }
    }
}
