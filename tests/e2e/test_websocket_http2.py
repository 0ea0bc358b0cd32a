"""WebSockets on streams of HTTP/2 (RFC 8441), frame by frame: how they are opened and refused, how they end, what one may cost the others."""

import contextlib
import signal
import time

import pytest

from rig import certificates, frames, http, http2, peers, raw
from rig.frames import BINARY, PING, PONG, TEXT
from rig.gate import Gate, config
from rig.operator import request

ENABLE_CONNECT_PROTOCOL = 8
REFUSED = "wsgate_handshakes_refused_total"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    authority = certificates.Authority(tmp_path_factory.mktemp("ca"))
    return authority.sign("a", ["a.test", "127.0.0.1"])


@pytest.fixture
def start(start_rig):
    """Starts a wsgate that takes HTTP/2 in clear text."""
    return lambda **options: start_rig(listener={"http2_clear_text": True} | options.pop("listener", {}), **options)


@pytest.fixture
def connect():
    """Makes connections of HTTP/2 that are closed with the test."""
    made = []

    def connect(rig, *, clear=True, **values):
        made.append(http2.Connection(rig.gate.address, clear=clear, **values))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


def open_websocket(rig, connection, number, path=None, **options):
    """A WebSocket on a stream, with its server: `(stream, server)`."""
    path = path or rig.new_path()
    stream = connection.open(number, path, **options)
    server, head = rig.server.accept_request(path)
    server.send(http.switching_protocols(head))
    assert stream.status() == 200
    return stream, server


def settings_of(connection):
    """What the gate announces."""
    payload = connection.wait_for(http2.SETTINGS)
    pairs = [payload[at : at + 6] for at in range(0, len(payload), 6)]
    return {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs}


# The handshake


@pytest.mark.parametrize("clear", [True, False], ids=["clear text", "TLS"])
def test_a_websocket_is_opened_and_closed(start_rig, connect, pair, clear):
    rig = start_rig(listener={"http2_clear_text": True} if clear else {"certificates": [pair]})
    connection = connect(rig, clear=clear)
    assert settings_of(connection)[ENABLE_CONNECT_PROTOCOL] == 1
    path = rig.new_path()
    fields = [("sec-websocket-protocol", "chat, other"), ("cookie", "a=b"), ("origin", "https://a.test"), ("cookie", "c=d")]
    stream = connection.open(1, path, fields=fields)
    server, head = rig.server.accept_request(path)
    assert head.start == f"GET {path} HTTP/1.1"
    assert (head.get("upgrade"), head.get("connection"), head.get("host")) == ("websocket", "Upgrade", "a.test")
    assert (head.get("cookie"), head.get("origin")) == ("a=b; c=d", "https://a.test")
    assert head.get("sec-websocket-key") and not [name for name, _ in head.headers if name.startswith(":")]
    server.send(http.switching_protocols(head, headers={"Sec-WebSocket-Protocol": "chat", "X-Of-Server": "yes"}))
    assert stream.status() == 200
    assert (stream.head["sec-websocket-protocol"], stream.head["x-of-server"]) == ("chat", "yes")
    assert not {"connection", "upgrade", "sec-websocket-accept", "transfer-encoding"} & set(stream.head)
    stream.send_frame(TEXT, b"to the server")
    assert server.read_frame().payload == b"to the server"
    server.send_frame(BINARY, b"to the client")
    assert stream.read_frame().payload == b"to the client"
    server.send_close(4001, "done")
    assert stream.read_close() == (4001, "done")
    stream.send_close(4001)
    assert server.read_close()[0] == 4001
    server.close()
    assert stream.wait_until_ended() == "end", "a FIN is END_STREAM"
    assert connection.goaway is None


