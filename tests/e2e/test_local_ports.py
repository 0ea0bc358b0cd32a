"""Local ports run out: no server is blamed, another one is tried, and more addresses to connect from are more ports."""

import pathlib
import subprocess

import pytest

from rig import http, raw
from rig.frames import TEXT
from rig.gate import Gate, config
from rig.namespace import in_namespace
from rig.operator import status

PORTS = 10
"""So many local ports there are for connections to one address."""


def limit_ports(count=PORTS):
    pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"61000 {61000 + count - 1}")


@pytest.fixture
def start_gate(tmp_path):
    """Starts a wsgate on a Unix socket, so that clients take no port; the servers have theirs by then."""
    running = []

    def start(servers, **options):
        text = config([server.address for server in servers], listen=[f"unix:{tmp_path}/gate"], **options)
        running.append(Gate(tmp_path, text))
        limit_ports()
        return running[-1]

    yield start
    raw.drop_all()
    for wsgate in running:
        wsgate.stop()


def upgrade(wsgate):
    client = raw.connect(wsgate.address)
    client.send(http.upgrade_request())
    return client


def connect(wsgate, servers, most=64):
    """Opens sessions until a client is refused: `(sessions, head of the refusal)`."""
    sessions = []
    while len(sessions) < most:
        client = upgrade(wsgate)
        upstream = accept(servers)
        if upstream is None:
            return sessions, client.read_head()
        upstream.send(http.switching_protocols(upstream.read_head()))
        assert client.read_head().status == 101
        sessions.append((client, upstream))
    raise AssertionError(f"{most} sessions, and still more")


def accept(servers, patience=0.5):
    """The connection that comes to one of the servers; `None`: there comes none."""
    for server in servers:
        server.sock.settimeout(patience / len(servers))
        try:
            sock, _ = server.sock.accept()
        except TimeoutError:
            continue
        return raw.Peer(sock, client=False)
    return None


def assert_refused(wsgate, head):
    assert (head.status, head.get("retry-after")) == (503, "5"), head.start
    now = wsgate.wait_for_metrics(
        lambda now: now.total("wsgate_exhausted_total", resource="local_ports") > 0, "the count"
    )
    assert now.total("wsgate_server_state", state="down") == 0, "that was no server's fault"
    assert now.total("wsgate_ejections_total") == 0
    told = [line for line in wsgate.log if "new connections wait, or are refused" in line]
    assert len(told) == 1 and "`source`" in told[0] and "ip_local_port_range" in told[0], told
    assert not [line for line in wsgate.log if "cannot be reached" in line], wsgate.log


@pytest.mark.parametrize("sources", [0, 1, 2])
@in_namespace
def test_as_many_connections_as_there_are_ports(start_gate, sources):
    server = raw.Server()
    source = {"source": [f"127.0.0.{2 + number}" for number in range(sources)]} if sources else {}
    wsgate = start_gate([server], upstream={"eject_after": 1, "connect_timeout": "1s"} | source)
    sessions, refusal = connect(wsgate, [server])
    print(f"{sources} sources: {len(sessions)} connections, then {refusal.start}; {status(wsgate)}")
    assert len(sessions) == PORTS * max(sources, 1)
    for _ in range(5):
        assert upgrade(wsgate).read_head().status == 503
    assert_refused(wsgate, refusal)
    came_from = {upstream.sock.getpeername()[0] for _, upstream in sessions}
    assert came_from == set(source.get("source", ["127.0.0.1"]))
    for client, upstream in sessions:
        upstream.read_exactly(client.send_frame(TEXT, b"still there"))
    # One leaves, and there is room for another.
    client, upstream = sessions.pop()
    upstream.reset()
    assert client.read_close()[0] == 1012
    client.send_close(1012)
    client.expect_eof()
    client.close()
    again, _ = connect(wsgate, [server])
    assert len(again) == 1


@in_namespace
def test_each_address_of_a_server_has_ports_of_its_own(start_gate):
    servers = [raw.Server(), raw.Server()]
    wsgate = start_gate(servers, upstream={"eject_after": 1, "balance": "round_robin"})
    sessions, refusal = connect(wsgate, servers)
    assert len(sessions) == 2 * PORTS
    assert_refused(wsgate, refusal)


