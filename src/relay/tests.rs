//! A world of two ends and a false clock: what each end gets is all that counts.

mod buffers;
mod compressed;
mod drains;
mod ends;
mod limits;
mod liveness;
mod passing;
mod random;
mod stall;
mod turns;

use super::*;
use crate::drain;
use crate::frame::header;
use crate::frame::header::MAX_LEN;
use crate::frame::mask::Mask;
use crate::frame::{Opcode, close};
use crate::inspect::closing::{Cause, Policy, UpstreamClose};
use crate::inspect::{Kind, Mode, Rules};
use crate::session::{Beyond, Limits, Liveness, Rates};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stall::Slow;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const KEY: [u8; 4] = [0x11, 0x22, 0xf3, 0x44];

/// A frame as this side sends it.
fn frame(from: Side, first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = (from == Side::Client).then_some(KEY);
    let mut head = [0; MAX_LEN];
    let len = header::encode(Opcode::Text, payload.len() as u64, mask, &mut head);
    head[0] = first;
    let mut frame = [&head[..len], payload].concat();
    if let Some(key) = mask {
        Mask::new(key).apply(&mut frame[len..]);
    }
    frame
}

fn close_frame(from: Side, code: u16, reason: &str) -> Vec<u8> {
    frame(
        from,
        0x88,
        &[&code.to_be_bytes(), reason.as_bytes()].concat(),
    )
}

/// What a side got: whole frames by opcode and unmasked payload, and whether bytes of an unfinished one followed.
#[derive(Debug, PartialEq)]
struct Got {
    frames: Vec<(u8, Vec<u8>)>,
    unfinished: usize,
}

impl Got {
    fn of(mut bytes: &[u8], to: Side) -> Got {
        let mut frames = Vec::new();
        while let Some(header) = header::decode(bytes) {
            let end = header.len + header.payload_len as usize;
            if bytes.len() < end {
                break;
            }
            assert_eq!(
                header.mask.is_some(),
                to == Side::Server,
                "only what goes to the upstream is masked"
            );
            let mut payload = bytes[header.len..end].to_vec();
            if let Some(key) = header.mask {
                Mask::new(key).apply(&mut payload);
            }
            frames.push((header.first.0, payload));
            bytes = &bytes[end..];
        }
        Got {
            frames,
            unfinished: bytes.len(),
        }
    }

    /// Code and reason of the last frame, if it is a Close.
    fn close(&self) -> Option<(u16, String)> {
        let (first, payload) = self.frames.last()?;
        let close = close::parse(payload).ok().filter(|_| *first == 0x88)?;
        Some((close.code?, close.reason.to_owned()))
    }

    fn code(&self) -> Option<u16> {
        self.close().map(|(code, _)| code)
    }
}

struct World {
    handle: Arc<Handle>,
    client: Option<DuplexStream>,
    upstream: Option<DuplexStream>,
    relay: JoinHandle<Outcome>,
}

/// The delay that was drawn, however many clients there are.
struct AsDrawn;

impl Servers for AsDrawn {
    fn delay(&self, _: u32, _: (Duration, Duration), drawn: Duration) -> Duration {
        drawn
    }

    fn address(&self, _: u32) -> Option<String> {
        None
    }
}

fn terms(rules: Rules) -> Arc<RouteContext> {
    Arc::new(plain(rules))
}

/// A context that says nothing but these rules.
fn plain(rules: Rules) -> RouteContext {
    with_settings(Settings {
        rules,
        ..Settings::default()
    })
}

/// A context with these settings.
fn with_settings(settings: Settings) -> RouteContext {
    let metrics = Arc::new(Metrics::new());
    RouteContext {
        route: "test".to_owned(),
        settings: Arc::new(settings),
        buffers: Arc::new(Buffers::new(metrics.clone())),
        metrics,
        servers: Arc::new(AsDrawn),
    }
}

impl World {
    fn new(terms: Arc<RouteContext>) -> World {
        World::with_buffers(terms, 1 << 20)
    }

