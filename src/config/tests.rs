//! Every kind of mistake with what the user sees, and the files that are shipped.

use super::Config;
use crate::proxy::settings::Address;

const REFERENCE: &str = include_str!("../../conf/reference.toml");
const EXAMPLE: &str = include_str!("../../conf/wsgate.toml");

/// The least there is, with the values that the reference gives to what is required.
const LEAST: &str = r#"
[[listener]]
listen = "0.0.0.0:8080"
[upstream.chat]
servers = ["127.0.0.1:9001"]
[[route]]
name = "chat"
upstream = "chat"
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse("wsgate.toml", text).map_err(|error| error.to_string())
}

#[test]
fn the_reference_states_the_defaults() {
    assert_eq!(parse(REFERENCE).unwrap(), parse(LEAST).unwrap());
}

/// Asks each table for a key that no table has: the answer lists those that it does have.
#[test]
fn the_reference_names_every_key() {
    for table in [
        "",
        "[log]",
        "[admin]",
        "[client]",
        "[[listener]]",
        "[upstream.chat]",
        "[[route]]",
    ] {
        let error = parse(&format!("{table}\nno_such_key = 1\n")).unwrap_err();
        let (_, list) = error
            .split_once("there are: ")
            .unwrap_or_else(|| panic!("{error}"));
        let keys: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
        assert!(!keys.is_empty(), "{error}");
        let start = REFERENCE
            .find(table)
            .unwrap_or_else(|| panic!("{table} is missing in the reference"));
        let section = REFERENCE[start + table.len()..]
            .split("\n[")
            .next()
            .unwrap();
        for key in keys {
            let documented = if table.is_empty() && key != "threads" {
                REFERENCE.contains(&format!("\n[{key}"))
                    || REFERENCE.contains(&format!("\n[[{key}"))
            } else {
                section.contains(&format!("\n{key} = "))
            };
            assert!(
                documented,
                "`{key}` of {table} is missing in conf/reference.toml"
            );
        }
    }
}

#[test]
fn the_example_loads_without_warnings() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.proxy.routes.len(), 4);
    assert_eq!(config.proxy.upstreams.len(), 3);
}

#[test]
fn what_is_written_is_what_is_meant() {
    let config = parse(
        r#"
        threads = 2
        [log]
        format = "json"
        level = "debug"
        [admin]
        listen = "off"
        [client]
        max_header_size = "8KiB"
        [[listener]]
        listen = "[::1]:0"
        [[listener]]
        listen = "unix:/run/wsgate.sock"
        [upstream.b]
        servers = ["b.internal:1"]
        [upstream.a]
        servers = ["unix:/run/a.sock", "10.0.0.1:80"]
        read_timeout = "1500ms"
        [[route]]
        name = "x"
        hosts = ["Chat.Example.COM"]
        path = "/ws"
        upstream = "b"
        allowed_origins = ["HTTPS://Example.com:8443", "null"]
        mode = "observe"
        hold = "1KiB"
        restart_code = 4999
        reconnect_after = "0s-250ms"
        upstream_close = "pass"
        [[route]]
        name = "y"
        upstream = "a"
        "#,
    )
    .unwrap();
    assert_eq!((config.threads, config.admin.listen), (2, None));
    let route = &config.proxy.routes[0];
    assert_eq!(route.hosts, ["chat.example.com"]);
    assert_eq!(route.allowed_origins, ["https://example.com:8443", "null"]);
    assert_eq!(
        config.proxy.upstreams[route.upstream].servers,
        [Address::Name("b.internal".into(), 1)]
    );
    assert_eq!((route.rules.hold, route.closing.restart_code), (1024, 4999));
    assert_eq!(route.closing.reconnect_after.1.as_millis(), 250);
    let other = &config.proxy.upstreams[config.proxy.routes[1].upstream];
    assert_eq!(
        (other.name.as_str(), other.read_timeout.as_millis()),
        ("a", 1500)
    );
}

