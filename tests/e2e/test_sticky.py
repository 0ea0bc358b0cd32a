"""The sticky cookie: a client stays with its server over polling, upgrades and reconnects, until a drain moves it."""

import http.cookies
import json
import pathlib
import subprocess
import time
import urllib.request

import pytest
from websockets.sync.client import connect

from rig import gate
from rig.operator import request, status, wait_until_drained
from rig.raw import TIMEOUT

NODE = pathlib.Path(__file__).parent / "node"
DRAIN, RESUME = "/v1/upstreams/main/drain", "/v1/upstreams/main/resume"


@pytest.fixture
def sticky(start, servers):
    return start(upstream={"balance": "sticky_cookie"})


def page(wsgate, cookie=None):
    """The cookie of a plain answer, if there is one."""
    asked = urllib.request.Request(f"http://{wsgate.url}/page", headers={"Cookie": cookie} if cookie else {})
    with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:
        return answer.headers["Set-Cookie"]


def pair(set_cookie):
    """`name=value` of a Set-Cookie."""
    return set_cookie.split(";")[0]


def home(wsgate, cookie):
    """The server that a WebSocket with this cookie reaches, and the cookie of its 101."""
    with connect(f"ws://{wsgate.url}", additional_headers={"Cookie": cookie} if cookie else {}) as client:
        known = status(wsgate)
        servers = [address for address, server in known.items() if server["connections"] > 0]
        assert len(servers) == 1, known
        return servers[0], client.response.headers.get("Set-Cookie")


def test_a_client_stays_with_its_server(sticky):
    cookie = page(sticky)
    parsed = http.cookies.SimpleCookie(cookie)["wsgate_server"]
    assert (parsed["path"], parsed["httponly"], parsed["samesite"]) == ("/", True, "Lax"), cookie
    homes = {home(sticky, f"a=b; {pair(cookie)}; c=d") for _ in range(8)}
    assert len(homes) == 1 and homes.pop()[1] is None, "one server, and the cookie is not set again"
    assert page(sticky, pair(cookie)) is None


def test_a_websocket_sets_it_too(sticky):
    server, cookie = home(sticky, None)
    assert {home(sticky, pair(cookie))[0] for _ in range(6)} == {server}
    other, _ = home(sticky, None)
    assert {server, other} == set(status(sticky)), "without a cookie the servers take turns"


def test_what_is_no_cookie_of_wsgate_is_replaced(sticky):
    for forged in ("wsgate_server=x", "wsgate_server=", f"wsgate_server={'0' * 20}", "wsgate_server=\xff"):
        _, cookie = home(sticky, forged)
        assert cookie and pair(cookie) != forged


def test_a_drain_moves_it_and_a_resume_does_not_move_it_back(sticky):
    server, cookie = home(sticky, None)
    request(sticky, "POST", DRAIN, {"server": server})
    wait_until_drained(sticky)
    other, moved = home(sticky, pair(cookie))
    assert other != server and pair(moved) != pair(cookie)
    request(sticky, "POST", RESUME)
    assert home(sticky, pair(moved))[0] == other


def test_the_name_and_the_attributes_over_https(start, servers):
    wsgate = start(
        upstream={"balance": "sticky_cookie:lb"}, client={"trusted_proxies": ["127.0.0.1"]}, route={"response_remove": ["X-Any"]}
    )
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1"}
    asked = urllib.request.Request(f"http://{wsgate.url}/", headers=headers)
    with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:
        cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("lb=") and cookie.endswith("; Secure; SameSite=None"), cookie


@pytest.mark.parametrize("balance", ["sticky_cookie:", "sticky_cookie:a b", "sticky_cookie:a=b", "sticky"])
def test_a_name_that_is_none(tmp_path, balance):
    file = tmp_path / "wsgate.toml"
    file.write_text(gate.config(["127.0.0.1:9"], upstream={"balance": balance}))
    code, shown = gate.run(["check", "--config", str(file)])
    assert code == 1 and balance in shown and "sticky_cookie" in shown, shown


def test_socket_io_with_polling_first_through_a_rolling_deploy(start, tmp_path):
    """The real library, twelve clients, two servers, all defaults. Without the cookie, polls of one session reach both servers."""
    processes = []

    def server(port=0):
        process = subprocess.Popen(
            ["node", NODE / "socketio_server.mjs", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process, process.stdout.readline().split()[1]

    running = dict(reversed(server()) for _ in range(2))
    wsgate = start(text=gate.config(list(running), upstream={"balance": "sticky_cookie"}, route={"reconnect_after": "50ms-400ms"}))
    client = subprocess.Popen(
        ["node", NODE / "socketio_client.mjs", f"http://{wsgate.url}", "12"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    processes.append(client)
    assert client.stdout.readline() == "running\n"

    def report():
        client.stdin.write("\n")
        client.stdin.flush()
        return json.loads(client.stdout.readline())

    def wait_until(holds, what):
        deadline = time.monotonic() + 3 * TIMEOUT
        while not holds(now := report()):
            assert time.monotonic() < deadline, f"{what}: {now}"
            time.sleep(0.1)
        return now

    def all_speak(now):
        return all(one["connected"] and one["answered"] > 0 and one.get("transport") == "websocket" for one in now)

    try:
        now = wait_until(all_speak, "all are connected by a WebSocket and answered")
        assert [one["errors"] for one in now] == [[]] * 12, now
        assert {one["server"] for one in now} == {address.rpartition(":")[2] for address in running}, "both servers have some"
        for address, process in list(running.items()):
            assert request(wsgate, "POST", DRAIN, {"server": address})[0] == 202
            assert wait_until_drained(wsgate)["state"] == "done"
            port = address.rpartition(":")[2]
            wait_until(lambda now, port=port: all(one["connected"] and one["server"] != port for one in now), "all have moved")
            process.stdin.close()
            process.wait(TIMEOUT)
            running[address], _ = server(port)
            assert request(wsgate, "POST", RESUME)[0] == 200
        answered = [one["answered"] for one in report()]
        now = wait_until(
            lambda now: all(one["connected"] and one["answered"] > before for one, before in zip(now, answered)), "all go on"
        )
        assert sum(len(one["errors"]) for one in now) == 0, now
    finally:
        for process in processes:
            process.kill()
            process.wait()
