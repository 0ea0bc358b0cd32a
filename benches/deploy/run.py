"""The same rolling deploy through wsgate, nginx and HAProxy, under a crowd of real WebSocket clients that reconnect.

    cargo build --release --bin wsgate
    target/e2e-venv/bin/python benches/deploy/run.py [--clients 2000] [--only NAME ...] [--json FILE]

Two servers that write down every message are taken out, restarted and let in again, one after the other, as the
operators of each proxy do it (see `proxies.py`); a server takes `--boot` seconds to start. All clients send numbered
messages all the time. Whose connection ends reconnects: after the delay that the Close names, and where it names none,
after a random delay from the same range (`--untold`; 1 to 5 s are wsgate's default). So by default the clients spread
their reconnects by themselves behind every proxy, and what is compared is how they are told, when, and what is lost.

A server is stopped in one of two ways: `closes` sends 1001 to whoever is still connected and ends when they are gone,
as a careful server does; `exits` is a process that ends on SIGTERM, as most do.

Everything listens on loopback, on free ports. Prints a Markdown table; `--json` writes all figures to a file. nginx and
HAProxy are installed from Debian where they are missing (Debian starts their services, if the machine runs systemd).
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("WSGATE_BIN", "target/release/wsgate")
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "benches")]

import programs  # noqa: E402
import proxies  # noqa: E402
from rig import crowd, gate  # noqa: E402

MESSAGES_PER_SECOND = 1000
"""Of all clients together: a third of what Python, at both ends, can do on two cores."""

WARM_UP = 3
"""Seconds of talking before the deploy."""


@dataclasses.dataclass
class Figures:
    """What one deploy did to the clients."""

    proxy: str
    servers: str
    closes: dict
    sent: int
    lost: int
    twice: int
    attempts_per_second: int
    failed_attempts: dict
    script_seconds: float
    back_seconds: float


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--wait", type=int, default=10, help="seconds that nginx and HAProxy, or who runs them, wait")
    parser.add_argument("--boot", type=float, default=5, help="seconds that a server takes to start")
    parser.add_argument("--untold", type=float, nargs=2, default=(1, 5), metavar="SECONDS", help="least and most delay")
    parser.add_argument("--only", nargs="+", choices=proxies.ALL, default=list(proxies.ALL), metavar="NAME")
    parser.add_argument("--servers", nargs="+", choices=["closes", "exits"], default=["closes", "exits"])
    parser.add_argument("--json", type=pathlib.Path, help="a file for all figures")
    options = parser.parse_args()

    prepare(options)
    results = []
    for servers in options.servers:
        for name in options.only:
            print(f"{name}, a server that {servers} ...", file=sys.stderr, flush=True)
            results.append(measure(proxies.ALL[name], servers, options))
            print(f"  {results[-1]}", file=sys.stderr, flush=True)
    publish(table, results, options)


def prepare(options):
    """What every run needs: the programs, open files, and an end of all that was started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    install_missing()
    allow_many_files(6 * options.clients + 1024)


def publish(table, results, options):
    """Prints the table, and writes the figures to the file of `--json`."""
    about = about_this_run(options)
    print(table(about, results, options))
    if options.json:
        figures = [dataclasses.asdict(result) for result in results]
        options.json.write_text(json.dumps({"about": about, "results": figures}, indent=2) + "\n")


def measure(proxy_class, end, options):
    """One rolling deploy."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        servers = [crowd.Counting(), crowd.Counting()]
        for server in servers:
            stack.callback(lambda server=server: server.process.kill())
        proxy = proxy_class(directory, [server.address for server in servers], options.wait, options.clients)
        stack.callback(proxy.stop)
        pause = [share * options.clients / MESSAGES_PER_SECOND for share in (0.5, 1.5)]
        clients = crowd.Crowd(f"ws://{proxy.url}", options.clients, pause, options.untold)
        stack.enter_context(clients)
        time.sleep(WARM_UP)
        check_that_nothing_happened(clients)

        began = time.monotonic()
        for server in servers:
            proxy.take_out(server.address)
            server.stop() if end == "closes" else server.kill()
            time.sleep(options.boot)
            server.start()
            proxy.let_back(server.address)
        script_ended = time.monotonic()
        proxy.settle()
        clients.wait_for(lambda: clients.open == clients.size, "all to be back", programs.PATIENCE)
        # Closes and reconnects of the next seconds belong to the deploy as well.
        time.sleep(WARM_UP)
        clients.wait_for(lambda: clients.open == clients.size, "all to be back", programs.PATIENCE)
        clients.fall_silent(*servers)

        arrived = clients.lost(*servers)
        return Figures(
            proxy=proxy.title,
            servers=end,
            closes=dict(sorted(clients.closes.items())),
            sent=len(clients.sent),
            lost=sum(times == 0 for times in arrived.values()),
            twice=sum(times > 1 for times in arrived.values()),
            attempts_per_second=crowd.peak(clients.tried, 1.0),
            failed_attempts=dict(sorted(clients.refused.items())),
            script_seconds=round(script_ended - began, 1),
            back_seconds=round(max(clients.back, default=began) - began, 1),
        )


def check_that_nothing_happened(clients):
    """Before the deploy nobody is closed or refused; if somebody is, the machine is too slow for so many clients."""
    if clients.closes or clients.refused or not clients.sent:
        raise RuntimeError(f"before the deploy: closes {clients.closes}, refused {clients.refused}; take fewer clients")


def table(about, results, options):
    """The figures in Markdown."""
    lines = [
        f"{about['machine']}, {about['date']}; {about['wsgate']}, {about['nginx']}, {about['haproxy']};"
        " one worker each.",
        f"{options.clients:,} clients, which wait {options.untold[0]:g} to {options.untold[1]:g} s where the Close does"
        f" not say how long; a server starts in {options.boot:g} s; nginx, HAProxy, or who runs them, wait"
        f" {options.wait} s.",
        "",
        "| proxy | a stopped server | clients are told | lost of sent | attempts in one second | failed attempts"
        " | script, s | all back after, s |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        told = ", ".join(f"{count:,} × {code}" for code, count in result.closes.items())
        lost = f"{result.lost:,} of {result.sent:,}" + (f" ({result.twice} twice)" if result.twice else "")
        lines.append(
            f"| {result.proxy} | {result.servers} | {told} | {lost} | {result.attempts_per_second:,}"
            f" | {sum(result.failed_attempts.values()):,} | {result.script_seconds} | {result.back_seconds} |"
        )
    return "\n".join(lines)


def about_this_run(options):
    """Where and with what the figures were made."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}",
        "clients": options.clients,
        "wait": options.wait,
        "boot": options.boot,
        "untold": options.untold,
        "wsgate": programs.version(gate.BINARY, "--version"),
        "nginx": programs.version(programs.find("nginx"), "-v").removeprefix("nginx version: "),
        "haproxy": programs.version(programs.find("haproxy"), "-v").partition("-")[0],
    }


def install_missing():
    """nginx and HAProxy, as `tests/run.sh` installs what it needs."""
    missing = [program for program in ("nginx", "haproxy") if programs.find(program) is None]
    if missing:
        as_root = [] if os.getuid() == 0 else ["sudo"]
        subprocess.run([*as_root, "apt-get", "update", "-qq"], check=True, stdout=sys.stderr)
        quietly = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq"]
        subprocess.run([*as_root, *quietly, "--no-install-recommends", *missing], check=True, stdout=sys.stderr)


def allow_many_files(wanted):
    """As many open files as the hard limit allows; the proxies inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        print(f"only {hard:,} open files are allowed; {wanted:,} would be safe", file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
