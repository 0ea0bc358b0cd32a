//! The events of a session, as metrics and log lines.

use super::State;
use crate::inspect::{Kind, Mode};
use crate::metrics::Initiator;
use crate::session::Event;

impl State {
    /// Counts and logs what has happened since the last call.
    pub(super) fn report(&mut self) {
        let (metrics, route) = (&self.context.metrics, self.context.route.as_str());
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Violation {
                    by,
                    violation,
                    mode,
                } => {
                    metrics.violation(route, by, violation.kind, mode);
                    if mode == Mode::Observe {
                        let (side, kind) = (by.label(), violation.kind.label());
                        tracing::warn!(route, side, kind, %violation, "violation observed");
                    }
                }
                Event::CloseWithoutReason { by, code } => {
                    let kind = Kind::CloseReasonNotUtf8;
                    metrics.violation(route, by, kind, Mode::Enforce);
                    let (side, kind) = (by.label(), kind.label());
                    tracing::warn!(route, side, kind, code, "Close passed without its reason");
                }
                Event::SlowedDown { by, violation } => {
                    metrics.violation(route, by, violation.kind, Mode::Enforce);
                    let (side, kind) = (by.label(), violation.kind.label());
                    tracing::warn!(route, side, kind, %violation, "slowed down");
                }
                Event::Close { from, to, code } => {
                    metrics.close(from.map_or(Initiator::Wsgate, Initiator::Side), to, code);
                }
                Event::SlowReader { side, limit } => metrics.slow_reader(side, limit),
                Event::NoPong { side } => {
                    let side = side.label();
                    tracing::debug!(route, side, "side is gone: it answers no Ping");
                }
            }
        }
    }
}
