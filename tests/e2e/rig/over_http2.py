"""Carries the clients and the servers of the tests over HTTP/2 (RFC 8441), with the framing of the `h2` library.

With `WSGATE_E2E_CLIENTS=http2` in the environment `raw.connect` goes through here: each upgrade request becomes an extended CONNECT on a
connection of its own. With `WSGATE_E2E_SERVERS=http2` the gate speaks HTTP/2 to a `Front` of each `raw.Server`, which turns each extended
CONNECT into an upgrade request on a connection of its own. A test sees what it would see over HTTP/1.1: a 200 is shown as a 101 with
the right `Sec-WebSocket-Accept`, END_STREAM as a FIN, a reset of the stream as a reset of the connection. What is no upgrade goes
through as it is.
"""

import contextlib
import os
import selectors
import socket
import struct
import threading

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from . import http

ENABLED = os.environ.get("WSGATE_E2E_CLIENTS") == "http2"
SERVERS = os.environ.get("WSGATE_E2E_SERVERS") == "http2"

MOST_UNWRITTEN = 1 << 16
"""Bytes that are kept of either direction before its reader is waited for."""

NOT_CARRIED = {"connection", "upgrade", "host", "sec-websocket-key", "keep-alive", "proxy-connection", "transfer-encoding", "te"}


