//! From the file as written to its meaning: the rules between keys are here, those of the routes in `route.rs`.
//!
//! It fetches nothing (no name is resolved, no port tried), and takes each default from the room that obeys it. What it
//! returns is never checked again.

use super::Config;
use super::address;
use super::error::{Error, Source};
use super::units::Size;
use super::written;
use super::written::{File, Table};
use crate::deploy::RestartThreshold;
use crate::drain::{Order, Pace, Terms};
use crate::edge::settings::{Client, ForwardedHeader, Listener, Settings};
use crate::limit::clients::AddressLimits;
use crate::service::Owner;
use crate::transport::address::Address;
use crate::upstream::state_file::StateFile;
use crate::{deploy, log};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

const EXAMPLE: &str = r#"the least there is:

[[listener]]
listen = "0.0.0.0:8080"

[upstream.chat]
servers = ["10.0.0.5:9000"]

[[route]]
name = "chat"
upstream = "chat""#;

/// Pingora itself refuses heads of 1,048,576 bytes and more.
const LARGEST_HEAD: u64 = 1_000_000;

/// More than any machine has, so that sums stay far from their end.
const LARGEST_MEMORY: u64 = 1 << 50;

/// The configuration that a file means.
pub(super) fn of(file: File, source: Source<'_>, before: Option<&Config>) -> Result<Config, Error> {
    let mut warnings = Vec::new();
    let reader = Reader { source, before };
    let threads = reader.whole(file.threads, 0, 0..=1024, "threads")?;
    let owner = reader.owner(file.user, file.group)?;
    let upgrade_socket = reader.upgrade_socket(file.upgrade_socket)?;
    let state_file = reader.state_file(file.state_file)?;
    let log = log_settings(&file.log.0);
    let admin_line = file
        .admin
        .0
        .listen
        .as_ref()
        .map(|listen| source.line(listen.span().start));
    let admin = reader.admin(file.admin.0, &mut warnings)?;
    let drain = reader.drain(file.drain.0)?;
    let client = reader.client(file.client.0)?;
    let listeners = reader.listeners(file.listener, &client, &admin.addresses(), admin_line)?;
    let mut upstreams = Vec::new();
    let mut places = Vec::new();
    for (name, upstream) in file.upstream {
        places.push(upstream.span());
        upstreams.push(reader.upstream(&name, upstream)?);
    }
    if upstreams.is_empty() {
        return Err(reader.absent("no upstream", "[upstream.NAME]"));
    }
    let routes = reader.routes(file.route, &upstreams, &listeners)?;
    for (index, upstream) in upstreams.iter().enumerate() {
        if upstream
            .tls
            .as_ref()
            .is_some_and(|tls| tls.authorities.is_none())
        {
            let line = source.line(places[index].start);
            warnings.push(format!(
                "{}:{line}: the servers of upstream `{}` are not verified: anybody could be in their place",
                source.name, upstream.name
            ));
        }
        if !routes.iter().any(|route| route.upstream == index) {
            let line = source.line(places[index].start);
            warnings.push(format!(
                "{}:{line}: no route uses upstream `{}`",
                source.name, upstream.name
            ));
        }
    }
    let proxy = Settings {
        listeners,
        client,
        upstreams,
        routes,
    };
    Ok(Config {
        proxy,
        admin,
        drain,
        log,
        threads: threads as usize,
        owner,
        upgrade_socket,
        state_file,
        warnings,
    })
}

fn log_settings(written: &written::Log) -> log::Settings {
    let default = log::Settings::default();
    let format = match written.format {
        None => default.format,
        Some(written::Format::Text) => log::Format::Text,
        Some(written::Format::Json) => log::Format::Json,
    };
    let level = match written.level {
        None => default.level,
        Some(written::Level::Error) => tracing::Level::ERROR,
        Some(written::Level::Warn) => tracing::Level::WARN,
        Some(written::Level::Info) => tracing::Level::INFO,
        Some(written::Level::Debug) => tracing::Level::DEBUG,
        Some(written::Level::Trace) => tracing::Level::TRACE,
    };
    log::Settings { format, level }
}

/// Metrics and the orders of an operator are nobody else's business.
pub(super) fn admin_warning(address: &Address) -> Option<String> {
    (!address::is_private(address))
        .then(|| format!("the admin listener {address} can be reached from other machines"))
}

/// Builds the settings of a room, and knows where everything was written.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub source: Source<'a>,
    /// The configuration in force that this one is to replace; `None` at the start.
    pub before: Option<&'a Config>,
}

