//! Both ends against each other, over streams that give and take little at a time, and over streams that end early.

use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::UnbufferedServerConnection;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "tls", name]
        .iter()
        .collect()
}

fn certificate(cert: &str, key: &str) -> Result<Certificate, Fault> {
    Certificate::load(&file(cert), &file(key), &[])
}

fn accept(client_ca: Option<Authorities>, required: bool, min: Version) -> Accept {
    let certificates = vec![
        certificate("a.pem", "a.key").unwrap(),
        certificate("b.pem", "b.key").unwrap(),
    ];
    Accept::new(certificates, client_ca, required, min, true, None).unwrap()
}

fn connect(certificate: Option<Certificate>) -> Connect {
    let authorities = Authorities::load(&file("ca.pem")).unwrap();
    Connect::new(None, Some(authorities), certificate).unwrap()
}

type Pair = (
    std::io::Result<ServerStream<DuplexStream>>,
    std::io::Result<ClientStream<DuplexStream>>,
);

async fn shake(accept: &Accept, connect: &Connect, name: &str, room: usize) -> Pair {
    let (near, far) = duplex(room);
    let mut server = Stream::new(near, accept.open().unwrap());
    let client = connect.open(far, Some(Connect::name(name).unwrap()), Offer::Http1);
    tokio::join!(
        async {
            server.handshake().await?;
            Ok(server)
        },
        client
    )
}

#[tokio::test]
async fn bytes_arrive_as_they_were_sent_however_little_fits() {
    let sent: Vec<u8> = (0..100_000_u32).map(|i| (i * 7 + i / 251) as u8).collect();
    for room in [1, 5, 64, 333, 16 << 10, 1 << 20] {
        let (accept, connect) = (accept(None, false, Version::Tls12), connect(None));
        let (server, client) = shake(&accept, &connect, "a.example", room).await;
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        let size = if room < 100 { 20_000 } else { sent.len() };
        tokio::join!(
            async {
                client.write_all(&sent[..size]).await.unwrap();
                client.shutdown().await.unwrap();
                client.read_to_end(&mut at_client).await.unwrap();
            },
            async {
                // The other direction goes on where one has ended.
                server.read_to_end(&mut at_server).await.unwrap();
                server.write_all(&sent[..size]).await.unwrap();
                server.shutdown().await.unwrap();
            },
        );
        assert!(
            at_server == sent[..size] && at_client == sent[..size],
            "{room}"
        );
        assert_eq!(client.end().alpn_protocol(), Some(&b"http/1.1"[..]));
    }
}

#[tokio::test]
async fn who_is_asked_for_is_presented() {
    let (accept, connect) = (accept(None, false, Version::Tls12), connect(None));
    for (name, good) in [
        ("a.example", true),
        ("x.a.example", true),
        ("A.Example", true),
        ("b.example", true),
        ("127.0.0.1", true),
        ("x.y.a.example", false),
        ("x.b.example", false),
        ("c.example", false),
    ] {
        let (_, client) = shake(&accept, &connect, name, 1 << 16).await;
        assert_eq!(client.is_ok(), good, "{name} {:?}", client.err());
    }
}

