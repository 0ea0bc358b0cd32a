//! From the file as written to its meaning: the rules between keys are here, those of the routes in `route.rs`.
//!
//! It fetches nothing (no name is resolved, no port tried), and takes each default from the room that obeys it. What it
//! returns is never checked again.

use super::error::{Error, Errors};
use super::source::Source;
use super::units::Size;
use super::written;
use super::written::File;
use super::{Config, Reading};
use crate::deploy::RestartThreshold;
use crate::drain::{Order, Pace, Terms};
use crate::edge::settings::Settings;
use crate::log::{Fields, RequestLog};
use crate::service::Owner;
use crate::transport::address::Address;
use crate::transport::written_address;
use crate::upstream::settings::Upstream;
use crate::upstream::state_file::StateFile;
use crate::{deploy, log};
use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use toml::Spanned;

const EXAMPLE: &str = r#"the least there is:

[[listener]]
listen = "0.0.0.0:8080"

[upstream.chat]
servers = ["10.0.0.5:9000"]

[[route]]
name = "chat"
upstream = "chat""#;

/// The configuration that the files mean. `form` are the mistakes that were found in their form.
pub(super) fn of(
    file: File,
    source: &Source,
    form: Vec<Error>,
    reading: Reading<'_>,
) -> Result<Config, Errors> {
    let reader = Reader {
        source,
        before: reading.before,
        is_offline: reading.is_offline,
        errors: RefCell::new(Vec::new()),
    };
    let config = reader.config(file);
    // A key that was left out for its form would be missed.
    let mut meaning = reader.errors.into_inner();
    meaning.retain(|error| form.is_empty() || !error.is_absence);
    meaning.retain(|error| !(reading.is_offline && error.is_local));
    match Errors::of(form.into_iter().chain(meaning).collect()) {
        Some(errors) => Err(errors),
        None => Ok(config),
    }
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

fn request_log(written: &written::Log) -> RequestLog {
    let default = RequestLog::default();
    let fields = written.fields.as_deref().map(|fields| {
        let fields = fields.iter().copied();
        fields.fold(Fields::default(), Fields::with)
    });
    RequestLog {
        fields: fields.unwrap_or(default.fields),
        plain_requests: written
            .plain_requests
            .map_or(default.plain_requests, |share| share.0),
    }
}

/// Metrics and the orders of an operator are nobody else's business.
pub(super) fn admin_warning(address: &Address) -> Option<String> {
    (!written_address::is_private(address))
        .then(|| format!("the admin listener {address} can be reached from other machines"))
}

/// Builds the settings of a room, and knows where everything was written. It collects the mistakes, so that all of them are
/// reported at once; settings that exist beside a mistake are never applied.
pub(super) struct Reader<'a> {
    pub source: &'a Source,
    /// The configuration in force that this one is to replace; `None` at the start.
    pub before: Option<&'a Config>,
    /// Mistakes about this machine do not count.
    pub is_offline: bool,
    errors: RefCell<Vec<Error>>,
}

