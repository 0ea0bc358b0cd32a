"""What a connection begins with: requests that are served, and all else, which ends at once, with a sentence and in the log."""

import socket
import ssl
import subprocess
import time

import pytest

from rig import certificates, http
from rig.raw import connect

CONNECTIONS = "wsgate_connections_refused_total"
REQUESTS = "wsgate_plain_requests_refused_total"
HANDSHAKES = "wsgate_handshakes_refused_total"


def answered_at_once(client):
    """Status and sentence of the answer; long before the time-out of the head, and then the connection ends."""
    started = time.monotonic()
    head = client.read_head()
    body = client.read_body(head)
    assert time.monotonic() - started < 3
    assert head.get("server") is None and head.get("content-type") == "text/plain; charset=utf-8", head.wire
    assert head.get("connection") == "close"
    client.expect_eof()
    return head.status, body.decode()


@pytest.fixture
def secured(start_rig, tmp_path):
    """A rig whose listener speaks TLS, and its authority."""
    authority = certificates.Authority(tmp_path / "ca")
    pair = authority.sign("app", ["app.test"])
    return start_rig(listener={"certificates": [pair]}, client={"header_timeout": "10s"}), authority


# Something else than HTTP


TLS_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(200)


@pytest.mark.parametrize(
    "sent, reason, sentence",
    [
        (TLS_HELLO, "tls_on_clear_port", "this port does not speak TLS: use http:// or ws://\n"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2_without_alpn", "HTTP/2 is served over TLS only, where ALPN agrees on it: use HTTP/1.1\n"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not_http", "this connection does not begin with an HTTP request\n"),
        (b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00", "not_http", "this connection does not begin with an HTTP request\n"),
        (b"EHLO mail.test\r\n", "not_http", "this connection does not begin with an HTTP request\n"),
        (b"GET /\r\n", "not_http", "this connection does not begin with an HTTP request\n"),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n",
            "unexpected_proxy_header",
            "this connection begins with a PROXY protocol header, which this port does not expect\n",
        ),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
            "unexpected_proxy_header",
            "this connection begins with a PROXY protocol header, which this port does not expect\n",
        ),
    ],
    ids=repr,
)
def test_what_is_no_request_ends_at_once(start_rig, sent, reason, sentence):
    rig = start_rig()
    for _ in range(3):
        client = rig.connect()
        client.send(sent)
        assert answered_at_once(client) == (400, sentence)
    assert rig.gate.metrics().total(CONNECTIONS, reason=reason) == 3
    rig.gate.wait_for_log(lambda line: f'reason="{reason}"' in line, "of it")
    lines = [line for line in rig.gate.log if f'reason="{reason}"' in line]
    assert len(lines) == 1 and sentence.strip() in lines[0] and "127.0.0.1:" in lines[0], lines
    rig.assert_nothing_reached_the_server()
    rig.assert_works()


def test_a_tls_client_on_a_clear_port(start_rig):
    """It fails at once, not after the time-out of the head."""
    rig = start_rig()
    context = ssl.create_default_context()
    started = time.monotonic()
    with socket.create_connection(rig.gate.address, 10) as sock, pytest.raises(ssl.SSLError):
        context.wrap_socket(sock, server_hostname="app.test")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n", http.upgrade_request("/"), b"G", b"SSH-2.0-x\r\n"], ids=repr)
def test_text_on_a_tls_port(secured, sent):
    rig, authority = secured
    client = rig.connect()
    client.send(sent)
    assert answered_at_once(client) == (400, "this port speaks TLS: use https:// or wss://\n")
    assert rig.gate.metrics().total(CONNECTIONS, reason="http_on_tls_port") == 1
    rig.gate.wait_for_log(lambda line: 'reason="http_on_tls_port"' in line, "of it")
    # TLS is served as before.
    context = authority.client_context()
    with socket.create_connection(rig.gate.address, 10) as sock, context.wrap_socket(sock, server_hostname="app.test") as tls:
        assert tls.version()


