//! The encrypted stream, over rustls's unbuffered connections: one that is idle owns no buffers.
//!
//! A stream over rustls's buffered connection keeps 4 KiB to read into for as long as it lives. Here a read takes the
//! memory of its thread; what stays with the connection is the beginning of a record whose end is still under way,
//! plaintext that the reader had no room for, and records that the socket did not take; each of them is freed when it is
//! done with.
//!
//! ```text
//! socket -> [thread's memory] -> records -> plaintext -> reader's buffer, the rest in `plain`
//! writer -> records -> [thread's memory] -> socket, the rest in `outgoing`
//! ```

use super::error::{Error, Peer};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic,
};
use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Largest record: RFC 8446 §5.2 and, a little more, RFC 5246 §6.2.3.
const RECORD: usize = 5 + (16 << 10) + 2048;
/// Most plaintext that is written as one record (RFC 8446 §5.1).
const FRAGMENT: usize = 16 << 10;
/// Most records that are written with one call.
const AT_ONCE: usize = 4;
/// Longest handshake message that rustls takes, in records.
const MOST_INCOMING: usize = (64 << 10) + 2 * RECORD;

/// One of the two ends, as rustls has it.
pub trait End: Unpin {
    /// Its share of the connection.
    type Data;
    /// True for the side that accepts the connection.
    const IS_SERVER: bool;

    /// Whether there is something to send.
    fn wants_to_send(&self) -> bool;

    /// Looks at records, and says what there is to do.
    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8])
    -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl End for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const IS_SERVER: bool = true;

    fn wants_to_send(&self) -> bool {
        self.wants_write()
    }

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(records)
    }
}

impl End for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const IS_SERVER: bool = false;

    fn wants_to_send(&self) -> bool {
        self.wants_write()
    }

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(records)
    }
}

/// The stream of a server, which is what a listener of ours has.
pub type ServerStream<S> = Stream<S, UnbufferedServerConnection>;
/// The stream of a client, which is what a connection to an upstream has.
pub type ClientStream<S> = Stream<S, UnbufferedClientConnection>;

/// An encrypted stream over another one.
///
/// It is a stream of the handshake only until [`Stream::handshake`] has returned; nothing may be read or written before.
pub struct Stream<S, E> {
    io: S,
    end: E,
    /// The beginning of a record, or of a message of the handshake.
    incoming: Vec<u8>,
    /// Plaintext that nobody has read yet.
    plain: Vec<u8>,
    /// Records that the socket has not taken yet.
    outgoing: Vec<u8>,
    /// The handshake is not over.
    is_opening: bool,
    closing: Closing,
    failure: Option<rustls::Error>,
}

/// How far a stream has come to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closing {
    /// The peer said that it sends nothing more.
    pub by_peer: bool,
    /// We did.
    pub by_us: bool,
}

impl<S, E> fmt::Debug for Stream<S, E> {
    /// Nothing of what it carries, and no keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("tls::Stream")
            .field("is_opening", &self.is_opening)
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

thread_local! {
    /// The block through which all bytes are read and written. It is taken while it is used, so that it is never borrowed twice.
    static MEMORY: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// The memory of this thread for as long as `work` takes.
fn with_memory<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut memory = MEMORY
        .take()
        .unwrap_or_else(|| vec![0; MOST_INCOMING].into_boxed_slice());
    let result = work(&mut memory);
    MEMORY.set(Some(memory));
    result
}

impl<S, E: End> Stream<S, E> {
    /// A stream whose handshake has not begun.
    pub fn new(io: S, end: E) -> Self {
        Stream {
            io,
            end,
            incoming: Vec::new(),
            plain: Vec::new(),
            outgoing: Vec::new(),
            is_opening: true,
            closing: Closing::default(),
            failure: None,
        }
    }

    /// The state of rustls for the connection.
    pub fn end(&self) -> &E {
        &self.end
    }

    /// The stream that carries the encrypted bytes.
    pub fn io(&self) -> &S {
        &self.io
    }

    /// Memory that it owns, in bytes: the beginning of a record, plaintext that nobody has read, records that were not sent.
    pub fn memory(&self) -> usize {
        self.incoming.capacity() + self.plain.capacity() + self.outgoing.capacity()
    }

