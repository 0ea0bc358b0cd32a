"""What idle connections cost: CPU time and wake-ups, without timers, with time-outs, and with Pings to both sides.

    python3 benches/timers.py

For each setting 8,000 connections that say nothing for 35 seconds; their clients answer no Ping.
"""

import pathlib
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benches/compare"), str(ROOT / "benches")]

import run  # noqa: E402
import scenarios  # noqa: E402
import tunnels  # noqa: E402

CONNECTIONS, SECONDS = 8000, 35
SETTINGS = {
    "no timers": "write_timeout = \"0s\"\n",
    "time-outs": "idle_timeout = \"1h\"\nwrite_timeout = \"60s\"\n",
    "Pings every 30 s": "ping_interval = \"30s\"\nupstream_ping_interval = \"30s\"\npong_timeout = \"10m\"\n",
}


def main():
    run.allow_many_files()
    load = run.build("release")
    print("| | CPU ms / s | sleeps / s |\n|---|---:|---:|")
    for title, text in SETTINGS.items():
        kind = type("Timed", (tunnels.Wsgate,), {"text": tunnels.Wsgate.text + text})
        with tempfile.TemporaryDirectory(prefix="wsgate-timers-") as directory:
            server = scenarios.Process([load, "server"])
            proxy = kind(directory, server.line(), None)
            idle = scenarios.Process([load, "idle", proxy.url, str(CONNECTIONS)])
            try:
                assert idle.line() == "open"
                # What the handshakes left to be done is done.
                time.sleep(2)
                before, asleep, start = scenarios.cpu(proxy.pid), scenarios.wakeups(proxy.pid), time.monotonic()
                time.sleep(SECONDS)
                took = time.monotonic() - start
                spent = (scenarios.cpu(proxy.pid) - before) / 1e6 / took
                slept = (scenarios.wakeups(proxy.pid) - asleep) / took
                print(f"| {title} | {spent:.1f} | {slept:.0f} |", flush=True)
            finally:
                idle.stop()
                proxy.stop()
                server.stop()


if __name__ == "__main__":
    main()
