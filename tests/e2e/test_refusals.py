"""Refusals say why: in the answer, in one line of the log, and in a metric; and none of them shows the names of code."""

import contextlib
import re
import socket
import ssl
import subprocess
import threading

import pytest

from rig import certificates, gate, http, raw
from rig.raw import TIMEOUT

REFUSED = "wsgate_handshakes_refused_total"
CONNECTIONS = "wsgate_connections_refused_total"
REQUESTS = "wsgate_plain_requests_refused_total"
LINE = "upgrade refused"
UNREAD = "request refused"
"""Of a head that was not read, or is none: nobody knows what it would have asked for."""


def refusals(wsgate):
    """The lines of the log about refused upgrades, and about refused requests, if there are any."""
    return [line for line in wsgate.log if LINE in line or UNREAD in line]


def expect(wsgate, reason, route="main", seen=0, event=LINE):
    """The line of a refusal for this reason, which is counted once; it says what the metric says."""
    line = wsgate.wait_for_log(lambda line: event in line and f'reason="{reason}"' in line, f"for {reason}", seen)
    wsgate.wait_for_metrics(lambda now: now.total(REFUSED, reason=reason, route=route) == 1, f"{reason} to be counted")
    assert (f'route="{route}"' in line) == bool(route), line
    assert_prose(line)
    return line


def assert_prose(text):
    """No sentence has a name as code has it, such as `UnknownIssuer` or `Some(`."""
    prose = re.sub(r'`[^`]*`|"[^"]*"|\S+=\S+|\[[^]]*\]|subjectAltName|WebSocket', "", text)
    assert not re.search(r"\b[A-Z][a-z]+[A-Z][A-Za-z]*|\w+\(\w|Error\b|Some\b", prose), text


