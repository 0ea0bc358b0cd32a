//! stub
use crate::{admin, log, proxy::settings};
use std::path::Path;
/// Stub.
pub struct Config {
    /// Proxy.
    pub proxy: settings::Settings,
    /// Admin.
    pub admin: admin::Settings,
    /// Log.
    pub log: log::Settings,
    /// Threads.
    pub threads: usize,
    /// Warnings.
    pub warnings: Vec<String>,
}
impl Config {
    /// Stub.
    pub fn load(_: &Path) -> Result<Config, String> {
        Err("stub".into())
    }
    /// Stub.
    pub fn from_command_line(
        listen: &[String],
        upstream: &[String],
        admin: Option<&str>,
    ) -> Result<Config, String> {
        let tcp = |a: &str| settings::Address::Tcp(a.parse().unwrap());
        Ok(Config {
            proxy: settings::Settings {
                listeners: listen
                    .iter()
                    .map(|a| settings::Listener { address: tcp(a) })
                    .collect(),
                client: Default::default(),
                upstreams: vec![settings::Upstream::new(
                    "default",
                    upstream.iter().map(|a| tcp(a)).collect(),
                )],
                routes: vec![settings::Route {
                    name: "default".into(),
                    hosts: vec![],
                    path: "/".into(),
                    upstream: 0,
                    allowed_origins: vec![],
                    max_connections: 0,
                    rules: Default::default(),
                    closing: Default::default(),
                }],
            },
            admin: admin::Settings {
                listen: admin.map(tcp),
            },
            log: Default::default(),
            threads: 0,
            warnings: vec![],
        })
    }
}
