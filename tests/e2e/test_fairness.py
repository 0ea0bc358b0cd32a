"""What one connection may take of what all share: turns of a thread, inflated bytes, memory, and time at its end."""

import contextlib
import os
import socket
import ssl
import threading
import time
import zlib

import pytest

from rig import certificates, gate, http, raw
from rig.frames import BINARY, CLOSE, PING, TEXT
from rig.raw import TIMEOUT, Pump
from rig.session import Rig

PMD = "permessage-deflate"
ALONE = f"{PMD}; server_no_context_takeover; client_no_context_takeover"
RSV1 = 4
VIOLATIONS = "wsgate_violations_total"
MEMORY = "wsgate_buffer_memory_bytes"

by_either_side = pytest.mark.parametrize("side", ["client", "server"])


def zeros(count):
    """A compressed message that inflates to so many zeros."""
    deflate = zlib.compressobj(9, wbits=-15)
    out = deflate.compress(bytes(count)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return out.removesuffix(b"\x00\x00\xff\xff")


def open_compressed(rig, agreed=ALONE):
    """A session in which compression was agreed, with or without windows that messages share."""
    offer, answer = [f"Sec-WebSocket-Extensions: {agreed}"], {"Sec-WebSocket-Extensions": agreed}
    return rig.open(request=dict(extra=offer), answer=dict(headers=answer))


@pytest.fixture
def one_thread(tmp_path):
    """A proxy with a single thread for all."""

    class OneThread(Rig):
        def __init__(self):
            self.server = raw.Server()
            self.gate = gate.Gate(tmp_path, "threads = 1\n" + gate.config([self.server.address]))

    rig = OneThread()
    yield rig
    raw.drop_all()
    rig.close()


class Reader:
    """Reads from a peer, in a thread, until so many bytes have come."""

    def __init__(self, peer, count):
        self.peer, self.left = peer, count
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while self.left > 0:
            got = self.peer.sock.recv(1 << 20)
            assert got, "the end came early"
            self.left -= len(got)


# Turns of a thread


@by_either_side
def test_others_have_their_turns_while_bombs_are_inflated(one_thread, side):
    """Two gibibytes of zeros, in messages of 16 MiB of which one read holds eight."""
    bomber, bystander = open_compressed(one_thread), one_thread.open()
    sender, receiver = bomber.side(side)
    wire = sender.frame(BINARY, zeros(16 << 20), rsv=RSV1)
    reader = Reader(receiver, len(wire) * 128)
    pump = Pump(sender, wire, 128)
    trips = 0
    while reader.left > 0 and trips < 200:
        bystander.server.read_exactly(bystander.client.send_frame(TEXT, b"there"))
        bystander.client.read_exactly(bystander.server.send_frame(TEXT, b"and back"))
        trips += 1
    assert trips == 200, f"only {trips} round trips while 128 bombs passed"
    pump.join()
    reader.thread.join(60)
    assert reader.left == 0, "what was sent arrives"
    bomber.drop()
    bystander.finish()
    assert one_thread.gate.wait_until_idle().total(VIOLATIONS) == 0


@by_either_side
def test_floods_of_small_frames_pass_whole(one_thread, side):
    session = one_thread.open()
    sender, receiver = session.side(side)
    wire = (sender.frame(PING) + sender.frame(TEXT, b"") + sender.frame(BINARY, b"x")) * 30_000
    pump = Pump(sender, wire, 1)
    receiver.read_exactly(wire)
    pump.join()
    session.finish()


# Inflated bytes per second


@by_either_side
def test_more_inflated_bytes_than_the_limit_is_1008(start_rig, side):
    """What is within it passes, to the byte; each side is told as of any violation."""
    rig = start_rig(route={gate.limit_key(side, "inflated_rate"): "1MiB"})
    session = open_compressed(rig)
    sender, other = session.side(side)
    for _ in range(4):
        other.read_exactly(sender.send_frame(BINARY, zeros(1 << 18), rsv=RSV1))
    other.read_exactly(sender.send_frame(BINARY, bytes(1 << 20)))
    sender.send_frame(BINARY, zeros(8 << 20), rsv=RSV1)
    assert sender.read_close() == (1008, f"more bytes, once inflated, than the limit of {1 << 20} per second")
    # Its beginning may have passed.
    other.read_to_end()
    now = rig.gate.wait_for_metrics(lambda now: now.total(VIOLATIONS) == 1, "the violation")
    assert now.total(VIOLATIONS, side=side, kind="inflated_rate") == 1
    session.drop()
    line = rig.gate.wait_for_log(lambda line: "connection ended" in line, "of the end")
    assert 'violation="inflated_rate"' in line, line


@by_either_side
def test_inflating_slowly(start_rig, side):
    """Three seconds' worth, one of them at once: it takes two, and nobody else waits."""
    rig = start_rig(route={gate.limit_key(side, "inflated_rate"): "1MiB", "rate_action": "delay"})
    session = open_compressed(rig)
    sender, other = session.side(side)
    started = time.monotonic()
    wire = sender.frame(BINARY, zeros(3 << 20), rsv=RSV1) + sender.frame(TEXT, b"behind it")
    sender.send(wire)
    sender.read_exactly(other.send_frame(TEXT, b"not slowed down"))
    assert time.monotonic() - started < 1, "the other direction was slowed down as well"
    other.read_exactly(wire)
    assert 1.5 < time.monotonic() - started < 4
    rig.gate.wait_for_log(lambda line: "slowed down" in line and 'kind="inflated_rate"' in line, "of it")
    session.finish()


@by_either_side
def test_observing_inflates_all(start_rig, side):
    rig = start_rig(route={gate.limit_key(side, "inflated_rate"): "1MiB", "mode": "observe"})
    session = open_compressed(rig)
    sender, other = session.side(side)
    wire = sender.frame(BINARY, zeros(4 << 20), rsv=RSV1) * 3
    sender.send(wire)
    other.read_exactly(wire)
    session.finish()
    assert rig.gate.wait_until_idle().total(VIOLATIONS, kind="inflated_rate") == 1


# Memory


def test_windows_count_and_are_given_back_first_by_who_keeps_them_for_longest(start_rig):
    """Each connection keeps a window of 32 KiB; where that is too much some are closed, and the rest is in good order."""
    rig = start_rig(client={"buffer_memory": "256KiB"})
    gate, closed = rig.gate, "wsgate_slow_readers_closed_total"
    sessions = []
    for number in range(8):
        # The last byte beyond the limit is the eighth window's: up to there nobody has to go.
        assert gate.metrics().total(closed) == 0
        session = open_compressed(rig, PMD)
        session.server.read_exactly(session.client.send_frame(BINARY, zeros(40_000), rsv=RSV1))
        sessions.append(session)
        windows = (number + 1) << 15
        gate.wait_for_metrics(lambda now, windows=windows: now.total(MEMORY) == windows, "the window")
        assert gate.metrics().total("wsgate_compression_memory_bytes") == windows
    # A held frame more.
    last = rig.open()
    begun = last.client.frame(TEXT, b"x" * 50_000)
    last.client.send(begun[:20_000])
    assert sessions[0].client.read_close()[0] == 1013
    gate.wait_for_metrics(lambda now: now.total(closed, limit="buffer_memory") > 0, "it")
    last.client.send(begun[20_000:])
    last.server.read_exactly(begun)
    sessions[0].client.send_close(1013)
    for session in [*sessions, last]:
        session.drop()
    gate.wait_for_metrics(lambda now: now.total(MEMORY) == 0, "all memory to be given back")


@pytest.fixture
def encrypted(tmp_path):
    """A proxy whose listener speaks TLS, and the context of its clients."""
    authority = certificates.Authority(tmp_path)
    pair = authority.sign("a", ["a.test"])
    server = raw.Server()
    text = gate.config([server.address], route={"write_timeout": "0s", "close_timeout": "20s"})
    lines = f"certificates = {certificates.toml([pair])}\n"
    with gate.Gate(tmp_path, text.replace("[[listener]]\n", f"[[listener]]\n{lines}")) as wsgate:
        yield wsgate, server, authority.client_context()
        raw.drop_all()
    server.close()


class Secured(raw.Peer):
    """A client over TLS that has its records in its hands."""

    def __init__(self, address, context):
        super().__init__(socket.create_connection(address, TIMEOUT), client=True)
        self.come, self.go = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.come, self.go, server_hostname="a.test")
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
                break
            self.sock.sendall(self.go.read())
            self.come.write(self.sock.recv(1 << 16))

    def records(self, data):
        """What this is on the wire."""
        self.tls.write(data)
        return self.go.read()

    def send(self, data):
        self.sock.sendall(self.records(data))

    def _receive(self, what):
        while True:
            try:
                data = self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                data = None
            except ssl.SSLZeroReturnError:
                data = b""
            if data is not None:
                if not data:
                    raise raw.Ended("close_notify", self.stream[self._at :])
                self.stream += data
                return
            came = self.sock.recv(1 << 16)
            assert came, f"an end without a close_notify instead of {what}"
            self.come.write(came)