    fn with_buffers(terms: Arc<RouteContext>, size: usize) -> World {
        World::with_compression(terms, size, None)
    }

    fn with_compression(terms: Arc<RouteContext>, size: usize, agreed: Option<Deflate>) -> World {
        let (client, near_client) = duplex(size);
        let (upstream, near_upstream) = duplex(size);
        let handle = Arc::<Handle>::default();
        let relay = Relay::new(
            terms,
            handle.clone(),
            agreed,
            (near_client, BytesMut::new()),
            (near_upstream, BytesMut::new()),
        );
        World {
            handle,
            client: Some(client),
            upstream: Some(upstream),
            relay: tokio::spawn(relay),
        }
    }

    fn end(&mut self, side: Side) -> &mut DuplexStream {
        let end = if side == Side::Client {
            &mut self.client
        } else {
            &mut self.upstream
        };
        end.as_mut().expect("the side is still there")
    }

    async fn send(&mut self, from: Side, bytes: &[u8]) {
        self.end(from)
            .write_all(bytes)
            .await
            .expect("the relay still reads");
    }

    /// The next bytes that a side gets, exactly `n`.
    async fn receive(&mut self, side: Side, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.end(side)
            .read_exact(&mut bytes)
            .await
            .expect("the bytes come");
        bytes
    }

    /// The side is gone without a word.
    fn vanish(&mut self, side: Side) {
        if side == Side::Client {
            self.client = None
        } else {
            self.upstream = None
        }
    }

    /// Both sides answer the Close that they get, until the relay is over: what they got from now on.
    async fn wind_up(mut self) -> (Got, Got, Outcome) {
        let client = tokio::spawn(answering(self.client.take(), Side::Client));
        let upstream = tokio::spawn(answering(self.upstream.take(), Side::Server));
        let outcome = self.relay.await.expect("the relay does not panic");
        (
            client.await.expect("read"),
            upstream.await.expect("read"),
            outcome,
        )
    }
}

/// Reads to the end and answers the first Close, as a good peer does.
async fn answering(end: Option<DuplexStream>, side: Side) -> Got {
    let mut bytes = Vec::new();
    let mut answered = false;
    if let Some(mut end) = end {
        while end
            .read_buf(&mut bytes)
            .await
            .expect("a pipe does not break")
            > 0
        {
            let got = Got::of(&bytes, side);
            if let Some(code) = got.code().filter(|_| !answered) {
                answered = true;
                // The relay may be over already.
                let _ = end.write_all(&close_frame(side, code, "")).await;
            }
        }
    }
    Got::of(&bytes, side)
}

const BAD: &[u8] = b"caf\xc3\x28";

/// Until nothing moves any more.
async fn quiet() {
    // The clock is false: it moves on only when every task waits.
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// What each connection costs besides its sockets; a change that keeps the handshake alive would show here.
/// Tasks are allocated in steps of 128 bytes, so that one pointer more can cost all of them.
#[test]
fn a_relay_is_small() {
    let size = size_of::<Relay<Box<u8>, Box<u8>>>();
    assert!(size <= 480, "{size} bytes");
}

/// The Ping that a side gets next, unmasked.
async fn ping_of(world: &mut World, side: Side) -> Vec<u8> {
    let masked = 4 * usize::from(side == Side::Server);
    let bytes = world.receive(side, 2 + masked + 8).await;
    let got = Got::of(&bytes, side);
    assert_eq!(got.frames[0].0, 0x89);
    got.frames[0].1.clone()
}

/// The line of the metrics for one violation of this kind by this side.
fn violated(by: Side, kind: Kind, mode: Mode) -> String {
    let (side, kind, mode) = (by.label(), kind.label(), mode.label());
    format!(
        "wsgate_violations_total{{kind=\"{kind}\",mode=\"{mode}\",route=\"test\",side=\"{side}\"}} 1\n"
    )
}
