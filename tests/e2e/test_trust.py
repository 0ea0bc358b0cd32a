"""Whose word is taken: clients behind proxies, spellings of headers, what the access service is asked, certificates.

Each rule is held by whichever way a request comes: as a WebSocket's upgrade, as plain HTTP/1.1, as HTTP/2.
"""

import contextlib
import select
import socket
import ssl
import struct
import subprocess
import threading

import pytest

from rig import certificates, gate, http, raw
from rig.raw import TIMEOUT

FRONT = {"trusted_proxies": ["127.0.0.0/8"]}
KINDS = ["upgrade", "plain", "http2"]
CONNECTIONS = "wsgate_connections_open"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return certificates.Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority):
    return authority.sign("gate", ["gate.test"])


class Http2:
    """One request of HTTP/2 by hand: every header is written as it is given, in literals."""

    def __init__(self, sock, fields, body=None):
        self.sock = sock
        block = b"".join(b"\0" + self._text(name) + self._text(value) for name, value in fields)
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self._frame(4, 0, 0, b""))
        sock.sendall(self._frame(1, 0x4 | (body is None), 1, block))
        if body is not None:
            # Without a length, in frames that are small enough.
            for at in range(0, len(body), 10_000):
                sock.sendall(self._frame(0, at + 10_000 >= len(body), 1, body[at : at + 10_000]))

    @staticmethod
    def _text(text):
        data = text.encode("latin-1")
        return bytes([len(data)]) + data if len(data) < 127 else b"\x7f" + bytes([len(data) - 127]) + data

    @staticmethod
    def _frame(kind, flags, stream, payload):
        return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload

    def _read(self, size):
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            assert more, "the connection ended within an answer"
            data += more
        return data

    def answer(self):
        """Status and body."""
        status, body = None, b""
        while True:
            head = self._read(9)
            kind, flags, stream = struct.unpack("!BBI", head[3:])
            payload = self._read(int.from_bytes(head[:3], "big"))
            assert kind not in (3, 7), f"the stream was reset or the connection given up: {payload!r}"
            if kind == 1:
                status = self._status(payload)
            elif kind == 0:
                body += payload
            if stream == 1 and kind in (0, 1) and flags & 1:
                return status, body.decode()

    @staticmethod
    def _status(block):
        """RFC 7541: the status comes first, by its index or as a literal, whose digits may be coded."""
        while block[0] & 0xE0 == 0x20:
            block = block[1:]
        known = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
        if block[0] & 0x80:
            return known[block[0] & 0x7F]
        length = block[1] & 0x7F
        value = block[2 : 2 + length]
        if not block[1] & 0x80:
            return int(value)
        bits, digits = "".join(f"{byte:08b}" for byte in value), ""
        codes = {f"{n:05b}": str(n) for n in range(3)} | {f"{n + 22:06b}": str(n) for n in range(3, 10)}
        while len(digits) < 3:
            code = next(code for code in codes if bits.startswith(code))
            digits, bits = digits + codes[code], bits[len(code) :]
        return int(digits)


