//! Errors of TLS with a peer, as sentences: what is wrong, and what to do about it.
//!
//! The names of rustls's variants are never shown: they say nothing to an operator who has not read its source.

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};
use std::fmt;
use std::time::Duration;
use x509_cert::der::DateTime;

/// The peer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client, on a listener of ours.
    Client,
    /// A server of an upstream.
    Server,
}

/// Why TLS with a peer has failed.
#[derive(Clone, Debug)]
pub struct Error {
    pub(super) peer: Peer,
    pub(super) source: rustls::Error,
}

crate::with_all! {
    /// The kind of failure of a handshake.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Failure {
        /// The peer's certificate is not accepted.
        Certificate,
        /// The peer shows no certificate, and has to.
        NoCertificate,
        /// The peer ended the handshake with an alert.
        Alert,
        /// No version, cipher suite, group or protocol of ALPN is common to both.
        NothingInCommon,
        /// The peer does not speak TLS.
        NotTls,
        /// The peer breaks the protocol.
        Protocol,
        /// The handshake was not complete in time.
        TimedOut,
        /// The connection was gone before the end of the handshake.
        Ended,
    }
}

impl Failure {
    /// Its name in metrics and in the log.
    pub const fn label(self) -> &'static str {
        match self {
            Failure::Certificate => "certificate",
            Failure::NoCertificate => "no_certificate",
            Failure::Alert => "alert",
            Failure::NothingInCommon => "nothing_in_common",
            Failure::NotTls => "not_tls",
            Failure::Protocol => "protocol",
            Failure::TimedOut => "timed_out",
            Failure::Ended => "ended",
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Error {
    /// The kind of failure.
    pub fn failure(&self) -> Failure {
        match &self.source {
            rustls::Error::InvalidCertificate(_) => Failure::Certificate,
            rustls::Error::NoCertificatesPresented => Failure::NoCertificate,
            rustls::Error::AlertReceived(_) => Failure::Alert,
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
                Failure::NothingInCommon
            }
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Failure::NotTls,
            _ => Failure::Protocol,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error { peer, source } = self;
        match (source, peer) {
            (rustls::Error::InvalidCertificate(error), _) => {
                write!(f, "{}", certificate(error, *peer))
            }
            (rustls::Error::NoCertificatesPresented, Peer::Client) => f.write_str(
                "the client shows no certificate; this listener wants one (`client_certificate = \"optional\"` does not)",
            ),
            (rustls::Error::NoCertificatesPresented, Peer::Server) => {
                f.write_str("the server shows no certificate")
            }
            (rustls::Error::AlertReceived(alert), _) => {
                let by = match peer {
                    Peer::Client => "the client",
                    Peer::Server => "the server",
                };
                match alert_words(*alert, *peer) {
                    Some(words) => write!(f, "{by} {words}"),
                    None => write!(f, "{by} ended TLS with alert {}", u8::from(*alert)),
                }
            }
            (rustls::Error::PeerIncompatible(why), _) => f.write_str(incompatible(why, *peer)),
            (rustls::Error::NoApplicationProtocol, Peer::Client) => f.write_str(
                "the client wants a protocol (ALPN) that is not spoken here: only http/1.1, and h2 where `http2` is on",
            ),
            (rustls::Error::NoApplicationProtocol, Peer::Server) => {
                f.write_str("the server does not speak HTTP/1.1 (ALPN)")
            }
            (rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType), Peer::Client) => {
                f.write_str("what the client sends is not TLS; does it speak plain HTTP to this port?")
            }
            (rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType), Peer::Server) => {
                f.write_str(
                    "what the server sends is not TLS; is that its port for TLS? [upstream.NAME.tls] enabled = false speaks without",
                )
            }
            (rustls::Error::DecryptError, _) => {
                f.write_str("what came cannot be decrypted: it was changed on its way, or its keys are others")
            }
            (rustls::Error::General(why), _) => write!(f, "TLS has failed: {why}"),
            (
                rustls::Error::InvalidMessage(_)
                | rustls::Error::InappropriateMessage { .. }
                | rustls::Error::InappropriateHandshakeMessage { .. }
                | rustls::Error::PeerMisbehaved(_)
                | rustls::Error::PeerSentOversizedRecord,
                Peer::Client,
            ) => f.write_str("the client breaks the protocol of TLS"),
            (
                rustls::Error::InvalidMessage(_)
                | rustls::Error::InappropriateMessage { .. }
                | rustls::Error::InappropriateHandshakeMessage { .. }
                | rustls::Error::PeerMisbehaved(_)
                | rustls::Error::PeerSentOversizedRecord,
                Peer::Server,
            ) => f.write_str("the server breaks the protocol of TLS"),
            // Of these none comes from what a peer has sent.
            (_, _) => f.write_str("TLS has failed in wsgate itself"),
        }
    }
}

