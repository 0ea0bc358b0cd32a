//! What operators and their tools ask of a running wsgate, over HTTP on a listener of its own: `/metrics`, `/healthz` and
//! `/readyz`. It never touches a connection of a client.

use crate::metrics::Metrics;
use crate::proxy::settings::Address;
use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `None`: there is none.
    pub listen: Option<Address>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: Some(Address::Tcp(([127, 0, 0, 1], 9900).into())),
        }
    }
}

/// The endpoints.
pub struct Admin {
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
}

impl Admin {
    /// Serves `metrics`; `/readyz` answers as `ready` says.
    pub fn new(metrics: Arc<Metrics>, ready: Arc<AtomicBool>) -> Self {
        Admin { metrics, ready }
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
            "/metrics" => respond(
                StatusCode::OK,
                prometheus::TEXT_FORMAT,
                self.metrics.render(),
            ),
            "/healthz" => text(StatusCode::OK, "ok"),
            "/readyz" if self.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ready"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready"),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /metrics, /healthz and /readyz",
            ),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let mut response = self.answer(&request.method, request.uri.path());
        if request.method == Method::HEAD {
            response.body_mut().clear();
        }
        response
    }
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

    #[test]
    fn every_endpoint_answers() {
        let ready = Arc::new(AtomicBool::new(false));
        let admin = Admin::new(Arc::new(Metrics::new()), ready.clone());
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
