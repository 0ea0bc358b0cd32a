"""Health checks: a server that fails them loses its clients to another one, paced; one that returns is used again."""

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from rig.crowd import Crowd
from rig.operator import request, status, wait_until_drained

HTTP = {"check": "http", "path": "/health", "unhealthy": 2, "healthy": 2}


def state(wsgate, server):
    return status(wsgate)[server.address]["state"]


def wait_for_state(crowd, wsgate, server, expected):
    crowd.wait_for(lambda: state(wsgate, server) == expected, f"{server.address} to be {expected}")


def test_a_server_that_fails_is_drained_and_one_that_returns_is_used(start, servers):
    wsgate, (first, second) = start(health=HTTP), servers
    with Crowd(f"ws://{wsgate.url}") as crowd:
        victims = status(wsgate)[first.address]["connections"]
        first.say(503, "v1")
        wait_for_state(crowd, wsgate, first, "down")
        drained = wait_until_drained(wsgate)
        assert (drained["cause"], drained["total"], drained["state"]) == ("health", victims, "done")
        crowd.wait_until_all_are_back()
        assert (crowd.closes, crowd.refused) == ({1012: victims}, {})
        assert status(wsgate)[second.address]["connections"] == crowd.size
        metrics = wsgate.metrics()
        assert metrics.total("wsgate_server_state", server=first.address, state="down") == 1
        assert metrics.total("wsgate_server_state", server=first.address, state="up") == 0
        assert metrics.total("wsgate_server_connections", server=second.address) == crowd.size
        first.say(200, "v1")
        wait_for_state(crowd, wsgate, first, "up")
        with connect(f"ws://{wsgate.url}"), connect(f"ws://{wsgate.url}"):
            assert status(wsgate)[first.address]["connections"] == 2, "it has the fewest"
    wsgate.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_where_no_other_server_is_up_nobody_is_driven_away(start, servers):
    first, second = servers
    wsgate = start(health=HTTP, upstream={"queue_timeout": "300ms"})
    with Crowd(f"ws://{wsgate.url}", size=20) as crowd:
        for server in servers:
            server.say(503, "v1")
        for server in servers:
            wait_for_state(crowd, wsgate, server, "down")
        # The last one to fail keeps its clients; those of the first may have gone to it before.
        closed = len(crowd.told)
        seen = len(crowd.sent)
        crowd.wait_for(lambda: len(crowd.sent) > seen + 5 * crowd.open, "those who are left to go on talking")
        assert crowd.open > 0 and len(crowd.told) - closed <= crowd.size / 2
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{wsgate.url}")
        assert refused.value.response.status_code == 503
        second.say(200, "v1")
        crowd.wait_for(lambda: status(wsgate)[second.address]["connections"] == crowd.size, "all to go there")
        crowd.wait_until_all_are_back()
        assert set(crowd.closes) == {1012}


def test_another_version_in_the_answer_is_a_deploy(start, servers):
    wsgate, (first, _) = start(health=HTTP | {"version_header": "X-Version"}), servers
    with Crowd(f"ws://{wsgate.url}", size=40) as crowd:
        before = status(wsgate)[first.address]["connections"]
        first.say(200, "v2")
        crowd.wait_for(lambda: len(crowd.back) == before, "its clients to be told")
        drained = wait_until_drained(wsgate)
        assert (drained["cause"], drained["server"], drained["total"]) == ("deploy", first.address, before)
        assert crowd.closes == {1012: before}
        assert state(wsgate, first) == "up"


@pytest.mark.parametrize("check", ["tcp", "http", "websocket"])
def test_a_server_that_is_gone_is_down_until_it_is_back(start, servers, check):
    wsgate, (first, _) = start(health={"check": check, "unhealthy": 2, "healthy": 2}), servers
    with Crowd(f"ws://{wsgate.url}", size=20) as crowd:
        first.kill()
        wait_for_state(crowd, wsgate, first, "down")
        wsgate.wait_for_log(lambda line: "fails its checks" in line and first.address in line, "of the server")
        crowd.wait_for(lambda: crowd.closes, "the clients of the server to be told")
        crowd.wait_until_all_are_back()
        first.start()
        wait_for_state(crowd, wsgate, first, "up")
        assert set(crowd.closes) == {1012}


def test_a_server_that_flaps_does_not_drain_in_a_loop(start, servers):
    """After each fall it takes twice as many good checks to be let in again."""
    health = HTTP | {"unhealthy": 1, "healthy": 2, "interval": "50ms"}
    wsgate, (first, second) = start(health=health), servers
    with Crowd(f"ws://{wsgate.url}", size=20) as crowd:
        for turn in range(12):
            first.say(503 if turn % 2 else 200, "v1")
            seen = len(crowd.sent)
            crowd.wait_for(lambda seen=seen: len(crowd.sent) > seen + 2 * crowd.size, "a few checks")
        drains = request(wsgate, "GET", "/v1/upstreams/main/drain")[1]["drains"]
        assert 1 <= len([drain for drain in drains if drain["cause"] == "health"]) <= 4, drains
        assert state(wsgate, second) == "up"
