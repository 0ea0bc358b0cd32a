//! A connection to a server for an upgrade: to the first server of the balance that has room, or to the one whose turn it is
//! after a wait.

use crate::admission::limit::{ClientNetwork, HandshakeEnd};
use crate::duration::Shown;
use crate::log;
use crate::metrics::{Metrics, QueueEnd, Queued};
use crate::relay::Reservation;
use crate::tls::Offer;
use crate::transport::address::Address;
use crate::transport::exhaustion::Exhaustion;
use crate::transport::socket::Socket;
use crate::upstream::admitting::{AdmittedHandshake, WaitEnd};
use crate::upstream::http2::{Http2Lease, Opened};
use crate::upstream::settings::Http2;
use crate::upstream::{EjectionReason, Pool, Server, ServerPermit};
use rand::Rng;
use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{timeout, timeout_at};
use tracing::Level;

/// A connection to a server, on which the handshake has not begun.
#[derive(Debug)]
pub(crate) struct Connected {
    pub leg: ServerLeg,
    pub server: ServerPermit,
    /// To be told how the handshake ends.
    pub handshake: AdmittedHandshake,
    /// When the connect began.
    pub began: Instant,
}

/// Where the handshake with a server takes place.
#[derive(Debug)]
pub(crate) enum ServerLeg {
    /// On a connection of its own, in HTTP/1.1.
    Socket(Socket),
    /// On a stream of a connection of HTTP/2.
    Http2(Http2Lease),
}

/// The request of an upgrade to a pool.
pub(crate) struct Wish<'a> {
    /// The key of its balance, where that is by hash.
    pub key: Option<&'a [u8]>,
    /// The number of a server that has failed for this upgrade.
    pub avoid: Option<u32>,
    /// The network of its client.
    pub network: ClientNetwork,
    /// Counts the memory of an upgrade that waits; `None` where there is none left.
    pub reserve: &'a (dyn Fn() -> Option<Reservation> + Sync),
}

/// No server of a pool could be reached.
#[derive(Debug, Default)]
pub(crate) struct Unreachable {
    /// The last one failed by time-out.
    pub timed_out: bool,
    /// At least one was tried.
    pub is_tried: bool,
    /// One of those tried last [may be restarting](may_be_restarting).
    pub may_return: bool,
    /// There was no descriptor, memory or local port for a connection to one of them.
    pub exhausted: bool,
    /// The upgrade would have waited in vain: its client is to come again after this time.
    pub retry_after: Option<Duration>,
    /// The client left while it waited.
    pub is_abandoned: bool,
    /// No server had room within `queue_timeout`.
    pub is_expired: bool,
    /// The upgrade had to wait, and there was no memory for that.
    pub lacks_memory: bool,
}

/// The time after which servers are tried again where all of them could not be connected to: a server that restarts is found within
/// this time, and a closed port costs little. Jittered, so that those that wait do not come at once.
pub(crate) fn retry_pause() -> Duration {
    Duration::from_millis(rand::thread_rng().gen_range(150..250))
}

/// Whether a failure to connect looks like a server that restarts: nobody listens. A certificate that is not trusted, or a time-out,
/// will not be better in a moment.
pub(crate) fn may_be_restarting(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::UnexpectedEof
            | ErrorKind::NotFound
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    )
}

/// The result of one attempt to connect.
enum Attempt {
    Connected(Box<Connected>),
    /// The server has no room for one more connection.
    Full,
    Failed,
    /// No other server can be connected to either.
    Exhausted,
}

/// The result of trying each candidate once.
enum Round {
    Connected(Box<Connected>),
    /// None took the upgrade; one of them may have room for it later.
    None {
        lacks_room: bool,
    },
    /// No server can be connected to.
    Exhausted,
}

