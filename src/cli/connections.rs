//! `wsgate connections` and `wsgate close`: live WebSocket connections, and the end of one of them.

use super::show;
use super::target::{Message, Target, ask, finish, operator};
use crate::admin::bodies::{CloseOrder, Closed, Connections as Page};
use crate::admin::encode_name;
use crate::stdout::{say, write};
use clap::Args;
use serde_json::Value;
use std::process::ExitCode;

/// The connections to list, and how.
#[derive(Debug, Args)]
pub(super) struct Connections {
    /// Only those of this upstream.
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Only those of this route.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Only those to the server at this address.
    #[arg(long, value_name = "ADDR")]
    server: Option<String>,
    /// Only those of the client at this address, or of the clients in this network.
    #[arg(long, value_name = "ADDR")]
    client: Option<String>,
    /// More lines of each: route, peer, and the fields of the request that `log.fields` keeps.
    #[arg(long, conflicts_with = "json")]
    long: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Connections {
    /// Lists connections, page by page, the oldest first.
    pub(super) fn execute(&self) -> ExitCode {
        finish(self.run().map(|()| true))
    }

    fn run(&self) -> Result<(), Message> {
        let client = self.target.client()?;
        let filters = [
            ("upstream", &self.upstream),
            ("route", &self.route),
            ("server", &self.server),
            ("client", &self.client),
        ];
        let filters = filters.into_iter().filter_map(|(name, value)| {
            let value = encode_name(value.as_deref()?);
            Some(format!("{name}={value}&"))
        });
        let path = format!("/v1/connections?{}", filters.collect::<String>());
        let (mut after, mut is_first) = (String::new(), true);
        loop {
            let answer: Value = ask(&client, "GET", &format!("{path}{after}"), &())?;
            let page: Page = serde_json::from_value(answer.clone()).map_err(|error| {
                format!("error: the answer is of another version of wsgate: {error}")
            })?;
            if self.json {
                let connections = answer["connections"].as_array();
                connections
                    .into_iter()
                    .flatten()
                    .for_each(|one| say!("{one}"));
            } else {
                write(format_args!(
                    "{}",
                    show::connections(&page, is_first, self.long)
                ));
            }
            match page.next {
                Some(next) => after = format!("after={next}"),
                None => return Ok(()),
            }
            is_first = false;
        }
    }
}

/// The connection to close.
#[derive(Debug, Args)]
pub(super) struct Close {
    /// Its number, as `wsgate connections` and the log have it.
    id: u64,
    /// The code of the Close that the client gets.
    #[arg(long, default_value_t = crate::frame::close::POLICY_VIOLATION)]
    code: u16,
    /// The reason of that Close, at most 123 bytes.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    target: Target,
}

impl Close {
    /// Closes a connection: its client gets this Close, its server 1001.
    pub(super) fn execute(&self) -> ExitCode {
        let order = CloseOrder {
            code: Some(self.code),
            reason: Some(self.reason.clone()),
            by: operator(),
        };
        let path = format!("/v1/connections/{}/close", self.id);
        let client = self.target.client();
        let answer = client.and_then(|client| Ok(ask(&client, "POST", &path, &order)?));
        finish(answer.map(|closed: Closed| {
            say!("connection {} gets Close {}", closed.closed, self.code);
            true
        }))
    }
}
