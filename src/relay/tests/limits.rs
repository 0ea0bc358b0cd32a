//! Limits per second: what passes, what each side is told, and when the rest comes.

use super::compressed::{agreed, zeros};
use super::*;

/// What a side may send per second, and what follows beyond it.
fn limited(from: Side, rates: Rates, beyond: Beyond, mode: Mode) -> Arc<RouteContext> {
    let mut limits = Limits {
        beyond,
        ..Limits::default()
    };
    limits.rates[from as usize] = rates;
    let rules = Rules {
        mode,
        ..Rules::default()
    };
    Arc::new(with_settings(Settings {
        limits,
        rules,
        ..Settings::default()
    }))
}

const MESSAGES: Rates = Rates {
    messages: 10,
    bytes: 0,
    control: 0,
    inflated: 0,
};
const BYTES: Rates = Rates {
    messages: 0,
    bytes: 1000,
    control: 0,
    inflated: 0,
};
const CONTROL: Rates = Rates {
    messages: 0,
    bytes: 0,
    control: 5,
    inflated: 0,
};

fn counted(terms: &RouteContext, from: Side, kind: Kind) -> bool {
    let text = String::from_utf8(terms.metrics.render()).expect("text");
    let mut lines = Mode::ALL.map(|mode| violated(from, kind, mode)).into_iter();
    lines.any(|line| text.contains(&line))
}

/// A limit and what it means.
struct Case {
    rates: Rates,
    /// What may come at once, to the byte.
    within: Vec<u8>,
    /// One more of what is counted.
    beyond: Vec<u8>,
    kind: Kind,
    reason: &'static str,
}

fn cases(from: Side) -> [Case; 3] {
    let overhead = 2 + 4 * usize::from(from == Side::Client);
    let [text, ping, pong] = [0x81, 0x89, 0x8a].map(|first| frame(from, first, b"x"));
    let fragments = [frame(from, 0x02, b"a"), frame(from, 0x80, b"b")];
    [
        Case {
            rates: MESSAGES,
            // A fragmented one is one, and control frames are none.
            within: [&text.repeat(9), &fragments[0], &ping, &fragments[1], &pong]
                .map(Vec::as_slice)
                .concat(),
            beyond: text.clone(),
            kind: Kind::MessageRate,
            reason: "more messages than the limit of 10 per second",
        },
        Case {
            rates: BYTES,
            within: frame(from, 0x81, &vec![b'x'; 100 - overhead]).repeat(10),
            beyond: frame(from, 0x81, b""),
            kind: Kind::ByteRate,
            reason: "more bytes than the limit of 1000 per second",
        },
        Case {
            rates: CONTROL,
            within: [ping.repeat(3), pong.repeat(2), text.repeat(30)].concat(),
            beyond: ping,
            kind: Kind::ControlRate,
            reason: "more control frames than the limit of 5 per second",
        },
    ]
}

/// All that is within the limit passes, to the byte, in whatever pieces it comes; what is beyond it does not.
#[tokio::test(start_paused = true)]
async fn beyond_a_limit_is_1008() {
    for from in [Side::Client, Side::Server] {
        for Case {
            rates,
            within,
            beyond,
            kind,
            reason,
        } in cases(from)
        {
            for piece in [1, 7, 50, usize::MAX] {
                let terms = limited(from, rates, Beyond::Close, Mode::Enforce);
                let mut world = World::new(terms.clone());
                for piece in [&within[..], &beyond[..]].concat().chunks(piece) {
                    world.send(from, piece).await;
                }
                let passed = world.receive(from.other(), within.len()).await;
                assert!(passed == within, "{kind:?} of {from:?}");
                let (client, upstream, outcome) = world.wind_up().await;
                let (offender, other, code) = match from {
                    Side::Client => (&client, &upstream, 1001),
                    Side::Server => (&upstream, &client, 1011),
                };
                assert_eq!(offender.close(), Some((1008, reason.to_owned())));
                assert_eq!((other.code(), other.frames.len()), (Some(code), 1));
                assert!(
                    matches!(outcome.cause, Cause::Violation { by, violation } if by == from && violation.kind == kind)
                );
                assert!(counted(&terms, from, kind), "{kind:?} of {from:?}");
            }
        }
    }
}

