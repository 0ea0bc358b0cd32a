"""Request heads: which route they lead to, however they are written, and what is refused (RFC 9112 §3, RFC 3986 §6)."""

import base64
import subprocess

import pytest

from rig import certificates, http

GUARDED = [
    {"name": "open", "upstream": "main"},
    {"name": "admin", "upstream": "main", "path": "/admin", "deny": ["0.0.0.0/0", "::/0"]},
]

SPELLINGS = [
    "//admin",
    "/%61dmin",
    "/%2561dmin",
    "/x/../admin",
    "/x/..%2fadmin",
    "/x/%2e%2e/admin",
    "/admin;a=b",
    "/x/..;/admin",
    "/\\admin",
    "/x\\..\\admin",
    "/./admin",
    "/%c0%afadmin",
    "/admin%2fx",
    "/admin/../x",
    "//admin/../x",
]
"""Paths that some server takes for /admin or something below it."""

NO_TARGETS = ["admin", "?x=1", "foo:/ws", "ws://gate.test/", "http:/gate.test/", "http://", "/a#b", "/a%00b"]


def plain(target, *, host="gate.test", version="HTTP/1.1", method="GET", extra=()):
    """A plain request."""
    lines = [f"{method} {target} {version}", *([f"Host: {host}"] if host is not None else []), *extra, "", ""]
    return "\r\n".join(lines).encode()


def upgrade(target, **wrong):
    """An upgrade request."""
    return http.upgrade_request(target, **wrong)


def refusal(rig, sent):
    """What a request is answered that reaches no server: the status and the sentence."""
    client = rig.connect()
    client.send(sent)
    answer = client.read_head()
    body = client.read_body(answer)
    client.close()
    assert answer.get("content-type") == "text/plain; charset=utf-8", answer.wire
    assert len(body) > 15 and body.endswith(b"\n"), f"no sentence: {answer.wire!r} {body!r}"
    assert answer.get("server") is None, answer.wire
    return answer.status, body.decode()


def got_by_server(rig, sent, marker):
    """The head that the server gets of a request, whose target there has to be `marker`; it answers an upgrade with a 101."""
    client = rig.connect()
    client.send(sent)
    upstream, head = rig.server.accept_request(marker)
    if head.get("sec-websocket-key"):
        upstream.send(http.switching_protocols(head))
        assert client.read_head().status == 101
    else:
        upstream.send(http.response("200 OK", b"served", headers={"Connection": "close"}))
        assert client.read_head().status == 200
    upstream.close()
    client.close()
    return head


# Paths


@pytest.mark.parametrize("request_of", [upgrade, plain], ids=["upgrade", "plain"])
def test_no_spelling_passes_the_rules_of_another_route(start_rig, request_of):
    rig = start_rig(routes=GUARDED)
    for path in ("/admin", "/admin/x", "/admin?x", "/admin//x", "/admin/%41/./b;c"):
        status, _ = refusal(rig, request_of(path))
        assert status == 403, f"{path} was answered {status}"
    for path in SPELLINGS:
        status, sentence = refusal(rig, request_of(path))
        assert status == 400 and "two ways" in sentence, f"{path} was answered {status} {sentence}"
    rig.assert_nothing_reached_the_server()


@pytest.mark.parametrize("request_of", [upgrade, plain], ids=["upgrade", "plain"])
@pytest.mark.parametrize("end", ["/Admin", "/administrator", "//x/../y", "/%7Euser/a%2Fb", "/a;b=c/./d", "/caf%C3%A9?/../admin"])
def test_a_path_without_doubt_goes_on_as_it_was_written(start_rig, request_of, end):
    rig = start_rig(routes=GUARDED)
    path = rig.new_path() + end
    assert got_by_server(rig, request_of(path), path).path == path


