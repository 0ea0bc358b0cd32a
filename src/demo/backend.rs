//! A backend of the demo: a page, and an echo that can misbehave on request.

use super::peer::{Peer, Received, read_head};
use crate::frame::{Opcode, close};
use bytes::BytesMut;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const PAGE: &str = include_str!("page.html");

/// Starts a backend on a free port. What it receives over WebSockets is told to `heard`.
pub(super) async fn start(heard: Sender<Received>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let heard = heard.clone();
            // A connection that fails is the far end's affair.
            tokio::spawn(async move { serve(stream, heard).await.ok() });
        }
    });
    Ok(address)
}

async fn serve(mut stream: TcpStream, heard: Sender<Received>) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    let head = read_head(&mut stream, &mut buffer).await?;
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then(|| value.trim().to_owned())
    });
    match key {
        Some(key) => echo(Peer::accept(stream, buffer, &key).await?, heard).await,
        None => {
            let length = PAGE.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(PAGE.as_bytes()).await
        }
    }
}

async fn echo(mut peer: Peer, heard: Sender<Received>) -> io::Result<()> {
    while let Some(received) = peer.receive().await? {
        let Received { opcode, payload } = received.clone();
        // Nobody listens once the tour is over.
        let _ = heard.send(received);
        match (opcode, payload.as_slice()) {
            (Opcode::Text, b"bad") => peer.send(Opcode::Text, b"caf\xe9 au lait").await?,
            (Opcode::Text, b"restart") => {
                peer.send(Opcode::Close, &close::GOING_AWAY.to_be_bytes())
                    .await?
            }
            (Opcode::Text, b"crash") => return Ok(()),
            (Opcode::Ping, payload) => peer.send(Opcode::Pong, payload).await?,
            (Opcode::Pong, _) => continue,
            (opcode, payload) => peer.send(opcode, payload).await?,
        };
        if opcode == Opcode::Close {
            break;
        }
    }
    Ok(())
}
