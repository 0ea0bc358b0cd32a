"""A peer that closes its socket at every possible byte of a session: nothing leaks, and nothing unfinished passes."""

from dataclasses import dataclass

import pytest

from rig import frames, http
from rig.frames import BINARY, CONTINUATION, PING, TEXT
from rig.raw import Ended

SCRIPT = [
    (TEXT, "schön".encode(), True),
    (BINARY, bytes(range(12)), True),
    (TEXT, "€".encode()[:1], False),
    (PING, b"p", True),
    (CONTINUATION, "€".encode()[1:], True),
]

ends = pytest.mark.parametrize("end", ["close", "reset"])


@dataclass
class Stream:
    """The script as one side sends it."""

    wire: bytes
    boundaries: list
    """Positions between frames."""
    binary: range
    """Positions inside the binary frame, which is passed on as it comes."""

    @classmethod
    def of(cls, peer):
        """Built with this peer's masking."""
        wire, boundaries, binary = b"", [0], range(0)
        for opcode, payload, fin in SCRIPT:
            wire += peer.frame(opcode, payload, fin=fin)
            if opcode == BINARY:
                binary = range(boundaries[-1] + 1, len(wire))
            boundaries.append(len(wire))
        return cls(wire, boundaries, binary)

    def check(self, cut, passed, code, *, lossy):
        """What the other side got of `wire[:cut]`: whole frames and then a Close, or an end inside the binary frame.

        A reset may cost what was still under way (`lossy`), but only ever whole frames of it.
        """
        last = max(b for b in self.boundaries if b <= cut)
        for boundary in reversed([b for b in self.boundaries if b <= last]) if lossy else [last]:
            if passed.startswith(self.wire[:boundary]) and passed[boundary:]:
                rest = passed[boundary:]
                try:
                    frame = frames.decode(rest, masked=code == 1001)
                except frames.BadFrame:
                    continue
                if frame and frame.wire == rest and frame.opcode == frames.CLOSE and frame.close[0] == code:
                    return
        if (cut in self.binary or lossy) and self.wire[:cut].startswith(passed) and len(passed) in self.binary:
            return
        raise AssertionError(f"cut at {cut} of {len(self.wire)} (frames end at {self.boundaries}): passed {passed!r}")


def all_that_comes(peer):
    """Every byte up to the end of the connection. A Close is answered with a FIN, which spares time-outs."""
    try:
        while peer.read_frame().opcode != frames.CLOSE:
            pass
        peer.end_sending()
        peer.read_to_end()
    except Ended:
        pass
    return bytes(peer.stream)


@ends
def test_client_in_its_request(rig, end):
    """No part of a request is passed on."""
    request = http.upgrade_request("/never", headers={"Origin": "https://app.test"})
    for cut in range(len(request)):
        client = rig.connect()
        client.send(request[:cut])
        getattr(client, end)()
    rig.assert_nothing_reached_the_server()
    rig.assert_works()


@ends
def test_client_in_its_frames(rig, end):
    session = rig.open()
    stream = Stream.of(session.client)
    session.finish()
    for cut in range(len(stream.wire) + 1):
        session = rig.open()
        session.client.send(stream.wire[:cut])
        getattr(session.client, end)()
        passed = all_that_comes(session.server)
        stream.check(cut, passed, 1001, lossy=end == "reset")
        session.drop()
    rig.assert_works()


@ends
def test_client_before_the_101(rig, end):
    """It sends frames early and is gone when the upstream answers: the upstream is not left alone."""
    for early in (b"", frames.encode(TEXT, b"early", masked=True)):
        client, path = rig.request(early=early)
        upstream, head = rig.server.accept_request(path)
        getattr(client, end)()
        upstream.send(http.switching_protocols(head))
        all_that_comes(upstream)
    rig.assert_works()


@ends
def test_upstream_in_its_101(rig, end):
    """Half a 101 is a 502."""
    session = rig.open()
    answer = http.switching_protocols(session.request)
    session.finish()
    for cut in range(len(answer)):
        client, path = rig.request()
        upstream, _ = rig.server.accept_request(path)
        upstream.send(answer[:cut])
        getattr(upstream, end)()
        got = client.read_head()
        assert got.status == 502, f"101 cut at {cut} of {len(answer)} bytes: {got.start}"
        client.close()
    rig.assert_works()


@ends
def test_upstream_in_its_frames(rig, end):
    session = rig.open()
    stream = Stream.of(session.server)
    session.finish()
    for cut in range(len(stream.wire) + 1):
        session = rig.open()
        session.server.send(stream.wire[:cut])
        getattr(session.server, end)()
        passed = all_that_comes(session.client)
        stream.check(cut, passed, 1012, lossy=end == "reset")
        session.drop()
    rig.assert_works()
