"""What wsgate says of itself: health, every series of the metrics, and the line at the end of a connection."""

import json
import re

import pytest

from rig import http, raw
from rig.frames import BINARY, PING, PONG, TEXT

# As (name, labels); every one of them has to be there after one session of each sort.
SERIES = {
    "wsgate_build_info": None,
    "wsgate_connections_open": {"route"},
    "wsgate_connections_total": {"route"},
    "wsgate_handshakes_total": {"route", "result"},
    "wsgate_messages_total": {"direction", "kind"},
    "wsgate_bytes_total": {"direction", "kind"},
    "wsgate_violations_total": {"route", "side", "kind", "mode"},
    "wsgate_connection_ends_total": {"route", "initiator", "cause"},
    "wsgate_closes_total": {"initiator", "to", "code"},
    "wsgate_connection_duration_seconds_bucket": {"le"},
    "wsgate_server_handshake_seconds_bucket": {"upstream", "server", "le"},
}
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health(rig, path):
    assert rig.gate.get(path)[0] == 200


def test_unknown_admin_path(rig):
    assert rig.gate.get("/nothing")[0] == 404


@pytest.fixture
def counted(start_rig):
    """A proxy of the test's own, so that what it counts is exact."""
    return start_rig(route={"name": "chat"})


def test_messages_and_bytes(counted):
    """Messages and payload by direction and kind; a fragmented message is one."""
    session = counted.open()
    sent = {
        "client": [
            (TEXT, "ö".encode(), True),
            (TEXT, b"abc", True),
            (BINARY, b"x" * 300, True),
            (PING, b"p" * 7, True),
        ],
        "upstream": [(TEXT, b"12", False), (0, b"345", False), (0, b"", True), (PONG, b"p" * 7, True)],
    }
    for name, messages in sent.items():
        peer, other = session.side(name)
        for opcode, payload, fin in messages:
            other.read_exactly(peer.send_frame(opcode, payload, fin=fin))
    session.finish()
    metrics = counted.gate.wait_for_metrics(
        lambda now: now.total("wsgate_messages_total", kind="close") == 2, "both Closes to be counted"
    )
    expected = {
        ("client_to_server", "text"): (2, 5),
        ("client_to_server", "binary"): (1, 300),
        ("client_to_server", "ping"): (1, 7),
        ("client_to_server", "pong"): (0, 0),
        ("client_to_server", "close"): (1, 6),
        ("server_to_client", "text"): (1, 5),
        ("server_to_client", "binary"): (0, 0),
        ("server_to_client", "ping"): (0, 0),
        ("server_to_client", "pong"): (1, 7),
        ("server_to_client", "close"): (1, 6),
    }
    for (direction, kind), (messages, size) in expected.items():
        labels = dict(direction=direction, kind=kind)
        got = metrics.total("wsgate_messages_total", **labels), metrics.total("wsgate_bytes_total", **labels)
        assert got == (messages, size), f"{labels}: counted {got}, expected {(messages, size)}"


def test_messages_are_counted_while_a_connection_lives(counted):
    """Not only at its end: connections live for days."""
    session = counted.open()
    session.server.read_exactly(session.client.send_frame(TEXT, b"now"))
    counted.gate.wait_for_metrics(lambda now: now.total("wsgate_messages_total", kind="text") == 1, "the message")
    session.finish()


def test_connections(counted):
    gate = counted.gate
    sessions = [counted.open() for _ in range(3)]
    now = gate.wait_for_metrics(lambda now: now.total("wsgate_connections_open") == 3, "three open connections")
    assert now.total("wsgate_connections_total", route="chat") == 3
    for session in sessions:
        session.finish()
    now = gate.wait_until_idle()
    assert now.total("wsgate_connections_total", route="chat") == 3
    assert now.total("wsgate_connection_duration_seconds_count") == 3
    assert now.total("wsgate_server_handshake_seconds_count") == 3
    assert now.total("wsgate_connection_ends_total", route="chat", initiator="client", cause="closed") == 3


