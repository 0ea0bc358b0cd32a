"""Single connections in the hands of an operator: what the log and `wsgate connections` have of them, and `wsgate close`."""

import json
import re

import pytest

from rig import gate, http
from rig.frames import BINARY, CLOSE, TEXT
from rig.session import Session

AGENT = "Mozilla/5.0 (test)"
FIELDS = ["host", "path", "origin", "user_agent", "request_id", "traceparent"]
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def command(rig, *arguments):
    """Runs a command against the admin listener: `(status, output)`."""
    return gate.run([*arguments, "--admin", "{}:{}".format(*rig.gate.admin)])


def listed(rig, *arguments):
    """The connections that `wsgate connections --json` lists."""
    status, output = command(rig, "connections", "--json", *arguments)
    assert status == 0, output
    return [json.loads(line) for line in output.splitlines()]


def ended(rig):
    """The fields of the line at the end of the only connection."""
    return json.loads(rig.gate.wait_for_log(lambda line: "connection ended" in line, "of the connection's end"))


def as_json(**log):
    return {"log": {"format": "json"} | log}


def test_the_line_at_the_end_has_the_fields_of_the_request(start_rig):
    rig = start_rig(extra=as_json(fields=FIELDS))
    headers = {"Host": "Chat.example:81", "Origin": "https://a.example", "User-Agent": AGENT + "\t\u00fc", "traceparent": PARENT}
    client = rig.connect()
    client.send(http.upgrade_request("/room/1?token=secret", headers=headers))
    server, request = rig.server.accept_request("/room/1?token=secret")
    server.send(http.switching_protocols(request))
    assert client.read_head().status == 101
    session = Session(client, server, request, None)
    session.finish()
    line = ended(rig)
    assert (line["host"], line["path"], line["origin"]) == ("Chat.example:81", "/room/1", "https://a.example")
    assert line["user_agent"].startswith(AGENT + "\\t") and line["traceparent"] == PARENT
    assert session.request.get("traceparent") == PARENT
    assert re.fullmatch("[0-9a-f]{32}", line["request_id"]) and session.request.get("x-request-id") == line["request_id"]
    assert not [line for line in rig.gate.log if "secret" in line]


def test_fields_that_are_not_named_are_not_written(start_rig):
    rig = start_rig(extra=as_json(fields=["path"]))
    session = rig.open()
    session.finish()
    assert [name for name in FIELDS if name in ended(rig)] == ["path"]


@pytest.mark.parametrize("is_trusted", [False, True])
@pytest.mark.parametrize("is_upgrade", [False, True])
def test_a_request_id_is_kept_from_a_trusted_proxy_alone(start_rig, is_trusted, is_upgrade):
    rig = start_rig(client={"trusted_proxies": ["127.0.0.1"] if is_trusted else []})
    if is_upgrade:
        session = rig.open(request={"headers": {"X-Request-Id": "abc-1"}})
        ids = [value for name, value in session.request.headers if name.lower() == "x-request-id"]
        session.finish()
    else:
        client, path = rig.connect(), rig.new_path()
        client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\nX-Request-Id: abc-1\r\n\r\n".encode())
        server, head = rig.server.accept_request(path)
        ids = [value for name, value in head.headers if name.lower() == "x-request-id"]
        server.send(http.response("200 OK", b"", headers={"Connection": "close"}))
        server.close()
        assert client.read_head().status == 200
    assert len(ids) == 1 and (ids == ["abc-1"]) == is_trusted, ids


def test_without_a_header_for_them_requests_have_no_id(start_rig):
    rig = start_rig(client={"request_id": ""}, extra=as_json())
    session = rig.open(request={"headers": {"X-Request-Id": "abc-1"}})
    assert session.request.get("x-request-id") == "abc-1"
    session.finish()
    assert "request_id" not in ended(rig)


