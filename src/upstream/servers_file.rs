//! Servers from a file that another program writes (consul-template, confd, a script): read again when it changes.
//!
//! The file has a server per line, `10.0.0.5:9000`, with options behind the address, `weight=2 max_connections=5000 backup`, and
//! `#` before comments. Or it is JSON: a list of addresses, or of objects with `address` and these options, or an object with such a
//! list as `servers`. A file that cannot be read, holds a mistake or no server changes nothing.

use crate::transport::written_address;
use crate::upstream::settings::ServerSettings;
use serde::Deserialize;
use std::path::Path;
use std::time::Duration;

/// The time between two looks at a file.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// Most bytes of a file.
const LARGEST: u64 = 1 << 20;

/// One server in JSON.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Address(String),
    Table(Table),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: String,
    weight: Option<u32>,
    max_connections: Option<usize>,
    #[serde(default)]
    backup: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    List(Vec<Entry>),
    Object { servers: Vec<Entry> },
}

/// The servers in a file.
///
/// # Errors
/// The file cannot be read, is larger than 1 MiB, holds a mistake or no server: a sentence with the line.
pub(crate) fn read(path: &Path) -> Result<Vec<ServerSettings>, String> {
    let unreadable = |error: std::io::Error| format!("it cannot be read: {error}");
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > LARGEST {
        return Err(format!("it has {size} bytes; at most {LARGEST} are read"));
    }
    parse(&std::fs::read_to_string(path).map_err(unreadable)?)
}

fn parse(text: &str) -> Result<Vec<ServerSettings>, String> {
    let servers = match text.trim_start().starts_with(['[', '{']) {
        // An IPv6 address begins with a bracket too.
        true if text.trim_start().starts_with('{') || is_list(text) => of_json(text)?,
        _ => of_lines(text)?,
    };
    for (index, server) in servers.iter().enumerate() {
        if servers[..index]
            .iter()
            .any(|other| other.address == server.address)
        {
            return Err(format!("`{}` is there twice", server.address));
        }
    }
    match servers.is_empty() {
        true => Err("it has no server".to_owned()),
        false => Ok(servers),
    }
}

/// Whether a text that begins with a bracket is a list of JSON: `["..."`, `[{`, `[]`.
fn is_list(text: &str) -> bool {
    let behind = text.trim_start().trim_start_matches('[').trim_start();
    behind.starts_with(['"', '{', ']'])
}

fn of_json(text: &str) -> Result<Vec<ServerSettings>, String> {
    let document: Document = match serde_json::from_str(text) {
        Ok(document) => document,
        Err(error) if error.is_syntax() || error.is_eof() => return Err(format!("{error}")),
        Err(_) => {
            return Err(
                "it is neither a list of addresses or of objects with `address`, `weight`, `max_connections` and `backup`, nor an \
                 object with such a list as `servers`"
                    .to_owned(),
            );
        }
    };
    let (Document::List(entries) | Document::Object { servers: entries }) = document;
    let of_entry = |entry| match entry {
        Entry::Address(text) => server(&text),
        Entry::Table(table) => {
            let weight = table.weight.unwrap_or(1);
            with_options(
                server(&table.address)?,
                weight,
                table.max_connections,
                table.backup,
            )
        }
    };
    entries.into_iter().map(of_entry).collect()
}

fn of_lines(text: &str) -> Result<Vec<ServerSettings>, String> {
    let mut servers = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next() else {
            continue;
        };
        let of_line = |error: String| format!("line {}: {error}", number + 1);
        let (mut weight, mut most, mut backup) = (1, None, false);
        for word in words {
            let (option, value) = word.split_once('=').unwrap_or((word, ""));
            let wrong = || {
                of_line(format!(
                    "`{word}` is not an option; there are weight=NUMBER, max_connections=NUMBER and backup"
                ))
            };
            match option {
                "weight" => weight = value.parse().map_err(|_| wrong())?,
                "max_connections" => most = Some(value.parse().map_err(|_| wrong())?),
                "backup" if value.is_empty() => backup = true,
                _ => return Err(wrong()),
            }
        }
        let server = server(address).and_then(|server| with_options(server, weight, most, backup));
        servers.push(server.map_err(of_line)?);
    }
    Ok(servers)
}

fn server(text: &str) -> Result<ServerSettings, String> {
    let address = written_address::server(text);
    let address = address.map_err(|(wrong, help)| format!("{wrong}; {help}"))?;
    Ok(ServerSettings::new(address))
}

fn with_options(
    server: ServerSettings,
    weight: u32,
    max_connections: Option<usize>,
    backup: bool,
) -> Result<ServerSettings, String> {
    // The ring of consistent hashing has 160 points for each.
    if !(1..=256).contains(&weight) {
        return Err(format!(
            "the weight of `{}` is not 1 to 256",
            server.address
        ));
    }
    Ok(ServerSettings {
        weight,
        max_connections: max_connections.unwrap_or(0),
        backup,
        ..server
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_json_are_the_same() {
        let lines = "# servers of chat\n10.0.0.5:9000\n\n  [2001:db8::1]:9000 weight=2 backup # spare\nunix:/run/a.sock max_connections=10\nchat.internal:9000";
        let json = r#"{"servers": ["10.0.0.5:9000", {"address": "[2001:db8::1]:9000", "weight": 2, "backup": true},
            {"address": "unix:/run/a.sock", "max_connections": 10}, "chat.internal:9000"]}"#;
        let servers = parse(lines).unwrap();
        assert_eq!(parse(json), Ok(servers.clone()));
        let shown: Vec<_> = servers
            .iter()
            .map(|server| {
                (
                    server.address.to_string(),
                    server.weight,
                    server.max_connections,
                    server.backup,
                )
            })
            .collect();
        let shown: Vec<_> = shown
            .iter()
            .map(|(address, w, m, b)| (address.as_str(), *w, *m, *b))
            .collect();
        assert_eq!(
            shown,
            [
                ("10.0.0.5:9000", 1, 0, false),
                ("[2001:db8::1]:9000", 2, 0, true),
                ("unix:/run/a.sock", 1, 10, false),
                ("chat.internal:9000", 1, 0, false),
            ]
        );
        assert_eq!(parse("[2001:db8::1]:9000").map(|all| all.len()), Ok(1));
        assert_eq!(parse(r#"["10.0.0.5:9000"]"#).map(|all| all.len()), Ok(1));
    }

    #[test]
    fn mistakes_say_where() {
        for (text, sentence) in [
            ("", "it has no server"),
            ("# nothing\n", "it has no server"),
            ("[]", "it has no server"),
            (
                "10.0.0.5:9000\n10.0.0.5\n",
                "line 2: `10.0.0.5` has no port; add the port of the server",
            ),
            ("10.0.0.5:9000 wait=2", "line 1: `wait=2` is not an option"),
            (
                "10.0.0.5:9000 weight=0",
                "line 1: the weight of `10.0.0.5:9000` is not 1 to 256",
            ),
            ("a:1\na:1", "`a:1` is there twice"),
            (
                r#"["10.0.0.5:9000""#,
                "EOF while parsing a list at line 1 column 16",
            ),
            (
                r#"[{"adress": "a:1"}]"#,
                "it is neither a list of addresses",
            ),
        ] {
            let found = parse(text).unwrap_err();
            assert!(found.starts_with(sentence), "{text}: {found}");
        }
    }
}
