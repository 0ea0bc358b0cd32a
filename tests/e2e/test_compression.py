"""permessage-deflate (RFC 7692): what is agreed, what passes as it came, and what is found inside."""

import json
import os
import re
import zlib

import pytest

from rig import http, peers
from rig.frames import BINARY, CONTINUATION, PING, TEXT
from rig.gate import Gate, config

PMD = "permessage-deflate"
ALL = f"{PMD}; client_max_window_bits"
ALONE = f"{PMD}; server_no_context_takeover; client_no_context_takeover"
RSV1 = 4


class Deflate:
    """A sender that compresses: messages of one direction in turn."""

    def __init__(self, takeover=True, bits=15):
        self.takeover, self.bits = takeover, bits
        self._new()

    def _new(self):
        self._deflate = zlib.compressobj(wbits=-self.bits)

    def __call__(self, payload):
        out = self._deflate.compress(payload) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        if not self.takeover:
            self._new()
        return out.removesuffix(b"\x00\x00\xff\xff")


def offering(offer):
    """Arguments of a request that offers this."""
    return dict(extra=[f"Sec-WebSocket-Extensions: {line}" for line in ([offer] if isinstance(offer, str) else offer)])


def answering(answer):
    """Arguments of a 101 that answers this."""
    return dict(headers={"Sec-WebSocket-Extensions": answer})


def open_session(rig, offer=ALL, answer=PMD):
    """A session in which compression was agreed."""
    return rig.open(request=offering(offer), answer=answering(answer))


# What is agreed


@pytest.mark.parametrize(
    ("route", "offer", "asked", "answer", "told"),
    [
        ({}, PMD, PMD, PMD, PMD),
        ({}, ALL, ALL, f"{PMD}; client_max_window_bits=12", f"{PMD}; client_max_window_bits=12"),
        ({}, [f"{ALL}, x-other; a=b", PMD], f"{ALL}, {PMD}", PMD, PMD),
        ({}, PMD, PMD, None, None),
        ({}, f"{PMD}; unknown", None, None, None),
        ({}, "x-other", None, None, None),
        ({"compression": "off"}, ALL, None, None, None),
        (
            {"context_takeover": False},
            ALL,
            f"{ALONE}; client_max_window_bits",
            f"{PMD}; server_no_context_takeover",
            ALONE,
        ),
        (
            {"max_window_bits": 10},
            ALL,
            f"{PMD}; server_max_window_bits=10; client_max_window_bits=10",
            f"{PMD}; server_max_window_bits=9",
            f"{PMD}; server_max_window_bits=9; client_max_window_bits=10",
        ),
    ],
)
def test_offer_and_answer(start_rig, route, offer, asked, answer, told):
    rig = start_rig(route=route)
    session = open_session(rig, offer, answer)
    assert session.request.get("sec-websocket-extensions") == asked
    assert session.answer.get("sec-websocket-extensions") == told
    session.finish()


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (None, PMD),
        ("x-other", PMD),
        (PMD, "x-other"),
        (PMD, f"{PMD}, {PMD}"),
        (PMD, f"{PMD}; client_max_window_bits=10"),
        (PMD, f"{PMD}; server_max_window_bits=16"),
        (PMD, f"{PMD}; unknown"),
        (PMD, f"{PMD}; server_no_context_takeover; server_no_context_takeover"),
        (f"{PMD}; server_no_context_takeover", PMD),
        (f"{PMD}; server_max_window_bits=10", f"{PMD}; server_max_window_bits=11"),
    ],
)
def test_an_answer_that_was_not_offered(rig, offer, answer):
    client, path = rig.request(**(offering(offer) if offer else {}))
    upstream, head = rig.server.accept_request(path)
    upstream.send(http.switching_protocols(head, **answering(answer)))
    assert client.read_head().status == 502
    assert upstream.read_to_end()[0] == b""
    client.close()


def test_a_broken_offer_is_a_broken_request(rig):
    client, _ = rig.request(**offering(f"{PMD}; ="))
    assert client.read_head().status == 400
    client.close()
    rig.assert_nothing_reached_the_server()


