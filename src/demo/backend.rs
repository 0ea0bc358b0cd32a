//! A backend of the demo: a page, and an echo that can misbehave on request.

use super::peer::{Peer, Received, read_head};
use crate::admin::Client;
use crate::frame::{Opcode, close};
use crate::transport::address::Address;
use bytes::BytesMut;
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const PAGE: &str = include_str!("page.html");

/// The admin listener of the wsgate in front, once it is known.
pub(super) type AdminAddress = Arc<OnceLock<Address>>;

/// How long a backend that had itself drained stays away: longer than clients are told to wait.
const AWAY: Duration = Duration::from_secs(8);

/// Starts a backend on a free port. What it receives over WebSockets is told to `heard`.
pub(super) async fn start(heard: Sender<Received>, admin: AdminAddress) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let backend = Backend {
                address,
                heard: heard.clone(),
                admin: admin.clone(),
            };
            // A connection that fails is the far end's affair.
            tokio::spawn(async move { backend.serve(stream).await.ok() });
        }
    });
    Ok(address)
}

/// A backend, for one connection.
struct Backend {
    address: SocketAddr,
    heard: Sender<Received>,
    admin: AdminAddress,
}

impl Backend {
    /// Has wsgate drain this backend, and lets it in again after a while. Blocks.
    fn drain(address: SocketAddr, admin: &AdminAddress) -> io::Result<()> {
        let Some(admin) = admin.get() else {
            return Ok(());
        };
        let client = Client {
            address: admin.clone(),
            token: None,
        };
        let server = json!({ "server": address.to_string(), "by": "the demo" });
        let drain = json!({ "server": address.to_string(), "by": "the demo", "force": true });
        client.ask("POST", "/v1/upstreams/default/drain", &drain)?;
        std::thread::sleep(AWAY);
        client.ask("POST", "/v1/upstreams/default/resume", &server)?;
        Ok(())
    }

    async fn serve(self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        let head = read_head(&mut stream, &mut buffer).await?;
        let key = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-key")
                .then(|| value.trim().to_owned())
        });
        match key {
            Some(key) => self.echo(Peer::accept(stream, buffer, &key).await?).await,
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

    async fn echo(self, mut peer: Peer) -> io::Result<()> {
        while let Some(received) = peer.receive().await? {
            let Received { opcode, payload } = received.clone();
            // Nobody listens once the tour is over.
            let _ = self.heard.send(received);
            match (opcode, payload.as_slice()) {
                (Opcode::Text, b"bad") => peer.send(Opcode::Text, b"caf\xe9 au lait").await?,
                (Opcode::Text, b"restart") => {
                    peer.send(Opcode::Close, &close::GOING_AWAY.to_be_bytes())
                        .await?
                }
                (Opcode::Text, b"crash") => return Ok(()),
                (Opcode::Text, b"who") => {
                    let answer = format!("server {}", self.address);
                    peer.send(Opcode::Text, answer.as_bytes()).await?
                }
                (Opcode::Text, b"drain") => {
                    let (address, admin) = (self.address, self.admin.clone());
                    tokio::task::spawn_blocking(move || Backend::drain(address, &admin));
                    continue;
                }
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
}
