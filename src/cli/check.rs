//! `wsgate check`: whether configurations are good, and which route a URL would take.

use super::fail;
use crate::config::{Config, Errors, Reading};
use crate::edge::http::client_request::ClientRequest;
use crate::edge::route::router::Router;
use crate::stdout::say;
use clap::Args;
use http::Uri;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The configurations to check, and the URL to find a route for.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Configurations, in TOML. `-` is standard input.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    config: Vec<PathBuf>,
    /// Leave out what only the machine that runs it has: certificates, keys, token and servers files, users.
    #[arg(long)]
    offline: bool,
    /// Say which route, upstream and servers a request for this URL would get: `https://chat.example.com/ws/room`. Exit
    /// status 1 if there is none. The request is a GET without headers but Host.
    #[arg(long, value_name = "URL", value_parser = absolute_url)]
    route: Option<Uri>,
}

/// A URL with a scheme of HTTP or WebSocket, a host and a path.
fn absolute_url(text: &str) -> Result<Uri, String> {
    let is_absolute = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https" | "ws" | "wss")) && uri.host().is_some()
    };
    match text.parse::<Uri>() {
        Ok(uri) if is_absolute(&uri) => Ok(uri),
        _ => Err("write it with scheme and host: https://chat.example.com/ws/room".to_owned()),
    }
}

impl Check {
    pub(super) fn execute(&self) -> ExitCode {
        let mut code = ExitCode::SUCCESS;
        for file in &self.config {
            // After a mistake in one file the others are checked all the same.
            if self.check(file).is_err() {
                code = ExitCode::FAILURE;
            }
        }
        code
    }

    /// Checks a file and prints what is found. `Err` if it is not good or has no route for the URL.
    fn check(&self, file: &Path) -> Result<(), ()> {
        let reading = Reading {
            is_offline: self.offline,
            ..Reading::default()
        };
        let (name, config) = match file.as_os_str().as_bytes() {
            b"-" => ("standard input".to_owned(), read_input(reading)),
            _ => {
                let config = Config::load_as(file, reading);
                (file.display().to_string(), config)
            }
        };
        let config = config.map_err(|errors| {
            fail(&errors);
        })?;
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        let (listeners, routes) = (config.proxy.listeners.len(), config.proxy.routes.len());
        let upstreams = config.proxy.upstreams.len();
        say!("{name}: good; listeners: {listeners}, routes: {routes}, upstreams: {upstreams}");
        let Some(url) = &self.route else {
            return Ok(());
        };
        match find_route(&config, url) {
            Ok(found) => {
                say!("{name}: {url}: {found}");
                Ok(())
            }
            Err(error) => {
                fail(&format_args!("error: {name}: {url}: {error}"));
                Err(())
            }
        }
    }
}

/// The route of a request for this URL, in a sentence; else the answer that the request would get.
fn find_route(config: &Config, url: &Uri) -> Result<String, String> {
    let host = url.host().unwrap_or_default();
    // As a client without any headers of its own asks for it.
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let request = ClientRequest::parse(head.as_bytes()).map_err(|error| format!("400, {error}"))?;
    let found = Router::new(&config.proxy.routes)
        .find(host, url.path().as_bytes(), |conditions| {
            conditions.hold(&request)
        })
        .map_err(|error| format!("400, {error}"))?;
    let Some(route) = found.and_then(|index| config.proxy.routes.get(index)) else {
        let known = config.proxy.routes.iter().map(|route| {
            let hosts = match route.hosts.as_slice() {
                [] => "every host".to_owned(),
                hosts => hosts.join(", "),
            };
            format!("`{}` ({hosts}; {})", route.name, route.path)
        });
        let known: Vec<_> = known.collect();
        return Err(format!(
            "404, no route for this host and path\n = help: the routes are: {}",
            known.join(", ")
        ));
    };
    let upstream = &config.proxy.upstreams[route.upstream];
    let servers = upstream.servers.iter();
    let servers: Vec<_> = servers.map(|server| server.address.to_string()).collect();
    let replaced = match &route.replace_path {
        None => String::new(),
        Some(_) => {
            let target = route.server_target(target.as_bytes());
            format!("; servers get `{}`", String::from_utf8_lossy(&target))
        }
    };
    Ok(format!(
        "route `{}`, upstream `{}`: {}{replaced}",
        route.name,
        upstream.name,
        servers.join(", ")
    ))
}

/// The configuration on standard input.
fn read_input(reading: Reading<'_>) -> Result<Config, Errors> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    Config::from_bytes("standard input", read.map(|_| bytes), reading)
}
