"""Limits on connections and requests: connections without a request, plain HTTP and WebSockets count alike."""

import re
import subprocess
import time

import pytest

from rig import certificates, http

REFUSED = "wsgate_connections_refused_total"
REQUESTS = "wsgate_plain_requests_refused_total"
FRONT = {"trusted_proxies": ["127.0.0.0/8"]}


def get(path="/", *, address=None, extra=()):
    """A plain request, of the client of that address where a proxy in front says so."""
    forwarded = [f"X-Forwarded-For: {address}"] if address else []
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: app.test", *forwarded, *extra, "", ""]).encode()


def refused(client):
    """Status, sentence and Retry-After of an answer after which the connection ends."""
    head = client.read_head()
    body = client.read_body(head)
    assert head.get("server") is None and head.get("content-type") == "text/plain; charset=utf-8", head.wire
    client.expect_eof()
    return head.status, body.decode(), head.get("retry-after")


def under_way(rig, sent, path):
    """A plain request that a server has and has not answered: `(client, upstream)`."""
    client = rig.connect()
    client.send(sent)
    upstream, _ = rig.server.accept_request(path)
    return client, upstream


def finish(client, upstream):
    """Answers such a request; its connection ends."""
    upstream.send(http.response("200 OK", b"done", headers={"Connection": "close"}))
    upstream.close()
    head = client.read_head()
    assert (head.status, client.read_body(head)) == (200, b"done")
    client.close()


def wait_for_open(rig, count):
    """Until wsgate has so many connections of clients: those that have just come, or gone, are counted then."""
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_client_connections_open") == count, f"{count} connections")


TOO_MANY = (429, "this address has, or opens, too many connections\n", "5")
FULL = (503, "all connections are taken\n", "5")


@pytest.mark.parametrize(
    "key, answer, reason",
    [("address_max_connections", TOO_MANY, "address_max_connections"), ("max_connections", FULL, "max_connections")],
)
def test_connections_without_a_request_count(start_rig, key, answer, reason):
    """Each is refused without a byte of its own, and a place that is left is free again."""
    rig = start_rig(client={key: 3}, route={"hosts": ["app.test"]})
    silent = [rig.connect() for _ in range(2)]
    half = rig.connect()
    half.send(b"GET / HT")
    wait_for_open(rig, 3)
    for _ in range(20):
        client = rig.connect()
        assert refused(client) == answer
    assert rig.gate.metrics().total(REFUSED, reason=reason) == 20
    rig.gate.wait_for_log(lambda line: "connection refused" in line, "of it")
    lines = [line for line in rig.gate.log if "connection refused" in line]
    assert len(lines) == 1 and f'reason="{reason}"' in lines[0] and "127.0.0.1:" in lines[0], lines
    silent.pop().close()
    wait_for_open(rig, 2)
    client = rig.connect()
    client.send(get().replace(b"app.test", b"other.test"))
    assert client.read_head().status == 404
    half.close()


def test_a_thousand_connections_of_one_address(start_rig):
    """With all three limits at 5, five are open and all others are gone, descriptors included."""
    limits = {"address_max_connections": 5, "address_rate": 5, "max_connections": 5}
    rig = start_rig(client=limits, route={"max_connections": 5})
    clients = [rig.connect() for _ in range(1000)]
    for client in clients:
        client.sock.setblocking(False)
    deadline = time.monotonic() + 20
    while (left := sum(not is_over(client) for client in clients)) > 5:
        assert time.monotonic() < deadline, f"{left} of 1000 connections are still open"
        time.sleep(0.05)
    for client in clients:
        if is_over(client):
            client.close()
    deadline = time.monotonic() + 10
    while (now := rig.gate.open_files()) > 60:
        assert time.monotonic() < deadline, f"{now} files are open"
        time.sleep(0.05)
    wait_for_open(rig, 5)


