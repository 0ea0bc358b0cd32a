"""HTTP/2 by hand: frames as bytes, right by default and wrong on request; a connection over TLS, driven by the test."""

import socket
import ssl
import struct
import time

import hpack

from .raw import TIMEOUT

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4

END_STREAM, END_HEADERS, ACK = 1, 4, 1

REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 7, 8, 11


def frame(kind, flags=0, stream=0, payload=b""):
    """RFC 9113 §4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(**values):
    """A SETTINGS frame with `initial_window_size=0` and the like."""
    numbers = {"max_concurrent_streams": MAX_CONCURRENT_STREAMS, "initial_window_size": INITIAL_WINDOW_SIZE}
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", numbers[key], value) for key, value in values.items()))


def headers(stream, path="/", *, method="GET", authority="a.test", fields=(), end=True):
    """A HEADERS frame. Nothing in it depends on what was sent before."""
    pseudo = [(":method", method), (":scheme", "https"), (":path", path)]
    pseudo += [(":authority", authority)] if authority is not None else []
    block = b"".join(_literal(name, value) for name, value in [*pseudo, *fields])
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)


def data(stream, payload=b"", *, end=False):
    """A DATA frame."""
    return frame(DATA, END_STREAM if end else 0, stream, payload)


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

    def __init__(self, address, *, polite=True, **values):
        """`values` are the settings that the client announces."""
        self.sock = tls(address)
        self.polite = polite
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
