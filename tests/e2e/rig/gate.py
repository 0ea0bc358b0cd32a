"""The proxy as a process: its configuration, where it listens, its log, its metrics, and its end."""

import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import urllib.request

from . import over_http2
from .metrics import Metrics
from .raw import TIMEOUT

ROOT = pathlib.Path(__file__).resolve().parents[3]
BINARY = ROOT / os.environ.get("WSGATE_BIN", "target/debug/wsgate")

_LISTENING = re.compile(r'(admin )?listening.*?address"?[=:]"?([^\s",]+)')
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def limit_key(side, limit):
    """The key of a route for what one side may send: `client_byte_rate`, `upstream_byte_rate`."""
    return f"{dict(client='client', server='upstream')[side]}_{limit}"


def config(
    servers=(), *, listen=("127.0.0.1:0",), listener=None, client=None, route=None, upstream=None, routes=None, extra=None
):
    """A configuration in TOML, with one upstream `main` and one route `main` unless `routes` names its own.

    JSON's strings, numbers, booleans and arrays are TOML's too, which saves a TOML writer; a `dict` is an inline table.
    """
    http2 = {"http2": "only"} if over_http2.SERVERS else {}
    upstreams = {"main": {"servers": list(servers)} | http2 | (upstream or {})}
    routes = routes or [{"name": "main", "upstream": "main"} | (route or {})]
    tables = [("[admin]", {"listen": "127.0.0.1:0"}), ("[client]", client or {})]
    clear_http2 = {"http2_clear_text": True} if over_http2.ENABLED and "certificates" not in (listener or {}) else {}
    tables += [("[[listener]]", {"listen": address} | clear_http2 | (listener or {})) for address in listen]
    tables += [(f"[upstream.{name}]", keys) for name, keys in upstreams.items()]
    tables += [("[[route]]", keys) for keys in routes]
    tables += [(f"[{name}]", keys) for name, keys in (extra or {}).items()]
    return "\n".join(
        "\n".join([heading, *(f"{key} = {_value(value)}" for key, value in keys.items()), ""])
        for heading, keys in tables
    )


def _value(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)