/// The sentence for an error of a peer's certificate.
fn certificate(error: &CertificateError, peer: Peer) -> String {
    use CertificateError as Wrong;
    let whose = match peer {
        Peer::Client => "the client's certificate",
        Peer::Server => "the server's certificate",
    };
    let clock = "have it renewed, or put the clock of this machine right";
    let wrong = match error {
        Wrong::Expired => format!("has run out; {clock}"),
        Wrong::ExpiredContext { not_after, .. } => {
            format!("ran out on {}; {clock}", date(*not_after))
        }
        Wrong::NotValidYet => format!("is not valid yet; {clock}"),
        Wrong::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}; {clock}", date(*not_before))
        }
        Wrong::UnknownIssuer => match peer {
            Peer::Client => {
                "comes from an authority that is not in `client_ca`, or without those between".to_owned()
            }
            Peer::Server => "comes from an authority that is not believed, or without those between; name the file of the authority with `ca`, and have the server send its whole chain".to_owned(),
        },
        Wrong::NotValidForName => "is for another name; set `server_name` to one that it has".to_owned(),
        Wrong::NotValidForNameContext { expected, presented } => {
            let expected = match expected {
                ServerName::DnsName(name) => name.as_ref().to_owned(),
                ServerName::IpAddress(address) => std::net::IpAddr::from(*address).to_string(),
                _ => "the name that was asked for".to_owned(),
            };
            match names(presented).as_str() {
                "" => format!(
                    "has no names (subjectAltName), and so not `{expected}`; have it made with the names by which the server is reached"
                ),
                names => format!(
                    "is for {names}, not for `{expected}`; set `server_name` to a name that it has, or have it made anew"
                ),
            }
        }
        Wrong::BadEncoding => "is malformed".to_owned(),
        Wrong::Revoked => "was revoked".to_owned(),
        Wrong::BadSignature => "has a wrong signature".to_owned(),
        Wrong::UnsupportedSignatureAlgorithmContext { .. }
        | Wrong::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is signed in a way that is not accepted, SHA-1 perhaps; have it made with SHA-256".to_owned()
        }
        Wrong::InvalidPurpose | Wrong::InvalidPurposeContext { .. } => match peer {
            Peer::Client => "is not meant for clients (extendedKeyUsage)".to_owned(),
            Peer::Server => "is not meant for servers (extendedKeyUsage)".to_owned(),
        },
        Wrong::UnhandledCriticalExtension => {
            "has a critical extension that is not known here".to_owned()
        }
        Wrong::ApplicationVerificationFailure => "was refused".to_owned(),
        // webpki's own kinds that rustls has no words for: known by the names that they show.
        Wrong::Other(other) => match (other.to_string().as_str(), peer) {
            (CA_AS_LEAF, Peer::Server) => "is that of an authority and not one that is in `ca`; put the very certificate that the server shows into `ca`, or have one signed by the authority".to_owned(),
            (CA_AS_LEAF, Peer::Client) => "is that of an authority, which is not accepted of clients; have one signed by it (basicConstraints CA:FALSE)".to_owned(),
            ("UnsupportedCertVersion", _) => "is of an old version; have it made as X.509 version 3, with subjectAltName".to_owned(),
            _ => "cannot be verified".to_owned(),
        },
        _ => "cannot be verified".to_owned(),
    };
    format!("{whose} {wrong}")
}

/// The name that webpki has for an authority's certificate which a server or a client presents as its own.
pub(super) const CA_AS_LEAF: &str = "CaUsedAsEndEntity";

/// The sentence for an error of a certificate in a file.
pub(super) fn unusable(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::BadEncoding) => {
            "it is malformed".to_owned()
        }
        rustls::Error::General(why) => why.clone(),
        rustls::Error::InvalidCertificate(error) => certificate(error, Peer::Server),
        other => Error {
            peer: Peer::Server,
            source: other.clone(),
        }
        .to_string(),
    }
}

/// The names that a certificate has, at most five of them. webpki shows them as its own values: `DnsName("a.example")`.
fn names(presented: &[String]) -> String {
    const MOST: usize = 5;
    let bare = |name: &String| {
        let quoted = name.split('"').nth(1);
        let inner = quoted.unwrap_or_else(|| {
            let end = name.trim_end_matches(')');
            end.rsplit('(').next().unwrap_or(end)
        });
        format!("`{}`", inner.escape_debug())
    };
    let mut shown: Vec<String> = presented.iter().take(MOST).map(bare).collect();
    if presented.len() > MOST {
        shown.push(format!("{} more", presented.len() - MOST));
    }
    shown.join(", ")
}

