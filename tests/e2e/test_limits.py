"""Limits: how much a side may send per second, from either side, and what the other one, the log and the metrics say."""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from rig import http
from rig.frames import BINARY, CLOSE, PING, PONG, TEXT
from rig.gate import limit_key
from rig.raw import TIMEOUT, Pump

VIOLATIONS = "wsgate_violations_total"

# By the key of a limit without its side: its value, what it counts, and what is said beyond it.
LIMITS = {
    "message_rate": (10, [(TEXT, b"x")] * 10, "more messages than the limit of 10 per second"),
    "byte_rate": ("1000B", [(TEXT, b"x" * 90)] * 10, "more bytes than the limit of 1000 per second"),
    "control_rate": (4, [(PING, b"x")] * 3 + [(PONG, b"")], "more control frames than the limit of 4 per second"),
}

by_either_side = pytest.mark.parametrize("offender", ["client", "server"])
by_limit = pytest.mark.parametrize("limit", LIMITS)


def limited(offender, limit, **others):
    """A route with one limit."""
    return {limit_key(offender, limit): LIMITS[limit][0]} | others


def counted(rig, offender, limit):
    """Waits until it is counted that the offender went beyond the limit; nothing else may be."""
    labels = dict(side=offender, kind=limit)
    now = rig.gate.wait_for_metrics(lambda now: now.total(VIOLATIONS, **labels) == 1, "the violation")
    assert now.total(VIOLATIONS) == 1, f"the metrics:\n{now}"


@contextlib.contextmanager
def library_client(rig):
    """A session whose client is a library: `(client, upstream)`."""
    path = rig.new_path()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        url = f"ws://{rig.gate.url}{path}"
        client = pool.submit(lambda: stack.enter_context(connect(url, compression=None, close_timeout=1)))
        upstream, head = rig.server.accept_request(path)
        upstream.send(http.switching_protocols(head))
        yield client.result(TIMEOUT), upstream


@by_either_side
@by_limit
def test_beyond_a_limit_is_1008(start_rig, offender, limit):
    """What is within the limit passes, what is beyond it does not, and each side is told as of any violation."""
    rig = start_rig(route=limited(offender, limit))
    session = rig.open()
    sender, other = session.side(offender)
    _, within, reason = LIMITS[limit]
    wire = b"".join(sender.frame(opcode, payload) for opcode, payload in within)
    # A hundred times more, at once.
    sender.send(wire * 100)
    code, told = sender.read_close()
    assert (code, told) == (1008, reason)
    passed = 0
    while (frame := other.read_frame()).opcode != 8:
        passed += len(frame.wire)
    assert len(wire) * 0.85 < passed < len(wire) * 2, f"{passed} bytes passed, of {len(wire)} within the limit"
    assert frame.close[0] == (1001 if offender == "client" else 1011)
    counted(rig, offender, limit)
    session.drop()
    line = rig.gate.wait_for_log(lambda line: "connection ended" in line, "of the end")
    assert f'initiator="{offender}"' in line and f'violation="{limit}"' in line, line


def test_a_library_is_told_the_limit(start_rig):
    rig = start_rig(route=limited("client", "message_rate"))
    with library_client(rig) as (client, upstream):
        for number in range(10):
            client.send(f"message {number}")
            assert upstream.read_frame().payload == f"message {number}".encode()
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(1000):
                client.send("one more")
            client.recv(TIMEOUT)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, LIMITS["message_rate"][2])


@by_either_side
@by_limit
def test_slow_reading(start_rig, offender, limit):
    """Two seconds' worth more than may come at once: all of it arrives, after two seconds; the other direction goes on."""
    rig = start_rig(route=limited(offender, limit, rate_action="delay"))
    session = rig.open()
    sender, other = session.side(offender)
    _, within, _ = LIMITS[limit]
    wire = b"".join(sender.frame(opcode, payload) for opcode, payload in within) * 3
    started = time.monotonic()
    sender.send(wire)
    sender.read_exactly(other.send_frame(TEXT, b"not slowed down"))
    assert time.monotonic() - started < 1, "the other direction was slowed down as well"
    other.read_exactly(wire)
    took = time.monotonic() - started
    assert 1.5 < took < 4, f"three seconds' worth, one of them at once, took {took} s"
    counted(rig, offender, limit)
    rig.gate.wait_for_log(lambda line: "slowed down" in line and f'kind="{limit}"' in line, "of it")
    session.finish()


def test_a_flood_is_left_with_its_sender(start_rig):
    """Slow reading keeps nothing: what is not read stays in the sender's socket, and then with the sender."""
    rig = start_rig(route=limited("client", "byte_rate", rate_action="delay"))
    session = rig.open()
    before = rig.gate.resident()
    pump = Pump(session.client, session.client.frame(BINARY, b"x" * 60_000), 1000)
    pump.wait_until_stalled()
    grown = rig.gate.resident() - before
    assert grown < 2 << 20, f"resident memory grew by {grown} bytes"
    session.drop()
    rig.gate.wait_until_idle()


@by_either_side
@by_limit
@pytest.mark.parametrize("beyond", ["close", "delay"])
def test_observing_counts_and_passes(start_rig, offender, limit, beyond):
    rig = start_rig(route=limited(offender, limit, rate_action=beyond, mode="observe"))
    session = rig.open()
    sender, other = session.side(offender)
    _, within, _ = LIMITS[limit]
    wire = b"".join(sender.frame(opcode, payload) for opcode, payload in within) * 5
    started = time.monotonic()
    sender.send(wire)
    other.read_exactly(wire)
    assert time.monotonic() - started < 1.5, "what is observed is not slowed down"
    counted(rig, offender, limit)
    session.finish()


