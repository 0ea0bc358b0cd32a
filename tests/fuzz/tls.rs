//! The TLS record pump: a client and a server of wsgate over a wire that carries bytes in pieces of any size, flips a bit of them, or is
//! cut. What a side reads is always a prefix of what the other one wrote, and is all of it where the stream ends without an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wsgate::tls::{Accept, Authorities, Certificate, Connect, Offer, Stream, Version};

/// Most memory that a stream may own, in bytes: a handshake message of 64 KiB, four records to be sent, one that was read.
const MOST_MEMORY: usize = 256 << 10;

static ENDS: LazyLock<(Accept, Connect)> = LazyLock::new(|| {
    let file = |name: &str| -> PathBuf {
        let root = env!("CARGO_MANIFEST_DIR");
        [root, "tests", "tls", name].iter().collect()
    };
    let certificate = Certificate::load(&file("a.pem"), &file("a.key"), &[]).unwrap();
    let authorities = Authorities::load(&file("ca.pem")).unwrap();
    let accept = Accept::new(vec![certificate], None, false, Version::Tls12, true, None);
    let connect = Connect::new(None, Some(authorities), None);
    (accept.unwrap(), connect.unwrap())
});

/// One direction between the two.
#[derive(Default)]
struct Wire {
    bytes: VecDeque<u8>,
    /// Bytes that have been written so far.
    carried: usize,
    /// The byte, counted from the first, one bit of which is flipped.
    flip: Option<usize>,
    /// How many bytes may still be read. The wire takes no more than this and one record ahead.
    may_pass: usize,
    is_cut: bool,
}

/// The end of one side: the wire that it reads from, and the one that it writes to.
struct Socket {
    from: Rc<RefCell<Wire>>,
    to: Rc<RefCell<Wire>>,
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.from.borrow_mut();
        let count = wire.bytes.len().min(wire.may_pass).min(buf.remaining());
        if count == 0 {
            return match wire.is_cut && wire.bytes.is_empty() {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            };
        }
        wire.may_pass -= count;
        for byte in wire.bytes.drain(..count) {
            buf.put_slice(&[byte]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.to.borrow_mut();
        if wire.is_cut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = wire.may_pass.saturating_add(16 << 10);
        let count = room.saturating_sub(wire.bytes.len()).min(bytes.len());
        if count == 0 {
            return Poll::Pending;
        }
        for byte in &bytes[..count] {
            let flips = wire.flip == Some(wire.carried);
            wire.bytes.push_back(byte ^ u8::from(flips));
            wire.carried += 1;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Writes `plan` and reads to the end, both at once. `received` grows as bytes come.
async fn exchange<E: wsgate::tls::End>(
    mut stream: Stream<Socket, E>,
    plan: &[u8],
    received: &RefCell<Vec<u8>>,
) -> io::Result<()> {
    let (mut rest, mut is_shut) = (plan, false);
    poll_fn(|cx| {
        loop {
            let mut moved = false;
            if !rest.is_empty() {
                if let Poll::Ready(result) = Pin::new(&mut stream).poll_write(cx, rest) {
                    rest = &rest[result?..];
                    moved = true;
                }
            } else if !is_shut && let Poll::Ready(result) = Pin::new(&mut stream).poll_shutdown(cx)
            {
                result?;
                (is_shut, moved) = (true, true);
            }
            let mut room = [0; 777];
            let mut buf = ReadBuf::new(&mut room);
            let read = Pin::new(&mut stream).poll_read(cx, &mut buf);
            assert!(stream.memory() <= MOST_MEMORY, "{}", stream.memory());
            if let Poll::Ready(result) = read {
                result?;
                if buf.filled().is_empty() {
                    // The end; what is left to write goes out, or fails.
                    if is_shut {
                        return Poll::Ready(Ok(()));
                    }
                } else {
                    received.borrow_mut().extend_from_slice(buf.filled());
                    moved = true;
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    })
    .await
}

fuzz_target!(|input: &[u8]| {
    let [mode, low, high, up, down, script @ ..] = input else {
        return;
    };
    let (accept, connect) = &*ENDS;
    let pattern = |count: &u8, start: u8| -> Vec<u8> {
        let bytes = (0..usize::from(*count) * 211).map(|i| (i / 3) as u8 ^ start);
        bytes.collect()
    };
    let (from_client, from_server) = (pattern(up, 0x55), pattern(down, 0xAA));
    let to_server: Rc<RefCell<Wire>> = Rc::default();
    let to_client: Rc<RefCell<Wire>> = Rc::default();
    let flip = Some(usize::from(u16::from_be_bytes([*low, *high])));
    match mode % 4 {
        1 => to_server.borrow_mut().flip = flip,
        2 => to_client.borrow_mut().flip = flip,
        _ => {}
    }
    let is_cut = mode % 4 == 3;

    let (at_server, at_client) = (RefCell::default(), RefCell::default());
    let mut server = Box::pin(async {
        let (from, to) = (to_server.clone(), to_client.clone());
        let mut stream = Stream::new(Socket { from, to }, accept.open().unwrap());
        stream.handshake().await?;
        exchange(stream, &from_server, &at_server).await
    });
    let mut client = Box::pin(async {
        let (from, to) = (to_client.clone(), to_server.clone());
        let name = Connect::name("a.example").unwrap();
        let stream = connect
            .open(Socket { from, to }, Some(name), Offer::Http1)
            .await?;
        exchange(stream, &from_client, &at_client).await
    });
    let mut ends: [Option<io::Result<()>>; 2] = [None, None];
    let mut cx = Context::from_waker(Waker::noop());
    let mut poll = |ends: &mut [Option<io::Result<()>>; 2]| {
        let futures: [Pin<&mut dyn Future<Output = io::Result<()>>>; 2] =
            [server.as_mut(), client.as_mut()];
        for (i, (future, end)) in futures.into_iter().zip(ends).enumerate() {
            if end.is_none()
                && let Poll::Ready(result) = future.poll(&mut cx)
            {
                // The socket closes with its side.
                let to = if i == 0 { &to_client } else { &to_server };
                to.borrow_mut().is_cut = true;
                *end = Some(result);
            }
        }
    };

    for op in script {
        let wire = if op & 1 == 0 { &to_server } else { &to_client };
        let many = usize::from(op >> 2);
        wire.borrow_mut().may_pass += if op & 2 == 0 { many } else { many * 300 };
        poll(&mut ends);
    }
    for wire in [&to_server, &to_client] {
        let mut wire = wire.borrow_mut();
        wire.may_pass = usize::MAX / 2;
        if is_cut {
            wire.bytes.clear();
            wire.is_cut = true;
        }
    }
    for _ in 0..1000 {
        if ends.iter().all(Option::is_some) {
            break;
        }
        poll(&mut ends);
    }

    let (at_server, at_client) = (at_server.borrow(), at_client.borrow());
    for (end, received, sent) in [
        (&ends[0], &at_server, &from_client),
        (&ends[1], &at_client, &from_server),
    ] {
        assert!(sent.starts_with(received), "other bytes than were sent");
        match end {
            Some(Ok(())) => assert_eq!(received.len(), sent.len(), "an end that is not the end"),
            // A flipped bit in the length of a record has the other side wait for bytes that never come.
            None => assert!(mode % 4 == 1 || mode % 4 == 2, "neither side goes on"),
            Some(Err(error)) => assert!(mode % 4 != 0, "{error}"),
        }
    }
});
