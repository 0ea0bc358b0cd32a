"""The admin listener against pages of other sites, slow clients and strangers; and what Prometheus, probes and `curl` get."""

import json
import os
import pathlib
import pwd
import re
import shlex
import socket
import stat
import subprocess
import urllib.request

import pytest

from rig import gate, http, raw
from rig.raw import TIMEOUT

DRAIN = "/v1/upstreams/main/drain"
RESUME = "/v1/upstreams/main/resume"
JSON = {"Content-Type": "application/json"}
OURS = {"X-Wsgate": "1"}


@pytest.fixture
def start(tmp_path):
    """Starts a wsgate with these lines in [admin]; ends it with the test."""
    running = []

    def start(admin="", listen="127.0.0.1:0", before=""):
        text = gate.config(["127.0.0.1:9", "127.0.0.1:10"]).replace('listen = "127.0.0.1:0"', f'listen = "{listen}"\n{admin}', 1)
        running.append(gate.Gate(tmp_path, before + text))
        return running[-1]

    yield start
    raw.drop_all()
    for wsgate in running:
        wsgate.stop()


def dial(wsgate):
    """A connection to the admin listener."""
    if isinstance(wsgate.admin, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT)
        sock.connect(wsgate.admin.removeprefix("unix:"))
        return raw.Peer(sock, client=True)
    return raw.Peer(socket.create_connection(("127.0.0.1", wsgate.admin[1]), TIMEOUT), client=True)


def head(method, path, headers=None, *, host="", version="HTTP/1.1"):
    """The bytes of a request's head; `host=None` leaves the Host out, "" is what a client on this machine writes."""
    lines = [f"{method} {path} {version}"]
    if host is not None:
        lines.append(f"Host: {host or '127.0.0.1:9900'}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def ask(wsgate, method, path, headers=None, body=b"", **options):
    """The head and the body of an answer, on a connection of its own."""
    client = dial(wsgate)
    headers = (headers or {}) | ({"Content-Length": len(body)} if body else {})
    client.send(head(method, path, headers, **options) + body)
    answer = client.read_head()
    text = client.read_body(answer).decode() if method != "HEAD" else ""
    client.close()
    assert answer.get("server") is None, f"an answer that is not wsgate's: {answer.wire!r}"
    return answer, text


def refused(wsgate, status, *arguments, **options):
    """The sentence of a refusal of this status under /v1, which is JSON."""
    answer, body = ask(wsgate, *arguments, **options)
    assert answer.status == status, f"{answer.start}: {body}"
    assert answer.get("content-type") == "application/json", answer.wire
    sentence = json.loads(body)["error"]
    assert len(sentence.split()) > 3, sentence
    return sentence


# Pages of other sites


@pytest.mark.parametrize(
    "page",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8080"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:9900", "Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
def test_a_page_of_another_site_changes_and_reads_nothing(start, page):
    wsgate = start()
    for method, path in [("POST", DRAIN), ("POST", RESUME), ("POST", "/v1/reload"), ("DELETE", DRAIN), ("OPTIONS", DRAIN)]:
        assert "page" in refused(wsgate, 403, method, path, page | JSON | OURS, b"{}")
    assert "page" in refused(wsgate, 403, "GET", "/v1/status", page)
    state = json.loads(ask(wsgate, "GET", "/v1/status")[1])["upstreams"][0]["servers"][0]["state"]
    assert state == "up", "nothing has changed"


def test_a_page_of_the_same_origin_is_served(start):
    wsgate = start()
    page = {"Origin": "http://127.0.0.1:9900", "Sec-Fetch-Site": "same-origin"}
    assert ask(wsgate, "POST", RESUME, page | JSON, b"{}")[0].status == 200
    assert ask(wsgate, "GET", "/v1/status", {"Sec-Fetch-Site": "none"})[0].status == 200


def test_what_a_form_can_send_changes_nothing(start):
    """A form, or a script without the consent of CORS, sends neither JSON's media type nor a header of ours."""
    wsgate = start()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        sentence = refused(wsgate, 415, "POST", DRAIN, {"Content-Type": kind}, b'{"over": "1s"}')
        assert "application/json" in sentence
    for method, path in [("POST", RESUME), ("POST", "/v1/reload"), ("DELETE", DRAIN)]:
        assert "X-Wsgate: 1" in refused(wsgate, 403, method, path)
        assert "X-Wsgate: 1" in refused(wsgate, 403, method, path, {"Content-Type": "text/plain"})
    assert ask(wsgate, "POST", RESUME, OURS)[0].status == 200
    assert ask(wsgate, "DELETE", DRAIN, OURS)[0].status == 200
    assert ask(wsgate, "POST", RESUME, {"Content-Type": "application/json; charset=utf-8"}, b"{}")[0].status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9900", 200),
        ("127.0.0.1", 200),
        ("localhost:1", 200),
        ("LocalHost", 200),
        ("[::1]:9900", 200),
        ("10.1.2.3:9900", 200),
        ("wsgate.internal:9900", 200),
        ("Wsgate.Internal", 200),
        (socket.gethostname(), 200),
        ("evil.example", 421),
        ("evil.example:9900", 421),
        ("wsgate.internal.evil.example", 421),
        ("127.0.0.1.evil.example:9900", 421),
        ("localhost.evil.example", 421),
        ("a@localhost", 400),
        ("127.0.0.1:x", 400),
        ("[::1", 400),
    ],
)
def test_names_that_it_does_not_know_are_refused(start, host, status):
    """A page whose name is made to resolve to this machine sends its own name."""
    wsgate = start('hosts = ["wsgate.internal"]')
    for path in ("/v1/status", "/metrics"):
        answer, body = ask(wsgate, "GET", path, host=host)
        assert answer.status == status, f"{path}: {answer.start}: {body}"
        if status == 421:
            assert "hosts" in body, body
    assert ask(wsgate, "GET", f"http://{host}/metrics", host="127.0.0.1")[0].status == status, "in absolute form"
    # They tell nothing, and those who ask have all sorts of names for it.
    if status != 400:
        assert ask(wsgate, "GET", "/healthz", host=host)[0].status == 200
        assert ask(wsgate, "GET", "/readyz", host=host)[0].status == 200


