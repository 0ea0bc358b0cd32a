"""Who may come in: client addresses behind proxies, lists, limits by address, an access service; and header rules."""

import socket
import subprocess
import threading

import pytest

from rig import http, raw
from rig.raw import TIMEOUT, Pump

FRONT = {"trusted_proxies": ["127.0.0.0/8"]}
ROUTE = "wsgate_handshakes_total"


def claim(address):
    """A request that a proxy in front vouches for."""
    return {"headers": {"X-Forwarded-For": address}}


def answered(rig, **request):
    """Status and body of a refusal."""
    client, _ = rig.request(**request)
    head = client.read_head()
    return head, client.read_body(head).decode()


def test_the_address_of_a_client_behind_a_proxy(start_rig):
    rig = start_rig(client=FRONT)
    session = rig.open(request=claim("1.2.3.4, 203.0.113.7, 127.0.0.9"))
    assert session.request.get("X-Forwarded-For") == "1.2.3.4, 203.0.113.7, 127.0.0.9, 127.0.0.1"
    session.finish()
    rig.gate.wait_for_log(lambda line: "connection ended" in line and "client=203.0.113.7" in line, "of the client")


def test_the_word_of_a_stranger_is_not_taken(start_rig):
    rig = start_rig(route={"deny": ["203.0.113.0/24"]})
    rig.open(request=claim("203.0.113.7")).finish()
    headers = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.test"}
    session = rig.open(request={"headers": headers})
    assert (session.request.get("X-Forwarded-Proto"), session.request.get("X-Forwarded-Host")) == ("http", "gate.test")
    session.finish()


def test_what_a_trusted_proxy_says_of_the_scheme_stays(start_rig):
    rig = start_rig(client=FRONT)
    headers = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "chat.test"}
    session = rig.open(request={"headers": headers})
    assert (session.request.get("X-Forwarded-Proto"), session.request.get("X-Forwarded-Host")) == ("https", "chat.test")
    session.finish()


def test_a_chain_of_proxies_without_end(start_rig):
    """Its nearest 32 are looked at: nobody knows whom they are for. A mebibyte is too large."""
    rig = start_rig(client=FRONT | {"max_header_size": "1MB"})
    session = rig.open(request=claim("203.0.113.7, " + ", ".join(["127.0.0.9"] * 80_000)))
    session.finish()
    rig.gate.wait_for_log(lambda line: "connection ended" in line and "client=unknown" in line, "of the client")
    client = rig.connect()
    pump = Pump(client, http.upgrade_request("/", extra=["X-Forwarded-For: " + "127.0.0.9, " * 100_000]), 1)
    assert client.read_head().status == 431
    pump.join()
    rig.assert_works()


@pytest.mark.parametrize("address", ["203.0.113.7", "198.51.100.1", "2001:db8::7"])
def test_lists(start_rig, address):
    route = {"allow": ["203.0.113.0/24", "198.51.100.0/24"], "deny": ["198.51.100.1"]}
    rig = start_rig(client=FRONT, route=route)
    if address == "203.0.113.7":
        rig.open(request=claim(address)).finish()
        return
    head, body = answered(rig, **claim(address))
    assert (head.status, body) == (403, "this address is not served here\n")
    plain = rig.connect()
    plain.send(f"GET / HTTP/1.1\r\nHost: gate.test\r\nX-Forwarded-For: {address}\r\n\r\n".encode())
    assert plain.read_head().status == 403
    rig.gate.wait_for_metrics(lambda now: now.total(ROUTE, result="forbidden") == 1, "the refusal to be counted")


def test_connections_of_an_address(start_rig):
    rig = start_rig(client=FRONT | {"address_max_connections": 2})
    sessions = [rig.open(request=claim("2001:db8:1::1")), rig.open(request=claim("2001:db8:1::2"))]
    head, body = answered(rig, **claim("2001:db8:1::3"))
    assert (head.status, head.get("Retry-After")) == (429, "5") and "too many connections" in body
    rig.open(request=claim("2001:db8:2::1")).finish()
    sessions.pop().finish()
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_connections_open") == 1, "one to be gone")
    rig.open(request=claim("2001:db8:1::4")).finish()
    rig.gate.wait_for_metrics(lambda now: now.total(ROUTE, result="throttled") == 1, "the refusal to be counted")


def test_how_fast_an_address_may_come(start_rig):
    rig = start_rig(client=FRONT | {"address_rate": 2})
    sessions = [rig.open(request=claim("203.0.113.7")) for _ in range(2)]
    head, _ = answered(rig, **claim("203.0.113.7"))
    assert (head.status, head.get("Retry-After")) == (429, "1")
    rig.open(request=claim("203.0.113.8")).finish()
    for session in sessions:
        session.finish()


