"""Every rule of RFC 6455 that a frame can break, from both sides, and what each side is told (the design's table).

The offender gets the code that names its fault and a reason; the other side gets what was right before it, to the
byte, then a Close of the proxy's own, and no byte of the offending frame.
"""

import time
from dataclasses import dataclass

import pytest

from rig.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload

KIB = 1024


@dataclass(frozen=True)
class Case:
    """`frames` are `(opcode, payload, what is wrong with the frame)`; the last one is the offender."""

    name: str
    kind: str
    code: int
    frames: tuple


def protocol(name, kind, *frames):
    """Breaks the protocol: 1002."""
    return Case(name, kind, 1002, frames)


def text(name, *payloads, kind="text_not_utf8"):
    """A text message in so many fragments, whose last one proves it is not UTF-8: 1007."""
    last = len(payloads) - 1
    return Case(name, kind, 1007, tuple(
        (TEXT if i == 0 else CONTINUATION, payload, {"fin": i == last}) for i, payload in enumerate(payloads)
    ))  # fmt: skip


CASES = [
    # §5.2 reserved bits
    *(
        protocol(
            f"rsv{bits:03b} on opcode {opcode:#x}",
            "compression_not_agreed" if bits == 0b100 and opcode in (TEXT, BINARY) else "reserved_bits",
            (opcode, b"x", {"rsv": bits}),
        )
        for bits in (0b001, 0b010, 0b100, 0b111)
        for opcode in (TEXT, BINARY, PING, PONG)
    ),
    protocol("reserved bit on a Close", "reserved_bits", (CLOSE, close_payload(1000), {"rsv": 4})),
    protocol(
        "reserved bit on a continuation", "reserved_bits",
        (TEXT, b"a", {"fin": False}), (CONTINUATION, b"b", {"rsv": 4}),
    ),
    # §5.2 opcodes
    *(
        protocol(f"opcode {opcode:#x}", "reserved_opcode", (opcode, b"x", {}))
        for opcode in (*range(3, 8), *range(0xB, 0x10))
    ),
    # §5.2 length
    protocol("16-bit length of 0", "length_not_minimal", (BINARY, b"", {"form": 16})),
    protocol("16-bit length of 125", "length_not_minimal", (BINARY, b"x" * 125, {"form": 16})),
    protocol("64-bit length of 125", "length_not_minimal", (TEXT, b"x" * 125, {"form": 64})),
    protocol("64-bit length of 65535", "length_not_minimal", (BINARY, b"x" * 65535, {"form": 64})),
    protocol("64-bit length with its top bit", "length_top_bit", (BINARY, b"", {"length": 1 << 63, "form": 64})),
    protocol("all bits of a length", "length_top_bit", (TEXT, b"", {"length": (1 << 64) - 1, "form": 64})),
    # §5.4 fragments
    protocol("continuation first", "continuation_without_start", (CONTINUATION, b"x", {})),
    protocol("unfinished continuation first", "continuation_without_start", (CONTINUATION, b"x", {"fin": False})),
    protocol(
        "continuation after a whole message", "continuation_without_start",
        (TEXT, b"a", {}), (CONTINUATION, b"b", {}),
    ),
    protocol("text inside text", "message_inside_message", (TEXT, b"a", {"fin": False}), (TEXT, b"b", {})),
    protocol("binary inside text", "message_inside_message", (TEXT, b"a", {"fin": False}), (BINARY, b"b", {})),
    protocol(
        "text inside binary, after a ping", "message_inside_message",
        (BINARY, b"a", {"fin": False}), (PING, b"p", {}), (TEXT, b"b", {"fin": False}),
    ),
    # §5.5 control frames
    *(
        protocol(f"fragmented control frame {opcode:#x}", "control_fragmented", (opcode, payload, {"fin": False}))
        for opcode, payload in ((CLOSE, close_payload(1000)), (PING, b"p"), (PONG, b""))
    ),
    *(
        protocol(f"control frame {opcode:#x} of 126 bytes", "control_too_long", (opcode, payload.ljust(126), {}))
        for opcode, payload in ((CLOSE, close_payload(1000)), (PING, b""), (PONG, b""))
    ),
    protocol("ping of 64 KiB", "control_too_long", (PING, b"p" * 64 * KIB, {})),
    # §5.5.1, §7.4 Close
    protocol("Close of one byte", "close_one_byte", (CLOSE, b"\x03", {})),
    *(
        protocol(f"Close code {code}", "close_code", (CLOSE, close_payload(code, "why"), {}))
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ),
    # §8.1 text
    text("lone byte", b"\xff"),
    text("lone continuation byte", b"a\x80"),
    text("latin-1", "grüße".encode("latin-1")),
    text("overlong slash", b"\xc0\xaf"),
    text("overlong of two bytes, last", b"\xc1\xbf"),
    text("overlong of three bytes, last", b"\xe0\x9f\xbf"),
    text("overlong of four bytes, last", b"\xf0\x8f\xbf\xbf"),
    text("first surrogate", b"\xed\xa0\x80"),
    text("last surrogate", b"\xed\xbf\xbf"),
    text("surrogate pair (CESU-8)", b"\xed\xa0\xbd\xed\xb8\x80"),
    text("first beyond U+10FFFF", b"\xf4\x90\x80\x80"),
    text("five bytes", b"\xf8\x88\x80\x80\x80"),
    text("in the last of 64 KiB", b"a" * (64 * KIB - 1) + b"\xff"),
    text("in the second fragment", b"good ", b"\xc3\x28"),
    Case("in the first of more fragments", "text_not_utf8", 1007, ((TEXT, b"\xc3\x28 and ", {"fin": False}),)),
    text("cut code point, continued wrongly", "€".encode()[:2], b"x"),
    text("surrogate split over fragments", b"\xed", b"\xa0\x80"),
    text("overlong split over fragments", b"\xe0", b"\x80\x80"),
    text("unfinished at its end", "€".encode()[:2], kind="text_unfinished"),
    text("unfinished at its end, empty last fragment", "😀".encode()[:3], b"", kind="text_unfinished"),
    text("unfinished in the second fragment", b"ab", b"c\xf0\x9f\x98", kind="text_unfinished"),
    Case(
        "with a ping between its halves", "text_not_utf8", 1007,
        ((TEXT, b"\xe2\x82", {"fin": False}), (PING, b"\xac", {}), (CONTINUATION, b"\x28", {})),
    ),
    Case("after a good message", "text_not_utf8", 1007, ((TEXT, b"good", {}), (TEXT, b"\xff", {}))),
    # Limits
    Case("frame over its limit", "frame_too_big", 1009, ((BINARY, b"x" * (256 * KIB + 1), {}),)),
    Case("text frame over its limit", "frame_too_big", 1009, ((TEXT, b"x" * (256 * KIB + 1), {}),)),
    Case(
        "message over its limit", "message_too_big", 1009,
        (
            (BINARY, b"x" * 200 * KIB, {"fin": False}), (CONTINUATION, b"x" * 200 * KIB, {"fin": False}),
            (CONTINUATION, b"x" * 200 * KIB, {}),
        ),
    ),
    Case(
        "65 fragments", "too_many_fragments", 1008,
        ((TEXT, b"a", {"fin": False}), *[(CONTINUATION, b"a", {"fin": False})] * 64),
    ),
]  # fmt: skip

