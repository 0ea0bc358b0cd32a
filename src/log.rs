//! The log: one line per event on the standard error stream, as text or JSON. Never payload.

mod details;
mod throttle;

pub use details::{Details, Field, Fields};
pub use throttle::{Cause, Suppressed, Throttle};

use parking_lot::Mutex;
use std::collections::HashSet;
use std::fmt::{self as text, Display};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: time, level, message, `key=value`.
    #[default]
    Text,
    /// For collectors: one object per line.
    Json,
}

/// The fields of requests in the log, and the share of plain requests that have a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLog {
    /// The fields of a request in the line at the end of a connection, and in the line of a plain request.
    pub fields: Fields,
    /// The share of plain requests that have a line, in percent: 0 to 100.
    pub plain_requests: u8,
}

impl Default for RequestLog {
    fn default() -> Self {
        RequestLog {
            fields: Fields::default()
                .with(Field::Host)
                .with(Field::Path)
                .with(Field::Protocol)
                .with(Field::RequestId),
            plain_requests: 0,
        }
    }
}

/// The settings of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Text or JSON.
    pub format: Format,
    /// The least important level that is written.
    pub level: tracing::Level,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            format: Format::Text,
            level: tracing::Level::INFO,
        }
    }
}

/// Changes what is written of a log that was started.
static SET_LEVEL: OnceLock<Box<dyn Fn(tracing::Level) + Send + Sync>> = OnceLock::new();

/// Starts the log of the process. A second call changes nothing.
pub fn init(settings: Settings) {
    let (filter, handle) = reload::Layer::new(filter_of(settings.level));
    let to_stderr = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    let layer = match settings.format {
        Format::Text => to_stderr.boxed(),
        Format::Json => to_stderr.json().flatten_event(true).boxed(),
    };
    let started = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    if started.is_ok() {
        let _ = SET_LEVEL.set(Box::new(move |level| {
            if let Err(error) = handle.reload(filter_of(level)) {
                tracing::error!(%error, "the level of the log stays as it is");
            }
        }));
    }
}

/// Writes this level and those above it from now on.
pub fn set_level(level: tracing::Level) {
    if let Some(set) = SET_LEVEL.get() {
        set(level);
    }
}

fn filter_of(level: tracing::Level) -> Targets {
    let level = LevelFilter::from_level(level);
    // Pingora logs each of a client's faults as an error of its own; what operators need of it, wsgate says itself.
    let pingora = level.min(LevelFilter::WARN);
    Targets::new()
        .with_default(level)
        .with_target("pingora_core::server", pingora)
        .with_target("pingora_core::services", pingora)
        .with_target("pingora_core::apps", LevelFilter::OFF)
        .with_target("pingora_core::protocols", LevelFilter::OFF)
        .with_target("pingora_proxy", LevelFilter::OFF)
        .with_target("pingora_core", pingora)
}

/// The recent lines of the log, by which repeated ones are suppressed.
static SAID: LazyLock<Mutex<Throttle>> =
    LazyLock::new(|| Mutex::new(Throttle::new(Duration::from_secs(60), 1000)));

/// Whether an event that may happen thousands of times a second is to be written now, at this level, and how many of the
/// same cause were not written before. `subject` is about whom it is: a route, a server, a listener.
pub fn admit(
    level: tracing::Level,
    event: &'static str,
    subject: impl Display,
) -> Option<Suppressed> {
    let cause = Cause {
        level,
        event,
        subject: subject.to_string(),
    };
    let mut said = SAID.lock();
    said.admit(cause, Instant::now())
}

/// Subjects of events that are written once.
static ONCE: LazyLock<Mutex<HashSet<(&str, String)>>> = LazyLock::new(Mutex::default);

/// Whether an event about this subject is to be written: once in the life of the process, for the first 1000 subjects.
pub fn admit_once(event: &'static str, subject: impl Display) -> bool {
    const MOST: usize = 1000;
    let mut once = ONCE.lock();
    once.len() < MOST && once.insert((event, subject.to_string()))
}

/// Writes how many events were not written whose cause has stopped. To be called now and then.
pub fn write_suppressed() {
    let mut said = SAID.lock();
    let overdue = said.overdue(Instant::now());
    drop(said);
    for (cause, suppressed) in overdue {
        let Cause {
            level,
            event,
            subject,
        } = cause;
        match level {
            tracing::Level::WARN => tracing::warn!(about = subject, "{event}{suppressed}"),
            _ => tracing::info!(about = subject, "{event}{suppressed}"),
        }
    }
}

/// Bytes of a peer as the log has them: escaped, and no more than so many.
#[derive(Clone, Copy, Debug)]
pub struct Excerpt<'a>(pub &'a [u8], pub usize);

impl Display for Excerpt<'_> {
    fn fmt(&self, f: &mut text::Formatter<'_>) -> text::Result {
        let Excerpt(bytes, most) = *self;
        match bytes.get(..most) {
            Some(part) if bytes.len() > most => write!(f, "{}...", part.escape_ascii()),
            _ => write!(f, "{}", bytes.escape_ascii()),
        }
    }
}

/// A value of a request as the log has it: at most 200 bytes of it, escaped; `None` where it is empty.
pub fn excerpt(value: &[u8]) -> Option<String> {
    (!value.is_empty()).then(|| Excerpt(value, 200).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_peers_are_escaped_and_cut() {
        for (bytes, shown) in [
            (&b"/a?b"[..], "/a?b"),
            (b"/\n\x1b[1m\xff", "/\\n\\x1b[1m\\xff"),
            (b"12345678", "12345678"),
            (b"123456789", "12345678..."),
            (b"", ""),
        ] {
            assert_eq!(Excerpt(bytes, 8).to_string(), shown);
        }
    }
}