def open_encrypted(encrypted):
    wsgate, server, context = encrypted
    client = Secured(wsgate.address, context)
    client.send(http.upgrade_request("/"))
    upstream = server.accept()
    upstream.send(http.switching_protocols(upstream.read_head()))
    assert client.read_head().status == 101
    return client, upstream


def test_records_that_have_begun_count(encrypted):
    """Nothing of a record is anything before its end; what is there of it is kept, and counted."""
    wsgate = encrypted[0]
    client, upstream = open_encrypted(encrypted)
    wire = client.frame(BINARY, os.urandom(15_000))
    record = client.records(wire)
    assert wsgate.metrics().total(MEMORY) == 0
    client.sock.sendall(record[:12_000])
    wsgate.wait_for_metrics(lambda now: 12_000 <= now.total(MEMORY) < 20_000, "the record begun")
    client.sock.sendall(record[12_000:])
    upstream.read_exactly(wire)
    wsgate.wait_for_metrics(lambda now: now.total(MEMORY) == 0, "nothing to be kept")


def test_records_that_nobody_takes_count(encrypted):
    """What of a chunk is records already is as much memory as the rest of it."""
    wsgate = encrypted[0]
    client, upstream = open_encrypted(encrypted)
    pump = Pump(upstream, upstream.frame(BINARY, b"x" * 60_000), 2000)
    pump.wait_until_stalled()
    assert wsgate.metrics().total(MEMORY) > 0
    client.close()
    upstream.close()
    wsgate.wait_for_metrics(lambda now: now.total(MEMORY) == 0, "nothing to be kept")