def test_no_spelling_passes_the_rules_of_another_route_in_http2(start_rig, tmp_path):
    pair = certificates.Authority(tmp_path / "authority").sign("app", ["app.test"])
    rig = start_rig(routes=GUARDED, listener={"certificates": [pair]})
    port = rig.gate.address[1]

    def ask(path, *options):
        told = ["curl", "--silent", "--insecure", "--http2", "--path-as-is", "--max-time", "10"]
        told += ["--write-out", "\n%{http_version} %{http_code}", "--resolve", f"app.test:{port}:127.0.0.1", *options]
        done = subprocess.run([*told, f"https://app.test:{port}{path}"], capture_output=True, timeout=20, check=False)
        return done.stdout.decode()

    assert ask("/admin").endswith("2 403")
    for path in SPELLINGS:
        answered = ask(path)
        assert answered.endswith("2 400") and "two ways" in answered, f"{path} was answered {answered!r}"
    for host in ("a,b", "a..b", "127.1"):
        answered = ask("/", "--header", f"Host: {host}")
        assert answered.endswith("2 400") and "host" in answered, f"{host} was answered {answered!r}"
    # The library for HTTP/2 resets the stream.
    assert ask("/", "--header", "Host: evil.net/.example.com").endswith(" 000")


# Targets


@pytest.mark.parametrize("target", [*NO_TARGETS, "/a b", "/a\tb", "/a\x01b", "/a\x7fb"])
def test_what_is_no_target_is_answered_400(rig, target):
    status, sentence = refusal(rig, upgrade(target))
    # Such a byte ends the connection where it stands: no request line has one.
    told = ["does not begin with an HTTP request"] if "\x01" in target else ["target", "path"]
    assert status == 400 and any(word in sentence for word in told), sentence
    rig.assert_nothing_reached_the_server()


@pytest.mark.parametrize("target", [target for target in NO_TARGETS if target not in ("http:/gate.test/", "http://")])
def test_what_is_no_target_is_answered_400_to_plain_requests(rig, target):
    status, sentence = refusal(rig, plain(target))
    assert status == 400 and ("target" in sentence or "path" in sentence), sentence
    rig.assert_nothing_reached_the_server()


@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
@pytest.mark.parametrize("request_of", [upgrade, plain], ids=["upgrade", "plain"])
def test_an_absolute_target_goes_on_in_origin_form(rig, request_of, scheme):
    path = rig.new_path() + "?a=b"
    head = got_by_server(rig, request_of(f"{scheme}://gate.test{path}"), path)
    assert (head.path, head.all("host")) == (path, ["gate.test"])
    head = got_by_server(rig, request_of(f"{scheme}://gate.test?{path}"), "/?" + path)
    assert head.path == "/?" + path


def test_an_old_absolute_target_says_the_host(rig):
    path = rig.new_path()
    head = got_by_server(rig, plain(f"http://old.test{path}", host=None, version="HTTP/1.0"), path)
    assert (head.path, head.all("host")) == (path, ["old.test"])


@pytest.mark.parametrize(
    "query", ['?filter={"a":1}', "?a=<b>", "?\u00fc=\u00e9", "?a=`|\\^[]", "?a=%zz"], ids=["json", "tags", "latin", "odd", "percent"]
)
def test_a_query_that_is_no_uri_goes_on_as_it_was_written(rig, query):
    """nginx passes it, browsers and libraries send it."""
    path = rig.new_path() + query
    assert got_by_server(rig, upgrade(path), path).path == path


def test_a_refused_upgrade_with_such_a_query_is_told_why(start_rig):
    rig = start_rig(routes=[{"name": "chat", "upstream": "main", "path": "/ws"}])
    status, sentence = refusal(rig, upgrade('/other?{"a":<b>}'))
    assert (status, sentence) == (404, "no route for this host and path\n")
    status, sentence = refusal(rig, upgrade('/ws?{"a":<b>}', headers={"Sec-WebSocket-Version": "8"}))
    assert status == 426 and "version 13" in sentence


