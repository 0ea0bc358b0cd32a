"""TCP keep-alive and user time-out: what sockets are told, and a network that drops everything."""

import ctypes
import os
import pathlib
import socket
import subprocess
import time

import pytest

from rig import http, raw
from rig.frames import TEXT
from rig.namespace import in_namespace

OPTIONS = {
    "keepalive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "idle": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "interval": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "count": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    "user_timeout": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
}
PIDFD_GETFD = 438
"""Number of the system call, on all architectures."""


def sockets(pid):
    """Copies of the TCP sockets of another process that are connected."""
    process = os.pidfd_open(pid)
    call = ctypes.CDLL(None, use_errno=True).syscall
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        copy = call(PIDFD_GETFD, process, int(entry.name), 0)
        if copy < 0:
            continue
        try:
            sock = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            continue
        if sock.family == socket.AF_INET and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            yield sock
        else:
            sock.close()
    os.close(process)


def options(gate, peer):
    """What wsgate's socket to this peer was told."""
    for sock in sockets(gate.process.pid):
        with sock:
            if sock.getpeername() == peer:
                return {name: sock.getsockopt(*option) for name, option in OPTIONS.items()}
    raise AssertionError(f"wsgate has no connection to {peer}")


def told(idle, interval, user_timeout):
    """The options, in seconds; user_timeout in milliseconds."""
    return {"keepalive": 1, "idle": idle, "interval": interval, "count": 6, "user_timeout": user_timeout}


def of_session(rig):
    """What both sockets of a WebSocket were told."""
    session = rig.open()
    found = [options(rig.gate, peer.sock.getsockname()) for peer in (session.client, session.server)]
    session.finish()
    return found


def test_the_defaults(start_rig):
    assert of_session(start_rig()) == [told(60, 10, 120_000)] * 2


def test_the_settings(start_rig):
    rig = start_rig(
        client={"tcp_keepalive": "30s", "tcp_user_timeout": "1500ms"},
        upstream={"tcp_keepalive": "12s", "tcp_user_timeout": "1m"},
    )
    assert of_session(rig) == [told(30, 5, 1500), told(12, 2, 60_000)]


def test_none(start_rig):
    none = {"tcp_keepalive": "0s", "tcp_user_timeout": "0s"}
    for found in of_session(start_rig(client=none, upstream=none)):
        assert (found["keepalive"], found["user_timeout"]) == (0, 0)


@pytest.mark.parametrize("keepalive", ["12s", "0s"])
def test_plain_requests(start_rig, keepalive):
    rig = start_rig(upstream={"tcp_keepalive": keepalive, "tcp_user_timeout": "1m"})
    client = rig.connect()
    client.send(b"GET /plain HTTP/1.1\r\nHost: gate.test\r\n\r\n")
    upstream, _ = rig.server.accept_request("/plain")
    found = options(rig.gate, upstream.sock.getsockname())
    assert (found["keepalive"], found["user_timeout"]) == (int(keepalive != "0s"), 60_000)
    upstream.send(http.response("200 OK"))
    assert client.read_head().status == 200


def test_a_reload_is_for_new_connections(start_rig):
    rig = start_rig(client={"tcp_keepalive": "30s"})
    session = rig.open()
    rig.gate.reload(rig.gate.file.read_text().replace("30s", "18s"))
    assert options(rig.gate, session.client.sock.getsockname())["idle"] == 30
    assert of_session(rig)[0] == told(18, 3, 120_000)
    rig.gate.reload(rig.gate.file.read_text().replace("18s", "0s"))
    assert of_session(rig)[0]["keepalive"] == 0
    session.finish()


def silence():
    subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
    return time.monotonic()


def assert_gone(rig, began, within, initiator):
    rig.gate.wait_for_log(lambda line: 'cause="vanished"' in line and f'initiator="{initiator}"' in line, "of the end")
    assert time.monotonic() - began < within
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@in_namespace
def test_a_silent_client_is_probed(start_rig, tmp_path):
    """The server is on a Unix socket, which nothing happens to."""
    client = {"tcp_keepalive": "1s", "tcp_user_timeout": "0s"}
    rig = start_rig(server=raw.Server(tmp_path / "server"), client=client)
    session = rig.open()
    began = silence()
    assert session.server.read_close()[0] == 1001
    session.server.send_close(1001)
    assert_gone(rig, began, 15, "client")


@in_namespace
def test_a_client_that_acknowledges_nothing(start_rig, tmp_path):
    client = {"tcp_keepalive": "0s", "tcp_user_timeout": "1s"}
    rig = start_rig(server=raw.Server(tmp_path / "server"), client=client)
    session = rig.open()
    began = silence()
    session.server.send_frame(TEXT, b"who hears this?")
    assert session.server.read_close()[0] == 1001
    session.server.send_close(1001)
    assert_gone(rig, began, 10, "client")


@in_namespace
def test_a_silent_server_is_probed(start_rig, tmp_path):
    upstream = {"tcp_keepalive": "1s", "tcp_user_timeout": "2s"}
    rig = start_rig(listen=[f"unix:{tmp_path}/gate"], upstream=upstream)
    session = rig.open()
    began = silence()
    assert session.client.read_close()[0] == 1012
    session.client.send_close(1012)
    assert_gone(rig, began, 10, "server")
