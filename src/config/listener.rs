//! The listeners: where they listen, and that no two of them want the same address.

use super::error::Error;
use super::meaning::Reader;
use super::written;
use super::written::Table;
use crate::edge::settings::{Client, Http2, Listener};
use crate::transport::address::Address;
use crate::transport::written_address;
use toml::Spanned;

/// A listener, and the line of its address.
type Placed = (Listener, String);

impl Reader<'_> {
    /// `admin` are the addresses of the admin listeners, and `admin_line` is the line of the first; `None`: the default.
    pub(super) fn listeners(
        &self,
        written: Vec<Spanned<Table<written::Listener>>>,
        client: &Client,
        admin: &[Address],
        admin_line: Option<String>,
    ) -> Vec<Listener> {
        if written.is_empty() {
            self.report(self.absent("no listener", "[[listener]]"));
        }
        let admin_line = admin_line.unwrap_or_else(|| "the default".to_owned());
        let mut listeners: Vec<Placed> = Vec::new();
        for entry in written {
            let read = self.listener(entry, client, (admin, &admin_line), &listeners);
            listeners.extend(self.checked(read));
        }
        listeners
            .into_iter()
            .map(|(listener, _)| listener)
            .collect()
    }

    fn listener(
        &self,
        entry: Spanned<Table<written::Listener>>,
        client: &Client,
        (admin, admin_line): (&[Address], &str),
        others: &[Placed],
    ) -> Result<Placed, Error> {
        let span = entry.span();
        let mut entry = entry.into_inner().0;
        let Some(listen) = entry.listen.take() else {
            let help = "add listen = \"0.0.0.0:8080\"";
            return Err(self
                .source
                .absent(span, "a listener without an address", help));
        };
        let address = self.address(&listen, written_address::listener)?;
        let refuse = |message, help| Err(self.source.error(listen.span(), message, help));
        let mut taken = admin.iter();
        if let Some(admin) = taken.find(|admin| written_address::collide(admin, &address)) {
            return refuse(
                format!("`{address}` takes the address of the admin listener, `{admin}`"),
                format!("that one is in [admin] ({admin_line}); give one of them another port"),
            );
        }
        let mut others = others.iter();
        if let Some((other, line)) =
            others.find(|(other, _)| written_address::collide(&other.address, &address))
        {
            let message = if other.address == address {
                format!("two listeners on `{address}`")
            } else {
                format!(
                    "`{address}` and `{}` cannot both be listened on",
                    other.address
                )
            };
            return refuse(
                message,
                format!("the first is in {line}; give one of them another port"),
            );
        }
        let line = self.source.line(listen.span().start);
        let proxy_protocol = self.proxy_protocol(entry.proxy_protocol.take(), &address, client);
        let proxy_protocol = self.or_default(proxy_protocol);
        let http2 = self.checked(self.http2(&entry)).unwrap_or(Http2::DEFAULT);
        let listener = Listener {
            address,
            http2,
            tls: match self.accept(entry) {
                Err(error) if self.is_offline && error.is_local => None,
                tls => tls?,
            },
            proxy_protocol,
        };
        Ok((listener, line))
    }

    /// HTTP/2 without TLS, and WebSockets over HTTP/2.
    fn http2(&self, entry: &written::Listener) -> Result<Http2, Error> {
        let has_tls = !entry.certificates.is_empty();
        let is_set = |key: &Option<Spanned<bool>>, default| {
            key.as_ref().map_or(default, |value| *value.get_ref())
        };
        let in_clear_text = is_set(&entry.http2_clear_text, false);
        if let Some(useless) = entry
            .http2_clear_text
            .as_ref()
            .filter(|_| in_clear_text && has_tls)
        {
            let message = "`http2_clear_text` has no effect on a listener with TLS";
            let help = "remove it; `http2` offers HTTP/2 by ALPN";
            return Err(self.source.error(useless.span(), message, help));
        }
        Ok(Http2 {
            in_clear_text,
            websockets: is_set(&entry.websocket_http2, true),
        })
    }
}
