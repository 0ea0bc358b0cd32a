//! What relays keep in memory: told of when it changes, given back at the end, and wanted back before.

use super::compressed::{agreed, zeros};
use super::*;

fn memory(terms: &RouteContext) -> usize {
    terms.buffers.memory()
}

/// What is kept is known while it is kept, and nothing of it once it is written or the connection is over.
#[tokio::test(start_paused = true)]
async fn what_is_kept_is_known() {
    for reader in [Side::Client, Side::Server] {
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
    let much = frame(Side::Server, 0x82, &[7; 100_000]);
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
    let much = frame(Side::Server, 0x82, &[7; 10_000]);
    world.send(Side::Server, &much).await;
    assert!(over(10).await.is_err());
    assert_eq!(terms.buffers.excess(), 0);
    world.receive(Side::Client, much.len()).await;
    terms.buffers.set_limit(1000);
    world.send(Side::Server, &much).await;
    assert!(over(10).await.is_ok());
    assert!(terms.buffers.excess() > 0);
    terms.buffers.set_limit(0);
    assert_eq!(terms.buffers.excess(), 0);
}

/// The client reads what is left of its frame and then that it is to try again later; the upstream goes at once.
#[tokio::test(start_paused = true)]
async fn who_keeps_too_much_is_told_to_try_again_later() {
    for reader in [Side::Client, Side::Server] {
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

/// What it takes to inflate the next message, and the one under way, is kept, too, and is found by who looks for memory.
#[tokio::test(start_paused = true)]
async fn windows_and_messages_begun_are_kept() {
    const INFLATER: usize = 48 << 10;
    for from in [Side::Client, Side::Server] {
        let terms = terms(Rules::default());
        let mut world = World::with_compression(terms.clone(), 1 << 20, agreed(true));
        let message = zeros(from, 100_000);
        world.send(from, &message).await;
        world.receive(from.other(), message.len()).await;
        quiet().await;
        assert_eq!(memory(&terms), 32 << 10, "a window");
        let begun = &message[..message.len() - 1];
        world.send(from, begun).await;
        world.receive(from.other(), begun.len()).await;
        quiet().await;
        assert_eq!(memory(&terms), (32 << 10) + INFLATER);
        assert_eq!(world.handle.holding().bytes as usize, memory(&terms));
        let since = terms.buffers.clock() - world.handle.holding().since;
        tokio::time::sleep(Duration::from_secs(100)).await;
        let later = terms.buffers.clock() - world.handle.holding().since;
        assert_eq!(later, since + 100_000);
        world.relay.abort();
        assert!(world.relay.await.is_err());
        assert_eq!(memory(&terms), 0);
    }
    // Where no window is shared nothing is kept between messages.
    let terms = terms(Rules::default());
    let mut world = World::with_compression(terms.clone(), 1 << 20, agreed(false));
    let message = zeros(Side::Client, 100_000);
    world.send(Side::Client, &message).await;
    world.receive(Side::Server, message.len()).await;
    quiet().await;
    assert_eq!(memory(&terms), 0);
}

/// What a stream keeps, of records begun or not sent, is part of it.
#[tokio::test(start_paused = true)]
async fn what_streams_keep_is_known() {
    let terms = terms(Rules::default());
    let (mut client, near_client) = duplex(4096);
    let (_upstream, near_upstream) = duplex(4096);
    let kept = Arc::new(AtomicU64::new(5_000));
    let near_client = Keeping(near_client, kept.clone());
    let relay = Relay::new(
        terms.clone(),
        Arc::default(),
        None,
        (near_client, BytesMut::new()),
        (near_upstream, BytesMut::new()),
    );
    let _relay = tokio::spawn(relay);
    quiet().await;
    assert_eq!(memory(&terms), 5_000);
    kept.store(0, Ordering::Relaxed);
    let ping = frame(Side::Client, 0x89, b"");
    client.write_all(&ping).await.expect("taken");
    quiet().await;
    assert_eq!(memory(&terms), 0);
}

/// A stream that says how much it keeps.
struct Keeping(DuplexStream, Arc<AtomicU64>);

impl Delivery for Keeping {
    fn delivered(&self) -> Option<u64> {
        None
    }

    fn memory(&self) -> usize {
        self.1.load(Ordering::Relaxed) as usize
    }

    fn finish_with_next(&self) {}
}

impl AsyncRead for Keeping {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Keeping {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
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
    buffers.handle_change(800);
    assert!(
        Buffers::reserve(buffers, 200).is_none(),
        "relays have the rest"
    );
    assert_eq!(buffers.excess(), 0, "a refusal takes nothing");
    buffers.handle_change(200);
    assert_eq!(buffers.excess(), 100, "what is reserved counts");
    drop(first);
    assert_eq!(buffers.excess(), 0);
    let text = String::from_utf8(terms.metrics.render()).expect("text");
    assert!(text.contains("wsgate_reserved_memory_bytes 0"), "{text}");
}
