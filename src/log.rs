//! The log: one line per event on the standard error stream, as text or JSON. Never payload.

use std::sync::OnceLock;
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

/// What is written, and how.
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
