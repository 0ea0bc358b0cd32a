"""Clients that reconnect by themselves, as people use them, and the deploy script that the README shows."""

import json
import os
import pathlib
import re
import socketserver
import subprocess
import sys
import threading
import urllib.request

import pytest

from rig import gate, peers
from rig.crowd import Counting, Crowd
from rig.raw import TIMEOUT

CLIENTS = {
    # At once: its iterator waits only after attempts that failed.
    "websockets": lambda told: 0,
    # Its own delay, whatever it is told.
    "reconnecting-websocket": lambda told: 200,
    "chromium": lambda told: told,
}
"""What each of them waits, in ms, before it reconnects."""

UNHURRIED = 3000
"""Milliseconds that a busy machine may add to it."""

DISCARDED = {"chromium": 500}
"""For how long before the close event a client may have discarded what it was given to send, in ms.

The part of a browser that speaks WebSocket answers a Close by itself and drops what the page sends from then on. The
page learns of it by the close event only: without any proxy it can be the messages of the last 130 ms.
"""


@pytest.fixture
def servers(request):
    """Two servers that write down what they receive, and send it back where a test wants that."""
    echo = getattr(request, "param", None) == "echo"
    servers = [Counting(echo=echo), Counting(echo=echo)]
    yield servers
    for server in servers:
        server.process.kill()


@pytest.fixture
def wsgate(tmp_path, servers):
    """A wsgate in front of them."""
    text = gate.config(
        [server.address for server in servers],
        route={"reconnect_after": "300ms-600ms"},
        extra={"drain": {"deadline": "2s"}},
    )
    wsgate = gate.Gate(tmp_path, text)
    yield wsgate
    wsgate.stop()


@pytest.fixture
def start_client(wsgate, tmp_path):
    """Starts a client that reconnects; ends it if the test has not."""
    running = []

    def start(name):
        running.append(peers.Reconnecting(name, f"ws://{wsgate.url}", tmp_path / "profile"))
        return running[-1]

    yield start
    for client in running:
        client.stop()


def status(wsgate):
    """The servers of the one upstream, by address."""
    with urllib.request.urlopen("http://{}:{}/v1/status".format(*wsgate.admin), timeout=TIMEOUT) as answer:
        return {server["address"]: server for server in json.load(answer)["upstreams"][0]["servers"]}


def connections(wsgate):
    """Their connections, by address."""
    return {address: server["connections"] for address, server in status(wsgate).items()}


@pytest.mark.parametrize("servers", ["echo"], indirect=True)
@pytest.mark.parametrize("verb", ["drain", "deploy"])
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_told_and_comes_back(wsgate, servers, start_client, name, verb):
    at = ["--admin", "{}:{}".format(*wsgate.admin)]
    client = start_client(name)
    client.wait_for(lambda event: event["event"] == "echo" and event["message"] == "100", "its hundredth echo")
    here, there = sorted(before := connections(wsgate), key=before.get, reverse=True)
    code, shown = gate.run([verb, "main", *(["--server", here] if verb == "drain" else []), *at])
    assert code == 0 and "1 of 1 closed" in shown, shown

    close = client.next("close")
    told = re.fullmatch(r"service restart; retry-after-ms=(\d+)", close["reason"])
    assert close["code"] == 1012 and told, close
    again = client.next("open", after=close)
    waited, due = again["at"] - close["at"], CLIENTS[name](int(told[1]))
    assert due - 5 <= waited < due + UNHURRIED, f"it waited {waited} ms, not {due}"
    client.next("echo", after=again)
    now = connections(wsgate)
    assert sum(now.values()) == 1, now
    if verb == "drain":
        assert now == {here: 0, there: 1}

    client.stop()
    assert client.process.returncode == 0
    wsgate.stop()
    for server in servers:
        server.stop()
    arrived = servers[0].received + servers[1].received
    assert max(arrived.values()) == 1, "nothing arrives twice"
    sent = [event for event in client.events if event["event"] == "sent"]
    lost = [event for event in sent if arrived[event["message"]] == 0]
    before_close = [event for event in sent if event["at"] < close["at"]]
    discarded = before_close[len(before_close) - len(lost) :]
    assert lost == discarded, f"with a close at {close['at']} there are lost: {lost}"
    assert all(close["at"] - event["at"] < DISCARDED.get(name, 0) for event in discarded), (close, discarded)


class Operator(socketserver.ThreadingTCPServer):
    """What the shims of the deploy script reach: it restarts the servers, and remembers what was asked for."""

    def __init__(self, servers):
        super().__init__(("127.0.0.1", 0), self._Request)
        self.servers, self.asked = servers, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    class _Request(socketserver.StreamRequestHandler):
        def handle(self):
            arguments = json.loads(self.rfile.readline())
            self.server.asked.append(arguments)
            server = self.server.servers[arguments[0]]
            server.stop()
            server.start()
            self.wfile.write(b"done\n")


WSGATE = """\
#!{python}
import os, sys
names = {names!r}
arguments = [names.get(argument, argument) for argument in sys.argv[1:]]
os.execv({binary!r}, ["wsgate", *arguments, "--admin", {admin!r}])
"""
"""The command, with the servers, the upstream and the admin listener of the test."""

SSH = """\
#!{python}
import json, socket, sys
with socket.create_connection({operator!r}) as operator:
    operator.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    sys.exit(0 if operator.makefile().readline() == "done\\n" else 1)
"""


def shim(directory, name, text, **values):
    """An executable file."""
    file = pathlib.Path(directory) / name
    file.write_text(text.format(python=sys.executable, **values))
    file.chmod(0o755)


@pytest.fixture
def script():
    """The deploy script."""
    readme = (gate.ROOT / "README.md").read_text()
    return re.search(r"^## Deploys\n\n```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[1]


def test_the_deploy_script_of_the_readme(wsgate, servers, tmp_path, script):
    written = re.search(r"^for server in (.*); do$", script, re.MULTILINE)[1].split()
    assert len(written) == len(servers), script
    hosts = [address.partition(":")[0] for address in written]
    names = dict(zip(written, (server.address for server in servers))) | {"chat": "main"}
    path = tmp_path / "bin"
    path.mkdir()
    with Operator(dict(zip(hosts, servers))) as operator:
        admin = "{}:{}".format(*wsgate.admin)
        shim(path, "wsgate", WSGATE, binary=str(gate.BINARY), names=names, admin=admin)
        shim(path, "ssh", SSH, operator=operator.server_address)
        with Crowd(f"ws://{wsgate.url}", size=100) as crowd:
            done = subprocess.run(
                ["sh"],
                input=script,
                env=os.environ | {"PATH": f"{path}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                timeout=6 * TIMEOUT,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert operator.asked == [[host, "systemctl", "restart", "chat"] for host in hosts]
            crowd.wait_until_all_are_back()
            assert set(crowd.closes) == {1012} and crowd.closes[1012] >= crowd.size, crowd.closes
            assert {server["state"] for server in status(wsgate).values()} == {"up"}
        operator.shutdown()
    wsgate.stop()
    for server in servers:
        server.stop()
    assert crowd.lost(*servers) == {}


def test_a_drain_that_fails_ends_the_deploy_script(tmp_path, script):
    shim(tmp_path, "wsgate", "#!/bin/sh\nexit 1\n")
    shim(tmp_path, "ssh", "#!/bin/sh\ntouch {restarted}\n", restarted=tmp_path / "restarted")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["sh"], input=script, env=environment, text=True, timeout=TIMEOUT).returncode == 1
    assert not (tmp_path / "restarted").exists()
