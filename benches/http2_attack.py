"""HTTP/2, and plain requests of HTTP/1.1, under attack: what a crowd of hostile clients can make wsgate keep, and what a bystander notices of it.

    python benches/http2_attack.py --binary target/release/wsgate [--connections 1000] [--seconds 20] [CASE ...]

Needs the packages of `tests/e2e/requirements.txt`, and `ulimit -n` for three descriptors per connection. Everything is on
the loopback interface and ends by itself. `--old` leaves settings out that a wsgate before them does not know.

wsgate has one core to itself; everything else has the others. The attackers and their server run there as SCHED_IDLE, so
that they never keep the bystander and its server waiting: what the bystander waits for is wsgate. The bystander is measured
without an attack right before and right after; the larger figure counts as "quiet". The attackers' first moments, in which
all of them connect, are part of the attack: `--rate` connections per second.
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

from rig import certificates, frames, gate, http, http2  # noqa: E402

BIG = 8 << 20
"""Bytes of the response that nobody takes."""


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--binary", default="target/release/wsgate")
    arguments.add_argument("--connections", type=int, default=1000)
    arguments.add_argument("--streams", type=int, default=1, help="on each connection, where the case has streams")
    arguments.add_argument("--seconds", type=int, default=20)
    arguments.add_argument("--rate", type=float, default=200, help="attackers that connect per second")
    arguments.add_argument("--memory", default="1GiB", help="buffer_memory; with too little of it the bystander gets 503")
    arguments.add_argument("--address-rate", type=int, help="the setting of that name, per second; the attackers have ten addresses")
    arguments.add_argument("--old", action="store_true")
    arguments.add_argument("cases", nargs="*", default=list(ATTACKS), metavar="CASE", help=", ".join(ATTACKS))
    arguments.add_argument("--role", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores - {0} or cores)
    if chosen.role == "server":
        return asyncio.run(serve())
    if chosen.role:
        return asyncio.run(attack(chosen))
    print(f"{chosen.binary}: {chosen.connections} connections, {chosen.streams} streams each, {chosen.seconds} s")
    print(f"{'case':<15}{'memory MiB':>20}{'descriptors':>20}{'to servers':>20}{'bystander p50/p99 ms':>30}")
    print(f"{'':<15}{'before':>6}{'most':>7}{'end':>7}{'before':>6}{'most':>7}{'end':>7}{'most':>13}{'end':>7}"
          f"{'quiet':>16}{'attacked':>16}{'p99 x':>8}{'core':>10}{'failed':>10}")
    for case in chosen.cases:
        run(chosen, case)


def run(chosen, case):
    """One attack on a wsgate of its own."""
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pair = certificates.Authority(directory / "ca").sign("a", ["a.test"])
        server, small = (child(stack, chosen, "server", idle=idle, stdout=subprocess.PIPE) for idle in (True, False))
        address, bystanders = (process.stdout.readline().decode().strip() for process in (server, small))
        gate.BINARY = pathlib.Path(chosen.binary).resolve()
        new = {} if chosen.old else {"body_timeout": "5s"}
        if chosen.address_rate:
            new["address_rate"] = chosen.address_rate
        wsgate = stack.enter_context(gate.Gate(directory, gate.config(
            [address], listener={"certificates": [pair]},
            client={"header_timeout": "5s", "keepalive_timeout": "5s", "buffer_memory": chosen.memory} | new,
            routes=[
                {"name": "main", "upstream": "main", "write_timeout": "5s"},
                {"name": "small", "upstream": "small", "path": "/small"},
            ],
            extra={"drain": {"shutdown_deadline": "4s"}, "upstream.small": {"servers": [bystanders]}},
        )))
        pin(wsgate.process.pid, {0})
        for thread in (0, small.pid):
            os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1))
        bystander = Bystander(wsgate.address)
        bystander.run(1.0)
        bystander.quantiles()
        bystander.run(3.0)
        quiet_before = bystander.quantiles()
        before = wsgate.resident(), wsgate.open_files()
        own = files(server.pid)
        attacker = child(stack, chosen, case, "{}:{}".format(*wsgate.address), idle=True)
        samples = []
        busy, begun = cpu(wsgate.process.pid), time.monotonic()
        deadline = time.monotonic() + chosen.seconds
        while time.monotonic() < deadline:
            bystander.run(0.5)
            samples.append((wsgate.resident(), wsgate.open_files(), files(server.pid) - own))
        attacked = bystander.quantiles()
        busy = (cpu(wsgate.process.pid) - busy) / (time.monotonic() - begun)
        attacker.kill()
        attacker.wait()
        # Until wsgate has given up what the attackers left.
        time.sleep(6)
        bystander.run(3.0)
        quiet = max(quiet_before, bystander.quantiles(), key=lambda found: found[1])
        bystander.close()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        most, end = [max(sample[i] for sample in samples) for i in range(3)], samples[-1]
        mib = [value >> 20 for value in (before[0], most[0], end[0])]
        print(f"{case:<15}{mib[0]:>6}{mib[1]:>7}{mib[2]:>7}{before[1]:>6}{most[1]:>7}{end[1]:>7}{most[2]:>13}{end[2]:>7}"
              f"{shown(quiet):>16}{shown(attacked):>16}{attacked[1] / quiet[1]:>8.1f}{busy:>10.0%}"
              f"{bystander.failed:>10}", flush=True)


def shown(quantiles):
    return "/".join(f"{took * 1000:.1f}" for took in quantiles)


def cpu(pid):
    """Seconds of processor time that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pin(pid, cores):
    """Has all threads of a process run on these cores."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cores)


def child(stack, chosen, role, *rest, idle, **options):
    """This program again, as something else."""
    command = [*(["chrt", "--idle", "0"] if idle else []), sys.executable, __file__, "--role", role, "--connections", str(chosen.connections),
               "--streams", str(chosen.streams), "--seconds", str(chosen.seconds + 10), "--rate", str(chosen.rate), *rest]
    process = subprocess.Popen(command, **options)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Bystander:
    """A client that does nothing wrong: a WebSocket that sends a small message every few milliseconds, and waits for its echo."""

    def __init__(self, address):
        self.address, self.sock, self.took, self.failed = address, None, [], 0

    def run(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            begun = time.monotonic()
            try:
                self._echo()
            except OSError:
                self.sock = None
                self.failed += 1
            self.took.append(time.monotonic() - begun)
            time.sleep(0.005)

    def _echo(self):
        if self.sock is None:
            self.sock = http2.tls(self.address, protocols=("http/1.1",))
            self.sock.sendall(http.upgrade_request("/small"))
            self._read_until(b"\r\n\r\n")
        self.sock.sendall(frames.encode(1, b"small", masked=True))
        self._read_until(b"small")

    def _read_until(self, end):
        got = b""
        while not got.endswith(end):
            more = self.sock.recv(4096)
            if not more:
                raise ConnectionError
            got += more

    def quantiles(self):
        """p50 and p99 since the last call, in seconds."""
        took, self.took = sorted(self.took), []
        return [took[int((len(took) - 1) * part)] for part in (0.5, 0.99)]

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
            if path == b"/small":
                key = re.search(rb"(?i)(sec-websocket-key): (\S+)", head)
                writer.write(http.switching_protocols({"sec-websocket-key": key[2].decode()}))
                while wire := await reader.readexactly(11):
                    writer.write(frames.encode(1, frames.mask(wire[6:], wire[2:6]), masked=False))
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
    # So that a thousand handshakes at once are not the attack.
    handshakes = asyncio.Semaphore(1)
    one = ATTACKS[chosen.role]

    async def client(number):
        while True:
            with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError, TimeoutError):
                async with handshakes:
                    await asyncio.sleep(1 / chosen.rate)
                    # As little as the system lets a socket keep, so that responses stay where they are.
                    sock = socket.socket()
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    sock.setblocking(False)
                    sock.bind((f"127.0.0.{2 + number % 10}", 0))
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
            await asyncio.gather(*(client(number) for number in range(chosen.connections)))


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
