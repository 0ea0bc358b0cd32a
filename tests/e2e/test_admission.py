"""How fast upgrades reach a server, who waits, who is refused at once, and when the clients of a dead server come back."""

import re
import select
import time

import pytest

from rig import http, operator, raw
from rig.gate import Gate, config
from rig.session import Rig

QUEUED = "wsgate_upgrades_queued"
MEMORY = "wsgate_reserved_memory_bytes"
DEQUEUED = "wsgate_upgrades_dequeued_total"


@pytest.fixture
def start(tmp_path):
    gates = []

    def start(servers, **upstream):
        gates.append(Gate(tmp_path, config([server.address for server in servers], upstream=upstream)))
        return gates[-1].__enter__()

    yield start
    raw.drop_all()
    for gate in gates:
        gate.__exit__(None, None, None)


def ask(gate):
    """An upgrade request that nobody has answered yet."""
    client = raw.connect(gate.address)
    client.send(http.upgrade_request(Rig.new_path()))
    return client


def knocks(server):
    """Whether another handshake has reached the server."""
    return bool(select.select([server.sock], [], [], 0)[0])


def answer(server):
    """Completes the next handshake."""
    peer = server.accept()
    peer.send(http.switching_protocols(peer.read_head()))
    return peer


def serve_both(server, first, under_way, waiting):
    """The handshake under way (`first` at the server) is completed, and then that of the client that waits."""
    first.send(http.switching_protocols(first.read_head()))
    answer(server)
    assert [client.read_head().status for client in (under_way, waiting)] == [101, 101]


def ask_and_wait(gate):
    """A client that asks for an upgrade and has to wait for a server."""
    client = ask(gate)
    gate.wait_for_metrics(lambda now: now.total(QUEUED) == 1, "the upgrade to wait")
    return client


def test_no_more_handshakes_than_a_server_bears(start):
    """The third of three upgrades reaches a server that bears two when one of the first two is done."""
    server = raw.Server()
    gate = start([server], max_handshakes=2)
    clients = [ask(gate) for _ in range(2)]
    first, second = server.accept(), server.accept()
    third = ask_and_wait(gate)
    assert not knocks(server)
    first.send(http.switching_protocols(first.read_head()))
    answer(server)
    assert third.read_head().status == 101
    second.send(http.switching_protocols(second.read_head()))
    assert [client.read_head().status for client in clients] == [101, 101]
    assert gate.wait_for_metrics(lambda now: now.total(DEQUEUED, end="served") == 1, "the third").total(QUEUED) == 0


def test_an_upgrade_waits_for_a_busy_server_although_another_is_dead(start):
    """The connect to the dead server fails at once; the other one has no room until its handshake is done."""
    dead, busy = raw.Server(), raw.Server()
    dead.close()
    gate = start([dead, busy], max_handshakes=1)
    under_way = ask(gate)
    first = busy.accept()
    waiting = ask_and_wait(gate)
    serve_both(busy, first, under_way, waiting)


def test_a_client_that_leaves_the_queue_takes_no_turn(start):
    server = raw.Server()
    gate = start([server], max_handshakes=1)
    under_way = ask(gate)
    first = server.accept()
    gone = ask_and_wait(gate)
    gone.close()
    gate.wait_for_metrics(lambda now: now.total(QUEUED) == 0, "it to be forgotten")
    last = ask_and_wait(gate)
    serve_both(server, first, under_way, last)
    assert gate.metrics().total(DEQUEUED, end="abandoned") == 1


def test_the_status_shows_the_queue_and_its_memory_is_counted(start):
    server = raw.Server()
    gate = start([server], max_handshakes=1)
    under_way = ask(gate)
    first = server.accept()
    waiting = ask_and_wait(gate)
    metrics = gate.metrics()
    assert metrics.total(MEMORY) >= 8192
    assert metrics.total("wsgate_server_handshakes") == metrics.total("wsgate_server_handshake_limit") == 1
    upstream = status(gate)
    assert upstream["queued"] == 1
    handshakes = upstream["servers"][0]["handshakes"]
    assert (handshakes["under_way"], handshakes["limit"], handshakes["known_rate"]) == (1, 1, None)
    serve_both(server, first, under_way, waiting)
    metrics = gate.wait_for_metrics(lambda now: now.total(MEMORY) == 0, "the memory to be given back")
    assert metrics.total("wsgate_upgrade_wait_seconds_count") == 1
    assert status(gate)["queue_p99_seconds"] > 0


def status(gate):
    return operator.request(gate, "GET", "/v1/status")[1]["upstreams"][0]


def test_a_fixed_rate_is_not_exceeded(start):
    """50 upgrades at 20 per second and a burst of a tenth of a second take 2.4 s."""
    server = raw.Server()
    gate = start([server], upgrade_rate=20, queue_timeout="10s")
    begun = time.monotonic()
    clients = [ask(gate) for _ in range(50)]
    for _ in clients:
        answer(server)
    assert [client.read_head().status for client in clients] == [101] * 50
    assert time.monotonic() - begun > 2.3
    assert status(gate)["servers"][0]["handshakes"]["known_rate"] == 20


def test_an_upgrade_that_waits_too_long_gets_503_with_retry_after(start):
    server = raw.Server()
    gate = start([server], max_handshakes=1, queue_timeout="200ms")
    # Both ends of the handshake that is under way stay open.
    under_way = [ask(gate), server.accept()]
    refused = ask(gate).read_head()
    assert refused.status == 503 and under_way
    assert int(refused.get("Retry-After")) >= 1


def test_early_frames_of_a_client_that_waits_are_not_lost(start):
    server = raw.Server()
    gate = start([server], max_handshakes=1)
    under_way = ask(gate)
    first = server.accept()
    client = ask_and_wait(gate)
    frames = client.frame(1, b"early") * 3
    client.send(frames)
    first.send(http.switching_protocols(first.read_head()))
    peer = answer(server)
    assert [client.read_head().status for client in (under_way, client)] == [101, 101]
    assert peer.read_exactly(frames) is None


def test_the_clients_of_a_dead_server_are_told_to_come_back_at_the_pace_of_the_others(tmp_path):
    """Nothing is known of the other server: 160 per second is what it is taken to bear beside its own clients."""
    dying, other = raw.Server(), raw.Server()
    text = config([dying.address, other.address], route={"reconnect_after": "100ms-200ms"})
    with Gate(tmp_path, text) as gate:
        sessions = []
        for number in range(160):
            client = ask(gate)
            server = dying if knocks_first(dying, other) else other
            sessions.append((client, answer(server), server))
            assert client.read_head().status == 101, number
        mine = [(client, peer) for client, peer, server in sessions if server is dying]
        assert len(mine) == 80
        dying.close()
        for _, peer in mine:
            peer.reset()
        delays = []
        for client, _ in mine:
            code, reason = client.read_close()
            assert code == 1012
            delays.append(int(re.search(r"retry-after-ms=(\d+)", reason)[1]))
        raw.drop_all()
    assert min(delays) >= 100
    # 80 clients at 160 per second take half a second; a slot is shifted by up to half a second more.
    assert 500 <= max(delays) <= 1200, sorted(delays)


def knocks_first(one, other):
    """Whether the handshake under way has reached the first of two servers."""
    ready = select.select([one.sock, other.sock], [], [], raw.TIMEOUT)[0]
    assert len(ready) == 1
    return ready[0] is one.sock
