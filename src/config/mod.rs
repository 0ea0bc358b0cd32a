//! The configuration: TOML as it is written ([`written`]), then what it means ([`meaning`]).
//!
//! Each room has settings of its own; this one points down at them, and they do not know it. It is always true that a
//! [`Config`] that exists can be run: whatever can be wrong is an [`Error`] that says what, where, and what to do.

mod address;
mod error;
mod meaning;
mod units;
mod written;

pub use error::Error;

use crate::inspect::Rules;
use crate::inspect::closing::Policy;
use crate::proxy::settings::{Client, Listener, Route, Settings, Upstream};
use crate::{admin, log};
use error::Source;
use std::io;
use std::path::Path;

/// All that wsgate is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Listeners, upstreams and routes.
    pub proxy: Settings,
    /// The admin listener.
    pub admin: admin::Settings,
    /// The log.
    pub log: log::Settings,
    /// Worker threads; 0 for one per core.
    pub threads: usize,
    /// What is allowed and yet probably not meant.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it cannot be read, and as [`Config::parse`].
    pub fn load(file: &Path) -> Result<Config, Error> {
        let name = file.display().to_string();
        let bytes = std::fs::read(file).map_err(|error| {
            let help = match error.kind() {
                io::ErrorKind::NotFound => {
                    "there is no such file; conf/wsgate.toml is an example to begin with"
                }
                io::ErrorKind::PermissionDenied => {
                    "the user that runs wsgate has to be able to read it"
                }
                _ => "--config names a file in TOML",
            };
            Error::new(format!("cannot read {name}: {error}"), help)
        })?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Config::parse(&name, text),
            Err(error) => {
                let at = error.valid_up_to();
                let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
                let message = format!("{name} is not UTF-8 at byte {at}, in line {line}");
                Err(Error::new(message, "save it as UTF-8"))
            }
        }
    }

    /// Reads a configuration; `name` is what errors call it.
    ///
    /// # Errors
    /// The first mistake in it.
    pub fn parse(name: &str, text: &str) -> Result<Config, Error> {
        let source = Source { name, text };
        let file = toml::from_str(text).map_err(|error| source.read_error(&error))?;
        meaning::of(file, source)
    }

    /// One upstream of these servers behind these listeners, all defaults else. `admin` as in a file.
    ///
    /// # Errors
    /// The first address that is none.
    pub fn from_command_line(
        listen: &[String],
        upstream: &[String],
        admin: Option<&str>,
    ) -> Result<Config, Error> {
        let option = |name: &'static str| {
            move |(wrong, help): address::Wrong| Error::new(format!("{name} {wrong}"), help)
        };
        let listeners = listen.iter().map(|text| {
            let address = address::listener(text).map_err(option("--listen"))?;
            Ok(Listener { address })
        });
        let servers = upstream
            .iter()
            .map(|text| address::server(text).map_err(option("--upstream")));
        let admin = match admin {
            None => admin::Settings::default(),
            Some("off") => admin::Settings { listen: None },
            Some(text) => admin::Settings {
                listen: Some(address::listener(text).map_err(option("--admin"))?),
            },
        };
        let route = Route {
            name: "default".to_owned(),
            hosts: Vec::new(),
            path: "/".to_owned(),
            upstream: 0,
            allowed_origins: Vec::new(),
            max_connections: 0,
            rules: Rules::default(),
            closing: Policy::default(),
        };
        let proxy = Settings {
            listeners: listeners.collect::<Result<_, Error>>()?,
            client: Client::default(),
            upstreams: vec![Upstream::new("default", servers.collect::<Result<_, _>>()?)],
            routes: vec![route],
        };
        Ok(Config {
            proxy,
            admin,
            log: log::Settings::default(),
            threads: 0,
            warnings: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests;