WRONG = {
    "method": ({"method": "POST"}, 400),
    "host": ({"headers": {"Host": ""}}, 400),
    "upgrade": ({"headers": {"Upgrade": None}}, 400),
    "connection": ({"headers": {"Connection": None}}, 400),
    "key": ({"headers": {"Sec-WebSocket-Key": "short"}}, 400),
    "version": ({"headers": {"Sec-WebSocket-Version": "12"}}, 426),
    "subprotocols": ({"headers": {"Sec-WebSocket-Protocol": "a, a"}}, 400),
    "extensions": ({"headers": {"Sec-WebSocket-Extensions": "a;;"}}, 400),
    "body": ({"headers": {"Content-Length": "3"}}, 400),
    "http_version": ({"version": "HTTP/1.0"}, 400),
    "origin": ({"headers": {"Origin": "https://evil.example"}}, 403),
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_request_that_is_not_right(start_rig, reason):
    rig = start_rig(route={"allowed_origins": ["https://good.example"]})
    options, status = WRONG[reason]
    client = rig.connect()
    client.send(http.upgrade_request("/chat?token=secret", **options))
    answer = client.read_head()
    assert answer.status == status and client.read_body(answer)
    # Without a host there is no looking for a route.
    line = expect(rig.gate, reason, route="" if reason == "host" else "main")
    assert " INFO " in line and f"status={status}" in line and 'client="127.0.0.1"' in line, line
    assert 'path="/chat"' in line and "secret" not in line, line
    assert reason != "origin" or "https://evil.example" in line, line
    assert len(refusals(rig.gate)) == 1
    assert rig.gate.metrics().total(REQUESTS) == 0, "an upgrade is no plain request"


def test_what_has_no_route(start_rig):
    """Neither was counted by anything: there is no route whose label they could have."""
    rig = start_rig(route={"hosts": ["here.example"]}, client={"trusted_proxies": ["127.0.0.1"]})
    client = rig.connect()
    forwarded = ["X-Forwarded-For: 203.0.113.7"]
    client.send(http.upgrade_request("/" + "a" * 1000, headers={"Host": "there.example"}, extra=forwarded))
    assert client.read_head().status == 404
    line = expect(rig.gate, "no_route", route="")
    assert 'client="203.0.113.7"' in line and 'host="there.example"' in line, line
    assert len(line) < 700, "the path is cut"
    client = rig.connect()
    client.send(http.upgrade_request(headers={"Host": None}))
    assert client.read_head().status == 400
    expect(rig.gate, "host", route="")
    assert rig.gate.metrics().total("wsgate_handshakes_total", route="", result="bad_request") == 2


@pytest.mark.parametrize(
    ("port", "target", "headers", "url"),
    [
        (443, "/room?id=1&x=<y>", {"Host": "Chat.Example.com:8080"}, "https://chat.example.com/room?id=1&x=%3Cy%3E"),
        (8443, "/", {"Host": "[::1]:80"}, "https://[::1]:8443/"),
        (443, "//other.example/", {"Host": "chat.example.com."}, "https://chat.example.com//other.example/"),
        (443, "/", {"X-Forwarded-Proto": "http", "X-Forwarded-Host": "front.example"}, "https://front.example/"),
    ],
    ids=["port of http", "port of https", "two slashes", "a proxy in front"],
)
@pytest.mark.parametrize("is_upgrade", [True, False], ids=["upgrade", "plain"])
def test_a_request_without_tls_is_redirected(start_rig, is_upgrade, port, target, headers, url):
    rig = start_rig(route={"redirect_https": port}, client={"trusted_proxies": ["127.0.0.1"]})
    forwarded = {"Host": "a.example", "X-Forwarded-For": "203.0.113.7"} | headers
    client = rig.connect()
    if is_upgrade:
        client.send(http.upgrade_request(target, headers=forwarded))
    else:
        lines = "".join(f"{name}: {value}\r\n" for name, value in forwarded.items())
        client.send(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode())
    answer = client.read_head()
    assert (answer.status, answer.get("Location")) == (308, url)
    assert b"wss://" in client.read_body(answer)
    if is_upgrade:
        assert "status=308" in expect(rig.gate, "redirected_to_https", route="main")
    else:
        assert rig.gate.metrics().total(REQUESTS, reason="redirected_to_https", route="main") == 1
    # The proxy in front says that this client came over TLS.
    client = rig.connect()
    client.send(http.upgrade_request("/over-tls", headers=forwarded | {"X-Forwarded-Proto": "https"}))
    server, head = rig.server.accept_request("/over-tls")
    server.send(http.switching_protocols(head))
    assert client.read_head().status == 101


FORGED = '" reason="key" status=200 client="198.51.100.1'
ESCAPES = "\x1b[31m\x1b[2K"


@pytest.mark.parametrize(
    ("path", "headers", "reason", "shown"),
    [
        ("/%0a%0d%1b[31m", {}, "no_route", ["/%0a%0d%1b[31m"]),
        (f"/{FORGED.replace(' ', '%20')}", {}, "no_route", []),
        ('/\x80\x9b31m\xff"', {}, "no_route", ["x9b31m"]),
        ("/" + '"' * 5000, {}, "no_route", ["..."]),
        ("/", {"Host": "a" * 5000}, "no_route", ["aaa..."]),
        ("/", {"Host": f"a{FORGED}"}, "host", []),
        ("/", {"Host": "a\x9b31m\xff"}, "host", ["x9b31m"]),
        ("/x", {"Origin": f"https://evil.test{FORGED}"}, "origin", []),
        ("/x", {"Origin": "https://evil.test\x9b31m\x85"}, "origin", []),
        ("/x", {"Origin": "https://" + "e" * 5000}, "origin", []),
    ],
    ids=["percent", "quotes", "no ASCII", "many", "long host", "quotes in a host", "host", "quotes in an origin", "origin", "long origin"],
)
def test_what_a_client_writes_forges_no_line(start_rig, path, headers, reason, shown):
    """HTTP allows quotes and bytes beyond ASCII, with which terminals are told as much as with an escape character."""
    rig = start_rig(route={"path": "/x", "allowed_origins": ["https://good.test"]})
    client = rig.connect()
    client.send(http.upgrade_request(path, headers=headers))
    assert client.read_head().status in (400, 403, 404)
    line = expect(rig.gate, reason, route="main" if reason == "origin" else "")
    assert line.isascii() and line.isprintable() and len(line) < 2000, line
    assert fields(line, "reason") == [f'"{reason}"'] and fields(line, "client") == ['"127.0.0.1"'], line
    assert len(fields(line, "status")) == 1 and fields(line, "status") != ["200"], line
    for word in shown:
        assert word in line, line
    assert len(refusals(rig.gate)) == 1, rig.gate.log


def fields(line, name):
    """The values of the fields of that name in a line of text, as a reader finds them who knows quotes and their escapes."""
    found = re.findall(r'(?:^| )(\w+)=("(?:[^"\\]|\\.)*"|\S*)|"(?:[^"\\]|\\.)*"', line)
    return [value for key, value in found if key == name]


@pytest.mark.parametrize("where", ["path", "host", "origin"])
def test_escape_characters_are_in_no_line(start_rig, where):
    """HTTP allows them nowhere; what has one is refused, and the log has none of it."""
    rig = start_rig(route={"allowed_origins": ["https://good.test"]})
    headers = {} if where == "path" else {where.title(): f"https://{ESCAPES}"}
    client = rig.connect()
    client.send(http.upgrade_request(f"/{ESCAPES}" if where == "path" else "/", headers=headers))
    assert client.read_head().status == 400
    line = rig.gate.wait_for_log(lambda line: " refused: " in line, "of the refusal")
    assert ("connection refused: this connection does not begin with an HTTP request" in line) == (where == "path"), line
    assert "\x1b" not in "".join(rig.gate.log) and "[31m" not in line, line


def test_a_head_that_is_no_http(start_rig):
    """wsgate answers itself: Pingora's answer is empty."""
    rig = start_rig()
    client = rig.connect()
    client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nno header\r\n\r\n")
    answer = client.read_head()
    assert answer.status == 400 and answer.get("server") is None
    assert b"a header of the request has no valid name: " in client.read_body(answer)
    client.expect_eof()
    assert "has no valid name" in expect(rig.gate, "malformed", route="", event=UNREAD)
    assert len(refusals(rig.gate)) == 1


def test_heads_that_are_not_read(start_rig):
    rig = start_rig(client={"header_timeout": "300ms", "max_header_size": "2KiB"})
    client = rig.connect()
    client.send(http.upgrade_request()[:-2])
    answer = client.read_head()
    assert answer.status == 408 and client.read_body(answer)
    assert "header_timeout" in expect(rig.gate, "head_timed_out", route="", event=UNREAD)
    client = rig.connect()
    client.send(http.upgrade_request(headers={"Cookie": "a" * 3000}))
    assert client.read_head().status == 431
    assert "max_header_size" in expect(rig.gate, "head_too_large", route="", event=UNREAD)
    assert len(refusals(rig.gate)) == 2


def test_an_address_that_is_not_served(start_rig):
    rig = start_rig(route={"deny": ["127.0.0.0/8"]})
    client = rig.connect()
    client.send(http.upgrade_request())
    assert client.read_head().status == 403
    assert "this address is not served here" in expect(rig.gate, "address")


def test_an_address_that_comes_too_often(start_rig):
    """Before it asks for anything: its connection is refused."""
    rig = start_rig(client={"address_max_connections": 1})
    session = rig.open()
    client = rig.connect()
    client.send(http.upgrade_request())
    assert client.read_head().status == 429
    line = rig.gate.wait_for_log(lambda line: "connection refused: a limit is reached" in line, "of the refusal")
    assert 'reason="address_max_connections"' in line and 'peer="127.0.0.1:' in line, line
    now = rig.gate.metrics()
    assert (now.total(CONNECTIONS, reason="address_max_connections"), now.total(REFUSED), now.total(REQUESTS)) == (1, 0, 0)
    assert refusals(rig.gate) == []
    session.finish()


def test_a_client_behind_a_trusted_proxy_that_comes_too_often(start_rig):
    """Its connections are the proxy's; its upgrade is refused."""
    rig = start_rig(client={"address_max_connections": 1, "trusted_proxies": ["127.0.0.1"]})
    forwarded = {"extra": ["X-Forwarded-For: 203.0.113.7"]}
    session = rig.open(request=forwarded)
    client = rig.connect()
    client.send(http.upgrade_request(**forwarded))
    assert client.read_head().status == 429
    line = expect(rig.gate, "address_limit")
    assert " INFO " in line and 'client="203.0.113.7"' in line, line
    assert rig.gate.metrics().total(CONNECTIONS) == 0 and len(refusals(rig.gate)) == 1
    session.finish()


@pytest.mark.parametrize(
    ("limits", "event", "series", "reason"),
    [
        ({"route": {"max_connections": 1}}, LINE, REFUSED, "route_full"),
        ({"client": {"max_connections": 1}}, "connection refused", CONNECTIONS, "max_connections"),
    ],
    ids=["route", "all"],
)
def test_a_warning_is_written_once_and_the_rest_is_counted(start_rig, limits, event, series, reason):
    rig = start_rig(**limits)
    session = rig.open()
    for _ in range(20):
        client = rig.connect()
        client.send(http.upgrade_request())
        assert client.read_head().status == 503
        client.close()
    rig.gate.wait_for_metrics(lambda now: now.total(series, reason=reason) == 20, "all to be counted")
    rig.gate.wait_for_log(lambda line: event in line, "of the first")
    lines = [line for line in rig.gate.log if " refused: " in line]
    assert len(lines) == 1 and event in lines[0] and " WARN " in lines[0] and f'reason="{reason}"' in lines[0], lines
    session.finish()


def answered(rig, wire):
    """What a client gets where a server answers its upgrade with this."""
    client, path = rig.request()
    upstream, _ = rig.server.accept_request(path)
    upstream.send(wire)
    upstream.end_sending()
    return client.read_head()


@pytest.mark.parametrize(
    ("wire", "status", "reason", "words"),
    [
        (b"", 502, "no_answer", ["WARN", "the connection ended: after 0 bytes"]),
        (b"SSH-2.0-" + b"x" * 10_000 + b"\r\n\r\n", 502, "no_answer", ["WARN", "it begins with SSH-2.0-xxx"]),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502, "invalid_upgrade", ["WARN", "Upgrade: websocket"]),
        (http.response("401 Unauthorized", b"no"), 401, "declined", ["INFO"]),
        (http.response("500 Oops", b"no"), 500, "server_error", ["WARN"]),
    ],
    ids=["nothing", "not HTTP", "a wrong 101", "401", "500"],
)
def test_a_server_that_does_not_accept(start_rig, wire, status, reason, words):
    rig = start_rig()
    assert answered(rig, wire).status == status
    line = expect(rig.gate, reason)
    assert f"server {rig.server.address} of upstream main" in line, line
    for word in words:
        assert word in line, line
    assert len(line) < 500, "of what a server sends only the beginning is shown"
    assert len([line for line in rig.gate.log if " WARN " in line]) <= 1, "one line and no other"


