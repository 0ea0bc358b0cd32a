"""RFC 6455 frames by hand: an encoder that can break every rule and a parser that forgives nothing."""

import os
from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# Codes that may stand in a Close frame (RFC 6455 §7.4 and the registry it founded).
SENDABLE_CODES = frozenset([*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)])


class BadFrame(Exception):
    """The bytes break a rule of RFC 6455 §5."""


@dataclass(frozen=True)
class Frame:
    """A frame as it came: unmasked payload, and the exact bytes it was on the wire."""

    opcode: int
    payload: bytes
    fin: bool = True
    wire: bytes = b""

    def __repr__(self):
        shown = self.payload if len(self.payload) <= 64 else self.payload[:61] + b"..."
        return f"Frame(opcode={self.opcode:#x}, fin={self.fin}, {len(self.payload)} bytes: {shown!r})"

    @property
    def close(self):
        """Code (`None` where there is none) and reason of a Close frame."""
        assert self.opcode == CLOSE, f"expected a Close, got {self!r}"
        if not self.payload:
            return None, ""
        return int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode()


def mask(payload, key):
    """Masks or unmasks; as one large integer, because a loop over 4 MiB takes seconds."""
    whole = key * (len(payload) // 4 + 1)
    number = int.from_bytes(payload, "big") ^ int.from_bytes(whole[: len(payload)], "big")
    return number.to_bytes(len(payload), "big")


def close_payload(code, reason=""):
    """Payload of a Close; `None` is the empty one. A reason may be bytes, to be wrong."""
    if code is None:
        return b""
    return code.to_bytes(2, "big") + (reason if isinstance(reason, bytes) else reason.encode())


def encode(opcode, payload=b"", *, masked, fin=True, rsv=0, length=None, form=None):
    """One frame; nothing is checked.

    `length` is what the header claims (default: the truth), `form` the width of the length in bits: 7, 16 or 64
    (default: the shortest that fits).
    """
    length = len(payload) if length is None else length
    form = form or (7 if length < 126 else 16 if length < 1 << 16 else 64)
    second = {7: length & 0x7F, 16: 126, 64: 127}[form] | (0x80 if masked else 0)
    extended = b"" if form == 7 else length.to_bytes(form // 8, "big")
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode, second]) + extended
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(payload, key)


def decode(data, *, masked):
    """The first frame of `data`, or `None` where it is not all there; `BadFrame` as soon as the header is wrong."""
    if len(data) < 2:
        return None
    fin, rsv, opcode = bool(data[0] & 0x80), data[0] >> 4 & 7, data[0] & 0xF
    if rsv:
        raise BadFrame(f"reserved bits {rsv:#b}")
    if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        raise BadFrame(f"opcode {opcode:#x}")
    if bool(data[1] & 0x80) != masked:
        raise BadFrame(f"{'not masked' if masked else 'masked'}, opcode {opcode:#x}")
    length, at = data[1] & 0x7F, 2
    if opcode >= CLOSE and (not fin or length > 125):
        raise BadFrame(f"control frame {opcode:#x} fragmented or too long")
    if length >= 126:
        size = 2 if length == 126 else 8
        if len(data) < at + size:
            return None
        length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if length < (126 if size == 2 else 1 << 16) or length >> 63:
            raise BadFrame(f"length {length} in {size} bytes")
    key = bytes(data[at : at + 4])
    at += 4 if masked else 0
    if len(data) < at + length:
        return None
    wire = bytes(data[: at + length])
    payload = mask(wire[at:], key) if masked else wire[at:]
    if opcode == CLOSE:
        _check_close(payload)
    return Frame(opcode, payload, fin, wire)


def _check_close(payload):
    if len(payload) == 1:
        raise BadFrame("Close payload of one byte")
    if payload and int.from_bytes(payload[:2], "big") not in SENDABLE_CODES:
        raise BadFrame(f"Close code {int.from_bytes(payload[:2], 'big')} may not travel")
    try:
        payload[2:].decode()
    except UnicodeDecodeError as error:
        raise BadFrame(f"Close reason is not UTF-8: {payload[2:]!r}") from error


class Messages:
    """Joins frames into messages, held to §5.4 and §8.1; control frames may stand between the fragments."""

    def __init__(self):
        self._opcode, self._parts = None, []

    @property
    def under_way(self):
        """Whether a message has begun and not ended."""
        return self._opcode is not None

    def add(self, frame):
        """The message that `frame` completes as `(opcode, payload)`, or `None`; a control frame is its own."""
        if frame.opcode >= CLOSE:
            return frame.opcode, frame.payload
        if (frame.opcode == CONTINUATION) != self.under_way:
            raise BadFrame(f"{frame!r} {'inside' if self.under_way else 'outside'} a message")
        if frame.opcode != CONTINUATION:
            self._opcode = frame.opcode
        self._parts.append(frame.payload)
        if not frame.fin:
            return None
        message = self._opcode, b"".join(self._parts)
        self._opcode, self._parts = None, []
        if message[0] == TEXT:
            try:
                message[1].decode()
            except UnicodeDecodeError as error:
                raise BadFrame(f"text that is not UTF-8: {error}") from error
        return message
