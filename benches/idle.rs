//! What an idle connection costs: resident bytes of the wsgate process per connection, fresh and after one 4 KiB echo
//! each; then with compression agreed, after one compressed JSON message of 4 KiB each way, and after so many that the
//! windows are full, with and without takeover; and with TLS toward the clients, with the certificates of the unit tests. The
//! clients and the server are in this process, wsgate is in its own.
//!
//! `cargo bench --bench idle [-- CONNECTIONS]`, 4,000 by default. Needs two file descriptors per connection in either
//! process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

/// Text of 4 KiB as a client sends it, masked with zeros, and as a server does.
fn echo_frames() -> (Vec<u8>, Vec<u8>) {
    let text = vec![b'x'; 4096];
    let client = [&[0x81, 0xfe, 0x10, 0x00, 0, 0, 0, 0][..], &text].concat();
    let server = [&[0x81, 0x7e, 0x10, 0x00][..], &text].concat();
    (client, server)
}

const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");

/// What a client has.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A client and the server's end of its connection.
type Open = (Box<dyn Stream>, TcpStream);

fn client_config() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(format!("{FILES}/ca.pem")).expect("a certificate");
    roots.add(ca).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// wsgate, ended with this.
struct Gate {
    process: Child,
    address: String,
    /// Of its clients, if they speak TLS.
    tls: Option<Arc<ClientConfig>>,
}