def test_a_refusal_has_the_id_of_its_request(start_rig):
    rig = start_rig(client={"trusted_proxies": ["127.0.0.1"]}, route={"allowed_origins": ["https://a.example"]})
    client = rig.connect()
    client.send(http.upgrade_request("/", headers={"Origin": "https://b.example", "X-Request-Id": "abc-2"}))
    assert client.read_head().status == 403
    rig.gate.wait_for_log(lambda line: "upgrade refused" in line and 'request_id="abc-2"' in line, "of the refusal")


def test_plain_requests_have_a_line_where_wanted(start_rig):
    rig = start_rig(extra=as_json(plain_requests="100%", fields=FIELDS))
    client, path = rig.connect(), rig.new_path()
    client.send(f"POST {path}?token=secret HTTP/1.1\r\nHost: a.test\r\nUser-Agent: {AGENT}\r\nContent-Length: 3\r\n\r\nabc".encode())
    server, head = rig.server.accept_request(f"{path}?token=secret")
    assert server.read_body(head) == b"abc"
    server.send(http.response("201 Created", b"hello", headers={"Connection": "close"}))
    server.close()
    assert client.read_body(client.read_head()) == b"hello"
    line = json.loads(rig.gate.wait_for_log(lambda line: "plain request ended" in line, "of the request"))
    assert (line["method"], line["host"], line["path"], line["status"]) == ("POST", "a.test", path, 201)
    assert (line["bytes_from_client"], line["bytes_from_server"], line["user_agent"]) == (3, 5, AGENT)
    assert line["server"] == rig.server.address and line["duration_ms"] >= 0, line
    assert head.get("x-request-id") == line["request_id"]
    assert not [line for line in rig.gate.log if "secret" in line]


