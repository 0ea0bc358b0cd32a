//! WebSockets as streams of HTTP/2 (RFC 8441), for the load and the server: 100 of them on each connection.

use bytes::{Buf, Bytes};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// WebSockets on one connection.
const STREAMS: usize = 100;
const WINDOW: u32 = 256 << 10;

/// A WebSocket on a stream.
pub(crate) struct Http2Stream {
    receiver: RecvStream,
    sender: SendStream<Bytes>,
    unread: Bytes,
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(this.receiver.poll_data(cx)) {
                Some(data) => {
                    this.unread = data.map_err(io::Error::other)?;
                    let len = this.unread.len();
                    let released = this.receiver.flow_control().release_capacity(len);
                    released.map_err(io::Error::other)?;
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..len]);
        this.unread.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.sender.reserve_capacity(buf.len());
        let mut room = this.sender.capacity();
        while room == 0 {
            room = match ready!(this.sender.poll_capacity(cx)) {
                Some(room) => room.map_err(io::Error::other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let len = room.min(buf.len());
        let data = Bytes::copy_from_slice(&buf[..len]);
        let sent = this.sender.send_data(data, false);
        sent.map_err(io::Error::other)?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.get_mut().sender.send_data(Bytes::new(), true);
        Poll::Ready(ended.map_err(io::Error::other))
    }
}

/// The connections of the clients to one proxy.
#[derive(Default)]
pub(crate) struct Connections(Mutex<Option<(SendRequest<Bytes>, usize)>>);

impl Connections {
    /// Opens a WebSocket, on a new connection where the last one is full.
    pub(crate) async fn open(&self, to: SocketAddr, path: &str) -> io::Result<Http2Stream> {
        let mut sender = self.sender(to).await?;
        let mut request = http::Request::new(());
        *request.method_mut() = http::Method::CONNECT;
        let uri = format!("http://bench{path}").parse();
        *request.uri_mut() = uri.map_err(io::Error::other)?;
        let protocol = h2::ext::Protocol::from_static("websocket");
        request.extensions_mut().insert(protocol);
        let version = http::HeaderValue::from_static("13");
        request
            .headers_mut()
            .insert("sec-websocket-version", version);
        std::future::poll_fn(|cx| sender.poll_ready(cx))
            .await
            .map_err(io::Error::other)?;
        let (response, sender) = sender
            .send_request(request, false)
            .map_err(io::Error::other)?;
        let response = response.await.map_err(io::Error::other)?;
        if response.status() != 200 {
            return Err(io::Error::other(format!(
                "no WebSocket: {}",
                response.status()
            )));
        }
        Ok(Http2Stream {
            receiver: response.into_body(),
            sender,
            unread: Bytes::new(),
        })
    }

    async fn sender(&self, to: SocketAddr) -> io::Result<SendRequest<Bytes>> {
        let mut last = self.0.lock().await;
        if let Some((sender, left)) = last.as_mut().filter(|(_, left)| *left > 0) {
            *left -= 1;
            return Ok(sender.clone());
        }
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 64)
            .data_frame_budget(1 << 30)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(io::Error::other)?;
        let mut pings = connection.ping_pong();
        tokio::spawn(connection);
        if let Some(pings) = &mut pings {
            // The SETTINGS of the server are here with its first PONG.
            let pong = pings.ping(h2::Ping::opaque()).await;
            pong.map_err(io::Error::other)?;
        }
        *last = Some((sender.clone(), STREAMS - 1));
        Ok(sender)
    }
}

/// Whether a connection begins with the preface of HTTP/2.
pub(crate) async fn is_http2(stream: &TcpStream) -> bool {
    let mut first = [0; 4];
    while let Ok(n) = stream.peek(&mut first).await {
        if n == first.len() || !b"PRI ".starts_with(&first[..n]) || n == 0 {
            return &first == b"PRI ";
        }
        tokio::task::yield_now().await;
    }
    false
}

/// Serves the WebSockets of a connection: `answer` gets each with its path. Anything else gets a 400.
pub(crate) async fn serve<F>(
    stream: TcpStream,
    answer: impl Fn(Http2Stream, String) -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut connection = h2::server::Builder::new()
        .enable_connect_protocol()
        .max_concurrent_streams(10_000)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 64)
        .data_frame_budget(1 << 30)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(io::Error::other)?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.map_err(io::Error::other)?;
        let mut response = http::Response::new(());
        if request.extensions().get::<h2::ext::Protocol>().is_none() {
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
            let _ = respond.send_response(response, true);
            continue;
        }
        let path = request.uri().path().to_owned();
        let Ok(sender) = respond.send_response(response, false) else {
            continue;
        };
        let stream = Http2Stream {
            receiver: request.into_body(),
            sender,
            unread: Bytes::new(),
        };
        tokio::spawn(answer(stream, path));
    }
    Ok(())
}