@pytest.mark.parametrize(
    ("extra", "status", "about"),
    [
        (["X-Folded: a", " b"], 400, "folded"),
        (["X-Space : a"], 400, "space"),
        (["no header"], 400, "colon"),
        (["X-Nul: \0"], 400, "control character"),
        ([f"X-{n}: {n}" for n in range(300)], 431, "256 headers"),
    ],
    ids=["folded", "space", "no colon", "control", "many"],
)
def test_a_head_that_is_none_is_told_why(rig, extra, status, about):
    answered, sentence = refusal(rig, upgrade("/", extra=extra))
    assert answered == status and about in sentence, sentence
    rig.assert_nothing_reached_the_server()


# Hosts

NO_HOSTS = [
    "evil.net/.example.com",
    "evil.net\\.example.com",
    "evil.net%2f.example.com",
    "a b",
    "a@b",
    "a,b",
    "",
    ":80",
    "a:b",
    "a:65536",
    "a..example.com",
    ".example.com",
    "::1",
    "[::1",
    "127.1",
]


@pytest.mark.parametrize("host", NO_HOSTS)
def test_what_is_no_host_is_answered_400(rig, host):
    status, sentence = refusal(rig, upgrade("/", headers={"Host": host}))
    assert status == 400 and "host" in sentence, sentence
    # Pingora itself refuses the one with user information.
    if "@" not in host:
        status, sentence = refusal(rig, plain("/", host=host))
        assert status == 400 and "host" in sentence, sentence
    rig.assert_nothing_reached_the_server()


@pytest.mark.parametrize("host", ["gate.test:8080", "gate_1.test.", "127.0.0.1", "[::1]:8080", "[0:0::1]", "gate.test:"])
def test_hosts_pass_as_they_were_written(rig, host):
    path = rig.new_path()
    assert got_by_server(rig, upgrade(path, headers={"Host": host}), path).all("host") == [host]
    path = rig.new_path()
    assert got_by_server(rig, plain(path, host=host), path).all("host") == [host]


def test_hosts_that_contradict_each_other(rig):
    for sent in (
        upgrade("http://other.test/a"),
        upgrade("/", extra=["Host: other.test"]),
        upgrade("http://user@gate.test/", headers={"Host": "user@gate.test"}),
        upgrade("/", headers={"Host": None}),
    ):
        status, sentence = refusal(rig, sent)
        assert status == 400 and "host" in sentence.lower(), sentence
    rig.assert_nothing_reached_the_server()


def test_every_spelling_of_an_address_leads_to_its_route(start_rig):
    routes = [
        {"name": "open", "upstream": "main"},
        {"name": "local", "upstream": "main", "hosts": ["[::1]", "*.example.com"], "deny": ["0.0.0.0/0"]},
    ]
    rig = start_rig(routes=routes)
    for host in ("[::1]", "[0:0:0:0:0:0:0:1]:80", "[::0.0.0.1]", "A.EXAMPLE.com.", "a.example.com:"):
        status, _ = refusal(rig, upgrade("/", headers={"Host": host}))
        assert status == 403, f"{host} was answered {status}"


# Lists


@pytest.mark.parametrize(
    ("header", "most", "item", "separator"),
    [
        ("Sec-WebSocket-Protocol", 64, "p{}", ", "),
        ("Sec-WebSocket-Extensions", 32, "x{}", ", "),
        ("Sec-WebSocket-Extensions", 17, "x{}", "; "),
        ("Connection", 32, "x{}", ", "),
    ],
    ids=["subprotocols", "extensions", "parameters", "connection"],
)
def test_lists_have_a_bound(rig, header, most, item, separator):
    """What costs more than its bytes is refused before anything else is looked at."""

    def of(count):
        items = [item.format(n) for n in range(count)]
        if header == "Connection":
            items[0] = "Upgrade"
        return dict(headers={header: separator.join(items)})

    rig.open(request=of(most)).finish()
    status, sentence = refusal(rig, upgrade("/", **of(most + 1)))
    assert status == 400 and header in sentence and "more than" in sentence, sentence
    rig.assert_nothing_reached_the_server()


