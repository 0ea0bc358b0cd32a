//! `wsgate drain` and `wsgate deploy`: begin, show the progress, and end with a status that says whether all went well.

use super::show;
use super::target::{Message, Pace, Refused, Target, ask, finish};
use crate::admin::bodies::{self, Change, Drained, Resumed};
use crate::admin::{Client, encode_name};
use crate::drain::State;
use crate::stdout::{say, write};
use clap::Args;
use std::io::{self, IsTerminal, Write, stderr, stdin, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// The servers to drain, and the pace.
#[derive(Debug, Args)]
pub(super) struct Drain {
    /// Name of the upstream.
    upstream: String,
    /// One of its servers, by its address or as the configuration writes it; all of them where none is named.
    #[arg(long, value_name = "ADDR")]
    server: Option<String>,
    #[command(flatten)]
    pace: Pace,
    /// Only say how many connections it would close, and how long that would take.
    #[arg(long)]
    dry_run: bool,
    /// Drain the last server of the upstream, too.
    #[arg(long)]
    force: bool,
    /// Cancel the drains of the upstream that run: clients that were not told stay, the servers take new connections again.
    #[arg(long, conflicts_with_all = ["server", "over", "rate", "deadline", "dry_run", "force"])]
    cancel: bool,
    #[command(flatten)]
    target: Target,
}

/// The time between two looks at a drain that runs.
const GLANCE: Duration = Duration::from_millis(250);

/// The time between two lines of the progress where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

impl Drain {
    /// Drains, or with `verb` "deploy" deploys, and shows the progress until it ends: success only when all is drained.
    pub(super) fn execute(&self, verb: &str) -> ExitCode {
        finish(self.run(verb))
    }

    fn run(&self, verb: &str) -> Result<bool, Message> {
        let client = self.target.client()?;
        let upstream = encode_name(&self.upstream);
        let drains = format!("/v1/upstreams/{upstream}/drain");
        if self.cancel {
            let resumed: Resumed = ask(&client, "DELETE", &drains, &())?;
            show::resumed(&resumed);
            return Ok(true);
        }
        let mut change = Change {
            server: self.server.clone(),
            dry_run: self.dry_run,
            force: self.force,
            ..self.pace.change()
        };
        let path = format!("/v1/upstreams/{upstream}/{verb}");
        let answer = match ask(&client, "POST", &path, &change) {
            Err(Refused::NeedsForce(message)) => {
                if !confirmed(&message) {
                    return Err(format!(
                        "{message}\n = help: --force drains it all the same"
                    ));
                }
                change.force = true;
                ask(&client, "POST", &path, &change)?
            }
            answer => answer?,
        };
        let begun = match answer {
            Drained::Forecast { forecast } => {
                self.show_forecast(&forecast);
                return Ok(true);
            }
            Drained::Already { message, .. } => {
                say!("{message}");
                return Ok(true);
            }
            Drained::Begun { begun, notes } => {
                notes.iter().for_each(|note| eprintln!("warning: {note}"));
                begun
            }
        };
        tell_of_interrupts(format!("wsgate {verb} {} --cancel", self.upstream))
            .map_err(|error| format!("error: SIGINT cannot be handled: {error}"))?;
        let ids: Vec<u64> = begun.iter().map(|drain| drain.id).collect();
        follow(&client, &drains, &ids)
    }

    fn show_forecast(&self, forecast: &bodies::Forecast) {
        let (connections, seconds) = (forecast.connections, forecast.seconds);
        let requests = match forecast.plain_requests {
            0 => String::new(),
            count => format!(", {count} plain requests under way"),
        };
        let raised = match forecast.raised {
            true => "; the pace is raised to hold the deadline",
            false => "",
        };
        say!("{connections} connections{requests}, about {seconds:.1} s{raised}");
        if forecast.leaves_none {
            let upstream = &self.upstream;
            say!("no server of {upstream} would take connections: it needs --force");
        }
    }
}

/// Asks a person at a terminal; where there is none the answer is no.
fn confirmed(message: &str) -> bool {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return false;
    }
    let question = message.trim_start_matches("error: ");
    eprint!("{question}\nDrain it all the same? [y/N] ");
    let _ = stderr().flush();
    let mut answer = String::new();
    let read = stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Says at Ctrl-C that the drain goes on without this command.
fn tell_of_interrupts(cancel: String) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let entered = runtime.enter();
    // From here on Ctrl-C does not end the command by itself.
    let mut interrupts = signal(SignalKind::interrupt())?;
    drop(entered);
    std::thread::Builder::new().spawn(move || {
        runtime.block_on(interrupts.recv());
        eprintln!("\nthe drain goes on; `{cancel}` ends it, `wsgate status` shows it");
        // As a shell reports a process that SIGINT has ended.
        std::process::exit(130);
    })?;
    Ok(())
}

/// Shows these drains until they have ended. Returns true if all of them were carried out.
pub(super) fn follow(client: &Client, path: &str, ids: &[u64]) -> Result<bool, Message> {
    let live = stdout().is_terminal();
    let mut last_line: Option<Instant> = None;
    loop {
        let mut known: bodies::Drains = ask(client, "GET", path, &())?;
        known.drains.retain(|drain| ids.contains(&drain.id));
        if known.drains.len() < ids.len() {
            return Err("error: the drain is not known any more; was wsgate restarted?".to_owned());
        }
        let over =
            |drain: &bodies::Drain| drain.state != State::Running.label() && drain.closing == 0;
        let sum = show::Sum::of(&known.drains);
        let is_over = known.drains.iter().all(over);
        if is_over {
            write(format_args!(
                "{}{}\n",
                if live { "\r\x1b[K" } else { "" },
                sum.end(false)
            ));
            return Ok(known
                .drains
                .iter()
                .all(|drain| drain.state == State::Done.label()));
        }
        if live {
            write(format_args!("\r\x1b[K{}", sum.line()));
        } else if last_line.is_none_or(|at| at.elapsed() >= LINE) {
            say!("{}", sum.line());
            last_line = Some(Instant::now());
        }
        std::thread::sleep(GLANCE);
    }
}
