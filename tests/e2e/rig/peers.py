"""Real clients and servers that nobody here wrote: their processes, and how a client's run is asked for."""

import itertools
import json
import pathlib
import subprocess
import sys
import threading
import time

from . import gate
from .raw import TIMEOUT

HERE = pathlib.Path(__file__).resolve().parent.parent
SERVERS = {
    "websockets": [sys.executable, HERE / "peers/websockets_server.py"],
    "ws": ["node", HERE / "node/ws_server.mjs"],
}
CLIENTS = {
    "websockets": [sys.executable, HERE / "peers/websockets_client.py"],
    "ws": ["node", HERE / "node/ws_client.mjs"],
    "chromium": ["node", HERE / "node/chromium_client.mjs"],
    "tungstenite": [gate.BINARY.parent / "examples/tungstenite_client"],
}

RECONNECTING = {
    "websockets": [sys.executable, HERE / "peers/reconnecting_client.py"],
    "reconnecting-websocket": ["node", HERE / "node/reconnecting_client.mjs"],
    "chromium": ["node", HERE / "node/reconnecting_chromium.mjs"],
}

_RUNS = itertools.count(1)


class Telling:
    """A process that prints events as lines of JSON, and ends when its standard input does."""

    def __init__(self, name, command):
        """Starts it; `events` are what it printed so far."""
        self.name, self.events = name, []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, found, what):
        """The first event for which `found(event)` is true; waits for it."""
        deadline = time.monotonic() + TIMEOUT
        with self._changed:
            while True:
                for event in self.events:
                    if found(event):
                        return event
                left = deadline - time.monotonic()
                assert left > 0, f"{self.name} did not tell of {what}; it told of {self.events[-20:]}"
                self._changed.wait(left)

    def stop(self):
        """Ends it; all that it printed is read."""
        self.process.stdin.close()
        self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)

    def _read(self):
        for line in self.process.stdout:
            with self._changed:
                self.events.append(json.loads(line) | {"number": len(self.events)})
                self._changed.notify_all()


class Server(Telling):
    """A server in another process."""

    def __init__(self, name):
        """Starts it and waits until it listens."""
        super().__init__(f"the {name} server", SERVERS[name])
        self.address = self.wait_for(lambda event: event["event"] == "listening", "its address")["address"]

    def closed(self, path):
        """What it saw at the end of the connection to `path`."""
        return self.wait_for(lambda event: event.get("path") == path, f"the end of {path}")


class Reconnecting(Telling):
    """A client that sends numbered messages and reconnects; each event has its time in ms, `at`.

    It prints `open`, `close` with `code` and `reason`, `sent` with `message` when it has sent one, and `echo` when one
    comes back. When it is ended it sends no more and closes.
    """

    def __init__(self, name, url, profile):
        """Starts it; the profile is a directory for a browser."""
        super().__init__(f"the {name} client", [*RECONNECTING[name], url, *([profile] if name == "chromium" else [])])

    def next(self, kind, after=None):
        """The first event of a kind, after another event if one is given; waits for it."""
        return self.wait_for(
            lambda event: event["event"] == kind and (after is None or event["number"] > after["number"]), kind
        )


class Run:
    """What a client found when it played all its scenarios through an address."""

    def __init__(self, client, address, bad, profile, scheme="ws"):
        """Runs the client to its end; `bad` are frames in hex, by side and name."""
        self.path = f"/run-{next(_RUNS)}"
        command = [*CLIENTS[client], f"{scheme}://{address}{self.path}", json.dumps(bad)]
        if client == "chromium":
            command.append(profile)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=80)
        assert done.returncode == 0, f"the {client} client ended with {done.returncode}:\n{done.stderr}"
        self._results = json.loads(done.stdout)

    def result(self, scenario):
        """What the client found in one scenario."""
        result = self._results[scenario]
        assert "error" not in result, f"{scenario}: {result['error']}"
        return result
