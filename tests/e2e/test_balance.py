"""Which server a connection goes to: the balances, limits by server, backups, and servers that are left alone."""

import contextlib
import time
import urllib.request

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from rig import gate
from rig.operator import status
from rig.raw import TIMEOUT


def started(start, servers, upstream=None, entries=None):
    """A wsgate in front of the servers, or of these entries of the configuration for them."""
    text = gate.config([server.address for server in servers], upstream=upstream)
    if entries:
        line = next(line for line in text.splitlines() if line.startswith("servers = "))
        text = text.replace(line, f"servers = [{', '.join(entries)}]")
    # Each attempt at a server is a line of its own there.
    return start(text=text + '\n[log]\nlevel = "debug"\n')


def connections(wsgate, servers):
    now = status(wsgate)
    return [now[server.address]["connections"] for server in servers]


@contextlib.contextmanager
def clients(wsgate, count, **options):
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connect(f"ws://{wsgate.url}", compression=None, **options))
        yield


def test_least_connections_is_the_default(start, servers):
    wsgate = started(start, servers)
    with clients(wsgate, 10):
        assert connections(wsgate, servers) == [5, 5]


def test_weights(start, servers):
    entries = [f'"{servers[0].address}"', f'{{ address = "{servers[1].address}", weight = 3 }}']
    wsgate = started(start, servers, entries=entries)
    with clients(wsgate, 12):
        assert connections(wsgate, servers) == [3, 9]


@pytest.mark.parametrize(
    ("balance", "options"),
    [
        ("header:X-Room", [{"additional_headers": {"X-Room": f"room {n}"}} for n in range(8)]),
        ("cookie:room", [{"additional_headers": {"Cookie": f"a=b; room={n}"}} for n in range(8)]),
    ],
)
def test_what_belongs_together_comes_together(start, servers, balance, options):
    wsgate = started(start, servers, upstream={"balance": balance})
    homes = []
    for option in options:
        with clients(wsgate, 5, **option):
            homes.append(connections(wsgate, servers))
    assert all(sorted(home) == [0, 5] for home in homes), homes
    assert [5, 0] in homes and [0, 5] in homes, "both servers have some"
    # Without it any server will do.
    with clients(wsgate, 10):
        assert connections(wsgate, servers) == [5, 5]


def test_a_server_that_is_full_and_its_backup(start, servers):
    full = f'{{ address = "{servers[0].address}", max_connections = 2 }}'
    backup = f'{{ address = "{servers[1].address}", max_connections = 1, backup = true }}'
    wsgate = started(start, servers, upstream={"queue_timeout": "200ms"}, entries=[full, backup])
    with clients(wsgate, 2):
        assert connections(wsgate, servers) == [2, 0]
        with clients(wsgate, 1):
            assert connections(wsgate, servers) == [2, 1]
            with pytest.raises(InvalidStatus) as refused:
                connect(f"ws://{wsgate.url}")
            assert refused.value.response.status_code == 503
            assert "no server takes connections" in refused.value.response.body.decode()


def test_a_backup_takes_over_within_the_request(start, servers):
    """The only primary cannot be reached: upgrades and plain requests go to the backup, without a refusal, and back."""
    backup = f'{{ address = "{servers[1].address}", backup = true }}'
    wsgate = started(start, servers, upstream={"queue_timeout": "10s"}, entries=[f'"{servers[0].address}"', backup])
    with clients(wsgate, 3):
        assert connections(wsgate, servers) == [3, 0]
    servers[0].kill()
    began = time.monotonic()
    with clients(wsgate, 4):
        assert connections(wsgate, servers) == [0, 4]
        with urllib.request.urlopen(f"http://{wsgate.url}/") as answer:
            assert answer.status == 200
    assert time.monotonic() - began < TIMEOUT / 2, "nobody waits for the primary"
    servers[0].start()
    deadline = time.monotonic() + TIMEOUT
    while True:
        with clients(wsgate, 1):
            if connections(wsgate, servers) == [1, 0]:
                break
        assert time.monotonic() < deadline, "the primary is used again"


def test_a_server_that_cannot_be_reached_is_left_alone(start, servers):
    wsgate = started(start, servers, upstream={"eject_after": 3, "eject_pause": "1h", "balance": "round_robin"})
    servers[0].kill()
    for _ in range(12):
        with clients(wsgate, 1):
            pass
    tried = [line for line in wsgate.log if "cannot be reached" in line]
    assert len(tried) == 3, "after the third time it is not tried any more"
    wsgate.wait_for_log(lambda line: "is left alone" in line and servers[0].address in line, "of the ejection")
    assert status(wsgate)[servers[0].address]["state"] == "down"
