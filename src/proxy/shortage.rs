//! File descriptors, or memory for sockets, that run out: told from faults of others, counted, and said once.

use crate::metrics::Metrics;
use rustix::io::Errno;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the system has no more of, so that there can be no other connection now. That is nobody's fault but wsgate's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Of file descriptors, in this process or in the system.
    Descriptors,
    /// Of memory for sockets.
    Memory,
}

/// Why somebody who was to be asked has not given a good answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// There was nothing to ask with: that says nothing of who was to be asked.
    Exhausted(Shortage, io::Error),
    /// What was wrong with it, in words.
    Failed(String),
}

impl From<io::Error> for Unanswered {
    fn from(error: io::Error) -> Self {
        match Shortage::of(&error) {
            Some(shortage) => Unanswered::Exhausted(shortage, error),
            None => Unanswered::Failed(error.to_string()),
        }
    }
}

impl From<String> for Unanswered {
    fn from(error: String) -> Self {
        Unanswered::Failed(error)
    }
}

/// How often the log is told of a shortage, for as long as it lasts.
const REMINDER: Duration = Duration::from_secs(60);

impl Shortage {
    /// Whether an error is one: accept(2), socket(2).
    pub fn of(error: &io::Error) -> Option<Shortage> {
        match Errno::from_io_error(error)? {
            Errno::MFILE | Errno::NFILE => Some(Shortage::Descriptors),
            Errno::NOBUFS | Errno::NOMEM => Some(Shortage::Memory),
            _ => None,
        }
    }

    /// Counts it, and says so in the log: once, however many connections it is about.
    pub fn report(self, metrics: &Metrics, error: &io::Error) {
        static SAID: Mutex<Option<Instant>> = Mutex::new(None);
        let (label, advice) = match self {
            Shortage::Descriptors => (
                "file_descriptors",
                "raise the hard limit of file descriptors (LimitNOFILE of systemd); a WebSocket needs two",
            ),
            Shortage::Memory => (
                "memory",
                "give the machine more memory, or fewer connections",
            ),
        };
        metrics.exhausted(label);
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() >= REMINDER) {
            *said = Some(Instant::now());
            tracing::error!(%error, "new connections wait, or are refused, until others end: {advice}");
        }
    }
}
