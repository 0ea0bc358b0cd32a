//! wsgate stands between WebSocket clients and the servers behind it, and reads every frame.
//!
//! Two promises follow. **Nothing invalid passes:** text is UTF-8, the protocol is kept, limits hold, in both
//! directions, or the offender is closed and the other side never receives the message. **The end of a connection is
//! told:** each side gets a Close that says whose doing it was, at a frame boundary.
//!
//! # Rooms
//!
//! | room | what it knows |
//! |---|---|
//! | [`duration`] | durations as people write them. Pure |
//! | [`frame`] | the wire: headers, masks, UTF-8, deflate, Close frames. Bytes in, values out |
//! | [`handshake`] | the opening handshake: a request and a 101. Pure |
//! | [`limit`] | token buckets, and what one client address may have. Pure |
//! | [`drain`] | who is closed, and when. Pure |
//! | [`admission`] | how fast upgrades reach the servers of an upstream, and who waits; ejection. Pure |
//! | [`inspect`] | one direction of a connection, frame by frame: what may pass; the table of what each side is told. Pure |
//! | [`session`] | one proxied WebSocket after its 101: its phases, limits, timers, frames of wsgate, outcome. Pure |
//! | [`tls`] | TLS toward clients and servers: certificates, verification, errors as sentences |
//! | [`metrics`], [`log`], `stdout` | every series; the log; what commands print |
//! | [`transport`] | addresses, sockets, PROXY headers, TLS streams; what the kernel knows of data under way |
//! | [`relay`] | bytes between two streams: the loop around a session, back-pressure, memory |
//! | [`deploy`] | what is taken for a deploy, and what carries the drains out |
//! | [`upstream`] | pools of servers: discovery, health checks, balancing, what operators drained |
//! | [`edge`] | HTTP toward clients: connections, request heads, routes, the upgrade; plain requests, by Pingora |
//! | [`admin`] | /metrics, /healthz, /readyz, /v1 |
//! | [`service`] | the process: its user, and what the service manager is told |
//! | [`config`] | the TOML as written and what it means; errors with their place |
//! | [`server`] | assembly, signals, reloads, the hand-over: the only room that uses all others |
//! | [`cli`], [`demo`] | the command line; the tour |
//!
//! A room uses rooms above it in this table, never below: `cli -> server -> {admin, config} -> edge -> upstream -> deploy -> relay -> transport -> metrics`, and
//! all of them to the pure rooms `session -> inspect -> {admission, drain, limit, handshake, frame}`. `tests/rooms.rs` holds this
//! order. Settings belong to the room that applies them.
//!
//! # Five trips
//!
//! **A message.** `relay` reads bytes of one side into that side's window (`relay::pipe`). `session` gives the window to
//! `inspect::Flow`, which walks the headers (`frame`) and inspects text and deflate. `session` adds limits and time, and says
//! how many bytes are forwarded. `relay` writes those, and behind them the frames that `session` makes at a frame boundary.
//! After each step `relay` arms its only timer for the earliest deadline of the session.
//!
//! **An upgrade.** `edge::connections` takes a connection, with its PROXY header and TLS, and reads a head
//! (`edge::http::head`). `edge::route` reads target, host and path, and finds the route. `edge::upgrade` checks the
//! handshake (`handshake`), the lists, the access service and the limits. It connects to a server of the upstream, sends the
//! request, and verifies the 101. Then `edge::upgrade::connection` enrolls the session with `deploy`, and `relay` runs it.
//! Over HTTP/2 (RFC 8441) a client's extended CONNECT becomes the head of HTTP/1.1 that asks for the same
//! (`edge::http2`), and its stream is a leg of the relay (`transport::http2_stream`). Toward servers `upstream::http2` has WebSockets
//! share connections.
//!
//! **A deploy.** An operator (`admin`), a failed check (`upstream::health_checks`, `deploy::Health`), a server's Close
//! (`deploy::restart`), discovery or a reload starts a drain in `deploy::Control`. `drain` decides in which order and at which
//! pace connections are closed, and looks at how upgrades go. `deploy` wakes the `relay::Handle` of each. Its session sends
//! Close 1012 at a message boundary, and delivers what the client sent before its answer.
//!
//! **A reload.** SIGHUP or `admin` reaches `server::reload`. `config` reads the file and reports each mistake with its place.
//! `server` binds what is new, and `edge::route::table::Table` is replaced in one step: connections keep the route that they had.
//! Servers that the file no longer has become `upstream::RemovedServers`, which are drained once a successor takes connections.
//!
//! **A crash.** The stream of a server ends without a Close. `session` makes of it a cause (`inspect::closing`): the client
//! gets 1012 with a delay, the server nothing. `edge::upgrade::connection` logs and counts the outcome, and tells
//! `upstream`, where a server that ends many sessions is ejected. The next upgrades go to other servers.
//!
//! # Lexicon
//!
//! One word per thing, in code, configuration, metrics and logs alike. A *client* asks for a connection; an *upstream*
//! is a named pool of *servers*; both are *sides* of the connection. What a side sends is a *flow* of *frames*, which
//! make up *messages*; a message of several frames has *fragments*. A *violation* is a rule broken, an *order* the
//! Close that a side is to be told, the *outcome* how the connection ended. A *listener* takes connections, a *route*
//! says which requests go to which upstream.

/// An enum of unit variants that lists them: `ALL` holds each of them, in the order of their declaration.
macro_rules! with_all {
    ($(#[$meta:meta])* $visible:vis enum $name:ident { $($(#[$about:meta])* $variant:ident,)+ }) => {
        $(#[$meta])*
        $visible enum $name {
            $($(#[$about])* $variant,)+
        }

        impl $name {
            /// Each variant, in the order of declaration.
            $visible const ALL: [$name; [$($name::$variant),+].len()] = [$($name::$variant),+];
        }
    };
}
pub(crate) use with_all;

pub mod admin;
pub mod admission;
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
pub mod limit;
pub mod log;
pub mod metrics;
pub mod relay;
pub mod server;
pub mod service;
pub mod session;
mod stdout;
pub mod tls;
pub mod transport;
pub mod upstream;
