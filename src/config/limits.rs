//! How much the connections of a route may send, and take of ours.

use super::meaning::Reader;
use super::units::Size;
use super::written;
use super::written::RateAction;
use crate::session::{Beyond, Limits, Rates};
use toml::Spanned;

impl Reader<'_> {
    pub(super) fn limits(&self, written: &written::Route) -> Limits {
        let default = Limits::default();
        let number = |written: &Option<Spanned<i64>>, key| {
            let most = i64::from(u32::MAX);
            self.whole(written.clone(), 0, 0..=most, key) as u64
        };
        let size = |written: &Option<Spanned<Size>>| {
            let size = written.as_ref().map(|size| size.get_ref().0);
            size.unwrap_or_default()
        };
        Limits {
            rates: [
                Rates {
                    messages: number(&written.client_message_rate, "client_message_rate"),
                    bytes: size(&written.client_byte_rate),
                    control: number(&written.client_control_rate, "client_control_rate"),
                    inflated: size(&written.client_inflated_rate),
                },
                Rates {
                    messages: number(&written.upstream_message_rate, "upstream_message_rate"),
                    bytes: size(&written.upstream_byte_rate),
                    control: number(&written.upstream_control_rate, "upstream_control_rate"),
                    inflated: size(&written.upstream_inflated_rate),
                },
            ],
            burst: written.rate_burst.map_or(default.burst, |time| time.0),
            beyond: match written.rate_action {
                None => default.beyond,
                Some(RateAction::Close) => Beyond::Close,
                Some(RateAction::Delay) => Beyond::Delay,
            },
            write_timeout: written
                .write_timeout
                .map_or(default.write_timeout, |wait| wait.0),
        }
    }
}