/// One change to a good file, and the whole of what the user sees.
#[test]
fn mistakes_say_what_where_and_what_to_do() {
    let good = "[[listener]]\nlisten = \"0.0.0.0:8080\"\n[upstream.chat]\nservers = [\"127.0.0.1:9001\"]\n\
        [[route]]\nname = \"chat\"\nupstream = \"chat\"\n";
    for (from, to, line, column, caret, message, help) in [
        // Syntax.
        ("name = ", "name ", 6, 6, 1, "", ""),
        ("\"chat\"\nup", "\"chat\nup", 6, 13, 1, "", ""),
        // Unknown keys, tables and values.
        (
            "name = ",
            "nmae = ",
            6,
            1,
            4,
            "unknown key `nmae`",
            "did you mean `name`?",
        ),
        (
            "[upstream.chat]",
            "[upstreams.chat]",
            3,
            2,
            9,
            "unknown key `upstreams`",
            "did you mean `upstream`?",
        ),
        (
            "name = ",
            "mode = \"enforced\"\nname = ",
            6,
            8,
            10,
            "unknown value `enforced`",
            "did you mean `enforce`?",
        ),
        (
            "name = ",
            "name = \"a\"\nname = ",
            7,
            1,
            4,
            "duplicate key",
            "",
        ),
        // Types and units.
        (
            "name = \"chat\"",
            "name = 5",
            6,
            8,
            1,
            "invalid type: integer `5`, expected a string",
            "",
        ),
        (
            "name = ",
            "hold = 65536\nname = ",
            6,
            8,
            5,
            "a size needs a unit",
            "write \"65536B\"",
        ),
        (
            "name = ",
            "hold = \"64kb\"\nname = ",
            6,
            8,
            6,
            "`64kb` is not a size",
            "\"64KiB\"",
        ),
        (
            "name = ",
            "close_timeout = 5\nname = ",
            6,
            17,
            1,
            "a duration needs a unit",
            "write \"5s\"",
        ),
        (
            "name = ",
            "close_timeout = \"5 sec\"\nname = ",
            6,
            17,
            7,
            "`5 sec` is not a duration",
            "\"30s\"",
        ),
        (
            "name = ",
            "close_timeout = \"0s\"\nname = ",
            6,
            17,
            4,
            "`0s` leaves no time",
            "\"1ms\"",
        ),
        (
            "name = ",
            "reconnect_after = \"5s-1s\"\nname = ",
            6,
            19,
            7,
            "ends before it begins",
            "\"1s-5s\"",
        ),
        // Ranges.
        (
            "name = ",
            "max_fragments = 0\nname = ",
            6,
            17,
            1,
            "`max_fragments` cannot be 0",
            "it is 1 to",
        ),
        (
            "name = ",
            "hold = \"1B\"\nname = ",
            6,
            8,
            4,
            "`hold` is too small",
            "the least is \"125B\"",
        ),
        (
            "name = ",
            "hold = \"1GiB\"\nname = ",
            6,
            8,
            6,
            "`hold` is too large",
            "the most is",
        ),
        (
            "name = ",
            "restart_code = 1006\nname = ",
            6,
            16,
            4,
            "`restart_code` cannot be 1006",
            "1012, 1001 or one of 4000",
        ),
        (
            "name = ",
            "upstream_fault_code = 1007\nname = ",
            6,
            23,
            4,
            "cannot be 1007",
            "1011 or one of 4000",
        ),
        (
            "name = ",
            "max_connections = -1\nname = ",
            6,
            19,
            2,
            "`max_connections` cannot be -1",
            "it is 0 to",
        ),
        // Addresses, hosts, paths, origins.
        (
            "0.0.0.0:8080",
            "8080",
            2,
            10,
            6,
            "`8080` has no port",
            "IP:PORT",
        ),
        (
            "0.0.0.0:8080",
            "example.com:80",
            2,
            10,
            16,
            "is not an IP address",
            "IP:PORT",
        ),
        (
            "127.0.0.1:9001",
            "127.0.0.1",
            4,
            12,
            11,
            "`127.0.0.1` has no port",
            "HOST:PORT",
        ),
        (
            "127.0.0.1:9001",
            "ws://a:1",
            4,
            12,
            10,
            "is a URL",
            "HOST:PORT",
        ),
        (
            "name = ",
            "path = \"ws\"\nname = ",
            6,
            8,
            4,
            "`ws` is not a path",
            "begins with `/`",
        ),
        (
            "name = ",
            "hosts = [\"a.example:80\"]\nname = ",
            6,
            10,
            14,
            "`a.example:80` has a port",
            "without scheme",
        ),
        (
            "name = ",
            "allowed_origins = [\"https://a.example/\"]\nname = ",
            6,
            20,
            20,
            "has a path",
            "\"https://a.example\"",
        ),
        (
            "name = ",
            "allowed_origins = [\"a.example\"]\nname = ",
            6,
            20,
            11,
            "is not an origin",
            "https://example.com",
        ),
        // Between keys.
        (
            "upstream = \"chat\"",
            "upstream = \"chta\"",
            7,
            12,
            6,
            "there is no upstream `chta`",
            "did you mean `chat`?",
        ),
        (
            "upstream = \"chat\"",
            "",
            5,
            1,
            9,
            "route `chat` names no upstream",
            "`chat`",
        ),
        (
            "name = \"chat\"",
            "",
            5,
            1,
            9,
            "a route without a name",
            "add name",
        ),
        (
            "listen = \"0.0.0.0:8080\"",
            "",
            1,
            1,
            12,
            "a listener without an address",
            "add listen",
        ),
        (
            "servers = [\"127.0.0.1:9001\"]",
            "",
            3,
            1,
            15,
            "upstream `chat` has no servers",
            "add servers",
        ),
        (
            "[\"127.0.0.1:9001\"]",
            "[]",
            4,
            11,
            2,
            "upstream `chat` has no servers",
            "add servers",
        ),
        (
            "[\"127.0.0.1:9001\"]",
            "[\"a:1\", \"a:1\"]",
            4,
            19,
            5,
            "is in upstream `chat` twice",
            "remove one",
        ),
        (
            "[upstream",
            "[[listener]]\nlisten = \"0.0.0.0:8080\"\n[upstream",
            4,
            10,
            14,
            "two listeners on",
            "in line 2",
        ),
        (
            "0.0.0.0:8080",
            "127.0.0.1:9900",
            2,
            10,
            16,
            "is the address of the admin listener",
            "another port",
        ),
        (
            "[[route]]",
            "[[route]]\nname = \"chat\"\npath = \"/a\"\nupstream = \"chat\"\n[[route]]",
            10,
            8,
            6,
            "two routes are named `chat`",
            "in line 5",
        ),
        (
            "[[route]]",
            "[[route]]\nname = \"a\"\nupstream = \"chat\"\n[[route]]",
            8,
            1,
            9,
            "route `chat` can never match: any host with path /",
            "line 5 has them",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        let text = good.replacen(from, to, 1);
        let error = parse(&text).expect_err(&text);
        let margin = " ".repeat(line.to_string().len());
        let place = format!("\n{margin}--> wsgate.toml:{line}:{column}\n");
        let shown = text.lines().nth(line - 1).unwrap();
        assert!(
            error.starts_with("error: ") && error.contains(message),
            "{text}\n{error}"
        );
        assert!(error.contains(&place), "{text}\n{error}\n{place}");
        let caret = format!(
            "{line} | {shown}\n{margin} | {}{}\n",
            " ".repeat(column - 1),
            "^".repeat(caret)
        );
        assert!(
            format!("{error}\n").contains(&caret),
            "{text}\n{error}\nexpected\n{caret}"
        );
        assert!(error.contains(help), "{text}\n{error}");
    }
}

#[test]
fn what_is_missing_is_named() {
    for (text, message) in [
        ("", "no listener"),
        ("[[listener]]\nlisten = \"127.0.0.1:0\"\n", "no upstream"),
        (
            "[[listener]]\nlisten = \"127.0.0.1:0\"\n[upstream.a]\nservers = [\"a:1\"]\n",
            "no route",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert!(
            error.contains(message) && error.contains("the least there is"),
            "{error}"
        );
    }
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let unused =
        format!("{LEAST}[upstream.old]\nservers = [\"a:1\"]\n[admin]\nlisten = \"0.0.0.0:9900\"\n");
    let warnings = parse(&unused).unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].starts_with("wsgate.toml:12: the admin listener"),
        "{warnings:?}"
    );
    assert!(
        warnings[1].starts_with("wsgate.toml:9: no route uses upstream `old`"),
        "{warnings:?}"
    );
}

