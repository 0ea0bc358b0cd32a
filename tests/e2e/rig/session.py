"""A wsgate between a raw client and a raw server, and sessions opened through it."""

import itertools
from dataclasses import dataclass

from . import http, raw
from .gate import Gate, config

_NUMBERS = itertools.count(1)


@dataclass
class Session:
    """One WebSocket connection through the proxy, seen from both ends."""

    client: raw.Peer
    server: raw.Peer
    request: http.Head
    """The request as the server got it."""
    answer: http.Head
    """The 101 as the client got it."""

    def side(self, name):
        """The peer called "client" or "server", and the other one."""
        return (self.client, self.server) if name == "client" else (self.server, self.client)

    def finish(self):
        """An ordinary end, started by the client; shows that the session was in good order to its end."""
        self.client.send_close(1000, "done")
        assert self.server.read_close() == (1000, "done")
        self.server.send_close(1000, "done")
        self.server.end_sending()
        assert self.client.read_close() == (1000, "done")
        self.client.expect_eof()
        self.drop()

    def drop(self):
        """Closes both sockets, whatever their state."""
        self.client.close()
        self.server.close()


class Rig:
    """A wsgate in front of one raw server."""

    def __init__(self, directory, **options):
        """`options` as `gate.config` takes them; `server=` for a server that is not on TCP."""
        self.server = options.pop("server", None) or raw.Server()
        self.gate = Gate(directory, config([self.server.address], **options))

    @staticmethod
    def new_path():
        """A path that no other test uses: by it a connection at the server is told from the left-overs of others."""
        return f"/test/{next(_NUMBERS)}"

    def connect(self):
        """A client's connection to the proxy."""
        return raw.connect(self.gate.address)

    def request(self, *, early=b"", path=None, **wrong):
        """Sends an upgrade request, with `early` in the same packet: `(client, path)`."""
        path = path or self.new_path()
        client = self.connect()
        client.send(http.upgrade_request(path, **wrong) + early)
        return client, path

    def open(self, *, early=b"", server_early=b"", request=None, answer=None):
        """Opens a session; `early` and `server_early` travel in the packet of the request and of the 101."""
        client, path = self.request(early=early, **(request or {}))
        server, head = self.server.accept_request(path)
        server.send(http.switching_protocols(head, **(answer or {})) + server_early)
        got = client.read_head()
        assert got.status == 101, f"the handshake failed: {got.start} {bytes(client.stream)!r}"
        return Session(client, server, head, got)

    def assert_works(self):
        """One whole session in good order: whatever came before, the proxy still serves."""
        session = self.open()
        for peer, other in (session.side("client"), session.side("server")):
            other.read_exactly(peer.send_frame(1, b"still there"))
        session.finish()

    def assert_nothing_reached_the_server(self):
        """No byte came to the server before a fence: a request that is sent now."""
        client, path = self.request()
        before = [wire for wire in self.server.requests_before(path) if wire]
        client.close()
        assert not before, f"reached the server: {before}"

    def close(self):
        """Ends the proxy, which has to end well."""
        self.server.close()
        self.gate.stop()
