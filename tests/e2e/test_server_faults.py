"""What is taken for a fault of a server, and what is not: its Closes with 1001, its failures, its sessions that end at once."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse

import pytest
from test_discovery import Dns

from rig import gate, http, raw
from rig.certificates import Authority
from rig.crowd import Crowd
from rig.frames import PING, PONG, TEXT
from rig.gate import Gate, config
from rig.namespace import in_namespace, resolve_by
from rig.operator import request, status

# Its Closes


def close_by_server(sessions):
    """The server closes these with 1001, and their clients answer."""
    for session in sessions:
        session.server.send_close(1001, "bye")
    for session in sessions:
        assert session.client.read_close()[0] == 1012
        session.client.send_close(1012)


def assert_stay(rig, sessions, closed):
    """Nothing was drained beside the `closed` ones, and these sessions still pass messages."""
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_drain_connections_total") >= closed, "the ends to be counted")
    for session in sessions:
        session.client.read_exactly(session.server.send_frame(TEXT, b"still here"))
    now = rig.gate.metrics()
    assert (now.total("wsgate_drain_connections_total"), now.total("wsgate_drains_total")) == (closed, 0)


def test_an_idle_time_out_is_no_restart(start_rig):
    """Half of the sessions: beyond doubt, but for the silence. Pings and Pongs are no messages."""
    rig = start_rig(extra={"drain": {"upstream_idle": "1s"}})
    sessions = [rig.open() for _ in range(6)]
    silent, busy = sessions[:3], sessions[3:]
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        for session in busy:
            session.server.read_exactly(session.client.send_frame(TEXT, b"busy"))
        for session in silent:
            session.client.read_exactly(session.server.send_frame(PING, b"?"))
            session.server.read_exactly(session.client.send_frame(PONG, b"?"))
        time.sleep(0.1)
    close_by_server(silent)
    assert_stay(rig, busy, closed=3)


def test_a_few_of_many_are_no_restart(start_rig):
    rig = start_rig()
    sessions = [rig.open() for _ in range(40)]
    close_by_server(sessions[:3])
    assert_stay(rig, sessions[3:], closed=3)


def test_a_server_that_still_answers_does_not_restart(start_rig):
    rig = start_rig()
    sessions = [rig.open() for _ in range(12)]
    close_by_server(sessions[:4])
    rig.gate.wait_for_log(lambda line: "still answers" in line and rig.server.address in line, "that it was asked")
    assert_stay(rig, sessions[4:], closed=4)


def test_a_server_that_does_not_answer_restarts(start_rig):
    rig = start_rig(extra={"drain": {"pace": "1000/s"}})
    sessions = [rig.open() for _ in range(12)]
    rig.server.close()
    close_by_server(sessions[:3])
    for session in sessions[3:]:
        assert session.client.read_close()[0] == 1012, "it is told ahead of the server's death"
        session.client.send_close(1012)
        assert session.server.read_close()[0] == 1001
    rig.gate.wait_for_metrics(lambda now: now.total("wsgate_drain_connections_total", cause="upstream") == 12, "all to be counted")


def test_a_server_that_fails_its_check_restarts(start, servers):
    """It still accepts connections, and says that it is on its way out."""
    text = gate.config(
        [servers[0].address],
        extra={
            "drain": {"pace": "1000/s", "upstream_closes": 1, "upstream_share": "1%"},
            "upstream.main.health": {"check": "http", "interval": "1h"},
        },
    )
    wsgate = start(text=text)
    wsgate.wait_for_metrics(lambda now: now.total("wsgate_server_state", state="up") == 1, "the server")
    server = raw.Server()
    with contextlib.closing(server):
        wsgate.reload(text.replace(servers[0].address, server.address))
        stop = threading.Event()
        peers = []

        def serve():
            while not stop.is_set():
                with contextlib.suppress(AssertionError, OSError, raw.Ended):
                    peer = server.accept()
                    head = peer.read_head()
                    if head.get("upgrade"):
                        peer.send(http.switching_protocols(head))
                        peers.append(peer)
                    else:
                        peer.send(http.response("503 Service Unavailable" if peers else "200 OK"))
                        peer.close()

        server.sock.settimeout(0.2)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        wsgate.wait_for_log(lambda line: "passes its checks" in line and server.address in line, "of its check")
        clients = []
        for _ in range(10):
            client = raw.connect(wsgate.address)
            client.send(http.upgrade_request())
            assert client.read_head().status == 101
            clients.append(client)
        peers[0].send_close(1001)
        for client in clients:
            assert client.read_close()[0] == 1012
            client.send_close(1012)
        stop.set()
        thread.join(raw.TIMEOUT)


def test_a_graceful_restart_of_a_server_under_a_crowd(start, servers):
    wsgate, (first, second) = start(), servers
    with Crowd(f"ws://{wsgate.url}") as crowd:
        victims = status(wsgate)[first.address]["connections"]
        first.stop()
        crowd.wait_for(lambda: len(crowd.told) == victims, f"{victims} clients to be told")
        crowd.wait_until_all_are_back()
        assert crowd.closes == {1012: victims}, crowd.closes
        assert status(wsgate)[second.address]["connections"] == crowd.size


# Its failures


class Server:
    """Answers each request in a thread of its own: as its path says, or as `does` says for all."""

    def __init__(self, does=None, port=0):
        self.does, self.answered = does, 0
        self.listener = raw.Server(port=port)
        self.address, self.port = self.listener.address, self.listener.sock.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def close(self):
        # A thread that accepts keeps the socket; this wakes it.
        with contextlib.suppress(OSError):
            self.listener.sock.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _run(self):
        self.listener.sock.settimeout(None)
        while True:
            try:
                peer = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=[peer], daemon=True).start()

    def _answer(self, peer):
        with contextlib.suppress(OSError, raw.Ended, AssertionError):
            head = peer.read_head()
            self.answered += 1
            does = self.does or urllib.parse.urlsplit(head.path).path[1:]
            if does == "slow":
                peer.read_to_end()
            elif does == "drop":
                peer.send(http.switching_protocols(head))
            elif does == "crash":
                pass
            elif does.isdigit():
                peer.send(http.response(f"{does} Whatever", b"no\n"))
            else:
                peer.send(http.switching_protocols(head))
                peer.send_frame(TEXT, b"hello")
                peer.read_to_end()
        peer.close()


@pytest.fixture
def faulty(tmp_path):
    """Starts servers and a wsgate in front of them."""
    with contextlib.ExitStack() as stack:

        def start(*does, **options):
            servers = [stack.enter_context(contextlib.closing(Server(how))) for how in does]
            upstream = {"eject_after": 3, "handshake_timeout": "300ms"} | options.pop("upstream", {})
            route = {"close_timeout": "500ms"}
            text = config([server.address for server in servers], upstream=upstream, route=route, **options)
            return stack.enter_context(Gate(tmp_path, text)), servers

        yield start
        raw.drop_all()


def ask(wsgate, path="/good", client="127.0.0.1"):
    """The status of an upgrade request of this client, and its connection."""
    peer = raw.Peer(socket.create_connection(wsgate.address, raw.TIMEOUT, (client, 0)), client=True)
    peer.send(http.upgrade_request(path))
    return peer.read_head().status, peer


def is_served(wsgate, **options):
    """Whether a client gets through to a server that speaks to it."""
    code, peer = ask(wsgate, **options)
    with contextlib.closing(peer):
        return code == 101 and peer.read_frame().opcode == TEXT


def states(wsgate):
    return sorted(server["state"] for server in status(wsgate).values())


@pytest.mark.parametrize(("path", "code"), [("/500", 500), ("/501", 501), ("/slow", 504), ("/404", 404)])
def test_what_a_client_asks_for_is_no_fault_of_the_server(faulty, path, code):
    wsgate, _ = faulty(None, None)
    assert [ask(wsgate, path)[0] for _ in range(10)] == [code] * 10
    assert states(wsgate) == ["up", "up"]
    assert is_served(wsgate)


@pytest.mark.parametrize(("path", "code"), [("/crash", 502), ("/503", 503)])
def test_one_client_takes_no_server_from_others(faulty, path, code):
    """Who asks for what breaks is alone with it, as long as somebody else is served."""
    wsgate, _ = faulty(None, None)
    others = [ask(wsgate, client="127.0.0.2") for _ in range(4)]
    assert [code for code, _ in others] == [101] * 4
    assert [ask(wsgate, path)[0] for _ in range(20)] == [code] * 20
    assert states(wsgate) == ["up", "up"]
    assert wsgate.metrics().total("wsgate_ejections_total") == 0


@pytest.mark.parametrize(("does", "reason"), [("crash", "no_answer"), ("502", "gateway_error"), ("504", "gateway_error")])
def test_a_server_that_fails_is_left_alone_and_comes_back(faulty, does, reason):
    wsgate, (bad, _) = faulty(does, "good", upstream={"eject_pause": "500ms", "balance": "round_robin"})
    while bad.answered < 3:
        ask(wsgate)
    wsgate.wait_for_log(lambda line: "is left alone" in line and f'reason="{reason}"' in line, "of the ejection")
    assert wsgate.metrics().total("wsgate_ejections_total", upstream="main", reason=reason) == 1
    bad.does = "good"
    wsgate.wait_for_log(lambda line: "takes connections again" in line and bad.address in line, "of its return")
    assert states(wsgate) == ["up", "up"]


def test_however_many_fail_at_once_the_pause_is_raised_once(faulty):
    wsgate, (bad, _) = faulty("crash", "good", upstream={"eject_pause": "1h", "balance": "round_robin"})
    threads = [threading.Thread(target=ask, args=[wsgate]) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(raw.TIMEOUT)
    assert bad.answered >= 3
    left_alone = [line for line in wsgate.log if "is left alone" in line]
    assert len(left_alone) == 1 and "pause=1h" in left_alone[0], left_alone
    assert wsgate.metrics().total("wsgate_ejections_total") == 1


def test_half_of_the_servers_stay(faulty):
    wsgate, _ = faulty("crash", "crash", "502", "502", upstream={"eject_pause": "1h", "balance": "round_robin"})
    for _ in range(40):
        ask(wsgate)
    assert states(wsgate) == ["down", "down", "up", "up"]


def test_the_only_server_stays(faulty):
    wsgate, (server,) = faulty("crash", upstream={"eject_pause": "1h"})
    assert [ask(wsgate)[0] for _ in range(20)] == [502] * 20
    assert states(wsgate) == ["up"]
    server.does = "good"
    assert is_served(wsgate)


def test_servers_that_no_connect_reaches_are_shown_at_once(faulty):
    """Half of the servers are never ejected, and few clients make few connects: the first failure of each is shown."""
    wsgate, servers = faulty("200", "200", upstream={"eject_after": 0})
    shown_by = ["status", "--admin", "{}:{}".format(*wsgate.admin)]
    assert gate.run(shown_by)[0] == 0
    for server in servers:
        server.close()
    assert ask(wsgate)[0] == 502
    assert states(wsgate) == ["unreachable", "unreachable"]
    assert wsgate.metrics().total("wsgate_server_state", state="unreachable") == 2
    code, shown = gate.run(shown_by)
    assert code == 1 and "NO SERVER CAN BE REACHED" in shown and "every connect fails for" in shown, shown

    servers[0] = Server("200", port=servers[0].port)
    with contextlib.closing(servers[0]):
        assert ask(wsgate)[0] == 200
        assert states(wsgate) == ["unreachable", "up"]
        assert gate.run(shown_by)[0] == 0


def test_a_server_whose_check_passes_stays(faulty):
    health = {"check": "tcp", "interval": "100ms"}
    wsgate, _ = faulty(
        "crash", "good", upstream={"balance": "round_robin"}, extra={"upstream.main.health": health}
    )
    for _ in range(20):
        ask(wsgate)
    assert states(wsgate) == ["up", "up"]


def test_plain_requests_find_out_who_is_gone(faulty):
    wsgate, (bad, _) = faulty("good", "200", upstream={"balance": "round_robin"})
    bad.close()
    for _ in range(10):
        client = raw.connect(wsgate.address)
        client.send(b"GET /200 HTTP/1.1\r\nHost: gate.test\r\nConnection: close\r\n\r\n")
        assert client.read_head().status == 200, "the other server is tried"
        client.close()
    assert wsgate.metrics().total("wsgate_ejections_total", reason="unreachable") == 1
    assert status(wsgate)[bad.address]["state"] == "down"


# Its sessions


def test_a_server_that_drops_its_sessions_does_not_get_all_clients(faulty):
    wsgate, (bad, good) = faulty("drop", None)
    served = [serves_a_client_that_stays(wsgate) for _ in range(10)]
    assert served.count(True) >= 8, f"{served}: {bad.answered} went to the server that drops them"
    assert good.answered >= 8


def serves_a_client_that_stays(wsgate):
    """As `is_served`, and the client stays."""
    code, peer = ask(wsgate)
    return code == 101 and peer.read_frame().opcode == TEXT


def test_a_server_that_drops_its_sessions_is_left_alone(faulty):
    wsgate, (bad, _) = faulty("drop", None, upstream={"balance": "round_robin", "eject_pause": "1h"})
    clients = [ask(wsgate) for _ in range(6)]
    wsgate.wait_for_log(lambda line: "is left alone" in line and 'reason="dropped"' in line, "of the ejection")
    assert [code for code, _ in clients] == [101] * 6
    assert status(wsgate)[bad.address]["state"] == "down"
    assert all(is_served(wsgate) for _ in range(10))


def test_a_client_whose_sessions_are_dropped_is_alone_with_it(faulty):
    """Of one that stays with others nothing is held against the server."""
    wsgate, _ = faulty(None, None, upstream={"balance": "round_robin"})
    for _ in range(2):
        assert is_served(wsgate, client="127.0.0.2")
    for _ in range(20):
        code, client = ask(wsgate, "/drop")
        assert (code, client.read_close()[0]) == (101, 1012)
        client.close()
    wsgate.wait_for_metrics(lambda now: now.total("wsgate_connections_open") == 0, "all to have ended")
    assert states(wsgate) == ["up", "up"]


# Its address and its name


@in_namespace
def test_a_server_that_leaves_by_dns_while_it_is_connected_to(start_gate_by_name):
    """The connection is drained as it begins, and counted as what it is: nobody has reloaded anything."""
    dns, wsgate, listeners, context = start_gate_by_name
    client = raw.connect(wsgate.address)
    client.send(http.upgrade_request())
    # The server takes its time with TLS, and meanwhile the name has another address.
    sock, _ = listeners["127.0.0.2"].accept()
    dns.addresses = ["127.0.0.3"]
    wsgate.wait_for_log(lambda line: "server has left its source" in line, "of the address")
    server = raw.Peer(context.wrap_socket(sock, server_side=True), client=False)
    server.send(http.switching_protocols(server.read_head()))
    assert client.read_head().status == 101
    assert client.read_close()[0] == 1012
    client.send_close(1012)
    assert server.read_close()[0] == 1001
    server.close()
    now = wsgate.wait_for_metrics(lambda now: now.total("wsgate_drain_connections_total") == 1, "the drain to be counted")
    assert now.total("wsgate_drain_connections_total", cause="discovery") == 1, now


@pytest.fixture
def start_gate_by_name(tmp_path):
    """Two listening sockets and a wsgate that knows them by name, and talks TLS to them; in a namespace alone."""
    if not os.environ.get("WSGATE_IN_NAMESPACE"):
        yield None
        return
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    dns = Dns()
    resolve_by("127.0.0.1", tmp_path)
    pair = Authority(tmp_path / "ca").sign("server", ["chat.example"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair["cert"], pair["key"])
    listeners = {address: socket.create_server((address, 9000)) for address in ("127.0.0.2", "127.0.0.3")}
    for listener in listeners.values():
        listener.settimeout(raw.TIMEOUT)
    dns.addresses = ["127.0.0.2"]
    text = config(
        ["chat.example:9000"],
        upstream={"resolve_interval": "100ms"},
        extra={"upstream.main.tls": {"enabled": True, "verify": False}},
    )
    with Gate(tmp_path, text) as wsgate:
        wsgate.wait_for_metrics(lambda now: now.total("wsgate_server_state", state="up") == 1, "the address")
        yield dns, wsgate, listeners, context
        raw.drop_all()
    dns.server.shutdown()


NAME = 'eu/chat "50%" größe 🚀?'


def test_an_upstream_of_any_name_can_be_drained(start, servers):
    text = gate.config([server.address for server in servers])
    quoted = json.dumps(NAME, ensure_ascii=False)
    text = text.replace("[upstream.main]", f"[upstream.{quoted}]").replace('upstream = "main"', f"upstream = {quoted}")
    wsgate = start(text=text)
    at = ["--admin", "{}:{}".format(*wsgate.admin)]
    code, shown = gate.run(["drain", NAME, "--server", servers[0].address, *at])
    assert code == 0, shown
    assert states(wsgate) == ["drained", "up"]
    path = f"/v1/upstreams/{urllib.parse.quote(NAME, safe='')}"
    assert request(wsgate, "GET", f"{path}/drain")[1]["upstream"] == NAME
    code, shown = gate.run(["resume", NAME, *at])
    assert code == 0 and NAME not in shown, shown
    assert states(wsgate) == ["up", "up"]
    code, shown = gate.run(["status", *at])
    assert code == 0 and f"\n{NAME}: 0 connections" in shown, shown
    assert wsgate.metrics().total("wsgate_server_state", upstream=NAME, state="up") == 2
    code, body = request(wsgate, "POST", "/v1/upstreams/50%/drain")
    assert code == 400 and "%25" in body["error"], body
    code, body = request(wsgate, "POST", "/v1/upstreams/eu%2Fchat/drain")
    assert code == 404 and body["upstreams"] == [NAME], body
