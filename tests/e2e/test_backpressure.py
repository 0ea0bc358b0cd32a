"""A reader that stops reading stops the other side's reading, and memory stays bounded."""

import pytest

from rig import http
from rig.frames import BINARY, TEXT
from rig.raw import Pump

MIB = 1 << 20

# What the kernel may take on the two connections before it says stop (its largest default send and receive buffers,
# twice), with room to spare; far below what the sender tries to send.
KERNEL = 40 * MIB
OFFERED = 96 * MIB


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("name", ["client", "server"])
def test_a_reader_that_stops(start_rig, name, opcode):
    """The sender stalls, the proxy does not grow, and when the reader goes on every byte is there."""
    rig = start_rig()
    session = rig.open()
    sender, reader = session.side(name)
    frame = sender.frame(opcode, b"x" * 60_000)
    before = rig.gate.resident()
    pump = Pump(sender, frame, OFFERED // len(frame))
    pump.wait_until_stalled()
    grown = rig.gate.resident() - before
    assert pump.sent < KERNEL, f"{pump.sent} bytes were taken for a reader that reads nothing"
    assert grown < 4 * MIB, f"resident memory grew by {grown} bytes"
    for _ in range(OFFERED // len(frame)):
        reader.read_exactly(frame)
        reader.forget_read()
    pump.join()
    session.finish()


@pytest.mark.parametrize("name", ["client", "server"])
def test_a_flood_that_begins_before_the_101(start_rig, name):
    """What is taken over from the handshake is bounded as well, however fast it comes; nobody reads it.

    Many sessions, because it takes a sender that is never found waiting while the 101 is passed on.
    """
    rig = start_rig()
    sessions, pumps, silent = 32, [], []
    before = rig.gate.resident()
    for _ in range(sessions):
        client, path = rig.request()
        upstream, head = rig.server.accept_request(path)
        sender, other = (client, upstream) if name == "client" else (upstream, client)
        flood, switch = sender.frame(BINARY, b"x" * 60_000) * 20, http.switching_protocols(head)
        if name == "client":
            pumps.append(Pump(client, flood, 100))
            upstream.send(switch)
        else:
            upstream.send(switch + flood)
            pumps.append(Pump(upstream, flood, 100))
        silent.append(other)
    for pump in pumps:
        pump.wait_until_stalled(0.05)
    grown = rig.gate.resident() - before
    assert grown < sessions * MIB // 4, f"resident memory grew by {grown} bytes with {sessions} sessions"


def test_a_reader_that_stops_does_not_stop_the_other_direction(rig):
    session = rig.open()
    pump = Pump(session.server, session.server.frame(BINARY, b"x" * 60_000), 1000)
    pump.wait_until_stalled()
    for word in (b"still", b"passing"):
        session.server.read_exactly(session.client.send_frame(TEXT, word))
    session.drop()


def test_a_stalled_reader_can_vanish(rig):
    """The sender learns of it although the proxy was waiting to write."""
    session = rig.open()
    pump = Pump(session.server, session.server.frame(BINARY, b"x" * 60_000), 1000)
    pump.wait_until_stalled()
    session.client.reset()
    assert session.server.read_close()[0] == 1001
