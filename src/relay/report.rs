//! The events of a session, as metrics and log lines.

use super::{About, State};
use crate::inspect::{Kind, Mode};
use crate::metrics::Initiator;
use crate::session::Event;

impl State {
    /// Counts and logs what has happened since the last call.
    pub(super) fn report(&mut self) {
        let (metrics, route) = (&self.context.metrics, self.context.route.as_str());
        let about = self.handle.about();
        let server = || self.context.servers.address(self.handle.server());
        // The fields of every line about a rule that was broken; `$more` are those of one event.
        macro_rules! warn {
            ($by:ident, $kind:expr, $message:literal, $($more:tt)*) => {
                tracing::warn!(
                    route,
                    server = server(),
                    peer = about.map(About::peer),
                    client = about.map(|about| tracing::field::display(about.client())),
                    side = $by.label(),
                    kind = $kind.label(),
                    $($more)*,
                    $message
                )
            };
        }
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Violation {
                    by,
                    violation,
                    mode,
                } => {
                    metrics.violation(route, by, violation.kind, mode);
                    if mode == Mode::Observe {
                        warn!(by, violation.kind, "violation observed", %violation);
                    }
                }
                Event::CloseWithoutReason { by, code } => {
                    let kind = Kind::CloseReasonNotUtf8;
                    metrics.violation(route, by, kind, Mode::Enforce);
                    warn!(by, kind, "Close passed without its reason", code);
                }
                Event::SlowedDown { by, violation } => {
                    metrics.violation(route, by, violation.kind, Mode::Enforce);
                    warn!(by, violation.kind, "slowed down", %violation);
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
