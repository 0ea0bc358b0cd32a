"""Plain requests of clients that take their time, over HTTP/2 and HTTP/1.1, and HTTP/2 as servers of HTTP/1.1 see it."""

import contextlib
import signal
import socket
import ssl
import threading
import time

import pytest

from rig import certificates, http, http2, operator, raw
from rig.raw import TIMEOUT

REFUSED = "wsgate_plain_requests_refused_total"

BIG = 4 << 20
"""Bytes of a response that no window and no socket takes as a whole."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return certificates.Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority):
    return authority.sign("a", ["a.test", "127.0.0.1"])


@pytest.fixture
def start(start_rig, pair):
    """Starts a wsgate with TLS, and time-outs of a second unless the test says otherwise."""

    def start(client=None, route=None, **options):
        quick = {"body_timeout": "1s", "header_timeout": "1s"} | (client or {})
        return start_rig(listener={"certificates": [pair]}, client=quick, route={"write_timeout": "1s"} | (route or {}), **options)

    return start


@pytest.fixture
def connect():
    """Makes connections of HTTP/2 that are closed with the test."""
    made = []

    def connect(rig, **values):
        made.append(http2.Connection(rig.gate.address, **values))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


def request(version, rig, path, *, fields=(), body=None, connect=None, window=65_535):
    """Sends a request whose body goes no further than this, and returns the client's connection."""
    method = "GET" if body is None else "POST"
    if version == 2:
        client = connect(rig, initial_window_size=window)
        client.send(http2.headers(1, path, method=method, fields=fields, end=body is None))
        if body:
            client.send(http2.data(1, body))
        return client
    lines = [f"{method} {path} HTTP/1.1", "Host: a.test"]
    lines += ["Content-Length: 1000"] if body is not None else []
    lines += [f"{name}: {value}" for name, value in fields]
    sock = http2.tls(rig.gate.address, protocols=("http/1.1",))
    sock.sendall("\r\n".join([*lines, "", ""]).encode() + (body or b""))
    return raw.Peer(sock, client=True)


def answer_big(upstream):
    """Sends a long response for as long as it is taken."""
    return raw.Pump(upstream, http.response("200 OK", b"x" * BIG), 1)


def assert_ended(upstream, begun, least, most=6.0):
    """The connection to the server was ended, in time and not at once."""
    left, _ = upstream.read_to_end()
    took = time.monotonic() - begun
    assert least <= took <= most, f"after {took:.2f} s, with {left[:80]!r}"


# A connection without requests


@pytest.mark.parametrize(
    "sent", [b"", http2.PREFACE[:10], http2.PREFACE, http2.PREFACE + http2.settings(), http2.PREFACE + b"\0\0"],
    ids=["nothing", "half a preface", "no settings", "no stream", "half a frame"],
)
def test_connection_without_a_request_ends(start, sent):
    """header_timeout holds for the first request, whatever is missing of it."""
    rig = start()
    sock, begun = http2.tls(rig.gate.address), time.monotonic()
    sock.sendall(sent)
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        while sock.recv(1 << 16):
            pass
    assert 0.9 <= time.monotonic() - begun <= 5.0
    sock.close()


def test_idle_connection_ends_with_goaway(start, connect):
    """keepalive_timeout, counted from the end of the last response; PINGs are no requests."""
    rig = start(client={"keepalive_timeout": "2s"})
    client, path = connect(rig), rig.new_path()
    client.send(http2.headers(1, path))
    upstream, _ = rig.server.accept_request(path)
    time.sleep(2.5)  # longer than the time-out: a request under way is not idle
    upstream.send(http.response("200 OK", b"late"))
    assert client.read_response(1)[1] == b"late"
    for _ in range(10):
        client.send(http2.frame(http2.PING, payload=bytes(8)))
    goaway, took = client.read_to_end()
    assert goaway == 0
    assert 1.5 <= took <= 6.0, took


def test_shutdown_says_goaway_and_waits_for_responses(start, connect):
    rig = start(extra={"drain": {"shutdown_deadline": "8s"}})
    client, path = connect(rig), rig.new_path()
    client.send(http2.headers(1, path))
    upstream, _ = rig.server.accept_request(path)
    rig.gate.process.send_signal(signal.SIGTERM)
    client.wait_for(http2.GOAWAY)
    upstream.send(http.response("200 OK", b"to the end"))
    assert client.read_response(1)[1] == b"to the end"
    client.read_to_end()
    assert client.goaway == (1, 0)