MASKING = [
    pytest.param("client", "mask_missing", False, id="client's frame without a mask"),
    pytest.param("server", "mask_present", True, id="upstream's frame with a mask"),
]

by_either_side = pytest.mark.parametrize("offender", ["client", "server"])


@by_either_side
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_offender_is_closed_and_the_other_side_never_sees_it(rig, offender, case):
    assert_closed(rig, offender, case.kind, case.code, case.frames)


REASONS = [
    pytest.param(b"\xff", id="not UTF-8"),
    pytest.param("ö".encode() * 61 + b"\xc3", id="cut at 123 bytes"),
    pytest.param("gr\xfc\xdfe".encode("latin-1"), id="latin-1"),
]


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("packet", [None, 1])
def test_a_clients_close_reason_that_is_no_text(rig, reason, packet):
    payload = close_payload(4001, reason)
    assert_closed(rig, "client", "close_reason_not_utf8", 1007, [(CLOSE, payload, {})], packet)


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("code", [1000, 1011, 4001, 4999])
def test_a_servers_code_is_kept_where_its_reason_is_no_text(rig, reason, code):
    """The code is the application's: the client gets it, without the reason, and the server the client's answer."""
    before = rig.gate.metrics()
    labels = dict(side="server", kind="close_reason_not_utf8")
    session = rig.open()
    last = session.server.frame(TEXT, b"last words")
    session.server.send(last + session.server.frame(CLOSE, close_payload(code, reason)))
    session.client.read_exactly(last)
    assert session.client.read_close() == (code, "")
    session.client.send_close(code)
    assert session.server.read_close()[0] == code
    session.server.end_sending()
    session.server.expect_eof()
    session.client.expect_eof()
    name = "wsgate_violations_total"
    now = rig.gate.wait_for_metrics(lambda now: now.total(name) > before.total(name), "the violation")
    assert now.total(name, **labels) - before.total(name, **labels) == 1


