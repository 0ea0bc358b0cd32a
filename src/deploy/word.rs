//! The backend's own word: a server that closes with 1001 or 1012 is restarting. One such Close may be about one
//! connection; several of them within a moment are about the server, and its other clients are drained ahead of its death.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// When a server's own Closes are taken for its restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Several {
    /// This many of them; 0 for never.
    pub closes: usize,
    /// Within this time.
    pub within: Duration,
}

impl Default for Several {
    fn default() -> Self {
        Several {
            closes: 3,
            within: Duration::from_secs(1),
        }
    }
}

/// The Closes of late, by upstream and server.
#[derive(Debug, Default)]
pub(super) struct Word {
    recent: HashMap<(u32, u32), VecDeque<Instant>>,
}

impl Word {
    /// A server has closed a connection with 1001 or 1012. Whether that makes several.
    pub fn handle_close(&mut self, server: (u32, u32), now: Instant, several: Several) -> bool {
        if several.closes == 0 {
            return false;
        }
        let recent = self.recent.entry(server).or_default();
        recent.push_back(now);
        while recent
            .front()
            .is_some_and(|first| now.saturating_duration_since(*first) > several.within)
        {
            recent.pop_front();
        }
        let is_restart = recent.len() >= several.closes;
        if is_restart {
            // Said once: the next of them come from the drain that this begins.
            recent.clear();
        }
        is_restart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_within_a_moment_are_a_restart() {
        let (mut word, start) = (Word::default(), Instant::now());
        let mut close = |server, ms| {
            word.handle_close(
                (0, server),
                start + Duration::from_millis(ms),
                Several::default(),
            )
        };
        // One now and then is nothing, nor are those of different servers.
        assert!(!close(0, 0) && !close(0, 900) && !close(0, 1900));
        assert!(!close(1, 1900) && !close(2, 1900));
        assert!(!close(0, 1920));
        assert!(close(0, 1950), "three within a second");
        assert!(!close(0, 1960), "it was said");
    }

    #[test]
    fn none_are_never_several() {
        let never = Several {
            closes: 0,
            ..Several::default()
        };
        assert!(!Word::default().handle_close((0, 0), Instant::now(), never));
    }
}
