//! A client's connection for the time of a plain request of HTTP/1.1: writing to it fails once the client has kept it
//! waiting for too long.
//!
//! Pingora's own time-outs bound one call, which writes up to half a megabyte: a slow client would be given up for the
//! size of what waits for it. Here each byte that the client takes counts.

use crate::edge::http::patience::Patience;
use crate::edge::http::transfer::Transfer;
use crate::metrics::PlainLimit;
use crate::transport::delegate::{delegate_identity, delegate_tls};
use async_trait::async_trait;
use pingora::protocols::{Shutdown, Stream};
use std::future::Future;
use std::io::{self, Cursor, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A connection whose client has to take what is written to it.
#[derive(Debug)]
pub(crate) struct Paced {
    stream: Stream,
    transfer: Arc<Transfer>,
    /// Made of the settings of the transfer at the first wait.
    patience: Option<Patience>,
    waiting: Option<Waiting>,
}

/// Since when the client takes nothing, and until when that is borne.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Paced {
    /// For the request that this transfer belongs to.
    pub(crate) fn wrap(stream: Stream, transfer: &Arc<Transfer>) -> Stream {
        Box::new(Paced {
            stream,
            transfer: transfer.clone(),
            patience: None,
            waiting: None,
        })
    }

    /// The connection itself, once the request is done.
    pub(crate) fn unwrap(stream: Stream) -> Option<Stream> {
        let mut paced = stream.into_any().downcast::<Paced>().ok()?;
        Some(paced.take_stream())
    }

    /// The connection itself, and in its place one that is at its end.
    fn take_stream(&mut self) -> Stream {
        std::mem::replace(&mut self.stream, Box::new(Cursor::new(Vec::new())))
    }

    /// Does this with the connection, and gives the client up where it has been waited for too long.
    fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
        taken: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match poll(Pin::new(&mut self.stream), cx) {
            Poll::Ready(Ok(done)) => {
                self.handle_taken(taken(&done));
                Poll::Ready(Ok(done))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_waiting(cx).map(Err),
        }
    }

    fn handle_taken(&mut self, bytes: usize) {
        if let (Some(patience), Some(waiting)) = (&mut self.patience, self.waiting.take()) {
            patience.handle_wait(waiting.since.elapsed());
            patience.handle_bytes(bytes);
        }
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.patience.is_none() {
            self.patience = self.transfer.patience_for_response();
        }
        let Some(patience) = &self.patience else {
            return Poll::Pending;
        };
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            since: Instant::now(),
            timer: Box::pin(sleep(patience.left())),
        });
        waiting.timer.as_mut().poll(cx).map(|()| {
            self.transfer.handle_end(PlainLimit::WriteTimeout);
            let sentence = "the client does not take the response";
            io::Error::new(io::ErrorKind::TimedOut, sentence)
        })
    }
}

impl Drop for Paced {
    /// A request that was ended for its server's sake is answered by the owner of the transfer.
    fn drop(&mut self) {
        let transfer = self.transfer.clone();
        transfer.give_back(|| self.take_stream());
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = |stream: Pin<&mut Stream>, cx: &mut Context<'_>| stream.poll_write(cx, buf);
        self.get_mut().poll_with(cx, write, |count| *count)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write =
            |stream: Pin<&mut Stream>, cx: &mut Context<'_>| stream.poll_write_vectored(cx, bufs);
        self.get_mut().poll_with(cx, write, |count| *count)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = |stream: Pin<&mut Stream>, cx: &mut Context<'_>| stream.poll_flush(cx);
        self.get_mut().poll_with(cx, flush, |()| 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = |stream: Pin<&mut Stream>, cx: &mut Context<'_>| stream.poll_shutdown(cx);
        self.get_mut().poll_with(cx, shutdown, |()| 0)
    }
}

#[async_trait]
impl Shutdown for Paced {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.stream).await;
    }
}

delegate_identity!(Paced, this => this.stream);
delegate_tls!(Paced, this => this.stream);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::settings::Client;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::timeout;

    const SECOND: Duration = Duration::from_secs(1);

    /// Writes 10,000 bytes to a client that takes 64 of them every so often; how it ended, and after how many seconds.
    async fn write(every: Duration, min_rate: u64) -> (io::Result<()>, u64) {
        let (near, mut far) = duplex(64);
        let client = Client {
            min_rate,
            ..Client::default()
        };
        let transfer = Transfer::new(&client, &Arc::default());
        let mut stream = Paced::wrap(Box::new(near), &transfer);
        let begun = Instant::now();
        let taking = async {
            let mut piece = [0; 64];
            while far.read_exact(&mut piece).await.is_ok() {
                tokio::time::sleep(every).await;
            }
        };
        let written = tokio::select! {
            written = stream.write_all(&[0; 10_000]) => written,
            () = taking => Err(io::ErrorKind::BrokenPipe.into()),
        };
        (written, begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        for min_rate in [0, 256] {
            let (written, took) = write(3600 * SECOND, min_rate).await;
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(took, 60);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_slow_lives_unless_it_is_too_slow() {
        // 6 and 640 bytes per second.
        let (written, _) = write(10 * SECOND, 0).await;
        written.unwrap();
        let (written, took) = write(10 * SECOND, 256).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((60..70).contains(&took), "{took}");
        let (written, _) = write(SECOND / 10, 256).await;
        written.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_comes_back() {
        let (near, mut far) = duplex(64);
        let transfer = Transfer::new(&Client::default(), &Arc::default());
        let stream = Paced::wrap(Box::new(near), &transfer);
        let mut stream = Paced::unwrap(stream).expect("it was wrapped");
        stream.write_all(b"next").await.unwrap();
        let mut got = [0; 4];
        let read = timeout(SECOND, far.read_exact(&mut got)).await;
        read.unwrap().unwrap();
        assert_eq!(&got, b"next");
    }
}