impl Pool {
    /// A connection to the first candidate that takes one. Where none has room, the upgrade waits for one up to `queue_timeout`,
    /// or until `client_left` is ready, which is polled only then.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        wish: &Wish<'_>,
        metrics: &Metrics,
        mut client_left: Pin<&mut (dyn Future<Output = ()> + Send)>,
    ) -> Result<Box<Connected>, Unreachable> {
        let (key, network) = (wish.key, wish.network);
        let deadline =
            tokio::time::Instant::now().into_std() + self.members().settings.queue_timeout;
        let mut unreachable = Unreachable::default();
        let mut queued: Option<(Queued, Reservation)> = None;
        // The servers that failed for this upgrade, by number.
        let mut failed: Vec<u32> = wish.avoid.into_iter().collect();
        // The handshake that a wait in the queue ended with.
        let mut turn: Option<AdmittedHandshake> = None;
        let (end, connected) = loop {
            let mut candidates = self.candidates(key);
            candidates.retain(|server| !failed.contains(&server.number));
            if let Some(handshake) = &turn {
                self.put_first(handshake.server(), &mut candidates);
            }
            let round = self.try_candidates(
                &candidates,
                wish,
                &mut turn,
                &mut failed,
                &mut unreachable,
                metrics,
            );
            let lacks_room = match round.await {
                Round::Connected(connected) => break (QueueEnd::Served, Some(connected)),
                Round::Exhausted => break (QueueEnd::Unreachable, None),
                Round::None { lacks_room } => lacks_room,
            };
            // Where the server of a turn is not there any more, the turn is given back.
            drop(turn.take());
            let must_retry = unreachable.is_tried && !lacks_room;
            let pause = retry_pause();
            let is_time = Instant::now() + pause < deadline;
            if must_retry && !(is_time && unreachable.may_return && !unreachable.exhausted) {
                break (QueueEnd::Unreachable, None);
            }
            let is_hashed = self.members().belongs_to_one(key, &candidates);
            let mut left = candidates.iter().map(|server| server.number);
            let first = left.find(|number| !failed.contains(number));
            let wanted = first.filter(|_| is_hashed);
            if queued.is_none() {
                let Some(memory) = (wish.reserve)() else {
                    unreachable.lacks_memory = true;
                    break (QueueEnd::Refused, None);
                };
                queued = Some((metrics.queue(&self.name), memory));
            }
            if must_retry {
                // The only server may be restarting: it is tried again until `queue_timeout` is over.
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = client_left.as_mut() => {
                        unreachable.is_abandoned = true;
                        break (QueueEnd::Abandoned, None);
                    }
                }
                // All are tried again but for the server that the request was sent to.
                failed.truncate(usize::from(wish.avoid.is_some()));
                unreachable.may_return = false;
                continue;
            }
            // Few upgrades wait, and all would carry the room for it.
            let wait = self.wait_for_turn(wanted, network, deadline, client_left.as_mut());
            match Box::pin(wait).await {
                WaitEnd::Begins(handshake) => turn = Some(handshake),
                WaitEnd::ChoosesAnew => {}
                WaitEnd::Refused(after) => {
                    unreachable.retry_after = Some(after);
                    break (QueueEnd::Refused, None);
                }
                WaitEnd::Expired => {
                    unreachable.is_expired = true;
                    break (QueueEnd::Expired, None);
                }
                WaitEnd::Abandoned => {
                    unreachable.is_abandoned = true;
                    break (QueueEnd::Abandoned, None);
                }
            }
        };
        if let Some((queued, _)) = queued {
            queued.end(end);
        }
        connected.ok_or(unreachable)
    }

    /// Tries each candidate once, in their order. `turn` is the handshake that a wait in the queue ended with.
    async fn try_candidates(
        self: &Arc<Self>,
        candidates: &[Arc<Server>],
        wish: &Wish<'_>,
        turn: &mut Option<AdmittedHandshake>,
        failed: &mut Vec<u32>,
        unreachable: &mut Unreachable,
        metrics: &Metrics,
    ) -> Round {
        let is_hashed = self.members().belongs_to_one(wish.key, candidates);
        let mut lacks_room = false;
        for server in candidates {
            // A backup takes the place of servers that cannot be reached, not of those that are busy.
            if lacks_room && server.is_backup() && !candidates[0].is_backup() {
                break;
            }
            let own_turn = turn.take_if(|turn| turn.server() == server.number);
            let admit = || self.try_admit(server.number, wish.network);
            // A key belongs to its server: the next one is tried only where that one fails.
            let Some(handshake) = own_turn.or_else(admit) else {
                lacks_room = true;
                if is_hashed {
                    break;
                }
                continue;
            };
            match self.open(server, handshake, unreachable, metrics).await {
                Attempt::Connected(connected) => return Round::Connected(connected),
                Attempt::Full => lacks_room = true,
                Attempt::Failed => failed.push(server.number),
                Attempt::Exhausted => return Round::Exhausted,
            }
        }
        Round::None { lacks_room }
    }

    /// The candidates, as soon as there are any, within `queue_timeout`; empty where there were none.
    pub(crate) async fn wait_for_candidates(&self, key: Option<&[u8]>) -> Vec<Arc<Server>> {
        let deadline = tokio::time::Instant::now() + self.members().settings.queue_timeout;
        loop {
            let changed = self.changed.notified();
            let candidates = self.candidates(key);
            if !candidates.is_empty() || timeout_at(deadline, changed).await.is_err() {
                return candidates;
            }
        }
    }

    /// Moves the server of this number to the front of the candidates, if the pool still has it.
    fn put_first(&self, number: u32, candidates: &mut Vec<Arc<Server>>) {
        let members = self.members();
        if let Some(server) = members.all().find(|server| server.number == number) {
            candidates.retain(|candidate| candidate.number != number);
            candidates.insert(0, server.clone());
        }
    }

    /// Connects to this server.
    async fn open(
        self: &Arc<Self>,
        server: &Arc<Server>,
        handshake: AdmittedHandshake,
        unreachable: &mut Unreachable,
        metrics: &Metrics,
    ) -> Attempt {
        let Some(permit) = server.occupy() else {
            return Attempt::Full;
        };
        let members = self.members();
        let settings = &members.settings;
        let address = &server.address;
        unreachable.is_tried = true;
        let began = Instant::now();
        let opening = async {
            if settings.http2 != Http2::Never {
                match Box::pin(server.open_http2(&members)).await? {
                    Opened::Http2(lease) => return Ok(ServerLeg::Http2(lease)),
                    Opened::Http1(Some(socket)) => return Ok(ServerLeg::Socket(socket)),
                    Opened::Http1(None) => {}
                }
            }
            let opening = Socket::open(
                address,
                server.name.as_deref(),
                settings.tls.as_ref(),
                settings.tcp,
                &settings.sources,
                Offer::Http1,
            );
            opening.await.map(ServerLeg::Socket)
        };
        let limit = settings.connect_timeout;
        match timeout(limit, opening).await {
            Ok(Ok(leg)) => {
                server.handle_connect();
                return Attempt::Connected(Box::new(Connected {
                    leg,
                    server: permit,
                    handshake,
                    began,
                }));
            }
            Ok(Err(error)) => {
                if let Some(exhaustion) = Exhaustion::of(&error) {
                    // An exhaustion of wsgate's own resources says nothing about the server.
                    exhaustion.report(metrics, &error);
                    unreachable.exhausted = true;
                    return match exhaustion.is_for_every_server() {
                        true => Attempt::Exhausted,
                        false => Attempt::Failed,
                    };
                }
                warn_unreachable(Some(&self.name), address, &error);
                unreachable.timed_out = false;
                unreachable.may_return |= may_be_restarting(&error);
            }
            Err(_) => {
                let late = format_args!("no connection within {}", Shown(limit)).to_string();
                warn_unreachable(Some(&self.name), address, &late);
                unreachable.timed_out = true;
            }
        }
        handshake.end(HandshakeEnd::Failed);
        self.handle_failure(server, EjectionReason::Unreachable, None, began, metrics);
        Attempt::Failed
    }
}

/// Says in the log that a server cannot be reached: once a minute, and how often meanwhile.
pub(crate) fn warn_unreachable(upstream: Option<&str>, server: &Address, error: &dyn fmt::Display) {
    const EVENT: &str = "server cannot be reached";
    match log::admit(Level::WARN, EVENT, server) {
        Some(more) => tracing::warn!(upstream, %server, %error, "{EVENT}{more}"),
        None => tracing::debug!(upstream, %server, %error, "{EVENT}"),
    }
}
