//! The program as a user starts it.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

fn wsgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wsgate"))
        .args(arguments)
        .output()
        .expect("wsgate starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_tour_of_the_demo_is_as_announced() {
    let output = wsgate(&["demo", "--once"]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}\n{}", text(&output.stderr));
    assert_eq!(shown.matches("   as announced").count(), 6, "{shown}");
    assert!(
        shown.contains(
            "Close 1007 \"invalid UTF-8 at byte 4 of the message; send raw bytes as binary\""
        ),
        "{shown}"
    );
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it has an address").to_string();
    let output = wsgate(&[
        "run",
        "--listen",
        &address,
        "--upstream",
        "127.0.0.1:1",
        "--admin",
        "off",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let lines = text(&output.stderr);
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(
        lines.starts_with(&format!("error: cannot listen on {address}: ")),
        "{lines}"
    );
}

#[test]
fn check_says_whether_a_configuration_is_good() {
    let good = wsgate(&["check", "--config", "conf/wsgate.toml"]);
    assert!(good.status.success(), "{}", text(&good.stderr));
    assert_eq!(
        text(&good.stdout),
        "conf/wsgate.toml: good; listeners: 1, routes: 4, upstreams: 3\n"
    );

    let missing = wsgate(&["check", "--config", "conf/no-such-file.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).starts_with("error: cannot read conf/no-such-file.toml"));

    let bad = wsgate(&["check", "--config", "Cargo.toml"]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        text(&bad.stderr).contains("error: unknown key `"),
        "{}",
        text(&bad.stderr)
    );
}

#[test]
fn arguments_that_make_no_sense_are_usage_errors() {
    for arguments in [
        &["run"][..],
        &["run", "--listen", "127.0.0.1:0"],
        &["run", "--upstream", "a:1"],
        &["fly"],
    ] {
        let output = wsgate(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            text(&output.stderr).contains("Usage"),
            "{}",
            text(&output.stderr)
        );
    }
    let output = wsgate(&["run", "--listen", "8080", "--upstream", "a:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: --listen `8080` has no port\n"));
}

#[test]
fn check_takes_several_files_and_standard_input() {
    let both = wsgate(&["check", "--config", "Cargo.toml", "conf/wsgate.toml"]);
    assert_eq!(both.status.code(), Some(1));
    assert!(
        text(&both.stdout).contains("conf/wsgate.toml: good"),
        "the good one is checked, too"
    );
    assert!(text(&both.stderr).contains("Cargo.toml:"));
    for (input, code, says) in [
        (
            std::fs::read("conf/wsgate.toml").expect("an example"),
            0,
            "standard input: good",
        ),
        (b"threads = 'x'".to_vec(), 1, "standard input:1:11"),
        (b"\xff".to_vec(), 1, "not UTF-8 at byte 0"),
    ] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_wsgate"))
            .args(["check", "--config", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("wsgate starts");
        let mut stdin = process.stdin.take().expect("its input");
        stdin.write_all(&input).expect("it reads");
        drop(stdin);
        let output = process.wait_with_output().expect("it ends");
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(
            (output.status.code(), shown.contains(says)),
            (Some(code), true),
            "{shown}"
        );
    }
}