class Gate:
    """A running wsgate. As a context manager it ends with SIGTERM, which has to go well."""

    def __init__(self, directory, text):
        """Starts it with the configuration `text`."""
        self.file = pathlib.Path(directory) / "wsgate.toml"
        self.file.write_text(text)
        self._start(["--config", str(self.file)], text.count("[[listener]]"))

    @classmethod
    def without_file(cls, arguments):
        """Starts it with arguments alone."""
        gate = cls.__new__(cls)
        gate._start(arguments, arguments.count("--listen"))
        return gate

    @classmethod
    def taking_over(cls, file, listeners=1):
        """Starts it with `--upgrade`, in the place of one that has that configuration; call `wait_until_serving` then."""
        gate = cls.__new__(cls)
        gate.file = file
        gate._launch(["--config", str(file), "--upgrade"])
        gate.wait_for_log(lambda line: "waiting for the listeners" in line, "that it waits")
        gate._count = listeners
        return gate

    def wait_until_serving(self):
        """Until it has said where it listens."""
        self.admin, self.listeners = self._wait_for_addresses(self._count)

    def reload(self, text):
        """Has it read this configuration, by SIGHUP, and waits until it says that it has."""
        self.file.write_text(text)
        seen = len(self.log)
        self.process.send_signal(signal.SIGHUP)
        line = self.wait_for_log(lambda line: "configuration " in line and "reloaded" in line, "of the reload", seen)
        assert "not reloaded" not in line, line

    def _start(self, arguments, listeners):
        """Starts it and waits until all its listeners have said where they are."""
        self._launch(arguments)
        try:
            self.admin, self.listeners = self._wait_for_addresses(listeners)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _launch(self, arguments):
        self.log = []
        self._changed = threading.Condition()
        self.process = launch(["run", *arguments], stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    @property
    def address(self):
        """Where its first listener listens."""
        return self.listeners[0]

    @property
    def url(self):
        """The first listener as host and port of a URL."""
        return "{}:{}".format(*self.address)

    def wait_for_log(self, found, what, seen=0):
        """The first log line, after so many, for which `found(line)` is true; waits for it."""
        deadline = time.monotonic() + TIMEOUT
        with self._changed:
            while True:
                for line in self.log[seen:]:
                    if found(line):
                        return line
                seen = len(self.log)
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise AssertionError(f"no log line {what} within {TIMEOUT} s; the log:\n" + "\n".join(self.log))

    def get(self, path):
        """Status and body of a GET on the admin listener."""
        try:
            with urllib.request.urlopen("http://{}:{}{}".format(*self.admin, path), timeout=TIMEOUT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self):
        """What `/metrics` says now."""
        status, text = self.get("/metrics")
        assert status == 200, f"/metrics answered {status}: {text}"
        return Metrics(text)

    def wait_for_metrics(self, condition, what):
        """Polls until `condition(metrics)` holds, and returns them: many counters move at a session's end."""
        deadline = time.monotonic() + TIMEOUT
        while not condition(metrics := self.metrics()):
            assert time.monotonic() < deadline, f"waited {TIMEOUT} s for {what}; the metrics:\n{metrics}"
            time.sleep(0.02)
        return metrics

    def wait_until_idle(self):
        """Until no connection is open any more: whatever the test did, nothing leaks."""
        return self.wait_for_metrics(lambda now: now.total("wsgate_connections_open") == 0, "no open connections")

    def resident(self):
        """Resident memory of the process, in bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def open_files(self):
        """Number of its open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def wait_for_open_files(self, most):
        """Until it has no more open file descriptors than that."""
        deadline = time.monotonic() + TIMEOUT
        while (now := self.open_files()) > most:
            assert time.monotonic() < deadline, f"waited {TIMEOUT} s for {most} descriptors: {now} are open"
            time.sleep(0.02)

    def stop(self):
        """Ends it with SIGTERM; fails where it had crashed, panicked or does not end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("wsgate did not end within 30 s of SIGTERM; its log:\n" + self._log_tail()) from None
        self._reader.join(TIMEOUT)
        assert status == 0, f"wsgate ended with status {status}; its log:\n{self._log_tail()}"
        panics = [line for line in self.log if "panicked" in line]
        assert not panics, f"wsgate panicked: {panics}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def _read_log(self):
        for line in self.process.stderr:
            with self._changed:
                self.log.append(_ANSI.sub("", line.rstrip("\n")))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _log_tail(self):
        return "\n".join(self.log[-60:])

    def _wait_for_addresses(self, count):
        deadline = time.monotonic() + TIMEOUT
        while True:
            with self._changed:
                found = [match.groups() for line in self.log if (match := _LISTENING.search(line))]
                admin = [_address(text) for is_admin, text in found if is_admin]
                listeners = [_address(text) for is_admin, text in found if not is_admin]
                if admin and len(listeners) == count:
                    return admin[0], listeners
                self._changed.wait(0.1)
            ended = self.process.poll()
            assert ended is None, f"wsgate ended with status {ended} at its start; its log:\n{self._log_tail()}"
            assert time.monotonic() < deadline, f"wsgate named no addresses in {TIMEOUT} s:\n{self._log_tail()}"


def launch(arguments, **options):
    """Starts the binary without waiting."""
    assert BINARY.exists(), f"{BINARY} does not exist: build it, or name it in WSGATE_BIN"
    environment = os.environ | {"RUST_BACKTRACE": "1", "NO_COLOR": "1"}
    return subprocess.Popen([BINARY, *arguments], env=environment, stdin=subprocess.DEVNULL, **options)


def run(arguments):
    """Runs the binary to its end, which has to come soon: `(status, output of both kinds)`."""
    process = launch(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"wsgate {arguments} did not end within {TIMEOUT} s; it said:\n{output}") from None
    return process.returncode, output


def _address(text):
    if text.startswith("unix:"):
        return text
    host, _, port = text.rpartition(":")
    return host, int(port)