def connect(address, timeout):
    """A socket to the gate at `address`, behind which a thread speaks HTTP/2."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname(), timeout)
        theirs, _ = listening.accept()
    gate = socket.create_connection(address, timeout)
    threading.Thread(target=_Carrier(theirs, gate).run, daemon=True).start()
    return ours


def _reset(sock):
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class _Leg:
    """A socket with what is to be written to it."""

    def __init__(self, sock):
        self.sock, self.unwritten, self.ends, self.is_ended = sock, bytearray(), False, False
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)

    def write(self):
        """Writes as much as the socket takes, then the FIN where it is due."""
        while self.unwritten:
            try:
                sent = self.sock.send(self.unwritten)
            except BlockingIOError:
                return
            del self.unwritten[:sent]
        if self.ends and not self.is_ended:
            self.is_ended = True
            self.sock.shutdown(socket.SHUT_WR)


class _Carrier:
    def __init__(self, client, gate):
        self.client, self.gate = _Leg(client), _Leg(gate)
        self.head = bytearray()
        self.carry = self._head
        """What is done with bytes of the client; `None` once it has ended."""
        self.unsent = bytearray()
        self.http2 = None
        self.accept = None
        self.is_over = False
        self.client_ended = False
        self.unacknowledged = 0
        self.is_terminated = False

    def run(self):
        with contextlib.suppress(OSError):
            while not self.is_over:
                self._turn()
        self.client.sock.close()
        self.gate.sock.close()

    def _turn(self):
        with selectors.DefaultSelector() as selector:
            for leg, other in [(self.client, self.gate), (self.gate, self.client)]:
                wants = 0
                kept = len(other.unwritten) + (len(self.unsent) if leg is self.client else 0)
                is_readable = not self.client_ended if leg is self.client else True
                if is_readable and kept < MOST_UNWRITTEN:
                    wants |= selectors.EVENT_READ
                if leg.unwritten or leg.ends and not leg.is_ended:
                    wants |= selectors.EVENT_WRITE
                if wants:
                    selector.register(leg.sock, wants, leg)
            if not selector.get_map():
                self.is_over = True
                return
            ready = selector.select(60)
        for key, events in ready:
            leg = key.data
            if events & selectors.EVENT_WRITE:
                self._write(leg)
            if events & selectors.EVENT_READ:
                self._read(leg)
            if self.is_over:
                return
        self._pump()

    def _write(self, leg):
        try:
            leg.write()
        except OSError:
            self._broken(leg)

    def _read(self, leg):
        try:
            data = leg.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            self._broken(leg)
            return
        if leg is self.client:
            if data:
                self.carry(data)
            else:
                self.client_ended = True
        elif data:
            self._from_gate(data)
        elif self.http2 is None:
            self.client.ends = True
        else:
            # The connection ended under its stream.
            self._end(reset=not self.client.ends)

    def _broken(self, leg):
        if leg is self.client and self.http2 is not None:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.http2.reset_stream(1, h2.errors.ErrorCodes.CANCEL)
            with contextlib.suppress(OSError):
                self.gate.sock.setblocking(True)
                self.gate.sock.sendall(self.http2.data_to_send())
            self.is_over = True
        else:
            self._end(reset=True)

    def _end(self, reset):
        """The gate is done: the client gets what is left, then the end."""
        with contextlib.suppress(OSError):
            self.client.sock.setblocking(True)
            self.client.sock.settimeout(20)
            self.client.sock.sendall(self.client.unwritten)
        if reset:
            _reset(self.client.sock)
        self.is_over = True

    # The client

    def _head(self, data):
        self.head += data
        if b"\r\n\r\n" not in self.head:
            if not self.head.startswith(b"GET "[: len(self.head)]) or self.client_ended:
                self._as_it_is()
            return
        end = self.head.index(b"\r\n\r\n") + 4
        try:
            head = http.Head.parse(bytes(self.head[:end]))
            key = head.get("sec-websocket-key")
            is_upgrade = head.get("upgrade").lower() == "websocket" and key and head.get("host")
        except (AssertionError, ValueError, AttributeError, UnicodeDecodeError):
            is_upgrade = False
        if not is_upgrade:
            self._as_it_is()
            return
        self.accept = http.accept_of(key)
        self._open(head)
        self.unsent += self.head[end:]
        self.carry = self.unsent.extend

    def _as_it_is(self):
        self.carry = self.gate.unwritten.extend
        self.carry(self.head)

    def _open(self, head):
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.http2 = h2.connection.H2Connection(config)
        self.http2.initiate_connection()
        self.pending = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", head.path),
            (":authority", head.get("host")),
            *((name, value) for name, value in head.headers if name not in NOT_CARRIED),
        ]

    def _pump(self):
        """Sends what the windows of HTTP/2 allow."""
        if self.http2 is None:
            if self.client_ended and self.carry is not None:
                self.gate.ends, self.carry = True, None
            self._write(self.gate)
            self._write(self.client)
            return
        self._write(self.client)
        if not self.client.unwritten and self.unacknowledged:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.http2.acknowledge_received_data(self.unacknowledged, 1)
            self.unacknowledged = 0
        with contextlib.suppress(h2.exceptions.ProtocolError):
            while not self.pending and self.unsent and len(self.gate.unwritten) < MOST_UNWRITTEN:
                size = min(self.http2.local_flow_control_window(1), self.http2.max_outbound_frame_size, len(self.unsent))
                if size <= 0:
                    break
                self.http2.send_data(1, bytes(self.unsent[:size]))
                del self.unsent[:size]
            if self.client_ended and not self.pending and not self.unsent and self.carry is not None:
                self.carry = None
                self.http2.end_stream(1)
        self.gate.unwritten += self.http2.data_to_send()
        self._write(self.gate)
        if self.client.is_ended and self.carry is None and not self.gate.unwritten:
            # Both sides have ended the stream.
            self.is_over = True

    # The gate

    def _from_gate(self, data):
        if self.http2 is None:
            self.client.unwritten += data
            return
        try:
            events = self.http2.receive_data(data)
        except h2.exceptions.ProtocolError:
            # The library takes nothing more after a GOAWAY.
            assert self.is_terminated
            self._end(reset=not self.client.ends)
            return
        for event in events:
            match event:
                case h2.events.ConnectionTerminated():
                    self.is_terminated = True
                case h2.events.RemoteSettingsChanged():
                    assert self.http2.remote_settings.enable_connect_protocol == 1, "extended CONNECT is not announced"
                    if self.pending:
                        self.http2.send_headers(1, self.pending)
                        self.pending = []
                case h2.events.ResponseReceived():
                    self._response(event.headers)
                case h2.events.DataReceived():
                    self.client.unwritten += event.data
                    self.unacknowledged += event.flow_controlled_length
                case h2.events.StreamEnded():
                    self.client.ends = True
                case h2.events.StreamReset():
                    if event.error_code == h2.errors.ErrorCodes.NO_ERROR and self.client.ends:
                        continue
                    self._end(reset=True)
                    return

    def _response(self, headers):
        fields = dict(headers)
        status = int(fields[":status"])
        lines = [f"{name}: {value}" for name, value in headers if not name.startswith(":")]
        if status == 200:
            start = "HTTP/1.1 101 Switching Protocols"
            lines += ["upgrade: websocket", "connection: Upgrade", f"sec-websocket-accept: {self.accept}"]
        else:
            start = f"HTTP/1.1 {status} Whatever"
            lines += ["connection: close"]
        self.client.unwritten += "\r\n".join([start, *lines, "", ""]).encode("latin-1")


# The servers


class Front:
    """Listens in the place of a server of HTTP/1.1: the gate speaks HTTP/2 with it."""

    def __init__(self, server):
        self.server = server
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = "{}:{}".format(*self.sock.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        """Nothing is accepted any more."""
        # A thread that accepts keeps the socket; this wakes it.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def _accept(self):
        while True:
            try:
                gate, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=_GateConnection(gate, self.server).run, daemon=True).start()


class _Upgrade:
    """A stream of the gate's, and the connection to the server that it stands for."""

    def __init__(self, number, sock):
        self.number, self.leg = number, _Leg(sock)
        self.head, self.is_open = bytearray(), False
        self.unsent = bytearray()
        self.server_ended, self.is_done = False, False
        self.unacknowledged = 0


