//! What an idle connection costs: resident bytes of the wsgate process per connection, fresh and after one 4 KiB echo
//! each. The clients and the server are in this process, wsgate is in its own.
//!
//! `cargo bench --bench idle [-- CONNECTIONS]`, 4,000 by default. Needs two file descriptors per connection in either
//! process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Text of 4 KiB as a client sends it, masked with zeros, and as a server does.
fn echo_frames() -> (Vec<u8>, Vec<u8>) {
    let text = vec![b'x'; 4096];
    let client = [&[0x81, 0xfe, 0x10, 0x00, 0, 0, 0, 0][..], &text].concat();
    let server = [&[0x81, 0x7e, 0x10, 0x00][..], &text].concat();
    (client, server)
}

/// wsgate, ended with this.
struct Gate {
    process: Child,
    address: String,
}

impl Gate {
    fn start(upstream: &str) -> Gate {
        let mut process = Command::new(env!("CARGO_BIN_EXE_wsgate"))
            .args([
                "run",
                "--listen",
                "127.0.0.1:0",
                "--upstream",
                upstream,
                "--admin",
                "off",
            ])
            .stderr(Stdio::piped())
            .spawn()
            .expect("wsgate starts");
        let mut log = BufReader::new(process.stderr.take().expect("its log"));
        let mut line = String::new();
        while !line.contains(" listening address=") {
            line.clear();
            assert!(
                log.read_line(&mut line).expect("its log is readable") > 0,
                "wsgate ended"
            );
        }
        let address = line
            .trim()
            .rsplit('=')
            .next()
            .expect("an address")
            .to_owned();
        // The rest of the log is read and forgotten, so that writing it never blocks.
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Gate { process, address }
    }

    fn resident(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("Linux");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("VmRSS");
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
            .expect("a number");
        kib * 1024
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
}

fn connect(gate: &Gate, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(&gate.address).expect("wsgate accepts");
    client.write_all(REQUEST.as_bytes()).expect("it reads");
    let (mut server, _) = listener.accept().expect("wsgate connects");
    read_head(&mut server);
    server.write_all(SWITCH.as_bytes()).expect("it reads");
    read_head(&mut client);
    (client, server)
}

fn main() {
    let connections: usize = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(4000);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let gate = Gate::start(&listener.local_addr().expect("its address").to_string());
    // What the process needs once, whatever the number of connections, is not counted.
    let warm: Vec<_> = (0..64).map(|_| connect(&gate, &listener)).collect();
    let before = gate.resident();

    let mut open: Vec<_> = (0..connections)
        .map(|_| connect(&gate, &listener))
        .collect();
    let fresh = gate.resident();

    let (question, answer) = echo_frames();
    let mut buffer = vec![0; question.len()];
    for (client, server) in &mut open {
        client.write_all(&question).expect("it reads");
        server.read_exact(&mut buffer).expect("it passes");
        assert_eq!(buffer, question, "it passes unchanged");
        server.write_all(&answer).expect("it reads");
        client
            .read_exact(&mut buffer[..answer.len()])
            .expect("it passes");
        assert_eq!(buffer[..answer.len()], answer, "it passes unchanged");
    }
    let used = gate.resident();

    let per = |resident: u64| resident.saturating_sub(before) / connections as u64;
    println!("| {connections} idle connections | resident bytes per connection |");
    println!("|---|---:|");
    println!("| fresh | {} |", per(fresh));
    println!("| after one echo of 4 KiB each | {} |", per(used));
    println!("\n(the process itself: {} KiB)", before / 1024);
    drop((warm, open));
}