def test_limits_of_zero_are_none(start_rig):
    zero = {limit_key(side, limit): "0B" if limit == "byte_rate" else 0 for side in ("client", "server") for limit in LIMITS}
    rig = start_rig(route=zero)
    session = rig.open()
    for sender, other in (session.side("client"), session.side("server")):
        wire = (sender.frame(TEXT, b"x" * 90) + sender.frame(PING, b"?")) * 2000
        sender.send(wire)
        other.read_exactly(wire)
    assert rig.gate.metrics().total(VIOLATIONS) == 0
    session.finish()


# Readers


def flood(sender):
    """Sends more than all buffers on the way can hold, from a thread."""
    return Pump(sender, sender.frame(BINARY, b"x" * 60_000), 2000)


@pytest.mark.parametrize(("reader", "code"), [("client", 1001), ("server", 1012)])
def test_a_reader_that_takes_nothing_is_given_up(start_rig, reader, code):
    rig = start_rig(route={"write_timeout": "1500ms"})
    session = rig.open()
    silent, other = session.side(reader)
    pump = flood(other)
    assert other.read_close()[0] == code
    # Whatever it had yet to send is read and dropped, so that it finds out.
    pump.join()
    assert pump.error is None
    other.send_close(code)
    line = rig.gate.wait_for_log(lambda line: "connection ended" in line, "of the end")
    assert 'cause="stalled"' in line and f'initiator="{reader}"' in line, line
    now = rig.gate.wait_until_idle()
    assert now.total("wsgate_slow_readers_closed_total", side=reader, limit="write_timeout") == 1
    silent.close()


def test_a_reader_that_is_only_slow_stays(start_rig):
    """The proxy's own socket takes nothing for seconds, as megabytes are on their way; but they arrive, bit by bit."""
    rig = start_rig(route={"write_timeout": "1s"})
    session = rig.open()
    session.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    flood(session.server)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        session.client.sock.recv(16_000)
        time.sleep(0.05)
    assert rig.gate.metrics().total("wsgate_slow_readers_closed_total") == 0
    # And when it stops for good, that is found out as well.
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_slow_readers_closed_total") == 1, "the end")
    session.drop()


def test_a_write_timeout_of_zero_is_none(start_rig):
    rig = start_rig(route={"write_timeout": "0s"})
    session = rig.open()
    flood(session.server).wait_until_stalled(still=2)
    assert rig.gate.metrics().total("wsgate_slow_readers_closed_total") == 0
    session.drop()


# Memory


def test_buffers_over_their_limit(start_rig):
    """The slowest readers have to go, new upgrades have to wait, and then all is well again."""
    limit = 256 << 10
    rig = start_rig(client={"buffer_memory": f"{limit}B"}, route={"write_timeout": "0s", "close_timeout": "30s"})
    sessions = [rig.open() for _ in range(12)]
    pumps = [flood(session.server) for session in sessions]
    gate, closed = rig.gate, "wsgate_slow_readers_closed_total"
    gate.wait_for_metrics(lambda now: now.total(closed, side="client", limit="buffer_memory") >= 1, "readers to be closed")
    gate.wait_for_log(lambda line: "buffers are over their limit" in line, "of it")
    # Those who were told to go have what they have for as long as they do not read; meanwhile nobody else comes in.
    client, _ = rig.request()
    head = client.read_head()
    assert (head.status, head.get("Retry-After")) == (503, "5")
    assert client.read_body(head) == b"all memory for slow connections is taken\n"
    assert gate.metrics().total("wsgate_handshakes_total", result="full") == 1

    told = [read_out(session.client) for session in sessions]
    gone = [close for close in told if close is not None]
    assert gone and all(code == 1013 and reason.startswith("overloaded; retry-after-ms=") for code, reason in gone)
    assert gate.metrics().total(closed) == len(gone)
    gate.wait_for_metrics(lambda now: now.total("wsgate_buffer_memory_bytes") <= limit, "memory to be free again")
    for session, pump, close in zip(sessions, pumps, told, strict=True):
        if close is not None:
            pump.join()
            assert session.server.read_close() == (1001, "overloaded")
            session.server.send_close(1001)
    gate.wait_for_log(lambda line: 'cause="overload"' in line and 'initiator="wsgate"' in line, "of the end")
    rig.assert_works()
    for session in sessions:
        session.drop()
    assert gate.wait_until_idle().total("wsgate_buffer_memory_bytes") == 0


def read_out(client):
    """All that a client gets until its Close, which it answers: what that says, or `None` where it got everything."""
    for _ in range(2000):
        frame = client.read_frame()
        client.forget_read()
        if frame.opcode == CLOSE:
            client.send_close(frame.close[0])
            return frame.close
    return None


def test_buffers_without_a_limit(start_rig):
    rig = start_rig(client={"buffer_memory": "0B"})
    sessions = [rig.open() for _ in range(3)]
    pumps = [flood(session.server) for session in sessions]
    for pump in pumps:
        pump.wait_until_stalled()
    now = rig.gate.metrics()
    assert now.total("wsgate_buffer_memory_bytes") > 0
    assert now.total("wsgate_slow_readers_closed_total") == 0
    rig.assert_works()
    for session in sessions:
        session.drop()
    assert rig.gate.wait_until_idle().total("wsgate_buffer_memory_bytes") == 0


def test_a_reload_changes_the_limit_of_buffers(start_rig):
    rig = start_rig()
    session = rig.open()
    flood(session.server).wait_until_stalled()
    text = rig.gate.file.read_text()
    rig.gate.reload(text.replace("[client]\n", '[client]\nbuffer_memory = "1B"\n'))
    client, _ = rig.request()
    assert client.read_head().status == 503
    rig.gate.reload(text)
    rig.assert_works()
    session.drop()
