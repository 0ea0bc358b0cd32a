//! How servers are checked.

use super::error::Error;
use super::meaning::Reader;
use super::written;
use super::written::Table;
use crate::deploy::Thresholds;
use crate::upstream::settings::{Check, HealthCheck};
use http::{HeaderName, HeaderValue, Uri};
use toml::Spanned;

impl Reader<'_> {
    pub(super) fn health(
        &self,
        written: Spanned<Table<written::Health>>,
    ) -> Result<Option<HealthCheck>, Error> {
        let span = written.span();
        let written = written.into_inner().0;
        let default = HealthCheck::default();
        let Some(kind) = written.check else {
            let help = "add check = \"tcp\", \"http\", \"websocket\" or \"off\"";
            return Err(self.source.absent(
                span,
                "a health check that does not say what it asks",
                help,
            ));
        };
        let needless = |key: &str, span, kinds: &str| {
            let message = format!("`{key}` has no effect on this check");
            let help = format!("it belongs to check = {kinds}");
            Err(self.source.error(span, message, help))
        };
        if kind == written::Check::Tcp {
            for (key, value) in [
                ("path", &written.path),
                ("host", &written.host),
                ("version_header", &written.version_header),
            ] {
                if let Some(value) = value {
                    return needless(key, value.span(), "\"http\" or \"websocket\"");
                }
            }
        }
        if matches!(kind, written::Check::Tcp | written::Check::Websocket)
            && let Some(status) = &written.status
        {
            return needless("status", status.span(), "\"http\"");
        }
        let path = match written.path {
            None => "/".to_owned(),
            Some(path) => {
                let text = path.get_ref();
                if !text.starts_with('/') || text.contains('#') || text.parse::<Uri>().is_err() {
                    let message = format!("`{}` is not a path", text.escape_debug());
                    let help = "write it as it stands in a request: \"/healthz\"";
                    return Err(self.source.error(path.span(), message, help));
                }
                path.into_inner()
            }
        };
        let host = match written.host {
            Some(host) if !host.get_ref().is_empty() => {
                let text = host.get_ref();
                let is_host = !text.contains(['/', ' '])
                    && text.is_ascii()
                    && HeaderValue::from_str(text).is_ok();
                if !is_host {
                    let message = format!("`{}` is not a host", text.escape_debug());
                    let help = "write it as it stands in a Host header: \"chat.example.com\"";
                    return Err(self.source.error(host.span(), message, help));
                }
                Some(host.into_inner())
            }
            Some(_) | None => None,
        };
        let status = self.whole(written.status, 200, 200..=599, "status") as u16;
        let version_header = match written.version_header {
            Some(name) if !name.get_ref().is_empty() => {
                if name.get_ref().parse::<HeaderName>().is_err() {
                    let message = format!("`{}` is not a header", name.get_ref().escape_debug());
                    let help = "write its name: \"X-Version\"";
                    return Err(self.source.error(name.span(), message, help));
                }
                Some(name.into_inner().to_ascii_lowercase())
            }
            Some(_) | None => None,
        };
        let thresholds = default.thresholds;
        let times = 1..=1000;
        let check = match kind {
            written::Check::Off => None,
            written::Check::Tcp => Some(Check::Tcp),
            written::Check::Http => Some(Check::Http { path, host, status }),
            written::Check::Websocket => Some(Check::WebSocket { path, host }),
        };
        let thresholds = Thresholds {
            unhealthy: self.whole(
                written.unhealthy,
                i64::from(thresholds.unhealthy),
                times.clone(),
                "unhealthy",
            ) as u32,
            healthy: self.whole(
                written.healthy,
                i64::from(thresholds.healthy),
                times,
                "healthy",
            ) as u32,
        };
        Ok(check.map(|check| HealthCheck {
            check,
            interval: written.interval.map_or(default.interval, |time| time.0),
            timeout: written.timeout.map_or(default.timeout, |time| time.0),
            thresholds,
            slow_start: written.slow_start.map_or(default.slow_start, |wait| wait.0),
            version_header,
        }))
    }
}
