"""How a connection ends, and what each side is told: the rows of the design's table in which nobody breaks a rule."""

import re

import pytest

from rig.frames import BINARY, CLOSE, PING, TEXT, close_payload

REASON_OF_123 = "ö" * 61 + "!"
RESTART = re.compile(r"service restart; retry-after-ms=(\d+)")

CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999, None]
PASSED_FROM_UPSTREAM = [code for code in CODES if code not in (1001, 1012)]


def assert_restart(close, code=1012):
    """The Close of a restart: its code, and a delay within the default bounds."""
    match = RESTART.fullmatch(close[1])
    assert close[0] == code and match, f"expected {code} with a delay, got {close}"
    assert 1000 <= int(match[1]) <= 5000, f"the delay is outside its bounds: {close}"


# The normal closing handshake


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("reason", ["", "bye; tschüß", REASON_OF_123], ids=["no reason", "reason", "longest reason"])
def test_client_closes(rig, code, reason):
    """Its Close reaches the upstream unchanged, the upstream's answer the client, and wsgate ends the connection."""
    session = rig.open()
    session.server.read_exactly(session.client.send_close(code, reason))
    answer = session.server.send_close(code, "answer" if code else "")
    session.server.end_sending()
    session.client.read_exactly(answer)
    session.client.expect_eof()
    session.server.expect_eof()


@pytest.mark.parametrize("code", PASSED_FROM_UPSTREAM)
@pytest.mark.parametrize("reason", ["", "bye; tschüß", REASON_OF_123], ids=["no reason", "reason", "longest reason"])
def test_upstream_closes(rig, code, reason):
    """Its code and reason reach the client unchanged, and the upstream gets a Close in answer."""
    session = rig.open()
    session.client.read_exactly(session.server.send_close(code, reason))
    session.client.send_close(code)
    assert session.server.read_close()[0] == code
    session.server.end_sending()
    session.server.expect_eof()
    session.client.expect_eof()


def test_both_close_at_once(rig):
    """Each gets the other's Close or its own answered; both ends are orderly."""
    session = rig.open()
    session.client.send_close(4001, "client")
    session.server.send_close(4002, "upstream")
    assert session.client.read_close()[0] in (4001, 4002)
    assert session.server.read_close()[0] in (4001, 4002)
    session.server.end_sending()
    session.client.expect_eof()
    session.server.expect_eof()


def test_nothing_of_the_client_passes_after_its_close(rig):
    session = rig.open()
    peer = session.client
    closing = peer.frame(CLOSE, close_payload(1000, "last"))
    peer.send(closing + peer.frame(TEXT, b"after") + peer.frame(PING) + peer.frame(CLOSE, close_payload(4000)))
    session.server.read_exactly(closing)
    session.server.send_close(1000)
    session.server.end_sending()
    assert session.client.read_close()[0] == 1000
    session.server.expect_eof()


def test_nothing_of_the_upstream_passes_after_its_close(rig):
    session = rig.open()
    peer = session.server
    closing = peer.frame(CLOSE, close_payload(1000, "last"))
    peer.send(closing + peer.frame(TEXT, b"after") + peer.frame(BINARY, b"after") + peer.frame(TEXT, b"\xff"))
    session.client.read_exactly(closing)
    session.client.send_close(1000)
    session.client.expect_eof()


def test_the_upstreams_last_messages_pass_after_the_clients_close(rig):
    """The other direction is open until the upstream answers (§5.5.1)."""
    session = rig.open()
    session.server.read_exactly(session.client.send_close(1000))
    session.client.read_exactly(session.server.send_frame(TEXT, b"one more"))
    session.client.read_exactly(session.server.send_close(1000))
    session.server.end_sending()
    session.client.expect_eof()


def test_messages_and_a_close_in_one_packet_all_arrive(rig):
    for name in ("client", "server"):
        session = rig.open()
        peer, other = session.side(name)
        wire = peer.frame(TEXT, b"one") + peer.frame(BINARY, b"two") + peer.frame(CLOSE, close_payload(4000, "three"))
        peer.send(wire)
        peer.end_sending()
        other.read_exactly(wire)
        other.send_close(4000)
        other.end_sending()
        session.drop()


def test_client_that_never_answers_a_close(start_rig):
    """The connection ends with the time-out, for both."""
    rig = start_rig(route={"close_timeout": "500ms"})
    session = rig.open()
    session.client.read_exactly(session.server.send_close(4000, "go"))
    session.client.read_to_end()
    session.server.read_to_end()
    rig.gate.wait_until_idle()