def test_text_behind_a_proxy_header_on_a_tls_port(start_rig, tmp_path):
    """The client of the header is the one in the log."""
    authority = certificates.Authority(tmp_path / "ca")
    listener = {"certificates": [authority.sign("app", ["app.test"])], "proxy_protocol": True}
    rig = start_rig(listener=listener, client={"trusted_proxies": ["127.0.0.0/8"]})
    client = rig.connect()
    client.send(b"PROXY TCP4 203.0.113.7 192.0.2.2 4711 443\r\nGET / HTTP/1.1\r\n\r\n")
    assert answered_at_once(client) == (400, "this port speaks TLS: use https:// or wss://\n")
    rig.gate.wait_for_log(lambda line: 'peer="203.0.113.7:4711"' in line, "of the client")


def test_other_bytes_on_a_tls_port(secured):
    """Nothing readable can be said to these: TLS has its alert."""
    rig, _ = secured
    client = rig.connect()
    client.send(b"\x00\x01\x02\x03\x04\x05\x06\x07")
    left, _ = client.read_to_end()
    assert left[:1] in (b"", b"\x15"), left
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_tls_handshake_failures_total") == 1, "the failure")


def test_a_silent_client_of_a_tls_port_is_not_waited_for_longer(start_rig, tmp_path):
    authority = certificates.Authority(tmp_path / "ca")
    rig = start_rig(listener={"certificates": [authority.sign("app", ["app.test"])]}, client={"header_timeout": "1s"})
    client, started = rig.connect(), time.monotonic()
    client.read_to_end()
    assert 0.8 < time.monotonic() - started < 3


# Requests that are refused


def plain(line, *headers):
    return "\r\n".join([line, *headers, "", ""]).encode("latin-1")


GET = "GET / HTTP/1.1"
HOST = "Host: app.test"


@pytest.mark.parametrize(
    "sent, status",
    [
        (plain(GET, HOST, "Host: other.test"), 400),
        (plain(GET, "Host: user@app.test"), 400),
        (plain(GET, HOST, "X Y: a"), 400),
        (plain(GET, HOST, "X : a"), 400),
        (plain(GET, HOST, "X: a", " folded"), 400),
        (plain(GET, HOST, "X: a\x01"), 400),
        (plain(GET, HOST, "no colon"), 400),
        (plain(GET, HOST, "Content-Length: 1", "Content-Length: 2"), 400),
        (plain(GET, HOST, "Content-Length: x"), 400),
        (plain(GET, HOST, "Transfer-Encoding: gzip"), 400),
        (plain("GET / HTTP/1.0", HOST, "Transfer-Encoding: chunked"), 400),
        (plain("GET /a b HTTP/1.1", HOST), 400),
        (plain("GET http://other.test/ HTTP/1.1", HOST), 400),
        (plain("GET http:/\\app.test/ HTTP/1.1", HOST), 400),
        (plain("G@T / HTTP/1.1", HOST), 400),
        (plain("GET / HTTP/2.0", HOST), 505),
        (plain("GET / HTTP/3", HOST), 505),
        (plain("CONNECT app.test:443 HTTP/1.1", "Host: app.test:443"), 405),
        (plain(GET, HOST, *["X: a"] * 256), 431),
        (plain(GET), 400),
        (plain(GET, HOST, "Connection: Upgrade", "Upgrade: tcp"), 501),
    ],
    ids=lambda value: repr(value)[:80],
)
def test_no_refusal_is_pingoras(start_rig, sent, status):
    """All have a sentence, are counted and are logged."""
    rig = start_rig()
    client = rig.connect()
    client.send(sent)
    head = client.read_head()
    body = client.read_body(head).decode()
    assert head.status == status, head.start
    assert head.get("server") is None and head.get("content-type") == "text/plain; charset=utf-8", head.wire
    assert body.endswith("\n") and len(body) > 10, body
    client.expect_eof()
    refused = "wsgate_connections_refused_total" if status == 400 and sent.startswith(b"G@T") else REQUESTS
    assert rig.gate.metrics().total(refused) == 1
    rig.gate.wait_for_log(lambda line: body.strip() in line, "of the refusal")
    rig.assert_nothing_reached_the_server()