def test_connections_in_all(start_rig):
    rig = start_rig(client={"max_connections": 1})
    session = rig.open()
    head, body = answered(rig)
    assert (head.status, body) == (503, "all connections are taken\n")
    session.finish()
    rig.gate.wait_until_idle()
    rig.open().finish()


def test_header_rules(start_rig):
    route = {
        "request_remove": ["X-Debug"],
        "request_set": {"X-Env": "prod", "Host": "inner.test"},
        "request_add": {"X-Via": "wsgate"},
        "response_remove": ["Server"],
        "response_set": {"X-Frame-Options": "DENY"},
    }
    rig = start_rig(route=route)
    headers = {"X-Debug": "1", "X-Env": "test", "X-Via": "browser", "Origin": "https://a.test"}
    session = rig.open(request={"headers": headers}, answer={"extra": ["Server: acme", "X-Frame-Options: SAMEORIGIN"]})
    got = session.request
    assert (got.get("X-Debug"), got.get("X-Env"), got.get("Host")) == (None, "prod", "inner.test")
    assert (got.all("X-Via"), got.get("Origin")) == (["browser", "wsgate"], "https://a.test")
    assert (session.answer.get("Server"), session.answer.all("X-Frame-Options")) == (None, ["DENY"])
    session.finish()


@pytest.fixture
def nginx(tmp_path):
    """nginx as the access service: the answers depend on the Authorization header."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(f"""
        daemon off; worker_processes 1; pid {tmp_path}/pid; error_log stderr;
        events {{ }}
        http {{
            access_log off; client_body_temp_path {tmp_path}; proxy_temp_path {tmp_path};
            fastcgi_temp_path {tmp_path}; uwsgi_temp_path {tmp_path}; scgi_temp_path {tmp_path};
            server {{
                listen 127.0.0.1:{port};
                location /may-enter {{
                    add_header X-User "$http_x_original_uri" always;
                    add_header WWW-Authenticate 'Bearer realm="chat"' always;
                    if ($http_authorization = "Bearer good") {{ return 204; }}
                    if ($http_authorization = "Bearer bad") {{ return 403 "go away"; }}
                    if ($http_authorization = "Bearer ill") {{ return 500; }}
                    return 401 "who are you?";
                }}
            }}
        }}
    """)
    process = subprocess.Popen(["nginx", "-p", tmp_path, "-c", f"{tmp_path}/nginx.conf", "-e", "stderr"])
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
            break
        except OSError:
            threading.Event().wait(0.02)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(TIMEOUT)


def bearing(token, **headers):
    return {"headers": {"Authorization": f"Bearer {token}"} | headers} if token else {"headers": headers}


def test_an_access_service(start_rig, nginx):
    rig = start_rig(route={"auth_url": f"http://{nginx}/may-enter", "auth_copy": ["X-User"]})
    path = rig.new_path() + "?room=7"
    # What the client says of itself there is nothing.
    client, _ = rig.request(path=path, **bearing("good", **{"X-User": "root"}))
    upstream, head = rig.server.accept_request(path)
    assert head.all("X-User") == [path] and head.get("Authorization") == "Bearer good"
    upstream.send(http.switching_protocols(head))
    assert client.read_head().status == 101
    for token, status, says in [(None, 401, "who are you?"), ("bad", 403, "go away")]:
        head, body = answered(rig, **bearing(token))
        assert (head.status, body) == (status, says)
        assert head.get("WWW-Authenticate") == 'Bearer realm="chat"'
    head, body = answered(rig, **bearing("ill"))
    assert head.status == 502 and "could not be found out" in body
    rig.gate.wait_for_log(lambda line: "access service failed" in line and "500" in line, "of the service")
    rig.gate.wait_for_metrics(
        lambda now: (now.total(ROUTE, result="forbidden"), now.total(ROUTE, result="unchecked")) == (2, 1),
        "the refusals to be counted",
    )
    assert not [line for line in rig.gate.log if "Bearer" in line], "nothing secret is in the log"


def test_an_access_service_that_hangs_or_is_gone(start_rig):
    with socket.create_server(("127.0.0.1", 0)) as service:
        url = "http://{}:{}/".format(*service.getsockname())
        rig = start_rig(route={"auth_url": url, "auth_timeout": "300ms"})
        head, body = answered(rig)
        assert head.status == 504 and "in time" in body
    head, _ = answered(rig)
    assert head.status == 502
    rig.gate.wait_until_idle()
