//! The map of the rooms in `src/lib.rs` is true: a room uses only rooms above it in the table, and pure rooms name nothing that does
//! I/O, tells the time, draws at random or writes a log.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms that the table calls pure.
const PURE: [&str; 7] = [
    "frame",
    "handshake",
    "limit",
    "drain",
    "admission",
    "inspect",
    "session",
];

/// What a pure room does not name outside its tests.
const IMPURE: [&str; 9] = [
    "tokio",
    "pingora",
    "tracing",
    "Instant::now",
    "SystemTime",
    "thread_rng",
    "std::fs",
    "TcpStream",
    "println!",
];

/// The rooms of `edge`, in the order in which its header has them.
const EDGE: [&str; 4] = ["http", "client", "route", "upgrade"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Rooms by their row in the table of `src/lib.rs`.
fn rows() -> BTreeMap<String, usize> {
    let map = fs::read_to_string(source().join("lib.rs")).expect("src/lib.rs");
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    let mut rooms = BTreeMap::new();
    for (row, line) in rows.enumerate() {
        let names = line.split(" | ").next().expect("a first column");
        for name in names
            .split(['`', '[', ']', ',', ' '])
            .filter(|name| !name.is_empty())
        {
            rooms.insert(name.to_owned(), row);
        }
    }
    rooms
}

/// Every file with its code outside tests and comments.
fn files() -> Vec<(Vec<String>, String)> {
    let mut files = Vec::new();
    let mut folders = vec![source()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path
                .strip_prefix(source())
                .expect("below src")
                .with_extension("");
            let parts: Vec<String> = relative
                .iter()
                .map(|part| part.to_string_lossy().into_owned())
                .collect();
            let is_test = parts
                .iter()
                .any(|part| part == "tests" || part == "simulation");
            let is_root = parts == ["lib"] || parts == ["main"];
            if is_test || is_root || path.extension().is_none_or(|end| end != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a file");
            let text = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            let code: Vec<&str> = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect();
            files.push((parts, code.join("\n")));
        }
    }
    files
}

/// The first names behind `prefix` in the code.
fn names_behind<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    code.split(prefix).skip(1).map(move |rest| {
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn a_room_uses_only_rooms_above_it() {
    let rows = rows();
    let mut wrong = Vec::new();
    for (path, code) in files() {
        let room = &path[0];
        let Some(row) = rows.get(room) else {
            wrong.push(format!("{room} is missing in the table of src/lib.rs"));
            continue;
        };
        for used in names_behind(&code, "crate::") {
            if rows.get(used).is_some_and(|above| above > row) {
                wrong.push(format!(
                    "{} uses {used}, which is below {room}",
                    path.join("/")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_room_of_the_edge_uses_only_rooms_before_it() {
    let mut wrong = Vec::new();
    for (path, code) in files() {
        let Some(place) = EDGE
            .iter()
            .position(|room| path[0] == "edge" && path[1] == *room)
        else {
            continue;
        };
        for used in names_behind(&code, "crate::edge::") {
            let is_later = EDGE[place + 1..].contains(&used);
            if is_later || ["connections", "http2", "plain", "refusals"].contains(&used) {
                wrong.push(format!("{} uses edge::{used}", path.join("/")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_are_pure() {
    let mut wrong = Vec::new();
    for (path, code) in files() {
        if PURE.contains(&path[0].as_str()) {
            let named = IMPURE.iter().filter(|name| code.contains(**name));
            wrong.extend(named.map(|name| format!("{} names {name}", path.join("/"))));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every series that wsgate exports is looked at by an end-to-end test.
#[test]
fn every_series_is_asserted() {
    let read = |directory: &str, end: &str| -> String {
        let entries = fs::read_dir(directory).expect(directory);
        let files = entries.map(|entry| entry.expect("an entry").path());
        let files = files.filter(|file| file.to_string_lossy().ends_with(end));
        files
            .map(|file| fs::read_to_string(file).expect("a text"))
            .collect()
    };
    let sources =
        read("src/metrics", ".rs") + &fs::read_to_string("src/metrics.rs").expect("metrics");
    let tests = read("tests/e2e", ".py");
    let mut names: Vec<&str> = sources
        .split('"')
        .filter(|text| {
            let mut bytes = text.bytes();
            text.starts_with("wsgate_")
                && bytes
                    .all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() > 40, "{names:?}");
    names.retain(|name| !tests.contains(name));
    assert_eq!(names, [""; 0], "no test of tests/e2e names these series");
}
