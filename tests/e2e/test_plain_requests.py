"""Plain requests whose form other proxies pass, that come early, or that meet a server connection which just ends."""

import threading
import time

import pytest

from rig import http as wire
from rig.raw import TIMEOUT


def get(path, *headers):
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: app.test", *headers, "", ""]).encode()


def post(path, body, *headers):
    length = f"Content-Length: {len(body)}"
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: app.test", length, *headers, "", ""]).encode() + body


def chunked(path, *chunks, trailers=b""):
    head = f"POST {path} HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    body = b"".join(b"%x;a=b\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + b"0\r\n" + trailers + b"\r\n"


def answer(body=b"", **headers):
    return wire.response("200 OK", body, headers={"Connection": "close"} | headers)


# Targets


@pytest.mark.parametrize(
    "target, reaches",
    [
        ('?filter={"a":1}', "?filter={%22a%22:1}"),
        ("?a=<b>", "?a=%3Cb%3E"),
        ("?a=|^`{}[]\\'", "?a=|^`{}[]\\'"),
        ('{"a"}|^[]\\', '{"a"}|^[]\\'),
        ("<b>`", "%3Cb%3E%60"),
        ("\u00fc?\u00fc\u20ac", "\u00fc?\u00fc\u20ac"),
        ("%zz%01%2f?%00%", "%zz%01%2f?%00%"),
    ],
)
def test_targets_that_other_proxies_pass(rig, target, reaches):
    path = rig.new_path() + "/"
    client = rig.connect()
    client.send(f"GET {path}{target} HTTP/1.1\r\nHost: app.test\r\n\r\n".encode())
    upstream, head = rig.server.accept_request(path + reaches.encode().decode("latin-1"))
    upstream.send(answer(b"found"))
    got = client.read_head()
    assert (got.status, client.read_body(got)) == (200, b"found")
    assert head.start.encode("latin-1") == f"GET {path}{reaches} HTTP/1.1".encode()


def test_a_target_that_is_no_utf8(rig):
    path = rig.new_path()
    client = rig.connect()
    client.send(b"GET " + path.encode() + b"?\xfc HTTP/1.1\r\nHost: app.test\r\n\r\n")
    upstream, _ = rig.server.accept_request(path + "?%FC")
    upstream.send(answer())
    assert client.read_head().status == 200


