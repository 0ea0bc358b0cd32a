"""What is measured, and how: each scenario puts one load on one proxy and returns its figures."""

import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time

import tunnels

CORE = str(max(os.sched_getaffinity(0)))
"""Of load and server."""

PATIENCE = 120

SETTLING = 12
"""Seconds after which an allocator that gives memory back has done so."""


class NotCarried(Exception):
    """The load did not get through, so that there is nothing to measure."""


class Process:
    """A process of the load: lines in, lines out."""

    def __init__(self, command):
        self._process = subprocess.Popen(["taskset", "-c", CORE, *command], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self._watchdog = threading.Timer(PATIENCE, self._process.kill)
        self._watchdog.start()

    def line(self):
        """What it says next."""
        line = self._process.stdout.readline().strip()
        if not line:
            self._process.kill()
            raise NotCarried(self._process.stderr.read().strip()[-300:] or "the load ended without a word")
        return line

    def tell(self, line=""):
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def stop(self):
        self._watchdog.cancel()
        self._process.kill()
        self._process.wait()


def tree(pid):
    """The process and all its children."""
    found = [pid]
    for parent in found:
        for task in pathlib.Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def cpu(pid):
    """Nanoseconds that a process and its children have run."""
    total = 0
    for process in tree(pid) if pid else []:
        for task in pathlib.Path(f"/proc/{process}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                pass
    return total


def resident(pid):
    """Bytes of memory of a process and its children; what they share counts once."""
    total = 0
    for process in tree(pid):
        for line in pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def wakeups(pid):
    """How often it went to sleep, which is about how often it was woken."""
    total = 0
    for process in tree(pid):
        for task in pathlib.Path(f"/proc/{process}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
    return total


class Calls:
    """Counts the calls of the system that a proxy makes, with strace, which makes all else slow."""

    def __init__(self, pid):
        processes = tree(pid)
        self._summary = tempfile.NamedTemporaryFile(mode="r")
        command = ["strace", "-c", "-f", "-qq", "-o", self._summary.name]
        for process in processes:
            command += ["-p", str(process)]
        self._strace = subprocess.Popen(command)
        tasks = [task for process in processes for task in pathlib.Path(f"/proc/{process}/task").iterdir()]
        deadline = time.monotonic() + 10
        while not all(is_traced(task) for task in tasks):
            if time.monotonic() > deadline or self._strace.poll() is not None:
                raise NotCarried("strace cannot be attached")
            time.sleep(0.01)

    def end(self):
        """How many there were. The ticks of a clock do not count: there are as many whatever is to be done."""
        self._strace.send_signal(signal.SIGINT)
        self._strace.wait(timeout=30)
        rows = [line.split() for line in self._summary.read().splitlines()]
        rows = [row for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"]
        return sum(int(row[3]) for row in rows if row[-1] not in ("clock_nanosleep", "restart_syscall"))


def is_traced(task):
    """Whether a thread is; one that has ended needs not be."""
    try:
        return not re.search(r"^TracerPid:\t0$", (task / "status").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return True


def traced(proxy, process):
    """Calls of the system for each message of such a load."""
    assert process.line() == "open"
    calls = Calls(proxy.pid)
    process.tell()
    said = json.loads(process.line())
    counted = calls.end()
    return {"syscalls": counted / max(1, said["messages"]), "failures": said["failures"][:3]}


def timed(proxy, process, options):
    """Figures of a load that begins with a line and prints one when it is over."""
    if options.trace:
        return traced(proxy, process)
    assert process.line() == "open"
    before, asleep, start = cpu(proxy.pid), wakeups(proxy.pid) if proxy.pid else 0, time.monotonic()
    process.tell()
    said = json.loads(process.line())
    took = time.monotonic() - start
    spent = cpu(proxy.pid) - before
    if not said["messages"]:
        raise NotCarried(f"nothing came back: {said['failures'][:3]}")
    figures = said | {
        "per_second": said["messages"] / said["seconds"],
        "cpu_us": spent / 1000 / said["messages"],
        "proxy_busy": spent / 1e9 / took,
    }
    if proxy.pid:
        figures["wakeups"] = (wakeups(proxy.pid) - asleep) / said["messages"]
    figures["failures"] = said["failures"][:3]
    return figures


def exchange(up, down, kind="ascii", connections=64, in_flight=1):
    """Questions and answers of these sizes."""

    def scenario(proxy, load, options):
        command = [load, "load", proxy.url, up, down, kind, max(1, int(connections * options.scale)), in_flight,
                   options.seconds]
        process = Process(list(map(str, command)))
        try:
            figures = timed(proxy, process, options)
        finally:
            process.stop()
        if options.trace:
            return figures
        mib = (up + down) / (1 << 20)
        return figures | {"cpu_us_per_mib": figures["cpu_us"] / mib, "mib_per_second": figures["per_second"] * mib}

    return scenario


def idle(proxy, load, options):
    """Memory of connections that do nothing, before and after one echo of 4 KiB."""
    connections = max(10, int(4000 * options.scale))
    if not proxy.pid:
        return {}
    warm, process = Process([load, "idle", proxy.url, "64"]), None
    try:
        # What the process needs once is not counted.
        assert warm.line() == "open"
        warm.tell("echo")
        assert warm.line() == "echoed"
        before = resident(proxy.pid)
        process = Process([load, "idle", proxy.url, str(connections)])
        assert process.line() == "open"
        fresh = resident(proxy.pid)
        process.tell("echo")
        assert process.line() == "echoed"
        return {"fresh": (fresh - before) / connections, "used": (resident(proxy.pid) - before) / connections}
    finally:
        for each in (warm, process):
            if each:
                each.stop()


def come_and_go(proxy, load, options):
    """New connections: connect, upgrade, one echo, Close."""
    process = Process([load, "connect", proxy.url, "32", str(options.seconds)])
    try:
        return timed(proxy, process, options)
    finally:
        process.stop()


def herd(proxy, load, options):
    """All at once; and the memory of each when they are there, and when their handshakes are forgotten."""
    if not proxy.pid:
        return {}
    connections = max(10, int(5000 * options.scale))
    before = resident(proxy.pid)
    process = Process([load, "herd", proxy.url, str(connections)])
    try:
        figures = timed(proxy, process, options)
        figures["after"] = (resident(proxy.pid) - before) / connections
        if options.scale == 1:
            time.sleep(SETTLING)
        figures["settled"] = (resident(proxy.pid) - before) / connections
        return figures
    finally:
        process.stop()


def drain(proxy, load, options):
    """What the others see while 2,000 connections of another upstream are told to go, and the same without."""
    connections = max(10, int(2000 * options.scale))
    echo = [load, "load", proxy.url, "125", "125", "ascii", str(max(1, int(64 * options.scale))), "1"]
    echo.append(str(options.seconds))
    leaving, process = Process([load, "stay", proxy.url, str(connections)]), None
    try:
        assert leaving.line() == "open"
        process = Process(echo)
        calm = timed(proxy, process, options)
        process.stop()
        process = Process(echo)
        proxy.drain(options.seconds)
        figures = timed(proxy, process, options)
        told = json.loads(leaving.line())
        figures["failures"] += told["failures"][:3]
        return figures | {"told": told["told"]} | {f"calm_{key}": calm[key] for key in ("p50_us", "p99_us", "p999_us")}
    finally:
        for each in (leaving, process):
            if each:
                each.stop()


KIB, MIB = 1 << 10, 1 << 20

ALL = {
    "echo 125 B": exchange(125, 125),
    "echo 125 B, 16 in flight": exchange(125, 125, in_flight=16),
    "echo 4 KiB": exchange(4 * KIB, 4 * KIB),
    "echo 4 KiB, mixed": exchange(4 * KIB, 4 * KIB, "mixed"),
    "echo 4 KiB, CJK": exchange(4 * KIB, 4 * KIB, "cjk"),
    "echo 4 KiB, binary": exchange(4 * KIB, 4 * KIB, "binary"),
    "echo 4 KiB, deflate": exchange(4 * KIB, 4 * KIB, "deflate"),
    "echo 64 KiB": exchange(64 * KIB, 64 * KIB, connections=16),
    "1 MiB up": exchange(MIB, 125, connections=8, in_flight=2),
    "1 MiB down": exchange(125, MIB, connections=8, in_flight=2),
    "1 MiB up, mixed": exchange(MIB, 125, "mixed", connections=8, in_flight=2),
    "1 MiB down, CJK": exchange(125, MIB, "cjk", connections=8, in_flight=2),
    "1 MiB down, deflate": exchange(125, MIB, "deflate", connections=8, in_flight=2),
    "4,000 idle": idle,
    "come and go": come_and_go,
    "5,000 at once": herd,
    "echo 125 B while 2,000 are drained": drain,
}

OWN = {"echo 125 B while 2,000 are drained": tunnels.Draining}
"""What only wsgate does, and how it is set up for that."""

TLS = {
    "echo 125 B, TLS": exchange(125, 125),
    "echo 64 KiB, TLS": exchange(64 * KIB, 64 * KIB, connections=16),
    "4,000 idle, TLS": idle,
    "come and go, TLS": come_and_go,
}
"""The same where clients speak TLS."""

ALL |= TLS

TRACED = [name for name, scenario in ALL.items() if scenario not in (idle, herd, drain)]
"""Those whose calls of the system can be told by message."""

BARE = [name for name in ALL if name.startswith("echo") and name not in (*OWN, *TLS)]
"""Those that a tunnel carries which waits for whoever does not take what is sent."""
