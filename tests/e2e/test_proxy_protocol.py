"""The PROXY protocol in front of TLS and HTTP: HAProxy's own headers, headers by hand, and what is none."""

import contextlib
import select
import socket
import ssl
import struct
import subprocess
import time

import pytest

from rig import certificates, http, raw
from rig.frames import TEXT
from rig.raw import TIMEOUT

CLIENT = "203.0.113.7"
FAILURES = "wsgate_proxy_protocol_failures_total"
REFUSAL = "for want of a PROXY protocol header"


def v1(address=CLIENT):
    """A header of version 1."""
    return f"PROXY TCP{6 if ':' in address else 4} {address} {address} 4711 443\r\n".encode()


def v2(address=CLIENT, *, command=0x21, family=None, length=None, tlvs=b""):
    """A header of version 2; any part of it may be wrong."""
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    block = socket.inet_pton(kind, address) * 2 + struct.pack("!HH", 4711, 443) + tlvs
    family = family if family is not None else {socket.AF_INET: 0x11, socket.AF_INET6: 0x21}[kind]
    length = len(block) if length is None else length
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", command, family, length) + block


@pytest.fixture
def start(start_rig):
    """Starts a wsgate whose listener wants the header from its trusted proxies."""

    def start(client=None, listener=None, **options):
        client = {"trusted_proxies": ["127.0.0.1"]} | (client or {})
        return start_rig(client=client, listener={"proxy_protocol": True} | (listener or {}), **options)

    return start


def answered(rig, header):
    """The head of the answer to an upgrade behind this header."""
    client = rig.connect()
    client.send(header + http.upgrade_request(rig.new_path()))
    return client.read_head()


def opened(rig, header, *, early=b"", headers=None):
    """A session behind this header, all in one packet, and its request as the server got it."""
    client, path = rig.connect(), rig.new_path()
    client.send(header + http.upgrade_request(path, headers=headers) + early)
    upstream, head = rig.server.accept_request(path)
    upstream.send(http.switching_protocols(head))
    assert client.read_head().status == 101
    return client, upstream, head


def assert_ended(client):
    """The connection is over; a reset says so as well, where bytes were not read."""
    with pytest.raises(raw.Ended):
        client.read_head()


@pytest.mark.parametrize("header", [v1, v2], ids=["v1", "v2"])
@pytest.mark.parametrize("address", [CLIENT, "2001:db8::7"])
def test_the_address_is_the_clients(start, header, address):
    rig = start()
    early = rig.connect().frame(TEXT, b"right behind")
    client, upstream, head = opened(rig, header(address), early=early, headers={"X-Forwarded-For": "1.2.3.4"})
    assert head.get("X-Forwarded-For") == f"1.2.3.4, {address}"
    assert upstream.read_message() == (TEXT, b"right behind")
    client.close()
    upstream.close()
    peer = f"[{address}]:4711" if ":" in address else f"{address}:4711"
    line = rig.gate.wait_for_log(lambda line: "connection ended" in line and f'peer="{peer}"' in line, "of the client")
    # What the client itself says of who it is is not believed.
    assert "1.2.3.4" not in line


@pytest.mark.parametrize("header", [v1(), v2(tlvs=b"\x04\x00\x03abc" * 200)], ids=["v1", "v2"])
def test_byte_by_byte(start, header):
    """The bytes of the header, however they come, and none of what is behind."""
    rig = start()
    client, path = rig.connect(), rig.new_path()
    for byte in header[:120]:
        client.send(bytes([byte]))
    client.send(header[120:])
    client.wait_until_read()
    client.send(http.upgrade_request(path))
    upstream, head = rig.server.accept_request(path)
    assert head.get("X-Forwarded-For") == CLIENT
    upstream.close()


def test_lists_and_limits_are_about_the_client(start):
    rig = start(client={"address_max_connections": 1}, route={"deny": ["198.51.100.0/24"]})
    assert answered(rig, v2("198.51.100.1")).status == 403
    sessions = [opened(rig, v1("203.0.113.1")), opened(rig, v2("203.0.113.2"))]
    assert answered(rig, v1("203.0.113.2")).status == 429
    for client, upstream, _ in sessions:
        client.close()
        upstream.close()