#[tokio::test]
async fn clients_are_verified() {
    let ca = Authorities::load(&file("ca.pem")).unwrap();
    let device = certificate("client.pem", "client.key").unwrap();
    let optional = accept(Some(ca.clone()), false, Version::Tls12);
    let required = accept(Some(ca), true, Version::Tls12);
    for (accept, presented, expected) in [
        (&optional, None, Ok(None)),
        (&required, None, Err(ErrorKind::InvalidData)),
        (
            &required,
            Some(device),
            Ok(Some("CN=device-7,O=Example\\, Inc.".to_owned())),
        ),
        // Good for servers, and of the same authority; its use for clients is not forbidden.
        (
            &optional,
            Some(certificate("b.pem", "b.key").unwrap()),
            Ok(Some("CN=b.example".to_owned())),
        ),
    ] {
        let (server, _) = shake(accept, &connect(presented), "a.example", 1 << 16).await;
        let seen = server.map_err(|error| error.kind()).map(|server| {
            let presented = server.end().peer_certificates();
            presented.and_then(|chain| subject(chain.first()?))
        });
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn a_stream_that_ends_without_saying_so_is_an_error() {
    let (server, client) = shake(
        &accept(None, false, Version::Tls12),
        &connect(None),
        "a.example",
        1 << 16,
    )
    .await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    client.write_all(b"whole").await.unwrap();
    client.flush().await.unwrap();
    drop(client);
    let mut seen = [0; 5];
    server.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"whole");
    let error = server.read(&mut seen).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

/// A server's certificate that is its own authority is believed where it is itself in `ca`, by its dates and its names.
#[tokio::test]
async fn a_certificate_that_is_its_own_authority_is_believed_where_it_is_named() {
    let shake_with = async |cert: &str, ca: &str, name: &str| {
        // What a listener would not present, a server may.
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file(cert)).unwrap().collect();
        let key = PrivateKeyDer::from_pem_file(file("self.key")).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.unwrap(), key);
        let end = UnbufferedServerConnection::new(Arc::new(config.unwrap())).unwrap();
        let (near, far) = duplex(1 << 16);
        let mut server = Stream::new(near, end);
        let authorities = Authorities::load(&file(ca)).unwrap();
        let connect = Connect::new(None, Some(authorities), None).unwrap();
        let name = Some(Connect::name(name).unwrap());
        let (server, client) =
            tokio::join!(server.handshake(), connect.open(far, name, Offer::Http1));
        assert_eq!(server.is_ok(), client.is_ok(), "each is told");
        client.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(
        shake_with("self.pem", "self.pem", "self.example").await,
        Ok(())
    );
    for (cert, ca, name, words) in [
        (
            "self.pem",
            "self.pem",
            "other.example",
            ["`self.example`", "not for `other.example`"],
        ),
        (
            "self.pem",
            "ca.pem",
            "self.example",
            ["authority", "put the very certificate"],
        ),
        // Of the same key, and yet another one.
        (
            "self.pem",
            "self-expired.pem",
            "self.example",
            ["authority", "put the very certificate"],
        ),
        (
            "self-expired.pem",
            "self-expired.pem",
            "self.example",
            ["ran out on 2020-02-01", "renewed"],
        ),
    ] {
        let error = shake_with(cert, ca, name).await.unwrap_err();
        for word in words {
            assert!(error.contains(word), "{cert} {ca} {name}: {error}");
        }
    }
}

/// Whatever comes in the place of a handshake, and wherever one is cut or changed, it is an error and no panic.
#[tokio::test]
async fn what_is_no_handshake_is_refused() {
    let accept = accept(None, false, Version::Tls12);
    // What a client says first.
    let (near, mut far) = duplex(1 << 16);
    let connect = connect(None);
    let hello = {
        let name = Some(Connect::name("a.example").unwrap());
        let mut hello = vec![0; 1 << 16];
        tokio::select! {
            biased;
            _ = connect.open(near, name, Offer::Http1) => unreachable!("nobody answers"),
            n = far.read(&mut hello) => hello.truncate(n.unwrap()),
        }
        hello
    };
    let mut inputs = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0x16; 70_000],
        vec![0; 9],
    ];
    inputs.extend((0..hello.len()).map(|cut| hello[..cut].to_vec()));
    inputs.extend((0..hello.len()).map(|at| {
        let mut changed = hello.clone();
        changed[at] ^= 0xff;
        changed
    }));
    for input in inputs {
        let (near, mut far) = duplex(1 << 17);
        far.write_all(&input).await.unwrap();
        far.shutdown().await.unwrap();
        let mut server = Stream::new(near, accept.open().unwrap());
        assert!(server.handshake().await.is_err());
    }
}