def test_every_cut_of_data_frames(start, connect):
    """DATA frames of one byte, empty ones, and padding are nothing to the WebSocket in them."""
    rig = start()
    connection = connect(rig)
    stream, server = open_websocket(rig, connection, 1)
    wire = frames.encode(TEXT, "grüße".encode(), masked=True) + frames.encode(PING, b"p", masked=True)
    for at, byte in enumerate(wire):
        stream.send(bytes([byte]), padding=at * 7 % 256 if at % 3 else None)
        stream.send(b"")
    assert server.read_frame().payload == "grüße".encode()
    assert server.read_frame().opcode == PING
    for cut in range(len(wire) + 1):
        stream.send(wire[:cut])
        stream.send(wire[cut:], padding=cut)
        assert [server.read_frame().opcode for _ in range(2)] == [TEXT, PING]


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ({"fields": [("sec-websocket-version", "8")]}, 426, "version"),
        ({"fields": [("sec-websocket-version", "13"), ("sec-websocket-version", "13")]}, 400, "version"),
        ({"fields": [("sec-websocket-protocol", "a, a")]}, 400, "subprotocols"),
        ({"fields": [("sec-websocket-extensions", ";")]}, 400, "extensions"),
        ({"fields": [("content-length", "5")]}, 400, "body"),
        ({"fields": [("origin", "https://evil.test")]}, 403, "origin"),
        ({"path": "/elsewhere"}, 404, "no_route"),
        ({"fields": [("x", "a" * 10_000)]}, 431, "head_too_large"),
        ({"protocol": "connect-udp"}, 501, "upgrade"),
    ],
)
def test_refusals_are_responses(start, connect, options, status, reason):
    rig = start(route={"path": "/room", "allowed_origins": ["https://a.test"]}, client={"max_header_size": "8KiB"})
    connection = connect(rig)
    stream = connection.open(1, options.pop("path", "/room"), **options)
    assert stream.status() == status
    assert stream.body().endswith(b"\n")
    if status == 426:
        assert stream.head["sec-websocket-version"] == "13"
    assert rig.gate.metrics().total(REFUSED, reason=reason) == 1
    # The connection serves others.
    other = connection.open(3, "/room", fields=[("origin", "https://a.test")])
    server = rig.server.accept()
    server.send(http.switching_protocols(server.read_head()))
    assert other.status() == 200


@pytest.mark.parametrize("answer", ["401 Unauthorized", "302 Found", "503 Service Unavailable"])
def test_a_servers_own_answer_arrives_with_its_body(start, connect, answer):
    rig = start()
    connection, path = connect(rig), rig.new_path()
    stream = connection.open(1, path)
    server, _ = rig.server.accept_request(path)
    server.send(http.response(answer, b"the server's own words", headers={"Location": "/elsewhere"}))
    assert stream.status() == int(answer[:3])
    assert (stream.body(), stream.head["location"]) == (b"the server's own words", "/elsewhere")


def test_a_wrong_accept_is_a_502(start, connect):
    rig = start()
    connection, path = connect(rig), rig.new_path()
    stream = connection.open(1, path)
    server, head = rig.server.accept_request(path)
    server.send(http.switching_protocols(head, headers={"Sec-WebSocket-Accept": http.accept_of(http.KEY)}))
    assert stream.status() == 502
    assert b"Sec-WebSocket-Accept" in stream.body()


def test_connect_without_a_protocol_is_no_tunnel(start, connect):
    rig = start()
    connection = connect(rig)
    connection.send(http2.headers(1, None, method="CONNECT", authority="a.test:443"))
    head, body = connection.read_response(1)
    assert head[":status"] == "405" and b"CONNECT" in body


@pytest.mark.parametrize("field", ["connection", "upgrade", "keep-alive", "transfer-encoding", "proxy-connection"])
def test_fields_of_a_connection_are_malformed(start, connect, field):
    """RFC 9113 §8.2.2."""
    rig = start()
    connection = connect(rig)
    stream = connection.open(1, fields=[(field, "upgrade")])
    assert stream.wait_until_ended() == http2.PROTOCOL_ERROR


def test_what_is_not_announced_is_refused(start, connect):
    """A client that asks nevertheless gets a reset, and the connection goes on."""
    rig = start(listener={"websocket_http2": False})
    connection = connect(rig)
    assert ENABLE_CONNECT_PROTOCOL not in settings_of(connection)
    stream = connection.open(1)
    assert stream.wait_until_ended() == http2.PROTOCOL_ERROR
    path = rig.new_path()
    connection.send(http2.headers(3, path))
    server, _ = rig.server.accept_request(path)
    server.send(http.response("200 OK", b"x"))
    assert connection.read_response(3)[1] == b"x"


def test_both_protocols_share_a_clear_listener(start, connect):
    rig = start()
    _, server = open_websocket(rig, connect(rig), 1)
    rig.assert_works()
    # A method that begins as the preface does.
    peer = raw.connect(rig.gate.address)
    peer.send(b"P")
    path = rig.new_path()
    peer.send(f"UT {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n".encode())
    server, head = rig.server.accept_request(path)
    assert head.start.startswith("PUT ")
    server.send(http.response("200 OK", b"put"))
    assert peer.read_body(peer.read_head()) == b"put"


def test_chromium_opens_websockets_on_the_connection_of_its_page(tmp_path, pair):
    """The page comes over HTTP/2, and its WebSockets as streams of that connection: all have the port of one connection."""
    server = peers.Server("ws")
    try:
        with Gate(tmp_path, config([server.address], listener={"certificates": [pair]})) as wsgate:
            run = peers.Run("chromium", wsgate.url, {"client": {}, "server": {}}, tmp_path / "profile", scheme="wss")
            for scenario in ("text", "large_binary", "many"):
                assert run.result(scenario)["equal"]
            assert run.result("server_closes_4001")["code"] == 4001
            wsgate.wait_for_metrics(lambda now: now.total("wsgate_connections_open") == 0, "the end of all")
            ended = [line for line in wsgate.log if "connection ended" in line and run.path in line]
            assert len(ended) >= 8
            assert len({line.partition(" peer=")[2].split()[0] for line in ended}) == 1
    finally:
        server.stop()


