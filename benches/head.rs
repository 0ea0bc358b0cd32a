//! What the head of an upgrade request costs from its last byte to the head that the server gets, as a Markdown table: for
//! an ordinary one of a browser, and for the worst that could be thought of, in several sizes.
//!
//! No head may cost more than time linear in its bytes: in a row, the column `ns per byte` does not grow with the size.
//! Heads that are refused are in the table as well; what they cost until then is what an attacker can buy.

use std::fmt::Write;
use std::hint::black_box;
use std::time::{Duration, Instant};
use wsgate::config::Config;
use wsgate::edge::probe::Probe;

const ROUNDS: usize = 21;

/// In bytes: up to the largest that `max_header_size` allows.
const SIZES: [usize; 4] = [4 << 10, 31 << 10, 256 << 10, 1_000_000];

const CONFIG: &str = r#"
[client]
trusted_proxies = ["127.0.0.0/8", "10.0.0.0/8"]
[[listener]]
listen = "127.0.0.1:0"
[upstream.chat]
servers = ["127.0.0.1:1"]
[[route]]
name = "open"
upstream = "chat"
allowed_origins = ["https://chat.example.com", "https://app.example.com:8443"]
request_remove = ["X-Internal"]
request_set = { "X-Env" = "prod" }
[[route]]
name = "admin"
upstream = "chat"
path = "/admin"
deny = ["0.0.0.0/0"]
[[route]]
name = "keys"
upstream = "chat"
path = "/a/a/keys"
[[route]]
name = "asked"
upstream = "chat"
hosts = ["asked.example.com"]
auth_url = "http://127.0.0.1:1/"
"#;

/// A request with this host, target and these lines beside those of the handshake.
fn head(host: &str, target: &str, lines: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
}

/// The request head of an ordinary Chromium.
const BROWSER: &str = "Connection: Upgrade\r\n\
    Pragma: no-cache\r\nCache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\n\
    Origin: https://chat.example.com\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\
    Cookie: sid=4c1b2f0a9d; theme=dark; consent=1\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nSec-WebSocket-Protocol: chat.v2, chat.v1\r\n";

const UPGRADE: &str = "Connection: Upgrade\r\n";

/// A name that differs from all others of its kind in its last characters, of `len` bytes.
fn name(n: usize, len: usize) -> String {
    format!("{:x<1$}{n:04}", "x", len.max(5) - 4)
}

fn list(count: usize, separator: &str, item: impl Fn(usize) -> String) -> String {
    let items: Vec<String> = (0..count).map(item).collect();
    items.join(separator)
}

/// A list of as many short items as `size` bytes hold.
fn fill(size: usize, item: &str) -> String {
    item.repeat(size / item.len())
}