@pytest.mark.parametrize(
    ("header", "reason"),
    [("Host: other.test", "host"), ("X : a", "malformed"), ("X: a\x01", "malformed"), ("X: a\r\n folded", "malformed")],
)
def test_malformed_upgrades_are_refused_in_the_same_way(start_rig, header, reason):
    """A head that is no HTTP may have been any request; with two hosts it is known to ask for a WebSocket."""
    rig = start_rig()
    client, _ = rig.request(extra=[header])
    head = client.read_head()
    assert (head.status, head.get("server")) == (400, None)
    assert client.read_body(head), "no sentence"
    now = rig.gate.metrics()
    assert (now.total(HANDSHAKES), now.total(HANDSHAKES, reason=reason)) == (1, 1)
    assert now.total(REQUESTS) == now.total(REQUESTS, reason="malformed") == (reason == "malformed")
    event = "request refused" if reason == "malformed" else "upgrade refused"
    rig.gate.wait_for_log(lambda line: event in line and f'reason="{reason}"' in line, "of the refusal")
    assert len([line for line in rig.gate.log if " refused" in line]) == 1, rig.gate.log
    rig.assert_nothing_reached_the_server()


def test_an_answer_to_head_has_no_body(start_rig):
    rig = start_rig()
    for sent in (plain("HEAD /a b HTTP/1.1", HOST), plain("HEAD / HTTP/1.1")):
        client = rig.connect()
        client.send(sent)
        head = client.read_head()
        assert head.status == 400 and int(head.get("content-length")) > 0
        client.expect_eof()


def test_refusals_that_were_there_before_are_counted_too(start_rig):
    """No route, no server, a head that does not end."""
    rig = start_rig(client={"header_timeout": "500ms", "max_header_size": "1KiB"}, route={"path": "/only"})
    rig.server.close()
    for sent, status, reason in [
        (plain("GET /elsewhere HTTP/1.1", HOST), 404, "no_route"),
        (plain("GET /only HTTP/1.1", HOST), 502, "unreachable"),
        (b"GET / HTTP/1.1\r\nHost", 408, "head_timed_out"),
        (plain(GET, HOST, "X: " + "a" * 2000), 431, "head_too_large"),
    ]:
        client = rig.connect()
        client.send(sent)
        assert client.read_head().status == status
        client.close()
        rig.gate.wait_for_metrics(lambda now, reason=reason: now.total(REQUESTS, reason=reason) == 1, reason)
        rig.gate.wait_for_log(lambda line, status=status: f"status={status}" in line and "request" in line, f"of {status}")
        assert len([line for line in rig.gate.log if f"status={status}" in line]) == 1, "one line and no other"


def test_a_refused_plain_request_is_logged_with_host_and_path(start_rig):
    rig = start_rig(route={"path": "/only"})
    client = rig.connect()
    client.send(plain("GET /elsewhere?token=secret HTTP/1.1", "Host: a.example:81"))
    assert client.read_head().status == 404
    line = rig.gate.wait_for_log(lambda line: "no_route" in line, "of the refusal")
    assert 'host="a.example:81"' in line and 'path="/elsewhere"' in line and "secret" not in line, line


def test_refusals_over_http2_are_counted_too(start_rig, tmp_path):
    authority = certificates.Authority(tmp_path / "ca")
    rig = start_rig(listener={"certificates": [authority.sign("app", ["app.test"])]}, route={"path": "/only"})
    host, port = rig.gate.address
    command = ["curl", "-sS", "--http2", "--cacert", authority.file, "--resolve", f"app.test:{port}:{host}", "-i"]
    done = subprocess.run([*command, f"https://app.test:{port}/"], capture_output=True, text=True, timeout=20)
    assert done.stdout.startswith("HTTP/2 404") and "no route" in done.stdout, done.stdout + done.stderr
    assert rig.gate.metrics().total(REQUESTS, reason="no_route") == 1


def test_http2_on_a_clear_port_as_curl_speaks_it(start_rig):
    rig = start_rig()
    command = ["curl", "-sS", "-o", "/dev/null", "--http2-prior-knowledge", "-m", "8", f"http://{rig.gate.url}/"]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode not in (0, 28), done.stderr
    assert time.monotonic() - started < 4


def test_a_unix_socket_too(start_rig, tmp_path):
    rig = start_rig(listen=[f"unix:{tmp_path}/gate"])
    client = connect(f"unix:{tmp_path}/gate")
    client.send(TLS_HELLO)
    assert answered_at_once(client)[0] == 400
