//! The lines of the log about drains: begins, grows, raised, ends. One line each, however many connections a drain has.

use crate::drain::{Cause, DrainId, Progress, State, Terms};
use crate::duration::Shown;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The least time between two lines about the growth of one drain.
const GROWTH: Duration = Duration::from_secs(10);

/// The drains whose end was not logged yet.
#[derive(Default)]
pub(super) struct DrainLog(Mutex<BTreeMap<DrainId, Entry>>);

/// The last line about a running drain.
struct Entry {
    /// The selection, as the log names it.
    selection: String,
    /// The number of connections that the last line gave.
    connections: usize,
    /// The log has said that the pace was raised.
    raised: bool,
    /// When the last line was written.
    at: Instant,
}

impl DrainLog {
    /// A drain was started, or was joined by another trigger. Returns true if it is new.
    pub(super) fn handle_start(
        &self,
        id: DrainId,
        selection: &str,
        cause: Cause,
        progress: &Progress,
        terms: &Terms,
    ) -> bool {
        let (drain, connections) = (id.number(), progress.total);
        let mut entries = self.0.lock();
        let is_new = !entries.contains_key(&id);
        let entry = entries.entry(id).or_insert_with(|| Entry {
            selection: selection.to_owned(),
            connections,
            raised: false,
            at: Instant::now(),
        });
        let is_newly_raised = progress.raised && !entry.raised;
        entry.raised = progress.raised;
        drop(entries);
        if is_new {
            tracing::info!(
                drain,
                selection,
                cause = cause.label(),
                connections,
                deadline = %Shown(terms.deadline_in_force()),
                "drain begins"
            );
        }
        if is_newly_raised {
            tracing::warn!(drain, "the pace cannot hold the deadline: it is raised");
        }
        is_new
    }

    /// Writes what has changed since the last call; `drains` are all that are known.
    pub(super) fn report(&self, drains: &[(DrainId, Progress)]) {
        let mut entries = self.0.lock();
        for (id, progress) in drains {
            if progress.state == State::Running {
                if let Some(entry) = entries.get_mut(id) {
                    entry.report_growth(*id, progress);
                }
            } else if let Some(entry) = entries.remove(id) {
                entry.report_end(*id, progress);
            }
        }
        // Drains that the conductor has forgotten before their end was logged.
        entries.retain(|id, _| drains.iter().any(|(known, _)| known == id));
    }
}

impl Entry {
    /// Says that the drain has grown: at most once per [`GROWTH`], with the number of connections that it gained meanwhile.
    fn report_growth(&mut self, id: DrainId, progress: &Progress) {
        let more = progress.total.saturating_sub(self.connections);
        if more == 0 || self.at.elapsed() < GROWTH {
            return;
        }
        tracing::info!(
            drain = id.number(),
            selection = self.selection,
            connections = progress.total,
            more,
            "drain grows"
        );
        (self.connections, self.at) = (progress.total, Instant::now());
    }

    fn report_end(self, id: DrainId, progress: &Progress) {
        let took = progress.ends.saturating_duration_since(progress.started);
        tracing::info!(
            drain = id.number(),
            selection = self.selection,
            cause = progress.cause.label(),
            state = progress.state.label(),
            connections = progress.total,
            closed = progress.closed,
            left = progress.left,
            stayed = progress.waiting,
            reconnected = progress.reconnected,
            failed = progress.failed,
            took_ms = took.as_millis() as u64,
            "drain ends"
        );
    }
}
