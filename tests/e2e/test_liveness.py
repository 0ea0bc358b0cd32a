"""Is the other side there? Pings of wsgate's own, a peer that never answers, and a network that drops everything."""

import subprocess

from rig.frames import PING, PONG, TEXT
from rig.namespace import in_namespace


def test_our_pings_stay_between_us_and_the_side(start_rig):
    rig = start_rig(route={"ping_interval": "200ms", "upstream_ping_interval": "200ms"})
    session = rig.open()
    for peer in (session.client, session.server):
        ping = peer.read_frame()
        assert (ping.opcode, len(ping.payload)) == (PING, 8)
        peer.send_frame(PONG, ping.payload)
    # Those of others pass, in both directions, whatever ours are doing.
    session.client.send_frame(PONG, b"mine.mine")
    while (frame := session.server.read_frame()).opcode == PING:
        session.server.send_frame(PONG, frame.payload)
    assert (frame.opcode, frame.payload) == (PONG, b"mine.mine")
    session.drop()
    rig.gate.wait_until_idle()


def test_a_client_that_reads_and_never_answers(start_rig):
    rig = start_rig(route={"ping_interval": "200ms", "pong_timeout": "300ms"})
    session = rig.open()
    assert session.client.read_frame().opcode == PING
    assert session.server.read_close()[0] == 1001
    rig.gate.wait_for_log(lambda line: 'cause="vanished"' in line and 'initiator="client"' in line, "of the end")


def test_a_server_that_reads_and_never_answers(start_rig):
    rig = start_rig(route={"upstream_ping_interval": "200ms", "pong_timeout": "300ms"})
    session = rig.open()
    assert session.server.read_frame().opcode == PING
    assert session.client.read_close()[0] == 1012


def test_an_idle_connection(start_rig):
    rig = start_rig(route={"idle_timeout": "500ms"})
    session = rig.open()
    session.server.read_exactly(session.client.send_frame(TEXT, b"hello"))
    assert session.client.read_close() == (1001, "idle for too long")
    assert session.server.read_close() == (1001, "idle for too long")
    rig.gate.wait_for_log(lambda line: 'cause="idle"' in line, "of the end")


@in_namespace
def test_a_network_that_drops_everything(start_rig):
    """No FIN and no reset: only silence tells. What the upstream is told then arrives when the network is back."""
    rig = start_rig(route={"ping_interval": "500ms", "pong_timeout": "1s", "close_timeout": "20s"}, extra={"log": {"level": "debug"}})
    session = rig.open()
    subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
    rig.gate.wait_for_log(lambda line: "side is gone" in line, "that the client is gone")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    assert session.server.read_close()[0] == 1001
    session.server.send_close(1001)
    rig.gate.wait_for_log(lambda line: 'cause="vanished"' in line and 'initiator="client"' in line, "of the end")