@pytest.mark.parametrize("code", [1001, 1012])
def test_a_restart_is_one_whatever_its_reason(rig, code):
    session = rig.open()
    session.server.send_frame(CLOSE, close_payload(code, b"\xc3"))
    told, reason = session.client.read_close()
    assert (told, reason.startswith("service restart")) == (1012, True)
    session.client.send_close(1012)
    assert session.server.read_close()[0] == code
    session.drop()


@pytest.mark.parametrize(("offender", "kind", "masked"), MASKING)
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
def test_masking_of_the_wrong_side(rig, offender, kind, masked, opcode):
    assert_closed(rig, offender, kind, 1002, [(opcode, close_payload(1000, "hello"), {"masked": masked})])


@by_either_side
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdict_does_not_depend_on_how_the_bytes_arrive(rig, offender, case):
    """The same in small packets; a few sizes that divide no header evenly."""
    if sum(len(payload) for _, payload, _ in case.frames) > 4 * KIB:
        assert_closed(rig, offender, case.kind, case.code, case.frames, packet=4093)
    else:
        assert_closed(rig, offender, case.kind, case.code, case.frames, packet=1)


def assert_closed(rig, offender, kind, code, frames, packet=None):
    """Plays the frames and asserts what the design's table says, on both sides, and the metric."""
    before = rig.gate.metrics()
    session = rig.open()
    sender, other = session.side(offender)
    *good, bad = [sender.frame(opcode, payload, **wrong) for opcode, payload, wrong in frames]
    send_in_packets(sender, b"".join(good) + bad, packet)

    other.read_exactly(b"".join(good))
    told_other = other.read_close()
    told_offender = sender.read_close()

    assert told_offender[0] == code, f"the {offender} was told {told_offender}"
    assert told_other[0] == (1001 if offender == "client" else 1011), f"the other side was told {told_other}"
    assert told_offender[1] and told_other[1], f"a Close without a reason: {told_offender}, {told_other}"
    opcode, payload, _ = frames[-1]
    has_closed = opcode == CLOSE and len(payload) <= 125
    told_client = told_offender if offender == "client" else told_other
    acknowledge_and_end(session, told_client[0], silent=sender if has_closed else None)

    def counted(now):
        name = "wsgate_violations_total"
        return [
            now.total(name, **labels) - before.total(name, **labels) for labels in ({}, dict(side=offender, kind=kind))
        ]

    after = rig.gate.wait_for_metrics(lambda now: counted(now)[0] >= 1, "a violation")
    assert counted(after) == [1, 1], f"counted (all, {offender} {kind}); the metrics:\n{after}"


def send_in_packets(peer, data, size):
    """All of it in one write, or in writes of so many bytes; the peer may be cut off before the last one."""
    size = size or max(len(data), 1)
    for start in range(0, len(data), size):
        peer.send(data[start : start + size])


def acknowledge_and_end(session, code, *, silent=None):
    """Both peers answer their Close; then nothing but an orderly end follows, on both sides.

    Both end their sending too: after some violations a Close cannot be told from the rest any more. The peer that is
    `silent` has sent its own Close, however bad, and may find its connection ended already.
    """
    for peer, answer in ((session.server, 1001), (session.client, code)):
        if peer is not silent:
            peer.send_close(answer)
            peer.end_sending()
    session.server.expect_eof()
    session.client.expect_eof()
    session.drop()


# Reported at the first byte that proves it


@by_either_side
@pytest.mark.parametrize(
    ("sent", "claimed"),
    [
        pytest.param(b"\xff", 1000, id="first byte of a text"),
        pytest.param(b"abc\xed\xa0", 100 * KIB, id="two bytes of a surrogate, in a text larger than what is held"),
        pytest.param(b"a" * 999 + b"\xc3\x28", 60 * KIB, id="after a thousand good bytes"),
    ],
)
def test_bad_text_is_reported_before_its_frame_is_complete(rig, offender, sent, claimed):
    session = rig.open()
    sender, other = session.side(offender)
    sender.send_frame(TEXT, sent, length=claimed)
    code, reason = sender.read_close()
    assert (code, "byte" in reason) == (1007, True), f"told {code} {reason!r}"
    if claimed <= 64 * KIB:
        assert other.read_close()[0] == (1001 if offender == "client" else 1011)
    session.drop()


