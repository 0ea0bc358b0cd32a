"""The only server of an upstream restarts, or is drained: upgrades and plain requests wait for it, up to `queue_timeout`."""

import threading
import time
import urllib.error
import urllib.request

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from rig import gate
from rig.operator import request
from rig.raw import TIMEOUT


def in_background(work):
    """Does it in a thread; calling what is returned waits for the result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()

    def result():
        thread.join(2 * TIMEOUT)
        return results[0]

    return result


def get(wsgate):
    """Status and headers of a plain request."""
    try:
        with urllib.request.urlopen(f"http://{wsgate.url}/page", timeout=2 * TIMEOUT) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


def opened(wsgate):
    with connect(f"ws://{wsgate.url}", open_timeout=2 * TIMEOUT):
        return True


@pytest.mark.parametrize("ask, result", [(opened, True), (lambda wsgate: get(wsgate)[0], 200)], ids=["upgrade", "plain"])
def test_what_comes_while_it_restarts_is_served_when_it_is_back(start, servers, ask, result):
    wsgate = start(text=gate.config([servers[0].address], upstream={"queue_timeout": "20s"}))
    servers[0].stop()
    answer = in_background(lambda: ask(wsgate))
    wsgate.wait_for_log(lambda line: "cannot be reached" in line, "that it is gone")
    servers[0].start()
    assert answer() == result


def test_a_wait_for_a_server_that_stays_away_ends(start, servers):
    wsgate = start(text=gate.config([servers[0].address], upstream={"queue_timeout": "600ms"}))
    servers[0].stop()
    for ask in (lambda: get(wsgate)[0], lambda: refused(wsgate)):
        began = time.monotonic()
        assert ask() == 502
        assert time.monotonic() - began < TIMEOUT / 2
    wsgate.wait_for_metrics(lambda now: now.total("wsgate_upgrades_dequeued_total", end="unreachable") == 1, "the wait")
    assert wsgate.metrics().total("wsgate_upgrades_queued") == 0


def refused(wsgate):
    with pytest.raises(InvalidStatus) as error:
        connect(f"ws://{wsgate.url}", open_timeout=TIMEOUT)
    return error.value.response.status_code


def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind(start, servers):
    wsgate = start(text=gate.config([servers[0].address], upstream={"queue_timeout": "60s"}))
    servers[0].stop()
    with pytest.raises(TimeoutError):
        connect(f"ws://{wsgate.url}", open_timeout=0.5)
    wsgate.wait_for_metrics(lambda now: now.total("wsgate_upgrades_dequeued_total", end="abandoned") == 1, "the wait to end")


def test_a_plain_request_to_an_upstream_without_servers(start, servers):
    wsgate = start(text=gate.config([servers[0].address], upstream={"queue_timeout": "300ms"}))
    request(wsgate, "POST", "/v1/upstreams/main/drain", {"force": True})
    code, headers = get(wsgate)
    assert (code, headers["Retry-After"]) == (503, "5")


def test_a_plain_request_waits_for_a_resume(start, servers):
    wsgate = start(text=gate.config([servers[0].address], upstream={"queue_timeout": "20s"}))
    request(wsgate, "POST", "/v1/upstreams/main/drain", {"force": True})
    answer = in_background(lambda: get(wsgate)[0])
    wsgate.wait_for_metrics(lambda now: now.total("wsgate_client_connections_open") == 1, "the request")
    request(wsgate, "POST", "/v1/upstreams/main/resume")
    assert answer() == 200
