"""Fixtures: proxies in front of raw servers, one shared by all tests that need nothing special, others on demand."""

import pytest

from rig import raw
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
            "hold": "64KiB",
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
