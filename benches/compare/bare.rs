//! A tunnel that reads and writes and does nothing else: what the calls of the system cost alone, whoever makes them.
//!
//! One thread, edge-triggered epoll, one read and one write for each piece. It knows no HTTP, has no timers and keeps
//! nothing; who does not take what is sent holds up everybody. It is no proxy, and nothing can be cheaper this way.

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// The listener, among the ends.
const LISTENER: u64 = u64::MAX;

/// Passes what comes to `port` of this machine on to `server`, for ever.
///
/// # Errors
/// Those of the listener and of epoll.
pub(crate) fn run(port: u16, server: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let watch = |stream: &TcpStream, end: usize| -> io::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(
            &epoll,
            stream,
            EventData::new_u64(end as u64),
            flags,
        )?)
    };
    epoll::add(
        &epoll,
        &listener,
        EventData::new_u64(LISTENER),
        EventFlags::IN,
    )?;
    // A client at an even place, its connection to the server behind it.
    let mut ends: Vec<Option<TcpStream>> = Vec::new();
    let mut events = Vec::with_capacity(512);
    let mut piece = vec![0; 128 << 10];
    loop {
        events.clear();
        // A tracer that comes interrupts it.
        retry_on_intr(|| epoll::wait(&epoll, spare_capacity(&mut events), None))?;
        for event in &events {
            if event.data.u64() == LISTENER {
                let (client, _) = listener.accept()?;
                let upstream = TcpStream::connect(server)?;
                let free = ends.chunks(2).position(|pair| pair[0].is_none());
                let at = free.map_or(ends.len(), |pair| 2 * pair);
                ends.resize_with(ends.len().max(at + 2), || None);
                watch(&client, at)?;
                watch(&upstream, at + 1)?;
                (ends[at], ends[at + 1]) = (Some(client), Some(upstream));
                continue;
            }
            let end = event.data.u64() as usize;
            if pass(&ends[end], &ends[end ^ 1], &mut piece).is_err() {
                (ends[end], ends[end ^ 1]) = (None, None);
            }
        }
    }
}

/// Passes on what is there; an error is the end of both.
fn pass(from: &Option<TcpStream>, to: &Option<TcpStream>, piece: &mut [u8]) -> io::Result<()> {
    let (Some(mut from), Some(mut to)) = (from.as_ref(), to.as_ref()) else {
        return Ok(());
    };
    loop {
        let n = match from.read(piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut rest = &piece[..n];
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&to, PollFlags::OUT)], None)?;
                }
                Err(error) => return Err(error),
            }
        }
        if n < piece.len() {
            return Ok(());
        }
    }
}