def test_plain_requests_have_no_line_by_default(start_rig):
    rig = start_rig()
    client, path = rig.connect(), rig.new_path()
    client.send(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    server, _ = rig.server.accept_request(path)
    server.send(http.response("200 OK", b"", headers={"Connection": "close"}))
    server.close()
    assert client.read_head().status == 200
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_plain_requests_total", status="2xx") == 1, "the request")
    assert not [line for line in rig.gate.log if "plain request" in line]


def test_an_observed_violation_names_both_ends(start_rig):
    rig = start_rig(route={"mode": "observe"}, client={"trusted_proxies": ["127.0.0.1"]})
    session = rig.open(request={"headers": {"X-Forwarded-For": "203.0.113.9"}})
    session.server.read_exactly(session.client.send_frame(TEXT, b"\xff"))
    line = rig.gate.wait_for_log(lambda line: "violation observed" in line, "of the violation")
    assert 'client=203.0.113.9' in line and 'peer="127.0.0.1:' in line, line
    assert f'server="{rig.server.address}"' in line, line
    session.finish()


def test_ignored_headers_are_named_once_per_peer(start_rig):
    rig = start_rig()
    for _ in range(3):
        rig.open(request={"headers": {"X-Forwarded-For": "203.0.113.9"}}).finish()
    rig.gate.wait_until_idle()
    lines = [line for line in rig.gate.log if "trusted_proxies" in line]
    assert len(lines) == 1 and "x-forwarded-for" in lines[0] and "peer=127.0.0.1" in lines[0], lines


def test_connections_are_listed(start_rig):
    rig = start_rig(route={"name": "chat"}, client={"trusted_proxies": ["127.0.0.1"]})
    server = rig.server.address
    first = rig.open(request={"headers": {"X-Forwarded-For": "203.0.113.9"}})
    second = rig.open()
    for _ in range(3):
        first.server.read_exactly(first.client.send_frame(TEXT, b"hello"))
    first.client.read_exactly(first.server.send_frame(BINARY, b"x" * 300))
    one, two = listed(rig)
    assert one["id"] < two["id"]
    assert (one["client"], two["client"]) == ("203.0.113.9", "127.0.0.1") and one["peer"].startswith("127.0.0.1:")
    assert (one["route"], one["upstream"], one["server"]) == ("chat", "main", server)
    assert (one["messages_from_client"], one["bytes_from_client"]) == (3, 15)
    assert (one["messages_from_server"], one["bytes_from_server"]) == (1, 300)
    assert two["messages_from_client"] == 0 and two["idle_seconds"] < 60 and two["buffered_bytes"] == 0
    for arguments, ids in [
        (["--client", "203.0.113.0/24"], [one["id"]]),
        (["--client", "127.0.0.1"], [two["id"]]),
        (["--route", "chat", "--upstream", "main", "--server", server], [one["id"], two["id"]]),
        (["--server", "127.0.0.1:1"], []),
        (["--route", "other"], []),
    ]:
        assert [connection["id"] for connection in listed(rig, *arguments)] == ids, arguments
    status, table = command(rig, "connections", "--long")
    assert status == 0 and "203.0.113.9" in table and one["request_id"] in table, table
    assert max(map(len, table.splitlines())) <= 80, table
    status, output = command(rig, "connections", "--upstream", "mian")
    assert status == 1 and "there is no upstream `mian`" in output and "main" in output, output
    status, output = command(rig, "connections", "--client", "nobody")
    assert status == 1 and "`client` is an IP address or a network" in output, output
    first.finish()
    second.finish()
    rig.gate.wait_until_idle()
    assert listed(rig) == []


def test_a_listing_goes_on_where_it_stopped(start_rig):
    rig = start_rig()
    sessions = [rig.open() for _ in range(5)]
    ids = [connection["id"] for connection in listed(rig)]
    assert ids == sorted(ids) and len(ids) == 5
    status, body = rig.gate.get("/v1/connections?limit=2")
    page = json.loads(body)
    assert status == 200 and [one["id"] for one in page["connections"]] == ids[:2] and page["next"] == ids[1]
    _, body = rig.gate.get(f"/v1/connections?limit=3&after={page['next']}")
    page = json.loads(body)
    assert [one["id"] for one in page["connections"]] == ids[2:] and page["next"] is None
    for session in sessions:
        session.finish()


def test_an_operator_closes_a_connection(start_rig):
    """At a frame boundary; the others stay."""
    rig = start_rig(extra=as_json())
    session, other = rig.open(), rig.open()
    ids = [connection["id"] for connection in listed(rig)]
    # Half of a frame is under way toward the client.
    frame = session.server.frame(BINARY, b"x" * 100)
    session.server.send(frame[:50])
    session.client.read_exactly(frame[:50])
    status, output = command(rig, "close", str(ids[0]), "--code", "4001", "--reason", "abuse")
    assert (status, output) == (0, f"connection {ids[0]} gets Close 4001\n")
    session.server.send(frame[50:])
    session.client.read_exactly(frame[50:])
    assert session.client.read_close() == (4001, "abuse")
    assert session.server.read_close()[0] == 1001
    session.client.send_frame(CLOSE, (4001).to_bytes(2, "big"))
    session.server.send_frame(CLOSE, (1001).to_bytes(2, "big"))
    line = ended(rig)
    assert (line["initiator"], line["cause"], line["close_to_client"], line["id"]) == ("operator", "closed", 4001, ids[0])
    rig.gate.wait_for_log(lambda line: "an operator closes a connection" in line and "abuse" in line, "of the order")
    now = rig.gate.metrics()
    assert now.total("wsgate_connection_ends_total", initiator="operator", cause="closed") == 1
    assert [connection["id"] for connection in listed(rig)] == ids[1:]
    other.server.read_exactly(other.client.send_frame(TEXT, b"still here"))
    other.finish()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["999"], "there is no connection `999`; it may have ended"),
        (["0", "--code", "1006"], "`code` 1006 may not be sent"),
        (["0", "--reason", "x" * 124], "`reason` has 124 bytes; a Close has room for 123"),
    ],
)
def test_a_close_that_cannot_be(start_rig, arguments, sentence):
    rig = start_rig()
    session = rig.open()
    status, output = command(rig, "close", *arguments)
    assert status == 1 and sentence in output, output
    session.server.read_exactly(session.client.send_frame(TEXT, b"still here"))
    session.finish()
