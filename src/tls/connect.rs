//! How servers are spoken to, and what is asked of them.

use super::certificate::{Authorities, Certificate};
use super::error::{CA_AS_LEAF, Error, Peer};
use super::{ClientStream, Stream, provider};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{UnbufferedClientConnection, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncRead, AsyncWrite};

/// TLS toward the servers of an upstream.
#[derive(Clone, Debug)]
pub struct Connect {
    /// The name that is asked for and verified; `None`: that of the server's address.
    pub server_name: Option<ServerName<'static>>,
    /// The authorities that sign servers' certificates; `None`: servers are not verified.
    pub authorities: Option<Authorities>,
    /// The certificate for a server that asks for one.
    pub certificate: Option<Certificate>,
    config: Arc<ClientConfig>,
    /// The same, which offers HTTP/2 as well.
    with_http2: Arc<ClientConfig>,
    number: u64,
}

/// The protocols that a server is offered on an encrypted connection (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 or, where the server does not speak it, HTTP/1.1.
    Http2,
}

/// By what was asked for, not by what was made of it.
impl PartialEq for Connect {
    fn eq(&self, other: &Self) -> bool {
        let Connect {
            server_name,
            authorities,
            certificate,
            config: _,
            with_http2: _,
            number: _,
        } = self;
        *server_name == other.server_name
            && *authorities == other.authorities
            && *certificate == other.certificate
    }
}

impl Eq for Connect {}

/// A text that cannot be the name of a server.
#[derive(Debug)]
pub struct InvalidName;

impl Connect {
    /// Settings that work.
    ///
    /// # Errors
    /// Where rustls does not take them, in its words.
    pub fn new(
        server_name: Option<ServerName<'static>>,
        authorities: Option<Authorities>,
        certificate: Option<Certificate>,
    ) -> Result<Connect, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| words(&error))?;
        let builder = match &authorities {
            Some(authorities) => {
                let roots = authorities.roots.clone();
                let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider());
                let verifier = Arc::new(Verified {
                    webpki: verifier.build().map_err(|error| words(&error))?,
                    pinned: authorities.certificates.clone(),
                });
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(verifier)
            }
            None => {
                let algorithms = provider().signature_verification_algorithms;
                let verifier = Arc::new(Unverified(algorithms));
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(verifier)
            }
        };
        let mut config = match &certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let certified = certificate.certified.clone();
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        // WebSockets, and plain requests beside them.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut with_http2 = config.clone();
        with_http2.alpn_protocols.insert(0, b"h2".to_vec());
        Ok(Connect {
            server_name,
            authorities,
            certificate,
            config: Arc::new(config),
            with_http2: Arc::new(with_http2),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// These settings with other files.
    ///
    /// # Errors
    /// The errors of [`Connect::new`].
    pub fn with(
        &self,
        authorities: Option<Authorities>,
        certificate: Option<Certificate>,
    ) -> Result<Connect, String> {
        Connect::new(self.server_name.clone(), authorities, certificate)
    }

    /// A name as it is asked for and verified: a host, or an IP address.
    ///
    /// # Errors
    /// Where it can be none.
    pub fn name(text: &str) -> Result<ServerName<'static>, InvalidName> {
        ServerName::try_from(text.to_owned()).map_err(|_| InvalidName)
    }

    /// Completes the TLS handshake with the server at the other end of `io`; `host` is the name of its address.
    ///
    /// # Errors
    /// Errors of the socket; of kind `InvalidData`, errors of the TLS handshake and of the verification of the server.
    pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: S,
        host: Option<ServerName<'static>>,
        offer: Offer,
    ) -> io::Result<ClientStream<S>> {
        let Some(name) = self.server_name.clone().or(host) else {
            let sentence =
                "its address has no name that could be verified; give it a `server_name`";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        };
        let config = match offer {
            Offer::Http1 => &self.config,
            Offer::Http2 => &self.with_http2,
        };
        let end = UnbufferedClientConnection::new(config.clone(), name);
        let end = end.map_err(|source| {
            let peer = Peer::Server;
            io::Error::new(io::ErrorKind::InvalidInput, Error { peer, source })
        })?;
        let mut stream = Stream::new(io, end);
        stream.handshake().await?;
        Ok(stream)
    }

    /// Tells it from all others: a connection that was made by other settings is not used again.
    pub fn number(&self) -> u64 {
        self.number
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Believes what webpki does, and a certificate that is itself in `ca`.
///
/// Many services make a certificate for themselves that is its own authority (`openssl req -x509` does), and webpki does
/// not take that of an authority for a server's. The operator has named this very
/// certificate, so what has to be right besides are its dates and the name; whose it is, its key has to prove as always.
#[derive(Debug)]
struct Verified {
    webpki: Arc<WebPkiServerVerifier>,
    /// The certificates of the file.
    pinned: Arc<[CertificateDer<'static>]>,
}

impl Verified {
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        let mut pinned = self.pinned.iter();
        pinned.any(|pinned| pinned.as_ref() == certificate.as_ref())
    }
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let webpki = &self.webpki;
        let verified = webpki.verify_server_cert(certificate, intermediates, name, ocsp, now);
        match verified {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
                if other.to_string() == CA_AS_LEAF && self.is_pinned(certificate) =>
            {
                // webpki looks at the dates before this.
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Believes whoever answers, and still wants it to have the key of what it presents.
#[derive(Debug)]
struct Unverified(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
