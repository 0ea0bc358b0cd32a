//! The requests that change something, without a listener.

use super::*;
use crate::deploy::Settings;
use crate::transport::address::Address;
use crate::upstream::settings::Upstream;
use serde_json::{Value, json};
use std::time::Duration;

fn drains() -> Drains {
    let servers = vec![Address::Unix("/a".into()), Address::Unix("/b".into())];
    Drains::new(
        Control::new(Settings::default(), Arc::default()),
        Arc::new(Pools::new(
            &[Upstream::new("chat", servers)],
            Arc::default(),
        )),
    )
}

fn is_drained(drains: &Drains, server: usize) -> bool {
    drains.pools.current()[0].members().servers[server].is_drained()
}

fn ask(drains: &Drains, request: &str, body: &str) -> (u16, Value) {
    let (method, path) = request.split_once(' ').expect("a method and a path");
    let method = method.parse().expect("a method");
    let (status, body) = drains
        .answer(&method, path, body.as_bytes(), "a test")
        .expect("an endpoint");
    (status.as_u16(), body)
}

#[tokio::test]
async fn a_server_is_drained_and_resumed() {
    let drains = drains();
    let place = |server| crate::drain::Place {
        upstream: 0,
        server,
        generation: 0,
    };
    let members = [
        drains.control.enroll(place(0), Duration::ZERO),
        drains.control.enroll(place(1), Duration::ZERO),
    ];
    let (status, body) = ask(
        &drains,
        "POST /v1/upstreams/chat/drain",
        r#"{"server": "unix:/a", "over": "30s"}"#,
    );
    assert_eq!((status, &body["begun"][0]["total"]), (202, &json!(1)));
    let (_, status) = ask(&drains, "GET /v1/status", "");
    let servers = &status["upstreams"][0]["servers"];
    let handshakes = json!({ "under_way": 0, "limit": 20, "per_second": 0.0, "known_rate": null });
    let out =
        json!({ "reason": "drained", "for_seconds": 0, "until_seconds": null, "by": "a test" });
    for (server, address, state, out) in [
        (0, "unix:/a", "draining", out),
        (1, "unix:/b", "up", Value::Null),
    ] {
        let expected = json!({
            "address": address, "state": state, "out": out, "unreachable": null, "connections": 1, "plain_requests": 0, "handshakes": handshakes,
        });
        assert_eq!(servers[server], expected);
    }
    let (_, shown) = ask(&drains, "GET /v1/upstreams/chat/drain", "");
    assert_eq!(shown["drains"][0]["state"], "running");
    let (status, body) = ask(
        &drains,
        "POST /v1/upstreams/chat/resume",
        r#"{"server": "unix:/a"}"#,
    );
    assert_eq!((status, &body["cancelled"]), (200, &json!(1)));
    assert_eq!(body["resumed"], json!(["unix:/a"]));
    assert!(!is_drained(&drains, 0));
    drop(members);
}

#[tokio::test]
async fn what_is_drained_already_is_said() {
    let drains = drains();
    let forced = r#"{"force": true}"#;
    let (status, body) = ask(&drains, "POST /v1/upstreams/chat/drain", forced);
    assert_eq!(status, 202);
    assert!(
        body["notes"][0]
            .as_str()
            .is_some_and(|note| note.contains("no server of `chat`")),
        "{body}"
    );
    let (status, body) = ask(&drains, "POST /v1/upstreams/chat/drain", "{}");
    assert_eq!(status, 200);
    assert!(
        body["message"]
            .as_str()
            .is_some_and(|message| message.contains("already")),
        "{body}"
    );
    assert_eq!(ask(&drains, "DELETE /v1/upstreams/chat/drain", "").0, 200);
    assert!(
        is_drained(&drains, 0) && is_drained(&drains, 1),
        "their drain has ended"
    );
    assert_eq!(ask(&drains, "POST /v1/upstreams/chat/resume", "").0, 200);
    assert!(!is_drained(&drains, 0) && !is_drained(&drains, 1));
}

