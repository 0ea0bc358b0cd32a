//! wsgate stands between WebSocket clients and the backends that serve them, and reads every frame.
//!
//! Two promises follow. **Nothing invalid passes:** text is UTF-8, the protocol is kept, limits hold, in both
//! directions, or the offender is closed and the other side never receives the message. **The end of a connection is
//! told:** each side gets a Close that says whose doing it was, at a frame boundary.
//!
//! # Rooms
//!
//! | room | what it knows |
//! |---|---|
//! | [`frame`] | the wire: headers, masks, UTF-8, deflate, Close frames. Bytes in, values out |
//! | [`handshake`] | the opening handshake: a request and a 101. Pure |
//! | [`edge`] | what of a request decides on its route: target, host, path. Pure |
//! | [`inspect`] | one direction of a connection, frame by frame: what may pass; the table of what each side is told. Pure |
//! | [`session`] | one proxied WebSocket after its 101: its phases, limits, timers, frames of wsgate, outcome. Pure |
//! | [`relay`] | bytes between two streams: the loop around a session, back-pressure, memory |
//! | [`drain`] | who is closed, and when. Pure |
//! | [`deploy`] | where deploys are learnt, and what carries the drains out |
//! | [`proxy`] | the seat on Pingora: listeners' connections, routes, servers, the upgrade |
//! | [`config`] | the TOML as written and what it means; errors with their place |
//! | [`metrics`], [`log`] | every series; the log |
//! | [`service`] | the process: its user, and what the service manager is told |
//! | [`admin`] | /metrics, /healthz, /readyz, /v1 |
//! | [`server`] | assembly, signals, reloads, the hand-over: the only one that knows everybody |
//! | [`cli`], [`demo`] | the command line; the tour |
//!
//! Arrows point down: `cli -> server -> {proxy, admin, config}`, `proxy -> {edge, handshake, relay, metrics}`,
//! `edge -> handshake`, `relay -> {session, metrics}`, `session -> inspect -> frame`. Settings belong to the room that obeys them.
//!
//! # Lexicon
//!
//! One word per thing, in code, configuration, metrics and logs alike. A *client* asks for a connection; an *upstream*
//! is a named pool of *servers*; both are *sides* of the connection. What a side sends is a *flow* of *frames*, which
//! make up *messages*; a message of several frames has *fragments*. A *violation* is a rule broken, an *order* the
//! Close that a side is to be told, the *outcome* how the connection ended. A *listener* takes connections, a *route*
//! says which requests go to which upstream.

pub mod admin;
pub mod cli;
pub mod config;
pub mod demo;
pub mod deploy;
pub mod drain;
pub mod duration;
pub mod edge;
pub mod frame;
pub mod handshake;
pub mod inspect;
pub mod log;
pub mod metrics;
pub mod proxy;
pub mod relay;
pub mod server;
pub mod service;
pub mod session;
pub mod tls;