@pytest.mark.parametrize("upgrade", ["h2c", "H2C, h2c"])
def test_an_offer_of_http2_is_ignored(rig, upgrade):
    """RFC 9110 §7.8; curl --http2 makes one with each request without TLS."""
    path = rig.new_path()
    client = rig.connect()
    client.send(get(path, "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {upgrade}", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"))
    upstream, head = rig.server.accept_request(path)
    assert [head.get(name) for name in ("upgrade", "http2-settings")] == [None, None]
    upstream.send(answer(b"plain"))
    assert client.read_head().status == 200


@pytest.mark.parametrize("upgrade", ["SPDY/3.1", "tcp", "TLS/1.0", "h2c, tcp"])
def test_another_protocol_is_not_implemented(rig, upgrade):
    client = rig.connect()
    client.send(get("/", "Connection: Upgrade", f"Upgrade: {upgrade}"))
    head = client.read_head()
    assert head.status == 501
    assert b"Upgrade" in client.read_body(head)
    rig.assert_nothing_reached_the_server()


# Requests that come early


REQUESTS = {
    "get": (lambda path: get(path), b""),
    "post": (lambda path: post(path, b"b" * 3000), b"b" * 3000),
    "empty post": (lambda path: post(path, b""), b""),
    "chunked": (lambda path: chunked(path, b"c" * 100, b"c" * 70_000, trailers=b"X: y\r\n"), b"c" * 70_100),
    "large": (lambda path: post(path, b"l" * 300_000), b"l" * 300_000),
}


@pytest.mark.parametrize("first", REQUESTS)
@pytest.mark.parametrize("second", REQUESTS)
@pytest.mark.parametrize("cut", ["together", "later", "byte by byte"])
def test_requests_in_one_packet_are_all_served(rig, first, second, cut):
    """In their order, each as if it had come alone; also where the next one comes while the first is under way."""
    paths = [rig.new_path() for _ in range(3)]
    kinds = [REQUESTS[first], REQUESTS[second], REQUESTS["get"]]
    sent = [make(path) for (make, _), path in zip(kinds, paths, strict=True)]
    client = rig.connect()
    sender = threading.Thread(target=send, args=(client, sent, cut), daemon=True)
    sender.start()
    for number, ((_, body), path) in enumerate(zip(kinds, paths, strict=True)):
        upstream, head = rig.server.accept_request(path)
        has_body = head.get("content-length") or head.get("transfer-encoding")
        assert (upstream.read_body(head) if has_body else b"") == body
        if cut != "together":
            # The server takes its time; what came meanwhile ends nothing.
            client.sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.sock.recv(1)
            client.sock.settimeout(TIMEOUT)
        upstream.send(answer(f"answer {number}".encode()))
        upstream.close()
        got = client.read_head()
        assert (got.status, client.read_body(got)) == (200, f"answer {number}".encode())
        assert got.get("connection") == "keep-alive"
    sender.join(TIMEOUT)


def send(client, sent, cut):
    if cut == "together":
        client.send(b"".join(sent))
    elif cut == "later":
        for one in sent:
            client.send(one)
            time.sleep(0.02)
    else:
        whole = b"".join(sent)
        for at in range(0, 300):
            client.send(whole[at : at + 1])
        client.send(whole[300:])


def test_a_websocket_behind_a_plain_request(rig):
    """In the same packet, with a frame behind it."""
    first, second = rig.new_path(), rig.new_path()
    client = rig.connect()
    client.send(post(first, b"body") + wire.upgrade_request(second) + client.frame(1, b"early"))
    upstream, head = rig.server.accept_request(first)
    assert upstream.read_body(head) == b"body"
    upstream.send(answer(b"page"))
    assert client.read_body(client.read_head()) == b"page"
    upstream, head = rig.server.accept_request(second)
    upstream.send(wire.switching_protocols(head))
    assert client.read_head().status == 101
    assert upstream.read_frame().payload == b"early"
    client.close()
    upstream.close()


def test_limits_hold_for_early_requests_too(start_rig):
    rig = start_rig(client={"max_header_size": "1KiB"})
    path = rig.new_path()
    client = rig.connect()
    client.send(get(path) + get("/", "X: " + "a" * 2000))
    upstream, _ = rig.server.accept_request(path)
    upstream.send(answer(b"one"))
    assert client.read_body(client.read_head()) == b"one"
    assert client.read_head().status == 431


def test_what_is_behind_a_malformed_body_is_no_request(rig):
    """Where wsgate and a server might see another end of the body, nothing behind it is served."""
    for body in (b"3\nabc\n0\n\n", b"3\r\nabcd\r\n0\r\n\r\n", b"0\n\r\n", b"+0\r\n\r\n"):
        path, smuggled = rig.new_path(), rig.new_path()
        client = rig.connect()
        client.send(f"POST {path} HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body + get(smuggled))
        client.end_sending()
        client.read_to_end()
        fence, fence_path = rig.request()
        before = b"".join(rig.server.requests_before(fence_path))
        assert smuggled.encode() not in before, before
        fence.close()


def test_an_abandoned_request_is_given_up(rig):
    """A client that leaves while the server works: its server connection ends, as before."""
    path = rig.new_path()
    client = rig.connect()
    client.send(get(path))
    upstream, _ = rig.server.accept_request(path)
    client.close()
    upstream.read_to_end()


@pytest.mark.parametrize("path, status", [("/elsewhere", 404), ("/only", 502)])
def test_a_refusal_arrives_although_the_body_was_not_read(start_rig, path, status):
    """No reset overtakes it, whoever reads the body."""
    rig = start_rig(route={"path": "/only"})
    rig.server.close()
    for _ in range(5):
        client = rig.connect()
        client.send(post(path, b"b" * 2_000_000))
        got = client.read_head()
        assert got.status == status and client.read_body(got)
        client.expect_eof()


# Server connections that are used again


def reused(rig, path):
    """A server connection that has served a request and is kept: `(client, upstream)`."""
    client = rig.connect()
    client.send(get(path))
    upstream, _ = rig.server.accept_request(path)
    upstream.send(wire.response("200 OK", b"first"))
    assert client.read_body(client.read_head()) == b"first"
    return client, upstream


def test_a_large_body_is_not_kept_to_be_repeated(start_rig):
    rig = start_rig(upstream={"keepalive_timeout": "60s"})
    client, upstream = reused(rig, rig.new_path())
    path, body = rig.new_path(), b"b" * 200_000
    client.send(post(path, body).replace(b"POST", b"PUT", 1))
    assert upstream.read_body(upstream.read_head()) == body
    upstream.close()
    got = client.read_head()
    assert got.status == 502 and b"may have handled" in client.read_body(got)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_request_on_a_connection_that_just_ended_is_repeated(start_rig, method, end):
    """RFC 9110 §9.2.2: what is idempotent may be sent once more, with its body."""
    rig = start_rig(upstream={"keepalive_timeout": "60s"})
    client, upstream = reused(rig, rig.new_path())
    path, body = rig.new_path(), b"b" * 1000
    client.send(post(path, body).replace(b"POST", method.encode(), 1))
    head = upstream.read_head()
    assert head.path == path
    getattr(upstream, end)()
    again, head = rig.server.accept_request(path)
    assert again.read_body(head) == body
    again.send(answer(b"second"))
    got = client.read_head()
    assert (got.status, client.read_body(got)) == (200, b"second")


def test_a_post_on_a_connection_that_just_ended_is_not(start_rig):
    """RFC 9110 §9.2.2: a proxy must not repeat it. The client is told what is known."""
    rig = start_rig(upstream={"keepalive_timeout": "60s"})
    client, upstream = reused(rig, rig.new_path())
    path = rig.new_path()
    client.send(post(path, b"body"))
    assert upstream.read_head().path == path
    upstream.close()
    got = client.read_head()
    assert got.status == 502
    assert client.read_body(got) == (
        b"the server ended the connection before it answered; it may have handled the request or not\n"
    )
    assert [seen for seen in rig_requests(rig) if b"POST" in seen] == []


def rig_requests(rig):
    """What came to the server on connections that were not accepted yet."""
    client, path = rig.request()
    before = rig.server.requests_before(path)
    client.close()
    return before


def test_a_new_connection_that_ends_is_not_tried_again(start_rig):
    """A request that kills servers is not taken to the next one."""
    rig = start_rig()
    path = rig.new_path()
    client = rig.connect()
    client.send(get(path))
    upstream, _ = rig.server.accept_request(path)
    upstream.close()
    assert client.read_head().status == 502
    assert [seen for seen in rig_requests(rig) if path.encode() in seen] == []


@pytest.mark.parametrize("upstream, seconds", [({"keepalive_timeout": "1s"}, 1), ({}, 4)], ids=["set", "default"])
def test_server_connections_are_not_kept_for_long(start_rig, upstream, seconds):
    """So that servers do not end them just when a request comes: Node.js and others do after five seconds."""
    rig = start_rig(upstream=upstream)
    _, kept = reused(rig, rig.new_path())
    started = time.monotonic()
    kept.expect_eof()
    assert seconds - 0.5 < time.monotonic() - started < seconds + 0.9
