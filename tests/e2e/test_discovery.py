"""Servers by name: each address is a server, one that leaves the name is drained, and a DNS that fails changes nothing."""

import socket
import socketserver
import struct
import threading

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from rig import gate
from rig.crowd import Counting, Crowd
from rig.namespace import in_namespace, resolve_by
from rig.operator import status


class Dns:
    """A DNS server whose answers the test changes: addresses, or a response code (RFC 1035 §4.1.1)."""

    def __init__(self):
        self.addresses, self.code, self.asked = [], 0, 0
        dns = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                request, sock = self.request
                sock.sendto(dns.answer(request), self.client_address)

        self.server = socketserver.ThreadingUDPServer(("127.0.0.1", 53), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request):
        self.asked += 1
        end = request.index(b"\0", 12) + 5
        question, kind = request[12:end], request[end - 4 : end - 2]
        is_a = kind == b"\0\x01"
        records = [
            b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
            for address in (self.addresses if is_a and not self.code else [])
        ]
        header = request[:2] + struct.pack("!HHHHH", 0x8180 | self.code, 1, len(records), 0, 0)
        return header + question + b"".join(records)


@pytest.fixture
def dns(tmp_path):
    dns = Dns()
    resolve_by("127.0.0.1", tmp_path)
    yield dns
    dns.server.shutdown()


def states(wsgate):
    return {address: server["state"] for address, server in status(wsgate).items()}


@in_namespace
def test_addresses_come_and_go(start, tmp_path, request):
    dns = request.getfixturevalue("dns")
    servers = [Counting(host=f"127.0.0.{last}", port=9000) for last in (2, 3)]
    request.addfinalizer(lambda: [server.process.kill() for server in servers])
    dns.addresses = ["127.0.0.2"]
    route = {"reconnect_after": "50ms-400ms"}
    upstream = {"resolve_interval": "100ms"}
    wsgate = start(text=gate.config(["chat.example:9000"], route=route, upstream=upstream, extra={"drain": {"deadline": "8s"}}))
    with Crowd(f"ws://{wsgate.url}", size=60) as crowd:
        assert states(wsgate) == {"127.0.0.2:9000": "up"}
        # What cannot be resolved, or has no address, changes nothing.
        for trouble in (2, 3, 0):
            dns.code, dns.addresses = trouble, []
            asked = dns.asked
            crowd.wait_for(lambda asked=asked: dns.asked >= asked + 4, "the name to be asked for again")
        wsgate.wait_for_log(lambda line: "does not resolve; nothing changes" in line, "of the name")
        assert (states(wsgate), crowd.closes) == ({"127.0.0.2:9000": "up"}, {})
        # A new address is used, one that is gone is drained.
        dns.addresses = ["127.0.0.2", "127.0.0.3"]
        crowd.wait_for(lambda: states(wsgate) == {"127.0.0.2:9000": "up", "127.0.0.3:9000": "up"}, "the second server")
        assert crowd.closes == {}
        dns.addresses = ["127.0.0.3"]
        crowd.wait_for(lambda: len(crowd.back) == crowd.size, "all to be with the second server")
        assert (crowd.closes, crowd.refused) == ({1012: crowd.size}, {})
        crowd.wait_for(lambda: states(wsgate) == {"127.0.0.3:9000": "up"}, "the first server to be forgotten")
        assert wsgate.metrics().total("wsgate_drain_connections_total", cause="discovery") == crowd.size
    wsgate.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


@in_namespace
def test_a_name_that_does_not_resolve_yet(start, tmp_path, request):
    dns = request.getfixturevalue("dns")
    server = Counting(host="127.0.0.2", port=9000)
    request.addfinalizer(server.process.kill)
    dns.code = 3
    upstream = {"resolve_interval": "100ms", "queue_timeout": "200ms"}
    wsgate = start(text=gate.config(["chat.example:9000"], upstream=upstream))
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{wsgate.url}")
    assert refused.value.response.status_code == 503
    dns.code, dns.addresses = 0, ["127.0.0.2"]
    wsgate.wait_for_log(lambda line: "resolves again" in line, "of the name")
    with connect(f"ws://{wsgate.url}"):
        assert states(wsgate) == {"127.0.0.2:9000": "up"}
