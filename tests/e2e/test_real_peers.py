"""Clients and servers in other languages, which nobody here wrote, through wsgate and, for comparison, without it.

Each client plays all its scenarios once per server and way; each test looks at one of them. What right peers do is the
same both ways: wsgate cannot be told from no proxy at all. A failure of the direct way alone says that the rig is broken.
Messages are compressed both ways; `test_compression.py` has the other ways to agree on that.
"""

import contextlib

import pytest

from rig import peers
from rig.frames import BINARY, CONTINUATION, PING, TEXT, encode
from rig.gate import Gate, config
from rig.haproxy import HAProxy

CLIENTS = ["websockets", "ws", "chromium", "tungstenite"]
SCRIPTED = ["websockets", "ws", "tungstenite"]
"""Clients that can send any bytes, fragments and pings; a page in a browser cannot."""

BAD_FRAMES = {
    "bad_utf8": (1007, dict(opcode=TEXT, payload=b"\xc3\x28")),
    "surrogate": (1007, dict(opcode=TEXT, payload=b"\xed\xa0\x80")),
    "reserved_opcode": (1002, dict(opcode=3, payload=b"x")),
    "reserved_bits": (1002, dict(opcode=BINARY, payload=b"x", rsv=2)),
    "stray_continuation": (1002, dict(opcode=CONTINUATION, payload=b"x")),
    "fragmented_ping": (1002, dict(opcode=PING, fin=False)),
    "long_length": (1002, dict(opcode=BINARY, payload=b"x", form=64)),
    "wrong_masking": (1002, dict(opcode=TEXT, payload=b"x")),
    "too_big": (1009, dict(opcode=BINARY, length=(16 << 20) + 1)),
}


def bad_frames(*, masked):
    """The bad frames of one side, in hex."""
    return {
        name: encode(**frame, masked=masked != (name == "wrong_masking")).hex()
        for name, (_, frame) in BAD_FRAMES.items()
    }


BAD = {"client": bad_frames(masked=True), "server": bad_frames(masked=False)}


@pytest.fixture(scope="module", params=list(peers.SERVERS))
def server(request):
    """A real server."""
    server = peers.Server(request.param)
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["direct", "wsgate", "http2"])
def way(request):
    """With wsgate between, or without; "http2": over HTTP/2 on either side, as HAProxy speaks it."""
    return request.param


@pytest.fixture(scope="module")
def address(way, server, tmp_path_factory):
    """Where clients connect to reach the server this way."""
    if way == "direct":
        yield server.address
        return
    if way == "http2":
        directory = tmp_path_factory.mktemp("http2")
        with contextlib.ExitStack() as stack:
            behind = stack.enter_context(HAProxy(directory, server.address))
            text = config(
                [behind.address],
                listener={"http2_clear_text": True},
                route={"close_timeout": "1s"},
                upstream={"http2": "only"},
            )
            gate = stack.enter_context(Gate(directory, text))
            front = stack.enter_context(HAProxy(directory, "{}:{}".format(*gate.address), to="proto h2 ws h2"))
            yield front.address
        return
    with Gate(tmp_path_factory.mktemp("gate"), config([server.address], route={"close_timeout": "1s"})) as gate:
        yield gate.url


@pytest.fixture(scope="module")
def runs(way, address, tmp_path_factory):
    """Runs of clients against one address, each done once; nobody sends bad frames where nobody stands between."""
    done = {}
    bad = BAD if way != "direct" else {"client": {}, "server": {}}

    def run(client):
        if client not in done:
            done[client] = peers.Run(client, address, bad, tmp_path_factory.mktemp("profile"))
        return done[client]

    return run


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("scenario", "size"),
    [
        ("text", 11),
        ("empty_text", 0),
        ("binary", 256),
        ("large_text", 3 * ((1 << 20) // 9 + 1)),
        ("large_binary", 4 << 20),
        ("many", 200),
    ],
)
def test_echo(runs, client, scenario, size):
    result = runs(client).result(scenario)
    assert (result["equal"], result["size"]) == (True, size), result


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("scenario", "answer"), [("fragments_from_server", "one, two, thrée"), ("ping_from_server", "pong received")]
)
def test_fragments_and_pings_of_the_server(runs, client, scenario, answer):
    assert runs(client).result(scenario)["answer"] == answer


@pytest.mark.parametrize("client", SCRIPTED)
@pytest.mark.parametrize(
    ("scenario", "answer"), [("fragments_from_client", "grüße"), ("ping_from_client", "pong received")]
)
def test_fragments_and_pings_of_the_client(runs, client, scenario, answer):
    assert runs(client).result(scenario)["answer"] == answer


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("scenario", "name"), [("subprotocol", "chat.v1"), ("no_subprotocol", "")])
def test_subprotocols(runs, client, scenario, name):
    """Both sides agree on the same one."""
    result = runs(client).result(scenario)
    assert (result["agreed"], result["answer"]) == (name, name), result


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("code", [1000, 4001])
def test_client_closes(runs, server, client, code):
    """The server sees code and reason, the client the server's answer."""
    run = runs(client)
    scenario = f"client_closes_{code}"
    assert run.result(scenario)["code"] == code
    seen = server.closed(f"{run.path}/{scenario}")
    assert (seen["code"], seen["reason"]) == (code, "done"), seen


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("code", [1000, 4001])
def test_server_closes(runs, server, client, code):
    """The client sees code and reason, the server the client's answer."""
    run = runs(client)
    scenario = f"server_closes_{code}"
    result = run.result(scenario)
    assert (result["code"], result["reason"]) == (code, "go away"), result
    assert server.closed(f"{run.path}/{scenario}")["code"] == code


def test_page_in_the_browser_came_the_same_way(runs):
    """Plain HTTP beside WebSocket, from one address."""
    assert runs("chromium").result("page")["title"] == "wsgate test page"


@pytest.mark.parametrize("client", ["websockets", "ws", "chromium"])
def test_extensions(runs, client):
    """All these clients offer permessage-deflate and both servers take it."""
    assert runs(client).result("text")["extensions"].partition(";")[0] == "permessage-deflate"


# Only through wsgate


through_wsgate = pytest.mark.parametrize("way", ["wsgate", "http2"], indirect=True, scope="module")


@through_wsgate
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("name", "code"), [(name, code) for name, (code, _) in BAD_FRAMES.items()])
def test_bad_frame_of_the_server(runs, server, client, name, code):
    """The client gets 1011 and no message, the server learns what it did wrong."""
    run = runs(client)
    scenario = f"server_sends_{name}"
    result = run.result(scenario)
    assert (result["code"], bool(result["reason"]), result["messages"]) == (1011, True, 0), result
    seen = server.closed(f"{run.path}/{scenario}")
    assert (seen["code"], bool(seen["reason"])) == (code, True), seen


@through_wsgate
@pytest.mark.parametrize("client", SCRIPTED)
@pytest.mark.parametrize(("name", "code"), [(name, code) for name, (code, _) in BAD_FRAMES.items()])
def test_bad_frame_of_the_client(runs, server, client, name, code):
    """The client learns what it did wrong, the server gets 1001 and no message."""
    run = runs(client)
    scenario = f"client_sends_{name}"
    result = run.result(scenario)
    assert (result["code"], bool(result["reason"])) == (code, True), result
    seen = server.closed(f"{run.path}/{scenario}")
    assert (seen["code"], seen["messages"]) == (1001, 0), seen
