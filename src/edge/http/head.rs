//! The head of a request, read before Pingora sees it: within a time and a size, and with an answer where it is not.
//!
//! Pingora's own limits are 1 MiB and 60 seconds *per read*: a client that drips a byte a second would keep its
//! connection for weeks. What is read here is given to Pingora's session as the beginning of its stream.

use crate::edge::http::answer::Answer;
use crate::edge::http::first_bytes::{Foreign, RequestLine};
use crate::edge::http::lingering;
use crate::edge::http::request_head::HeadError;
use crate::edge::settings::Client;
use crate::metrics::Reason;
use bytes::BytesMut;
use http::StatusCode;
use pingora::protocols::Stream;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// Why there is no head.
#[derive(Debug)]
pub(crate) enum NoHead {
    /// The client closed the connection, or let it idle, without having begun a request.
    Idle,
    /// Its stream broke within the head.
    Broken,
    /// The time was over within the head: 408.
    TimedOut,
    /// The head is too large: 431.
    TooLarge,
    /// The bytes are no request of HTTP/1: 400.
    Foreign(Foreign),
}

/// A complete head of a request, and what came behind it.
#[derive(Debug)]
pub(crate) struct Head {
    pub bytes: BytesMut,
    /// How much of it is the head.
    pub len: usize,
}

impl Head {
    /// Takes away what came behind the head.
    pub(crate) fn split_behind(&mut self) -> BytesMut {
        match self.len {
            // As nearly always. Splitting off nothing would have both share the memory.
            len if len == self.bytes.len() => BytesMut::new(),
            len => self.bytes.split_off(len),
        }
    }
}

/// Reads until the end of a head is there, and whatever came with it. `begun` is what came already.
///
/// The first byte may take `idle`; from then on the head has to be complete within the client's header time-out.
pub(crate) async fn read(
    stream: &mut Stream,
    begun: BytesMut,
    client: &Client,
    idle: Duration,
) -> Result<Head, NoHead> {
    let mut head = begun;
    let mut had = 0;
    let mut line = RequestLine::default();
    let mut deadline = Instant::now() + idle;
    loop {
        if head.len() == had {
            // Most heads of browsers need no second allocation.
            head.reserve(if had == 0 { 2048 } else { 1 });
            match timeout_at(deadline, stream.read_buf(&mut head)).await {
                Ok(Ok(n)) if n > 0 => {}
                Ok(_) if had == 0 => return Err(NoHead::Idle),
                Ok(_) => return Err(NoHead::Broken),
                Err(_) if had == 0 => return Err(NoHead::Idle),
                Err(_) => return Err(NoHead::TimedOut),
            }
        }
        if had == 0 {
            // RFC 9112 §2.2: "a server [...] SHOULD ignore at least one empty line (CRLF) received prior to the
            // request-line."
            let empty = head
                .iter()
                .take_while(|byte| matches!(byte, b'\r' | b'\n'))
                .count();
            let _ = head.split_to(empty);
            if head.is_empty() {
                continue;
            }
            deadline = Instant::now() + client.header_timeout;
        }
        line.check(&head).map_err(NoHead::Foreign)?;
        // The end may lie across the border to what was there before.
        let from = had.saturating_sub(3).min(head.len());
        match end(&head[from..]).map(|len| from + len) {
            Some(len) if len <= client.max_header_size => return Ok(Head { bytes: head, len }),
            None if head.len() <= client.max_header_size => {}
            Some(_) | None => return Err(NoHead::TooLarge),
        }
        had = head.len();
    }
}

/// Where the first empty line of these ends. Like Pingora's parser it takes a bare LF for the end of a line.
pub(crate) fn end(bytes: &[u8]) -> Option<usize> {
    let mut line = 0;
    loop {
        let next = line + bytes[line..].iter().position(|byte| *byte == b'\n')? + 1;
        match bytes[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => line = next,
        }
    }
}

/// Whether a head has a header that a request for a WebSocket has.
///
/// There may be one that only looks so: the parser decides. It is quick, where most requests are plain ones.
pub(crate) fn may_upgrade(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n');
    lines.any(|line| {
        let name: &[u8] = match line.first() {
            Some(b'u' | b'U') => b"upgrade",
            Some(b's' | b'S') => b"sec-websocket-key",
            Some(_) | None => return false,
        };
        line.get(..name.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(name))
    })
}

impl NoHead {
    /// The answer that the client gets; `None` where no client is there to read it.
    pub(crate) fn answer(&self, client: &Client) -> Option<Answer> {
        Some(match self {
            NoHead::Idle | NoHead::Broken => return None,
            NoHead::TimedOut => {
                let seconds = client.header_timeout.as_secs_f32();
                let sentence =
                    format!("the head of the request was not complete after {seconds} s");
                Answer::new(StatusCode::REQUEST_TIMEOUT, sentence)
            }
            NoHead::TooLarge => {
                let limit = client.max_header_size;
                let sentence = format!("the head of the request is larger than {limit} bytes");
                Answer::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, sentence)
            }
            NoHead::Foreign(foreign) => Answer::new(StatusCode::BAD_REQUEST, foreign.to_string()),
        })
    }
}

impl NoHead {
    /// The reason that is counted; `None` where the client is not answered, or its connection is counted, not a request.
    pub(crate) const fn reason(&self) -> Option<Reason> {
        match self {
            NoHead::TimedOut => Some(Reason::HeadTimedOut),
            NoHead::TooLarge => Some(Reason::HeadTooLarge),
            NoHead::Idle | NoHead::Broken | NoHead::Foreign(_) => None,
        }
    }
}

