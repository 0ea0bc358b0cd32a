//! A client with `tokio-tungstenite`: plays the scenarios against a URL and prints their results as one JSON object, in
//! the form of `scenarios.mjs`; a scenario that fails has an "error".

use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Found = Result<Value, Box<dyn std::error::Error>>;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What a scenario does with its connection.
enum Act {
    Echo(Message),
    Many,
    Ask(&'static str),
    Fragments,
    Ping,
    Subprotocol,
    ClientCloses(u16),
    ServerCloses(u16),
    RawFromServer(String),
    RawFromClient(String),
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(base), Some(bad)) = (arguments.next(), arguments.next()) else {
        return Err("usage: tungstenite_client URL BAD-FRAMES-IN-JSON".into());
    };
    let mut results = Map::new();
    for (name, offered, act) in scenarios(&serde_json::from_str(&bad)?) {
        let url = format!("{base}/{name}");
        let result = match tokio::time::timeout(TIMEOUT, play(&url, offered, act)).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => json!({ "error": error.to_string() }),
            Err(_) => json!({ "error": "it took too long" }),
        };
        results.insert(name, result);
    }
    println!("{}", Value::Object(results));
    Ok(())
}

/// Name of each, the subprotocols it offers, and what it does.
fn scenarios(bad: &Value) -> Vec<(String, &'static str, Act)> {
    let large_text = "ä€😀".repeat((1 << 20) / 9 + 1);
    let all: Vec<u8> = (0..=255).collect();
    let plain = [
        ("text", "", Act::Echo(Message::text("grüße, 世界 🌍"))),
        ("empty_text", "", Act::Echo(Message::text(""))),
        ("binary", "", Act::Echo(Message::binary(all.clone()))),
        ("large_text", "", Act::Echo(Message::text(large_text))),
        (
            "large_binary",
            "",
            Act::Echo(Message::binary(all.repeat(4 << 12))),
        ),
        ("many", "", Act::Many),
        ("fragments_from_server", "", Act::Ask("cmd:fragments")),
        ("fragments_from_client", "", Act::Fragments),
        ("ping_from_server", "", Act::Ask("cmd:ping")),
        ("ping_from_client", "", Act::Ping),
        ("subprotocol", "chat.v2, chat.v1", Act::Subprotocol),
        ("no_subprotocol", "", Act::Subprotocol),
    ];
    let mut scenarios: Vec<_> = plain
        .into_iter()
        .map(|(name, offered, act)| (name.to_owned(), offered, act))
        .collect();
    for code in [1000, 4001] {
        scenarios.push((format!("client_closes_{code}"), "", Act::ClientCloses(code)));
        scenarios.push((format!("server_closes_{code}"), "", Act::ServerCloses(code)));
    }
    let wires = |side: &str| {
        let wires = bad[side].as_object().into_iter().flatten();
        wires
            .map(|(name, wire)| (name.clone(), wire.as_str().unwrap_or_default().to_owned()))
            .collect::<Vec<_>>()
    };
    for (name, wire) in wires("server") {
        scenarios.push((format!("server_sends_{name}"), "", Act::RawFromServer(wire)));
    }
    for (name, wire) in wires("client") {
        scenarios.push((format!("client_sends_{name}"), "", Act::RawFromClient(wire)));
    }
    scenarios
}

/// One scenario on a connection of its own.
async fn play(url: &str, offered: &str, act: Act) -> Found {
    let mut request = url.into_client_request()?;
    if !offered.is_empty() {
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", offered.parse()?);
    }
    let (mut socket, response) = connect_async(request).await?;
    let header = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let mut result = match act {
        Act::Echo(message) => echoed(&mut socket, message).await?,
        Act::Many => many(socket).await?,
        Act::Ask(command) => asked(&mut socket, command).await?,
        Act::Fragments => fragments(&mut socket).await?,
        Act::Ping => ping(&mut socket).await?,
        Act::Subprotocol => {
            let mut result = asked(&mut socket, "cmd:subprotocol").await?;
            result["agreed"] = json!(header("Sec-WebSocket-Protocol"));
            result
        }
        Act::ClientCloses(code) => {
            let frame = CloseFrame {
                code: CloseCode::from(code),
                reason: "done".into(),
            };
            socket.close(Some(frame)).await?;
            told(&mut socket).await?
        }
        Act::ServerCloses(code) => {
            socket
                .send(Message::text(format!("cmd:close:{code}:go away")))
                .await?;
            told(&mut socket).await?
        }
        Act::RawFromServer(wire) => {
            socket
                .send(Message::text(format!("cmd:raw:{wire}")))
                .await?;
            told(&mut socket).await?
        }
        Act::RawFromClient(wire) => {
            socket.get_mut().write_all(&bytes_of(&wire)?).await?;
            told(&mut socket).await?
        }
    };
    result["extensions"] = json!(header("Sec-WebSocket-Extensions"));
    Ok(result)
}