/// What comes after a while is within the limit again; who only ever uses it up is never closed.
#[tokio::test(start_paused = true)]
async fn a_limit_comes_back_with_time() {
    for from in [Side::Client, Side::Server] {
        for Case { rates, within, .. } in cases(from) {
            let mut world = World::new(limited(from, rates, Beyond::Close, Mode::Enforce));
            for _ in 0..5 {
                world.send(from, &within).await;
                assert_eq!(world.receive(from.other(), within.len()).await, within);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert!(!world.relay.is_finished());
        }
    }
}

/// Observed, all passes at once and is counted once.
#[tokio::test(start_paused = true)]
async fn observing_closes_and_slows_nobody() {
    for from in [Side::Client, Side::Server] {
        for beyond in [Beyond::Close, Beyond::Delay] {
            for Case {
                rates,
                within,
                beyond: more,
                kind,
                ..
            } in cases(from)
            {
                let terms = limited(from, rates, beyond, Mode::Observe);
                let mut world = World::new(terms.clone());
                let started = Instant::now();
                let all = [within, more.repeat(100)].concat();
                world.send(from, &all).await;
                assert!(world.receive(from.other(), all.len()).await == all);
                assert_eq!(started.elapsed(), Duration::ZERO);
                assert!(counted(&terms, from, kind), "{kind:?} of {from:?}");
            }
        }
    }
}

/// Slowed down, all passes in its time, and the other direction is not slowed; nobody is closed.
#[tokio::test(start_paused = true)]
async fn beyond_a_limit_can_be_slow_reading() {
    for from in [Side::Client, Side::Server] {
        for Case {
            rates,
            within,
            beyond: more,
            kind,
            ..
        } in cases(from)
        {
            let terms = limited(from, rates, Beyond::Delay, Mode::Enforce);
            let mut world = World::new(terms.clone());
            let started = Instant::now();
            world.send(from, &within).await;
            assert!(world.receive(from.other(), within.len()).await == within);
            assert_eq!(started.elapsed(), Duration::ZERO);
            assert!(!counted(&terms, from, kind), "nothing is beyond it yet");
            // Two seconds' worth.
            let per_second = rates.messages + rates.bytes + rates.control;
            let size = if rates.bytes == 0 { 1 } else { more.len() };
            let more = more.repeat(2 * per_second as usize / size);
            world.send(from, &more).await;
            let there = frame(from.other(), 0x81, b"there?");
            world.send(from.other(), &there).await;
            assert_eq!(world.receive(from, there.len()).await, there);
            assert_eq!(started.elapsed(), Duration::ZERO);
            assert!(world.receive(from.other(), more.len()).await == more);
            let took = started.elapsed().as_millis();
            assert!((1900..=2100).contains(&took), "{kind:?}: {took} ms");
            assert!(counted(&terms, from, kind), "{kind:?} of {from:?}");
            assert!(!world.relay.is_finished());
        }
    }
}

/// What a flood sends stays with its sender, but for one chunk.
#[tokio::test(start_paused = true)]
async fn what_is_slowed_is_not_read() {
    for rates in [MESSAGES, BYTES] {
        let mut world = World::with_buffers(
            limited(Side::Client, rates, Beyond::Delay, Mode::Enforce),
            4096,
        );
        let flood = frame(Side::Client, 0x81, &[b'x'; 1000]).repeat(1000);
        let mut client = world.client.take().expect("there");
        let (mut reader, mut writer) = tokio::io::split(&mut client);
        let sent = tokio::time::timeout(Duration::from_millis(5), async {
            let mut sent = 0;
            while let Ok(n) = writer.write(&flood[sent..]).await {
                sent += n;
                if sent == flood.len() {
                    break;
                }
                tokio::task::yield_now().await;
                if sent > 10 * CHUNK {
                    break;
                }
            }
            sent
        });
        let outcome = sent.await;
        assert!(outcome.is_err(), "all of it was taken: {outcome:?}");
        let mut nothing = [0; 1];
        let told = tokio::time::timeout(Duration::from_millis(5), reader.read(&mut nothing));
        assert!(told.await.is_err(), "nobody is told of anything");
    }
}

/// Nothing but what is beyond a limit arms a timer, and that one only for its time.
#[tokio::test(start_paused = true)]
async fn who_waits_is_not_asked_all_the_time() {
    let mut world = World::new(limited(
        Side::Client,
        Rates {
            messages: 1000,
            ..Rates::default()
        },
        Beyond::Delay,
        Mode::Enforce,
    ));
    let flood = frame(Side::Client, 0x81, b"x").repeat(3000);
    world.send(Side::Client, &flood).await;
    let mut upstream = world.upstream.take().expect("there");
    let (mut got, mut wakes) = (Vec::new(), 0);
    while got.len() < flood.len() {
        assert!(upstream.read_buf(&mut got).await.expect("bytes") > 0);
        wakes += 1;
    }
    assert!(wakes <= 50, "{wakes} times for two seconds");
}

/// What a client sent before it was told to reconnect is delivered, however slowly it may send.
#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_limit() {
    let terms = limited(Side::Client, MESSAGES, Beyond::Delay, Mode::Enforce);
    let mut world = World::new(terms);
    let sent = frame(Side::Client, 0x81, b"sent").repeat(500);
    world.send(Side::Client, &sent).await;
    quiet().await;
    world.handle.drain(drain::Cause::Operator);
    let (client, upstream, outcome) = world.wind_up().await;
    assert_eq!((client.code(), upstream.code()), (Some(1012), Some(1001)));
    assert_eq!(upstream.frames.len(), 501);
    assert!(!outcome.timed_out);
}