fn date(time: UnixTime) -> String {
    match DateTime::from_unix_duration(Duration::from_secs(time.as_secs())) {
        Ok(date) => date.to_string(),
        Err(_) => "a day beyond the calendar".to_owned(),
    }
}

/// The meaning of a peer's alert (RFC 8446 §6), for those that occur in practice.
fn alert_words(alert: AlertDescription, peer: Peer) -> Option<&'static str> {
    use AlertDescription as Alert;
    let refuses = |client: &'static str, server: &'static str| match peer {
        Peer::Client => client,
        Peer::Server => server,
    };
    Some(match alert {
        Alert::CloseNotify | Alert::UserCanceled => "ended the connection within the handshake",
        Alert::UnknownCA => refuses(
            "does not believe the authority of our certificate; does `cert` hold the whole chain?",
            "does not believe the authority of our certificate (`cert` in [upstream.NAME.tls])",
        ),
        Alert::CertificateExpired | Alert::CertificateRevoked => {
            "takes our certificate for one that has run out or was revoked"
        }
        Alert::BadCertificate | Alert::CertificateUnknown | Alert::UnsupportedCertificate => {
            "does not accept our certificate"
        }
        Alert::CertificateRequired | Alert::NoCertificate => {
            "wants a certificate; name one with `cert` and `key` in [upstream.NAME.tls]"
        }
        Alert::AccessDenied => "knows our certificate and does not let us in",
        Alert::ProtocolVersion => refuses(
            "speaks none of the versions of TLS that are spoken here (`min_tls`)",
            "speaks neither TLS 1.2 nor 1.3",
        ),
        Alert::HandshakeFailure | Alert::InsufficientSecurity => {
            "has no algorithms in common with us, or wants a certificate"
        }
        Alert::NoApplicationProtocol => "does not speak HTTP/1.1 (ALPN)",
        Alert::UnrecognisedName => {
            "does not know the name that it was asked for; set `server_name` in [upstream.NAME.tls]"
        }
        Alert::DecryptError | Alert::BadRecordMac => "could not verify what we sent",
        Alert::InternalError => "failed inside",
        _ => return None,
    })
}

