//! TLS: what listeners present and ask for, and how servers are spoken to. The files are read here, so that a mistake in
//! one is a mistake with a place.

use super::error::Error;
use super::meaning::Reader;
use super::written;
use super::written::Table;
use crate::tls::{Accept, Authorities, Certificate, Connect, Fault, Part, Version};
use crate::transport::address::Address;
use crate::upstream::settings::ServerSettings;
use http::HeaderName;
use std::path::Path;
use toml::Spanned;

type Written = Option<Spanned<String>>;

impl Reader<'_> {
    /// The TLS settings of a listener; `None` without a certificate.
    pub(super) fn accept(&self, written: written::Listener) -> Result<Option<Accept>, Error> {
        let client_ca = set(written.client_ca);
        let subject = set(written.client_subject_header);
        let refuse = |span, message: &str, help: &str| Err(self.source.error(span, message, help));
        if written.certificates.is_empty() {
            let needless = [
                ("client_ca", client_ca.as_ref().map(Spanned::span)),
                ("client_subject_header", subject.as_ref().map(Spanned::span)),
                (
                    "client_certificate",
                    other(
                        &written.client_certificate,
                        written::ClientCertificate::Required,
                    ),
                ),
                ("min_tls", other(&written.min_tls, written::MinTls::Tls12)),
                ("http2", other(&written.http2, true)),
            ];
            for (key, span) in needless {
                if let Some(span) = span {
                    let message = format!("`{key}` has no effect on a listener without TLS");
                    let help = "add certificates = [{ cert = \"/etc/wsgate/a.pem\", key = \"/etc/wsgate/a.key\" }]";
                    return refuse(span, &message, help);
                }
            }
            return Ok(None);
        }
        if client_ca.is_none() {
            let optional = other(
                &written.client_certificate,
                written::ClientCertificate::Required,
            );
            for (key, span) in [
                ("client_certificate", optional),
                ("client_subject_header", subject.as_ref().map(Spanned::span)),
            ] {
                if let Some(span) = span {
                    let message = format!("`{key}` has no effect where no client is verified");
                    let help = "add client_ca = \"/etc/wsgate/clients.pem\"";
                    return refuse(span, &message, help);
                }
            }
        }
        let subject_header = match subject {
            None => None,
            Some(name) => match name.get_ref().parse::<HeaderName>() {
                Ok(parsed) => Some(parsed),
                Err(_) => {
                    let message = format!("`{}` is not a header", name.get_ref().escape_debug());
                    return refuse(
                        name.span(),
                        &message,
                        "write its name: \"X-Client-Subject\"",
                    );
                }
            },
        };
        let span = written.certificates.first().map(Spanned::span);
        let mut certificates = Vec::new();
        for pair in written.certificates {
            let span = pair.span();
            let written::Certificate { cert, key } = pair.into_inner().0;
            let (Some(cert), Some(key)) = (cert, key) else {
                let help = "write { cert = \"/etc/wsgate/a.pem\", key = \"/etc/wsgate/a.key\" }";
                return refuse(span, "a certificate needs `cert` and `key`", help);
            };
            certificates.push(self.certificate(&cert, &key)?);
        }
        let required = written
            .client_certificate
            .is_none_or(|kind| *kind.get_ref() == written::ClientCertificate::Required);
        let min = match written.min_tls.map(Spanned::into_inner) {
            None | Some(written::MinTls::Tls12) => Version::Tls12,
            Some(written::MinTls::Tls13) => Version::Tls13,
        };
        let accept = Accept::new(
            certificates,
            client_ca.map(|file| self.authorities(&file)).transpose()?,
            required,
            min,
            written.http2.is_none_or(Spanned::into_inner),
            subject_header,
        );
        let accept = accept.map_err(|error| {
            let message = format!("TLS cannot be had with this: {error}");
            let help = "use certificates with ECDSA, Ed25519 or RSA keys";
            self.source.error(span.unwrap_or_default(), message, help)
        })?;
        // The tickets of clients go on being good where nothing has changed.
        let before = self
            .before
            .iter()
            .flat_map(|config| &config.proxy.listeners);
        let same = before
            .filter_map(|listener| listener.tls.as_ref())
            .find(|tls| **tls == accept);
        Ok(Some(same.cloned().unwrap_or(accept)))
    }

    /// How the servers of an upstream are spoken to; `None`: without TLS.
    pub(super) fn connect(
        &self,
        written: Spanned<Table<written::UpstreamTls>>,
        servers: &[ServerSettings],
    ) -> Result<Option<Connect>, Error> {
        let span = written.span();
        let written = written.into_inner().0;
        let refuse = |span, message: &str, help: &str| Err(self.source.error(span, message, help));
        let Some(enabled) = written.enabled else {
            let message = "it is not said whether the servers are spoken to by TLS";
            return refuse(span, message, "add enabled = true, or remove the table");
        };
        if !enabled {
            return Ok(None);
        }
        let server_name = match set(written.server_name) {
            None => None,
            Some(name) => match Connect::name(name.get_ref()) {
                Ok(parsed) => Some(parsed),
                Err(_) => {
                    let message = format!("`{}` is not a name", name.get_ref().escape_debug());
                    let help = "write the one in the servers' certificate: \"chat.internal\"";
                    return refuse(name.span(), &message, help);
                }
            },
        };
        let is_unix = |server: &ServerSettings| matches!(server.address, Address::Unix(_));
        if server_name.is_none() && servers.iter().any(is_unix) {
            let message = "a Unix socket has no name that could be verified";
            return refuse(span, message, "add server_name = \"chat.internal\"");
        }
        let ca = set(written.ca);
        let authorities = match (written.verify.unwrap_or(true), ca) {
            (true, Some(file)) => Some(self.authorities(&file)?),
            (true, None) => {
                let system = Authorities::of_system();
                Some(system.map_err(|fault| self.fault(&fault, span.clone()))?)
            }
            // TLS that is switched off may keep its other keys, so that it can be switched on again.
            (false, _) => None,
        };
        let certificate = match (set(written.cert), set(written.key)) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(self.certificate(&cert, &key)?),
            (Some(cert), None) => {
                return refuse(
                    cert.span(),
                    "`cert` needs its key",
                    "add key = \"/etc/wsgate/a.key\"",
                );
            }
            (None, Some(key)) => {
                let help = "add cert = \"/etc/wsgate/a.pem\"";
                return refuse(key.span(), "`key` needs its certificate", help);
            }
        };
        let connect = Connect::new(server_name, authorities, certificate);
        let connect = connect.map_err(|error| {
            let message = format!("TLS cannot be had with this: {error}");
            let help = "use certificates with ECDSA, Ed25519 or RSA keys";
            self.source.error(span, message, help)
        })?;
        let before = self
            .before
            .iter()
            .flat_map(|config| &config.proxy.upstreams);
        let same = before
            .filter_map(|upstream| upstream.tls.as_ref())
            .find(|tls| **tls == connect);
        Ok(Some(same.cloned().unwrap_or(connect)))
    }

    fn certificate(
        &self,
        cert: &Spanned<String>,
        key: &Spanned<String>,
    ) -> Result<Certificate, Error> {
        let before = self
            .before
            .map(|config| config.proxy.certificates())
            .unwrap_or_default();
        let paths = (Path::new(cert.get_ref()), Path::new(key.get_ref()));
        Certificate::load(paths.0, paths.1, &before).map_err(|fault| {
            let at = match fault.part {
                Part::Cert => cert,
                Part::Key => key,
            };
            self.fault(&fault, at.span())
        })
    }

    fn authorities(&self, file: &Spanned<String>) -> Result<Authorities, Error> {
        Authorities::load(Path::new(file.get_ref()))
            .map_err(|fault| self.fault(&fault, file.span()))
    }

    fn fault(&self, fault: &Fault, span: std::ops::Range<usize>) -> Error {
        self.source
            .error(span, fault.message.as_str(), fault.help.as_str())
            .local()
    }
}

/// Empty is as good as absent.
fn set(written: Written) -> Written {
    written.filter(|text| !text.get_ref().is_empty())
}

/// Where something else than the default is written.
fn other<T: PartialEq>(written: &Option<Spanned<T>>, default: T) -> Option<std::ops::Range<usize>> {
    let written = written.as_ref()?;
    (*written.get_ref() != default).then(|| written.span())
}
