"""The HTTP of the handshake by hand (RFC 6455 §4): heads as bytes, right by default and wrong on request."""

import base64
import hashlib
from dataclasses import dataclass

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = base64.b64encode(bytes(range(16))).decode()


@dataclass(frozen=True)
class Head:
    """Start line and headers, in the order they came; names in lower case."""

    start: str
    headers: tuple
    wire: bytes

    @classmethod
    def parse(cls, wire):
        """From the bytes up to and with the empty line."""
        start, *lines = wire.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(start, tuple((name.lower(), value.strip()) for name, _, value in pairs), wire)

    def all(self, name):
        """The values of every header of that name."""
        return [value for key, value in self.headers if key == name.lower()]

    def get(self, name):
        """The values of that header joined as RFC 9110 §5.3 allows, or `None`."""
        values = self.all(name)
        return ", ".join(values) if values else None

    @property
    def status(self):
        """Status code of a response."""
        assert self.start.startswith("HTTP/1.1 "), f"not a response head: {self.start!r}"
        return int(self.start.split(" ", 2)[1])

    @property
    def path(self):
        """Target of a request."""
        return self.start.split(" ")[1]


def accept_of(key):
    """`Sec-WebSocket-Accept` for a key."""
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()


def upgrade_request(path="/", *, method="GET", version="HTTP/1.1", headers=None, extra=()):
    """A right upgrade request; `headers` replaces by name (`None` leaves one out), `extra` appends whole lines."""
    fields = {
        "Host": "gate.test",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    } | (headers or {})
    return _head(f"{method} {path} {version}", fields, extra)


def switching_protocols(request, *, headers=None, extra=()):
    """The right 101 for a request's head, with the same means of making it wrong."""
    fields = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Accept": accept_of(request.get("sec-websocket-key")),
    } | (headers or {})
    return _head("HTTP/1.1 101 Switching Protocols", fields, extra)


def response(status, body=b"", *, headers=None):
    """An ordinary response with a length."""
    return _head(f"HTTP/1.1 {status}", {"Content-Length": str(len(body))} | (headers or {}), ()) + body


def _head(start, fields, extra):
    lines = [start, *(f"{name}: {value}" for name, value in fields.items() if value is not None), *extra]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