/// A drain that waits for the end of a message finds it, although what is limited is looked at frame by frame.
#[tokio::test(start_paused = true)]
async fn a_drain_finds_the_end_of_a_limited_message() {
    let terms = limited(Side::Server, MESSAGES, Beyond::Close, Mode::Enforce);
    let mut world = World::new(terms);
    let [first, rest] = [0x01, 0x80].map(|byte| frame(Side::Server, byte, b"part"));
    world.send(Side::Server, &first).await;
    world.receive(Side::Client, first.len()).await;
    world.handle.drain(drain::Cause::Operator);
    quiet().await;
    let next = frame(Side::Server, 0x81, b"next");
    world.send(Side::Server, &[&rest[..], &next].concat()).await;
    let (client, _, _) = world.wind_up().await;
    assert_eq!(client.frames.len(), 2, "the rest and the Close: {client:?}");
    assert_eq!(client.code(), Some(1012));
}

/// A Close may always come.
#[tokio::test(start_paused = true)]
async fn a_close_is_within_every_limit() {
    let rates = Rates {
        messages: 1,
        bytes: 0,
        control: 1,
        inflated: 0,
    };
    for from in [Side::Client, Side::Server] {
        let mut world = World::new(limited(from, rates, Beyond::Close, Mode::Enforce));
        let sent = [
            frame(from, 0x81, b"x"),
            frame(from, 0x89, b"x"),
            close_frame(from, 4000, "enough"),
        ];
        world.send(from, &sent.concat()).await;
        let (client, upstream, _) = world.wind_up().await;
        assert_eq!((client.code(), upstream.code()), (Some(4000), Some(4000)));
    }
}

/// The answers to our own Pings are our own doing.
#[tokio::test(start_paused = true)]
async fn our_own_pings_are_not_held_against_who_answers() {
    let once = Rates {
        control: 1,
        ..Rates::default()
    };
    let settings = Settings {
        limits: Limits {
            rates: [once, Rates::default()],
            burst: Duration::from_secs(100),
            ..Limits::default()
        },
        liveness: Liveness {
            ping_interval: [Duration::from_millis(10), Duration::ZERO],
            pong_timeout: Duration::from_secs(1),
            ..Liveness::default()
        },
        ..Settings::default()
    };
    let mut world = World::new(Arc::new(with_settings(settings)));
    // All that it may send of its own.
    let own = frame(Side::Client, 0x89, b"you?").repeat(100);
    world.send(Side::Client, &own).await;
    world.receive(Side::Server, own.len()).await;
    for _ in 0..50 {
        let said = ping_of(&mut world, Side::Client).await;
        world
            .send(Side::Client, &frame(Side::Client, 0x8a, &said))
            .await;
    }
    assert!(!world.relay.is_finished());
}