# Time at the end


def test_the_end_of_the_stream_follows_the_close_of_an_offender(start_rig):
    """A client that waits for the server to end TCP need not wait for `close_timeout`."""
    rig = start_rig(route={"close_timeout": "60s"})
    session = rig.open()
    session.client.send_frame(TEXT, b"\xff")
    assert session.client.read_close()[0] == 1007
    session.client.expect_eof()
    # What it sends is still taken, and its answer ends the connection in order.
    session.client.send(session.client.frame(BINARY, b"x" * 100_000) * 20)
    session.client.send_close(1007)
    session.client.end_sending()
    assert session.server.read_close()[0] == 1001
    session.server.send_close(1001)
    session.server.end_sending()
    session.server.expect_eof()
    line = rig.gate.wait_for_log(lambda line: "connection ended" in line, "of the end")
    assert "timed_out=false" in line, line


def test_the_end_of_an_encrypted_stream_follows_as_well(encrypted):
    """A close_notify, and then the FIN."""
    client, upstream = open_encrypted(encrypted)
    client.send_frame(TEXT, b"\xff")
    assert client.read_close()[0] == 1007
    with pytest.raises(raw.Ended) as end:
        client.read_frame()
    assert end.value.how == "close_notify"
    assert client.sock.recv(1) == b""
    client.send(client.frame(BINARY, b"x" * 100_000) * 5)
    client.send_close(1007)
    assert upstream.read_close()[0] == 1001
    upstream.close()
    line = encrypted[0].wait_for_log(lambda line: "connection ended" in line, "of the end")
    assert "timed_out=false" in line, line


@pytest.mark.parametrize("offence", ["client", "server"])
def test_a_client_in_the_middle_of_an_upload_gets_its_code(start_rig, offence):
    """It reads only when it has sent all: the Close and the end are there, and no reset before them."""
    rig = start_rig()
    session = rig.open()
    begun = session.client.frame(BINARY, b"x" * 64_000)
    if offence == "client":
        session.client.send_frame(TEXT, b"\xff")
    else:
        session.server.send_frame(TEXT, b"\xff")
        assert session.server.read_close()[0] == 1007
    session.client.send(begun * 200)
    code, _ = session.client.read_close()
    assert code == (1007 if offence == "client" else 1011)
    if offence == "server":
        session.client.send_close(code)
    session.client.expect_eof()
    session.drop()


def test_who_did_nothing_wrong_is_not_cut_off_before_its_answer(start_rig):
    """What a client sends before its answer to a restart is delivered: its stream is open in both directions until then."""
    rig = start_rig()
    session = rig.open()
    session.server.send_close(1012)
    assert session.client.read_close()[0] == 1012
    wire = session.client.send_frame(TEXT, b"sent before the answer")
    session.server.read_exactly(wire)
    session.client.send_close(1012)
    session.client.expect_eof()
    frame = session.server.read_frame()
    assert (frame.opcode, frame.close[0]) == (CLOSE, 1012)
    session.drop()
