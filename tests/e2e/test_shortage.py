"""File descriptors run out: who is connected stays, who comes waits or is refused, and then it goes on."""

import itertools
import os
import pathlib
import resource
import socket
import time

import pytest

from rig import http, raw
from rig.frames import TEXT
from rig.gate import Gate, config
from rig.raw import TIMEOUT


def upgrade(wsgate):
    client = raw.connect(wsgate.address)
    client.send(http.upgrade_request())
    return client


def accept(server, client):
    upstream = server.accept()
    upstream.send(http.switching_protocols(upstream.read_head()))
    assert client.read_head().status == 101
    return upstream


def assert_passes(client, upstream):
    client.send_frame(TEXT, b"still there")
    assert upstream.read_message() == (TEXT, b"still there")


def allow(wsgate, more):
    """From now on it may open so many descriptors beside those that it has."""
    # The system gives out the lowest number that is free, below the limit; there are gaps between those in use.
    in_use = kept(wsgate)
    free = (number for number in itertools.count() if number not in in_use)
    limit = next(itertools.islice(free, more, None))
    hard = resource.prlimit(wsgate.process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(wsgate.process.pid, resource.RLIMIT_NOFILE, (limit, hard))


def kept(wsgate):
    """The descriptors that it has, without those of checks, and of connections to the admin listener, that come and go."""
    # Until the admin listener answers, wsgate is still starting.
    wsgate.wait_for_metrics(lambda _: True, "an answer")
    time.sleep(0.2)
    seen = []
    for _ in range(20):
        seen.append({int(name) for name in os.listdir(f"/proc/{wsgate.process.pid}/fd")})
        time.sleep(0.01)
    return set.intersection(*seen)


def allow_all(wsgate):
    hard = resource.prlimit(wsgate.process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(wsgate.process.pid, resource.RLIMIT_NOFILE, (hard, hard))


def processor_time(wsgate):
    """Seconds that it has computed for, all threads together."""
    fields = pathlib.Path(f"/proc/{wsgate.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connected(wsgate):
    """A connection that wsgate has accepted: it needs no descriptor of its own any more."""
    before = kept(wsgate)
    client = raw.connect(wsgate.address)
    while kept(wsgate) <= before:
        pass
    return client


def test_out_of_file_descriptors(tmp_path):
    server = raw.Server()
    with Gate(tmp_path, config([server.address], upstream={"eject_after": 1})) as wsgate:
        client = upgrade(wsgate)
        upstream = accept(server, client)
        # Its own connection takes the only one left: there is none for the server.
        allow(wsgate, 1)
        refused = upgrade(wsgate)
        head = refused.read_head()
        assert head.status == 503 and head.get("retry-after") == "5"
        assert refused.read_body(head) == b"no more connections can be had now\n"
        # None at all: a new client waits.
        silent = socket.create_connection(wsgate.address, TIMEOUT)
        waiting = upgrade(wsgate)
        wsgate.wait_for_log(lambda line: "new connections wait, or are refused" in line, "that it is so")
        assert_passes(client, upstream)
        busy, began = processor_time(wsgate), time.monotonic()
        time.sleep(1)
        assert processor_time(wsgate) - busy < 0.3 * (time.monotonic() - began), "it does not spin"
        # Somebody leaves, and there is room again.
        silent.close()
        allow_all(wsgate)
        assert_passes(waiting, accept(server, waiting))
        now = wsgate.wait_for_metrics(lambda now: now.total("wsgate_exhausted_total") > 0, "the count")
        assert now.total("wsgate_exhausted_total", resource="file_descriptors") < 1000, "it does not spin"
        assert now.total("wsgate_server_state", state="down") == 0, "that was not the server's fault"
        assert_passes(client, upstream)
        told = [line for line in wsgate.log if "new connections wait" in line]
        assert len(told) == 1 and "LimitNOFILE" in told[0], told
        raw.drop_all()
    server.close()


@pytest.mark.parametrize("check", ["tcp", "websocket"])
def test_a_check_that_cannot_ask_says_nothing_of_the_server(start, servers, check):
    """Else all servers would be down at once, and their clients drained as soon as one is back."""
    wsgate = start(health={"check": check, "interval": "50ms", "unhealthy": 2, "healthy": 1})
    wsgate.wait_for_metrics(lambda now: now.total("wsgate_server_state", state="up") == 2, "both to be there")
    allow(wsgate, 0)
    wsgate.wait_for_log(lambda line: "new connections wait, or are refused" in line, "that it is so")
    time.sleep(1)
    allow_all(wsgate)
    now = wsgate.wait_for_metrics(lambda now: now.total("wsgate_exhausted_total") > 2, "the count")
    assert now.total("wsgate_server_state", state="up") == 2
    assert not [line for line in wsgate.log if "fails its checks" in line], wsgate.log


@pytest.mark.parametrize("servers", ["plain", "encrypted", "unix"])
def test_plain_requests_are_refused_too(start_rig, tmp_path, servers):
    options = {"server": raw.Server(tmp_path / "server")} if servers == "unix" else {}
    if servers == "encrypted":
        options = {"extra": {"upstream.main.tls": {"enabled": True, "verify": False}}}
    rig = start_rig(**options)
    client = connected(rig.gate)
    allow(rig.gate, 0)
    client.send(b"GET / HTTP/1.1\r\nHost: gate.test\r\n\r\n")
    head = client.read_head()
    assert (head.status, head.get("Retry-After")) == (503, "5")
    assert client.read_body(head) == b"no more connections can be had now\n"
    allow_all(rig.gate)
    now = rig.gate.wait_for_metrics(lambda now: now.total("wsgate_exhausted_total") > 0, "the count")
    assert now.total("wsgate_server_state", state="down") == 0
    assert not [line for line in rig.gate.log if "cannot be reached" in line], rig.gate.log


def test_an_access_service_that_cannot_be_asked(start_rig):
    rig = start_rig(route={"auth_url": "http://127.0.0.1:9/"})
    client = connected(rig.gate)
    allow(rig.gate, 0)
    client.send(http.upgrade_request())
    head = client.read_head()
    assert (head.status, head.get("Retry-After")) == (503, "5")
    allow_all(rig.gate)
    assert not [line for line in rig.gate.log if "access service failed" in line], rig.gate.log


def test_the_soft_limit_is_raised(tmp_path):
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, ours[1]))
    try:
        wsgate = Gate(tmp_path, config(["127.0.0.1:9"]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, ours)
    with wsgate:
        assert resource.prlimit(wsgate.process.pid, resource.RLIMIT_NOFILE) == (ours[1], ours[1])
