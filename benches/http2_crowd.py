"""100,000 WebSockets through one wsgate: 1,000 connections of 100 streams on either side (RFC 8441), then one drain of all of them.

    python3 benches/http2_crowd.py [--websockets 100000] [--rate 5000]

Builds wsgate and the load of benches/compare. wsgate has two worker threads; load and servers share the same cores. Prints the
opening rate, the memory of wsgate and of the kernel per WebSocket, and of the drain: how it went, what the clients were told, and how
long the echoes of a bystander took meanwhile, whose server is not drained.
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benches"), str(ROOT / "benches/compare")]

import run  # noqa: E402
import scenarios  # noqa: E402
from programs import free_port  # noqa: E402

CONFIG = """\
threads = 2
[log]
level = "warn"
[drain]
max_closing = 20000
deadline = "120s"
[admin]
listen = "127.0.0.1:{admin}"
[[listener]]
listen = "127.0.0.1:{port}"
http2_clear_text = true
[upstream.main]
servers = ["{server}"]
http2 = "only"
[upstream.bystander]
servers = ["{other}"]
http2 = "only"
[[route]]
name = "main"
upstream = "main"
[[route]]
name = "bystander"
path = "/ascii/125"
upstream = "bystander"
"""


class Lines:
    """A process that says lines and hears lines."""

    def __init__(self, *command):
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        """What it says next."""
        line = self.process.stdout.readline().strip()
        if not line:
            sys.exit(f"{self.process.args} ended without a word")
        return line

    def tell(self):
        """Has it go on."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def stop(self):
        """Ends it."""
        self.process.kill()
        self.process.wait()


def kernel():
    """Bytes of memory of the sockets of this machine, and of the kernel's slabs."""
    pages = int(re.search(r"TCP:.* mem (\d+)", pathlib.Path("/proc/net/sockstat").read_text())[1])
    slab = int(re.search(r"Slab:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])
    return pages * 4096 + slab * 1024


def main():
    """Runs it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--websockets", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=5000, help="of the drain, in clients per second")
    options = parser.parse_args()
    run.allow_many_files()
    load = run.build("release")
    with tempfile.TemporaryDirectory() as directory:
        started = [Lines(load, "server"), Lines(load, "server")]
        server, other = (process.line() for process in started)
        port, admin = free_port(), free_port()
        file = pathlib.Path(directory, "wsgate.toml")
        file.write_text(CONFIG.format(port=port, admin=admin, server=server, other=other))
        wsgate = subprocess.Popen([os.environ["WSGATE_BIN"], "run", "--config", file])
        try:
            wait_until_ready(admin)
            measure(options, load, wsgate.pid, f"h2:127.0.0.1:{port}", admin, started)
        finally:
            wsgate.kill()
            wsgate.wait()
            for process in started:
                process.stop()


def ask(admin, method, path, body=None):
    """An answer of the admin listener."""
    connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=60)
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def wait_until_ready(admin):
    """Until wsgate answers its probe."""
    deadline = time.monotonic() + 10
    while True:
        try:
            if ask(admin, "GET", "/readyz")[0] == 200:
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            sys.exit("wsgate does not start")
        time.sleep(0.05)


def measure(options, load, pid, address, admin, started):
    """All of it."""
    before, kernel_before = scenarios.resident(pid), kernel()
    begun = time.monotonic()
    crowd = Lines(load, "stay", address, options.websockets)
    started.append(crowd)
    crowd.line()
    took = time.monotonic() - begun
    count = options.websockets
    user, system = (scenarios.resident(pid) - before) / count, (kernel() - kernel_before) / count
    print(f"opened {count} in {took:.1f} s, {count / took:,.0f} per second", flush=True)
    print(f"idle: {user:,.0f} bytes of wsgate's, {system:,.0f} bytes of the kernel's per WebSocket, load and server included")
    _, metrics = ask(admin, "GET", "/metrics")
    open_now = re.findall(r"^wsgate_connections_open\S* (\S+)", metrics, re.MULTILINE)
    print(f"open by wsgate's own count: {sum(map(float, open_now)):,.0f}", flush=True)

    quiet = figures(bystander_for(load, address, 5))
    drained = {}

    def drain():
        body = {"rate": options.rate, "force": True}
        drained["answer"] = ask(admin, "POST", "/v1/upstreams/main/drain", body)

    begun = time.monotonic()
    asking = threading.Thread(target=drain)
    asking.start()
    during = bystander_for(load, address, count / options.rate)
    told = json.loads(crowd.line())
    took = time.monotonic() - begun
    asking.join()
    busy = figures(during)
    print(f"drained in {took:.1f} s at {options.rate} per second: {told['told']} told 1012, others: {told['failures'][:5]}")
    print(f"a bystander's echo of 125 bytes: {quiet} before, {busy} during the drain")
    _, status = ask(admin, "GET", "/v1/status")
    print("drain:", json.dumps(json.loads(status)["upstreams"][0]["drains"])[:400])


def bystander_for(load, address, seconds):
    """Ten clients of a server that is not drained, which begin at once."""
    process = Lines(load, "load", address, 125, 125, "ascii", 10, 1, seconds)
    process.line()
    process.tell()
    return process


def figures(process):
    """What they have seen."""
    said = json.loads(process.line())
    process.stop()
    assert not said["failures"], said["failures"]
    return f"p50 {said['p50_us'] / 1000:.2f} ms, p99 {said['p99_us'] / 1000:.2f} ms"


if __name__ == "__main__":
    main()