def test_shutdown_does_not_wait_for_a_client_that_says_nothing(start, connect):
    rig = start(extra={"drain": {"shutdown_deadline": "20s"}}, client={"keepalive_timeout": "1h"})
    client, path = connect(rig, polite=False), rig.new_path()
    client.send(http2.headers(1, path))
    upstream, _ = rig.server.accept_request(path)
    upstream.send(http.response("200 OK", b"x"))
    client.read_response(1)
    begun = time.monotonic()
    rig.gate.process.send_signal(signal.SIGTERM)
    rig.gate.process.wait(TIMEOUT)
    assert time.monotonic() - begun < 8.0


# Bodies that do not come


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("sent", [b"", b"some"], ids=["nothing", "the beginning"])
def test_a_body_that_does_not_come_ends_its_request(start, connect, version, sent):
    rig, path = start(), None
    path, begun = rig.new_path(), time.monotonic()
    client = request(version, rig, path, body=sent, connect=connect)
    upstream, _ = rig.server.accept_request(path)
    assert_ended(upstream, begun, 0.9)
    if version == 1:
        assert client.read_head().status == 408
    else:
        client.wait_for(http2.RST_STREAM, 1)
    rig.gate.wait_for_metrics(
        lambda now: now.total("wsgate_plain_requests_ended_total", limit="body_timeout") == 1, "the request to be counted"
    )


