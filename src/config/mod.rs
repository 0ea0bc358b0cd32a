//! The configuration: TOML as it is written (`written`), then what it means (`meaning`).
//!
//! Each room has settings of its own; this one points down at them, and they do not know it. It is always true that a
//! [`Config`] that exists can be run: whatever can be wrong is an [`Error`] that says what, where, and what to do.

mod access;
mod admin;
mod client;
mod document;
mod error;
mod health;
mod limits;
mod listener;
mod matching;
mod meaning;
mod route;
mod source;
mod tcp;
mod tls;
mod units;
mod upstream;
mod wording;
mod written;

pub use error::{Error, Errors};

use crate::admin::Settings as Admin;
use crate::edge::settings::{Client, Http2, Listener, Route, Settings};
use crate::service::Owner;
use crate::transport::address::Address;
use crate::transport::written_address;
use crate::upstream::settings::Upstream;
use crate::upstream::state_file::StateFile;
use crate::{deploy, log};
use document::Document;
use source::Source;
use std::io;
use std::path::{Path, PathBuf};

/// All that wsgate is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Listeners, upstreams and routes.
    pub proxy: Settings,
    /// The admin listener.
    pub admin: Admin,
    /// How drains go.
    pub drain: deploy::Settings,
    /// The log.
    pub log: log::Settings,
    /// Worker threads; 0 for one per core.
    pub threads: usize,
    /// The user of the process once its listeners are bound; `None`: the user that started it.
    pub owner: Option<Owner>,
    /// Where a new process takes the listeners over; `None`: it does not.
    pub upgrade_socket: Option<PathBuf>,
    /// Where the drains of operators are kept.
    pub state_file: StateFile,
    /// Settings that are allowed but probably not meant.
    pub warnings: Vec<String>,
}

/// How a configuration is read.
#[derive(Clone, Copy, Default)]
pub struct Reading<'a> {
    /// The configuration in force, which this one is to replace: of that, what has not changed stays as it is.
    pub before: Option<&'a Config>,
    /// Files and users that this machine does not have are no mistakes. A configuration that was read so must not be run.
    pub is_offline: bool,
}

impl Config {
    /// Reads a file, and the files that it includes.
    ///
    /// # Errors
    /// Where one of them cannot be read, and as [`Config::parse`].
    pub fn load(file: &Path) -> Result<Config, Errors> {
        Config::load_as(file, Reading::default())
    }