#[test]
fn files_that_cannot_be_read() {
    let missing = std::path::Path::new("/nonexistent/wsgate.toml");
    let error = Config::load(missing).unwrap_err().to_string();
    assert!(
        error.starts_with("error: cannot read /nonexistent/wsgate.toml: ")
            && error.contains("no such file"),
        "{error}"
    );
    let file = std::env::temp_dir().join(format!("wsgate-not-utf8-{}.toml", std::process::id()));
    std::fs::write(&file, b"threads = 0\n# caf\xe9\n").unwrap();
    let error = Config::load(&file).unwrap_err().to_string();
    std::fs::remove_file(&file).unwrap();
    assert!(
        error.contains("is not UTF-8 at byte 17, in line 2"),
        "{error}"
    );
}

#[test]
fn without_a_file() {
    let strings = |list: &[&str]| {
        list.iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let config = Config::from_command_line(
        &strings(&["127.0.0.1:0"]),
        &strings(&["a:1", "b:2"]),
        Some("off"),
    )
    .unwrap();
    assert_eq!(config.proxy.upstreams[0].servers.len(), 2);
    assert_eq!(config.admin.listen, None);
    let error = Config::from_command_line(&strings(&["8080"]), &strings(&["a:1"]), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("error: --listen `8080` has no port\n"),
        "{error}"
    );
}

#[test]
fn no_prefix_and_no_wrong_byte_panics() {
    for end in 0..=EXAMPLE.len() {
        if EXAMPLE.is_char_boundary(end) {
            let _ = parse(&EXAMPLE[..end]);
        }
    }
    for at in (0..REFERENCE.len())
        .filter(|at| REFERENCE.is_char_boundary(*at) && REFERENCE.is_char_boundary(at + 1))
    {
        for with in ["", "\"", "[", "=", "é", "\n", "0", "\t"] {
            if let Err(error) = parse(&[&REFERENCE[..at], with, &REFERENCE[at + 1..]].concat()) {
                assert!(error.starts_with("error: "), "{error}");
            }
        }
    }
}
