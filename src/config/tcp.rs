//! When the system gives up connections, of clients or to servers: `tcp_keepalive` and `tcp_user_timeout`.

use super::error::Error;
use super::meaning::Reader;
use super::units::Wait;
use crate::transport::address::Tcp;
use std::time::Duration;
use toml::Spanned;

type Written = Option<Spanned<Wait>>;

impl Reader<'_> {
    pub(super) fn tcp(&self, keepalive: Written, user_timeout: Written) -> Result<Tcp, Error> {
        let default = Tcp::default();
        Ok(Tcp {
            keepalive: self.silence(keepalive, default.keepalive, "tcp_keepalive")?,
            user_timeout: self.silence(user_timeout, default.user_timeout, "tcp_user_timeout")?,
        })
    }

    fn silence(&self, written: Written, default: Duration, key: &str) -> Result<Duration, Error> {
        let Some(written) = written else {
            return Ok(default);
        };
        let time = written.get_ref().0;
        // The system counts the former in whole seconds, up to 32,767.
        let range = Duration::from_secs(1)..=Duration::from_secs(9 * 3600);
        if time.is_zero() || range.contains(&time) {
            return Ok(time);
        }
        let what = if time < *range.start() {
            "short"
        } else {
            "long"
        };
        let message = format!("`{key}` is too {what}");
        let help = "it is \"1s\" to \"9h\", or \"0s\" for none";
        Err(self.source.error(written.span(), message, help))
    }
}
