//! What operators and their tools ask of a running wsgate, over HTTP on a listener of its own: `/metrics`, `/healthz`,
//! `/readyz`, and the drains under `/v1`. It never touches a connection of a client itself.
//!
//! What changes something takes a token where one is configured; where none is, it is served only on an address that no
//! other machine reaches.

mod client;
mod drains;
mod names;

pub use client::Client;
pub use drains::Drains;
pub use names::encode as encode_name;

use crate::metrics::Metrics;
use crate::proxy::settings::Address;
use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{mpsc, oneshot};

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `None`: there is none.
    pub listen: Option<Address>,
    /// What a request that changes something has to bear.
    pub token: Option<Token>,
}

/// A secret that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in the text of a file, without the white space around it; `None` where there is nothing else.
    pub fn new(text: &str) -> Option<Token> {
        let token = text.trim();
        (!token.is_empty()).then(|| Token(token.to_owned()))
    }

    /// Compares in a time that tells nothing but the length.
    fn is(&self, offered: &[u8]) -> bool {
        let own = self.0.as_bytes();
        own.len() == offered.len()
            && own
                .iter()
                .zip(offered)
                .fold(0, |differs, (a, b)| differs | (a ^ b))
                == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: Some(Address::Tcp(([127, 0, 0, 1], 9900).into())),
            token: None,
        }
    }
}

/// Somebody asks for a reload; this takes what has to be known of it, or why nothing has changed.
pub type Reload = oneshot::Sender<Result<Vec<String>, String>>;

/// The endpoints. Clones share everything.
#[derive(Clone)]
pub struct Admin {
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    drains: Drains,
    access: Arc<RwLock<Access>>,
    reload: mpsc::Sender<Reload>,
}

/// Who may change something.
enum Access {
    /// Who reaches the listener: nobody from another machine does.
    Local,
    /// Who bears this.
    Bearer(Token),
    Nobody,
}

impl Access {
    fn of(settings: &Settings) -> Self {
        match (&settings.token, &settings.listen) {
            (Some(token), _) => Access::Bearer(token.clone()),
            (None, Some(Address::Unix(_))) => Access::Local,
            (None, Some(Address::Tcp(address))) if address.ip().is_loopback() => Access::Local,
            (None, _) => Access::Nobody,
        }
    }
}

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 64 << 10;

impl Admin {
    /// Serves `metrics` and `drains`; `/readyz` answers as `ready` says; `reload` is asked for reloads.
    pub fn new(
        settings: &Settings,
        metrics: Arc<Metrics>,
        ready: Arc<AtomicBool>,
        drains: Drains,
        reload: mpsc::Sender<Reload>,
    ) -> Self {
        Admin {
            metrics,
            ready,
            drains,
            access: Arc::new(RwLock::new(Access::of(settings))),
            reload,
        }
    }

