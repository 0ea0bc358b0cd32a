"""Plain requests in a drain: they are shown, waited for, and ended at the deadline."""


import pytest

from rig import gate, http, operator, raw
from rig.raw import TIMEOUT


def get(path, body=b"", length=None):
    """A request with a body of which these bytes come now."""
    length = len(body) if length is None else length
    lines = [f"Content-Length: {length}"] if length else []
    return "\r\n".join([f"{'POST' if length else 'GET'} {path} HTTP/1.1", "Host: a.test", *lines, "", ""]).encode() + body


def under_way(rig, **options):
    """A plain request that the server has and has not answered: `(client, server)`."""
    client, path = rig.connect(), rig.new_path()
    client.send(get(path, **options))
    server, _ = rig.server.accept_request(path)
    return client, server


def ask(rig, verb, change=None, method="POST"):
    """The body of the answer of the admin listener about the upstream `main`."""
    status, body = operator.request(rig.gate, method, f"/v1/upstreams/main/{verb}", change)
    assert status in (200, 202), body
    return body


def drain(rig, deadline="60s"):
    [drain] = ask(rig, "drain", {"force": True, "deadline": deadline})["begun"]
    return drain["id"]


def wait_for(rig, id):
    """The drain, which is the last one, once it is over."""
    drain = operator.wait_until_drained(rig.gate)
    assert drain["id"] == id, drain
    return drain


def test_a_drain_waits_for_plain_requests(start_rig):
    rig = start_rig()
    client, server = under_way(rig)
    assert ask(rig, "drain", {"dry_run": True})["forecast"]["plain_requests"] == 1
    id = drain(rig)
    [shown] = ask(rig, "drain", method="GET")["drains"]
    assert (shown["state"], shown["plain_requests"], shown["total"]) == ("running", 1, 0)
    status, output = gate.run(["status", "--admin", "{}:{}".format(*rig.gate.admin)])
    assert status == 1 and "1 plain requests" in output and max(map(len, output.splitlines())) <= 80, output
    assert rig.gate.metrics().total("wsgate_server_plain_requests") == 1
    server.send(http.response("200 OK", b"done", headers={"Connection": "close"}))
    server.close()
    head = client.read_head()
    assert (head.status, client.read_body(head)) == (200, b"done")
    over = wait_for(rig, id)
    assert (over["state"], over["plain_requests"]) == ("done", 0)
    assert not [line for line in rig.gate.log if "plain requests are ended" in line]


@pytest.mark.parametrize("kind", ["long poll", "upload"])
def test_a_request_without_a_response_gets_503_at_the_deadline(start_rig, kind):
    rig = start_rig()
    client, server = under_way(rig, **({} if kind == "long poll" else {"body": b"x" * 10, "length": 1000}))
    id = drain(rig, "300ms")
    head = client.read_head()
    assert (head.status, head.get("connection")) == (503, "close") and int(head.get("retry-after")) > 0
    assert b"taken out of service" in client.read_body(head)
    client.expect_eof()
    server.read_to_end()
    over = wait_for(rig, id)
    assert (over["state"], over["plain_requests"]) == ("done", 0)
    rig.gate.wait_for_log(lambda line: "plain requests are ended" in line and "count=1" in line, "of the end")
    now = rig.gate.metrics()
    assert now.total("wsgate_plain_requests_refused_total", reason="server_drained") == 1
    assert now.total("wsgate_server_plain_requests") == now.total("wsgate_plain_requests_open") == 0


def test_a_stream_of_events_ends_at_the_deadline(start_rig):
    rig = start_rig()
    client, server = under_way(rig)
    server.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
    assert client.read_head().status == 200
    client.read_exactly(b"9\r\ndata: 1\n\n\r\n")
    id = drain(rig, "300ms")
    assert client.read_to_end()[0] == b"", "no last chunk: the client knows that the stream is cut"
    server.read_to_end()
    over = wait_for(rig, id)
    assert (over["state"], over["plain_requests"]) == ("done", 0)


def test_a_deploy_does_not_wait_for_plain_requests(start_rig):
    rig = start_rig()
    client, server = under_way(rig)
    [begun] = ask(rig, "deploy")["begun"]
    over = wait_for(rig, begun["id"])
    assert (over["state"], over["plain_requests"]) == ("done", 0)
    server.send(http.response("200 OK", b"done", headers={"Connection": "close"}))
    server.close()
    assert client.read_head().status == 200


def test_a_resumed_server_keeps_its_requests(tmp_path):
    servers = [raw.Server(), raw.Server()]
    config = gate.config([server.address for server in servers], upstream={"balance": "round_robin"})
    with gate.Gate(tmp_path, config) as wsgate:
        clients = {path: raw.connect(wsgate.address) for path in ("/0", "/1")}
        for path, client in clients.items():
            client.send(get(path))
        # One request at each of the servers.
        peers = [server.accept() for server in servers]
        waiting = [(clients[peer.read_head().path], peer) for peer in peers]
        for verb, number in [("drain", 0), ("resume", 0), ("drain", 1)]:
            change = {"server": servers[number].address, "deadline": "300ms"} if verb == "drain" else {}
            assert operator.request(wsgate, "POST", f"/v1/upstreams/main/{verb}", change)[0] in (200, 202)
        # When the second drain's deadline is over, that of the first is too.
        assert waiting[1][0].read_head().status == 503
        client, server = waiting[0]
        server.send(http.response("200 OK", b"done", headers={"Connection": "close"}))
        server.close()
        assert client.read_head().status == 200
        raw.drop_all()
