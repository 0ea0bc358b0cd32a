//! One end of a WebSocket, as small as a demo needs it: whole frames, no fragments.

use crate::frame::header;
use crate::frame::header::MAX_LEN;
use crate::frame::mask::Mask;
use crate::frame::{Opcode, close};
use crate::handshake;
use bytes::{Buf, BytesMut};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One end of a WebSocket.
pub(super) struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
    /// Clients mask what they send.
    is_client: bool,
}

/// A frame that was received, unmasked.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub opcode: Opcode,
    pub payload: Vec<u8>,
}

impl Received {
    /// As the tour shows it.
    pub(super) fn describe(&self) -> String {
        match self.opcode {
            Opcode::Close => match close::parse(&self.payload) {
                Ok(close::Payload {
                    code: Some(code),
                    reason,
                }) => format!("Close {code} \"{reason}\""),
                _ => "Close without a code".to_owned(),
            },
            Opcode::Text => format!("text \"{}\"", String::from_utf8_lossy(&self.payload)),
            Opcode::Continuation => format!("a fragment of {} bytes", self.payload.len()),
            Opcode::Binary => format!("binary of {} bytes", self.payload.len()),
            Opcode::Ping => format!("Ping of {} bytes", self.payload.len()),
            Opcode::Pong => format!("Pong of {} bytes", self.payload.len()),
        }
    }

    /// The code of a Close.
    pub(super) fn close_code(&self) -> Option<u16> {
        match self.opcode {
            Opcode::Close => close::parse(&self.payload).ok()?.code,
            _ => None,
        }
    }
}

impl Peer {
    /// A client whose handshake succeeded.
    pub(super) async fn connect(address: &str) -> io::Result<Peer> {
        const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut buffer = BytesMut::new();
        let head = read_head(&mut stream, &mut buffer).await?;
        if !head.starts_with("HTTP/1.1 101 ") {
            return Err(io::Error::other(format!("the handshake failed: {head}")));
        }
        Ok(Peer {
            stream,
            buffer,
            is_client: true,
        })
    }

    /// The server's end: answers the request with this key.
    pub(super) async fn accept(
        mut stream: TcpStream,
        buffer: BytesMut,
        key: &str,
    ) -> io::Result<Peer> {
        let accept = handshake::accept_for(key.as_bytes());
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(response.as_bytes()).await?;
        Ok(Peer {
            stream,
            buffer,
            is_client: false,
        })
    }

    /// Sends one frame and returns it as it went over the wire.
    pub(super) async fn send(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<Vec<u8>> {
        let mask = self.is_client.then(rand::random::<[u8; 4]>);
        let mut head = [0; MAX_LEN];
        let head_len = header::encode(opcode, payload.len() as u64, mask, &mut head);
        let mut frame = [&head[..head_len], payload].concat();
        if let Some(key) = mask {
            Mask::new(key).apply(&mut frame[head_len..]);
        }
        self.stream.write_all(&frame).await?;
        Ok(frame)
    }

    /// The next frame, `None` at the end of the stream.
    pub(super) async fn receive(&mut self) -> io::Result<Option<Received>> {
        loop {
            if let Some(header) = header::decode(&self.buffer) {
                let end = usize::try_from(header.payload_len)
                    .ok()
                    .and_then(|len| len.checked_add(header.len));
                let end = end.ok_or_else(|| io::Error::other("a frame that no memory holds"))?;
                if self.buffer.len() >= end {
                    let mut payload = self.buffer[header.len..end].to_vec();
                    if let Some(key) = header.mask {
                        Mask::new(key).apply(&mut payload);
                    }
                    self.buffer.advance(end);
                    let opcode = header
                        .first
                        .opcode()
                        .ok_or_else(|| io::Error::other("a reserved opcode"))?;
                    return Ok(Some(Received { opcode, payload }));
                }
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Reads the head of a message; what came behind it stays in `buffer`.
pub(super) async fn read_head(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<String> {
    loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = buffer.split_to(at + 4);
            return Ok(String::from_utf8_lossy(&head).into_owned());
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
