//! What one connection costs, its thread shares with all others.

use super::compressed::{agreed, zeros};
use super::*;
use tokio::task::yield_now;

/// A flow of dear frames: how many turns somebody else had while it passed.
async fn turns_of_others(sent: Vec<u8>, from: Side, terms: Arc<RouteContext>) -> usize {
    let mut world = World::with_compression(terms, 2 * sent.len() + 1, agreed(true));
    world.send(from, &sent).await;
    let mut end = match from {
        Side::Client => world.upstream.take(),
        Side::Server => world.client.take(),
    };
    let end = end.as_mut().expect("there");
    let passed = tokio::spawn({
        let (mut end, length) = (std::mem::replace(end, duplex(1).0), sent.len());
        async move {
            let mut got = vec![0; length];
            end.read_exact(&mut got).await.expect("it passes");
            got
        }
    });
    let mut turns = 0;
    while !passed.is_finished() {
        turns += 1;
        yield_now().await;
    }
    assert!(
        passed.await.expect("no panic") == sent,
        "what passes is what was sent"
    );
    turns
}

/// One read holds bombs of 40 MiB in all, and a turn is half a mebibyte of them.
#[tokio::test(start_paused = true)]
async fn bombs_are_inflated_in_turns() {
    for from in [Side::Client, Side::Server] {
        let bombs = zeros(from, 8 << 20).repeat(5);
        assert!(bombs.len() < CHUNK);
        let turns = turns_of_others(bombs, from, terms(Rules::default())).await;
        assert!(turns > 60, "{turns} turns of others");
    }
}

/// One read holds many thousand frames, be they counted one by one or not, right, or discarded.
#[tokio::test(start_paused = true)]
async fn small_frames_are_looked_at_in_turns() {
    for from in [Side::Client, Side::Server] {
        for first in [0x81, 0x82, 0x89, 0x8a] {
            for control in [0, 1 << 20] {
                let rates = Rates {
                    control,
                    ..Rates::default()
                };
                let limits = Limits {
                    rates: [rates; 2],
                    ..Limits::default()
                };
                let terms = Arc::new(with_settings(Settings {
                    limits,
                    ..Settings::default()
                }));
                let small = frame(from, first, b"").repeat(60_000);
                let turns = turns_of_others(small, from, terms).await;
                assert!(turns > 5, "{turns} turns of others, {first:x} {control}");
            }
        }
    }
}

/// What an offender sends on is walked in turns, too, and its Close found.
#[tokio::test(start_paused = true)]
async fn what_is_discarded_is_walked_in_turns() {
    let mut world = World::new(terms(Rules::default()));
    let sent = [
        frame(Side::Client, 0x81, BAD),
        frame(Side::Client, 0x89, b"").repeat(100_000),
        close_frame(Side::Client, 1007, ""),
    ];
    world.send(Side::Client, &sent.concat()).await;
    let (client, upstream) = (world.client.take(), world.upstream.take());
    let upstream = tokio::spawn(answering(upstream, Side::Server));
    let mut turns = 0;
    while !world.relay.is_finished() {
        turns += 1;
        yield_now().await;
    }
    assert!(turns > 8, "{turns} turns of others");
    let outcome = world.relay.await.expect("no panic");
    assert!(!outcome.timed_out);
    assert_eq!(upstream.await.expect("read").code(), Some(1001));
    drop(client);
}

/// A side that yields does not keep the other one from passing.
#[tokio::test(start_paused = true)]
async fn a_bomb_does_not_stop_the_other_direction() {
    let bombs = zeros(Side::Client, 8 << 20).repeat(5);
    let mut world = World::with_compression(terms(Rules::default()), 1 << 20, agreed(true));
    world.send(Side::Client, &bombs).await;
    let text = frame(Side::Server, 0x81, b"not held up");
    world.send(Side::Server, &text).await;
    let mut upstream = world.upstream.take().expect("there");
    assert_eq!(world.receive(Side::Client, text.len()).await, text);
    let mut got = Vec::new();
    let early = tokio::time::timeout(Duration::ZERO, upstream.read_buf(&mut got)).await;
    assert!(
        early.is_err() || got.len() < bombs.len() / 2,
        "{}",
        got.len()
    );
}

/// A drain may come in the middle of a bomb that is inflated: what has passed is whole messages, and the end is in order.
#[tokio::test(start_paused = true)]
async fn a_drain_in_the_middle_of_a_turn() {
    for from in [Side::Client, Side::Server] {
        for turns in [0, 1, 2, 10, 50] {
            let bomb = zeros(from, 4 << 20);
            let mut world = World::with_compression(terms(Rules::default()), 1 << 20, agreed(true));
            world.send(from, &bomb.repeat(5)).await;
            for _ in 0..turns {
                yield_now().await;
            }
            world.handle.drain(drain::Cause::Operator);
            let (client, upstream, outcome) = world.wind_up().await;
            assert_eq!((client.code(), upstream.code()), (Some(1012), Some(1001)));
            assert_eq!((client.unfinished, upstream.unfinished), (0, 0));
            assert!(!outcome.timed_out);
            if from == Side::Client {
                assert_eq!(upstream.frames.len(), 6, "what a client sent is delivered");
            }
        }
    }
}