def test_handshakes_by_result(counted):
    """Right ones, those refused by wsgate or by the upstream, and those that failed, are told apart."""
    gate, name = counted.gate, "wsgate_handshakes_total"

    def results():
        return {s.labels["result"]: s.value for s in gate.metrics().samples if s.name == name and s.value}

    def moved_by(act):
        before = results()
        act()
        gate.wait_for_metrics(lambda now: now.total(name) == sum(before.values()) + 1, "one handshake to be counted")
        return {key for key, value in results().items() if value != before.get(key, 0)}

    def broken():
        counted.request(headers={"Sec-WebSocket-Key": None})[0].read_head()

    def answered(wire):
        client, path = counted.request()
        upstream, _ = counted.server.accept_request(path)
        upstream.send(wire)
        upstream.end_sending()
        client.read_head()

    moved = {
        "ok": moved_by(lambda: counted.open().finish()),
        "bad_request": moved_by(broken),
        "declined": moved_by(lambda: answered(http.response("403 Forbidden", b"no"))),
        "invalid_upgrade": moved_by(lambda: answered(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")),
        "unreachable": moved_by(lambda: answered(b"")),
    }
    assert moved == {result: {result} for result in moved}


@pytest.mark.parametrize(
    ("act", "closes"),
    [
        pytest.param(
            lambda session: session.client.send_close(4001, "bye"), [("client", "server", 4001)], id="client closes"
        ),
        pytest.param(
            lambda session: session.server.send_close(4002, "bye"),
            [("server", "client", 4002)],
            id="upstream closes",
        ),
        pytest.param(
            lambda session: session.client.send_frame(TEXT, b"\xff"),
            [("wsgate", "client", 1007), ("wsgate", "server", 1001)],
            id="client breaks a rule",
        ),
        pytest.param(
            lambda session: session.server.send_frame(TEXT, b"\xff"),
            [("wsgate", "client", 1011), ("wsgate", "server", 1007)],
            id="upstream breaks a rule",
        ),
        pytest.param(lambda session: session.client.reset(), [("wsgate", "server", 1001)], id="client vanishes"),
        pytest.param(lambda session: session.server.reset(), [("wsgate", "client", 1012)], id="upstream vanishes"),
        pytest.param(lambda session: session.server.send_close(1001), [("wsgate", "client", 1012)], id="restart"),
    ],
)
def test_closes(counted, act, closes):
    """By whose Close it is, who was told, and the code; the application's are counted by range, not each."""
    session = counted.open()
    act(session)
    name = "wsgate_closes_total"

    def samples(now):
        return [
            (s.labels["initiator"], s.labels["to"], s.labels["code"])
            for s in now.samples
            if s.name == name and s.value
        ]

    metrics = counted.gate.wait_for_metrics(lambda now: len(samples(now)) >= len(closes), f"the closes {closes}")
    raw.drop_all()
    got = samples(metrics)
    for initiator, told, code in closes:
        label = "4xxx" if code >= 4000 else str(code)
        assert (initiator, told, label) in got, f"no {(initiator, told, label)} in {got}"


def test_every_series_is_there_with_its_labels_and_no_others(counted):
    """And no label takes a value from the network."""
    counted.open(request=dict(path="/secret-path", headers={"Host": "secret-host.test"})).finish()
    session = counted.open()
    session.client.send_frame(TEXT, b"\xff")
    session.client.read_close()
    raw.drop_all()
    metrics = counted.gate.wait_until_idle()
    for name, labels in SERIES.items():
        found = [set(sample.labels) for sample in metrics.samples if sample.name == name]
        assert found, f"{name} is missing:\n{metrics}"
        assert labels is None or all(labels <= got <= labels | {"route"} for got in found), (
            f"{name} has labels {found[0]}"
        )
    assert metrics.names() >= PROCESS, f"missing: {PROCESS - metrics.names()}"
    assert "secret" not in str(metrics), f"a label from the network:\n{metrics}"
    for family in metrics.families.values():
        assert family.documentation, f"{family.name} has no help text"


# The log


SECRET = "never in the log"


def test_line_at_the_end_as_text(counted):
    session = counted.open()
    session.server.read_exactly(session.client.send_frame(TEXT, SECRET.encode()))
    session.server.read_exactly(session.client.send_close(4001, "done"))
    session.client.read_exactly(session.server.send_close(4001))
    session.server.end_sending()
    session.client.expect_eof()
    line = counted.gate.wait_for_log(lambda line: "connection ended" in line, "of the connection's end")
    port = session.client.sock.getsockname()[1]
    fields = {
        "route": "chat",
        "server": counted.server.address,
        "peer": f"127.0.0.1:{port}",
        "messages_from_client": "1",
        "messages_from_server": "0",
        "initiator": "client",
        "cause": "closed",
        "close_to_server": "4001",
        "close_to_client": "4001",
    }
    for name, value in fields.items():
        assert re.search(rf'\b{name}="?{re.escape(value)}"?(\s|$)', line), f"{name}={value} is not in {line!r}"
    assert re.search(r"\bduration_ms=\d+", line), line


@pytest.fixture
def json_rig(start_rig):
    """A proxy that logs JSON."""
    return start_rig(route={"name": "chat"}, extra={"log": {"format": "json"}})


def ended(rig):
    """The record of the line at the end of the only connection."""
    return json.loads(rig.gate.wait_for_log(lambda line: "connection ended" in line, "of the connection's end"))


def test_line_at_the_end_as_json(json_rig):
    """Where, who, why, and messages and payload each way."""
    session = json_rig.open()
    session.server.read_exactly(session.client.send_frame(TEXT, SECRET.encode()))
    for size in (500, 7):
        session.client.read_exactly(session.server.send_frame(BINARY, b"x" * size))
    session.finish()
    close = len(b"\x03\xe8done")
    assert ended(json_rig).items() >= {
        "level": "INFO",
        "message": "connection ended",
        "route": "chat",
        "server": json_rig.server.address,
        "messages_from_client": 1,
        "bytes_from_client": len(SECRET) + close,
        "messages_from_server": 2,
        "bytes_from_server": 507 + close,
        "initiator": "client",
        "cause": "closed",
        "close_to_client": 1000,
        "close_to_server": 1000,
        "timed_out": False,
    }.items(), json_rig.gate.log  # fmt: skip


@pytest.mark.parametrize(("name", "close_to_client", "close_to_server"), [("client", 1007, 1001), ("server", 1011, 1007)])
def test_line_at_the_end_names_the_violation_and_its_byte(json_rig, name, close_to_client, close_to_server):
    session = json_rig.open()
    peer, _ = session.side(name)
    peer.send_frame(TEXT, b"abc" + SECRET.encode() + b"\xff")
    for each in (session.client, session.server):
        each.read_close()
    raw.drop_all()
    assert ended(json_rig).items() >= {
        "initiator": name,
        "cause": "violation",
        "violation": "text_not_utf8",
        "at": 3 + len(SECRET),
        "close_to_client": close_to_client,
        "close_to_server": close_to_server,
    }.items(), json_rig.gate.log  # fmt: skip


@pytest.mark.parametrize("name", ["client", "server"])
def test_line_at_the_end_names_who_vanished(json_rig, name):
    session = json_rig.open()
    peer, other = session.side(name)
    peer.reset()
    other.read_close()
    raw.drop_all()
    assert ended(json_rig).items() >= {"initiator": name, "cause": "vanished"}.items(), json_rig.gate.log


def test_every_line_of_a_json_log_is_json(json_rig):
    json_rig.open().finish()
    ended(json_rig)
    for line in json_rig.gate.log:
        assert json.loads(line).keys() >= {"timestamp", "level", "message"}, f"not a whole record: {line!r}"


@pytest.mark.parametrize("name", ["client", "server"])
def test_payload_is_never_logged(counted, name):
    """Neither of good messages, nor of bad ones, nor of Close reasons that are no text."""
    for bad in (False, True):
        session = counted.open()
        peer, other = session.side(name)
        peer.send_frame(TEXT, SECRET.encode() + (b"\xff" if bad else b""))
        (peer if bad else other).read_frame()
        raw.drop_all()
    counted.gate.wait_until_idle()
    log = counted.gate.log
    counted.gate.wait_for_log(lambda line: "connection ended" in line, "of the connection's end")
    assert not [line for line in log if SECRET in line], "payload is in the log"


def test_plain_requests_by_status_and_duration(counted):
    gate, path = counted.gate, counted.new_path()
    client = counted.connect()
    client.send(f"GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n".encode())
    server, _ = counted.server.accept_request(path)
    gate.wait_for_metrics(lambda now: now.total("wsgate_plain_requests_open", route="chat") == 1, "the request")
    server.send(http.response("204 No Content", b"", headers={"Connection": "close"}))
    server.close()
    assert client.read_head().status == 204

    def ended(now, **counts):
        by_status = {
            status: now.total("wsgate_plain_requests_total", route="chat", status=status) for status in ("2xx", "5xx", "none")
        }
        is_open = now.total("wsgate_plain_requests_open", route="chat")
        return not is_open and by_status == {"2xx": 0, "5xx": 0, "none": 0} | counts

    gate.wait_for_metrics(lambda now: ended(now, **{"2xx": 1}), "a response")
    # A client that leaves before the response.
    client = counted.connect()
    client.send(f"GET {(path := counted.new_path())} HTTP/1.1\r\nHost: app.test\r\n\r\n".encode())
    server, _ = counted.server.accept_request(path)
    client.reset()
    server.close()
    now = gate.wait_for_metrics(lambda now: ended(now, **{"2xx": 1, "none": 1}), "the end")
    assert now.total("wsgate_plain_request_duration_seconds_count", route="chat") == 2
