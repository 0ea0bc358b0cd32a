"""The rig itself, without wsgate: its frames and its raw peers against peers that nobody here wrote.

If these fail, no other result means anything.
"""

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake

from rig import frames, http, peers, raw
from rig.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT

both_maskings = pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])


@both_maskings
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_001])
def test_frames_survive_the_round_trip(masked, size):
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    wire = frames.encode(BINARY, payload, masked=masked)
    assert frames.decode(wire + b"more", masked=masked) == frames.Frame(BINARY, payload, True, wire)
    for cut in {0, 1, 2, len(wire) // 2, len(wire) - 1}:
        assert frames.decode(wire[: min(cut, len(wire) - 1)], masked=masked) is None


@both_maskings
@pytest.mark.parametrize(
    "wrong",
    [
        dict(opcode=TEXT, rsv=4),
        dict(opcode=3),
        dict(opcode=0xB),
        dict(opcode=PING, fin=False),
        dict(opcode=PING, payload=b"p" * 126),
        dict(opcode=BINARY, form=16),
        dict(opcode=BINARY, payload=b"x" * 126, form=64),
        dict(opcode=BINARY, length=1 << 63),
        dict(opcode=CLOSE, payload=b"\x03"),
        dict(opcode=CLOSE, payload=frames.close_payload(1005)),
        dict(opcode=CLOSE, payload=frames.close_payload(2999)),
        dict(opcode=CLOSE, payload=frames.close_payload(1000, b"\xff")),
    ],
    ids=str,
)
def test_the_parser_forgives_nothing(masked, wrong):
    with pytest.raises(frames.BadFrame):
        frames.decode(frames.encode(**wrong, masked=masked), masked=masked)


@both_maskings
def test_the_parser_minds_the_masking(masked):
    with pytest.raises(frames.BadFrame):
        frames.decode(frames.encode(TEXT, b"x", masked=masked), masked=not masked)


def test_messages_are_held_to_their_rules():
    messages = frames.Messages()
    assert messages.add(frames.Frame(TEXT, b"\xe2\x82", fin=False)) is None
    assert messages.add(frames.Frame(PING, b"\xff")) == (PING, b"\xff")
    assert messages.add(frames.Frame(CONTINUATION, b"\xac")) == (TEXT, "€".encode())
    for wrong in (frames.Frame(CONTINUATION, b""), frames.Frame(TEXT, b"\xff")):
        with pytest.raises(frames.BadFrame):
            messages.add(wrong)


def test_accept_is_that_of_the_rfc():
    assert http.accept_of("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.fixture(params=list(peers.SERVERS))
def real_server(request):
    server = peers.Server(request.param)
    yield server
    server.stop()
    raw.drop_all()


def test_raw_client_against_real_servers(real_server):
    """Handshake, echo and closing handshake by hand, and a real server's verdict on a bad frame."""
    host, port = real_server.address.split(":")
    client = raw.connect((host, int(port)))
    client.send(http.upgrade_request("/raw"))
    answer = client.read_head()
    assert (answer.status, answer.get("sec-websocket-accept")) == (101, http.accept_of(http.KEY))
    client.send_frame(TEXT, b"sch", fin=False)
    client.send_frame(CONTINUATION, "ön".encode())
    assert client.read_message() == (TEXT, "schön".encode())
    client.send_close(4001, "done")
    assert client.read_close()[0] == 4001
    client.expect_eof()
    client.close()
    seen = real_server.closed("/raw")
    assert (seen["code"], seen["reason"], seen["messages"]) == (4001, "done", 1)

    client = raw.connect((host, int(port)))
    client.send(http.upgrade_request("/bad"))
    client.read_head()
    client.send_frame(TEXT, b"\xff")
    assert client.read_close()[0] == 1007


def test_raw_server_against_a_real_client():
    """The same from the other side, and a 101 that the client has to refuse."""

    async def real_client(path):
        async with connect(f"ws://{server.address}{path}", compression=None) as websocket:
            await websocket.send("grüße")
            answer = await websocket.recv()
            await websocket.close(4002, "bye")
            return answer

    def serve(path, **answer):
        upstream, head = server.accept_request(path)
        upstream.send(http.switching_protocols(head, **answer))
        return upstream

    def play():
        upstream = serve("/good")
        assert upstream.read_message() == (TEXT, "grüße".encode())
        upstream.send_frame(TEXT, b"answer")
        assert upstream.read_close() == (4002, "bye")
        upstream.send_close(4002)
        upstream.close()
        serve("/bad", headers={"Sec-WebSocket-Accept": "wrong"})

    async def both():
        playing = asyncio.create_task(asyncio.to_thread(play))
        assert await real_client("/good") == "answer"
        with pytest.raises(InvalidHandshake):
            await real_client("/bad")
        await playing

    server = raw.Server()
    asyncio.run(both())
    raw.drop_all()


def test_ends_are_told_apart():
    """FIN and RST."""
    server = raw.Server()
    host, port = server.address.split(":")
    for end, expected in (("close", "eof"), ("reset", "reset")):
        client, upstream = raw.connect((host, int(port))), server.accept()
        getattr(client, end)()
        assert upstream.read_to_end() == (b"", expected)
        upstream.close()
