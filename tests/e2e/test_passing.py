"""What is right passes, in both directions, byte for byte: masking keys, fragments and lengths as they were sent."""

import random

import pytest

from rig.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload
from rig.raw import Pump

KIB = 1024

by_either_side = pytest.mark.parametrize("sender", ["client", "server"])

MESSAGES = {
    "empty text": [(TEXT, b"", True)],
    "empty binary": [(BINARY, b"", True)],
    "text": [(TEXT, "grüße, 世界 🌍".encode(), True)],
    "NUL and controls are text": [(TEXT, bytes(range(128)), True)],
    "every byte as binary": [(BINARY, bytes(range(256)), True)],
    "what text may not be, as binary": [(BINARY, b"\xff\xfe\xed\xa0\x80", True)],
    "first and last code points of each length": [
        (TEXT, "\0\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff".encode(), True)
    ],
    "byte order mark": [(TEXT, "\ufeffx".encode(), True)],
    **{f"binary of {size}": [(BINARY, b"x" * size, True)] for size in (125, 126, 65535, 65536)},
    "text of the held size": [(TEXT, b"x" * 64 * KIB, True)],
    "text beyond the held size": [(TEXT, b"x" * (64 * KIB + 1), True)],
    "text of the largest size, CJK": [(TEXT, "世".encode() * (256 * KIB // 3), True)],
    "binary of the largest size": [(BINARY, b"x" * 256 * KIB, True)],
    "fragments, cut inside code points": [
        (TEXT, "a€".encode()[:2], False),
        (CONTINUATION, "€".encode()[1:2], False),
        (CONTINUATION, "€😀".encode()[2:5], False),
        (CONTINUATION, "😀".encode()[2:], True),
    ],
    "empty fragments": [(TEXT, b"", False), (CONTINUATION, b"", False), (CONTINUATION, b"", True)],
    "as many fragments as may be": [
        (BINARY, b"a", False), *[(CONTINUATION, b"b", False)] * 62, (CONTINUATION, b"c", True),
    ],
    "largest message in fragments": [(BINARY, b"x" * 256 * KIB, False), (CONTINUATION, b"y" * 256 * KIB, True)],
    "pings and pongs between fragments": [
        (TEXT, "€".encode()[:1], False), (PING, b"\xff ping", True), (CONTINUATION, "€".encode()[1:2], False),
        (PONG, b"", True), (PING, b"p" * 125, True), (CONTINUATION, "€".encode()[2:], True),
    ],
    "unasked pong": [(PONG, b"heartbeat", True)],
}  # fmt: skip


@by_either_side
@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
def test_right_messages_pass_unchanged(rig, sender, message):
    session = rig.open()
    peer, other = session.side(sender)
    wire = b"".join(peer.frame(opcode, payload, fin=fin) for opcode, payload, fin in message)
    peer.send(wire)
    other.read_exactly(wire)
    session.finish()


@by_either_side
def test_right_messages_pass_unchanged_in_any_packets(rig, sender):
    """One long session of all the messages, cut at random places."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    session = rig.open()
    peer, other = session.side(sender)
    for name, message in MESSAGES.items():
        wire = b"".join(peer.frame(opcode, payload, fin=fin) for opcode, payload, fin in message)
        at = 0
        while at < len(wire):
            size = chance.choice([1, 2, 3, 7, 100, 5000, 100_000])
            peer.send(wire[at : at + size])
            at += size
        other.read_exactly(wire, f"{name!r}, seed {seed}")
    session.finish()


def test_a_held_frame_does_not_hold_what_came_before(rig):
    """The first message is delivered although the packet ends inside the second one."""
    session = rig.open()
    first, second = session.client.frame(TEXT, b"first"), session.client.frame(TEXT, b"second")
    session.client.send(first + second[:-1])
    session.server.read_exactly(first)
    session.client.send(second[-1:])
    session.server.read_exactly(second)
    session.finish()


def test_both_directions_at_once(rig):
    """Two pumps against each other: neither direction waits for the other one."""
    session = rig.open()
    up, down = session.client.frame(BINARY, b"u" * 60_000), session.server.frame(TEXT, b"d" * 60_000)
    pumps = [Pump(session.client, up, 200), Pump(session.server, down, 200)]
    for _ in range(200):
        session.server.read_exactly(up)
        session.client.read_exactly(down)
    for pump in pumps:
        pump.join()
    session.finish()


def test_two_sessions_do_not_mix(rig):
    first, second = rig.open(), rig.open()
    for session, word in ((first, b"first"), (second, b"second"), (first, b"first again")):
        session.server.read_exactly(session.client.send_frame(TEXT, word))
        session.client.read_exactly(session.server.send_frame(BINARY, word))
    second.finish()
    first.finish()


@by_either_side
def test_observing_lets_everything_pass_and_counts_it(start_rig, sender):
    """Each kind once per connection; the frames reach the other side as they were sent."""
    rig = start_rig(route={"mode": "observe", "max_fragments": 2, "max_message_size": "1KiB", "max_frame_size": "1KiB"})
    session = rig.open()
    peer, other = session.side(sender)
    wire = b"".join(
        [
            peer.frame(TEXT, b"\xff"),
            peer.frame(TEXT, b"again \xff"),
            peer.frame(TEXT, "€".encode()[:2]),
            peer.frame(BINARY, b"x", rsv=4),
            peer.frame(3, b"reserved"),
            peer.frame(CONTINUATION, b"of nothing"),
            peer.frame(BINARY, b"x" * 10, form=64),
            peer.frame(BINARY, b"x" * 2048),
            peer.frame(PING, b"p" * 200),
            peer.frame(TEXT, b"", fin=False) + peer.frame(CONTINUATION, fin=False) + peer.frame(CONTINUATION),
            peer.frame(TEXT, b"good"),
        ]
    )
    peer.send(wire)
    other.read_exactly(wire)
    kinds = {
        "text_not_utf8", "text_unfinished", "compression_not_agreed", "reserved_opcode", "continuation_without_start",
        "length_not_minimal", "frame_too_big", "control_too_long", "too_many_fragments",
    }  # fmt: skip
    session.finish()

    def counts(now):
        name = "wsgate_violations_total"
        return {kind: now.total(name, side=sender, kind=kind) for kind in kinds}

    metrics = rig.gate.wait_for_metrics(lambda now: all(counts(now).values()), f"violations of the kinds {kinds}")
    assert counts(metrics) == dict.fromkeys(kinds, 1), f"each kind once per connection:\n{metrics}"
    other_side = "server" if sender == "client" else "client"
    assert metrics.total("wsgate_violations_total", side=other_side) == 0


@by_either_side
def test_observing_lets_a_bad_close_pass(start_rig, sender):
    """As everything: the peer judges it for itself."""
    session = start_rig(route={"mode": "observe"}).open()
    peer, other = session.side(sender)
    other.read_exactly(peer.send_frame(CLOSE, close_payload(1005)))
