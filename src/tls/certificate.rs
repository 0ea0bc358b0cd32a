//! Certificates, their keys, and trusted authorities, read from PEM files.
//!
//! A [`Certificate`] always belongs to its key, and had not expired when it was read.

use super::error::unusable;
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A certificate with its chain and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The file of the certificate, and of those that vouch for it.
    pub cert: PathBuf,
    /// The file of its key.
    pub key: PathBuf,
    /// The host names that it is for, in lower case.
    pub names: Vec<String>,
    /// When it runs out.
    pub not_after: SystemTime,
    pub(super) certified: Arc<CertifiedKey>,
    stamps: Stamps,
}

/// By what the files hold, and where they are.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        (&self.cert, &self.key) == (&other.cert, &other.key)
            && self.certified.cert == other.certified.cert
    }
}

impl Eq for Certificate {}

/// Which file is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The file of the certificate.
    Cert,
    /// The file of the key.
    Key,
}

/// A mistake in a file, and its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file at fault.
    pub part: Part,
    /// The mistake, with the path of the file.
    pub message: String,
    /// The remedy.
    pub help: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.message, self.help)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    fn new(part: Part, message: impl Into<String>, help: impl Into<String>) -> Self {
        Fault {
            part,
            message: message.into(),
            help: help.into(),
        }
    }

    fn unreadable(part: Part, file: &Path, error: &io::Error) -> Self {
        let help = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file",
            io::ErrorKind::PermissionDenied => {
                "the user that runs wsgate has to be able to read it"
            }
            _ => "it names a file in PEM",
        };
        let message = format!("`{}` cannot be read: {error}", file.display());
        Fault::new(part, message, help)
    }
}

const CHAIN: &str = "it holds the certificate first, then those that vouch for it, each as -----BEGIN CERTIFICATE-----";

impl Certificate {
    /// Reads both files, unless `before` has them and they have not changed. One that has run out is good only where it is that of
    /// `before`: what is in force stays in force.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn load(cert: &Path, key: &Path, before: &[Certificate]) -> Result<Certificate, Fault> {
        let is_in_force = |one: &&Certificate| one.cert == cert && one.key == key;
        if let Some(known) = before.iter().find(is_in_force)
            && !known.has_changed()
        {
            // The user that wsgate runs as may not be able to read a key that root has read at the start.
            return Ok(known.clone());
        }
        let stamps = Stamps::of(&[cert, key]);
        let chain = certificates(cert)?;
        let Some(first) = chain.first() else {
            let message = format!("`{}` holds no certificate", cert.display());
            return Err(Fault::new(Part::Cert, message, CHAIN));
        };
        let parsed = x509_cert::Certificate::from_der(first).map_err(|error| {
            let message = format!("`{}` is no certificate: {error}", cert.display());
            Fault::new(Part::Cert, message, CHAIN)
        })?;
        let key_bytes =
            std::fs::read(key).map_err(|error| Fault::unreadable(Part::Key, key, &error))?;
        let private = PrivateKeyDer::from_pem_slice(&key_bytes).map_err(|error| {
            let message = format!(
                "`{}` holds no private key: {}",
                key.display(),
                pem_words(&error)
            );
            let help = "it holds one in PEM, without a passphrase: -----BEGIN PRIVATE KEY-----";
            Fault::new(Part::Key, message, help)
        })?;
        let provider = super::provider();
        let private = provider.key_provider.load_private_key(private);
        let private = private.map_err(|error| {
            let message = format!(
                "the key in `{}` cannot be used: {}",
                key.display(),
                unusable(&error)
            );
            let help = "use ECDSA (P-256, P-384), Ed25519, or RSA of 2048 to 8192 bits";
            Fault::new(Part::Key, message, help)
        })?;
        let tbs = &parsed.tbs_certificate;
        let mut names = Vec::new();
        if let Ok(Some((_, SubjectAltName(alternatives)))) = tbs.get::<SubjectAltName>() {
            for alternative in alternatives {
                if let GeneralName::DnsName(name) = alternative {
                    names.push(name.as_str().to_ascii_lowercase());
                }
            }
        }
        let certified = CertifiedKey::new(chain, private);
        if certified.keys_match().is_err() {
            let (cert, key) = (cert.display(), key.display());
            let message = format!("the key in `{key}` is not that of the certificate in `{cert}`");
            return Err(Fault::new(
                Part::Key,
                message,
                "name the two that belong together",
            ));
        }
        let not_after = tbs.validity.not_after.to_system_time();
        let loaded = Certificate {
            cert: cert.to_owned(),
            key: key.to_owned(),
            names,
            not_after,
            certified: Arc::new(certified),
            stamps,
        };
        let now = SystemTime::now();
        let is_in_force = before.contains(&loaded);
        if not_after <= now && !is_in_force {
            let when = tbs.validity.not_after;
            let message = format!("the certificate in `{}` ran out on {when}", cert.display());
            return Err(Fault::new(Part::Cert, message, "have it renewed"));
        }
        if tbs.validity.not_before.to_system_time() > now && !is_in_force {
            let when = tbs.validity.not_before;
            let message = format!("the certificate in `{}` begins on {when}", cert.display());
            let help = "wait for that day, or put the clock of this machine right";
            return Err(Fault::new(Part::Cert, message, help));
        }
        Ok(loaded)
    }

    /// Whether its files are others than when they were read.
    pub fn has_changed(&self) -> bool {
        self.stamps != Stamps::of(&[&self.cert, &self.key])
    }

    /// When it runs out, in seconds since 1970-01-01 UTC.
    pub fn expires_at(&self) -> i64 {
        match self.not_after.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => since.as_secs() as i64,
            Err(before) => -(before.duration().as_secs() as i64),
        }
    }
}