#[tokio::test]
async fn bytes_changed_on_their_way_are_refused_and_the_peer_is_told() {
    let (server, client) = shake(
        &accept(None, false, Version::Tls12),
        &connect(None),
        "a.example",
        1 << 16,
    )
    .await;
    let (mut server, client) = (server.unwrap(), client.unwrap());
    let mut raw = client.into_io();
    raw.write_all(&[0x17, 3, 3, 0, 20]).await.unwrap();
    raw.write_all(&[7; 20]).await.unwrap();
    let error = server.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(server.write(b"x").await.is_err());
    // Tickets first, then an alert.
    drop(server);
    let mut told = Vec::new();
    raw.read_to_end(&mut told).await.unwrap();
    assert!(told.len() >= 20, "{}", told.len());
}

#[test]
fn files_that_are_not_good() {
    for (cert, key, part, message) in [
        ("none.pem", "a.key", Part::Cert, "cannot be read"),
        ("broken.pem", "a.key", Part::Cert, "holds no certificate"),
        ("a.key", "a.key", Part::Cert, "holds no certificate"),
        (
            "cut.pem",
            "a.key",
            Part::Cert,
            "the line `-----END CERTIFICATE-----` is missing",
        ),
        ("a.pem", "none.key", Part::Key, "cannot be read"),
        ("a.pem", "b.pem", Part::Key, "holds no private key"),
        (
            "a.pem",
            "b.key",
            Part::Key,
            "is not that of the certificate",
        ),
        (
            "a-expired.pem",
            "a.key",
            Part::Cert,
            "ran out on 2020-02-01T00:00:00Z",
        ),
    ] {
        let fault = certificate(cert, key).expect_err(cert);
        assert_eq!(fault.part, part, "{fault}");
        assert!(fault.message.contains(message), "{fault}");
    }
    let fault = Authorities::load(&file("broken.pem")).unwrap_err();
    assert!(fault.message.contains("holds no certificate"), "{fault}");
}

#[test]
fn a_certificate_is_known_by_what_it_is() {
    let first = certificate("a.pem", "a.key").unwrap();
    assert_eq!(first, certificate("a.pem", "a.key").unwrap());
    assert_ne!(first, certificate("a-renewed.pem", "a.key").unwrap());
    assert_eq!(first.names, ["a.example", "*.a.example"]);
    // 2100-01-01.
    assert!(first.expires_at() > 4_102_444_800 && !first.has_changed());
}

/// What a stream owns: nothing when it is idle, the beginning of a record, records that the socket does not take.
#[tokio::test]
async fn memory_is_what_waits() {
    let (accept, connect) = (accept(None, false, Version::Tls12), connect(None));
    let (server, client) = shake(&accept, &connect, "a.example", 4096).await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    // What a server has left to say after the handshake goes out with its first read.
    client.write_all(b"x").await.unwrap();
    server.read_exact(&mut [0; 1]).await.unwrap();
    assert_eq!(server.memory(), 0);

    let taken = server.write(&[7; 60_000]).await.unwrap();
    assert!((50_000..100_000).contains(&server.memory()), "{taken}");
    let mut got = vec![0; taken];
    let (flushed, read) = tokio::join!(server.flush(), client.read_exact(&mut got));
    flushed.unwrap();
    read.unwrap();
    assert_eq!((server.memory(), client.memory()), (0, 0));

    // 4096 bytes of a record of 10,000.
    assert_eq!(client.write(&[7; 10_000]).await.unwrap(), 10_000);
    let mut room = [0; 9];
    let begun = poll_fn(|cx| {
        let read = Pin::new(&mut server).poll_read(cx, &mut ReadBuf::new(&mut room));
        Poll::Ready(read.is_pending())
    });
    assert!(begun.await, "not before the record is whole");
    assert!((4096..20_000).contains(&server.memory()));
    let mut got = vec![0; 10_000];
    let (flushed, read) = tokio::join!(client.flush(), server.read_exact(&mut got));
    flushed.unwrap();
    read.unwrap();
    assert_eq!((server.memory(), client.memory()), (0, 0));
}
