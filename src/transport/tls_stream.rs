//! A client's connection over TLS, as Pingora has streams.
//!
//! The digest that Pingora wants of a connection is made when Pingora asks for it, so that an idle WebSocket owns none.

use crate::duration::Shown;
use crate::tls;
use crate::transport::delegate::delegate_identity;
use async_trait::async_trait;
use http::HeaderName;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{ALPN, Shutdown, Ssl, Stream};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

/// An encrypted connection of a client.
#[derive(Debug)]
pub(crate) struct Secured {
    stream: tls::ServerStream<Stream>,
    /// The header that tells servers the client's subject.
    header: Option<HeaderName>,
}

impl Secured {
    /// Completes the TLS handshake with a client within a time.
    ///
    /// # Errors
    /// Errors of the socket, of the TLS handshake and of the verification of the client.
    pub(crate) async fn accept(
        io: Stream,
        settings: &tls::Accept,
        limit: Duration,
    ) -> io::Result<Secured> {
        let end = settings.open().map_err(io::Error::other)?;
        let mut stream = tls::Stream::new(io, end);
        match timeout(limit, stream.handshake()).await {
            Ok(Ok(())) => Ok(Secured {
                stream,
                header: settings.subject_header.clone(),
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The stream that carries the encrypted bytes.
    pub(crate) fn io(&self) -> &Stream {
        self.stream.io()
    }

    /// Memory that it owns to keep what it has not passed on, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.stream.memory()
    }

    /// HTTP/2 was agreed by ALPN.
    pub(crate) fn is_http2(&self) -> bool {
        self.stream.end().alpn_protocol() == Some(b"h2")
    }
}

/// Why a handshake has failed, and a sentence about it.
pub(crate) fn failure(error: &io::Error, limit: Duration) -> (tls::Failure, String) {
    let tls = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<tls::Error>());
    match (tls, error.kind()) {
        (Some(tls), _) => (tls.failure(), tls.to_string()),
        (None, io::ErrorKind::TimedOut) => {
            let limit = Shown(limit);
            (
                tls::Failure::TimedOut,
                format!("it was not complete after {limit} (`header_timeout`)"),
            )
        }
        (None, io::ErrorKind::UnexpectedEof) => (
            tls::Failure::Ended,
            "the client ended the connection".to_owned(),
        ),
        (None, _) => (
            tls::Failure::Ended,
            format!("the connection broke: {error}"),
        ),
    }
}

/// The header and the subject of a client, as a digest carries them: Pingora has no place for anything else, and nobody
/// but us reads it.
pub(crate) fn identity(digest: &SslDigest) -> Option<(&str, &str)> {
    digest
        .serial_number
        .as_deref()
        .zip(digest.organization.as_deref())
}

/// Whether the client has shown a certificate, which was verified: at this connection or at the one that it resumes.
pub(crate) fn has_certificate(digest: &SslDigest) -> bool {
    !digest.cert_digest.is_empty()
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Secured {
    async fn shutdown(&mut self) {
        // The connection is given up: whether the far end heard it changes nothing.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

delegate_identity!(Secured, this => this.stream.io());

impl Ssl for Secured {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        let presented = self.stream.end().peer_certificates();
        // Whether there is one is all that is asked of it.
        let certificate = presented.is_some_and(|chain| !chain.is_empty());
        let certificate = if certificate { vec![1] } else { Vec::new() };
        let header = self.header.as_ref().map(ToString::to_string);
        let subject = header
            .as_ref()
            .and_then(|_| tls::subject(presented?.first()?));
        let digest = SslDigest::new("", "", subject, header, certificate);
        Some(Arc::new(digest))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.is_http2() { ALPN::H2 } else { ALPN::H1 })
    }
}
