//! The texts that commands print, for a terminal of 80 columns.

use crate::admin::bodies::{Connections, Drain, Out, Resumed, Server, Status, Upstream};
use crate::duration::Shown;
use crate::stdout::say;
use std::fmt::Write;
use std::time::Duration;

/// The width of the terminal that every line fits.
const WIDTH: usize = 80;

/// The width of the column of addresses. A longer one has a line of its own.
const ADDRESS: usize = 30;

/// Drains that are shown as one.
pub(super) struct Sum {
    total: usize,
    waiting: usize,
    closed: usize,
    left: usize,
    reconnected: usize,
    failed: usize,
    /// Plain requests that they wait for.
    requests: usize,
    rate: f64,
    seconds: f64,
    /// The longest time after which clients were told to come back, in seconds; 0 where that is not known.
    longest_delay: f64,
    states: Vec<String>,
}

impl Sum {
    pub(super) fn of(drains: &[Drain]) -> Sum {
        let sum = |of: fn(&Drain) -> usize| drains.iter().map(of).sum();
        let mut states: Vec<String> = drains.iter().map(|drain| drain.state.clone()).collect();
        states.dedup();
        Sum {
            total: sum(|drain| drain.total),
            waiting: sum(|drain| drain.waiting),
            closed: sum(|drain| drain.closed),
            left: sum(|drain| drain.left),
            reconnected: sum(|drain| drain.reconnected),
            failed: sum(|drain| drain.failed),
            requests: sum(|drain| drain.plain_requests),
            rate: drains.iter().map(|drain| drain.rate).sum(),
            seconds: drains
                .iter()
                .map(|drain| drain.ends_in_seconds)
                .fold(0.0, f64::max),
            longest_delay: drains
                .iter()
                .filter_map(|drain| drain.longest_delay_seconds)
                .fold(0.0, f64::max),
            states,
        }
    }

    /// The progress of a drain that runs, in one line with a bar.
    pub(super) fn line(&self) -> String {
        const BAR: usize = 20;
        let told = self.total.saturating_sub(self.waiting);
        let done = match self.total {
            0 => BAR,
            total => told * BAR / total,
        };
        let bar = "#".repeat(done);
        let line = format!(
            "[{bar:<BAR$}] {}/{} closed, {} back, {} failed, {:.0}/s, {:.0} s left{}",
            self.closed,
            self.total,
            self.reconnected,
            self.failed,
            self.rate,
            self.seconds,
            match self.requests {
                0 => String::new(),
                requests => format!(", {requests} plain"),
            },
        );
        fit(&line, WIDTH - 1)
    }

    /// The result of a drain that has ended.
    /// `are_back`: nobody is waited for any more.
    pub(super) fn end(&self, are_back: bool) -> String {
        let told = self.closed.saturating_sub(self.left);
        let coming = told.saturating_sub(self.reconnected);
        let mut line = format!(
            "{}: {} of {} closed, {} back",
            self.states.join(", "),
            self.closed,
            self.total,
            self.reconnected
        );
        if coming > 0 && are_back {
            let _ = write!(line, ", {coming} not seen to come back");
        } else if coming > 0 {
            let _ = write!(line, ", {coming} still to come");
            if self.longest_delay > 0.0 {
                let _ = write!(line, ", told to wait up to {:.0} s", self.longest_delay);
            }
        }
        if self.failed > 0 {
            let _ = write!(line, ", {} upgrades failed", self.failed);
        }
        if self.waiting > 0 {
            let _ = write!(line, ", {} not told", self.waiting);
        }
        fit(&line, WIDTH)
    }
}

/// Says what a resume has changed.
pub(super) fn resumed(resumed: &Resumed) {
    for address in &resumed.resumed {
        say!("{address} takes new connections again");
    }
    match resumed.cancelled {
        0 => {}
        1 => say!("1 drain cancelled"),
        count => say!("{count} drains cancelled"),
    }
    if resumed.resumed.is_empty() && resumed.notes.is_empty() {
        say!("nothing has changed: no server was drained, and no drain was running");
    }
    let out = resumed.servers.iter().filter_map(|server| {
        let out = server.out.as_ref()?;
        Some(format!(
            "{} is {}: {}",
            server.address,
            server.state,
            reason(out)
        ))
    });
    out.for_each(|line| say!("{line}"));
    resumed
        .notes
        .iter()
        .for_each(|note| eprintln!("warning: {note}"));
}

/// The whole status.
pub(super) fn status(status: &Status) -> String {
    let up = Shown(Duration::from_secs(status.uptime_seconds));
    let mut text = String::new();
    let on = status.listeners.join(", ");
    push(
        &mut text,
        &format!("wsgate {}, up {up}, on {on}", status.version),
    );
    for upstream in &status.upstreams {
        text.push('\n');
        of_upstream(upstream, &mut text);
    }
    text
}

/// A page of connections, a line each; with `is_long` more lines with the details.
pub(super) fn connections(page: &Connections, is_first: bool, is_long: bool) -> String {
    let mut text = String::new();
    if is_first {
        push(
            &mut text,
            &connection_line([
                "id",
                "client",
                "server",
                "age",
                "idle",
                "messages in/out",
                "kept",
            ]),
        );
    }
    for one in &page.connections {
        let age = |seconds| Shown(Duration::from_secs(seconds)).to_string();
        let messages = format!("{}/{}", one.messages_from_client, one.messages_from_server);
        let kept = one.buffered_bytes.to_string();
        let (id, age, idle) = (
            one.id.to_string(),
            age(one.age_seconds),
            age(one.idle_seconds),
        );
        let (client, server) = (fit(&one.client, 15), fit(&one.server, 18));
        push(
            &mut text,
            &connection_line([&id, &client, &server, &age, &idle, &messages, &kept]),
        );
        if !is_long {
            continue;
        }
        let (host, path) = (one.host.as_deref(), one.path.as_deref());
        let (host, path) = (host.unwrap_or_default(), path.unwrap_or_default());
        push(
            &mut text,
            &format!("        {}: {host}{path} from {}", one.route, one.peer),
        );
        let named = [
            ("protocol", &one.protocol),
            ("origin", &one.origin),
            ("agent", &one.user_agent),
            ("id", &one.request_id),
            ("traceparent", &one.traceparent),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                push(&mut text, &format!("        {name} {value}"));
            }
        }
    }
    text
}