def test_a_request_without_a_host(start):
    """As HAProxy's checks are, by HTTP/1.0; no browser sends it."""
    wsgate = start()
    assert ask(wsgate, "GET", "/readyz", host=None, version="HTTP/1.0")[0].status == 200
    assert ask(wsgate, "GET", "/metrics", host=None, version="HTTP/1.0")[0].status == 200
    answer, body = ask(wsgate, "GET", "/metrics", host=None)
    assert answer.status == 400 and "Host" in body
    assert ask(wsgate, "GET", "/metrics", {"Host ": "x"}, host="localhost")[0].status == 400
    assert ask(wsgate, "GET", "/metrics", {"HOST": "evil.example"}, host="localhost")[0].status == 400


def test_every_address_is_listened_on(start):
    """Scrapers and probes come by an address, and by the names that are configured."""
    wsgate = start('hosts = ["wsgate.internal"]', listen="0.0.0.0:0")
    for host, status in {"10.42.0.7:9900": 200, "[fd00::7]:9900": 200, "wsgate.internal": 200, "wsgate": 421}.items():
        assert ask(wsgate, "GET", "/metrics", host=host)[0].status == status, host
    assert "token_file" in refused(wsgate, 403, "POST", RESUME, OURS)


# The token


def test_a_token_is_wanted_for_everything_under_v1(start, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    wsgate = start(f'token_file = "{token}"')
    bearer = {"Authorization": "Bearer s3cret"}
    for path in ("/v1/status", DRAIN, "/v1/nothing"):
        for offered in ({}, {"Authorization": "Bearer guess"}, {"Authorization": "Basic s3cret"}):
            assert "token" in refused(wsgate, 401, "GET", path, offered)
    assert ask(wsgate, "GET", "/v1/status", bearer)[0].status == 200
    assert ask(wsgate, "HEAD", "/v1/status", bearer)[0].status == 200
    refused(wsgate, 404, "GET", "/v1/nothing", bearer)
    assert ask(wsgate, "POST", RESUME, bearer | OURS)[0].status == 200
    for path in ("/metrics", "/healthz", "/readyz"):
        assert ask(wsgate, "GET", path)[0].status == 200, path


def test_metrics_may_want_the_token_too(start, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    wsgate = start(f'token_file = "{token}"\nmetrics_token = true')
    answer, _ = ask(wsgate, "GET", "/metrics")
    assert (answer.status, answer.get("www-authenticate")) == (401, "Bearer")
    assert ask(wsgate, "GET", "/metrics", {"Authorization": "Bearer s3cret"})[0].status == 200
    for path in ("/healthz", "/readyz"):
        assert ask(wsgate, "GET", path)[0].status == 200, path


# The Unix socket


@pytest.mark.parametrize(("line", "mode"), [("", 0o600), ('socket_mode = "0660"', 0o660)])
def test_the_socket_is_its_owners(start, tmp_path, line, mode):
    before = os.umask(0)
    try:
        path = tmp_path / "admin.sock"
        user = 'user = "nobody"\n' if os.geteuid() == 0 else ""
        if user:
            # The directory of a test is its own user's.
            for above in [tmp_path, *tmp_path.parents[:3]]:
                above.chmod(above.stat().st_mode | 0o111)
        wsgate = start(line, listen=f"unix:{path}", before=user)
    finally:
        os.umask(before)
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == mode
    if user:
        nobody = pwd.getpwnam("nobody")
        assert (found.st_uid, found.st_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert ask(wsgate, "POST", RESUME, OURS, host="anything")[0].status == 200
    assert ask(wsgate, "GET", "/metrics", host="evil.example")[0].status == 200, "no page reaches a Unix socket"
    status, shown = gate.run(["status", "--admin", f"unix:{path}"])
    assert status == 0 and "main" in shown, shown


def test_the_mode_and_the_names_are_read_again(start, tmp_path):
    path = tmp_path / "admin.sock"
    wsgate = start(listen=f"unix:{path}")
    wsgate.reload(wsgate.file.read_text().replace("[admin]\n", '[admin]\nsocket_mode = "0660"\n'))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    other = start()
    assert ask(other, "GET", "/metrics", host="wsgate.internal")[0].status == 421
    other.reload(other.file.read_text().replace("[admin]\n", '[admin]\nhosts = ["wsgate.internal"]\n'))
    assert ask(other, "GET", "/metrics", host="wsgate.internal")[0].status == 200


# Slow and broken clients


def test_an_answer_of_wsgates_own_to_everything(start):
    """None is empty or Pingora's, whatever the request is; under /v1 they are JSON."""
    wsgate = start()
    for wire, status in {
        b"GET /metrics?a=<b> HTTP/1.1\r\nHost: localhost\r\n\r\n": 200,
        b"nonsense\r\n\r\n": 400,
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nno header\r\n\r\n": 400,
        b"GET /v1/status HTTP/3.0\r\nHost: localhost\r\n\r\n": 400,
        b"GET metrics HTTP/1.1\r\nHost: localhost\r\n\r\n": 400,
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n": 405,
        b"PUT /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n": 405,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n": 404,
        head("POST", RESUME, OURS | {"Transfer-Encoding": "chunked"}) + b"0\r\n\r\n": 411,
        head("POST", RESUME, OURS | {"Content-Length": "x"}): 400,
        head("POST", RESUME, OURS | {"Content-Length": "1", "content-length": "2"}): 400,
        head("POST", RESUME, JSON | {"Content-Length": str(1 << 20)}): 413,
        head("POST", RESUME, JSON | {"Content-Length": str(1 << 70)}): 413,
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n": 431,
        head("GET", "/metrics", {f"X-{n}": "a" for n in range(300)}): 431,
    }.items():
        client = dial(wsgate)
        client.send(wire)
        answer = client.read_head()
        body = client.read_body(answer)
        assert answer.status == status, f"{wire[:100]!r}: {answer.wire!r} {body!r}"
        assert body and answer.get("server") is None, answer.wire
        client.close()
    assert "upstream" in refused(wsgate, 404, "GET", "/v1/upstreams/none/drain")
    refused(wsgate, 404, "POST", "/v1/nothing", OURS)
    refused(wsgate, 405, "PUT", RESUME, OURS)


def test_a_head_that_drips_is_ended(start):
    """However many bytes come, and however often."""
    wsgate = start()
    client = dial(wsgate)
    client.send(b"GET /metrics HTTP/1.1\r\nHost: loc")
    answer = client.read_head()
    assert answer.status == 408 and b"head" in client.read_body(answer)
    client.expect_eof()


def test_a_body_that_does_not_come_is_ended(start):
    wsgate = start()
    client = dial(wsgate)
    client.send(head("POST", DRAIN, JSON | {"Content-Length": 10}) + b"{")
    answer = client.read_head()
    assert answer.status == 408 and "body" in json.loads(client.read_body(answer))["error"]
    client.expect_eof()


def test_silent_clients_leave(start):
    """A connection that never asks anything ends, and its descriptor with it."""
    wsgate = start()
    clients = [dial(wsgate) for _ in range(20)]
    for client in clients:
        client.sock.settimeout(3 * TIMEOUT)
        client.expect_eof()
        client.close()


@pytest.mark.parametrize("wire", [b"", b"GET /hea", head("POST", DRAIN, JSON | {"Content-Length": 10}) + b"{"],
                         ids=["silent", "in the head", "in the body"])
def test_connections_have_a_bound(start, wire):
    """However many clients hold connections that they do not use, others are served."""
    wsgate = start()
    before = wsgate.open_files()
    crowd = []
    for _ in range(300):
        crowd.append(dial(wsgate))
        crowd[-1].send(wire)
    for _ in range(3):
        answer, body = ask(wsgate, "GET", "/healthz")
        assert (answer.status, body) == (200, "ok\n")
    # Those that had to go give their descriptors back.
    wsgate.wait_for_open_files(before + 160)
    for client in crowd:
        client.close()


def test_a_connection_is_used_again(start):
    """As Prometheus does."""
    wsgate = start()
    client = dial(wsgate)
    for _ in range(3):
        client.send(head("GET", "/metrics"))
        answer = client.read_head()
        assert answer.status == 200 and b"wsgate_build_info" in client.read_body(answer)
    client.send(head("POST", RESUME, JSON | {"Content-Length": 2}) + b"{}")
    assert client.read_head().status == 200
    client.forget_read()
    other = dial(wsgate)
    other.send(head("GET", "/healthz", {"Connection": "close"}))
    answer = other.read_head()
    assert other.read_body(answer) == b"ok\n"
    other.expect_eof()


def test_a_body_that_is_announced_is_asked_for(start):
    """As curl announces larger ones."""
    wsgate = start()
    client = dial(wsgate)
    client.send(head("POST", RESUME, JSON | {"Content-Length": 2, "Expect": "100-continue"}))
    assert client.read_head().status == 100
    client.send(b"{}")
    assert client.read_head().status == 200


def test_the_lines_of_the_readme(start):
    """Every `curl` of README.md does what stands beside it."""
    wsgate = start()
    readme = pathlib.Path(__file__).resolve().parents[2] / "README.md"
    lines = [line for line in readme.read_text().splitlines() if line.startswith("curl ")]
    assert len(lines) >= 5
    for line in lines:
        line = line.replace("127.0.0.1:9900", "{}:{}".format(*wsgate.admin)).replace("/chat/", "/main/")
        line = line.replace("10.0.0.5:9000", "127.0.0.1:9")
        arguments = shlex.split(line, comments=True)
        done = subprocess.run([*arguments, "-sS", "-f"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"


def test_a_listener_for_probes_has_no_control(start):
    wsgate = start('probes = "127.0.0.2:0"\nready_needs_servers = true')
    line = wsgate.wait_for_log(lambda line: "probes and metrics are served" in line, "where they are")
    port = int(re.search(r"127\.0\.0\.2:(\d+)", line)[1])
    with socket.create_connection(("127.0.0.2", port), TIMEOUT) as sock:
        client = raw.Peer(sock, client=True)
        for method, path, code in [
            ("GET", "/healthz", 200),
            ("GET", "/readyz", 200),
            ("GET", "/metrics", 200),
            ("GET", "/v1/status", 404),
            ("POST", "/v1/reload", 404),
            ("POST", DRAIN, 404),
        ]:
            client.send(head(method, path, OURS, host=f"127.0.0.2:{port}"))
            answer = client.read_head()
            body = client.read_body(answer)
            assert answer.status == code, f"{method} {path}: {answer.start} {body}"
            assert code == 200 or b"the other one of [admin]" in body, body
    assert ask(wsgate, "GET", "/v1/status", OURS)[0].status == 200
    assert ask(wsgate, "POST", "/v1/reload", OURS)[0].status == 200
    wsgate.wait_for_log(lambda line: "configuration reloaded" in line and "by=\"127.0.0.1\"" in line, "of who asked")


def test_urllib_as_a_script_would(start):
    wsgate = start()
    request = urllib.request.Request("http://{}:{}{}".format(*wsgate.admin, RESUME), data=b"{}", method="POST", headers=JSON)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        assert json.load(answer)["cancelled"] == 0
