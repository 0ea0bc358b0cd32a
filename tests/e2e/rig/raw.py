"""Raw peers: a client and a server on plain sockets, driven line by line by the test.

Everything blocks, with a time-out: a test reads as the sequence of what happens on both sides, in one thread. Whoever
waits in vain learns from the error what was waited for and what had come instead.
"""

import contextlib
import pathlib
import socket
import struct
import threading
import time
import weakref

from . import frames, http, over_http2

TIMEOUT = 10.0
"""Seconds until something awaited counts as never coming; longer than any time-out the tests configure."""


_PEERS = weakref.WeakSet()


def drop_all():
    """Closes every peer still open: a test that failed half-way must not disturb the next one."""
    for peer in list(_PEERS):
        peer.close()


class Ended(Exception):
    """The other end is gone: `how` is "eof" (an orderly FIN) or "reset" (RST)."""

    def __init__(self, how, left):
        super().__init__(f"{how}, with {len(left)} bytes of something unfinished: {bytes(left[:80])!r}")
        self.how, self.left = how, bytes(left)


class Peer:
    """One end of a connection: sends any bytes, reads strictly, and remembers all it was sent after the head."""

    def __init__(self, sock, *, client):
        self.sock, self.client = sock, client
        self.name = "client" if client else "server"
        self.stream = bytearray()
        """Every byte received after the head (or since the start, where no head was read)."""
        self._at = 0
        _PEERS.add(self)
        sock.settimeout(TIMEOUT)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # Sending

    def send(self, data):
        """Any bytes, all of them."""
        self.sock.sendall(data)

    def wait_until_read(self):
        """Until the other end, on this machine and over IPv4, has read all that was sent."""
        ends = [self.sock.getpeername()[1], self.sock.getsockname()[1]]
        deadline = time.monotonic() + TIMEOUT
        while True:
            rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
            ports = {tuple(int(end.rpartition(":")[2], 16) for end in row[1:3]): row[4] for row in rows}
            unsent, unread = (int(queue, 16) for queue in (ports[*reversed(ends)][:8], ports[*ends][9:]))
            if unsent == unread == 0:
                return
            assert time.monotonic() < deadline, f"{unsent} bytes were not taken, {unread} were not read"
            time.sleep(0.005)

    def frame(self, opcode, payload=b"", *, masked=None, **wrong):
        """A frame as this side sends it, masked by a client only; see `frames.encode` for what may be wrong with it."""
        return frames.encode(opcode, payload, masked=self.client if masked is None else masked, **wrong)

    def send_frame(self, opcode, payload=b"", **wrong):
        """Builds a frame, sends it, and returns its bytes."""
        wire = self.frame(opcode, payload, **wrong)
        self.send(wire)
        return wire

    def send_close(self, code, reason=""):
        """A Close; `None` is the empty one."""
        return self.send_frame(frames.CLOSE, frames.close_payload(code, reason))

    # Receiving

    def read_head(self):
        """A request's or response's head; what follows it is the beginning of `stream`."""
        self.forget_read()
        while b"\r\n\r\n" not in self.stream:
            self._receive("a head")
        end = self.stream.index(b"\r\n\r\n") + 4
        head = http.Head.parse(bytes(self.stream[:end]))
        del self.stream[:end]
        return head

    def read_body(self, head):
        """The body of a response or request, by its length, its chunks, or the end of the connection."""
        if (head.get("transfer-encoding") or "").lower() == "chunked":
            body = b""
            while size := int(self._line(), 16):
                body += self._exactly(size)
                assert self._line() == b"", "chunk without its line end"
            assert self._line() == b"", "trailers where none were sent"
            return body
        if head.get("content-length") is not None:
            return self._exactly(int(head.get("content-length")))
        return self.read_to_end()[0]

    def read_frame(self):
        """The next frame, held to every rule of §5; `Ended` where the stream ends before it does."""
        while True:
            with memoryview(self.stream) as stream, stream[self._at :] as unread:
                frame = frames.decode(unread, masked=not self.client)
            if frame is not None:
                self._at += len(frame.wire)
                return frame
            self._receive("a frame")

    def read_message(self):
        """The next message `(opcode, payload)`, control frames included."""
        messages = frames.Messages()
        while True:
            if (message := messages.add(self.read_frame())) is not None:
                return message

    def read_close(self):
        """The next frame, which has to be a Close, as `(code, reason)`."""
        return self.read_frame().close

    def read_to_end(self):
        """All that is left until the other end is gone, and how it went: `(bytes, "eof" | "reset")`."""
        while True:
            try:
                self._receive("the end of the connection")
            except Ended as end:
                left = bytes(self.stream[self._at :])
                self._at = len(self.stream)
                return left, end.how

    def read_exactly(self, wire, what="the stream"):
        """These bytes and no others come next."""
        got = self._exactly(len(wire))
        assert got == wire, f"{self.name}: {what} {_difference(got, wire)}"

    def forget_read(self):
        """Drops from `stream` what was read, for tests that move more than should be remembered."""
        del self.stream[: self._at]
        self._at = 0

    def expect_eof(self):
        """Nothing more comes, and the end is an orderly one."""
        left, how = self.read_to_end()
        assert (left, how) == (b"", "eof"), f"{self.name}: expected a plain EOF, got {how} after {left[:200]!r}"

    def _line(self):
        while b"\r\n" not in self.stream[self._at :]:
            self._receive("a line")
        end = self.stream.index(b"\r\n", self._at)
        line = bytes(self.stream[self._at : end])
        self._at = end + 2
        return line

    def _exactly(self, size):
        while len(self.stream) - self._at < size:
            self._receive(f"{size} bytes")
        self._at += size
        return bytes(self.stream[self._at - size : self._at])

    def _receive(self, what):
        try:
            data = self.sock.recv(1 << 20)
        except TimeoutError:
            got = bytes(self.stream[self._at :][:200])
            raise AssertionError(f"{self.name}: waited {TIMEOUT} s for {what}; unread so far: {got!r}") from None
        except (ConnectionResetError, BrokenPipeError):
            raise Ended("reset", self.stream[self._at :]) from None
        if not data:
            raise Ended("eof", self.stream[self._at :])
        self.stream += data

    # Ending

    def close(self):
        """Closes the socket with a FIN (the kernel makes it an RST where bytes were left unread)."""
        self.sock.close()

    def reset(self):
        """Closes the socket with an RST."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def end_sending(self):
        """Sends a FIN and can still read."""
        self.sock.shutdown(socket.SHUT_WR)


def wait_until_listening(address, process=None):
    """Until something accepts connections at `(host, port)`; fails where its process ends before."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        with contextlib.suppress(OSError), socket.create_connection(address, TIMEOUT):
            return
        assert process is None or process.poll() is None, "the process that was to listen has ended"
        assert time.monotonic() < deadline, f"nothing listens at {address}"
        time.sleep(0.02)