# The end


def test_a_reset_of_the_stream_is_a_reset(start, connect):
    rig = start()
    connection = connect(rig)
    stream, server = open_websocket(rig, connection, 1)
    sibling, other = open_websocket(rig, connection, 3)
    connection.send(http2.reset(1))
    assert server.read_close()[0] == 1001
    server.close()
    sibling.send_frame(TEXT, b"alive")
    assert other.read_frame().payload == b"alive"


def test_a_server_that_dies_is_1012(start, connect):
    rig = start(route={"reconnect_after": "50ms-400ms"})
    connection = connect(rig)
    stream, server = open_websocket(rig, connection, 1)
    server.reset()
    assert stream.read_close()[0] == 1012
    stream.send_close(1012)
    assert stream.wait_until_ended() == "end"
    assert connection.goaway is None


def test_a_connection_that_breaks_ends_all_its_streams(start, connect):
    rig = start()
    connection = connect(rig)
    pairs = [open_websocket(rig, connection, number) for number in (1, 3, 5)]
    connection.close()
    for _, server in pairs:
        assert server.read_close()[0] == 1001
        server.close()
    rig.gate.wait_until_idle()


def test_violations_close_one_stream(start, connect):
    rig = start()
    connection = connect(rig)
    stream, server = open_websocket(rig, connection, 1)
    sibling, other = open_websocket(rig, connection, 3)
    stream.send_frame(TEXT, b"\xff")
    assert stream.read_close()[0] == 1007
    assert server.read_close()[0] == 1001
    stream.send_close(1007)
    server.close()
    other.send_frame(TEXT, b"unharmed")
    assert sibling.read_frame().payload == b"unharmed"


def test_a_stream_counts_as_a_connection(start, connect):
    rig = start(client={"max_connections": 3})
    connection = connect(rig)
    open_websocket(rig, connection, 1)
    open_websocket(rig, connection, 3)
    refused = connection.open(5)
    assert refused.status() == 503 and int(refused.head["retry-after"]) > 0
    assert rig.gate.metrics().total(REFUSED, reason="max_connections") == 1
    assert rig.gate.metrics().total("wsgate_connections_open") == 2


def test_an_address_has_its_limits(start, connect):
    rig = start(client={"address_max_connections": 3})
    connection = connect(rig)
    open_websocket(rig, connection, 1)
    open_websocket(rig, connection, 3)
    assert connection.open(5).status() == 429


def test_one_stream_too_many_is_refused_by_http2(start, connect):
    rig = start(client={"http2_max_streams": 2})
    connection = connect(rig)
    assert settings_of(connection)[http2.MAX_CONCURRENT_STREAMS] == 2
    open_websocket(rig, connection, 1)
    open_websocket(rig, connection, 3)
    assert connection.open(5).wait_until_ended() == http2.REFUSED_STREAM


# Flow control


def test_a_client_that_does_not_read_stops_only_itself(start, connect):
    rig = start()
    connection = connect(rig)
    slow, slow_server = open_websocket(rig, connection, 1)
    quick, quick_server = open_websocket(rig, connection, 3)
    slow.reads = False
    pump = raw.Pump(slow_server, frames.encode(BINARY, bytes(1 << 16), masked=False), 256)
    for turn in range(50):
        quick_server.send_frame(TEXT, b"%d" % turn)
        assert quick.read_frame().payload == b"%d" % turn
    pump.wait_until_stalled()
    assert len(slow.buffer) <= 65_535
    assert rig.gate.metrics().total("wsgate_buffered_bytes") < 1 << 20


def test_a_server_that_does_not_read_stops_only_its_client(start, connect):
    rig = start()
    connection = connect(rig, initial_window_size=1 << 20)
    slow, _ = open_websocket(rig, connection, 1)
    quick, quick_server = open_websocket(rig, connection, 3)
    # The socket to the server takes some megabytes; in the end the window stays closed.
    window, message = 65_536, frames.encode(BINARY, bytes(16_000), masked=True)
    sent = 0
    deadline = time.monotonic() + raw.TIMEOUT
    while sent < 64 << 20:
        while window >= len(message):
            slow.send(message)
            window, sent = window - len(message), sent + len(message)
        quick.send_frame(TEXT, b"go on")
        assert quick_server.read_frame().payload == b"go on"
        grown = window_updates(connection, 1, quick_server, quick)
        window += grown
        if not grown and window < len(message):
            break
        assert time.monotonic() < deadline, f"{sent} bytes were taken"
    assert sent < 32 << 20
    quick.send_frame(TEXT, b"still")
    assert quick_server.read_frame().payload == b"still"