/// The worst heads of about `size` bytes, by what they are made of.
fn worst(size: usize) -> Vec<(&'static str, String)> {
    let host = "chat.example.com";
    let with = |lines: String| head(host, "/", &format!("{UPGRADE}{lines}"));
    let path = |path: String| head(host, &path, UPGRADE);
    let fields = |count: usize, len: usize, value: usize| {
        let mut lines = String::new();
        for n in 0..count {
            write!(lines, "{}: {}\r\n", name(n, len), "v".repeat(value)).expect("a string");
        }
        lines
    };
    let named = list(31, ", ", |n| name(n + 240, 64));
    let extension = |n: usize| format!("{};{}", name(n, 16), list(16, ";", |n| name(n, 16)));
    vec![
        (
            "subprotocols, too many",
            with(format!(
                "Sec-WebSocket-Protocol: {}\r\n",
                list(size / 6, ",", |n| format!("{n:05}"))
            )),
        ),
        (
            "subprotocols, 64 long ones",
            with(format!(
                "Sec-WebSocket-Protocol: {}\r\n",
                list(64, ",", |n| name(n, size / 65))
            )),
        ),
        (
            "extensions, too many",
            with(format!(
                "Sec-WebSocket-Extensions: {}\r\n",
                fill(size, "a;b,")
            )),
        ),
        (
            "extensions, 32 of 16 parameters",
            with(format!(
                "Sec-WebSocket-Extensions: {}\r\nX: {}\r\n",
                list(32, ",", extension),
                "x".repeat(size.saturating_sub(9 << 10))
            )),
        ),
        (
            "extension with a long quoted value",
            with(format!(
                "Sec-WebSocket-Extensions: a;b=\"{}\"\r\n",
                fill(size, "\\a")
            )),
        ),
        (
            "Connection, too many names",
            head(
                host,
                "/",
                &format!("Connection: Upgrade{}\r\n", fill(size, ",a")),
            ),
        ),
        (
            "Connection, 31 names like those of 240 headers",
            head(
                host,
                "/",
                &format!(
                    "Connection: Upgrade, {named}\r\n{}",
                    fields(240, 64, (size / 240).saturating_sub(68))
                ),
            ),
        ),
        (
            "250 headers",
            with(fields(250, 16, (size / 250).saturating_sub(20))),
        ),
        (
            "250 headers with long names",
            with(fields(250, (size / 250).saturating_sub(8), 1)),
        ),
        (
            "250 headers, asked for",
            head(
                "asked.example.com",
                "/",
                &format!(
                    "{UPGRADE}{}",
                    fields(250, (size / 250).saturating_sub(8), 1)
                ),
            ),
        ),
        ("commas", with(format!("Upgrade: {}\r\n", fill(size, ",")))),
        (
            "path of nested escapes",
            path(format!("/{}61", fill(size, "%25").replacen("%25", "%", 1))),
        ),
        ("path of escapes", path(format!("/{}", fill(size, "%61")))),
        (
            "path of overlong escapes",
            path(format!("/{}", fill(size, "%c1%a1"))),
        ),
        (
            "path of dot segments",
            path(format!("/{}a", fill(size, "a/../"))),
        ),
        (
            "path that goes down and up",
            path(format!(
                "/{}{}a",
                fill(size / 2, "a/"),
                fill(size / 2, "../")
            )),
        ),
        (
            "path of empty segments",
            path(format!("/{}a", fill(size, ";/"))),
        ),
        ("long path", path(format!("/{}", "a".repeat(size)))),
        ("query", path(format!("/?{}", fill(size, "roo=m&")))),
        (
            "cookies",
            with(format!("Cookie: {}\r\n", fill(size, "si=d; "))),
        ),
        (
            "X-Forwarded-For",
            with(format!("X-Forwarded-For: {}\r\n", fill(size, "10.0.0.1, "))),
        ),
        (
            "X-Forwarded-For, 250 lines",
            with(format!("X-Forwarded-For: {}\r\n", fill(size / 250, "10.0.0.1, ")).repeat(250)),
        ),
    ]
}

fn main() {
    // `cargo test --benches` asks only whether it runs.
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let rounds = if is_bench { ROUNDS } else { 1 };
    let config = Config::parse("head.toml", CONFIG).expect("a good configuration");
    let probe = Probe::new(config.proxy);
    println!("| head | bytes | us per head | ns per byte | |");
    println!("|---|---:|---:|---:|---|");
    row(
        &probe,
        "an ordinary one",
        &head("chat.example.com", "/ws?room=7", BROWSER),
        rounds,
    );
    let kinds = worst(SIZES[0]).len();
    for kind in 0..kinds {
        for size in SIZES {
            let (what, head) = worst(size).swap_remove(kind);
            row(&probe, what, &head, rounds);
        }
    }
}

fn row(probe: &Probe, what: &str, head: &str, rounds: usize) {
    let answer = match probe.pass_on(head.as_bytes()) {
        Ok(_) => "passes".to_owned(),
        Err(sentence) => sentence.chars().take(60).collect(),
    };
    // About as many bytes per measurement in every row.
    let times = ((1 << 20) / head.len()).max(1);
    let mut samples: Vec<Duration> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..times {
                let _ = black_box(probe.pass_on(black_box(head.as_bytes())));
            }
            start.elapsed() / times as u32
        })
        .collect();
    samples.sort_unstable();
    let took = samples[samples.len() / 2].as_secs_f64();
    let (us, ns) = (took * 1e6, took * 1e9 / head.len() as f64);
    println!("| {what} | {} | {us:.1} | {ns:.2} | {answer} |", head.len());
}
