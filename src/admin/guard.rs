//! Which requests the admin listener serves: decided by their Host, by the page that sent them, and by their token.
//!
//! A browser on the same machine, or in the same network, reaches the listener and can be made to send requests by any
//! page that it shows. It is always true that such a request neither changes anything nor tells the page anything but
//! `/healthz` and `/readyz`:
//!
//! - a page whose own name is made to resolve to this machine sends that name as `Host` (DNS rebinding): only addresses
//!   and known names are served, and no page can be made to have an address of this machine;
//! - a page of another origin is told by `Origin` and `Sec-Fetch-Site`, which pages cannot forge;
//! - what a form or a script can send without the consent of CORS has neither JSON's media type nor a header of ours
//!   (Fetch §2.2.2, "CORS-safelisted request-header"), and a change wants one of them.

use super::request::{Host, Refusal, Request};
use super::{Settings, Token};
use crate::transport::address::Address;
use http::StatusCode;
use http::header;

/// The header of ours that a change without a body bears.
pub(super) const HEADER: &str = "X-Wsgate";

/// The conditions that a request has to meet.
pub(super) struct Guard {
    access: Access,
    metrics_token: bool,
    /// The listener that serves the probes and the metrics alone.
    probes: Option<Address>,
    pub ready_needs_servers: bool,
    /// Names by which the listener is asked, in lower case.
    names: Vec<String>,
}

/// The condition for the use of `/v1`.
enum Access {
    /// No token is wanted: the listener is on a loopback or Unix address, which no other machine reaches.
    Local,
    /// Requests have to bear this token.
    Bearer(Token),
    /// Requests that only read are served; those that change are refused.
    ReadOnly,
}

impl Access {
    fn of(settings: &Settings) -> Self {
        match (&settings.token, &settings.listen) {
            (Some(token), _) => Access::Bearer(token.clone()),
            (None, Some(Address::Unix(_))) => Access::Local,
            (None, Some(Address::Tcp(address))) if address.ip().is_loopback() => Access::Local,
            (None, _) => Access::ReadOnly,
        }
    }
}

impl Guard {
    pub(super) fn new(settings: &Settings) -> Guard {
        let mut names = vec!["localhost".to_owned()];
        names.extend(machine_names());
        let configured = settings.hosts.iter();
        names.extend(configured.map(|name| name.to_ascii_lowercase()));
        Guard {
            access: Access::of(settings),
            metrics_token: settings.metrics_token,
            probes: settings.probes.clone(),
            ready_needs_servers: settings.ready_needs_servers,
            names,
        }
    }

    /// Lets a request pass; over a Unix socket no browser comes, and its names mean nothing.
    ///
    /// # Errors
    /// Why it does not pass.
    pub(super) fn check(
        &self,
        request: &Request,
        listener: Option<&Address>,
    ) -> Result<(), Refusal> {
        let is_unix = matches!(listener, Some(Address::Unix(_)));
        let is_for_probes = listener.is_some() && listener == self.probes.as_ref();
        if is_for_probes && request.is_api() {
            let sentence = "this listener serves /metrics, /healthz and /readyz; /v1 is on the other one of [admin]";
            return Err(Refusal::new(StatusCode::NOT_FOUND, sentence));
        }
        let host = request.host()?;
        if !request.is_change() && matches!(request.path.as_str(), "/healthz" | "/readyz") {
            // These paths reveal nothing, and balancers ask for them by all sorts of names.
            return Ok(());
        }
        if let Some(Host::Name(name)) = host
            && !is_unix
            && !self.knows(name)
        {
            let sentence = format!(
                "`{name}` is none of the names of this listener; use an address, or add the name to `hosts` in [admin]"
            );
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, sentence));
        }
        if (request.is_api() || request.is_change()) && is_foreign_page(request) {
            let sentence =
                "a page of another site asks; this is served to its own origin and to programs";
            return Err(Refusal::new(StatusCode::FORBIDDEN, sentence));
        }
        self.check_token(request)?;
        if request.is_api() && request.is_change() {
            check_consent(request)?;
        }
        Ok(())
    }

    fn knows(&self, name: &str) -> bool {
        let mut names = self.names.iter();
        names.any(|known| known.eq_ignore_ascii_case(name))
    }

    fn check_token(&self, request: &Request) -> Result<(), Refusal> {
        match &self.access {
            Access::Local => Ok(()),
            Access::Bearer(token) => {
                let is_wanted =
                    request.is_api() || (self.metrics_token && request.path == "/metrics");
                let offered = request.headers.get(header::AUTHORIZATION);
                let offered = offered.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
                if is_wanted && !token.is(offered.unwrap_or_default().trim_ascii()) {
                    let sentence = "this takes the token: Authorization: Bearer ...";
                    return Err(Refusal::new(StatusCode::UNAUTHORIZED, sentence));
                }
                Ok(())
            }
            Access::ReadOnly if request.is_api() && request.is_change() => {
                let sentence =
                    "without `token_file` this is served on a loopback or Unix address only";
                Err(Refusal::new(StatusCode::FORBIDDEN, sentence))
            }
            Access::ReadOnly => Ok(()),
        }
    }
}

