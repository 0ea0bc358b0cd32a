"""Plain HTTP on the same listener: pages, health checks and long polls need no second proxy."""

from rig import http


def request(method, path, body=b"", *, headers=()):
    """A plain request."""
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: app.test", *length, *headers, "", ""]).encode() + body


def exchange(rig, client, sent, path, answer):
    """One request and its answer: the request's head and body at the server, the answer's at the client."""
    client.send(sent)
    upstream, head = rig.server.accept_request(path)
    body = upstream.read_body(head) if head.get("content-length") or head.get("transfer-encoding") else b""
    upstream.send(answer)
    upstream.close()
    got = client.read_head()
    return head, body, got, client.read_body(got)


def answer(body, **headers):
    """The server's answer, after which it closes: no connection is left in the proxy's pool for another test."""
    return http.response("200 OK", body, headers={"Connection": "close"} | headers)


def test_get(rig):
    path = rig.new_path()
    head, _, got, body = exchange(rig, rig.connect(), request("GET", path), path, answer(b"<p>hello</p>", Server="x"))
    assert (got.status, body, got.get("server")) == (200, b"<p>hello</p>", "x")
    assert head.get("x-forwarded-for").split(", ")[-1] == "127.0.0.1"
    assert (head.get("x-forwarded-proto"), head.get("x-forwarded-host"), head.get("host")) == (
        "http",
        "app.test",
        "app.test",
    )


def test_no_host(rig):
    """RFC 9112 §3.2: an HTTP/1.1 request without one is 400."""
    client = rig.connect()
    client.send(b"GET /no-host HTTP/1.1\r\n\r\n")
    answer = client.read_head()
    assert answer.status == 400, f"answered {answer.start}"
    client.close()
    rig.assert_nothing_reached_the_server()


def test_post(rig):
    path, sent = rig.new_path(), bytes(range(256)) * 1000
    _, received, _, body = exchange(rig, rig.connect(), request("POST", path, sent), path, answer(b"stored"))
    assert received == sent, "the body changed on its way"
    assert body == b"stored"


def test_hop_by_hop_headers_are_removed_both_ways(rig):
    path = rig.new_path()
    sent = request(
        "GET", path, headers=["Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "X-End: 2"]
    )
    response = answer(b"", Connection="close, X-Back", **{"X-Back": "1", "X-Far": "2"})
    head, _, got, _ = exchange(rig, rig.connect(), sent, path, response)
    assert [head.get(name) for name in ("x-hop", "keep-alive", "x-end")] == [None, None, "2"], head.wire
    assert [got.get(name) for name in ("x-back", "x-far")] == [None, "2"], got.wire


def test_connection_is_kept_for_further_requests(rig):
    client = rig.connect()
    for number in range(5):
        path, text = rig.new_path(), f"answer {number}".encode()
        assert exchange(rig, client, request("GET", path), path, answer(text))[3] == text


def test_websocket_after_plain_requests_on_one_connection(rig):
    """A browser's or a library's pool may do so."""
    client, path = rig.connect(), rig.new_path()
    exchange(rig, client, request("GET", path), path, answer(b"page"))
    path = rig.new_path()
    client.send(http.upgrade_request(path))
    upstream, head = rig.server.accept_request(path)
    upstream.send(http.switching_protocols(head))
    assert client.read_head().status == 101
    upstream.read_exactly(client.send_frame(1, b"after the page"))


def test_a_plain_request_answered_101_is_no_tunnel(rig):
    """Nobody asked: the client gets an error, and what it sends goes nowhere."""
    client, path = rig.connect(), rig.new_path()
    client.send(request("GET", path))
    upstream, _ = rig.server.accept_request(path)
    upstream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert client.read_head().status == 502
    client.send(b"\x81\x02hi")
    left, _ = upstream.read_to_end()
    assert left == b"", f"reached the upstream: {left!r}"
