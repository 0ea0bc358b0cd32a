//! What operators said, over the life of the process: read at the start, written at each change, and the log is reminded of it.

use super::handover::Inherited;
use super::listening::BindError;
use crate::config::Config;
use crate::deploy::Control;
use crate::duration::Shown;
use crate::service::OwnerError;
use crate::upstream::Pools;
use crate::upstream::intents::{Intents, Store};
use crate::upstream::state_file::{self, Kept, StateError};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// Why wsgate does not start.
#[derive(Debug)]
pub enum StartError {
    /// A listener cannot be bound.
    Bind(BindError),
    /// The process cannot become its user.
    Owner(OwnerError),
    /// The state cannot be read or written.
    State(StateError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind(error) => error.fmt(f),
            StartError::Owner(error) => error.fmt(f),
            StartError::State(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

impl From<BindError> for StartError {
    fn from(error: BindError) -> Self {
        StartError::Bind(error)
    }
}

impl From<OwnerError> for StartError {
    fn from(error: OwnerError) -> Self {
        StartError::Owner(error)
    }
}

impl From<StateError> for StartError {
    fn from(error: StateError) -> Self {
        StartError::State(error)
    }
}

/// The intents that are in force from the start: those of the process that hands over, which are newer than its file, or those of the
/// file.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn open(config: &Config, inherited: Option<&Inherited>) -> Result<Intents, StartError> {
    let path = config.state_file.path();
    let known = match (inherited, &path) {
        (Some(inherited), _) => inherited.intents.clone(),
        (None, Some(path)) => state_file::load(path)?,
        (None, None) => Vec::new(),
    };
    for intent in &known {
        let upstream = intent.upstream.as_str();
        let server = intent.server.as_deref().unwrap_or("all");
        let (by, since) = (intent.by.as_str(), Shown(whole_seconds(intent.age())));
        let mut upstreams = config.proxy.upstreams.iter();
        if upstreams.any(|known| known.name == upstream) {
            tracing::info!(upstream, server, by, drained_for = %since, "stays drained, as it was before the start");
        } else {
            tracing::warn!(upstream, server, by, drained_for = %since, "drained before the start, and the configuration has no such upstream; `wsgate resume` removes this");
        }
    }
    let store = match &path {
        None => None,
        Some(path) => {
            let owner = config.owner.as_ref().map(|owner| (owner.uid, owner.gid));
            Some(Box::new(Kept::new(path, owner)?) as Box<dyn Store>)
        }
    };
    Ok(Intents::new(known, store))
}

/// Writes the state as it is, so that a file that cannot be written is found now and not at the first drain.
///
/// # Errors
/// If it cannot be written.
pub(super) fn check(config: &Config, intents: &Intents) -> Result<(), StartError> {
    let Some(path) = config.state_file.path() else {
        return Ok(());
    };
    let saved = intents.save();
    saved.map_err(|error| StartError::State(Kept::unwritable(&path, &error)))
}

/// Reminds the log of servers that stay drained, for as long as it is polled.
pub(super) async fn remind(pools: &Pools, control: &Control) {
    let mut reminded: HashMap<(String, Option<String>, u64), u32> = HashMap::new();
    loop {
        let after = control.settings().remind_after;
        let mut known = Vec::new();
        for intent in pools.intents().all() {
            let key = (intent.upstream.clone(), intent.server.clone(), intent.since);
            let times = match after.is_zero() {
                true => 0,
                false => (intent.age().as_secs_f64() / after.as_secs_f64()) as u32,
            };
            if times > reminded.get(&key).copied().unwrap_or_default() {
                let (upstream, by) = (intent.upstream.as_str(), intent.by.as_str());
                let server = intent.server.as_deref().unwrap_or("all");
                let since = Shown(whole_seconds(intent.age()));
                tracing::warn!(upstream, server, by, drained_for = %since, "still drained; `wsgate resume` lets it in again");
            }
            reminded.insert(key.clone(), times);
            known.push(key);
        }
        reminded.retain(|key, _| known.contains(key));
        let glance = (after / 4).clamp(Duration::from_millis(250), Duration::from_secs(60));
        tokio::time::sleep(glance).await;
    }
}

fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}
