"""TLS on listeners and toward servers, with the clients of Python, OpenSSL, curl and Chromium."""

import contextlib
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

from rig import certificates, frames, gate, http, peers, raw
from rig.raw import TIMEOUT


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return certificates.Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pairs(authority):
    return {"a": authority.sign("a", ["a.test", "*.a.test", "127.0.0.1"]), "b": authority.sign("b", ["b.test"])}


@pytest.fixture
def server():
    server = raw.Server()
    yield server
    server.close()


@pytest.fixture
def start(tmp_path):
    """Starts a wsgate with these keys on its listener; ends it with the test."""
    running = []

    def text(keys, servers, upstream=None, **options):
        extra = {"upstream.main.tls": upstream} if upstream else {}
        text = gate.config(servers, extra=extra, **options)
        lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
        return text.replace('[[listener]]\n', f"[[listener]]\n{lines}")

    def start(keys, servers, **options):
        running.append(gate.Gate(tmp_path, text(keys, servers, **options)))
        return running[-1]

    start.text = text
    yield start
    raw.drop_all()
    for wsgate in running:
        wsgate.stop()


def listener(*pairs, **keys):
    return {"certificates": certificates.toml(pairs)} | {key: f'"{value}"' for key, value in keys.items()}


def dial(wsgate, context, name="a.test"):
    sock = socket.create_connection(wsgate.address, TIMEOUT)
    try:
        return raw.Peer(context.wrap_socket(sock, server_hostname=name), client=True)
    except BaseException:
        sock.close()
        raise


def open_websocket(client, server, path="/", **request):
    client.send(http.upgrade_request(path, **request))
    upstream = server.accept()
    head = upstream.read_head()
    upstream.send(http.switching_protocols(head))
    assert client.read_head().status == 101
    return upstream, head


def assert_passes(client, upstream, payload=b"x" * 70_000):
    """Both ways, over more than one record."""
    for sender, receiver in ((client, upstream), (upstream, client)):
        sent = threading.Thread(target=sender.send_frame, args=(frames.BINARY, payload))
        sent.start()
        assert receiver.read_message() == (frames.BINARY, payload)
        sent.join(TIMEOUT)


def presented(wsgate, authority, name):
    """The common name of what is presented to who asks for `name`."""
    context = ssl.create_default_context(cafile=authority.file)
    context.check_hostname = False
    with contextlib.closing(dial(wsgate, context, name)) as client:
        return dict(pair[0] for pair in client.sock.getpeercert()["subject"])["commonName"]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_websocket_over_tls(start, server, authority, pairs, version):
    wsgate = start(listener(pairs["a"]), [server.address])
    context = authority.client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.set_alpn_protocols(["http/1.1"])
    client = dial(wsgate, context)
    assert client.sock.version() == version.replace("_", ".") and client.sock.selected_alpn_protocol() == "http/1.1"
    upstream, head = open_websocket(client, server)
    assert head.get("x-forwarded-proto") == "https"
    assert_passes(client, upstream)
    client.send_close(1000, "done")
    assert upstream.read_close() == (1000, "done")
    upstream.send_close(1000, "done")
    assert client.read_close() == (1000, "done")
    client.expect_eof()


def test_the_certificate_is_chosen_by_name(start, authority, pairs):
    wsgate = start(listener(pairs["a"], pairs["b"]), ["127.0.0.1:1"])
    for name, expected in {
        "a.test": "a.test", "x.a.test": "a.test", "b.test": "b.test", "B.Test": "b.test", "other.test": "a.test"
    }.items():
        assert presented(wsgate, authority, name) == expected, name


