"""`wsgate rebalance`: clients beyond the share of their server move to the others."""

import select
import time

import pytest

from rig import gate, http, raw
from rig.frames import CLOSE
from rig.operator import request
from rig.session import Session


@pytest.fixture
def start(tmp_path):
    """Starts a wsgate in front of these servers; ends it with the test."""
    running = []

    def start(servers, **upstream):
        addresses = [server if isinstance(server, dict) else server.address for server in servers]
        running.append(gate.Gate(tmp_path, gate.config(addresses, upstream=upstream, route={"reconnect_after": "0s-0s"})))
        return running[-1]

    yield start
    raw.drop_all()
    for wsgate in running:
        wsgate.stop()


def open_session(wsgate, server, path="/"):
    """A session over this server, which has to be the one that is chosen."""
    client = raw.connect(wsgate.address)
    client.send(http.upgrade_request(path))
    peer, head = server.accept_request(path)
    peer.send(http.switching_protocols(head))
    assert client.read_head().status == 101
    return Session(client, peer, head, None)


def change(wsgate, verb, server=None):
    body = {"server": server.address} if server else {}
    status, answer = request(wsgate, "POST", f"/v1/upstreams/main/{verb}", body)
    assert status in (200, 202), answer


def rebalance(wsgate, *arguments):
    return gate.run(["rebalance", "main", "--admin", "{}:{}".format(*wsgate.admin), *arguments])


def move(sessions):
    """Answers the Closes of those that are told to reconnect."""
    for session in sessions:
        assert session.client.read_close()[0] == 1012
        session.client.send_frame(CLOSE, (1012).to_bytes(2, "big"))
        assert session.server.read_close()[0] == 1001
        session.server.send_frame(CLOSE, (1001).to_bytes(2, "big"))


def told(sessions, count):
    """The sessions whose client was sent something, as soon as there are so many."""
    deadline = time.monotonic() + raw.TIMEOUT
    by_socket = {session.client.sock: session for session in sessions}
    while len(ready := select.select(list(by_socket), [], [], 0.05)[0]) < count:
        assert time.monotonic() < deadline, f"{len(ready)} clients were told, not {count}"
    return [by_socket[sock] for sock in ready]


def crowd(wsgate, first, second, paths):
    """Sessions of these paths, all of them over the first server, and the second one empty."""
    change(wsgate, "drain", second)
    sessions = [open_session(wsgate, first, path) for path in paths]
    change(wsgate, "resume", second)
    return sessions


def test_the_oldest_beyond_the_share_move(start):
    first, second = raw.Server(), raw.Server()
    wsgate = start([first, second])
    sessions = crowd(wsgate, first, second, ["/"] * 6)
    expected = [f"{first.address}: 6 connections, 3 to move", f"{second.address}: 0 connections"]
    status, output = rebalance(wsgate, "--dry-run")
    assert status == 0 and output.splitlines() == expected, output
    process = gate.launch(["rebalance", "main", "--admin", "{}:{}".format(*wsgate.admin)], stdout=-1, text=True)
    move(sessions[:3])
    output, _ = process.communicate(timeout=raw.TIMEOUT)
    assert process.returncode == 0 and output.splitlines()[:2] == expected, output
    assert output.splitlines()[-1].startswith("done: 3 of 3 closed"), output
    back = [open_session(wsgate, second) for _ in range(3)]
    status, output = rebalance(wsgate)
    assert status == 0 and "to move" not in output, output
    assert wsgate.metrics().total("wsgate_drain_connections_total", cause="rebalance") == 3
    wsgate.wait_for_log(lambda line: "an operator rebalances" in line and "connections=3" in line, "of the order")
    for session in sessions[3:] + back:
        session.finish()


def test_slack_and_weight_count(start):
    first, second = raw.Server(), raw.Server()
    wsgate = start([{"address": first.address, "weight": 3}, second])
    sessions = crowd(wsgate, first, second, ["/"] * 8)
    for arguments, moved in [(["--slack", "0%"], ", 2 to move"), (["--slack", "40%"], "")]:
        status, output = rebalance(wsgate, "--dry-run", *arguments)
        assert status == 0 and output.splitlines()[0] == f"{first.address}: 8 connections{moved}", output
    for session in sessions:
        session.finish()


def test_by_hash_those_move_whose_server_is_another(start):
    first, second = raw.Server(), raw.Server()
    wsgate = start([first, second], balance="query:room")
    paths = [f"/?room={number}" for number in range(12)]
    sessions = crowd(wsgate, first, second, paths)
    status, body = request(wsgate, "POST", "/v1/upstreams/main/rebalance", {})
    moved = body["servers"][0]["moved"]
    assert status == 202 and 0 < moved < 12, body
    listed = told(sessions, moved)
    move(listed)
    stay = [path for path, session in zip(paths, sessions, strict=True) if session not in listed]
    gone = [path for path, session in zip(paths, sessions, strict=True) if session in listed]
    for server, some in [(first, stay), (second, gone)]:
        for path in some:
            open_session(wsgate, server, path).finish()


@pytest.mark.parametrize(
    ("upstream", "body", "status", "sentence"),
    [
        ({"balance": "sticky_cookie"}, {}, 409, "balances by a cookie"),
        ({}, {"slack": "much"}, 400, "`slack` is a whole number of percent"),
        ({}, {"server": "127.0.0.1:1"}, 400, "leave out `server`"),
    ],
)
def test_a_rebalance_that_cannot_be(start, upstream, body, status, sentence):
    wsgate = start([raw.Server()], **upstream)
    found, answer = request(wsgate, "POST", "/v1/upstreams/main/rebalance", body)
    assert found == status and sentence in answer["error"], answer
    found, answer = request(wsgate, "POST", "/v1/upstreams/main/drain", {"slack": "10%"})
    assert found == 400 and "`slack` belongs to a rebalance" in answer["error"], answer


def test_a_server_that_comes_gets_its_share_by_itself(start):
    first, second = raw.Server(), raw.Server()
    upstream = {"rebalance": {"after": "100ms", "slack": "0%"}}
    wsgate = start([first], **upstream)
    sessions = [open_session(wsgate, first) for _ in range(6)]
    servers = [first.address, second.address]
    wsgate.reload(gate.config(servers, upstream=upstream, route={"reconnect_after": "0s-0s"}))
    move(sessions[:3])
    wsgate.wait_for_log(lambda line: "a server came: its share of the clients moves" in line, "of the rebalance")
    back = [open_session(wsgate, second) for _ in range(3)]
    # Once, and none of those that stay.
    for session in sessions[3:] + back:
        session.server.read_exactly(session.client.send_frame(1, b"still here"))
        session.finish()
    assert wsgate.metrics().total("wsgate_drains_total", cause="rebalance") == 1