def test_upstream_that_never_answers_a_close(start_rig):
    rig = start_rig(route={"close_timeout": "500ms"})
    session = rig.open()
    session.server.read_exactly(session.client.send_close(4000, "going"))
    session.client.read_to_end()
    session.server.read_to_end()
    rig.gate.wait_until_idle()


# The upstream announces a restart


@pytest.mark.parametrize("code", [1001, 1012])
@pytest.mark.parametrize("reason", ["", "deploying"])
def test_restarting_upstream_becomes_1012(rig, code, reason):
    """The client is told when to come back; the upstream gets its own code echoed."""
    session = rig.open()
    session.server.send_close(code, reason)
    assert_restart(session.client.read_close())
    session.client.send_close(1012)
    assert session.server.read_close()[0] == code
    session.server.end_sending()
    session.server.expect_eof()
    session.client.expect_eof()


def test_delays_are_spread(rig):
    """Drawn per client: twenty clients do not come back at the same moment."""
    delays = set()
    for _ in range(20):
        session = rig.open()
        session.server.send_close(1012)
        delays.add(session.client.read_close()[1])
        session.drop()
    assert len(delays) > 10, f"twenty clients were told only {sorted(delays)}"


@pytest.mark.parametrize("code", [1001, 1012])
def test_restart_codes_can_pass(start_rig, code):
    session = start_rig(route={"upstream_close": "pass"}).open()
    session.client.read_exactly(session.server.send_close(code, "as it is"))


def test_restart_code_and_delay_are_settings(start_rig):
    session = start_rig(route={"restart_code": 4012, "reconnect_after": "7s-7s"}).open()
    session.server.send_close(1001)
    assert session.client.read_close() == (4012, "service restart; retry-after-ms=7000")


# Somebody vanishes


@pytest.mark.parametrize("end", ["close", "reset", "end_sending"])
def test_upstream_vanishes(rig, end):
    """Without a Close: the client gets 1012, at a frame boundary, after all that had come."""
    session = rig.open()
    session.client.read_exactly(session.server.send_frame(TEXT, b"last words"))
    getattr(session.server, end)()
    assert_restart(session.client.read_close())
    session.client.send_close(1012)
    session.client.expect_eof()


@pytest.mark.parametrize("end", ["close", "reset", "end_sending"])
def test_client_vanishes(rig, end):
    session = rig.open()
    session.server.read_exactly(session.client.send_frame(TEXT, b"last words"))
    getattr(session.client, end)()
    code, reason = session.server.read_close()
    assert (code, bool(reason)) == (1001, True), f"the upstream was told {code} {reason!r}"
    session.server.send_close(1001)
    session.server.end_sending()
    session.server.expect_eof()


@pytest.mark.parametrize("name", ["client", "server"])
def test_what_was_sent_before_vanishing_is_delivered(rig, name):
    """A FIN right behind the data: the data passes first."""
    session = rig.open()
    peer, other = session.side(name)
    wire = b"".join(peer.frame(BINARY, bytes([i]) * 50_000) for i in range(20))
    peer.send(wire)
    peer.close()
    other.read_exactly(wire)
    assert other.read_close()[0] == (1001 if name == "client" else 1012)


@pytest.mark.parametrize("name", ["client", "server"])
def test_vanishing_inside_a_held_frame_leaves_no_trace_of_it(rig, name):
    """Half a text frame does not pass; a Close at the boundary before it does."""
    session = rig.open()
    peer, other = session.side(name)
    peer.send(peer.frame(TEXT, b"half of this message")[:-5])
    peer.close()
    assert other.read_close()[0] == (1001 if name == "client" else 1012)


@pytest.mark.parametrize("name", ["client", "server"])
def test_vanishing_between_fragments(rig, name):
    """A Close may stand between the fragments of a message that never completes."""
    session = rig.open()
    peer, other = session.side(name)
    other.read_exactly(peer.send_frame(TEXT, b"first fragment", fin=False))
    peer.close()
    assert other.read_close()[0] == (1001 if name == "client" else 1012)


@pytest.mark.parametrize("name", ["client", "server"])
def test_vanishing_inside_a_passed_on_frame(rig, name):
    """No Close can be put into a frame: the other side sees the connection end, and no message."""
    session = rig.open()
    peer, other = session.side(name)
    begun = peer.frame(BINARY, b"x" * 200_000)[:100_000]
    peer.send(begun)
    other.read_exactly(begun)
    peer.close()
    left, _ = other.read_to_end()
    assert left == b"", f"after half a frame came {left[:100]!r}"