impl Reader<'_> {
    fn owner(
        &self,
        user: Option<Spanned<String>>,
        group: Option<Spanned<String>>,
    ) -> Result<Option<Owner>, Error> {
        let group = group.filter(|group| !group.get_ref().is_empty());
        let Some(user) = user.filter(|user| !user.get_ref().is_empty()) else {
            if let Some(group) = group {
                let help = "name a `user` as well, or leave it out";
                return Err(self
                    .source
                    .error(group.span(), "`group` without a user", help));
            }
            return Ok(None);
        };
        let name = group.as_ref().map(|group| group.get_ref().as_str());
        Owner::find(user.get_ref(), name)
            .map(Some)
            .map_err(|wrong| {
                let is_users = wrong.contains("user");
                let place = group.as_ref().filter(|_| !is_users).unwrap_or(&user);
                let help = "it has to be one of this machine's: see /etc/passwd and /etc/group";
                self.source.error(place.span(), wrong, help)
            })
    }

    fn upgrade_socket(&self, written: Option<Spanned<String>>) -> Result<Option<PathBuf>, Error> {
        let Some(path) = written.filter(|path| !path.get_ref().is_empty()) else {
            return Ok(None);
        };
        match address::unix(path.get_ref()) {
            Ok(Address::Unix(socket)) => Ok(Some(socket)),
            Ok(_) => Ok(None),
            Err(what) => {
                let help = "it is where a Unix socket may be made: \"/run/wsgate/upgrade\"";
                let message = format!("`{}` {what}", path.get_ref().escape_debug());
                Err(self.source.error(path.span(), message, help))
            }
        }
    }

    fn state_file(&self, written: Option<Spanned<String>>) -> Result<StateFile, Error> {
        let Some(path) = written else {
            return Ok(StateFile::default());
        };
        match path.get_ref().as_str() {
            "unit" => return Ok(StateFile::Unit),
            "off" => return Ok(StateFile::Off),
            _ => {}
        }
        let file = PathBuf::from(path.get_ref());
        if file.is_absolute() && file.file_name().is_some() {
            return Ok(StateFile::At(file));
        }
        let message = format!(
            "`{}` is not the path of a file",
            path.get_ref().escape_debug()
        );
        let help =
            "write it from the root on, \"/var/lib/wsgate/state.json\", or \"unit\" or \"off\"";
        Err(self.source.error(path.span(), message, help))
    }

    fn drain(&self, written: written::Drain) -> Result<deploy::Settings, Error> {
        let default = deploy::Settings::default();
        let terms = default.terms;
        let max_closing = self.whole(
            written.max_closing,
            terms.max_closing as i64,
            1..=i64::from(u32::MAX),
            "max_closing",
        )?;
        let terms = Terms {
            pace: match written.pace {
                None => terms.pace,
                Some(super::units::Pace::Adaptive) => Pace::Adaptive,
                Some(super::units::Pace::Rate(rate)) => Pace::Rate(f64::from(rate)),
            },
            deadline: written.deadline.map_or(terms.deadline, |time| time.0),
            max_closing: max_closing as usize,
            order: match written.order {
                None => terms.order,
                Some(written::Order::Oldest) => Order::OldestFirst,
                Some(written::Order::Random) => Order::Random,
            },
        };
        let restart = default.restart;
        let closes = self.whole(
            written.upstream_closes,
            restart.closes as i64,
            0..=1_000_000,
            "upstream_closes",
        )?;
        let restart = RestartThreshold {
            closes: closes as usize,
            share: written
                .upstream_share
                .map_or(restart.share, |share| share.0),
            within: written
                .upstream_window
                .map_or(restart.within, |time| time.0),
            idle: written.upstream_idle.map_or(restart.idle, |time| time.0),
        };
        Ok(deploy::Settings {
            terms,
            restart,
            shutdown_deadline: written
                .shutdown_deadline
                .map_or(default.shutdown_deadline, |time| time.0),
            lame_duck: written.lame_duck.map_or(default.lame_duck, |wait| wait.0),
            remind_after: written
                .remind_after
                .map_or(default.remind_after, |wait| wait.0),
        })
    }

    fn client(&self, written: written::Client) -> Result<Client, Error> {
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
        let per_address = default.per_address;
        let per_address = AddressLimits {
            max_connections: self.whole(
                written.address_max_connections,
                0,
                0..=most,
                "address_max_connections",
            )? as usize,
            rate: self.whole(written.address_rate, 0, 0..=most, "address_rate")? as u32,
            ipv6_prefix: self.whole(
                written.address_ipv6_prefix,
                i64::from(per_address.ipv6_prefix),
                1..=128,
                "address_ipv6_prefix",
            )? as u8,
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
            )? as u32,
            max_header_size: self.size(
                max_header_size,
                default.max_header_size as u64,
                limits,
                "max_header_size",
            )? as usize,
            trusted_proxies: self.networks(&networks)?,
            trust_unix,
            forwarded_header,
            max_connections: self.whole(written.max_connections, 0, 0..=most, "max_connections")?
                as usize,
            buffer_memory: self.size(
                written.buffer_memory,
                0,
                0..=LARGEST_MEMORY,
                "buffer_memory",
            )? as usize,
            per_address,
            tcp: self.tcp(written.tcp_keepalive, written.tcp_user_timeout)?,
        })
    }

    /// `admin` are the addresses of the admin listeners, and the line that says so where the first is not the default.
    fn listeners(
        &self,
        written: Vec<Spanned<Table<written::Listener>>>,
        client: &Client,
        admin: &[Address],
        admin_line: Option<usize>,
    ) -> Result<Vec<Listener>, Error> {
        let mut listeners: Vec<Listener> = Vec::new();
        let mut lines = Vec::new();
        for entry in written {
            let span = entry.span();
            let mut entry = entry.into_inner().0;
            let Some(listen) = entry.listen.take() else {
                let help = "add listen = \"0.0.0.0:8080\"";
                return Err(self
                    .source
                    .error(span, "a listener without an address", help));
            };
            let address = self.address(&listen, address::listener)?;
            let refuse = |message, help| Err(self.source.error(listen.span(), message, help));
            let mut taken = admin.iter();
            if let Some(admin) = taken.find(|admin| address::collide(admin, &address)) {
                let whence = admin_line
                    .map_or_else(|| "the default".to_owned(), |line| format!("line {line}"));
                return refuse(
                    format!("`{address}` takes the address of the admin listener, `{admin}`"),
                    format!("that one is in [admin] ({whence}); give one of them another port"),
                );
            }
            let first = listeners
                .iter()
                .position(|other| address::collide(&other.address, &address));
            if let Some(first) = first {
                let (other, line) = (&listeners[first].address, lines[first]);
                let message = if *other == address {
                    format!("two listeners on `{address}`")
                } else {
                    format!("`{address}` and `{other}` cannot both be listened on")
                };
                return refuse(
                    message,
                    format!("the first is in line {line}; give one of them another port"),
                );
            }
            lines.push(self.source.line(listen.span().start));
            let proxy_protocol =
                self.proxy_protocol(entry.proxy_protocol.take(), &address, client)?;
            let tls = self.accept(entry)?;
            listeners.push(Listener {
                address,
                tls,
                proxy_protocol,
            });
        }
        if listeners.is_empty() {
            return Err(self.absent("no listener", "[[listener]]"));
        }
        Ok(listeners)
    }

    pub(super) fn address(
        &self,
        written: &Spanned<String>,
        parse: fn(&str) -> Result<Address, address::Wrong>,
    ) -> Result<Address, Error> {
        parse(written.get_ref())
            .map_err(|(message, help)| self.source.error(written.span(), message, help))
    }

    pub(super) fn whole(
        &self,
        written: Option<Spanned<i64>>,
        default: i64,
        range: RangeInclusive<i64>,
        key: &str,
    ) -> Result<i64, Error> {
        let Some(number) = written else {
            return Ok(default);
        };
        if range.contains(number.get_ref()) {
            return Ok(number.into_inner());
        }
        let message = format!("`{key}` cannot be {}", number.get_ref());
        let help = format!("it is {} to {}", range.start(), range.end());
        Err(self.source.error(number.span(), message, help))
    }

    pub(super) fn size(
        &self,
        written: Option<Spanned<Size>>,
        default: u64,
        range: RangeInclusive<u64>,
        key: &str,
    ) -> Result<u64, Error> {
        let Some(size) = written else {
            return Ok(default);
        };
        if range.contains(&size.get_ref().0) {
            return Ok(size.into_inner().0);
        }
        let (low, high) = (range.start(), range.end());
        let (message, help) = if size.get_ref().0 < *low {
            (
                format!("`{key}` is too small"),
                format!("the least is {}", Size(*low)),
            )
        } else {
            (
                format!("`{key}` is too large"),
                format!("the most is {}", Size(*high)),
            )
        };
        Err(self.source.error(size.span(), message, help))
    }

    /// One of the `named` codes, or one of the application's own.
    pub(super) fn code(
        &self,
        written: Option<Spanned<i64>>,
        default: u16,
        named: &[u16],
        key: &str,
    ) -> Result<u16, Error> {
        let Some(code) = written else {
            return Ok(default);
        };
        match u16::try_from(*code.get_ref()) {
            Ok(number) if named.contains(&number) || (4000..=4999).contains(&number) => Ok(number),
            _ => {
                let named: Vec<String> = named.iter().map(ToString::to_string).collect();
                let help = format!("it is {} or one of 4000 to 4999", named.join(", "));
                Err(self.source.error(
                    code.span(),
                    format!("`{key}` cannot be {}", code.get_ref()),
                    help,
                ))
            }
        }
    }

    /// Something that has to be there is not; there is no better place than the beginning.
    pub(super) fn absent(&self, message: &str, table: &str) -> Error {
        self.source
            .error(0..0, message, format!("add {table}; {EXAMPLE}"))
    }
}
