"""HTTP/2 by hand: frames as bytes, right by default and wrong on request; a connection over TLS, driven by the test."""

import contextlib
import socket
import ssl
import struct
import time

import hpack

from . import frames
from .raw import TIMEOUT

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, ENABLE_CONNECT_PROTOCOL = 3, 4, 8

END_STREAM, END_HEADERS, PADDED, ACK = 1, 4, 8, 1

NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 7, 8, 11


def frame(kind, flags=0, stream=0, payload=b""):
    """RFC 9113 §4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(**values):
    """A SETTINGS frame with `initial_window_size=0` and the like."""
    numbers = {"max_concurrent_streams": MAX_CONCURRENT_STREAMS, "initial_window_size": INITIAL_WINDOW_SIZE}
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", numbers[key], value) for key, value in values.items()))


def headers(stream, path="/", *, method="GET", authority="a.test", protocol=None, fields=(), end=True):
    """A HEADERS frame. Nothing in it depends on what was sent before. `protocol` makes it an extended CONNECT."""
    pseudo = [(":method", method)] + ([(":scheme", "https"), (":path", path)] if path is not None else [])
    pseudo += [(":protocol", protocol)] if protocol is not None else []
    pseudo += [(":authority", authority)] if authority is not None else []
    block = b"".join(_literal(name, value) for name, value in [*pseudo, *fields])
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)


def websocket(stream, path="/", *, fields=(), **options):
    """A request for a WebSocket, RFC 8441 §5.1."""
    version = [] if any(name == "sec-websocket-version" for name, _ in fields) else [("sec-websocket-version", "13")]
    return headers(stream, path, method="CONNECT", **{"protocol": "websocket", "end": False} | options, fields=[*version, *fields])


def data(stream, payload=b"", *, end=False, padding=None):
    """A DATA frame; with that many bytes of padding, where the field for it is to be there."""
    flags = END_STREAM if end else 0
    if padding is None:
        return frame(DATA, flags, stream, payload)
    return frame(DATA, flags | PADDED, stream, bytes([padding]) + payload + bytes(padding))


def reset(stream, code=CANCEL):
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def window_update(stream, size):
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def tls(address, context=None, *, protocols=("h2",), name="a.test"):
    """A socket over TLS on which HTTP/2 was agreed; without a context the certificate is believed."""
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    sock = context.wrap_socket(socket.create_connection(address, TIMEOUT), server_hostname=name)
    assert sock.selected_alpn_protocol() == protocols[0]
    return sock


class Connection:
    """A client's connection. It answers nothing by itself, but for SETTINGS and PING where `polite`."""

    def __init__(self, address, *, polite=True, clear=False, **values):
        """`values` are the settings that the client announces. `clear`: without TLS, with prior knowledge."""
        self.sock = socket.create_connection(address, TIMEOUT) if clear else tls(address)
        self.polite = polite
        self.streams = {}
        self.goaway = None  # of the last GOAWAY: the last stream that is served, and the code
        self._buffer = b""
        self._decoder = hpack.Decoder()
        self.send(PREFACE + settings(**values))

    def send(self, wire):
        """Any bytes, all of them."""
        self.sock.sendall(wire)

    def read_frame(self):
        """The next frame as `(kind, flags, stream, payload)`; `None` at the end of the connection."""
        head = self._exactly(9)
        if head is None:
            return None
        kind, flags, stream = head[3], head[4], struct.unpack(">I", head[5:])[0]
        payload = self._exactly(int.from_bytes(head[:3], "big"))
        if self.polite and kind in (SETTINGS, PING) and not flags & ACK:
            # The gate may have left, and what it said before is still to be read.
            with contextlib.suppress(OSError):
                self.send(frame(kind, ACK, 0, payload if kind == PING else b""))
        if kind == GOAWAY:
            self.goaway = struct.unpack(">II", payload[:8])
        if kind == HEADERS:
            payload = dict(self._decoder.decode(payload))
        return kind, flags, stream, payload

    def frames(self):
        """All frames up to the end of the connection."""
        while (got := self.read_frame()) is not None:
            yield got

    def wait_for(self, kind, stream=None):
        """The payload of the next frame of that kind, on that stream; skips others."""
        seen = []
        for got_kind, _, got_stream, payload in self.frames():
            if got_kind == kind and stream in (None, got_stream):
                return payload
            seen.append((got_kind, got_stream, payload))
        raise AssertionError(f"the connection ended before a frame of kind {kind} on {stream}; there were: {seen}")

    def read_response(self, stream):
        """Head and body of the response on a stream; others are skipped."""
        head, body = None, b""
        for kind, flags, got_stream, payload in self.frames():
            if got_stream != stream:
                continue
            assert kind != RST_STREAM, f"stream {stream} was reset with {code(payload)} after {head} {body[:80]!r}"
            if kind == HEADERS:
                head = head or payload
            elif kind == DATA:
                body += payload
            if kind in (HEADERS, DATA) and flags & END_STREAM:
                return head, body
        raise AssertionError(f"the connection ended before the response on stream {stream}: {head} {body[:80]!r}")

    def read_to_end(self):
        """Until the connection ends: the code of the last GOAWAY (`None` without one), and how long it took."""
        begun = time.monotonic()
        for _ in self.frames():
            pass
        return self.goaway and self.goaway[1], time.monotonic() - begun

    def open(self, stream, path="/", **options):
        """Asks for a WebSocket on a stream; its response is still to be read."""
        self.send(websocket(stream, path, **options))
        self.streams[stream] = Stream(self, stream)
        return self.streams[stream]

    def step(self):
        """Takes the next frame to its stream, and gives back the window that it used where `polite`."""
        got = self.read_frame()
        assert got is not None, f"the connection ended, with GOAWAY {self.goaway}"
        kind, flags, number, payload = got
        stream = self.streams.get(number)
        if kind == DATA and payload and self.polite:
            self.send(window_update(0, len(payload)) + (window_update(number, len(payload)) if stream and stream.reads else b""))
        if stream is not None:
            stream.handle(kind, flags, payload)

    def close(self):
        """Closes the socket."""
        self.sock.close()

    def _exactly(self, size):
        while len(self._buffer) < size:
            try:
                more = self.sock.recv(1 << 16)
            except TimeoutError:
                raise AssertionError(f"waited {TIMEOUT} s for a frame; unread: {self._buffer[:80]!r}") from None
            except (ConnectionResetError, ssl.SSLError):
                more = b""
            if not more:
                return None
            self._buffer += more
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return piece


