//! The end of a connection: what each side is told, by cause. One table, [`orders`].

use super::{Side, Violation};
use crate::drain;
use crate::frame::close;
use std::time::Duration;

/// The Close that a client gets when its server closes with 1001 or 1012.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamClose {
    /// The client gets the restart code, with a suggested delay. The default.
    #[default]
    Translate,
    /// The client gets the upstream's code and reason, unchanged.
    Pass,
}

/// How connections of a route are ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long the closing handshake may take before the connection is cut.
    pub close_timeout: Duration,
    /// Close code of a restart toward clients: 1012 (the default), 1001 or 4000-4999.
    pub restart_code: u16,
    /// How long a drain waits for the end of the message under way toward the client.
    pub message_grace: Duration,
    /// Bounds of the delay that a restart suggests to a client, drawn for each of them.
    pub reconnect_after: (Duration, Duration),
    /// The Close that a client gets when its server closes with 1001 or 1012.
    pub upstream_close: UpstreamClose,
    /// Close code toward the client where its upstream broke a rule: 1011 (the default), or 4000-4999.
    pub upstream_fault_code: u16,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            close_timeout: Duration::from_secs(5),
            message_grace: Duration::from_secs(5),
            restart_code: close::SERVICE_RESTART,
            reconnect_after: (Duration::from_secs(1), Duration::from_secs(5)),
            upstream_close: UpstreamClose::Translate,
            upstream_fault_code: close::INTERNAL_ERROR,
        }
    }
}

impl Policy {
    /// Whether an upstream's Close with this code, sent of its own accord, is told to the client as a restart.
    pub fn translates(&self, code: Option<u16>) -> bool {
        self.upstream_close == UpstreamClose::Translate
            && matches!(code, Some(close::GOING_AWAY | close::SERVICE_RESTART))
    }
}

/// Why a connection ends. The first cause decides; what happens after it belongs to the closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A side broke a rule.
    Violation {
        /// The side that broke it.
        by: Side,
        /// Which, and where.
        violation: Violation,
    },
    /// A side sent a Close, which is passed on as it is.
    Closed {
        /// The side that sent it.
        by: Side,
        /// `None` where it was empty.
        code: Option<u16>,
    },
    /// The upstream sent a Close that means a restart, and the policy translates it.
    ServerRestarts {
        /// 1001 or 1012.
        code: u16,
    },
    /// The connection is drained: a deploy, an operator, the end of wsgate itself.
    Drained {
        /// Why.
        by: drain::Cause,
    },
    /// A side is gone without a Close: end of stream, an error of its socket, or no answer to a Ping.
    Vanished {
        /// The side that is gone.
        by: Side,
    },
    /// A side took nothing of what waited for it, for as long as the route allows.
    Stalled {
        /// The side that took nothing.
        by: Side,
    },
    /// Nothing has passed for as long as the route allows.
    Idle,
    /// An operator has closed the connection with this code.
    Operator {
        /// Of the client's Close.
        code: u16,
    },
    /// More is kept in memory for readers than may be, and this connection has one of the slowest.
    Overload,
}

impl Cause {
    /// Each [initiator](Cause::initiator) with each of its [labels](Cause::label).
    pub const ENDS: [(&str, &str); 13] = [
        ("client", "violation"),
        ("server", "violation"),
        ("client", "closed"),
        ("server", "closed"),
        ("server", "restart"),
        ("deploy", "drained"),
        ("client", "vanished"),
        ("server", "vanished"),
        ("client", "stalled"),
        ("server", "stalled"),
        ("operator", "closed"),
        ("wsgate", "idle"),
        ("wsgate", "overload"),
    ];

    /// Its name in logs and metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Cause::Violation { .. } => "violation",
            Cause::Closed { .. } | Cause::Operator { .. } => "closed",
            Cause::ServerRestarts { .. } => "restart",
            Cause::Drained { .. } => "drained",
            Cause::Vanished { .. } => "vanished",
            Cause::Stalled { .. } => "stalled",
            Cause::Idle => "idle",
            Cause::Overload => "overload",
        }
    }

    /// Whether the end of the stream follows right behind the Close that the client is told: nothing that it sends is
    /// accepted any more, and it may be one that waits for the server to end the connection (RFC 6455 §7.1.1). What it sends
    /// is still read and discarded, or it would be reset before it has read the Close.
    ///
    /// Only a client that broke a rule is treated so. One that did nothing wrong answers, and the end follows its answer;
    /// some libraries take an end before it for a connection that broke, and would not report the code. What a client sends
    /// in answer to a restart is even delivered.
    pub const fn ends_client_at_once(&self) -> bool {
        match self {
            Cause::Violation {
                by: Side::Client, ..
            } => true,
            Cause::Violation {
                by: Side::Server, ..
            }
            | Cause::Closed { .. }
            | Cause::ServerRestarts { .. }
            | Cause::Drained { .. }
            | Cause::Vanished { .. }
            | Cause::Stalled { .. }
            | Cause::Idle
            | Cause::Operator { .. }
            | Cause::Overload => false,
        }
    }

    /// The originator of the end: `client`, `server`, `deploy`, `operator` or `wsgate`.
    pub const fn initiator(&self) -> &'static str {
        match self {
            Cause::Violation { by, .. }
            | Cause::Closed { by, .. }
            | Cause::Vanished { by }
            | Cause::Stalled { by } => by.label(),
            Cause::ServerRestarts { .. } => Side::Server.label(),
            Cause::Drained { .. } => "deploy",
            Cause::Operator { .. } => "operator",
            Cause::Idle | Cause::Overload => "wsgate",
        }
    }
}

