"""What is measured, and how: each scenario puts one load on one proxy and returns its figures."""

import json
import os
import pathlib
import subprocess
import threading
import time

CORE = str(max(os.sched_getaffinity(0)))
"""Of load and server."""

PATIENCE = 120


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


def timed(proxy, process):
    """Figures of a load that begins with a line and prints one when it is over."""
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
            figures = timed(proxy, process)
        finally:
            process.stop()
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
        return timed(proxy, process)
    finally:
        process.stop()


def herd(proxy, load, options):
    """All at once; and the memory of each when they are there."""
    connections = max(10, int(5000 * options.scale))
    before = resident(proxy.pid) if proxy.pid else 0
    process = Process([load, "herd", proxy.url, str(connections)])
    try:
        figures = timed(proxy, process)
        if proxy.pid:
            figures["after"] = (resident(proxy.pid) - before) / connections
        return figures
    finally:
        process.stop()


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
}