def test_balancing_is_by_the_client(start):
    servers = [raw.Server(), raw.Server()]
    upstream = {"servers": [server.address for server in servers], "balance": "client_address", "eject_after": 0}
    rig = start(upstream=upstream)

    def home(address):
        client = rig.connect()
        client.send(v1(address) + http.upgrade_request())
        readable, _, _ = select.select([server.sock for server in servers], [], [], TIMEOUT)
        index = [server.sock for server in servers].index(readable[0])
        peer = servers[index].accept()
        # An upgrade whose server ends without an answer would go to the other one.
        peer.send(http.switching_protocols(peer.read_head()))
        assert client.read_head().status == 101
        peer.close()
        return index

    homes = {number: {home(f"203.0.113.{number}") for _ in range(3)} for number in range(12)}
    assert all(len(indexes) == 1 for indexes in homes.values()), homes
    assert set.union(*homes.values()) == {0, 1}
    for server in servers:
        server.close()


UNKNOWN = {
    "UNKNOWN": b"PROXY UNKNOWN\r\n",
    "UNKNOWN and more": b"PROXY UNKNOWN 1 2 3\r\n",
    "unspecified": v2(family=0),
    "Unix": v2(family=0x31, tlvs=bytes(204)),
    "datagrams": v2(family=0x12),
}
LOCAL = {"LOCAL": v2(command=0x20), "LOCAL of nothing": v2(command=0x20, family=0)}