impl Reader<'_> {
    fn config(&self, file: File) -> Config {
        let (source, mut warnings) = (self.source, Vec::new());
        let threads = self.whole(file.threads, 0, 0..=1024, "threads");
        let admin_line = file
            .admin
            .0
            .listen
            .as_ref()
            .map(|listen| source.line(listen.span().start));
        let admin = self.or_default(self.admin(file.admin.0, &mut warnings));
        let mut client = self.or_default(self.client(file.client.0));
        client.log = request_log(&file.log.0);
        let listeners = self.listeners(file.listener, &client, &admin.addresses(), admin_line);
        // In the order of the file.
        let mut written: Vec<_> = file.upstream.into_iter().collect();
        written.sort_by_key(|(_, upstream)| upstream.span().start);
        if written.is_empty() {
            self.report(self.absent("no upstream", "[upstream.NAME]"));
        }
        let names: Vec<_> = written
            .iter()
            .map(|(name, upstream)| (name.clone(), upstream.span().start))
            .collect();
        let upstreams: Vec<Upstream> = written
            .into_iter()
            .map(|(name, upstream)| {
                let read = self.upstream(&name, upstream);
                self.checked(read)
                    .unwrap_or_else(|| Upstream::new(&name, Vec::new()))
            })
            .collect();
        let addresses = listeners.iter().map(|listener| &listener.address);
        self.hand_over_ports(file.upgrade_socket.as_ref(), addresses, &admin.addresses());
        let routes = self.routes(file.route, &upstreams, &listeners);
        for (index, (name, at)) in names.iter().enumerate() {
            let place = source.file_and_line(*at);
            let tls = upstreams[index].tls.as_ref();
            if tls.is_some_and(|tls| tls.authorities.is_none()) {
                warnings.push(format!(
                    "{place}: the servers of upstream `{name}` are not verified: anybody could be in their place"
                ));
            }
            if !routes.iter().any(|route| route.upstream == index) {
                warnings.push(format!("{place}: no route uses upstream `{name}`"));
            }
        }
        Config {
            admin,
            drain: self.drain(file.drain.0),
            log: log_settings(&file.log.0),
            threads: threads as usize,
            owner: self.or_default(self.owner(file.user, file.group)),
            upgrade_socket: self.or_default(self.upgrade_socket(file.upgrade_socket)),
            state_file: self.or_default(self.state_file(file.state_file)),
            proxy: Settings {
                listeners,
                client,
                upstreams,
                routes,
            },
            warnings,
        }
    }

    /// Notes a mistake.
    pub(super) fn report(&self, error: Error) {
        self.errors.borrow_mut().push(error);
    }

    /// The value, or `None` and the mistake noted.
    pub(super) fn checked<T>(&self, read: Result<T, Error>) -> Option<T> {
        read.map_err(|error| self.report(error)).ok()
    }

    /// The value, or the default and the mistake noted.
    pub(super) fn or_default<T: Default>(&self, read: Result<T, Error>) -> T {
        self.checked(read).unwrap_or_default()
    }

    /// Reads each element of a list, and notes each mistake.
    pub(super) fn each<W, T>(
        &self,
        written: &[W],
        read: impl Fn(&W) -> Result<T, Error>,
    ) -> Vec<T> {
        written
            .iter()
            .filter_map(|element| self.checked(read(element)))
            .collect()
    }

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
                self.source.error(place.span(), wrong, help).local()
            })
    }

    fn upgrade_socket(&self, written: Option<Spanned<String>>) -> Result<Option<PathBuf>, Error> {
        let Some(path) = written.filter(|path| !path.get_ref().is_empty()) else {
            return Ok(None);
        };
        match written_address::unix(path.get_ref()) {
            Ok(Address::Unix(socket)) => Ok(Some(socket)),
            Ok(_) => Ok(None),
            Err(what) => {
                let help = "it is where a Unix socket may be made: \"/run/wsgate/upgrade\"";
                let message = format!("`{}` {what}", path.get_ref().escape_debug());
                Err(self.source.error(path.span(), message, help))
            }
        }
    }

    /// A new process takes over the listeners that have the addresses of its own configuration, so each address needs a port
    /// that is known.
    fn hand_over_ports<'a>(
        &self,
        socket: Option<&Spanned<String>>,
        listeners: impl Iterator<Item = &'a Address>,
        admin: &'a [Address],
    ) {
        let Some(socket) = socket.filter(|path| !path.get_ref().is_empty()) else {
            return;
        };
        let is_free = |address: &&Address| matches!(address, Address::Tcp(at) if at.port() == 0);
        if let Some(address) = listeners.chain(admin).find(is_free) {
            let message =
                format!("`{address}` takes a free port, which `upgrade_socket` cannot hand over");
            let help = "give this listener a port: a new process takes over the listeners whose addresses are in its configuration";
            self.report(self.source.error(socket.span(), message, help));
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

    fn drain(&self, written: written::Drain) -> deploy::Settings {
        let default = deploy::Settings::default();
        let terms = default.terms;
        let max_closing = self.whole(
            written.max_closing,
            terms.max_closing as i64,
            1..=i64::from(u32::MAX),
            "max_closing",
        );
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
        );
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
        deploy::Settings {
            terms,
            restart,
            shutdown_deadline: written
                .shutdown_deadline
                .map_or(default.shutdown_deadline, |time| time.0),
            lame_duck: written.lame_duck.map_or(default.lame_duck, |wait| wait.0),
            remind_after: written
                .remind_after
                .map_or(default.remind_after, |wait| wait.0),
        }
    }

    pub(super) fn address(
        &self,
        written: &Spanned<String>,
        parse: fn(&str) -> Result<Address, written_address::Wrong>,
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
    ) -> i64 {
        let Some(number) = written else {
            return default;
        };
        if range.contains(number.get_ref()) {
            return number.into_inner();
        }
        let message = format!("`{key}` cannot be {}", number.get_ref());
        let help = format!("it is {} to {}", range.start(), range.end());
        self.report(self.source.error(number.span(), message, help));
        default
    }

    pub(super) fn size(
        &self,
        written: Option<Spanned<Size>>,
        default: u64,
        range: RangeInclusive<u64>,
        key: &str,
    ) -> u64 {
        let Some(size) = written else {
            return default;
        };
        if range.contains(&size.get_ref().0) {
            return size.into_inner().0;
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
        self.report(self.source.error(size.span(), message, help));
        default
    }

    /// One of the `named` codes, or one of the application's own.
    pub(super) fn code(
        &self,
        written: Option<Spanned<i64>>,
        default: u16,
        named: &[u16],
        key: &str,
    ) -> u16 {
        let Some(code) = written else {
            return default;
        };
        match u16::try_from(*code.get_ref()) {
            Ok(number) if named.contains(&number) || (4000..=4999).contains(&number) => number,
            _ => {
                let named: Vec<String> = named.iter().map(ToString::to_string).collect();
                let help = format!("it is {} or one of 4000 to 4999", named.join(", "));
                let message = format!("`{key}` cannot be {}", code.get_ref());
                self.report(self.source.error(code.span(), message, help));
                default
            }
        }
    }

    /// Something that has to be there is not; there is no better place than the beginning.
    pub(super) fn absent(&self, message: &str, table: &str) -> Error {
        self.source
            .absent(0..0, message, format!("add {table}; {EXAMPLE}"))
    }
}
