"""The client's half of the handshake (RFC 6455 §4.2.1): only a right request is passed on."""

import base64

import pytest

from rig import http, raw
from rig.frames import TEXT

BROKEN = {
    "no key": dict(headers={"Sec-WebSocket-Key": None}),
    "empty key": dict(headers={"Sec-WebSocket-Key": ""}),
    "key that is not base64": dict(headers={"Sec-WebSocket-Key": "not base64 at all!!!!!=="}),
    "key of 15 bytes": dict(headers={"Sec-WebSocket-Key": base64.b64encode(bytes(15)).decode()}),
    "key of 17 bytes": dict(headers={"Sec-WebSocket-Key": base64.b64encode(bytes(17)).decode()}),
    "key without padding": dict(headers={"Sec-WebSocket-Key": http.KEY.rstrip("=")}),
    "two keys": dict(extra=[f"Sec-WebSocket-Key: {http.KEY}"]),
    "two versions": dict(extra=["Sec-WebSocket-Version: 13"]),
    "POST": dict(method="POST", extra=["Content-Length: 0"]),
    "PUT": dict(method="PUT", extra=["Content-Length: 0"]),
    "HTTP/1.0": dict(version="HTTP/1.0"),
    "no Host": dict(headers={"Host": None}),
    "body of a known length": dict(extra=["Content-Length: 5"]),
    "chunked body": dict(extra=["Transfer-Encoding: chunked"]),
    "no Connection": dict(headers={"Connection": None}),
    "Connection without upgrade": dict(headers={"Connection": "keep-alive"}),
}

VERSIONS = {
    "version 8": dict(headers={"Sec-WebSocket-Version": "8"}),
    "version 25": dict(headers={"Sec-WebSocket-Version": "25"}),
    "version 0": dict(headers={"Sec-WebSocket-Version": "0"}),
}


@pytest.mark.parametrize("wrong", BROKEN.values(), ids=BROKEN.keys())
def test_broken_request_is_answered_400(rig, wrong):
    """With a sentence; nothing of it, and nothing pipelined behind it, reaches the server."""
    client, _ = rig.request(early=http.upgrade_request("/smuggled"), **wrong)
    answer = client.read_head()
    body = client.read_body(answer)
    assert answer.status == 400, f"answered {answer.start}"
    assert len(body) > 10 and answer.get("content-type").startswith("text/plain"), f"no sentence: {body!r}"
    client.close()
    rig.assert_nothing_reached_the_server()


def test_two_hosts(rig):
    """Which one would choose the route? Refused as HTTP already (RFC 9112 §3.2)."""
    client, _ = rig.request(extra=["Host: other.test"])
    assert client.read_head().status == 400
    client.close()
    rig.assert_nothing_reached_the_server()


@pytest.mark.parametrize("wrong", VERSIONS.values(), ids=VERSIONS.keys())
def test_another_version_is_answered_426(rig, wrong):
    """And the version that is spoken (§4.2.2)."""
    client, _ = rig.request(**wrong)
    answer = client.read_head()
    assert (answer.status, answer.get("sec-websocket-version")) == (426, "13"), answer.wire
    assert client.read_body(answer), "no sentence"
    client.close()
    rig.assert_nothing_reached_the_server()


@pytest.mark.parametrize(
    "right",
    [
        dict(headers={"Connection": "keep-alive, Upgrade"}),
        dict(headers={"Connection": "uPgRaDe"}),
        dict(headers={"Connection": "keep-alive"}, extra=["Connection: Upgrade"]),
        dict(headers={"Upgrade": "WebSocket"}),
        dict(headers={"Host": "gate.test:8080"}),
    ],
    ids=str,
)
def test_unusual_but_right_requests_pass(rig, right):
    rig.open(request=right).finish()


@pytest.mark.parametrize(
    ("target", "got"),
    [
        ("http://gate.test{}?a=b", "{}?a=b"),
        ("//{}/..//?a=%zz", "//{}/..//?a=%zz"),
    ],
)
def test_unusual_targets(rig, target, got):
    """An absolute one (RFC 9112 §3.2.2), and one in an unusual spelling."""
    path = rig.new_path()
    client, _ = rig.request(path=target.format(path), early=raw.frames.encode(TEXT, b"early", masked=True))
    upstream, head = rig.server.accept_request(got.format(path))
    upstream.send(http.switching_protocols(head))
    assert client.read_head().status == 101
    assert upstream.read_frame().payload == b"early"


@pytest.mark.parametrize("headers", [120, 250])
def test_many_headers(rig, headers):
    extra = [f"X-{n}: {n}" for n in range(headers)]
    session = rig.open(request=dict(extra=extra), answer=dict(extra=extra))
    for head in (session.request, session.answer):
        assert [head.get(f"x-{n}") for n in range(headers)] == [str(n) for n in range(headers)]
    session.finish()