/// The next data message.
async fn receive(socket: &mut Socket) -> Result<Message, Box<dyn std::error::Error>> {
    loop {
        match socket.next().await.ok_or("the connection ended")?? {
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(close) => return Err(format!("closed: {close:?}").into()),
            message => return Ok(message),
        }
    }
}

async fn echoed(socket: &mut Socket, message: Message) -> Found {
    socket.send(message.clone()).await?;
    let answer = receive(socket).await?;
    let size = match &answer {
        Message::Text(text) => text.chars().count(),
        other => other.len(),
    };
    Ok(json!({ "equal": answer == message, "size": size }))
}

async fn asked(socket: &mut Socket, command: &str) -> Found {
    socket.send(Message::text(command)).await?;
    Ok(json!({ "answer": receive(socket).await?.to_text()? }))
}

/// Messages of growing size, all under way at once, come back in order.
async fn many(socket: Socket) -> Found {
    let message = |size: usize| {
        if size % 2 == 1 {
            Message::text("ä".repeat(size))
        } else {
            Message::binary(vec![b'b'; size])
        }
    };
    let messages: Vec<Message> = (0..3000).step_by(15).map(message).collect();
    let (mut sink, mut stream) = socket.split();
    let sending = messages.clone();
    let sender = tokio::spawn(async move {
        for message in sending {
            sink.send(message).await?;
        }
        Ok::<_, tokio_tungstenite::tungstenite::Error>(())
    });
    let mut answers = Vec::new();
    while answers.len() < messages.len() {
        answers.push(stream.next().await.ok_or("the connection ended")??);
    }
    sender.await??;
    Ok(json!({ "equal": answers == messages, "size": answers.len() }))
}

async fn fragments(socket: &mut Socket) -> Found {
    let parts = ["gr", "ü", "", "ße"];
    for (i, part) in parts.iter().enumerate() {
        let data = if i == 0 { Data::Text } else { Data::Continue };
        let frame = Frame::message(
            part.as_bytes().to_vec(),
            OpCode::Data(data),
            i + 1 == parts.len(),
        );
        socket.send(Message::Frame(frame)).await?;
    }
    Ok(json!({ "answer": receive(socket).await?.to_text()? }))
}

async fn ping(socket: &mut Socket) -> Found {
    socket.send(Message::Ping("from the client".into())).await?;
    loop {
        if let Message::Pong(payload) = socket.next().await.ok_or("the connection ended")?? {
            let answer = if payload == "from the client" {
                "pong received"
            } else {
                "another pong"
            };
            return Ok(json!({ "answer": answer }));
        }
    }
}

/// The Close that comes, and how many messages came before it.
async fn told(socket: &mut Socket) -> Found {
    let mut messages = 0;
    loop {
        match socket
            .next()
            .await
            .ok_or("the connection ended without a Close")??
        {
            Message::Close(close) => {
                let close = close.ok_or("an empty Close")?;
                // Its answer is on the way; the end of the stream shows that it has left.
                while let Some(Ok(_)) = socket.next().await {}
                let code = u16::from(close.code);
                return Ok(
                    json!({ "code": code, "reason": close.reason.as_str(), "messages": messages }),
                );
            }
            Message::Ping(_) | Message::Pong(_) => {}
            _ => messages += 1,
        }
    }
}

fn bytes_of(hex: &str) -> Result<Vec<u8>, std::num::ParseIntError> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16))
        .collect()
}
