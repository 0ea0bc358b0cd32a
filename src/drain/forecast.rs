//! Forecasts of drains.

use super::conductor::{Conductor, drain_rate};
use super::plan;
use super::{Forecast, Pace, Selection, Terms};
use std::time::Duration;

impl<H: Clone> Conductor<H> {
    /// The forecast of a drain that would start now. Changes nothing.
    pub fn forecast(&self, selection: Selection, terms: Terms) -> Forecast {
        let members = self.count(selection);
        let deadline = terms.deadline_in_force();
        let lasts = match terms.pace {
            Pace::Adaptive => self.estimate(selection, members, deadline),
            pace => plan::duration(pace, members, deadline, 0.0),
        };
        let (lasts, raised) = (lasts.min(deadline), lasts > deadline);
        let rate = match lasts.is_zero() {
            true => 0.0,
            false => members as f64 / lasts.as_secs_f64(),
        };
        Forecast {
            members,
            lasts,
            deadline,
            rate,
            raised,
        }
    }

    /// The slowest of the upstreams, as they are drained side by side.
    fn estimate(&self, selection: Selection, members: usize, deadline: Duration) -> Duration {
        let upstreams: Vec<u32> = match selection {
            Selection::Server { upstream, .. }
            | Selection::Upstream { upstream }
            | Selection::OlderThan { upstream, .. }
            | Selection::Excess { upstream } => vec![upstream],
            Selection::Member(_) => Vec::new(),
            Selection::Everything => {
                let mut all: Vec<u32> = self.places().map(|(place, _)| place.upstream).collect();
                all.dedup();
                all
            }
        };
        upstreams
            .into_iter()
            .map(|upstream| {
                let here = self.count(Selection::Upstream { upstream }).min(members);
                let rate = drain_rate(&self.pulses, upstream);
                plan::duration(Pace::Adaptive, here, deadline, rate)
            })
            .max()
            .unwrap_or_default()
    }
}