def test_a_server_that_is_silent(start_rig):
    rig = start_rig(upstream={"handshake_timeout": "300ms"})
    client, path = rig.request()
    upstream, _ = rig.server.accept_request(path)
    assert client.read_head().status == 504
    assert "after 300ms" in expect(rig.gate, "answer_timed_out")
    upstream.close()


def test_a_server_that_cannot_be_reached(start_rig):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "{}:{}".format(*taken.getsockname())
    rig = start_rig(upstream={"servers": [address], "eject_after": 0})
    for _ in range(10):
        client = rig.connect()
        client.send(http.upgrade_request())
        assert client.read_head().status == 502
        client.close()
    rig.gate.wait_for_metrics(lambda now: now.total(REFUSED, reason="unreachable") == 10, "all to be counted")
    lines = [line for line in rig.gate.log if "cannot be reached" in line and LINE not in line]
    assert len(lines) == 1 and address in lines[0], lines


def test_no_server_takes_connections(start_rig):
    rig = start_rig(upstream={"queue_timeout": "100ms"})
    status, _ = gate.run(["drain", "main", "--force", "--admin", "{}:{}".format(*rig.gate.admin)])
    assert status == 0
    client = rig.connect()
    client.send(http.upgrade_request())
    assert client.read_head().status == 503
    expect(rig.gate, "no_server")


