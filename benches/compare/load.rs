//! The load of `benches/compare/run.py`: a server that answers at once, and the clients that keep it busy.
//!
//! Frames are built once, before anything is measured; every byte that comes back is compared with what was to come. One
//! thread each. What it measured is printed as one line of JSON.
//!
//! ```text
//! compare server                                   prints where it listens
//! compare load ADDRESS UP DOWN KIND CONNECTIONS IN_FLIGHT SECONDS
//! compare idle ADDRESS CONNECTIONS                 a line in: `echo` or the end; a line out when that is done
//! compare connect ADDRESS CONNECTIONS SECONDS      connections that come, say one thing, and go
//! compare herd ADDRESS CONNECTIONS                 all at once; they stay until a line comes in
//! compare stay ADDRESS CONNECTIONS                 until each is told to go, which it answers
//! compare tunnel PORT ADDRESS                      passes on what comes, and does nothing else
//! ```
//!
//! A client asks by its path for what it wants: `/KIND/UP/DOWN`, messages of UP bytes answered by messages of DOWN bytes.
//! `tls:` before an address has clients speak TLS; sessions are resumed where the proxy lets them. `h2:` has them speak HTTP/2 without
//! TLS, 100 WebSockets on a connection. The server speaks both HTTP/1.1 and HTTP/2.

mod bare;
mod frames;
mod http2;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use frames::{Exchange, Kind};
use sha1::{Digest, Sha1};
use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::either::Either;
use wsgate::tls;

/// Until something awaited counts as never coming.
const PATIENCE: Duration = Duration::from_secs(60);
const READ: usize = 256 << 10;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        match args[..] {
            ["server"] => serve().await,
            [
                "load",
                address,
                up,
                down,
                kind,
                connections,
                in_flight,
                seconds,
            ] => {
                let exchange =
                    Exchange::new(kind.parse().expect("a kind"), number(up), number(down));
                let seconds = Duration::from_secs_f64(seconds.parse().expect("seconds"));
                let (connections, in_flight) = (number(connections), number(in_flight));
                load(parse(address), exchange, connections, in_flight, seconds).await;
            }
            ["idle", address, connections] => idle(parse(address), number(connections)).await,
            ["connect", address, connections, seconds] => {
                let seconds = Duration::from_secs_f64(seconds.parse().expect("seconds"));
                connect_and_leave(parse(address), number(connections), seconds).await;
            }
            ["herd", address, connections] => herd(parse(address), number(connections)).await,
            ["stay", address, connections] => stay(parse(address), number(connections)).await,
            ["tunnel", port, server] => {
                let port = port.parse().expect("a port");
                bare::run(port, parse(server).address).expect("a tunnel");
            }
            // `cargo test --benches` and `cargo bench` ask only whether it runs.
            _ => eprintln!("this is the load of benches/compare/run.py"),
        }
    });
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

/// Where a proxy is, and how it is spoken to.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    tls: Option<tls::Connect>,
    http2: Option<Arc<http2::Connections>>,
}

fn parse(address: &str) -> Target {
    let encrypted = address.strip_prefix("tls:");
    let http2 = address.strip_prefix("h2:");
    let name = tls::Connect::name("bench.test").ok();
    Target {
        address: encrypted
            .or(http2)
            .unwrap_or(address)
            .parse()
            .expect("an address"),
        http2: http2.map(|_| Arc::default()),
        tls: encrypted.map(|_| tls::Connect::new(name, None, None).expect("settings of TLS")),
    }
}

type Stream = Either<Either<TcpStream, tls::ClientStream<TcpStream>>, http2::Http2Stream>;

// The server.

async fn serve() {
    let listener = listen();
    println!("{}", listener.local_addr().expect("its address"));
    loop {
        let (stream, _) = listener.accept().await.expect("clients");
        // A client that leaves in the middle of something is nobody's concern here: clients compare and count.
        tokio::spawn(async move { answer(stream).await });
    }
}

fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    socket.listen(65_535).expect("a listener")
}

/// The exchange that the path of a request asks for.
fn exchange_of(path: &str) -> Option<Exchange> {
    let mut parts = path.split('/').skip(1);
    let (kind, up, down) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Exchange::new(kind.parse().ok()?, number(up), number(down)))
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if http2::is_http2(&stream).await {
        return http2::serve(stream, |stream, path| async move {
            match exchange_of(&path) {
                Some(exchange) => converse(stream, exchange, Vec::new(), 16 << 10).await,
                None => Ok(()),
            }
        })
        .await;
    }
    let (head, rest) = read_head(&mut stream).await?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let Some(exchange) = exchange_of(path) else {
        let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(answer).await;
    };
    let key = header(&head, "sec-websocket-key").unwrap_or_default();
    let digest = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    let accept = STANDARD.encode(digest);
    let extensions = if exchange.kind == Kind::Deflate {
        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
    } else {
        ""
    };
    let switch = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{extensions}\r\n"
    );
    stream.write_all(switch.as_bytes()).await?;
    converse(stream, exchange, rest, READ).await
}

/// Answers what is asked on a WebSocket, up to its end; `rest` came behind its request. At most `most` bytes are read at once.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    exchange: Exchange,
    mut rest: Vec<u8>,
    most: usize,
) -> io::Result<()> {
    let mut room = vec![0; most];
    let mut come = 0;
    let mut answers = Vec::new();
    loop {
        let taken = if rest.is_empty() {
            match stream.read(&mut room).await? {
                0 => return Ok(()),
                n => &room[..n],
            }
        } else {
            &rest[..]
        };
        // All that is asked for in what was read is answered by one write.
        answers.clear();
        let mut left = taken;
        while !left.is_empty() {
            if come == 0 && left[0] == 0x88 {
                stream.write_all(&answers).await?;
                stream.write_all(&[0x88, 0]).await?;
                return stream.shutdown().await;
            }
            let n = left.len().min(exchange.question.len() - come);
            if left[..n] != exchange.question[come..come + n] {
                return stream.write_all(b"\x88\x0a\x03\xf3mismatch").await;
            }
            come += n;
            left = &left[n..];
            if come == exchange.question.len() {
                come = 0;
                answers.extend_from_slice(&exchange.answer);
            }
        }
        stream.write_all(&answers).await?;
        rest.clear();
    }
}

// The clients.

/// Opens a WebSocket; what came behind the answer's head is dropped, because nothing was asked for yet.
async fn open(target: &Target, exchange: &Exchange) -> io::Result<Stream> {
    let Exchange { kind, up, down, .. } = exchange;
    if let Some(http2) = &target.http2 {
        let path = format!("/{kind}/{up}/{down}");
        return Ok(Either::Right(http2.open(target.address, &path).await?));
    }
    let stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    let mut stream = match &target.tls {
        None => Either::Left(stream),
        Some(tls) => Either::Right(tls.open(stream, None, tls::Offer::Http1).await?),
    };
    let extensions = if *kind == Kind::Deflate {
        "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    } else {
        ""
    };
    let request = format!(
        "GET /{kind}/{up}/{down} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extensions}\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let (head, rest) = read_head(&mut stream).await?;
    if !head.starts_with("HTTP/1.1 101") || !rest.is_empty() {
        return Err(io::Error::other(format!("no WebSocket: {head}")));
    }
    Ok(Either::Left(stream))
}

/// What the clients of one run have seen.
#[derive(Default)]
struct Seen {
    messages: u64,
    latencies: Vec<u32>,
    failures: Vec<String>,
}

async fn load(
    target: Target,
    exchange: Exchange,
    connections: usize,
    in_flight: usize,
    lasting: Duration,
) {
    let exchange = Arc::new(exchange);
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(open(&target, &exchange).await.expect("a WebSocket"));
    }
    // Who measures from outside begins and ends with these lines.
    println!("open");
    wait_for_line().await;
    let until = Instant::now() + lasting;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for stream in streams {
        clients.spawn(ask(stream, exchange.clone(), in_flight, until));
    }
    let mut all = Seen::default();
    while let Some(seen) = clients.join_next().await {
        let seen = seen.expect("a client does not panic");
        all.messages += seen.messages;
        all.latencies.extend(seen.latencies);
        all.failures.extend(seen.failures);
    }
    let took = start.elapsed().as_secs_f64();
    all.latencies.sort_unstable();
    let at = |share: f64| {
        let index = (all.latencies.len() as f64 * share) as usize;
        all.latencies.get(index).copied().unwrap_or_default()
    };
    println!(
        "{{\"messages\": {}, \"seconds\": {took:.4}, \"p50_us\": {}, \"p99_us\": {}, \"p999_us\": {}, \"failures\": {:?}}}",
        all.messages,
        at(0.5),
        at(0.99),
        at(0.999),
        all.failures
    );
    wait_for_line().await;
}