# Origins


def test_origins_of_applications_and_of_default_ports(start_rig):
    allowed = ["https://app.test:443", "file://", "app://.", "capacitor://localhost", "chrome-extension://abc", "null"]
    rig = start_rig(route={"allowed_origins": allowed})
    for origin in [*allowed, "https://app.test", "HTTPS://App.Test:443"]:
        rig.open(request=dict(headers={"Origin": origin})).finish()
    for origin in ("https://app.test:80", "http://app.test", "http://app.test:443", "file:///", "app://", "app://x", "app://.:443"):
        status, _ = refusal(rig, upgrade("/", headers={"Origin": origin}))
        assert status == 403, f"{origin} was answered {status}"


# Observed handshakes

SLOPPY = {
    "key": dict(headers={"Sec-WebSocket-Key": base64.b64encode(bytes(32)).decode()}),
    "connection": dict(headers={"Connection": "keep-alive"}),
    "version": dict(headers={"Sec-WebSocket-Version": None}),
    "subprotocol_syntax": dict(headers={"Sec-WebSocket-Protocol": "ocpp=1.6"}),
    "subprotocol_twice": dict(headers={"Sec-WebSocket-Protocol": "chat, chat"}),
}


def violations(metrics):
    """The observed violations of handshakes: {(side, kind): count}."""
    name = "wsgate_handshake_violations_total"
    return {kind: metrics.total(name, side="client", kind=kind) for kind in SLOPPY if metrics.total(name, kind=kind)}


@pytest.mark.parametrize("kind", SLOPPY)
def test_observed_requests_pass_and_are_counted(start_rig, kind):
    rig = start_rig(route={"mode": "observe"})
    session = rig.open(request=SLOPPY[kind])
    for name, value in SLOPPY[kind]["headers"].items():
        wanted = "Upgrade" if name == "Connection" else value
        assert session.request.get(name) == wanted, session.request.wire
    session.finish()
    rig.gate.wait_for_log(lambda line: "handshake violation observed" in line and kind in line, "of the violation")
    assert violations(rig.gate.metrics()) == {kind: 1}
    rig.open().finish()
    assert violations(rig.gate.metrics()) == {kind: 1}


@pytest.mark.parametrize("kind", SLOPPY)
def test_enforced_requests_do_not_pass(rig, kind):
    status, _ = refusal(rig, upgrade("/", **SLOPPY[kind]))
    assert status == 400
    rig.assert_nothing_reached_the_server()


def test_an_observed_subprotocol_that_was_not_offered_passes(start_rig):
    answer = dict(extra=["Sec-WebSocket-Protocol: ocpp1.6"])
    rig = start_rig(route={"mode": "observe"})
    session = rig.open(answer=answer)
    assert session.answer.get("sec-websocket-protocol") == "ocpp1.6"
    session.finish()
    metrics = rig.gate.metrics()
    name = "wsgate_handshake_violations_total"
    assert metrics.total(name, side="server", kind="subprotocol_not_offered") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        dict(method="POST"),
        dict(version="HTTP/1.0"),
        dict(headers={"Host": None}),
        dict(headers={"Upgrade": None}),
        dict(extra=["Content-Length: 5"]),
        dict(extra=[f"Sec-WebSocket-Key: {http.KEY}"]),
        dict(headers={"Sec-WebSocket-Key": ""}),
        dict(headers={"Sec-WebSocket-Protocol": "a\tb"}),
    ],
    ids=str,
)
def test_what_cannot_be_passed_safely_is_refused_in_any_mode(start_rig, wrong):
    rig = start_rig(route={"mode": "observe"})
    status, _ = refusal(rig, upgrade("/", **wrong))
    assert status == 400
    rig.assert_nothing_reached_the_server()