@in_namespace
def test_a_check_that_has_no_port_says_nothing_of_the_server(start_gate):
    """Its clients would be drained as soon as another server could take them."""
    server = raw.Server()
    health = {"check": "http", "interval": "50ms", "timeout": "200ms", "unhealthy": 1000}
    wsgate = start_gate([server], extra={"upstream.main.health": health})
    sessions = []
    # Each check takes a port for a moment as well.
    while len(sessions) < PORTS:
        client = upgrade(wsgate)
        while True:
            upstream = accept([server], raw.TIMEOUT)
            assert upstream, "neither a session nor a check"
            head = upstream.read_head()
            if head.get("upgrade"):
                break
            upstream.reset()
        upstream.send(http.switching_protocols(head))
        assert client.read_head().status == 101
        sessions.append((client, upstream))
    wsgate.reload(wsgate.file.read_text().replace("unhealthy = 1000", "unhealthy = 1"))
    seen = wsgate.metrics().total("wsgate_exhausted_total", resource="local_ports")
    wsgate.wait_for_metrics(
        lambda now: now.total("wsgate_exhausted_total", resource="local_ports") > seen + 5, "checks that have no port"
    )
    assert [server["state"] for server in status(wsgate).values()] == ["up"]
    assert not [line for line in wsgate.log if "fails its checks" in line], wsgate.log


@pytest.mark.parametrize("tls", [False, True])
@in_namespace
def test_plain_requests(start_gate, tls):
    server = raw.Server()
    wsgate = start_gate(
        [server],
        upstream={"source": ["127.0.0.2", "127.0.0.3"]},
        extra={"upstream.main.tls": {"enabled": True, "verify": False}} if tls else {},
    )
    clients, came = [], []
    for _ in range(2 * PORTS):
        client = raw.connect(wsgate.address)
        client.send(b"GET / HTTP/1.1\r\nHost: gate.test\r\n\r\n")
        clients.append(client)
        came.append(accept([server], raw.TIMEOUT))
    addresses = [peer.sock.getpeername()[0] for peer in came]
    assert sorted(set(addresses)) == ["127.0.0.2", "127.0.0.3"] and addresses.count("127.0.0.2") == PORTS
    refused = raw.connect(wsgate.address)
    refused.send(b"GET / HTTP/1.1\r\nHost: gate.test\r\n\r\n")
    head = refused.read_head()
    assert refused.read_body(head) == b"no more connections can be had now\n"
    assert_refused(wsgate, head)


@in_namespace
def test_checks_and_tls_come_from_the_sources(start_gate):
    server = raw.Server()
    wsgate = start_gate(
        [server],
        upstream={"source": ["127.0.0.9"]},
        extra={
            "upstream.main.tls": {"enabled": True, "verify": False},
            "upstream.main.health": {"check": "tcp", "interval": "50ms"},
        },
    )
    upgrade(wsgate)
    for _ in range(4):
        peer = accept([server], raw.TIMEOUT)
        assert peer.sock.getpeername()[0] == "127.0.0.9"
        peer.reset()


@in_namespace
def test_an_access_service_without_a_port(start_gate):
    service = raw.Server()
    wsgate = start_gate([service], route={"auth_url": f"http://{service.address}/"})
    waiting = [upgrade(wsgate) for _ in range(PORTS)]
    held = [accept([service], raw.TIMEOUT) for _ in waiting]
    head = upgrade(wsgate).read_head()
    assert (head.status, head.get("retry-after"), len(held)) == (503, "5", PORTS)
    assert not [line for line in wsgate.log if "access service failed" in line], wsgate.log


@in_namespace
def test_a_source_that_is_not_this_machines(start_gate):
    server = raw.Server()
    wsgate = start_gate([server], upstream={"eject_after": 1, "source": ["192.0.2.7"]})
    assert upgrade(wsgate).read_head().status == 503
    line = wsgate.wait_for_log(lambda line: "192.0.2.7 is not an address of this machine" in line, "what is wrong")
    assert "correct `source`" in line, line
    now = wsgate.wait_for_metrics(lambda now: now.total("wsgate_exhausted_total", resource="source") > 0, "the count")
    assert now.total("wsgate_server_state", state="down") == 0
    # The others serve meanwhile.
    text = wsgate.file.read_text()
    wsgate.reload(text.replace('["192.0.2.7"]', '["192.0.2.7", "127.0.0.2"]'))
    sessions, _ = connect(wsgate, [server])
    assert len(sessions) == PORTS


@in_namespace
def test_a_server_that_no_address_leads_to(start_gate):
    """Where IPv6 is off the system has the same error for it: that is no lack of ports, and the other server is tried."""
    subprocess.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"], check=True)
    server, nowhere = raw.Server(), type("Nowhere", (), {"address": "[::1]:9"})()
    wsgate = start_gate([nowhere, server], upstream={"balance": "round_robin"})
    for _ in range(4):
        client = upgrade(wsgate)
        upstream = accept([server], raw.TIMEOUT)
        upstream.send(http.switching_protocols(upstream.read_head()))
        assert client.read_head().status == 101
    wsgate.wait_for_log(lambda line: "no address from which it could be reached" in line, "why")
    assert wsgate.metrics().total("wsgate_exhausted_total") == 0
