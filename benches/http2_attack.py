"""HTTP/2, and plain requests of HTTP/1.1, under attack: what a crowd of hostile clients can make wsgate keep, and what a bystander notices of it.

    python benches/http2_attack.py --binary target/release/wsgate [--connections 1000] [--seconds 20] [CASE ...]

Needs the packages of `tests/e2e/requirements.txt`, and `ulimit -n` for three descriptors per connection. Everything is on
the loopback interface and ends by itself. `--old` leaves settings out that a wsgate before them does not know.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import re
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/e2e"))

from rig import certificates, gate, http2  # noqa: E402

BIG = 8 << 20
"""Bytes of the response that nobody takes."""


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--binary", default="target/release/wsgate")
    arguments.add_argument("--connections", type=int, default=1000)
    arguments.add_argument("--streams", type=int, default=1, help="on each connection, where the case has streams")
    arguments.add_argument("--seconds", type=int, default=20)
    arguments.add_argument("--old", action="store_true")
    arguments.add_argument("cases", nargs="*", default=list(ATTACKS), metavar="CASE", help=", ".join(ATTACKS))
    arguments.add_argument("--role", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if chosen.role == "server":
        return asyncio.run(serve())
    if chosen.role:
        return asyncio.run(attack(chosen))
    print(f"{chosen.binary}: {chosen.connections} connections, {chosen.streams} streams each, {chosen.seconds} s")
    print(f"{'case':<15}{'memory MiB':>20}{'descriptors':>20}{'to servers':>20}{'bystander p50/p99 ms':>30}")
    print(f"{'':<15}{'before':>6}{'most':>7}{'end':>7}{'before':>6}{'most':>7}{'end':>7}{'most':>13}{'end':>7}"
          f"{'quiet':>16}{'attacked':>16}")
    for case in chosen.cases:
        run(chosen, case)


def run(chosen, case):
    """One attack on a wsgate of its own."""
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pair = certificates.Authority(directory / "ca").sign("a", ["a.test"])
        # The attackers and their server have what is left of the processor, so that it is wsgate that is measured.
        server, small = (child(stack, chosen, "server", nice=nice, stdout=subprocess.PIPE) for nice in (19, 0))
        address, bystanders = (process.stdout.readline().decode().strip() for process in (server, small))
        gate.BINARY = pathlib.Path(chosen.binary).resolve()
        new = {} if chosen.old else {"body_timeout": "5s"}
        wsgate = stack.enter_context(gate.Gate(directory, gate.config(
            [address], listener={"certificates": [pair]},
            client={"header_timeout": "5s", "keepalive_timeout": "5s", "buffer_memory": "64MiB"} | new,
            routes=[
                {"name": "main", "upstream": "main", "write_timeout": "5s"},
                {"name": "small", "upstream": "small", "path": "/small"},
            ],
            extra={"drain": {"shutdown_deadline": "4s"}, "upstream.small": {"servers": [bystanders]}},
        )))
        bystander = Bystander(wsgate.address)
        bystander.run(3.0)
        quiet = bystander.quantiles()
        before = wsgate.resident(), wsgate.open_files()
        own = files(server.pid)
        attacker = child(stack, chosen, case, "{}:{}".format(*wsgate.address), nice=19)
        samples = []
        deadline = time.monotonic() + chosen.seconds
        while time.monotonic() < deadline:
            bystander.run(0.5)
            samples.append((wsgate.resident(), wsgate.open_files(), files(server.pid) - own))
        attacked = bystander.quantiles()
        attacker.kill()
        bystander.close()
        most, end = [max(sample[i] for sample in samples) for i in range(3)], samples[-1]
        mib = [value >> 20 for value in (before[0], most[0], end[0])]
        print(f"{case:<15}{mib[0]:>6}{mib[1]:>7}{mib[2]:>7}{before[1]:>6}{most[1]:>7}{end[1]:>7}{most[2]:>13}{end[2]:>7}"
              f"{quiet:>16}{attacked:>16}", flush=True)


def child(stack, chosen, role, *rest, nice, **options):
    """This program again, as something else."""
    command = ["nice", "-n", str(nice), sys.executable, __file__, "--role", role, "--connections", str(chosen.connections),
               "--streams", str(chosen.streams), "--seconds", str(chosen.seconds + 10), *rest]
    process = subprocess.Popen(command, **options)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Bystander:
    """A client that does nothing wrong: a small request of HTTP/1.1 every few milliseconds, one after the other."""

    def __init__(self, address):
        self.address, self.sock, self.took = address, None, []

    def run(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            begun = time.monotonic()
            try:
                self._request()
            except OSError:
                self.sock = None
            self.took.append(time.monotonic() - begun)
            time.sleep(0.005)

    def _request(self):
        if self.sock is None:
            self.sock = http2.tls(self.address, protocols=("http/1.1",))
        self.sock.sendall(b"GET /small HTTP/1.1\r\nHost: a.test\r\n\r\n")
        answer = b""
        while not answer.endswith(b"small"):
            more = self.sock.recv(4096)
            if not more:
                raise ConnectionError
            answer += more

    def quantiles(self):
        """p50 and p99 since the last call, in milliseconds."""
        took, self.took = sorted(self.took), []
        return "/".join(f"{took[int((len(took) - 1) * part)] * 1000:.1f}" for part in (0.5, 0.99))

    def close(self):
        if self.sock is not None:
            self.sock.close()


# The server of HTTP/1.1 behind wsgate


async def serve():
    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=4096)
    print("{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await server.serve_forever()


async def handle(reader, writer):
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1]
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if length:
                await reader.readexactly(int(length[1]))
            if path == b"/wait":
                # Until the client's side of it is gone.
                await reader.read()
                break
            body = b"x" * BIG if path == b"/big" else b"small"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    writer.close()


# The attackers


async def attack(chosen):
    host, port = chosen.cases[0].rsplit(":", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1" if chosen.role.startswith("http1") else "h2"])
    # So that a thousand handshakes are not the attack.
    handshakes = asyncio.Semaphore(50)
    one = ATTACKS[chosen.role]

    async def client():
        while True:
            with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError, TimeoutError):
                async with handshakes:
                    # As little as the system lets a socket keep, so that responses stay where they are.
                    sock = socket.socket()
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    sock.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
                    reader, writer = await asyncio.open_connection(
                        sock=sock, ssl=context, server_hostname="a.test", limit=4096
                    )
                try:
                    await one(reader, writer, chosen.streams)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.2)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(chosen.seconds):
            await asyncio.gather(*(client() for _ in range(chosen.connections)))


async def until_ended(reader):
    while await reader.read(1 << 16):
        pass


async def zero_windows(reader, writer, streams):
    writer.write(http2.PREFACE + http2.settings(initial_window_size=0))
    for number in range(streams):
        writer.write(http2.headers(2 * number + 1, "/big"))
    await until_ended(reader)


async def silent_bodies(reader, writer, streams):
    writer.write(http2.PREFACE + http2.settings())
    for number in range(streams):
        fields = [("content-length", "1000")]
        writer.write(http2.headers(2 * number + 1, "/upload", method="POST", fields=fields, end=False))
    await until_ended(reader)


async def half_prefaces(reader, writer, _):
    writer.write(http2.PREFACE[:10])
    await until_ended(reader)


async def resets(reader, writer, _):
    writer.write(http2.PREFACE + http2.settings())
    ended = asyncio.create_task(until_ended(reader))
    for stream in range(1, 1 << 30, 2):
        writer.write(http2.headers(stream, "/wait"))
        await asyncio.sleep(0.003)
        writer.write(http2.reset(stream))
        await writer.drain()
        if ended.done():
            break
        await asyncio.sleep(0.003)


async def http1_readers(reader, writer, _):
    writer.write(b"GET /big HTTP/1.1\r\nHost: a.test\r\n\r\n")
    # Reading would tell of the end, and take what is there.
    await asyncio.sleep(10)
    await until_ended(reader)


async def http1_bodies(reader, writer, _):
    writer.write(b"POST /upload HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n")
    ended = asyncio.create_task(until_ended(reader))
    while not ended.done():
        writer.write(b"x")
        await asyncio.wait([ended], timeout=1)


ATTACKS = {f.__name__: f for f in (zero_windows, silent_bodies, half_prefaces, resets, http1_readers, http1_bodies)}

if __name__ == "__main__":
    main()
