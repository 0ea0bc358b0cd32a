"""Fixtures: proxies in front of raw servers, one shared by all tests that need nothing special, others on demand."""

import pytest

from rig import crowd, gate, raw
from rig.crowd import Counting
from rig.session import Rig


@pytest.fixture(scope="session")
def shared_rig(tmp_path_factory):
    """One proxy for the whole run, with limits small enough to reach; use it through `rig`."""
    rig = Rig(
        tmp_path_factory.mktemp("shared"),
        route={
            "max_frame_size": "256KiB",
            "max_message_size": "512KiB",
            "max_fragments": 64,
            "text_buffer": "64KiB",
            "close_timeout": "2s",
        },
    )
    yield rig
    rig.close()


@pytest.fixture
def rig(shared_rig):
    """The shared proxy, after which nothing may be left open."""
    yield shared_rig
    raw.drop_all()
    shared_rig.gate.wait_until_idle()


@pytest.fixture
def start_rig(tmp_path):
    """Starts proxies of the test's own; each ends with the test, and has to end well."""
    rigs = []

    def start(**options):
        directory = tmp_path / str(len(rigs))
        directory.mkdir()
        rigs.append(Rig(directory, **options))
        return rigs[-1]

    yield start
    raw.drop_all()
    for rig in rigs:
        rig.close()


@pytest.fixture
def servers():
    """Two counting servers."""
    servers = [Counting(), Counting()]
    yield servers
    for server in servers:
        server.process.kill()


@pytest.fixture
def start(tmp_path, servers):
    """Starts a wsgate in front of them whose clients are told to be quick; ends it if the test has not."""
    running = []

    def start(drain=None, upstream=None, route=None, admin=None, health=None, text=None, **options):
        text = text or drained_config(servers, drain, upstream, route, health, **options)
        if admin:
            text = text.replace("[admin]\n", f"[admin]\n{admin}\n")
        running.append(gate.Gate(tmp_path, text))
        return running[-1]

    start.config = drained_config
    start.running = running
    yield start
    for wsgate in running:
        wsgate.stop()


def drained_config(servers, drain=None, upstream=None, route=None, health=None, **options):
    """A configuration whose clients are told to be quick."""
    extra = {"drain": {"deadline": "8s"} | (drain or {})} | options.pop("extra", {})
    if health:
        extra["upstream.main.health"] = {"interval": "100ms", "timeout": "2s"} | health
    return gate.config(
        [server.address for server in servers],
        route={"reconnect_after": "50ms-400ms"} | (route or {}),
        upstream=upstream,
        extra=extra,
        **options,
    )


def pytest_terminal_summary(terminalreporter):
    """What happened to the crowds."""
    if crowd.figures:
        terminalreporter.section("crowds")
        terminalreporter.write("\n".join(crowd.figures) + "\n")