def is_over(client):
    """Reads what there is, and says whether the other end is gone."""
    try:
        while client.sock.recv(1000):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def test_an_answer_arrives_although_the_request_was_not_read(start_rig):
    """A client that has sent its request by then gets no reset in the place of the answer."""
    rig = start_rig(client={"max_connections": 1})
    holder = rig.connect()
    wait_for_open(rig, 1)
    for _ in range(20):
        client = rig.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
        assert refused(client) == FULL
    holder.close()


def test_websockets_and_plain_connections_share_the_places(start_rig):
    """A WebSocket counts once, from its first byte to its end."""
    rig = start_rig(client={"address_max_connections": 2, "max_connections": 2})
    session = rig.open()
    client, upstream = under_way(rig, get(path := rig.new_path()), path)
    assert refused(rig.connect())[0] == 503
    finish(client, upstream)
    session.finish()
    wait_for_open(rig, 0)
    sessions = [rig.open(), rig.open()]
    assert refused(rig.connect())[0] == 503
    for session in sessions:
        session.finish()


def test_a_failed_upgrade_gives_its_place_back(start_rig):
    rig = start_rig(client={"address_max_connections": 1, "max_connections": 1}, route={"allowed_origins": ["https://a.test"]})
    for _ in range(5):
        client, _ = rig.request(headers={"Origin": "https://evil.test"})
        assert client.read_head().status == 403
        client.close()
        wait_for_open(rig, 0)
    rig.open(request={"headers": {"Origin": "https://a.test"}}).finish()


def test_the_rate_counts_connections_and_further_requests(start_rig):
    rig = start_rig(client={"address_rate": 3}, route={"hosts": ["app.test"]})
    other = get("/").replace(b"app.test", b"other.test")
    client = rig.connect()
    # The first request comes with the connection; 404 ends it, so that an answered one is needed for a second.
    path = rig.new_path()
    client.send(get(path))
    upstream, _ = rig.server.accept_request(path)
    upstream.send(http.response("200 OK", b"one", headers={"Connection": "close"}))
    head = client.read_head()
    assert (head.status, client.read_body(head)) == (200, b"one")
    path = rig.new_path()
    client.send(get(path))
    upstream, _ = rig.server.accept_request(path)
    upstream.send(http.response("200 OK", b"two", headers={"Connection": "close"}))
    head = client.read_head()
    assert (head.status, client.read_body(head)) == (200, b"two")
    # Two of three tokens are gone; one connection more, and then none.
    second = rig.connect()
    second.send(other)
    assert second.read_head().status == 404
    client.send(get())
    status, sentence, after = refused(client)
    assert (status, after) == (429, "1") and "too many" in sentence
    assert refused(rig.connect())[0] == 429
    now = rig.gate.metrics()
    assert (now.total(REFUSED, reason="address_rate"), now.total(REQUESTS, reason="address_limit")) == (1, 1)


def test_clients_behind_a_trusted_proxy_are_counted_one_by_one(start_rig):
    """Its connections are not; the plain requests and WebSockets of each client are."""
    rig = start_rig(client=FRONT | {"address_max_connections": 2})
    idle = [rig.connect() for _ in range(10)]
    first = under_way(rig, get(path := rig.new_path(), address="203.0.113.7"), path)
    request = {"extra": ["X-Forwarded-For: 203.0.113.7"]}
    session = rig.open(request=request)
    third = rig.connect()
    third.send(get(address="203.0.113.7"))
    assert refused(third) == TOO_MANY
    client, _ = rig.request(**request)
    assert client.read_head().status == 429
    other = under_way(rig, get(path := rig.new_path(), address="203.0.113.8"), path)
    assert rig.gate.metrics().total(REQUESTS, reason="address_limit") == 1
    finish(*first)
    finish(*other)
    session.finish()
    wait_for_open(rig, 10)
    again = under_way(rig, get(path := rig.new_path(), address="203.0.113.7"), path)
    finish(*again)
    assert len(idle) == 10