/// The Close for one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// No frame of ours: the other side's Close reaches it unchanged, or nobody is there.
    Nothing,
    /// A Close of ours.
    Close {
        /// `None` for an empty one.
        code: Option<u16>,
        /// At most 123 bytes are sent of it.
        reason: String,
    },
    /// A Close of ours that asks the client to reconnect.
    Restart {
        /// [`Policy::restart_code`].
        code: u16,
        /// When the client is to come back.
        delay: Duration,
        /// The server's other clients are told at the same moment.
        is_crowd: bool,
    },
}

/// The reason of a Close that asks a client to reconnect after a delay.
pub fn restart_reason(delay: Duration) -> String {
    format!("service restart; retry-after-ms={}", delay.as_millis())
}

/// The Closes for both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// Toward the client.
    pub client: Order,
    /// Toward the upstream.
    pub upstream: Order,
}

/// The table: what each side is told when a connection ends for this cause.
///
/// `delay` is what a restart suggests to this client, between the bounds of [`Policy::reconnect_after`]; `reason` is that of an
/// operator's Close.
pub fn orders(cause: &Cause, policy: &Policy, delay: Duration, reason: &str) -> Orders {
    let close = |code, reason| Order::Close {
        code: Some(code),
        reason,
    };
    let restart = |is_crowd| Order::Restart {
        code: policy.restart_code,
        delay,
        is_crowd,
    };
    match *cause {
        Cause::Violation {
            by: Side::Client,
            violation,
        } => Orders {
            client: close(violation.kind.code(), violation.to_string()),
            upstream: close(close::GOING_AWAY, "client broke the protocol".to_owned()),
        },
        // Never the offender's code: the client did nothing wrong.
        Cause::Violation {
            by: Side::Server,
            violation,
        } => Orders {
            client: close(
                policy.upstream_fault_code,
                format!("the server sent bad data: {violation}"),
            ),
            upstream: close(violation.kind.code(), violation.to_string()),
        },
        Cause::Closed { .. } => Orders {
            client: Order::Nothing,
            upstream: Order::Nothing,
        },
        Cause::ServerRestarts { code } => Orders {
            client: restart(true),
            // §5.5.1: "the endpoint typically echos the status code it received".
            upstream: close(code, String::new()),
        },
        // The upstream only once the client has answered: what the client sent before that is still delivered.
        // A drain has a pace of its own.
        Cause::Drained { .. } => Orders {
            client: restart(false),
            upstream: close(close::GOING_AWAY, "client moves on".to_owned()),
        },
        // A side that takes no bytes cannot get a Close.
        Cause::Stalled { by: Side::Client } => Orders {
            client: Order::Nothing,
            upstream: close(close::GOING_AWAY, "client does not read".to_owned()),
        },
        Cause::Vanished { by: Side::Server } | Cause::Stalled { by: Side::Server } => Orders {
            client: restart(true),
            upstream: Order::Nothing,
        },
        Cause::Vanished { by: Side::Client } => Orders {
            client: Order::Nothing,
            upstream: close(close::GOING_AWAY, "client is gone".to_owned()),
        },
        // No restart: who has nothing to say is not asked to come back at once.
        Cause::Idle => Orders {
            client: close(close::GOING_AWAY, "idle for too long".to_owned()),
            upstream: close(close::GOING_AWAY, "idle for too long".to_owned()),
        },
        Cause::Operator { code } => Orders {
            client: close(code, reason.to_owned()),
            upstream: close(close::GOING_AWAY, "closed by an operator".to_owned()),
        },
        Cause::Overload => Orders {
            client: close(
                close::TRY_AGAIN_LATER,
                format!("overloaded; retry-after-ms={}", delay.as_millis()),
            ),
            upstream: close(close::GOING_AWAY, "overloaded".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{Kind, Place};

    fn codes(cause: Cause, policy: &Policy) -> (Option<u16>, Option<u16>) {
        let code = |order| match order {
            Order::Nothing => None,
            Order::Close { code, .. } => code,
            Order::Restart { code, .. } => Some(code),
        };
        let orders = orders(&cause, policy, Duration::from_millis(2400), "");
        (code(orders.client), code(orders.upstream))
    }

    #[test]
    fn each_end_is_listed() {
        let mut causes = vec![
            Cause::ServerRestarts { code: 1012 },
            Cause::Drained {
                by: drain::Cause::Deploy,
            },
            Cause::Idle,
            Cause::Operator { code: 4000 },
            Cause::Overload,
        ];
        for by in Side::ALL {
            let violation = Violation::new(Kind::MaskMissing, Place::Frame(0));
            causes.extend([
                Cause::Violation { by, violation },
                Cause::Closed { by, code: None },
                Cause::Vanished { by },
                Cause::Stalled { by },
            ]);
        }
        let mut ends: Vec<_> = causes
            .iter()
            .map(|cause| (cause.initiator(), cause.label()))
            .collect();
        let mut listed = Cause::ENDS.to_vec();
        ends.sort_unstable();
        listed.sort_unstable();
        assert_eq!(ends, listed);
    }

    /// The table of the design, row by row: what the client gets, what the upstream gets.
    #[test]
    fn what_each_side_is_told() {
        let policy = Policy::default();
        for (kind, place, code) in [
            (Kind::TextNotUtf8, Place::Message(5), 1007),
            (Kind::ReservedOpcode, Place::Frame(5), 1002),
            (Kind::MessageTooBig, Place::Limit(5), 1009),
            (Kind::TooManyFragments, Place::Limit(5), 1008),
        ] {
            let violation = Violation::new(kind, place);
            let by = |by| Cause::Violation { by, violation };
            assert_eq!(codes(by(Side::Client), &policy), (Some(code), Some(1001)));
            assert_eq!(codes(by(Side::Server), &policy), (Some(1011), Some(code)));
        }
        for code in [1001, 1012] {
            let cause = Cause::ServerRestarts { code };
            assert_eq!(codes(cause, &policy), (Some(1012), Some(code)));
        }
        for cause in [|by| Cause::Vanished { by }, |by| Cause::Stalled { by }] {
            assert_eq!(codes(cause(Side::Server), &policy), (Some(1012), None));
            assert_eq!(codes(cause(Side::Client), &policy), (None, Some(1001)));
        }
        assert_eq!(codes(Cause::Overload, &policy), (Some(1013), Some(1001)));
        for by in [Side::Client, Side::Server] {
            assert_eq!(
                codes(
                    Cause::Closed {
                        by,
                        code: Some(4000)
                    },
                    &policy
                ),
                (None, None)
            );
        }
    }

    #[test]
    fn a_drain_is_a_restart_to_the_client_and_1001_to_the_upstream() {
        let policy = Policy::default();
        let cause = Cause::Drained {
            by: drain::Cause::Operator,
        };
        assert_eq!(codes(cause, &policy), (Some(1012), Some(1001)));
    }

    #[test]
    fn only_a_client_that_broke_a_rule_sees_the_end_before_its_answer() {
        let violation = Violation::new(Kind::TextNotUtf8, Place::Message(0));
        let by = |by| Cause::Violation { by, violation };
        assert!(by(Side::Client).ends_client_at_once());
        for cause in [
            by(Side::Server),
            Cause::ServerRestarts { code: 1012 },
            Cause::Drained {
                by: drain::Cause::Operator,
            },
            Cause::Vanished { by: Side::Server },
            Cause::Idle,
            Cause::Overload,
        ] {
            assert!(!cause.ends_client_at_once(), "{cause:?}");
        }
    }

    #[test]
    fn a_route_can_name_other_codes() {
        let policy = Policy {
            restart_code: 4012,
            upstream_fault_code: 4011,
            ..Policy::default()
        };
        let violation = Violation::new(Kind::MaskPresent, Place::Frame(0));
        let fault = Cause::Violation {
            by: Side::Server,
            violation,
        };
        assert_eq!(codes(fault, &policy), (Some(4011), Some(1002)));
        assert_eq!(
            codes(Cause::Vanished { by: Side::Server }, &policy),
            (Some(4012), None)
        );
    }

    #[test]
    fn reasons_tell_what_to_do() {
        let violation = Violation::new(Kind::TextNotUtf8, Place::Message(5));
        let cause = Cause::Violation {
            by: Side::Client,
            violation,
        };
        let Order::Close { reason, .. } =
            orders(&cause, &Policy::default(), Duration::ZERO, "").client
        else {
            panic!("the client is told");
        };
        assert_eq!(
            reason,
            "invalid UTF-8 at byte 5 of the message; send raw bytes as binary"
        );
        let cause = Cause::Vanished { by: Side::Server };
        let delay = Duration::from_millis(2400);
        let orders = orders(&cause, &Policy::default(), delay, "");
        assert_eq!(
            orders.client,
            Order::Restart {
                code: 1012,
                delay,
                is_crowd: true
            }
        );
        assert_eq!(
            restart_reason(delay),
            "service restart; retry-after-ms=2400"
        );
    }

    #[test]
    fn only_restarts_are_translated() {
        let policy = Policy::default();
        for code in 1000..5000 {
            assert_eq!(policy.translates(Some(code)), code == 1001 || code == 1012);
        }
        assert!(!policy.translates(None));
        let pass = Policy {
            upstream_close: UpstreamClose::Pass,
            ..policy
        };
        assert!(!pass.translates(Some(1012)));
    }
}
