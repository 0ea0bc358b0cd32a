//! The steps of the demo: for each one the bytes sent, the bytes that each side received, and the metric that moved.

use super::peer::{Peer, Received, read_head};
use crate::frame::Opcode;
use crate::stdout::say;
use bytes::BytesMut;
use std::fmt::Write;
use std::io;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The tour through a running wsgate.
pub(super) struct Tour {
    listener: String,
    admin: String,
    /// The messages that the backends received.
    heard: Receiver<Received>,
}

/// A step that misbehaves, and what is announced of it.
struct Step {
    title: &'static str,
    /// Payload of the text frame that the client sends.
    sends: &'static [u8],
    client_gets: u16,
    backend_gets: Option<u16>,
    metric: &'static str,
}

const STEPS: [Step; 5] = [
    Step {
        title: "A client sends text that is not UTF-8",
        sends: b"caf\xe9 au lait",
        client_gets: 1007,
        backend_gets: Some(1001),
        metric: "wsgate_violations_total{kind=\"text_not_utf8\",mode=\"enforce\",route=\"default\",side=\"client\"}",
    },
    Step {
        title: "A backend sends text that is not UTF-8 (its client did nothing wrong)",
        sends: b"bad",
        client_gets: 1011,
        backend_gets: Some(1007),
        metric: "wsgate_violations_total{kind=\"text_not_utf8\",mode=\"enforce\",route=\"default\",side=\"server\"}",
    },
    Step {
        title: "A backend is restarted (it says 1001; the client learns when to come back)",
        sends: b"restart",
        client_gets: 1012,
        backend_gets: Some(1001),
        metric: "wsgate_closes_total{code=\"1012\",initiator=\"wsgate\",to=\"client\"}",
    },
    Step {
        title: "A backend is drained, as before a deploy (new connections go to the other one)",
        sends: b"drain",
        client_gets: 1012,
        backend_gets: Some(1001),
        metric: "wsgate_closes_total{code=\"1012\",initiator=\"wsgate\",to=\"client\"}",
    },
    Step {
        title: "A backend crashes",
        sends: b"crash",
        client_gets: 1012,
        backend_gets: None,
        metric: "wsgate_closes_total{code=\"1012\",initiator=\"wsgate\",to=\"client\"}",
    },
];

/// For anything that happens on one machine this is long.
const PATIENCE: Duration = Duration::from_secs(10);

impl Tour {
    pub(super) fn new(listener: String, admin: String, heard: Receiver<Received>) -> Self {
        Tour {
            listener,
            admin,
            heard,
        }
    }

    /// Prints what the user can try.
    pub(super) fn introduce(&self, backends: &[String]) {
        let Tour {
            listener, admin, ..
        } = self;
        say!(
            "wsgate {} in front of two echo backends ({})\n",
            env!("CARGO_PKG_VERSION"),
            backends.join(", ")
        );
        say!("  page       http://{listener}/   (open it in a browser)");
        say!("  WebSocket  ws://{listener}/ws");
        say!("  metrics    http://{admin}/metrics");
        say!("  commands   wsgate status --admin {admin}");
        say!("             wsgate connections --admin {admin}");
        say!(
            "             wsgate drain default --server {} --admin {admin}",
            backends[0]
        );
        say!("             wsgate resume default --admin {admin}\n");
    }

    /// Takes the tour and says whether everything was as announced.
    pub(super) async fn take(&self) -> bool {
        let mut good = true;
        match timeout(PATIENCE, self.good_client()).await {
            Ok(Ok(as_announced)) => good &= print_result(as_announced),
            other => good &= failed(other),
        }
        for (number, step) in STEPS.iter().enumerate() {
            match timeout(PATIENCE, self.step(number + 2, step)).await {
                Ok(Ok(as_announced)) => good &= print_result(as_announced),
                other => good &= failed(other),
            }
        }
        say!(
            "{}",
            if good {
                "Everything was as announced.\n"
            } else {
                "Something was NOT as announced.\n"
            }
        );
        good
    }