    /// The stream that carries the encrypted bytes, without the TLS state.
    #[cfg(test)]
    pub fn into_io(self) -> S {
        self.io
    }

    /// How many of `records` are done with; plaintext goes where `plain` puts it, and what is to be sent to `outgoing`.
    /// Where something is to be written it is asked to `write` it.
    fn process(
        &mut self,
        records: &mut [u8],
        mut plain: impl FnMut(&[u8]),
        write: impl FnOnce(WriteTraffic<'_, E::Data>) -> Result<(), EncryptError>,
    ) -> usize {
        if self.failure.is_some() {
            return records.len();
        }
        let mut done = 0;
        let mut write = Some(write);
        loop {
            let rest = records.get_mut(done..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.end.process(rest);
            let mut goes_on = true;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        plain(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    let at = self.outgoing.len();
                    let mut room = 0;
                    // The first attempt says how much room it needs.
                    while let Err(EncodeError::InsufficientSize(wanted)) =
                        message.encode(&mut self.outgoing[at..])
                        && wanted.required_size > room
                    {
                        room = wanted.required_size;
                        self.outgoing.resize(at + room, 0);
                    }
                }
                // What is in `outgoing` goes out before anything else.
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed) => self.closing.by_peer = true,
                Ok(ConnectionState::WriteTraffic(traffic)) => {
                    self.is_opening = false;
                    if let Some(write) = write.take()
                        && write(traffic).is_err()
                    {
                        // RFC 8446 §5.5: the keys are used up, after more than 2^24 records without new ones.
                        self.failure = Some(rustls::Error::EncryptError);
                    }
                    goes_on = false;
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => goes_on = false,
                // Data before the end of the handshake is not asked for; and of states to come nothing is known.
                Ok(_) => {
                    self.failure = Some(rustls::Error::General(
                        "a state that is not known".to_owned(),
                    ));
                    goes_on = false;
                }
                Err(error) => {
                    self.failure.get_or_insert(error);
                }
            }
            done += discard;
            // rustls may have an alert for the peer, and must not be asked for more than that.
            if !goes_on || (self.failure.is_some() && !self.end.wants_to_send()) {
                return done.min(records.len());
            }
        }
    }

    /// Processes the bytes that are there already.
    fn process_again(
        &mut self,
        write: impl FnOnce(WriteTraffic<'_, E::Data>) -> Result<(), EncryptError>,
    ) {
        let mut incoming = std::mem::take(&mut self.incoming);
        let mut plain = std::mem::take(&mut self.plain);
        let put = |bytes: &[u8]| plain.extend_from_slice(bytes);
        let done = self.process(&mut incoming, put, write);
        incoming.drain(..done);
        (self.incoming, self.plain) = (incoming, plain);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, E: End> Stream<S, E> {
    /// Completes the TLS handshake. A peer whose handshake fails gets an alert.
    ///
    /// # Errors
    /// Errors of the socket; of kind `InvalidData`, errors of the TLS handshake and of the verification of the peer.
    pub async fn handshake(&mut self) -> io::Result<()> {
        // A client speaks first.
        self.process_again(|_| Ok(()));
        poll_fn(|cx| {
            loop {
                let sent = self.poll_send(cx)?;
                if let Some(failure) = &self.failure {
                    ready!(sent);
                    return Poll::Ready(Err(invalid::<E>(failure)));
                }
                // What a server has left to say goes out with its first read: a client that writes before it reads need
                // not have taken it. And nobody may have plaintext pile up here.
                let may_leave = E::IS_SERVER || self.plain.len() > FRAGMENT;
                if !self.is_opening && (sent.is_ready() || may_leave) {
                    return Poll::Ready(Ok(()));
                }
                // Even where sending is held up: the peer may not read before it has sent what it has to send.
                // Plaintext may come right behind the handshake.
                ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
            }
        })
        .await
    }

    /// Sends the records that are to be sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut sent = 0;
        let result = loop {
            let rest = &self.outgoing[sent..];
            if rest.is_empty() {
                self.outgoing = Vec::new();
                return Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.outgoing.drain(..sent);
        result
    }

    /// Reads once from the socket; what that brings goes to `into`, and what has no room there to `plain`.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with_memory(|memory| {
            let had = self.incoming.len();
            // No more than the reader has room for, but for the last record.
            let room = (had + RECORD.max(into.remaining())).min(memory.len());
            memory[..had].copy_from_slice(&self.incoming);
            let mut read = ReadBuf::new(&mut memory[had..room]);
            if read.capacity() == 0 {
                // rustls refuses such messages before they are that long.
                return Poll::Ready(Err(ErrorKind::OutOfMemory.into()));
            }
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            let n = read.filled().len();
            if n == 0 {
                // RFC 8446 §6.1: without a close_notify nobody knows whether that was all.
                return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
            }
            let records = &mut memory[..had + n];
            let mut plain = std::mem::take(&mut self.plain);
            let put = |bytes: &[u8]| {
                let fits = bytes.len().min(into.remaining());
                into.put_slice(&bytes[..fits]);
                plain.extend_from_slice(&bytes[fits..]);
            };
            let done = self.process(records, put, |_| Ok(()));
            self.plain = plain;
            self.incoming = records[done..].to_vec();
            Poll::Ready(Ok(()))
        })
    }
}

fn invalid<E: End>(failure: &rustls::Error) -> io::Error {
    let peer = match E::IS_SERVER {
        true => Peer::Client,
        false => Peer::Server,
    };
    let source = failure.clone();
    io::Error::new(ErrorKind::InvalidData, Error { peer, source })
}

impl<S: AsyncRead + AsyncWrite + Unpin, E: End> AsyncRead for Stream<S, E> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        loop {
            if !stream.plain.is_empty() {
                let fits = stream.plain.len().min(buf.remaining());
                buf.put_slice(&stream.plain[..fits]);
                if fits == stream.plain.len() {
                    stream.plain = Vec::new();
                } else {
                    stream.plain.drain(..fits);
                }
            }
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            // Messages of TLS itself, such as new keys. An error here shows again at the next write.
            let sent = stream.poll_send(cx);
            if let Some(failure) = &stream.failure {
                return Poll::Ready(Err(invalid::<E>(failure)));
            }
            if stream.closing.by_peer {
                return Poll::Ready(Ok(()));
            }
            if let Poll::Ready(Err(error)) = sent {
                return Poll::Ready(Err(error));
            }
            ready!(stream.poll_receive(cx, buf))?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, E: End> AsyncWrite for Stream<S, E> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        // At most the bytes of one write wait.
        ready!(stream.poll_send(cx))?;
        if stream.closing.by_us {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let part = &buf[..buf.len().min(AT_ONCE * FRAGMENT)];
        if part.is_empty() {
            return Poll::Ready(Ok(0));
        }
        with_memory(|memory| {
            let mut records = 0;
            stream.process_again(|mut traffic| {
                for fragment in part.chunks(FRAGMENT) {
                    records += traffic.encrypt(fragment, &mut memory[records..])?;
                }
                Ok(())
            });
            if let Some(failure) = &stream.failure {
                return Poll::Ready(Err(invalid::<E>(failure)));
            }
            if records == 0 {
                return Poll::Ready(Err(ErrorKind::NotConnected.into()));
            }
            // New keys go out before what is encrypted with them.
            let mut sent = 0;
            if stream.outgoing.is_empty() {
                sent = match Pin::new(&mut stream.io).poll_write(cx, &memory[..records]) {
                    Poll::Ready(Ok(n)) => n,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => 0,
                };
            }
            stream.outgoing.extend_from_slice(&memory[sent..records]);
            Poll::Ready(Ok(part.len()))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(stream.poll_send(cx))?;
        Pin::new(&mut stream.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if !stream.closing.by_us && !stream.is_opening && stream.failure.is_none() {
            let mut notice = [0; 128];
            let mut length = 0;
            stream.process_again(|mut traffic| {
                length = traffic.queue_close_notify(&mut notice)?;
                Ok(())
            });
            stream.outgoing.extend_from_slice(&notice[..length]);
        }
        stream.closing.by_us = true;
        ready!(stream.poll_send(cx))?;
        Pin::new(&mut stream.io).poll_shutdown(cx)
    }
}