class Edge:
    """A wsgate with TLS, and requests of each kind to it."""

    def __init__(self, rig, context):
        self.rig, self.context = rig, context

    def dial(self, alpn=None, context=None, before=b"", **options):
        """A connection over TLS, with these bytes before it."""
        context = context or self.context
        context.set_alpn_protocols([alpn or "http/1.1"])
        sock = socket.create_connection(self.rig.gate.address, TIMEOUT)
        sock.sendall(before)
        return context.wrap_socket(sock, server_hostname="gate.test", **options)

    def send(self, kind, path, headers=(), host="gate.test", context=None, **options):
        """A request with these further headers; what reads the answer as (status, body)."""
        lines = [f"{name}: {value}" for name, value in headers]
        if kind == "http2":
            fields = [(":method", "GET"), (":scheme", "https"), (":authority", host), (":path", path)]
            fields += [(name.lower(), value) for name, value in headers]
            return Http2(self.dial("h2", context, **options), fields).answer
        peer = raw.Peer(self.dial(None, context, **options), client=True)
        if kind == "upgrade":
            peer.send(http.upgrade_request(path, headers={"Host": host}, extra=lines))
        else:
            peer.send("\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("latin-1"))

        def answer():
            head = peer.read_head()
            return head.status, "" if head.status == 101 else peer.read_body(head).decode()

        return answer

    def seen(self, kind, headers=(), **options):
        """The head of such a request as the server gets it."""
        path = self.rig.new_path()
        answer = self.send(kind, path, headers, **options)
        upstream, head = self.rig.server.accept_request(path)
        wanted = 101 if kind == "upgrade" else 200
        upstream.send(http.switching_protocols(head) if wanted == 101 else closing("200 OK"))
        upstream.close()
        assert answer()[0] == wanted
        return head

    def refused(self, kind, headers=(), **options):
        """Status and sentence of the refusal of such a request."""
        return self.send(kind, self.rig.new_path(), headers, **options)()


def closing(status, body=b"", **headers):
    """A server's answer after which it closes."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.response(status, body, headers={"Connection": "close"} | headers)


@pytest.fixture
def start_edge(start_rig, authority, pair):
    def start(*, listener=None, **options):
        rig = start_rig(listener={"certificates": [pair]} | (listener or {}), **options)
        return Edge(rig, authority.client_context())

    return start


# Who the client is


UNREADABLE = ["unknown", "_hidden", "203.0.113.007", "garbage", "", "10.0.0.1 10.0.0.1", '"10.0.0.1"']


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_no_proxy_names_is_on_no_list(start_edge, kind):
    edge = start_edge(client=FRONT, route={"allow": ["127.0.0.0/8", "0.0.0.0/8"]})
    edge.seen(kind)
    edge.seen(kind, [("X-Forwarded-For", "127.0.0.9")])
    for value in UNREADABLE:
        status, body = edge.refused(kind, [("X-Forwarded-For", value)])
        assert (status, body) == (403, "this address is not served here\n"), value


def test_an_unknown_client_in_the_log_and_at_the_server(start_rig):
    rig = start_rig(client=FRONT, route={"deny": ["127.0.0.0/8"]})
    session = rig.open(request={"headers": {"X-Forwarded-For": "10.0.0.1, unknown"}})
    assert session.request.get("X-Forwarded-For") == "10.0.0.1, unknown, 127.0.0.1"
    session.finish()
    rig.gate.wait_for_log(lambda line: "connection ended" in line and "client=unknown" in line, "of the client")


def test_unknown_clients_of_a_proxy_are_counted_as_one(start_rig):
    rig = start_rig(client=FRONT | {"address_max_connections": 1})
    session = rig.open(request={"headers": {"X-Forwarded-For": "unknown"}})
    client, _ = rig.request(headers={"X-Forwarded-For": "_other"})
    assert client.read_head().status == 429
    rig.open(request={"headers": {"X-Forwarded-For": "203.0.113.7"}}).finish()
    session.finish()
    rig.gate.wait_for_metrics(lambda now: now.total(CONNECTIONS) == 0, "all to be gone")
    rig.open(request={"headers": {"X-Forwarded-For": "_other"}}).finish()


@pytest.mark.parametrize("kind", KINDS)
def test_whom_a_proxy_protocol_header_does_not_name_is_not_believed(start_edge, kind):
    """Inside of TLS as without it; with an address that is trusted the peer is believed, as it always was."""
    options = {"client": FRONT, "listener": {"proxy_protocol": True}}
    claim = [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", "http"), ("X-Real-IP", "203.0.113.7")]
    local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
    edge = start_edge(**options)
    for before, peer in [(b"PROXY UNKNOWN\r\n", "unknown"), (local, "127.0.0.1")]:
        head = edge.seen(kind, claim, before=before)
        assert head.get("x-forwarded-for") == f"203.0.113.7, {peer}"
        assert (head.get("x-forwarded-proto"), head.get("x-real-ip")) == ("https", None)
    for address, is_believed in [("127.0.0.9", True), ("192.0.2.1", False)]:
        head = edge.seen(kind, claim, before=f"PROXY TCP4 {address} 127.0.0.1 4711 443\r\n".encode())
        assert (head.get("x-forwarded-proto") == "http") == is_believed
    edge = start_edge(route={"allow": ["203.0.113.0/24", "127.0.0.0/8"]}, **options)
    assert edge.refused(kind, claim, before=b"PROXY UNKNOWN\r\n")[0] == 403
    edge.seen(kind, claim, before=local)


FORWARDED = {
    'host="evil;for=10.0.0.1";for=203.0.113.7': "203.0.113.7",
    'for="10.0.0.1, for=203.0.113.7': "203.0.113.7",
    'host="a\\",for=10.0.0.1";FOR="203.0.113.7:4711"': "203.0.113.7",
    "for=203.0.113.7, for=127.0.0.9;proto=http": "203.0.113.7",
    'For="[2001:db8::7]:_port";proto=https': "2001:db8::7",
    "for=203.0.113.7;for=10.0.0.1": "unknown",
    "for=unknown": "unknown",
    "proto=https": "unknown",
}


@pytest.mark.parametrize("value", FORWARDED)
def test_the_standard_header(start_rig, value):
    rig = start_rig(client=FRONT | {"forwarded_header": "Forwarded"}, route={"deny": ["10.0.0.0/8"]})
    # What the client says by the other header is nothing.
    headers = {"Forwarded": value, "X-Forwarded-For": "10.0.0.1", "X-Forwarded-Proto": "https"}
    session = rig.open(request={"headers": headers})
    assert session.request.all("Forwarded") == []
    assert session.request.get("X-Forwarded-For").split(", ")[-1] == "127.0.0.1"
    assert "10.0.0.1" not in session.request.get("X-Forwarded-For")
    session.finish()
    rig.gate.wait_for_log(
        lambda line: "connection ended" in line and f"client={FORWARDED[value]}" in line, "of the client"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_scheme_and_host_are_those_of_the_hop_that_names_the_client(start_edge, kind):
    edge = start_edge(client=FRONT)
    for hops, proto, host, expected in [
        ("203.0.113.7", "HTTP", "a.test", ("http", "a.test")),
        ("203.0.113.7", "http, https", "b.test, a.test", ("https", "a.test")),
        ("203.0.113.7, 127.0.0.9", "http,https", "a.test, b.test", ("http", "a.test")),
        ("203.0.113.7, 127.0.0.9", "http", "a.test", ("http", "a.test")),
        ("203.0.113.7", "gopher", "a test", ("https", "gate.test")),
    ]:
        headers = [("X-Forwarded-For", hops), ("X-Forwarded-Proto", proto), ("X-Forwarded-Host", host)]
        head = edge.seen(kind, headers)
        assert (head.all("x-forwarded-proto"), head.all("x-forwarded-host")) == ([expected[0]], [expected[1]])


def test_scheme_and_host_of_the_standard_header(start_rig):
    rig = start_rig(client=FRONT | {"forwarded_header": "Forwarded"})
    value = 'for=1.2.3.4;host=evil.test, for=203.0.113.7;proto=HTTPS;host="a.test:81", for=127.0.0.9;proto=http'
    session = rig.open(request={"headers": {"Forwarded": value}})
    got = session.request
    assert (got.all("X-Forwarded-Proto"), got.all("X-Forwarded-Host")) == (["https"], ["a.test:81"])
    assert got.get("X-Forwarded-For") == "1.2.3.4, 203.0.113.7, 127.0.0.9, 127.0.0.1"
    session.finish()


CLAIMS = [
    "Forwarded", "X-Real-IP", "X-Forwarded-Port", "X-Forwarded-Server", "X-Forwarded-Scheme", "X-Forwarded-Ssl",
    "X-Forwarded-User", "X-Forwarded-Prefix", "X-Original-URL", "X-Rewrite-URL", "Front-End-Https", "True-Client-IP",
    "CF-Connecting-IP", "Client-IP", "X-Client-IP", "Proxy",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_a_proxy_could_have_said(start_edge, kind):
    """Whether a header is left of what a client says, by whichever spelling."""
    spelt = [(name, "10.0.0.1") for name in CLAIMS] + [(name.replace("-", "_"), "10.0.0.1") for name in CLAIMS]
    head = start_edge().seen(kind, spelt)
    assert [name for name, value in head.headers if value == "10.0.0.1"] == []
    # What a trusted proxy says passes, but for what is said in another way and what CGI would obey.
    trusted = [(name, value) for name, value in spelt if "_" not in name]
    head = start_edge(client=FRONT).seen(kind, trusted)
    left = {name for name, value in head.headers if value == "10.0.0.1"}
    assert left == {name.lower() for name in CLAIMS} - {"forwarded", "proxy"}


# Spellings


@pytest.mark.parametrize("kind", KINDS)
def test_underscores_are_dashes(start_edge, kind, authority):
    """CGI, WSGI, Rack and PHP make one variable of both: what is set or removed, is so in either spelling."""
    edge = start_edge(
        listener={"client_ca": str(authority.file), "client_certificate": "optional",
                  "client_subject_header": "X-Client-Subject"},
        route={"request_remove": ["X-Debug"], "request_set": {"X-Env-Name": "prod"}, "request_add": {"X-Via": "w"}},
    )  # fmt: skip
    forged = ["X_Debug", "x_env-NAME", "X-Env_Name", "X_Forwarded_For", "X_Forwarded_Host", "X-Forwarded_Proto",
              "X_Client_Subject", "Content_Length", "Transfer_Encoding", "Keep_Alive", "Sec_WebSocket_Key",
              "Sec_WebSocket_Protocol"]  # fmt: skip
    head = edge.seen(kind, [(name, "666") for name in forged] + [("User_Name", "ann")])
    assert [name for name, value in head.headers if value == "666"] == []
    assert (head.get("x-env-name"), head.get("user_name"), head.get("x-via")) == ("prod", "ann", "w")


@pytest.mark.parametrize("name", ["Content_Length", "Sec_WebSocket_Key", "host", "Sec-WebSocket_Version"])
def test_a_connection_header_removes_nothing_in_disguise(rig, name):
    session = rig.open(request={"headers": {"Connection": f"Upgrade, {name}"}})
    assert session.request.get("Sec-WebSocket-Key") and session.request.get("Host") == "gate.test"
    session.finish()


def test_header_rules_of_answers_are_about_exact_names(start_rig):
    rig = start_rig(route={"response_remove": ["X-Debug"]})
    session = rig.open(answer={"extra": ["X_Debug: 1", "X-Debug: 2"]})
    assert (session.answer.get("X_Debug"), session.answer.get("X-Debug")) == ("1", None)
    session.finish()


# The access service


@pytest.fixture
def service(tmp_path):
    """nginx as an access service that reads the whole of what it is asked, and tells what that was."""
    with socket.create_server(("127.0.0.1", 0)) as probe, socket.create_server(("127.0.0.1", 0)) as inner:
        ports = probe.getsockname()[1], inner.getsockname()[1]
    told = {
        "Host": "$http_x_forwarded_host", "For": "$http_x_forwarded_for", "Uri": "$http_x_original_uri",
        "Method": "$http_x_original_method", "User": "$http_x_user", "Real-Ip": "$http_x_real_ip",
        "Body": "$http_content_length$http_transfer_encoding$http_content_type$http_content_encoding$http_expect",
        "Other": "$http_range$http_if_none_match$http_te$http_trailer$http_upgrade_insecure_requests",
    }  # fmt: skip
    headers = "\n".join(f'add_header X-Asked-{name} "{value}|" always;' for name, value in told.items())
    (tmp_path / "nginx.conf").write_text(f"""
        daemon off; worker_processes 1; pid {tmp_path}/pid; error_log stderr;
        events {{ }}
        http {{
            access_log off; client_body_temp_path {tmp_path}; proxy_temp_path {tmp_path}; underscores_in_headers on;
            fastcgi_temp_path {tmp_path}; uwsgi_temp_path {tmp_path}; scgi_temp_path {tmp_path};
            server {{
                listen 127.0.0.1:{ports[0]};
                location / {{ {headers} proxy_pass http://127.0.0.1:{ports[1]}; }}
            }}
            server {{
                listen 127.0.0.1:{ports[1]};
                location / {{
                    if ($http_authorization = "bad") {{ return 403 "go away"; }}
                    return 204;
                }}
            }}
        }}
    """)
    process = subprocess.Popen(["nginx", "-p", tmp_path, "-c", f"{tmp_path}/nginx.conf", "-e", "stderr"])
    for port in ports:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
                break
            except OSError:
                threading.Event().wait(0.02)
    copied = [f"X-Asked-{name}" for name in told]
    yield {"auth_url": f"http://127.0.0.1:{ports[0]}/", "auth_copy": [*copied, "X-User"]}
    process.terminate()
    process.wait(TIMEOUT)


def asked(head):
    """What the access service was asked, as the server of a request is told."""
    prefix = "x-asked-"
    values = [(name.removeprefix(prefix), value) for name, value in head.headers if name.startswith(prefix)]
    assert len(values) == len(dict(values)), values
    return {name: value.removesuffix("|") for name, value in values}


@pytest.mark.parametrize("kind", KINDS)
def test_the_access_service_is_asked_about_the_host_of_the_route(start_edge, service, kind):
    edge = start_edge(route=service | {"hosts": ["a.test"]})
    forged = [("X-Forwarded-Host", "b.test"), ("X_Forwarded_Host", "b.test"), ("X-Original-URI", "/open"),
              ("X_Original_Uri", "/open"), ("X-Original-Method", "HEAD"), ("X-Real-IP", "10.0.0.1"),
              ("X_User", "root"), ("X-Asked-Host", "me"), ("X_Asked_Host", "me")]  # fmt: skip
    head = edge.seen(kind, forged, host="a.test")
    told = asked(head)
    assert (told["host"], told["for"], told["method"], told["real-ip"]) == ("a.test", "127.0.0.1", "GET", "")
    assert told["uri"].startswith("/test/") and head.all("x_user") == []
    assert (head.all("host"), head.all("x-forwarded-host")) == (["a.test"], ["a.test"])


def test_the_host_of_http2_is_its_authority(start_edge, service):
    """A `host` beside it is nobody's: neither the route, nor the access service, nor the server goes by it."""
    edge = start_edge(route=service | {"hosts": ["a.test"]})
    head = edge.seen("http2", [("host", "a.test")], host="a.test")
    assert asked(head)["host"] == "a.test" and head.all("host") == ["a.test"]
    sock = edge.dial("h2")
    fields = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/x"), ("host", "b.test")]
    request = Http2(sock, fields)
    head = at_the_server(edge.rig, lambda: request.answer()[0])
    assert head is None or (asked(head)["host"], head.all("host")) == ("a.test", ["a.test"])


def at_the_server(rig, answer):
    """The head of a request at the server, or `None` where it is refused with 400; `answer` waits for the status."""
    statuses = []
    waiting = threading.Thread(target=lambda: statuses.append(answer()), daemon=True)
    waiting.start()
    while waiting.is_alive():
        if select.select([rig.server.sock], [], [], 0.02)[0]:
            upstream = rig.server.accept()
            head = upstream.read_head()
            upstream.send(closing("204 No Content"))
            upstream.close()
            waiting.join(TIMEOUT)
            assert statuses == [204]
            return head
    assert statuses == [400]
    return None


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_the_host_of_an_absolute_target(start_rig, service, version):
    """It is that of the route, of the question and of the request that the server gets; one that differs may be 400."""
    rig = start_rig(route=service | {"hosts": ["a.test"]})

    def sent(lines):
        client = rig.connect()
        client.send("\r\n".join([*lines, "", ""]).encode())
        return at_the_server(rig, lambda: client.read_head().status)

    def is_right(head):
        hosts = asked(head)["host"], head.get("host"), head.get("x-forwarded-host")
        return hosts == ("a.test", "a.test", "a.test")

    start = f"GET http://a.test/x {version}"
    assert is_right(sent([start, "Host: a.test", "X-Forwarded-Host: b.test"]))
    head = sent([start, "Host: b.test"])
    assert head is None or is_right(head)
    if version == "HTTP/1.0":
        assert is_right(sent([start]))
        assert is_right(sent([start, "X-Forwarded-Host: b.test"]))
        return
    upgrade = http.upgrade_request("http://a.test/x", headers={"Host": "a.test"}).decode().splitlines()[:-1]
    assert is_right(sent(upgrade))


def test_without_a_host_the_clients_word_on_it_is_removed(start_rig):
    rig = start_rig()
    client = rig.connect()
    client.send(b"GET /none HTTP/1.0\r\nX-Forwarded-Host: evil.test\r\n\r\n")
    upstream, head = rig.server.accept_request("/none")
    assert head.all("x-forwarded-host") == []
    upstream.close()


BODY = b"what the server stores" * 1000


def test_a_chunked_upload_is_asked_about_without_its_body(start_rig, service):
    rig = start_rig(route=service)
    path = rig.new_path()
    lines = [f"POST {path} HTTP/1.1", "Host: gate.test", "Transfer-Encoding: chunked", "Content-Type: text/x",
             "Content-Encoding: x", "Trailer: X-Sum", "TE: trailers", "Range: bytes=0-1", 'If-None-Match: "a"',
             "Upgrade-Insecure-Requests: 1", "", ""]  # fmt: skip
    client = rig.connect()
    client.send("\r\n".join(lines).encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
    upstream, head = rig.server.accept_request(path)
    assert upstream.read_body(head) == BODY
    told = asked(head)
    assert (told["method"], told["body"], told["other"]) == ("POST", "", "")
    assert (head.get("content-type"), head.get("range"), head.get("if-none-match")) == ("text/x", "bytes=0-1", '"a"')
    upstream.send(closing("201 Created"))
    assert client.read_head().status == 201
    upstream.close()


def test_an_upload_of_http2_is_asked_about_without_its_body(start_edge, service):
    edge = start_edge(route=service)
    path = edge.rig.new_path()
    fields = [(":method", "POST"), (":scheme", "https"), (":authority", "gate.test"), (":path", path),
              ("content-type", "text/x"), ("if-none-match", '"a"')]  # fmt: skip
    request = Http2(edge.dial("h2"), fields, BODY)
    upstream, head = edge.rig.server.accept_request(path)
    assert upstream.read_body(head) == BODY
    told = asked(head)
    assert (told["method"], told["body"], told["other"]) == ("POST", "", "")
    upstream.send(closing("200 OK"))
    upstream.close()
    assert request.answer()[0] == 200


# Header rules for all answers of a route


RULES = {
    "response_remove": ["Server"],
    "response_set": {"X-Frame-Options": "DENY"},
    "response_add": {"Vary": "Origin"},
}


def ruled(head):
    """What these rules are about."""
    return head.get("server"), head.all("x-frame-options"), head.all("vary")


def curl(edge, path, *options):
    """Runs curl over HTTP/2; what gives the head of the answer."""
    port = edge.rig.gate.address[1]
    command = ["curl", "-s", "-S", "-i", "--http2", "--cacert", str(edge.rig.ca), "--resolve",
               f"gate.test:{port}:127.0.0.1", *options, f"https://gate.test:{port}{path}"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def head():
        out, err = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, err
        wire = out.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        assert wire.startswith(b"HTTP/2 "), wire
        return http.Head.parse(wire.replace(b"HTTP/2 ", b"HTTP/1.1 ", 1))

    return head


def test_rules_hold_for_a_declined_upgrade(start_rig):
    rig = start_rig(route=RULES)
    client, path = rig.request()
    upstream, _ = rig.server.accept_request(path)
    upstream.send(closing("404 Not Found", b"none", Server="acme", X_Frame_Options="SAMEORIGIN", Vary="Cookie"))
    upstream.close()
    head = client.read_head()
    assert (head.status, client.read_body(head)) == (404, b"none")
    assert ruled(head) == (None, ["DENY"], ["Cookie", "Origin"])


@pytest.mark.parametrize("kind", KINDS)
def test_rules_hold_for_the_access_service_and_for_wsgate(start_edge, service, authority, kind):
    edge = start_edge(route=RULES | service | {"deny": ["203.0.113.0/24"]}, client=FRONT)
    edge.rig.ca = authority.file

    def answer(name, value):
        if kind == "http2":
            return curl(edge, "/x", "-H", f"{name}: {value}")()
        peer = raw.Peer(edge.dial(), client=True)
        plain = f"GET /x HTTP/1.1\r\nHost: gate.test\r\n{name}: {value}\r\n\r\n".encode()
        peer.send(plain if kind == "plain" else http.upgrade_request("/x", headers={name: value}))
        return peer.read_head()

    head = answer("Authorization", "bad")
    assert (head.status, ruled(head)) == (403, (None, ["DENY"], ["Origin"]))
    head = answer("X-Forwarded-For", "203.0.113.7")
    assert (head.status, ruled(head)) == (403, (None, ["DENY"], ["Origin"]))
    edge.rig.server.close()
    head = answer("X-Any", "1")
    assert (head.status, ruled(head)) == (502, (None, ["DENY"], ["Origin"]))


# Client certificates by route


@pytest.fixture
def start_demanding(start_edge, authority):
    """A listener that lets everybody in, and a route below it that does not."""

    def start(**options):
        listener = {"client_ca": str(authority.file), "client_certificate": "optional"}
        routes = [
            {"name": "open", "upstream": "main"},
            {"name": "closed", "upstream": "main", "path": "/test", "client_certificate": "required"},
        ]
        return start_edge(listener=listener, routes=routes, **options)

    return start


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_route_that_demands_a_certificate(start_demanding, authority, kind, version):
    edge = start_demanding()
    device = authority.sign("device", subject="/CN=device-7")

    def context(*pair):
        made = authority.client_context(*pair)
        made.minimum_version = made.maximum_version = ssl.TLSVersion[version]
        return made

    shown, none = context(device), context()
    refusal = (403, "a client certificate is required here, and none was shown\n")
    assert edge.refused(kind, context=none) == refusal
    edge.seen(kind, context=shown)
    # Other routes of the listener want none.
    answer = edge.send(kind, "/open", context=none)
    upstream, head = edge.rig.server.accept_request("/open")
    upstream.send(http.switching_protocols(head) if kind == "upgrade" else closing("200 OK"))
    upstream.close()
    assert answer()[0] in (101, 200)

    # A resumed connection is that of the same client: with its certificate, or without.
    def ticket(context):
        sock = edge.dial(context=context)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: gate.test\r\nConnection: close\r\n\r\n")
        upstream = edge.rig.server.accept()
        upstream.read_head()
        upstream.send(closing("200 OK"))
        upstream.close()
        sock.recv(1 << 16)
        return sock.session

    session = ticket(shown)
    sock = edge.dial(context=shown, session=session)
    assert sock.session_reused
    sock.close()
    edge.seen(kind, context=shown, session=session)
    session = ticket(none)
    sock = edge.dial(context=none, session=session)
    assert sock.session_reused
    sock.close()
    assert edge.refused(kind, context=none, session=session) == refusal


def test_a_certificate_of_somebody_else_is_none(start_demanding, tmp_path):
    edge = start_demanding()
    other = certificates.Authority(tmp_path / "other", "another CA")
    context = edge.context
    stranger = other.sign("stranger", subject="/CN=device-7")
    context.load_cert_chain(stranger["cert"], stranger["key"])
    with pytest.raises((ssl.SSLError, raw.Ended, ConnectionError, AssertionError)):
        edge.refused("plain", context=context)


def test_a_route_that_demands_a_certificate_serves_nobody_without_tls(tmp_path, authority, pair):
    """Its hosts may share a listener with others, and its configuration may have one without TLS."""
    server = raw.Server()
    text = gate.config([server.address], listen=["127.0.0.1:0", f"unix:{tmp_path}/gate"],
                       route={"client_certificate": "required"})  # fmt: skip
    listener = f"certificates = {certificates.toml([pair])}\nclient_ca = \"{authority.file}\"\n"
    tls = text.replace(f'[[listener]]\nlisten = "unix:{tmp_path}/gate"\n',
                       f'[[listener]]\nlisten = "unix:{tmp_path}/gate"\n{listener}')  # fmt: skip
    with gate.Gate(tmp_path, tls) as wsgate, contextlib.closing(raw.connect(wsgate.address)) as client:
        client.send(http.upgrade_request())
        head = client.read_head()
        sentence = b"a client certificate is required here, and this connection is not over TLS\n"
        assert (head.status, client.read_body(head)) == (403, sentence)
    # Where no listener asks for one it is a mistake.
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    status, output = gate.run(["check", "--config", str(file)])
    assert status == 1 and "client_ca" in output, output
    server.close()