/// Asks, so many questions at a time, and compares the answers, until it is over and all are answered.
async fn ask(
    mut stream: Stream,
    exchange: Arc<Exchange>,
    in_flight: usize,
    until: Instant,
) -> Seen {
    let mut seen = Seen::default();
    let result = tokio::time::timeout(
        PATIENCE,
        exchange_all(&mut stream, &exchange, in_flight, until, &mut seen),
    );
    match result.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => seen.failures.push(error.to_string()),
        Err(_) => seen.failures.push("no answer".to_owned()),
    }
    seen
}

async fn exchange_all(
    stream: &mut Stream,
    exchange: &Exchange,
    in_flight: usize,
    until: Instant,
    seen: &mut Seen,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let several = exchange.question.repeat(in_flight);
    let mut asked = VecDeque::from(vec![Instant::now(); in_flight]);
    let mut room = vec![0; READ];
    let mut come = 0;
    // What is to be written: a range of `several`, so that large questions do not keep it from reading answers.
    let (mut wanted, mut written) = (several.len(), 0);
    loop {
        tokio::select! {
            n = writer.write(&several[written..wanted]), if written < wanted => {
                written += n?;
                if written == wanted {
                    writer.flush().await?;
                    (wanted, written) = (0, 0);
                }
            }
            n = reader.read(&mut room) => {
                let n = n?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let now = Instant::now();
                let mut left = &room[..n];
                let mut answered = 0;
                while !left.is_empty() {
                    let n = left.len().min(exchange.answer.len() - come);
                    if left[..n] != exchange.answer[come..come + n] {
                        return Err(io::Error::other("something else came back"));
                    }
                    come += n;
                    left = &left[n..];
                    if come == exchange.answer.len() {
                        come = 0;
                        answered += 1;
                        if let Some(asked) = asked.pop_front() {
                            seen.latencies.push((now - asked).as_micros() as u32);
                        }
                    }
                }
                seen.messages += answered as u64;
                if now < until {
                    asked.extend(std::iter::repeat_n(now, answered));
                    wanted += answered * exchange.question.len();
                } else if asked.is_empty() {
                    return Ok(());
                }
            }
        }
    }
}

async fn idle(target: Target, connections: usize) {
    let exchange = Exchange::new(Kind::Ascii, 4096, 4096);
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(open(&target, &exchange).await.expect("a WebSocket"));
    }
    println!("open");
    let mut answer = vec![0; exchange.answer.len()];
    while wait_for_line().await == "echo" {
        for stream in &mut streams {
            stream
                .write_all(&exchange.question)
                .await
                .expect("it reads");
            stream.flush().await.expect("it reads");
            stream.read_exact(&mut answer).await.expect("it answers");
            assert_eq!(answer, exchange.answer, "it comes back unchanged");
        }
        println!("echoed");
    }
}