# What passes


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("side", ["client", "server"])
def test_compressed_messages_pass_as_they_came(rig, side, bits, takeover):
    answer = PMD if takeover else ALONE
    answer += f"; server_max_window_bits={bits}; client_max_window_bits={bits}"
    session = open_session(rig, ALL, answer)
    peer, other = session.side(side)
    deflate = Deflate(takeover, bits)
    chat = json.dumps([{"user": n % 7, "text": "grüße 🌍 " * (n % 5)} for n in range(500)], ensure_ascii=False).encode()
    for payload in (b"Hello", b"", b"Hello", chat, os.urandom(70_000), chat, b"\xff" * 3):
        text = payload not in (b"\xff" * 3,) and len(payload) != 70_000
        other.read_exactly(peer.send_frame(TEXT if text else BINARY, deflate(payload), rsv=RSV1))
    whole = deflate(chat)
    third = len(whole) // 3
    for opcode, payload, fin, rsv in [
        (TEXT, whole[:third], False, RSV1),
        (PING, b"between", True, 0),
        (CONTINUATION, whole[third : 2 * third], False, 0),
        (CONTINUATION, b"", False, 0),
        (CONTINUATION, whole[2 * third :], True, 0),
        (TEXT, "plain, grüße".encode(), True, 0),
    ]:
        other.read_exactly(peer.send_frame(opcode, payload, fin=fin, rsv=rsv))
    session.finish()


def test_one_mebibyte_of_json(start_rig):
    rig = start_rig()
    session = open_session(rig)
    text = json.dumps([{"id": n, "text": f"größe {n * 7919 % 997}"} for n in range(30_000)], ensure_ascii=False).encode()
    text = text.ljust(1 << 20)
    for side in ("client", "server"):
        peer, other = session.side(side)
        other.read_exactly(peer.send_frame(TEXT, Deflate()(text), rsv=RSV1))
    session.finish()
    now = rig.gate.wait_until_idle()
    for direction in ("client_to_server", "server_to_client"):
        assert now.total("wsgate_compressed_messages_total", direction=direction) == 1
        assert now.total("wsgate_compressed_bytes_total", direction=direction, form="inflated") == len(text)
        deflated = now.total("wsgate_compressed_bytes_total", direction=direction, form="deflated")
        assert 0 < deflated < len(text) / 3
        assert deflated == now.total("wsgate_bytes_total", direction=direction, kind="text")


# What does not