    async fn good_client(&self) -> io::Result<bool> {
        const TEXT: &str = "Grüße, 世界 🌍";
        say!("1. A good client");
        let mut client = Peer::connect(&self.listener).await?;
        let sent = client.send(Opcode::Text, TEXT.as_bytes()).await?;
        say!("   client sends     {}", hex(&sent));
        let answer = client
            .receive()
            .await?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let arrived = self
            .heard
            .recv_timeout(PATIENCE)
            .map_err(io::Error::other)?;
        say!("   backend gets     {}", arrived.describe());
        say!("   client gets      {}", answer.describe());
        client.send(Opcode::Close, &1000u16.to_be_bytes()).await?;
        let close = client
            .receive()
            .await?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        let closed = self
            .heard
            .recv_timeout(PATIENCE)
            .map_err(io::Error::other)?;
        say!("   and at the end   {}, on both sides", close.describe());
        let same = answer.payload == TEXT.as_bytes() && arrived.payload == TEXT.as_bytes();
        Ok(same && close.close_code() == Some(1000) && closed.close_code() == Some(1000))
    }

    async fn step(&self, number: usize, step: &Step) -> io::Result<bool> {
        say!("{number}. {}", step.title);
        let before = self.metric(step.metric).await?;
        let mut client = Peer::connect(&self.listener).await?;
        let sent = client.send(Opcode::Text, step.sends).await?;
        say!("   client sends     {}", hex(&sent));
        let close = client
            .receive()
            .await?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        say!("   client gets      {}", close.describe());
        // A client answers a Close with its own (RFC 6455 §5.5.1).
        client
            .send(Opcode::Close, &close.payload[..2.min(close.payload.len())])
            .await?;
        let mut as_announced = close.close_code() == Some(step.client_gets);
        // A command is text that the backend is to receive; bad text is nothing that it may ever see.
        if step.client_gets != 1007 {
            let command = self
                .heard
                .recv_timeout(PATIENCE)
                .map_err(io::Error::other)?;
            as_announced &= command.payload == step.sends;
            say!("   backend gets     {}", command.describe());
        }
        if let Some(code) = step.backend_gets {
            let closed = self
                .heard
                .recv_timeout(PATIENCE)
                .map_err(io::Error::other)?;
            let only = if step.client_gets == 1007 {
                ", and not one byte of the message"
            } else {
                ""
            };
            say!("   backend gets     {}{only}", closed.describe());
            as_announced &= closed.close_code() == Some(code);
        } else {
            say!("   backend gets     nothing: it is gone");
        }
        let after = self.metric(step.metric).await?;
        say!("   metric           {} {before} -> {after}", step.metric);
        Ok(as_announced && after == before + 1)
    }

    /// The value of a series, 0 where it is not there yet.
    async fn metric(&self, series: &str) -> io::Result<u64> {
        let mut stream = TcpStream::connect(&self.admin).await?;
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.admin
        );
        stream.write_all(request.as_bytes()).await?;
        let mut body = BytesMut::new();
        read_head(&mut stream, &mut body).await?;
        while stream.read_buf(&mut body).await? > 0 {}
        let text = String::from_utf8_lossy(&body);
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        Ok(value
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(0))
    }
}

fn print_result(as_announced: bool) -> bool {
    say!(
        "   {}\n",
        if as_announced {
            "as announced"
        } else {
            "NOT as announced"
        }
    );
    as_announced
}

fn failed(result: Result<io::Result<bool>, tokio::time::error::Elapsed>) -> bool {
    match result {
        Ok(Err(error)) => say!("   FAILED: {error}\n"),
        _ => say!("   FAILED: nothing happened for {} s\n", PATIENCE.as_secs()),
    }
    false
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x} ");
        text
    })
}
