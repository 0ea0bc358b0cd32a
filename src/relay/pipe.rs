//! One direction between two streams: what was read from the source and has not reached the sink.
//!
//! ```text
//!            ready                window
//!  sink  <- [released, unwritten][held or not inspected]  <- source
//! ```
//!
//! Usually both parts are empty and the pipe owns no memory: what is read into the workspace of the thread is written
//! from there. It is always true that the sink was given a prefix of what the flow released, then at most one Close.

use crate::session::ControlFrame;
use bytes::{Buf, BufMut, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Most that is read at once: a message of a mebibyte passes with eight calls of the system each way. More would be fewer
/// calls, and dearer ones: what is read has to be in the cache still when it is inspected, and when it is written.
pub(super) const CHUNK: usize = 128 << 10;
/// The size of a chunk while the other side has not taken all of the one before: a large chunk would be kept for a slow reader.
const CROWDED_CHUNK: usize = 64 << 10;
/// Most that is copied in front of what is read, so that both can be looked at as one: a cut character, or a cut header,
/// as the end of every chunk may leave it.
const CARRIED: usize = 4 << 10;

/// The result of a read.
pub(super) struct Filled {
    /// In bytes; 0 at the end of the stream.
    pub read: usize,
    /// Bytes of the workspace that are to be looked at.
    pub in_scratch: usize,
}

#[derive(Debug)]
pub(super) struct Pipe {
    /// The window holds bytes that were not inspected.
    pub fresh: bool,
    /// `ready` bytes, then the window.
    buf: BytesMut,
    ready: usize,
    /// Something was written that the stream may keep to itself until it is flushed.
    unflushed: bool,
    /// The sink did not take all of the last chunk at once.
    crowded: bool,
    /// The sink has taken something during this poll.
    pub took: bool,
    /// Most that the buffer could hold since it was made.
    allocated: u32,
}

impl Pipe {
    /// `read` came from the source already, behind the handshake.
    pub(super) fn new(read: BytesMut) -> Self {
        Pipe {
            fresh: !read.is_empty(),
            buf: read,
            ready: 0,
            unflushed: false,
            crowded: false,
            took: false,
            allocated: 0,
        }
    }

    /// Whether all that was meant for the sink has been written.
    #[inline]
    pub(super) fn is_flushed(&self) -> bool {
        self.ready == 0 && !self.unflushed
    }

    /// The memory that it owns, in bytes: its buffer, used or not.
    pub(super) fn memory(&mut self) -> usize {
        // A buffer does not tell what it has left behind at its front, but had once.
        let now = u32::try_from(self.buf.capacity()).unwrap_or(u32::MAX);
        self.allocated = if now == 0 { 0 } else { self.allocated.max(now) };
        self.allocated as usize
    }

    /// Reads once, at most so many bytes. They are in `scratch`, behind what was kept before them, unless that is too much
    /// to be copied; then they are in the window. `missing` is how much the frame under way needs, where that is known.
    #[inline]
    pub(super) fn poll_fill(
        &mut self,
        source: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        most: usize,
        missing: usize,
    ) -> Poll<io::Result<Filled>> {
        let kept = self.buf.len();
        if self.ready == 0 && kept <= CARRIED {
            let room = if self.crowded {
                CROWDED_CHUNK
            } else {
                scratch.len() - CARRIED
            };
            let mut into = ReadBuf::new(&mut scratch[kept..kept + most.min(room)]);
            ready!(source.poll_read(cx, &mut into))?;
            let read = into.filled().len();
            if read > 0 {
                scratch[..kept].copy_from_slice(&self.buf);
                self.buf.clear();
            }
            return Poll::Ready(Ok(Filled {
                read,
                in_scratch: kept + read,
            }));
        }
        // Enough for the rest of the frame, so that a held frame is read with as few calls as a passing one.
        self.buf.reserve(missing.clamp(4096, CROWDED_CHUNK));
        let read = ready!(poll_read_buf(source, cx, &mut (&mut self.buf).limit(most)))?;
        Poll::Ready(Ok(Filled {
            read,
            in_scratch: 0,
        }))
    }

    /// Writes the bytes that are ready. Returns true if any byte was written.
    ///
    /// # Errors
    /// The errors of the stream. The bytes that were ready are dropped.
    #[inline]
    pub(super) fn poll_flush(
        &mut self,
        mut sink: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> io::Result<bool> {
        let mut wrote = false;
        while self.ready > 0 {
            match sink.as_mut().poll_write(cx, &self.buf[..self.ready]) {
                Poll::Pending => return Ok(wrote),
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.buf.advance(n);
                    self.ready -= n;
                    (wrote, self.took) = (true, true);
                }
                Poll::Ready(Ok(_)) => return Err(self.broken(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Err(error)) => return Err(self.broken(error)),
            }
        }
        if self.buf.is_empty() {
            // An idle connection owns no buffer.
            self.buf = BytesMut::new();
        }
        self.unflushed |= wrote;
        if self.unflushed {
            match sink.poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(self.broken(error)),
            }
        }
        Ok(wrote)
    }

    /// Makes `released` ready for the sink and writes what it takes at once; keeps the rest, and `window`. Both are parts
    /// of what was read into the workspace.
    ///
    /// # Errors
    /// As [`Pipe::poll_flush`].
    #[inline]
    pub(super) fn forward(
        &mut self,
        mut released: &[u8],
        window: &[u8],
        mut sink: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        debug_assert!(
            self.buf.is_empty(),
            "the workspace is read into only when the pipe is empty"
        );
        let mut result = Ok(());
        while !released.is_empty() && result.is_ok() {
            match sink.as_mut().poll_write(cx, released) {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) if n > 0 => {
                    released = &released[n..];
                    (self.unflushed, self.took) = (true, true);
                }
                Poll::Ready(Ok(_)) => result = Err(self.broken(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Err(error)) => result = Err(self.broken(error)),
            }
        }
        self.crowded = !released.is_empty();
        if result.is_ok() {
            self.ready = released.len();
            self.buf.reserve(released.len() + window.len());
            self.buf.extend_from_slice(released);
        }
        self.buf.extend_from_slice(window);
        result
    }

    /// Takes the window out, for the time of its inspection.
    pub(super) fn take_window(&mut self) -> BytesMut {
        self.buf.split_off(self.ready)
    }

    /// Puts the window back, of which the first `forward` bytes are made ready and the `discard` bytes after those are dropped.
    pub(super) fn put_window(&mut self, mut window: BytesMut, forward: usize, discard: usize) {
        if discard > 0 {
            let mut rest = window.split_off(forward);
            rest.advance(discard);
            window.unsplit(rest);
        }
        self.ready += forward;
        if self.buf.is_empty() {
            self.buf = window;
        } else {
            self.buf.unsplit(window);
        }
    }

    /// Makes a frame of wsgate's own ready, after all that is.
    pub(super) fn insert(&mut self, frame: &ControlFrame) {
        let window = self.buf.split_off(self.ready);
        self.buf.extend_from_slice(frame.as_bytes());
        self.ready = self.buf.len();
        self.buf.extend_from_slice(&window);
    }

    fn broken(&mut self, error: io::Error) -> io::Error {
        self.buf.advance(self.ready);
        self.ready = 0;
        self.unflushed = false;
        error
    }
}