def test_the_rate_of_clients_behind_a_trusted_proxy(start_rig):
    """One connection, many requests: each counts."""
    rig = start_rig(client=FRONT | {"address_rate": 2})
    client = rig.connect()
    for _ in range(2):
        path = rig.new_path()
        client.send(get(path, address="203.0.113.7"))
        upstream, _ = rig.server.accept_request(path)
        upstream.send(http.response("200 OK", b"", headers={"Connection": "close"}))
        assert client.read_head().status == 200
    client.send(get(address="203.0.113.7"))
    assert refused(client)[0] == 429
    other, upstream = under_way(rig, get(path := rig.new_path(), address="203.0.113.8"), path)
    finish(other, upstream)


def test_a_route_bounds_what_is_under_way(start_rig):
    rig = start_rig(route={"max_connections": 2})
    client, upstream = under_way(rig, get(path := rig.new_path()), path)
    session = rig.open()
    more = rig.connect()
    more.send(get())
    assert refused(more) == (503, "all connections of this route are taken\n", "5")
    websocket, _ = rig.request()
    assert websocket.read_head().status == 503
    # Connections that ask for nothing do not count here.
    idle = [rig.connect() for _ in range(5)]
    finish(client, upstream)
    wait_for_open(rig, 1 + 5)
    client, upstream = under_way(rig, get(path := rig.new_path()), path)
    finish(client, upstream)
    session.finish()
    assert len(idle) == 5


def test_over_tls_it_ends_before_the_handshake(start_rig, tmp_path):
    authority = certificates.Authority(tmp_path / "ca")
    pair = authority.sign("app", ["app.test"])
    rig = start_rig(listener={"certificates": [pair]}, client={"max_connections": 1})
    holder = rig.connect()
    wait_for_open(rig, 1)
    client = rig.connect()
    assert client.read_to_end()[0] == b""
    assert rig.gate.metrics().total(REFUSED, reason="max_connections") == 1
    holder.close()


def test_requests_over_http2_count(start_rig, tmp_path):
    """Each stream is a request of its own."""
    authority = certificates.Authority(tmp_path / "ca")
    pair = authority.sign("app", ["app.test"])
    limited = {"client": {"address_rate": 2}, "route": {"path": "/only"}}
    rig = start_rig(listener={"certificates": [pair]}, upstream={"queue_timeout": "0s"}, **limited)
    host, port = rig.gate.address
    command = ["curl", "-sS", "--http2", "--cacert", authority.file, "--resolve", f"app.test:{port}:{host}"]
    command += ["-w", "%{http_version} %{http_code}\n", "-o", "/dev/null"]
    urls = [f"https://app.test:{port}/only/{number}" for number in range(3)]
    # One token for the connection, one for its first request; the next is one too many.
    rig.server.close()
    done = subprocess.run([*command, urls[0], "-o", "/dev/null", urls[1]], capture_output=True, text=True, timeout=20)
    assert re.findall(r"2 (\d+)", done.stdout) == ["502", "429"], done.stdout + done.stderr
    rig.gate.wait_for_metrics(lambda now: now.total(REQUESTS, reason="address_limit") == 1, "the refusal")


def test_limits_of_zero_are_none(start_rig):
    rig = start_rig(client={"address_max_connections": 0, "address_rate": 0, "max_connections": 0})
    clients = [rig.connect() for _ in range(200)]
    rig.assert_works()
    assert rig.gate.metrics().total(REFUSED) == 0
    wait_for_open(rig, len(clients))


def test_a_reload_keeps_count(start_rig):
    """Connections from before it hold their places, those after it meet the new limit."""
    rig = start_rig(client={"max_connections": 3}, route={"hosts": ["app.test"]})
    clients = [rig.connect() for _ in range(2)]
    wait_for_open(rig, 2)
    rig.gate.reload(rig.gate.file.read_text().replace("max_connections = 3", "max_connections = 2"))
    assert refused(rig.connect())[0] == 503
    clients.pop().close()
    wait_for_open(rig, 1)
    client = rig.connect()
    client.send(get().replace(b"app.test", b"other.test"))
    assert client.read_head().status == 404
