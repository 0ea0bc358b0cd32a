//! Certificates whose files are written anew replace those in force, each by itself, without a reload.
//!
//! An invalid certificate changes nothing: the one before stays in force, and the log says once why. No connection is touched; the
//! next one gets the certificate that is in force then.

use crate::edge::settings::Settings;
use crate::metrics::CertificateExpiry;
use crate::tls::{Accept, Authorities, Certificate, Connect, Fault};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks at the files.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// The errors of invalid files that were logged, so that each is logged once.
#[derive(Default)]
pub(super) struct ReportedErrors(HashMap<PathBuf, String>);

impl ReportedErrors {
    /// The certificate that was read, or the one in force where the new one is invalid.
    fn new_or_in_force<T: Clone>(
        &mut self,
        file: &Path,
        read: Result<T, Fault>,
        in_force: &T,
    ) -> (T, bool) {
        match read {
            Ok(new) => {
                self.0.remove(file);
                tracing::info!(file = %file.display(), "written anew, and in force from now on");
                (new, true)
            }
            Err(fault) => {
                let fault = fault.to_string();
                if self.0.get(file) != Some(&fault) {
                    tracing::error!(file = %file.display(), "the new file is refused, the one before stays in force: {fault}");
                    self.0.insert(file.to_owned(), fault);
                }
                (in_force.clone(), false)
            }
        }
    }

    fn certificate(&mut self, in_force: &Certificate) -> (Certificate, bool) {
        if !in_force.has_changed() {
            return (in_force.clone(), false);
        }
        let before = std::slice::from_ref(in_force);
        let read = Certificate::load(&in_force.cert, &in_force.key, before);
        self.new_or_in_force(&in_force.cert, read, in_force)
    }

    fn authorities(&mut self, in_force: &Authorities) -> (Authorities, bool) {
        match &in_force.file {
            Some(file) if in_force.has_changed() => {
                self.new_or_in_force(file, Authorities::load(file), in_force)
            }
            Some(_) | None => (in_force.clone(), false),
        }
    }

    /// The new settings; `None` where nothing has changed.
    fn accept(&mut self, in_force: &Accept) -> Option<Accept> {
        let certificates = in_force
            .certificates
            .iter()
            .map(|one| self.certificate(one));
        let (certificates, new): (Vec<_>, Vec<_>) = certificates.unzip();
        let client_ca = in_force.client_ca.as_ref().map(|ca| self.authorities(ca));
        let (client_ca, new_ca) = client_ca.unzip();
        if !new.contains(&true) && new_ca != Some(true) {
            return None;
        }
        reported(in_force.with(certificates, client_ca))
    }

    fn connect(&mut self, in_force: &Connect) -> Option<Connect> {
        let certificate = in_force
            .certificate
            .as_ref()
            .map(|one| self.certificate(one));
        let authorities = in_force.authorities.as_ref().map(|ca| self.authorities(ca));
        let (certificate, new) = certificate.unzip();
        let (authorities, new_ca) = authorities.unzip();
        if new != Some(true) && new_ca != Some(true) {
            return None;
        }
        reported(in_force.with(authorities, certificate))
    }
}

fn reported<T>(made: Result<T, String>) -> Option<T> {
    made.map_err(|error| tracing::error!("TLS stays as it is: {error}"))
        .ok()
}

impl ReportedErrors {
    /// Takes what was written anew into the settings. Whether there was anything.
    pub(super) fn renew(&mut self, settings: &mut Settings) -> bool {
        let mut is_new = false;
        for listener in &mut settings.listeners {
            if let Some(tls) = &mut listener.tls
                && let Some(new) = self.accept(tls)
            {
                (*tls, is_new) = (new, true);
            }
        }
        for upstream in &mut settings.upstreams {
            if let Some(tls) = &mut upstream.tls
                && let Some(new) = self.connect(tls)
            {
                (*tls, is_new) = (new, true);
            }
        }
        is_new
    }
}

/// Until when each certificate is valid.
pub(super) fn expiries(settings: &Settings) -> Vec<CertificateExpiry> {
    let expiry = |used_by: String, certificate: &Certificate| CertificateExpiry {
        used_by,
        certificate: certificate.cert.display().to_string(),
        at: certificate.expires_at(),
    };
    let mut all = Vec::new();
    for listener in &settings.listeners {
        let certificates = listener.tls.iter().flat_map(|tls| &tls.certificates);
        all.extend(certificates.map(|one| expiry(format!("listener {}", listener.address), one)));
    }
    for upstream in &settings.upstreams {
        let tls = upstream.tls.as_ref();
        let certificate = tls.and_then(|tls| tls.certificate.as_ref());
        all.extend(certificate.map(|one| expiry(format!("upstream {}", upstream.name), one)));
    }
    all
}
