//! Drains of connections in every state.

use super::*;

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