/// Trusted authorities.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// Where they come from; `None`: the system.
    pub file: Option<PathBuf>,
    pub(super) roots: Arc<RootCertStore>,
    /// The certificates of the file, unchanged.
    pub(super) certificates: Arc<[CertificateDer<'static>]>,
    stamps: Stamps,
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file
            && self.roots.roots == other.roots.roots
            && self.certificates == other.certificates
    }
}

impl Eq for Authorities {}

impl Authorities {
    /// The authorities of a file.
    ///
    /// # Errors
    /// The file cannot be read, holds no certificate, or holds an invalid one.
    pub fn load(file: &Path) -> Result<Authorities, Fault> {
        let stamps = Stamps::of(&[file]);
        let mut roots = RootCertStore::empty();
        const HELP: &str = "it holds the certificates of those who are believed, in PEM";
        let certificates = certificates(file)?;
        for root in &certificates {
            roots.add(root.clone()).map_err(|error| {
                let message = format!(
                    "`{}` holds a certificate that cannot be used: {}",
                    file.display(),
                    unusable(&error)
                );
                Fault::new(Part::Cert, message, HELP)
            })?;
        }
        if roots.is_empty() {
            let message = format!("`{}` holds no certificate", file.display());
            return Err(Fault::new(Part::Cert, message, HELP));
        }
        Ok(Authorities {
            file: Some(file.to_owned()),
            roots: Arc::new(roots),
            certificates: certificates.into(),
            stamps,
        })
    }

    /// The authorities of the system. Unusable ones are left out, as other programs do.
    ///
    /// # Errors
    /// There are none.
    pub fn of_system() -> Result<Authorities, Fault> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            let message = "this system has no certificate authorities";
            let help = "install its package of them (ca-certificates), or name a file with `ca`";
            return Err(Fault::new(Part::Cert, message, help));
        }
        Ok(Authorities {
            file: None,
            roots: Arc::new(roots),
            certificates: Arc::default(),
            stamps: Stamps::default(),
        })
    }

    /// Whether the file is another than when it was read.
    pub fn has_changed(&self) -> bool {
        let file = self.file.as_deref();
        file.is_some_and(|file| self.stamps != Stamps::of(&[file]))
    }
}

/// By what it is seen that files were written anew: a file that takes the place of another one is another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stamps(Vec<Option<(SystemTime, u64, u64)>>);

impl Stamps {
    fn of(files: &[&Path]) -> Self {
        use std::os::unix::fs::MetadataExt;
        let stamp = |file: &&Path| {
            let metadata = std::fs::metadata(file).ok()?;
            Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
        };
        Stamps(files.iter().map(stamp).collect())
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let bytes = std::fs::read(file).map_err(|error| Fault::unreadable(Part::Cert, file, &error))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    all.map_err(|error| {
        let message = format!("`{}` is no PEM: {}", file.display(), pem_words(&error));
        Fault::new(Part::Cert, message, CHAIN)
    })
}

/// The sentence for an error of PEM. Lines of the file are shown as text: the library shows their bytes as numbers.
fn pem_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            let marker = end_marker.escape_ascii();
            format!("the line `-----END {marker}-----` is missing")
        }
        pem::Error::IllegalSectionStart { line } => {
            let line = line.trim_ascii_end().escape_ascii().to_string();
            let line: String = line.chars().take(60).collect();
            format!("the line `{line}` begins no section")
        }
        pem::Error::NoItemsFound => "there is no section of the kind that is needed".to_owned(),
        other => other.to_string(),
    }
}

/// The subject of a certificate as RFC 4514 writes it, `CN=device-7,O=Example`; `None` where there is none to read.
pub fn subject(certificate: &[u8]) -> Option<String> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let mut text = String::new();
    write!(text, "{}", parsed.tbs_certificate.subject).ok()?;
    (!text.is_empty()).then_some(text)
}
