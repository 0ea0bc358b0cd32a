//! The admin listener: where it is, by which names, and what it wants of those who ask.

use super::error::Error;
use super::meaning::{Reader, admin_warning};
use super::written;
use crate::admin::{Settings, Token};
use crate::transport::written_address;
use toml::Spanned;

impl Reader<'_> {
    pub(super) fn admin(
        &self,
        written: written::Admin,
        warnings: &mut Vec<String>,
    ) -> Result<Settings, Error> {
        let default = Settings::default();
        let token = self.token(written.token_file)?;
        let metrics_token = match written.metrics_token {
            Some(wanted) if *wanted.get_ref() && token.is_none() => {
                let message = "`metrics_token` without a token";
                let help = "name the file of the token with `token_file` as well, or leave it out";
                return Err(self.source.error(wanted.span(), message, help));
            }
            wanted => wanted.map_or(default.metrics_token, Spanned::into_inner),
        };
        let listen = match &written.listen {
            None => default.listen,
            Some(listen) if listen.get_ref() == "off" => None,
            Some(listen) => {
                let address = self.address(listen, written_address::listener)?;
                if let Some(warning) = admin_warning(&address) {
                    let place = self.source.file_and_line(listen.span().start);
                    warnings.push(format!("{place}: {warning}"));
                }
                Some(address)
            }
        };
        let probes = match &written.probes {
            Some(probes) if !probes.get_ref().is_empty() => {
                let address = self.address(probes, written_address::listener)?;
                if let Some(listen) = listen
                    .as_ref()
                    .filter(|of| **of == address || written_address::collide(of, &address))
                {
                    let message =
                        format!("`{address}` is the address of the admin listener, `{listen}`");
                    let help = "give `probes` another port";
                    return Err(self.source.error(probes.span(), message, help));
                }
                Some(address)
            }
            _ => None,
        };
        Ok(Settings {
            probes,
            token,
            metrics_token,
            hosts: self.admin_hosts(&written.hosts),
            socket_mode: self.socket_mode(written.socket_mode, default.socket_mode)?,
            ready_needs_servers: written
                .ready_needs_servers
                .unwrap_or(default.ready_needs_servers),
            listen,
        })
    }

    fn admin_hosts(&self, written: &[Spanned<String>]) -> Vec<String> {
        self.each(written, |host| {
            let name = host.get_ref().as_str();
            if written_address::is_name(name) {
                return Ok(name.to_ascii_lowercase());
            }
            let message = format!("`{}` is not the name of a host", name.escape_debug());
            let help =
                "write a name without a port, \"wsgate.internal\"; addresses are served anyway";
            Err(self.source.error(host.span(), message, help))
        })
    }

    fn socket_mode(&self, written: Option<Spanned<String>>, default: u32) -> Result<u32, Error> {
        let Some(written) = written else {
            return Ok(default);
        };
        let refuse = |message: String, help| Err(self.source.error(written.span(), message, help));
        let text = written.get_ref().as_str();
        match u32::from_str_radix(text, 8) {
            // Whom it belongs to can always use it; nobody executes it.
            Ok(mode) if mode & !0o066 == 0o600 => Ok(mode),
            _ => {
                let message = format!("`{}` is not the mode of a socket", text.escape_debug());
                let help = "write it in octal: \"0600\" for its owner alone, \"0660\" for its group as well";
                refuse(message, help)
            }
        }
    }

    fn token(&self, file: Option<Spanned<String>>) -> Result<Option<Token>, Error> {
        let Some(file) = file.filter(|file| !file.get_ref().is_empty()) else {
            return Ok(None);
        };
        let help =
            "it names a file with the token that requests have to bear, and nothing else in it";
        let text = std::fs::read_to_string(file.get_ref()).map_err(|error| {
            let message = format!("`token_file` cannot be read: {error}");
            self.source.error(file.span(), message, help).local()
        })?;
        match Token::new(&text) {
            Some(token) => Ok(Some(token)),
            None => Err(self
                .source
                .error(file.span(), "`token_file` is empty", help)
                .local()),
        }
    }
}