@pytest.mark.parametrize(("wire", "status", "reason"), [
    (http.response("403 Forbidden", b"no"), 403, "access_service"), (b"nonsense\r\n\r\n", 502, "access_failed"),
    (None, 504, "access_timed_out"),
], ids=["no", "nonsense", "silence"])
def test_an_access_service_that_does_not_let_in(start_rig, wire, status, reason):
    service = raw.Server()
    rig = start_rig(route={"auth_url": f"http://{service.address}/", "auth_timeout": "500ms"})
    client = rig.connect()
    client.send(http.upgrade_request())
    asked = service.accept()
    asked.read_head()
    if wire:
        asked.send(wire)
        asked.end_sending()
    assert client.read_head().status == status
    expect(rig.gate, reason)
    for line in rig.gate.log:
        assert_prose(line)
    service.close()


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return certificates.Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def start(tmp_path):
    """Starts a wsgate with these lines on its listener, and this TLS toward its server; ends it with the test."""
    running = []

    def start(lines="", servers=("127.0.0.1:9",), tls=None, **options):
        text = gate.config(servers, extra={"upstream.main.tls": tls} if tls else None, **options)
        running.append(gate.Gate(tmp_path, text.replace("[[listener]]\n", f"[[listener]]\n{lines}\n")))
        return running[-1]

    yield start
    raw.drop_all()
    for wsgate in running:
        wsgate.stop()


