//! TLS of a listener: the certificates that it presents, and the certificates that it asks of clients.

use super::certificate::{Authorities, Certificate};
use super::provider;
use http::HeaderName;
use rustls::server::{
    ClientHello, ResolvesServerCert, UnbufferedServerConnection, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;

/// TLS on a listener.
#[derive(Clone, Debug)]
pub struct Accept {
    /// At least one; the first is presented where no name matches.
    pub certificates: Vec<Certificate>,
    /// The authorities that sign clients' certificates; `None`: no certificate is asked for.
    pub client_ca: Option<Authorities>,
    /// Clients without a certificate are refused.
    pub client_required: bool,
    /// The oldest version that is spoken.
    pub min: Version,
    /// HTTP/2 is offered beside HTTP/1.1.
    pub http2: bool,
    /// The header that tells upstreams the subject of a client's certificate.
    pub subject_header: Option<HeaderName>,
    config: Arc<ServerConfig>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// By what was asked for, not by what was made of it.
impl PartialEq for Accept {
    fn eq(&self, other: &Self) -> bool {
        let Accept {
            certificates,
            client_ca,
            client_required,
            min,
            http2,
            subject_header,
            config: _,
        } = self;
        *certificates == other.certificates
            && *client_ca == other.client_ca
            && *client_required == other.client_required
            && *min == other.min
            && *http2 == other.http2
            && *subject_header == other.subject_header
    }
}

impl Eq for Accept {}

impl Accept {
    /// Settings that work.
    ///
    /// # Errors
    /// Where rustls does not take them, in its words.
    pub fn new(
        certificates: Vec<Certificate>,
        client_ca: Option<Authorities>,
        client_required: bool,
        min: Version,
        http2: bool,
        subject_header: Option<HeaderName>,
    ) -> Result<Accept, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let versions: &[&'static SupportedProtocolVersion] = match min {
            Version::Tls12 => &[&rustls::version::TLS12, &rustls::version::TLS13],
            Version::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|error| words(&error))?;
        let builder = match &client_ca {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let roots = authorities.roots.clone();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = if client_required {
                    verifier
                } else {
                    verifier.allow_unauthenticated()
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| words(&error))?)
            }
        };
        let presented = certificates.iter().map(|certificate| Presented {
            names: certificate.names.clone(),
            certified: certificate.certified.clone(),
        });
        let mut config = builder.with_cert_resolver(Arc::new(ByName(presented.collect())));
        config.alpn_protocols = if http2 {
            vec![b"h2".to_vec(), b"http/1.1".to_vec()]
        } else {
            vec![b"http/1.1".to_vec()]
        };
        // Tickets spare clients that reconnect after a deploy the signatures; wsgate keeps no state for them.
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|error| words(&error))?;
        config.send_tls13_tickets = 1;
        Ok(Accept {
            certificates,
            client_ca,
            client_required,
            min,
            http2,
            subject_header,
            config: Arc::new(config),
        })
    }

    /// These settings with other certificates.
    ///
    /// # Errors
    /// The errors of [`Accept::new`].
    pub fn with(
        &self,
        certificates: Vec<Certificate>,
        client_ca: Option<Authorities>,
    ) -> Result<Accept, String> {
        Accept::new(
            certificates,
            client_ca,
            self.client_required,
            self.min,
            self.http2,
            self.subject_header.clone(),
        )
    }

    /// The server's end of a new connection.
    ///
    /// # Errors
    /// Never with settings that work.
    pub fn open(&self) -> Result<UnbufferedServerConnection, rustls::Error> {
        UnbufferedServerConnection::new(self.config.clone())
    }
}

/// Chooses by the name that a client asks for.
#[derive(Debug)]
struct ByName(Vec<Presented>);

#[derive(Debug)]
struct Presented {
    names: Vec<String>,
    certified: Arc<CertifiedKey>,
}

impl ByName {
    /// Exact names before wildcards; among those of the same name, the first whose key the client can verify.
    fn find(
        &self,
        name: Option<&str>,
        can_verify: impl Fn(&CertifiedKey) -> bool,
    ) -> Option<&Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        // RFC 6125 §6.4.3: a wildcard stands for one label, the leftmost.
        let above = name.as_deref().and_then(|name| name.split_once('.'));
        let wildcard = above.map(|(_, above)| format!("*.{above}"));
        let has = |wanted: &Option<String>, presented: &Presented| {
            wanted
                .as_ref()
                .is_some_and(|wanted| presented.names.contains(wanted))
        };
        let verified = |presented: &&Presented, wanted| {
            has(wanted, presented) && can_verify(&presented.certified)
        };
        let Self(all) = self;
        let found = all
            .iter()
            .find(|presented| verified(presented, &name))
            .or_else(|| all.iter().find(|presented| verified(presented, &wildcard)))
            .or_else(|| {
                all.iter()
                    .find(|presented| can_verify(&presented.certified))
            })
            .or(all.first());
        found.map(|presented| &presented.certified)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let can_verify = |certified: &CertifiedKey| certified.key.choose_scheme(schemes).is_some();
        self.find(hello.server_name(), can_verify).cloned()
    }
}
