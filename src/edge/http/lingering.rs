//! An answer of wsgate's own on a connection that ends with it, where no session of Pingora's reads the request.

use crate::edge::http::answer::Answer;
use pingora::protocols::Stream;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};

/// Connections that were answered and are still open, so that the client can read the answer: never more than
/// [`MOST`](Lingering::MOST), as a client that is refused for its number of connections has each of them refused.
#[derive(Debug)]
pub(crate) struct Lingering(Semaphore);

impl Default for Lingering {
    fn default() -> Self {
        Lingering(Semaphore::new(Lingering::MOST))
    }
}

impl Lingering {
    const MOST: usize = 256;

    /// Tells the client, and ends the connection. `without_body`: the request is one for a head alone.
    pub(crate) async fn end(&self, mut stream: Stream, answer: &Answer, without_body: bool) {
        let bytes = answer.bytes(without_body);
        let Ok(_place) = self.0.try_acquire() else {
            // Only as much as the socket takes at once: most clients still read it before the reset that may follow.
            let _ = timeout(Duration::ZERO, stream.write_all(&bytes)).await;
            return;
        };
        let farewell = async {
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            AsyncWriteExt::shutdown(&mut stream).await?;
            read_out(&mut stream).await;
            io::Result::Ok(())
        };
        // The client is at fault and may be gone: whether it heard us changes nothing.
        let _ = timeout(FAREWELL, farewell).await;
    }
}

/// Reads what a client still sends to a connection of which the sending side is shut down: closing a socket with unread
/// bytes resets it, and the reset may overtake the answer. Bounded in time and bytes.
pub(crate) async fn read_out(stream: &mut Stream) {
    let mut rest = Unread::default();
    poll_fn(|cx| rest.poll_read_out(stream, cx)).await;
}

/// The time and the bytes that are left of the bounds of [`read_out`].
#[derive(Debug)]
pub(crate) struct Unread {
    bytes: usize,
    until: Pin<Box<Sleep>>,
}

impl Default for Unread {
    fn default() -> Self {
        Unread {
            bytes: MAX_UNREAD,
            until: Box::pin(sleep(FAREWELL)),
        }
    }
}

impl Unread {
    /// Ready at the end of the stream, or at a bound; and from then on.
    pub(crate) fn poll_read_out(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<()> {
        let mut chunk = [0; 4096];
        while self.bytes > 0 {
            if self.until.as_mut().poll(cx).is_ready() {
                break;
            }
            let mut chunk = ReadBuf::new(&mut chunk);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut chunk)) {
                Ok(()) if !chunk.filled().is_empty() => {
                    self.bytes = self.bytes.saturating_sub(chunk.filled().len());
                }
                // The answer is sent: whether the client stays to read it changes nothing.
                Ok(()) | Err(_) => break,
            }
        }
        self.bytes = 0;
        Poll::Ready(())
    }
}

/// How long a client that is refused may take to read why.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);

/// How many bytes it may still send meanwhile.
const MAX_UNREAD: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn answers_go_out_however_many_linger() {
        let lingering = Arc::new(Lingering::default());
        let answer = || Answer::new(StatusCode::BAD_REQUEST, "no");
        let mut clients = Vec::new();
        let mut ending = Vec::new();
        for _ in 0..Lingering::MOST + 10 {
            let (far, near) = duplex(1 << 10);
            clients.push(far);
            let lingering = lingering.clone();
            ending.push(tokio::spawn(async move {
                lingering.end(Box::new(near), &answer(), false).await;
            }));
            tokio::task::yield_now().await;
        }
        let open = ending.iter().filter(|task| !task.is_finished()).count();
        assert_eq!(open, Lingering::MOST, "connections that linger");
        for mut client in clients {
            let mut got = String::new();
            client.read_to_string(&mut got).await.unwrap();
            assert!(got.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{got}");
            assert!(got.ends_with("\r\n\r\nno\n"), "{got}");
        }
    }

    #[tokio::test]
    async fn an_answer_to_head_has_no_body() {
        let (mut far, near) = duplex(1 << 10);
        let answer = Answer::new(StatusCode::BAD_REQUEST, "no");
        let lingering = Lingering::default();
        tokio::join!(lingering.end(Box::new(near), &answer, true), async {
            let mut got = String::new();
            far.read_to_string(&mut got).await.unwrap();
            assert!(
                got.contains("Content-Length: 3\r\n") && got.ends_with("\r\n\r\n"),
                "{got}"
            );
            drop(far);
        });
    }
}