async fn connect_and_leave(target: Target, connections: usize, lasting: Duration) {
    println!("open");
    wait_for_line().await;
    let exchange = Arc::new(Exchange::new(Kind::Ascii, 125, 125));
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let (target, exchange) = (target.clone(), exchange.clone());
        clients.spawn(async move {
            let mut came = 0_u64;
            let mut answer = vec![0; exchange.answer.len()];
            while start.elapsed() < lasting {
                let mut stream = open(&target, &exchange).await?;
                stream.write_all(&exchange.question).await?;
                stream.flush().await?;
                stream.read_exact(&mut answer).await?;
                if answer != exchange.answer {
                    return Err(io::Error::other("something else came back"));
                }
                // Masked with zeros, and empty.
                stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await?;
                stream.flush().await?;
                while stream.read(&mut answer).await? > 0 {}
                came += 1;
            }
            Ok(came)
        });
    }
    let (came, failures) = all(clients).await;
    let came: u64 = came.iter().sum();
    let took = start.elapsed().as_secs_f64();
    println!("{{\"messages\": {came}, \"seconds\": {took:.4}, \"failures\": {failures:?}}}");
    wait_for_line().await;
}

async fn herd(target: Target, connections: usize) {
    println!("open");
    wait_for_line().await;
    let exchange = Arc::new(Exchange::new(Kind::Ascii, 125, 125));
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let (target, exchange) = (target.clone(), exchange.clone());
        clients.spawn(async move {
            tokio::time::timeout(PATIENCE, open(&target, &exchange))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        });
    }
    let (open, failures) = all(clients).await;
    let took = start.elapsed().as_secs_f64();
    println!(
        "{{\"messages\": {}, \"seconds\": {took:.4}, \"failures\": {failures:?}}}",
        open.len()
    );
    wait_for_line().await;
}

async fn stay(target: Target, connections: usize) {
    let exchange = Exchange::new(Kind::Ascii, 4096, 4096);
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(open(&target, &exchange).await.expect("a WebSocket"));
    }
    println!("open");
    let mut clients = JoinSet::new();
    for mut stream in streams {
        clients.spawn(async move {
            let mut close = [0; 4];
            stream.read_exact(&mut close).await?;
            // Masked with zeros.
            let [code_high, code_low] = [close[2], close[3]];
            stream
                .write_all(&[0x88, 0x82, 0, 0, 0, 0, code_high, code_low])
                .await?;
            while stream.read(&mut [0; 256]).await? > 0 {}
            io::Result::Ok(u16::from_be_bytes([code_high, code_low]))
        });
    }
    let (codes, mut failures) = all(clients).await;
    let (told, others): (Vec<_>, Vec<_>) = codes.into_iter().partition(|code| *code == 1012);
    failures.extend(others.iter().map(|code| format!("told {code}")));
    let told = told.len();
    println!("{{\"told\": {told}, \"failures\": {failures:?}}}");
    wait_for_line().await;
}

/// What came of all of them, and what kept the others from it.
async fn all<T: 'static>(mut clients: JoinSet<io::Result<T>>) -> (Vec<T>, Vec<String>) {
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    while let Some(result) = clients.join_next().await {
        match result.expect("a client does not panic") {
            Ok(value) => done.push(value),
            Err(error) => failures.push(error.to_string()),
        }
    }
    (done, failures)
}

/// A line of whoever started this; empty at the end of its input.
async fn wait_for_line() -> String {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        let _ = io::stdin().lock().read_line(&mut line);
        line.trim().to_owned()
    });
    read.await.expect("a line")
}

/// The head of a request or an answer, and what came behind it.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(String, Vec<u8>)> {
    let mut read = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&read).into_owned(), rest));
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let pairs = head.lines().filter_map(|line| line.split_once(':'));
    let mut values = pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    values.next().map(|(_, value)| value.trim())
}