    /// Reads a file in this way.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_as(file: &Path, reading: Reading<'_>) -> Result<Config, Errors> {
        let name = file.display().to_string();
        let directory = file.parent().unwrap_or(Path::new(""));
        Config::of_bytes(&name, directory, std::fs::read(file), reading)
    }

    /// Reads what came of reading a file; `name` is what errors call it. Included files are relative to the working
    /// directory.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_bytes(
        name: &str,
        read: io::Result<Vec<u8>>,
        reading: Reading<'_>,
    ) -> Result<Config, Errors> {
        Config::of_bytes(name, Path::new(""), read, reading)
    }

    fn of_bytes(
        name: &str,
        directory: &Path,
        read: io::Result<Vec<u8>>,
        reading: Reading<'_>,
    ) -> Result<Config, Errors> {
        let bytes = read.map_err(|error| {
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
            Ok(text) => Config::of_text(name, text, directory, reading),
            Err(error) => {
                // The text before the first wrong byte is the same in both.
                let (at, shown) = (error.valid_up_to(), String::from_utf8_lossy(&bytes));
                let source = Source::new(name, &shown);
                let message = format!("not UTF-8 at byte {at} of the file");
                let help = "save it as UTF-8";
                let wrong = at..at + char::REPLACEMENT_CHARACTER.len_utf8();
                Err(source.error(wrong, message, help).into())
            }
        }
    }

    /// Reads a configuration; `name` is what errors call it. Included files are relative to the working directory.
    ///
    /// # Errors
    /// The mistakes in it: those of syntax, else those of form and meaning of all tables.
    pub fn parse(name: &str, text: &str) -> Result<Config, Errors> {
        Config::of_text(name, text, Path::new(""), Reading::default())
    }

    fn of_text(
        name: &str,
        text: &str,
        directory: &Path,
        reading: Reading<'_>,
    ) -> Result<Config, Errors> {
        let environment = document::of_process;
        let source = document::read_files(name, text, directory, &environment)?;
        let (file, form) = Document::new(&source, &environment)?.read();
        match file {
            Some(file) => meaning::of(file, &source, form, reading),
            // `form` says why there is no file.
            None => Err(Errors::of(form).unwrap_or_else(|| {
                Error::new("the file cannot be read", "see conf/reference.toml").into()
            })),
        }
    }

    /// One upstream of these servers behind these listeners, all defaults else. `admin` as in a file.
    ///
    /// # Errors
    /// The first address that is none, or that is there twice; and where there is no listener or no server.
    pub fn from_command_line(
        listen: &[String],
        upstream: &[String],
        admin: Option<&str>,
    ) -> Result<Config, Error> {
        let mut warnings = Vec::new();
        let option = |name: &'static str| {
            move |(wrong, help): written_address::Wrong| Error::new(format!("{name} {wrong}"), help)
        };
        for (list, name) in [(listen, "--listen"), (upstream, "--upstream")] {
            if list.is_empty() {
                return Err(Error::new(
                    format!("no {name}"),
                    format!("add {name} ADDRESS"),
                ));
            }
        }
        let mut listeners: Vec<Listener> = Vec::new();
        for text in listen {
            let address = written_address::listener(text).map_err(option("--listen"))?;
            if let Some(first) = listeners
                .iter()
                .find(|other| written_address::collide(&other.address, &address))
            {
                let message = format!(
                    "--listen `{address}` and `{}` cannot both be listened on",
                    first.address
                );
                return Err(Error::new(message, "give one of them another port"));
            }
            listeners.push(Listener {
                address,
                tls: None,
                proxy_protocol: false,
                http2: Http2::DEFAULT,
            });
        }
        let mut servers: Vec<Address> = Vec::new();
        for text in upstream {
            let address = written_address::server(text).map_err(option("--upstream"))?;
            if servers.contains(&address) {
                let message = format!("--upstream `{address}` is there twice");
                return Err(Error::new(message, "remove one of them"));
            }
            servers.push(address);
        }
        let admin = match admin {
            None => Admin::default(),
            Some("off") => Admin {
                listen: None,
                ..Admin::default()
            },
            Some(text) => Admin {
                listen: Some(written_address::listener(text).map_err(option("--admin"))?),
                ..Admin::default()
            },
        };
        if let Some(address) = &admin.listen {
            if let Some(taken) = listeners
                .iter()
                .find(|other| written_address::collide(&other.address, address))
            {
                let message = format!(
                    "--listen `{}` takes the address of the admin listener, `{address}`",
                    taken.address
                );
                return Err(Error::new(
                    message,
                    "give one of them another port; --admin says where the latter is",
                ));
            }
            warnings.extend(meaning::admin_warning(address));
        }
        let proxy = Settings {
            listeners,
            client: Client::default(),
            upstreams: vec![Upstream::new("default", servers)],
            routes: vec![Route::new("default", "/", 0)],
        };
        Ok(Config {
            proxy,
            admin,
            drain: deploy::Settings::default(),
            log: log::Settings::default(),
            threads: 0,
            owner: None,
            upgrade_socket: None,
            state_file: StateFile::default(),
            warnings,
        })
    }
}

/// The address of an admin listener, as `--admin` names it.
///
/// # Errors
/// Where it is none.
pub fn admin_address(text: &str) -> Result<Address, Error> {
    written_address::listener(text)
        .map_err(|(wrong, help)| Error::new(format!("--admin {wrong}"), help))
}

#[cfg(test)]
mod tests;
