//! Streams that are cut anywhere, and that take and give any number of bytes at a time.

use super::*;

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
