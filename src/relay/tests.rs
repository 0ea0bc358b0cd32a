//! A world of two ends and a false clock: what each end gets is all that counts.

mod buffers;
mod compressed;
mod limits;
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

impl ServerReconnectDelays for AsDrawn {
    fn delay(&self, _: u32, _: (Duration, Duration), drawn: Duration) -> Duration {
        drawn
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
        delays: Arc::new(AsDrawn),
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

#[tokio::test(start_paused = true)]
async fn what_each_side_is_told() {
    let text = |from, payload: &[u8]| frame(from, 0x81, payload);
    for (from, bytes, client_gets, upstream_gets) in [
        (
            Side::Client,
            text(Side::Client, BAD),
            Some(1007),
            Some(1001),
        ),
        (
            Side::Client,
            frame(Side::Client, 0xc1, b"x"),
            Some(1002),
            Some(1001),
        ),
        (
            Side::Client,
            frame(Side::Server, 0x81, b"no mask"),
            Some(1002),
            Some(1001),
        ),
        (
            Side::Client,
            frame(Side::Client, 0x82, &[0; 2000]),
            Some(1009),
            Some(1001),
        ),
        (
            Side::Server,
            text(Side::Server, BAD),
            Some(1011),
            Some(1007),
        ),
        (
            Side::Server,
            frame(Side::Client, 0x81, b"mask"),
            Some(1011),
            Some(1002),
        ),
        (
            Side::Server,
            frame(Side::Server, 0x82, &[0; 2000]),
            Some(1011),
            Some(1009),
        ),
        (
            Side::Server,
            close_frame(Side::Server, 1001, "bye"),
            Some(1012),
            Some(1001),
        ),
        (
            Side::Server,
            close_frame(Side::Server, 1012, ""),
            Some(1012),
            Some(1012),
        ),
        (
            Side::Server,
            close_frame(Side::Server, 1011, "oops"),
            Some(1011),
            Some(1011),
        ),
        (
            Side::Server,
            close_frame(Side::Server, 4001, "own"),
            Some(4001),
            Some(4001),
        ),
        (
            Side::Client,
            close_frame(Side::Client, 1000, ""),
            Some(1000),
            Some(1000),
        ),
        // A page that is left: the answer of the upstream must not become a restart.
        (
            Side::Client,
            close_frame(Side::Client, 1001, ""),
            Some(1001),
            Some(1001),
        ),
        (
            Side::Client,
            close_frame(Side::Client, 4001, ""),
            Some(4001),
            Some(4001),
        ),
    ] {
        let mut world = World::new(terms(Rules {
            max_frame_size: 1000,
            ..Rules::default()
        }));
        // Something good before it, which has to arrive.
        world.send(from, &text(from, b"good")).await;
        world.send(from, &bytes).await;
        let (client, upstream, outcome) = world.wind_up().await;
        assert_eq!(
            (client.code(), upstream.code()),
            (client_gets, upstream_gets),
            "{from:?} {bytes:02x?}"
        );
        let receiver = if from == Side::Client {
            &upstream
        } else {
            &client
        };
        assert_eq!(
            receiver.frames.len(),
            2,
            "the good message and the Close: {receiver:?}"
        );
        assert_eq!(receiver.frames[0].1, b"good");
        assert!(!outcome.timed_out);
        assert_eq!(outcome.cause.initiator(), from.label());
        assert_eq!((client.unfinished, upstream.unfinished), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_that_vanishes() {
    let mut world = World::new(terms(Rules::default()));
    world.vanish(Side::Server);
    let (client, _, outcome) = world.wind_up().await;
    let (code, reason) = client.close().expect("the client is told");
    assert_eq!(code, 1012);
    let delay = reason
        .strip_prefix("service restart; retry-after-ms=")
        .expect("with a delay");
    assert!(
        (1000..=5000).contains(&delay.parse().expect("a number")),
        "{reason}"
    );
    assert_eq!(outcome.cause, Cause::Vanished { by: Side::Server });
    assert_eq!(outcome.server_close, None);

    let mut world = World::new(terms(Rules::default()));
    world.vanish(Side::Client);
    let (_, upstream, outcome) = world.wind_up().await;
    assert_eq!(upstream.code(), Some(1001));
    assert_eq!(
        (outcome.client_close, outcome.server_close),
        (None, Some(Some(1001)))
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_side_sent_before_it_vanished_is_delivered() {
    for from in [Side::Client, Side::Server] {
        let mut world = World::new(terms(Rules::default()));
        world.send(from, &frame(from, 0x81, b"last words")).await;
        world.vanish(from);
        let (client, upstream, _) = world.wind_up().await;
        let got = if from == Side::Client {
            upstream
        } else {
            client
        };
        assert_eq!(got.frames[0].1, b"last words");
        assert_eq!(
            got.code(),
            Some(if from == Side::Client { 1001 } else { 1012 })
        );
    }
}

/// A Close of ours can only stand between frames: where a frame will never end, the stream does.
#[tokio::test(start_paused = true)]
async fn inside_a_frame_the_stream_ends_without_a_close() {
    let large = frame(Side::Server, 0x82, &vec![7; 200_000]);
    let mut world = World::new(terms(Rules::default()));
    world.send(Side::Server, &large[..100_000]).await;
    world.receive(Side::Client, 90_000).await;
    world.vanish(Side::Server);
    let mut rest = Vec::new();
    world
        .end(Side::Client)
        .read_to_end(&mut rest)
        .await
        .expect("it ends");
    assert!(rest == large[90_000..100_000], "no byte is added");

    // Text beyond the hold that turns bad: its valid beginning has passed, the message never completes.
    let mut bad = "ä".repeat(100_000).into_bytes();
    bad[150_001] = 0xff;
    let mut world = World::new(terms(Rules::default()));
    world
        .send(Side::Client, &frame(Side::Client, 0x81, &bad))
        .await;
    let (client, upstream, outcome) = world.wind_up().await;
    assert_eq!(client.code(), Some(1007));
    assert_eq!((upstream.frames.len(), outcome.server_close), (0, None));
    assert!(upstream.unfinished <= 150_000 + MAX_LEN && upstream.unfinished > 60_000);
}

/// The client is at fault while the upstream is inside a frame toward it: the frame ends, then comes the Close.
#[tokio::test(start_paused = true)]
async fn a_close_waits_for_the_end_of_the_frame_under_way() {
    let large = frame(Side::Server, 0x82, &vec![7; 100_000]);
    let mut world = World::new(terms(Rules::default()));
    world.send(Side::Server, &large[..50_000]).await;
    world.receive(Side::Client, 50_000).await;
    world
        .send(Side::Client, &frame(Side::Client, 0x81, BAD))
        .await;
    // The upstream is told at once.
    let told = world
        .receive(Side::Server, 6 + 2 + "client broke the protocol".len())
        .await;
    assert_eq!(Got::of(&told, Side::Server).code(), Some(1001));
    world.send(Side::Server, &large[50_000..]).await;
    world
        .send(Side::Server, &frame(Side::Server, 0x81, b"too late"))
        .await;
    let rest = world.receive(Side::Client, large.len() - 50_000).await;
    assert!(rest == large[50_000..], "the frame arrives whole");
    let (client, _, _) = world.wind_up().await;
    assert_eq!((client.frames.len(), client.code()), (1, Some(1007)));
}

#[tokio::test(start_paused = true)]
async fn who_breaks_a_rule_and_goes_on_sending_still_gets_its_close() {
    let mut world = World::with_buffers(terms(Rules::default()), 4096);
    let (mut reader, mut writer) = tokio::io::split(world.client.take().expect("there"));
    let sender = tokio::spawn(async move {
        writer.write_all(&frame(Side::Client, 0x81, BAD)).await?;
        for _ in 0..100 {
            writer
                .write_all(&frame(Side::Client, 0x82, &[0; 100_000]))
                .await?;
        }
        writer.write_all(&close_frame(Side::Client, 1007, "")).await
    });
    let upstream = tokio::spawn(answering(world.upstream.take(), Side::Server));
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.expect("no reset");
    assert_eq!(Got::of(&bytes, Side::Client).code(), Some(1007));
    sender.await.expect("joined").expect("all of it was taken");
    assert_eq!(upstream.await.expect("read").frames.len(), 1);
    let outcome = world.relay.await.expect("no panic");
    assert!(
        !outcome.timed_out,
        "its Close was found in what was discarded"
    );
}

#[tokio::test(start_paused = true)]
async fn who_never_answers_is_cut_in_time() {
    let started = Instant::now();
    let mut world = World::new(terms(Rules::default()));
    world
        .send(Side::Client, &frame(Side::Client, 0x81, BAD))
        .await;
    let outcome = (&mut world.relay).await.expect("no panic");
    assert!(outcome.timed_out);
    let took = started.elapsed();
    assert!(
        took >= Duration::from_secs(5) && took < Duration::from_secs(6),
        "{took:?}"
    );

    // The upstream never answers the client's Close: the client gets its answer all the same.
    let mut world = World::new(terms(Rules::default()));
    let silent = world.upstream.take();
    world
        .send(Side::Client, &close_frame(Side::Client, 1000, ""))
        .await;
    let (client, _, outcome) = world.wind_up().await;
    assert_eq!(client.code(), Some(1000));
    assert!(outcome.timed_out);
    drop(silent);

    // It is gone instead of answering.
    let mut world = World::new(terms(Rules::default()));
    world
        .send(Side::Client, &close_frame(Side::Client, 4000, ""))
        .await;
    world.receive(Side::Server, 8).await;
    world.vanish(Side::Server);
    let (client, _, outcome) = world.wind_up().await;
    assert_eq!(client.code(), Some(4000));
    assert_eq!(
        outcome.cause,
        Cause::Closed {
            by: Side::Client,
            code: Some(4000)
        }
    );
}

/// Who broke a rule sees the end of the stream right behind its Close, whatever it waits for, and what it sends meanwhile is
/// discarded. Nobody else does before its answer.
#[tokio::test(start_paused = true)]
async fn the_end_follows_the_close_of_who_broke_a_rule() {
    let mut world = World::new(terms(Rules::default()));
    let started = Instant::now();
    world
        .send(Side::Client, &frame(Side::Client, 0x81, BAD))
        .await;
    let mut got = Vec::new();
    let client = world.end(Side::Client);
    client.read_to_end(&mut got).await.expect("no reset");
    assert_eq!(Got::of(&got, Side::Client).code(), Some(1007));
    assert_eq!(started.elapsed(), Duration::ZERO);
    // Discarded, for as long as it does not say that it is done.
    for _ in 0..3 {
        let late = frame(Side::Client, 0x82, &[0; 300_000]);
        world.send(Side::Client, &late).await;
    }
    assert!(!world.relay.is_finished());
    let answer = close_frame(Side::Client, 1007, "");
    world.send(Side::Client, &answer).await;
    let (_, upstream, outcome) = world.wind_up().await;
    assert_eq!((upstream.frames.len(), upstream.code()), (1, Some(1001)));
    assert!(!outcome.timed_out);

    let bad = frame(Side::Server, 0x81, BAD);
    let restarts = close_frame(Side::Server, 1012, "");
    let closes = close_frame(Side::Server, 4000, "");
    for sent in [Some(bad), Some(restarts), Some(closes), None] {
        let mut world = World::new(terms(Rules::default()));
        match sent {
            Some(sent) => world.send(Side::Server, &sent).await,
            None => world.handle.drain(drain::Cause::Operator),
        }
        let head = world.receive(Side::Client, 2).await;
        world.receive(Side::Client, usize::from(head[1])).await;
        let client = world.end(Side::Client);
        let end = tokio::time::timeout(Duration::from_secs(1), client.read_u8());
        assert!(end.await.is_err(), "the end came before the answer");
        let answer = close_frame(Side::Client, 1000, "");
        world.send(Side::Client, &answer).await;
        let (_, _, outcome) = world.wind_up().await;
        assert!(!outcome.timed_out);
    }
}

/// A server's reason that is no text, as a library leaves it that cuts at 123 bytes: the client is told the code, which is
/// the application's, and the handshake goes its way. A client's is a violation.
#[tokio::test(start_paused = true)]
async fn a_garbled_reason_does_not_take_the_code_with_it() {
    let garbled = |from, code: u16| {
        let reason = ["ö".repeat(60).as_bytes(), b"!!\xC3"].concat();
        frame(from, 0x88, &[&code.to_be_bytes()[..], &reason].concat())
    };
    for (code, told) in [(4001, 4001), (1000, 1000), (1001, 1012)] {
        let terms = terms(Rules::default());
        let mut world = World::new(terms.clone());
        let sent = [
            frame(Side::Server, 0x81, b"last words"),
            garbled(Side::Server, code),
        ];
        world.send(Side::Server, &sent.concat()).await;
        let (client, upstream, outcome) = world.wind_up().await;
        assert_eq!(client.frames[0].1, b"last words");
        let (got, reason) = client.close().expect("it is told");
        assert_eq!(got, told);
        assert_eq!(reason.is_empty(), told == code, "{reason}");
        assert_eq!(upstream.code(), Some(code), "its answer");
        assert_eq!(outcome.client_close, Some(Some(told)));
        assert!(!outcome.timed_out);
        if told == code {
            let by = Side::Server;
            let code = Some(code);
            assert_eq!(outcome.cause, Cause::Closed { by, code });
        }
        let metrics = String::from_utf8(terms.metrics.render()).expect("text");
        let line = "wsgate_violations_total{kind=\"close_reason_not_utf8\",side=\"server\"} 1\n";
        assert!(metrics.contains(line), "{metrics}");
    }
    // As the answer to the client's own Close.
    let mut world = World::new(terms(Rules::default()));
    let closes = close_frame(Side::Client, 1000, "");
    world.send(Side::Client, &closes).await;
    world.receive(Side::Server, closes.len()).await;
    let answer = garbled(Side::Server, 4001);
    world.send(Side::Server, &answer).await;
    let (client, _, outcome) = world.wind_up().await;
    assert_eq!(client.close(), Some((4001, String::new())));
    assert!(!outcome.timed_out);

    let mut world = World::new(terms(Rules::default()));
    let closes = garbled(Side::Client, 4001);
    world.send(Side::Client, &closes).await;
    let (client, upstream, _) = world.wind_up().await;
    assert_eq!((client.code(), upstream.code()), (Some(1007), Some(1001)));
}

#[tokio::test(start_paused = true)]
async fn nothing_passes_after_a_close() {
    let mut world = World::new(terms(Rules::default()));
    let late = [
        close_frame(Side::Client, 1000, ""),
        frame(Side::Client, 0x81, b"late"),
    ]
    .concat();
    world.send(Side::Client, &late).await;
    let (_, upstream, _) = world.wind_up().await;
    assert_eq!(upstream.frames.len(), 1, "{upstream:?}");
}

/// Whoever does not read stops the other side, and the relay holds no more than it says.
#[tokio::test(start_paused = true)]
async fn back_pressure() {
    const PIPE: usize = 4096;
    for from in [Side::Client, Side::Server] {
        let mut world = World::with_buffers(terms(Rules::default()), PIPE);
        let bytes = frame(from, 0x82, &[1; 10_000]).repeat(200);
        let mut end = if from == Side::Client {
            world.client.take()
        } else {
            world.upstream.take()
        }
        .expect("there");
        let mut taken = 0;
        // The clock is false: this waits until nothing moves any more, not for a second.
        while let Ok(n) =
            tokio::time::timeout(Duration::from_secs(1), end.write(&bytes[taken..])).await
        {
            taken += n.expect("the relay is there");
        }
        assert!(
            taken <= 2 * PIPE + CHUNK,
            "{from:?}: {taken} bytes are held for a reader that does not read"
        );
        assert!(taken >= 2 * PIPE);
        let received = world.receive(from.other(), taken - PIPE).await;
        assert!(
            received == bytes[..taken - PIPE],
            "what is received is what was sent"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_text_frame_is_held_until_it_is_whole() {
    let bytes = frame(Side::Client, 0x81, "Grüße, 世界 🌍".as_bytes());
    let mut world = World::new(terms(Rules::default()));
    for byte in &bytes[..bytes.len() - 1] {
        world.send(Side::Client, &[*byte]).await;
    }
    let early =
        tokio::time::timeout(Duration::from_secs(1), world.end(Side::Server).read_u8()).await;
    assert!(early.is_err(), "a byte passed before the frame was whole");
    world.send(Side::Client, &bytes[bytes.len() - 1..]).await;
    assert_eq!(world.receive(Side::Server, bytes.len()).await, bytes);
}

#[tokio::test(start_paused = true)]
async fn what_came_with_the_handshake_is_not_lost() {
    let (mut client, near_client) = duplex(4096);
    let (mut upstream, near_upstream) = duplex(4096);
    let (early, greeting) = (
        frame(Side::Client, 0x81, b"early"),
        frame(Side::Server, 0x81, b"welcome"),
    );
    let cut = early.len() - 2;
    let relay = Relay::new(
        terms(Rules::default()),
        Arc::default(),
        None,
        (near_client, BytesMut::from(&early[..cut])),
        (near_upstream, BytesMut::from(&greeting[..])),
    );
    let relay = tokio::spawn(relay);
    client.write_all(&early[cut..]).await.expect("taken");
    let mut got = vec![0; early.len()];
    upstream.read_exact(&mut got).await.expect("it arrives");
    assert_eq!(got, early);
    let mut got = vec![0; greeting.len()];
    client.read_exact(&mut got).await.expect("it arrives");
    assert_eq!(got, greeting);
    relay.abort();
}

/// What is held back while the end of a frame or a message is waited for is looked at again when more of it has come, and
/// not before: a relay that looks for ever moves nothing else of its thread.
#[tokio::test(start_paused = true)]
async fn waiting_for_an_end_is_no_work() {
    // A drain waits for the end of the message; the last frame of it is held, and half of it is there.
    let mut world = World::new(terms(Rules::default()));
    world
        .send(Side::Server, &frame(Side::Server, 0x01, b"first "))
        .await;
    world.receive(Side::Client, 8).await;
    let last = frame(Side::Server, 0x80, b"last");
    world.handle.drain(drain::Cause::Operator);
    world.send(Side::Server, &last[..4]).await;
    quiet().await;
    world.send(Side::Server, &last[4..]).await;
    world.receive(Side::Client, last.len()).await;
    let (client, _, _) = world.wind_up().await;
    assert_eq!(client.code(), Some(1012));

    // A Close waits for the end of a text frame that passes in chunks; the last chunk ends inside a code point.
    let text = frame(Side::Client, 0x81, "ä".repeat(40_000).as_bytes());
    let mut world = World::new(terms(Rules::default()));
    world.send(Side::Client, &text[..70_001]).await;
    world.receive(Side::Server, 70_000).await;
    world
        .send(Side::Server, &frame(Side::Server, 0xc1, b"x"))
        .await;
    quiet().await;
    world.send(Side::Client, &text[70_001..75_001]).await;
    quiet().await;
    world.send(Side::Client, &text[75_001..]).await;
    let (_, upstream, _) = world.wind_up().await;
    assert_eq!(upstream.code(), Some(1002));
}

#[tokio::test(start_paused = true)]
async fn observing_passes_everything_and_counts_it() {
    let rules = Rules {
        mode: Mode::Observe,
        ..Rules::default()
    };
    let terms = terms(rules);
    let mut world = World::new(terms.clone());
    let bytes = [
        frame(Side::Client, 0x81, BAD),
        frame(Side::Client, 0xc1, BAD),
        frame(Side::Client, 0x81, b"fine"),
    ]
    .concat();
    world.send(Side::Client, &bytes).await;
    assert_eq!(world.receive(Side::Server, bytes.len()).await, bytes);
    world
        .send(Side::Client, &close_frame(Side::Client, 1000, ""))
        .await;
    let (client, upstream, _) = world.wind_up().await;
    assert_eq!((client.code(), upstream.code()), (Some(1000), Some(1000)));
    let metrics = String::from_utf8(terms.metrics.render()).expect("text");
    for kind in [Kind::TextNotUtf8, Kind::CompressionNotAgreed] {
        let line = format!(
            "wsgate_violations_total{{kind=\"{}\",side=\"client\"}} 1",
            kind.label()
        );
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_can_pass_restarts_on() {
    let terms = with_settings(Settings {
        closing: Policy {
            upstream_close: UpstreamClose::Pass,
            ..Policy::default()
        },
        ..Settings::default()
    });
    let mut world = World::new(Arc::new(terms));
    world
        .send(Side::Server, &close_frame(Side::Server, 1012, "deploy"))
        .await;
    let (client, upstream, _) = world.wind_up().await;
    assert_eq!(client.close(), Some((1012, "deploy".to_owned())));
    assert_eq!(upstream.code(), Some(1012));
}

/// A session of both sides, cut off after every byte of either: the relay always ends, and what passed is a prefix.
#[tokio::test(start_paused = true)]
async fn a_peer_may_vanish_at_every_byte() {
    let session = |from| {
        let frames = [
            frame(from, 0x01, "Grü".as_bytes()),
            frame(from, 0x89, b"ping"),
            frame(from, 0x80, "ße".as_bytes()),
            frame(from, 0x82, &[0xff; 300]),
            close_frame(from, 1000, "done"),
        ];
        frames.concat()
    };
    for from in [Side::Client, Side::Server] {
        let bytes = session(from);
        for end in 0..bytes.len() {
            let mut world = World::new(terms(Rules::default()));
            world.send(from, &bytes[..end]).await;
            world.vanish(from);
            let (client, upstream, outcome) = world.wind_up().await;
            let got = if from == Side::Client {
                upstream
            } else {
                client
            };
            assert_eq!(outcome.cause, Cause::Vanished { by: from });
            let whole = Got::of(&bytes[..end], from.other());
            let (passed, told) = got.frames.split_at(whole.frames.len());
            assert_eq!(passed, whole.frames, "after {end} bytes");
            match told {
                [(0x88, _)] => assert_eq!(got.unfinished, 0),
                [] => assert!(
                    got.unfinished > 0 && whole.unfinished > 0,
                    "without a Close only inside a frame"
                ),
                more => panic!("{more:?} after {end} bytes"),
            }
        }
    }
}

/// Until nothing moves any more.
async fn quiet() {
    // The clock is false: it moves on only when every task waits.
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_of_an_idle_connection() {
    let mut world = World::new(terms(Rules::default()));
    quiet().await;
    world.handle.drain(drain::Cause::Operator);
    world.handle.drain(drain::Cause::Deploy);
    let mut told = vec![0; 2 + 2 + "service restart; retry-after-ms=1000".len()];
    world
        .end(Side::Client)
        .read_exact(&mut told)
        .await
        .expect("it is told");
    assert_eq!(Got::of(&told, Side::Client).code(), Some(1012));
    // What the client sends before its own Close is delivered, however long after ours was sent.
    for text in [&b"under way"[..], b"and this"] {
        world
            .send(Side::Client, &frame(Side::Client, 0x81, text))
            .await;
        quiet().await;
    }
    world
        .send(Side::Client, &close_frame(Side::Client, 1012, ""))
        .await;
    let (_, upstream, outcome) = world.wind_up().await;
    let payloads: Vec<_> = upstream
        .frames
        .iter()
        .map(|(_, payload)| payload.as_slice())
        .collect();
    assert_eq!(payloads[..2], [&b"under way"[..], b"and this"]);
    assert_eq!(upstream.code(), Some(1001));
    assert_eq!(
        outcome.cause,
        Cause::Drained {
            by: drain::Cause::Operator
        }
    );
    assert!(!outcome.timed_out);
}

/// Neither a half-sent frame, nor fragments with a Ping between them, are cut by a drain within its grace.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_end_of_the_message() {
    let message = [
        frame(Side::Server, 0x02, &[1; 100_000]),
        frame(Side::Server, 0x89, b"ping"),
        frame(Side::Server, 0x80, &[2; 1000]),
    ]
    .concat();
    let after = frame(Side::Server, 0x81, b"too late");
    for cut in [1, 50_000, 100_010, 100_012, 100_020, message.len() - 1] {
        let mut world = World::new(terms(Rules::default()));
        world.send(Side::Server, &message[..cut]).await;
        quiet().await;
        world.handle.drain(drain::Cause::Deploy);
        quiet().await;
        world
            .send(Side::Server, &[&message[cut..], &after].concat())
            .await;
        let (client, upstream, _) = world.wind_up().await;
        let opcodes: Vec<u8> = client.frames.iter().map(|(first, _)| *first).collect();
        // Where nothing of the message had passed yet, it does not begin.
        let whole = [0x02, 0x89, 0x80, 0x88];
        assert!(
            opcodes == whole || (cut == 1 && opcodes == [0x88]),
            "{opcodes:02x?} at {cut}"
        );
        assert_eq!((client.code(), upstream.code()), (Some(1012), Some(1001)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_end_has_its_grace() {
    let started = Instant::now();
    let mut world = World::new(terms(Rules::default()));
    world
        .send(Side::Server, &frame(Side::Server, 0x01, b"first fragment"))
        .await;
    quiet().await;
    world.handle.drain(drain::Cause::Deploy);
    let (client, _, outcome) = world.wind_up().await;
    assert_eq!(client.code(), Some(1012), "at the end of the frame, then");
    assert!(started.elapsed() >= Duration::from_secs(5));
    assert!(!outcome.timed_out);
}

/// A server that closes because it restarts is answered after the client: what that sent before it saw its own Close is
/// delivered. So it is where the server closes during a drain.
#[tokio::test(start_paused = true)]
async fn a_server_that_restarts_gets_what_was_on_its_way() {
    for drained in [false, true] {
        let mut world = World::new(terms(Rules::default()));
        quiet().await;
        if drained {
            world.handle.drain(drain::Cause::Operator);
            quiet().await;
        }
        world
            .send(Side::Server, &close_frame(Side::Server, 1001, "bye"))
            .await;
        quiet().await;
        let mut told = vec![0; 2 + 2 + "service restart; retry-after-ms=1000".len()];
        world
            .end(Side::Client)
            .read_exact(&mut told)
            .await
            .expect("it is told");
        assert_eq!(Got::of(&told, Side::Client).code(), Some(1012));
        world
            .send(Side::Client, &frame(Side::Client, 0x81, b"under way"))
            .await;
        quiet().await;
        world
            .send(Side::Client, &close_frame(Side::Client, 1012, ""))
            .await;
        let (_, upstream, outcome) = world.wind_up().await;
        assert_eq!(upstream.frames[0].1, b"under way", "drained: {drained}");
        assert_eq!(upstream.code(), Some(1001), "its own code is echoed");
        assert!(!outcome.timed_out);
    }
}

/// wsgate itself ends before the grace of a message is over.
#[tokio::test(start_paused = true)]
async fn a_last_call_waits_for_nothing_but_the_frame() {
    let started = Instant::now();
    let mut world = World::new(terms(Rules::default()));
    world
        .send(Side::Server, &frame(Side::Server, 0x01, b"first fragment"))
        .await;
    quiet().await;
    world.handle.drain(drain::Cause::Shutdown);
    quiet().await;
    world.handle.hurry();
    let (client, _, outcome) = world.wind_up().await;
    assert_eq!(client.code(), Some(1012));
    assert!(!outcome.timed_out);

    for _ in 0..20 {
        let mut world = World::new(terms(Rules::default()));
        world.vanish(Side::Server);
        quiet().await;
        world.handle.drain(drain::Cause::Shutdown);
        world.handle.hurry();
        let (client, _, _) = world.wind_up().await;
        assert_eq!(client.code(), Some(1012));
    }
    assert!(started.elapsed() < Duration::from_secs(1));
}

/// Whoever never answers, on either side, does not keep the connection.
#[tokio::test(start_paused = true)]
async fn a_drain_ends_without_answers() {
    let mut world = World::new(terms(Rules::default()));
    quiet().await;
    world.handle.drain(drain::Cause::Deploy);
    let client = world.client.take();
    let upstream = tokio::spawn(answering(world.upstream.take(), Side::Server));
    let outcome = world.relay.await.expect("no panic");
    assert!(outcome.timed_out);
    assert_eq!(
        upstream.await.expect("read").code(),
        Some(1001),
        "it is told in the end"
    );
    drop(client);

    let mut world = World::new(terms(Rules::default()));
    quiet().await;
    world.handle.drain(drain::Cause::Deploy);
    let silent = world.upstream.take();
    let (client, _, outcome) = world.wind_up().await;
    assert_eq!(client.code(), Some(1012));
    assert_eq!(outcome.server_close, Some(Some(1001)));
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn a_drain_before_the_first_poll_and_after_the_end() {
    let world = World::new(terms(Rules::default()));
    world.handle.drain(drain::Cause::Deploy);
    let (client, _, _) = world.wind_up().await;
    assert_eq!(client.code(), Some(1012));

    let mut world = World::new(terms(Rules::default()));
    world
        .send(Side::Client, &close_frame(Side::Client, 1000, ""))
        .await;
    world.receive(Side::Server, 8).await;
    world.handle.drain(drain::Cause::Deploy);
    world
        .send(Side::Server, &close_frame(Side::Server, 1000, ""))
        .await;
    let (client, _, outcome) = world.wind_up().await;
    assert_eq!(
        client.code(),
        Some(1000),
        "a connection that ends is not drained"
    );
    assert_eq!(
        outcome.cause,
        Cause::Closed {
            by: Side::Client,
            code: Some(1000)
        }
    );
}

/// A stream that takes and gives as many bytes at a time as it likes, often none.
struct Choppy {
    inner: DuplexStream,
    rng: StdRng,
}

impl Choppy {
    /// How many bytes this time; `None` for not now.
    fn next(&mut self, cx: &Context<'_>) -> Option<usize> {
        if self.rng.gen_ratio(1, 3) {
            cx.waker().wake_by_ref();
            return None;
        }
        Some(1 << self.rng.gen_range(0..15))
    }
}

impl Delivery for DuplexStream {
    fn delivered(&self) -> Option<u64> {
        None
    }

    fn memory(&self) -> usize {
        0
    }

    fn finish_with_next(&self) {}
}

impl Delivery for Choppy {
    fn delivered(&self) -> Option<u64> {
        None
    }

    fn memory(&self) -> usize {
        0
    }

    fn finish_with_next(&self) {}
}

impl AsyncRead for Choppy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(most) = self.next(cx) else {
            return Poll::Pending;
        };
        let mut part = vec![0; most.min(buf.remaining())];
        let mut into = ReadBuf::new(&mut part);
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, &mut into))?;
        buf.put_slice(into.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Choppy {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(most) = self.next(cx) else {
            return Poll::Pending;
        };
        Pin::new(&mut self.inner).poll_write(cx, &buf[..most.min(buf.len())])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.next(cx).is_none() {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn random_session(from: Side, rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.gen_range(1..12) {
        let len = [3, 125, 126, 4000, 65_535, 65_536, 200_000][rng.gen_range(0..7)];
        let text: String = (0..)
            .map(|_| ['a', 'ß', '世', '🌍'][rng.gen_range(0..4)])
            .take(len / 2)
            .collect();
        let (first, payload) = if rng.gen_bool(0.5) {
            (0x81, text.into_bytes())
        } else {
            (0x82, vec![rng.r#gen(); len])
        };
        let cut = rng.gen_range(0..=payload.len());
        if rng.gen_bool(0.3) {
            bytes.extend(frame(from, first & 0x0f, &payload[..cut]));
            bytes.extend(frame(from, 0x89, b"between"));
            bytes.extend(frame(from, 0x80, &payload[cut..]));
        } else {
            bytes.extend(frame(from, first, &payload));
        }
    }
    bytes
}

/// Whatever the sizes of reads and writes, both directions at once, every byte arrives unchanged and in order.
#[tokio::test(start_paused = true)]
async fn every_byte_arrives_however_the_streams_behave() {
    let seed = std::env::var("WSGATE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("WSGATE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..30 {
        let size = 1 << rng.gen_range(6..18);
        let (client, near_client) = duplex(size);
        let (upstream, near_upstream) = duplex(size);
        let mut choppy = |inner| Choppy {
            inner,
            rng: StdRng::seed_from_u64(rng.r#gen()),
        };
        let (near_client, near_upstream) = (choppy(near_client), choppy(near_upstream));
        let terms = terms(Rules::default());
        tokio::spawn(Relay::new(
            terms,
            Arc::default(),
            None,
            (near_client, BytesMut::new()),
            (near_upstream, BytesMut::new()),
        ));
        let (from_client, from_upstream) = (
            random_session(Side::Client, &mut rng),
            random_session(Side::Server, &mut rng),
        );
        let talk = |end: DuplexStream, sends: Vec<u8>, gets: Vec<u8>| async move {
            let (mut reader, mut writer) = tokio::io::split(end);
            let sender = tokio::spawn(async move {
                writer.write_all(&sends).await.expect("it is taken");
                writer
            });
            let mut got = vec![0; gets.len()];
            reader.read_exact(&mut got).await.expect("it arrives");
            assert!(
                got == gets,
                "seed {seed}: what arrives is not what was sent"
            );
            sender.await.expect("joined")
        };
        tokio::join!(
            talk(client, from_client.clone(), from_upstream.clone()),
            talk(upstream, from_upstream, from_client),
        );
    }
}

/// What each connection costs besides its sockets; a change that keeps the handshake alive would show here.
/// Tasks are allocated in steps of 128 bytes, so that one pointer more can cost all of them.
#[test]
fn a_relay_is_small() {
    let size = size_of::<Relay<Box<u8>, Box<u8>>>();
    assert!(size <= 480, "{size} bytes");
}

fn watched(ping_interval: [u64; 2], idle_timeout: u64) -> Arc<RouteContext> {
    let liveness = Liveness {
        ping_interval: ping_interval.map(Duration::from_secs),
        pong_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(idle_timeout),
    };
    Arc::new(with_settings(Settings {
        liveness,
        ..Settings::default()
    }))
}

/// The Ping that a side gets next, unmasked.
async fn ping_of(world: &mut World, side: Side) -> Vec<u8> {
    let masked = 4 * usize::from(side == Side::Server);
    let bytes = world.receive(side, 2 + masked + 8).await;
    let got = Got::of(&bytes, side);
    assert_eq!(got.frames[0].0, 0x89);
    got.frames[0].1.clone()
}

/// Each silent side is asked, answers, and nobody else hears of it; the Pongs and Pings of others pass.
#[tokio::test(start_paused = true)]
async fn pings_are_answered_and_nobody_else_hears_of_it() {
    let started = Instant::now();
    let mut world = World::new(watched([20, 20], 0));
    for turn in 1..=3 {
        for side in [Side::Server, Side::Client] {
            let said = ping_of(&mut world, side).await;
            world.send(side, &frame(side, 0x8A, &said)).await;
        }
        assert!(started.elapsed() >= Duration::from_secs(20 * turn));
        quiet().await;
    }
    let foreign = [
        frame(Side::Client, 0x8A, b"12345678"),
        frame(Side::Client, 0x8A, b""),
        frame(Side::Client, 0x89, b"you?"),
        frame(Side::Client, 0x81, b"text"),
    ]
    .concat();
    world.send(Side::Client, &foreign).await;
    world.receive(Side::Server, foreign.len()).await;
    world
        .send(Side::Client, &close_frame(Side::Client, 1000, ""))
        .await;
    let (_, upstream, outcome) = world.wind_up().await;
    assert_eq!(upstream.code(), Some(1000));
    assert_eq!(outcome.from_client.messages, 1);
}

/// A Pong of ours in the middle of others' frames, at every cut: it alone is missing on the other side.
#[tokio::test(start_paused = true)]
async fn our_pong_is_taken_out_wherever_it_is() {
    let whole = |said: &[u8]| {
        [
            frame(Side::Client, 0x01, b"first "),
            frame(Side::Client, 0x8A, said),
            frame(Side::Client, 0x8A, b"other..."),
            frame(Side::Client, 0x80, b"last"),
        ]
    };
    let length = whole(&[0; 8]).concat().len();
    for cut in 0..length {
        let mut world = World::new(watched([30, 0], 0));
        let said = ping_of(&mut world, Side::Client).await;
        let frames = whole(&said);
        let (sent, expected) = (
            frames.concat(),
            [&frames[0][..], &frames[2], &frames[3]].concat(),
        );
        world.send(Side::Client, &sent[..cut]).await;
        quiet().await;
        world.send(Side::Client, &sent[cut..]).await;
        let got = world.receive(Side::Server, expected.len()).await;
        assert!(got == expected, "cut at {cut}");
    }
}

/// A peer that reads and never answers; one that goes on sending is alive without answering.
#[tokio::test(start_paused = true)]
async fn who_never_answers_is_gone() {
    let started = Instant::now();
    let mut world = World::new(watched([30, 0], 0));
    ping_of(&mut world, Side::Client).await;
    let silent = world.client.take();
    let (_, upstream, outcome) = world.wind_up().await;
    assert_eq!(upstream.code(), Some(1001), "the upstream is told");
    assert_eq!(outcome.cause, Cause::Vanished { by: Side::Client });
    let after = started.elapsed();
    assert!((40..42).contains(&after.as_secs()), "{after:?}");
    drop(silent);

    let mut world = World::new(watched([0, 30], 0));
    ping_of(&mut world, Side::Server).await;
    let silent = world.upstream.take();
    let (client, _, outcome) = world.wind_up().await;
    assert_eq!(client.code(), Some(1012), "as of a server that crashed");
    assert_eq!(outcome.cause, Cause::Vanished { by: Side::Server });
    drop(silent);

    let mut world = World::new(watched([30, 0], 0));
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        world
            .send(Side::Client, &frame(Side::Client, 0x81, b"busy"))
            .await;
    }
    assert!(!world.relay.is_finished());
}

/// Its Pongs would stand behind what the upstream does not take.
#[tokio::test(start_paused = true)]
async fn who_is_not_read_is_not_gone() {
    let mut world = World::with_buffers(watched([5, 0], 0), 1 << 10);
    let message = frame(Side::Client, 0x82, &vec![7; 2 * CHUNK]);
    let (mut client, sent) = (world.client.take().unwrap(), message.clone());
    let sending = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client
    });
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(!world.relay.is_finished());
    let got = world.receive(Side::Server, message.len()).await;
    assert!(got == message);
    world.client = Some(sending.await.unwrap());
    ping_of(&mut world, Side::Client).await;
}

/// A Ping waits for the end of the frame under way.
#[tokio::test(start_paused = true)]
async fn a_ping_stands_between_frames() {
    let mut world = World::new(watched([30, 0], 0));
    let message = frame(Side::Server, 0x82, &[7; 1000]);
    world.send(Side::Server, &message[..500]).await;
    tokio::time::sleep(Duration::from_secs(35)).await;
    world.send(Side::Server, &message[500..]).await;
    let got = world.receive(Side::Client, message.len()).await;
    assert!(got == message, "the frame is whole");
    ping_of(&mut world, Side::Client).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_whatever_it_answers() {
    let started = Instant::now();
    let mut world = World::new(watched([20, 0], 60));
    tokio::time::sleep(Duration::from_secs(10)).await;
    world
        .send(Side::Client, &frame(Side::Client, 0x81, b"the last word"))
        .await;
    for _ in 0..2 {
        let said = ping_of(&mut world, Side::Client).await;
        world
            .send(Side::Client, &frame(Side::Client, 0x8A, &said))
            .await;
    }
    let (client, upstream, outcome) = world.wind_up().await;
    assert_eq!((client.code(), upstream.code()), (Some(1001), Some(1001)));
    assert_eq!(outcome.cause, Cause::Idle);
    let after = started.elapsed();
    assert!((70..72).contains(&after.as_secs()), "{after:?}");
}

/// A stream that is told so keeps what it is given until its end follows, which after any other Close may be long.
#[tokio::test(start_paused = true)]
async fn only_the_answer_to_a_clients_close_leaves_with_the_end() {
    for (closer, times) in [(Side::Client, 1), (Side::Server, 0)] {
        let (mut client, near_client) = duplex(4096);
        let (mut upstream, near_upstream) = duplex(4096);
        let finished: Arc<AtomicU64> = Arc::default();
        let near_client = Slow {
            inner: near_client,
            delivered: Arc::default(),
            finished: finished.clone(),
        };
        let relay = tokio::spawn(Relay::new(
            Arc::new(plain(Rules::default())),
            Arc::default(),
            None,
            (near_client, BytesMut::new()),
            (near_upstream, BytesMut::new()),
        ));
        let text = frame(Side::Server, 0x81, b"before it");
        upstream.write_all(&text).await.expect("taken");
        let end = match closer {
            Side::Client => &mut client,
            Side::Server => &mut upstream,
        };
        let close = close_frame(closer, 1000, "");
        end.write_all(&close).await.expect("taken");
        let (told, answered) = tokio::join!(
            answering(Some(client), Side::Client),
            answering(Some(upstream), Side::Server)
        );
        assert_eq!((told.code(), answered.code()), (Some(1000), Some(1000)));
        assert_eq!(
            relay.await.expect("no panic").cause.initiator(),
            closer.label()
        );
        assert_eq!(finished.load(Ordering::Relaxed), times, "{closer:?}");
    }
}
