use super::*;
use crate::drain;
use crate::inspect::closing::Cause;
use crate::inspect::{Compressed, Kind};
use crate::session::ReaderLimit;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

fn rendered(metrics: &Metrics) -> String {
    String::from_utf8(metrics.render()).unwrap()
}

#[test]
fn traffic_of_all_threads_is_summed_once() {
    let metrics = Metrics::new();
    let tally = Tally {
        messages: [3, 0, 1, 0, 0],
        bytes: [300, 0, 4, 0, 0],
        compressed: Compressed {
            messages: 1,
            deflated: 40,
            inflated: 100,
        },
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| metrics.passed(Side::Client, &tally));
        }
    });
    for _ in 0..2 {
        let text = rendered(&metrics);
        assert!(
            text.contains("wsgate_messages_total{direction=\"client_to_server\",kind=\"text\"} 24"),
            "{text}"
        );
        assert!(
            text.contains("wsgate_bytes_total{direction=\"client_to_server\",kind=\"text\"} 2400"),
            "{text}"
        );
        assert!(
            text.contains("wsgate_messages_total{direction=\"server_to_client\",kind=\"text\"} 0"),
            "{text}"
        );
    }
}

#[test]
fn every_series_is_rendered() {
    let metrics = Metrics::new();
    metrics.add_route("chat", Mode::Observe);
    metrics.handshake("chat", Handshake::Ok);
    metrics.refused("", Reason::NoRoute);
    metrics.connection_opened("chat");
    let closed = Cause::Closed {
        by: Side::Server,
        code: Some(1000),
    };
    metrics.connection_ended("chat", &closed, Duration::from_secs(2));
    metrics.plain_request("chat").end(Some(204));
    drop(metrics.plain_request("chat"));
    metrics.plain_refused("chat", Reason::NoServer);
    metrics.drained(drain::Cause::Operator);
    metrics.draining(1, 7, 0.0);
    metrics.queue("a").end(QueueEnd::Served);
    let upstreams = Arc::new(Mutex::new(vec![figures()]));
    let read = upstreams.clone();
    metrics.read_upstreams(move || read.lock().clone());
    metrics.violation("chat", Side::Client, Kind::TextNotUtf8, Mode::Enforce);
    metrics.buffer_memory(4096);
    metrics.slow_reader(Side::Client, ReaderLimit::WriteTimeout);
    metrics.close(Initiator::Wsgate, Side::Client, Some(1007));
    metrics.close(Initiator::Side(Side::Server), Side::Client, Some(4321));
    let text = rendered(&metrics);
    for line in [
        "wsgate_build_info{version=\"",
        "wsgate_connections_open{route=\"chat\"} 0",
        "wsgate_connections_total{route=\"chat\"} 1",
        "wsgate_handshakes_total{result=\"ok\",route=\"chat\"} 1",
        "wsgate_handshakes_total{result=\"bad_request\",route=\"\"} 1",
        "wsgate_handshakes_refused_total{reason=\"no_route\",route=\"\"} 1",
        "wsgate_violations_total{kind=\"text_not_utf8\",mode=\"enforce\",route=\"chat\",side=\"client\"} 1",
        "wsgate_violations_total{kind=\"text_not_utf8\",mode=\"observe\",route=\"chat\",side=\"client\"} 0",
        "wsgate_connection_ends_total{cause=\"closed\",initiator=\"server\",route=\"chat\"} 1",
        "wsgate_plain_requests_open{route=\"chat\"} 0",
        "wsgate_plain_requests_total{route=\"chat\",status=\"2xx\"} 1",
        "wsgate_plain_requests_total{route=\"chat\",status=\"none\"} 1",
        "wsgate_plain_request_duration_seconds_count{route=\"chat\"} 2",
        "wsgate_plain_requests_refused_total{reason=\"no_server\",route=\"chat\"} 1",
        "wsgate_plain_requests_refused_total{reason=\"no_server\",route=\"\"} 0",
        "wsgate_closes_total{code=\"1007\",initiator=\"wsgate\",to=\"client\"} 1",
        "wsgate_closes_total{code=\"4xxx\",initiator=\"server\",to=\"client\"} 1",
        "wsgate_buffer_memory_bytes 4096",
        "wsgate_slow_readers_closed_total{limit=\"write_timeout\",side=\"client\"} 1",
        "wsgate_drain_connections_total{cause=\"operator\"} 1",
        "wsgate_upgrades_queued{upstream=\"a\"} 3",
        "wsgate_clients_away{upstream=\"a\"} 7",
        "wsgate_server_state{server=\"b:1\",state=\"up\",upstream=\"a\"} 1",
        "wsgate_server_state{server=\"b:1\",state=\"down\",upstream=\"a\"} 0",
        "wsgate_server_connections{server=\"b:1\",upstream=\"a\"} 5",
        "wsgate_server_plain_requests{server=\"b:1\",upstream=\"a\"} 4",
        "wsgate_server_handshakes{server=\"b:1\",upstream=\"a\"} 2",
        "wsgate_server_handshake_limit{server=\"b:1\",upstream=\"a\"} 20",
        "wsgate_server_known_rate{server=\"b:1\",upstream=\"a\"} 300",
        "wsgate_upgrades_dequeued_total{end=\"served\",upstream=\"a\"} 1",
        "wsgate_upgrade_wait_seconds_count{upstream=\"a\"} 1",
        "wsgate_drains_open 1",
        "wsgate_drains_waiting 7",
        "wsgate_connection_duration_seconds_count{route=\"chat\"} 1",
        "wsgate_server_handshake_seconds_count{server=\"b:1\",upstream=\"a\"} 1",
        "wsgate_server_handshake_seconds_bucket{server=\"b:1\",upstream=\"a\",le=\"0.0025\"} 1",
        "\nprocess_resident_memory_bytes",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    upstreams.lock().clear();
    let text = rendered(&metrics);
    assert!(
        !text.contains("wsgate_server_"),
        "of a server that is gone:\n{text}"
    );
}

fn figures() -> UpstreamFigures {
    let answers = ServerHandshakes::new();
    answers.observe(Duration::from_millis(2));
    let server = ServerFigures {
        server: "b:1".to_owned(),
        state: "up",
        states: &["up", "unreachable", "draining", "drained", "down"],
        connections: 5,
        plain_requests: 4,
        drained_seconds: 0.0,
        handshakes: 2,
        handshake_limit: 20,
        known_rate: Some(300.0),
        answers,
    };
    UpstreamFigures {
        upstream: "a".to_owned(),
        queued: 3,
        away: 7,
        servers: vec![server],
    }
}

/// The values of each label of a series.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// Metrics of a configuration with one of each: a route, an upstream, a listener, a certificate.
fn configured() -> Metrics {
    let metrics = Metrics::new();
    metrics.add_route("chat", Mode::Observe);
    metrics.add_upstream("a");
    metrics.add_listener("0.0.0.0:443", true, true);
    metrics.read_upstreams(|| vec![figures()]);
    metrics.certificates(&[CertificateExpiry {
        used_by: "0.0.0.0:443".to_owned(),
        certificate: "chat.pem".to_owned(),
        at: 0,
    }]);
    metrics.render();
    metrics
}

/// An alert on the increase of a counter needs the value before the first event.
#[test]
fn every_series_exists_from_the_start() {
    let declared = [
        include_str!("../metrics.rs"),
        include_str!("connections.rs"),
        include_str!("drains.rs"),
        include_str!("handshakes.rs"),
        include_str!("plain.rs"),
        include_str!("resources.rs"),
        include_str!("servers.rs"),
        include_str!("traffic.rs"),
    ];
    let quoted = declared.iter().flat_map(|file| file.split('"'));
    let declared: BTreeSet<&str> = quoted.filter(|text| text.starts_with("wsgate_")).collect();
    let families = configured().registry.gather();
    let exported = families.iter().map(|family| family.name());
    let exported: BTreeSet<&str> = exported
        .filter(|name| name.starts_with("wsgate_"))
        .collect();
    assert_eq!(declared, exported);
}

/// The table of README.md: each series with its type, its labels, and the values of a label where they are few and fixed.
fn table() -> String {
    let mut table = "| series | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for family in configured().registry.gather() {
        if !family.name().starts_with("wsgate_") {
            continue;
        }
        let mut labels = Labels::new();
        for metric in family.get_metric() {
            for label in metric.get_label() {
                let values = labels.entry(label.name().to_owned()).or_default();
                values.insert(label.value().to_owned());
            }
        }
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        let labels: Vec<String> = labels.iter().map(|(name, of)| shown(name, of)).collect();
        let (name, labels, help) = (family.name(), labels.join(", "), family.help());
        table += &format!("| `{name}` | {kind} | {labels} | {help} |\n");
    }
    table
}

fn shown(label: &str, values: &BTreeSet<String>) -> String {
    match values.len() {
        2..=5 if label != "route" => {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            format!("`{label}`: {}", values.join(" "))
        }
        _ => format!("`{label}`"),
    }
}

#[test]
fn the_readme_has_the_table_of_all_series() {
    let readme = include_str!("../../README.md");
    let table = table();
    assert!(
        readme.contains(&table),
        "the table of series in README.md has to be:\n\n{table}"
    );
}
