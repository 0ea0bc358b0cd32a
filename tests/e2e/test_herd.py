"""A server that dies, and one that closes everybody, under a crowd, with servers that take so many upgrades per second."""

import pytest

from rig.crowd import SIZE, Counting, Crowd
from rig.gate import Gate, config

CAPACITY = 300


@pytest.fixture
def servers():
    started = [Counting(capacity=CAPACITY) for _ in range(2)]
    yield started
    for server in started:
        server.process.kill()


@pytest.mark.parametrize("heeds", [True, False], ids=["told", "at once"])
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_herd_comes_back(tmp_path, servers, end, heeds):
    """Clients that heed the delay are never refused; those that come at once are told when to come again, and nothing else."""
    with Gate(tmp_path, config([server.address for server in servers])) as gate:
        untold = (1, 5) if heeds else (0.05, 0.2)
        with Crowd(f"ws://{gate.url}", SIZE, untold=untold, heeds=heeds, ramp=SIZE / CAPACITY) as crowd:
            crowd.wait_for(lambda: len(crowd.sent) > 2 * SIZE, "everybody to talk")
            getattr(servers[0], end)()
            servers[0].start()
            crowd.wait_until_all_are_back()
            crowd.fall_silent(*servers)
        assert set(crowd.closes) == {1012}
        assert set(crowd.refused) <= (set() if heeds else {503}), crowd.refused
        lost = crowd.lost(*servers)
        assert not lost if end == "stop" else len(lost) < len(crowd.sent) / 20, len(lost)
        assert gate.metrics().total("wsgate_handshakes_total", result="timed_out") == 0
