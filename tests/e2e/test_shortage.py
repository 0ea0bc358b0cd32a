"""File descriptors run out: who is connected stays, who comes waits or is refused, and then it goes on."""

import resource
import socket

from rig import http, raw
from rig.frames import TEXT
from rig.gate import Gate, config
from rig.raw import TIMEOUT


def upgrade(wsgate):
    client = raw.connect(wsgate.address)
    client.send(http.upgrade_request())
    return client


def accept(server, client):
    upstream = server.accept()
    upstream.send(http.switching_protocols(upstream.read_head()))
    assert client.read_head().status == 101
    return upstream


def assert_passes(client, upstream):
    client.send_frame(TEXT, b"still there")
    assert upstream.read_message() == (TEXT, b"still there")


def test_out_of_file_descriptors(tmp_path):
    server = raw.Server()
    with Gate(tmp_path, config([server.address], upstream={"eject_after": 1})) as wsgate:
        client = upgrade(wsgate)
        upstream = accept(server, client)
        # Nothing of the admin listener's is open any more when they are counted.
        wsgate.wait_for_metrics(lambda _: True, "an answer")
        hard = resource.prlimit(wsgate.process.pid, resource.RLIMIT_NOFILE)[1]

        def allow(more):
            lowered = (wsgate.open_files() + more, hard)
            resource.prlimit(wsgate.process.pid, resource.RLIMIT_NOFILE, lowered)

        # Its own connection takes the only one left: there is none for the server.
        allow(1)
        refused = upgrade(wsgate)
        head = refused.read_head()
        assert head.status == 503 and head.get("retry-after") == "5"
        assert refused.read_body(head) == b"no more connections can be had now\n"
        # None at all: a new client waits.
        silent = socket.create_connection(wsgate.address, TIMEOUT)
        waiting = upgrade(wsgate)
        wsgate.wait_for_log(lambda line: "new connections wait, or are refused" in line, "that it is so")
        assert_passes(client, upstream)
        # Somebody leaves, and there is room again.
        silent.close()
        allow(20)
        assert_passes(waiting, accept(server, waiting))
        now = wsgate.wait_for_metrics(lambda now: now.total("wsgate_exhausted_total") > 0, "the count")
        assert now.total("wsgate_exhausted_total", resource="file_descriptors") < 1000, "it does not spin"
        assert now.total("wsgate_server_state", state="down") == 0, "that was not the server's fault"
        assert_passes(client, upstream)
        told = [line for line in wsgate.log if "new connections wait" in line]
        assert len(told) == 1 and "LimitNOFILE" in told[0], told
        raw.drop_all()
    server.close()
