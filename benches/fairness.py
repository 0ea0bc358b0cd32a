"""What one client that sends what is dear to look at costs all others of its thread.

Twenty clients echo 125 bytes a hundred times a second each, through a wsgate with one thread; beside them one client
sends as fast as it may. The table has the round trips of the twenty, in milliseconds: half of them were faster than the
p50, one in a hundred slower than the p99. All on loopback.

    python benches/fairness.py target/release/wsgate [another binary ...] [--seconds 10]
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import multiprocessing
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time
import zlib

CLIENTS = 20
PAUSE = 0.01
PAYLOAD = b"x" * 125
PMD = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


# What the costly client sends


def masked(first, payload):
    """A frame of a client, with a key of zeros."""
    size = len(payload)
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 1 << 16:
        head = bytes([first, 0xFE]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, 0xFF]) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def deflated(payload):
    """A compressed message."""
    deflate = zlib.compressobj(9, wbits=-15)
    return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def empty_blocks(count):
    """A message of blocks that have tables of their own and hold nothing (RFC 1951 §3.2.7)."""
    bits = []

    def number(value, width):
        bits.extend(value >> i & 1 for i in range(width))

    for _ in range(count):
        number(0, 1), number(2, 2)  # not the last one, dynamic
        number(0, 5), number(0, 5), number(14, 4)  # 257 codes, 1 distance, 18 code lengths
        for at in range(18):
            number(1 if at in (2, 17) else 0, 3)  # of 18, many zeros, and of 1
        bits.append(1), number(138 - 11, 7)  # 138 zeros
        bits.append(1), number(118 - 11, 7)  # 118 zeros
        bits.extend([0, 0])  # one bit for the end of the block, and for the distance
        bits.append(0)  # the end of the block
    number(0, 3)  # a stored block, empty
    bits.extend([0] * (-len(bits) % 8))
    return bytes(sum(bit << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))


SENDS = {
    "nothing": None,
    "bombs, 16 MiB each": lambda: masked(0xC2, deflated(bytes(16 << 20))),
    "compressed text, 1 MiB each": lambda: masked(0xC1, deflated(b'{"id":17,"text":"hello"},' * 42_000)),
    "compressed, 5 B each": lambda: masked(0xC1, deflated(b"hello")) * 5_000,
    "blocks that hold nothing": lambda: masked(0xC2, empty_blocks(10_000)),
    "empty Pings": lambda: masked(0x89, b"") * 20_000,
    "empty text messages": lambda: masked(0x81, b"") * 20_000,
    "binary, 1 MiB each": lambda: masked(0x82, bytes(1 << 20)),
}


# The server


async def serve(reader, writer):
    """Echoes on /echo, and takes everything else."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    key = re.search(r"(?i)sec-websocket-key: *(\S+)", head)[1].encode()
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
    answer = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    answer.append(f"Sec-WebSocket-Accept: {accept}")
    is_echo = head.startswith("GET /echo ")
    if not is_echo:
        answer.append(f"Sec-WebSocket-Extensions: {PMD}")
    writer.write("\r\n".join([*answer, "", ""]).encode())
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        size = len(masked(0x81, PAYLOAD))
        while is_echo and await reader.readexactly(size):
            writer.write(bytes([0x81, len(PAYLOAD)]) + PAYLOAD)
        while await reader.read(1 << 20):
            pass
    writer.close()


def run_server(port):
    """Tells its port; runs until it is ended."""

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.get_event_loop_policy().new_event_loop().run_until_complete(run())


# The clients


def request(path, *lines):
    """An upgrade request."""
    key = base64.b64encode(os.urandom(16)).decode()
    head = [f"GET {path} HTTP/1.1", "Host: bench", "Upgrade: websocket", "Connection: Upgrade"]
    head += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *lines, "", ""]
    return "\r\n".join(head).encode()


def send(port, wire, until):
    """Sends the same again and again, in a process of its own."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(request("/sink", f"Sec-WebSocket-Extensions: {PMD}"))
        assert client.recv(1000).startswith(b"HTTP/1.1 101"), "the handshake of the one failed"
        client.settimeout(1)
        rest = memoryview(wire)
        while time.monotonic() < until:
            try:
                rest = rest[client.send(rest) :] or memoryview(wire)
            except TimeoutError:
                pass


async def echo(port, until, took):
    """One of the twenty."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("/echo"))
    await reader.readuntil(b"\r\n\r\n")
    wire = masked(0x81, PAYLOAD)
    while (started := time.monotonic()) < until:
        writer.write(wire)
        await reader.readexactly(2 + len(PAYLOAD))
        took.append(time.monotonic() - started)
        await asyncio.sleep(PAUSE)
    writer.close()


async def echoes(port, until):
    took = []
    await asyncio.gather(*(echo(port, until, took) for _ in range(CLIENTS)))
    return sorted(took)


# wsgate


class Gate:
    """A wsgate with one thread."""

    def __init__(self, binary, server):
        self._directory = tempfile.TemporaryDirectory()
        file = pathlib.Path(self._directory.name) / "wsgate.toml"
        file.write_text(
            f'threads = 1\n[[listener]]\nlisten = "127.0.0.1:0"\n[upstream.main]\nservers = ["127.0.0.1:{server}"]\n'
            '[[route]]\nname = "main"\nupstream = "main"\n'
        )
        self._process = subprocess.Popen(
            [binary, "run", "--config", file], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for line in self._process.stderr:
            if found := re.search(r"listening.*?127\.0\.0\.1:(\d+)", re.sub(r"\x1b\[[0-9;]*m", "", line)):
                self.port = int(found[1])
                break
        threading.Thread(target=self._process.stderr.read, daemon=True).start()

    def stop(self):
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()


def measure(binary, wire, seconds):
    """Sorted round trips of the twenty, in seconds."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=run_server, args=(there,), daemon=True)
    server.start()
    gate = Gate(binary, here.recv())
    try:
        until = time.monotonic() + seconds
        if wire:
            sender = multiprocessing.Process(target=send, args=(gate.port, wire, until), daemon=True)
            sender.start()
        took = asyncio.run(asyncio.wait_for(echoes(gate.port, until), seconds + 60))
        if wire:
            sender.join(10)
        return took
    finally:
        gate.stop()
        server.kill()
        server.join()


def main():
    """Prints the table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("binaries", nargs="+")
    arguments.add_argument("--seconds", type=float, default=10)
    arguments.add_argument("--only", default="", help="rows whose name has this in it")
    arguments = arguments.parse_args()
    binaries = arguments.binaries
    titles = "".join(f" {name} p50 | p99 | max |" for name in (f"{i + 1}." for i in range(len(binaries))))
    for i, binary in enumerate(binaries):
        print(f"{i + 1}. {binary}")
    print(f"\n| one client sends |{titles}\n|---|" + "---:|" * 3 * len(binaries))
    for name, make in SENDS.items():
        if arguments.only not in name:
            continue
        wire = make and make()
        cells = []
        for binary in binaries:
            took = measure(binary, wire, arguments.seconds)
            at = [took[len(took) // 2], took[len(took) * 99 // 100], took[-1]]
            cells += [f"{seconds * 1000:.1f}" for seconds in at]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