/// Whether a browser sends it for a page that is not ours.
fn is_foreign_page(request: &Request) -> bool {
    // Fetch Metadata §2.4: "none" is a person who has typed the address.
    let site = request.text("sec-fetch-site");
    if site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return true;
    }
    let Some(origin) = request.text("origin") else {
        return false;
    };
    let origin = origin.split_once("://").map(|(_, authority)| authority);
    let own = request.text("host").zip(origin);
    !own.is_some_and(|(host, origin)| host.eq_ignore_ascii_case(origin))
}

/// Whether a change bears what a page of another site cannot send without being asked about by CORS.
fn check_consent(request: &Request) -> Result<(), Refusal> {
    let kind = request.text("content-type");
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    let is_json = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    if is_json {
        return Ok(());
    }
    if request.content_length()? > 0 {
        let sentence = "a body is JSON and says so: Content-Type: application/json (curl --json)";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence));
    }
    if request.headers.contains_key(HEADER) {
        return Ok(());
    }
    let sentence = "a change without a body bears the header `X-Wsgate: 1`, which no page of another site can send";
    Err(Refusal::new(StatusCode::FORBIDDEN, sentence))
}

/// The machine's own name, and its first label. A browser on another machine that takes it for another one's reaches
/// nothing here.
fn machine_names() -> Vec<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim().to_ascii_lowercase();
    if name.is_empty() || name == "(none)" {
        return Vec::new();
    }
    let first = name.split('.').next().unwrap_or_default().to_owned();
    vec![name, first]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str, headers: &str) -> Request {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n");
        Request::parse(head.as_bytes()).unwrap()
    }

    fn status(settings: &Settings, request: &Request) -> Option<u16> {
        let checked = Guard::new(settings).check(request, None);
        checked.err().map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn who_may_change_something() {
        let change =
            |headers: &str| request("POST", "/v1/reload", &format!("{headers}X-Wsgate: 1\r\n"));
        let read = request("GET", "/v1/status", "");
        let local = Settings::default();
        assert_eq!(status(&local, &change("")), None);
        let open = Settings {
            listen: Some(Address::Tcp(([0, 0, 0, 0], 9900).into())),
            ..Settings::default()
        };
        assert_eq!(status(&open, &change("")), Some(403));
        assert_eq!(status(&open, &read), None);
        let token = Token::new(" s3cret\n");
        for listen in [
            local.listen,
            open.listen,
            Some(Address::Unix("/run/x".into())),
        ] {
            let settings = Settings {
                listen,
                token: token.clone(),
                ..Settings::default()
            };
            let good = "Authorization: Bearer s3cret\r\n";
            assert_eq!(status(&settings, &change(good)), None);
            assert_eq!(status(&settings, &request("GET", "/metrics", "")), None);
            assert_eq!(status(&settings, &read), Some(401));
            for wrong in [
                "",
                "s3cret",
                "Bearer",
                "Bearer s3cre",
                "Bearer s3cretx",
                "Basic s3cret",
            ] {
                let header = format!("Authorization: {wrong}\r\n");
                assert_eq!(status(&settings, &change(&header)), Some(401), "{wrong}");
            }
        }
        assert_eq!(Token::new(" \n"), None);
        assert_eq!(format!("{token:?}"), "Some(Token(..))");
    }

    #[test]
    fn pages() {
        for (headers, is_foreign) in [
            ("", false),
            ("Sec-Fetch-Site: none\r\n", false),
            (
                "Sec-Fetch-Site: same-origin\r\nOrigin: http://127.0.0.1\r\n",
                false,
            ),
            ("Origin: https://127.0.0.1\r\n", false),
            ("Sec-Fetch-Site: same-site\r\n", true),
            ("Sec-Fetch-Site: cross-site\r\n", true),
            ("Sec-Fetch-Site: new-word\r\n", true),
            ("Origin: http://127.0.0.1:80\r\n", true),
            ("Origin: http://evil.example\r\n", true),
            ("Origin: null\r\n", true),
            ("Origin: \u{fc}\r\n", true),
            ("Origin:\r\n", true),
        ] {
            let request = request("GET", "/v1/status", headers);
            assert_eq!(is_foreign_page(&request), is_foreign, "{headers}");
        }
    }
}