    /// Obeys these settings from now on.
    pub fn apply(&self, settings: &Settings) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Access::of(settings);
    }

    /// Has the configuration read again, and waits for what comes of it.
    async fn reload(&self) -> Response<Vec<u8>> {
        let (tell, told) = oneshot::channel();
        let result = match self.reload.send(tell).await {
            Ok(()) => told.await.ok(),
            Err(_) => None,
        };
        let (status, answer) = match result {
            Some(Ok(notes)) => (
                StatusCode::OK,
                serde_json::json!({ "reloaded": true, "notes": notes }),
            ),
            Some(Err(error)) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                serde_json::json!({ "reloaded": false, "error": error }),
            ),
            None => (
                StatusCode::SERVICE_UNAVAILABLE,
                serde_json::json!({ "reloaded": false, "error": "wsgate is ending" }),
            ),
        };
        respond(
            status,
            "application/json",
            format!("{answer}\n").into_bytes(),
        )
    }

    /// Why a request that changes something may not.
    fn refuse(&self, authorization: &[u8]) -> Option<Response<Vec<u8>>> {
        let refusal = |status, message: &str| {
            let body = serde_json::json!({ "error": message }).to_string();
            respond(status, "application/json", body.into_bytes())
        };
        match &*self.access.read().unwrap_or_else(PoisonError::into_inner) {
            Access::Local => None,
            Access::Bearer(token) => {
                let offered = authorization.strip_prefix(b"Bearer ").unwrap_or_default();
                (!token.is(offered.trim_ascii())).then(|| {
                    let mut response = refusal(
                        StatusCode::UNAUTHORIZED,
                        "this takes the token: Authorization: Bearer ...",
                    );
                    let bearer = header::HeaderValue::from_static("Bearer");
                    response
                        .headers_mut()
                        .insert(header::WWW_AUTHENTICATE, bearer);
                    response
                })
            }
            Access::Nobody => {
                let message =
                    "without `token_file` this is served on a loopback or Unix address only";
                Some(refusal(StatusCode::FORBIDDEN, message))
            }
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Vec<u8>> {
        let text = |status, body: &str| {
            respond(
                status,
                "text/plain; charset=utf-8",
                format!("{body}\n").into_bytes(),
            )
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET and HEAD are served here",
            );
            response
                .headers_mut()
                .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => {
                self.metrics.servers(&self.drains.figures());
                respond(
                    StatusCode::OK,
                    prometheus::TEXT_FORMAT,
                    self.metrics.render(),
                )
            }
            "/healthz" => text(StatusCode::OK, "ok"),
            "/readyz" if self.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ready"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready"),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /metrics, /healthz, /readyz, /v1/status, /v1/reload and /v1/upstreams/NAME/drain, deploy and resume",
            ),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let (method, path) = (request.method.clone(), request.uri.path().to_owned());
        if path.starts_with("/v1/") {
            let authorization = request
                .headers
                .get(header::AUTHORIZATION)
                .map(|value| value.as_bytes().to_vec());
            let changes = method != Method::GET && method != Method::HEAD;
            if let Some(refusal) = changes
                .then(|| self.refuse(&authorization.unwrap_or_default()))
                .flatten()
            {
                return refusal;
            }
            let Some(body) = read_body(session).await else {
                let message = format!(
                    "{{\"error\":\"the body cannot be read, or has more than {MAX_BODY} bytes\"}}"
                );
                return respond(
                    StatusCode::BAD_REQUEST,
                    "application/json",
                    message.into_bytes(),
                );
            };
            if (method.as_str(), path.as_str()) == ("POST", "/v1/reload") {
                return self.reload().await;
            }
            if let Some((status, answer)) = self.drains.answer(&method, &path, &body) {
                return respond(
                    status,
                    "application/json",
                    format!("{answer}\n").into_bytes(),
                );
            }
        }
        let mut response = self.answer(&method, &path);
        if method == Method::HEAD {
            response.body_mut().clear();
        }
        response
    }
}

async fn read_body(session: &mut ServerSession) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = session.read_request_body().await.ok()? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY {
            return None;
        }
    }
    Some(body)
}

fn respond(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(header::CONTENT_LENGTH, length.into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::{self, Control};

    fn admin(settings: &Settings, ready: Arc<AtomicBool>) -> Admin {
        let drains = Drains::new(
            Control::new(deploy::Settings::default(), Arc::default()),
            Arc::default(),
        );
        let (reload, _) = mpsc::channel(1);
        Admin::new(settings, Arc::new(Metrics::new()), ready, drains, reload)
    }

    #[test]
    fn who_may_change_something() {
        let status = |settings: &Settings, authorization: &[u8]| {
            let admin = admin(settings, Arc::default());
            admin
                .refuse(authorization)
                .map(|response| response.status().as_u16())
        };
        let local = Settings::default();
        assert_eq!(status(&local, b""), None);
        let open = Settings {
            listen: Some(Address::Tcp(([0, 0, 0, 0], 9900).into())),
            token: None,
        };
        assert_eq!(status(&open, b""), Some(403));
        let token = Token::new(" s3cret\n");
        for listen in [
            local.listen,
            open.listen,
            Some(Address::Unix("/run/x".into())),
        ] {
            let settings = Settings {
                listen,
                token: token.clone(),
            };
            assert_eq!(status(&settings, b"Bearer s3cret"), None);
            for wrong in [
                &b""[..],
                b"s3cret",
                b"Bearer",
                b"Bearer s3cre",
                b"Bearer s3cretx",
                b"Basic s3cret",
            ] {
                assert_eq!(
                    status(&settings, wrong),
                    Some(401),
                    "{}",
                    wrong.escape_ascii()
                );
            }
        }
        assert_eq!(Token::new(" \n"), None);
        assert_eq!(format!("{token:?}"), "Some(Token(..))");
    }

    #[test]
    fn every_endpoint_answers() {
        let ready = Arc::new(AtomicBool::new(false));
        let admin = admin(&Settings::default(), ready.clone());
        let status = |method: Method, path| admin.answer(&method, path).status().as_u16();
        assert_eq!(status(Method::GET, "/healthz"), 200);
        assert_eq!(status(Method::GET, "/readyz"), 503);
        ready.store(true, Ordering::Relaxed);
        assert_eq!(status(Method::GET, "/readyz"), 200);
        assert_eq!(status(Method::GET, "/"), 404);
        assert_eq!(status(Method::POST, "/metrics"), 405);
        let metrics = admin.answer(&Method::GET, "/metrics");
        assert_eq!(
            metrics.headers()[header::CONTENT_TYPE],
            "text/plain; version=0.0.4"
        );
        assert!(String::from_utf8_lossy(metrics.body()).contains("wsgate_build_info"));
    }
}