/// The sentence for parameters on which both sides cannot agree.
fn incompatible(why: &PeerIncompatible, peer: Peer) -> &'static str {
    use PeerIncompatible as Why;
    match (why, peer) {
        (
            Why::Tls12NotOffered
            | Why::Tls12NotOfferedOrEnabled
            | Why::SupportedVersionsExtensionRequired,
            Peer::Client,
        ) => "the client speaks none of the versions of TLS that are spoken here (`min_tls`)",
        (Why::ServerDoesNotSupportTls12Or13 | Why::ServerTlsVersionIsDisabledByOurConfig, _)
        | (Why::Tls12NotOffered | Why::Tls12NotOfferedOrEnabled, Peer::Server) => {
            "the server speaks neither TLS 1.2 nor 1.3"
        }
        (Why::NoSignatureSchemesInCommon, Peer::Client) => {
            "the client cannot verify the kind of key that our certificate has"
        }
        (_, Peer::Client) => "the client has no algorithms of TLS in common with us",
        (_, Peer::Server) => "the server has no algorithms of TLS in common with us",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{OtherError, PeerMisbehaved};
    use std::sync::Arc;

    #[derive(Debug)]
    struct Named(&'static str);

    impl fmt::Display for Named {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Named {}

    fn other(name: &'static str) -> CertificateError {
        CertificateError::Other(OtherError(Arc::new(Named(name))))
    }

    #[test]
    fn failures_are_sentences_with_what_to_do() {
        let day = |days: u64| UnixTime::since_unix_epoch(Duration::from_secs(days * 86_400));
        let for_name = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("c.example").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        let by_both = [Peer::Client, Peer::Server];
        let cert = |error: CertificateError| rustls::Error::InvalidCertificate(error);
        let alert = rustls::Error::AlertReceived;
        let table: Vec<(rustls::Error, &[Peer], &str, &[&str])> = vec![
            (
                cert(CertificateError::Expired),
                &by_both,
                "certificate",
                &["run out", "renewed"],
            ),
            (
                cert(CertificateError::ExpiredContext {
                    time: day(20_000),
                    not_after: day(19_000),
                }),
                &by_both,
                "certificate",
                &["ran out on 2022-01-08", "renewed"],
            ),
            (
                cert(CertificateError::NotValidYetContext {
                    time: day(1),
                    not_before: day(20_000),
                }),
                &by_both,
                "certificate",
                &["not valid before 2024-10-04", "clock"],
            ),
            (
                cert(CertificateError::UnknownIssuer),
                &[Peer::Server],
                "certificate",
                &["`ca`"],
            ),
            (
                cert(CertificateError::UnknownIssuer),
                &[Peer::Client],
                "certificate",
                &["`client_ca`"],
            ),
            (
                cert(for_name(&[
                    "DnsName(\"a.example\")",
                    "DnsName(\"*.b.example\")",
                    "IpAddress(10.0.0.1)",
                ])),
                &[Peer::Server],
                "certificate",
                &[
                    "`a.example`, `*.b.example`, `10.0.0.1`",
                    "not for `c.example`",
                    "server_name",
                ],
            ),
            (
                cert(for_name(&[])),
                &[Peer::Server],
                "certificate",
                &["no names", "c.example"],
            ),
            (
                cert(for_name(&["DnsName(\"a\")"; 9])),
                &[Peer::Server],
                "certificate",
                &["4 more"],
            ),
            (
                cert(other("CaUsedAsEndEntity")),
                &[Peer::Server],
                "certificate",
                &["authority", "`ca`"],
            ),
            (
                cert(other("CaUsedAsEndEntity")),
                &[Peer::Client],
                "certificate",
                &["authority", "CA:FALSE"],
            ),
            (
                cert(other("UnsupportedCertVersion")),
                &by_both,
                "certificate",
                &["version 3"],
            ),
            (
                cert(other("SomethingNew")),
                &by_both,
                "certificate",
                &["cannot be verified"],
            ),
            (
                cert(CertificateError::BadEncoding),
                &by_both,
                "certificate",
                &["malformed"],
            ),
            (
                cert(CertificateError::InvalidPurpose),
                &by_both,
                "certificate",
                &["extendedKeyUsage"],
            ),
            (
                rustls::Error::NoCertificatesPresented,
                &[Peer::Client],
                "no_certificate",
                &["shows no certificate", "client_certificate"],
            ),
            (
                alert(AlertDescription::UnknownCA),
                &by_both,
                "alert",
                &["authority", "`cert`"],
            ),
            (
                alert(AlertDescription::CertificateRequired),
                &[Peer::Server],
                "alert",
                &["`cert` and `key`"],
            ),
            (
                alert(AlertDescription::CertificateUnknown),
                &by_both,
                "alert",
                &["does not accept"],
            ),
            (
                alert(AlertDescription::ProtocolVersion),
                &[Peer::Client],
                "alert",
                &["min_tls"],
            ),
            (
                alert(AlertDescription::UnrecognisedName),
                &[Peer::Server],
                "alert",
                &["server_name"],
            ),
            (
                alert(AlertDescription::Unknown(200)),
                &by_both,
                "alert",
                &["alert 200"],
            ),
            (
                rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled),
                &[Peer::Client],
                "nothing_in_common",
                &["versions", "min_tls"],
            ),
            (
                rustls::Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                &by_both,
                "nothing_in_common",
                &["in common"],
            ),
            (
                rustls::Error::NoApplicationProtocol,
                &by_both,
                "nothing_in_common",
                &["ALPN"],
            ),
            (
                rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType),
                &by_both,
                "not_tls",
                &["is not TLS"],
            ),
            (
                rustls::Error::PeerMisbehaved(PeerMisbehaved::TooMuchEarlyDataReceived),
                &by_both,
                "protocol",
                &["breaks the protocol"],
            ),
            (
                rustls::Error::DecryptError,
                &by_both,
                "protocol",
                &["decrypted"],
            ),
        ];
        for (source, peers, label, words) in table {
            for peer in peers {
                let error = Error {
                    peer: *peer,
                    source: source.clone(),
                };
                assert_eq!(error.failure().label(), label, "{source:?}");
                let sentence = error.to_string();
                for word in words {
                    assert!(sentence.contains(word), "{word}: {sentence}");
                }
                assert!(!looks_like_debug(&sentence), "{sentence}");
            }
        }
    }

    /// Whether a sentence has a name as code has it, `LikeThis` or `like_this(`, outside of backticks.
    fn looks_like_debug(sentence: &str) -> bool {
        let prose = sentence.split('`').step_by(2).collect::<String>();
        prose.split([' ', '(', ')', ';', ',', ':']).any(|word| {
            let mut letters = word.chars().skip(1);
            let known = ["subjectAltName", "extendedKeyUsage", "basicConstraints"];
            let is_name = letters.any(char::is_uppercase) && word.chars().any(char::is_lowercase);
            is_name && !known.contains(&word) && !word.starts_with('[')
        })
    }
}
