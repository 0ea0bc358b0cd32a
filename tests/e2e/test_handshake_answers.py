"""The upstream's half of the handshake (RFC 6455 §4.1): no tunnel before its 101 has been verified."""

import pytest

from rig import http, raw
from rig.frames import TEXT

EARLY = raw.frames.encode(TEXT, b"pipelined", masked=True)
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: gate.test\r\n\r\n"

WRONG = {
    "wrong accept": dict(headers={"Sec-WebSocket-Accept": http.accept_of("another key")}),
    "accept of the key itself": dict(headers={"Sec-WebSocket-Accept": http.KEY}),
    "no accept": dict(headers={"Sec-WebSocket-Accept": None}),
    "two accepts": dict(extra=["Sec-WebSocket-Accept: x"]),
    "no Upgrade": dict(headers={"Upgrade": None}),
    "another Upgrade": dict(headers={"Upgrade": "h2c"}),
    "no Connection": dict(headers={"Connection": None}),
    "another Connection": dict(headers={"Connection": "keep-alive"}),
    "subprotocol that was not offered": dict(headers={"Sec-WebSocket-Protocol": "mqtt"}),
    "subprotocol in another case": dict(headers={"Sec-WebSocket-Protocol": "CHAT.V1"}),
    "two subprotocols": dict(headers={"Sec-WebSocket-Protocol": "chat.v1, chat.v2"}),
    "extension that was not offered": dict(headers={"Sec-WebSocket-Extensions": "x-unknown"}),
    "extension that was removed from the offer": dict(headers={"Sec-WebSocket-Extensions": "x-other"}),
    "extension with a parameter that answers no offer": dict(
        headers={"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits=10"}
    ),
}

OFFER = dict(extra=["Sec-WebSocket-Protocol: chat.v1, chat.v2", "Sec-WebSocket-Extensions: permessage-deflate, x-other"])


@pytest.mark.parametrize("early", [EARLY, SMUGGLED], ids=["frame", "request"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_wrong_101_is_answered_502(rig, wrong, early):
    """What the client pipelined goes nowhere, and the connection is used for nothing else."""
    client, path = rig.request(early=early, **OFFER)
    upstream, head = rig.server.accept_request(path)
    upstream.send(http.switching_protocols(head, **wrong))
    answer = client.read_head()
    assert answer.status == 502, f"answered {answer.start}"
    assert client.read_body(answer), "no sentence"
    left, _ = upstream.read_to_end()
    assert left == b"", f"reached the upstream: {left!r}"
    client.close()
    rig.assert_nothing_reached_the_server()


@pytest.mark.parametrize(
    "garbage",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00" * 100, b"HTTP/1.1 101\r\nno header line\r\n\r\n", b"HTTP/2.0 101 x\r\n\r\n"],
    ids=repr,
)
def test_an_answer_that_is_no_http(rig, garbage):
    client, path = rig.request(early=EARLY)
    upstream, _ = rig.server.accept_request(path)
    upstream.send(garbage)
    upstream.end_sending()
    assert client.read_head().status == 502
    left, _ = upstream.read_to_end()
    assert left == b"", f"reached the upstream: {left!r}"


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 101 Switching Pro"], ids=["nothing", "half a 101"])
def test_upstream_that_vanishes_in_the_handshake(rig, sent, end):
    client, path = rig.request()
    upstream, _ = rig.server.accept_request(path)
    upstream.send(sent)
    getattr(upstream, end)()
    assert client.read_head().status == 502


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 101 Switching Pro"], ids=["nothing", "half a 101"])
def test_upstream_that_stays_silent(start_rig, sent):
    rig = start_rig(upstream={"handshake_timeout": "500ms"})
    client, path = rig.request(early=EARLY)
    upstream, _ = rig.server.accept_request(path)
    upstream.send(sent)
    answer = client.read_head()
    assert answer.status == 504, f"answered {answer.start}"
    assert client.read_body(answer), "no sentence"
    left, _ = upstream.read_to_end()
    assert left == b"", f"reached the upstream: {left!r}"


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        pytest.param("401 Unauthorized", {"WWW-Authenticate": "Bearer"}, id="401"),
        pytest.param("302 Found", {"Location": "https://login.test/"}, id="302"),
        pytest.param("403 Forbidden", {"X-Reason": "banned"}, id="403"),
        pytest.param("200 OK", {"Content-Type": "text/html"}, id="200"),
        pytest.param("429 Too Many Requests", {"Retry-After": "7"}, id="429"),
        pytest.param("500 Internal Server Error", {}, id="500"),
        pytest.param("426 Upgrade Required", {"Sec-WebSocket-Version": "13"}, id="426"),
    ],
)
@pytest.mark.parametrize("early", [b"", EARLY, SMUGGLED], ids=["nothing", "frame", "request"])
def test_any_other_answer_is_relayed(rig, status, headers, early):
    """With its headers and its body; what the client pipelined goes nowhere, and neither connection is used again."""
    body = f"the answer {status}\n".encode() * 500
    client, path = rig.request(early=early)
    upstream, _ = rig.server.accept_request(path)
    upstream.send(http.response(status, body, headers=headers | {"Connection": "X-Hop", "X-Hop": "a"}))
    answer = client.read_head()
    assert answer.start == f"HTTP/1.1 {status}"
    for name, value in headers.items():
        assert answer.get(name) == value, f"{name}: {answer.wire!r}"
    assert answer.get("x-hop") is None, answer.wire
    assert client.read_body(answer) == body
    for peer in (client, upstream):
        left, _ = peer.read_to_end()
        assert left == b"", f"the {peer.name} got {left!r}"


