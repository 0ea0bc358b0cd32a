"""What a proxy in the open has to survive; after each of it the next session works."""

import random
import time

import pytest

from rig import http
from rig.frames import BINARY, CONTINUATION, TEXT
from rig.raw import Ended, Pump

MIB = 1 << 20


@pytest.fixture(autouse=True)
def still_works(rig):
    """Whatever a test did to the shared proxy."""
    yield
    rig.assert_works()


def test_request_line_of_one_mib(rig):
    """Refused with a 4xx, and the sender is not made to send all of it."""
    client = rig.connect()
    pump = Pump(client, b"GET /" + b"a" * MIB + b" HTTP/1.1\r\nHost: gate.test\r\n\r\n", 1)
    answer = client.read_head()
    assert answer.status in (400, 414, 431), f"answered {answer.start}"
    pump.join()


def test_head_of_one_mib(rig):
    client = rig.connect()
    pump = Pump(client, http.upgrade_request("/", extra=[f"X-Long-{i}: {'v' * 1000}" for i in range(1000)]), 1)
    answer = client.read_head()
    assert answer.status in (400, 431), f"answered {answer.start}"
    pump.join()


@pytest.mark.parametrize(
    "garbage", [b"\x00" * 1000, b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\r\n" * 500], ids=repr
)
def test_garbage_instead_of_a_request(rig, garbage):
    """A 400 or a closed connection, and at once where the bytes can be no request any more."""
    client = rig.connect()
    client.send(garbage)
    client.end_sending()
    left, _ = client.read_to_end()
    assert left == b"" or left.startswith(b"HTTP/1.1 400"), f"answered {left[:100]!r}"


def test_dripping_head(start_rig):
    """A byte now and then does not hold the time-out off: 408, and closed."""
    rig = start_rig(client={"header_timeout": "1s"})
    client = rig.connect()
    client.sock.settimeout(0.2)
    started, answer = time.monotonic(), b""
    for byte in http.upgrade_request("/")[:60]:
        client.send(bytes([byte]))
        try:
            answer = client.sock.recv(MIB)
            break
        except TimeoutError:
            continue
    elapsed = time.monotonic() - started
    assert answer.startswith(b"HTTP/1.1 408 "), f"after {elapsed:.1f} s: {answer[:100]!r}"
    assert 0.8 < elapsed < 4, f"answered after {elapsed:.1f} s"
    client.sock.settimeout(10)
    client.read_to_end()
    rig.assert_works()


def test_silent_connection(start_rig):
    """Not one byte: closed too."""
    rig = start_rig(client={"header_timeout": "500ms"})
    client = rig.connect()
    client.read_to_end()


def test_ten_thousand_empty_fragments(rig):
    session = rig.open()
    pump = Pump(
        session.client,
        session.client.frame(TEXT, fin=False) + session.client.frame(CONTINUATION, fin=False) * 10_000,
        1,
    )
    assert session.client.read_close()[0] == 1008
    pump.join()
    frames = [session.server.read_frame() for _ in range(64)]
    assert all(not frame.fin and not frame.payload for frame in frames)
    assert session.server.read_close()[0] == 1001


def test_header_that_claims_everything_then_silence(rig):
    """2^63-1 bytes: 1009 at once, and nothing is set aside for them."""
    before = rig.gate.resident()
    sessions = [rig.open() for _ in range(20)]
    for session in sessions:
        session.client.send_frame(BINARY, length=(1 << 63) - 1)
    for session in sessions:
        assert session.client.read_close()[0] == 1009
        assert session.server.read_close()[0] == 1001
    assert rig.gate.resident() - before < 16 * MIB
    for session in sessions:
        session.drop()


def test_ping_flood_without_reading(rig):
    """Pings are passed on, not answered by the proxy: no queue of pongs can grow."""
    session = rig.open()
    pings = session.client.frame(9, b"p" * 125) * 2000
    pump = Pump(session.client, pings, 1)
    session.server.read_exactly(pings)
    pump.join()
    session.finish()


def test_many_connections_that_come_and_go(rig):
    """Sockets are given back."""
    rig.assert_works()
    rig.gate.wait_until_idle()
    before = rig.gate.open_files()
    for number in range(200):
        client = rig.connect()
        if number % 3:
            client.send(http.upgrade_request("/")[: number % 150])
        if number % 2:
            client.reset()
        else:
            client.close()
    rig.assert_works()
    deadline = time.monotonic() + 10
    while (now := rig.gate.open_files()) > before + 10:
        assert time.monotonic() < deadline, f"{now} files are open, {before} were before"
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["client", "server"])
def test_random_bytes_for_frames(rig, name):
    """Whatever they are: the offender is closed or cut, the other side gets only right frames."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    for _ in range(100):
        session = rig.open()
        peer, other = session.side(name)
        peer.send(chance.randbytes(300))
        peer.end_sending()
        try:
            while other.read_frame().opcode != 8:
                pass
        except Ended as end:
            assert end.how == "eof", f"seed {seed}: {end}"
        session.drop()
