"""Which server gets a connection: turns, the next one where a connect fails, TCP and Unix sockets, several routes."""

import contextlib
import select
import socket

import pytest

from rig import http, raw
from rig.gate import Gate, config
from rig.session import Rig


@contextlib.contextmanager
def dead_address():
    """An address that refuses every connect, and that nobody else can take meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*sock.getsockname())


def upgrade(gate, server, path):
    """A handshake that has to arrive at `server`."""
    client = raw.connect(gate.address)
    client.send(http.upgrade_request(path))
    upstream, head = server.accept_request(path)
    upstream.send(http.switching_protocols(head))
    assert client.read_head().status == 101
    return client, upstream


def test_servers_take_turns(tmp_path):
    servers = [raw.Server(), raw.Server()]
    with Gate(tmp_path, config([server.address for server in servers])) as gate:
        # A connection that is not kept ends, and the next one goes by how soon that is noticed.
        kept = []
        taken = [take_turn(gate, servers, kept) for _ in range(8)]
        raw.drop_all()
    assert taken in ([0, 1] * 4, [1, 0] * 4), f"the servers were taken in this order: {taken}"


def take_turn(gate, servers, kept):
    """Index of the server that the next handshake reaches; both ends of the connection are added to `kept`."""
    client = raw.connect(gate.address)
    client.send(http.upgrade_request(Rig.new_path()))
    ready, _, _ = select.select([server.sock for server in servers], [], [], raw.TIMEOUT)
    assert len(ready) == 1, f"{len(ready)} servers were reached"
    index = [server.sock for server in servers].index(ready[0])
    upstream = servers[index].accept()
    upstream.send(http.switching_protocols(upstream.read_head()))
    assert client.read_head().status == 101
    kept += [client, upstream]
    return index


def test_the_next_server_is_tried(tmp_path):
    """One of two refuses: every handshake succeeds all the same."""
    server = raw.Server()
    with dead_address() as dead, Gate(tmp_path, config([dead, server.address])) as gate:
        for _ in range(4):
            upgrade(gate, server, Rig.new_path())
        raw.drop_all()


def test_no_server_reachable(tmp_path):
    with dead_address() as dead, dead_address() as second, Gate(tmp_path, config([dead, second])) as gate:
        client = raw.connect(gate.address)
        client.send(http.upgrade_request("/"))
        answer = client.read_head()
        assert answer.status == 502, f"answered {answer.start}"
        assert client.read_body(answer), "no sentence"
        client.close()
        plain = raw.connect(gate.address)
        plain.send(b"GET /plain HTTP/1.1\r\nHost: gate.test\r\n\r\n")
        assert plain.read_head().status == 502


def test_a_server_that_dies_in_the_handshake_is_replaced_by_another(tmp_path):
    """An upgrade request is a GET, which may be repeated; it is, once, and only where not one byte of an answer came."""
    servers = [raw.Server(), raw.Server()]
    with Gate(tmp_path, config([server.address for server in servers], upstream={"eject_after": 100})) as gate:

        def ask(*answers):
            """The status that a client gets; servers answer one after the other, and end the connection."""
            client, path = raw.connect(gate.address), Rig.new_path()
            client.send(http.upgrade_request(path))
            asked = []
            for answer in answers:
                ready = select.select([server.sock for server in servers], [], [], raw.TIMEOUT)[0]
                asked.append(next(server for server in servers if server.sock is ready[0]))
                upstream, head = asked[-1].accept_request(path)
                upstream.send(http.switching_protocols(head) if answer is None else answer)
                if answer is not None:
                    upstream.reset()
            assert len(set(asked)) == len(asked), "each server is asked once"
            return client.read_head().status

        assert [ask(b"", None) for _ in range(3)] == [101] * 3
        assert gate.metrics().total("wsgate_handshakes_refused_total") == 0
        assert ask(b"", b"") == 502
        assert ask(b"HTTP/1.1 1") == 502
        raw.drop_all()


def test_unix_sockets_on_both_sides(tmp_path):
    server = raw.Server(tmp_path / "server.sock")
    listen = [f"unix:{tmp_path}/gate.sock", "127.0.0.1:0"]
    with Gate(tmp_path, config([server.address], listen=listen)) as gate:
        assert len(gate.listeners) == 2
        for address in gate.listeners:
            path = Rig.new_path()
            client = raw.connect(address)
            client.send(http.upgrade_request(path))
            upstream, head = server.accept_request(path)
            upstream.send(http.switching_protocols(head))
            assert client.read_head().status == 101
            upstream.read_exactly(client.send_frame(1, b"over a Unix socket"))
            client.read_exactly(upstream.send_frame(2, b"and back"))
        raw.drop_all()


@pytest.mark.parametrize(
    ("host", "path", "route"),
    [
        ("chat.test", "/", "chat"),
        ("chat.test", "/admin/x", "chat-admin"),
        ("chat.test", "/administrator", "chat"),
        ("eu.games.test", "/", "games"),
        ("a.b.games.test", "/", "games"),
        ("games.test", "/", "rest"),
        ("unknown.test", "/", "rest"),
    ],
)
def test_the_most_specific_route_wins(routed, host, path, route):
    gate, servers = routed
    before = gate.metrics()
    client = raw.connect(gate.address)
    client.send(http.upgrade_request(path, headers={"Host": host}))
    upstream, head = servers[route].accept_request(path)
    upstream.send(http.switching_protocols(head))
    assert client.read_head().status == 101
    name = "wsgate_connections_total"
    after = gate.wait_for_metrics(lambda now: now.total(name) > before.total(name), "the connection to be counted")
    assert after.total(name, route=route) - before.total(name, route=route) == 1
    raw.drop_all()


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    """A proxy with four routes, each to an upstream of its own."""
    hosts = {"rest": [], "chat": ["chat.test"], "chat-admin": ["chat.test"], "games": ["*.games.test"]}
    servers = {name: raw.Server() for name in hosts}
    routes = [
        {"name": name, "hosts": hosts[name], "upstream": name, "path": "/admin" if name == "chat-admin" else "/"}
        for name in hosts
    ]
    text = config([servers["rest"].address], routes=routes) + "".join(
        f'\n[upstream.{name}]\nservers = ["{server.address}"]\n' for name, server in servers.items()
    )
    with Gate(tmp_path_factory.mktemp("routed"), text) as gate:
        yield gate, servers
        raw.drop_all()