#[tokio::test]
async fn a_deploy_takes_no_server_out_and_a_dry_run_does_nothing() {
    let drains = drains();
    let place = crate::drain::Place {
        upstream: 0,
        server: 0,
        generation: 0,
    };
    let member = drains.control.enroll(place, Duration::ZERO);
    let (status, body) = ask(
        &drains,
        "POST /v1/upstreams/chat/deploy",
        r#"{"dry_run": true, "rate": 1}"#,
    );
    assert_eq!((status, &body["forecast"]["connections"]), (200, &json!(1)));
    assert_eq!(drains.control.drains().len(), 0);
    assert_eq!(ask(&drains, "POST /v1/upstreams/chat/deploy", "").0, 202);
    assert!(!is_drained(&drains, 0));
    drop(member);
}

#[tokio::test]
async fn the_last_server_is_drained_by_force_only() {
    let drains = drains();
    let last = r#"{"server": "unix:/b"}"#;
    let path = "POST /v1/upstreams/chat/drain";
    assert_eq!(
        ask(&drains, path, r#"{"server": "unix:/a", "by": "alice"}"#).0,
        202
    );
    let (status, body) = ask(&drains, path, last);
    assert_eq!(
        (status, &body["needs_force"]),
        (409, &json!(true)),
        "{body}"
    );
    assert!(!is_drained(&drains, 1), "nothing has changed");
    let (_, body) = ask(&drains, path, r#"{"server": "unix:/b", "dry_run": true}"#);
    assert_eq!(body["forecast"]["leaves_none"], json!(true));
    assert_eq!(
        ask(&drains, path, r#"{"server": "unix:/b", "force": true}"#).0,
        202
    );
    assert!(is_drained(&drains, 1));
    assert_eq!(drains.upstreams_without_servers(), ["chat"]);
    let (_, status) = ask(&drains, "GET /v1/status", "");
    let out = &status["upstreams"][0]["servers"][0]["out"];
    assert_eq!(out["by"], json!("alice (a test)"));
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let drains = drains();
    for (request, body, status, says) in [
        ("POST /v1/upstreams/chta/drain", "", 404, "chat"),
        (
            "POST /v1/upstreams/chat/drain",
            r#"{"server": "c:3"}"#,
            404,
            "unix:/b",
        ),
        (
            "POST /v1/upstreams/chat/drain",
            "{\"over\": ",
            400,
            "line 1 column 9",
        ),
        (
            "POST /v1/upstreams/chat/drain",
            r#"{"ovr": "30s"}"#,
            400,
            "unknown field `ovr`",
        ),
        (
            "POST /v1/upstreams/chat/drain",
            r#"{"over": "30"}"#,
            400,
            "`30` is not a duration; write",
        ),
        (
            "POST /v1/upstreams/chat/drain",
            r#"{"over": "3s", "rate": 2}"#,
            400,
            "two paces",
        ),
        (
            "POST /v1/upstreams/chat/drain",
            r#"{"rate": 0}"#,
            400,
            "above 0",
        ),
        (
            "POST /v1/upstreams/chat/drain",
            "",
            409,
            "no other server of upstream `chat` takes connections: new clients would wait for 5s",
        ),
        (
            "POST /v1/upstreams/chat/resume",
            r#"{"by": "a\nb"}"#,
            400,
            "`by` is a name",
        ),
        ("PUT /v1/upstreams/chat/drain", "", 405, "GET, POST, DELETE"),
        ("GET /v1/upstreams/chat/resume", "", 405, "POST"),
        ("POST /v1/status", "", 405, "GET"),
    ] {
        let (got, answer) = ask(&drains, request, body);
        assert_eq!(got, status, "{request} {body}: {answer}");
        assert!(
            answer.to_string().contains(says),
            "{request} {body}: {answer}"
        );
    }
    assert!(!is_drained(&drains, 0), "nothing has changed");
}
