//! `[client]`: how requests are read on every listener, and the limits of clients.

use super::error::Error;
use super::meaning::Reader;
use super::written;
use crate::edge::settings::{Client, ForwardedHeader};
use crate::limit::clients::AddressLimits;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Spanned;

/// Pingora itself refuses heads of 1,048,576 bytes and more.
const LARGEST_HEAD: u64 = 1_000_000;

/// More than any machine has, so that sums stay far from their end.
const LARGEST_MEMORY: u64 = 1 << 50;

/// The range of the windows of HTTP/2, in bytes. A smaller one makes large messages slow; a larger one is memory that a client may
/// fill at any time.
const HTTP2_WINDOW: RangeInclusive<u64> = 16 << 10..=16 << 20;

impl Reader<'_> {
    pub(super) fn client(&self, written: written::Client) -> Result<Client, Error> {
        let default = Client::default();
        let keepalive_timeout = match written.keepalive_timeout {
            None => default.keepalive_timeout,
            // Pingora counts it in whole seconds, and takes 0 for "at once".
            Some(time) if time.get_ref().0 < Duration::from_secs(1) => {
                let help = "the shortest is \"1s\"";
                return Err(self.source.error(
                    time.span(),
                    "`keepalive_timeout` is too short",
                    help,
                ));
            }
            Some(time) => time.into_inner().0,
        };
        let max_header_size = written.max_header_size;
        let limits = 1 << 10..=LARGEST_HEAD;
        let forwarded_header = match &written.forwarded_header {
            None => default.forwarded_header,
            Some(header) => match header.get_ref().to_ascii_lowercase().as_str() {
                "x-forwarded-for" => ForwardedHeader::XForwardedFor,
                "forwarded" => ForwardedHeader::Forwarded,
                _ => {
                    let message = format!(
                        "`{}` is not read for the client's address",
                        header.get_ref().escape_debug()
                    );
                    let help = "there are: \"X-Forwarded-For\", \"Forwarded\"";
                    return Err(self.source.error(header.span(), message, help));
                }
            },
        };
        let is_unix = |entry: &Spanned<String>| entry.get_ref() == "unix";
        let trust_unix = written.trusted_proxies.iter().any(is_unix);
        let mut networks = written.trusted_proxies;
        networks.retain(|entry| !is_unix(entry));
        let most = i64::from(u32::MAX);
        if let (Some(of_one), Some(of_all)) =
            (&written.address_max_connections, &written.max_connections)
            && *of_all.get_ref() > 0
            && of_one.get_ref() > of_all.get_ref()
        {
            let text = "`address_max_connections` is larger than `max_connections`, so no address may have as many";
            let help = "lower it, or leave it out: 0 is no limit";
            self.report(self.source.error(of_one.span(), text, help));
        }
        let per_address = default.per_address;
        let per_address = AddressLimits {
            max_connections: self.whole(
                written.address_max_connections,
                0,
                0..=most,
                "address_max_connections",
            ) as usize,
            rate: self.whole(written.address_rate, 0, 0..=most, "address_rate") as u32,
            ipv6_prefix: self.whole(
                written.address_ipv6_prefix,
                i64::from(per_address.ipv6_prefix),
                1..=128,
                "address_ipv6_prefix",
            ) as u8,
        };
        Ok(Client {
            header_timeout: written
                .header_timeout
                .map_or(default.header_timeout, |time| time.0),
            keepalive_timeout,
            body_timeout: written
                .body_timeout
                .map_or(default.body_timeout, |wait| wait.0),
            min_rate: written.min_rate.map_or(default.min_rate, |size| size.0),
            http2_max_streams: self.whole(
                written.http2_max_streams,
                i64::from(default.http2_max_streams),
                1..=1000,
                "http2_max_streams",
            ) as u32,
            http2_stream_window: self.size(
                written.http2_stream_window,
                u64::from(default.http2_stream_window),
                HTTP2_WINDOW,
                "http2_stream_window",
            ) as u32,
            http2_connection_window: self.size(
                written.http2_connection_window,
                u64::from(default.http2_connection_window),
                HTTP2_WINDOW,
                "http2_connection_window",
            ) as u32,
            max_header_size: self.size(
                max_header_size,
                default.max_header_size as u64,
                limits,
                "max_header_size",
            ) as usize,
            trusted_proxies: self.networks(&networks),
            trust_unix,
            forwarded_header,
            max_connections: self.whole(written.max_connections, 0, 0..=most, "max_connections")
                as usize,
            buffer_memory: self.size(
                written.buffer_memory,
                0,
                0..=LARGEST_MEMORY,
                "buffer_memory",
            ) as usize,
            per_address,
            tcp: self.tcp(written.tcp_keepalive, written.tcp_user_timeout)?,
            request_id: match written.request_id {
                None => default.request_id,
                Some(name) if name.get_ref().is_empty() => None,
                Some(name) => self.header_name(name.get_ref(), &name)?.parse().ok(),
            },
            log: default.log,
        })
    }
}