@by_either_side
@pytest.mark.parametrize(
    ("opcode", "length", "code"),
    [
        pytest.param(BINARY, (1 << 63) - 1, 1009, id="2^63-1 bytes of binary"),
        pytest.param(TEXT, (1 << 63) - 1, 1009, id="2^63-1 bytes of text"),
        pytest.param(BINARY, 256 * KIB + 1, 1009, id="one byte too many"),
        pytest.param(PING, 126, 1002, id="a long ping"),
    ],
)
def test_header_is_judged_before_any_payload(rig, offender, opcode, length, code):
    """The header, then silence: the verdict is there at once, not after a time-out."""
    session = rig.open()
    sender, other = session.side(offender)
    started = time.monotonic()
    sender.send_frame(opcode, b"", length=length)
    assert sender.read_close()[0] == code
    assert other.read_close()[0] == (1001 if offender == "client" else 1011)
    assert time.monotonic() - started < 1, "the verdict waited for something"
    session.drop()


@by_either_side
def test_a_large_bad_text_never_completes(rig, offender):
    """More than is held: a prefix passes, all of it good, and then the connection ends inside the frame."""
    session = rig.open()
    sender, other = session.side(offender)
    wire = sender.frame(TEXT, "ä".encode() * 50 * KIB + b"\xff" + b"a" * 999)
    sender.send(wire)
    assert sender.read_close()[0] == 1007
    sender.send_close(1007)
    passed, _ = other.read_to_end()
    assert wire.startswith(passed), "what passed is not a prefix of what was sent"
    assert len(passed) <= len(wire) - 1000, "the bad byte itself passed"
    session.drop()


# What the reason says to whoever has to find the cause


@by_either_side
@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([(TEXT, b"x", {"rsv": 4})], "compressed frame (RSV1), but permessage-deflate was not agreed"),
        ([(PING, b"x", {"rsv": 4})], "reserved bits (RSV1-3) set where no agreed extension uses them"),
        ([(3, b"x", {})], "reserved opcode: only 0-2 and 8-10 are defined"),
        ([(CLOSE, close_payload(1005), {})], "Close with a code that must not be sent, 1005"),
        ([(TEXT, b"a", {"fin": False}), (TEXT, b"b", {})], "new message before the last one had its FIN: two writers?"),
    ],
)
def test_what_the_offender_is_told(rig, offender, frames, says):
    session = rig.open()
    sender, _ = session.side(offender)
    sender.send(b"".join(sender.frame(opcode, payload, **wrong) for opcode, payload, wrong in frames))
    assert sender.read_close()[1].startswith(says)
    session.drop()


# After the verdict


def test_a_client_that_goes_on_sending_megabytes_still_gets_its_1007(rig):
    """It reads only when it has sent everything: were it not read from, or reset, it would never learn why."""
    session = rig.open()
    more = session.client.frame(BINARY, b"x" * 64 * KIB) * 128
    session.client.send(session.client.frame(TEXT, b"\xff") + more)
    code, reason = session.client.read_close()
    assert code == 1007, f"told {code} {reason!r}"
    session.client.send_close(1007)
    session.client.expect_eof()
    assert session.server.read_close()[0] == 1001
    session.server.end_sending()
    session.server.expect_eof()


@by_either_side
def test_nothing_passes_after_a_violation(rig, offender):
    session = rig.open()
    sender, other = session.side(offender)
    sender.send(sender.frame(TEXT, b"\xff") + sender.frame(TEXT, b"good again") + sender.frame(PING))
    assert sender.read_close()[0] == 1007
    assert other.read_close()[0] == (1001 if offender == "client" else 1011)
    acknowledge_and_end(session, 1007)


@by_either_side
def test_one_that_never_answers_its_close_is_cut_off(start_rig, offender):
    rig = start_rig(route={"close_timeout": "500ms"})
    session = rig.open()
    sender, other = session.side(offender)
    sender.send_frame(TEXT, b"\xff")
    assert sender.read_close()[0] == 1007
    assert other.read_close()[0] == (1001 if offender == "client" else 1011)
    for peer in (sender, other):
        left, _ = peer.read_to_end()
        assert left == b"", f"after the Close came {left!r}"
    rig.gate.wait_until_idle()


def test_upstream_fault_code_is_a_setting(start_rig):
    session = start_rig(route={"upstream_fault_code": 4002}).open()
    session.server.send_frame(TEXT, b"\xff")
    assert session.client.read_close()[0] == 4002
    assert session.server.read_close()[0] == 1007