/// The answer to a head that cannot be read.
pub(crate) fn malformed(error: &HeadError) -> Answer {
    let status = match error {
        HeadError::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    Answer::new(status, error.to_string())
}

/// Tells the client why its request was not read, and ends the connection so that the client can read it.
pub(crate) async fn refuse(stream: Stream, why: &NoHead, client: &Client) {
    if let Some(answer) = why.answer(client) {
        part(stream, &answer.bytes(false)).await;
    }
}

/// An answer of ours in plain text, after which the connection ends.
pub(crate) fn plain_text(status: StatusCode, sentence: &'static str) -> Vec<u8> {
    Answer::new(status, sentence).bytes(false)
}

/// Writes the last bytes of a connection, and ends it so that the client can read them.
pub(crate) async fn part(mut stream: Stream, response: &[u8]) {
    let sending = async {
        stream.write_all(response).await?;
        stream.flush().await?;
        AsyncWriteExt::shutdown(&mut stream).await
    };
    // The client may be gone: whether it heard us changes nothing.
    if let Ok(Ok(())) = timeout_at(Instant::now() + lingering::FAREWELL, sending).await {
        lingering::read_out(&mut stream).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    async fn read_in_pieces(
        pieces: &[&[u8]],
        client: &Client,
    ) -> (Result<Head, NoHead>, DuplexStream) {
        let (mut far, near) = duplex(1 << 20);
        let mut stream: Stream = Box::new(near);
        for piece in pieces {
            far.write_all(piece).await.unwrap();
        }
        let head = read(
            &mut stream,
            BytesMut::new(),
            client,
            Duration::from_secs(60),
        )
        .await;
        (head, far)
    }

    #[tokio::test]
    async fn a_head_is_found_at_every_cut() {
        for request in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\nHost: a\n\n",
        ] {
            for cut in 1..request.len() {
                let (mut far, near) = duplex(64);
                let mut stream: Stream = Box::new(near);
                far.write_all(&request[..cut]).await.unwrap();
                let client = Client::default();
                let (head, ()) = tokio::join!(
                    read(
                        &mut stream,
                        BytesMut::new(),
                        &client,
                        Duration::from_secs(60)
                    ),
                    async {
                        tokio::task::yield_now().await;
                        far.write_all(&request[cut..]).await.unwrap();
                    }
                );
                let head = head.unwrap();
                assert_eq!((head.len, &head.bytes[..]), (request.len(), request));
            }
        }
    }

    #[test]
    fn what_may_be_an_upgrade_is_seen() {
        for (head, may) in [
            (
                &b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n"[..],
                true,
            ),
            (b"GET / HTTP/1.1\nhost: a\nUPGRADE:websocket\n\n", true),
            (
                b"GET / HTTP/1.1\r\nsec-WebSocket-key: a\r\nHost: a\r\n\r\n",
                true,
            ),
            (
                b"GET /Upgrade: HTTP/1.1\r\nHost: upgrade\r\nX-Upgrade: a\r\n\r\n",
                false,
            ),
        ] {
            assert_eq!(may_upgrade(head), may, "{}", head.escape_ascii());
        }
    }

    #[tokio::test]
    async fn what_comes_with_the_head_is_kept_and_does_not_count() {
        let client = Client {
            max_header_size: 32,
            ..Client::default()
        };
        let body = [
            b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice(),
            &[0x81; 100],
        ]
        .concat();
        let (head, _far) = read_in_pieces(&[&body], &client).await;
        let head = head.unwrap();
        assert_eq!(head.bytes, &body[2..]);
        assert_eq!(head.len, body.len() - 2 - 100);
    }

    #[tokio::test]
    async fn a_head_beyond_the_limit_is_too_large() {
        let client = Client {
            max_header_size: 1024,
            ..Client::default()
        };
        let (head, _far) = read_in_pieces(&[b"GET /", &[b'a'; 4096]], &client).await;
        assert!(matches!(head, Err(NoHead::TooLarge)), "{head:?}");
    }

    /// A client that sends one of these each second.
    async fn read_dripping(pieces: impl Iterator<Item = &[u8]>) -> Result<Head, NoHead> {
        let client = Client {
            header_timeout: Duration::from_secs(3),
            ..Client::default()
        };
        let (mut far, near) = duplex(64);
        let mut stream: Stream = Box::new(near);
        let drip = async {
            for piece in pieces {
                far.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            head = read(&mut stream, BytesMut::new(), &client, Duration::from_secs(60)) => head,
            () = drip => panic!("dripping was not interrupted"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dripping_does_not_extend_the_time() {
        let head = read_dripping(b"GET / HTTP/1.1\r\nHost: a\r\n".chunks(1)).await;
        assert!(matches!(head, Err(NoHead::TimedOut)), "{head:?}");
    }

    /// RFC 9112 §2.2 has empty lines ignored, which is no reason to wait for ever.
    #[tokio::test(start_paused = true)]
    async fn empty_lines_do_not_extend_the_time() {
        let head = read_dripping([&b"\r\n"[..]; 100].into_iter()).await;
        assert!(matches!(head, Err(NoHead::Idle)), "{head:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_idle() {
        let (_far, near) = duplex(64);
        let mut stream: Stream = Box::new(near);
        let head = read(
            &mut stream,
            BytesMut::new(),
            &Client::default(),
            Duration::from_secs(10),
        )
        .await;
        assert!(matches!(head, Err(NoHead::Idle)), "{head:?}");
    }
}