impl Gate {
    fn start(upstream: &str, tls: bool) -> Gate {
        let certificates = if tls {
            format!("certificates = [{{ cert = \"{FILES}/a.pem\", key = \"{FILES}/a.key\" }}]")
        } else {
            String::new()
        };
        let config = format!(
            "[admin]\nlisten = \"off\"\n[[listener]]\nlisten = \"127.0.0.1:0\"\n{certificates}\n\
             [upstream.bench]\nservers = [\"{upstream}\"]\n[[route]]\nname = \"bench\"\nupstream = \"bench\"\n"
        );
        let file = std::env::temp_dir().join(format!("wsgate-idle-{}.toml", std::process::id()));
        std::fs::write(&file, config).expect("a file");
        let mut process = Command::new(env!("CARGO_BIN_EXE_wsgate"))
            .args(["run", "--config"])
            .arg(&file)
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
        let _ = std::fs::remove_file(file);
        Gate {
            process,
            address,
            tls: tls.then(client_config),
        }
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

fn read_head(stream: &mut impl Read) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
}

fn connect(gate: &Gate, listener: &TcpListener, compression: &Compression) -> Open {
    let client = TcpStream::connect(&gate.address).expect("wsgate accepts");
    let mut client: Box<dyn Stream> = match &gate.tls {
        None => Box::new(client),
        Some(config) => {
            let name = ServerName::try_from("a.example").expect("a name");
            let connection = ClientConnection::new(config.clone(), name).expect("a client");
            Box::new(StreamOwned::new(connection, client))
        }
    };
    let request = format!("{REQUEST}{}\r\n", compression.offer);
    client.write_all(request.as_bytes()).expect("it reads");
    let (mut server, _) = listener.accept().expect("wsgate connects");
    read_head(&mut server);
    let switch = format!("{SWITCH}{}\r\n", compression.answer);
    server.write_all(switch.as_bytes()).expect("it reads");
    read_head(&mut client);
    (client, server)
}

/// What is agreed about compression, as it is offered and answered.
struct Compression {
    name: &'static str,
    offer: &'static str,
    answer: &'static str,
}

const PLAIN: Compression = Compression {
    name: "no compression",
    offer: "",
    answer: "",
};
const COMPRESSED: [Compression; 2] = [
    Compression {
        name: "context takeover",
        offer: "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        answer: "Sec-WebSocket-Extensions: permessage-deflate\r\n",
    },
    Compression {
        name: "no context takeover",
        offer: "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        answer: "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
            client_no_context_takeover\r\n",
    },
];

/// A message of one block, as a client sends it, masked with zeros, and as a server does.
fn compressed_frames(payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut deflated = vec![0; payload.len() + 1024];
    let mut deflate = zlib_rs::Deflate::new(6, false, 15);
    deflate
        .compress(payload, &mut deflated, zlib_rs::DeflateFlush::SyncFlush)
        .expect("it compresses");
    deflated.truncate(deflate.total_out() as usize - 4);
    let len = deflated.len() as u64;
    let client = [&[0xc2, 0xff][..], &len.to_be_bytes(), &[0; 4], &deflated].concat();
    let server = [&[0xc2, 0x7f][..], &len.to_be_bytes(), &deflated].concat();
    if len > 0xffff {
        return (client, server);
    }
    let len = (len as u16).to_be_bytes();
    (
        [&[0xc2, 0xfe][..], &len, &[0; 4], &deflated].concat(),
        [&[0xc2, 0x7e][..], &len, &deflated].concat(),
    )
}

fn json(len: usize) -> Vec<u8> {
    let mut text = String::new();
    for id in 0.. {
        text += &format!(
            "{{\"id\":{id},\"user\":\"user{}\",\"text\":\"hello there\"}}\n",
            id * 7919 % 97
        );
        if text.len() >= len {
            break;
        }
    }
    text.truncate(len);
    text.into_bytes()
}

fn exchange(open: &mut [Open], question: &[u8], answer: &[u8]) {
    let mut buffer = vec![0; question.len().max(answer.len())];
    for (client, server) in open {
        client.write_all(question).expect("it reads");
        server
            .read_exact(&mut buffer[..question.len()])
            .expect("it passes");
        assert_eq!(&buffer[..question.len()], question, "it passes unchanged");
        server.write_all(answer).expect("it reads");
        client
            .read_exact(&mut buffer[..answer.len()])
            .expect("it passes");
        assert_eq!(&buffer[..answer.len()], answer, "it passes unchanged");
    }
}

/// Opens them, has each of the exchanges on all, and prints what they take fresh and after each.
fn measure(
    connections: usize,
    compression: &Compression,
    tls: bool,
    exchanges: &[(&str, Vec<u8>, Vec<u8>)],
) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let upstream = listener.local_addr().expect("its address").to_string();
    let gate = Gate::start(&upstream, tls);
    // What the process needs once, whatever the number of connections, is not counted.
    let mut warm: Vec<_> = (0..64)
        .map(|_| connect(&gate, &listener, compression))
        .collect();
    for (_, question, answer) in exchanges {
        exchange(&mut warm, question, answer);
    }
    let before = gate.resident();
    let mut open: Vec<_> = (0..connections)
        .map(|_| connect(&gate, &listener, compression))
        .collect();
    let per = || gate.resident().saturating_sub(before) / connections as u64;
    let name = if tls { "TLS" } else { compression.name };
    println!("| {name} | fresh | {} |", per());
    for (what, question, answer) in exchanges {
        exchange(&mut open, question, answer);
        println!("| {name} | after {what} | {} |", per());
    }
    drop((warm, open));
}

fn main() {
    let connections: usize = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(4000);
    println!("| {connections} idle connections | | resident bytes per connection |");
    println!("|---|---|---:|");
    let (question, answer) = echo_frames();
    let echo = [("one echo of 4 KiB each", question, answer)];
    for tls in [false, true] {
        measure(connections, &PLAIN, tls, &echo);
    }
    for compression in &COMPRESSED {
        let (question, answer) = compressed_frames(&json(4 << 10));
        let (long_question, long_answer) = compressed_frames(&json(64 << 10));
        measure(
            connections,
            compression,
            false,
            &[
                ("one compressed message of 4 KiB each way", question, answer),
                ("one of 64 KiB more each way", long_question, long_answer),
            ],
        );
    }
}
