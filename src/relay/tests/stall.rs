//! Sides that take nothing, or too little, of what waits for them.

use super::*;
use std::task::Waker;

const MINUTE: Duration = Duration::from_secs(60);

fn patient(write_timeout: Duration) -> Arc<RouteContext> {
    let limits = Limits {
        write_timeout,
        ..Limits::default()
    };
    Arc::new(with_settings(Settings {
        limits,
        ..Settings::default()
    }))
}

/// More than the streams of these tests take.
fn much(from: Side) -> Vec<u8> {
    frame(from, 0x82, &[7; 10_000])
}

/// A world in which something waits for a side that does not read.
async fn stalled(terms: Arc<RouteContext>, reader: Side) -> World {
    let mut world = World::with_buffers(terms, 4096);
    world.send(reader.other(), &much(reader.other())).await;
    quiet().await;
    world
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_is_given_up() {
    for (reader, code) in [(Side::Client, 1001), (Side::Server, 1012)] {
        let started = Instant::now();
        let terms = patient(MINUTE);
        let mut world = stalled(terms.clone(), reader).await;
        // The other direction is nobody's concern.
        world
            .send(reader, &frame(reader, 0x81, b"still here"))
            .await;
        // Kept open, and never read.
        let silent = if reader == Side::Client {
            world.client.take()
        } else {
            world.upstream.take()
        };
        let (client, upstream, outcome) = world.wind_up().await;
        let other = if reader == Side::Client {
            upstream
        } else {
            client
        };
        assert_eq!(other.code(), Some(code), "{reader:?}");
        assert_eq!(other.frames[0].1, b"still here");
        assert_eq!(outcome.cause, Cause::Stalled { by: reader });
        assert_eq!(outcome.cause.initiator(), reader.label());
        let after = started.elapsed().as_secs();
        assert!((60..=63).contains(&after), "after {after} s");
        let line = format!(
            "wsgate_slow_readers_closed_total{{limit=\"write_timeout\",side=\"{}\"}} 1",
            reader.label()
        );
        let metrics = String::from_utf8(terms.metrics.render()).expect("text");
        assert!(metrics.contains(&line), "{metrics}");
        drop(silent);
    }
}

/// However little: who goes on taking is there.
#[tokio::test(start_paused = true)]
async fn who_takes_a_little_is_not() {
    for reader in [Side::Client, Side::Server] {
        let mut world = stalled(patient(MINUTE), reader).await;
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            world.receive(reader, 100).await;
        }
        assert!(!world.relay.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn zero_is_for_ever() {
    let world = stalled(patient(Duration::ZERO), Side::Client).await;
    tokio::time::sleep(24 * 60 * MINUTE).await;
    assert!(!world.relay.is_finished());
}

/// A stream that has taken all it can, and delivers it slowly.
pub(super) struct Slow {
    pub inner: DuplexStream,
    pub delivered: Arc<AtomicU64>,
    /// How often it was told that the next is the last.
    pub finished: Arc<AtomicU64>,
}

impl Delivery for Slow {
    fn delivered(&self) -> Option<u64> {
        Some(self.delivered.load(Ordering::Relaxed))
    }

    fn memory(&self) -> usize {
        0
    }

    fn finish_with_next(&self) {
        self.finished.fetch_add(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Our stream takes nothing for a long time, but what it has taken arrives bit by bit; once nothing arrives any more, the
/// side has its time from then on.
#[tokio::test(start_paused = true)]
async fn a_slow_network_is_no_stall() {
    let (client, near_client) = duplex(4096);
    let (mut upstream, near_upstream) = duplex(1 << 20);
    let delivered = Arc::new(AtomicU64::new(0));
    let near_client = Slow {
        inner: near_client,
        delivered: delivered.clone(),
        finished: Arc::default(),
    };
    let relay = tokio::spawn(Relay::new(
        patient(MINUTE),
        Arc::default(),
        None,
        (near_client, BytesMut::new()),
        (near_upstream, BytesMut::new()),
    ));
    let sent = upstream.write_all(&much(Side::Server)).await;
    sent.expect("taken");
    for _ in 0..20 {
        tokio::time::sleep(MINUTE / 2).await;
        delivered.fetch_add(1, Ordering::Relaxed);
    }
    assert!(!relay.is_finished());
    let last = Instant::now();
    let told = answering(Some(upstream), Side::Server).await;
    assert_eq!(told.code(), Some(1001));
    let outcome = relay.await.expect("no panic");
    assert_eq!(outcome.cause, Cause::Stalled { by: Side::Client });
    let after = last.elapsed().as_secs();
    assert!((60..=125).contains(&after), "after {after} s");
    drop(client);
}

/// A timer is there while something waits, and not a moment longer.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_has_no_timer() {
    let (mut client, near_client) = duplex(4096);
    let (mut upstream, near_upstream) = duplex(1 << 20);
    let mut relay = Relay::new(
        patient(MINUTE),
        Arc::default(),
        None,
        (near_client, BytesMut::new()),
        (near_upstream, BytesMut::new()),
    );
    let poll = |relay: &mut Relay<_, _>| {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(relay).poll(&mut cx).is_pending());
    };
    poll(&mut relay);
    assert!(relay.state.timer.is_none());
    for _ in 0..3 {
        let sent = much(Side::Server);
        upstream.write_all(&sent).await.expect("taken");
        poll(&mut relay);
        assert!(relay.state.timer.is_some());
        let mut got = Vec::new();
        while got.len() < sent.len() {
            client.read_buf(&mut got).await.expect("it arrives");
            poll(&mut relay);
        }
        assert!(relay.state.timer.is_none());
    }
}