def window_updates(connection, number, server, stream):
    """The bytes by which a window grew until an answer came on another stream."""
    grown = 0
    server.send_frame(PONG, b"")
    while True:
        kind, _, got, payload = connection.read_frame()
        if kind == http2.WINDOW_UPDATE and got == number:
            grown += int.from_bytes(payload, "big")
        if kind == http2.DATA and got == stream.number:
            stream.handle(kind, 0, payload)
            connection.send(http2.window_update(0, len(payload)))
            stream.read_frame()
            return grown


# Drains


def test_a_drain_closes_the_streams_and_leaves_the_connection(start, connect):
    rig = start(route={"reconnect_after": "50ms-400ms"})
    connection = connect(rig)
    pairs = [open_websocket(rig, connection, number) for number in (1, 3, 5)]
    request(rig.gate, "POST", "/v1/upstreams/main/deploy", {"over": "100ms"})
    for stream, server in pairs:
        assert stream.read_close()[0] == 1012
        stream.send_close(1012)
        assert server.read_close()[0] == 1001
        server.close()
        assert stream.wait_until_ended() == "end"
    assert connection.goaway is None
    # The clients come back on the same connection.
    stream, server = open_websocket(rig, connection, 7)
    stream.send_frame(TEXT, b"back")
    assert server.read_frame().payload == b"back"


def test_the_end_of_wsgate_tells_the_streams_of_a_connection_together(start, connect):
    """GOAWAY comes when none of them is left, so that nobody comes back on this connection."""
    rig = start(route={"reconnect_after": "50ms-400ms"}, extra={"drain": {"shutdown_deadline": "40s", "pace": "1/s"}})
    connection = connect(rig)
    pairs = [open_websocket(rig, connection, number) for number in range(1, 31, 2)]
    begun = time.monotonic()
    rig.gate.process.send_signal(signal.SIGTERM)
    for stream, server in pairs:
        assert stream.read_close()[0] == 1012
        assert connection.goaway is None
        stream.send_close(1012)
        assert server.read_close()[0] == 1001
        server.close()
        stream.wait_until_ended()
    connection.wait_for(http2.GOAWAY)
    assert connection.goaway[1] == 0
    assert time.monotonic() - begun < 10, "the pace would be 15 seconds for 15 clients"


# Attacks


def test_streams_that_are_reset_before_their_answer(start, connect):
    """Rapid reset: each costs a connection to a server, so there is a bound."""
    rig = start()
    connection = connect(rig)
    path = rig.new_path()
    with contextlib.suppress(OSError):
        for number in range(1, 2001, 2):
            connection.send(http2.websocket(number, path) + http2.reset(number))
    code, _ = connection.read_to_end()
    assert code == http2.ENHANCE_YOUR_CALM


def test_many_small_frames_for_a_server_that_does_not_answer(start, connect):
    """Frames of one byte cost more memory than they hold: their connection ends, and no other."""
    rig = start(upstream={"handshake_timeout": "5s"}, client={"http2_connection_window": "16MiB"})
    connection, other = connect(rig), connect(rig)
    alive, server = open_websocket(rig, other, 1)
    path = rig.new_path()
    with contextlib.suppress(OSError):
        for number in range(1, 17, 2):
            connection.send(http2.websocket(number, path))
            connection.send(http2.data(number, b"x") * 60_000)
    code, _ = connection.read_to_end()
    assert code in (http2.ENHANCE_YOUR_CALM, None)
    alive.send_frame(TEXT, b"alive")
    assert server.read_frame().payload == b"alive"


@pytest.mark.parametrize("flood", ["ping", "settings", "continuation", "priority"])
def test_floods_end_their_connection_or_cost_nothing(start, connect, flood):
    rig = start()
    connection, other = connect(rig, polite=False), connect(rig)
    alive, server = open_websocket(rig, other, 1)
    before = rig.gate.metrics().total("process_resident_memory_bytes")
    wire = {
        "ping": http2.frame(http2.PING, payload=bytes(8)),
        "settings": http2.settings(initial_window_size=1),
        "continuation": http2.frame(http2.CONTINUATION, 0, 1, bytes(1000)),
        "priority": http2.frame(http2.PRIORITY, 0, 1, bytes(5)),
    }[flood]
    connection.sock.settimeout(1)
    with contextlib.suppress(OSError):
        if flood == "continuation":
            connection.send(http2.frame(http2.HEADERS, 0, 1, b""))
        for _ in range(200):
            connection.send(wire * 500)
    alive.send_frame(TEXT, b"alive")
    assert server.read_frame().payload == b"alive"
    after = rig.gate.metrics().total("process_resident_memory_bytes")
    assert after - before < 32 << 20, f"{(after - before) >> 20} MiB more"