/// What came behind the request counts as well.
#[tokio::test(start_paused = true)]
async fn what_came_with_the_handshake_counts() {
    let (mut client, near_client) = duplex(1 << 16);
    let (mut upstream, near_upstream) = duplex(1 << 16);
    let early = frame(Side::Client, 0x82, &[7; 1994 - 2]);
    let relay = Relay::new(
        limited(Side::Client, BYTES, Beyond::Delay, Mode::Enforce),
        Arc::default(),
        None,
        (near_client, BytesMut::from(&early[..])),
        (near_upstream, BytesMut::new()),
    );
    let relay = tokio::spawn(relay);
    let started = Instant::now();
    let mut got = vec![0; early.len()];
    upstream.read_exact(&mut got).await.expect("it arrives");
    assert!(got == early);
    let took = started.elapsed().as_millis();
    assert!((1000..=1200).contains(&took), "{took} ms");
    client.write_all(&early).await.expect("taken");
    relay.abort();
}

/// So many bytes per second once they are inflated.
const INFLATED: Rates = Rates {
    messages: 0,
    bytes: 0,
    control: 0,
    inflated: 100_000,
};

fn inflating(from: Side, beyond: Beyond, mode: Mode) -> (Arc<RouteContext>, World) {
    let terms = limited(from, INFLATED, beyond, mode);
    let world = World::with_compression(terms.clone(), 1 << 20, agreed(false));
    (terms, world)
}

/// What compressed messages inflate to is counted to the byte; what is not compressed is none of it.
#[tokio::test(start_paused = true)]
async fn beyond_the_limit_of_inflated_bytes_is_1008() {
    for from in [Side::Client, Side::Server] {
        let plain = frame(from, 0x82, &[0; 60_000]);
        let within = [&zeros(from, 20_000).repeat(5)[..], &plain.repeat(3)].concat();
        for piece in [1, 100, usize::MAX] {
            let (terms, mut world) = inflating(from, Beyond::Close, Mode::Enforce);
            for piece in within.chunks(piece.max(within.len() / 2_000)) {
                world.send(from, piece).await;
            }
            let passed = world.receive(from.other(), within.len()).await;
            assert!(passed == within);
            for piece in zeros(from, 1_000).chunks(piece) {
                world.send(from, piece).await;
            }
            let (client, upstream, _) = world.wind_up().await;
            let (offender, other) = match from {
                Side::Client => (client, upstream),
                Side::Server => (upstream, client),
            };
            let reason = "more bytes, once inflated, than the limit of 100000 per second";
            assert_eq!(offender.close(), Some((1008, reason.to_owned())));
            assert!(other.frames.len() <= 1, "{other:?}");
            assert!(counted(&terms, from, Kind::InflatedRate));
        }
    }
}

/// Slowed down, in the middle of a message if need be: all of it arrives, in its time.
#[tokio::test(start_paused = true)]
async fn inflating_is_slowed_down() {
    for from in [Side::Client, Side::Server] {
        let (terms, mut world) = inflating(from, Beyond::Delay, Mode::Enforce);
        let sent = [zeros(from, 400_000), frame(from, 0x81, b"behind it")].concat();
        let started = Instant::now();
        world.send(from, &sent).await;
        let passed = world.receive(from.other(), sent.len()).await;
        assert!(passed == sent);
        let took = started.elapsed().as_millis();
        assert!((2_800..3_300).contains(&took), "{took} ms");
        assert!(counted(&terms, from, Kind::InflatedRate));
    }
}

#[tokio::test(start_paused = true)]
async fn observing_inflates_all() {
    for from in [Side::Client, Side::Server] {
        for beyond in [Beyond::Close, Beyond::Delay] {
            let (terms, mut world) = inflating(from, beyond, Mode::Observe);
            let started = Instant::now();
            let sent = zeros(from, 400_000).repeat(3);
            world.send(from, &sent).await;
            let passed = world.receive(from.other(), sent.len()).await;
            assert!(passed == sent);
            assert_eq!(started.elapsed(), Duration::ZERO);
            assert!(counted(&terms, from, Kind::InflatedRate));
        }
    }
}
