//! What relays keep in memory: told of when it changes, given back at the end, and wanted back before.

use super::*;

fn memory(terms: &Terms) -> usize {
    terms.metrics.buffer_memory(0)
}

/// What is kept is known while it is kept, and nothing of it once it is written or the connection is over.
#[tokio::test(start_paused = true)]
async fn what_is_kept_is_known() {
    for reader in [Side::Client, Side::Upstream] {
        let terms = terms(Rules::default());
        let mut world = World::with_buffers(terms.clone(), 4096);
        let from = reader.other();
        for _ in 0..3 {
            // What passes at once is not kept.
            let small = frame(from, 0x82, &[7; 1000]);
            world.send(from, &small).await;
            world.receive(reader, small.len()).await;
            assert_eq!(memory(&terms), 0);
            // A frame that is held, for as long as it is.
            let held = frame(from, 0x81, &[b'x'; 3000]);
            world.send(from, &held[..2000]).await;
            quiet().await;
            assert!(memory(&terms) >= 2000, "{}", memory(&terms));
            world.send(from, &held[2000..]).await;
            world.receive(reader, held.len()).await;
            quiet().await;
            assert_eq!(memory(&terms), 0);
            // What the reader does not take, as long as it does not.
            let much = frame(from, 0x82, &[7; 10_000]);
            world.send(from, &much).await;
            quiet().await;
            assert!(memory(&terms) >= 2000, "{}", memory(&terms));
            assert!(world.handle.holding().bytes > 0);
            world.receive(reader, much.len()).await;
            quiet().await;
            assert_eq!(memory(&terms), 0);
        }
        let held = frame(from, 0x81, &[b'x'; 3000]);
        world.send(from, &held[..2000]).await;
        quiet().await;
        assert!(memory(&terms) >= 2000);
        world.relay.abort();
        assert!(world.relay.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(memory(&terms), 0);
    }
}

/// How long a reader has taken nothing is known: not since when it is behind.
#[tokio::test(start_paused = true)]
async fn since_when_it_is_kept() {
    let terms = terms(Rules::default());
    let mut world = World::with_buffers(terms.clone(), 4096);
    let much = frame(Side::Upstream, 0x82, &[7; 100_000]);
    let mut upstream = world.upstream.take().expect("there");
    let sender = tokio::spawn(async move {
        let sent = upstream.write_all(&much).await;
        (upstream, sent)
    });
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        world.receive(Side::Client, 4096).await;
        quiet().await;
        let age = terms.buffers.clock() - world.handle.holding().since;
        assert!(age < 100, "{age} ms after it took something");
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let age = terms.buffers.clock() - world.handle.holding().since;
    assert!((30_000..30_100).contains(&age), "{age} ms");
    sender.abort();
}

/// Only what grows beyond the limit is told of, and what is over it is known.
#[tokio::test(start_paused = true)]
async fn the_limit_is_watched() {
    let terms = terms(Rules::default());
    let mut world = World::with_buffers(terms.clone(), 4096);
    terms.buffers.set_limit(1 << 20);
    let over = |wait| tokio::time::timeout(Duration::from_millis(wait), terms.buffers.over());
    let much = frame(Side::Upstream, 0x82, &[7; 10_000]);
    world.send(Side::Upstream, &much).await;
    assert!(over(10).await.is_err());
    assert_eq!(terms.buffers.excess(), 0);
    world.receive(Side::Client, much.len()).await;
    terms.buffers.set_limit(1000);
    world.send(Side::Upstream, &much).await;
    assert!(over(10).await.is_ok());
    assert!(terms.buffers.excess() > 0);
    terms.buffers.set_limit(0);
    assert_eq!(terms.buffers.excess(), 0);
}

/// The client reads what is left of its frame and then that it is to try again later; the upstream goes at once.
#[tokio::test(start_paused = true)]
async fn who_keeps_too_much_is_told_to_try_again_later() {
    for reader in [Side::Client, Side::Upstream] {
        let terms = terms(Rules::default());
        let mut world = World::with_buffers(terms.clone(), 4096);
        let much = frame(reader.other(), 0x82, &[7; 10_000]);
        world.send(reader.other(), &much).await;
        quiet().await;
        world.handle.shed();
        let (client, upstream, outcome) = world.wind_up().await;
        let (code, reason) = client.close().expect("it is told");
        assert_eq!(code, 1013);
        assert!(
            reason.starts_with("overloaded; retry-after-ms="),
            "{reason}"
        );
        assert_eq!(upstream.code(), Some(1001));
        let read = if reader == Side::Client {
            client
        } else {
            upstream
        };
        assert_eq!(read.frames.len(), 2, "the whole frame, and the Close");
        assert_eq!(outcome.cause, Cause::Overload);
        assert_eq!(memory(&terms), 0);
        let text = String::from_utf8(terms.metrics.render()).expect("text");
        let line = format!(
            "wsgate_slow_readers_closed_total{{limit=\"buffer_memory\",side=\"{}\"}} 1",
            reader.label()
        );
        assert!(text.contains(&line), "{text}");
    }
}

/// Plain requests have half of the limit, less where relays keep more, and give back what they took.
#[tokio::test]
async fn plain_requests_have_their_share() {
    let terms = terms(Rules::default());
    let buffers = &terms.buffers;
    let unlimited = Buffers::reserve(buffers, usize::MAX >> 2).expect("there is no limit");
    drop(unlimited);
    buffers.set_limit(1000);
    let mut first = Buffers::reserve(buffers, 300).expect("it fits");
    assert!(buffers.is_short(), "more than a quarter");
    assert!(
        Buffers::reserve(buffers, 300).is_none(),
        "600 is more than half"
    );
    first.shrink(100);
    assert!(!buffers.is_short());
    let second = Buffers::reserve(buffers, 400).expect("there is room again");
    assert_eq!(buffers.excess(), 0);
    drop(second);
    terms.metrics.buffer_memory(800);
    assert!(
        Buffers::reserve(buffers, 200).is_none(),
        "relays have the rest"
    );
    assert_eq!(buffers.excess(), 0, "a refusal takes nothing");
    terms.metrics.buffer_memory(200);
    assert_eq!(buffers.excess(), 100, "what is reserved counts");
    drop(first);
    assert_eq!(buffers.excess(), 0);
    let text = String::from_utf8(terms.metrics.render()).expect("text");
    assert!(text.contains("wsgate_plain_memory_bytes 0"), "{text}");
}
