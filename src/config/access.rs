//! Access control: networks of clients, the access service, and the rules for headers.

use super::error::Error;
use super::meaning::Reader;
use super::written;
use crate::edge::settings::{Access, Auth, Client, HeaderRules, Listener};
use crate::transport::address::Address;
use crate::transport::written_address;
use http::{HeaderName, HeaderValue, Uri};
use ipnet::{IpNet, Ipv4Net};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use toml::Spanned;

/// For the answer of the access service.
const AUTH_TIMEOUT: Duration = Duration::from_secs(2);

impl Reader<'_> {
    /// A network, or the address of one machine.
    pub(super) fn network(&self, written: &Spanned<String>) -> Result<IpNet, Error> {
        let text = written.get_ref().as_str();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.to_canonical().into());
        }
        let help = "write an address or a network: \"10.0.0.1\", \"10.0.0.0/8\", \"2001:db8::/32\"";
        let parsed = text.parse::<IpNet>();
        if let Ok(IpNet::V6(network)) = &parsed
            && let Some(address) = network.addr().to_ipv4_mapped()
        {
            // Clients' addresses are compared as IPv4, however they came.
            let bits = network.prefix_len().checked_sub(96);
            let mapped = bits.and_then(|bits| Ipv4Net::new(address, bits).ok());
            return match mapped {
                Some(network) if network.trunc() == network => Ok(network.into()),
                Some(network) => {
                    let message = format!("`{text}` has bits beyond its prefix");
                    let help = format!("the network is \"{}\"", network.trunc());
                    Err(self.source.error(written.span(), message, help))
                }
                None => {
                    let message = format!("`{text}` is an IPv4 network whose prefix is too short");
                    let help = "write IPv4: \"10.0.0.0/8\"; in IPv6 its prefix has 96 bits more: \"::ffff:10.0.0.0/104\"";
                    Err(self.source.error(written.span(), message, help))
                }
            };
        }
        match parsed {
            Ok(network) if network.trunc() == network => Ok(network),
            Ok(network) => {
                let message = format!("`{text}` has bits beyond its prefix");
                let help = format!("the network is \"{}\"", network.trunc());
                Err(self.source.error(written.span(), message, help))
            }
            Err(_) => {
                let message = format!("`{}` is not a network", text.escape_debug());
                Err(self.source.error(written.span(), message, help))
            }
        }
    }

    pub(super) fn networks(&self, written: &[Spanned<String>]) -> Vec<IpNet> {
        self.each(written, |network| self.network(network))
    }

    /// Whether connections to a listener begin with a PROXY protocol header, which somebody has to be trusted to send.
    pub(super) fn proxy_protocol(
        &self,
        written: Option<Spanned<bool>>,
        listener: &Address,
        client: &Client,
    ) -> Result<bool, Error> {
        let Some(place) = written.filter(|written| *written.get_ref()) else {
            return Ok(false);
        };
        let (is_anybody, example) = match listener {
            Address::Unix(_) => (client.trust_unix, "[\"unix\"]"),
            Address::Tcp(_) | Address::Name(..) => {
                (!client.trusted_proxies.is_empty(), "[\"10.0.0.0/8\"]")
            }
        };
        if is_anybody {
            return Ok(true);
        }
        let message = "`proxy_protocol` is taken from nobody, so nobody could connect";
        let help = format!("name the proxies in [client]: trusted_proxies = {example}");
        Err(self.source.error(place.span(), message, help))
    }

    pub(super) fn access(&self, written: &written::Route, listeners: &[Listener]) -> Access {
        let copy = self.each(&written.auth_copy, |name| {
            self.header_name(name.get_ref(), name)
        });
        let auth = match &written.auth_url {
            Some(url) if !url.get_ref().is_empty() => {
                let read = self.checked(self.auth_url(url));
                read.map(|(address, host, path)| Auth {
                    address,
                    host,
                    path,
                    timeout: written.auth_timeout.map_or(AUTH_TIMEOUT, |time| time.0),
                    copy,
                })
            }
            Some(_) | None => None,
        };
        Access {
            allow: self.networks(&written.allow),
            deny: self.networks(&written.deny),
            client_certificate: self.or_default(self.route_certificate(written, listeners)),
            auth,
        }
    }

    /// Whether a route demands a client certificate, for which a listener has to ask.
    fn route_certificate(
        &self,
        written: &written::Route,
        listeners: &[Listener],
    ) -> Result<bool, Error> {
        let required = written::ClientCertificate::Required;
        let Some(place) = written.client_certificate.as_ref() else {
            return Ok(false);
        };
        if *place.get_ref() != required {
            return Ok(false);
        }
        let mut tls = listeners
            .iter()
            .filter_map(|listener| listener.tls.as_ref());
        if tls.any(|tls| tls.client_ca.is_some()) {
            return Ok(true);
        }
        let message = "no listener asks for a client certificate, so this route could serve nobody";
        let help = "add to a [[listener]] with `certificates`: client_ca = \"/etc/wsgate/clients.pem\" and client_certificate = \"optional\"";
        // Offline the certificates of no listener are read.
        Err(self.source.error(place.span(), message, help).local())
    }

    fn auth_url(&self, written: &Spanned<String>) -> Result<(Address, String, String), Error> {
        let text = written.get_ref().as_str();
        let wrong = |what: &str| {
            let message = format!("`{}` {what}", text.escape_debug());
            let help = "write where the service is asked: \"http://127.0.0.1:9100/may-enter\"";
            self.source.error(written.span(), message, help)
        };
        let uri: Uri = text.parse().map_err(|_| wrong("is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("is over TLS, which is not served yet")),
            Some(_) | None => return Err(wrong("is not a URL with http://")),
        }
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        let host = authority.host();
        let port = authority.port_u16().unwrap_or(80);
        let address = written_address::server(&format!("{host}:{port}"))
            .map_err(|(message, help)| self.source.error(written.span(), message, help))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok((address, authority.as_str().to_owned(), path.to_owned()))
    }

    pub(super) fn header_rules(&self, written: &written::Route) -> [HeaderRules; 2] {
        let list = |names: &[Spanned<String>]| {
            self.each(names, |name| self.header_name(name.get_ref(), name))
        };
        let map = |pairs: &BTreeMap<String, Spanned<String>>| {
            let pairs: Vec<_> = pairs.iter().collect();
            self.each(&pairs, |(name, value)| {
                self.header_name(name, value)?;
                if HeaderValue::from_str(value.get_ref()).is_err() {
                    let message = format!("the value of `{name}` cannot stand in a header");
                    let help = "a value has no line breaks and no control characters";
                    return Err(self.source.error(value.span(), message, help));
                }
                Ok(((*name).clone(), value.get_ref().clone()))
            })
        };
        [
            HeaderRules {
                remove: list(&written.request_remove),
                set: map(&written.request_set),
                add: map(&written.request_add),
            },
            HeaderRules {
                remove: list(&written.response_remove),
                set: map(&written.response_set),
                add: map(&written.response_add),
            },
        ]
    }

    /// The name of a header that a rule may touch, in lower case.
    pub(super) fn header_name<T>(&self, name: &str, place: &Spanned<T>) -> Result<String, Error> {
        let refuse = |what: &str, help: &str| {
            let message = format!("`{}` {what}", name.escape_debug());
            Err(self.source.error(place.span(), message, help))
        };
        let Ok(parsed) = name.parse::<HeaderName>() else {
            return refuse("is not a header", "write its name: \"X-User\"");
        };
        let lower = parsed.as_str();
        let is_wsgates = lower.starts_with("sec-websocket-")
            || matches!(
                lower,
                "connection"
                    | "upgrade"
                    | "keep-alive"
                    | "te"
                    | "trailer"
                    | "transfer-encoding"
                    | "content-length"
            );
        if is_wsgates {
            let help = "the handshake and the framing need it as it is";
            return refuse("is wsgate's own affair", help);
        }
        Ok(lower.to_owned())
    }
}