def connect(address):
    """A client's connection to `(host, port)` or `unix:/path`."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        sock.connect(address.removeprefix("unix:"))
    elif over_http2.ENABLED:
        sock = over_http2.connect(address, TIMEOUT)
    else:
        sock = socket.create_connection(address, TIMEOUT)
    return Peer(sock, client=True)


class Server:
    """A listening socket whose connections the test accepts and answers by hand."""

    front = None
    """Speaks HTTP/2 in its place, where the tests want that."""

    def __init__(self, path=None, port=0):
        if path is None:
            self.sock = socket.create_server(("127.0.0.1", port), backlog=512)
            self.address = "{}:{}".format(*self.sock.getsockname())
            if over_http2.SERVERS:
                self.front = over_http2.Front(self.sock.getsockname())
                self.address = self.front.address
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(str(path))
            self.sock.listen(512)
            self.address = f"unix:{path}"
        self.sock.settimeout(TIMEOUT)

    def accept(self):
        """The next connection; nothing of it is read yet."""
        try:
            sock, _ = self.sock.accept()
        except TimeoutError:
            raise AssertionError(f"server: no connection came within {TIMEOUT} s") from None
        return Peer(sock, client=False)

    def accept_request(self, path):
        """The connection that brings the request for `path`, and the request's head.

        Connections of other paths are left-overs of earlier tests on the same proxy and are dropped.
        """
        while True:
            peer = self.accept()
            try:
                head = peer.read_head()
            except Ended:
                peer.close()
                continue
            if head.path == path:
                return peer, head
            peer.close()

    def requests_before(self, path):
        """What was sent on the connections that came before the one that asks for `path`, as a list of bytes.

        With a request for `path` as a fence this proves that something did *not* reach the server, without waiting.
        """
        before = []
        while True:
            peer = self.accept()
            try:
                head = peer.read_head()
            except Ended as end:
                before.append(end.left)
                peer.close()
                continue
            if head.path == path:
                peer.close()
                return before
            before.append(head.wire)
            peer.close()

    def close(self):
        """Stops listening."""
        self.sock.close()
        if self.front is not None:
            self.front.close()


class Pump:
    """Sends from a thread, for tests in which sending blocks: `sent` counts, `error` keeps why it stopped."""

    def __init__(self, peer, data, repeat):
        self.peer, self.data, self.repeat = peer, data, repeat
        self.sent, self.error = 0, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            for _ in range(self.repeat):
                view = memoryview(self.data)
                while view:
                    count = self.peer.sock.send(view)
                    self.sent += count
                    view = view[count:]
        except OSError as error:
            self.error = error

    def wait_until_stalled(self, still=1.0):
        """Returns once nothing could be sent for `still` seconds; fails where all of it went through."""
        deadline = time.monotonic() + 30
        last, since = self.sent, time.monotonic()
        while time.monotonic() - since < still:
            assert self._thread.is_alive(), (
                f"nothing held back the sender: {self.sent} bytes sent, error {self.error!r}"
            )
            assert time.monotonic() < deadline, f"still moving after 30 s: {self.sent} bytes"
            time.sleep(0.05)
            if self.sent != last:
                last, since = self.sent, time.monotonic()

    def join(self):
        """Waits until everything is sent."""
        self._thread.join(30)
        assert not self._thread.is_alive(), f"{self.peer.name}: still sending after 30 s, {self.sent} bytes so far"


def _difference(got, wanted):
    at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    return f"differs at byte {at}: got {got[at : at + 40]!r}, wanted {wanted[at : at + 40]!r}"