def test_openssl_verifies_it_and_old_versions_are_refused(start, authority, pairs):
    wsgate = start(listener(pairs["a"]) | {"min_tls": '"1.3"'}, ["127.0.0.1:1"])
    command = ["openssl", "s_client", "-connect", wsgate.url, "-servername", "a.test", "-CAfile", authority.file,
               "-verify_return_error", "-brief"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert "Verification: OK" in done.stderr and "TLSv1.3" in done.stderr, done.stderr
    for option in ["-tls1_1", "-tls1_2"]:
        done = subprocess.run([*command, option, "-cipher", "DEFAULT@SECLEVEL=0"], input="", capture_output=True,
                              text=True, timeout=TIMEOUT, check=False)
        assert done.returncode != 0 and "alert" in done.stderr, done.stderr


@pytest.mark.parametrize("option", ["-tls1_1", "-tls1"])
def test_what_is_older_than_1_2_is_refused(start, pairs, option):
    wsgate = start(listener(pairs["a"]), ["127.0.0.1:1"])
    command = ["openssl", "s_client", "-connect", wsgate.url, option, "-cipher", "DEFAULT@SECLEVEL=0"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode != 0 and "SSL alert number" in done.stderr, done.stderr


def test_plain_requests_over_http2_and_http1(start, authority, pairs):
    server = peers.Server("ws")
    wsgate = start(listener(pairs["a"]), [server.address])
    port = wsgate.address[1]
    command = ["curl", "--silent", "--show-error", "--fail", "--cacert", authority.file, "--resolve",
               f"a.test:{port}:127.0.0.1", "--write-out", "%{http_version} %{num_connects}\n"]
    for option, version in {"--http2": "2", "--http1.1": "1.1"}.items():
        # Twice: the second request goes over the same connection.
        urls = [f"https://a.test:{port}/page.html"] * 2
        done = subprocess.run([*command, option, *urls], capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("<title>wsgate test page</title>") == 2
        assert f"{version} 1\n" in done.stdout and done.stdout.endswith(f"{version} 0\n"), done.stdout[-200:]
    server.stop()


def test_chromium_over_wss(start, authority, pairs, tmp_path):
    """The page by HTTP/2, its WebSockets by HTTP/1.1: each on a connection of its own."""
    server = peers.Server("ws")
    wsgate = start(listener(pairs["a"]), [server.address])
    bad = {"client": {}, "server": {}}
    run = peers.Run("chromium", wsgate.url, bad, tmp_path / "profile", scheme="wss")
    assert run.result("page")["title"] == "wsgate test page"
    for scenario in ["text", "large_text", "large_binary", "many"]:
        assert run.result(scenario)["equal"], scenario
    assert run.result("server_closes_4001")["code"] == 4001
    server.stop()


def test_client_certificates(start, server, authority, pairs, tmp_path):
    other = certificates.Authority(tmp_path / "other", "another CA")
    device = authority.sign("device", subject="/O=Example, Inc./CN=device-7")
    stranger = other.sign("stranger", subject="/CN=device-7")
    keys = listener(pairs["a"], client_ca=authority.file, client_subject_header="X-Client-Subject")
    wsgate = start(keys, [server.address])
    forged = {"headers": {"X-Client-Subject": "CN=root"}}

    def refused(pair):
        with pytest.raises((ssl.SSLError, raw.Ended, ConnectionError)):
            client = dial(wsgate, authority.client_context(pair))
            client.send(http.upgrade_request())
            client.read_head()

    client = dial(wsgate, authority.client_context(device))
    upstream, head = open_websocket(client, server, **forged)
    assert head.all("x-client-subject") == ["CN=device-7,O=Example\\, Inc."]
    refused(None)
    refused(stranger)
    wsgate.reload(start.text(keys | {"client_certificate": '"optional"'}, [server.address]))
    anonymous = dial(wsgate, authority.client_context())
    assert open_websocket(anonymous, server, **forged)[1].all("x-client-subject") == []
    refused(stranger)
    assert_passes(client, upstream)


@pytest.mark.parametrize("kind", ["plain", "upgrade", "upgrade with an absolute target"])
def test_the_subject_is_ours_to_tell(start, server, authority, pairs, kind):
    """Whoever reads the head: what a client says of itself under that name never reaches a server."""
    keys = listener(pairs["a"], client_ca=authority.file, client_subject_header="X-Client-Subject")
    wsgate = start(keys | {"client_certificate": '"optional"'}, [server.address])
    device = authority.sign("device", subject="/CN=device-7")
    path = "http://gate.test/a" if "absolute" in kind else "/a"
    forged = http.upgrade_request(path, headers={"X-Client-Subject": "CN=root"}, extra=["x-client-SUBJECT: CN=admin"])
    if kind == "plain":
        forged = b"GET /a HTTP/1.1\r\nHost: gate.test\r\nX-Client-Subject: CN=root\r\nx-client-SUBJECT: CN=admin\r\n\r\n"
    for pair, told in ((device, ["CN=device-7"]), (None, [])):
        client = dial(wsgate, authority.client_context(pair) if pair else authority.client_context())
        client.send(forged)
        upstream = server.accept()
        assert upstream.read_head().all("x-client-subject") == told
        upstream.close()
        client.close()


def test_a_new_certificate_touches_nobody_and_a_bad_one_changes_nothing(start, server, authority, tmp_path):
    files = authority.sign("renewed", ["old.test"])
    wsgate = start(listener(files), [server.address])
    context = authority.client_context()
    context.check_hostname = False
    client = dial(wsgate, context)
    upstream, _ = open_websocket(client, server)
    assert presented(wsgate, authority, "old.test") == "old.test"

    # By a signal: the file of another key, one that has run out, one that is none.
    other = authority.sign("other", ["other.test"])

    def hang_up(message):
        seen = len(wsgate.log)
        wsgate.process.send_signal(signal.SIGHUP)
        wsgate.wait_for_log(lambda line: "not reloaded, nothing has changed" in line and message in line, message, seen)
        assert presented(wsgate, authority, "old.test") == "old.test"

    shutil.copy(other["cert"], files["cert"])
    hang_up("is not that of the certificate")
    authority.sign("renewed", ["old.test"], ended=True)
    hang_up("ran out on 2020-02-01")
    pathlib.Path(files["cert"]).write_text("")
    hang_up("holds no certificate")
    wsgate.wait_for_log(lambda line: "the one before stays in force" in line, "that a file is refused")

    # And without one, when its file changes.
    seen = len(wsgate.log)
    authority.sign("renewed", ["new.test"], days=5)
    wsgate.wait_for_log(lambda line: "in force from now on" in line, "of the new certificate", seen)
    assert presented(wsgate, authority, "new.test") == "new.test"
    in_five_days = time.time() + 5 * 86_400
    wsgate.wait_for_metrics(
        lambda now: abs(now.total("wsgate_certificate_expiry_timestamp_seconds") - in_five_days) < 600, "its expiry"
    )
    assert_passes(client, upstream)


def test_check_verifies_the_files(start, authority, pairs, tmp_path):
    ended = authority.sign("ended", ["ended.test"], ended=True)
    for pair, status, message in [
        (pairs["a"], 0, ""),
        (ended, 1, "ran out on 2020-02-01"),
        (pairs["a"] | {"key": pairs["b"]["key"]}, 1, "is not that of the certificate"),
        (pairs["a"] | {"key": "/nonexistent"}, 1, "cannot be read"),
    ]:
        file = tmp_path / "wsgate.toml"
        file.write_text(start.text(listener(pair), ["127.0.0.1:1"]))
        code, output = gate.run(["check", "--config", str(file)])
        assert (code != 0) == (status != 0) and message in output, output


class TlsServer:
    """A server over TLS; what it saw of each client."""

    def __init__(self, pair, client_ca=None):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair["cert"], pair["key"])
        if client_ca:
            self.context.load_verify_locations(client_ca)
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.names = []
        self.context.sni_callback = lambda sock, name, context: self.names.append(name)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(TIMEOUT)
        self.address = "127.0.0.1:{}".format(self.socket.getsockname()[1])

    def accept(self):
        sock, _ = self.socket.accept()
        return raw.Peer(self.context.wrap_socket(sock, server_side=True), client=False)

    def close(self):
        self.socket.close()


def upgrade_in_background(wsgate):
    client = raw.connect(wsgate.address)
    client.send(http.upgrade_request())
    return client


def test_servers_over_tls(start, authority, pairs):
    server = TlsServer(pairs["a"], client_ca=authority.file)
    own = authority.sign("gate", subject="/CN=gate")
    keys = {"enabled": True, "server_name": "x.a.test", "ca": str(authority.file)} | own
    wsgate = start({}, [server.address], upstream=keys)
    client = upgrade_in_background(wsgate)
    upstream = server.accept()
    upstream.send(http.switching_protocols(upstream.read_head()))
    assert client.read_head().status == 101
    assert_passes(client, upstream)
    assert server.names == ["x.a.test"]
    assert dict(pair[0] for pair in upstream.sock.getpeercert()["subject"])["commonName"] == "gate"
    # The server vanishes without a word: its client is told to come again.
    upstream.sock.shutdown(socket.SHUT_RDWR)
    assert client.read_close()[0] == 1012
    # A plain request, and a second one over the same connection.
    plain = raw.connect(wsgate.address)
    plain.send(b"GET /1 HTTP/1.1\r\nHost: a.test\r\n\r\n")
    upstream = server.accept()
    for path in ["/1", "/2"]:
        assert upstream.read_head().path == path
        upstream.send(http.response("200 OK", b"hello"))
        assert plain.read_body(plain.read_head()) == b"hello"
        if path == "/1":
            plain.send(b"GET /2 HTTP/1.1\r\nHost: a.test\r\n\r\n")
    server.close()


@pytest.mark.parametrize("wrong", ["ca", "name", "plain"])
def test_servers_that_are_not_who_they_should_be(start, authority, pairs, tmp_path, wrong):
    ca = certificates.Authority(tmp_path / "other", "another CA").file if wrong == "ca" else authority.file
    server = TlsServer(pairs["b" if wrong == "name" else "a"])
    wsgate = start({}, [server.address], upstream={"enabled": True, "ca": str(ca)})
    for request in [http.upgrade_request(), b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"]:
        client = raw.connect(wsgate.address)
        client.send(request)
        if wrong == "plain":
            sock, _ = server.socket.accept()
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                server.accept().sock.read()
        assert client.read_head().status == 502
    wsgate.wait_for_log(lambda line: "cannot be reached" in line, "why")
    server.close()


def test_verification_can_be_switched_off(start, pairs):
    server = TlsServer(pairs["b"])
    wsgate = start({}, [server.address], upstream={"enabled": True, "verify": False})
    client = upgrade_in_background(wsgate)
    upstream = server.accept()
    upstream.send(http.switching_protocols(upstream.read_head()))
    assert client.read_head().status == 101
    wsgate.wait_for_log(lambda line: "are not verified" in line, "a warning")
    server.close()


def test_streams_that_end_anywhere(start, server, authority, pairs):
    """In the handshake, in a record, in the middle of a WebSocket: nothing panics, nothing leaks."""
    wsgate = start(listener(pairs["a"]), [server.address])
    # What the process opens once is open then.
    client = dial(wsgate, authority.client_context())
    upstream, _ = open_websocket(client, server)
    client.close()
    upstream.close()
    wsgate.wait_until_idle()
    before = wsgate.open_files()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = authority.client_context().wrap_bio(incoming, outgoing, server_hostname="a.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    hello = outgoing.read()
    for cut in [0, 1, 4, 5, 6, 50, len(hello) - 1, len(hello)]:
        with socket.create_connection(wsgate.address, TIMEOUT) as sock:
            sock.sendall(hello[:cut])
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    with socket.create_connection(wsgate.address, TIMEOUT) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 400 "), "a sentence"
    # Each of the cuts.
    failures = {"listener": "127.0.0.1:0"}
    wsgate.wait_for_metrics(lambda now: now.total("wsgate_tls_handshake_failures_total", **failures) == 8, "failures")
    # Gone without a close_notify.
    client = dial(wsgate, authority.client_context())
    upstream, _ = open_websocket(client, server)
    socket.socket(fileno=client.sock.detach()).close()
    assert upstream.read_close()[0] == 1001
    upstream.close()
    # Half-closed behind a Close: the answer still comes.
    client = dial(wsgate, authority.client_context())
    upstream, _ = open_websocket(client, server)
    client.send_close(1000)
    assert upstream.read_close()[0] == 1000
    upstream.send_close(1000)
    assert client.read_close()[0] == 1000
    client.close()
    upstream.close()
    wsgate.wait_until_idle()
    wsgate.wait_for_metrics(lambda _: wsgate.open_files() <= before + 2, "closed descriptors")