HELLO = bytes.fromhex("f248cdc9c90700")
WRONG = {
    "no text": (1007, lambda deflate: deflate(b"ab\xc3\x28")),
    "unfinished text": (1007, lambda deflate: deflate(b"ab\xc3")),
    "no deflate data": (1007, lambda deflate: b"\x06\x00"),
    "a reference to nothing": (1007, lambda deflate: bytes.fromhex("f200110000")),
    "inside a block": (1007, lambda deflate: HELLO[:4]),
    "a bomb": (1009, lambda deflate: deflate(bytes(200 << 20))),
    "a byte too many": (1009, lambda deflate: deflate(b"a" * ((512 << 10) + 1))),
}


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize(("code", "wrong"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_inside_does_not_pass(rig, side, code, wrong):
    session = open_session(rig)
    peer, other = session.side(side)
    deflate = Deflate()
    before = rig.gate.resident()
    for payload in (wrong(Deflate()), wrong(deflate))[:1]:
        peer.send_frame(TEXT, payload, rsv=RSV1)
    told, reason = peer.read_close()
    assert (told, bool(reason)) == (code, True)
    assert other.read_close()[0] == (1001 if side == "client" else 1011)
    peer.send_close(code)
    other.send_close(1000)
    session.drop()
    # The windows of a few connections and no more, whatever the bomb inflates to.
    assert rig.gate.resident() - before < 8 << 20


@pytest.mark.parametrize("side", ["client", "server"])
def test_binary_bombs(rig, side):
    """Passed on as it comes, and stopped at the limit."""
    session = open_session(rig)
    peer, other = session.side(side)
    bomb = Deflate()(bytes(100 << 20))
    peer.send_frame(BINARY, bomb, rsv=RSV1)
    assert peer.read_close()[0] == 1009
    passed, _ = other.read_to_end()
    assert len(passed) < len(bomb)
    session.drop()


@pytest.mark.parametrize(
    ("opcode", "fin", "rsv"), [(PING, True, RSV1), (CONTINUATION, True, RSV1), (TEXT, True, RSV1 | 2), (TEXT, True, 1)]
)
def test_rsv1_belongs_to_the_first_frame_of_a_message(rig, opcode, fin, rsv):
    session = open_session(rig)
    if opcode == CONTINUATION:
        session.server.read_exactly(session.client.send_frame(TEXT, HELLO, fin=False, rsv=RSV1))
    session.client.send_frame(opcode, HELLO, fin=fin, rsv=rsv)
    assert session.client.read_close()[0] == 1002
    session.drop()


@pytest.mark.parametrize("takeover", [True, False])
def test_memory_that_is_held(start_rig, takeover):
    """None before the first compressed message; then a window of what was sent, where it is shared."""
    rig = start_rig(route={"context_takeover": takeover})
    session = open_session(rig, ALL, PMD if takeover else ALONE)
    gauge = "wsgate_compression_memory_bytes"
    assert rig.gate.metrics().total(gauge) == 0
    payload = os.urandom(100_000)
    for side in ("client", "server"):
        peer, other = session.side(side)
        other.read_exactly(peer.send_frame(BINARY, Deflate()(payload), rsv=RSV1))
    wanted = 2 * 32768 if takeover else 0
    rig.gate.wait_for_metrics(lambda now: now.total(gauge) == wanted, f"{wanted} bytes in windows")
    session.finish()
    rig.gate.wait_for_metrics(lambda now: now.total(gauge) == 0, "no bytes in windows")


# Clients and servers that nobody here wrote

ROUTES = {
    "takeover": {},
    "no takeover": {"context_takeover": False},
    "off": {"compression": "off"},
} | {f"{bits} bits": {"max_window_bits": bits} for bits in range(9, 15)}
CLIENTS = ["websockets", "ws", "chromium"]
ECHOES = ["text", "empty_text", "binary", "large_text", "large_binary", "large_json", "many"]


@pytest.fixture(scope="module", params=list(peers.SERVERS))
def server(request):
    """A real server."""
    server = peers.Server(request.param)
    yield server
    server.stop()


@pytest.mark.parametrize(("name", "route"), ROUTES.items(), ids=ROUTES.keys())
@pytest.mark.parametrize("client", CLIENTS)
def test_real_peers(server, client, name, route, tmp_path):
    """Everything is echoed as it was sent, fragmented or not, and the sides agree on what the route asks for."""
    with Gate(tmp_path, config([server.address], route=route)) as gate:
        run = peers.Run(client, gate.url, {"client": {}, "server": {}}, tmp_path / "profile")
        for scenario in ECHOES:
            assert run.result(scenario)["equal"], scenario
        assert run.result("fragments_from_server")["answer"] == "one, two, thrée"
        agreed = run.result("text")["extensions"]
        assert agreed.startswith(PMD) == (name != "off"), agreed
        # Node's ws tells its name alone.
        if client != "ws":
            assert ("server_no_context_takeover" in agreed) == (name == "no takeover"), agreed
            if "max_window_bits" in route:
                bits = re.search(r"server_max_window_bits=(\d+)", agreed)
                assert int(bits[1]) <= route["max_window_bits"], agreed
        now = gate.wait_until_idle()
        compressed = now.total("wsgate_compressed_messages_total")
        assert (compressed > 0) == (name != "off")
        assert now.total("wsgate_violations_total") == 0
        assert now.total("wsgate_compression_memory_bytes") == 0
