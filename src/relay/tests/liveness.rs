//! Pings of wsgate's own, and peers that do not answer.

use super::*;

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