def test_a_websocket_by_http_2(start, authority):
    """It is not served, and no plain request either."""
    pair = authority.sign("a", ["a.test"])
    wsgate = start(f"certificates = {certificates.toml([pair])}")
    command = ["curl", "-sS", "--http2", "--cacert", str(authority.file), "--resolve", f"a.test:{wsgate.address[1]}:127.0.0.1"]
    command += ["-H", f"Sec-WebSocket-Key: {http.KEY}", "-w", "%{http_code} %{http_version}"]
    command += [f"https://a.test:{wsgate.address[1]}/chat"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert done.stdout.splitlines() == ["a WebSocket is opened with HTTP/1.1", "400 2"]
    assert 'path="/chat"' in expect(wsgate, "http_version")
    assert len(refusals(wsgate)) == 1 and wsgate.metrics().total(REQUESTS) == 0, "it is no plain request as well"


def test_tls_failures_of_clients(start, authority):
    """A line for each kind a minute, with what is wrong and what to do."""
    pair = authority.sign("a", ["a.test"])
    wsgate = start(f'certificates = {certificates.toml([pair])}\nclient_ca = "{authority.file}"\nmin_tls = "1.3"')
    series = "wsgate_tls_handshake_failures_total"

    def shake(context):
        sock = socket.create_connection(wsgate.address, TIMEOUT)
        with contextlib.suppress(OSError), context.wrap_socket(sock, server_hostname="a.test") as client:
            # In TLS 1.3 a client hears of it when it reads.
            client.recv(1)
        sock.close()

    def send(wire):
        client = raw.connect(wsgate.address)
        client.send(wire)
        client.read_to_end()

    old = authority.client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    kinds = {
        "no_certificate": (shake, authority.client_context(), ["client_certificate"]),
        "nothing_in_common": (shake, old, ["min_tls"]),
        "alert": (shake, ssl.create_default_context(), ["authority", "cert"]),
        "not_tls": (send, b"\x00\x01\x02\x03\x04\x05\x06\x07", ["is not TLS"]),
        # This one is told so, and is no failure of TLS.
        "http_on_tls_port": (send, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", ["this port speaks TLS"]),
    }
    for reason, (act, what, words) in kinds.items():
        for _ in range(3):
            act(what)
        counted = CONNECTIONS if reason == "http_on_tls_port" else series
        wsgate.wait_for_metrics(lambda now, name=counted, reason=reason: now.total(name, reason=reason) == 3, reason)
        lines = [line for line in wsgate.log if f'reason="{reason}"' in line]
        assert len(lines) == 1 and " INFO " in lines[0] and 'peer="127.0.0.1:' in lines[0], lines
        assert_prose(lines[0])
        for word in words:
            assert word in lines[0], lines[0]


class TlsServer:
    """Answers one upgrade after the other over TLS with this certificate."""

    def __init__(self, pair):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair["cert"], pair["key"])
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.socket.getsockname())
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.socket.accept()
                sock.settimeout(TIMEOUT)
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    peer = raw.Peer(self.context.wrap_socket(sock, server_side=True), client=False)
                    head = peer.read_head()
                    upgrades = head.get("upgrade")
                    peer.send(http.switching_protocols(head) if upgrades else http.response("200 OK", b"ok"))

    def close(self):
        # Without it the thread would wait on in accept(2).
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def self_signed(directory, names, *more):
    """A certificate that is its own authority, as `openssl req -x509` makes it by default."""
    pair = {"cert": str(directory / "self.pem"), "key": str(directory / "self.key")}
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=own"]
    command += ["-keyout", pair["key"], "-out", pair["cert"], *more]
    command += ["-addext", f"subjectAltName={names}"] if names else []
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    return pair


