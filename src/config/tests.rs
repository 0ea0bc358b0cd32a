//! Every kind of mistake with what the user sees, and the files that are shipped.

use super::Config;
use crate::transport::address::Address;
use crate::upstream::settings::ServerSettings;

mod files;

const REFERENCE: &str = include_str!("../../conf/reference.toml");
const EXAMPLE: &str = include_str!("../../conf/wsgate.toml");

const MISTAKES: &str = include_str!("mistakes.txt");

/// What the mistakes are made in.
const GOOD: &str = r#"[[listener]]
listen = "0.0.0.0:8080"
[upstream.chat]
servers = ["127.0.0.1:9001"]
[[route]]
name = "chat"
upstream = "chat"
"#;

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
    let headers = REFERENCE.lines().filter(|line| line.starts_with('['));
    let tables = headers.map(|line| {
        line.split_once(" #")
            .map_or(line, |(header, _)| header)
            .trim()
    });
    for table in std::iter::once("").chain(tables) {
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
            let is_table = match table {
                "" => !matches!(
                    key,
                    "include" | "threads" | "user" | "group" | "upgrade_socket" | "state_file"
                ),
                _ => matches!(key, "health" | "rebalance" | "tls"),
            };
            let documented = if is_table && !table.is_empty() {
                let inner = table.trim_end_matches(']');
                REFERENCE.contains(&format!("\n{inner}.{key}]"))
            } else if is_table {
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

/// The reference line by line: `None` for what is no key, else the key and its value.
fn key(line: &str) -> Option<(&str, &str)> {
    let (key, rest) = line
        .split_once(" = ")
        .filter(|_| !line.starts_with(['#', ' ']))?;
    Some((key, rest.split("  #").next().unwrap().trim()))
}

/// A file with another line in the place of one.
fn with(file: &str, index: usize, line: &str) -> Result<Config, String> {
    let mut lines: Vec<&str> = file.lines().collect();
    lines[index] = line;
    parse(&lines.join("\n"))
}

#[test]
fn each_key_of_the_reference_is_required_or_states_its_default() {
    let whole = parse(REFERENCE).unwrap();
    for (index, line) in REFERENCE.lines().enumerate() {
        let Some((key, _)) = key(line) else { continue };
        assert_eq!(
            line.contains("# required: "),
            with(REFERENCE, index, "").is_err(),
            "{key}"
        );
        if let Ok(without) = with(REFERENCE, index, "") {
            assert_eq!(without, whole, "{key}");
        }
    }
}

/// A key that is read and then forgotten would pass every other test.
#[test]
fn each_key_is_obeyed() {
    const OTHERS: &[&str] = &[
        "7",
        "4007",
        "\"7s\"",
        "\"2s-3s\"",
        "\"4KiB\"",
        "\"1GiB\"",
        "\"128KiB\"",
        "\"json\"",
        "\"off\"",
        "\"debug\"",
        "\"observe\"",
        "\"pass\"",
        "\"prefer\"",
        "\"delay\"",
        "\"127.0.0.1:7\"",
        "\"/a\"",
        "\"other\"",
        "[\"a.example\"]",
        "[\"https://a.example\"]",
        "[\"a.example:7\"]",
        "\"random\"",
        "\"round_robin\"",
        "[\"10.0.0.0/8\"]",
        "[\"10.0.0.7\"]",
        "\"7%\"",
        "\"Forwarded\"",
        "\"http://127.0.0.1:7/a\"",
        "[\"X-A\"]",
        "[\"origin\"]",
        "[\"PUT\"]",
        "{ \"X-A\" = \"b\" }",
        "\"7/s\"",
        "\"/tmp/upgrade\"",
        "\"daemon\"",
        "404",
        "\"1.3\"",
        "\"optional\"",
        "\"required\"",
        "false",
        "true",
        "[\"unix\"]",
        "\"tests/tls/a-renewed.pem\"",
        "\"tests/tls/a-copy.key\"",
        "\"tests/tls/a.pem\"",
        "[{ cert = \"tests/tls/b.pem\", key = \"tests/tls/b.key\" }]",
        "9",
        "\"0660\"",
        // Any file that is there.
        "\"Cargo.toml\"",
        "\"README.md\"",
    ];
    // Where nothing is checked, it does not matter how.
    let reference = [
        ("user = \"\"", "user = \"root\""),
        ("token_file = \"\"", "token_file = \"Cargo.toml\""),
        (
            "trusted_proxies = []",
            "trusted_proxies = [\"10.1.0.0/16\"]",
        ),
        ("auth_url = \"\"", "auth_url = \"http://a:1/\""),
        ("check = \"off\"", "check = \"http\""),
        (
            "certificates = []",
            "certificates = [{ cert = \"tests/tls/a.pem\", key = \"tests/tls/a.key\" }]",
        ),
        ("client_ca = \"\"", "client_ca = \"tests/tls/ca.pem\""),
        ("enabled = false", "enabled = true"),
        ("\nca = \"\"", "\nca = \"tests/tls/ca.pem\""),
        ("\ncert = \"\"", "\ncert = \"tests/tls/a.pem\""),
        ("\nkey = \"\"", "\nkey = \"tests/tls/a.key\""),
    ]
    .iter()
    .fold(REFERENCE.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    });
    let (whole, plain) = (parse(&reference).unwrap(), parse(REFERENCE).unwrap());
    for (index, line) in reference.lines().enumerate() {
        let Some((key, value)) = key(line) else {
            continue;
        };
        // The name of an upstream that is there is the only one that a route can name; `include` and `servers_file` are tested with
        // files.
        if matches!(key, "upstream" | "include" | "servers_file") {
            continue;
        }
        // The one key of listeners without TLS.
        let (text, config) = match key {
            "http2_clear_text" => (REFERENCE, &plain),
            _ => (&*reference, &whole),
        };
        let is_obeyed = |other: &&&str| {
            let changed = with(text, index, &format!("{key} = {other}"));
            changed.is_ok_and(|changed| changed != *config)
        };
        assert!(OTHERS.iter().find(is_obeyed).is_some(), "{key} = {value}");
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
        text_buffer = "1KiB"
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
        [ServerSettings::new(Address::Name("b.internal".into(), 1))]
    );
    assert_eq!(
        (route.rules.text_buffer, route.closing.restart_code),
        (1024, 4999)
    );
    assert_eq!(route.closing.reconnect_after.1.as_millis(), 250);
    let other = &config.proxy.upstreams[config.proxy.routes[1].upstream];
    assert_eq!(
        (other.name.as_str(), other.read_timeout.as_millis()),
        ("a", 1500)
    );
}

/// Clients' addresses are compared as IPv4 where they are IPv4 in IPv6's clothes, so lists have to be too.
#[test]
fn networks_are_those_of_the_addresses_that_they_are_compared_with() {
    for (written, meant) in [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ] {
        let keys = format!("allow = [\"{written}\"]\ndeny = [\"{written}\"]\nname = ");
        let text = GOOD.replacen("name = ", &keys, 1);
        let client = format!("[client]\ntrusted_proxies = [\"{written}\"]\n[[listener]]");
        let config = parse(&text.replacen("[[listener]]", &client, 1)).unwrap();
        let access = &config.proxy.routes[0].access;
        let trusted = &config.proxy.client.trusted_proxies;
        for list in [&access.allow, &access.deny, trusted] {
            assert_eq!(*list, [meant.parse().unwrap()], "{written}");
        }
    }
}

/// Each entry of mistakes.txt: one change to a good file, and the whole of what the user sees.
#[test]
fn mistakes_say_what_where_and_what_to_do() {
    let (head, entries) = MISTAKES.split_once("\n\n- ").expect("entries");
    let mut seen = head.to_owned();
    for entry in entries.split("\n\n- ") {
        let (change, _) = entry
            .split_once("\nerror: ")
            .or(entry.split_once("\n?"))
            .expect(entry);
        let (from, to) = change.split_once("\n+").expect(entry);
        let as_meant = |text: &str| text.trim_start().replace("\\n", "\n").replace("\\t", "\t");
        let text = GOOD.replacen(&as_meant(from), &as_meant(to), 1);
        assert_ne!(text, GOOD, "{from}");
        let error = parse(&text).expect_err(&text);
        assert!(
            error.contains("\n --> wsgate.toml:") || error.contains("\n  --> wsgate.toml:"),
            "{error}"
        );
        assert!(error.contains(" = help: "), "{error}");
        seen += &format!("\n\n- {from}\n+{to}\n{error}");
    }
    assert!(
        seen.trim_end() == MISTAKES.trim_end(),
        "mistakes.txt is not what is seen, which is\n{seen}"
    );
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
    let name = file.display();
    assert_eq!(
        error,
        format!(
            "error: not UTF-8 at byte 17 of the file\n --> {name}:2:6\n  |\n2 | # caf\u{fffd}\n  |      ^\n  = help: save it as UTF-8"
        )
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
fn the_command_line_is_held_to_the_same_rules() {
    let run = |listen: &[&str], upstream: &[&str], admin: Option<&str>| {
        let owned = |list: &[&str]| {
            list.iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let config = Config::from_command_line(&owned(listen), &owned(upstream), admin);
        config.map_err(|error| error.to_string())
    };
    for (listen, upstream, admin, expected) in [
        (&[][..], &["a:1"][..], None, "error: no --listen\n"),
        (&["0.0.0.0:1"], &[], None, "error: no --upstream\n"),
        (
            &["0.0.0.0:1", "127.0.0.1:1"],
            &["a:1"],
            None,
            "error: --listen `127.0.0.1:1` and `0.0.0.0:1` cannot both",
        ),
        (
            &["0.0.0.0:1"],
            &["a:1", "A:1"],
            None,
            "error: --upstream `a:1` is there twice\n",
        ),
        (
            &["0.0.0.0:9900"],
            &["a:1"],
            None,
            "error: --listen `0.0.0.0:9900` takes the address of the admin",
        ),
        (
            &["0.0.0.0:1"],
            &["a:1"],
            Some("x"),
            "error: --admin `x` has no port\n",
        ),
    ] {
        let error = run(listen, upstream, admin).unwrap_err();
        assert!(
            error.starts_with(expected) && error.contains(" = help: "),
            "{error}"
        );
    }
    let open = run(&["0.0.0.0:1"], &["a:1"], Some("0.0.0.0:2")).unwrap();
    assert_eq!(
        open.warnings,
        ["the admin listener 0.0.0.0:2 can be reached from other machines"]
    );
    let file = run(&["0.0.0.0:8080"], &["127.0.0.1:9001"], None).unwrap();
    let (least, route) = (parse(LEAST).unwrap(), &file.proxy.routes[0]);
    assert_eq!(
        (route.name.as_str(), file.proxy.upstreams[0].name.as_str()),
        ("default", "default")
    );
    assert_eq!(
        (&route.rules, &route.closing),
        (&least.proxy.routes[0].rules, &least.proxy.routes[0].closing)
    );
    assert_eq!(
        (file.admin, file.log, file.threads),
        (least.admin, least.log, least.threads)
    );
}

#[test]
fn marks_and_line_ends_of_other_systems() {
    let dos = format!("\u{feff}{}", LEAST.trim_start().replace('\n', "\r\n"));
    assert_eq!(parse(&dos).unwrap(), parse(LEAST).unwrap());
    let error = parse("\u{feff}thread = 1\r\n").unwrap_err();
    assert!(
        error.contains(" --> wsgate.toml:1:1\n  |\n1 | thread = 1\n  | ^^^^^^\n"),
        "{error}"
    );
}

#[test]
fn hosts_are_kept_as_they_are_compared() {
    let written = r#"hosts = ["Chat.Example.COM.", "*.Example.com", "10.0.0.1", "[0:0::1]", "::2", "localhost"]"#;
    let config = parse(&LEAST.replace("name = ", &format!("{written}\nname = "))).unwrap();
    let expected = [
        "chat.example.com",
        "*.example.com",
        "10.0.0.1",
        "[::1]",
        "[::2]",
        "localhost",
    ];
    assert_eq!(config.proxy.routes[0].hosts, expected);
}

#[test]
fn no_prefix_and_no_wrong_byte_panics() {
    for end in 0..=EXAMPLE.len() {
        if EXAMPLE.is_char_boundary(end) {
            let _ = parse(&EXAMPLE[..end]);
        }
    }
    // Bytes, so that every one of them can be wrong; what is not UTF-8 any more is refused before it is parsed.
    for at in 0..EXAMPLE.len() {
        for with in [
            0,
            b'"',
            b'[',
            b'.',
            0x7f,
            EXAMPLE.as_bytes()[at] ^ 1,
            EXAMPLE.as_bytes()[at] ^ 0x80,
        ] {
            let mut bytes = EXAMPLE.as_bytes().to_vec();
            bytes[at] = with;
            if let Ok(Err(error)) = std::str::from_utf8(&bytes).map(parse) {
                assert!(
                    error.contains(" --> wsgate.toml:") && error.contains(" = help: "),
                    "{error}"
                );
            }
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
