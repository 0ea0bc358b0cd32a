"""A server that dies, and one that closes everybody, under a crowd of WebSocket clients: through wsgate, nginx and HAProxy.

    cargo build --release --bin wsgate
    target/e2e-venv/bin/python benches/deploy/herd.py [--clients 2000] [--tls] [--only NAME ...] [--json FILE]

Two servers take `--capacity` upgrades per second each; more of them wait. One is killed (`crash`), or closes all of its
clients with 1001 and ends (`closes`), and is started again after `--boot` seconds: nobody told the proxy. All clients send
numbered messages all the time. Clients of the kind `told` reconnect after the delay that their Close names, and after 1 to 5 s
where it names none; clients of the kind `at once` reconnect after 0 to 100 ms, whatever they are told.

Everything listens on loopback, on free ports. Prints a Markdown table; `--json` writes all figures to a file.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import ssl
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("WSGATE_BIN", "target/release/wsgate")
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "benches")]

import programs  # noqa: E402
import proxies  # noqa: E402
import run  # noqa: E402
from rig import certificates, crowd  # noqa: E402

KINDS = {"told": {"untold": (1, 5), "heeds": True}, "at once": {"untold": (0, 0.1), "heeds": False}}

PROXIES = {name: proxies.ALL[name] for name in ("wsgate", "nginx", "haproxy")}


@dataclasses.dataclass
class Figures:
    """What one event did to the clients."""

    event: str
    kind: str
    proxy: str
    closes: dict
    sent: int
    lost: int
    back_per_second: int
    handshake_p50: float
    handshake_p99: float
    failed_attempts: dict
    back_seconds: float


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--capacity", type=int, default=300, help="upgrades per second that a server takes")
    parser.add_argument("--boot", type=float, default=5, help="seconds that a server takes to start")
    parser.add_argument("--tls", action="store_true", help="clients speak TLS")
    parser.add_argument("--only", nargs="+", choices=PROXIES, default=list(PROXIES), metavar="NAME")
    parser.add_argument("--events", nargs="+", choices=["crash", "closes"], default=["crash", "closes"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", type=pathlib.Path, help="a file for all figures")
    options = parser.parse_args()
    options.wait, options.untold = 10, (1, 5)

    run.prepare(options)
    results = []
    for event in options.events:
        for kind in options.kinds:
            for name in options.only:
                print(f"{event}, clients that come {kind}, {name} ...", file=sys.stderr, flush=True)
                results.append(measure(PROXIES[name], event, kind, options))
                print(f"  {results[-1]}", file=sys.stderr, flush=True)
    run.publish(table, results, options)


def measure(proxy_class, event, kind, options):
    """One event."""
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pair = certificates.Authority(directory / "ca").sign("a", ["127.0.0.1"]) if options.tls else None
        servers = [crowd.Counting(capacity=options.capacity), crowd.Counting(capacity=options.capacity)]
        for server in servers:
            stack.callback(lambda server=server: server.process.kill())
        addresses = [server.address for server in servers]
        proxy = proxy_class(str(directory), addresses, options.wait, options.clients, pair)
        stack.callback(proxy.stop)
        context, scheme = None, "ws"
        if options.tls:
            context, scheme = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "wss"
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        pause = [share * options.clients / run.MESSAGES_PER_SECOND for share in (0.5, 1.5)]
        ramp = options.clients / options.capacity
        clients = crowd.Crowd(f"{scheme}://{proxy.url}", options.clients, pause, ramp=ramp, context=context, **KINDS[kind])
        stack.enter_context(clients)
        time.sleep(run.WARM_UP)
        run.check_that_nothing_happened(clients)

        began = time.monotonic()
        servers[0].kill() if event == "crash" else servers[0].stop()
        time.sleep(options.boot)
        servers[0].start()
        clients.wait_for(lambda: clients.open == clients.size, "all to be back", programs.PATIENCE)
        # Closes and reconnects of the next seconds belong to the event as well.
        time.sleep(run.WARM_UP)
        clients.wait_for(lambda: clients.open == clients.size, "all to be back", programs.PATIENCE)
        clients.fall_silent(*servers)

        arrived = clients.lost(*servers)
        took = sorted(clients.took) or [0]
        return Figures(
            event=event,
            kind=kind,
            proxy=proxy.title.partition(":")[0],
            closes=dict(sorted(clients.closes.items())),
            sent=len(clients.sent),
            lost=sum(times == 0 for times in arrived.values()),
            back_per_second=crowd.peak(clients.back, 1.0),
            handshake_p50=round(took[len(took) // 2], 3),
            handshake_p99=round(took[(len(took) - 1) * 99 // 100], 3),
            failed_attempts=dict(sorted(clients.refused.items())),
            back_seconds=round(max(clients.back, default=began) - began, 1),
        )


def table(about, results, options):
    """The figures in Markdown."""
    lines = [
        f"{about['machine']}, {about['date']}; {about['wsgate']}, {about['nginx']}, {about['haproxy']}; one worker each.",
        f"{options.clients:,} clients{' over TLS' if options.tls else ''} at two servers that take {options.capacity} upgrades"
        f" a second each; one of them ends and is started {options.boot:g} s later.",
        "",
        "| the server | clients come back | proxy | clients get | lost of sent | most back in a second | handshake p50 / p99, s"
        " | failed attempts | all back after, s |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        told = ", ".join(f"{count:,} × {code}" for code, count in result.closes.items())
        failed = ", ".join(f"{count:,} × {status or 'no answer'}" for status, count in result.failed_attempts.items()) or "0"
        lines.append(
            f"| {result.event} | {result.kind} | {result.proxy} | {told} | {result.lost:,} of {result.sent:,}"
            f" | {result.back_per_second:,} | {result.handshake_p50:g} / {result.handshake_p99:g} | {failed} | {result.back_seconds} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