fn connection_line(columns: [&str; 7]) -> String {
    let [id, client, server, age, idle, messages, kept] = columns;
    format!("{id:>7} {client:<15} {server:<18} {age:>7} {idle:>6} {messages:>15} {kept:>6}")
}

fn of_upstream(upstream: &Upstream, text: &mut String) {
    let mut line = format!(
        "{}: {} connections, {} plain requests, {} away, {} queued",
        upstream.name,
        upstream.connections,
        upstream.plain_requests,
        upstream.away,
        upstream.queued,
    );
    if let Some(wait) = upstream.queue_p99_seconds {
        let _ = write!(line, " (p99 {wait:.1} s)");
    }
    push(text, &line);
    if !upstream.servers.iter().any(|server| server.state == "up") {
        let is_tried = |server: &Server| server.state == "unreachable";
        let line = match upstream.servers.iter().any(is_tried) {
            true => "  NO SERVER CAN BE REACHED",
            false => "  NO SERVER TAKES CONNECTIONS",
        };
        push(text, line);
    }
    if !upstream.servers.is_empty() {
        let header = format!(
            "  {:<ADDRESS$} {:<11} {:>7}  {:>9}  {:>5}  {:>6}",
            "server", "state", "conns", "upgrading", "per s", "takes"
        );
        push(text, &header);
    }
    for server in &upstream.servers {
        of_server(server, text);
    }
    for name in &upstream.unresolved {
        push(
            text,
            &format!("  {name:<ADDRESS$} no address: the name does not resolve"),
        );
    }
    for absent in &upstream.absent {
        let since = Shown(Duration::from_secs(absent.for_seconds));
        push(
            text,
            &format!(
                "  {} drained for {since} by {}, not in the configuration",
                absent.address, absent.by
            ),
        );
    }
    for drain in &upstream.drains {
        let about = match &drain.server {
            Some(server) => format!("  drain {} ({}) of {server}", drain.id, drain.cause),
            None => format!("  drain {} ({})", drain.id, drain.cause),
        };
        let age = Shown(Duration::from_secs(drain.age_seconds));
        let about = format!("{about}, began {age} ago");
        let sum = Sum::of(std::slice::from_ref(drain));
        let is_running = drain.state == "running";
        let line = match is_running {
            true => sum.line(),
            false => sum.end(upstream.away == 0),
        };
        push(text, &about);
        push(text, &format!("    {line}"));
    }
}

fn of_server(server: &Server, text: &mut String) {
    let handshakes = &server.handshakes;
    let takes = handshakes
        .known_rate
        .map_or("-".to_owned(), |rate| format!("{rate:.0}/s"));
    let figures = format!(
        "{:<11} {:>7}  {:>9}  {:>5.0}  {takes:>6}",
        server.state,
        server.connections,
        format!("{}/{}", handshakes.under_way, handshakes.limit),
        handshakes.per_second,
    );
    if server.address.chars().count() > ADDRESS {
        push(text, &format!("  {}", server.address));
        push(text, &format!("  {:<ADDRESS$} {figures}", ""));
    } else {
        push(text, &format!("  {:<ADDRESS$} {figures}", server.address));
    }
    if let Some(out) = &server.out {
        push(text, &format!("    {}", reason(out)));
    }
    if let Some(unreachable) = &server.unreachable {
        let ago = |seconds| Shown(Duration::from_secs(seconds));
        let line = format!(
            "    every connect fails for {}, the last one {} ago",
            ago(unreachable.for_seconds),
            ago(unreachable.last_seconds)
        );
        push(text, &line);
    }
}

fn reason(out: &Out) -> String {
    let seconds = |seconds: u64| Shown(Duration::from_secs(seconds));
    let mut text = out.reason.clone();
    if let Some(age) = out.for_seconds {
        let _ = write!(text, " for {}", seconds(age));
    }
    if let Some(left) = out.until_seconds {
        let _ = write!(text, ", {} left", seconds(left));
    }
    if let Some(by) = &out.by {
        let _ = write!(text, ", by {by}");
    }
    text
}

/// Adds a line, continued below it where it is wider than the terminal.
fn push(text: &mut String, line: &str) {
    const INDENT: &str = "    ";
    let (mut rest, mut width) = (line.trim_end(), WIDTH);
    while rest.chars().count() > width {
        let breaks = rest.match_indices(", ").map(|(at, _)| at + 1);
        let Some(at) = breaks.take_while(|at| *at <= width).last() else {
            break;
        };
        text.push_str(&rest[..at]);
        text.push('\n');
        text.push_str(INDENT);
        (rest, width) = (rest[at..].trim_start(), WIDTH - INDENT.len());
    }
    text.push_str(fit(rest, width).trim_end());
    text.push('\n');
}

/// A line of at most so many characters: the middle of a longer one is left out.
fn fit(line: &str, width: usize) -> String {
    let count = line.chars().count();
    if count <= width {
        return line.to_owned();
    }
    let (head, tail) = ((width - 1) * 2 / 3, width - 1 - (width - 1) * 2 / 3);
    let start: String = line.chars().take(head).collect();
    let end: String = line.chars().skip(count - tail).collect();
    format!("{start}…{end}")
}
