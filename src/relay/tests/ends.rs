//! What each side is told at the end of a connection, and when its stream ends.

use super::*;

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
        let line = violated(Side::Server, Kind::CloseReasonNotUtf8, Mode::Enforce);
        assert!(metrics.contains(&line), "{metrics}");
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