def statuses(wsgate):
    """What an upgrade and a plain request are answered."""
    found = []
    for request in (http.upgrade_request(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
        client = raw.connect(wsgate.address)
        client.send(request)
        found.append(client.read_head().status)
        client.close()
    return found


def test_a_server_certificate_that_is_its_own_authority(start, tmp_path):
    """Named by `ca` it is believed: `check` says good, and so it is."""
    pair = self_signed(tmp_path, "IP:127.0.0.1")
    server = TlsServer(pair)
    wsgate = start(servers=[server.address], tls={"enabled": True, "ca": pair["cert"]})
    status, shown = gate.run(["check", "--config", str(wsgate.file)])
    assert status == 0, shown
    assert statuses(wsgate) == [101, 200]
    server.close()


@pytest.mark.parametrize("wrong", ["name", "no name", "other", "authority"])
def test_a_server_that_is_not_believed_is_explained(start, authority, tmp_path, wrong):
    """The log says what is wrong, with the names that the certificate has, and what to do."""
    names = {"name": "DNS:own.test,DNS:*.own.test", "no name": None}.get(wrong, "IP:127.0.0.1")
    pair = self_signed(tmp_path, names)
    ca = pair["cert"]
    words = {"name": ["`own.test`, `*.own.test`", "not for `127.0.0.1`", "server_name"], "no name": ["no names"],
             "other": ["`ca`"], "authority": ["authority", "`ca`"]}[wrong]
    if wrong == "other":
        ca = str(authority.file)
    if wrong == "authority":
        pair, ca = authority.sign("own", ["127.0.0.1"]), pair["cert"]
    server = TlsServer(pair)
    wsgate = start(servers=[server.address], tls={"enabled": True, "ca": ca})
    assert statuses(wsgate) == [502, 502]
    line = wsgate.wait_for_log(lambda line: "cannot be reached" in line and LINE not in line, "why")
    for word in words:
        assert word in line, line
    assert_prose(line)
    assert not [line for line in wsgate.log if "CaUsedAsEndEntity" in line or "UnknownIssuer" in line]
    server.close()


def test_proxy_protocol_refusals_are_written_once(start_rig):
    rig = start_rig(listener={"proxy_protocol": True}, client={"trusted_proxies": ["127.0.0.1"]})
    for _ in range(10):
        client = rig.connect()
        client.send(b"nonsense, and no header at all\r\n")
        client.read_to_end()
    series = "wsgate_proxy_protocol_failures_total"
    rig.gate.wait_for_metrics(lambda now: now.total(series, reason="malformed") == 10, "all to be counted")
    lines = [line for line in rig.gate.log if "for want of a PROXY protocol header" in line]
    assert len(lines) == 1 and 'reason="malformed"' in lines[0], lines