@pytest.mark.parametrize(
    "wrong",
    [
        dict(headers={"Host": "user@gate.test"}),
        dict(path="http://other.test/a"),
        dict(path="/?a b"),
        dict(path="http://user@gate.test/a"),
        dict(extra=["X-Folded: a", " b"]),
        dict(extra=["X-Space : a"]),
        dict(extra=["no header"]),
        dict(extra=["X-Nul: \0"]),
        dict(extra=[f"X-{n}: {n}" for n in range(300)]),
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_heads_that_are_no_heads(rig, wrong):
    """RFC 9112 §5.1, §5.2, §3.2: they make servers disagree on what was asked."""
    client, _ = rig.request(**wrong)
    assert client.read_head().status in (400, 431)
    client.close()
    rig.assert_nothing_reached_the_server()


def test_what_the_upstream_gets(rig):
    """The request as it was, hop-by-hop headers and unknown extensions removed, and where it came from."""
    session = rig.open(
        request=dict(
            headers={"Host": "chat.test:8443", "Connection": "Upgrade, X-Hop", "Cookie": "a=b; c=d"},
            extra=[
                "X-Hop: for the first hop alone",
                "Keep-Alive: timeout=5",
                "Proxy-Connection: keep-alive",
                "TE: trailers",
                "Authorization: Bearer token",
                "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-other",
                "Sec-WebSocket-Extensions: x-third",
                "Sec-WebSocket-Protocol: chat.v2, chat.v1",
                "X-Forwarded-For: 203.0.113.7",
                "X-Custom: kept",
            ],
        )
    )
    got = session.request
    for name in ("x-hop", "keep-alive", "proxy-connection", "te"):
        assert got.get(name) is None, f"{name} reached the upstream: {got.get(name)!r}"
    assert got.get("upgrade").lower() == "websocket"
    assert got.get("connection").lower() == "upgrade"
    assert got.get("sec-websocket-version") == "13"
    assert got.get("sec-websocket-extensions") == "permessage-deflate; client_max_window_bits"
    assert got.get("sec-websocket-protocol") == "chat.v2, chat.v1"
    assert got.get("cookie") == "a=b; c=d"
    assert got.get("authorization") == "Bearer token"
    assert got.get("x-custom") == "kept"
    assert got.get("host") == "chat.test:8443"
    assert got.get("x-forwarded-for").split(", ")[-1] == "127.0.0.1"
    assert got.get("x-forwarded-proto") == "http"
    assert got.get("x-forwarded-host") == "chat.test:8443"
    session.finish()


def test_the_query_reaches_the_upstream(rig):
    rig.open(request=dict(path=rig.new_path() + "?token=a%20b&x=/../y")).finish()


@pytest.mark.parametrize("origins", [["https://app.test"], ["https://app.test", "https://other.test:8443"]], ids=str)
def test_origins(start_rig, origins):
    """Cross-site hijacking: another origin is 403, whatever its case or its scheme pretends; none is not a browser."""
    rig = start_rig(route={"allowed_origins": origins})
    for origin in origins:
        rig.open(request=dict(headers={"Origin": origin})).finish()
    for origin in (
        "https://evil.test",
        "http://app.test",
        "https://app.test.evil.test",
        "https://app.test:444",
        "null",
    ):
        client, _ = rig.request(headers={"Origin": origin})
        answer = client.read_head()
        assert answer.status == 403, f"Origin {origin!r} was answered {answer.start}"
        assert client.read_body(answer), "no sentence"
    rig.assert_nothing_reached_the_server()


def test_maximum_of_connections(start_rig):
    """503 with Retry-After beyond it; a place that is left is free again."""
    rig = start_rig(route={"max_connections": 2})
    first, second = rig.open(), rig.open()
    client, _ = rig.request()
    answer = client.read_head()
    assert answer.status == 503, f"answered {answer.start}"
    assert int(answer.get("retry-after")) >= 1, answer.wire
    first.finish()
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_connections_open") == 1, "the place to be free")
    rig.open().finish()
    second.finish()


def test_no_route(start_rig):
    rig = start_rig(route={"hosts": ["chat.test"], "path": "/ws"})
    for wrong in (dict(path="/ws"), dict(path="/wsx", host="chat.test"), dict(path="/", host="chat.test")):
        client, _ = rig.request(path=wrong["path"], headers={"Host": wrong.get("host", "other.test")})
        answer = client.read_head()
        assert answer.status == 404, f"{wrong} was answered {answer.start}"
        assert client.read_body(answer), "no sentence"
    for path in ("/ws", "/ws/x", "/ws?x"):
        rig.open(request=dict(path=path, headers={"Host": "CHAT.test:99"})).finish()


# Bytes that arrive with the heads


def test_a_frame_in_the_packet_of_the_request(rig):
    """Sent before the 101 was there: delivered once it is."""
    frame = raw.frames.encode(TEXT, b"early", masked=True)
    session = rig.open(early=frame)
    session.server.read_exactly(frame)
    session.finish()


def test_frames_in_the_packet_of_the_101(rig):
    frame = raw.frames.encode(TEXT, "schön".encode(), masked=False)
    session = rig.open(server_early=frame * 3 + frame[:4])
    session.client.read_exactly(frame * 3)
    session.server.send(frame[4:])
    session.client.read_exactly(frame)
    session.finish()


def test_bad_frames_that_come_early_are_judged_too(rig):
    session = rig.open(early=raw.frames.encode(TEXT, b"\xff", masked=True))
    assert session.client.read_close()[0] == 1007
    assert session.server.read_close()[0] == 1001
    session = rig.open(server_early=raw.frames.encode(TEXT, b"\xff", masked=False))
    assert session.client.read_close()[0] == 1011
    assert session.server.read_close()[0] == 1007


def test_a_large_burst_behind_the_request(rig):
    """More than fits one read, before the 101."""
    burst = raw.frames.encode(TEXT, b"x" * 1000, masked=True) * 100
    session = rig.open(early=burst)
    session.server.read_exactly(burst)
    session.finish()


def test_request_in_single_bytes(rig):
    path = rig.new_path()
    client = rig.connect()
    for byte in http.upgrade_request(path):
        client.send(bytes([byte]))
    upstream, head = rig.server.accept_request(path)
    upstream.send(http.switching_protocols(head))
    assert client.read_head().status == 101