class _GateConnection:
    def __init__(self, gate, server):
        self.gate, self.server = _Leg(gate), server
        config = h2.config.H2Configuration(client_side=False, header_encoding="latin-1", validate_inbound_headers=False)
        self.http2 = h2.connection.H2Connection(config)
        announced = {
            h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 100,
        }
        self.http2.local_settings = h2.settings.Settings(client=False, initial_values=announced)
        self.streams = {}

    def run(self):
        first = b""
        self.gate.sock.setblocking(True)
        try:
            first = self.gate.sock.recv(1 << 16)
        except OSError:
            return
        if not first.startswith(b"PRI"):
            _pass_through(first, self.gate.sock, self.server)
            return
        self.gate.sock.setblocking(False)
        self.http2.initiate_connection()
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            self._from_gate(first)
            while True:
                self._pump()
                self._turn()
        for upgrade in self.streams.values():
            _reset(upgrade.leg.sock)
        self.gate.sock.close()

    def _turn(self):
        with selectors.DefaultSelector() as selector:
            wants = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.gate.unwritten else 0)
            selector.register(self.gate.sock, wants, None)
            for upgrade in self.streams.values():
                wants = 0
                if not upgrade.server_ended and len(upgrade.unsent) < MOST_UNWRITTEN:
                    wants |= selectors.EVENT_READ
                if upgrade.leg.unwritten or upgrade.leg.ends and not upgrade.leg.is_ended:
                    wants |= selectors.EVENT_WRITE
                if wants:
                    selector.register(upgrade.leg.sock, wants, upgrade)
            ready = selector.select(60)
        for key, events in ready:
            upgrade = key.data
            if upgrade is None:
                if events & selectors.EVENT_WRITE:
                    self.gate.write()
                if events & selectors.EVENT_READ:
                    data = self.gate.sock.recv(1 << 16)
                    if not data:
                        raise ConnectionResetError
                    self._from_gate(data)
                continue
            try:
                if events & selectors.EVENT_WRITE:
                    upgrade.leg.write()
                if events & selectors.EVENT_READ:
                    self._from_server(upgrade, upgrade.leg.sock.recv(1 << 16))
            except BlockingIOError:
                pass
            except OSError:
                self._reset(upgrade)

    def _reset(self, upgrade):
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.http2.reset_stream(upgrade.number, h2.errors.ErrorCodes.CANCEL)
        self._drop(upgrade, reset=False)

    def _drop(self, upgrade, reset):
        self.streams.pop(upgrade.number, None)
        upgrade.is_done = True
        if reset:
            _reset(upgrade.leg.sock)
        else:
            upgrade.leg.sock.close()

    def _from_gate(self, data):
        for event in self.http2.receive_data(data):
            number = getattr(event, "stream_id", None)
            upgrade = self.streams.get(number)
            match event:
                case h2.events.RequestReceived():
                    self._open(number, event.headers)
                case h2.events.DataReceived() if upgrade:
                    upgrade.leg.unwritten += event.data
                    upgrade.unacknowledged += event.flow_controlled_length
                case h2.events.StreamEnded() if upgrade:
                    upgrade.leg.ends = True
                case h2.events.StreamReset() if upgrade:
                    self._drop(upgrade, reset=event.error_code != h2.errors.ErrorCodes.NO_ERROR or not upgrade.leg.ends)

    def _open(self, number, headers):
        fields = dict(headers)
        assert fields[":method"] == "CONNECT" and fields[":protocol"] == "websocket", fields
        upgrade = _Upgrade(number, socket.create_connection(self.server, 20))
        lines = [f"GET {fields[':path']} HTTP/1.1", f"Host: {fields[':authority']}", "Connection: Upgrade", "Upgrade: websocket"]
        lines += [f"Sec-WebSocket-Key: {http.KEY}"]
        lines += [f"{name}: {value}" for name, value in headers if not name.startswith(":")]
        upgrade.leg.unwritten += "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.streams[number] = upgrade

    def _from_server(self, upgrade, data):
        upgrade.server_ended |= not data
        if upgrade.is_open:
            upgrade.unsent += data
            return
        upgrade.head += data
        if b"\r\n\r\n" not in upgrade.head:
            if upgrade.server_ended:
                self._reset(upgrade)
            return
        end = upgrade.head.index(b"\r\n\r\n") + 4
        head, rest = http.Head.parse(bytes(upgrade.head[:end])), upgrade.head[end:]
        if 100 <= head.status < 200 and head.status != 101:
            upgrade.head = rest
            return
        fields = [(":status", "200" if head.status == 101 else str(head.status))]
        fields += [(name, value) for name, value in head.headers if name not in NOT_CARRIED | {"sec-websocket-accept"}]
        self.http2.send_headers(upgrade.number, fields)
        upgrade.is_open, upgrade.unsent = True, rest

    def _pump(self):
        for upgrade in list(self.streams.values()):
            try:
                upgrade.leg.write()
            except OSError:
                self._reset(upgrade)
                continue
            with contextlib.suppress(h2.exceptions.ProtocolError):
                if not upgrade.leg.unwritten and upgrade.unacknowledged:
                    self.http2.acknowledge_received_data(upgrade.unacknowledged, upgrade.number)
                    upgrade.unacknowledged = 0
                while upgrade.is_open and upgrade.unsent and len(self.gate.unwritten) < MOST_UNWRITTEN:
                    window = self.http2.local_flow_control_window(upgrade.number)
                    size = min(window, self.http2.max_outbound_frame_size, len(upgrade.unsent))
                    if size <= 0:
                        break
                    self.http2.send_data(upgrade.number, bytes(upgrade.unsent[:size]))
                    del upgrade.unsent[:size]
                if upgrade.is_open and upgrade.server_ended and not upgrade.unsent and not upgrade.is_done:
                    upgrade.is_done = True
                    self.http2.end_stream(upgrade.number)
            if upgrade.is_done and upgrade.leg.is_ended:
                self._drop(upgrade, reset=False)
        self.gate.unwritten += self.http2.data_to_send()
        self.gate.write()


def _pass_through(first, gate, server):
    """Bytes between the gate and the server, for what is not HTTP/2."""
    try:
        server = socket.create_connection(server, 20)
    except OSError:
        _reset(gate)
        return
    server.settimeout(None)

    def pump(source, sink):
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            _reset(sink)

    with contextlib.suppress(OSError):
        server.sendall(first)
    threading.Thread(target=pump, args=[server, gate], daemon=True).start()
    pump(gate, server)
