//! What passes, what is held, and when the relay does no work.

use super::*;

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
        let line = violated(Side::Client, kind, Mode::Observe);
        assert!(metrics.contains(&line), "{metrics}");
    }
}