@pytest.mark.parametrize("framing", ["chunked", "until the end"])
def test_bodies_of_refusals_without_a_length(rig, framing):
    client, path = rig.request()
    upstream, _ = rig.server.accept_request(path)
    if framing == "chunked":
        chunks = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
        upstream.send(
            http.response("403 Forbidden", headers={"Content-Length": None, "Transfer-Encoding": "chunked"}) + chunks
        )
    else:
        upstream.send(
            http.response("403 Forbidden", headers={"Content-Length": None, "Connection": "close"}) + b"hello world"
        )
        upstream.close()
    answer = client.read_head()
    assert (answer.status, client.read_body(answer)) == (403, b"hello world")


def test_what_the_client_gets(rig):
    """The 101 as it was, hop-by-hop headers removed apart from its own, and the accept of the client's key."""
    session = rig.open(
        request=OFFER,
        answer=dict(
            headers={"Connection": "Upgrade, X-Hop", "Sec-WebSocket-Protocol": "chat.v2", "Set-Cookie": "s=1"},
            extra=["X-Hop: for one hop", "Keep-Alive: timeout=5", "Set-Cookie: t=2", "X-Custom: kept"],
        ),
    )
    got = session.answer
    assert got.get("upgrade").lower() == "websocket"
    assert got.get("connection").lower() == "upgrade"
    assert got.get("sec-websocket-accept") == http.accept_of(http.KEY)
    assert got.get("sec-websocket-protocol") == "chat.v2"
    assert got.all("set-cookie") == ["s=1", "t=2"]
    assert got.get("x-custom") == "kept"
    for name in ("x-hop", "keep-alive", "sec-websocket-extensions"):
        assert got.get(name) is None, f"{name} reached the client: {got.get(name)!r}"
    session.finish()


def test_101_in_single_bytes(rig):
    client, path = rig.request()
    upstream, head = rig.server.accept_request(path)
    frame = upstream.frame(TEXT, b"first")
    for byte in http.switching_protocols(head) + frame:
        upstream.send(bytes([byte]))
    assert client.read_head().status == 101
    client.read_exactly(frame)


def test_an_interim_answer_before_the_101(rig):
    """RFC 9110 §15.2: a 1xx may come before the answer, and is not it."""
    client, path = rig.request()
    upstream, head = rig.server.accept_request(path)
    upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + http.switching_protocols(head))
    answer = client.read_head()
    if answer.status == 103:
        answer = client.read_head()
    assert answer.status == 101, f"answered {answer.start}"


def test_interim_answers_one_by_one(rig):
    client, path = rig.request()
    upstream, head = rig.server.accept_request(path)
    for _ in range(3):
        for piece in (b"HTTP/1.1 100 Continue\r", b"\n\r", b"\n"):
            upstream.send(piece)
    upstream.send(http.switching_protocols(head) + upstream.frame(TEXT, b"first"))
    assert client.read_head().status == 101
    client.read_exactly(upstream.frame(TEXT, b"first"))


def test_an_interim_answer_before_another(rig):
    client, path = rig.request()
    upstream, _ = rig.server.accept_request(path)
    upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + http.response("401 Unauthorized", b"no"))
    answer = client.read_head()
    assert (answer.status, client.read_body(answer)) == (401, b"no")


@pytest.mark.parametrize(
    ("line", "got"),
    [("X-Space : a", "a"), ("X-Space:a", "a"), ("X-Space:\t a \t", "a"), ("X-Space: \u00fc", "\u00fc"), ("X-Space:", "")],
)
def test_unusual_lines_of_a_101(rig, line, got):
    """RFC 9112 §5.1: a proxy removes the white space before the colon."""
    session = rig.open(answer=dict(extra=[line]))
    assert session.answer.get("x-space") == got
    session.finish()


@pytest.mark.parametrize(
    "lines",
    [["X-Folded: a", " b"], ["X-Nul: \0"], ["no header"], [f"X-{n}: {n}" for n in range(300)]],
    ids=lambda lines: lines[-1][:20],
)
def test_a_101_that_cannot_be_passed_on(rig, lines):
    client, path = rig.request(early=EARLY)
    upstream, head = rig.server.accept_request(path)
    upstream.send(http.switching_protocols(head, extra=lines))
    answer = client.read_head()
    assert answer.status == 502, answer.start
    assert client.read_body(answer), "no sentence"
    left, _ = upstream.read_to_end()
    assert left == b"", f"reached the upstream: {left!r}"


def test_101_then_http(rig):
    """The upstream believes it still speaks HTTP: its bytes are no frames, and the client never sees them."""
    client, path = rig.request()
    upstream, head = rig.server.accept_request(path)
    upstream.send(http.switching_protocols(head) + http.response("200 OK", b"hello"))
    assert client.read_head().status == 101
    assert upstream.read_close()[0] == 1002
    assert client.read_close()[0] == 1011
    client.send_close(1011)
    client.end_sending()
    upstream.end_sending()
    client.expect_eof()