class Stream:
    """A WebSocket on a stream of a connection, or the request for one."""

    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        self.head, self.buffer = None, bytearray()
        self.is_ended, self.reset_with = False, None
        self.reads = True
        """Its window is given back."""

    def handle(self, kind, flags, payload):
        """A frame of HTTP/2 on this stream."""
        if kind == HEADERS:
            self.head = payload
        elif kind == DATA:
            self.buffer += payload
        elif kind == RST_STREAM:
            self.reset_with = code(payload)
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            self.is_ended = True

    def status(self):
        """The status of the response."""
        while self.head is None:
            assert self.reset_with is None, f"stream {self.number} was reset with {self.reset_with}"
            self.connection.step()
        return int(self.head[":status"])

    def body(self):
        """All bytes up to the end of the stream."""
        while not self.is_ended:
            assert self.reset_with is None, f"stream {self.number} was reset with {self.reset_with}"
            self.connection.step()
        return bytes(self.buffer)

    def send(self, data_, **options):
        """Any bytes in a DATA frame."""
        self.connection.send(data(self.number, data_, **options))

    def send_frame(self, opcode, payload=b"", **wrong):
        """A frame of a WebSocket in a DATA frame."""
        self.send(frames.encode(opcode, payload, **{"masked": True} | wrong))

    def send_close(self, status):
        """A Close."""
        self.send_frame(frames.CLOSE, frames.close_payload(status))

    def read_frame(self):
        """The next frame of the WebSocket."""
        while (got := frames.decode(memoryview(bytes(self.buffer)), masked=False)) is None:
            assert not self.is_ended and self.reset_with is None, f"{self.number}: {self.is_ended}, {self.reset_with}, {self.buffer[:80]}"
            self.connection.step()
        del self.buffer[: len(got.wire)]
        return got

    def read_close(self):
        """The next frame, which has to be a Close, as `(code, reason)`."""
        return self.read_frame().close

    def wait_until_ended(self):
        """Returns how the stream ended: `end`, or the code of its reset."""
        while not self.is_ended and self.reset_with is None:
            self.connection.step()
        return "end" if self.is_ended else self.reset_with


def code(payload):
    """The error code of a RST_STREAM."""
    return struct.unpack(">I", payload)[0]


def _literal(name, value):
    """RFC 7541 §6.2.2, a literal field without indexing and without Huffman's code."""
    return b"\x00" + _string(name) + _string(value)


def _string(text):
    raw = text.encode("latin-1") if isinstance(text, str) else text
    return _number(len(raw)) + raw


def _number(value):
    """RFC 7541 §5.1 with a prefix of 7 bits."""
    if value < 127:
        return bytes([value])
    out, value = b"\x7f", value - 127
    while value >= 128:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])