@pytest.mark.parametrize("header", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_headers_of_an_unknown_client(start, header):
    """What such a client says of itself is not believed, and no list contains it."""
    rig = start()
    client, upstream, head = opened(rig, header, headers={"X-Forwarded-For": CLIENT, "X-Forwarded-Proto": "https"})
    assert (head.get("X-Forwarded-For"), head.get("X-Forwarded-Proto")) == (f"{CLIENT}, unknown", "http")
    client.close()
    upstream.close()
    rig.gate.wait_for_log(lambda line: "connection ended" in line and "client=unknown" in line, "of the client")
    for allow in [CLIENT, "127.0.0.1"]:
        rig = start(route={"allow": [allow]})
        client = rig.connect()
        client.send(header + http.upgrade_request(headers={"X-Forwarded-For": CLIENT}))
        assert client.read_head().status == 403
        client = rig.connect()
        client.send(header + f"GET / HTTP/1.1\r\nHost: gate.test\r\nX-Forwarded-For: {CLIENT}\r\n\r\n".encode())
        assert client.read_head().status == 403


@pytest.mark.parametrize("header", LOCAL.values(), ids=LOCAL.keys())
def test_headers_of_the_proxy_itself(start, header):
    """As it sends for its health checks: what they say is not the proxy's word on a client."""
    rig = start(route={"allow": ["127.0.0.1"]})
    client, upstream, head = opened(rig, header, headers={"X-Forwarded-For": CLIENT, "X-Forwarded-Proto": "https"})
    assert (head.get("X-Forwarded-For"), head.get("X-Forwarded-Proto")) == (f"{CLIENT}, 127.0.0.1", "http")
    client.close()
    upstream.close()
    line = rig.gate.wait_for_log(lambda line: "connection ended" in line, "of the end")
    assert " client=127.0.0.1 " in line, "the proxy itself"


def test_unknown_clients_of_a_proxy_share_what_an_address_may_have(start):
    rig = start(client={"address_max_connections": 1})
    client, upstream, _ = opened(rig, b"PROXY UNKNOWN\r\n")
    assert answered(rig, b"PROXY UNKNOWN\r\n").status == 429
    client.close()
    upstream.close()


def test_plain_requests(start):
    rig = start()
    client = rig.connect()
    client.send(v2() + b"GET /plain HTTP/1.1\r\nHost: gate.test\r\n\r\n")
    upstream, head = rig.server.accept_request("/plain")
    assert head.get("X-Forwarded-For") == CLIENT
    upstream.send(http.response("200 OK", b"plain"))
    answer = client.read_head()
    assert (answer.status, client.read_body(answer)) == (200, b"plain")
    # The header is that of the connection, not of a request.
    client.send(b"GET /again HTTP/1.1\r\nHost: gate.test\r\n\r\n")
    upstream.close()
    upstream, head = rig.server.accept_request("/again")
    assert head.get("X-Forwarded-For") == CLIENT
    upstream.send(http.response("200 OK"))
    assert client.read_head().status == 200


def test_a_unix_socket(start, tmp_path):
    rig = start(listen=[f"unix:{tmp_path}/gate"], client={"trusted_proxies": ["unix"]})
    client, upstream, head = opened(rig, v1(), early=rig.connect().frame(TEXT, b"behind"))
    assert head.get("X-Forwarded-For") == CLIENT
    assert upstream.read_message() == (TEXT, b"behind")
    client.close()
    upstream.close()
    rig.gate.wait_for_log(lambda line: "connection ended" in line and f'peer="{CLIENT}:4711"' in line, "of the client")


MALFORMED = {
    "a request": http.upgrade_request(),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
    "wrong signature": b"\r\n\r\n\0\r\nQUIT\r" + v2()[12:],
    "lower case": v1().lower(),
    "no addresses": b"PROXY TCP4\r\n",
    "a line without end": b"PROXY TCP4 " + b"1" * 200,
    "a line with LF alone": v1().replace(b"\r", b"") + http.upgrade_request(),
    "version 3": v2(command=0x31),
    "unknown command": v2(command=0x22),
    "unknown family": v2(family=0x41),
    "shorter than its addresses": v2(length=11),
    "longer than it is": v2(length=12 + 40) + http.upgrade_request(),
    "a TLV beyond the end": v2(tlvs=b"\x04\x00\xff"),
}


@pytest.mark.parametrize("wire", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_header(start, wire):
    rig = start()
    client = rig.connect()
    client.send(wire)
    assert_ended(client)
    line = rig.gate.wait_for_log(lambda line: REFUSAL in line, "of the refusal")
    assert "what came is none" in line and 'peer="127.0.0.1:' in line, line
    rig.gate.wait_for_metrics(lambda now: now.total(FAILURES, reason="malformed") == 1, "the refusal to be counted")
    opened(rig, v1())[0].close()
    assert len([line for line in rig.gate.log if REFUSAL in line]) == 1


@pytest.mark.parametrize(
    "wire", [b"", v1()[:-1], v2()[:20], v2(length=0xFFFF, tlvs=b"\x04\xff\x00")], ids=["nothing", "v1", "v2", "too long"]
)
def test_a_header_that_never_comes(start, wire):
    rig = start(client={"header_timeout": "400ms"})
    client, began = rig.connect(), time.monotonic()
    client.send(wire)
    assert_ended(client)
    assert time.monotonic() - began < 3
    line = rig.gate.wait_for_log(lambda line: REFUSAL in line, "of the refusal")
    assert "did not come within `header_timeout`" in line, line
    rig.gate.wait_for_metrics(lambda now: now.total(FAILURES, reason="timed_out") == 1, "the refusal to be counted")


def test_a_header_that_is_cut(start):
    rig = start()
    client = rig.connect()
    client.send(v1()[:-1])
    client.end_sending()
    assert_ended(client)
    rig.gate.wait_for_metrics(lambda now: now.total(FAILURES, reason="ended") == 1, "the end to be counted")


def test_a_look_whether_anybody_listens(start):
    """Load balancers look by connecting and leaving again: nobody is to be told of it."""
    rig = start()
    for _ in range(3):
        rig.connect().close()
    for peer in opened(rig, v1())[:2]:
        peer.close()
    rig.gate.wait_until_idle()
    assert not [line for line in rig.gate.log if REFUSAL in line]
    assert rig.gate.metrics().total(FAILURES) == 0


@pytest.mark.parametrize("wire", [v1(), b""], ids=["header", "nothing"])
def test_a_peer_that_is_not_trusted(start, wire):
    rig = start(client={"trusted_proxies": ["10.0.0.0/8", "unix"]})
    client = rig.connect()
    with contextlib.suppress(OSError):
        client.send(wire)
    assert_ended(client)
    line = rig.gate.wait_for_log(lambda line: REFUSAL in line, "of the refusal")
    assert "none of `trusted_proxies`" in line and 'peer="127.0.0.1:' in line, line
    rig.gate.wait_for_metrics(lambda now: now.total(FAILURES, reason="untrusted") == 1, "the refusal to be counted")


def test_other_listeners_know_nothing_of_it(start_rig):
    rig = start_rig(client={"trusted_proxies": ["127.0.0.1"]})
    assert answered(rig, v1()).status == 400
    rig.assert_works()


def test_a_reload(start_rig, start):
    rig = start_rig(client={"trusted_proxies": ["127.0.0.1"]})
    session = rig.open()
    plain = rig.gate.file.read_text()
    rig.gate.reload(plain.replace("[[listener]]\n", "[[listener]]\nproxy_protocol = true\n"))
    client, _, head = opened(rig, v2())
    assert head.get("X-Forwarded-For") == CLIENT
    client.close()
    session.finish()


@pytest.fixture
def haproxy(tmp_path):
    """Starts HAProxy in TCP mode in front of an address: `(address, options of bind, options of server)`."""
    running = []

    def start(gate, bind, server):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = probe.getsockname()
        file = tmp_path / "haproxy.cfg"
        file.write_text(f"""
            defaults
                mode tcp
                timeout connect 5s
                timeout client 30s
                timeout server 30s
            frontend front
                bind {address[0]}:{address[1]} {bind}
                unique-id-format %pid-%rt
                default_backend back
            backend back
                server gate {gate[0]}:{gate[1]} {server}
        \n""")
        running.append(subprocess.Popen(["haproxy", "-db", "-f", file]))
        raw.wait_until_listening(address, running[-1])
        return address

    yield start
    for process in running:
        process.terminate()
        process.wait(TIMEOUT)


def come_from(address, to):
    """A connection from an address of the loopback network that nobody else has."""
    return socket.create_connection(to, TIMEOUT, source_address=(address, 0))


def assert_session_of(rig, sock, address):
    client, path = raw.Peer(sock, client=True), rig.new_path()
    client.send(http.upgrade_request(path) + client.frame(TEXT, b"early"))
    upstream, head = rig.server.accept_request(path)
    assert head.get("X-Forwarded-For") == address
    upstream.send(http.switching_protocols(head))
    assert client.read_head().status == 101
    assert upstream.read_message() == (TEXT, b"early")
    port = sock.getsockname()[1]
    client.close()
    upstream.close()
    rig.gate.wait_for_log(lambda line: f'peer="{address}:{port}' in line, "of the client")


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_behind_haproxy(start, haproxy, send):
    """With checks of HAProxy's own, which come without a header (version 1) and with LOCAL (version 2)."""
    rig = start()
    checks = "check inter 50ms" + (" check-send-proxy" if "v2" in send else "")
    front = haproxy(rig.gate.address, "", f"{send} {checks}")
    assert_session_of(rig, come_from("127.0.0.9", front), "127.0.0.9")
    time.sleep(0.2)
    assert not [line for line in rig.gate.log if REFUSAL in line]


@pytest.mark.parametrize("send", ["send-proxy-v2-ssl", "send-proxy-v2-ssl-cn"])
def test_behind_haproxy_that_ends_tls(start, haproxy, tmp_path, send):
    """What it says of the client's TLS is in TLVs."""
    authority = certificates.Authority(tmp_path / "ca")
    pair = authority.sign("front", ["127.0.0.1"])
    both = tmp_path / "front.both"
    both.write_text("".join(open(pair[part]).read() for part in ("cert", "key")))
    rig = start()
    front = haproxy(rig.gate.address, f"ssl crt {both} ca-file {authority.file} verify required", send)
    context = authority.client_context(authority.sign("device", subject="/CN=device-7"))
    encrypted = context.wrap_socket(come_from("127.0.0.9", front), server_hostname="127.0.0.1")
    assert_session_of(rig, encrypted, "127.0.0.9")


def test_haproxy_in_front_of_tls(start, haproxy, tmp_path):
    """The header comes before the handshake, whose bytes may come with it."""
    authority = certificates.Authority(tmp_path / "ca")
    rig = start(listener={"certificates": [authority.sign("gate", ["127.0.0.1"])]})
    front = haproxy(rig.gate.address, "", "send-proxy-v2")
    context = authority.client_context()
    encrypted = context.wrap_socket(come_from("127.0.0.9", front), server_hostname="127.0.0.1")
    assert_session_of(rig, encrypted, "127.0.0.9")
    with pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(come_from("127.0.0.9", rig.gate.address), server_hostname="127.0.0.1")
    rig.gate.wait_for_log(lambda line: REFUSAL in line and 'peer="127.0.0.9:' in line, "of who came without")