@pytest.mark.parametrize("version", [1, 2])
def test_a_body_that_drips_ends_its_request(start, connect, version):
    """Each byte comes in time, and all of them take too long."""
    rig = start(client={"body_timeout": "2s", "min_rate": "256B"})
    path, begun = rig.new_path(), time.monotonic()
    client = request(version, rig, path, body=b"", connect=connect)
    upstream, _ = rig.server.accept_request(path)
    ended = threading.Event()

    def drip():
        with contextlib.suppress(OSError):
            while not ended.wait(0.2):
                client.send(http2.data(1, b"x") if version == 2 else b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert_ended(upstream, begun, 1.5)
        if version == 1:
            assert client.read_head().status == 408
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("version", [1, 2])
def test_a_body_that_is_slow_but_comes_lives(start, connect, version):
    """Five times as long as the time-out, at 200 bytes a second."""
    rig = start(client={"min_rate": "100B"})
    path = rig.new_path()
    client = request(version, rig, path, body=b"", connect=connect)
    upstream, head = rig.server.accept_request(path)
    for number in range(10):
        time.sleep(0.5)  # what the test is about
        piece = b"%100d" % number
        client.send(http2.data(1, piece, end=number == 9) if version == 2 else piece)
        assert upstream.read_body(http.Head("", (("content-length", "100"),), b"")) == piece if version == 1 else True
    if version == 2:
        assert len(upstream.read_body(head)) == 1000
    upstream.send(http.response("200 OK", b"thanks"))
    body = client.read_response(1)[1] if version == 2 else client.read_body(client.read_head())
    assert body == b"thanks"


def test_a_refused_request_does_not_wait_for_its_body(start, connect):
    """403, and a body that never comes."""
    rig = start(route={"deny": ["127.0.0.0/8"]})
    client = request(2, rig, "/", body=b"", connect=connect)
    assert client.read_response(1)[0][":status"] == "403"
    peer, begun = request(1, rig, "/", body=b""), time.monotonic()
    assert peer.read_head().status == 403
    peer.read_to_end()
    assert time.monotonic() - begun < 5.0


# Responses that nobody takes


@pytest.mark.parametrize("version", [1, 2])
def test_a_response_that_nobody_takes_ends(start, connect, version):
    """write_timeout, and the connection to the server goes with it."""
    rig, path = start(), None
    path, begun = rig.new_path(), time.monotonic()
    client = request(version, rig, path, connect=connect, window=0)
    if version == 1:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    upstream, _ = rig.server.accept_request(path)
    pump = raw.Pump(upstream, http.response("200 OK", b"x" * (BIG * 8)), 1)
    pump._thread.join(TIMEOUT)
    assert isinstance(pump.error, ConnectionError), f"{pump.error!r} after {pump.sent} bytes"
    assert 0.9 <= time.monotonic() - begun <= 8.0
    if version == 2:
        assert http2.code(client.wait_for(http2.RST_STREAM, 1)) == http2.CANCEL
    rig.gate.wait_for_metrics(
        lambda now: now.total("wsgate_plain_requests_ended_total", limit="write_timeout") == 1, "the request to be counted"
    )


def test_a_connection_whose_client_reads_nothing_ends(start, connect):
    """The windows are open, but nothing goes out, a GOAWAY neither."""
    rig = start(client={"keepalive_timeout": "2s"})
    client, path = connect(rig, initial_window_size=(1 << 31) - 1), rig.new_path()
    client.send(http2.window_update(0, 1 << 30) + http2.headers(1, path))
    upstream, _ = rig.server.accept_request(path)
    pump = raw.Pump(upstream, http.response("200 OK", b"x" * (BIG * 8)), 1)
    stalled = rig.gate.open_files()
    pump._thread.join(TIMEOUT)
    assert isinstance(pump.error, ConnectionError), f"{pump.error!r} after {pump.sent} bytes"
    wait_for_files(rig.gate, stalled - 2, "after the client has taken nothing")


def test_a_refusal_that_nobody_takes_ends(start, connect):
    """Ours are subject to the window too; nothing of them may stay."""
    rig = start(route={"deny": ["127.0.0.0/8"]}, client={"keepalive_timeout": "1s"})
    client = connect(rig, initial_window_size=0)
    client.send(http2.headers(1))
    assert client.wait_for(http2.HEADERS, 1)[":status"] == "403"
    client.wait_for(http2.RST_STREAM, 1)


@pytest.mark.parametrize("version", [1, 2])
def test_a_slow_but_living_reader_gets_everything(start, connect, version):
    """At some 100 kB a second a response takes five times as long as the time-out."""
    rig = start(route={"write_timeout": "2s"})
    path, size = rig.new_path(), 1 << 20
    client = request(version, rig, path, connect=connect, window=0 if version == 2 else None)
    upstream, _ = rig.server.accept_request(path)
    pump = raw.Pump(upstream, http.response("200 OK", b"x" * size), 1)
    got = 0
    if version == 2:
        for _ in range(50):
            time.sleep(0.1)  # what the test is about
            client.send(http2.window_update(1, size // 50) + http2.window_update(0, size // 50))
        client.send(http2.window_update(1, 50))
        got = len(client.read_response(1)[1])
    else:
        head = client.read_head()
        while got < size:
            got += len(client._exactly(min(size - got, size // 50)))
            client.forget_read()
            time.sleep(0.1)
        assert head.status == 200
    assert got == size
    pump.join()


@pytest.mark.parametrize("version", [1, 2])
def test_long_polls_and_events_live(start, connect, version):
    """Nobody waits for the client, so no time-out of the client's runs."""
    rig, path = start(), None
    path = rig.new_path()
    client = request(version, rig, path, connect=connect)
    upstream, _ = rig.server.accept_request(path)
    time.sleep(3)  # three times the time-outs
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    for number in range(3):
        time.sleep(1.5)
        upstream.send(b"data: %d\n\n" % number)
    upstream.close()
    body = client.read_response(1)[1] if version == 2 else client.read_body(client.read_head())
    assert body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


# What one connection may have


def test_streams_beyond_the_limit_are_refused(start, connect):
    rig = start(client={"http2_max_streams": 3})
    client = connect(rig)
    announced = client.wait_for(http2.SETTINGS)
    assert (http2.MAX_CONCURRENT_STREAMS).to_bytes(2, "big") + (3).to_bytes(4, "big") in announced
    paths = [rig.new_path() for _ in range(4)]
    held = []
    for stream, path in zip((1, 3, 5), paths, strict=False):
        client.send(http2.headers(stream, path))
        held.append(rig.server.accept_request(path)[0])
    client.send(http2.headers(7, paths[3]))
    assert http2.code(client.wait_for(http2.RST_STREAM, 7)) == http2.REFUSED_STREAM
    held[0].send(http.response("200 OK", b"one", headers={"Connection": "close"}))
    assert client.read_response(1)[1] == b"one"
    client.send(http2.headers(9, paths[3]))
    rig.server.accept_request(paths[3])[0].send(http.response("200 OK", b"more"))
    assert client.read_response(9)[1] == b"more"


@pytest.mark.parametrize("version", [1, 2])
def test_memory_of_plain_requests_is_counted_and_bounded(start, connect, version):
    """Each counts with 768 KiB until its response says how long it is; all of them have half of the limit."""
    rig = start(client={"buffer_memory": "4MiB"}, route={"write_timeout": "0s"})
    held = []
    for _ in range(2):
        path = rig.new_path()
        client = request(version, rig, path, connect=connect)
        held.append((client, rig.server.accept_request(path)[0]))
    assert rig.gate.metrics().total("wsgate_reserved_memory_bytes") == 2 * (768 << 10)
    refused = request(version, rig, "/refused", connect=connect)
    if version == 2:
        assert refused.read_response(1)[0][":status"] == "503"
    else:
        assert refused.read_head().status == 503
    # A response that is short leaves room for others.
    held[0][1].send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    rig.gate.wait_for_metrics(
        lambda now: now.total("wsgate_reserved_memory_bytes") < (768 + 256) << 10, "the memory to be given back"
    )
    path = rig.new_path()
    request(version, rig, path, connect=connect)
    held.append((None, rig.server.accept_request(path)[0]))
    for _, upstream in held:
        upstream.close()
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_reserved_memory_bytes") == 0, "all memory to be given back")


def test_resets_end_their_requests(start, connect):
    """A stream that is reset leaves no connection to a server behind."""
    rig = start(route={"write_timeout": "0s"}, client={"body_timeout": "0s"})
    client = connect(rig)
    for stream, end in ((1, True), (3, False)):
        path = rig.new_path()
        client.send(http2.headers(stream, path, method="GET" if end else "POST", end=end))
        upstream, _ = rig.server.accept_request(path)
        begun = time.monotonic()
        client.send(http2.reset(stream))
        assert_ended(upstream, begun, 0.0, 2.0)
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_http2_resets_total") == 2, "two resets")
    path = rig.new_path()
    client.send(http2.headers(5, path))
    rig.server.accept_request(path)[0].send(http.response("200 OK", b"fine"))
    assert client.read_response(5)[1] == b"fine"


def test_a_client_that_resets_without_end_is_told_to_calm_down(start, connect):
    """Each after its request has come to a server, so that h2's own count of resets does not see them."""
    rig = start()
    client, made = connect(rig), 0
    for stream in range(1, 2001, 2):
        path = rig.new_path()
        try:
            client.send(http2.headers(stream, path))
            upstream, _ = rig.server.accept_request(path)
            client.send(http2.reset(stream))
        except (OSError, AssertionError):
            break
        made += 1
        upstream.read_to_end()
        upstream.close()
        # A request that is sent to a connection which has ended would cost the client the GOAWAY.
        now = rig.gate.wait_for_metrics(lambda now, made=made: now.total("wsgate_http2_resets_total") == made, "the reset")
        if now.total("wsgate_plain_requests_ended_total", limit="resets"):
            break
    ended, _ = client.read_to_end()
    assert ended == http2.ENHANCE_YOUR_CALM
    assert 100 <= made <= 400, made
    rig.gate.wait_for_log(lambda line: "ENHANCE_YOUR_CALM" in line and "127.0.0.1" in line, "of the resets")


# What servers get


def exchange(rig, client, stream, head, body=(), answer=None):
    """A request over HTTP/2; the server's connection, the request's head there, and what came behind it so far."""
    client.send(head + b"".join(body))
    upstream, got = rig.server.accept_request(head_path(head))
    return upstream, got


def head_path(head):
    start = head.index(b"/test/")
    return head[start:].split(b"\x00")[0].decode()


@pytest.mark.parametrize("crumbs", [["a=1"], ["a=1", "b=2", "c=3; d=4"], ["a=1", "", "b=2"]])
def test_cookies_come_in_one_line(start, connect, crumbs):
    """RFC 9113 §8.2.3."""
    rig = start()
    client, path = connect(rig), rig.new_path()
    fields = [("cookie", crumb) for crumb in crumbs]
    fields[1:1] = [("x-between", "1")]
    client.send(http2.headers(1, path, fields=fields))
    upstream, head = rig.server.accept_request(path)
    assert [value for name, value in head.headers if name == "cookie"] == ["; ".join(crumbs)]
    upstream.send(http.response("200 OK"))


BODIES = {
    "one piece and an empty end": ([b"hello"], True),
    "several pieces and an empty end": ([b"hel", b"lo"], True),
    "the last piece is the end": ([b"hel", b"lo"], False),
    "empty pieces between": ([b"", b"hel", b"", b"lo", b""], True),
    "nothing but the end": ([], True),
    "nothing, in two frames": ([b""], True),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("length", [False, True], ids=["chunked", "content-length"])
def test_a_body_ends_once(start, connect, case, length):
    """Every byte at the server, and a second request on the same connection to it, of another client."""
    rig = start()
    pieces, empty_end = BODIES[case]
    whole = b"".join(pieces)
    path = rig.new_path()
    fields = [("content-length", str(len(whole)))] if length else []
    client = connect(rig)
    client.send(http2.headers(1, path, method="POST", fields=fields, end=False))
    upstream, head = rig.server.accept_request(path)
    last = len(pieces) - 1
    for number, piece in enumerate(pieces):
        client.send(http2.data(1, piece, end=number == last and not empty_end))
    if empty_end:
        client.send(http2.data(1, end=True))
    has_body = head.get("content-length") or head.get("transfer-encoding")
    assert (upstream.read_body(head) if has_body else b"") == whole
    upstream.send(http.response("200 OK", b"got it"))
    assert client.read_response(1)[1] == b"got it"
    second = connect(rig)
    path = rig.new_path()
    second.send(http2.headers(1, path))
    again = upstream.read_head()
    assert again.start == f"GET {path} HTTP/1.1", again.wire
    upstream.send(http.response("200 OK", b"second"))
    assert second.read_response(1)[1] == b"second"


def test_chunked_bodies_of_http1_end_once(start):
    """The sibling: whatever the version of the client."""
    rig = start()
    path = rig.new_path()
    client = request(1, rig, path, fields=[("Transfer-Encoding", "chunked")])
    upstream, head = rig.server.accept_request(path)
    client.send(b"5\r\nhello\r\n")
    client.send(b"0\r\n\r\n")
    assert upstream.read_body(head) == b"hello"
    upstream.send(http.response("200 OK", b"got it"))
    assert client.read_body(client.read_head()) == b"got it"
    path = rig.new_path()
    client.send(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    assert upstream.read_head().path == path


def test_trailers_of_a_request_do_not_break_it(start, connect):
    rig = start()
    client, path = connect(rig), rig.new_path()
    client.send(http2.headers(1, path, method="POST", fields=[("trailer", "x-sum")], end=False))
    upstream, head = rig.server.accept_request(path)
    trailer = b"\x00\x05x-sum\x011"
    client.send(http2.data(1, b"body") + http2.frame(http2.HEADERS, http2.END_STREAM | http2.END_HEADERS, 1, trailer))
    assert upstream.read_body(head) == b"body"
    upstream.send(http.response("200 OK", b"ok"))
    assert client.read_response(1)[1] == b"ok"
    path = rig.new_path()
    client.send(http2.headers(3, path))
    assert upstream.read_head().path == path


@pytest.mark.parametrize(
    ("method", "status", "head"),
    [
        ("HEAD", "200 OK", {"Content-Length": "1000"}),
        ("GET", "204 No Content", {"Content-Length": None}),
        ("GET", "304 Not Modified", {"Content-Length": "1000"}),
        ("GET", "200 OK", {"Content-Length": "0"}),
    ],
)
def test_responses_without_a_body(start, connect, method, status, head):
    """The connection to the server is good for the next request."""
    rig = start()
    client, path = connect(rig), rig.new_path()
    client.send(http2.headers(1, path, method=method))
    upstream, _ = rig.server.accept_request(path)
    upstream.send(http.response(status, headers=head))
    got, body = client.read_response(1)
    assert (got[":status"], body) == (status[:3], b"")
    path = rig.new_path()
    client.send(http2.headers(3, path))
    assert upstream.read_head().path == path
    upstream.send(http.response("200 OK", b"next"))
    assert client.read_response(3)[1] == b"next"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_body_where_none_may_be_is_nobodys_response(start, connect, status):
    """What a broken server sends behind such a head does not reach the next request."""
    rig = start()
    client, path = connect(rig), rig.new_path()
    client.send(http2.headers(1, path))
    upstream, _ = rig.server.accept_request(path)
    upstream.send(http.response(status, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
    got, body = client.read_response(1)
    assert (got[":status"], body) == (status[:3], b"")
    path = rig.new_path()
    client.send(http2.headers(3, path))
    rig.server.accept_request(path)[0].send(http.response("200 OK", b"next"))
    assert client.read_response(3)[1] == b"next"


@pytest.mark.parametrize(
    "field",
    [
        ("connection", "close"),
        ("connection", "x-hop"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("X-Upper", "1"),
        ("x-line", "a\r\nx-smuggled: 1"),
        ("content-length", "5, 6"),
        ("content-length", "5"),
        ("host", "b.test"),
    ],
    ids=lambda field: ": ".join(field).encode("unicode_escape").decode(),
)
def test_malformed_requests_do_not_reach_a_server(start, connect, field):
    """RFC 9113 §8.2: a stream error or a 400."""
    rig = start()
    client, path = connect(rig), rig.new_path()
    client.send(http2.headers(1, path, fields=[field]))
    for kind, _, stream, payload in client.frames():
        if kind == http2.HEADERS:
            assert payload[":status"] == "400"
        if stream == 1 or kind == http2.GOAWAY:
            break
    fence, path = connect(rig), rig.new_path()
    fence.send(http2.headers(1, path))
    assert not [wire for wire in rig.server.requests_before(path) if wire]


def test_a_head_that_is_too_large_gets_a_sentence(start, connect):
    """As over HTTP/1.1. A head of more than twice the limit gets a 431 without a body, from the library."""
    rig = start(client={"max_header_size": "2KiB"})
    client, path = connect(rig), rig.new_path()
    client.send(http2.headers(1, path, fields=[("cookie", "a" * 1800)]))
    upstream, _ = rig.server.accept_request(path)
    upstream.send(http.response("200 OK", b"more"))
    assert client.read_response(1)[0][":status"] == "200", "below the limit"
    client.send(http2.headers(3, path, fields=[("cookie", "a" * 2048)]))
    head, body = client.read_response(3)
    assert (head[":status"], body) == ("431", b"the head of the request is larger than 2048 bytes\n")
    assert rig.gate.metrics().total(REFUSED, reason="head_too_large") == 1
    rig.gate.wait_for_log(lambda line: "request refused" in str(line) and "2048 bytes" in str(line), "the refusal")
    client.send(http2.headers(5, path, fields=[("cookie", "a" * 8192)]))
    assert client.read_response(5)[0][":status"] == "431", "beyond twice the limit"


def test_a_request_that_contradicts_itself_is_counted_and_logged(start, connect):
    rig = start()
    client, path = connect(rig), rig.new_path()
    client.send(http2.headers(1, path, fields=[("host", "b.test")]))
    assert client.read_response(1)[0][":status"] == "400"
    rig.gate.wait_for_metrics(lambda now: now.total(REFUSED, reason="malformed") == 1, "the refusal")
    rig.gate.wait_for_log(lambda line: "`host` differs from `:authority`" in str(line), "the refusal")


def test_what_is_between_client_and_wsgate_stays_there(start, connect):
    """`te: trailers` may come, and is for us."""
    rig = start()
    client, path = connect(rig), rig.new_path()
    client.send(http2.headers(1, path, fields=[("te", "trailers"), ("host", "a.test"), ("x-far", "1")]))
    upstream, head = rig.server.accept_request(path)
    assert [head.get(name) for name in ("te", "host", "x-far")] == [None, "a.test", "1"], head.wire
    assert len([name for name, _ in head.headers if name == "host"]) == 1
    upstream.send(
        b"HTTP/1.1 200 OK\r\nConnection: x-back\r\nX-Back: 1\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n"
    )
    got, body = client.read_response(1)
    assert body == b"ok"
    assert not {"connection", "x-back", "keep-alive", "transfer-encoding"} & set(got), got


def test_a_client_that_expects_100_gets_its_response(start, connect):
    """Pingora cannot pass a 100 on over HTTP/2; a client may send its body without."""
    rig = start(client={"body_timeout": "5s"})
    client, path = connect(rig), rig.new_path()
    fields = [("expect", "100-continue"), ("content-length", "4")]
    client.send(http2.headers(1, path, method="POST", fields=fields, end=False))
    upstream, head = rig.server.accept_request(path)
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(http2.data(1, b"body", end=True))
    assert upstream.read_body(head) == b"body"
    upstream.send(http.response("200 OK", b"ok"))
    assert client.read_response(1)[1] == b"ok"


# Descriptors


@pytest.fixture
def tls_server(authority):
    """A server over TLS that the test drives by hand."""
    server_pair = authority.sign("server", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_pair["cert"], server_pair["key"])
    server = raw.Server()
    plain_accept = server.accept

    def accept():
        peer = plain_accept()
        peer.sock = context.wrap_socket(peer.sock, server_side=True)
        return peer

    server.accept = accept
    yield server
    server.close()


def start_toward_tls(start_rig, server, authority, **upstream):
    return start_rig(
        server=server, upstream={"read_timeout": "1s"} | upstream,
        extra={"upstream.main.tls": {"enabled": True, "ca": str(authority.file)}},
    )


def files(rig, server):
    """The number of descriptors after some requests: threads have some of their own from their first one on."""
    for _ in range(10):
        client, path = rig.connect(), rig.new_path()
        client.send(f"GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n".encode())
        upstream, _ = server.accept_request(path)
        upstream.send(http.response("200 OK", b"warm", headers={"Connection": "close"}))
        client.read_to_end()
        upstream.close()
        client.close()
    rig.gate.get("/healthz")
    return rig.gate.open_files()


def wait_for_files(gate, most, what):
    deadline = time.monotonic() + TIMEOUT
    while gate.open_files() > most:
        assert time.monotonic() < deadline, f"{gate.open_files()} descriptors {what}, {most} before"
        time.sleep(0.05)


@pytest.mark.parametrize("case", ["silent", "takes nothing"])
def test_a_tls_server_that_neither_answers_nor_closes_leaves_no_descriptors(start_rig, tls_server, authority, case):
    rig = start_toward_tls(start_rig, tls_server, authority)
    before, kept = files(rig, tls_server), []
    for _ in range(5):
        client, path = rig.connect(), rig.new_path()
        client.send(f"POST {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {BIG}\r\n\r\n".encode())
        upstream, _ = tls_server.accept_request(path)
        kept.append(upstream)
        if case == "takes nothing":
            pump = raw.Pump(client, b"x" * BIG, 1)
            kept.append(pump)
        else:
            client.send(b"x" * 100)
    # The servers' ends stay open, so nothing but wsgate itself ends these.
    wait_for_files(rig.gate, before, "after requests that got no answer")


def test_idle_connections_to_a_tls_server_leave_no_descriptors(start_rig, tls_server, authority):
    """Kept for the next request, and given up when the server closes them."""
    rig = start_toward_tls(start_rig, tls_server, authority)
    before = files(rig, tls_server)
    client, path = rig.connect(), rig.new_path()
    client.send(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    upstream, _ = tls_server.accept_request(path)
    upstream.send(http.response("200 OK", b"one"))
    assert client.read_body(client.read_head()) == b"one"
    path = rig.new_path()
    client.send(f"GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n".encode())
    assert upstream.read_head().path == path, "the connection was not used again"
    upstream.send(http.response("200 OK", b"two"))
    assert client.read_body(client.read_head()) == b"two"
    client.close()
    upstream.sock.shutdown(socket.SHUT_WR)
    wait_for_files(rig.gate, before, "after the server has ended what it sends")


def test_a_stream_without_a_response_is_reset_at_the_deadline_of_a_drain(start, connect):
    rig = start()
    client, path = connect(rig), rig.new_path()
    client.send(http2.headers(1, path))
    upstream, _ = rig.server.accept_request(path)
    change = {"force": True, "deadline": "300ms"}
    assert operator.request(rig.gate, "POST", "/v1/upstreams/main/drain", change)[0] == 202
    client.wait_for(http2.RST_STREAM, 1)
    upstream.read_to_end()
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_server_plain_requests") == 0, "the end of the request")
