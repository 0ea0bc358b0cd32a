"""Programs as processes: where one is, which version, that it is up, and its end. All waits are bounded."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

PATIENCE = 120
"""Seconds until something awaited counts as never coming."""


def find(program):
    """Where a program is; Debian keeps these in a directory that is not on everybody's path."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def version(program, *arguments):
    """The first line that a program says about its version."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=PATIENCE)
    return (done.stdout + done.stderr).strip().splitlines()[0].strip()


def wait_until(condition, what, within=PATIENCE):
    """Polls until the condition holds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within} s for {what}")
        time.sleep(0.05)


def free_port():
    """A port that nobody has now: neither nginx nor HAProxy says which one it got for port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A proxy in the foreground, which writes its log to a file."""

    def __init__(self, directory, *command):
        self.log = pathlib.Path(directory) / "log"
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pid = self._process.pid

    def runs(self):
        """Whether it has not ended."""
        return self._process.poll() is None

    def start(self, ready):
        """Waits until it is ready. Where it does not come to that, it is ended."""
        try:
            wait_until(lambda: ready() or not self.runs(), "the proxy to start")
        except TimeoutError:
            self.stop()
            raise
        if not self.runs():
            raise RuntimeError(f"the proxy ended at its start: {self.log.read_text()}")

    def stop(self):
        """Ends it at once; SIGTERM is that to nginx and to HAProxy."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
