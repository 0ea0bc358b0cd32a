"""Servers from a file that another program writes, and `check --offline`."""

import json
import os

import pytest

from rig import gate, http, raw
from rig.session import Session


def write(file, text):
    """As careful programs write: the old file or the new one is there, and nothing between."""
    new = file.with_suffix(".new")
    new.write_text(text)
    os.rename(new, file)


@pytest.fixture
def start(tmp_path):
    """Starts a wsgate whose servers are in a file: `(wsgate, file)`."""
    running = []

    def start(text, **upstream):
        file = tmp_path / "chat.servers"
        file.write_text(text)
        running.append(gate.Gate(tmp_path, gate.config([], upstream={"servers_file": str(file)} | upstream)))
        return running[-1], file

    yield start
    raw.drop_all()
    for wsgate in running:
        wsgate.stop()


def open_session(wsgate, server):
    """A session over this server, which is the only one."""
    client = raw.connect(wsgate.address)
    client.send(http.upgrade_request("/"))
    peer, head = server.accept_request("/")
    peer.send(http.switching_protocols(head))
    assert client.read_head().status == 101
    return Session(client, peer, head, None)


def states(wsgate):
    """The addresses and states of the servers in the status."""
    _, body = wsgate.get("/v1/status")
    [upstream] = json.loads(body)["upstreams"]
    return {server["address"]: server["state"] for server in upstream["servers"]}


def test_a_server_that_comes_is_used_and_one_that_leaves_is_drained(start):
    first, second = raw.Server(), raw.Server()
    wsgate, file = start(f"{first.address} # the first\n")
    session = open_session(wsgate, first)
    write(file, json.dumps({"servers": [{"address": second.address, "weight": 2}]}))
    # The client is told to reconnect when there is another server.
    code, reason = session.client.read_close()
    assert code == 1012 and "retry-after" in reason
    session.client.send_frame(8, (1012).to_bytes(2, "big"))
    assert session.server.read_close()[0] == 1001
    session.server.send_frame(8, (1001).to_bytes(2, "big"))
    open_session(wsgate, second).finish()
    assert states(wsgate)[second.address] == "up"
    wsgate.wait_for_log(lambda line: "server has left its source" in line and first.address in line, "of the server")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no server"),
        ("10.0.0.5:9000\n10.0.0.6", "line 2: `10.0.0.6` has no port"),
        ('["10.0.0.5:9000"', "EOF while parsing"),
        (None, "it cannot be read"),
    ],
)
def test_a_file_with_a_mistake_changes_nothing(start, text, why):
    server = raw.Server()
    wsgate, file = start(server.address)
    session = open_session(wsgate, server)
    if text is None:
        file.unlink()
    else:
        write(file, text)
    line = wsgate.wait_for_log(lambda line: "nothing changes" in line, "of the mistake")
    assert why in line and str(file) in line, line
    assert states(wsgate) == {server.address: "up"}
    write(file, f"{server.address}\n")
    wsgate.wait_for_log(lambda line: "the file of servers is good again" in line, "of the file")
    assert len([line for line in wsgate.log if "nothing changes" in line]) == 1
    session.finish()


def test_servers_of_the_configuration_stay(start):
    fixed, other = raw.Server(), raw.Server()
    wsgate, file = start(other.address, servers=[fixed.address])
    assert states(wsgate) == {fixed.address: "up", other.address: "up"}
    write(file, "127.0.0.1:9 backup")
    wsgate.wait_for_log(lambda line: "the file of servers has changed" in line, "of the change")
    wsgate.wait_for_metrics(
        lambda now: now.total("wsgate_server_state", server=other.address) == 0, "the server to be gone"
    )
    assert states(wsgate) == {fixed.address: "up", "127.0.0.1:9": "up"}


def test_a_file_that_is_not_there_is_a_mistake_of_the_configuration(tmp_path):
    file = tmp_path / "wsgate.toml"
    file.write_text(gate.config([], upstream={"servers_file": "/nonexistent/chat.servers"}))
    status, output = gate.run(["check", "--config", str(file)])
    assert status == 1 and "the servers of `/nonexistent/chat.servers` cannot be used: it cannot be read" in output, output


def test_offline_nothing_of_this_machine_is_needed(tmp_path):
    text = """
user = "nobody-here"
[admin]
token_file = "/nonexistent/token"
[[listener]]
listen = "0.0.0.0:443"
certificates = [{ cert = "/nonexistent/a.pem", key = "/nonexistent/a.key" }]
client_ca = "/nonexistent/ca.pem"
[upstream.chat]
servers = ["10.0.0.5:9000"]
servers_file = "/nonexistent/servers"
[upstream.other]
servers = ["other.internal:9000"]
tls = { enabled = true, ca = "/nonexistent/ca.pem" }
[[route]]
name = "chat"
upstream = "chat"
client_certificate = "required"
[[route]]
name = "other"
path = "/other"
upstream = "other"
"""
    file = tmp_path / "wsgate.toml"
    file.write_text(text)
    status, output = gate.run(["check", "--config", str(file)])
    assert status == 1 and output.count("error: ") == 6, output
    status, output = gate.run(["check", "--offline", "--config", str(file), "--route", "https://a.test/other"])
    assert status == 0 and "good" in output and "route `other`" in output, output
    file.write_text(text + "max_conections = 3\n")
    status, output = gate.run(["check", "--offline", "--config", str(file)])
    assert status == 1 and "unknown key `max_conections`" in output, output
